//! `netrec suspend`: have the watcher write nothing for a while.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::control::{Question, Verb, demand};
use super::duration::duration;
use super::failure::Failure;
use super::load::load;
use super::{Exit, Output, output};

/// Which watcher.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["paths", "topology"]))]
pub(super) struct Watched {
    /// Files, or directories of `*.toml`, that make one topology.
    #[arg(value_name = "PATH")]
    pub(super) paths: Vec<PathBuf>,
    /// The topology's name.
    #[arg(long, value_name = "NAME")]
    pub(super) topology: Option<String>,
    #[command(flatten)]
    pub(super) output: Output,
}

impl Watched {
    /// The topology's name.
    pub(super) fn name(&self) -> Result<String, Failure> {
        match &self.topology {
            Some(name) => Ok(name.clone()),
            None => Ok(load(&self.paths)?.topology.name),
        }
    }
}

/// Have the watcher of a topology write nothing until `resume`, or for a time; it goes on looking.
#[derive(Args, Debug)]
pub(super) struct Suspend {
    #[command(flatten)]
    pub(super) watched: Watched,
    /// Resume by itself after that time.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    time: Option<Duration>,
}

impl Suspend {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        tell(&self.watched, Verb::Suspend, self.time)
    }
}

/// Tells the watcher, and says how it stands then.
pub(super) fn tell(watched: &Watched, verb: Verb, time: Option<Duration>) -> Result<Exit, Failure> {
    let name = watched.name()?;
    let for_ms = time.map(|time| time.as_millis() as u64);
    let answer = demand(&name, &Question { for_ms, ..Question::new(verb) })?;
    match watched.output.format {
        super::Format::Json => output::say_json(&answer),
        super::Format::Text => {
            let until = answer.standing.until_s.map(|left| format!(" for {left} s more")).unwrap_or_default();
            output::say(&format!("topology {name}: {}{until}\n", answer.standing.state));
        }
    }
    Ok(Exit::Done)
}
