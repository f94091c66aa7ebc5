//! `netrec plan`: what would be done.

use clap::Args;

use super::failure::Failure;
use super::load::{Loaded, load};
use super::{Exit, Format, Input, output};
use crate::apply::{Prepared, Target, prepare};
use crate::diff::render::{self, Context, Summary};
use crate::kernel::linux::Linux;
use crate::kernel::privilege;

/// Compare with the live kernel and print what would be done; writes nothing anywhere.
#[derive(Args, Debug)]
pub(super) struct Plan {
    #[command(flatten)]
    input: Input,
    /// End with 2 if there is something to do.
    #[arg(long)]
    exit_code: bool,
    /// Plan the removal of everything that bears the topology's mark.
    #[arg(long)]
    destroy: bool,
}

impl Plan {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let format = self.input.output.format;
        let loaded = load(&self.input.paths).map_err(|failure| failure.in_form(format))?;
        privilege::check().map_err(Failure::Kernel)?;
        let topology = &loaded.topology;
        let target =
            if self.destroy { Target::Nothing(&topology.name, Some(topology)) } else { Target::Topology(topology) };
        let prepared = prepare(&mut Linux::default(), target)
            .map_err(|no_plan| Failure::of(no_plan, &loaded.sources).in_form(format))?;
        match format {
            Format::Json => output::say_json(&render::json(&prepared.diff, &context(&prepared, &loaded))),
            Format::Text => output::say(&text(&prepared)),
        }
        Ok(if self.exit_code && !prepared.diff.is_empty() { Exit::Differs } else { Exit::Done })
    }
}

/// What the JSON form says beyond the difference.
pub(super) fn context<'a>(prepared: &'a Prepared, loaded: &'a Loaded) -> Context<'a> {
    Context {
        topology: &prepared.desired.topology,
        origins: &prepared.desired.origins,
        sources: &loaded.sources,
        notes: &prepared.desired.notes,
        foreign: prepared.observed.foreign.count(),
    }
}

/// The plan for people, with what they should know.
pub(super) fn text(prepared: &Prepared) -> String {
    let mut text = output::coloured(&render::text(&prepared.diff));
    if prepared.diff.is_empty() {
        text += "nothing to do\n";
    } else {
        text += &format!("plan: {}\n", Summary::of(&prepared.diff, 0));
    }
    for note in &prepared.desired.notes {
        text += &format!("note: {note}\n");
    }
    for pending in &prepared.desired.pending {
        text += &format!("pending: container {}: {}\n", pending.container, pending.reason);
    }
    text
}
