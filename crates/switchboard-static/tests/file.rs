//! Files as they change in life: renamed into place, swapped by Kubernetes, written by editors, absent, wrong.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use switchboard_core::{
    ErrorKind, Instance, RegisterOptions, Registry, ServiceName, Snapshot, SnapshotStream,
};
use switchboard_static::{Format, StaticRegistry};
use tempfile::TempDir;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);

/// So seldom that a test cannot be waiting for it.
const NEVER: Duration = Duration::from_secs(3600);

fn orders() -> ServiceName {
    ServiceName::new("orders").unwrap()
}

/// A list of so many instances of `orders`.
fn list(count: usize) -> String {
    let entry = |n| format!("[[instances]]\nservice = \"orders\"\naddresses = [\"10.0.0.{n}:80\"]\n");
    if count == 0 { "instances = []\n".into() } else { (1..=count).map(entry).collect() }
}

/// Watches a file, hearing of changes from the system alone.
fn watch(path: &Path) -> (StaticRegistry, SnapshotStream) {
    let registry = StaticRegistry::file(path).poll(NEVER).open().unwrap();
    let watch = registry.watch(&orders());
    (registry, watch)
}

async fn next(watch: &mut SnapshotStream) -> switchboard_core::Result<Snapshot> {
    timeout(LIMIT, watch.next()).await.expect("in time").expect("it goes on")
}

async fn tells(watch: &mut SnapshotStream, count: usize) {
    assert_eq!(next(watch).await.unwrap().len(), count);
}

fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::rename(next, path).unwrap();
}

#[tokio::test]
async fn one_that_is_renamed_into_place_is_told_whole() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("services.toml");
    replace(&path, &list(2));
    let (_registry, mut watch) = watch(&path);
    tells(&mut watch, 2).await;
    for count in [3, 1, 0, 5] {
        replace(&path, &list(count));
        tells(&mut watch, count).await;
    }
}

/// A mounted ConfigMap: `services.toml -> ..data/services.toml`, `..data -> ..1`, and an update makes `..2`, swaps `..data` by renaming
/// another link over it, and removes `..1`.
#[tokio::test]
async fn a_swap_of_kubernetes_is_told() {
    let mount = TempDir::new().unwrap();
    let at = |name: &str| mount.path().join(name);
    let publish = |version: usize, count: usize| {
        fs::create_dir(at(&format!("..{version}"))).unwrap();
        fs::write(at(&format!("..{version}/services.toml")), list(count)).unwrap();
        symlink(format!("..{version}"), at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        if version > 1 {
            fs::remove_dir_all(at(&format!("..{}", version - 1))).unwrap();
        }
    };
    publish(1, 1);
    symlink("..data/services.toml", at("services.toml")).unwrap();
    let (_registry, mut watch) = watch(&at("services.toml"));
    tells(&mut watch, 1).await;
    for (version, count) in [(2, 3), (3, 2), (4, 4)] {
        publish(version, count);
        tells(&mut watch, count).await;
    }
}

/// Two hundred updates, some swaps within a look, on a machine with other things to do: no error is told, and the last is told last.
#[tokio::test(flavor = "multi_thread")]
async fn swaps_of_kubernetes_one_after_the_other_end_on_the_last_and_tell_no_error() {
    let mount = TempDir::new().unwrap();
    let at = |name: &str| mount.path().join(name);
    let publish = |version: usize, count: usize| {
        fs::create_dir(at(&format!("..{version}"))).unwrap();
        fs::write(at(&format!("..{version}/services.toml")), list(count)).unwrap();
        symlink(format!("..{version}"), at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        if version > 1 {
            fs::remove_dir_all(at(&format!("..{}", version - 1))).unwrap();
        }
    };
    publish(1, 1);
    symlink("..data/services.toml", at("services.toml")).unwrap();
    let (registry, mut first) = watch(&at("services.toml"));
    tells(&mut first, 1).await;
    let others = (0..20).map(|_| registry.watch(&orders()));
    let mut all = futures::stream::select_all(others.chain([first]));
    let swaps = async {
        for version in 2..=200 {
            publish(version, 1 + version % 7);
            tokio::task::yield_now().await;
        }
        publish(201, 99);
    };
    let mut ended = 0;
    let reading = async {
        while ended < 21 {
            let news = timeout(LIMIT, all.next()).await.expect("in time").unwrap();
            ended += usize::from(news.expect("no error").len() == 99);
        }
    };
    tokio::join!(swaps, reading);
}

/// Reading it takes a while, and holds up nobody else.
#[tokio::test]
async fn a_list_of_ten_megabytes_holds_nobody_up_and_its_mistakes_have_a_place() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("services.json");
    let entry = |n: usize, weight: u16| {
        let (service, about) = (n % 5000, "x".repeat(250));
        format!(
            r#"{{"service":"s{service}","id":"{n}","addresses":["10.0.0.1:80"],"metadata":{{"about":"{about}"}},"weight":{weight}}}"#
        )
    };
    let list = |last: u16| {
        let entries = (1..30_000).map(|n| entry(n, 1)).chain([entry(30_000, last)]);
        format!("[\n{}\n]", entries.collect::<Vec<_>>().join(",\n"))
    };
    let text = list(1);
    assert!(text.len() > 10_000_000);
    replace(&path, &text);
    let registry = StaticRegistry::file(&path).open().unwrap();
    let ticks = std::cell::Cell::new(0);
    let ticking = async {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            ticks.set(ticks.get() + 1);
        }
    };
    tokio::select! {
        services = registry.services() => assert_eq!(services.unwrap().len(), 5000),
        () = ticking => {}
    }
    assert!(ticks.get() > 20, "the runtime stood still: {} ticks", ticks.get());
    replace(&path, &list(0));
    let error = registry.services().await.unwrap_err();
    assert!(error.message().contains(", line 30001, column 1: weight 0"), "{error}");
}

