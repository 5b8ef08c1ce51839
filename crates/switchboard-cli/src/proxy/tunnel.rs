//! Connections that are passed through, whatever they carry.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use socket2::SockRef;
use switchboard::ServiceName;
use switchboard::client::{InFlight, Options};
use switchboard::selector::FailureKind;
use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::Instrument as _;

use super::Proxy;
use super::connection::WRITE;
use super::problem::Problem;
use super::quiet::{Moved, Quiet, Watched};

/// Passes bytes on, both ways, until both ends are done, one breaks, or nothing has moved for so long. What has not ended well on
/// one side does not end well on the other (RFC 9293, section 3.10.7: a reset).
pub(crate) async fn pass(
    near: Watched<TcpStream>,
    mut far: Watched<TcpStream>,
    limit: Duration,
) -> io::Result<()> {
    let moved = Moved::now();
    let mut quiet = Quiet::new(moved.clone(), limit);
    // Each byte passes through it once, whichever way it goes.
    let mut near = near.telling(moved);
    let passed = tokio::select! {
        passed = copy_bidirectional(&mut near, &mut far) => passed.map(drop),
        () = quiet.over() => Err(io::ErrorKind::TimedOut.into()),
    };
    if passed.is_err() {
        reset(near.get_ref());
        reset(far.get_ref());
    }
    passed
}

/// The same for two connections that spoke HTTP/1.1 before, with what had come already.
pub(crate) async fn pass_upgraded(near: Upgraded, far: Upgraded, limit: Duration) -> io::Result<()> {
    type Io = TokioIo<Watched<TcpStream>>;
    let (Ok(near), Ok(far)) = (auto::upgrade::downcast::<Io>(near), far.downcast::<Io>()) else {
        return Err(io::Error::other("not a connection of the proxy's own"));
    };
    let (mut at_near, mut at_far) = (near.io.into_inner(), far.io.into_inner());
    at_far.write_all(&near.read_buf).await?;
    at_near.write_all(&far.read_buf).await?;
    pass(at_near, at_far, limit).await
}

/// Closing it tells the other end that it was not the end.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Serves a connection that is for `service`.
pub(crate) async fn serve(proxy: Arc<Proxy>, service: ServiceName, near: TcpStream, peer: SocketAddr) {
    let reached = match proxy.known.service(&service).await {
        Ok(known) => reach(&proxy, &service).await.map(|reached| (known, reached)),
        Err(problem) => Err(problem),
    };
    let (known, (far, in_flight)) = match reached {
        Ok(reached) => reached,
        Err(problem) => {
            tracing::warn!(%service, %peer, "{}", problem.text());
            // A client must not take this for a server that has nothing to say.
            reset(&near);
            return;
        }
    };
    let _tunnel = known.measures.tunnel();
    let _ = near.set_nodelay(true);
    match pass(Watched::new(near, WRITE), far, proxy.idle_timeout).await {
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
