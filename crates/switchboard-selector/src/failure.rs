/// Why a call failed. A reply that says "no" for reasons of the application's own is a success: the instance works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// No connection came about, or it broke. The registry is told too.
    Connection,
    /// No reply in time.
    Timeout,
    /// A reply that says the instance is in trouble, such as HTTP 500 or gRPC `UNAVAILABLE`.
    Response,
}
