//! One registry that does as it is told: `mdns-node URL [COMMAND]…`, and further commands on standard input, one a line.
//!
//! | command | does | reports |
//! |---|---|---|
//! | `register INSTANCE` | registers an instance, as JSON | `registered`, `key`, `took` |
//! | `deregister SERVICE ID` | deregisters | `deregistered` |
//! | `lookup SERVICE` | looks up | `looked-up`, `instances`, `whole`, `took` |
//! | `services` | lists the services | `services`, `names`, `took` |
//! | `watch SERVICE` | follows a service | `snapshot`, `service`, `instances`, each time it changes |
//! | `suspect SERVICE ID` | hints that an instance is not reachable | `suspected` |
//! | `serve SERVICE ID` | greets callers on a free port of `0.0.0.0`, registered where that is reachable | `serving`, `address` |
//! | `advertise BOUND` | nothing | `advertised`: `anywhere` by `advertise`, `here` by `advertise_on` this registry |
//! | `advertise BOUND URL` | nothing | the same, `here` for the registry of Consul at URL |
//! | `hold TUNNEL` | keeps a tun device connected, so that it is up | `held` |
//! | `call ADDRESS` | connects, and reads to the end | `called`, `heard` |
//! | `close` | closes the registry and ends | `closed` |
//!
//! Every report is a JSON line with `event`, and `at`: seconds on the machine's monotonic clock. A failure is an `error`
//! with `operation` and `message`. The end of standard input ends the program like a crash: without a goodbye.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use switchboard_consul::ConsulRegistry;
use switchboard_core::{
    Error, Instance, InstanceId, InstanceKey, Namespace, RegisterOptions, Registry, RegistryUrl, ServiceName,
};
use switchboard_mdns::MdnsRegistry;
use switchboard_registrar::{advertise, advertise_on};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tun_rs::{DeviceBuilder, Layer};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("usage: mdns-node URL [COMMAND]…")?;
    let mut url: RegistryUrl = url.parse().map_err(Error::from)?;
    let namespace = url.take("namespace")?;
    let registry: Arc<dyn Registry> = Arc::new(MdnsRegistry::from_url(&url).await?);
    let registry = match namespace {
        Some(namespace) => Arc::new(Namespace::new(&registry, &namespace)?),
        None => registry,
    };
    report("open", json!({}));
    for command in arguments {
        start(&registry, command);
    }
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        if line == "close" {
            registry.close().await?;
            report("closed", json!({}));
            return Ok(());
        }
        start(&registry, line);
    }
    std::process::exit(0)
}

fn start(registry: &Arc<dyn Registry>, command: String) {
    let registry = registry.clone();
    tokio::spawn(async move {
        if let Err(error) = run(&*registry, &command).await {
            let operation = command.split(' ').next();
            report("error", json!({ "operation": operation, "message": error.to_string() }));
        }
    });
}

async fn run(registry: &dyn Registry, command: &str) -> Result<(), Failure> {
    let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
    let begun = Instant::now();
    match verb {
        "register" => {
            let instance: Instance = serde_json::from_str(rest)?;
            registry.register(&instance, &RegisterOptions::new()).await?;
            report("registered", json!({ "key": instance.key().to_string(), "took": seconds(begun) }));
        }
        "deregister" => {
            registry.deregister(&key(rest)?).await?;
            report("deregistered", json!({ "took": seconds(begun) }));
        }
        "lookup" => {
            let found = registry.lookup(&ServiceName::new(rest)?).await?;
            let whole = found.is_complete();
            report(
                "looked-up",
                json!({ "service": rest, "instances": found.all(), "whole": whole, "took": seconds(begun) }),
            );
        }
        "services" => {
            let found = registry.services().await?;
            report("services", json!({ "names": found, "took": seconds(begun) }));
        }
        "watch" => {
            let mut snapshots = registry.watch(&ServiceName::new(rest)?);
            while let Some(snapshot) = snapshots.next().await {
                match snapshot {
                    Ok(snapshot) => {
                        report("snapshot", json!({ "service": rest, "instances": snapshot.all() }));
                    }
                    Err(error) => {
                        report("error", json!({ "operation": "watch", "message": error.to_string() }));
                    }
                }
            }
        }
        "suspect" => {
            registry.suspect(&key(rest)?).await;
            report("suspected", json!({}));
        }
        "serve" => serve(registry, key(rest)?).await?,
        "advertise" => {
            let (bound, url) = rest.split_once(' ').unwrap_or((rest, ""));
            let here = if url.is_empty() {
                advertise_on(registry, bound).await?
            } else {
                advertise_on(&ConsulRegistry::from_url(&url.parse()?)?, bound).await?
            };
            report("advertised", json!({ "anywhere": advertise(bound).await?, "here": here }));
        }
        "hold" => {
            let tunnel = DeviceBuilder::new().name(rest).layer(Layer::L3).build_sync()?;
            report("held", json!({}));
            std::future::pending::<()>().await;
            drop(tunnel);
        }
        "call" => {
            let mut heard = String::new();
            TcpStream::connect(rest).await?.read_to_string(&mut heard).await?;
            report("called", json!({ "heard": heard }));
        }
        _ => return Err(format!("no command: {verb:?}").into()),
    }
    Ok(())
}

async fn serve(registry: &dyn Registry, key: InstanceKey) -> Result<(), Failure> {
    let listener = TcpListener::bind("0.0.0.0:0").await?;
    let address = advertise_on(registry, listener.local_addr()?).await?;
    let instance =
        Instance::builder(key.service().as_str()).id(key.id().as_str()).address(address).build()?;
    registry.register(&instance, &RegisterOptions::new()).await?;
    report("serving", json!({ "address": instance.address().to_string() }));
    loop {
        let (mut caller, _) = listener.accept().await?;
        caller.write_all(b"hello").await?;
    }
}

fn key(text: &str) -> Result<InstanceKey, Failure> {
    let (service, id) = text.split_once(' ').ok_or("wants SERVICE ID")?;
    Ok(InstanceKey::new(ServiceName::new(service)?, InstanceId::new(id)?))
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

fn report(event: &str, mut line: Value) {
    let now = clock_gettime(ClockId::Monotonic);
    let at = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default());
    line["event"] = event.into();
    line["at"] = at.as_secs_f64().into();
    // A reader that is gone is the end of standard input soon.
    let _ = writeln!(std::io::stdout(), "{line}");
}
