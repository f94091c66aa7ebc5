//! What another file comes to where it says otherwise of some containers only: these are lowered by themselves, as they
//! were and as they are now, and what is wanted is what was wanted, without the former and with the latter.
//!
//! That holds as long as no container shares with others what is otherwise. What may be shared is for who lowers
//! everything: then there is no answer here.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Lowering, all};
use crate::model::both::InTurn;
use crate::model::focus::{CONTAINERS, Focus, otherwise_by};
use crate::model::kinds::firewall::Firewall;
use crate::model::observed::Observed;
use crate::model::resource::{HOST, Kind, Resource, ResourceId, Text};
use crate::model::state::{Desired, State};
use crate::model::topology::{Endpoint, Item, Network, Topology};

/// What a topology comes to, told from a part of it.
#[derive(Debug)]
pub struct Turned {
    /// What is wanted; where that was asked for it knows of the part alone.
    pub desired: Desired,
    /// What the part came to, and what it comes to.
    pub part: [State; 2],
    /// Where something is wanted otherwise.
    pub open: Focus,
}

/// What `after` comes to where `before` came to what is known, and that is there with settings that nobody asks for; none
/// if more than the containers that they have otherwise has to be known for it.
pub fn turned(
    (before, after): (&Topology, &Topology),
    known: &Desired,
    observed: &Observed,
    unasked: &State,
) -> Option<Turned> {
    if !known.pending.is_empty() {
        return None;
    }
    let mut names = otherwise(before, after)?;
    let others = neighbours(before, after, &names);
    names.extend(others);
    let lowered = |whole: &Topology| {
        let part = only(whole, &names);
        all(Lowering::new(&part, whole, (observed, unasked)), &InTurn).ok().filter(|desired| desired.pending.is_empty())
    };
    let (was, is) = (lowered(before)?, lowered(after)?);
    if was.notes != is.notes {
        return None;
    }
    // Nothing else that was wanted is theirs.
    let theirs: BTreeSet<&Text> = was.state.iter().map(|(id, _)| &id.netns).filter(|netns| &***netns != HOST).collect();
    let alone = |netns: &Text| known.state.of_netns(netns).all(|it| was.state.get(&it.id()).is_some());
    if !theirs.into_iter().all(alone) {
        return None;
    }
    let (mut state, mut changed) = (known.state.clone(), Vec::new());
    let ids: BTreeSet<&ResourceId> = was.state.iter().chain(is.state.iter()).map(|(id, _)| id).collect();
    for id in ids {
        match (was.state.get(id), is.state.get(id), known.state.get(id)) {
            (Some(Resource::Firewall(was)), Some(Resource::Firewall(is)), Some(Resource::Firewall(known))) => {
                let elements = known.elements.turned(&was.elements, &is.elements)?;
                if was.elements != is.elements {
                    let firewall = Resource::from(Firewall::holding(known.table.clone(), elements));
                    changed.extend([Resource::Firewall(known.clone()), firewall.clone()]);
                    state.insert(firewall);
                }
            }
            // Others want it as well.
            (None, Some(is), Some(known)) if &*id.netns == HOST && is == known => {}
            (was, is, known) if was == known => {
                if was != is {
                    changed.extend(was.into_iter().chain(is).cloned());
                    match is {
                        Some(is) => state.insert(is.clone()),
                        None => drop(state.remove(id)),
                    }
                }
            }
            _ => return None,
        }
    }
    let open = Focus::of(changed.iter())?;
    Some(Turned { desired: Desired { state, ..is }, part: [was.state, is.state], open })
}

/// The containers that are otherwise, or an endpoint of which is; none if that is not all, or how others are has to be
/// known to lower them.
fn otherwise<'a>(before: &'a Topology, after: &'a Topology) -> Option<BTreeSet<&'a str>> {
    let Topology { name, named: _, networks, pools: _, policies, allow_deletes: _, docker_user, moved, .. } = before;
    let on = |asked: &Option<Item<bool>>| asked.as_ref().is_some_and(|asked| **asked);
    let alike = *name == after.name
        && otherwise_by(networks, &after.networks, same).next().is_none()
        && otherwise_by(&after.networks, networks, same).next().is_none()
        && on(docker_user) == on(&after.docker_user);
    // A policy may name any endpoint, and what was moved goes by the name of another.
    let apart = [policies, &after.policies].iter().all(|all| all.is_empty())
        && [moved, &after.moved].iter().all(|all| all.is_empty())
        && networks.values().all(|network| keeps_subnets(network));
    if !alike || !apart {
        return None;
    }
    let mut names = BTreeSet::new();
    for (one, other) in [(before, after), (after, before)] {
        names.extend(otherwise_by(&one.containers, &other.containers, same).map(|(name, _)| name.as_str()));
        let endpoints = otherwise_by(&one.endpoints, &other.endpoints, same);
        names.extend(endpoints.map(|(_, endpoint)| endpoint.container.get_ref().as_str()));
    }
    (names.len() <= CONTAINERS).then_some(names)
}

/// Of each network with ports that they publish another container that publishes some: what the host has for all of those
/// is then wanted as before.
fn neighbours<'a>(before: &'a Topology, after: &'a Topology, names: &BTreeSet<&str>) -> Vec<&'a str> {
    let container = |endpoint: &'a Item<Endpoint>| endpoint.container.get_ref().as_str();
    let publishing =
        |topology: &'a Topology| topology.endpoints.values().filter(|endpoint| endpoint.publishes().next().is_some());
    let theirs = publishing(before).chain(publishing(after)).filter(|endpoint| names.contains(container(endpoint)));
    let networks: BTreeSet<&str> = theirs.map(|endpoint| endpoint.network.get_ref().as_str()).collect();
    let other = |network: &str| {
        let mut others = publishing(after).filter(|endpoint| !names.contains(container(endpoint)));
        others.find(|endpoint| endpoint.network.get_ref() == network).map(container)
    };
    networks.into_iter().filter_map(other).collect()
}

/// Whether it says the same: what was not written anew is shared ([`parse_again`](crate::model::parse::parse_again)).
fn same<T>(one: &Item<T>, other: &Item<T>) -> bool {
    Arc::ptr_eq(&one.value, &other.value)
}

/// Whether it keeps its subnets whatever its endpoints hold: they are written, or held by its own link.
fn keeps_subnets(network: &Network) -> bool {
    let external = network.bridge.as_ref().and_then(|options| options.get_ref().external.as_ref());
    let addressed = network.host_address.as_ref().is_none_or(|addressed| *addressed.get_ref());
    network.subnets.is_some() || (addressed && !external.is_some_and(|external| *external.get_ref()))
}

/// The topology with these containers and their endpoints only.
fn only(whole: &Topology, names: &BTreeSet<&str>) -> Topology {
    let Topology { name, named, networks, pools, docker_user, .. } = whole;
    let containers = names.iter().filter_map(|name| whole.containers.get_key_value(*name));
    let endpoints =
        whole.endpoints.iter().filter(|(_, endpoint)| names.contains(endpoint.container.get_ref().as_str()));
    Topology {
        name: name.clone(),
        named: *named,
        networks: networks.clone(),
        containers: containers.map(|(name, item)| (name.clone(), item.clone())).collect(),
        endpoints: endpoints.map(|(name, item)| (name.clone(), item.clone())).collect(),
        pools: pools.clone(),
        docker_user: docker_user.clone(),
        ..Topology::default()
    }
}
