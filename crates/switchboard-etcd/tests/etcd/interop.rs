//! Real programs of go-micro's and of gRPC's for Go, both ways.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value as Json, json};
use switchboard_core::{Endpoint, Instance, Registry, Value};
use switchboard_etcd::Wire;
use switchboard_tests::etcd::Member;
use switchboard_tests::go;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use crate::support::{builder, instance, name, ttl, until, within};

/// The Go program, built once; before anything lives by a TTL, as on a fresh machine that takes minutes.
async fn program() -> &'static PathBuf {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    let build = || go::build("interop-etcd", env!("CARGO_TARGET_TMPDIR"));
    BUILT.get_or_init(async || spawn_blocking(build).await.unwrap()).await
}

async fn start(arguments: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut command = Command::new(program().await);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

/// The next line it prints.
async fn line(child: &mut Child, lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    if let Some(line) = within("a line of the Go program", lines.next_line()).await.unwrap() {
        return line;
    }
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
    panic!("{said}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and go"]
async fn what_go_micro_registers_is_read_whole() {
    program().await;
    let member = Member::alone().await;
    let registry = builder(&[member.address()]).wire(Wire::GoMicro).open().unwrap();
    let (mut child, mut lines) = start(&["micro", "register", &member.address()]).await;
    assert_eq!(line(&mut child, &mut lines).await, "registered");
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
    let found = registry.lookup(&name("interop-go")).await.unwrap();
    assert_eq!(**found.all().first().unwrap(), expected);
    drop(child.stdin.take());
    assert_eq!(line(&mut child, &mut lines).await, "deregistered");
    assert!(registry.lookup(&name("interop-go")).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and go"]
async fn go_micro_reads_what_we_register() {
    program().await;
    let member = Member::alone().await;
    let registry = builder(&[member.address()]).wire(Wire::GoMicro).open().unwrap();
    let instance = Instance::builder("interop-rust")
        .id("interop-rust-1")
        .version("2.0.0")
        .address("10.4.5.6:7070")
        .metadata("a.key/with odd chars", "é=1")
        .endpoint(Endpoint::new("Greeter.Hello").with_metadata("stream", "true"))
        .build()
        .unwrap();
    registry.register(&instance, &ttl(3600)).await.unwrap();
    let (mut child, mut lines) = start(&["micro", "get", &member.address(), "interop-rust"]).await;
    let read: Json = serde_json::from_str(&line(&mut child, &mut lines).await).unwrap();
    println!("{read}");
    let read = &read[0];
    assert_eq!((&read["name"], &read["version"]), (&json!("interop-rust"), &json!("2.0.0")));
    assert_eq!(read["nodes"][0]["id"], "interop-rust-1");
    assert_eq!(read["nodes"][0]["address"], "10.4.5.6:7070");
    assert_eq!(read["nodes"][0]["metadata"], json!({ "a.key/with odd chars": "é=1" }));
    assert_eq!(read["endpoints"][0]["name"], "Greeter.Hello");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and go"]
async fn what_grpc_registers_is_read() {
    program().await;
    let member = Member::alone().await;
    let registry = builder(&[member.address()]).wire(Wire::Grpc).open().unwrap();
    let (mut child, mut lines) = start(&["grpc", "register", &member.address(), "interop-grpc"]).await;
    assert_eq!(line(&mut child, &mut lines).await, "registered");
    let found = registry.lookup(&name("interop-grpc")).await.unwrap();
    let one = found.all().first().unwrap();
    assert_eq!((one.id().as_str(), &*one.address().to_string()), ("10.1.2.3:9090", "10.1.2.3:9090"));
    assert_eq!(one.metadata().get("zone").map(String::as_str), Some("eu-1"));
    drop(child.stdin.take());
    assert_eq!(line(&mut child, &mut lines).await, "deregistered");
    assert!(registry.lookup(&name("interop-grpc")).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and go"]
async fn grpcs_resolver_follows_what_we_register() {
    program().await;
    let member = Member::alone().await;
    let registry = builder(&[member.address()]).wire(Wire::Grpc).open().unwrap();
    let one = instance("interop-rust", 1);
    registry.register(&one, &ttl(3600)).await.unwrap();
    let (mut child, mut lines) = start(&["grpc", "resolve", &member.address(), "interop-rust"]).await;
    let mut told = async |expected: &[&str]| {
        until("the addresses", async || {
            let mut said: Vec<String> = serde_json::from_str(&line(&mut child, &mut lines).await).unwrap();
            println!("grpc-go's resolver: {said:?}");
            // It keeps them in a map of Go's.
            said.sort_unstable();
            (said == expected).then_some(())
        })
        .await;
    };
    told(&["10.0.0.1:80"]).await;
    let other = Instance::builder("interop-rust").id("2").address("10.0.0.2:80").build().unwrap();
    registry.register(&other, &ttl(3600)).await.unwrap();
    told(&["10.0.0.1:80", "10.0.0.2:80"]).await;
    registry.deregister(&one.key()).await.unwrap();
    told(&["10.0.0.2:80"]).await;
}
