//! Two things at a time, where that is worth a thread.

/// From so many objects on a thread gains more than it takes.
const WORTH: usize = 500;

/// Does both, about so many objects: the one beside the other if they are many.
pub fn both<A: Send, B>(objects: usize, one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B) -> (A, B) {
    if objects < WORTH {
        return (one(), other());
    }
    std::thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        (one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), other)
    })
}
