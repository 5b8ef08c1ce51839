//! What the system tells of changes to a file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Hears of changes in the folders that matter for a file.
///
/// The folder, not the file: one that is renamed into place is another file, and so is what a swapped link leads to.
pub(crate) struct Events {
    /// `None` where the system tells nothing; what is seen then is seen by looking.
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
    heard: mpsc::Receiver<()>,
}

impl Events {
    pub(crate) fn new(wanted: bool) -> Self {
        // One word that something has changed is as good as many.
        let (tell, heard) = mpsc::channel(1);
        let made = wanted.then(|| {
            notify::recommended_watcher(move |event: notify::Result<Event>| {
                if event.as_ref().is_ok_and(is_reading) {
                    return;
                }
                let _ = tell.try_send(());
            })
        });
        let watcher = match made {
            Some(Err(error)) => {
                tracing::warn!(%error, "the system does not tell of changes to files; they are looked for");
                None
            }
            Some(Ok(watcher)) => Some(watcher),
            None => None,
        };
        Self { watcher, folders: BTreeSet::new(), heard }
    }

    /// Listens for changes that matter to the file at `path`, wherever that leads by now.
    pub(crate) fn listen(&mut self, path: &Path) {
        let Some(watcher) = &mut self.watcher else { return };
        let folders = folders(path);
        for old in self.folders.difference(&folders) {
            // It may have gone, and what is heard too much does no harm.
            let _ = watcher.unwatch(old);
        }
        for folder in &folders {
            // Again, too: a folder of this name may be another one by now. What cannot be heard is looked for.
            if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                tracing::debug!(folder = %folder.display(), %error, "the system does not tell of changes here");
            }
        }
        self.folders = folders;
    }

    /// Waits for a change.
    pub(crate) async fn changed(&mut self) {
        if self.heard.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// Whether somebody has only read, as we do.
fn is_reading(event: &Event) -> bool {
    matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
}

/// The folder of the file, or of the nearest that exists, and that of what it leads to.
fn folders(path: &Path) -> BTreeSet<PathBuf> {
    let target = path.canonicalize().ok();
    let parents = [Some(path), target.as_deref()].into_iter().flatten().filter_map(|path| {
        let mut above = path.ancestors().skip(1);
        let folder = above.find(|folder| folder.as_os_str().is_empty() || folder.is_dir())?;
        Some(if folder.as_os_str().is_empty() { Path::new(".").into() } else { folder.to_path_buf() })
    });
    parents.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_folder_is_listened_to_and_that_of_a_links_target() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        assert_eq!(folders(&root.join("a/b/c.toml")), [root.clone()].into());
        assert_eq!(folders(Path::new("c.toml")), [".".into()].into());
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/c.toml"), "").unwrap();
        assert_eq!(folders(&root.join("a/b/c.toml")), [root.join("a/b")].into());
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(root.join("a/b/c.toml"), root.join("c.toml")).unwrap();
            assert_eq!(folders(&root.join("c.toml")), [root.clone(), root.join("a/b")].into());
        }
    }
}
