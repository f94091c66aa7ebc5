//! `netrec wait`: until all is as it should be.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use super::control::{Answer, Question, Verb, demand, told};
use super::duration::duration;
use super::failure::Failure;
use super::load::read_all;
use super::suspend::Watched;
use super::{Exit, output};
use crate::apply::watch::Content;
use crate::apply::watch::standing::State;

/// Between two questions.
const ASK: Duration = Duration::from_millis(50);

/// Wait until the watcher of a topology sees everything in sync with what its files say by now; ends with 6 if that takes
/// too long.
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
            let followed = if state == State::InSync { self.is_followed(&answer) } else { Ok(false) };
            let done = matches!(followed, Ok(true));
            if !done && !late {
                std::thread::sleep(ASK);
                continue;
            }
            let with = if followed? || state != State::InSync { String::new() } else { self.other(&answer) };
            match self.watched.output.format {
                super::Format::Json => output::say_json(&answer),
                super::Format::Text => output::say(&format!("topology {name}: {state}{with}\n")),
            }
            return Ok(if done { Exit::Done } else { Exit::NotConverged });
        }
    }

    /// Whether what the watcher keeps up is what the files say by now: of what was written a moment ago it may not have
    /// heard yet.
    fn is_followed(&self, answer: &Answer) -> Result<bool, Failure> {
        let files = || answer.files.iter().map(PathBuf::from).collect();
        let paths = if self.watched.paths.is_empty() { files() } else { self.watched.paths.clone() };
        Ok(answer.standing.digest == Some(Content::digest(&read_all(&paths)?)))
    }

    /// What it keeps up instead.
    fn other(&self, answer: &Answer) -> String {
        let asked = told(&self.watched.paths);
        if asked.is_empty() || asked == answer.files {
            return " with what the files said before".into();
        }
        format!(" with what other files say: {}", answer.files.join(" "))
    }
}
