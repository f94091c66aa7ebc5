//! Words to people: arguments, the user's files, output and exit codes. The only room that prints.
//!
//! What a command found out goes to stdout; diagnostics, progress and logs go to stderr. One file a command.

mod apply;
mod check;
mod destroy;
mod failure;
mod load;
mod output;
mod plan;
mod show;
mod status;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use self::failure::Failure;

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
    /// Somebody else is writing.
    Busy = 8,
    /// Missing privilege or kernel feature, nothing touched.
    Unable = 10,
    /// Wrong arguments.
    Usage = 64,
}

/// A declarative reconciler for container networks on Linux.
///
/// Networks, endpoints and containers are written in TOML; netrec compares them with the live kernel and does what is
/// missing, in order, and nothing else.
#[derive(Parser, Debug)]
#[command(name = "netrec", version, max_term_width = 100)]
struct Arguments {
    /// Say more on stderr: once for steps, twice for messages. `RUST_LOG` says it in detail.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Check(check::Check),
    Plan(plan::Plan),
    Apply(apply::Apply),
    Destroy(destroy::Destroy),
    Status(status::Status),
    Show(show::Show),
    /// Print the JSON Schema of topology files, for editors.
    Schema,
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
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
    /// Seconds to wait for another netrec that is writing.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    lock_timeout: u64,
}

impl Writing {
    fn timeout(self) -> Duration {
        Duration::from_secs(self.lock_timeout)
    }
}

/// Runs the program; the result is its exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let text = error.to_string();
            if error.use_stderr() {
                output::complain(&text);
            } else {
                output::say(&text);
            }
            return if error.use_stderr() { Exit::Usage } else { Exit::Done } as i32;
        }
    };
    output::log(arguments.verbose);
    let exit = match arguments.command {
        Command::Check(check) => check.run(),
        Command::Plan(plan) => plan.run(),
        Command::Apply(apply) => apply.run(),
        Command::Destroy(destroy) => destroy.run(),
        Command::Status(status) => status.run(),
        Command::Show(show) => show.run(),
        Command::Schema => {
            output::say(&format!("{:#}\n", crate::model::schema::schema()));
            Ok(Exit::Done)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "netrec", &mut script);
            output::say(&String::from_utf8_lossy(&script));
            Ok(Exit::Done)
        }
    };
    exit.unwrap_or_else(Failure::report) as i32
}
