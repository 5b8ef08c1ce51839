use std::sync::Arc;

use crate::Registry;

/// What can be given where a registry is asked for: a registry by value, or a shared one, `Arc<R>` or `&Arc<R>`, which stays
/// with the caller. `R` may be `dyn Registry`.
///
/// ```
/// use std::sync::Arc;
/// use switchboard_core::{IntoRegistry, MemoryRegistry, Registry};
///
/// fn takes(registry: impl IntoRegistry) -> Arc<dyn Registry> {
///     registry.into_registry()
/// }
///
/// let shared: Arc<dyn Registry> = Arc::new(MemoryRegistry::new());
/// takes(&shared);
/// takes(shared);
/// takes(MemoryRegistry::new());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no registry",
    label = "give a `Registry`, an `Arc` of one, or a reference to that `Arc`",
    note = "`connect(\"…\")` and `from_env()` are to be awaited, and answer a `Result`"
)]
pub trait IntoRegistry {
    /// The registry, shared.
    fn into_registry(self) -> Arc<dyn Registry>;
}

impl<R: Registry> IntoRegistry for R {
    fn into_registry(self) -> Arc<dyn Registry> {
        Arc::new(self)
    }
}

impl<R: Registry + ?Sized> IntoRegistry for &Arc<R> {
    fn into_registry(self) -> Arc<dyn Registry> {
        Arc::new(self.clone())
    }
}
