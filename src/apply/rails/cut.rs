//! Whether a plan would cut off the connection that netrec is run through. What is foreign stays as it is, so the way to
//! the operator before and after can be told from what is ours in either state.

use std::cmp::Reverse;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::apply::Prepared;
use crate::diff::Change;
use crate::model::diagnostic::Diagnostic;
use crate::model::kinds::firewall::{Element, Mapping};
use crate::model::kinds::route::MAIN;
use crate::model::observed::{Foreign, Session};
use crate::model::resource::{HOST, KindName, Resource, ResourceId, Text};
use crate::model::state::State;
use crate::model::values::Protocol;

/// What of the plan would cut the session, each by itself.
pub(super) fn check(prepared: &Prepared, session: &Session) -> Vec<Diagnostic> {
    let peer = session.peer.ip();
    if peer.is_loopback() || peer == session.local.ip() {
        return Vec::new();
    }
    let mut cuts: Vec<(String, Option<ResourceId>)> = Vec::new();
    cuts.extend(rerouted(prepared, peer));
    cuts.extend(prepared.diff.iter().filter_map(|(id, change)| touched(prepared, session, id, change)));
    cuts.extend(mapped(prepared, session));
    let finding = |(how, id): (String, Option<ResourceId>)| {
        let message = format!("this would cut off the session from {peer} that netrec is run in: {how}");
        let span = id.and_then(|id| prepared.desired.origins.get(&id));
        Diagnostic { span, ..Diagnostic::new(message) }
            .hint("do it from elsewhere, or with `--allow-self-cut` and, to be safe, `--confirm 120s`")
    };
    cuts.into_iter().map(finding).collect()
}

/// The way to an address: the longest prefix of the main table, the lowest metric; policy routing is not followed.
fn way(peer: IpAddr, ours: &State, foreign: &Foreign) -> Option<(IpNet, Text)> {
    let theirs = foreign.routes.iter().filter(|(netns, route)| &**netns == HOST && route.table == MAIN);
    let theirs = theirs.filter_map(|(_, route)| Some((route.destination, route.metric, route.link.clone()?)));
    let addresses = ours.of_kind(HOST, KindName::Address).filter_map(|it| match it {
        Resource::Address(it) => Some((it.address.trunc(), 0, it.link.clone())),
        _ => None,
    });
    let routes = ours.of_kind(HOST, KindName::Route).filter_map(|it| match it {
        Resource::Route(it) if it.table == MAIN => Some((it.destination, it.metric, it.link.clone())),
        _ => None,
    });
    let all = theirs.chain(addresses).chain(routes).filter(|(net, ..)| net.contains(&peer));
    let best = all.max_by_key(|(net, metric, link)| (net.prefix_len(), Reverse(*metric), Reverse(link.clone())));
    best.map(|(net, _, link)| (net, link))
}

fn rerouted(prepared: &Prepared, peer: IpAddr) -> Option<(String, Option<ResourceId>)> {
    let foreign = &prepared.observed.foreign;
    let (_, before) = way(peer, &prepared.observed.ours, foreign)?;
    let Some((net, after)) = way(peer, &prepared.desired.state, foreign) else {
        return Some((format!("there would be no route to it, which is through `{before}` now"), None));
    };
    let by = prepared.desired.state.iter().find(|(_, it)| {
        matches!(it, Resource::Address(it) if &*it.netns == HOST && it.link == after && it.address.trunc() == net)
    });
    (before != after).then(|| {
        let how = format!("{net}, through `{after}`, would be the way to it instead of `{before}`");
        (how, by.map(|(id, _)| id.clone()))
    })
}

/// A change of something that the session stands on.
fn touched(
    prepared: &Prepared,
    session: &Session,
    id: &ResourceId,
    change: &Change,
) -> Option<(String, Option<ResourceId>)> {
    let what = match change {
        Change::Delete { .. } => "removed",
        Change::Replace { .. } => "replaced",
        Change::Create { .. } => "taken",
        Change::Update { .. } => return None,
    };
    let (peer, local) = (session.peer.ip(), session.local.ip());
    let how = match change.from().or(change.to())? {
        Resource::Address(it) if it.address.addr() == peer || (&*it.netns == HOST && it.address.addr() == local) => {
            format!("address {} would be {what}", it.address.addr())
        }
        Resource::Bridge(it) if what != "taken" => {
            let (_, link) = way(peer, &prepared.observed.ours, &prepared.observed.foreign)?;
            (link == it.name).then(|| format!("link `{link}`, which leads to it, would be {what}"))?
        }
        _ => return None,
    };
    Some((how, Some(id.clone())))
}

/// A published port takes the port that the session came to.
fn mapped(prepared: &Prepared, session: &Session) -> Option<(String, Option<ResourceId>)> {
    let (local, port) = (session.local.ip(), session.local.port());
    let takes = |mapping: &Mapping| {
        let here = mapping.listen.map_or(mapping.target.is_ipv4() == local.is_ipv4(), |listen| listen == local);
        here && mapping.protocol == Protocol::Tcp && (mapping.ports.first..=mapping.ports.last).contains(&port)
    };
    let published = |state: &State| {
        let elements = state.resources().filter_map(|it| match it {
            Resource::Firewall(firewall) => Some(firewall.elements.iter()),
            _ => None,
        });
        elements.flatten().any(|element| matches!(element, Element::Publish(mapping) if takes(mapping)))
    };
    let new = published(&prepared.desired.state) && !published(&prepared.observed.ours);
    new.then(|| (format!("port {port} of the host would lead to a container"), None))
}
