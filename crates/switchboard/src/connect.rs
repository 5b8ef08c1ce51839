use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use switchboard_core::{Error, Invalid, MemoryRegistry, Namespace, Registry, RegistryUrl, Result};

use crate::plan::Plan;
#[cfg(feature = "settings")]
use crate::settings;

/// The environment variable that names the registry.
pub const ENVIRONMENT_VARIABLE: &str = "SWITCHBOARD_REGISTRY";

/// The environment variable that names the namespace, for registries whose URL names none.
pub const NAMESPACE_VARIABLE: &str = "SWITCHBOARD_NAMESPACE";

/// The registry when nothing names one.
const DEFAULT: &str = "mdns:";

/// The schemes that come with a feature, and which.
const FEATURES: [(&str, &str); 8] = [
    ("config", "settings"),
    ("mdns", "mdns"),
    ("consul", "consul"),
    ("dns", "dns"),
    ("etcd", "etcd"),
    ("static", "static"),
    ("file", "static"),
    ("kubernetes", "kubernetes"),
];

/// Opens the registry that `url` names, such as `mdns:`, `consul://127.0.0.1:8500?dc=dc1`, `etcd://127.0.0.1:2379` or `memory:`.
///
/// Where the platform registers, `dns:` and `dns://10.0.0.2?domain=service.consul` (feature `dns`) read DNS.
/// In Kubernetes, `kubernetes:///shop` (feature `kubernetes`) reads the pods of the namespace's services.
///
/// Without a registry, `static:orders=10.0.0.1:80,10.0.0.2:80` (feature `static`) is a list, and `file:///etc/services.toml` one in a file.
///
/// With the feature `compose`, several make one, by operators between blanks, so that nothing in the URLs needs to be escaped. From
/// the one that binds most to the one that binds least:
///
/// | | |
/// |---|---|
/// | `consul: > etcd:` | reads the first and registers in all |
/// | `consul: + mdns:` | reads all, and registers in all |
/// | <code>consul: &#124; mdns:</code> | reads the first that can be heard, and registers in all |
/// | `legacy-* -> consul: ; * -> mdns:` | each service in the registry of the first pattern that its name matches |
///
/// Every URL takes `namespace=NAME`, which makes it a [`Namespace`] of that registry: what others have in other ones is not seen.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), switchboard::Error> {
/// let registry = switchboard::connect("memory:").await?;
/// assert_eq!(registry.to_string(), "memory:");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an unknown scheme or parameter, listing what exists, and for a
/// scheme whose feature is off, naming the feature. Whatever opening the backend fails with.
pub async fn connect(url: &str) -> Result<Arc<dyn Registry>> {
    Connector::new().connect(url).await
}

/// Opens the registry named by the environment variable `SWITCHBOARD_REGISTRY`; `mdns:` if it is unset or empty. Where its URL names
/// no `namespace`, that of `SWITCHBOARD_NAMESPACE` counts, if that is set and not empty; `namespace=` is outside of any.
///
/// # Errors
///
/// As for [`connect`], and [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if a variable is no Unicode.
pub async fn from_env() -> Result<Arc<dyn Registry>> {
    Connector::new().from_env().await
}

type Open = Arc<dyn Fn(RegistryUrl) -> BoxFuture<'static, Result<Arc<dyn Registry>>> + Send + Sync>;

/// Opens registries by URL, with schemes of your own beside the built-in ones.
///
/// ```
/// use switchboard::{Connector, MemoryRegistry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), switchboard::Error> {
/// let connector = Connector::new().scheme("hosts", |url| async move {
///     let mut params = url.params("hosts");
///     let _prefix: Option<String> = params.take("prefix")?;
///     params.finish()?;
///     Ok(MemoryRegistry::new()) // your own registry here
/// });
/// let registry = connector.connect("hosts:/etc/hosts?prefix=services").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Connector {
    schemes: BTreeMap<String, Open>,
    /// Where a URL names none.
    namespace: Option<String>,
}

