//! `netrec status`: how what is there compares with what is wanted.

use clap::Args;
use serde::Serialize;

use super::control::{self, Answer, PATIENCE, Question, Verb};
use super::failure::Failure;
use super::load::load;
use super::{Exit, Format, Input, output, plan};
use crate::apply::confirm::guard;
use crate::apply::history::{History, Record};
use crate::apply::watch::standing::State;
use crate::apply::{Target, look, watch};
use crate::kernel::linux::Linux;
use crate::kernel::privilege;
use crate::model::diagnostic::{printable, printable_lines};

/// Compare with the live kernel and say whether it is in sync.
///
/// `in sync`: nothing to do. `drifted`: the kernel holds something else, or nothing yet. `pending`: all is there but for
/// containers that have not come. Of a topology that is watched, its watcher may know more: `failed`, `contested`,
/// `degraded` or `suspended`. Where the files cannot be followed, what it keeps up and why is told all the same.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  netrec status shop.toml
  netrec status --exit-code shop.toml || alert     2 unless in sync
  netrec status --format json shop.toml | jq -r .state")]
pub(super) struct Status {
    #[command(flatten)]
    pub(super) input: Input,
    /// End with 2 unless everything is in sync.
    #[arg(long)]
    exit_code: bool,
}

#[derive(Serialize)]
struct Standing<'a> {
    version: u32,
    topology: &'a str,
    state: &'a str,
    pending: Vec<&'a str>,
    /// What its watcher says, if it is watched.
    watcher: Option<&'a Answer>,
    /// How the guard of an apply stands that waits to be confirmed.
    confirm: Option<guard::Answer>,
    /// The rollback that was the last thing done.
    rolled_back: Option<Record>,
    /// Null where the files cannot be compared with what is there.
    drift: serde_json::Value,
}

impl Status {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let format = self.input.output.format;
        let loaded = match load(&self.input.paths) {
            Ok(loaded) => loaded,
            Err(failure) => return self.as_followed(failure),
        };
        privilege::check()?;
        let prepared = match look(&mut Linux::default(), Target::Topology(&loaded.topology)) {
            Ok(prepared) => prepared,
            Err(no_plan) => return self.as_followed(Failure::unplanned(no_plan, &loaded.sources)),
        };
        let (drifted, waiting) = (!prepared.diff.is_empty(), !prepared.desired.pending.is_empty());
        let state = match (drifted, waiting) {
            (true, _) => "drifted",
            (false, true) => "pending",
            (false, false) => "in sync",
        };
        let name = &loaded.topology.name;
        let watcher = control::ask(name, &Question::new(Verb::Status), PATIENCE)?;
        let stand = watcher.as_ref().map(|answer| &answer.standing).filter(|standing| is_worse(standing.state));
        let state = stand.map_or_else(|| state.to_owned(), |standing| standing.state.to_string());
        let (confirm, rolled_back) = decided(name);
        match format {
            Format::Text => {
                let mut text = format!("topology {name}: {state}\n");
                text += &decisions(confirm.as_ref(), rolled_back.as_ref());
                text += &watcher.as_ref().map(|answer| watched(&answer.standing)).unwrap_or_default();
                if drifted || waiting || !prepared.desired.notes.is_empty() {
                    text += &plan::text(&prepared);
                }
                output::say(&text);
            }
            Format::Json => output::say_json(&Standing {
                version: 1,
                topology: name,
                state: &state,
                watcher: watcher.as_ref(),
                confirm,
                rolled_back,
                pending: prepared.desired.pending.iter().map(|it| it.container.as_str()).collect(),
                drift: serde_json::to_value(plan::json(&prepared, &loaded)).expect("our own types have string keys"),
            }),
        }
        Ok(if self.exit_code && (drifted || waiting || stand.is_some()) { Exit::Differs } else { Exit::Done })
    }

    /// What the files say cannot be compared with anything; if they are watched, what was good is kept up.
    fn as_followed(&self, failure: Failure) -> Result<Exit, Failure> {
        let Some((name, answer)) = control::followed(&self.input.paths) else { return Err(failure) };
        let standing = &answer.standing;
        let state = standing.state.to_string();
        let (confirm, rolled_back) = decided(&name);
        match self.input.output.format {
            Format::Text => {
                let decisions = decisions(confirm.as_ref(), rolled_back.as_ref());
                output::say(&format!("topology {name}: {state}\n{decisions}{}", watched(standing)));
            }
            Format::Json => output::say_json(&Standing {
                version: 1,
                topology: &name,
                state: &state,
                pending: standing.pending.keys().map(String::as_str).collect(),
                watcher: Some(&answer),
                confirm,
                rolled_back,
                drift: serde_json::Value::Null,
            }),
        }
        Ok(failure.report(Format::Text))
    }
}

/// What waits to be confirmed, and the rollback that was the last thing done.
fn decided(topology: &str) -> (Option<guard::Answer>, Option<Record>) {
    // One that does not answer is going back, which is told when it is done.
    let confirm = guard::ask(topology, guard::Question::Status).ok().flatten();
    (confirm, History::default().last(topology).filter(|record| record.command == "rollback"))
}

/// Whether a watcher's state says what a look cannot see.
fn is_worse(state: State) -> bool {
    matches!(state, State::Failed | State::Contested | State::Degraded | State::Suspended)
}

/// What waits to be confirmed, and what was not, for people.
fn decisions(confirm: Option<&guard::Answer>, rolled_back: Option<&Record>) -> String {
    match (confirm, rolled_back) {
        (Some(guard::Answer::Pending { until, who }), _) => {
            format!("to be confirmed until {}, else it is rolled back; applied by {who}\n", output::utc(*until))
        }
        (Some(_), _) => "being applied, to be confirmed then\n".into(),
        (None, Some(Record { when, digest, result, .. })) => {
            format!("at {} {} was {result}\n", output::utc(*when), digest.as_deref().unwrap_or("something"))
        }
        (None, None) => String::new(),
    }
}

/// What a watcher has to say, for people.
fn watched(standing: &watch::standing::Standing) -> String {
    let counters = &standing.counters;
    let mut text = format!("watched: {} changes healed, {} asked for\n", counters.corrective, counters.intentional);
    let unguarded = &standing.unguarded;
    if let Some(last) = unguarded.last_ms {
        let (times, total) = (unguarded.times, unguarded.total_ms);
        text += &format!("without the firewall: {times} times, {total} ms in all, {last} ms the last time\n");
    }
    if let Some(by_now) = unguarded.now_ms {
        text += &format!("without the firewall: for {by_now} ms by now\n");
    }
    if let Some(reason) = &standing.reason {
        text += &format!("degraded: {}\n", printable_lines(reason));
    }
    for id in &standing.contested {
        let by = printable(standing.undone_by.get(id).map_or("somebody", String::as_str));
        text += &format!("contested: {id}: {by} keeps undoing it\n");
    }
    for (id, why) in &standing.failed {
        text += &format!("failed: {id}: {}\n", printable(why));
    }
    if let Some(left) = standing.until_s {
        text += &format!("{}: for {left} s more\n", standing.state);
    }
    text
}
