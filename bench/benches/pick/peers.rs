//! The peers, each called as its own documentation says.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion};
use futures::FutureExt;
use futures::task::noop_waker_ref;
use metainfo::{METAINFO, MetaInfo};
use pingora_load_balancing::selection::{BackendSelection, RoundRobin, consistent::KetamaHashing};
use pingora_load_balancing::{Backend, LoadBalancer};
use reqwest_lb::{LoadBalancer as ReqwestLb, LoadBalancerPolicy, LoadBalancerTrait};
use std::task::Context;
use tower::Service;
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, Constant, Load, PeakEwma};
use volo::context::Endpoint;
use volo::discovery::{Change, StaticDiscover};
use volo::loadbalance::consistent_hash::{ConsistentHashBalance, ConsistentHashOption};
use volo::loadbalance::random::WeightedRandomBalance;
use volo::loadbalance::{LoadBalance, RequestHash};

use crate::measure;

fn addresses(size: usize) -> Vec<SocketAddr> {
    let address = |index: usize| ([10, (index >> 16) as u8, (index >> 8) as u8, index as u8], 80).into();
    (0..size).map(address).collect()
}

pub fn run(criterion: &mut Criterion, size: usize) {
    pingora(criterion, size);
    tower(criterion, size);
    volo(criterion, size);
    reqwest_lb(criterion, size);
}

fn pingora(criterion: &mut Criterion, size: usize) {
    let round_robin = LoadBalancer::<RoundRobin>::try_from_iter(addresses(size)).expect("a balancer");
    measure::pick(criterion, "pingora round robin", size, |_| round_robin.select(b"", 256));
    let ketama = LoadBalancer::<KetamaHashing>::try_from_iter(addresses(size)).expect("a balancer");
    measure::pick(criterion, "pingora ketama", size, |key| ketama.select(&key.to_le_bytes(), 256));
}

#[derive(Clone)]
struct Echo;

impl Service<()> for Echo {
    type Response = ();
    type Error = std::convert::Infallible;
    type Future = futures::future::Ready<Result<(), Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        futures::future::ready(Ok(()))
    }
}

/// Not on two threads: a balancer of tower's is called by `&mut self`.
fn tower(criterion: &mut Criterion, size: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    let constant = (0..size).map(|_| Constant::new(Echo, 1_u32));
    p2c(criterion, "tower p2c constant", size, constant.collect());
    let decay = Duration::from_secs(10).as_nanos() as f64;
    let ewma = (0..size)
        .map(|_| PeakEwma::new(Echo, Duration::from_millis(1), decay, CompleteOnResponse::default()));
    p2c(criterion, "tower p2c peak EWMA", size, ewma.collect());
}

fn p2c<S>(criterion: &mut Criterion, name: &str, size: usize, services: Vec<S>)
where
    S: Service<(), Response = (), Error = std::convert::Infallible> + Load,
    S::Metric: std::fmt::Debug,
    S::Future: Send,
{
    let mut balance = Balance::new(ServiceList::new::<()>(services));
    let mut context = Context::from_waker(noop_waker_ref());
    measure::one(criterion, name, size, move |_| {
        assert!(balance.poll_ready(&mut context).is_ready());
        balance.call(()).now_or_never()
    });
}

fn volo(criterion: &mut Criterion, size: usize) {
    let discover = StaticDiscover::from(addresses(size));
    let endpoint = Endpoint::new("bench".into());
    let random = WeightedRandomBalance::with_discover(&discover);
    measure::pick(criterion, "volo weighted random", size, |_| {
        let picker = random.get_picker(&endpoint, &discover).now_or_never().expect("ready");
        picker.ok().and_then(|mut picker| picker.next())
    });
    let hash = ConsistentHashBalance::new(ConsistentHashOption::default());
    measure::pick(criterion, "volo consistent hash", size, |key| {
        // Its users put the hash of the request here; the multiplication is instead of a hash.
        let mut info = MetaInfo::new();
        info.insert(RequestHash(key.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        METAINFO.sync_scope(RefCell::new(info), || {
            let picker = hash.get_picker(&endpoint, &discover).now_or_never().expect("ready");
            picker.ok().and_then(|mut picker| picker.next())
        })
    });
}

fn reqwest_lb(criterion: &mut Criterion, size: usize) {
    let balancer = ReqwestLb::new(addresses(size), LoadBalancerPolicy::RoundRobin);
    measure::pick(criterion, "reqwest-lb round robin", size, |_| {
        balancer.choose(&mut http::Extensions::new()).now_or_never().expect("ready")
    });
}

/// What a change costs at 10,000 instances.
pub fn rebuilds(criterion: &mut Criterion) {
    let backends: BTreeSet<Backend> =
        addresses(10_000).iter().map(|address| Backend::new(&address.to_string()).expect("valid")).collect();
    criterion.bench_function("rebuild pingora ketama", |bencher| {
        bencher.iter(|| KetamaHashing::build(&backends));
    });

    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let _entered = runtime.enter();
    let discover = StaticDiscover::from(addresses(10_000));
    let endpoint = Endpoint::new("bench".into());
    let hash = ConsistentHashBalance::new(ConsistentHashOption::default());
    let first = METAINFO.sync_scope(RefCell::new(info()), || {
        hash.get_picker(&endpoint, &discover).now_or_never().expect("ready").is_ok()
    });
    assert!(first, "the ring has been built");
    let instances = addresses(10_000).into_iter().map(|address| {
        Arc::new(volo::discovery::Instance { address: address.into(), weight: 1, tags: Default::default() })
    });
    let instances: Vec<_> = instances.collect();
    let change =
        || Change { key: (), all: instances.clone(), added: vec![], updated: vec![], removed: vec![] };
    criterion.bench_function("rebuild volo consistent hash", |bencher| {
        bencher.iter_batched(
            change,
            |change| LoadBalance::<StaticDiscover>::rebalance(&hash, change),
            BatchSize::PerIteration,
        );
    });
}

fn info() -> MetaInfo {
    let mut info = MetaInfo::new();
    info.insert(RequestHash(1));
    info
}