impl Connector {
    /// With the schemes of the enabled features and `memory`.
    pub fn new() -> Self {
        let connector = Self { schemes: BTreeMap::new(), namespace: None };
        let connector = connector.scheme("memory", |url| async move { MemoryRegistry::from_url(&url) });
        #[cfg(feature = "mdns")]
        let connector = connector
            .scheme("mdns", |url| async move { switchboard_mdns::MdnsRegistry::from_url(&url).await });
        #[cfg(feature = "consul")]
        let connector = connector
            .scheme("consul", |url| async move { switchboard_consul::ConsulRegistry::from_url(&url) });
        #[cfg(feature = "dns")]
        let connector =
            connector.scheme("dns", |url| async move { switchboard_dns::DnsRegistry::from_url(&url) });
        #[cfg(feature = "etcd")]
        let connector =
            connector.scheme("etcd", |url| async move { switchboard_etcd::EtcdRegistry::from_url(&url) });
        #[cfg(feature = "static")]
        let connector = ["static", "file"].into_iter().fold(connector, |connector, scheme| {
            connector.scheme(scheme, |url| async move { switchboard_static::StaticRegistry::from_url(&url) })
        });
        #[cfg(feature = "kubernetes")]
        let connector = connector.scheme("kubernetes", |url| async move {
            switchboard_kubernetes::KubernetesRegistry::from_url(&url)
        });
        connector
    }

    /// Adds a scheme, or replaces one; `scheme` counts in lower case.
    pub fn scheme<F, Fut, R>(mut self, scheme: &str, open: F) -> Self
    where
        F: Fn(RegistryUrl) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R>> + Send + 'static,
        R: Registry,
    {
        let open: Open = Arc::new(move |url| {
            open(url).map(|opened| opened.map(|registry| Arc::new(registry) as _)).boxed()
        });
        self.schemes.insert(scheme.to_ascii_lowercase(), open);
        self
    }

    /// The [`Namespace`] of registries whose URL names none. Default: outside of any.
    pub fn namespace(mut self, name: impl Into<String>) -> Self {
        self.namespace = Some(name.into());
        self
    }

    /// Opens the registry that `url` names.
    ///
    /// # Errors
    ///
    /// As for [`connect`].
    pub async fn connect(&self, url: &str) -> Result<Arc<dyn Registry>> {
        let plan: Plan = url.parse().map_err(|invalid| refused(&invalid))?;
        self.carry_out(&self.resolve(&plan)?).await
    }

    /// The registries that `url` comes down to, one by one, without opening any: several are taken apart, the file that a `config:`
    /// names is read, and each URL names the namespace that counts for it.
    ///
    /// # Errors
    ///
    /// As for [`connect`], but for what opening a registry fails with.
    pub fn urls(&self, url: &str) -> Result<Vec<RegistryUrl>> {
        let plan: Plan = url.parse().map_err(|invalid| refused(&invalid))?;
        Ok(self.resolve(&plan)?.urls().cloned().collect())
    }

    /// Opens the registry of a program's own configuration.
    ///
    /// # Errors
    ///
    /// As for [`connect`].
    #[cfg(feature = "settings")]
    pub async fn open(&self, registry: &settings::RegistrySettings) -> Result<Arc<dyn Registry>> {
        self.carry_out(&self.resolve(&registry.0)?).await
    }

    /// The same with files read, and with the namespace of each in its URL.
    fn resolve(&self, plan: &Plan) -> Result<Plan> {
        plan.map(&|url| self.resolve_url(url.clone()))
    }

