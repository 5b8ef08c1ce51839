use switchboard_core::ErrorKind;

use super::*;
use crate::{ConsulBuilder, ConsulRegistry};

fn env(pairs: &'static [(&str, &str)]) -> Settings {
    Settings::from_env(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into()))
        .unwrap()
}

fn url(text: &str) -> Settings {
    Settings::from_url(&text.parse().unwrap()).unwrap()
}

fn refused(text: &str) -> String {
    let error = ConsulRegistry::builder().ignore_env().url(&text.parse().unwrap()).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    error.to_string()
}

#[test]
fn code_wins_over_url_wins_over_environment() {
    let environment = env(&[
        ("CONSUL_HTTP_ADDR", "env:1"),
        ("CONSUL_HTTP_TOKEN", "env"),
        ("CONSUL_HTTP_SSL", "true"),
        ("CONSUL_NAMESPACE", "env"),
    ]);
    let code = ConsulBuilder::default().dc("code").code;
    let merged = code.or(url("consul://url:2?dc=url&ns=url")).or(environment);
    assert_eq!(merged.dc.as_deref(), Some("code"));
    assert_eq!(merged.ns.as_deref(), Some("url"));
    assert_eq!(merged.addresses.unwrap()[0].to_string(), "url:2");
    assert_eq!(merged.token, Some(TokenSource::Value(Secret::new("env"))));
    assert_eq!(merged.tls, Some(true));
}

#[test]
fn every_environment_variable_of_consul_counts() {
    let settings = env(&[
        ("CONSUL_HTTP_ADDR", "unix:///run/c.sock"),
        ("CONSUL_HTTP_TOKEN", "t"),
        ("CONSUL_HTTP_TOKEN_FILE", "/f"),
        ("CONSUL_HTTP_SSL_VERIFY", "0"),
        ("CONSUL_TLS_SERVER_NAME", "s"),
        ("CONSUL_CACERT", "/ca"),
        ("CONSUL_CLIENT_CERT", "/c"),
        ("CONSUL_CLIENT_KEY", "/k"),
        ("CONSUL_PARTITION", "p"),
        ("CONSUL_NAMESPACE", ""),
    ]);
    assert_eq!(settings.addresses.unwrap(), [AgentAddress::Unix("/run/c.sock".into())]);
    assert_eq!(settings.token, Some(TokenSource::File("/f".into())));
    assert_eq!((settings.tls, settings.tls_verify, settings.ns), (None, Some(false), None));
    assert_eq!(settings.partition.as_deref(), Some("p"));
    assert!(settings.ca_cert.is_some() && settings.client_cert.is_some() && settings.client_key.is_some());
    let wrong = Settings::from_env(|name| (name == "CONSUL_HTTP_SSL").then(|| "maybe".into())).unwrap_err();
    assert_eq!(wrong.to_string(), "CONSUL_HTTP_SSL \"maybe\": is neither true nor false");
}

#[test]
fn every_option_is_a_parameter() {
    let mut all = url(
        "consul://a:1,https://b?token=t&tls=true&tls_verify=false&tls_server_name=s&ca_cert=/a&client_cert=/b\
         &client_key=/c&dc=d&ns=n&partition=p&tag=x&tag=y&filter=f&near=_agent&passing&consistency=stale&wait=30s\
         &timeout=5s&wire=go-micro&check=http://{host}:{port}/health&check_interval=1s&check_timeout=1s\
         &deregister_after=90s&move_after=3s&rejoin_grace=1m",
    );
    assert_eq!(all.addresses.replace(Vec::new()).unwrap().len(), 2);
    // A field that stays unset is one that no parameter reaches.
    let shown = format!("{all:?}");
    assert!(!shown.contains("None"), "{shown}");
    assert_eq!(all.tags.unwrap(), ["x", "y"]);
}

#[test]
fn refuses_and_says_why() {
    assert_eq!(
        refused("consul://a?colour=red"),
        "consul: connect: invalid input: consul parameter \"colour\": is unknown; there are: ca_cert, check, \
         check_interval, check_timeout, client_cert, client_key, consistency, dc, deregister_after, filter, \
         move_after, near, ns, partition, passing, rejoin_grace, tag, timeout, tls, tls_server_name, tls_verify, \
         token, token_file, wait, wire"
    );
    assert!(refused("consul://a?wait=11m").ends_with("wait 660s: is out of range; it is 1s to 600s"));
    assert!(refused("consul://a?token=hunter2&token_file=b").ends_with("are given both; one is enough"));
    assert!(!refused("consul://a?token=hunter2&token_file=b").contains("hunter2"));
    assert!(refused("consul://a?consistency=x").contains("is none of default, stale, consistent, cached"));
    assert!(refused("consul://a?deregister_after=5").contains("is neither a number of s, m or h nor never"));
    assert!(refused("consul://a?tls&client_cert=/c").contains("is given without client_key"));
    assert!(refused("consul://a?tls&ca_cert=/no/such").contains("file /no/such: cannot be read"));
    let error = ConsulRegistry::builder().ignore_env().address("a:0").build().unwrap_err();
    assert!(error.to_string().contains("has a port that is no number from 1 to 65535"), "{error}");
}

#[test]
fn secrets_are_not_shown_and_the_url_is() {
    let builder = ConsulRegistry::builder().ignore_env().address("a:1").address("b:2").token("hunter2");
    assert!(!format!("{builder:?}").contains("hunter2"));
    let registry = builder.build().unwrap();
    assert_eq!(registry.to_string(), "consul://a:1,b:2");
    assert!(!format!("{registry:?}").contains("hunter2"));
    let local = ConsulRegistry::builder().ignore_env().url(&"consul:".parse().unwrap()).build().unwrap();
    assert_eq!(local.to_string(), "consul://127.0.0.1:8500");
    let socket = ConsulRegistry::from_url(&"consul:///run/c.sock".parse().unwrap()).unwrap();
    assert_eq!(socket.to_string(), "consul://unix:///run/c.sock");
}
