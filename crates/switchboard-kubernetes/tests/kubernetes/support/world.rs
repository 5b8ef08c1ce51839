use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ObjectReference, ServiceAccount};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::Value;
use switchboard_kubernetes::{KubernetesBuilder, KubernetesRegistry};

use super::Cluster;

/// A namespace of its own.
pub(crate) struct Space {
    pub(crate) cluster: &'static Cluster,
    pub(crate) name: String,
}

impl Space {
    pub(crate) async fn new() -> Self {
        let cluster = Cluster::shared().await;
        Self::named(cluster, &format!("space-{:016x}", fastrand::u64(..))).await
    }

    pub(crate) async fn named(cluster: &'static Cluster, name: &str) -> Self {
        let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        let params = PatchParams::apply("tests").force();
        let all: Api<Namespace> = Api::all(cluster.admin().await);
        all.patch(name, &params, &Patch::Apply(&namespace)).await.unwrap();
        Self { cluster, name: name.into() }
    }

    /// A client of the test's own runtime.
    pub(crate) async fn admin(&self) -> Client {
        self.cluster.admin().await
    }

    pub(crate) async fn slices(&self) -> Api<EndpointSlice> {
        Api::namespaced(self.admin().await, &self.name)
    }

    pub(crate) async fn put(&self, slice: &EndpointSlice) {
        let name = slice.metadata.name.clone().unwrap();
        let params = PatchParams::apply("tests").force();
        self.slices().await.patch(&name, &params, &Patch::Apply(slice)).await.unwrap();
    }

    pub(crate) async fn delete(&self, slice: &str) {
        self.slices().await.delete(slice, &DeleteParams::default()).await.unwrap();
    }

    /// The registry of somebody who may do everything.
    pub(crate) fn builder(&self) -> KubernetesBuilder {
        KubernetesRegistry::builder().namespace(&self.name).kubeconfig(self.cluster.admin_kubeconfig())
    }

    /// The registry of a service account.
    pub(crate) async fn builder_of(&self, account: &str) -> KubernetesBuilder {
        let token = self.token_of(account, None).await;
        KubernetesRegistry::builder().namespace(&self.name).kubeconfig(self.cluster.kubeconfig(&token))
    }

    /// A token of a service account, good for as long as what it is bound to is there.
    pub(crate) async fn token_of(&self, account: &str, bound: Option<BoundObjectReference>) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin().await, &self.name);
        let metadata = ObjectMeta { name: Some(account.into()), ..ObjectMeta::default() };
        let made = ServiceAccount { metadata, ..ServiceAccount::default() };
        let params = PatchParams::apply("tests").force();
        accounts.patch(account, &params, &Patch::Apply(&made)).await.unwrap();
        let spec = TokenRequestSpec { bound_object_ref: bound, ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await.unwrap();
        answer.status.unwrap().token
    }

    /// Applies manifests, into this namespace whatever they say.
    pub(crate) async fn apply(&self, manifests: &str) -> Vec<String> {
        self.apply_as(manifests, &PatchParams::apply("tests").force()).await
    }

    /// Has the server check manifests, and does nothing.
    pub(crate) async fn dry_run(&self, manifests: &str) -> Vec<String> {
        self.apply_as(manifests, &PatchParams::apply("tests").force().dry_run()).await
    }

    async fn apply_as(&self, manifests: &str, params: &PatchParams) -> Vec<String> {
        let mut applied = Vec::new();
        for text in manifests.split("\n---\n") {
            let mut object: Value = serde_saphyr::from_str(text).unwrap();
            let kind = object["kind"].as_str().unwrap().to_owned();
            let version = object["apiVersion"].as_str().unwrap().to_owned();
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            object["metadata"]["namespace"] = self.name.as_str().into();
            for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
                subject["namespace"] = self.name.as_str().into();
            }
            let (group, version) = version.split_once('/').unwrap_or(("", &version));
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
            let api: Api<DynamicObject> = Api::namespaced_with(self.admin().await, &self.name, &resource);
            // What is not known is a mistake, and not left out.
            let strict = PatchParams {
                field_validation: Some(kube::api::ValidationDirective::Strict),
                ..params.clone()
            };
            api.patch(&name, &strict, &Patch::Apply(&object))
                .await
                .unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
            applied.push(format!("{kind} {name}"));
        }
        applied
    }
}

/// A slice of a service, with these endpoints.
pub(crate) fn slice(
    name: &str,
    service: &str,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let labels = BTreeMap::from([("kubernetes.io/service-name".to_owned(), service.to_owned())]);
    let metadata = ObjectMeta { name: Some(name.into()), labels: Some(labels), ..ObjectMeta::default() };
    let is_v6 = endpoints.first().is_some_and(|endpoint| endpoint.addresses[0].contains(':'));
    let address_type = if is_v6 { "IPv6" } else { "IPv4" }.into();
    EndpointSlice { address_type, endpoints, metadata, ports: Some(ports) }
}

pub(crate) fn port(name: &str, number: i32) -> EndpointPort {
    EndpointPort {
        name: Some(name.into()),
        port: Some(number),
        protocol: Some("TCP".into()),
        app_protocol: None,
    }
}

/// An endpoint of a pod.
pub(crate) fn endpoint(pod: &str, address: &str, conditions: [bool; 3]) -> Endpoint {
    let [ready, serving, terminating] = conditions.map(Some);
    let target = ObjectReference {
        kind: Some("Pod".into()),
        name: Some(pod.into()),
        uid: Some(format!("uid-of-{pod}")),
        ..ObjectReference::default()
    };
    Endpoint {
        addresses: vec![address.into()],
        conditions: Some(EndpointConditions { ready, serving, terminating }),
        target_ref: Some(target),
        ..Endpoint::default()
    }
}
