//! All that can be set, as a structure for a program's own configuration.

/// Calls the builder's method of the same name for each of these fields that is set.
#[allow(unused_macros, reason = "without features there is nothing to set")]
macro_rules! set {
    ($settings:expr, $builder:expr, [$($name:ident),* $(,)?]) => {{
        let mut builder = $builder;
        $(
            if let Some(value) = $settings.$name {
                builder = builder.$name(value.into());
            }
        )*
        builder
    }};
}

mod client;
mod directory;
mod file;
mod registrar;
mod registry;
mod selector;
mod time;

use std::sync::Arc;

use serde::Deserialize;
use switchboard_core::{Registry, Result};

use crate::Connector;

#[cfg(any(feature = "reqwest", feature = "tonic", feature = "caller"))]
pub use client::{ClientSettings, RetryBudget};
#[cfg(feature = "watcher")]
pub use directory::{BackoffSettings, DirectorySettings, MassRemovalSettings};
pub(crate) use file::open as open_file;
#[cfg(feature = "registrar")]
pub use registrar::RegistrarSettings;
pub use registry::RegistrySettings;
#[cfg(feature = "selector")]
pub use selector::{
    EjectionTime, FailurePercentage, OutlierSettings, SelectorSettings, SlowStartSettings, StrategyName,
    SuccessRate, Unless,
};
pub use time::Time;

/// The table `[discovery]` of a program's own configuration file, or whatever the program calls it.
///
/// Everything may be left out. What stands there has the names that URL parameters and builder methods have; a key that does
/// not exist is an error, which lists those that do. Times are written as in URLs: `"150ms"`, `"10s"`, `"5m"`, `"1h"`.
///
/// ```
/// use switchboard::settings::Settings;
///
/// # #[derive(serde::Deserialize)]
/// # struct Configuration { discovery: Settings }
/// let file = r#"
///     [discovery]
///     registry = { url = "memory:", namespace = "alice" } # or "consul: | mdns:", or { failover = [{ url = "consul:" }, "mdns:"] }
///
///     [discovery.directory]
///     max_age = "10m"
///
///     [discovery.selector]
///     strategy = "least-request"
///     prefer_zone = "eu-1"
///     outlier_detection = { consecutive = 3 }
///     slow_start = false
///
///     [discovery.registrar]
///     interval = "10s"
///     drain = "2s"
///
///     [discovery.client]
///     timeout = "3s"
///     retries = 1
/// "#;
/// let settings = toml::from_str::<Configuration>(file).unwrap().discovery;
///
/// # async fn open(settings: Settings) -> Result<(), switchboard::Error> {
/// let registry = settings.connect().await?;
/// let selector = settings.selector(&registry);
/// # drop(selector);
/// # Ok(())
/// # }
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
/// # runtime.block_on(open(settings)).unwrap();
/// ```
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Settings {
    /// The registry. Default: that of the environment, and else `mdns:`, as [`from_env`](crate::from_env) has it.
    pub registry: Option<RegistrySettings>,
    /// The namespace of registries that name none. Default: that of the environment.
    pub namespace: Option<String>,
    /// Live views.
    #[cfg(feature = "watcher")]
    pub directory: DirectorySettings,
    /// Balancing.
    #[cfg(feature = "selector")]
    pub selector: SelectorSettings,
    /// Registering.
    #[cfg(feature = "registrar")]
    pub registrar: RegistrarSettings,
    /// Calls.
    #[cfg(any(feature = "reqwest", feature = "tonic", feature = "caller"))]
    pub client: ClientSettings,
}

impl Settings {
    /// Opens the registry.
    ///
    /// # Errors
    ///
    /// As for [`connect`](crate::connect) and [`from_env`](crate::from_env).
    pub async fn connect(&self) -> Result<Arc<dyn Registry>> {
        self.connect_with(Connector::new()).await
    }

    /// Opens the registry with the schemes of this connector.
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect).
    pub async fn connect_with(&self, connector: Connector) -> Result<Arc<dyn Registry>> {
        let connector = match &self.namespace {
            Some(namespace) => connector.namespace(namespace),
            None => connector.namespace_of_environment()?,
        };
        match &self.registry {
            Some(registry) => connector.open(registry).await,
            None => connector.from_env().await,
        }
    }

    /// A directory with these settings.
    #[cfg(feature = "watcher")]
    pub fn directory(&self, registry: impl crate::IntoRegistry) -> switchboard_watcher::Directory {
        self.directory.apply(switchboard_watcher::Directory::builder(registry)).build()
    }

    /// A selector with these settings, on a directory with these settings.
    #[cfg(feature = "selector")]
    pub fn selector(&self, registry: impl crate::IntoRegistry) -> switchboard_selector::Selector {
        self.selector.apply(switchboard_selector::Selector::builder(self.directory(registry))).build()
    }

    /// A registrar with these settings.
    #[cfg(feature = "registrar")]
    pub fn registrar(
        &self,
        registry: impl crate::IntoRegistry,
        instance: crate::Instance,
    ) -> switchboard_registrar::Registrar {
        self.registrar.apply(switchboard_registrar::Registrar::new(registry, instance))
    }
}

#[cfg(all(test, feature = "full"))]
mod tests;
