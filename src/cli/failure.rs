//! How commands fail: what people and programs are told, and the exit code that it stands for.

use std::io;

use nix::errno::Errno;
use serde::Serialize;

use super::{Exit, Format, output};
use crate::apply::{NoPlan, Report};
use crate::diff::plan::Flaw;
use crate::kernel::KernelError;
use crate::model::diagnostic::{self, Diagnostic, Diagnostics};
use crate::model::resource::ResourceId;
use crate::model::source::Sources;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(super) struct Failure {
    exit: Exit,
    errors: Vec<Error>,
    sources: Sources,
}

/// One finding, with what only the kernel's have.
#[derive(Debug)]
struct Error {
    finding: Diagnostic,
    id: Option<ResourceId>,
    errno: Option<Errno>,
}

/// An error for programs: the same fields whatever went wrong.
#[derive(Serialize)]
pub(super) struct Json {
    id: Option<String>,
    errno: Option<String>,
    #[serde(flatten)]
    finding: diagnostic::Json,
}

#[derive(Serialize)]
struct Errors {
    version: u32,
    errors: Vec<Json>,
}

impl Failure {
    /// One thing is wrong, and no file is to blame.
    pub(super) fn new(exit: Exit, finding: Diagnostic) -> Self {
        let errors = vec![Error { finding, id: None, errno: None }];
        Self { exit, errors, sources: Sources::new() }
    }

    /// Somebody, or some place, does not say what was asked: perhaps because not everybody may ask.
    pub(super) fn silent(who: &str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => KernelError::io(who, error).into(),
            _ => Self::new(Exit::Unexpected, Diagnostic::new(format!("{who}: {error}"))),
        }
    }

    /// The topology is wrong.
    pub(super) fn invalid(findings: Diagnostics, sources: &Sources) -> Self {
        Self::found(Exit::Invalid, findings, sources)
    }

    /// There is no plan; the sources are what findings point at.
    pub(super) fn unplanned(no_plan: NoPlan, sources: &Sources) -> Self {
        match no_plan {
            NoPlan::Invalid(findings) => Self::invalid(findings, sources),
            NoPlan::Refused(findings) => Self::found(Exit::Refused, findings, sources),
            NoPlan::Undecided(findings) => Self::found(Exit::Busy, findings, sources),
            NoPlan::Unseen(error) => Self::from(error),
            NoPlan::Flawed(flaw) => Self::from(flaw),
        }
    }

    /// The same after something was written: what the exit code says of an untouched host no longer holds.
    pub(super) fn unverified(no_plan: NoPlan, sources: &Sources) -> Self {
        let mut failure = Self::unplanned(no_plan, sources);
        let lead = Diagnostic::new("the steps were taken, but what they led to could not be verified");
        let lead = lead.hint("`netrec status` looks again, and another `netrec apply` goes on");
        failure.errors.push(Error { finding: lead, id: None, errno: None });
        Self { exit: Exit::NotConverged, ..failure }
    }

    /// Steps that failed, but for those that were not tried for want of another; and that it was stopped, if so.
    pub(super) fn of_steps(report: &Report, sources: &Sources) -> Option<Self> {
        let tried = report.failed.iter().filter(|(_, error)| !error.is_consequence());
        let mut errors: Vec<Error> = tried
            .map(|(id, error)| {
                let message = format!("{id}: {error}");
                let finding = match report.desired.origins.get(id) {
                    Some(origin) => Diagnostic::at(origin, message).label("asked for here"),
                    None => Diagnostic::new(message),
                };
                Error { finding, id: Some(id.clone()), errno: error.errno() }
            })
            .collect();
        if report.failed.iter().any(|(_, error)| *error == KernelError::Stopped) {
            let finding = Diagnostic::new("stopped as asked, before all steps were tried");
            errors.push(Error { finding: finding.hint("the next apply does what is missing"), id: None, errno: None });
        }
        (!errors.is_empty()).then(|| Self { exit: Exit::Partial, errors, sources: sources.clone() })
    }

    fn found(exit: Exit, findings: Diagnostics, sources: &Sources) -> Self {
        let errors = findings.into_vec().into_iter().map(|finding| Error { finding, id: None, errno: None });
        Self { exit, errors: errors.collect(), sources: sources.clone() }
    }

    /// Tells people on stderr and, where JSON was asked for, programs on stdout; says how to end.
    pub(super) fn report(self, format: Format) -> Exit {
        self.complain();
        if format == Format::Json {
            self.tell_programs();
        }
        self.exit
    }

    /// Tells programs.
    pub(super) fn tell_programs(&self) {
        output::say_json(&Errors { version: 1, errors: self.json() });
    }

    /// Tells people.
    pub(super) fn complain(&self) {
        output::complain(&self.text());
    }

    /// What people are told.
    pub(super) fn text(&self) -> String {
        let findings: Vec<Diagnostic> = self.errors.iter().map(|error| error.finding.clone()).collect();
        diagnostic::render(&findings.into(), &self.sources)
    }

    /// The errors for programs.
    pub(super) fn json(&self) -> Vec<Json> {
        let json = |error: &Error| Json {
            id: error.id.as_ref().map(ToString::to_string),
            errno: error.errno.map(|errno| format!("{errno:?}")),
            finding: error.finding.to_json(&self.sources),
        };
        self.errors.iter().map(json).collect()
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        let finding = Diagnostic::new(error.to_string());
        let (exit, finding) = match (&error, error.errno()) {
            (KernelError::Unable { hint, .. }, _) => (Exit::Unable, finding.hint(hint)),
            (_, Some(Errno::EPERM | Errno::EACCES)) => {
                let hint = if nix::unistd::geteuid().is_root() {
                    "something beyond capabilities forbids it: a container engine, seccomp or a security module"
                } else {
                    "run it as root"
                };
                (Exit::Unable, finding.hint(hint))
            }
            _ => (Exit::Unexpected, finding),
        };
        Self { exit, errors: vec![Error { finding, id: None, errno: error.errno() }], sources: Sources::new() }
    }
}

impl From<Flaw> for Failure {
    fn from(flaw: Flaw) -> Self {
        let finding = Diagnostic::new(format!("the plan is wrong: {flaw}"));
        let hint = "nothing was touched; this is a bug in netrec, please report it with the topology";
        Self::new(Exit::Unexpected, finding.hint(hint))
    }
}
