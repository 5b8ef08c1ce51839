//! That what is read is what was registered.

use std::net::SocketAddr;

use futures::future::join_all;
use switchboard_core::{Endpoint, Health, Instance, InstanceBuilder, Value};

use crate::invalid::kept_or_refused;
use crate::world::{ONLY_READ, World, is_only_read};
use crate::{Backend, Outcome};

/// Every field is read back equal: version, address, tags, metadata, endpoints, weights.
///
/// Of endpoints only the names, where [`Profile::endpoint_details`](crate::Profile::endpoint_details) says so.
pub async fn everything_is_read_back(backend: &dyn Backend) -> Outcome {
    read_back(backend, "content::everything_is_read_back", |full| {
        let request = Value::new("Request", "HelloRequest").with_values([Value::new("name", "string")]);
        let response = Value::new("Response", "HelloResponse").with_values([Value::new("text", "string")]);
        let hello = Endpoint::new("Greeter.Hello")
            .with_metadata("stream", "false")
            .with_request(request)
            .with_response(response);
        full.version("1.2.3")
            .tag("canary")
            .tag("blue")
            .metadata("zone", "eu-1")
            .metadata("protocol", "grpc")
            .endpoint(hello)
            .endpoint("Greeter.Bye")
            .weight(5)
            .warning_weight(2)
    })
    .await
}

/// What was left out stays left out: no version, tag, metadata or endpoint appears, and the weight is 1.
pub async fn a_plain_instance_gains_nothing(backend: &dyn Backend) -> Outcome {
    read_back(backend, "content::a_plain_instance_gains_nothing", |plain| plain).await
}

/// The registry decides on health; what is registered starts as passing, whatever it says of itself.
pub async fn given_health_is_ignored(backend: &dyn Backend) -> Outcome {
    read_back(backend, "content::given_health_is_ignored", |sick| sick.health(Health::Critical)).await
}

/// Metadata values are kept to the byte: UTF-8, empty, blank, with `=`, quotes, backslashes, line ends and tabs.
pub async fn metadata_values_are_exact(backend: &dyn Backend) -> Outcome {
    read_back(backend, "content::metadata_values_are_exact", |instance| {
        let values = [
            ("utf-8", "Größe: 20 µm, 東京, 🚀"),
            ("decomposed", "u\u{308}"),
            ("empty", ""),
            ("blank", "  two around  "),
            ("equals", "a=b=c="),
            ("lines", "one\ntwo\r\nthree\n"),
            ("tab", "a\tb"),
            ("quotes", r#"{"a": 'b', c: "\n\\"}"#),
            ("percent", "100%25 %0A +"),
            ("commas", ",a,,b,"),
        ];
        values.into_iter().fold(instance, |instance, (key, value)| instance.metadata(key, value))
    })
    .await
}

/// Metadata keys are kept as they are: upper case, dots, and words that a backend might use itself.
pub async fn metadata_keys_are_exact(backend: &dyn Backend) -> Outcome {
    read_back(backend, "content::metadata_keys_are_exact", |instance| {
        let keys = [
            "Zone", "a.b.c", "m.zone", "x_y-z", "service", "name", "id", "version", "weight", "tags",
            "address", "port", "health", "endpoint", "t", "e", "v",
        ];
        keys.into_iter().fold(instance, |instance, key| instance.metadata(key, format!("of {key}")))
    })
    .await
}

/// Forty metadata pairs are kept.
pub async fn forty_metadata_pairs(backend: &dyn Backend) -> Outcome {
    read_back(backend, "content::forty_metadata_pairs", |instance| {
        (0..40).fold(instance, |instance, n| instance.metadata(format!("key-{n}"), format!("value {n}")))
    })
    .await
}

/// Versions, tags and endpoint names are kept as they are: upper case, UTF-8, spaces, `=`.
pub async fn labels_are_exact(backend: &dyn Backend) -> Outcome {
    read_back(backend, "content::labels_are_exact", |instance| {
        instance
            .version("v1.2.3-rc.1+build 5 (größer)")
            .tag("Canary")
            .tag("zone=eu-1")
            .tag("two words")
            .tag("größer")
            .endpoint("/v1/Größe/{id}")
            .endpoint("Greeter.Hello")
    })
    .await
}

/// The smallest and the largest weight are kept, and a warning weight of 0 is not the same as none.
pub async fn extreme_weights(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "content::extreme_weights").await;
    let service = world.service("greeter");
    let builder = || world.builder(&service);
    let weights = [
        builder().weight(u16::MAX),
        builder().weight(1).warning_weight(0),
        builder().weight(2).warning_weight(2),
    ];
    join_all(weights.map(async |builder| {
        let instance = world.built(builder);
        one.register(&instance).await;
        two.finds(&instance).await;
    }))
    .await;
    world.done().await
}

/// IPv6 addresses are kept; where [`Profile::ipv6`](crate::Profile::ipv6) is off, kept or refused.
pub async fn ipv6_addresses(backend: &dyn Backend) -> Outcome {
    addresses(backend, "content::ipv6_addresses", backend.profile().ipv6, |instance| {
        instance.clear_addresses().address("[::1]:7001")
    })
    .await
}

/// Host names are kept; where [`Profile::host_names`](crate::Profile::host_names) is off, kept or refused.
pub async fn host_names(backend: &dyn Backend) -> Outcome {
    addresses(backend, "content::host_names", backend.profile().host_names, |instance| {
        instance.clear_addresses().address("db_1.Example.com:7001")
    })
    .await
}

/// Several addresses, each with its port, are kept in their order; where
/// [`Profile::many_addresses`](crate::Profile::many_addresses) is off, kept or refused.
pub async fn several_addresses_in_order(backend: &dyn Backend) -> Outcome {
    addresses(backend, "content::several_addresses_in_order", backend.profile().many_addresses, |instance| {
        let host = backend.profile().host;
        [7003, 7001, 7002]
            .into_iter()
            .fold(instance.clear_addresses(), |instance, port| instance.address(SocketAddr::new(host, port)))
    })
    .await
}

async fn read_back(
    backend: &dyn Backend,
    case: &'static str,
    fill: impl FnOnce(InstanceBuilder) -> InstanceBuilder,
) -> Outcome {
    let (world, one, two) = World::two(backend, case).await;
    let instance = world.built(fill(world.builder(&world.service("greeter"))));
    one.register(&instance).await;
    two.finds(&instance).await;
    let carried = world.profile().carried(&instance);
    let is_whole = |found: Option<&std::sync::Arc<Instance>>| found.is_some_and(|found| **found == carried);
    two.watch(instance.service())
        .until("all that was registered", |now| is_whole(now.get(carried.id())))
        .await;
    world.done().await
}

async fn addresses(
    backend: &dyn Backend,
    case: &'static str,
    declared: bool,
    fill: impl FnOnce(InstanceBuilder) -> InstanceBuilder,
) -> Outcome {
    if declared {
        return read_back(backend, case, fill).await;
    }
    if is_only_read(backend).await {
        return ONLY_READ;
    }
    let (world, one, two) = World::two(backend, case).await;
    kept_or_refused(&world, &one, &two, fill(world.builder(&world.service("greeter")))).await;
    world.done().await
}
