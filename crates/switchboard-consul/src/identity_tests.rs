use proptest::prelude::*;
use switchboard_core::{Health, ServiceName, Snapshot};

use super::*;

/// An id, an address, whether it passes, and when it was modified.
type Entry = (&'static str, &'static str, bool, u64);

fn listed((id, address, passes, modified): Entry) -> Listed {
    let health = if passes { Health::Passing } else { Health::Critical };
    let builder = Instance::builder("web").id(id).address(address).health(health);
    Listed::new(Arc::new(builder.metadata("at", modified.to_string()).build().unwrap()), modified)
}

fn snapshot(clashes: &mut Clashes, entries: &[Entry], now: Instant) -> Snapshot {
    let listed: Vec<_> = entries.iter().copied().map(listed).collect();
    let instances = clashes.tell_apart(listed.iter().collect(), now);
    Snapshot::new(ServiceName::new("web").unwrap(), instances)
}

fn ids(entries: &[Entry]) -> Vec<String> {
    let found = snapshot(&mut Clashes::default(), entries, Instant::now());
    found.all().iter().map(|instance| instance.id().to_string()).collect()
}

#[test]
fn an_id_is_kept_where_it_is_unique_and_is_several_by_address() {
    assert_eq!(ids(&[("web", "10.0.0.1:80", true, 1), ("x", "10.0.0.1:80", true, 1)]), ["web", "x"]);
    let both = ["web@10.0.0.1:80", "web@10.0.0.2:80", "x"];
    let (one, two) = (("web", "10.0.0.1:80", true, 1), ("web", "10.0.0.2:80", false, 9));
    let x = ("x", "10.0.0.2:80", true, 5);
    // Neither by order, nor by health, nor by who is newer.
    assert_eq!(ids(&[one, x, two]), both);
    assert_eq!(ids(&[two, one, x]), both);
    assert_eq!(ids(&[("web", "10.0.0.1:80", false, 12), two, x]), both);
    assert_eq!(
        ids(&[one, two, ("web", "[fd00::3]:80", true, 1)]),
        ["web@10.0.0.1:80", "web@10.0.0.2:80", "web@[fd00::3]:80"]
    );
    assert_eq!(ids(&[("web", "h:1", true, 1), ("Web", "h:2", true, 1)]), ["Web", "web"], "case counts");
}

#[test]
fn a_registration_that_moved_is_one_the_healthier_then_the_newer() {
    for (entries, counts) in [
        ([("1", "h:1", true, 5), ("1", "h:1", false, 9)], "5"),
        ([("1", "h:1", true, 5), ("1", "h:1", true, 9)], "9"),
        ([("1", "h:1", true, 9), ("1", "h:1", true, 5)], "9"),
    ] {
        let found = snapshot(&mut Clashes::default(), &entries, Instant::now());
        assert_eq!((found.len(), found.all()[0].id().as_str()), (1, "1"));
        assert_eq!(found.all()[0].metadata()["at"], counts);
        // Nor does it show twice, or change its id, where there is another of that id.
        let [one, other] = entries;
        let found = ids(&[one, ("1", "h:2", true, 7), other]);
        assert_eq!(found, ["1@h:1", "1@h:2"]);
    }
}

#[test]
fn an_id_that_looks_like_one_with_an_address_stays_another() {
    let entries = [
        ("web", "h:1", true, 1),
        ("web", "h:2", true, 1),
        ("web@h:2", "h:3", true, 1),
        ("web@h:9", "h:4", true, 1),
    ];
    assert_eq!(ids(&entries), ["web@h:1", "web@h:2", "web@h:2@h:3", "web@h:9"]);
    // Without a second web it is nothing special.
    assert_eq!(ids(&entries[1..]), ["web", "web@h:2", "web@h:9"]);
}

#[test]
fn a_watch_keeps_the_address_for_a_while_after_the_others_have_left() {
    let (mut clashes, begun) = (Clashes::default(), Instant::now());
    let (one, two) = (("web", "h:1", true, 1), ("web", "h:2", true, 1));
    let mut ids = |entries: &[Entry], after: Duration| {
        let found = snapshot(&mut clashes, entries, begun + after);
        found.all().iter().map(|instance| instance.id().to_string()).collect::<Vec<_>>()
    };
    let later = Duration::from_secs(60);
    assert_eq!(ids(&[one], Duration::ZERO), ["web"]);
    assert_eq!(ids(&[one, two], later), ["web@h:1", "web@h:2"]);
    assert!(ids(&[], later * 2).is_empty());
    assert_eq!(ids(&[one], later * 3), ["web@h:1"]);
    assert_eq!(ids(&[one], later + REMEMBERED), ["web"]);
}

#[test]
fn long_ids_stay_valid_and_apart() {
    let long = |last: &str, address: &str| {
        let id = format!("{}{last}", "\u{e4}".repeat(126));
        qualified(&Instance::builder("web").id(id).address(address).build().unwrap())
    };
    let all = [long("1", "10.0.0.1:80"), long("1", "10.0.0.2:80"), long("2", "10.0.0.1:80")];
    assert!(all.iter().all(|id| id.as_str().len() <= MAX_BYTES), "{all:?}");
    assert_eq!(std::collections::BTreeSet::from(all.clone()).len(), 3, "{all:?}");
    assert_eq!(all[0], long("1", "10.0.0.1:80"));
    // The same in every process and version.
    assert!(all[0].as_str().ends_with("~a5de4dc4956ce1a5"), "{}", all[0]);
}

proptest! {
    /// Each id and address is one instance, by whatever order they come.
    #[test]
    fn nothing_is_lost_and_nothing_doubled(
        entries in prop::collection::vec((0usize..4, 0usize..3, any::<bool>(), 0u64..9), 0..12).prop_shuffle(),
    ) {
        const IDS: [&str; 4] = ["a", "a@h:1", "a@h:1@h:1", "b"];
        const ADDRESSES: [&str; 3] = ["h:1", "h:2", "h:3"];
        let entry = |&(id, address, passes, modified): &(usize, usize, bool, u64)| {
            (IDS[id], ADDRESSES[address], passes, modified)
        };
        let all: Vec<Entry> = entries.iter().map(entry).collect();
        let places: std::collections::BTreeSet<_> = all.iter().map(|one| (one.0, one.1)).collect();
        let found = snapshot(&mut Clashes::default(), &all, Instant::now());
        prop_assert_eq!(found.len(), places.len());
        let back: Vec<Entry> = all.into_iter().rev().collect();
        prop_assert_eq!(ids(&back), found.all().iter().map(|one| one.id().to_string()).collect::<Vec<_>>());
    }
}
