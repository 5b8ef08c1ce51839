//! `deregister`, `maintenance`, and what `call` and the checks have learnt.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use crate::find::Server;
use crate::support::agent::Agent;
use crate::support::{Running, mdns, run, switchboard, until};

#[test]
#[ignore = "needs consul"]
fn an_instance_is_taken_out_of_use_and_back_and_removed() {
    let agent = Agent::dev();
    let at = agent.url();
    let body = r#"{"ID":"w1","Name":"web","Address":"10.0.0.1","Port":80}"#;
    agent.put("/v1/agent/service/register", body);
    until(&at, &["instances", "web"], |said| said.out.contains("passing"));
    let on = run(&at, &["maintenance", "on", "web", "w1", "--reason", "a new disk"]);
    assert_eq!((on.code, on.out.as_str()), (Some(0), "web/w1 is in maintenance\n"), "{on:?}");
    until(&at, &["instances", "web"], |said| {
        said.out.contains("maintenance") && said.out.contains("Service Maintenance Mode: a new disk")
    });
    assert_eq!(run(&at, &["wait", "web", "--timeout", "500ms"]).code, Some(1), "clients leave it alone");
    let json = run(&at, &["maintenance", "on", "web", "w1", "--json"]);
    assert_eq!(json.out, "{\"status\":\"in maintenance\",\"service\":\"web\",\"id\":\"w1\"}\n");
    let off = run(&at, &["maintenance", "off", "web", "w1"]);
    assert_eq!((off.code, off.out.as_str()), (Some(0), "web/w1 is out of maintenance\n"), "{off:?}");
    assert_eq!(run(&at, &["wait", "web", "w1"]).code, Some(0));

    let why = format!("switchboard: no web/w2 at {at}; there are: w1\n");
    for command in [&["deregister", "web", "w2"][..], &["maintenance", "on", "web", "w2"]] {
        let wrong = run(&at, command);
        assert_eq!((wrong.code, &wrong.err), (Some(1), &why), "{command:?}");
    }
    assert_eq!(run(&at, &["deregister", "web", "w2", "--ignore-not-found"]).code, Some(0));
    let gone = run(&at, &["deregister", "web", "w1"]);
    assert_eq!((gone.code, gone.out.as_str()), (Some(0), "deregistered web/w1\n"), "{gone:?}");
    assert_eq!(run(&at, &["instances", "web", "--json"]).out, "[]\n");
    agent.put("/v1/agent/service/register", body);
    until(&at, &["instances", "web"], |said| said.out.contains("passing"));
    let gone = run(&at, &["deregister", "web", "w1", "--json"]);
    assert_eq!(gone.out, "{\"status\":\"deregistered\",\"service\":\"web\",\"id\":\"w1\"}\n", "{gone:?}");
}

#[test]
fn what_was_not_there_to_be_deregistered_is_said_in_json_alone() {
    let gone = run("memory:", &["deregister", "a", "1", "--ignore-not-found", "--json"]);
    let json = "{\"status\":\"not found\",\"service\":\"a\",\"id\":\"1\"}\n";
    assert_eq!((gone.code, gone.out.as_str(), gone.err.as_str()), (Some(0), json, ""));
    let gone = run("memory:", &["deregister", "a", "1", "--ignore-not-found"]);
    assert_eq!((gone.code, gone.out.as_str(), gone.err.as_str()), (Some(0), "", ""));
}

#[test]
fn call_tells_each_header_by_itself_and_marks_a_body_that_is_no_text() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut caller in listener.incoming().map_while(Result::ok) {
            let mut bytes = [0; 4096];
            let count = caller.read(&mut bytes).unwrap_or(0);
            let text = String::from_utf8_lossy(&bytes[..count]).starts_with("GET /text ");
            let body: &[u8] = if text { "é\u{202e}".as_bytes() } else { &[0xff, 0, 0xfe] };
            let length = body.len();
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\nset-cookie: a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT";
            let _ = write!(caller, "{head}\r\nset-cookie: b=2\r\ncontent-length: {length}\r\n\r\n");
            let _ = caller.write_all(body);
        }
    });
    let at = format!("static:web={address}");
    let call = |path: &str| {
        let said = run(&at, &["call", "web", path, "--json", "-s"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        serde_json::from_str::<serde_json::Value>(&said.out).unwrap()
    };
    let binary = call("/");
    let cookies = serde_json::json!(["a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT", "b=2"]);
    assert_eq!(binary["headers"]["set-cookie"], cookies);
    assert_eq!(binary["headers"]["content-length"], serde_json::json!(["3"]));
    assert_eq!((&binary["body_base64"], binary.get("body")), (&serde_json::json!("/wD+"), None));
    let text = call("/text");
    assert_eq!((&text["body"], text.get("body_base64")), (&serde_json::json!("é\u{202e}"), None));
}

#[test]
fn what_only_its_own_program_can_end_says_so() {
    let at = mdns();
    let web = Running::start(switchboard(&at, &["register", "web", "127.0.0.1:80", "--id", "w1"]));
    web.line_with("registered");
    until(&at, &["instances", "web"], |said| said.out.contains("w1"));
    let said = until(&at, &["deregister", "web", "w1"], |said| !said.err.contains("no web/w1"));
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("the program that registered it goes on doing so"), "{said:?}");
    let said = run(&at, &["maintenance", "on", "web", "w1"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("unsupported: mdns:") && said.err.contains("has no maintenance"), "{said:?}");
}

#[test]
fn call_has_curls_habits() {
    let at = mdns();
    let (listener, dir) = (TcpListener::bind("127.0.0.1:0").unwrap(), tempfile::tempdir().unwrap());
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut caller in listener.incoming().map_while(Result::ok) {
            let mut bytes = [0; 4096];
            let count = caller.read(&mut bytes).unwrap_or(0);
            let here = String::from_utf8_lossy(&bytes[..count]).starts_with("GET /here ");
            let answer = if here { "200 OK" } else { "302 Found\r\nlocation: /here" };
            let _ =
                write!(caller, "HTTP/1.1 {answer}\r\nconnection: close\r\ncontent-length: 4\r\n\r\n\u{1}ody");
        }
    });
    let web = Running::start(switchboard(&at, &["register", "web", &address, "--id", "w1"]));
    web.line_with("registered");
    let call = |more: &[&str]| until(&at, &[&["call", "web"], more].concat(), |said| said.code == Some(0));
    let plain = call(&["/", "-i"]);
    assert!(plain.out.starts_with("HTTP/1.1 302 Found\n") && plain.err.contains("answered 302"), "{plain:?}");
    let followed = call(&["/", "-L", "-s"]);
    assert_eq!((followed.out.as_str(), followed.err.as_str()), ("\u{1}ody", ""));
    let path = dir.path().join("file");
    let file = call(&["/here", "-s", "-o", path.to_str().unwrap()]);
    assert_eq!((file.out.as_str(), file.err.as_str()), ("", ""));
    assert_eq!(fs::read(&path).unwrap(), b"\x01ody");
    let missing = run(&at, &["call", "web", "/", "-s", "-o", "/no/such/file"]);
    assert!(missing.code == Some(1) && missing.err.contains("cannot write /no/such/file"), "{missing:?}");
}

