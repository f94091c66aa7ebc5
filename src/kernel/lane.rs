//! What is said to the rtnetlink of one namespace, in order, in as few batches as order allows.

use std::collections::BTreeSet;
use std::os::fd::RawFd;
use std::time::Duration;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

use nix::errno::Errno;
use nix::libc;

use super::lookup::Names;
use super::netlink::{BATCH_MESSAGES, Protocol, Socket};
use super::{KernelError, ask};
use crate::beside;
use crate::model::links;
use crate::model::resource::Text;
use crate::model::wire::{AddressFacts, Body, DOOMED, LinkFacts, Lookup, Owner};

/// Messages in one batch, each of which may hold a descriptor of a namespace open: as many as go into one send without
/// parting the three that a bridge goes up with.
const BATCH: usize = BATCH_MESSAGES / 3 * 3;

/// Before it is asked again whether a link is gone, whose deletion had not begun; each time twice as long.
const PAUSE: Duration = Duration::from_micros(100);

/// A lane: the messages not yet said, and how those said ended.
pub(super) struct Lane<'a> {
    netns: &'a Text,
    owner: &'a Owner,
    socket: Socket,
    names: Names<'a>,
    batch: Vec<(usize, (RouteNetlinkMessage, u16))>,
    doomed: Vec<(usize, u32, Text)>,
    removed: Vec<(usize, AddressFacts)>,
    results: Vec<(usize, Result<(), KernelError>)>,
}

impl<'a> Lane<'a> {
    /// A lane on a socket that is in the namespace; as the calling thread is, if links are deleted.
    pub(super) fn new(names: Names<'a>, netns: &'a Text, owner: &'a Owner, socket: Socket) -> Self {
        let (batch, doomed, removed, results) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { netns, owner, socket, names, batch, doomed, removed, results }
    }

    /// Whether it is time to say what has gathered.
    pub(super) fn is_full(&self) -> bool {
        self.batch.len() >= BATCH
    }

    /// Takes a message of a step; what is of another sort than the gathered ones is said after them.
    pub(super) fn say(&mut self, step: usize, body: Body) {
        match body {
            Body::Route(message, flags) => {
                self.delete_links();
                self.delete_addresses();
                self.batch.push((step, (message, flags)));
            }
            Body::DeleteLink { index, name } => {
                self.send();
                self.delete_addresses();
                self.doomed.push((step, index, name));
            }
            Body::DeleteAddress(address) => {
                self.send();
                self.delete_links();
                self.removed.push((step, address));
            }
            _ => unreachable!("only rtnetlink is said there: Wire::places"),
        }
    }

    /// A step that could not even be said.
    pub(super) fn fail(&mut self, step: usize, error: KernelError) {
        self.results.push((step, Err(error)));
    }

    /// Says everything that has gathered.
    pub(super) fn flush(&mut self) {
        self.send();
        self.delete_links();
        self.delete_addresses();
        self.names.let_go();
    }

    /// Links have gone, and with them their indexes.
    pub(super) fn forget_links(&mut self) {
        self.names.forget_links();
    }

    /// Says everything and tells how each step ended.
    pub(super) fn end(mut self) -> Vec<(usize, Result<(), KernelError>)> {
        self.flush();
        self.results
    }

    fn send(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let (steps, messages): (Vec<usize>, Vec<_>) = std::mem::take(&mut self.batch).into_iter().unzip();
        self.results.extend(steps.into_iter().zip(self.socket.batch(&messages)));
    }

