//! Signals, and the programs that are run.

#[cfg(unix)]
#[path = "unix.rs"]
mod system;
#[cfg(windows)]
#[path = "windows.rs"]
mod system;

use std::ffi::OsString;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::time::Instant;

pub(crate) use system::{Signal, asks_to_end, exit_code, shell, shell_with_input};

/// Signals that come so soon after one that asked to end ask for nothing more. coreutils' `timeout` sends one to its program and
/// another to the group that the program is in; nobody presses Ctrl-C twice as fast.
const AT_ONCE: Duration = Duration::from_millis(200);

/// The signals that are waited for; from its making on they no longer end this process.
#[derive(Debug)]
pub(crate) struct Signals {
    system: system::Signals,
    asked: Asked,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { system: system::Signals::new()?, asked: Asked::default() })
    }

    /// Waits for any.
    pub(crate) async fn next(&mut self) -> Signal {
        self.system.next().await
    }

    /// Waits until somebody asks to end, once more if that was asked for before.
    pub(crate) async fn end(&mut self) {
        while !(asks_to_end(self.next().await) && self.asked.anew()) {}
    }
}

/// When it was asked to end.
#[derive(Debug, Default)]
struct Asked(Option<Instant>);

impl Asked {
    /// Takes a signal down, and says whether it is more than the echo of the one before.
    fn anew(&mut self) -> bool {
        let now = Instant::now();
        let anew = self.0.is_none_or(|before| now.duration_since(before) >= AT_ONCE);
        if anew {
            self.0 = Some(now);
        }
        anew
    }
}

/// A program that runs beside this one, with its input, output and terminal.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
}

impl Program {
    /// Starts `command`, which finds `port` in `PORT`.
    pub(crate) fn start(command: &[OsString], port: u16) -> io::Result<Self> {
        let (name, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(system::program(name));
        let child = command.args(arguments).env("PORT", port.to_string()).spawn()?;
        Ok(Self { child })
    }

    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Passes a signal on, unless the system has sent it to the program too.
    pub(crate) fn forward(&self, signal: Signal) {
        system::forward(&self.child, signal);
    }
}

/// Gives `input` to a child and waits for its end. A child that does not read it is none the worse.
async fn feed(child: &mut Child, input: Vec<u8>) -> io::Result<ExitStatus> {
    let pipe = child.stdin.take();
    let write = async {
        if let Some(mut pipe) = pipe {
            let _ = pipe.write_all(&input).await;
        }
    };
    tokio::select! {
        // A process that it has left behind may hold the other end of the pipe.
        status = child.wait() => return status,
        () = write => {}
    }
    child.wait().await
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn signals_at_once_ask_once_and_a_later_one_again() {
        let mut asked = Asked::default();
        assert!(asked.anew());
        // That they go on for a while does not make them one.
        for echo in [0, 1, 198] {
            tokio::time::advance(Duration::from_millis(echo)).await;
            assert!(!asked.anew(), "{echo} ms later");
        }
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(asked.anew(), "somebody is impatient");
        assert!(!asked.anew());
    }

    /// No test by itself: it holds a connection until it is killed, or the other end goes.
    #[test]
    #[ignore = "is run by the next"]
    fn holds_a_connection() {
        let port = std::env::var("HELD_BY").ok().and_then(|port| port.parse::<u16>().ok());
        let stream = port.map(|port| std::net::TcpStream::connect(("127.0.0.1", port)).unwrap());
        let _ = stream.map(|mut stream| stream.read(&mut [0]));
    }

    #[tokio::test]
    async fn what_a_command_started_ends_when_it_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let this = std::env::current_exe().unwrap();
        // The shell has something to do after it, so it is another process than the shell.
        let command =
            format!("\"{}\" --ignored --exact process::tests::holds_a_connection && exit 0", this.display());
        let env = [("HELD_BY", port.to_string())];
        let mut connection = tokio::select! {
            ended = shell(&command, &env) => panic!("{ended:?}"),
            accepted = timeout(LIMIT, listener.accept()) => accepted.unwrap().unwrap().0,
        };
        let end = timeout(LIMIT, connection.read(&mut [0])).await.expect("it lives on");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
}
