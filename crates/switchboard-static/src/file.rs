//! A list in a file, as it was read last.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use switchboard_core::{Error, ErrorKind, Result, Snapshot, Store};
use tokio::time::sleep;

use crate::config::{FileBuilder, Format};
use crate::record::Instances;
use crate::watch::Task;

/// How a list in a file calls itself in URLs and errors.
pub(crate) const BACKEND: &str = "file";

/// What takes instances away, or cannot be read, must have been so for this long.
const STEADY: Duration = Duration::from_millis(100);

/// A file that never rests is taken as it is after so many looks.
const MOST_LOOKS: u32 = 20;

/// A list of ten thousand instances has some 3 MB.
const LARGEST: u64 = 64 << 20;

pub(crate) struct File {
    pub(crate) config: FileBuilder,
    format: Format,
    pub(crate) store: Store,
    /// What was read last; held while reading, so that what is older comes never after what is newer.
    last: tokio::sync::Mutex<Option<Seen>>,
    /// What follows the file while there are watches.
    pub(crate) task: Mutex<Weak<Task>>,
}

/// What a look at the file found: its bytes, or why they could not be had.
#[derive(PartialEq, Eq)]
enum Seen {
    Bytes(Arc<Vec<u8>>),
    Failed(io::ErrorKind, String),
}

impl File {
    pub(crate) fn new(config: FileBuilder, format: Format) -> Self {
        let store = Store::new(BACKEND);
        Self { config, format, store, last: tokio::sync::Mutex::default(), task: Mutex::default() }
    }

    /// Reads the file, unless it is as it was, and tells those who watch; why not, if it cannot be read.
    pub(crate) async fn refresh(&self, operation: &'static str) -> Result<()> {
        let mut last = self.last.lock().await;
        let mut before: Option<Seen> = None;
        for look in 1.. {
            let seen = self.look(operation).await?;
            if last.as_ref() == Some(&seen) {
                break;
            }
            let read = self.read(operation, &seen).await?;
            let believed = match &read {
                Ok(snapshots) => !self.takes_away(snapshots),
                Err(_) => false,
            };
            if believed || look == MOST_LOOKS || before.as_ref() == Some(&seen) {
                match read {
                    Ok(snapshots) => self.publish(snapshots),
                    Err(error) => self.store.fail(error),
                }
                *last = Some(seen);
                break;
            }
            before = Some(seen);
            sleep(STEADY).await;
        }
        self.store.failure().map_or(Ok(()), Err)
    }

    async fn look(&self, operation: &'static str) -> Result<Seen> {
        tokio::runtime::Handle::try_current()
            .map_err(|error| Error::no_runtime(BACKEND, operation).with_source(error))?;
        let path = self.config.path.clone();
        Ok(match apart(operation, move || read(&path)).await? {
            Ok(bytes) => Seen::Bytes(Arc::new(bytes)),
            Err(error) => Seen::Failed(error.kind(), error.to_string()),
        })
    }

    /// What was seen, as a list; or why it is none.
    async fn read(&self, operation: &'static str, seen: &Seen) -> Result<Result<Vec<Snapshot>>> {
        let path = self.config.path.display();
        Ok(match seen {
            Seen::Bytes(bytes) => {
                let (bytes, format) = (bytes.clone(), self.format);
                let read = move || Instances::from_text(&bytes, format).map(Instances::snapshots);
                // A list of megabytes takes a while.
                apart(operation, read).await?.map_err(|mistake| {
                    Error::new(ErrorKind::Protocol, BACKEND, operation, format!("{path}, {mistake}"))
                })
            }
            Seen::Failed(kind, why) => {
                let kind = match kind {
                    io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                    _ => ErrorKind::Unavailable,
                };
                Err(Error::new(kind, BACKEND, operation, format!("cannot read {path}: {why}")))
            }
        })
    }

    fn takes_away(&self, snapshots: &[Snapshot]) -> bool {
        let new: HashMap<_, _> = snapshots.iter().map(|new| (new.service(), new)).collect();
        let is_there = |old: &Snapshot| {
            let new = new.get(old.service());
            new.is_some_and(|new| old.all().iter().all(|instance| new.get(instance.id()).is_some()))
        };
        self.store.services().iter().any(|service| !is_there(&self.store.snapshot(service)))
    }

