//! gRPC by name: a channel for the service `greeter` that picks an instance for each call.
//!
//! `hello-grpc server [ADDRESS]` is a server there or on a free port, with gRPC's health service; run several. `hello-grpc client [COUNT]` calls every half second, for
//! ever or COUNT times; kill a server and start another, and it goes on. Both look where `SWITCHBOARD_REGISTRY` says.
#![allow(clippy::print_stdout, reason = "it is a program to look at")]

use std::error::Error;
use std::time::Duration;

use switchboard::InstanceId;
use switchboard::client::Options;
use switchboard::client::tonic::Channel;
use switchboard::prelude::*;
use switchboard_examples::greeter::greeter_client::GreeterClient;
use switchboard_examples::greeter::greeter_server::{Greeter, GreeterServer};
use switchboard_examples::{HelloReply, HelloRequest};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

struct Polite(InstanceId);

#[tonic::async_trait]
impl Greeter for Polite {
    async fn greet(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let message = format!("Hello {}, I am {}", request.into_inner().name, self.0);
        Ok(Response::new(HelloReply { message }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    match std::env::args().nth(1).as_deref() {
        Some("server") => server().await,
        Some("client") => client().await,
        _ => Err("say `server` or `client`".into()),
    }
}

async fn server() -> Result<(), Box<dyn Error>> {
    let registry = switchboard::from_env().await?;
    let listen = std::env::args().nth(2).unwrap_or_else(|| "127.0.0.1:0".into());
    let server = Serve::bind(&registry, "greeter", &*listen).await?;
    let server = server.describe(|instance| instance.metadata("protocol", "grpc"))?;
    let greeter = GreeterServer::new(Polite(server.instance().id().clone()));
    println!("{} listens on {}, for {registry}", server.instance().key(), server.instance().address());
    // Deregisters first and lets clients hear of it, then finishes the calls in flight.
    server.tonic(Server::builder().add_service(greeter)).await?;
    registry.close().await?;
    println!("deregistered and stopped");
    Ok(())
}

async fn client() -> Result<(), Box<dyn Error>> {
    let count = std::env::args().nth(2).map_or(Ok(usize::MAX), |count| count.parse())?;
    let registry = switchboard::from_env().await?;
    let selector = Selector::new(Directory::new(registry));
    // For a whole call, whatever it takes: connecting and two retries, too.
    let options = Options::new().timeout(Duration::from_secs(2));
    let channel =
        Channel::builder(selector.service("greeter")?).idempotent(|_| true).options(options).build();
    let mut client = GreeterClient::new(channel);
    for _ in 0..count {
        match client.greet(HelloRequest { name: "Ada".into() }).await {
            Ok(reply) => println!("{}", reply.into_inner().message),
            Err(status) => println!("failed: {status}"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}
