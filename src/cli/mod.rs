//! Words to people: arguments, the user's files, output and exit codes. The only room that prints.
//!
//! What a command found out goes to stdout; diagnostics, progress and logs go to stderr. One file a command.

mod apply;
mod aside;
mod check;
mod confirm;
mod control;
mod destroy;
mod duration;
mod failure;
mod guard;
mod history;
mod load;
mod outcome;
mod output;
mod plan;
mod rehearse;
mod resume;
mod rollback;
mod show;
mod status;
mod suspend;
mod trace;
mod wait;
mod watch;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use self::failure::Failure;
use crate::apply::Prepared;
use crate::apply::rails::Allowance;
use crate::kernel::descriptors;
use crate::kernel::surroundings::Surroundings;
use crate::model::diagnostic::Diagnostic;
use crate::model::topology::Topology;

/// How netrec ends (contract: DESIGN section 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub enum Exit {
    /// Done, converged, or nothing to do.
    Done = 0,
    /// Unexpected failure.
    Unexpected = 1,
    /// Changes or drift exist; only with `--exit-code`.
    Differs = 2,
    /// Configuration invalid, nothing touched.
    Invalid = 3,
    /// Refused by a safety rail, nothing touched.
    Refused = 4,
    /// Some steps failed.
    Partial = 5,
    /// Applied but not converged or not verified, or something is waited for.
    NotConverged = 6,
    /// Failed, and rolled back completely.
    RolledBack = 7,
    /// Somebody else is writing, or a confirm is pending.
    Busy = 8,
    /// Missing privilege or kernel feature, nothing touched.
    Unable = 10,
    /// Failed, and the rollback is incomplete.
    RollbackIncomplete = 11,
    /// Wrong arguments.
    Usage = 64,
}

/// A declarative reconciler for container networks on Linux.
///
/// Networks, endpoints and containers are written in TOML; netrec compares them with the live kernel and does what is
/// missing, in order, and nothing else. It keeps no state of its own: what it made bears a mark in the kernel.
#[derive(Parser, Debug)]
#[command(name = "netrec", version, max_term_width = 100, after_help = AFTER)]
struct Arguments {
    /// Say more on stderr: once for steps, twice for what leads to them. `RUST_LOG` says it in detail.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

impl Arguments {
    /// What is said of a command is put together when it is given; for help, that of all.
    fn read(arguments: &[OsString]) -> Result<Self, clap::Error> {
        Self::try_parse_from(arguments)
            .map_err(|error| Self::told().try_get_matches_from(arguments).err().unwrap_or(error))
    }

    /// The arguments, with a line on each command, which its own deferred definition would only give when it is given.
    fn told() -> clap::Command {
        Self::command().mut_subcommands(|command| {
            let mut built = command.clone();
            built.build();
            command.about(built.get_about().cloned().unwrap_or_default())
        })
    }

