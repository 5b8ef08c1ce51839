//! The least a swapped-whole picker can cost: what all of ours is measured against. And the best two choices can do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use arc_swap::ArcSwap;

use crate::measure::{Call, Measure};

struct Node {
    index: usize,
    in_flight: AtomicU32,
    _payload: [u64; 6],
}

impl Call for Arc<Node> {
    fn index(&self) -> usize {
        self.index
    }
}

/// Counts as in flight.
struct Counted(Arc<Node>);

impl Call for Counted {
    fn index(&self) -> usize {
        self.0.index
    }

    fn end(self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

fn nodes(measure: &Measure) -> ArcSwap<Vec<Arc<Node>>> {
    let node = |index| Arc::new(Node { index, in_flight: AtomicU32::new(0), _payload: [0; 6] });
    ArcSwap::from_pointee((0..measure.weights().len()).map(node).collect())
}

pub fn run(measure: &mut Measure) {
    let shared = nodes(measure);
    let cursor = AtomicUsize::new(0);
    measure.shared("floor round robin", |_| {
        let nodes = shared.load();
        nodes[cursor.fetch_add(1, Relaxed) % nodes.len()].clone()
    });
    measure.shared("floor random", |_| {
        let nodes = shared.load();
        nodes[fastrand::usize(..nodes.len())].clone()
    });
    two_choices(measure, "floor p2c");
}

/// Two choices by exact counts.
pub fn two_choices(measure: &mut Measure, name: &'static str) {
    let shared = nodes(measure);
    measure.shared(name, |_| {
        let nodes = shared.load();
        let first = fastrand::usize(..nodes.len());
        let other = (first + 1 + fastrand::usize(..nodes.len() - 1)) % nodes.len();
        let load = |at: usize| nodes[at].in_flight.load(Relaxed);
        let node = nodes[if load(other) < load(first) { other } else { first }].clone();
        node.in_flight.fetch_add(1, Relaxed);
        Counted(node)
    });
}
