//! `serve`: a live page of what is out there, and the same for programs, by HTTP.

mod access;
mod board;
mod events;
mod measured;
mod routes;
mod server;
#[cfg(test)]
mod tests;
mod told;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;
use switchboard::{Registry, registrar};
use tokio::net::TcpListener;

use crate::args;
use crate::commands::register::signals;
use crate::failure::Failure;
use crate::output::{self, Look};
use crate::session::Session;

use access::Access;
use board::Board;
use measured::Measured;
use server::Server;

/// Where it is.
#[derive(Serialize)]
struct Serving<'a> {
    status: &'static str,
    url: &'a str,
    /// One that was made up; what a file holds is nobody's to print.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
}

pub(crate) async fn run(session: &Session, args: &args::Serve) -> Result<ExitCode, Failure> {
    let mut signals = signals()?;
    // Before the registry: what was made without a recorder stays without metrics.
    let measured = Measured::install()?;
    let listener = TcpListener::bind(args.listen).await.map_err(|error| {
        let advice = "--listen says where else, port 0 a free one";
        Failure::failed(format!("cannot listen on {} ({advice})", args.listen)).because(&error)
    })?;
    let address = listener.local_addr()?;
    let access = Access::new(address, args.token_file.as_deref(), &args.allow_host)?;
    let registry = session.connect().await?;
    announce(session, &registry, address, &access).await?;

    let board = Board::new(registry.to_string());
    let server = Server::start(listener, routes::app(board.states(), access, measured));
    // The board is gone after this, and with it the event streams end.
    let followed = board.follow(&*registry, || session.alone(), signals.end()).await;
    tokio::select! {
        () = server.end() => {}
        () = signals.end() => {}
    }
    let closed = tokio::select! {
        closed = session.limited("close", registry.close()) => closed,
        () = signals.end() => Ok(()),
    };
    followed?;
    closed?;
    Ok(ExitCode::SUCCESS)
}

/// Says where to look.
async fn announce(
    session: &Session,
    registry: &Arc<dyn Registry>,
    bound: SocketAddr,
    access: &Access,
) -> Result<(), Failure> {
    // A wildcard is nowhere to look; where no address is found it is the best that is known.
    let at = registrar::advertise_on(registry, bound).await;
    let at = at.map_or_else(|_| bound.to_string(), |address| address.to_string());
    let token = access.made_up();
    let query = token.map(|token| format!("?token={token}")).unwrap_or_default();
    let url = format!("http://{at}/{query}");
    if session.json {
        return Ok(output::json_line(&Serving { status: "serving", url: &url, token })?);
    }
    output::line(Look::Plain, &format!("serving {url}"))?;
    if access.asks() && token.is_none() {
        output::note("it asks for the token in the file: open it once with ?token=TOKEN");
    }
    if !bound.ip().is_loopback() {
        output::note("nothing is encrypted on the way: keep to networks you trust, or put TLS before it");
    }
    Ok(())
}
