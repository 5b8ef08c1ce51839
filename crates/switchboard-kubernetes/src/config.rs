//! The builder and the URL.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use switchboard_core::{Error, Invalid, RegistryUrl, Result, ServiceName};

use crate::BACKEND;
use crate::backend::KubernetesRegistry;
use crate::place::{Place, is_dns_label};

/// How long the slices of a Service must be quiet before fewer endpoints are told.
const SETTLE: Duration = Duration::from_millis(250);

/// The longest that can be asked for.
const LONGEST_SETTLE: Duration = Duration::from_secs(60);

/// Who registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Registration {
    /// The platform: one can [only read](switchboard_core::Registry#registries-one-can-only-read).
    #[default]
    None,
    /// The platform, and the program says when: `register` makes the condition `switchboard/registered` of the program's own pod true, and
    /// `deregister` and `close` make it false. With `readinessGates: [{conditionType: switchboard/registered}]` in its spec the pod is in
    /// the slices, as ready, just meanwhile. A TTL has no meaning: what has died is out by the platform's probes.
    ///
    /// Where the program registers several services, the pod is ready while all of them are registered.
    Readiness,
    /// The program, from outside the cluster: it keeps an EndpointSlice of its own, for a Service without selector. Every reader drops it
    /// when its TTL has passed by the reader's clock. Without a TTL it stays until somebody deregisters it.
    ///
    /// The first address must be an IP address that Kubernetes takes (not of loopback or link) or a host name; readers that are no
    /// Switchboard see only that one.
    Slice,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "they say it")]
pub enum IpFamily {
    #[default]
    Ipv4,
    Ipv6,
}

/// Sets up a [`KubernetesRegistry`].
///
/// Every method is also a URL parameter of the same name; the namespace is the URL's path: `kubernetes:///shop?port=grpc`.
///
/// Without [`kubeconfig`](Self::kubeconfig) and [`context`](Self::context) the server and the credentials are those of the files in
/// `KUBECONFIG`, of `~/.kube/config`, or of the pod's service account, whichever is first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a registry comes into being with `open()`"]
pub struct KubernetesBuilder {
    pub(crate) namespace: Option<String>,
    pub(crate) one_namespace: bool,
    pub(crate) port: Option<String>,
    pub(crate) labels: Option<BTreeSet<String>>,
    pub(crate) ip_family: IpFamily,
    pub(crate) settle: Duration,
    pub(crate) registration: Registration,
    pub(crate) pod: Option<String>,
    pub(crate) context: Option<String>,
    pub(crate) kubeconfig: Option<PathBuf>,
}

impl Default for KubernetesBuilder {
    fn default() -> Self {
        Self {
            namespace: None,
            one_namespace: false,
            port: None,
            labels: None,
            ip_family: IpFamily::default(),
            settle: SETTLE,
            registration: Registration::default(),
            pod: None,
            context: None,
            kubeconfig: None,
        }
    }
}

impl KubernetesBuilder {
    /// Sets the namespace of services whose names have none. Default: the context's, or the pod's own.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Keeps to the one namespace: `orders.shop` is a name like any other, rather than `orders` in the namespace `shop`. For fleets whose
    /// names have a dot in them, as go-micro's do. In a URL `one_namespace`. Default `false`.
    pub fn one_namespace(mut self, one: bool) -> Self {
        self.one_namespace = one;
        self
    }

    /// Sets the name of the port that instances are reached at. Endpoints without a port of this name are left out. Default: the first
    /// port of a slice that is TCP's, else its first.
    pub fn port(mut self, name: impl Into<String>) -> Self {
        self.port = Some(name.into());
        self
    }

    /// Has the pods read too, which takes the right to `list` and `watch` `pods`: their label `app.kubernetes.io/version` is the instances'
    /// version, and these labels are metadata of their own names. In a URL, separated by commas: `labels=team,track`, or `labels=` for
    /// the version alone. Default: pods are not read.
    pub fn labels<L: Into<String>>(mut self, labels: impl IntoIterator<Item = L>) -> Self {
        self.labels = Some(labels.into_iter().map(Into::into).collect());
        self
    }

    /// Sets the family whose address comes first of a pod that has both: in a URL `ipv4` or `ipv6`. Default IPv4.
    pub fn ip_family(mut self, family: IpFamily) -> Self {
        self.ip_family = family;
        self
    }

