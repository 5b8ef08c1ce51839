//! A gRPC server that works, and a call to it.

use switchboard_client::tonic::Channel;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::HealthReporter;

use super::LIMIT;

/// A server of the health service, in which `name` is serving.
pub(crate) struct Running {
    pub(crate) address: String,
    pub(crate) reporter: HealthReporter,
    pub(crate) task: JoinHandle<()>,
}

pub(crate) async fn server(name: &str) -> Running {
    serve(Server::builder(), name).await
}

pub(crate) async fn serve(mut builder: Server, name: &str) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status(name, ServingStatus::Serving).await;
    let server = builder.add_service(service).serve_with_incoming(TcpIncoming::from(listener));
    let task = tokio::spawn(async move { server.await.unwrap() });
    Running { address, reporter, task }
}

pub(crate) fn ask(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

pub(crate) async fn check(channel: &Channel, service: &str) -> Result<HealthCheckResponse, Status> {
    let mut client = HealthClient::new(channel.clone());
    let answer = client.check(ask(service));
    tokio::time::timeout(LIMIT, answer).await.unwrap().map(tonic::Response::into_inner)
}