#[tokio::test]
async fn what_an_editor_has_truncated_or_half_written_is_not_the_list() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("services.toml");
    fs::write(&path, list(4)).unwrap();
    let (registry, mut watch) = watch(&path);
    tells(&mut watch, 4).await;
    for count in [5, 6, 7] {
        // Truncated; a part that is a list by itself; a part that is none; and all of it.
        let whole = list(count);
        let mut file = fs::File::create(&path).unwrap();
        let (whole_entries, rest) = whole.split_at(list(2).len());
        for part in [whole_entries, &rest[..20], &rest[20..]] {
            file.write_all(part.as_bytes()).unwrap();
            tokio::task::yield_now().await;
        }
        drop(file);
        // On a machine that stops in the middle of it for longer than is waited, a part may be taken for the list.
        while next(&mut watch).await.map_or(0, |now| now.len()) != count {}
        assert_eq!(registry.lookup(&orders()).await.unwrap().len(), count);
    }
}

#[tokio::test]
async fn one_that_is_not_there_yet_and_goes_away_is_an_error_and_what_was_read_stands() {
    let folder = TempDir::new().unwrap();
    // Nor is its folder.
    let path = folder.path().join("a/b/services.toml");
    let (registry, mut watch) = watch(&path);
    let error = next(&mut watch).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let said = format!("file: watch: unavailable: cannot read {}: No such file or directory", path.display());
    assert!(error.to_string().starts_with(&said), "{error}");
    assert_eq!(registry.lookup(&orders()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(registry.services().await.unwrap_err().kind(), ErrorKind::Unavailable);

    fs::create_dir_all(path.parent().unwrap()).unwrap();
    replace(&path, &list(2));
    // The folders may be heard of one by one.
    tells(&mut watch, 2).await;

    fs::remove_file(&path).unwrap();
    assert_eq!(next(&mut watch).await.unwrap_err().kind(), ErrorKind::Unavailable);
    replace(&path, &list(2));
    tells(&mut watch, 2).await;
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    assert!(next(&mut watch).await.is_err());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    replace(&path, &list(3));
    tells(&mut watch, 3).await;
}

/// What is heard of the old folder is nothing to the new one of its name.
#[tokio::test]
async fn a_folder_that_is_swapped_for_another_is_followed() {
    let above = TempDir::new().unwrap();
    let (folder, next) = (above.path().join("folder"), above.path().join("next"));
    for (folder, count) in [(&folder, 2), (&next, 3)] {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("services.toml"), list(count)).unwrap();
    }
    let (_registry, mut watch) = watch(&folder.join("services.toml"));
    tells(&mut watch, 2).await;
    // It is listened to by then.
    replace(&folder.join("services.toml"), &list(1));
    tells(&mut watch, 1).await;
    fs::rename(&folder, above.path().join("old")).unwrap();
    fs::rename(&next, &folder).unwrap();
    tells(&mut watch, 3).await;
    replace(&folder.join("services.toml"), &list(4));
    tells(&mut watch, 4).await;
}

#[tokio::test]
async fn one_that_is_wrong_is_an_error_with_line_and_column_and_the_last_good_one_stands() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("services.toml");
    replace(&path, &list(2));
    let (registry, mut watch) = watch(&path);
    tells(&mut watch, 2).await;
    let wrong = format!("{}weight = 0\n", list(2));
    for (text, kind, place) in [
        (wrong.as_str(), ErrorKind::Protocol, "line 4, column 1: "),
        ("[[instances]]\nservice = \"orders\n", ErrorKind::Protocol, "line 2, column 18: "),
        ("", ErrorKind::Protocol, "line 1, column 1: the file is empty"),
    ] {
        replace(&path, text);
        let error = next(&mut watch).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.message().starts_with(&format!("{}, {place}", path.display())), "{error}");
        let error = registry.lookup(&orders()).await.unwrap_err();
        assert!(error.message().contains(place), "{error}");
    }
    replace(&path, &list(2));
    tells(&mut watch, 2).await;
}

