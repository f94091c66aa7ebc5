//! Two things at once, for whoever has two threads for them: what is pure starts none itself.

/// Has two things done.
pub trait Both {
    /// Does the one and the other, in any order or beside each other, and tells what came of them.
    fn both<A: Send, B>(&self, one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B) -> (A, B);
}

/// First the one, then the other.
#[derive(Clone, Copy, Debug)]
pub struct InTurn;

impl Both for InTurn {
    fn both<A: Send, B>(&self, one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B) -> (A, B) {
        (one(), other())
    }
}
