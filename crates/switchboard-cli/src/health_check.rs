//! Whether the program that is registered is well: by HTTP, by gRPC, by a command, by whether it accepts connections.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Url};
use switchboard::Address;
use switchboard::registrar::Registrar;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::args::Details;
use crate::failure::{Failure, chain};
use crate::{output, process};

/// How long one check may take.
const LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct HealthCheck {
    address: Address,
    http: Option<(Client, Url)>,
    grpc: Option<GrpcCheck>,
    command: Option<String>,
    /// What must accept connections.
    connect: Vec<Address>,
}

impl HealthCheck {
    /// The checks asked for, with `{host}` and `{port}` filled in; `connect` adds that the address accepts.
    pub(crate) fn new(details: &Details, address: &Address, connect: bool) -> Result<Self, Failure> {
        let http = match &details.check_http {
            Some(text) => Some((client()?, url(text, address)?)),
            None => None,
        };
        let grpc = details.check_grpc.as_deref().map(|text| GrpcCheck::new(text, address)).transpose()?;
        let mut accepting = if connect { vec![address.clone()] } else { Vec::new() };
        if let Some(text) = &details.check_tcp {
            let given: Address = filled(text, address)
                .parse()
                .map_err(|error| Failure::usage("--check-tcp").because(&error))?;
            accepting.extend(Some(given).filter(|given| !accepting.contains(given)));
        }
        let command = details.check_cmd.clone();
        Ok(Self { address: address.clone(), http, grpc, command, connect: accepting })
    }

    /// Has `registrar` run these, if there are any.
    pub(crate) fn attach(self, registrar: Registrar) -> Registrar {
        let none = self.http.is_none() && self.grpc.is_none() && self.command.is_none();
        if none && self.connect.is_empty() {
            return registrar;
        }
        let check = Arc::new(self);
        registrar.check_timeout(LIMIT).check(move || {
            let check = check.clone();
            async move { check.verdict().await }
        })
    }

    async fn verdict(&self) -> Result<(), String> {
        for address in &self.connect {
            let connected = tokio::net::TcpStream::connect(address.to_string()).await;
            connected.map_err(|error| format!("{address} does not accept connections: {error}"))?;
        }
        if let Some(grpc) = &self.grpc {
            grpc.verdict().await?;
        }
        if let Some((client, url)) = &self.http {
            let answer = client.get(url.clone()).send().await;
            let answer = answer.map_err(|error| format!("{url}: {}", chain(&error.without_url())))?;
            if !answer.status().is_success() {
                return Err(format!("{url} answered {}", answer.status()));
            }
        }
        if let Some(command) = &self.command {
            let env = [("HOST", host(&self.address)), ("PORT", self.address.port().to_string())];
            let status = process::shell(command, &env).await;
            let status = status.map_err(|error| format!("the check command did not start: {error}"))?;
            if !status.success() {
                return Err(format!("the check command failed: {status}"));
            }
        }
        Ok(())
    }
}

fn client() -> Result<Client, Failure> {
    // Through a proxy the check would be of the proxy.
    let built = Client::builder().no_proxy().timeout(LIMIT).build();
    built.map_err(|error| Failure::failed("cannot set up the HTTP check").because(&error))
}

fn url(text: &str, address: &Address) -> Result<Url, Failure> {
    match Url::parse(&filled(text, address)) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(url),
        Ok(_) => Err(Failure::usage("--check-http: the URL starts with neither http: nor https:")),
        Err(error) => Err(Failure::usage("--check-http: no URL").because(&error)),
    }
}

/// `text` with the instance's host and port in it.
fn filled(text: &str, address: &Address) -> String {
    text.replace("{host}", &output::host(address)).replace("{port}", &address.port().to_string())
}

/// What gRPC's health service is asked (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).
#[derive(Debug)]
struct GrpcCheck {
    client: HealthClient<Channel>,
    service: String,
}

impl GrpcCheck {
    fn new(text: &str, address: &Address) -> Result<Self, Failure> {
        let text = filled(text, address);
        let (at, service) = text.split_once('/').unwrap_or((&text, ""));
        let refused = || Failure::usage("--check-grpc");
        let at: Address = at.parse().map_err(|error| refused().because(&error))?;
        let url = format!("http://{}:{}", output::host(&at), at.port());
        let endpoint = Endpoint::from_shared(url).map_err(|error| refused().because(&error))?;
        let channel = endpoint.connect_timeout(LIMIT).connect_lazy();
        Ok(Self { client: HealthClient::new(channel), service: service.to_owned() })
    }

    async fn verdict(&self) -> Result<(), String> {
        let request = HealthCheckRequest { service: self.service.clone() };
        let answer = self.client.clone().check(request).await.map_err(|status| match status.source() {
            Some(cause) => format!("the gRPC health service: {}", chain(cause)),
            None => format!("the gRPC health service: {} ({:?})", status.message(), status.code()),
        })?;
        match answer.into_inner().status() {
            ServingStatus::Serving => Ok(()),
            other => Err(format!("the gRPC health service says {}", other.as_str_name())),
        }
    }
}

fn host(address: &Address) -> String {
    address.host().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled() {
        let at = |text: &str, address: &str| {
            url(text, &address.parse().unwrap()).map(String::from).map_err(|failure| format!("{failure:?}"))
        };
        assert_eq!(at("http://{host}:{port}/up", "[::1]:80").unwrap(), "http://[::1]/up");
        assert_eq!(at("http://localhost:{port}/up", "h:8080").unwrap(), "http://localhost:8080/up");
        assert!(at("ftp://h", "h:1").is_err());
        assert!(at("/up", "h:1").is_err());
    }
}