    /// Sets how long the slices of a service must be quiet before fewer endpoints are told, ten times as long at most. Default 250 ms, at most
    /// a minute.
    pub fn settle(mut self, quiet: Duration) -> Self {
        self.settle = quiet;
        self
    }

    /// Sets who registers: in a URL `none`, `readiness` or `slice`. Default: nobody but the platform.
    pub fn registration(mut self, registration: Registration) -> Self {
        self.registration = registration;
        self
    }

    /// Sets the name of the pod whose readiness is told with [`Registration::Readiness`]. Default: what `POD_NAME` says, else `HOSTNAME`.
    pub fn pod(mut self, name: impl Into<String>) -> Self {
        self.pod = Some(name.into());
        self
    }

    /// Sets the context of the kubeconfig. Default: its current one.
    pub fn context(mut self, name: impl Into<String>) -> Self {
        self.context = Some(name.into());
        self
    }

    /// Sets the file of the kubeconfig. Default: as [above](Self).
    pub fn kubeconfig(mut self, path: impl Into<PathBuf>) -> Self {
        self.kubeconfig = Some(path.into());
        self
    }

    /// Opens it. Nothing is read or sent yet.
    ///
    /// # Errors
    ///
    /// `Invalid` for a namespace that can be none, and for more than a minute to settle.
    pub fn open(self) -> Result<KubernetesRegistry> {
        if self.settle > LONGEST_SETTLE {
            let what = format!("Kubernetes settle of {:?}", self.settle);
            let invalid = Invalid::new(what, format!("is longer than {LONGEST_SETTLE:?}"));
            return Err(Error::invalid(BACKEND, "connect", &invalid));
        }
        if let Some(namespace) = self.namespace.as_deref().filter(|namespace| !is_dns_label(namespace)) {
            let why = "is no name of a namespace: lower-case letters, digits and '-', 63 at most";
            let invalid = Invalid::quoting("Kubernetes namespace", namespace, why);
            return Err(Error::invalid(BACKEND, "connect", &invalid));
        }
        Ok(KubernetesRegistry::new(self))
    }

    /// Where a service of this name is.
    pub(crate) fn place(&self, name: &ServiceName) -> Result<Place, Invalid> {
        Place::of(name, self.one_namespace)
    }

    /// What the URL says.
    pub(crate) fn from_url(url: &RegistryUrl) -> Result<Self, Invalid> {
        let mut builder = Self { namespace: namespace(url.rest())?, ..Self::default() };
        let mut params = url.params(BACKEND);
        builder.one_namespace = params.take_switch("one_namespace")?.unwrap_or_default();
        builder.port = params.take("port")?;
        builder.labels = params.take_with("labels", |list| {
            Ok(list.split(',').filter(|label| !label.is_empty()).map(Into::into).collect())
        })?;
        builder.ip_family = params.take("ip_family")?.unwrap_or_default();
        builder.settle = params.take_duration("settle")?.unwrap_or(SETTLE);
        builder.registration = params.take("registration")?.unwrap_or_default();
        builder.pod = params.take("pod")?;
        builder.context = params.take("context")?;
        builder.kubeconfig = params.take("kubeconfig")?;
        params.finish()?;
        Ok(builder)
    }
}

/// The namespace in `kubernetes:`, `kubernetes:///shop` and `kubernetes:shop`.
fn namespace(rest: &str) -> Result<Option<String>, Invalid> {
    let path = match rest.strip_prefix("//") {
        Some(authority) => match authority.split_once('/') {
            None if authority.is_empty() => "",
            Some(("", path)) => path,
            _ => {
                let why = "names a host; the server is the kubeconfig's, and a namespace is written kubernetes:///shop";
                return Err(Invalid::quoting("Kubernetes URL", authority, why));
            }
        },
        None => rest,
    };
    let name = path.trim_matches('/');
    Ok(if name.is_empty() { None } else { Some(name.into()) })
}

impl FromStr for Registration {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "none" => Ok(Self::None),
            "readiness" => Ok(Self::Readiness),
            "slice" => Ok(Self::Slice),
            _ => Err(Invalid::quoting("registration", text, "is neither none, readiness nor slice")),
        }
    }
}

impl FromStr for IpFamily {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "ipv4" => Ok(Self::Ipv4),
            "ipv6" => Ok(Self::Ipv6),
            _ => Err(Invalid::quoting("family", text, "is neither ipv4 nor ipv6")),
        }
    }
}

