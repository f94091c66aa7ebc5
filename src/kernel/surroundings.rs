//! What is around a run and no step of it changes: who listens, files of rules, and the connections it is run through.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::{KernelError, listeners, neighbours, session};
use crate::beside;
use crate::model::observed::Session;
use crate::model::wire::{Facts, ListenerFacts, RulesetFacts};

/// How long what others do is taken for unchanged.
pub(super) const MOMENT: Duration = Duration::from_secs(1);

type Others = Result<(Vec<ListenerFacts>, Vec<RulesetFacts>), KernelError>;

/// An answer, and when it was asked for.
type Asked<T> = OnceLock<(Instant, T)>;

/// Asked when somebody wants to know, and believed until a moment later; from then on it is asked each time. Who comes while
/// another thread asks waits for that.
#[derive(Default, Debug)]
pub struct Surroundings {
    /// By another thread.
    begun: bool,
    others: Asked<Others>,
    sockets: Asked<BTreeSet<u64>>,
}

impl Surroundings {
    /// Asked for from now on, by another thread; where none is to be had, by who wants to know.
    pub fn begin() -> Arc<Self> {
        let around = Arc::new(Self { begun: true, ..Self::default() });
        let ask = |around: Arc<Self>| around.ask();
        if beside::spawn("around", Arc::clone(&around), ask).is_ok() { around } else { Arc::default() }
    }

    /// Asks what every run wants to know, in that order.
    fn ask(&self) {
        self.others.get_or_init(|| (Instant::now(), others()));
        self.sockets.get_or_init(|| (Instant::now(), session::sockets()));
    }

    /// The connections that netrec is run through.
    pub fn sessions(&self) -> Vec<Session> {
        let known = self.recent(&self.sockets, session::sockets);
        known.map_or_else(|| session::of(&session::sockets()), session::of)
    }

    /// Fills in who listens, and files of rules, of now or of a moment ago.
    pub(super) fn fill(&self, facts: &mut Facts, now: bool) -> Result<(), KernelError> {
        let known = if now { None } else { self.recent(&self.others, others).and_then(|known| known.as_ref().ok()) };
        (facts.listeners, facts.rulesets) = known.map_or_else(others, |known| Ok(known.clone()))?;
        Ok(())
    }

    /// What is not older than a moment; it is asked for if nobody has.
    fn recent<'a, T>(&self, asked: &'a Asked<T>, ask: fn() -> T) -> Option<&'a T> {
        let now = || (Instant::now(), ask());
        let (at, answer) = match asked.get() {
            Some(known) => known,
            None if self.begun => beside::wait(|| asked.get_or_init(now)),
            None => asked.get_or_init(now),
        };
        (at.elapsed() < MOMENT).then_some(answer)
    }
}

fn others() -> Others {
    Ok((listeners::all()?, neighbours::rulesets()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::model::values::Protocol;

    #[test]
    fn who_listens_is_believed_for_a_moment() {
        let (around, began) = (Surroundings::default(), Instant::now());
        around.ask();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sees = |around: &Surroundings, now| {
            let mut facts = Facts::default();
            around.fill(&mut facts, now).unwrap();
            let is_there = |it: &ListenerFacts| {
                (it.protocol, it.address, it.port) == (Protocol::Tcp, address.ip(), address.port())
            };
            facts.listeners.iter().any(is_there)
        };
        assert!(!sees(&around, false) || began.elapsed() >= MOMENT, "it was asked before");
        assert!(sees(&around, true));
        std::thread::sleep(MOMENT);
        assert!(sees(&around, false), "a moment is over");
        assert!(sees(&Surroundings::default(), false), "nobody has asked");
    }
}