/// A web server that speaks TLS with a certificate that nobody signed.
const TLS: &str = r#"
import http.server, os, ssl
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"secret")
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Answer)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(os.environ["PEM"])
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()"#;

#[test]
fn call_takes_a_certificate_that_nobody_signed_if_it_is_told_to() {
    let (at, dir) = (mdns(), tempfile::tempdir().unwrap());
    let own = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let pem = dir.path().join("pem");
    fs::write(&pem, own.signing_key.serialize_pem() + &own.cert.pem()).unwrap();
    let mut web = switchboard(&at, &["run", "web", "--id", "w1", "--", "python3", "-uc", TLS]);
    web.env("PEM", &pem);
    let web = Running::start(web);
    web.line_with("registered");
    let call = ["call", "web", "/", "--https"];
    let refused = until(&at, &call, |said| !said.err.contains("nothing known"));
    assert!(refused.code == Some(1) && refused.err.contains("certificate"), "{refused:?}");
    let taken = until(&at, &[&call[..], &["-k", "-s"]].concat(), |said| said.code == Some(0));
    assert_eq!((taken.out.as_str(), taken.err.as_str()), ("secret", ""));
}

#[test]
fn a_check_by_tcp_withdraws_while_nothing_accepts() {
    let at = mdns();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let tcp = format!("--check-tcp={{host}}:{port}");
    let checks = ["--check-interval=200ms", "--unhealthy-after=1", &tcp];
    let address = ["register", "web", "127.0.0.1:9", "--id", "w1"];
    let registered = Running::start(switchboard(&at, &[&address[..], &checks].concat()));
    registered.line_with("registered");
    drop(listener);
    let withdrawn = registered.line_with("withdrawn");
    assert!(withdrawn.contains(&format!("127.0.0.1:{port} does not accept connections: ")), "{withdrawn}");
    let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    registered.line_with("registered");
}

#[test]
fn a_check_by_grpc_withdraws_what_does_not_serve() {
    let (mut health, service) = tonic_health::server::health_reporter();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    runtime.block_on(health.set_service_status("hello", tonic_health::ServingStatus::Serving));
    runtime.spawn(tonic::transport::Server::builder().add_service(service).serve(address));
    let at = mdns();
    let arguments =
        ["register", "web", &address.to_string(), "--id", "w1", "--check-grpc={host}:{port}/hello"];
    let arguments = [&arguments[..], &["--check-interval=200ms", "--unhealthy-after=1"]].concat();
    let registered = Running::start(switchboard(&at, &arguments));
    registered.line_with("registered web/w1");
    runtime.block_on(health.set_service_status("hello", tonic_health::ServingStatus::NotServing));
    let withdrawn = registered.line_with("withdrawn");
    assert!(withdrawn.ends_with("the gRPC health service says NOT_SERVING"), "{withdrawn}");
    runtime.block_on(health.set_service_status("hello", tonic_health::ServingStatus::Serving));
    registered.line_with("registered web/w1");
    runtime.block_on(health.clear_service_status("hello"));
    let withdrawn = registered.line_with("withdrawn");
    assert!(withdrawn.contains("the gRPC health service: ") && withdrawn.contains("NotFound"), "{withdrawn}");
    drop(runtime);
    // No gRPC at all.
    let http = Server::start();
    http.answer("404 Not Found");
    let address = format!("127.0.0.1:{}", http.port);
    let said = Running::start(switchboard(&at, &["register", "b", &address, "--id", "b1", "--check-grpc"]));
    let failing = said.line_with("gRPC health service");
    assert!(failing.starts_with("withdrawn b/b1") || failing.contains("not yet registered"), "{failing}");
}
