//! Whom the calls go to.

use std::time::Duration;

use switchboard_selector::{LeastRequest, PeakEwma, Random, RoundRobin, SelectorBuilder};
use tokio::time::Instant;

use crate::each_seed;
use crate::fleet::{Fleet, Load, Manner, share};

type Settings = fn(SelectorBuilder) -> SelectorBuilder;

const STRATEGIES: [(&str, Settings); 4] = [
    ("random", |builder| builder.strategy(Random)),
    ("round robin", |builder| builder.strategy(RoundRobin)),
    ("least request", |builder| builder.strategy(LeastRequest)),
    ("peak EWMA", |builder| builder.strategy(PeakEwma)),
];

/// One call in 10 s to 10,000 a second.
fn rate(random: &mut fastrand::Rng) -> f64 {
    10_f64.powf(random.f64() * 5.0 - 1.0)
}

#[test]
fn shares_follow_weights_while_load_says_nothing() {
    each_seed(|mut random| async move {
        let fleet = Fleet::new();
        let weights: Vec<u16> = (0..random.usize(2..12)).map(|_| random.u16(1..100)).collect();
        let (per_second, calls) = (rate(&mut random), 4_000.0);
        // So quick that calls hardly ever meet.
        let manner = Manner::good(Duration::from_secs_f64(0.02 / per_second));
        for (at, &weight) in weights.iter().enumerate() {
            fleet.add(&format!("{at:02}"), weight, manner).await;
        }
        let load = Load {
            per_second,
            time: Duration::from_secs_f64(calls / per_second),
            patience: Duration::from_secs(3_600),
        };
        for (name, settings) in &STRATEGIES[..3] {
            let balancer = fleet.balancer(settings).await;
            let began = Instant::now();
            let called = fleet.call(&balancer, load, &mut random).await;
            let total: f64 = weights.iter().copied().map(f64::from).sum();
            for (at, &weight) in weights.iter().enumerate() {
                let expected = f64::from(weight) / total;
                let got = share(&called, began, |id| id == format!("{at:02}"));
                // Five standard deviations, and what a few calls that meet may move.
                let tolerance = 5.0 * (expected * (1.0 - expected) / called.len() as f64).sqrt() + 0.02;
                assert!(
                    (got - expected).abs() < tolerance,
                    "{name} at {per_second} a second: {got} for {expected}"
                );
            }
        }
    });
}

#[test]
fn the_slow_lose_at_every_rate() {
    each_seed(|mut random| async move {
        let fleet = Fleet::new();
        let count = random.usize(2..12);
        let slow = random.usize(1..=count / 2);
        for at in 0..count {
            let millis = if at < slow { 400 } else { 10 };
            fleet.add(&format!("{at:02}"), 1, Manner::good(Duration::from_millis(millis))).await;
        }
        let per_second = rate(&mut random).min(200.0);
        let time = Duration::from_secs_f64((3_000.0 / per_second).max(60.0));
        let load = Load { per_second, time, patience: Duration::from_secs(3_600) };
        let balancer = fleet.balancer(|builder| builder.strategy(PeakEwma)).await;
        let began = Instant::now();
        let called = fleet.call(&balancer, load, &mut random).await;
        let got = share(&called, began, |id| id.parse::<usize>().unwrap() < slow);
        // When both that are drawn are slow, one of them it is. And it is tried now and then.
        let drawn = (slow * (slow - 1)) as f64 / (count * (count - 1)) as f64;
        assert!(
            got < drawn + 0.06,
            "{got} to {slow} slow of {count}, at {per_second} a second, {drawn} unavoidable"
        );
    });
}

#[test]
fn a_hanging_instance_loses_within_half_a_minute() {
    each_seed(|mut random| async move {
        for (name, settings) in STRATEGIES {
            let fleet = Fleet::new();
            for at in 0..10 {
                fleet.add(&format!("{at:02}"), 1, Manner::good(Duration::from_millis(20))).await;
            }
            let balancer = fleet.balancer(settings).await;
            // A hang takes five calls to be known as one.
            let per_second = rate(&mut random).clamp(5.0, 200.0);
            let patience = Duration::from_millis(random.u64(500..3_000));
            let load = |seconds| Load { per_second, time: Duration::from_secs(seconds), patience };
            fleet.call(&balancer, load(10), &mut random).await;
            let hung = format!("{:02}", random.usize(..10));
            fleet.set(&hung, Manner { hangs: true, ..Manner::good(Duration::ZERO) });
            let began = Instant::now();
            let called = fleet.call(&balancer, load(120), &mut random).await;
            let got = share(&called, began + Duration::from_secs(30), |id| id == hung);
            assert!(
                got < 0.05,
                "{name}: {got} of {per_second} a second to one that hangs, {patience:?} of patience"
            );
        }
    });
}

#[test]
fn the_failing_lose_and_come_back_when_they_have_recovered() {
    each_seed(|mut random| async move {
        for (name, settings) in STRATEGIES {
            let fleet = Fleet::new();
            let good = Manner::good(Duration::from_millis(20));
            for at in 0..10 {
                fleet.add(&format!("{at:02}"), 1, good).await;
            }
            let balancer = fleet.balancer(settings).await;
            let per_second = rate(&mut random).clamp(20.0, 60.0);
            let load = |seconds| Load {
                per_second,
                time: Duration::from_secs(seconds),
                patience: Duration::from_secs(5),
            };
            let bad = format!("{:02}", random.usize(..10));
            fleet.set(&bad, Manner { fails: 1.0, latency: Duration::from_millis(1), hangs: false });
            let began = Instant::now();
            let called = fleet.call(&balancer, load(120), &mut random).await;
            let got = share(&called, began + Duration::from_secs(10), |id| id == bad);
            assert!(got < 0.02, "{name}: {got} to one that fails");
            assert!(called.iter().all(|call| call.id.is_ok()), "{name}: an empty set");
            fleet.set(&bad, good);
            // The ejection, at most 120 s by now, and a slow start.
            fleet.call(&balancer, load(180), &mut random).await;
            let began = Instant::now();
            let called = fleet.call(&balancer, load(60), &mut random).await;
            let got = share(&called, began, |id| id == bad);
            assert!((0.05..0.15).contains(&got), "{name}: {got} to one that has recovered");
        }
    });
}