    fn resolve_url(&self, mut url: RegistryUrl) -> Result<Plan> {
        let named = url.take("namespace").map_err(|invalid| refused(&invalid))?;
        let namespace = named.as_ref().or(self.namespace.as_ref()).filter(|name| !name.is_empty());
        if let Some(namespace) = namespace {
            Namespace::check(namespace).map_err(|invalid| refused(&invalid))?;
        }
        #[cfg(feature = "settings")]
        if url.scheme() == "config" && !self.schemes.contains_key("config") {
            return self.resolve_file(&url, namespace);
        }
        let url = match namespace {
            Some(namespace) if url.scheme() == "kubernetes" => in_cluster(url, named.as_deref(), namespace)?,
            Some(namespace) => url.with("namespace", namespace),
            None => url,
        };
        Ok(Plan::Url(url))
    }

    /// What a file names. A namespace of the URL counts before that of the file.
    #[cfg(feature = "settings")]
    fn resolve_file(&self, url: &RegistryUrl, namespace: Option<&String>) -> Result<Plan> {
        let file = settings::open_file(url).map_err(|invalid| refused(&invalid))?;
        if file.registry.0.urls().any(|url| url.scheme() == "config") {
            let why = "names another such file; write its registries here";
            return Err(refused(&Invalid::new("config file", why)));
        }
        let namespace = namespace.cloned().or(file.namespace);
        Self { namespace, ..self.clone() }.resolve(&file.registry.0)
    }

    fn carry_out<'a>(&'a self, plan: &'a Plan) -> BoxFuture<'a, Result<Arc<dyn Registry>>> {
        async move {
            match plan {
                Plan::Url(url) => self.open_url(url.clone()).await,
                several => self.open_several(several).await,
            }
        }
        .boxed()
    }

    async fn open_url(&self, mut url: RegistryUrl) -> Result<Arc<dyn Registry>> {
        let namespace = url.take("namespace").map_err(|invalid| refused(&invalid))?;
        let Some(open) = self.schemes.get(url.scheme()) else {
            return Err(refused(&self.unknown(url.scheme())));
        };
        let opened = open(url).await?;
        Ok(match namespace {
            Some(namespace) => Arc::new(Namespace::new(&opened, &namespace)?),
            None => opened,
        })
    }

    #[cfg(feature = "compose")]
    async fn open_several(&self, several: &Plan) -> Result<Arc<dyn Registry>> {
        use switchboard_compose::{Failover, Mirror, Route, Union};

        Ok(match several {
            Plan::Url(url) => self.open_url(url.clone()).await?,
            Plan::Union(parts) => Arc::new(Union::new(self.open_all(parts).await?)?),
            Plan::Failover(parts) => Arc::new(Failover::new(self.open_all(parts).await?)?),
            Plan::Mirror(parts) => Arc::new(Mirror::new(self.open_all(parts).await?)?),
            Plan::Route(rules) => {
                let parts = self.open_all(rules.iter().map(|(_, to)| to)).await?;
                Arc::new(Route::new(rules.iter().map(|(pattern, _)| &**pattern).zip(parts))?)
            }
        })
    }

    #[cfg(feature = "compose")]
    async fn open_all(&self, parts: impl IntoIterator<Item = &Plan>) -> Result<Vec<Arc<dyn Registry>>> {
        futures::future::try_join_all(parts.into_iter().map(|part| self.carry_out(part))).await
    }

    #[cfg(not(feature = "compose"))]
    async fn open_several(&self, _: &Plan) -> Result<Arc<dyn Registry>> {
        Err(refused(&off("several registries", "compose")))
    }

    /// Opens the registry named by the environment: see [`from_env`]. A [namespace](Self::namespace) given here counts before that
    /// of the environment.
    ///
    /// # Errors
    ///
    /// As for [`from_env`].
    pub async fn from_env(&self) -> Result<Arc<dyn Registry>> {
        let url = variable(ENVIRONMENT_VARIABLE)?;
        self.clone().namespace_of_environment()?.connect(url.as_deref().unwrap_or(DEFAULT)).await
    }

    /// With the namespace that the environment names, unless there is one already.
    pub(crate) fn namespace_of_environment(mut self) -> Result<Self> {
        if self.namespace.is_none() {
            self.namespace = variable(NAMESPACE_VARIABLE)?;
        }
        Ok(self)
    }

