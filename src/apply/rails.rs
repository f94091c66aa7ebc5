//! What may refuse a plan before its first write; one function a rail.

use crate::diff::plan::Plan;
use crate::model::diagnostic::{Diagnostic, Diagnostics};
use crate::model::observed::Observed;
use crate::model::resource::{Op, Resource};

/// Asks all rails.
///
/// # Errors
///
/// All that refuse, at once.
pub fn check(plan: &Plan, observed: &Observed) -> Result<(), Diagnostics> {
    let findings: Vec<Diagnostic> = inhabited(plan, observed).collect();
    if findings.is_empty() { Ok(()) } else { Err(findings.into()) }
}

/// A namespace in which somebody else's processes or links live is not removed.
fn inhabited<'a>(plan: &'a Plan, observed: &'a Observed) -> impl Iterator<Item = Diagnostic> + 'a {
    let removed = plan.steps.iter().filter_map(|step| match &step.op {
        Op::Delete(Resource::Netns(netns)) if netns.bound => Some(&netns.name),
        _ => None,
    });
    removed.filter_map(|name| {
        let links = observed.foreign.links.keys().filter(|(netns, _)| netns == name).map(|(_, link)| link);
        let mut who: Vec<String> = links.map(|link| format!("link `{link}`")).collect();
        let processes = observed.foreign.processes.get(name).into_iter().flatten();
        who.extend(processes.take(4).map(|process| format!("process {process}")));
        let message = format!("namespace `{name}` is to be removed, and is in use by {}", who.join(", "));
        (!who.is_empty())
            .then(|| Diagnostic::new(message).hint("end them first, or keep the container in the topology"))
    })
}
