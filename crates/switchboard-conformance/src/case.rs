use std::io::Write;

use futures::future::BoxFuture;
use tokio::runtime::{Builder, Runtime};

use crate::Backend;

/// How a case ended that found no clause broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a case may have been skipped"]
pub enum Outcome {
    /// The clause holds.
    Passed,
    /// Nothing was tested, because of this in the backend's profile.
    Skipped(&'static str),
}

/// One clause of the contract.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    name: &'static str,
    run: for<'b> fn(&'b dyn Backend) -> BoxFuture<'b, Outcome>,
}

impl Case {
    /// Theme and clause: `watch::first_item_comes_even_when_empty`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Tests the clause. Must run on a tokio runtime with time and, if the backend needs it, I/O enabled.
    ///
    /// # Panics
    ///
    /// When the clause is broken; the message names it.
    pub async fn run(&self, backend: &dyn Backend) -> Outcome {
        (self.run)(backend).await
    }
}

/// Calls the macro `$callback` with what is given and the list of all cases. The list is here and nowhere else.
#[doc(hidden)]
#[macro_export]
macro_rules! __with_cases {
    ([$($callback:tt)*] $($given:tt)*) => {
        $($callback)*! { [$($given)*]
            register {
                it_is_done_or_said_who_does
                found_at_once
                found_by_its_own_handle
                two_instances_of_one_service
                instances_of_two_handles
                many_at_the_same_time
                same_id_in_two_services
                an_abandoned_call_leaves_the_handle_usable
            }
            content {
                everything_is_read_back
                a_plain_instance_gains_nothing
                given_health_is_ignored
                metadata_values_are_exact
                metadata_keys_are_exact
                forty_metadata_pairs
                labels_are_exact
                extreme_weights
                ipv6_addresses
                host_names
                several_addresses_in_order
            }
            update {
                changed_metadata_is_one_update
                changed_version_is_one_update
                changed_address_is_one_update
                changed_weight_is_one_update
                changed_tags_are_one_update
                changed_endpoints_are_one_update
                a_renewal_is_silent
                a_replacement_is_found_at_once
                replacing_shows_no_gap
            }
            deregister {
                a_deregistered_instance_is_gone
                only_that_instance_goes
                deregistering_twice_succeeds
                deregistering_the_unknown_succeeds
                a_deregistered_instance_can_return
            }
            lookup {
                unknown_service_is_empty
                only_that_service_is_found
            }
            watch {
                first_item_comes_even_when_empty
                first_item_is_the_current_state
                its_own_handles_changes_are_seen
                two_watchers_see_everything
                dropping_one_watch_leaves_the_other
                another_services_changes_are_silent
                a_slow_watcher_ends_on_the_last_state
                a_dropped_watch_leaves_no_task
            }
            services {
                a_name_comes_with_the_first_instance
                a_name_goes_with_the_last_instance
                first_item_is_the_current_set
                equal_sets_are_not_repeated
                a_dropped_watch_leaves_no_task
            }
            names {
                dots
                upper_case
                sixty_characters
                case_is_significant
                odd_names_are_kept_or_refused
                longest_names_are_kept_or_refused
            }
            ttl {
                a_lapse_reaches_watchers
                a_lapse_reaches_lookups
                a_lapse_takes_the_name
                a_renewal_in_time_keeps_it
                registering_after_a_lapse_puts_it_back
                without_a_ttl_it_stays
                the_last_registration_decides
            }
            invalid {
                a_ttl_of_zero_is_refused
                a_refused_replacement_changes_nothing
                long_metadata_values_are_kept_or_refused
                a_thousand_metadata_pairs_are_kept_or_refused
                odd_metadata_keys_are_kept_or_refused
                odd_tags_are_kept_or_refused
            }
            outage {
                a_watch_tells_the_same_again_after_an_error
                a_watch_of_names_tells_the_same_again_after_an_error
                what_changed_meanwhile_is_told
                a_lookup_never_loses_what_is_there
                the_names_never_lose_what_is_there
                a_registration_fails_or_is_there
                a_deregistration_fails_or_is_done
                every_call_is_answered
                a_watch_begun_in_it_never_lies
                it_is_not_told_again_and_again
                close_says_what_is_left
            }
            suspect {
                a_live_instance_stays
                the_unknown_stays_unknown
            }
            maintenance {
                it_lasts_until_it_is_ended
            }
            close {
                deregisters_its_own_and_only_that
                closing_twice_succeeds
                closing_twice_at_once_succeeds
                every_call_says_closed
                open_watches_say_closed_and_end
                new_watches_say_closed_and_end
                the_other_handle_goes_on
                no_task_stays_behind
            }
        }
    };
}

