//! Connections that are passed through, whatever they carry.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use switchboard::ServiceName;
use switchboard::client::{InFlight, Options};
use switchboard::selector::FailureKind;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::Instrument as _;

use super::Proxy;
use super::connection::WRITE;
use super::problem::Problem;
use super::quiet::{Moved, Quiet, Watched};

/// Passes bytes on, both ways, until both ends are done, one breaks, or nothing has moved for so long.
pub(crate) async fn pass(
    near: impl AsyncRead + AsyncWrite + Unpin,
    far: &mut (impl AsyncRead + AsyncWrite + Unpin),
    limit: Duration,
) -> io::Result<()> {
    let moved = Moved::now();
    let mut quiet = Quiet::new(moved.clone(), limit);
    // Each byte passes through it once, whichever way it goes.
    let mut near = Watched::new(near, WRITE).telling(moved);
    tokio::select! {
        passed = copy_bidirectional(&mut near, far) => passed.map(drop),
        () = quiet.over() => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Serves a connection that is for `service`.
pub(crate) async fn serve(proxy: Arc<Proxy>, service: ServiceName, near: TcpStream, peer: SocketAddr) {
    let reached = match proxy.known.service(&service).await {
        Ok(known) => reach(&proxy, &service).await.map(|reached| (known, reached)),
        Err(problem) => Err(problem),
    };
    let (known, (mut far, in_flight)) = match reached {
        Ok(reached) => reached,
        Err(problem) => {
            tracing::warn!(%service, %peer, "{}", problem.text());
            // A client must not take this for a server that has nothing to say.
            let _ = SockRef::from(&near).set_linger(Some(Duration::ZERO));
            return;
        }
    };
    let _tunnel = known.measures.tunnel();
    let _ = near.set_nodelay(true);
    match pass(near, &mut far, proxy.idle_timeout).await {
        Ok(()) => in_flight.finish(Ok(())),
        // Whose fault it is nobody knows.
        Err(error) => tracing::debug!(%service, %peer, %error, "a connection broke"),
    }
}

/// Connects to an instance.
async fn reach(proxy: &Proxy, service: &ServiceName) -> Result<(Watched<TcpStream>, InFlight), Problem> {
    let call = proxy.caller.begin::<ServiceName>(service.clone(), Options::new());
    let mut call = call.map_err(|error| Problem::not_heard(service, &error))?;
    let span = call.span();
    let connecting = async move {
        loop {
            let attempt = call.attempt(true).await;
            let attempt = attempt.map_err(|error| proxy.not_called(service, &error))?;
            let connect = TcpStream::connect(attempt.address().to_string());
            let (kind, why) = match timeout(proxy.connect_timeout, connect).await {
                Ok(Ok(stream)) => {
                    let _ = stream.set_nodelay(true);
                    return Ok((Watched::new(stream, WRITE), call.answered(attempt)));
                }
                Ok(Err(error)) if super::upstream::is_own(&error) => (None, error.to_string()),
                Ok(Err(error)) => (Some(FailureKind::Connection), error.to_string()),
                Err(_) => (Some(FailureKind::Connection), "it takes too long".into()),
            };
            call.fail(attempt, kind, format!("cannot connect: {why}"));
            if kind.is_none() || !call.again(false).await {
                return Err(Problem::unreached(&call.to_string()));
            }
        }
    };
    connecting.instrument(span).await
}
