//! Whether the program that is registered is well: by HTTP, by a command, by whether it accepts connections.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Url};
use switchboard::Address;
use switchboard::registrar::Registrar;

use crate::args::Details;
use crate::failure::{Failure, chain};
use crate::{output, process};

/// How long one check may take.
const LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct HealthCheck {
    address: Address,
    http: Option<(Client, Url)>,
    command: Option<String>,
    connect: bool,
}

impl HealthCheck {
    /// The checks asked for, with `{host}` and `{port}` filled in; `connect` adds that the address accepts.
    pub(crate) fn new(details: &Details, address: &Address, connect: bool) -> Result<Self, Failure> {
        let http = match &details.check_http {
            Some(text) => Some((client()?, url(text, address)?)),
            None => None,
        };
        Ok(Self { address: address.clone(), http, command: details.check_cmd.clone(), connect })
    }

    /// Has `registrar` run these, if there are any.
    pub(crate) fn attach(self, registrar: Registrar) -> Registrar {
        if self.http.is_none() && self.command.is_none() && !self.connect {
            return registrar;
        }
        let check = Arc::new(self);
        registrar.check_timeout(LIMIT).check(move || {
            let check = check.clone();
            async move { check.verdict().await }
        })
    }

    async fn verdict(&self) -> Result<(), String> {
        if self.connect {
            let connected = tokio::net::TcpStream::connect(self.address.to_string()).await;
            connected.map_err(|error| format!("{} does not accept connections: {error}", self.address))?;
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
    let host = output::host(address);
    let filled = text.replace("{host}", &host).replace("{port}", &address.port().to_string());
    match Url::parse(&filled) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(url),
        Ok(_) => Err(Failure::usage("--check-http: the URL starts with neither http: nor https:")),
        Err(error) => Err(Failure::usage("--check-http: no URL").because(&error)),
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
