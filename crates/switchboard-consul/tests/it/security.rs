//! ACLs, TLS, unix sockets.

use std::process::Command;

use futures::StreamExt;
use serde_json::Value;
use switchboard_core::{ErrorKind, Registry};

use crate::support::{builder, ids, instance, name, registry, ttl, until, within};
use switchboard_tests::consul::Agent;

/// The smallest policy for a program that registers `greeter` and reads everything; as in `docs/consul.md`.
const POLICY: &str = r#"
service "greeter" { policy = "write" }
service_prefix "" { policy = "read" }
node_prefix "" { policy = "read" }
"#;

/// A token with these rules: its accessor and its secret.
async fn token(agent: &Agent, rules: &str) -> (String, String) {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    let policy = serde_json::json!({ "Name": format!("p{number}"), "Rules": rules });
    agent.put("/v1/acl/policy", &policy.to_string()).await;
    let body = serde_json::json!({ "Policies": [{ "Name": format!("p{number}") }] });
    let made: Value = serde_json::from_str(&agent.put("/v1/acl/token", &body.to_string()).await).unwrap();
    (made["AccessorID"].as_str().unwrap().into(), made["SecretID"].as_str().unwrap().into())
}

async fn delete(agent: &Agent, accessor: &str) {
    let url = format!("{}/v1/acl/token/{accessor}", agent.address());
    let deleted = agent.client.delete(url).header("x-consul-token", "root").send().await.unwrap();
    assert!(deleted.status().is_success());
}

