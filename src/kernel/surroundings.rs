//! What is around a run and no step of it changes: who listens, files of rules, and the connections it is run through.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::{KernelError, listeners, neighbours, session};
use crate::model::observed::Session;
use crate::model::wire::{Facts, ListenerFacts, RulesetFacts};

/// How long what others do is taken for unchanged.
pub(super) const MOMENT: Duration = Duration::from_secs(1);

type Beside = (Vec<ListenerFacts>, Vec<RulesetFacts>);

/// An answer, and when it was asked for.
type Asked<T> = LazyLock<(Instant, T)>;

/// Asked when somebody wants to know, and believed for a moment. Who comes while another thread asks waits for that.
#[derive(Debug)]
pub struct Surroundings {
    beside: Asked<Result<Beside, KernelError>>,
    sessions: Asked<Vec<Session>>,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            beside: LazyLock::new(|| (Instant::now(), beside())),
            sessions: LazyLock::new(|| (Instant::now(), session::find())),
        }
    }
}

impl Surroundings {
    /// Asks for all of it, in the order in which a run wants to know.
    pub fn ask(&self) {
        LazyLock::force(&self.beside);
        LazyLock::force(&self.sessions);
    }

    /// The connections that netrec is run through.
    pub fn sessions(&self) -> Vec<Session> {
        recent(&self.sessions).cloned().unwrap_or_else(session::find)
    }

    /// Fills in who listens, and files of rules, of now or of a moment ago.
    pub(super) fn tell(&self, facts: &mut Facts, now: bool) -> Result<(), KernelError> {
        let known = if now { None } else { recent(&self.beside) };
        (facts.listeners, facts.rulesets) = known.cloned().unwrap_or_else(beside)?;
        Ok(())
    }
}

fn beside() -> Result<Beside, KernelError> {
    Ok((listeners::all()?, neighbours::rulesets()))
}

/// What is not older than a moment; it is asked for if nobody has.
fn recent<T>(asked: &Asked<T>) -> Option<&T> {
    let (at, answer) = &**asked;
    (at.elapsed() < MOMENT).then_some(answer)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_listens_is_believed_for_a_moment() {
        let around = Surroundings::default();
        around.ask();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sees = |around: &Surroundings, now| {
            let mut facts = Facts::default();
            around.tell(&mut facts, now).unwrap();
            facts.listeners.iter().any(|it| it.port == port)
        };
        assert!(!sees(&around, false), "it was asked before");
        assert!(sees(&around, true));
        std::thread::sleep(MOMENT);
        assert!(sees(&around, false), "a moment is over");
        assert!(sees(&Surroundings::default(), false), "nobody has asked");
    }
}
