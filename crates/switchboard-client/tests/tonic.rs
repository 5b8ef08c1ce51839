//! The tonic adapter against real servers on loopback.

#![cfg(feature = "tonic")]
#![allow(clippy::unwrap_used)] // in helpers of tests too

mod support;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use futures::FutureExt;
use support::health::{ask, check, serve, server};
use support::{LIMIT, instance, nowhere, register, selector, standing, until};
use switchboard_client::Retry;
use switchboard_client::tonic::Channel;
use switchboard_core::{MemoryRegistry, Registry};
use switchboard_selector::PickError;
use tokio::net::TcpListener;
use tonic::Code;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig};
use tonic_health::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

#[tokio::test]
async fn each_call_is_picked_and_not_each_connection() {
    let registry = MemoryRegistry::new();
    let (one, two) = (server("one").await, server("two").await);
    register(&registry, &instance("health", "1", &one.address)).await;
    register(&registry, &instance("health", "2", &two.address)).await;
    let channel = Channel::new(&selector(&registry), "health").unwrap();
    assert_eq!(channel.connected(), 0, "nothing is connected before it is needed");
    let mut found = Vec::new();
    for _ in 0..6 {
        found.push(check(&channel, "one").await.is_ok());
    }
    assert!(found.windows(2).all(|pair| pair[0] != pair[1]), "in turn: {found:?}");
    assert_eq!(channel.connected(), 2);
    // "I do not know this service" is the application's own word.
    assert_eq!(standing(channel.balancer()), [(0, 0), (0, 0)]);
}

