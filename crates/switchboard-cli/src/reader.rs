//! Whether anybody still reads what is written.

/// Waits until the reader of standard output has gone; for ever where there is none that can go, as with a file.
#[cfg(unix)]
#[allow(deprecated, reason = "what replaces it is newer than the oldest tokio that this builds with")]
pub(crate) async fn gone() {
    use tokio::io::{Interest, unix::AsyncFd};

    // What cannot be waited for, such as a file, is refused here.
    let Ok(output) = AsyncFd::with_interest(std::io::stdout(), Interest::ERROR) else {
        return std::future::pending().await;
    };
    match output.ready(Interest::ERROR).await {
        Ok(_) => {}
        Err(_) => std::future::pending().await,
    }
}

/// Here it shows with the next line only.
#[cfg(not(unix))]
pub(crate) async fn gone() {
    std::future::pending().await
}
