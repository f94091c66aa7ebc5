//! Descriptors: how many there may be, and room for them.

use std::io::stdin;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::OnceLock;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::run::WAVE;

/// Raises the soft limit of open files to the hard one, and tells how many there may be: an apply holds descriptors for each
/// namespace it makes, plugs into or removes.
pub(super) fn raise_limit() -> RawFd {
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
    descriptor.as_raw_fd() < raise_limit() / 2
}

/// Makes room for as many as a run needs, in one go. To be called while the process has no other thread: then nobody is waited
/// for. Later the table would grow as they come, and whoever opens one too many waits each time until all processors have passed
/// a quiet point (`expand_fdtable`, linux/fs/file.c), as do others that find no room.
pub fn make_room() {
    /// Two for each namespace that is made at a time, and what else is open.
    const ROOM: usize = 2 * WAVE + 24;
    raise_limit();
    let last = RawFd::try_from(ROOM - 1).unwrap_or(RawFd::MAX);
    // Less is not made where there may not be as many.
    if let Ok(last) = fcntl(stdin(), FcntlArg::F_DUPFD_CLOEXEC(last)) {
        let _ = nix::unistd::close(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::forked::forked;

    fn room() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
        size.trim().parse().unwrap()
    }

    #[test]
    fn there_is_room_for_as_many_as_a_run_holds() {
        assert!(forked(|| {
            let before = room();
            make_room();
            before < 2 * WAVE && room() > 2 * WAVE
        }));
    }

    #[test]
    fn where_there_may_not_be_as_many_nothing_is_made() {
        assert!(forked(|| {
            setrlimit(Resource::RLIMIT_NOFILE, 512, 512).unwrap();
            make_room();
            room() <= 512
        }));
    }
}
