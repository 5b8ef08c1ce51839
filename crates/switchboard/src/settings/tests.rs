use std::time::Duration;

use super::*;
use switchboard_client::{Options, Retry};
use switchboard_core::ErrorKind;
use switchboard_selector::{Filter, OutlierDetection, PeakEwma, Selector, SlowStart};
use switchboard_watcher::{Backoff, Directory, MassRemoval};

fn read(text: &str) -> Result<Settings, String> {
    toml::from_str(text).map_err(|error: toml::de::Error| error.message().to_owned())
}

/// Everything that there is.
const ALL: &str = r#"
    registry = { failover = [{ url = "memory:a", namespace = "alice" }, "memory:b + memory:c"] }
    namespace = "bob"

    [directory]
    linger = "1m"
    max_idle = 10
    max_age = "10m"
    ready_timeout = "1s"
    backoff = { initial = "50ms", cap = "2s", factor = 2.0 }
    mass_removal = { fraction = 0.5, hold = "30s" }

    [selector]
    strategy = "peak-ewma"
    version = "1.2"
    tags = ["blue"]
    labels = { tier = "gold" }
    prefer_zone = "eu"
    subset = 10
    panic_threshold = 0.4
    latency_decay = "5s"
    slow_start = { window = "10s", from_share = 0.2 }

    [selector.outlier_detection]
    consecutive = 3
    interval = "5s"
    ejection_time = { base = "10s", longest = "1m" }
    max_ejected = 0.2
    rates = false
    success_rate = { deviations = 2.0, instances = 3, calls = 10 }
    failure_percentage = { fraction = 0.9, instances = 3, calls = 10 }

    [registrar]
    interval = "10s"
    ttl = "30s"
    check_interval = "5s"
    check_timeout = "1s"
    unhealthy_after = 2
    healthy_after = 2
    withdraw = false
    start_limit = "10s"
    drain = "1s"
    shutdown_limit = "5s"

    [client]
    timeout = "3s"
    per_try_timeout = "1s"
    retries = 1
    retry_budget = { fraction = 0.1, per_second = 1 }
"#;

#[tokio::test]
async fn everything_can_be_set_and_is() {
    let settings = read(ALL).unwrap();
    let registry = settings.connect().await.unwrap();
    let opened = "memory:a?namespace=alice | memory:b?namespace=bob + memory:c?namespace=bob";
    assert_eq!(registry.to_string(), opened);

    let seconds = Duration::from_secs;
    let directory = Directory::builder(&registry)
        .linger(seconds(60))
        .max_idle(10)
        .max_age(seconds(600))
        .ready_timeout(seconds(1))
        .backoff(Backoff::new(Duration::from_millis(50), seconds(2)).factor(2.0))
        .mass_removal(MassRemoval::more_than(0.5, seconds(30)));
    let set = settings.directory.apply(Directory::builder(&registry));
    assert_eq!(format!("{set:?}"), format!("{directory:?}"));

    let outlier = OutlierDetection::new()
        .consecutive(3)
        .interval(seconds(5))
        .ejection_time(seconds(10), seconds(60))
        .max_ejected(0.2)
        .success_rate(2.0, 3, 10)
        .failure_percentage(0.9, 3, 10);
    let selector = Selector::builder(directory.build())
        .strategy(PeakEwma)
        .filter(Filter::version("1.2"))
        .filter(Filter::tag("blue"))
        .filter(Filter::label("tier", "gold"))
        .filter(Filter::subset(10))
        .filter(Filter::prefer_zone("eu"))
        .outlier_detection(outlier)
        .slow_start(SlowStart::over(seconds(10)).from_share(0.2))
        .panic_threshold(0.4)
        .latency_decay(seconds(5));
    let set = settings.selector.apply(Selector::builder(settings.directory(&registry)));
    assert_eq!(format!("{set:?}"), format!("{selector:?}"));

    let instance = crate::Instance::builder("a").address("h:1").build().unwrap();
    let registrar = switchboard_registrar::Registrar::new(&registry, instance.clone())
        .interval(seconds(10))
        .ttl(seconds(30))
        .check_interval(seconds(5))
        .check_timeout(seconds(1))
        .unhealthy_after(2)
        .healthy_after(2)
        .withdraw(false)
        .start_limit(seconds(10))
        .drain(seconds(1))
        .shutdown_limit(seconds(5));
    assert_eq!(format!("{:?}", settings.registrar(&registry, instance)), format!("{registrar:?}"));

    let options = Options::new().timeout(seconds(3)).per_try_timeout(seconds(1));
    assert_eq!(format!("{:?}", settings.client.options()), format!("{options:?}"));
    let retry = Retry::new().most(1).budget(0.1, 1);
    assert_eq!(format!("{:?}", settings.client.retry()), format!("{retry:?}"));
}

#[test]
fn nothing_need_be_set_and_much_can_be_turned_off() {
    let settings = read("").unwrap();
    assert_eq!(settings.registry, None);
    let off = read("selector = { outlier_detection = false, slow_start = true }").unwrap();
    assert!(matches!(off.selector.outlier_detection, Some(Unless::Off)));
    assert!(matches!(off.selector.slow_start, Some(Unless::Default)));
}

