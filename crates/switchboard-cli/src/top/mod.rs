//! `top`: services, instances, health and changes, live on the full screen.

mod columns;
mod model;
mod screen;

use std::io::{self, IsTerminal as _};
use std::mem::ManuallyDrop;
use std::process::ExitCode;
use std::time::Duration;

use crossterm::event::{Event as TerminalEvent, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures::{FutureExt as _, StreamExt};
use ratatui::DefaultTerminal;
use tokio::time::{MissedTickBehavior, interval};

use crate::args;
use crate::commands::register::signals;
use crate::failure::Failure;
use crate::network::Network;
use crate::session::Session;

use model::Model;

/// How often ages on the screen are brought up to date.
const TICK: Duration = Duration::from_secs(1);

/// So many changes are taken in before the screen is drawn again.
const AT_ONCE: usize = 1000;

pub(crate) async fn run(session: &Session, args: &args::Top) -> Result<ExitCode, Failure> {
    if session.json {
        return Err(Failure::usage("top has no JSON; use `switchboard watch --json`"));
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::failed("top needs a terminal; use `switchboard watch`"));
    }
    if std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb") {
        let message = "top needs a terminal that can move its cursor, which TERM does not name; use `switchboard watch`";
        return Err(Failure::failed(message));
    }
    // From here on a signal ends the loop, which leaves the terminal as it was.
    let mut signals = signals()?;
    let registry = session.connect().await?;
    let mut network = match &args.service {
        Some(service) => Network::one(&registry, service.clone()),
        None => Network::all(&registry),
    };
    let mut model = Model::new(registry.to_string());

    let mut screen = Screen::open()?;
    let mut keys = EventStream::new();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        screen.terminal.draw(|frame| screen::draw(frame, &mut model)).map_err(lost)?;
        tokio::select! {
            Some(event) = network.next() => {
                model.world.take(event);
                for _ in 0..AT_ONCE {
                    let Some(Some(event)) = network.next().now_or_never() else { break };
                    model.world.take(event);
                }
            }
            key = keys.next() => match key {
                Some(Ok(TerminalEvent::Key(key))) if key.kind != KeyEventKind::Release => {
                    if !press(&mut model, key) {
                        return Ok(ExitCode::SUCCESS);
                    }
                }
                // A resize only needs the next drawing.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(lost(error)),
                None => return Err(Failure::failed("the terminal is gone")),
            },
            _ = ticks.tick() => model.world.alone = session.alone(),
            () = signals.end() => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// What a key does; false ends.
fn press(model: &mut Model, key: KeyEvent) -> bool {
    if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
        return false;
    }
    if model.filtering {
        filter(model, key.code);
        return true;
    }
    match key.code {
        KeyCode::Esc | KeyCode::Enter if model.details => model.details = false,
        KeyCode::Esc if !model.filter.is_empty() => model.filter.clear(),
        KeyCode::Esc | KeyCode::Char('q') => return false,
        KeyCode::Enter => model.open(),
        // What is open stays on one instance.
        _ if model.details => {}
        KeyCode::Char('/') => model.filtering = true,
        KeyCode::Down | KeyCode::Char('j') => model.move_by(1),
        KeyCode::Up | KeyCode::Char('k') => model.move_by(-1),
        KeyCode::PageDown | KeyCode::Char(' ') => model.move_by(20),
        KeyCode::PageUp => model.move_by(-20),
        KeyCode::Home | KeyCode::Char('g') => model.move_by(isize::MIN),
        KeyCode::End | KeyCode::Char('G') => model.move_by(isize::MAX),
        _ => {}
    }
    true
}

/// What a key does while the filter is written.
fn filter(model: &mut Model, key: KeyCode) {
    match key {
        KeyCode::Char(letter) => model.filter.push(letter),
        KeyCode::Backspace => drop(model.filter.pop()),
        KeyCode::Enter => model.filtering = false,
        KeyCode::Esc => {
            model.filter.clear();
            model.filtering = false;
        }
        _ => {}
    }
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err gives it")]
fn lost(error: io::Error) -> Failure {
    Failure::failed("cannot use the terminal").because(&error)
}

/// The terminal in full-screen mode; as it was again when this is dropped, or on a panic.
struct Screen {
    /// Never dropped: that would show the cursor, and panic where the terminal is gone.
    terminal: ManuallyDrop<DefaultTerminal>,
}

impl Screen {
    fn open() -> Result<Self, Failure> {
        Ok(Self { terminal: ManuallyDrop::new(ratatui::try_init().map_err(lost)?) })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing can be done when the terminal is gone.
        let _ = self.terminal.show_cursor();
        let _ = ratatui::try_restore();
    }
}
