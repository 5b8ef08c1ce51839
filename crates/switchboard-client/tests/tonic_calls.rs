//! Single calls through the tonic adapter: their time, their options, and what is tried again.

#![cfg(feature = "tonic")]
#![allow(clippy::unwrap_used)] // in helpers of tests too

mod support;

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use support::health::{Running, ask, check, server};
use support::servers::{GivesUp, Http2, Way, full, giving_up, hanging, leaving, refusing, way_to};
use support::{Frames, LIMIT, Silent, instance, register, selector, standing, until};
use switchboard_client::tonic::{Channel, ChannelBuilder};
use switchboard_client::{Options, Retry, TimedOut, is_timeout};
use switchboard_core::{Instance, MemoryRegistry};
use switchboard_selector::{Balancer, ConsistentHash, Filter, Selector};
use switchboard_watcher::Directory;
use tokio::sync::Semaphore;
use tonic::{Code, Request, Status, Streaming};
use tonic_health::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{self, HealthCheckRequest, HealthCheckResponse};
use tower::ServiceExt;

const SHORT: Duration = Duration::from_millis(300);

fn with(options: &Options, service: &str) -> Request<HealthCheckRequest> {
    let mut request = Request::new(ask(service));
    request.extensions_mut().insert(options.clone());
    request
}

fn within(timeout: Duration, service: &str) -> Request<HealthCheckRequest> {
    let mut request = Request::new(ask(service));
    request.set_timeout(timeout);
    request
}

async fn call(channel: &Channel, request: Request<HealthCheckRequest>) -> Result<(), Status> {
    let mut client = HealthClient::new(channel.clone());
    tokio::time::timeout(LIMIT, client.check(request)).await.unwrap().map(drop)
}

/// Which limit ended the call.
fn limit(status: &Status) -> TimedOut {
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(is_timeout(status));
    *status.source().unwrap().downcast_ref().unwrap()
}

#[tokio::test]
async fn a_deadline_bounds_connecting() {
    let registry = MemoryRegistry::new();
    let servers = [full().await, full().await, full().await];
    for server in &servers {
        register(&registry, &instance("health", &server.address.replace(':', "-"), &server.address)).await;
    }
    let selector = selector(&registry);
    let channel = Channel::new(&selector, "health").unwrap();
    let status = call(&channel, within(SHORT, "one")).await.unwrap_err();
    assert_eq!(limit(&status), TimedOut::Call(SHORT));
    let failures: u32 = standing(channel.balancer()).iter().map(|(_, failures)| failures).sum();
    assert_eq!(failures, 1, "it had all the time");

    let balancer = selector.service("health").unwrap();
    let channel = Channel::builder(balancer).options(Options::new().timeout(SHORT)).build();
    assert_eq!(limit(&check(&channel, "one").await.unwrap_err()), TimedOut::Call(SHORT));
    // The shortest counts.
    let shorter = SHORT / 2;
    let status = call(&channel, within(shorter, "one")).await.unwrap_err();
    assert_eq!(limit(&status), TimedOut::Call(shorter));
    let status = call(&channel, within(SHORT * 100, "one")).await.unwrap_err();
    assert_eq!(limit(&status), TimedOut::Call(SHORT));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_bounds_waiting_for_a_first_snapshot() {
    let channel = Channel::new(&Selector::new(Directory::new(Silent)), "health").unwrap();
    let began = tokio::time::Instant::now();
    let status = call(&channel, within(SHORT, "one")).await.unwrap_err();
    assert_eq!(limit(&status), TimedOut::Call(SHORT));
    assert_eq!(began.elapsed(), SHORT);
}

#[tokio::test]
async fn a_deadline_bounds_a_stream_and_blames_nobody_for_its_length() {
    let registry = MemoryRegistry::new();
    let one = server("one").await;
    register(&registry, &instance("health", "1", &one.address)).await;
    let channel = Channel::new(&selector(&registry), "health").unwrap();
    let mut client = HealthClient::new(channel.clone());
    let long = Duration::from_secs(1);
    let mut stream = client.watch(within(long, "one")).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    let next = tokio::time::timeout(LIMIT, stream.message()).await.unwrap();
    assert_eq!(limit(&next.unwrap_err()), TimedOut::Call(long));
    assert_eq!(standing(channel.balancer()), [(0, 0)]);
}

/// A second, as a limit on a clock that stands still.
const SECOND: Duration = Duration::from_secs(1);
/// Just before it is over.
const ALMOST: Duration = Duration::from_millis(995);

/// Lets all others go on while the clock stands still.
async fn go_on_until(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < LIMIT, "it never happened");
        tokio::task::yield_now().await;
    }
}

