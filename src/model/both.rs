//! Two things at a time, where that is worth a thread.

use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, scope};

/// From so many objects on a thread gains more than it takes.
const WORTH: usize = 500;

/// Does both, about so many objects: the one beside the other if they are many, and a thread can be started (`pids.max`).
pub(super) fn both<A: Send, B>(objects: usize, one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B) -> (A, B) {
    let one = Mutex::new(Some(one));
    let take = || one.lock().unwrap_or_else(PoisonError::into_inner).take().map(|one| one());
    scope(|scope| {
        let thread = (objects >= WORTH).then(|| Builder::new().spawn_scoped(scope, take).ok()).flatten();
        let other = other();
        let done = thread.and_then(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        (done.or_else(take).expect("who takes it does it"), other)
    })
}
