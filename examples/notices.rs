//! Who notices, and when: an instance is added to and removed from a zone and a file, while watches, `dig`, reqwest and tonic look.
//!
//! `scripts/measure-dns.sh` runs it where the system's name server is a dnsmasq whose hosts are the file given first and whose process
//! is the one given second. It serves `orders` at 127.0.0.2 and 127.0.0.3, over HTTP at port 8080 and over gRPC at 8081.
#![allow(clippy::print_stdout, reason = "it is a program to look at")]

use std::error::Error;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant};

use axum::{Router, routing::get};
use switchboard::prelude::*;
use switchboard_examples::greeter::greeter_client::GreeterClient;
use switchboard_examples::greeter::greeter_server::{Greeter, GreeterServer};
use switchboard_examples::{HelloReply, HelloRequest};
use tokio::process::Command;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

const FIRST: &str = "127.0.0.2";
const SECOND: &str = "127.0.0.3";

/// Who has not noticed by then does not.
const LIMIT: Duration = Duration::from_secs(60);

/// How often `dig` and calls look.
const LOOK: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(hosts), Some(pid)) = (arguments.next(), arguments.next()) else {
        return Err("say which file dnsmasq's hosts are, and its process".into());
    };
    for address in [FIRST, SECOND] {
        let http = tokio::net::TcpListener::bind((address, 8080)).await?;
        let app = Router::new().route("/", get(move || async move { address }));
        tokio::spawn(async move { axum::serve(http, app).await });
        let grpc = Server::builder().add_service(GreeterServer::new(Polite(address)));
        tokio::spawn(grpc.serve((address.parse::<std::net::IpAddr>()?, 8081).into()));
    }
    let stage = Stage { hosts: hosts.into(), pid, list: std::env::temp_dir().join("notices.toml") };
    println!("{:42} {:>9} {:>9}", "", "added", "removed");
    let every_second = "dns:?port=8080&min_refresh=1s&max_refresh=1s".to_owned();
    let file = format!("file://{}", stage.list.display());
    for (who, url) in [
        ("watch, dns: (TTL 5)", "dns:?port=8080".into()),
        ("watch, dns:?max_refresh=1s", every_second),
        ("watch, file:", file),
    ] {
        stage.measure(who, || Box::pin(watching(url.clone()))).await?;
    }
    stage.measure("dig in a loop, every 100 ms", || Box::pin(digging())).await?;
    stage.measure("reqwest's own DNS, a call every 100 ms", || Box::pin(calling_http())).await?;
    stage.measure("tonic's own DNS, a call every 100 ms", || Box::pin(calling_grpc())).await?;
    std::fs::remove_file(&stage.list)?;
    Ok(())
}

/// Where an observer sees the second instance: now, or from now on.
type Sees = tokio::sync::watch::Receiver<bool>;
type Observe = Pin<Box<dyn Future<Output = Result<Sees, Box<dyn Error>>>>>;

struct Stage {
    hosts: PathBuf,
    pid: String,
    list: PathBuf,
}

impl Stage {
    async fn measure(&self, who: &str, observe: impl Fn() -> Observe) -> Result<(), Box<dyn Error>> {
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for round in 0..5 {
            self.write(false).await?;
            let mut sees = observe().await?;
            // At another moment in the observer's rhythm each time.
            tokio::time::sleep(Duration::from_millis(1000 + 700 * round)).await;
            added.push(waited(self.write(true).await?, &mut sees, true).await);
            if added == [None] {
                removed.push(None);
                break;
            }
            removed.push(waited(self.write(false).await?, &mut sees, false).await);
        }
        println!("{who:42} {:>9} {:>9}", median(added), median(removed));
        Ok(())
    }

    /// Changes zone and file, and gives the moment before.
    async fn write(&self, both: bool) -> Result<Instant, Box<dyn Error>> {
        let begun = Instant::now();
        let addresses = if both { &[FIRST, SECOND][..] } else { &[FIRST] };
        let hosts: String = addresses.iter().map(|address| [*address, " orders\n"].concat()).collect();
        let entry =
            |address| format!("[[instances]]\nservice = \"orders\"\naddresses = [\"{address}:8080\"]\n");
        std::fs::write(&self.hosts, hosts)?;
        replace(&self.list, &addresses.iter().map(entry).collect::<String>())?;
        Command::new("kill").args(["-HUP", &self.pid]).status().await?;
        Ok(begun)
    }
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let next = path.with_extension("next");
    std::fs::write(&next, text)?;
    std::fs::rename(next, path)
}

async fn waited(begun: Instant, sees: &mut Sees, second: bool) -> Option<Duration> {
    tokio::time::timeout(LIMIT, sees.wait_for(|seen| *seen == second)).await.ok()?.ok()?;
    Some(begun.elapsed())
}

fn median(mut all: Vec<Option<Duration>>) -> String {
    all.sort_by_key(|one| one.unwrap_or(Duration::MAX));
    all[all.len() / 2].map_or("never".into(), |time| format!("{:.2} s", time.as_secs_f64()))
}

/// Looks again and again whether the second is seen.
fn looking<F: Future<Output = bool> + Send>(mut look: impl FnMut() -> F + Send + 'static) -> Sees {
    let (tell, sees) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        while !tell.is_closed() {
            tell.send_replace(look().await);
            tokio::time::sleep(LOOK).await;
        }
    });
    sees
}

async fn watching(url: String) -> Result<Sees, Box<dyn Error>> {
    let registry = switchboard::connect(&url).await?;
    let mut watch = registry.watch(&ServiceName::new("orders")?);
    let (tell, sees) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        // Closed with the registry, which is dropped with this.
        let _registry = registry;
        loop {
            tokio::select! {
                Some(news) = watch.next() => if let Ok(snapshot) = news {
                    tell.send_replace(snapshot.all().iter().any(|one| one.address().to_string().starts_with(SECOND)));
                },
                () = tell.closed() => return,
            }
        }
    });
    Ok(sees)
}

#[expect(clippy::unused_async, reason = "as the others")]
async fn digging() -> Result<Sees, Box<dyn Error>> {
    Ok(looking(|| async {
        let said = Command::new("dig").args(["+short", "+tries=1", "orders"]).output().await;
        said.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains(SECOND))
    }))
}

#[expect(clippy::unused_async, reason = "as the others")]
async fn calling_http() -> Result<Sees, Box<dyn Error>> {
    let client = reqwest::Client::new();
    Ok(looking(move || {
        let client = client.clone();
        async move {
            let answer = client.get("http://orders:8080/").send().await;
            let text = match answer {
                Ok(answer) => answer.text().await.unwrap_or_default(),
                Err(_) => String::new(),
            };
            text == SECOND
        }
    }))
}

async fn calling_grpc() -> Result<Sees, Box<dyn Error>> {
    let channel = Channel::from_static("http://orders:8081").connect().await?;
    Ok(looking(move || {
        let mut client = GreeterClient::new(channel.clone());
        async move {
            let reply = client.greet(HelloRequest { name: "Ada".into() }).await;
            reply.is_ok_and(|reply| reply.into_inner().message == SECOND)
        }
    }))
}

struct Polite(&'static str);

#[tonic::async_trait]
impl Greeter for Polite {
    async fn greet(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: self.0.into() }))
    }
}