/// A channel to a server that gives up what it is asked.
struct GivenUp {
    channel: Channel,
    server: Http2,
    may: Arc<Semaphore>,
    _registry: MemoryRegistry,
}

impl GivenUp {
    async fn new(how: GivesUp) -> Self {
        let may = Arc::new(Semaphore::new(0));
        let server = giving_up(how, may.clone()).await;
        let registry = MemoryRegistry::new();
        register(&registry, &instance("health", "1", &server.address)).await;
        let channel = Channel::new(&selector(&registry), "health").unwrap();
        Self { channel, server, may, _registry: registry }
    }

    /// What becomes of a request when so much time has passed, and then, if it may, the server gives it up.
    async fn call(&self, request: Request<HealthCheckRequest>, passed: Duration, may: bool) -> Status {
        let (before, channel) = (self.server.requests().len(), self.channel.clone());
        let call = tokio::spawn(async move { call(&channel, request).await.unwrap_err() });
        go_on_until(|| self.server.requests().len() > before || call.is_finished()).await;
        tokio::time::advance(passed).await;
        self.may.add_permits(usize::from(may));
        go_on_until(|| call.is_finished()).await;
        call.await.unwrap()
    }

    fn standing(&self) -> Vec<(u32, u32)> {
        standing(self.channel.balancer())
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_the_server_notices_first_is_one_all_the_same() {
    for how in [GivesUp::Status("1"), GivesUp::Status("4"), GivesUp::Reset] {
        let one = GivenUp::new(how).await;
        for failures in 1..=2 {
            let status = one.call(within(SECOND, "one"), ALMOST, true).await;
            assert_eq!(limit(&status), TimedOut::Call(SECOND), "{how:?}");
            assert_eq!(one.standing(), [(0, failures)], "{how:?}");
        }
        let per_try = with(&Options::new().timeout(LIMIT).per_try_timeout(SECOND), "one");
        let status = one.call(per_try, ALMOST, true).await;
        assert_eq!(limit(&status), TimedOut::Try(SECOND), "{how:?}");
        assert_eq!(one.standing(), [(0, 3)], "{how:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_the_server_notices_first_within_a_response_blames_nobody() {
    for code in ["1", "4"] {
        let one = GivenUp::new(GivesUp::Trailers(code)).await;
        let status = one.call(within(SECOND, "one"), ALMOST, true).await;
        assert_eq!(limit(&status), TimedOut::Call(SECOND), "{code}");
        assert_eq!(one.standing(), [(0, 0)], "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_cancelled_long_before_the_deadline_is_the_applications_own() {
    for how in [GivesUp::Status("1"), GivesUp::Trailers("1")] {
        let one = GivenUp::new(how).await;
        let status = one.call(within(SECOND, "one"), SECOND / 2, true).await;
        assert_eq!(status.code(), Code::Cancelled, "{how:?}");
        assert!(!is_timeout(&status), "{how:?}");
        assert_eq!(one.standing(), [(0, 0)], "{how:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_of_the_servers_own_is_its_failure() {
    let one = GivenUp::new(GivesUp::Status("4")).await;
    let status = one.call(within(SECOND, "one"), SECOND / 2, true).await;
    assert!(status.source().is_none() && is_timeout(&status), "{status:?}");
    assert_eq!(one.standing(), [(0, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_tonic_notices_first_says_which_limit_it_was() {
    let one = GivenUp::new(GivesUp::Reset).await;
    for failures in 1..=4 {
        let status = one.call(within(SECOND, "one"), SECOND, false).await;
        assert_eq!(limit(&status), TimedOut::Call(SECOND));
        assert_eq!(one.standing(), [(0, failures)]);
    }
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_tried_elsewhere_if_that_does_no_harm() {
    let registry = MemoryRegistry::new();
    let one = server("one").await;
    register(&registry, &instance("health", "1", &hanging().await)).await;
    register(&registry, &instance("health", "2", &one.address)).await;
    let selector = selector(&registry);
    let channel = Channel::new(&selector, "health").unwrap();
    // Slow machines must be able to answer within it.
    let long = Duration::from_secs(1);
    let options = Options::new().per_try_timeout(long);
    let mut outcomes = Vec::new();
    for _ in 0..2 {
        outcomes.push(call(&channel, with(&options, "one")).await.map_err(|status| limit(&status)));
    }
    outcomes.sort_unstable_by_key(Result::is_ok);
    assert_eq!(outcomes, [Err(TimedOut::Try(long)), Ok(())], "not sent twice");
    assert_eq!(standing(channel.balancer()), [(0, 1), (0, 0)]);

    let options = options.idempotent(true);
    for _ in 0..2 {
        call(&channel, with(&options, "one")).await.unwrap();
    }
    assert!(standing(channel.balancer())[0].1 > 1);
    let once = options.retries(0);
    let mut well = [false; 2];
    for well in &mut well {
        *well = call(&channel, with(&once, "one")).await.is_ok();
    }
    assert_ne!(well[0], well[1], "no retry for this call");
}

#[tokio::test]
async fn a_call_says_its_key_and_its_filters() {
    let registry = MemoryRegistry::new();
    let mut servers = Vec::new();
    for id in ["a", "b", "c", "d"] {
        let server = server(id).await;
        let instance = Instance::builder("health").id(id).address(server.address.as_str()).tag(id);
        register(&registry, &instance.build().unwrap()).await;
        servers.push(server);
    }
    let channel = Channel::new(&selector(&registry), "health").unwrap();
    let by_key = Options::new().strategy(ConsistentHash);
    // Who answers is the one that knows the service by its id.
    let answering = async |options: &Options| {
        for id in ["a", "b", "c", "d"] {
            if call(&channel, with(options, id)).await.is_ok() {
                return id;
            }
        }
        panic!("nobody answers twice in a row");
    };
    let mut seen = BTreeSet::new();
    for user in 0..20 {
        let options = by_key.clone().key(user.to_string());
        let first = answering(&options).await;
        assert_eq!(answering(&options).await, first);
        seen.insert(first);
    }
    assert!(seen.len() > 1, "keys are shared out: {seen:?}");
    assert_eq!(answering(&Options::new().filter(Filter::tag("c"))).await, "c");
}

#[tokio::test]
async fn what_the_server_says_it_has_not_worked_on_is_tried_elsewhere() {
    let registry = MemoryRegistry::new();
    let one = server("one").await;
    let refusing = refusing().await;
    register(&registry, &instance("refused", "1", &refusing.address)).await;
    register(&registry, &instance("refused", "2", &one.address)).await;
    register(&registry, &instance("left", "1", &leaving().await)).await;
    register(&registry, &instance("left", "2", &one.address)).await;
    let selector = selector(&registry);
    for service in ["refused", "left"] {
        let channel = Channel::new(&selector, service).unwrap();
        for _ in 0..2 {
            check(&channel, "one").await.unwrap();
        }
        let standing = standing(channel.balancer());
        assert!(standing[0].1 > 0 && standing[1] == (0, 0), "{service}: {standing:?}");
    }
    assert!(!refusing.requests().is_empty());
}

#[tokio::test]
async fn each_attempt_tells_the_server_what_is_left() {
    let registry = MemoryRegistry::new();
    let refusing = refusing().await;
    register(&registry, &instance("health", "1", &refusing.address)).await;
    let channel = Channel::new(&selector(&registry), "health").unwrap();
    call(&channel, within(LIMIT, "one")).await.unwrap_err();
    let left: Vec<u64> = refusing
        .requests()
        .iter()
        .map(|head| {
            head.headers["grpc-timeout"].to_str().unwrap().strip_suffix('u').unwrap().parse().unwrap()
        })
        .collect();
    assert_eq!(left.len(), 3);
    assert!(left.is_sorted_by(|earlier, later| earlier > later), "{left:?}");
}

/// A call with this body.
async fn send(channel: &Channel, body: Frames<Status>) -> Result<(), Status> {
    let request = http::Request::post("http://health/grpc.health.v1.Health/Check")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(body))
        .unwrap();
    tokio::time::timeout(LIMIT, channel.clone().oneshot(request)).await.unwrap().map(drop)
}

#[tokio::test]
async fn a_body_that_breaks_off_on_this_side_says_nothing_of_the_instance() {
    let registry = MemoryRegistry::new();
    register(&registry, &instance("health", "1", &hanging().await)).await;
    let balancer = selector(&registry).service("health").unwrap();
    let channel = Channel::builder(balancer).idempotent(|_| true).build();
    let broken = Status::aborted("my own disk is broken");
    let status = send(&channel, Frames::new(["begun"], Some(broken))).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Aborted, "my own disk is broken"));
    assert_eq!(standing(channel.balancer()), [(0, 0)]);
}

#[tokio::test]
async fn what_cannot_be_sent_again_costs_no_budget() {
    let registry = MemoryRegistry::new();
    let refusing = refusing().await;
    register(&registry, &instance("health", "1", &refusing.address)).await;
    let balancer = selector(&registry).service("health").unwrap();
    // Ten retries in all.
    let channel = Channel::builder(balancer).retry(Retry::new().most(1).budget(0.0, 1)).build();
    let large = || Frames::new(vec![Bytes::from(vec![0; 16 * 1024]); 5], None);
    for _ in 0..20 {
        send(&channel, large()).await.unwrap_err();
    }
    assert_eq!(refusing.requests().len(), 20);
    send(&channel, Frames::new(["small"], None)).await.unwrap_err();
    assert_eq!(refusing.requests().len(), 22, "it was tried again");
}

/// By default, in time that need not be waited for.
#[tokio::test(start_paused = true)]
async fn an_instance_that_hangs_is_waited_for_15_s() {
    let registry = MemoryRegistry::new();
    register(&registry, &instance("health", "1", &hanging().await)).await;
    let channel = Channel::new(&selector(&registry), "health").unwrap();
    let began = tokio::time::Instant::now();
    let status = HealthClient::new(channel).check(ask("one")).await.unwrap_err();
    assert_eq!(limit(&status), TimedOut::Try(Duration::from_secs(15)));
    assert_eq!(began.elapsed(), Duration::from_secs(15));
}

/// A stream of which the first message has come, by way of what can fall silent.
struct Begun {
    stream: Streaming<HealthCheckResponse>,
    way: Way,
    server: Running,
    balancer: Balancer,
    /// Gone, it would take the instance with it.
    _registry: MemoryRegistry,
}

/// Nothing holds the channel any more.
async fn begun(settings: impl FnOnce(ChannelBuilder) -> ChannelBuilder) -> Begun {
    let registry = MemoryRegistry::new();
    let server = server("one").await;
    let way = way_to(&server.address).await;
    register(&registry, &instance("health", "1", &way.address)).await;
    let balancer = selector(&registry).service("health").unwrap();
    let channel = settings(Channel::builder(balancer.clone())).build();
    let mut stream = HealthClient::new(channel).watch(ask("one")).await.unwrap().into_inner();
    tokio::time::timeout(LIMIT, stream.message()).await.unwrap().unwrap().unwrap();
    Begun { stream, way, server, balancer, _registry: registry }
}

#[tokio::test]
async fn a_stream_whose_server_hangs_ends_by_default_and_not_before_a_ping_may_be_sent() {
    let mut begun = begun(|builder| builder).await;
    begun.way.frozen.store(true, Relaxed);
    // From here on nothing comes through, so no time need be waited for.
    tokio::time::pause();
    let minutes = |count: u64| Duration::from_secs(count * 60);
    let early = tokio::time::timeout(minutes(5), begun.stream.message()).await;
    assert!(early.is_err(), "gRPC's servers forbid pings before");
    let ended = tokio::time::timeout(minutes(1), begun.stream.message()).await;
    ended.expect("it ends").unwrap_err();
    assert_eq!(standing(&begun.balancer), [(0, 1)]);
}

#[tokio::test]
async fn no_ping_is_sent_that_is_not_wanted() {
    let never = Duration::MAX;
    let mut begun = begun(|builder| builder.keep_alive(never, never).connect_timeout(never)).await;
    begun.way.frozen.store(true, Relaxed);
    tokio::time::pause();
    assert!(tokio::time::timeout(Duration::from_secs(3600), begun.stream.message()).await.is_err());
}

#[tokio::test]
async fn a_stream_that_is_merely_quiet_goes_on() {
    let mut begun = begun(|builder| builder.keep_alive(Duration::from_millis(20), LIMIT)).await;
    let asked = begun.way.asked.load(Relaxed);
    until("the server to answer pings", || begun.way.asked.load(Relaxed) >= asked + 5).await;
    begun.server.reporter.set_service_status("one", ServingStatus::NotServing).await;
    let news = tokio::time::timeout(LIMIT, begun.stream.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(news.status(), pb::health_check_response::ServingStatus::NotServing);
    assert_eq!(standing(&begun.balancer), [(1, 0)]);
}
