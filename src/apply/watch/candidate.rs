//! What the files say and is not followed yet. It is tried at once. What is refused is not given up: whoever stands in its
//! way may go without a word, as a process leaves a namespace. It is tried again and again, each time after twice as
//! long, and what is kept up has its turn in between.

use std::sync::Arc;
use std::time::Duration;

use super::{Clock, Content};

/// After the first refusal.
const PAUSE_FIRST: Duration = Duration::from_millis(100);

/// What is to be followed next, if anything.
#[derive(Clone, Default, Debug)]
pub struct Candidate {
    content: Option<Arc<Content>>,
    refusals: u32,
    turn: Turn,
}

#[derive(Clone, Copy, Default, Debug)]
enum Turn {
    /// It is to be tried.
    #[default]
    Own,
    /// What is kept up has its turn; then so long nobody; none: until the slow look.
    Others(Option<Duration>),
    /// It is to be tried at that time, or at the slow look.
    At(Option<Clock>),
}

impl Candidate {
    /// Puts this in the place of what was to be followed.
    pub fn offer(&mut self, content: Content) {
        *self = Self { content: Some(Arc::new(content)), ..Self::default() };
    }

    /// What is to be tried, if it has its turn.
    pub fn due(&self) -> Option<&Arc<Content>> {
        self.content.as_ref().filter(|_| matches!(self.turn, Turn::Own))
    }

    /// What to try again that was refused, at the latest at the slow look; when, if before.
    pub fn again(&self) -> Option<Clock> {
        if let Turn::At(at) = self.turn { at } else { None }
    }

    /// Whether it was refused, and never followed since.
    pub fn is_refused(&self) -> bool {
        self.refusals > 0
    }

    /// Whether what is kept up is to have its turn because this has just had its own.
    pub fn gives_way(&self) -> bool {
        matches!(self.turn, Turn::Others(_))
    }

    /// It was tried, and cannot be followed now; `momentary`: for a reason that may go by itself.
    pub fn refuse(&mut self, momentary: bool) {
        let pause = momentary.then(|| PAUSE_FIRST.saturating_mul(1 << self.refusals.min(16)));
        self.refusals = self.refusals.saturating_add(1);
        self.turn = Turn::Others(pause);
    }

    /// What is kept up has had its turn.
    pub fn wait(&mut self, now: Clock) {
        if let Turn::Others(pause) = self.turn {
            self.turn = Turn::At(pause.map(|pause| now + pause));
        }
    }

    /// Gives it its turn if it has waited long enough, or this is the slow look.
    pub fn wake(&mut self, slow: bool, now: Clock) {
        if let Turn::At(at) = self.turn
            && (slow || at.is_some_and(|at| at <= now))
        {
            self.turn = Turn::Own;
        }
    }

    /// Gives it its turn at once.
    pub fn urge(&mut self) {
        self.turn = Turn::Own;
    }

    /// That was followed, so it is no candidate any more.
    pub fn followed(&mut self, content: &Arc<Content>) {
        if self.is(content) {
            *self = Self::default();
        }
    }

    /// Whether it is that very one.
    pub fn is(&self, content: &Arc<Content>) -> bool {
        self.content.as_ref().is_some_and(|it| Arc::ptr_eq(it, content))
    }
}