    fn unknown(&self, scheme: &str) -> Invalid {
        let what = format!("registry scheme {scheme:?}");
        if let Some((_, feature)) = FEATURES.iter().find(|(known, _)| *known == scheme) {
            return off(what, feature);
        }
        let file = cfg!(feature = "settings").then_some("config");
        let known: BTreeSet<&str> = self.schemes.keys().map(String::as_str).chain(file).collect();
        let known: Vec<&str> = known.into_iter().collect();
        let advice = match scheme {
            "http" | "https" | "unix" => ", and a Consul agent is written consul://HOST:PORT",
            _ => "",
        };
        Invalid::new(what, format!("is unknown; there are: {}{advice}", known.join(", ")))
    }
}

/// Kubernetes has namespaces of its own: `kubernetes:///shop`. One that the URL names there counts before a default.
fn in_cluster(url: RegistryUrl, named: Option<&str>, namespace: &str) -> Result<RegistryUrl> {
    if url.rest().is_empty() {
        return Ok(url.with_rest(format!("///{namespace}")));
    }
    if named.is_none() {
        return Ok(url);
    }
    let why = "is given twice; write kubernetes:///NAME or namespace=NAME";
    Err(refused(&Invalid::new("kubernetes namespace", why)))
}

/// What an environment variable says; an empty one says nothing.
fn variable(name: &str) -> Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(refused(&Invalid::new(name, "is not Unicode"))),
    }
}

fn off(what: impl Into<String>, feature: &str) -> Invalid {
    let add = format!("cargo add switchboard-discovery --features {feature}");
    Invalid::new(what, format!("needs the feature {feature:?}, which is off; turn it on by `{add}`"))
}

fn refused(invalid: &Invalid) -> Error {
    Error::invalid("switchboard", "connect", invalid)
}

impl Default for Connector {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("schemes", &self.schemes.keys())
            .field("namespace", &self.namespace)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use switchboard_core::{ErrorKind, Instance, RegisterOptions};

