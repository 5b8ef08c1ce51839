//! The least a swapped-whole picker can cost: what all of ours is measured against.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use arc_swap::ArcSwap;
use criterion::Criterion;

use crate::measure;

struct Node {
    in_flight: AtomicU32,
    _payload: [u64; 6],
}

pub fn run(criterion: &mut Criterion, size: usize) {
    let node = |_| Arc::new(Node { in_flight: AtomicU32::new(0), _payload: [0; 6] });
    let nodes: Vec<Arc<Node>> = (0..size).map(node).collect();
    let shared = ArcSwap::from_pointee(nodes);
    let cursor = AtomicUsize::new(0);
    measure::pick(criterion, "floor round robin", size, |_| {
        let nodes = shared.load();
        nodes[cursor.fetch_add(1, Relaxed) % nodes.len()].clone()
    });
    measure::pick(criterion, "floor random", size, |_| {
        let nodes = shared.load();
        nodes[fastrand::usize(..nodes.len())].clone()
    });
    measure::pick(criterion, "floor p2c", size, |_| {
        let nodes = shared.load();
        let (a, b) = (&nodes[fastrand::usize(..nodes.len())], &nodes[fastrand::usize(..nodes.len())]);
        let better = if a.in_flight.load(Relaxed) <= b.in_flight.load(Relaxed) { a } else { b };
        better.in_flight.fetch_add(1, Relaxed);
        better.in_flight.fetch_sub(1, Relaxed)
    });
}
