//! What is around a run and no step of it changes: who listens, files of rules, and the connections it is run through.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use super::{KernelError, beside, listeners, neighbours, session};
use crate::model::observed::Session;
use crate::model::wire::{Facts, ListenerFacts, RulesetFacts};

/// How long what others do is taken for unchanged.
pub(super) const MOMENT: Duration = Duration::from_secs(1);

type Beside = (Vec<ListenerFacts>, Vec<RulesetFacts>);

/// An answer, and when it was asked for.
type Asked<T> = LazyLock<(Instant, T)>;

/// Asked when somebody wants to know, and believed until a moment later; from then on it is asked each time. Who comes while
/// another thread asks waits for that.
#[derive(Debug)]
pub struct Surroundings {
    beside: Asked<Result<Beside, KernelError>>,
    sockets: Asked<BTreeSet<u64>>,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            beside: LazyLock::new(|| (Instant::now(), beside())),
            sockets: LazyLock::new(|| (Instant::now(), session::sockets())),
        }
    }
}

impl Surroundings {
    /// Asked for from now on, by another thread; where none is to be had, by who wants to know.
    pub fn begin() -> Arc<Self> {
        let around = Arc::new(Self::default());
        let asks = Arc::clone(&around);
        let _ = beside::spawn("around", move || asks.ask());
        around
    }

    /// Asks what every run wants to know, in that order.
    fn ask(&self) {
        LazyLock::force(&self.beside);
        LazyLock::force(&self.sockets);
    }

    /// The connections that netrec is run through.
    pub fn sessions(&self) -> Vec<Session> {
        recent(&self.sockets).map_or_else(|| session::of(&session::sockets()), session::of)
    }

    /// Fills in who listens, and files of rules, of now or of a moment ago.
    pub(super) fn fill(&self, facts: &mut Facts, now: bool) -> Result<(), KernelError> {
        let known = if now { None } else { recent(&self.beside).and_then(|known| known.as_ref().ok()) };
        (facts.listeners, facts.rulesets) = known.map_or_else(beside, |known| Ok(known.clone()))?;
        Ok(())
    }
}

fn beside() -> Result<Beside, KernelError> {
    Ok((listeners::all()?, neighbours::rulesets()))
}

/// What is not older than a moment; it is asked for if nobody has.
fn recent<T>(asked: &Asked<T>) -> Option<&T> {
    let (at, answer) = beside::wait(|| LazyLock::force(asked));
    (at.elapsed() < MOMENT).then_some(answer)
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
