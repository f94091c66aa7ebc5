//! `netrec status`: how what is there compares with what is wanted.

use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::load::load;
use super::{Exit, Format, Input, output, plan};
use crate::apply::{Target, look};
use crate::kernel::linux::Linux;
use crate::kernel::privilege;

/// Compare with the live kernel and say whether it is in sync.
///
/// `in sync`: nothing to do. `drifted`: the kernel holds something else, or nothing yet. `pending`: all is there but for
/// containers that have not come.
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
    state: &'static str,
    pending: Vec<&'a str>,
    drift: serde_json::Value,
}

impl Status {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let format = self.input.output.format;
        let loaded = load(&self.input.paths)?;
        privilege::check()?;
        let prepared = look(&mut Linux::default(), Target::Topology(&loaded.topology))
            .map_err(|no_plan| Failure::unplanned(no_plan, &loaded.sources))?;
        let (drifted, waiting) = (!prepared.diff.is_empty(), !prepared.desired.pending.is_empty());
        let state = match (drifted, waiting) {
            (true, _) => "drifted",
            (false, true) => "pending",
            (false, false) => "in sync",
        };
        let name = &loaded.topology.name;
        match format {
            Format::Text => {
                let mut text = format!("topology {name}: {state}\n");
                if drifted || waiting || !prepared.desired.notes.is_empty() {
                    text += &plan::text(&prepared);
                }
                output::say(&text);
            }
            Format::Json => output::say_json(&Standing {
                version: 1,
                topology: name,
                state,
                pending: prepared.desired.pending.iter().map(|it| it.container.as_str()).collect(),
                drift: serde_json::to_value(plan::json(&prepared, &loaded)).expect("our own types have string keys"),
            }),
        }
        Ok(if self.exit_code && (drifted || waiting) { Exit::Differs } else { Exit::Done })
    }
}
