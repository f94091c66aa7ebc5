//! Two states as texts, compared as diff(1) compares them: a third form of the difference, with what stays around it.

use std::collections::BTreeSet;

use super::{Change, Diff, Why};
use crate::model::resource::{HOST, Kind, Resource, ResourceId};
use crate::model::state::State;

/// Lines around a change.
const CONTEXT: usize = 3;

/// The unified difference of what is there and what is wanted; empty if there is none. What must be made anew for
/// another's sake and is the same afterwards is no difference of the states: the plan's text has it.
pub fn text((observed, desired): (&State, &State), diff: &Diff) -> String {
    let wanted = |id: &ResourceId| desired.get(id).is_some();
    let there = observed.iter().filter(|(id, resource)| !resource.stays() || wanted(id)).map(|(id, _)| id);
    // The host first, as in the plan.
    let ids: BTreeSet<(bool, &ResourceId)> =
        there.chain(desired.iter().map(|(id, _)| id)).map(|id| (&*id.netns != HOST, id)).collect();
    let (mut from, mut to) = (String::new(), String::new());
    for (_, id) in ids {
        match diff.get(id) {
            Some(Change::Create { to: new }) => to += &whole(id, new),
            Some(Change::Delete { from: old, .. }) => from += &whole(id, old),
            Some(
                Change::Update { why: Why::Fields(fields), .. } | Change::Replace { why: Why::Fields(fields), .. },
            ) => {
                for change in fields {
                    let line = |value: &str| format!("{id}  {} {value}\n", change.field);
                    from += &if change.from.is_empty() { String::new() } else { line(&change.from) };
                    to += &if change.to.is_empty() { String::new() } else { line(&change.to) };
                }
            }
            Some(Change::Update { why: Why::Lost(_), .. } | Change::Replace { why: Why::Lost(_), .. }) | None => {
                let same = observed.get(id).map(|resource| whole(id, resource)).unwrap_or_default();
                from += &same;
                to += &same;
            }
        }
    }
    let compared = similar::TextDiff::from_lines(&from, &to);
    compared.unified_diff().context_radius(CONTEXT).header("observed", "desired").to_string()
}

/// A resource as lines, each with its id, so that every line says what it is of.
fn whole(id: &ResourceId, resource: &Resource) -> String {
    let lines = std::iter::once(resource.summary()).chain(resource.details());
    lines.fold(String::new(), |text, line| text + &format!("{id}  {line}\n"))
}
