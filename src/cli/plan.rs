//! `netrec plan`: what would be done.

use clap::{Args, ValueEnum};

use super::failure::Failure;
use super::load::{Loaded, load};
use super::{Allowing, Exit, Format, output};
use crate::apply::{NoPlan, Prepared, Target, look, rails};
use crate::diff::render::{self, Context, Summary};
use crate::diff::unified;
use crate::kernel::linux::Linux;
use crate::kernel::privilege;
use crate::model::diagnostic::printable;

/// Compare with the live kernel and print what would be done; writes nothing anywhere.
///
/// One line a change: `+` is made, `~` changes in place, `±` is made anew, `-` is removed.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  netrec plan shop.toml
  netrec plan --exit-code shop.toml        2 if there is something to do
  netrec plan --format diff shop.toml      what is there against what is wanted
  netrec plan --destroy shop.toml")]
pub(super) struct Plan {
    /// Files, or directories of `*.toml`, that make one topology.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<std::path::PathBuf>,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    format: Form,
    /// End with 2 if there is something to do.
    #[arg(long)]
    exit_code: bool,
    /// Plan the removal of everything that bears the topology's mark.
    #[arg(long)]
    destroy: bool,
    #[command(flatten)]
    allowing: Allowing,
}

/// Forms of a plan.
#[derive(Clone, Copy, Default, ValueEnum, Debug)]
enum Form {
    /// For people.
    #[default]
    Text,
    /// For programs: one object with `version` 1.
    Json,
    /// What is there against what is wanted, as diff(1) compares texts.
    Diff,
}

impl Plan {
    /// The form in which failures are told.
    pub(super) fn format(&self) -> Format {
        if matches!(self.format, Form::Json) { Format::Json } else { Format::Text }
    }

    pub(super) fn run(self) -> Result<Exit, Failure> {
        let loaded = load(&self.paths)?;
        privilege::check()?;
        let topology = &loaded.topology;
        let target =
            if self.destroy { Target::Nothing(&topology.name, Some(topology)) } else { Target::Topology(topology) };
        let unplanned = |no_plan| Failure::unplanned(no_plan, &loaded.sources);
        let mut kernel = Linux::default();
        let prepared = look(&mut kernel, target).map_err(unplanned)?;
        let held = rails::check(&prepared, target, &self.allowing.allowance(&prepared, kernel.around()));
        if let (Err(findings), Form::Json) = (held.clone(), self.format) {
            return Err(unplanned(NoPlan::Refused(findings)));
        }
        match self.format {
            Form::Json => output::say_json(&json(&prepared, &loaded)),
            Form::Text => output::say(&text(&prepared)),
            Form::Diff => {
                let states = (&prepared.observed.ours, &prepared.desired.state);
                output::say(&output::coloured(&unified::text(states, &prepared.diff)));
            }
        }
        // The plan is told all the same: it shows what the rails hold against.
        held.map_err(|findings| unplanned(NoPlan::Refused(findings)))?;
        let differs = !prepared.diff.is_empty();
        output::leave((prepared, loaded));
        Ok(if self.exit_code && differs { Exit::Differs } else { Exit::Done })
    }
}

/// The plan for programs.
pub(super) fn json<'a>(prepared: &'a Prepared, loaded: &'a Loaded) -> render::Json<'a> {
    let context = Context {
        topology: &prepared.desired.topology,
        origins: &prepared.desired.origins,
        sources: &loaded.sources,
        notes: &prepared.desired.notes,
        foreign: prepared.observed.foreign.count(),
    };
    render::json(&prepared.diff, &context)
}

/// The plan for people, with what they should know.
pub(super) fn text(prepared: &Prepared) -> String {
    told(prepared, &render::text(&prepared.diff))
}

/// The same, of changes that are text already.
pub(super) fn told(prepared: &Prepared, changes: &str) -> String {
    let mut text = output::coloured(changes);
    if prepared.diff.is_empty() {
        text += "nothing to do\n";
    } else {
        text += &format!("plan: {}\n", Summary::of(&prepared.diff, 0));
    }
    for note in &prepared.desired.notes {
        text += &format!("note: {}\n", printable(note));
    }
    for pending in &prepared.desired.pending {
        text += &format!("pending: container {}: {}\n", pending.container, printable(&pending.reason));
    }
    text
}
