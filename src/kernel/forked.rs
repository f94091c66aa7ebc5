//! What a test does in a process of its own: it changes what is the whole process's, or must be its first thread.

use nix::libc::_exit;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

/// Whether it holds in a child of this process, which has one thread.
#[expect(unsafe_code, reason = "fork(2): nix takes it for unsafe as well")]
pub(super) fn forked(holds: fn() -> bool) -> bool {
    // SAFETY: the child has this thread only, and ends without coming back.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let held = std::panic::catch_unwind(holds).is_ok_and(|held| held);
            // SAFETY: it ends the process.
            unsafe { _exit(i32::from(!held)) }
        }
        ForkResult::Parent { child } => waitpid(child, None).unwrap() == WaitStatus::Exited(child, 0),
    }
}
