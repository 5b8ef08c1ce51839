use super::{Context, Picker, Strategy, two};
use crate::Candidate;
use crate::stats::Millis;

/// One that has not been picked for so long is picked when drawn, however slow it was: kratos's 3 s.
const FORGOTTEN: u32 = 3_000;

/// What a candidate without a measurement costs while its first calls are out: Finagle's penalty, here as 1 s a call.
const UNMEASURED: f32 = 1e9;

/// Of two drawn at random, the one where a call is likely to be over sooner: the latency's moving average times the
/// calls in flight, for its weight.
///
/// The average takes a peak at once and forgets it over 10 s ([`SelectorBuilder::latency_decay`]), so a slow instance
/// is left within one call; it is tried again as its average fades, and at the latest when drawn after 3 s. An
/// instance without a measurement gets one call to begin with. The algorithm is Finagle's.
///
/// Needs a verdict on each pick ([`Pick::success`](crate::Pick::success)); without any it is [`LeastRequest`].
///
/// [`SelectorBuilder::latency_decay`]: crate::SelectorBuilder::latency_decay
/// [`LeastRequest`]: crate::LeastRequest
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeakEwma;

impl Strategy for PeakEwma {
    fn picker(&self, _: &[Candidate]) -> Box<dyn Picker> {
        Box::new(Self)
    }

    fn needs_latency(&self) -> bool {
        true
    }
}

impl Picker for PeakEwma {
    #[inline]
    fn pick(&self, candidates: &[Candidate], context: &Context<'_>) -> usize {
        let (a, b) = two(context.random(), candidates.len());
        let (first, second) = (&candidates[a], &candidates[b]);
        let ((cost, at), (other, other_at)) = (cost(first), cost(second));
        // Costs are per weight, multiplied out. Both have faded since they were measured; it is enough to know by how much
        // more the earlier one has, or the later one less.
        let cost = cost * weight(second) * context.decay.faded(apart(at, other_at, context.now));
        let other = other * weight(first);
        // Nobody can guess which it is, so nothing branches on it.
        let swap = (a ^ b) * usize::from(cost > other);
        let (better, worse) = (a ^ swap, b ^ swap);
        if candidates[worse].seat().unpicked_for(context.now) > FORGOTTEN { worse } else { better }
    }
}

/// What a call to it cost at the moment of the last measurement, and that moment.
#[inline]
#[allow(clippy::cast_precision_loss)] // needs no 24 bits of precision
fn cost(candidate: &Candidate) -> (f32, Option<Millis>) {
    let in_flight = candidate.in_flight();
    let (nanos, measured) = match candidate.seat().stats().latency().measured() {
        Some((nanos, measured)) => (nanos, Some(measured)),
        None if in_flight == 0 => (0.0, None),
        None => (UNMEASURED, None),
    };
    (nanos * (in_flight + 1) as f32, measured)
}

/// Milliseconds from the second measurement to the first. What was not measured counts as of now: that is `now`, unless
/// this lane has not read the clock since another did.
#[inline]
fn apart(at: Option<Millis>, other: Option<Millis>, now: Millis) -> i32 {
    match (at, other) {
        (Some(at), Some(other)) => at.after(other),
        (None, Some(other)) => now.after(other).max(0),
        (Some(at), None) => at.after(now).min(0),
        (None, None) => 0,
    }
}

#[inline]
#[allow(clippy::cast_precision_loss)]
fn weight(candidate: &Candidate) -> f32 {
    candidate.weight() as f32
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use proptest::{prop_assert_eq, prop_assume, proptest, strategy::Strategy as Generate};

    use super::*;
    use crate::candidate::tests::lanes;
    use crate::stats::Decay;

    const DECAY: f64 = 10_000.0;

    /// What is known of a candidate.
    #[derive(Clone, Copy, Debug)]
    struct Known {
        /// Nanoseconds, and the milliseconds when they were measured.
        measured: Option<(f32, u32)>,
        in_flight: u8,
        weight: u16,
    }

    impl Known {
        /// The whole formula: the decayed average, for each call there would be, for its weight.
        fn cost(self, now: u32) -> f64 {
            let nanos = match self.measured {
                Some((nanos, at)) => f64::from(nanos) * ((f64::from(at) - f64::from(now)) / DECAY).exp(),
                None if self.in_flight == 0 => 0.0,
                None => f64::from(UNMEASURED),
            };
            nanos * (f64::from(self.in_flight) + 1.0) / f64::from(self.weight)
        }
    }

    /// How often each is picked of so many times, at `now`, on a lane whose clock says `clock`.
    fn picks(known: [Known; 2], now: u32, clock: u32, times: usize) -> [usize; 2] {
        let decay = Decay::over(Duration::from_secs_f64(DECAY / 1e3));
        let candidates = known.map(|known| {
            let [candidate, _] = lanes(known.weight);
            if let Some((nanos, at)) = known.measured {
                candidate.seat().stats().latency().observe(nanos, Millis(at), decay);
            }
            candidate.seat().note_picked(Millis(now));
            candidate
        });
        let calls: Vec<_> = candidates
            .iter()
            .zip(known)
            .flat_map(|(candidate, known)| (0..known.in_flight).map(|_| candidate.seat().begin()))
            .collect();
        let context = Context { key: None, turn: &AtomicU64::new(0), now: Millis(clock), decay };
        let mut picked = [0; 2];
        for _ in 0..times {
            picked[PeakEwma.pick(&candidates, &context)] += 1;
        }
        drop(calls);
        picked
    }

    fn known() -> impl Generate<Value = Known> {
        let measured = proptest::option::weighted(0.8, (1e5_f32..1e10, 0_u32..20_000));
        (measured, 0_u8..5, 1_u16..100).prop_map(|(measured, in_flight, weight)| Known {
            measured,
            in_flight,
            weight,
        })
    }

    proptest! {
        #[test]
        fn the_cheaper_is_picked_however_they_are_drawn(one in known(), other in known()) {
            let now = 20_000;
            let (cost, other_cost) = (one.cost(now), other.cost(now));
            // Of two that cost nearly the same either may be taken.
            prop_assume!(cost < other_cost * 0.95 || other_cost < cost * 0.95);
            let expected = if cost < other_cost { [20, 0] } else { [0, 20] };
            prop_assert_eq!(picks([one, other], now, now, 20), expected, "{} {}", cost, other_cost);
        }
    }

    #[test]
    fn what_was_not_measured_counts_as_of_now_even_if_the_clock_is_old() {
        let good = Known { measured: Some((5e6, 600_000)), in_flight: 0, weight: 1 };
        let hung = Known { measured: None, in_flight: 1, weight: 1 };
        for clock in [0, 480_000, 599_000, 600_000] {
            assert_eq!(picks([good, hung], 600_000, clock, 20), [20, 0], "{clock}");
            assert_eq!(picks([hung, good], 600_000, clock, 20), [0, 20], "{clock}");
        }
    }
}
