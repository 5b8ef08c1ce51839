//! The examples are the files beside this one; see the README. Here are only the messages of the gRPC example.

/// Who wants to be greeted.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct HelloRequest {
    /// A name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// The greeting.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct HelloReply {
    /// Some words.
    #[prost(string, tag = "1")]
    pub message: String,
}

/// The service: client and server as `build.rs` has made them.
#[allow(missing_docs, clippy::pedantic)]
pub mod greeter {
    include!(concat!(env!("OUT_DIR"), "/hello.Greeter.rs"));
}
