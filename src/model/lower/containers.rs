//! Containers: which are there, which are made, which are waited for.

use std::collections::BTreeSet;

use super::{Lowering, Sandbox};
use crate::model::diagnostic::Diagnostic;
use crate::model::kinds::KindName;
use crate::model::kinds::netns::Netns;
use crate::model::numbers::Numbers;
use crate::model::resource::{Text, host};
use crate::model::state::Pending;
use crate::model::topology::{Container, Item, Topology};
use crate::model::wire::{Absent, Containers, NetnsRef, Owner, Scope};

/// What to look at on a host for this topology.
pub fn scope(topology: &Topology) -> Scope {
    let (mut met, mut several) = (Numbers::default(), BTreeSet::new());
    met.reserve(topology.containers.len());
    for endpoint in topology.endpoints.values() {
        let container = endpoint.container.get_ref().as_str();
        if !met.is_new(container) {
            let found = topology.containers.get(container).and_then(|it| reference(it));
            several.extend(found.map(|found| label(container, &found)));
        }
    }
    Scope {
        owner: Owner::new(&topology.name),
        containers: namespaces(topology),
        several,
        sysctls: super::settings::all(topology),
    }
}

/// The namespaces of its containers, by the names that ids use.
pub fn namespaces(topology: &Topology) -> Containers {
    let found = topology.containers.iter().filter_map(|(name, container)| {
        let found = reference(container)?;
        Some((label(name, &found), found))
    });
    found.collect()
}

fn reference(container: &Container) -> Option<NetnsRef> {
    let named = container.netns.as_ref().map(|name| NetnsRef::Named(name.get_ref().as_str().into()));
    let path = container.path.as_ref().map(|path| NetnsRef::Path(path.get_ref().clone()));
    let pid = container.pid.as_ref().map(|pid| NetnsRef::Pid(*pid.get_ref()));
    named.or(path).or(pid)
}

/// The name that ids use: a named namespace's own, else the container's.
fn label(container: &str, found: &NetnsRef) -> Text {
    match found {
        NetnsRef::Named(name) => name.clone(),
        NetnsRef::Path(_) | NetnsRef::Pid(_) => container.into(),
    }
}

/// Containers by name. Each endpoint asks for its own, and among ten thousand names a search in order compares two dozen.
#[derive(Default)]
pub(super) struct Sandboxes<'a> {
    names: Numbers<&'a str>,
    all: Vec<Sandbox>,
}

impl<'a> Sandboxes<'a> {
    pub(super) fn get(&self, name: &'a str) -> Option<&Sandbox> {
        self.names.known(&name).map(|at| &self.all[at as usize])
    }
}

impl<'a> Lowering<'a> {
    /// Wants the namespaces that are ours to make, and says which containers are there.
    pub(super) fn sandboxes(&mut self) -> Sandboxes<'a> {
        let (topology, mut sandboxes) = (self.topology, Sandboxes::default());
        let on_host = topology.on_host();
        sandboxes.names.reserve(topology.containers.len());
        for (name, container) in &topology.containers {
            let Some(found) = reference(container) else { continue };
            let netns = label(name, &found);
            let ours = self.ours_named(&host(), KindName::Netns, &netns).is_some();
            let present = self.observed.present.contains(&netns);
            let named = matches!(found, NetnsRef::Named(_));
            let makes = named && container.create.as_ref().is_none_or(|create| *create.get_ref());
            let missing = self.observed.absent.get(&netns).filter(|it| !makes || !matches!(it, Absent::Missing(_)));
            self.missing((name, container), missing, on_host.contains(name.as_str()));
            // One that was made stays while a container is in it, even if it would not be made again.
            if (makes && !present) || (named && ours && present) {
                let label = self.label(name, &name.as_str().into(), container.protect.as_ref());
                self.want(Netns::new(&netns, &self.owner, label), container.name);
            }
            sandboxes.names.number(name);
            sandboxes.all.push(Sandbox { netns, there: missing.is_none() });
        }
        sandboxes
    }

    /// What is not there yet is waited for. What will never do is refused: a container on a network of driver `host` is in
    /// the host's own namespace, any other in one of its own.
    fn missing(&mut self, (name, container): (&str, &Item<Container>), missing: Option<&Absent>, on_host: bool) {
        let waits = container.create.as_ref().is_some_and(|create| !*create.get_ref());
        let (message, hint) = match (missing, on_host) {
            (Some(Absent::Taken(reason)), _) if !waits => {
                (format!("cannot be made: {reason}"), "remove what is there, if nobody needs it")
            }
            (Some(Absent::Missing(reason) | Absent::Taken(reason)), _) => {
                let pending = Pending { container: name.into(), reason: reason.clone(), origin: container.name };
                return self.desired.pending.push(pending);
            }
            (Some(Absent::Host), true) | (None, false) => return,
            (None, true) if !self.observed.looked => return,
            (None, true) => ("is not in the host's own namespace".into(), "its network is of driver `host`"),
            (Some(Absent::Host), false) => (
                "is in the host's own namespace".into(),
                "put it on a network of driver `host`, or into a namespace of its own",
            ),
            (Some(Absent::Same(other)), _) => (
                format!("is in the same namespace as `{other}`"),
                "one container a namespace, with an endpoint for each of its networks",
            ),
        };
        self.refuse(Diagnostic::at(container.name, format!("container `{name}` {message}")).hint(hint));
    }
}