#[tokio::test]
#[ignore = "needs consul"]
async fn the_smallest_policy_is_enough_and_less_is_refused() {
    let agent = Agent::acl().await;
    let (_, secret) = token(&agent, POLICY).await;
    let registry = builder(&agent.address()).token(&secret).build().unwrap();
    let greeter = instance("greeter", "1");
    registry.register(&greeter, &ttl(30)).await.unwrap();
    registry.register(&greeter, &ttl(30)).await.unwrap();
    assert_eq!(ids(&registry.lookup(&name("greeter")).await.unwrap()), ["1"]);
    assert!(registry.services().await.unwrap().contains(&name("greeter")));
    registry.deregister(&instance("greeter", "unknown").key()).await.unwrap();
    let error = registry.register(&instance("other", "2"), &ttl(30)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(!format!("{error:?}{error}").contains(&secret));
    registry.deregister(&greeter.key()).await.unwrap();
    assert!(registry.lookup(&name("greeter")).await.unwrap().is_empty());

    let (_, reader) =
        token(&agent, r#"service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }"#).await;
    let reader = builder(&agent.address()).token(reader).build().unwrap();
    let error = reader.register(&greeter, &ttl(30)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
}

#[tokio::test]
#[ignore = "needs consul"]
async fn a_deleted_token_is_told_and_a_new_one_in_the_file_is_taken_up() {
    let agent = Agent::acl().await;
    let (accessor, secret) = token(&agent, POLICY).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, format!("{secret}\n")).unwrap();
    let registry =
        builder(&agent.address()).token_file(&path).wait(std::time::Duration::from_secs(1)).build().unwrap();
    let greeter = instance("greeter", "1");
    registry.register(&greeter, &ttl(30)).await.unwrap();
    let mut watch = registry.watch(&name("greeter"));
    assert_eq!(ids(&within("first", watch.next()).await.unwrap().unwrap()), ["1"]);

    delete(&agent, &accessor).await;
    let error = within("the refusal", watch.next()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(!format!("{error:?}{error}{registry:?}").contains(&secret));
    let error = registry.register(&greeter, &ttl(30)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");

    std::fs::write(&path, token(&agent, POLICY).await.1).unwrap();
    registry.register(&greeter, &ttl(30)).await.unwrap();
    registry.register(&instance("greeter", "2"), &ttl(30)).await.unwrap();
    let snapshot = loop {
        if let Ok(snapshot) = within("on again", watch.next()).await.unwrap() {
            break snapshot;
        }
    };
    assert_eq!(ids(&snapshot), ["1", "2"]);
}

#[tokio::test]
#[ignore = "needs consul"]
async fn who_may_not_read_is_told_so_and_not_that_there_is_nobody() {
    let agent = Agent::acl().await;
    let (_, secret) = token(&agent, POLICY).await;
    let registry = builder(&agent.address()).token(secret).build().unwrap();
    registry.register(&instance("greeter", "1"), &ttl(30)).await.unwrap();
    // Without a token Consul shows nothing and says nothing.
    let nobody = crate::support::registry(&agent.address());
    for service in ["greeter", "nothing"] {
        let error = nobody.lookup(&name(service)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        let error = within("first", nobody.watch(&name(service)).next()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    }
    for error in [
        nobody.services().await.unwrap_err(),
        nobody.snapshots().await.unwrap_err(),
        within("names", nobody.watch_services().next()).await.unwrap().unwrap_err(),
        nobody.register(&instance("greeter", "2"), &ttl(30)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    }
    // Who may read sees that there is nobody.
    assert!(registry.lookup(&name("nothing")).await.unwrap().is_empty());
    assert!(within("first", registry.watch(&name("nothing")).next()).await.unwrap().unwrap().is_empty());
}

#[tokio::test]
#[ignore = "needs consul"]
async fn rights_lost_in_the_middle_of_a_watch_are_told_and_not_that_everybody_left() {
    const READ: &str = r#"service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }"#;
    let agent = Agent::acl().await;
    let (_, secret) = token(&agent, POLICY).await;
    let registry = builder(&agent.address()).token(secret).build().unwrap();
    registry.register(&instance("greeter", "1"), &ttl(600)).await.unwrap();
    let policy = serde_json::json!({ "Name": "reader", "Rules": READ }).to_string();
    let made: Value = serde_json::from_str(&agent.put("/v1/acl/policy", &policy).await).unwrap();
    let body = serde_json::json!({ "Policies": [{ "Name": "reader" }] }).to_string();
    let reader: Value = serde_json::from_str(&agent.put("/v1/acl/token", &body).await).unwrap();
    let reader = builder(&agent.address())
        .token(reader["SecretID"].as_str().unwrap())
        .wait(std::time::Duration::from_secs(1))
        .build()
        .unwrap();
    let mut watch = reader.watch(&name("greeter"));
    assert_eq!(ids(&within("first", watch.next()).await.unwrap().unwrap()), ["1"]);

    let id = made["ID"].as_str().unwrap();
    let less =
        serde_json::json!({ "ID": id, "Name": "reader", "Rules": r#"node_prefix "" { policy = "read" }"# });
    agent.put(&format!("/v1/acl/policy/{id}"), &less.to_string()).await;
    let error = within("the refusal", watch.next()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");

    agent
        .put(
            &format!("/v1/acl/policy/{id}"),
            &serde_json::json!({ "ID": id, "Name": "reader", "Rules": READ }).to_string(),
        )
        .await;
    let again = loop {
        if let Ok(snapshot) = within("on again", watch.next()).await.unwrap() {
            break snapshot;
        }
    };
    assert_eq!(ids(&again), ["1"]);
}

/// Certificates as `consul tls` makes them.
fn certificates() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [
        &["tls", "ca", "create"][..],
        &["tls", "cert", "create", "-server", "-dc", "dc1", "-additional-ipaddress=127.0.0.1"],
        &["tls", "cert", "create", "-client"],
    ] {
        let binary = std::env::var("CONSUL_BIN").unwrap_or_else(|_| "consul".into());
        let made = Command::new(binary).args(arguments).current_dir(dir.path()).output().unwrap();
        assert!(made.status.success(), "{made:?}");
    }
    dir
}

#[tokio::test]
#[ignore = "needs consul"]
async fn tls_with_an_own_ca_and_a_client_certificate() {
    let dir = certificates();
    let file = |name: &str| dir.path().join(name);
    let agent = Agent::tls(dir.path()).await;
    let trusted = || builder(&agent.address()).ca_cert(file("consul-agent-ca.pem"));
    let complete = || {
        trusted().client_cert(file("dc1-client-consul-0.pem")).client_key(file("dc1-client-consul-0-key.pem"))
    };
    let registry = complete().build().unwrap();
    registry.register(&instance("a", "1"), &ttl(30)).await.unwrap();
    let mut watch = registry.watch(&name("a"));
    assert_eq!(ids(&within("first", watch.next()).await.unwrap().unwrap()), ["1"]);

    let named = complete().tls_server_name("server.dc1.consul").build().unwrap();
    assert_eq!(ids(&named.lookup(&name("a")).await.unwrap()), ["1"]);
    assert_eq!(named.to_string(), format!("consul://127.0.0.1:{}", agent.http));

    let refused = [
        ("no client certificate", trusted()),
        ("an unknown CA", builder(&agent.address())),
        ("another name", complete().tls_server_name("server.dc2.consul")),
    ];
    for (what, builder) in refused {
        let error = builder.build().unwrap().lookup(&name("a")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {error}");
    }
    let careless = complete().tls_verify(false).ca_cert(file("dc1-client-consul-0.pem")).build().unwrap();
    assert_eq!(ids(&careless.lookup(&name("a")).await.unwrap()), ["1"]);
    let swapped = trusted().client_cert(file("consul-agent-ca.pem")).client_key(file("consul-agent-ca.pem"));
    assert_eq!(swapped.build().unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
#[ignore = "needs consul"]
async fn a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("http.sock");
    let agent =
        Agent::dev_with(&format!("addresses {{ http = \"127.0.0.1 unix://{}\" }}", socket.display())).await;
    let registry = registry(&format!("unix://{}", socket.display()));
    until("the socket", || async { socket.exists().then_some(()) }).await;
    registry.register(&instance("a", "1"), &ttl(30)).await.unwrap();
    let mut watch = registry.watch(&name("a"));
    assert_eq!(ids(&within("first", watch.next()).await.unwrap().unwrap()), ["1"]);
    drop(agent);
    let error = within("the error", async {
        loop {
            if let Err(error) = watch.next().await.unwrap() {
                return error;
            }
        }
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}
