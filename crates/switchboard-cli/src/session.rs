//! What every command needs: the registry, the limit on waiting for it, and how to write.

use std::future::Future;
use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::time::Duration;

use indicatif::ProgressBar;
use switchboard::{Connector, Error, ErrorKind, Invalid, MemoryRegistry, Registry, RegistryUrl};
use switchboard_net::{interface, mdns};
use tokio::time::timeout;

use crate::args::Global;
use crate::contexts::Contexts;
use crate::failure::Failure;

/// The registry when nothing names one.
const DEFAULT: &str = "mdns:";

/// Waiting shorter than this is not worth a spinner.
const SPIN_AFTER: Duration = Duration::from_millis(300);

/// What is said where mDNS has loopback alone.
pub(crate) const ALONE: &str = "loopback is the only interface mDNS can use: other machines cannot be heard";

#[derive(Debug)]
pub(crate) struct Session {
    url: String,
    /// Where the URL names none.
    namespace: Option<String>,
    pub(crate) json: bool,
    pub(crate) timeout: Duration,
}

impl Session {
    pub(crate) fn new(global: Global) -> Result<Self, Failure> {
        let url = match (global.registry, global.context) {
            (Some(url), _) => url,
            (None, Some(context)) => Contexts::load()?.registry(&context)?,
            (None, None) => match variable(switchboard::ENVIRONMENT_VARIABLE)? {
                Some(url) => url,
                None => Contexts::load()?.current_registry()?.unwrap_or_else(|| DEFAULT.into()),
            },
        };
        let namespace = match global.namespace {
            Some(namespace) => Some(namespace),
            None => variable(switchboard::NAMESPACE_VARIABLE)?,
        };
        Ok(Self { url, namespace, json: global.json, timeout: global.timeout })
    }

    /// The same outside of all namespaces.
    pub(crate) fn outside_namespaces(&self) -> Self {
        Self { namespace: None, url: self.url.clone(), json: self.json, timeout: self.timeout }
    }

    /// The URLs of the registry, or of all that make it, with their namespaces. They may hold credentials and are not to be shown.
    pub(crate) fn urls(&self) -> Result<Vec<RegistryUrl>, Failure> {
        Ok(self.connector().urls(&self.url)?)
    }

    /// Says so where the registry is mDNS on all interfaces, and loopback is the only one: nothing of others is heard.
    pub(crate) fn alone(&self) -> Option<&'static str> {
        let on_all_interfaces =
            |url: &RegistryUrl| url.scheme() == "mdns" && url.params("mdns").take_all("interface").is_empty();
        if !self.urls().ok()?.iter().any(on_all_interfaces) {
            return None;
        }
        let up = interface::up();
        (!up.iter().any(|one| mdns::is_link(one, &up))).then_some(ALONE)
    }

    /// Opens the registry.
    pub(crate) async fn connect(&self) -> Result<Arc<dyn Registry>, Failure> {
        Ok(self.limited("connect", self.connector().connect(&self.url)).await?)
    }

    /// Opens the registry, if that can be done, without a word.
    pub(crate) async fn open(&self) -> Option<Arc<dyn Registry>> {
        self.connector().connect(&self.url).await.ok()
    }

    fn connector(&self) -> Connector {
        match &self.namespace {
            Some(namespace) => connector().namespace(namespace),
            None => connector(),
        }
    }

    /// Waits for one answer of the registry, at most for the time the user gave, with a spinner if it takes a while.
    pub(crate) async fn limited<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let late = |_| {
            let limit = humantime::format_duration(self.timeout);
            let message = format!("the registry did not answer within {limit}");
            Error::new(ErrorKind::Unavailable, "switchboard", operation, message)
        };
        timeout(self.timeout, spinning("waiting for the registry", work)).await.map_err(late)?
    }
}

/// All schemes. Of one that was left out it says how a program is got that has it, and not how a library is.
pub(crate) fn connector() -> Connector {
    let connector = Connector::new();
    if cfg!(feature = "kubernetes") {
        return connector;
    }
    connector.scheme("kubernetes", async |_| {
        let why = "is not in this program; get one that has it by `cargo install switchboard-cli --features kubernetes`";
        let invalid = Invalid::new("registry scheme \"kubernetes\"", why);
        Err::<MemoryRegistry, _>(Error::invalid("switchboard", "connect", &invalid))
    })
}

/// What a variable of the environment says. An empty one says nothing, as in `switchboard::from_env`.
fn variable(name: &str) -> Result<Option<String>, Failure> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Failure::usage(format!("{name} is not Unicode"))),
    }
}

/// Shows a spinner while `work` takes its time, if standard error is a terminal.
pub(crate) async fn spinning<F: Future>(what: &'static str, work: F) -> F::Output {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        () = tokio::time::sleep(SPIN_AFTER) => {}
    }
    if !io::stderr().is_terminal() {
        return work.await;
    }
    let spinner = ProgressBar::new_spinner().with_message(what);
    spinner.enable_steady_tick(Duration::from_millis(100));
    let done = work.await;
    spinner.finish_and_clear();
    done
}