    /// The same without commands that are not for people.
    fn offered() -> clap::Command {
        let told = Self::told();
        let commands = told.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
        let arguments = told.get_arguments().cloned();
        clap::Command::new("netrec").version(env!("CARGO_PKG_VERSION")).args(arguments).subcommands(commands)
    }
}

/// What help ends with.
const AFTER: &str = "\
Examples:
  netrec check shop.toml      is it right in itself?
  netrec rehearse shop.toml   try it for real on a host to throw away; needs no privilege
  netrec plan shop.toml       what would change on this host?
  netrec apply shop.toml      change it, and look again
  netrec status shop.toml     is it still so?
  netrec watch shop.toml      keep it so
  netrec destroy shop.toml    take it all away again

Exit codes:
  0   done, converged, or nothing to do
  1   unexpected failure
  2   there is something to do (only with --exit-code)
  3   the topology is invalid; nothing was touched
  4   refused: it contradicts what is live, or somebody said no; nothing was touched
  5   some steps failed; the next apply goes on
  6   applied, but not converged, not verified, or something is waited for
  7   failed, and rolled back completely (only with --confirm)
  8   busy: another netrec is writing or watching, or what was applied waits to be confirmed
  10  a privilege or a feature of the kernel is missing; nothing was touched
  11  failed, and the rollback is incomplete: look now
  64  wrong arguments";

#[derive(Subcommand, Debug)]
#[command(defer = true)]
enum Command {
    Check(check::Check),
    Plan(plan::Plan),
    Apply(apply::Apply),
    Destroy(destroy::Destroy),
    Status(status::Status),
    Show(show::Show),
    Trace(trace::Trace),
    Rehearse(rehearse::Rehearse),
    Confirm(confirm::Confirm),
    Rollback(rollback::Rollback),
    History(history::History),
    #[command(hide = true)]
    Guard(guard::Guard),
    Watch(watch::Watch),
    Suspend(suspend::Suspend),
    Resume(resume::Resume),
    Wait(wait::Wait),
    /// Print the JSON Schema of topology files, for editors.
    #[command(after_help = "\
Example, for editors that know Taplo or Even Better TOML:
  netrec schema > netrec.schema.json
  and as the first line of the topology: #:schema ./netrec.schema.json")]
    Schema,
    /// Print completions for a shell.
    #[command(after_help = "\
Examples:
  source <(netrec completions bash)
  netrec completions zsh > \"${fpath[1]}/_netrec\"
  netrec completions fish > ~/.config/fish/completions/netrec.fish")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// The form in which the command tells of its failure, too.
    fn format(&self) -> Format {
        match self {
            Self::Check(check) => check.input.output.format,
            Self::Plan(plan) => plan.format(),
            Self::Apply(apply) => apply.input.output.format,
            Self::Destroy(destroy) => destroy.output.format,
            Self::Status(status) => status.input.output.format,
            Self::Show(show) => show.output.format,
            Self::Trace(trace) => trace.output.format,
            Self::Rehearse(rehearse) => rehearse.input.output.format,
            Self::Confirm(confirm) => confirm.output.format,
            Self::Rollback(rollback) => rollback.output.format,
            Self::History(history) => history.output.format,
            Self::Guard(_) | Self::Schema | Self::Completions { .. } => Format::Text,
            Self::Watch(watch) => watch.input.output.format,
            Self::Suspend(suspend) => suspend.watched.output.format,
            Self::Resume(resume) => resume.watched.output.format,
            Self::Wait(wait) => wait.watched.output.format,
        }
    }

    fn run(self, around: Arc<Surroundings>) -> Result<Exit, Failure> {
        match self {
            Self::Check(check) => check.run(),
            Self::Plan(plan) => plan.run(),
            Self::Apply(apply) => apply.run(around),
            Self::Destroy(destroy) => destroy.run(around),
            Self::Status(status) => status.run(),
            Self::Show(show) => show.run(),
            Self::Trace(trace) => trace.run(),
            Self::Rehearse(rehearse) => rehearse.run(),
            Self::Confirm(confirm) => confirm.run(),
            Self::Rollback(rollback) => rollback.run(),
            Self::History(history) => history.run(),
            Self::Guard(guard) => guard.run(),
            Self::Watch(watch) => watch.run(),
            Self::Suspend(suspend) => suspend.run(),
            Self::Resume(resume) => resume.run(),
            Self::Wait(wait) => wait.run(),
            Self::Schema => {
                output::say(&format!("{:#}\n", crate::model::schema::schema()));
                Ok(Exit::Done)
            }
            Self::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Arguments::offered(), "netrec", &mut script);
                output::say(&String::from_utf8_lossy(&script));
                Ok(Exit::Done)
            }
        }
    }
}

/// Form of the output.
#[derive(Clone, Copy, PartialEq, Eq, Default, ValueEnum, Debug)]
enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one object with `version` 1.
    Json,
}

