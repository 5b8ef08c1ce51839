//! Why: gRPC clients over one virtual address, and over pods.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use switchboard_client::tonic::Channel;
use switchboard_selector::Selector;
use switchboard_watcher::Directory;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tonic::transport::{Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::reading::{READY, orders};
use crate::support::{Space, endpoint, port, slice};

const SERVERS: u8 = 5;
const CLIENTS: usize = 10;
const CALLS: usize = 500;

/// Tells the test that its addresses are there.
const INSIDE: &str = "SWITCHBOARD_TEST_INSIDE";

/// Kubernetes takes no address of loopback, so the servers have others, of a network namespace that is this test's alone.
fn address(server: u8) -> SocketAddr {
    (Ipv4Addr::new(10, 98, 0, server), 50051).into()
}

#[test]
#[ignore = "needs kubernetes and namespaces"]
fn calls_are_spread_over_pods_and_not_connections() {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        return runtime.unwrap().block_on(compare());
    }
    let addresses: Vec<String> =
        (1..=SERVERS).map(|server| format!("ip address add {}/32 dev lo", address(server).ip())).collect();
    let script = format!(r#"set -e; ip link set lo up; {}; exec "$@""#, addresses.join("; "));
    let test = "balance::calls_are_spread_over_pods_and_not_connections";
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", &script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

async fn compare() {
    let counts: Vec<Arc<AtomicUsize>> = (0..SERVERS).map(|_| Arc::default()).collect();
    let mut servers = JoinSet::new();
    for (index, count) in counts.iter().enumerate() {
        let count = count.clone();
        let listener = TcpListener::bind(address(u8::try_from(index).unwrap() + 1)).await.unwrap();
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let counting = tonic::service::InterceptorLayer::new(move |request: tonic::Request<()>| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(request)
        });
        let (_, health) = tonic_health::server::health_reporter();
        servers.spawn(Server::builder().layer(counting).add_service(health).serve_with_incoming(incoming));
    }
    let taken = || -> Vec<usize> { counts.iter().map(|count| count.swap(0, Ordering::Relaxed)).collect() };

    let virtual_address = virtual_address(&mut servers).await;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let channel =
            Endpoint::from_shared(format!("http://{virtual_address}")).unwrap().connect().await.unwrap();
        clients.spawn(call(HealthClient::new(channel)));
    }
    clients.join_all().await;
    println!("over one virtual address: {:?}", taken());

    let space = Space::new().await;
    let pods =
        (1..=SERVERS).map(|server| endpoint(&format!("p{server}"), &address(server).ip().to_string(), READY));
    space.put(&slice("orders-a", "orders", vec![port("grpc", 50051)], pods.collect())).await;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let selector = Selector::new(Directory::new(space.builder().port("grpc").open().unwrap()));
        selector.select(&orders()).await.unwrap().success();
        let channel = Channel::builder(selector.service("orders").unwrap()).build();
        clients.spawn(call(HealthClient::new(channel)));
    }
    clients.join_all().await;
    let spread = taken();
    println!("over pods: {spread:?}");
    let even = CLIENTS * CALLS / usize::from(SERVERS);
    assert_eq!(spread.iter().sum::<usize>(), CLIENTS * CALLS);
    assert!(spread.iter().all(|calls| (even * 4 / 5..even * 6 / 5).contains(calls)), "{spread:?}");
}

/// What stands for kube-proxy: chooses for each connection, at random.
async fn virtual_address(tasks: &mut JoinSet<Result<(), tonic::transport::Error>>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let here = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut server = TcpStream::connect(address(fastrand::u8(1..=SERVERS))).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
        Ok(())
    });
    here
}

async fn call<C>(mut client: HealthClient<C>)
where
    C: tonic::client::GrpcService<tonic::body::Body>,
    C::Error: Into<tonic::codegen::StdError>,
    C::ResponseBody: tonic::codegen::Body<Data = tonic::codegen::Bytes> + Send + 'static,
    <C::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    for _ in 0..CALLS {
        let asked = client.check(HealthCheckRequest { service: String::new() });
        tokio::time::timeout(Duration::from_secs(60), asked).await.unwrap().unwrap();
    }
}
