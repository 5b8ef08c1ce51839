//! The peers, each called as its own documentation says.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use criterion::{BatchSize, Criterion};
use futures::FutureExt;
use futures::future::{Ready, ready};
use futures::task::noop_waker_ref;
use metainfo::{METAINFO, MetaInfo};
use pingora_load_balancing::discovery::Static;
use pingora_load_balancing::selection::{
    BackendIter, BackendSelection, RoundRobin, consistent::KetamaHashing,
};
use pingora_load_balancing::{Backend, Backends, LoadBalancer};
use reqwest_lb::{LoadBalancer as ReqwestLb, LoadBalancerPolicy, LoadBalancerTrait};
use tower::Service;
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::completion::TrackCompletion;
use tower::load::{Constant, Load, PeakEwma, PendingRequests};
use volo::context::Endpoint;
use volo::discovery::{Change, Instance, StaticDiscover};
use volo::loadbalance::consistent_hash::{ConsistentHashBalance, ConsistentHashOption};
use volo::loadbalance::random::WeightedRandomBalance;
use volo::loadbalance::{LoadBalance, RequestHash};
use volo::net::Address;

use crate::measure::{Call, Measure};

fn address(index: usize) -> SocketAddr {
    ([10, (index >> 16) as u8, (index >> 8) as u8, index as u8], 80).into()
}

impl Call for SocketAddr {
    fn index(&self) -> usize {
        match self.ip() {
            IpAddr::V4(ip) => (u32::from(ip) & 0xFF_FFFF) as usize,
            IpAddr::V6(_) => unreachable!("all are IPv4"),
        }
    }
}

pub fn run(measure: &mut Measure) {
    let weights = measure.weights();
    pingora(measure, &weights);
    if !measure.is_weighted() {
        tower(measure, weights.len());
    }
    volo(measure, &weights);
    reqwest_lb(measure, &weights);
}

impl Call for Backend {
    fn index(&self) -> usize {
        self.addr.as_inet().expect("an IP address").index()
    }
}

fn backends(weights: &[u16]) -> BTreeSet<Backend> {
    let address = |index| address(index).to_string();
    let backend = |(index, &weight): (usize, &u16)| Backend::new_with_weight(&address(index), weight.into());
    weights.iter().enumerate().map(|each| backend(each).expect("valid")).collect()
}

fn pingora(measure: &mut Measure, weights: &[u16]) {
    fn balancer<S>(weights: &[u16]) -> LoadBalancer<S>
    where
        S: BackendSelection<Iter: BackendIter> + 'static,
    {
        let balancer = LoadBalancer::from_backends(Backends::new(Static::new(backends(weights))));
        balancer.update().now_or_never().expect("ready").expect("a list");
        balancer
    }
    let round_robin = balancer::<RoundRobin>(weights);
    measure.shared("pingora round robin", |_| round_robin.select(b"", 256).expect("a backend"));
    let ketama = balancer::<KetamaHashing>(weights);
    measure.shared("pingora ketama", |key| ketama.select(&key.to_le_bytes(), 256).expect("a backend"));
}

/// Answers with its number.
struct Echo(usize);

impl Service<()> for Echo {
    type Response = Held<()>;
    type Error = Infallible;
    type Future = Ready<Result<Held<()>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(Held(self.0, ())))
    }
}

