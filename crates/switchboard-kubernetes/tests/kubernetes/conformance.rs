//! The contract of `Registry`: registering as slices, and reading what others write.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use kube::api::DeleteParams;
use switchboard_conformance::{Backend, Outage, Profile, async_trait};
use switchboard_core::{Instance, Registry, ServiceName};
use switchboard_kubernetes::{KubernetesBuilder, Registration};
use tokio::sync::{Mutex, OnceCell};

use switchboard_tests::proxy::Proxy;

use crate::support::{Cluster, Space, port, slice};

/// Kubernetes takes no address of loopback; nothing is sent there.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// Each suite in a namespace for all of its cases: they prove not to disturb each other.
struct Kubernetes {
    space: &'static OnceCell<Space>,
    registration: Registration,
    written: Mutex<BTreeMap<ServiceName, usize>>,
}

impl Kubernetes {
    fn new(space: &'static OnceCell<Space>, registration: Registration) -> Self {
        Self { space, registration, written: Mutex::default() }
    }

    async fn space(&self) -> &'static Space {
        self.space.get_or_init(Space::new).await
    }

    fn open_as(&self, builder: KubernetesBuilder) -> Arc<dyn Registry> {
        // The suite registers services with a dot in their names, and not in namespaces that do not exist.
        let registers = self.registration != Registration::None;
        Arc::new(builder.registration(self.registration).one_namespace(registers).open().unwrap())
    }
}

#[async_trait]
impl Backend for Kubernetes {
    fn profile(&self) -> Profile {
        // One API server for all, with etcd's disk behind it; and fewer endpoints are told when slices have come to rest.
        let profile =
            Profile::new().host(HOST).settle(Duration::from_secs(20)).answer(Duration::from_secs(30));
        let profile =
            profile.quiet(Duration::from_millis(600)).shared_ids(true).ipv6(false).host_names(false);
        match self.registration {
            Registration::None => profile.reads(|written| {
                let address = written.address();
                let read = Instance::builder(written.service()).id(address.to_string()).address(address);
                read.build().unwrap()
            }),
            _ => profile.ttl(Duration::from_secs(3).into()).expiry(Duration::from_secs(5)),
        }
    }

    async fn open(&self) -> Arc<dyn Registry> {
        self.open_as(self.space().await.builder())
    }

    async fn open_fragile(&self) -> Option<(Arc<dyn Registry>, Box<dyn Outage>)> {
        let space = self.space().await;
        let cluster = Cluster::shared().await;
        let proxy = Proxy::to(cluster.address()).await;
        let kubeconfig = cluster.admin_kubeconfig_at(&proxy.address);
        Some((self.open_as(space.builder().kubeconfig(kubeconfig)), Box::new(proxy)))
    }

    async fn write(&self, service: &ServiceName, instances: &[Instance]) -> bool {
        if self.registration != Registration::None {
            return false;
        }
        let other;
        let (mut space, mut label) = (self.space().await, service.as_str());
        if let Some((named, namespace)) = label.split_once('.').filter(|(named, _)| *named == "a") {
            other = Space::named(space.cluster, namespace).await;
            (space, label) = (&other, named);
        }
        let mut written = self.written.lock().await;
        let before = written.insert(service.clone(), instances.len()).unwrap_or(0);
        // A slice for each, as ports are a slice's: of one that has gone, the number is another's now.
        let name =
            |index: usize| format!("{}-{index}", service.as_str().to_ascii_lowercase().replace('_', "-"));
        for (index, instance) in instances.iter().enumerate() {
            let address = instance.address().socket_addr().unwrap();
            let endpoint = k8s_openapi::api::discovery::v1::Endpoint {
                addresses: vec![address.ip().to_string()],
                ..Default::default()
            };
            let ports = vec![port("", address.port().into())];
            space.put(&slice(&name(index), label, ports, vec![endpoint])).await;
        }
        for index in instances.len()..before {
            space.slices().await.delete(&name(index), &DeleteParams::default()).await.unwrap();
        }
        true
    }
}

mod registering {
    use super::{Kubernetes, OnceCell, Registration, Space};

    static SPACE: OnceCell<Space> = OnceCell::const_new();

    switchboard_conformance::suite!(
        #[ignore = "needs kubernetes"]
        Kubernetes::new(&SPACE, Registration::Slice)
    );
}

mod only_reading {
    use super::{Kubernetes, OnceCell, Registration, Space};

    static SPACE: OnceCell<Space> = OnceCell::const_new();

    switchboard_conformance::suite!(
        #[ignore = "needs kubernetes"]
        Kubernetes::new(&SPACE, Registration::None)
    );
}
