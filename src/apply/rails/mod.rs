//! What may refuse a plan before its first write. One function a rail; all are asked, so that all that refuse are heard
//! at once.

mod budget;
mod cut;

use std::fmt::Display;

use super::{Prepared, Target};
use crate::diff::Change;
use crate::model::diagnostic::{Diagnostic, Diagnostics};
use crate::model::observed::Session;
use crate::model::resource::{Kind, Op, Part, Resource, ResourceId};
use crate::model::wire::Label;

/// What is let through beyond what every plan may do.
#[derive(Clone, Default, Debug)]
pub struct Allowance {
    /// How many networks, containers and endpoints may go; none: as the topology says, or else the default.
    pub deletes: Option<usize>,
    /// Whether the operator's own session may be cut off.
    pub self_cut: bool,
    /// Connections that netrec is run through.
    pub sessions: Vec<Session>,
}

impl Allowance {
    /// For what goes on after its first write: that it may was decided before.
    pub fn granted() -> Self {
        Self { deletes: Some(usize::MAX), self_cut: true, sessions: Vec::new() }
    }
}

/// Asks all rails.
///
/// # Errors
///
/// All that refuse, at once.
pub fn check(prepared: &Prepared, target: Target, allowance: &Allowance) -> Result<(), Diagnostics> {
    if matches!(target, Target::State(_)) {
        return Ok(());
    }
    let mut findings: Vec<Diagnostic> = Vec::new();
    findings.extend(inhabited(prepared));
    findings.extend(protected(prepared));
    findings.extend(in_use(prepared));
    if !allowance.self_cut {
        findings.extend(allowance.sessions.iter().flat_map(|session| cut::check(prepared, session)));
    }
    let topology = match target {
        Target::Topology(topology) | Target::Known(topology, _) => Some(topology),
        Target::Turned(content, ..) => Some(&content.topology),
        Target::Nothing(..) | Target::State(_) | Target::Except(..) => None,
    };
    if let Some(topology) = topology {
        findings.extend(budget::empty(topology).or_else(|| budget::check(prepared, topology, allowance.deletes)));
    }
    if findings.is_empty() { Ok(()) } else { Err(findings.into()) }
}

/// A namespace in which somebody else's processes or links live is not removed.
fn inhabited(prepared: &Prepared) -> impl Iterator<Item = Diagnostic> {
    let removed = prepared.plan.steps.iter().filter_map(|step| match &step.op {
        Op::Delete(Resource::Netns(netns)) if netns.bound => Some(&netns.name),
        _ => None,
    });
    let foreign = &prepared.observed.foreign;
    removed.filter_map(|name| {
        let links = foreign.links.keys().filter(|(netns, _)| netns == name).map(|(_, link)| link);
        let mut who: Vec<String> = links.map(|link| format!("link `{link}`")).collect();
        let processes = foreign.processes.get(name).into_iter().flatten();
        who.extend(processes.take(4).map(|process| format!("process {process}")));
        let message = format!("namespace `{name}` is to be removed, and is in use by {}", who.join(", "));
        (!who.is_empty())
            .then(|| Diagnostic::new(message).hint("end them first, or keep the container in the topology"))
    })
}

/// What goes, for good or for a moment, and which it is.
fn going(prepared: &Prepared) -> impl Iterator<Item = (&ResourceId, &Resource, &'static str)> {
    prepared.diff.iter().filter_map(|(id, change)| match change {
        Change::Delete { from, .. } => Some((id, from, "removed")),
        Change::Replace { from, .. } => Some((id, from, "replaced")),
        Change::Create { .. } | Change::Update { .. } => None,
    })
}

/// What is protected neither goes nor is made anew: by its mark in the kernel, whatever the file says by now.
fn protected(prepared: &Prepared) -> impl Iterator<Item = Diagnostic> {
    going(prepared).filter_map(|(id, from, what)| {
        let (part, label) = from.part()?;
        let wanted = prepared.desired.state.get(id).and_then(Kind::part).is_some_and(|(_, label)| label.protected);
        if !label.protected && !wanted {
            return None;
        }
        let (name, topology) = (called(label, id), &prepared.desired.topology);
        let message = format!("{part} `{name}` would be {what}, and is protected");
        let hint = format!("`protect = true` of {part} `{name}` in topology `{topology}` forbids it: set it to false there and apply that first");
        Some(Diagnostic { span: prepared.desired.origins.get(id), ..Diagnostic::new(message) }.hint(hint))
    })
}

/// A link of the host that others use is not taken away under them.
fn in_use(prepared: &Prepared) -> impl Iterator<Item = Diagnostic> {
    going(prepared).filter_map(|(id, from, what)| {
        let (part, label) = from.part()?;
        let users = match from {
            Resource::Netns(_) => None,
            _ => prepared.observed.foreign.users.get(&id.name),
        }?;
        let name = called(label, id);
        let message = format!("link `{}` of {part} `{name}` would be {what}, and is in use by {}", id.name, few(users));
        Some(Diagnostic::new(message).hint(format!("take that off first, or keep {part} `{name}` as it is")))
    })
}

/// What a person calls it; what bears no label goes by its link's or namespace's name.
fn called<'a>(label: &'a Label, id: &'a ResourceId) -> &'a str {
    if label.name.is_empty() { &id.name } else { &label.name }
}

/// The first few of many.
fn few<T: Display>(all: &[T]) -> String {
    const FEW: usize = 8;
    let mut words: Vec<String> = all.iter().take(FEW).map(ToString::to_string).collect();
    if all.len() > FEW {
        words.push(format!("{} more", all.len() - FEW));
    }
    words.join(", ")
}

/// Things of the user's by what they are, as people list them: `network a, endpoints b, c`.
fn listed(things: &[(Part, &str)]) -> String {
    let of = |part: &Part| match part {
        Part::Network => 0,
        Part::Container => 1,
        Part::Endpoint(_) => 2,
    };
    let list = |which: usize| {
        let mut names: Vec<&str> = things.iter().filter(|(part, _)| of(part) == which).map(|(_, name)| *name).collect();
        names.sort_unstable();
        let word = ["network", "container", "endpoint"][which];
        let plural = if names.len() == 1 { "" } else { "s" };
        (!names.is_empty()).then(|| format!("{word}{plural} {}", few(&names)))
    };
    (0..3).filter_map(list).collect::<Vec<_>>().join(", ")
}
