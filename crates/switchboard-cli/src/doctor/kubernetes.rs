//! Kubernetes: the API server, who we are to it, what we may, and why an endpoint is not used.

use std::time::Duration;

use switchboard::kubernetes::{Diagnosis, KubernetesRegistry, Permission, Slice};
use switchboard::{ErrorKind, RegistryUrl, ServiceName};

use super::Finding;
use crate::failure::chain;

/// How many endpoints that are not used are told one by one.
const TOLD: usize = 10;

pub(crate) async fn examine(
    url: &RegistryUrl,
    service: Option<&ServiceName>,
    limit: Duration,
) -> Vec<Finding> {
    let registry = match KubernetesRegistry::from_url(url) {
        Ok(registry) => registry,
        Err(error) => return vec![Finding::problem("server", chain(&error), "correct the registry's URL")],
    };
    let diagnosis = match tokio::time::timeout(limit, registry.diagnose(service)).await {
        Ok(Ok(diagnosis)) => diagnosis,
        Ok(Err(error)) => {
            let advice = match error.kind() {
                ErrorKind::Invalid => "see the kubeconfig: kubectl config view",
                ErrorKind::PermissionDenied => "see that the credentials are valid: kubectl auth whoami",
                _ => "see that the server of the context is up and reached from here: kubectl cluster-info",
            };
            return vec![Finding::problem("server", chain(&error), advice)];
        }
        Err(_) => {
            let finding = format!("the API server has not told all within {limit:?}");
            return vec![Finding::problem("server", finding, "see its load, or give more time by --timeout")];
        }
    };
    let mut findings = vec![Finding::ok(
        "server",
        format!("{} answers, Kubernetes {}", diagnosis.server, diagnosis.version),
    )];
    if let Some(identity) = &diagnosis.identity {
        findings.push(Finding::ok("identity", format!("it takes this program for {identity}")));
    }
    findings.push(rights(&diagnosis));
    if let Some(service) = service {
        findings.extend(slices(&diagnosis, service));
    }
    findings
}

fn rights(diagnosis: &Diagnosis) -> Finding {
    let namespace = &diagnosis.namespace;
    let missing: Vec<&Permission> =
        diagnosis.permissions.iter().filter(|permission| !permission.is_given).collect();
    let Some(first) = missing.first() else {
        let given: Vec<&str> =
            diagnosis.permissions.iter().map(|permission| permission.what.as_str()).collect();
        return Finding::ok("rights", format!("in the namespace {namespace}: {}", given.join(", ")));
    };
    let lacks: Vec<&str> = missing.iter().map(|permission| permission.what.as_str()).collect();
    Finding::problem(
        "rights",
        format!(
            "in the namespace {namespace} it may not {}, needed to {}",
            lacks.join(", "),
            first.needed_to
        ),
        format!("add the rule to a Role there: {}", first.rule),
    )
}

fn slices(diagnosis: &Diagnosis, service: &ServiceName) -> Vec<Finding> {
    let Diagnosis { slices, namespace, permissions, .. } = diagnosis;
    if permissions.iter().any(|permission| permission.needed_to == "read" && !permission.is_given) {
        return Vec::new();
    }
    if slices.is_empty() {
        return vec![Finding::warning(
            "slices",
            format!("the namespace {namespace} has no EndpointSlice of {service}"),
            format!(
                "see that there is a Service of this name, and that its selector finds pods: kubectl -n {namespace} get services,pods --show-labels"
            ),
        )];
    }
    let endpoints = || slices.iter().flat_map(|slice: &Slice| &slice.endpoints);
    let unused: Vec<String> = endpoints()
        .filter_map(|endpoint| Some(format!("{}: {}", endpoint.name, endpoint.unused.as_ref()?)))
        .collect();
    let (all, used) = (endpoints().count(), endpoints().count() - unused.len());
    let counts =
        format!("EndpointSlices of {service}: {}, endpoints in them: {all}, used: {used}", slices.len());
    let mut findings = vec![if used > 0 {
        Finding::ok("slices", counts)
    } else {
        Finding::warning("slices", counts, "see why the pods are not ready: kubectl describe pod")
    }];
    let more = unused.len().saturating_sub(TOLD);
    let told = unused.into_iter().take(TOLD);
    findings.extend(told.map(|why| Finding::warning("endpoint", why, "it is left alone until that changes")));
    if more > 0 {
        let finding = format!("{more} more are not used");
        findings.push(Finding::warning("endpoint", finding, "see all: kubectl get endpointslices -o yaml"));
    }
    findings
}
