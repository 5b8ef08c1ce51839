//! Users, roles, tokens that are forgotten, TLS.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use switchboard_core::{ErrorKind, Registry};
use switchboard_etcd::EtcdRegistry;
use switchboard_tests::etcd::{Files, Member};

use crate::support::{Told, builder, instance, name, registry, ttl, until};

/// A member that asks who it is; `writer` has all beneath `switchboard/`, `reader` may read that.
async fn guarded() -> Member {
    let member = Member::alone().await;
    for line in [
        "user add root:secret-root",
        "user grant-role root root",
        "role add writes",
        "role grant-permission writes --prefix=true readwrite switchboard/",
        "user add writer:secret-writer",
        "user grant-role writer writes",
        "role add reads",
        "role grant-permission reads --prefix=true read switchboard/",
        "user add reader:secret-reader",
        "user grant-role reader reads",
        "auth enable",
    ] {
        // The role of this name is made by some versions themselves.
        if line == "user grant-role root root" {
            member.ctl("role add root");
        }
        member.ctl(line);
    }
    member
}

fn as_user(member: &Member, user: &str, password: &str) -> EtcdRegistry {
    builder(&[member.address()]).user(user, password).open().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn roles_hold_and_refusals_are_no_empty_answers() {
    let member = guarded().await;
    let writer = as_user(&member, "writer", "secret-writer");
    writer.register(&instance("a", 1), &ttl(60)).await.unwrap();
    let reader = as_user(&member, "reader", "secret-reader");
    assert_eq!(reader.lookup(&name("a")).await.unwrap().len(), 1);
    assert_eq!(reader.services().await.unwrap().len(), 1);
    let told = Told::by(&reader, "a");
    told.until(1).await;
    reader.may_read(None).await.unwrap();
    writer.may_register(&name("a")).await.unwrap();
    assert_eq!(reader.may_register(&name("a")).await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(writer.lookup(&name("a")).await.unwrap().len(), 1, "asking wrote nothing");

    let refused = reader.register(&instance("a", 2), &ttl(60)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{refused}");
    let elsewhere =
        builder(&[member.address()]).prefix("private").user("reader", "secret-reader").open().unwrap();
    for registry in [as_user(&member, "reader", "wrong-password"), registry(&member), elsewhere] {
        let refused = registry.lookup(&name("a")).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{refused}");
        let refused = registry.services().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{refused}");
        println!("{refused}");
        let refused = Told::by(&registry, "a").until_error().await;
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{refused}");
        let said = format!("{refused} {refused:?} {registry} {registry:?}");
        assert!(!said.contains("secret-") && !said.contains("wrong-password"), "{said}");
    }
    // More rights, and a user's password that is new, are taken up as they come.
    assert_eq!(told.fewest(), 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_token_that_a_restarted_member_has_forgotten_is_renewed() {
    let mut member = guarded().await;
    let writer = as_user(&member, "writer", "secret-writer");
    writer.register(&instance("a", 1), &ttl(60)).await.unwrap();
    let told = Told::by(&writer, "a");
    told.until(1).await;
    member.kill();
    told.until_error().await;
    member.start();
    until("registered", async || writer.register(&instance("a", 2), &ttl(60)).await.ok()).await;
    told.until(2).await;
    assert_eq!(told.fewest(), 1);
    // A watch that begins later is on a stream of the new token.
    let later = Told::by(&writer, "b");
    later.until(0).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_user_for_a_cluster_that_asks_for_none_is_no_mistake() {
    let member = Member::alone().await;
    let writer = as_user(&member, "writer", "secret-writer");
    writer.register(&instance("a", 1), &ttl(60)).await.unwrap();
    assert_eq!(writer.lookup(&name("a")).await.unwrap().len(), 1);
}

fn write(dir: &Path, name: &str, pem: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, pem).unwrap();
    path
}

fn files(dir: &Path, mutual: bool) -> Files {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let make = |name: &str, host: &str| {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new([host.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        [
            write(dir, &format!("{name}.pem"), &certificate.pem()),
            write(dir, &format!("{name}-key.pem"), &key.serialize_pem()),
        ]
    };
    Files {
        ca: write(dir, "ca.pem", &authority.pem()),
        server: make("server", "127.0.0.1"),
        client: mutual.then(|| make("client", "client")),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn tls_by_an_authority_of_ones_own() {
    let dir = tempfile::tempdir().unwrap();
    let files = files(dir.path(), false);
    let member = Member::tls(&files).await;
    let registry = builder(&[member.address()]).ca_cert(&files.ca).open().unwrap();
    registry.register(&instance("a", 1), &ttl(60)).await.unwrap();
    Told::by(&registry, "a").until(1).await;
    // Without the authority, and without TLS: errors, and the first says why.
    let stranger = builder(&[member.address()]).tls(true).open().unwrap();
    let refused = stranger.lookup(&name("a")).await.unwrap_err();
    println!("{refused}");
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");
    let plain = builder(&[member.address()]).open().unwrap();
    let refused = plain.lookup(&name("a")).await.unwrap_err();
    println!("{refused}");
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn mutual_tls() {
    let dir = tempfile::tempdir().unwrap();
    let files = files(dir.path(), true);
    let member = Member::tls(&files).await;
    let [certificate, key] = files.client.as_ref().unwrap();
    let builder = builder(&[member.address()]).ca_cert(&files.ca);
    let registry = builder.clone().client_cert(certificate, key).open().unwrap();
    registry.register(&instance("a", 1), &ttl(60)).await.unwrap();
    Told::by(&registry, "a").until(1).await;
    let refused = builder.open().unwrap().lookup(&name("a")).await.unwrap_err();
    println!("{refused}");
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
}