/// An answer that holds what tower measures the call by, so that the call lasts as long as this.
struct Held<H>(usize, #[allow(dead_code)] H);

impl<H> Call for Held<H> {
    fn index(&self) -> usize {
        self.0
    }
}

#[derive(Clone)]
struct Hold;

impl<H> TrackCompletion<H, Held<()>> for Hold {
    type Output = Held<H>;

    fn track_completion(&self, handle: H, Held(index, ()): Held<()>) -> Held<H> {
        Held(index, handle)
    }
}

fn tower(measure: &mut Measure, size: usize) {
    let (rtt, decay) = (Duration::from_millis(1), Duration::from_secs(10).as_nanos() as f64);
    p2c(measure, "tower p2c constant", size, |echo| Constant::new(echo, 1_u32));
    p2c(measure, "tower p2c pending requests", size, |echo| PendingRequests::new(echo, Hold));
    p2c(measure, "tower p2c peak EWMA", size, |echo| PeakEwma::new(echo, rtt, decay, Hold));
}

fn p2c<S, H>(measure: &mut Measure, name: &'static str, size: usize, service: impl Fn(Echo) -> S + Sync)
where
    S: Service<(), Response = Held<H>, Error = Infallible, Future: Send> + Load<Metric: std::fmt::Debug>,
{
    measure.own(name, || {
        let services: Vec<S> = (0..size).map(|index| service(Echo(index))).collect();
        let mut balance = Balance::new(ServiceList::new::<()>(services));
        let mut context = Context::from_waker(noop_waker_ref());
        move |_| {
            assert!(balance.poll_ready(&mut context).is_ready());
            balance.call(()).now_or_never().expect("ready").expect("an answer")
        }
    });
}

impl Call for Address {
    fn index(&self) -> usize {
        match self {
            Self::Ip(address) => address.index(),
            _ => unreachable!("all are IP addresses"),
        }
    }
}

fn instances(weights: &[u16]) -> Vec<Arc<Instance>> {
    let instance = |(index, &weight): (usize, &u16)| {
        let tags = Default::default();
        Arc::new(Instance { address: address(index).into(), weight: weight.into(), tags })
    };
    weights.iter().enumerate().map(instance).collect()
}

fn volo(measure: &mut Measure, weights: &[u16]) {
    let discover = StaticDiscover::new(instances(weights));
    let endpoint = Endpoint::new("bench".into());
    let random = WeightedRandomBalance::with_discover(&discover);
    measure.shared("volo weighted random", |_| {
        let picker = random.get_picker(&endpoint, &discover).now_or_never().expect("ready");
        picker.ok().and_then(|mut picker| picker.next()).expect("an instance")
    });
    let hash = ConsistentHashBalance::new(ConsistentHashOption::default());
    measure.shared("volo consistent hash", |key| {
        // Its users put the hash of the request here; the multiplication is instead of a hash.
        let mut info = MetaInfo::new();
        info.insert(RequestHash(key.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        METAINFO.sync_scope(RefCell::new(info), || {
            let picker = hash.get_picker(&endpoint, &discover).now_or_never().expect("ready");
            picker.ok().and_then(|mut picker| picker.next()).expect("an instance")
        })
    });
}

fn reqwest_lb(measure: &mut Measure, weights: &[u16]) {
    let weighted = |(index, &weight): (usize, &u16)| (address(index), usize::from(weight));
    let addresses: Vec<(SocketAddr, usize)> = weights.iter().enumerate().map(weighted).collect();
    let balancer = ReqwestLb::<_, SocketAddr>::new(addresses, LoadBalancerPolicy::RoundRobin);
    measure.shared("reqwest-lb round robin", |_| {
        let choice = balancer.choose(&mut http::Extensions::new()).now_or_never().expect("ready");
        choice.ok().flatten().expect("an address")
    });
}

/// What a change costs at 10,000 instances.
pub fn rebuilds(criterion: &mut Criterion) {
    let backends = backends(&[1; 10_000]);
    criterion.bench_function("rebuild pingora ketama", |bencher| {
        bencher.iter(|| KetamaHashing::build(&backends));
    });

    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let _entered = runtime.enter();
    let discover = StaticDiscover::new(instances(&[1; 10_000]));
    let endpoint = Endpoint::new("bench".into());
    let hash = ConsistentHashBalance::new(ConsistentHashOption::default());
    let first = METAINFO.sync_scope(RefCell::new(info()), || {
        hash.get_picker(&endpoint, &discover).now_or_never().expect("ready").is_ok()
    });
    assert!(first, "the ring has been built");
    let instances = instances(&[1; 10_000]);
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
