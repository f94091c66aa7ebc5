//! Mounts that come and go (`proc_pid_mountinfo(5)`). A namespace gets its name by being bound over a file, of which
//! inotify says nothing.

use std::fs::File;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Tells when something was mounted or unmounted where this process is.
pub(super) struct Mounts(Option<AsyncFd<File>>);

impl Mounts {
    /// Where the file cannot be watched nothing is heard, and the slow looks have to do.
    pub(super) fn new() -> Self {
        let opened = File::open("/proc/self/mountinfo");
        #[expect(unsafe_code, reason = "tokio wants to be promised that the descriptor stays the same")]
        // SAFETY: a file owns its descriptor from its opening to its end.
        let register = |file| Ok(unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) }?);
        let watched = opened.and_then(register);
        Self(watched.inspect_err(|error: &std::io::Error| tracing::warn!(%error, "cannot watch mounts")).ok())
    }

    /// Waits until something is.
    pub(super) async fn changed(&self) {
        match &self.0 {
            Some(file) => match file.ready(Interest::PRIORITY).await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }
}
