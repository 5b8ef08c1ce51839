//! The templates of `examples/render`, with the programs they are for.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rustix::process::Signal;

use crate::support::{LIMIT, Running, mdns, run, said, switchboard};

/// A service that says its name; its thread ends with the test binary.
fn serve(at: &str, id: &'static str) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut caller in listener.incoming().map_while(Result::ok) {
            let _ = caller.read(&mut [0; 4096]);
            let _ = write!(caller, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{id}");
        }
    });
    let running = Running::start(switchboard(at, &["register", "web", &address, "--id", id]));
    running.line_with("registered");
    running
}

/// What the balancer answers; it must be a whole answer, and a good one.
fn get(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A program that ends by SIGTERM, with the processes it has started.
struct Daemon(Option<Running>);

impl Daemon {
    fn start(command: Command) -> Self {
        Self(Some(Running::start(command)))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(running) = self.0.take() {
            running.signal(Signal::TERM);
            running.end();
        }
    }
}

struct Balancer {
    dir: tempfile::TempDir,
    port: u16,
    at: String,
}

impl Balancer {
    /// With the template of this name at a port of its own.
    fn new(template: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let balancer = Self { dir: tempfile::tempdir().unwrap(), port, at: mdns() };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/render").join(template);
        let text = fs::read_to_string(path).unwrap().replace(":8080", &format!(":{port}"));
        fs::write(balancer.path("template"), text).unwrap();
        balancer
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn render(&self, more: &[&str]) -> Command {
        let (template, out) = (self.path("template"), self.path("conf"));
        let paths = ["render", template.to_str().unwrap(), out.to_str().unwrap()];
        switchboard(&self.at, &[&paths[..], more].concat())
    }

    /// Asks until the answers of some calls in a row are from these and no others. Every answer must be a good one, but for
    /// those before it listens.
    #[track_caller]
    fn until_all_from(&self, ids: &[&str]) {
        let end = Instant::now() + LIMIT;
        loop {
            let answers: Vec<String> = (0..8).map(|_| get(self.port).unwrap_or_default()).collect();
            let mut known = answers.iter().skip_while(|answer| answer.is_empty() && ids == ["b1"]);
            assert!(known.all(|answer| answer.starts_with("HTTP/1.1 200 ")), "{answers:?}");
            let bodies = answers.iter().map(|answer| answer.rsplit("\r\n").next().unwrap_or_default());
            let mut seen: Vec<&str> = bodies.collect();
            seen.sort_unstable();
            seen.dedup();
            if seen == ids {
                return;
            }
            assert!(Instant::now() < end, "{answers:?}");
        }
    }

    /// Instances come and go, and the balancer, which serves `b1`, follows without an error.
    fn follows(&self, b1: &Running, reload: &str) {
        self.until_all_from(&["b1"]);
        let render = Running::start(self.render(&["--exec", reload]));
        let _b2 = serve(&self.at, "b2");
        let reloaded = "--exec: exit status 0";
        render.line_with(reloaded);
        self.until_all_from(&["b1", "b2"]);
        b1.signal(Signal::TERM);
        render.line_with(reloaded);
        self.until_all_from(&["b2"]);
        render.signal(Signal::TERM);
        assert_eq!(render.end().0.code(), Some(0));
    }
}

#[test]
#[ignore = "needs nginx"]
fn nginx_follows() {
    let balancer = Balancer::new("nginx.conf.j2");
    let dir = balancer.dir.path().display().to_string();
    // As /etc/nginx/nginx.conf has it. Without root the first line is ignored.
    let main = format!(
        "user root;\npid {dir}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{ access_log off; include {dir}/conf; }}\n"
    );
    fs::write(balancer.path("main"), main).unwrap();
    let nginx = format!("/usr/sbin/nginx -e stderr -p {dir} -c {dir}/main");
    let empty = said(balancer.render(&["--once", "--exec", &format!("{nginx} -t")]).output().unwrap());
    assert_eq!(empty.code, Some(0), "nginx takes it without any instance: {empty:?}");

    let b1 = serve(&balancer.at, "b1");
    assert_eq!(said(balancer.render(&["--once"]).output().unwrap()).code, Some(0));
    let mut start = Command::new("sh");
    let _nginx = Daemon::start({
        start.args(["-c", &format!("exec {nginx} -g 'daemon off;'")]);
        start
    });
    balancer.follows(&b1, &format!("{nginx} -t && {nginx} -s reload"));
}

#[test]
#[ignore = "needs haproxy"]
fn haproxy_follows() {
    let balancer = Balancer::new("haproxy.cfg.j2");
    let dir = balancer.dir.path().display().to_string();
    let check = format!("/usr/sbin/haproxy -c -q -f {dir}/conf");
    let empty = said(balancer.render(&["--once", "--exec", &check]).output().unwrap());
    assert_eq!(empty.code, Some(0), "HAProxy takes it without any instance: {empty:?}");

    let b1 = serve(&balancer.at, "b1");
    assert_eq!(said(balancer.render(&["--once"]).output().unwrap()).code, Some(0));
    let mut start = Command::new("/usr/sbin/haproxy");
    start.args(["-W", "-db", "-p", &format!("{dir}/pid"), "-f", &format!("{dir}/conf")]);
    let _haproxy = Daemon::start(start);
    balancer.follows(&b1, &format!("{check} && kill -USR2 $(cat {dir}/pid)"));
}

#[test]
fn the_templates_are_sound() {
    for template in ["nginx.conf.j2", "haproxy.cfg.j2"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/render").join(template);
        let said = run("memory:", &["render", path.to_str().unwrap(), "-", "--once"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.out.contains("127.0.0.1:8080") && !said.out.contains("{%"), "{said:?}");
    }
}