macro_rules! table {
    ([] $($theme:ident { $($case:ident)* })*) => {
        const CASES: &[Case] = &[$($(Case {
            name: concat!(stringify!($theme), "::", stringify!($case)),
            run: |backend| Box::pin(crate::$theme::$case(backend)),
        },)*)*];
    };
}

__with_cases! { [table] }

/// Every case, in the order of the list.
pub fn cases() -> &'static [Case] {
    CASES
}

/// One `#[test]` for every case, named after it and grouped in modules by theme.
///
/// Takes attributes for all of the tests, and an expression that gives the [`Backend`]; it is evaluated once for each
/// test. The case runs on a tokio runtime that the test has for itself, of
/// [`Profile::worker_threads`](crate::Profile::worker_threads); the expression is evaluated outside of it.
///
/// Two suites in one file go into modules of their own:
///
/// ```
/// # use std::sync::Arc;
/// # use switchboard_conformance::{Backend, Profile, async_trait};
/// # use switchboard_core::{MemoryRegistry, Registry};
/// # struct Etcd(MemoryRegistry);
/// # impl Etcd { fn at(_: &str) -> Self { Self(MemoryRegistry::new()) } }
/// # #[async_trait]
/// # impl Backend for Etcd {
/// #     fn profile(&self) -> Profile { Profile::new() }
/// #     async fn open(&self) -> Arc<dyn Registry> { Arc::new(self.0.handle()) }
/// # }
/// mod plain {
///     switchboard_conformance::suite!(#[ignore = "needs etcd"] super::Etcd::at("127.0.0.1:2379"));
/// }
///
/// mod with_prefix {
///     switchboard_conformance::suite!(#[ignore = "needs etcd"] super::Etcd::at("127.0.0.1:2379/prefix"));
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! suite {
    (@ [$($attributes:tt)*] #[$attribute:meta] $($rest:tt)+) => {
        $crate::suite! { @ [$($attributes)* #[$attribute]] $($rest)+ }
    };
    (@ [$($attributes:tt)*] $backend:expr) => {
        #[allow(dead_code)] // by a build without tests
        fn __conformance_backend() -> impl $crate::Backend {
            $backend
        }

        $crate::__with_cases! { [$crate::__tests] $($attributes)* }
    };
    ($($given:tt)+) => {
        $crate::suite! { @ [] $($given)+ }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    ($attributes:tt $($theme:ident { $($case:ident)* })*) => {
        $(mod $theme {
            $($crate::__test! { $attributes $theme $case })*
        })*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __test {
    ([$($attribute:tt)*] $theme:ident $case:ident) => {
        #[test]
        $($attribute)*
        fn $case() {
            $crate::run(
                &super::__conformance_backend(),
                concat!(stringify!($theme), "::", stringify!($case)),
            );
        }
    };
}

/// Runs the case of this name on a tokio runtime of its own, as a test made by [`suite!`](crate::suite) does.
///
/// A skip is written to standard error.
///
/// # Panics
///
/// When the clause is broken, or there is no such case, or when called from a tokio runtime.
pub fn run(backend: &dyn Backend, name: &str) {
    let case = cases().iter().find(|case| case.name == name);
    let case = case.unwrap_or_else(|| panic!("there is no case {name:?} in the suite"));
    if let Outcome::Skipped(why) = runtime(backend.profile().worker_threads).block_on(case.run(backend)) {
        // Not by `eprintln!`: the test harness would swallow it. Where standard error is closed nobody would read it.
        let _ = writeln!(std::io::stderr(), "skipped {name}: {why}");
    }
}

fn runtime(worker_threads: usize) -> Runtime {
    let mut builder = match worker_threads {
        0 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let builder = builder.worker_threads(worker_threads.max(1)).enable_all();
    builder.build().expect("the system has a thread and a descriptor for a runtime")
}
