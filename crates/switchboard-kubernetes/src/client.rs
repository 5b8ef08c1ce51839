//! The API server: the connection, limits on time, and errors in words.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::{Client as Kube, Config, Error as Failure};
use switchboard_core::{Error, ErrorKind, Invalid, Result, ServiceName};
use tokio::sync::Mutex;

use crate::BACKEND;
use crate::config::KubernetesBuilder;
use crate::place::Place;

/// The longest that a call may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// The longest that a connection may be silent while it is waited for.
const SILENCE: Duration = Duration::from_secs(65);

/// A right, as a rule of a Role has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Right {
    pub(crate) group: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) verbs: &'static [&'static str],
}

/// What reading takes.
pub(crate) const SLICES: Right =
    Right { group: "discovery.k8s.io", resource: "endpointslices", verbs: &["list", "watch"] };

/// What reading labels takes.
pub(crate) const PODS: Right = Right { group: "", resource: "pods", verbs: &["list", "watch"] };

/// What telling the pod's readiness takes.
pub(crate) const POD_STATUS: Right = Right { group: "", resource: "pods/status", verbs: &["patch"] };

/// What keeping a slice takes.
pub(crate) const OWN_SLICES: Right =
    Right { group: "discovery.k8s.io", resource: "endpointslices", verbs: &["create", "patch", "delete"] };

impl Right {
    pub(crate) fn rule(self) -> String {
        let Self { group, resource, verbs } = self;
        format!("apiGroups: [{group:?}], resources: [{resource:?}], verbs: {verbs:?}")
    }
}

/// A connection to the server.
pub(crate) struct Client {
    pub(crate) settings: KubernetesBuilder,
    /// Made when it is first needed, and again when its certificate has expired or its credentials are refused.
    made: Mutex<Option<Made>>,
    /// The server does not know the credentials of the connection there is. What is in their files may be others by now.
    is_unknown: AtomicBool,
}

/// A connection, and where it leads.
#[derive(Clone)]
pub(crate) struct Made {
    pub(crate) kube: Kube,
    pub(crate) server: String,
    /// That of services whose names have none.
    pub(crate) namespace: String,
    /// That of the context, or of the pod that this program runs in.
    pub(crate) own_namespace: String,
}

impl Client {
    pub(crate) fn new(settings: KubernetesBuilder) -> Self {
        Self { settings, made: Mutex::default(), is_unknown: AtomicBool::new(false) }
    }

    /// Where a service of this name is.
    pub(crate) fn place(&self, operation: &'static str, name: &ServiceName) -> Result<Place> {
        self.settings.place(name).map_err(|invalid| Error::invalid(BACKEND, operation, &invalid))
    }

    /// The connection; nothing is sent for it.
    pub(crate) async fn get(&self, operation: &'static str) -> Result<Made> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::no_runtime(BACKEND, operation));
        }
        let mut made = self.made.lock().await;
        let expired = |made: &Made| made.kube.valid_until().is_some_and(|end| end <= Timestamp::now());
        let is_unknown = self.is_unknown.swap(false, Ordering::Relaxed);
        if let Some(made) = made.as_ref().filter(|made| !is_unknown && !expired(made)) {
            return Ok(made.clone());
        }
        let config = self.config(operation).await?;
        let own_namespace = config.default_namespace.trim().to_owned();
        let namespace = self.settings.namespace.clone().unwrap_or_else(|| own_namespace.clone());
        let server = config.cluster_url.to_string();
        let kube = Kube::try_from(config).map_err(|error| unusable(operation, &error))?;
        Ok(made.insert(Made { kube, server, namespace, own_namespace }).clone())
    }

    async fn config(&self, operation: &'static str) -> Result<Config> {
        let KubernetesBuilder { context, kubeconfig, .. } = &self.settings;
        let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
        let config = if let Some(path) = kubeconfig {
            let read = Kubeconfig::read_from(path).map_err(|error| unusable(operation, &error))?;
            Config::from_custom_kubeconfig(read, &options).await.map_err(|error| unusable(operation, &error))
        } else if context.is_some() {
            Config::from_kubeconfig(&options).await.map_err(|error| unusable(operation, &error))
        } else {
            Config::infer().await.map_err(|error| unusable(operation, &error))
        };
        let mut config = config?;
        config.connect_timeout = Some(LIMIT);
        // A server that accepts and says nothing: every watch is heard of sooner, by its end if by nothing else.
        config.read_timeout = Some(SILENCE);
        config.reset_reader_on_write = true;
        // Whoever calls is told of a failure and decides; watches try again by themselves.
        config.default_retry = false;
        Ok(config)
    }

    /// `call` with the limit on time, its failure in words.
    pub(crate) async fn call<T>(
        &self,
        operation: &'static str,
        right: Right,
        namespace: &str,
        call: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T> {
        match tokio::time::timeout(LIMIT, call).await {
            Ok(answer) => answer.map_err(|failure| self.failed(operation, right, namespace, failure)),
            Err(_) => Err(late(operation)),
        }
    }

    /// What a failure means.
    pub(crate) fn failed(
        &self,
        operation: &'static str,
        right: Right,
        namespace: &str,
        failure: Failure,
    ) -> Error {
        let (kind, message) = match &failure {
            Failure::Api(status) => return self.refused(operation, right, namespace, status),
            Failure::SerdeError(_) | Failure::FromUtf8(_) | Failure::LinesCodecMaxLineLengthExceeded => {
                (ErrorKind::Protocol, "the API server's answer is none of Kubernetes'")
            }
            Failure::Auth(_) => {
                (ErrorKind::PermissionDenied, "the credentials for the API server cannot be had")
            }
            _ => (ErrorKind::Unavailable, "the API server cannot be reached"),
        };
        Error::new(kind, BACKEND, operation, message).with_source(failure)
    }

    /// What the server's refusal means. Credentials that it does not know are read anew for the next call.
    pub(crate) fn refused(
        &self,
        operation: &'static str,
        right: Right,
        namespace: &str,
        status: &Status,
    ) -> Error {
        if status.code == 401 {
            self.is_unknown.store(true, Ordering::Relaxed);
        }
        refusal(operation, right, namespace, status)
    }
}

