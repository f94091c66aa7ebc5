//! Two things at once.

use std::sync::Mutex;
use std::thread::{Builder, scope};

/// Does one thing on another thread, beside what is done here; after it, where no other thread can be started (cgroups(7),
/// `pids.max`).
pub(super) fn beside<A: Send, B>(other: impl FnOnce() -> A + Send, here: impl FnOnce() -> B) -> (A, B) {
    let other = Mutex::new(Some(other));
    let other = || other.lock().expect("nobody panics with it").take().map(|other| other());
    scope(|scope| {
        let thread = Builder::new().spawn_scoped(scope, other).ok();
        let here = here();
        let joined = |thread: std::thread::ScopedJoinHandle<_>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let other = thread.map_or_else(other, joined);
        (other.expect("whoever takes it is the only one"), here)
    })
}
