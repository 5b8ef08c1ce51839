//! When the process is asked to end.

#[cfg(unix)]
#[path = "unix.rs"]
mod system;
#[cfg(windows)]
#[path = "windows.rs"]
mod system;

/// Returns when the process is asked to end.
///
/// | system | by |
/// |---|---|
/// | Unix | SIGINT (Ctrl-C), SIGTERM |
/// | Windows | Ctrl-C, Ctrl-Break, the closing of the console window, logging off, the shutdown of the system |
///
/// From the first call on, the process no longer ends by itself on these; on Windows, while one waits for them. Windows
/// ends the process all the same some time after it has closed its window or logged the user off (5 s by default), or has
/// told a service of the shutdown (20 s): deregistering and draining must have been done by then.
///
/// # Errors
///
/// When the system refuses to set up the handler.
pub async fn shutdown_signal() -> std::io::Result<()> {
    system::asked_to_end().await
}