    #[tokio::test]
    async fn handles_of_one_memory_url_see_each_other() {
        let (one, two) = (connect("memory:facade").await.unwrap(), connect("MEMORY:facade").await.unwrap());
        let instance = Instance::builder("a").address("h:1").build().unwrap();
        one.register(&instance, &RegisterOptions::new()).await.unwrap();
        assert_eq!(two.lookup(instance.service()).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn mistakes_are_named() {
        let file = cfg!(feature = "settings").then(|| "config".to_owned());
        let known: BTreeSet<String> = Connector::new().schemes.into_keys().chain(file).collect();
        let known = known.into_iter().collect::<Vec<_>>().join(", ");
        let unknown = |scheme: &str, advice: &str| {
            format!("registry scheme {scheme:?}: is unknown; there are: {known}{advice}")
        };
        for (url, message) in [
            ("greeter", "registry URL: has no scheme; write one such as mdns: or consul://127.0.0.1:8500"),
            ("memory:?a=1", "memory parameter \"a\": is unknown; there are: none"),
            #[cfg(not(feature = "mdns"))]
            (
                "mdns:",
                "registry scheme \"mdns\": needs the feature \"mdns\", which is off; turn it on by `cargo add \
                 switchboard-discovery --features mdns`",
            ),
            #[cfg(not(feature = "consul"))]
            (
                "consul:",
                "registry scheme \"consul\": needs the feature \"consul\", which is off; turn it on by `cargo add \
                 switchboard-discovery --features consul`",
            ),
            ("zookeeper:", &unknown("zookeeper", "")),
            ("http://127.0.0.1:8500", &unknown("http", ", and a Consul agent is written consul://HOST:PORT")),
            #[cfg(not(feature = "etcd"))]
            (
                "etcd:",
                "registry scheme \"etcd\": needs the feature \"etcd\", which is off; turn it on by `cargo add \
                 switchboard-discovery --features etcd`",
            ),
            #[cfg(not(feature = "dns"))]
            (
                "dns://10.0.0.2",
                "registry scheme \"dns\": needs the feature \"dns\", which is off; turn it on by `cargo add \
                 switchboard-discovery --features dns`",
            ),
            #[cfg(not(feature = "static"))]
            (
                "file:///etc/services.toml",
                "registry scheme \"file\": needs the feature \"static\", which is off; turn it on by `cargo add \
                 switchboard-discovery --features static`",
            ),
            #[cfg(not(feature = "kubernetes"))]
            (
                "kubernetes:///shop",
                "registry scheme \"kubernetes\": needs the feature \"kubernetes\", which is off; turn it on by `cargo add \
                 switchboard-discovery --features kubernetes`",
            ),
            #[cfg(feature = "consul")]
            (
                "consul:/127.0.0.1",
                "Consul address \"/127.0.0.1\": is no path of a unix socket; write consul://127.0.0.1 for an agent, or \
                 consul:///run/consul/http.sock for a socket",
            ),
            #[cfg(feature = "consul")]
            (
                "consul:///127.0.0.1:8500",
                "Consul address \"/127.0.0.1:8500\": is no path of a unix socket; write consul://127.0.0.1:8500 for an \
                 agent, or consul:///run/consul/http.sock for a socket",
            ),
        ] {
            let error = connect(url).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert_eq!(error.message(), message);
        }
    }

    #[tokio::test]
    async fn in_kubernetes_a_namespace_is_its_own() {
        // Stands in for the real one, which asks for a cluster.
        let open = |url: RegistryUrl| async move {
            {
                let name = url.rest().replace('/', "-");
                MemoryRegistry::from_url(&url.with_rest(name))
            }
        };
        let connector = Connector::new().scheme("kubernetes", open).namespace("alice");
        for (url, opened) in [
            ("kubernetes:", "memory:---alice"),
            ("kubernetes:///shop", "memory:---shop"),
            ("kubernetes:?namespace=bob", "memory:---bob"),
            ("kubernetes:?namespace=", "memory:"),
        ] {
            assert_eq!(connector.connect(url).await.unwrap().to_string(), opened);
        }
        let error = connector.connect("kubernetes:///shop?namespace=bob").await.unwrap_err();
        assert!(error.message().starts_with("kubernetes namespace: is given twice"), "{error}");
    }

    #[tokio::test]
    async fn a_namespace_is_named_by_the_url_or_else_by_the_connector() {
        let connector = Connector::new().namespace("alice");
        for (url, opened) in [
            ("memory:n", "memory:n?namespace=alice"),
            ("memory:n?namespace=bob", "memory:n?namespace=bob"),
            ("memory:n?namespace=", "memory:n"),
            #[cfg(feature = "compose")]
            ("memory:n + memory:m?namespace=bob", "memory:n?namespace=alice + memory:m?namespace=bob"),
        ] {
            assert_eq!(connector.connect(url).await.unwrap().to_string(), opened);
        }
        for (url, why) in [
            (
                "memory:?namespace=a_b",
                "namespace \"a_b\": has something other than letters, digits and hyphens",
            ),
            ("memory:?namespace=a&namespace=b", "parameter \"namespace\": is given more than once"),
        ] {
            let error = connect(url).await.unwrap_err();
            assert_eq!((error.kind(), error.message()), (ErrorKind::Invalid, why));
        }
    }

    #[cfg(feature = "static")]
    #[tokio::test]
    async fn lists_are_read_and_not_registered_in() {
        let registry = connect("static:orders=10.0.0.1:80,10.0.0.2:80;stock=10.0.0.3:90").await.unwrap();
        assert_eq!(registry.to_string(), "static:orders=10.0.0.1:80,10.0.0.2:80;stock=10.0.0.3:90");
        let instance = Instance::builder("orders").address("h:1").build().unwrap();
        assert_eq!(registry.lookup(instance.service()).await.unwrap().len(), 2);
        let error = registry.register(&instance, &RegisterOptions::new()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "static: register: unsupported: this registry can only be read; whoever writes the list registers here"
        );
        let file = connect("file:///nowhere/services.toml").await.unwrap();
        assert!(file.lookup(instance.service()).await.unwrap_err().is_transient());
    }

    #[cfg(feature = "kubernetes")]
    #[tokio::test]
    async fn pods_are_read_and_the_platform_registers() {
        let registry = connect("kubernetes:///shop?port=grpc").await.unwrap();
        assert_eq!(registry.to_string(), "kubernetes:///shop?port=grpc");
        let instance = Instance::builder("orders").address("h:1").build().unwrap();
        let error = registry.register(&instance, &RegisterOptions::new()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "kubernetes: register: unsupported: this registry can only be read; Kubernetes, by its Services and the readiness \
             of pods, registers here"
        );
    }

    #[cfg(feature = "compose")]
    #[tokio::test]
    async fn several_make_one() {
        let url = "legacy-* -> memory:old ; * -> memory:one + memory:two | memory:three > memory:four";
        let registry = connect(url).await.unwrap();
        assert_eq!(registry.to_string(), url);
        let instance = |service: &str| Instance::builder(service).address("h:1").build().unwrap();
        for (service, places) in [("legacy-a", &["old"][..]), ("a", &["one", "two", "three", "four"])] {
            registry.register(&instance(service), &RegisterOptions::new()).await.unwrap();
            for place in ["old", "one", "two", "three", "four"] {
                let found = connect(&format!("memory:{place}")).await.unwrap();
                let found = found.lookup(instance(service).service()).await.unwrap().len();
                assert_eq!(found == 1, places.contains(&place), "{service} in {place}");
            }
        }
        let error = connect("memory: | memory:?a=1").await.unwrap_err();
        assert_eq!(error.message(), "memory parameter \"a\": is unknown; there are: none");
        let error = connect("memory: |").await.unwrap_err();
        assert_eq!(error.message(), "registries, at character 10: expected a registry URL such as `mdns:`");
    }

    #[cfg(not(feature = "compose"))]
    #[tokio::test]
    async fn several_need_a_feature() {
        assert_eq!(
            connect("memory: | mdns:").await.unwrap_err().message(),
            "several registries: needs the feature \"compose\", which is off; turn it on by `cargo add \
             switchboard-discovery --features compose`"
        );
    }

    #[cfg(any(feature = "mdns", feature = "consul", feature = "etcd"))]
    #[test]
    fn outside_a_runtime_what_needs_one_says_where_to_find_it() {
        use futures::executor::block_on;

        const WHY: &str = "unsupported: called outside a tokio runtime; call it from `#[tokio::main]` or \
                           `Runtime::block_on`, or keep the guard of `Runtime::enter` meanwhile";
        #[cfg(feature = "mdns")]
        {
            let error = block_on(connect("mdns:?interface=lo")).unwrap_err();
            assert_eq!(error.to_string(), format!("mdns: connect: {WHY}"));
        }
        #[cfg(feature = "consul")]
        {
            let registry = block_on(connect("consul://127.0.0.1:1")).unwrap();
            let error = block_on(registry.services()).unwrap_err();
            assert_eq!(error.to_string(), format!("consul: services: {WHY}"));
        }
        #[cfg(feature = "etcd")]
        {
            let registry = block_on(connect("etcd://127.0.0.1:1")).unwrap();
            let error = block_on(registry.services()).unwrap_err();
            assert_eq!(error.to_string(), format!("etcd: services: {WHY}"));
        }
    }

    #[tokio::test]
    async fn a_scheme_can_be_added_and_fail_in_its_own_words() {
        let connector = Connector::new().scheme("Mine", |url| async move {
            url.params("mine").finish()?;
            Ok(MemoryRegistry::new())
        });
        assert!(connector.connect("mine://anywhere").await.is_ok());
        assert!(connector.connect("mine:?x=1").await.is_err());
    }
}
