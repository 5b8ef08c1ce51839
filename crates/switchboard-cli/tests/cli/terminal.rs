//! Colours and spinners, on a terminal only.

use std::fmt::Write as _;
use std::net::TcpListener;

use crate::support::agent::Agent;
use crate::support::terminal::Terminal;
use crate::support::{Running, golden, mdns, run, switchboard, until};

#[test]
#[ignore = "needs tmux"]
fn colours_are_for_a_terminal_that_wants_them() {
    let at = mdns();
    let hello = Running::start(switchboard(&at, &["register", "hello", "127.0.0.1:8080", "--id", "h1"]));
    hello.line_with("registered");
    let piped = until(&at, &["services"], |said| said.out.contains("hello"));
    assert!(!piped.out.contains('\x1b'), "{piped:?}");

    let terminal = Terminal::new();
    let services = format!("{} services --registry '{at}'", env!("CARGO_BIN_EXE_switchboard"));
    terminal.run(&services);
    terminal.until_coloured(&["\x1b[1mSERVICE", "hello"]);
    terminal.run(&format!("clear; NO_COLOR=1 {services}; echo don''e"));
    let plain = terminal.until_coloured(&["SERVICE", "hello", "done"]);
    assert!(!plain.contains("\x1b[1m"), "{plain}");
}

#[test]
#[ignore = "needs tmux"]
fn a_spinner_shows_while_a_registry_is_slow_and_goes_with_its_answer() {
    // It takes connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("consul://{}", silent.local_addr().unwrap());
    let services = ["services", "--timeout", "500ms"];
    let piped = run(&at, &services);
    assert_eq!((piped.code, piped.err.lines().count()), (Some(1), 1), "{piped:?}");

    let terminal = Terminal::new();
    let program = env!("CARGO_BIN_EXE_switchboard");
    terminal.run(&format!("{program} services --timeout 3s --registry {at}"));
    terminal.until(&["waiting for the registry"]);
    let after = terminal.until(&["did not answer within 3s"]);
    assert!(!after.contains("waiting for the registry"), "{after}");
}

#[test]
#[ignore = "needs consul and tmux"]
fn screens_of_80_by_24_and_of_40_by_10() {
    let agent = Agent::dev();
    let port = agent.port().to_string();
    let check = r#"{"CheckID":"ttl","Name":"disk","Notes":"ask storage","TTL":"1h","Status":"passing"}"#;
    let web = format!(
        r#"{{"ID":"web-1","Name":"web","Address":"10.0.0.1","Port":80,"Tags":["blue","eu"],"Meta":{{"zone":"a"}},"Check":{check}}}"#
    );
    agent.put("/v1/agent/service/register", &web);
    agent.put("/v1/agent/check/update/ttl", r#"{"Status":"critical","Output":"97 % full\nof 1 TB"}"#);
    agent.put("/v1/agent/service/register", r#"{"ID":"web-2","Name":"web","Address":"10.0.0.2","Port":80}"#);
    agent.until("/v1/health/service/web", |answer| answer.contains("97 %") && answer.contains("web-2"));
    for (width, height) in [(80, 24), (40, 10)] {
        let terminal = Terminal::new();
        terminal.tmux(&format!("resize-window -x {width} -y {height}"));
        let environment = format!("SWITCHBOARD_REGISTRY={} SWITCHBOARD_CONFIG=/no/such/file", agent.url());
        terminal.run(&format!("export PS1='' {environment}"));
        terminal.run(&format!("alias switchboard={}", env!("CARGO_BIN_EXE_switchboard")));
        let mut screens = String::new();
        let lines = [
            "switchboard describe web web-1",
            "switchboard instances web --sort=-id --no-headers",
            "switchboard instances web -o yaml | head -n 7",
            "switchboard wait web --healthy 2 --timeout 1s",
            "switchboard maintenance on web web-2 --reason 'a new disk' && switchboard instances web; switchboard maintenance off web web-2",
            "switchboard context list",
        ];
        for (number, line) in lines.iter().enumerate() {
            terminal.run(&format!("clear; {line}; echo en''d{number}"));
            let screen = terminal.until(&[&format!("\nend{number}")]).replace(&port, "PORT_");
            let rule = "-".repeat(width);
            write!(screens, "$ {line}\n{rule}\n{}\n{rule}\n\n", screen.trim_end()).unwrap();
        }
        golden(&format!("screens-{width}x{height}.txt"), &screens, &[]);
    }
}
