//! How much one apply may remove, counted in what the user names: a file that was cut short, or merged wrongly, must not
//! take a host down. What is replaced, moved or renamed is still there afterwards, and costs nothing.

use std::collections::BTreeMap;

use super::{called, going, listed};
use crate::apply::Prepared;
use crate::model::diagnostic::Diagnostic;
use crate::model::lower::table;
use crate::model::resource::{HOST, Kind, KindName, Part, Text};
use crate::model::topology::Topology;

/// So many go without being asked for, whatever their share.
const FEW: usize = 5;

/// More than [`FEW`] go only up to that share of what is there, in percent.
const SHARE: usize = 30;

/// A topology that declares nothing is a mistake: `destroy` says it in words.
pub(super) fn empty(topology: &Topology) -> Option<Diagnostic> {
    let message = format!("topology `{}` declares no network, container or endpoint", topology.name);
    let hint = format!("to remove everything of it, run `netrec destroy --topology {}`", topology.name);
    topology.is_empty().then(|| Diagnostic::new(message).hint(hint))
}

/// Whether what goes is more than was allowed, or than goes by mistake.
pub(super) fn check(prepared: &Prepared, topology: &Topology, allowed: Option<usize>) -> Option<Diagnostic> {
    going(prepared).next()?;
    let stays = |(part, name): &(Part, &str)| {
        let renamed =
            topology.moved.iter().any(|moved| moved.from.get_ref().split_once('.') == Some((table(part), name)));
        renamed || topology.declares(table(part), name)
    };
    let gone: Vec<(Part, &str)> = parts(prepared).filter(|thing| !stays(thing)).collect();
    if gone.is_empty() {
        return None;
    }
    let all = parts(prepared).count();
    let marker = topology.allow_deletes.as_ref().map(|number| **number as usize);
    let why = match allowed.or(marker) {
        Some(allowed) if gone.len() > allowed => format!("more than the {allowed} that are allowed"),
        Some(_) => return None,
        None if gone.len() > FEW && gone.len() * 100 > all * SHARE => {
            format!("more than {FEW}, and more than {SHARE} %")
        }
        None => format!("all endpoints of network `{}`", emptied(&gone, prepared)?),
    };
    let count = gone.len();
    let hint = format!(
        "if that is meant, say `--allow-deletes {count}`, or `allow_deletes = {count}` in the file; what was renamed is \
         kept by `[[moved]]`"
    );
    let message = format!("{count} of {all} would be removed, {why}: {}", listed(&gone));
    let finding = Diagnostic::new(message).hint(hint);
    Some(match &topology.allow_deletes {
        Some(number) if allowed.is_none() => Diagnostic { span: Some(number.name), ..finding },
        _ => finding,
    })
}

/// What of the user's is there, and what they call it.
fn parts(prepared: &Prepared) -> impl Iterator<Item = (Part, &str)> {
    let parts = prepared.observed.ours.iter();
    parts.filter_map(|(id, resource)| resource.part().map(|(part, label)| (part, called(label, id))))
}

/// A network of which every endpoint goes. One that has a single endpoint is as easily meant as not.
fn emptied(gone: &[(Part, &str)], prepared: &Prepared) -> Option<String> {
    let link = |part: &Part| match part {
        Part::Endpoint(link) => link.clone(),
        Part::Network | Part::Container => None,
    };
    let mut counts = BTreeMap::<Text, (usize, usize)>::new();
    for link in parts(prepared).filter_map(|(part, _)| link(&part)) {
        counts.entry(link).or_default().0 += 1;
    }
    for link in gone.iter().filter_map(|(part, _)| link(part)) {
        counts.entry(link).or_default().1 += 1;
    }
    let (link, _) = counts.into_iter().find(|(_, (there, gone))| *gone > 1 && there == gone)?;
    let bridge = prepared.observed.ours.of_kind(HOST, KindName::Bridge).find(|it| it.id().name == link);
    let name = bridge.and_then(Kind::part).map(|(_, label)| label.name.to_string()).filter(|name| !name.is_empty());
    Some(name.unwrap_or_else(|| link.to_string()))
}