#[test]
fn mistakes_are_told() {
    for (text, why) in [
        ("registy = 'mdns:'", "unknown field `registy`, expected one of `registry`, `namespace`, "),
        ("directory = { lingr = '1s' }", "unknown field `lingr`, expected one of `linger`, "),
        ("directory = { linger = '1' }", "\"1\" is no duration; write a whole number and ms, s, m or h"),
        ("directory = { linger = 1 }", "invalid type: integer `1`, expected a string"),
        (
            "selector = { strategy = 'best' }",
            "unknown variant `best`, expected one of `random`, `round-robin`, ",
        ),
        ("selector = { slow_start = 'no' }", "invalid type: string \"no\", expected true, false, or a table"),
        (
            "selector = { slow_start = { over = '1s' } }",
            "unknown field `over`, expected `window` or `from_share`",
        ),
        ("registry = 'mdns: |'", "registries, at character 8: expected a registry URL such as `mdns:`"),
        (
            "registry = 'mdns'",
            "registry URL: has no scheme; write one such as mdns: or consul://127.0.0.1:8500",
        ),
        (
            "registry = 1",
            "invalid type: integer `1`, expected a registry: a URL, or a table with `url`, `union`, ",
        ),
        ("registry = { dc = 'dc1' }", "missing field `url`"),
        ("registry = { url = 'a:', union = [] }", "`union`, `failover`, `mirror` and `route` stand alone; "),
        (
            "registry = { mirror = [], union = [] }",
            "a registry is one of `union`, `failover`, `mirror` and `route`",
        ),
        (
            "registry = { url = 'a:', b = { c = 1 } }",
            "expected a text, a number, true, false, or a list of these",
        ),
        ("registry = { route = [{ pattern = 'a' }] }", "missing field `registry`"),
    ] {
        let told = read(text).unwrap_err();
        assert!(told.starts_with(why), "{text}: {told}");
    }
}

#[tokio::test]
async fn what_a_url_refuses_a_table_does_too() {
    for (text, why) in [
        (
            "registry = { url = 'memory:', port = 1 }",
            "memory parameter \"port\": is unknown; there are: none",
        ),
        ("registry = { url = 'mdns:', ip = ['v4', 'v6'] }", "mdns parameter \"ip\": is given more than once"),
        ("registry = { union = [] }", "union of no registries: needs one at least"),
        (
            "registry = 'memory:'\nnamespace = 'a b'",
            "namespace \"a b\": has something other than letters, digits and hyphens",
        ),
    ] {
        let error = read(text).unwrap().connect().await.unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Invalid, why), "{text}");
    }
}

#[test]
fn no_secret_is_shown() {
    let text = "registry = { url = 'consul://user:hunter2@h', token = 'hunter2' }";
    assert!(!format!("{:?}", read(text).unwrap()).contains("hunter2"));
    assert!(!read("registry = 'hunter2'").unwrap_err().contains("hunter2"));
}

#[tokio::test]
async fn a_file_names_what_fits_no_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("switchboard.toml");
    let url = format!("config://{}", path.display());
    let open = async |text: &str| {
        std::fs::write(&path, text).unwrap();
        crate::connect(&url)
            .await
            .map(|registry| registry.to_string())
            .map_err(|error| error.message().to_owned())
    };
    let in_file = |why: &str| Err(format!("registries in {}: {why}", path.display()));
    let two =
        "namespace = 'alice'\nregistry = { union = ['memory:a', { url = 'memory:b', namespace = 'bob' }] }";
    assert_eq!(open(two).await.unwrap(), "memory:a?namespace=alice + memory:b?namespace=bob");
    let within = crate::connect(&format!("{url}?namespace=carol | memory:c")).await.unwrap();
    assert_eq!(within.to_string(), "memory:a?namespace=carol + memory:b?namespace=bob | memory:c");
    assert_eq!(open("").await, in_file("line 1, column 1: missing field `registry`"));
    let unknown = "line 2, column 1: unknown field `token`, expected `registry` or `namespace`";
    assert_eq!(open("registry = 'memory:'\ntoken = 'hunter2'").await, in_file(unknown));
    let unfinished = open("registry = 'memory:\n").await.unwrap_err();
    assert!(unfinished.contains("line 1, column 20: "), "{unfinished}");
    let again = open(&format!("registry = '{url}'")).await.unwrap_err();
    assert_eq!(again, "config file: names another such file; write its registries here");
    let large = open(&"#".repeat((1 << 20) + 1)).await;
    assert_eq!(large, in_file("are 1048577 bytes long, the limit is 1048576").map_err(|why: String| why));

    for (url, why) in [
        ("config:///no/such/file.toml", "registries in /no/such/file.toml: cannot be read: "),
        #[cfg(unix)]
        ("config:///dev/zero", "registries in /dev/zero: cannot be read: it is no file"),
        ("config:", "config URL: names no file; write config:///etc/switchboard.toml"),
        ("config:///a?b=c", "config parameter \"b\": is unknown; there are: none"),
    ] {
        let error = crate::connect(url).await.unwrap_err();
        assert!(error.message().starts_with(why), "{url}: {error}");
    }
}
