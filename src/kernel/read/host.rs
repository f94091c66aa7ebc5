//! The host's namespace: what is asked there whatever is looked for, so that it may be asked before that is known.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::thread::JoinHandle;

use super::{read, read_ways};
use crate::beside;
use crate::kernel::KernelError;
use crate::kernel::ask::{self, links};
use crate::kernel::memory::Again;
use crate::kernel::netlink::{Protocol, Socket};
use crate::model::observed::KERNEL;
use crate::model::resource::Text;
use crate::model::wire::{LinkFacts, NetnsFacts, NetnsOrigin, RouteFacts};

/// `RTPROT_RA` (linux/rtnetlink.h).
const RA: u8 = 9;

/// A look that has begun, on a thread of its own.
#[derive(Debug)]
pub(in crate::kernel) struct Ahead(JoinHandle<Result<NetnsFacts, KernelError>>);

impl Ahead {
    /// Begins it, where there can be another thread.
    pub(in crate::kernel) fn begin() -> Option<Self> {
        beside::spawn("look", (), |()| look()).ok().map(Self)
    }

    /// Waits for its end.
    pub(super) fn end(self) -> Result<NetnsFacts, KernelError> {
        beside::join(self.0)
    }
}

/// Links, addresses, rules and routes.
pub(super) fn look() -> Result<NetnsFacts, KernelError> {
    let mut socket = Socket::open(Protocol::Route)?;
    let links = links(&mut socket)?;
    around(links, &mut socket)
}

/// The same, but of the links only some are asked again.
pub(super) fn look_again(before: &NetnsFacts, again: &Again) -> Result<NetnsFacts, KernelError> {
    let mut socket = Socket::open(Protocol::Route)?;
    let links = links_again(&mut socket, before, again)?;
    around(links, &mut socket)
}

fn around(links: Vec<LinkFacts>, socket: &mut Socket) -> Result<NetnsFacts, KernelError> {
    let mut host = read(socket, NetnsOrigin::Host, links)?;
    read_ways(&mut host, socket)?;
    host.routes.retain(sees_host);
    Ok(host)
}

/// The host's links with some asked again.
fn links_again(socket: &mut Socket, host: &NetnsFacts, again: &Again) -> Result<Vec<LinkFacts>, KernelError> {
    let named = host.links.iter().filter(|link| again.names.contains(&link.name)).map(|link| link.index);
    let indexes: BTreeSet<u32> = named.chain(again.indexes.iter().copied()).collect();
    // One asked for by itself is as much work for the kernel as one in a dump, and two more system calls.
    if indexes.len() + again.names.len() > host.links.len() / 2 {
        return links(socket);
    }
    let mut asked: BTreeMap<u32, Option<LinkFacts>> = BTreeMap::new();
    ask::with_masters(socket, indexes.into_iter().collect(), host, &mut asked)?;
    let known: BTreeSet<Text> = asked.values().flatten().map(|link| link.name.clone()).collect();
    for name in again.names.difference(&known) {
        let Some(link) = ask::link_named(socket, name)? else { continue };
        if let Entry::Vacant(entry) = asked.entry(link.index) {
            let was = host.link(link.index).and_then(|was| was.master);
            let masters = was.into_iter().chain(link.master).collect();
            entry.insert(Some(link));
            ask::with_masters(socket, masters, host, &mut asked)?;
        }
    }
    // Links that stand on one take a smaller MTU with it, such as those on a bridge of others that got a port.
    let resized = |(index, is): (&u32, &Option<LinkFacts>)| {
        host.link(*index).zip(is.as_ref()).is_some_and(|(was, is)| was.mtu != is.mtu)
    };
    if asked.iter().any(resized) {
        return links(socket);
    }
    let others = host.links.iter().filter(|link| !asked.contains_key(&link.index)).cloned();
    let mut all: Vec<LinkFacts> = others.collect();
    all.extend(asked.into_values().flatten());
    // Stable, as that merges what is in order already.
    all.sort_by_key(|link| link.index);
    Ok(all)
}

/// The settings that decide whether links keep a default route learnt from a router advertisement.
pub(super) fn accept_ra(host: &NetnsFacts) -> Vec<Text> {
    let learnt = host.routes.iter().filter(|route| route.protocol == RA && route.destination.prefix_len() == 0);
    let links = learnt.filter_map(|route| host.link(route.link?));
    links.map(|link| format!("net.ipv6.conf.{}.accept_ra", link.name.replace('.', "/")).into()).collect()
}

/// Whether a look at the host keeps that route: links make and lose link-local ones by themselves, and the one for
/// multicast, and no subnet contains them.
pub(in crate::kernel) fn sees_host(route: &RouteFacts) -> bool {
    !matches!(route.destination.addr(), IpAddr::V6(ip)
        if ip.is_unicast_link_local() || (ip.is_multicast() && route.protocol == KERNEL))
}
