//! The registries beneath: what is done in all of them.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use switchboard_core::{
    Error, ErrorKind, Instance, InstanceKey, Invalid, RegisterOptions, Registry, Result, time,
};
use tokio::time::Instant;

/// So long a registration waits for the others when one has it.
const STRAGGLERS: Duration = Duration::from_secs(3);

/// The registries of a composition, one at least.
pub(crate) struct Parts {
    /// What the composition calls itself in errors.
    name: &'static str,
    list: Vec<Arc<dyn Registry>>,
    /// Those of which it was said that they did not take a registration.
    missing: Mutex<Vec<bool>>,
}

impl Parts {
    pub(crate) fn new(name: &'static str, list: Vec<Arc<dyn Registry>>) -> Result<Self> {
        if list.is_empty() {
            let invalid = Invalid::new(format!("{name} of no registries"), "needs one at least");
            return Err(Error::invalid(name, "connect", &invalid));
        }
        let missing = Mutex::new(vec![false; list.len()]);
        Ok(Self { name, list, missing })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn list(&self) -> &[Arc<dyn Registry>] {
        &self.list
    }

    pub(crate) fn first(&self) -> &Arc<dyn Registry> {
        // There is one at least.
        &self.list[0]
    }

    pub(crate) async fn register(&self, instance: &Instance, options: &RegisterOptions) -> Result<()> {
        let calls = self.list.iter().map(|part| part.register(instance, options));
        let answers = answers(calls, STRAGGLERS).await;
        let answers = answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(self.late()))).collect();
        self.note(instance, &answers);
        self.at_least_one("register", answers)
    }

    /// Says once of a registry that it has not taken a registration, and once that it takes them again.
    fn note(&self, instance: &Instance, answers: &Vec<Result<()>>) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        for ((part, missing), answer) in self.list.iter().zip(missing.iter_mut()).zip(answers) {
            let (service, id) = (instance.service(), instance.id());
            match answer {
                Ok(()) if std::mem::take(missing) => {
                    tracing::info!(registry = %part, %service, instance = %id, "registered here, too, again");
                }
                Err(error) if error.kind() != ErrorKind::Unsupported && !std::mem::replace(missing, true) => {
                    tracing::warn!(registry = %part, %service, instance = %id, %error, "not registered here; the next renewal tries again");
                }
                _ => {}
            }
        }
    }

    pub(crate) async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        let answers = join_all(self.list.iter().map(|part| part.deregister(key))).await;
        self.all("deregister", answers)
    }

    /// Done where the instance is known; those that can do no such thing are left out, as long as there are others.
    pub(crate) async fn set_maintenance(&self, key: &InstanceKey, reason: Option<&str>) -> Result<()> {
        let mut answers = join_all(self.list.iter().map(|part| part.set_maintenance(key, reason))).await;
        if answers.iter().any(Result::is_ok) {
            for answer in &mut answers {
                if matches!(answer, Err(error) if error.kind() == ErrorKind::Invalid) {
                    *answer = Ok(());
                }
            }
        }
        self.all("set_maintenance", answers)
    }

    pub(crate) async fn suspect(&self, key: &InstanceKey) {
        join_all(self.list.iter().map(|part| part.suspect(key))).await;
    }

    pub(crate) async fn local_ip(&self) -> Option<IpAddr> {
        join_all(self.list.iter().map(Registry::local_ip)).await.into_iter().flatten().next()
    }

    pub(crate) async fn close(&self) -> Result<()> {
        let answers = join_all(self.list.iter().map(Registry::close)).await;
        self.all("close", answers)
    }

    /// The answer of all: it went well if it did with one, and nobody called it invalid.
    fn at_least_one(&self, operation: &'static str, answers: Vec<Result<()>>) -> Result<()> {
        let is_invalid = |answer: &&Result<()>| matches!(answer, Err(error) if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Closed));
        let refused = answers.iter().find(is_invalid).cloned();
        match refused {
            Some(refused) => refused,
            None if answers.iter().any(Result::is_ok) => Ok(()),
            None => self.all(operation, answers),
        }
    }

    /// The answer of all: it went well if it did with each, but for those that can do no such thing.
    fn all(&self, operation: &'static str, answers: Vec<Result<()>>) -> Result<()> {
        let can =
            |answer: &Result<()>| !matches!(answer, Err(error) if error.kind() == ErrorKind::Unsupported);
        let can_any = answers.iter().any(can);
        let failed: Vec<(usize, Error)> = answers
            .into_iter()
            .enumerate()
            .filter(|(_, answer)| !can_any || can(answer))
            .filter_map(|(at, answer)| Some((at, answer.err()?)))
            .collect();
        if failed.is_empty() { Ok(()) } else { Err(self.error(operation, failed)) }
    }

    /// What several said, as one error: of the kind of the first.
    pub(crate) fn error(&self, operation: &'static str, mut failed: Vec<(usize, Error)>) -> Error {
        if failed.len() == 1 && self.list.len() == 1 {
            return failed.remove(0).1;
        }
        // Where nobody takes registrations, programs run on as with each of them.
        let who: Option<Vec<&str>> = failed.iter().map(|(_, error)| error.registered_by()).collect();
        if let Some(who) = who.filter(|who| !who.is_empty()) {
            return Error::read_only(self.name, operation, who.join(" and "));
        }
        let kind = failed.first().map_or(ErrorKind::Unavailable, |(_, error)| error.kind());
        let said: Vec<String> =
            failed.iter().map(|(at, error)| format!("{}: {error}", self.list[*at])).collect();
        let error = Error::new(kind, self.name, operation, said.join("; "));
        if failed.is_empty() { error } else { error.with_source(failed.remove(0).1) }
    }

    fn late(&self) -> Error {
        let message = format!("no answer {STRAGGLERS:?} after another registry had one");
        Error::new(ErrorKind::Unavailable, self.name, "register", message)
    }

    /// The registries with something between them.
    pub(crate) fn display(&self, f: &mut fmt::Formatter<'_>, between: &str) -> fmt::Result {
        for (at, part) in self.list.iter().enumerate() {
            let between = if at == 0 { "" } else { between };
            write!(f, "{between}{part}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list.fmt(f)
    }
}

/// What came of each call. Those that are not over so long after one went well are given up: `None`.
pub(crate) async fn answers<T, F: Future<Output = Result<T>>>(
    calls: impl IntoIterator<Item = F>,
    patience: Duration,
) -> Vec<Option<Result<T>>> {
    let numbered = |(at, call): (usize, F)| async move { (at, call.await) };
    let mut running: FuturesUnordered<_> = calls.into_iter().enumerate().map(numbered).collect();
    let mut answers: Vec<Option<Result<T>>> = (0..running.len()).map(|_| None).collect();
    let mut until: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            answer = running.next() => match answer {
                Some((at, answer)) => {
                    if answer.is_ok() && until.is_none() {
                        until = Some(Instant::now() + patience);
                    }
                    answers[at] = Some(answer);
                }
                None => return answers,
            },
            () = time::until(until) => return answers,
        }
    }
}
