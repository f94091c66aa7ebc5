//! All that the service waits for at once.

use std::time::Instant;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::directories::Directories;
use super::failed;
use super::looker::Looker;
use super::mounts::Mounts;
use super::server::Asked;
use crate::apply::watch::Sight;
use crate::cli::failure::Failure;
use crate::kernel::KernelError;
use crate::kernel::events::{Heard, Listener};

/// Something that happened.
pub(super) enum Happening {
    Announced(Result<Heard, KernelError>),
    /// To the files; whether nothing but that one was put in the place of another.
    Files(bool),
    Namespaces,
    Mounts,
    /// What waits to be confirmed began to wait, or was decided.
    Decided,
    Seen(Option<Sight>),
    Asked(Asked),
    Reload,
    End,
    Time,
}

/// Where things happen.
pub(super) struct Ears {
    route: AsyncFd<Listener>,
    netfilter: AsyncFd<Listener>,
    pub(super) files: Directories,
    pub(super) namespaces: Directories,
    mounts: Mounts,
    pub(super) decisions: Directories,
    questions: mpsc::Receiver<Asked>,
    hang_up: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Ears {
    /// Opens those that need nothing but to be open.
    pub(super) fn open([route, netfilter]: [Listener; 2], questions: mpsc::Receiver<Asked>) -> Result<Self, Failure> {
        let of = |kind| signal(kind).map_err(failed("signals"));
        Ok(Self {
            route: polled(route)?,
            netfilter: polled(netfilter)?,
            files: Directories::new(),
            namespaces: Directories::new(),
            mounts: Mounts::new(),
            decisions: Directories::new(),
            questions,
            hang_up: of(SignalKind::hangup())?,
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
        })
    }

    /// Waits until something happens, or it is time.
    pub(super) async fn next(&mut self, looker: &mut Looker, wake: Instant) -> Happening {
        tokio::select! {
            sight = looker.sight() => Happening::Seen(sight),
            heard = hear(&mut self.route) => Happening::Announced(heard),
            heard = hear(&mut self.netfilter) => Happening::Announced(heard),
            replaced = self.files.woken() => Happening::Files(replaced),
            _ = self.namespaces.woken() => Happening::Namespaces,
            () = self.mounts.changed() => Happening::Mounts,
            _ = self.decisions.woken() => Happening::Decided,
            Some(asked) = self.questions.recv() => Happening::Asked(asked),
            _ = self.hang_up.recv() => Happening::Reload,
            _ = self.terminate.recv() => Happening::End,
            _ = self.interrupt.recv() => Happening::End,
            () = tokio::time::sleep_until(wake.into()) => Happening::Time,
        }
    }
}

async fn hear(listener: &mut AsyncFd<Listener>) -> Result<Heard, KernelError> {
    let failed = |error: std::io::Error| KernelError::io("netlink", &error);
    let mut ready = listener.readable_mut().await.map_err(failed)?;
    let heard = ready.get_inner_mut().hear()?;
    if !heard.more {
        ready.clear_ready();
    }
    Ok(heard)
}

fn polled(listener: Listener) -> Result<AsyncFd<Listener>, Failure> {
    #[expect(unsafe_code, reason = "tokio wants to be promised that the descriptor stays the same")]
    // SAFETY: a listener owns its socket from its making to its end.
    let polled = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) };
    polled.map_err(|error| failed("epoll")(error.into()))
}