#[tokio::test]
async fn one_error_is_told_once_however_often_it_is_met() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("services.json");
    let registry = StaticRegistry::file(&path).poll(Duration::from_millis(10)).open().unwrap();
    let mut watch = registry.watch(&orders());
    assert!(next(&mut watch).await.is_err());
    for _ in 0..5 {
        assert!(registry.lookup(&orders()).await.is_err());
    }
    assert!(timeout(Duration::from_millis(300), watch.next()).await.is_err(), "told again");
    replace(&path, "[]");
    tells(&mut watch, 0).await;
}

#[tokio::test]
async fn what_has_no_end_or_is_no_file_is_not_read() {
    for path in ["/dev/zero", "/dev"] {
        let registry = StaticRegistry::file(path).format(Format::Json).open().unwrap();
        let error = timeout(LIMIT, registry.lookup(&orders())).await.unwrap().unwrap_err();
        assert_eq!(error.message(), format!("cannot read {path}: it is no file"));
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("huge.json");
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let registry = StaticRegistry::file(&path).open().unwrap();
    let error = registry.lookup(&orders()).await.unwrap_err();
    assert!(error.message().ends_with("it is 1099511627776 bytes long, the limit is 67108864"), "{error}");
}

#[tokio::test]
async fn one_that_never_rests_is_told_all_the_same() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("services.toml");
    replace(&path, &list(5));
    let (_registry, mut watch) = watch(&path);
    tells(&mut watch, 5).await;
    let writer = {
        let path = path.clone();
        tokio::spawn(async move {
            for round in 0.. {
                replace(&path, &format!("{}# {round}\n", list(3)));
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        })
    };
    tells(&mut watch, 3).await;
    writer.abort();
}

#[tokio::test]
async fn registering_says_who_writes_it() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("services.toml");
    let registry = StaticRegistry::file(&path).open().unwrap();
    let instance = Instance::builder("orders").address("10.0.0.1:80").build().unwrap();
    let error = registry.register(&instance, &RegisterOptions::new()).await.unwrap_err();
    let who = format!("whoever writes {}", path.display());
    assert_eq!(error.registered_by(), Some(who.as_str()));
    registry.close().await.unwrap();
    let error = registry.register(&instance, &RegisterOptions::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert_eq!(registry.lookup(&orders()).await.unwrap_err().kind(), ErrorKind::Closed);
}

/// The system's thread and our task end with the last watch, and both are back with the next.
#[tokio::test]
async fn nothing_runs_while_nobody_watches() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("services.toml");
    replace(&path, &list(1));
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (registry, mut first) = watch(&path);
    tells(&mut first, 1).await;
    let mut second = registry.watch_services();
    timeout(LIMIT, second.next()).await.unwrap();
    assert_eq!(tasks(), 1);
    drop((first, second));
    timeout(LIMIT, async {
        while tasks() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the task ends");
    let mut again = registry.watch(&orders());
    tells(&mut again, 1).await;
    replace(&path, &list(2));
    tells(&mut again, 2).await;
    drop(registry);
    assert_eq!(next(&mut again).await.unwrap_err().kind(), ErrorKind::Closed);
    assert!(again.next().await.is_none());
}

#[test]
fn outside_a_runtime_it_says_where_to_find_one() {
    let registry = StaticRegistry::file("/nowhere.toml").open().unwrap();
    let error = futures::executor::block_on(registry.lookup(&orders())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = futures::executor::block_on(registry.watch(&orders()).next()).unwrap().unwrap_err();
    assert!(error.message().starts_with("called outside a tokio runtime"), "{error}");
}
