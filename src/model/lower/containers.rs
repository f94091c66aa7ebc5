//! Containers: which are there, which are made, which are waited for.

use std::collections::BTreeMap;

use super::{Lowering, Sandbox};
use crate::model::kinds::KindName;
use crate::model::kinds::netns::Netns;
use crate::model::resource::{HOST, Resource, Text};
use crate::model::state::Pending;
use crate::model::topology::{Container, Topology};
use crate::model::wire::{NetnsRef, Owner, Scope};

/// What to look at on a host for this topology.
pub fn scope(topology: &Topology) -> Scope {
    let containers = topology.containers.iter().filter_map(|(name, container)| {
        let found = reference(container)?;
        Some((label(name, &found), found))
    });
    Scope {
        owner: Owner::new(&topology.name),
        containers: containers.collect(),
        sysctls: super::settings::all(topology),
    }
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

impl<'a> Lowering<'a> {
    /// Wants the namespaces that are ours to make, and says which containers are there.
    pub(super) fn sandboxes(&mut self) -> BTreeMap<&'a str, Sandbox> {
        let mut sandboxes = BTreeMap::new();
        for (name, container) in &self.topology.containers {
            let Some(found) = reference(container) else { continue };
            let netns = label(name, &found);
            let ours = self.ours_named(HOST, KindName::Netns, &netns).is_some();
            let missing = self.observed.absent.get(&netns);
            let may_create = container.create.as_ref().is_none_or(|create| *create.get_ref());
            let makes = matches!(found, NetnsRef::Named(_)) && may_create;
            let there = missing.is_none() || makes || ours;
            if let (false, Some(reason)) = (there, missing) {
                let pending = Pending { container: name.clone(), reason: reason.clone(), origin: container.name };
                self.desired.pending.push(pending);
            }
            if makes && (ours || !self.observed.present.contains(&netns)) {
                self.want(Resource::Netns(Netns::new(&netns, &self.owner)), container.name);
            }
            sandboxes.insert(name.as_str(), Sandbox { netns, there });
        }
        sandboxes
    }
}