    fn publish(&self, snapshots: Vec<Snapshot>) {
        let new: HashSet<_> = snapshots.iter().map(Snapshot::service).collect();
        let gone = self.store.services().into_iter().filter(|service| !new.contains(service));
        let gone: Vec<Snapshot> = gone.map(Snapshot::empty).collect();
        self.store.publish(gone.into_iter().chain(snapshots));
        self.store.heal();
    }

    /// Ends every watch, and what follows the file.
    pub(crate) fn close(&self) {
        self.store.close();
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).upgrade() {
            task.end();
        }
    }
}

/// Runs what takes a while where it holds up nobody.
async fn apart<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        Error::new(ErrorKind::Unavailable, BACKEND, operation, "the runtime is shutting down")
            .with_source(error)
    })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let found = fs::metadata(path)?;
    // Others may have no end, or block.
    if !found.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let too_long = |len: u64| io::Error::other(format!("it is {len} bytes long, the limit is {LARGEST}"));
    if found.len() > LARGEST {
        return Err(too_long(found.len()));
    }
    // It may grow meanwhile.
    let mut bytes = Vec::new();
    let len = fs::File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)? as u64;
    if len > LARGEST { Err(too_long(len)) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::StreamExt;
    use switchboard_core::{Registry, ServiceName};

    use super::*;
    use crate::StaticRegistry;

    fn entry(n: u8) -> String {
        format!("[[instances]]\nservice = \"orders\"\naddresses = [\"10.0.0.{n}:80\"]\n")
    }

    fn whole() -> String {
        entry(1) + &entry(2)
    }

    /// A file that was read as [`whole`].
    async fn well(folder: &Path) -> Arc<File> {
        let path = folder.join("list.toml");
        fs::write(&path, whole()).unwrap();
        let file = Arc::new(File::new(FileBuilder::new(path), Format::Toml));
        file.refresh("test").await.unwrap();
        file
    }

    fn known(file: &File) -> usize {
        file.store.snapshot(&ServiceName::new("orders").unwrap()).len()
    }

    /// Looks at what is there now, and at `next` the time after.
    async fn then(file: &Arc<File>, next: &str) -> Result<()> {
        let looking = tokio::spawn({
            let file = file.clone();
            async move { file.refresh("test").await }
        });
        // The paused clock stands still while a file is being read.
        tokio::time::sleep(STEADY / 2).await;
        fs::write(&file.config.path, next).unwrap();
        looking.await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_away_or_is_wrong_for_a_moment_only_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = well(folder.path()).await;
        for part in [entry(1), String::new(), "[[instances]]\nserv".to_owned()] {
            let mut watch = file.store.watch(&ServiceName::new("orders").unwrap());
            assert_eq!(watch.next().await.unwrap().unwrap().len(), 2);
            fs::write(&file.config.path, &part).unwrap();
            then(&file, &whole()).await.unwrap();
            assert!(futures::FutureExt::now_or_never(watch.next()).is_none(), "told of {part:?}");
        }
        fs::remove_file(&file.config.path).unwrap();
        then(&file, &whole()).await.unwrap();
        assert_eq!(known(&file), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_stays_so_is_told_and_what_is_added_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = well(folder.path()).await;
        let began = tokio::time::Instant::now();
        fs::write(&file.config.path, whole() + &entry(3)).unwrap();
        file.refresh("test").await.unwrap();
        assert_eq!((known(&file), began.elapsed()), (3, Duration::ZERO));
        fs::write(&file.config.path, entry(1)).unwrap();
        file.refresh("test").await.unwrap();
        assert_eq!(known(&file), 1);
        assert!(began.elapsed() >= STEADY);
        fs::write(&file.config.path, "").unwrap();
        assert_eq!(file.refresh("test").await.unwrap_err().kind(), ErrorKind::Protocol);
        assert_eq!(known(&file), 1, "what was read last stands");
    }

    #[tokio::test]
    async fn where_the_system_tells_nothing_it_is_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.toml");
        fs::write(&path, entry(1)).unwrap();
        let mut config = StaticRegistry::file(&path).poll(Duration::from_millis(20));
        config.events = false;
        let registry = config.open().unwrap();
        let mut watch = registry.watch(&ServiceName::new("orders").unwrap());
        for (text, count) in [(entry(1), 1), (whole(), 2), (entry(2), 1)] {
            fs::write(&path, text).unwrap();
            let told = async { while watch.next().await.unwrap().map_or(0, |now| now.len()) != count {} };
            tokio::time::timeout(Duration::from_secs(60), told).await.expect("in time");
        }
    }
}