/// The URL that opens a registry like it.
impl fmt::Display for KubernetesBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            one_namespace,
            port,
            labels,
            ip_family,
            settle,
            registration,
            pod,
            context,
            kubeconfig,
        } = self;
        f.write_str("kubernetes:")?;
        if let Some(namespace) = namespace {
            write!(f, "///{namespace}")?;
        }
        let labels = labels.as_ref().map(|labels| labels.iter().cloned().collect::<Vec<_>>().join(","));
        let said = |is_default: bool, text: &str| if is_default { None } else { Some(text.to_owned()) };
        let registration = match registration {
            Registration::None => None,
            Registration::Readiness => Some("readiness".to_owned()),
            Registration::Slice => Some("slice".to_owned()),
        };
        let params = [
            ("one_namespace", one_namespace.then(|| "true".to_owned())),
            ("port", port.clone()),
            ("labels", labels),
            ("ip_family", said(*ip_family == IpFamily::Ipv4, "ipv6")),
            ("settle", said(*settle == SETTLE, &format!("{}ms", settle.as_millis()))),
            ("registration", registration),
            ("pod", pod.clone()),
            ("context", context.clone()),
            ("kubeconfig", kubeconfig.as_ref().map(|path| path.display().to_string())),
        ];
        let given = params.into_iter().filter_map(|(name, value)| Some((name, value?)));
        for (index, (name, value)) in given.enumerate() {
            let value = form_urlencoded::byte_serialize(value.as_bytes()).collect::<String>();
            write!(f, "{}{name}={}", if index == 0 { '?' } else { '&' }, value.replace("%2F", "/"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<KubernetesBuilder, Invalid> {
        KubernetesBuilder::from_url(&url.parse()?)
    }

    #[test]
    fn every_option_is_a_parameter_and_is_shown_as_it_is_given() {
        let built = KubernetesBuilder::default()
            .namespace("shop")
            .one_namespace(true)
            .port("grpc")
            .labels(["team", "track"])
            .ip_family(IpFamily::Ipv6)
            .settle(Duration::from_secs(1))
            .registration(Registration::Slice)
            .pod("orders-1")
            .context("a b")
            .kubeconfig("/etc/kube/config");
        let url = "kubernetes:///shop?one_namespace=true&port=grpc&labels=team%2Ctrack&ip_family=ipv6&settle=1000ms&registration=slice&pod=orders-1&context=a+b&kubeconfig=/etc/kube/config";
        assert_eq!(parse(url).unwrap(), built);
        assert_eq!(built.to_string(), url);
        for url in ["kubernetes:", "kubernetes://", "kubernetes:///"] {
            assert_eq!(parse(url).unwrap(), KubernetesBuilder::default(), "{url}");
            assert_eq!(parse(url).unwrap().to_string(), "kubernetes:");
        }
        assert_eq!(parse("kubernetes:shop").unwrap(), parse("kubernetes:///shop/").unwrap());
        assert_eq!(parse("kubernetes:?labels=").unwrap().labels, Some(BTreeSet::new()));
    }

    #[test]
    fn mistakes_are_named() {
        for (url, message) in [
            (
                "kubernetes://10.0.0.1:6443/shop",
                "Kubernetes URL \"10.0.0.1:6443/shop\": names a host; the server is the kubeconfig's, and a namespace is written kubernetes:///shop",
            ),
            (
                "kubernetes:?registration=pod",
                "kubernetes parameter \"registration\": registration \"pod\": is neither none, readiness nor slice",
            ),
            (
                "kubernetes:?ns=a",
                "kubernetes parameter \"ns\": is unknown; there are: context, ip_family, kubeconfig, labels, one_namespace, pod, port, registration, settle",
            ),
        ] {
            assert_eq!(parse(url).unwrap_err().to_string(), message);
        }
        let refused = KubernetesBuilder::default().settle(Duration::MAX).open().unwrap_err();
        assert!(refused.message().ends_with("is longer than 60s"), "{refused}");
        let refused = KubernetesBuilder::default().namespace("Shop").open().unwrap_err();
        assert_eq!(
            refused.to_string(),
            "kubernetes: connect: invalid input: Kubernetes namespace \"Shop\": is no name of a namespace: lower-case letters, digits and '-', 63 at most"
        );
    }
}