    /// Deletes links in one request, as each request waits for a grace period: those that are still what was planned for
    /// are put into the doomed group, which is empty but for them, and the group is deleted. If they are all there is in the
    /// group they were born into, and a bridge is among them, that one is; what others put into either between the question
    /// and the request goes with it.
    fn delete_links(&mut self) {
        let doomed = std::mem::take(&mut self.doomed);
        if doomed.is_empty() {
            return;
        }
        let links = match self.links(&doomed) {
            Ok(links) => links,
            Err(error) => {
                self.results.extend(doomed.into_iter().map(|(step, ..)| (step, Err(error.clone()))));
                return;
            }
        };
        let (mut steps, mut indexes, mut bridges) = (Vec::new(), Vec::new(), Vec::new());
        for (step, index, name) in doomed {
            match links.binary_search_by_key(&index, |link| link.index).map(|at| &links[at]) {
                Ok(link) if link.name == name && self.owner.owns(link) => {
                    steps.push(step);
                    indexes.push(index);
                    bridges.extend((&*link.kind == "bridge").then_some(index));
                }
                Ok(_) => self.results.push((step, Err(KernelError::Changed(format!("link {name} in {}", self.netns))))),
                // It went with its peer's namespace, say.
                Err(_) => self.results.push((step, Ok(()))),
            }
        }
        let born = links.iter().filter(|link| link.group == self.owner.group).map(|link| link.index);
        let alone = indexes.len() > 1 && born.collect::<BTreeSet<u32>>() == indexes.iter().copied().collect();
        let foreign = links.iter().any(|link| link.group == DOOMED && self.owner.marked(&link.alias) != Some(true));
        // Else the kernel arms the query timers of all ports anew for each that goes (`br_port_state_selection`). Should one
        // not go down, it goes with its group nevertheless.
        self.socket.batch(&bridges.iter().map(|bridge| set_down(*bridge)).collect::<Vec<_>>());
        let results = match (&indexes[..], &bridges[..]) {
            // It goes with nobody's namespace, so it tells that the request was carried out: what is born into the group
            // from now on stays.
            (_, [bridge, ..]) if alone => {
                vec![self.delete(with_group(0, self.owner.group), &[*bridge]); indexes.len()]
            }
            ([one], _) => vec![self.delete(of_index(*one), &indexes)],
            _ if foreign => self.delete_one_by_one(&indexes),
            _ => self.delete_doomed(&indexes),
        };
        self.results.extend(steps.into_iter().zip(results));
    }

    /// The links as they are now; all of them where the doomed group is to be used, as nobody else may be in it.
    fn links(&mut self, doomed: &[(usize, u32, Text)]) -> Result<Vec<LinkFacts>, KernelError> {
        match doomed {
            [(_, index, _)] => Ok(ask::link(&mut self.socket, *index)?.into_iter().collect()),
            _ => ask::links(&mut self.socket),
        }
    }

    fn delete_doomed(&mut self, indexes: &[u32]) -> Vec<Result<(), KernelError>> {
        let doom = |index: &u32| (RouteNetlinkMessage::SetLink(with_group(*index, DOOMED)), 0);
        let doom: Vec<_> = indexes.iter().map(doom).collect();
        let doomed: Vec<_> = doom.chunks(BATCH).flat_map(|chunk| self.socket.batch(chunk)).collect();
        let there: Vec<u32> =
            indexes.iter().zip(&doomed).filter(|(_, it)| it.is_ok()).map(|(index, _)| *index).collect();
        let deleted = if there.is_empty() { Ok(()) } else { self.delete(with_group(0, DOOMED), &there) };
        doomed.into_iter().map(|doomed| gone_is_good(doomed).and_then(|()| deleted.clone())).collect()
    }

    /// Says one request that deletes links, and comes back when these are gone. Whoever says it is kept in the kernel until
    /// their memory is free as well (`rcu_barrier` in `netdev_run_todo`), 10 to 20 ms more, for which nobody has to wait:
    /// that is another thread. The group of links that all went by themselves meanwhile is none.
    fn delete(&mut self, links: LinkMessage, mut indexes: &[u32]) -> Result<(), KernelError> {
        let request = [(RouteNetlinkMessage::DelLink(links), 0)];
        let delete = |request: [_; 1]| requested(&mut Socket::open(Protocol::Route)?, &request);
        let thread = match beside::spawn("delete", request, delete) {
            Ok(thread) => thread,
            // There may be no more threads (cgroups(7), `pids.max`).
            Err(request) => return requested(&mut self.socket, &request),
        };
        let mut pause = PAUSE;
        while !thread.is_finished() {
            let [one, rest @ ..] = indexes else { return Ok(()) };
            // Once the request has begun, this waits for its lock. One that went by itself says nothing of the others.
            if ask::link(&mut self.socket, *one)?.is_none() {
                indexes = rest;
                continue;
            }
            std::thread::sleep(pause);
            pause *= 2;
        }
        beside::join(thread)
    }