#[tokio::test]
async fn connections_are_dropped_when_their_instance_leaves() {
    let registry = MemoryRegistry::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = instance("health", "1", &listener.local_addr().unwrap().to_string());
    register(&registry, &gone).await;
    let channel = Channel::new(&selector(&registry), "health").unwrap();
    let mut client = HealthClient::new(channel.clone());
    let mut call = Box::pin(client.check(ask("")));
    let (stream, _) = tokio::select! {
        accepted = listener.accept() => accepted.unwrap(),
        _ = &mut call => panic!("nobody answers"),
    };
    assert_eq!(channel.connected(), 1);
    registry.deregister(&gone.key()).await.unwrap();
    until("the connection is dropped", || channel.connected() == 0).await;
    // The call in flight still has it; with the call it is closed.
    drop(call);
    let closed = async {
        let mut buffer = [0; 4096];
        loop {
            stream.readable().await.unwrap();
            match stream.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    tokio::time::timeout(LIMIT, closed).await.unwrap();
}

#[tokio::test]
async fn a_stream_is_in_flight_until_it_ends_or_is_dropped() {
    let registry = MemoryRegistry::new();
    let mut one = server("one").await;
    register(&registry, &instance("health", "1", &one.address)).await;
    let channel = Channel::new(&selector(&registry), "health").unwrap();
    let mut client = HealthClient::new(channel.clone());
    let mut stream = client.watch(ask("one")).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    assert_eq!(standing(channel.balancer()), [(1, 0)]);
    one.reporter.set_service_status("one", ServingStatus::NotServing).await;
    assert!(stream.message().await.unwrap().is_some());
    assert_eq!(standing(channel.balancer()), [(1, 0)]);
    drop(stream);
    assert_eq!(standing(channel.balancer()), [(0, 0)]);

    let mut stream = client.watch(ask("one")).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    one.reporter.clear_service_status("one").await;
    while let Ok(Some(_)) = stream.message().await {}
    assert_eq!(standing(channel.balancer()), [(0, 0)], "it ended by itself");
}

#[tokio::test]
async fn a_cancelled_call_says_nothing() {
    let registry = MemoryRegistry::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    register(&registry, &instance("health", "1", &listener.local_addr().unwrap().to_string())).await;
    let channel = Channel::new(&selector(&registry), "health").unwrap();
    let mut client = HealthClient::new(channel.clone());
    let mut call = Box::pin(client.check(ask("")));
    assert!(call.as_mut().now_or_never().is_none());
    // The first poll waits for the registry; the next ones send.
    tokio::select! {
        _ = listener.accept() => {}
        _ = &mut call => panic!("nobody answers"),
    }
    assert_eq!(standing(channel.balancer()), [(1, 0)]);
    drop(call);
    assert_eq!(standing(channel.balancer()), [(0, 0)]);
}

#[tokio::test]
async fn what_was_not_sent_is_tried_elsewhere_and_what_was_only_if_idempotent() {
    let registry = MemoryRegistry::new();
    let one = server("one").await;
    register(&registry, &instance("health", "1", &nowhere().await)).await;
    register(&registry, &instance("health", "2", &one.address)).await;
    let selector = selector(&registry);
    let channel = Channel::new(&selector, "health").unwrap();
    for _ in 0..4 {
        check(&channel, "one").await.unwrap();
    }
    let never = Channel::builder(channel.balancer().clone()).retry(Retry::never()).build();
    let mut outcomes = [check(&never, "one").await.is_ok(), check(&never, "one").await.is_ok()];
    outcomes.sort_unstable();
    assert_eq!(outcomes, [false, true]);

    // One that takes the request and then breaks the connection.
    let rude = TcpListener::bind("127.0.0.1:0").await.unwrap();
    register(&registry, &instance("rude", "1", &rude.local_addr().unwrap().to_string())).await;
    register(&registry, &instance("rude", "2", &one.address)).await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = rude.accept().await {
            tokio::spawn(async move {
                let mut read = 0;
                // The preface, the settings and the head of the request are more than this.
                while read < 100 {
                    stream.readable().await.unwrap();
                    read += stream.try_read(&mut [0; 4096]).unwrap_or(0);
                }
            });
        }
    });
    let balancer = selector.service("rude").unwrap();
    let once = Channel::new(&selector, "rude").unwrap();
    let mut outcomes = [check(&once, "one").await.is_ok(), check(&once, "one").await.is_ok()];
    outcomes.sort_unstable();
    assert_eq!(outcomes, [false, true], "not sent twice");
    let idempotent =
        Channel::builder(balancer).idempotent(|method| method == "/grpc.health.v1.Health/Check").build();
    for _ in 0..2 {
        check(&idempotent, "one").await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_dies_and_returns_elsewhere_is_followed() {
    let registry = MemoryRegistry::new();
    let one = server("one").await;
    register(&registry, &instance("health", "1", &one.address)).await;
    let channel = Channel::new(&selector(&registry), "health").unwrap();
    check(&channel, "one").await.unwrap();
    one.task.abort();
    let two = server("one").await;
    register(&registry, &instance("health", "1", &two.address)).await;
    until("the new address is known", || {
        channel.balancer().pick().is_ok_and(|pick| pick.address().to_string() == two.address)
    })
    .await;
    check(&channel, "one").await.unwrap();
    assert_eq!(channel.connected(), 1);
}

#[tokio::test]
async fn no_instance_is_unavailable_and_says_why() {
    let registry = MemoryRegistry::new();
    let channel = Channel::new(&selector(&registry), "nobody").unwrap();
    let status = check(&channel, "").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "nothing known of service \"nobody\": the registry has no instance of it");
    let source = std::error::Error::source(&status).unwrap();
    assert!(source.downcast_ref::<PickError>().is_some_and(PickError::is_nothing_known));
}

#[tokio::test]
async fn each_endpoint_can_have_settings_of_its_own() {
    let registry = MemoryRegistry::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    register(&registry, &instance("health", "1", &listener.local_addr().unwrap().to_string())).await;
    let balancer = selector(&registry).service("health").unwrap();
    let slow = Channel::builder(balancer.clone())
        .endpoint(|instance| {
            let endpoint = Endpoint::try_from(format!("http://{}", instance.address()))?;
            Ok(endpoint.timeout(Duration::from_millis(50)))
        })
        .build();
    let status = check(&slow, "").await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(standing(&balancer), [(0, 1)]);
}

#[tokio::test]
async fn an_endpoint_that_could_not_be_made_is_made_anew() {
    let registry = MemoryRegistry::new();
    let one = server("one").await;
    register(&registry, &instance("health", "1", &one.address)).await;
    let balancer = selector(&registry).service("health").unwrap();
    let tried = AtomicUsize::new(0);
    let channel = Channel::builder(balancer).endpoint(move |instance| {
        let first = tried.fetch_add(1, Relaxed) == 0;
        Endpoint::try_from(if first {
            "http://".to_owned()
        } else {
            format!("http://{}", instance.address())
        })
    });
    let channel = channel.build();
    let status = check(&channel, "one").await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    let attempt = format!("call to service \"health\" failed: 1 at {}: ", one.address);
    let why = status.message().strip_prefix(&attempt).expect(&attempt);
    assert!(why.starts_with("the settings of the channel do not fit"), "{status}");
    check(&channel, "one").await.unwrap();
}

#[tokio::test]
async fn tls_knows_the_server_by_the_name_of_the_service() {
    let made = rcgen::generate_simple_self_signed(["health".to_owned()]).unwrap();
    let identity = Identity::from_pem(made.cert.pem(), made.signing_key.serialize_pem());
    let builder = Server::builder().tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
    let secure = serve(builder, "one").await;
    let registry = MemoryRegistry::new();
    register(&registry, &instance("health", "1", &secure.address)).await;
    let balancer = selector(&registry).service("health").unwrap();
    let channel = |name: &'static str| {
        let trusted = Certificate::from_pem(made.cert.pem());
        let tls = ClientTlsConfig::new().ca_certificate(trusted).domain_name(name);
        let builder = Channel::builder(balancer.clone()).endpoint(move |instance| {
            Endpoint::try_from(format!("https://{}", instance.address()))?.tls_config(tls.clone())
        });
        builder.build()
    };
    check(&channel("health"), "one").await.unwrap();
    let status = check(&channel("somebody-else"), "one").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[test]
fn a_channel_is_made_outside_a_runtime_too_and_drops_what_has_left() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let registry = MemoryRegistry::new();
    let (selector, one) = runtime.block_on(async {
        let one = server("one").await;
        register(&registry, &instance("health", "1", &one.address)).await;
        let selector = selector(&registry);
        selector.service("health").unwrap().ready().await.unwrap();
        (selector, one)
    });
    let balancer = runtime.block_on(async { selector.service("health").unwrap() });
    let channel = Channel::builder(balancer).build();
    runtime.block_on(async {
        check(&channel, "one").await.unwrap();
        assert_eq!(channel.connected(), 1);
        registry.deregister(&instance("health", "1", &one.address).key()).await.unwrap();
        until("the connection to be dropped", || channel.connected() == 0).await;
    });
}
