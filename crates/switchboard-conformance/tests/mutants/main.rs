//! Breaks each clause on purpose and sees its case go red: a suite that cannot fail proves nothing.
//!
//! To add a mutant: a [`Flaw`](broken::Flaw) in the file of its theme, and a line in that file's table.

mod broken;
mod closing;
mod content;
mod lasting;
mod modest;
mod outage;
mod readable;
mod reading;
mod registering;
mod watching;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use switchboard_conformance::{Backend, Case, Outcome, Profile, async_trait, cases};
use switchboard_core::Registry;

use broken::{Flaw, Sound, World, Writes};
use modest::{Ambient, Modest, Remote, Slow};
use readable::{Addresses, Readable};

/// A broken registry, and the cases that must notice.
pub(crate) struct Mutant {
    name: &'static str,
    world: Box<dyn Fn() -> Box<dyn Backend>>,
    killed_by: &'static [&'static str],
}

/// A mutant of which `flaws` gives, for each world, what makes the flaw of each handle.
fn mutant<F, M>(name: &'static str, killed_by: &'static [&'static str], flaws: fn() -> M) -> Mutant
where
    F: Flaw,
    M: Fn() -> F + Send + Sync + 'static,
{
    Mutant { name, world: Box::new(move || Box::new(World::new(flaws()))), killed_by }
}

/// A mutant that registers something else than it was given.
fn writes(
    name: &'static str,
    killed_by: &'static [&'static str],
    change: fn(&mut serde_json::Value),
) -> Mutant {
    Mutant { name, world: Box::new(move || Box::new(World::new(move || Writes(change)))), killed_by }
}

fn mutants() -> Vec<Mutant> {
    [
        content::mutants(),
        registering::mutants(),
        readable::mutants(),
        reading::mutants(),
        watching::mutants(),
        lasting::mutants(),
        closing::mutants(),
        outage::mutants(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// How `case` ends, on a clock that jumps over every wait; `Err` is what it panicked with.
fn outcome(case: &Case, backend: &dyn Backend) -> Result<Outcome, String> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
    catch_unwind(AssertUnwindSafe(|| runtime.block_on(case.run(backend)))).map_err(|panic| {
        panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic of another kind".into())
    })
}

fn case(name: &str) -> &'static Case {
    let case = cases().iter().find(|case| case.name() == name);
    case.unwrap_or_else(|| panic!("there is no case {name}"))
}

#[test]
fn without_a_flaw_every_case_passes() {
    let backend = World::new(Sound::default);
    for case in cases() {
        assert_eq!(outcome(case, &backend), Ok(Outcome::Passed), "{}", case.name());
    }
}

#[test]
fn what_the_contract_allows_passes() {
    let backend = World::new(|| Ambient);
    for case in cases() {
        assert_eq!(outcome(case, &backend), Ok(Outcome::Passed), "{}", case.name());
    }
}

#[test]
fn what_an_outage_does_across_a_network_passes() {
    let backend = World::new(Remote::new);
    for case in cases() {
        assert_eq!(outcome(case, &backend), Ok(Outcome::Passed), "{}", case.name());
    }
}

#[test]
fn slowness_passes() {
    let backend = World::new(|| Slow).profile(modest::slow_profile);
    for case in cases() {
        assert_eq!(outcome(case, &backend), Ok(Outcome::Passed), "{}", case.name());
    }
}

#[test]
fn what_the_profile_allows_passes() {
    let backend = World::new(Modest::default).profile(modest::profile);
    for case in cases() {
        let skipped = ["ttl::a_lapse_takes_the_name", "register::same_id_in_two_services"];
        match outcome(case, &backend) {
            Ok(Outcome::Passed) if !skipped.contains(&case.name()) => {}
            Ok(Outcome::Skipped(_)) if skipped.contains(&case.name()) => {}
            other => panic!("{} gave {other:?}", case.name()),
        }
    }
    let strict = World::new(Modest::default);
    for name in ["content::host_names", "content::everything_is_read_back", "ttl::a_lapse_reaches_watchers"] {
        assert!(outcome(case(name), &strict).is_err(), "{name}");
    }
}

#[test]
fn without_ttls_their_cases_are_skipped_in_words() {
    let backend = World::new(Sound::default).profile(|profile| profile.ttl(None));
    for case in cases().iter().filter(|case| case.name().starts_with("ttl::")) {
        let why = "the backend keeps no TTLs (Profile::ttl, Backend::write)";
        assert_eq!(outcome(case, &backend), Ok(Outcome::Skipped(why)), "{}", case.name());
    }
}

/// The cases that a backend skips, each by its name, or a theme's; all others must pass.
fn skips(backend: &dyn Backend, expected: &[&str]) {
    for case in cases() {
        let skipped = expected.iter().any(|name| case.name().starts_with(name));
        match outcome(case, backend) {
            Ok(Outcome::Passed) if !skipped => {}
            Ok(Outcome::Skipped(_)) if skipped => {}
            other => panic!("{} gave {other:?}", case.name()),
        }
    }
}

/// What is about registering.
const REGISTERING: [&str; 8] = [
    "deregister::deregistering_twice_succeeds",
    "deregister::deregistering_the_unknown_succeeds",
    "invalid::",
    "ttl::",
    "outage::a_registration_fails_or_is_there",
    "outage::a_deregistration_fails_or_is_done",
    "outage::close_says_what_is_left",
    "close::deregisters_its_own_and_only_that",
];

#[test]
fn what_can_only_be_read_is_read_like_any_other() {
    skips(&World::new(|| Readable).only_read(), &REGISTERING);
}

#[test]
fn what_has_ids_of_its_own_and_no_list_skips_what_is_about_more() {
    let more = [
        "update::changed_metadata",
        "update::changed_version",
        "update::changed_address",
        "update::changed_tags",
        "update::changed_endpoints",
        "services::",
        "names::case_is_significant",
        "outage::a_watch_of_names",
        "outage::the_names",
    ];
    let backend = World::new(|| Addresses).only_read().profile(readable::profile);
    skips(&backend, &[&REGISTERING[..], &more].concat());
}

/// Opens no handle that can be cut off.
struct Sturdy(World<fn() -> Sound>);

#[async_trait]
impl Backend for Sturdy {
    fn profile(&self) -> Profile {
        Backend::profile(&self.0)
    }

    async fn open(&self) -> Arc<dyn Registry> {
        self.0.open().await
    }
}

#[test]
fn without_a_way_to_an_outage_its_cases_are_skipped_in_words() {
    let backend = Sturdy(World::new(Sound::default));
    for case in cases().iter().filter(|case| case.name().starts_with("outage::")) {
        let why = "the backend cannot bring an outage about (Backend::open_fragile)";
        assert_eq!(outcome(case, &backend), Ok(Outcome::Skipped(why)), "{}", case.name());
    }
}

#[test]
fn every_mutant_is_killed_by_the_cases_that_say_so() {
    let mut wrong = Vec::new();
    for mutant in mutants() {
        for name in mutant.killed_by {
            match outcome(case(name), &*(mutant.world)()) {
                Err(message) if message.starts_with(&format!("the registry breaks {name}: ")) => {}
                other => wrong.push(format!("{}: {name} gave {other:?}", mutant.name)),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_case_kills_a_mutant() {
    let mutants = mutants();
    let killers: BTreeSet<_> = mutants.iter().flat_map(|mutant| mutant.killed_by).copied().collect();
    let toothless: Vec<_> = cases().iter().map(Case::name).filter(|name| !killers.contains(name)).collect();
    assert!(toothless.is_empty(), "no mutant is killed by {toothless:?}");
    assert!(mutants.iter().all(|mutant| !mutant.killed_by.is_empty()));
}