/// What names a topology and a form of output.
#[derive(Args, Debug)]
struct Input {
    /// Files, or directories of `*.toml`, that make one topology.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Clone, Copy, Debug)]
struct Output {
    /// Form of the output.
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    format: Format,
}

/// What commands that write have in common.
#[derive(Args, Clone, Copy, Debug)]
struct Writing {
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// How long to wait for another netrec that is writing.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = duration::duration)]
    lock_timeout: Duration,
}

/// What may be let through the safety rails.
#[derive(Args, Clone, Copy, Debug)]
struct Allowing {
    /// Let so many networks, containers and endpoints go, or `all`.
    #[arg(long, value_name = "N", value_parser = deletes)]
    allow_deletes: Option<usize>,
    #[command(flatten)]
    cutting: Cutting,
}

#[derive(Args, Clone, Copy, Debug)]
struct Cutting {
    /// Let the SSH session be cut off that netrec is run in.
    #[arg(long)]
    allow_self_cut: bool,
}

impl Allowing {
    /// For a plan. Tables of connections are not walked where nothing could cut one, or all may.
    fn allowance(self, prepared: &Prepared, around: &Surroundings) -> Allowance {
        let self_cut = self.cutting.allow_self_cut;
        let sessions = if self_cut || prepared.diff.is_empty() { Vec::new() } else { around.sessions() };
        Allowance { deletes: self.allow_deletes, self_cut, sessions }
    }
}

fn deletes(text: &str) -> Result<usize, String> {
    if text == "all" { Ok(usize::MAX) } else { text.parse().map_err(|_| "a number, or `all`".to_owned()) }
}

/// The name of a topology, as an argument.
fn topology_name(name: &str) -> Result<String, String> {
    let plain = Topology::is_name(name);
    let rule = "a topology is named with 1 to 32 of `a-z`, `0-9` and `-`, and not `user`";
    if plain { Ok(name.to_owned()) } else { Err(rule.into()) }
}

/// Whether a command is given that writes. What it wants to know can be asked for before all else is understood.
fn writes(arguments: &[OsString]) -> bool {
    let mut words = arguments.iter().skip(1).filter(|it| !it.to_string_lossy().starts_with('-'));
    let asks = arguments.iter().any(|it| it == "-h" || it == "--help" || it == "-V" || it == "--version");
    words.next().is_some_and(|command| command == "apply" || command == "destroy") && !asks
}

/// Runs the program; the result is its exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    descriptors::make_room();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // Arguments that cannot be understood may still say for whom the answer is.
    let json = arguments.iter().any(|it| it == "--format=json")
        || arguments.windows(2).any(|pair| pair[0] == "--format" && pair[1] == "json");
    let around = if writes(&arguments) { Surroundings::begin() } else { Arc::default() };
    let arguments = match Arguments::read(&arguments) {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => {
            let text = error.to_string();
            output::complain(&text);
            if json {
                // The rest is how to use it.
                let words: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
                let message = words.join(" ").trim_start_matches("error: ").to_owned();
                Failure::new(Exit::Usage, Diagnostic::new(message)).tell_programs();
            }
            return Exit::Usage as i32;
        }
        Err(help) => {
            output::say(&help.to_string());
            return Exit::Done as i32;
        }
    };
    output::log(arguments.verbose);
    let format = arguments.command.format();
    let exit = arguments.command.run(around).unwrap_or_else(|failure| failure.report(format));
    output::end();
    match (output::unsaid(), exit) {
        (Some(why), Exit::Done | Exit::Differs) => {
            output::complain(&format!("error: cannot write to stdout: {why}\n"));
            Exit::Unexpected as i32
        }
        _ => exit as i32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_for_a_command_that_writes_something_begins_before_arguments_are_understood() {
        let given = |line: &str| writes(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        for writes in ["netrec apply a.toml", "netrec -v apply --yes a.toml", "netrec destroy --topology shop"] {
            assert!(given(writes), "{writes}");
        }
        let others = [
            "netrec",
            "netrec plan apply",
            "netrec apply --help",
            "netrec destroy -h",
            "netrec --version",
            "netrec help apply",
        ];
        for other in others {
            assert!(!given(other), "{other}");
        }
    }
}
