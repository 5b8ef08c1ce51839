//! What `serve` tells Prometheus, as Prometheus' own tool understands it.

use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::serve::serve;
use crate::support::{LIMIT, Running, mdns, switchboard};

#[test]
#[ignore = "needs prometheus"]
fn it_finds_the_targets_by_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let (config, token) = (dir.path().join("prometheus.yml"), dir.path().join("token"));
    std::fs::write(&token, "correct-horse-battery\n").unwrap();
    let registry = mdns();
    let (_serve, port, _) =
        serve(&registry, &["--listen", "127.0.0.1:0", "--token-file", token.to_str().unwrap()]);
    let register = ["register", "web", "127.0.0.1:8080", "--id", "1", "--meta", "a.zone=b", "--tag", "blue"];
    let web = Running::start(switchboard(&registry, &register));
    web.line_with("registered");
    // As docs/cli.md has it.
    let lines = format!(
        "scrape_configs:
  - job_name: switchboard
    http_sd_configs:
      - url: http://127.0.0.1:{port}/http_sd
        authorization: {{type: Bearer, credentials_file: {}}}
    relabel_configs:
      - {{source_labels: [__meta_switchboard_health], regex: passing|warning, action: keep}}
      - {{source_labels: [__meta_switchboard_service], target_label: service}}
",
        token.display()
    );
    std::fs::write(&config, lines).unwrap();
    let end = Instant::now() + LIMIT;
    let found = loop {
        let mut promtool = Command::new("promtool");
        // So long it takes, whatever it has found.
        promtool.args(["check", "service-discovery", "--timeout=2s"]).arg(&config).arg("switchboard");
        let said = promtool.output().unwrap();
        let found: Value = serde_json::from_slice(&said.stdout).unwrap_or_default();
        if found[0]["labels"]["service"] == "web" {
            break found;
        }
        assert!(Instant::now() < end, "{said:?}");
    };
    let labels = &found[0]["discoveredLabels"];
    for (name, value) in [
        ("__address__", "127.0.0.1:8080"),
        ("__meta_switchboard_service", "web"),
        ("__meta_switchboard_id", "1"),
        ("__meta_switchboard_health", "passing"),
        ("__meta_switchboard_tags", ",blue,"),
        ("__meta_switchboard_metadata_a_zone", "b"),
    ] {
        assert_eq!(labels[name], json!(value), "{labels}");
    }
    assert_eq!(found[0]["labels"]["instance"], "127.0.0.1:8080", "{found}");
}
