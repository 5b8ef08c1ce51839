//! A real go-micro v4 program with its Consul registry, both ways.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value as Json, json};
use switchboard_consul::Wire;
use switchboard_core::{Endpoint, Instance, Registry, Value};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use crate::support::{builder, name, registry, ttl, until, within};
use switchboard_tests::consul::Agent;
use switchboard_tests::go;

/// The Go program, built once.
async fn program() -> &'static PathBuf {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    let build = || go::build("interop", env!("CARGO_TARGET_TMPDIR"));
    BUILT.get_or_init(async || spawn_blocking(build).await.unwrap()).await
}

async fn interop(arguments: &[&str]) -> Child {
    Command::new(program().await)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// What the program prints.
async fn says(arguments: &[&str]) -> String {
    let output = within("the Go program", interop(arguments).await.wait_with_output()).await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    println!("$ interop {}\n{}", arguments.join(" "), said.trim());
    said
}

#[tokio::test]
#[ignore = "needs consul and go"]
async fn what_go_micro_registers_is_read_whole() {
    program().await;
    let agent = Agent::dev().await;
    let address = format!("127.0.0.1:{}", agent.http);
    let mut program = interop(&["register", &address]).await;
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let line = within("its registration", lines.next_line()).await.unwrap();
    println!("$ interop register {address}\n{}", line.as_deref().unwrap_or_default());
    if line.as_deref() != Some("registered") {
        let mut error = String::new();
        program.stderr.take().unwrap().read_to_string(&mut error).await.unwrap();
        panic!("{error}");
    }

    // Its check is critical until go-micro passes it, which it does at once.
    let registry = registry(&agent.address());
    let service = name("interop-go");
    let found = until("the instance", || async {
        let found = registry.lookup(&service).await.unwrap();
        (found.healthy().count() == 1).then_some(found)
    })
    .await;
    let request = Value::new("Request", "Request").with_values([Value::new("name", "string")]);
    let hello = Endpoint::new("Greeter.Hello")
        .with_metadata("stream", "false")
        .with_request(request)
        .with_response(Value::new("Response", "Response"));
    let expected = Instance::builder("interop-go")
        .id("interop-go-1")
        .version("1.2.3-go")
        .address("10.1.2.3:9090")
        .metadata("protocol", "mucp")
        .metadata("zone", "eu-1")
        .endpoint(hello)
        .build()
        .unwrap();
    println!("read by us: {:#?}", found.all()[0]);
    assert_eq!(**found.all().first().unwrap(), expected);

    drop(program.stdin.take());
    assert_eq!(within("its end", lines.next_line()).await.unwrap().as_deref(), Some("deregistered"));
    until("gone", || async { registry.lookup(&service).await.unwrap().is_empty().then_some(()) }).await;
    assert!(within("its end", program.wait()).await.unwrap().success());
}

#[tokio::test]
#[ignore = "needs consul and go"]
async fn go_micro_reads_and_selects_what_we_register() {
    // Before anything lives by a TTL: on a fresh machine this fetches modules and compiles for minutes.
    program().await;
    let agent = Agent::dev().await;
    let address = format!("127.0.0.1:{}", agent.http);
    let registry = builder(&agent.address()).wire(Wire::GoMicro).build().unwrap();
    let request = Value::new("Request", "Req").with_values([Value::new("names", "[]string")]);
    let endpoint = Endpoint::new("Greeter.Hello").with_metadata("stream", "true").with_request(request);
    let instance = Instance::builder("interop-rust")
        .id("interop-rust-1")
        .version("2.0.0")
        .address("10.4.5.6:7070")
        .tag("traefik.enable=true")
        .metadata("protocol", "grpc")
        .metadata("a.key/with odd chars", "é=1")
        .endpoint(endpoint)
        .build()
        .unwrap();
    registry.register(&instance, &ttl(3_600)).await.unwrap();

    let read: Json = serde_json::from_str(&says(&["get", &address, "interop-rust"]).await).unwrap();
    assert_eq!(
        read,
        json!([{
            "name": "interop-rust",
            "version": "2.0.0",
            "metadata": null,
            "endpoints": [{
                "name": "Greeter.Hello",
                "metadata": { "stream": "true" },
                "request": { "name": "Request", "type": "Req", "values": [
                    { "name": "names", "type": "[]string", "values": null }
                ] },
                "response": null,
            }],
            "nodes": [{
                "id": "interop-rust-1",
                "address": "10.4.5.6:7070",
                "metadata": { "protocol": "grpc", "a.key/with odd chars": "é=1" },
            }],
        }])
    );
    assert_eq!(says(&["select", &address, "interop-rust"]).await.trim(), "10.4.5.6:7070");
}
