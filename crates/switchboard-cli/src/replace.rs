//! Writing a file so that who reads it sees all of the old or all of the new.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// As many links as Linux follows.
const LINKS: usize = 40;

/// Who may read a file that was not there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As the umask has it.
    Usual,
    /// The owner alone: it may hold credentials.
    Private,
}

/// Makes `content` that of the file, unless it is already; whether it was not.
///
/// It is written beside the file and put in its place, with the mode and, as far as that is allowed, the owner that the
/// file had. A link stays one.
pub(crate) fn replace(path: &Path, content: &[u8], new: Mode) -> io::Result<bool> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| followed(path));
    let before = match fs::metadata(&path) {
        Ok(before) if !before.is_file() => {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        Ok(before) => Some(before),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let as_long = |before: &Metadata| before.len() == content.len() as u64;
    if before.as_ref().is_some_and(as_long) && fs::read(&path)? == content {
        return Ok(false);
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut builder = tempfile::Builder::new();
    builder.prefix(".switchboard-");
    // Made by hand, since tempfile's own errors name its file.
    let file = builder.make_in(directory.unwrap_or(Path::new(".")), |path| options(new).open(path))?;
    file.as_file().write_all(content)?;
    if let Some(before) = before {
        resemble(file.as_file(), &before)?;
    }
    // Else a power cut may leave an empty file under the name.
    file.as_file().sync_all()?;
    file.persist(&path).map_err(|error| error.error)?;
    Ok(true)
}

/// Where links lead, when nothing is there yet. A circle ends somewhere within it, and cannot be opened.
fn followed(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let Ok(target) = fs::read_link(&path) else { break };
        path = path.with_file_name("").join(target);
    }
    path
}

fn options(mode: Mode) -> OpenOptions {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, if mode == Mode::Private { 0o600 } else { 0o666 });
    #[cfg(not(unix))]
    let _ = mode;
    options
}

fn resemble(file: &File, before: &Metadata) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt as _, fchown};

        // Only root may give files away; a group that one is in may be kept. The mode comes after: this may take bits off it.
        if fchown(file, Some(before.uid()), Some(before.gid())).is_err() {
            let _ = fchown(file, None, Some(before.gid()));
        }
    }
    file.set_permissions(before.permissions())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_stays_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("a"), dir.path().join("link"));
        assert!(replace(&path, b"one", Mode::Private).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&path, &link).unwrap();
        let number = || fs::metadata(&path).unwrap().ino();
        let before = number();
        assert!(!replace(&link, b"one", Mode::Usual).unwrap());
        assert_eq!(number(), before, "what does not change is not written");
        let reader = File::open(&path).unwrap();
        assert!(replace(&link, b"two", Mode::Usual).unwrap());
        assert_eq!(io::read_to_string(reader).unwrap(), "one", "who has it open reads the old one");
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside it");
    }

    #[test]
    fn a_link_to_what_is_not_there_yet_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let (real, sites) = (dir.path().join("real"), dir.path().join("sites"));
        fs::create_dir(&real).unwrap();
        fs::create_dir(&sites).unwrap();
        symlink("../real/a", sites.join("a")).unwrap();
        symlink("a", sites.join("b")).unwrap();
        assert!(replace(&sites.join("b"), b"one", Mode::Usual).unwrap());
        assert_eq!(fs::read(real.join("a")).unwrap(), b"one");
        assert!(["a", "b"].iter().all(|name| fs::symlink_metadata(sites.join(name)).unwrap().is_symlink()));
        symlink("round", sites.join("round")).unwrap();
        assert!(replace(&sites.join("round"), b"one", Mode::Usual).is_err());
    }

    #[test]
    fn what_cannot_be_replaced_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(replace(dir.path(), b"", Mode::Usual).unwrap_err().to_string().contains("no regular file"));
        assert!(replace(&dir.path().join("none/a"), b"", Mode::Usual).is_err());
    }
}