pub(crate) fn late(operation: &'static str) -> Error {
    let message = format!("the API server did not answer within {LIMIT:?}");
    Error::new(ErrorKind::Unavailable, BACKEND, operation, message)
}

/// What is set up for Kubernetes cannot be used: nothing was sent.
fn unusable(operation: &'static str, why: &dyn std::error::Error) -> Error {
    let invalid = Invalid::new(
        "Kubernetes configuration",
        format!(
            "cannot be used: {why}; name a file by kubeconfig=PATH or KUBECONFIG, or run in a pod with a service account"
        ),
    );
    Error::invalid(BACKEND, operation, &invalid)
}

fn refusal(operation: &'static str, right: Right, namespace: &str, status: &Status) -> Error {
    let Status { code, message: said, .. } = status;
    let (kind, message) = match code {
        401 => {
            (ErrorKind::PermissionDenied, format!("the API server does not know these credentials: {said}"))
        }
        403 => {
            let rule = right.rule();
            let message =
                format!("{said}; what it lacks is the rule {rule} of a Role in the namespace {namespace}");
            (ErrorKind::PermissionDenied, message)
        }
        408 | 409 | 410 | 429 | 500.. => {
            (ErrorKind::Unavailable, format!("the API server cannot answer now ({code}): {said}"))
        }
        400 | 422 => (ErrorKind::Invalid, format!("the API server refuses it: {said}")),
        _ => (ErrorKind::Protocol, format!("the API server answers {code}: {said}")),
    };
    Error::new(kind, BACKEND, operation, message)
}

/// Whether the place in the server's history has gone from which a watch was to go on.
pub(crate) fn is_gone(failure: &Failure) -> bool {
    matches!(failure, Failure::Api(status) if status.code == 410)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_which_rule_to_add() {
        let status = Status { code: 403, message: "endpointslices is forbidden".into(), ..Status::default() };
        assert_eq!(
            refusal("watch", SLICES, "shop", &status).to_string(),
            "kubernetes: watch: permission denied: endpointslices is forbidden; what it lacks is the rule apiGroups: \
             [\"discovery.k8s.io\"], resources: [\"endpointslices\"], verbs: [\"list\", \"watch\"] of a Role in the \
             namespace shop"
        );
        let kind = |code| refusal("watch", SLICES, "shop", &Status { code, ..Status::default() }).kind();
        for (code, wanted) in [
            (401, ErrorKind::PermissionDenied),
            (410, ErrorKind::Unavailable),
            (429, ErrorKind::Unavailable),
            (503, ErrorKind::Unavailable),
            (422, ErrorKind::Invalid),
            (404, ErrorKind::Protocol),
        ] {
            assert_eq!(kind(code), wanted, "{code}");
        }
    }
}
