//! How commands fail: what people are told, and the exit code that it stands for.

use serde::Serialize;

use super::{Exit, Format, output};
use crate::apply::NoPlan;
use crate::diff::plan::Flaw;
use crate::kernel::KernelError;
use crate::model::diagnostic::{Diagnostics, render};
use crate::model::source::Sources;

/// Why a command did not do what it was asked for.
pub(super) enum Failure {
    /// The topology is wrong.
    Invalid { findings: Diagnostics, sources: Sources },
    /// The topology contradicts what is live.
    Refused { findings: Diagnostics, sources: Sources },
    /// The kernel does not let us.
    Kernel(KernelError),
    /// Somebody else is writing.
    Busy,
    /// netrec is wrong.
    Flaw(Flaw),
    /// Anything else, for a person.
    Other(Exit, String),
}

impl Failure {
    /// Adds the text that findings point at.
    pub(super) fn of(no_plan: NoPlan, sources: &Sources) -> Self {
        match no_plan {
            NoPlan::Invalid(findings) => Self::Invalid { findings, sources: sources.clone() },
            NoPlan::Refused(findings) => Self::Refused { findings, sources: sources.clone() },
            NoPlan::Unseen(error) => Self::Kernel(error),
            NoPlan::Flawed(flaw) => Self::Flaw(flaw),
        }
    }

    /// Tells people, and says how to end.
    pub(super) fn report(self) -> Exit {
        let (exit, text) = match self {
            Self::Invalid { findings, sources } => (Exit::Invalid, render(&findings, &sources)),
            Self::Refused { findings, sources } => (Exit::Refused, render(&findings, &sources)),
            Self::Kernel(error) => (of_kernel(&error), format!("error: {error}\n{}", hint(&error))),
            Self::Busy => {
                (Exit::Busy, "error: another netrec is writing\n  = hint: wait longer with `--lock-timeout`\n".into())
            }
            Self::Flaw(flaw) => {
                let hint = "nothing was touched; this is a bug in netrec, please report it with the topology";
                (Exit::Unexpected, format!("error: the plan is wrong: {flaw}\n  = hint: {hint}\n"))
            }
            Self::Other(exit, text) => (exit, format!("error: {text}\n")),
        };
        output::complain(&text);
        exit
    }

    /// The same for programs where JSON was asked for, besides the words on stderr.
    pub(super) fn in_form(self, format: Format) -> Self {
        if format == Format::Json
            && let Self::Invalid { findings, sources } | Self::Refused { findings, sources } = &self
        {
            output::say_json(&Errors { version: 1, errors: findings.to_json(sources) });
        }
        self
    }
}

#[derive(Serialize)]
struct Errors<T> {
    version: u32,
    errors: T,
}

fn of_kernel(error: &KernelError) -> Exit {
    match error {
        KernelError::Unable(_) => Exit::Unable,
        _ => match error.errno() {
            Some(nix::errno::Errno::EPERM | nix::errno::Errno::EACCES) => Exit::Unable,
            _ => Exit::Unexpected,
        },
    }
}

fn hint(error: &KernelError) -> &'static str {
    match of_kernel(error) {
        Exit::Unable => "  = hint: run it as root, or try `netrec rehearse`, which needs no privilege\n",
        _ => "",
    }
}
