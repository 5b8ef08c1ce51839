//! Makes the client and server of the gRPC example, without `protoc`; a program with a `.proto` file would use
//! `tonic-prost-build`.

fn main() {
    let greet = tonic_build::manual::Method::builder()
        .name("greet")
        .route_name("Greet")
        .input_type("crate::HelloRequest")
        .output_type("crate::HelloReply")
        .codec_path("tonic_prost::ProstCodec")
        .build();
    let greeter =
        tonic_build::manual::Service::builder().name("Greeter").package("hello").method(greet).build();
    tonic_build::manual::Builder::new().compile(&[greeter]);
}
