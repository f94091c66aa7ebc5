//! Descriptors: how many there may be, and room for them.

use std::io::stdin;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::OnceLock;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// How many files may be open, once the soft limit is raised to the hard one: an apply holds descriptors for each namespace
/// it makes, plugs into or removes.
pub(super) fn limit() -> RawFd {
    static LIMIT: OnceLock<RawFd> = OnceLock::new();
    *LIMIT.get_or_init(|| {
        let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
        // Not being allowed to is no reason to stop: it is enough for most hosts.
        let raised = soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
        RawFd::try_from(if raised { hard } else { soft }).unwrap_or(RawFd::MAX)
    })
}

/// Whether there are some to spare, so that this one may be held for longer: their numbers are given in order, and as many
/// again are left for whoever looks.
pub(super) fn may_hold(descriptor: BorrowedFd<'_>) -> bool {
    descriptor.as_raw_fd() < limit() / 2
}

/// Makes room for as many as a run needs, in one go, if the process has no other thread yet. Later the table would grow as they
/// come, and whoever opens one too many waits each time until all processors have passed a quiet point (`expand_fdtable`,
/// linux/fs/file.c), as do all others that open one.
pub fn make_room() {
    /// Two for each namespace that is made at a time, and what else is open.
    const ROOM: RawFd = 1 << 10;
    limit();
    // Less is not made where there may not be as many.
    if let Ok(last) = fcntl(stdin(), FcntlArg::F_DUPFD_CLOEXEC(ROOM - 1)) {
        let _ = nix::unistd::close(last);
    }
}
