/// Returns when the process is asked to end: SIGINT (Ctrl-C) or SIGTERM; elsewhere than on Unix, Ctrl-C.
///
/// From the first call on, the process no longer ends by itself on these signals.
///
/// # Errors
///
/// When the system refuses to set up the handler.
pub async fn shutdown_signal() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
