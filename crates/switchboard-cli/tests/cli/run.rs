//! `run` and `call`: any program as a service.

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Running, Said, golden, mdns, run, switchboard, until, without_times};

/// A web server in a line of shell, which says its process id first.
const SERVER: &str = r#"echo pid $$; exec python3 -u -c '
import http.server, os
class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(404 if self.path == "/missing" else 200)
        self.end_headers()
        self.wfile.write(b" ".join([self.command.encode(), self.path.encode(), body]) + b"\n")
    do_POST = do_PUT = do_GET
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Echo).serve_forever()'"#;

fn serve(at: &str) -> (Running, Pid, String) {
    let web = ["run", "web", "--id", "w1", "--port", "0", "--", "sh", "-c", SERVER];
    let running = Running::start(switchboard(at, &web));
    let pid = running.line_with("pid ").replace("pid ", "").parse().unwrap();
    let registered = running.line_with("registered web/w1 at 127.0.0.1:");
    let port = registered.rsplit(':').next().unwrap().to_owned();
    (running, Pid::from_raw(pid).unwrap(), port)
}

fn gone(at: &str) {
    until(at, &["services", "--json"], |said| said.out == "[]\n");
}

#[test]
fn a_program_is_found_called_and_gone_with_its_end() {
    let at = mdns();
    let (running, _, port) = serve(&at);
    let call = |arguments: &[&str]| -> Said { run(&at, &[&["call", "web"], arguments].concat()) };

    let plain = call(&["/hello?you=me"]);
    assert_eq!((plain.code, plain.out.as_str()), (Some(0), "GET /hello?you=me \n"));
    golden("call.txt", &without_times(&plain.err), &[(&port, "PORT")]);
    assert_eq!(call(&["/", "-d", "a=1", "-d", "b=2"]).out, "POST / a=1&b=2\n");
    assert_eq!(call(&["/", "-X", "PUT", "-d", "x"]).out, "PUT / x\n");
    let json = call(&["/", "--json"]);
    assert!(json.out.starts_with("{\"service\":\"web\",\"id\":\"w1\",\"address\":\"127.0.0.1:"), "{json:?}");
    assert!(json.out.ends_with("\"body\":\"GET / \\n\"}\n"), "{json:?}");
    assert!(call(&["/", "-i"]).out.starts_with("HTTP/1.0 200 OK\nserver: "));
    assert_eq!((call(&["/missing"]).code, call(&["/missing", "-f"]).code), (Some(0), Some(1)));

    running.signal(Signal::TERM);
    let (status, rest) = running.end();
    assert_eq!(status.code(), Some(143), "as a shell tells SIGTERM");
    assert!(rest.iter().any(|line| line.contains("deregistered web/w1")), "{rest:?}");
    gone(&at);
}

#[test]
fn a_call_goes_to_another_instance_when_one_is_dead() {
    let at = mdns();
    let (_running, ..) = serve(&at);
    // The discard port, where nobody listens.
    let dead = Running::start(switchboard(&at, &["register", "web", "127.0.0.1:9", "--id", "dead"]));
    dead.line_with("registered");
    let call = ["call", "web", "/", "--strategy", "round-robin"];
    let said = until(&at, &call, |said| said.err.contains("trying another"));
    assert_eq!((said.code, said.out.as_str()), (Some(0), "GET / \n"), "{said:?}");
    drop(dead);
    assert!(said.err.starts_with("switchboard: web/dead at 127.0.0.1:9 did not answer: "), "{said:?}");
}

#[test]
fn a_program_that_is_killed_is_gone_from_the_registry() {
    let at = mdns();
    let (running, pid, _) = serve(&at);
    kill_process(pid, Signal::KILL).unwrap();
    let (status, _) = running.end();
    assert_eq!(status.code(), Some(137));
    gone(&at);
}

#[test]
fn exit_codes_and_signals_are_passed_on() {
    let script = |script: &str| switchboard("memory:", &["run", "a", "--", "sh", "-c", script]);
    assert_eq!(script("exit 7").status().unwrap().code(), Some(7));

    let handler = "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.05; done";
    let running = Running::start(script(handler));
    running.line_with("ready");
    running.signal(Signal::USR1);
    running.line_with("got");
    assert_eq!(running.end().0.code(), Some(5));
}

#[test]
fn a_port_that_stays_closed_is_told_and_the_program_runs_on() {
    let running = Running::start(switchboard("memory:", &["run", "a", "--", "sh", "-c", "exec sleep 60"]));
    let waiting = running.line_with("waiting a at ");
    assert!(waiting.contains("nothing accepts connections there yet"), "{waiting}");
    running.signal(Signal::TERM);
    assert_eq!(running.end().0.code(), Some(143));
}

#[test]
fn a_port_in_use_is_told_before_anything_starts() {
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let said = run("memory:", &["run", "a", "--port", &port, "--", "echo", "started"]);
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""));
    assert!(said.err.starts_with(&format!("switchboard: port {port} is not free: ")), "{said:?}");
}
