//! What stands between a program and the pods of a service.

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use switchboard_core::{ErrorKind, Result, ServiceName};

use crate::backend::KubernetesRegistry;
use crate::client::{Made, OWN_SLICES, POD_STATUS, PODS, Right, SLICES};
use crate::config::Registration;
use crate::record::{self, MANAGED_BY, SERVICE, State};

/// What [`KubernetesRegistry::diagnose`] found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The API server's URL.
    pub server: String,
    /// Its version, such as `v1.33.2`.
    pub version: String,
    /// Who it takes this program for, unless it does not tell: servers before 1.28 do not.
    pub identity: Option<String>,
    /// The namespace in which the service is.
    pub namespace: String,
    /// What this registry needs, and whether it may.
    pub permissions: Vec<Permission>,
    /// The slices of the service, if one was given and they may be listed.
    pub slices: Vec<Slice>,
}

/// A right, and whether it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Permission {
    /// Such as `watch endpointslices`.
    pub what: String,
    /// What lacks if it is not given: `read`, `labels` or `register`.
    pub needed_to: &'static str,
    /// Whether it is given.
    pub is_given: bool,
    /// The rule to add to a Role in the namespace.
    pub rule: String,
}

/// An EndpointSlice.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Slice {
    /// Its name.
    pub name: String,
    /// Who keeps it, as its label `endpointslice.kubernetes.io/managed-by` says.
    pub manager: String,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoint {
    /// The pod, or the address of what is none.
    pub name: String,
    /// Why it is not used, if it is not.
    pub unused: Option<String>,
}

impl KubernetesRegistry {
    /// Finds out what stands between this program and the pods of `service`, or what it may in general. Nothing is changed.
    ///
    /// # Errors
    ///
    /// Where the server cannot be reached or refuses the credentials, as for a lookup.
    pub async fn diagnose(&self, service: Option<&ServiceName>) -> Result<Diagnosis> {
        let operation = "diagnose";
        let inner = self.inner();
        inner.open(operation)?;
        let place = service.map(|service| inner.client.place(operation, service)).transpose()?;
        let made = inner.client.get(operation).await?;
        let given = place.as_ref().and_then(|place| place.namespace.clone());
        let namespace = given.unwrap_or_else(|| made.namespace.clone());
        let version = inner
            .client
            .call(operation, SLICES, &namespace, made.kube.apiserver_version())
            .await?
            .git_version;
        let identity = self.identity(&made).await;
        let permissions = self.permissions(&made, &namespace).await?;
        let mut slices = Vec::new();
        if let (Some(service), Some(place)) = (service, place) {
            let selector = format!("{SERVICE}={}", place.service);
            match inner.slices(operation, &made, &namespace, &selector).await {
                Ok(found) => slices = found.iter().map(|slice| self.slice(service, slice)).collect(),
                // It is among the permissions.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Diagnosis { server: made.server, version, identity, namespace, permissions, slices })
    }

    async fn identity(&self, made: &Made) -> Option<String> {
        let api: Api<SelfSubjectReview> = Api::all(made.kube.clone());
        let asked = async { api.create(&PostParams::default(), &SelfSubjectReview::default()).await };
        let answer = self.inner().client.call("diagnose", SLICES, "", asked).await;
        answer.ok()?.status?.user_info?.username
    }

    async fn permissions(&self, made: &Made, namespace: &str) -> Result<Vec<Permission>> {
        let settings = &self.inner().client.settings;
        let mut wanted = vec![(SLICES, "read", namespace)];
        if settings.labels.is_some() {
            wanted.push((PODS, "labels", namespace));
        }
        match settings.registration {
            Registration::None => {}
            Registration::Readiness => wanted.push((POD_STATUS, "register", &made.own_namespace)),
            Registration::Slice => wanted.push((OWN_SLICES, "register", namespace)),
        }
        let mut permissions = Vec::new();
        for (right, needed_to, namespace) in wanted {
            for verb in right.verbs {
                let is_given = self.may(made, right, verb, namespace).await?;
                let what = format!("{verb} {}", right.resource);
                permissions.push(Permission { what, needed_to, is_given, rule: right.rule() });
            }
        }
        Ok(permissions)
    }

    async fn may(&self, made: &Made, right: Right, verb: &str, namespace: &str) -> Result<bool> {
        let (resource, subresource) = match right.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (right.resource, None),
        };
        let attributes = ResourceAttributes {
            group: Some(right.group.into()),
            resource: Some(resource.into()),
            subresource,
            verb: Some(verb.into()),
            namespace: Some(namespace.into()),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let api: Api<SelfSubjectAccessReview> = Api::all(made.kube.clone());
        let asked = async { api.create(&PostParams::default(), &review).await };
        let answer = self.inner().client.call("diagnose", right, namespace, asked).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    fn slice(&self, service: &ServiceName, slice: &EndpointSlice) -> Slice {
        let settings = &self.inner().client.settings;
        let metadata = &slice.metadata;
        let manager = metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).cloned();
        let lapsed = record::lapsed_since(slice).filter(|lapsed| *lapsed <= Timestamp::now());
        let parts = record::parts(service, slice, settings);
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for (index, part) in parts.into_iter().enumerate() {
            let source = slice.endpoints.get(index);
            let pod = source.and_then(|endpoint| endpoint.target_ref.as_ref()?.name.clone());
            let address = source.and_then(|endpoint| endpoint.addresses.first().cloned());
            let unused = match part {
                Err(unread) => Some(unread.why),
                Ok(_) => match State::of(source.and_then(|endpoint| endpoint.conditions.as_ref())) {
                    _ if lapsed.is_some() => lapsed.map(|time| format!("it has lapsed at {time}")),
                    State::Ready => None,
                    State::Terminating => Some("it is terminating; used where nothing else is ready".into()),
                    State::NotReady => Some("it is not ready".into()),
                },
            };
            endpoints.push(Endpoint { name: pod.or(address).unwrap_or_default(), unused });
        }
        Slice {
            name: metadata.name.clone().unwrap_or_default(),
            manager: manager.unwrap_or_else(|| "nobody named".into()),
            endpoints,
        }
    }
}