    fn delete_one_by_one(&mut self, indexes: &[u32]) -> Vec<Result<(), KernelError>> {
        let delete = |index: &u32| (RouteNetlinkMessage::DelLink(of_index(*index)), 0);
        let messages: Vec<_> = indexes.iter().map(delete).collect();
        self.socket.batch(&messages).into_iter().map(gone_is_good).collect()
    }

    /// Deletes addresses that are there and still ours; the kernel itself does not check whose they are.
    fn delete_addresses(&mut self) {
        let removed = std::mem::take(&mut self.removed);
        if removed.is_empty() {
            return;
        }
        let there = ask::addresses(&mut self.socket);
        let (mut steps, mut messages) = (Vec::new(), Vec::new());
        for (step, wanted) in removed {
            let same = |facts: &&AddressFacts| facts.link == wanted.link && facts.address == wanted.address;
            match there.as_ref().map(|there| there.iter().find(same)) {
                Err(error) => self.results.push((step, Err(error.clone()))),
                Ok(Some(facts)) if facts.is_ours() => {
                    steps.push(step);
                    messages.push((RouteNetlinkMessage::DelAddress(address_message(facts)), 0));
                }
                Ok(_) => {
                    let what = format!("address {} in {}", wanted.address, self.netns);
                    self.results.push((step, Err(KernelError::Changed(what))));
                }
            }
        }
        let ended = self.socket.batch(&messages).into_iter().map(|result| match result {
            Err(KernelError::Refused { errno: Errno::EADDRNOTAVAIL, .. }) => Ok(()),
            other => other,
        });
        self.results.extend(steps.into_iter().zip(ended));
    }
}

impl Lookup for Lane<'_> {
    /// What has gathered may make the link: it is not there yet, and for one that is not Linux looks for a module that has
    /// it (`dev_load`).
    fn index(&mut self, netns: &str, link: &str) -> Option<u32> {
        let here = netns == &**self.netns && !self.batch.iter().any(|(_, message)| makes(message, link));
        here.then(|| self.names.index(&self.socket, link)).flatten()
    }

    fn netns_fd(&mut self, netns: &str) -> Option<RawFd> {
        self.names.netns_fd(netns)
    }
}

/// Whether it makes a link of that name.
fn makes((message, flags): &(RouteNetlinkMessage, u16), name: &str) -> bool {
    let named = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(it) if it == name);
    matches!(message, RouteNetlinkMessage::NewLink(link) if link.attributes.iter().any(named))
        && flags & libc::NLM_F_CREATE as u16 != 0
}

/// A link that went by itself after it was looked at is where it was to go.
fn gone_is_good(result: Result<(), KernelError>) -> Result<(), KernelError> {
    match result {
        Err(KernelError::Refused { errno: Errno::ENODEV, .. }) => Ok(()),
        other => other,
    }
}

fn requested(socket: &mut Socket, deletion: &[(RouteNetlinkMessage, u16)]) -> Result<(), KernelError> {
    socket.batch(deletion).into_iter().try_for_each(gone_is_good)
}

fn of_index(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn set_down(index: u32) -> (RouteNetlinkMessage, u16) {
    let mut message = of_index(index);
    links::header_up(&mut message, false);
    (RouteNetlinkMessage::SetLink(message), 0)
}

fn with_group(index: u32, group: u32) -> LinkMessage {
    let mut message = of_index(index);
    message.attributes.push(LinkAttribute::Group(group));
    message
}

fn address_message(facts: &AddressFacts) -> AddressMessage {
    use rtnetlink::packet_route::AddressFamily;
    let ip = facts.address.addr();
    let mut message = AddressMessage::default();
    message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = facts.address.prefix_len();
    message.header.index = facts.link;
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    message
}
