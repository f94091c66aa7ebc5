//! `netrec wait`: until all is as it should be.

use std::time::{Duration, Instant};

use clap::Args;

use super::control::{Question, Verb, demand};
use super::duration::duration;
use super::failure::Failure;
use super::suspend::Watched;
use super::{Exit, output};
use crate::apply::watch::standing::State;

/// Between two questions.
const ASK: Duration = Duration::from_millis(50);

/// Wait until the watcher of a topology sees everything in sync; ends with 6 if that takes too long.
#[derive(Args, Debug)]
pub(super) struct Wait {
    #[command(flatten)]
    pub(super) watched: Watched,
    /// How long to wait.
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = duration)]
    timeout: Duration,
}

impl Wait {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let name = self.watched.name()?;
        let until = Instant::now() + self.timeout;
        loop {
            let answer = demand(&name, &Question::new(Verb::Status))?;
            let (state, late) = (answer.standing.state, Instant::now() >= until);
            if state != State::InSync && !late {
                std::thread::sleep(ASK);
                continue;
            }
            match self.watched.output.format {
                super::Format::Json => output::say_json(&answer),
                super::Format::Text => output::say(&format!("topology {name}: {state}\n")),
            }
            return Ok(if state == State::InSync { Exit::Done } else { Exit::NotConverged });
        }
    }
}
