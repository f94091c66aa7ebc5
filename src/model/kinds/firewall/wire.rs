//! Elements on the wire (`NFTA_SET_ELEM_*` in `linux/netfilter/nf_tables.h`), both ways, in linear time.
//!
//! Fields of a concatenated key are filled up to four bytes. A concatenated interval has its last key beside the first
//! (`KEY_END`); a plain one is two elements, the second flagged `INTERVAL_END` and one past the last.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use smallvec::SmallVec;

use super::compile;
use super::elements::{Element, Listen, Mapping, Passage, Role, Verdict};
use super::flows::{Sent, Stale};
use super::numbers::interface;
use crate::model::attribute::{self, Put as _};
use crate::model::resource::Text;
use crate::model::values::{Mac, Ports, Protocol};
use crate::model::wire::NftMessage;

/// `NFT_MSG_NEWSETELEM`.
pub(super) const NEW_ELEMENTS: u16 = 12;
/// `NFT_MSG_GETSETELEM`.
pub(super) const GET_ELEMENTS: u16 = 13;
/// `NFT_MSG_DELSETELEM`.
pub(super) const DELETE_ELEMENTS: u16 = 14;

/// Elements of one message are one attribute, whose length has 16 bits.
const LONGEST: usize = 60_000;

const INTERVAL_END: u32 = 1;

/// The messages that add elements to their sets, delete them or ask for them, in the order of the sets' names.
pub(super) fn messages<'a>(
    table: &Text,
    message: u16,
    flags: u16,
    elements: impl Iterator<Item = &'a Element>,
) -> Vec<NftMessage> {
    let mut lists: BTreeMap<(&'static str, u8), Vec<Vec<u8>>> = BTreeMap::new();
    for element in elements {
        let family = if element.is_bridged() { compile::BRIDGE } else { compile::INET };
        let list = lists.entry((element.set(), family)).or_default();
        if list.last().is_none_or(|bytes| bytes.len() > LONGEST) {
            list.push(Vec::with_capacity(1024));
        }
        let bytes = list.last_mut().expect("one was pushed if there was none");
        encode(element, message == NEW_ELEMENTS, bytes);
    }
    let mut messages = Vec::new();
    for ((set, family), list) in lists {
        for content in list {
            let mut attributes = Vec::with_capacity(content.len() + 128);
            attributes.put_text(2, set);
            attributes.put_nest(3, |out| {
                out.extend(content);
                out
            });
            messages.push(super::said(table, family, (message, flags), attributes));
        }
    }
    messages
}

/// The message that empties a set of the table `inet`, whatever is in it.
pub(super) fn flush(table: &Text, set: &str) -> NftMessage {
    let mut attributes = Vec::new();
    attributes.put_text(2, set);
    super::said(table, compile::INET, (DELETE_ELEMENTS, 0), attributes)
}

/// The nodes of one element, one attribute each.
pub(super) fn nodes(element: &Element) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(element, true, &mut bytes);
    bytes
}

fn encode(element: &Element, with_data: bool, out: &mut Vec<u8>) {
    match element {
        Element::Link(Role::Icc | Role::NoIcc, link) => node(out, &Key::default().link(link).link(link), None, None),
        Element::Link(_, link) | Element::Loose(link) => node(out, &Key::default().link(link), None, None),
        Element::Snat(link, address) => {
            node(out, &Key::default().link(link), None, with_data.then(|| Key::default().address(*address)));
        }
        Element::Subnet(net) | Element::Judged(net) => {
            node(out, &Key::default().address(net.network()), None, None);
            if let Some(end) = after(net) {
                out.put_nest(1, |out| data(out, 1, &Key::default().address(end)).put_number(3, INTERVAL_END));
            }
        }
        Element::Limited(listen) => {
            let key = |port| Key::default().listen(listen).port(port);
            node(out, &key(listen.ports.first), Some(key(listen.ports.last)), None);
        }
        Element::AllowFrom(net, listen) => {
            let key = |address, port| Key::default().address(address).listen(listen).port(port);
            let last = key(net.broadcast(), listen.ports.last);
            node(out, &key(net.network(), listen.ports.first), Some(last), None);
        }
        Element::Trusted(link, bridge) => node(out, &Key::default().link(link).link(bridge), None, None),
        Element::Policy(_, it) => {
            let key = |from, to, protocol, port: Option<u16>| {
                let key = Key::default().address(from).address(to).add(&[protocol]);
                port.map_or_else(|| key.clone(), |port| key.clone().port(port))
            };
            let first = key(it.from.0, it.to.0, it.protocols.0, it.ports.map(|ports| ports.0));
            let last = key(it.from.1, it.to.1, it.protocols.1, it.ports.map(|ports| ports.1));
            node(out, &first, Some(last), None);
        }
        Element::Mac(link, mac) => node(out, &Key::default().link(link).add(&mac.0), None, None),
        Element::Source(link, mac, address) => {
            node(out, &Key::default().link(link).add(&mac.0).address(*address), None, None);
        }
        Element::Publish(mapping) => {
            let key = |port| {
                let at = mapping.listen.map_or_else(Key::default, |address| Key::default().address(address));
                at.protocol(mapping.protocol).port(port)
            };
            let last = mapping.port.is_none().then(|| key(mapping.ports.last));
            let target = Key::default().address(mapping.target);
            let target = mapping.port.map_or_else(|| target.clone(), |port| target.clone().port(port));
            node(out, &key(mapping.ports.first), last, with_data.then_some(target));
        }
        Element::Stale(Stale::Sent(Sent { protocol, at, ports, to })) => {
            let key = Key::default().address(*at).protocol(*protocol).port(ports.first).port(ports.last);
            node(out, &key.address(*to), None, None);
        }
        Element::Stale(Stale::Begun { ipv6 }) => node(out, &at_no_port(*ipv6, 0), None, None),
        Element::Stale(Stale::Forgotten { ipv6 }) => node(out, &at_no_port(*ipv6, 0xff), None, None),
    }
}

/// The key of a note that is of no mapping: no protocol and no port, where no flow was sent to, and an address of such bytes.
fn at_no_port(ipv6: bool, to: u8) -> Key {
    let address = if ipv6 { 16 } else { 4 };
    let mut key = SmallVec::from_elem(0, address + 12);
    key.resize(2 * address + 12, to);
    Key(key)
}

fn node(out: &mut Vec<u8>, key: &Key, last: Option<Key>, gives: Option<Key>) {
    out.put_nest(1, |out| {
        data(out, 1, key);
        if let Some(gives) = gives {
            data(out, 2, &gives);
        }
        if let Some(last) = last { data(out, 10, &last) } else { out }
    });
}

fn data<'a>(out: &'a mut Vec<u8>, kind: u16, key: &Key) -> &'a mut Vec<u8> {
    out.put_nest(kind, |out| out.put(1, &key.0))
}

/// The first address past a net, if there is one.
fn after(net: &IpNet) -> Option<IpAddr> {
    match net.broadcast() {
        IpAddr::V4(last) => u32::from(last).checked_add(1).map(|next| Ipv4Addr::from(next).into()),
        IpAddr::V6(last) => u128::from(last).checked_add(1).map(|next| Ipv6Addr::from(next).into()),
    }
}

/// Bytes of a key or of data, field after field: two addresses and what else is asked of a packet at most.
#[derive(Clone, Default)]
struct Key(SmallVec<[u8; 64]>);

impl Key {
    fn add(mut self, field: &[u8]) -> Self {
        self.0.extend_from_slice(field);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
    fn link(self, name: &str) -> Self {
        self.add(&interface(name))
    }
    fn address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.add(&address.octets()),
            IpAddr::V6(address) => self.add(&address.octets()),
        }
    }
    fn listen(self, listen: &Listen) -> Self {
        let at = if let Some(address) = listen.address { self.address(address) } else { self };
        at.protocol(listen.protocol)
    }
    fn protocol(self, protocol: Protocol) -> Self {
        self.add(&[protocol as u8])
    }
    fn port(self, port: u16) -> Self {
        self.add(&port.to_be_bytes())
    }
}

/// The elements of one set among those that a dump lists; `None` if there is one that netrec would never write.
pub(super) fn decode<'a>(set: &str, lists: impl Iterator<Item = &'a [u8]>) -> Option<Vec<Element>> {
    let mut found = Vec::new();
    let nodes = lists.flat_map(|list| {
        attribute::walk(attribute::get(list, 3).unwrap_or_default()).map(|(_, content)| Node::read(content))
    });
    for (stem, element) in [("subnets", Element::Subnet as fn(IpNet) -> Element), ("judged", Element::Judged)] {
        if let Some(family) = set.strip_prefix(stem) {
            return nets(family == "4", nodes).map(|nets| nets.into_iter().map(element).collect());
        }
    }
    for node in nodes {
        found.push(node?.element(set)?);
    }
    if set.starts_with("stale") && found.iter().any(|it| matches!(it, Element::Stale(Stale::Forgotten { .. }))) {
        found.clear();
    }
    Some(found)
}

/// One element of a set as the kernel has it.
#[derive(PartialEq)]
pub(super) struct Node<'a> {
    pub(super) key: &'a [u8],
    /// The last key of a concatenated interval.
    pub(super) last: Option<&'a [u8]>,
    /// What a map gives.
    pub(super) data: Option<&'a [u8]>,
    /// Whether it is one past the last key of a plain interval.
    pub(super) ends: bool,
}

impl<'a> Node<'a> {
    pub(super) fn read(content: &'a [u8]) -> Option<Self> {
        let value = |kind| attribute::get(content, kind).and_then(|data| attribute::get(data, 1));
        let flags =
            attribute::get(content, 3).and_then(|flags| flags.last_chunk()).map_or(0, |f| u32::from_be_bytes(*f));
        (flags & !INTERVAL_END == 0).then_some(())?;
        Some(Self { key: value(1)?, last: value(10), data: value(2), ends: flags != 0 })
    }

    fn element(&self, set: &str) -> Option<Element> {
        let mut key = Fields(self.key);
        if let Some(role) = Role::ALL.into_iter().find(|role| role.set() == set) {
            let link = key.link()?;
            if matches!(role, Role::Icc | Role::NoIcc) && key.link()? != link {
                return None;
            }
            return Some(Element::Link(role, link));
        }
        let ipv4 = set.contains('4');
        if let Some(verdict) = POLICIES.into_iter().find_map(|(stem, verdict)| set.starts_with(stem).then_some(verdict))
        {
            return self.passage(set, ipv4).map(|passage| Element::Policy(verdict, passage.into()));
        }
        match set {
            "trusted" => return Some(Element::Trusted(key.link()?, key.link()?)),
            "loose" => return Some(Element::Loose(key.link()?)),
            "macs" => return Some(Element::Mac(key.link()?, Mac(key.take()?))),
            "sources4" | "sources6" => return Some(Element::Source(key.link()?, Mac(key.take()?), key.address(ipv4)?)),
            _ => {}
        }
        let mut data = Fields(self.data.unwrap_or_default());
        if set.starts_with("snat") {
            return Some(Element::Snat(key.link()?, data.address(ipv4)?));
        }
        if set.starts_with("stale") {
            let ipv6 = !ipv4;
            let of_all = [(0, Stale::Begun { ipv6 }), (0xff, Stale::Forgotten { ipv6 })];
            if let Some((_, note)) = of_all.into_iter().find(|(to, _)| *at_no_port(ipv6, *to).0 == *self.key) {
                return Some(Element::Stale(note));
            }
            let (at, protocol) = (key.address(ipv4)?, key.protocol()?);
            let ports = Ports { first: key.port()?, last: key.port()? };
            let to = key.address(ipv4)?;
            let note = Stale::Sent(Sent { protocol, at, ports, to });
            return (ports.first <= ports.last).then_some(Element::Stale(note));
        }
        let mut last = Fields(self.last.unwrap_or(self.key));
        let from =
            if set.starts_with("allow_from") { Some(net(key.address(ipv4)?, last.address(ipv4)?)?) } else { None };
        let mut listen = None;
        if set.ends_with("_at") {
            listen = Some(key.address(ipv4)?);
            (last.address(ipv4) == listen).then_some(())?;
        }
        let (protocol, first) = (key.protocol()?, key.port()?);
        (last.protocol()? == protocol).then_some(())?;
        let ports = Ports { first, last: last.port()? };
        let at = Listen { address: listen, ipv6: !ipv4, protocol, ports };
        if let Some(from) = from {
            return Some(Element::AllowFrom(from, at));
        }
        if set.starts_with("limited") {
            return Some(Element::Limited(at));
        }
        let target = data.address(ipv4)?;
        let port = if set.starts_with("publish") { Some(data.port()?) } else { None };
        Some(Element::Publish(Mapping { listen, protocol, ports, target, port }))
    }
}

/// Sets of policies by the beginning of their names, which none of the others has.
const POLICIES: [(&str, Verdict); 6] = [
    ("deny4", Verdict::Deny),
    ("deny6", Verdict::Deny),
    ("allow4", Verdict::Allow),
    ("allow6", Verdict::Allow),
    ("within4", Verdict::DenyWithin),
    ("within6", Verdict::DenyWithin),
];

impl Node<'_> {
    fn passage(&self, set: &str, ipv4: bool) -> Option<Passage> {
        let (mut first, mut last) = (Fields(self.key), Fields(self.last?));
        let mut addresses = || Some((first.address(ipv4)?, last.address(ipv4)?));
        let (from, to) = (addresses()?, addresses()?);
        let protocols = (first.take::<1>()?[0], last.take::<1>()?[0]);
        let ports = if set.ends_with("_port") { Some((first.port()?, last.port()?)) } else { None };
        Some(Passage { from, to, protocols, ports })
    }
}

/// Begins and ends in order; an end that closes nothing is what nft puts at zero.
fn nets<'a>(ipv4: bool, nodes: impl Iterator<Item = Option<Node<'a>>>) -> Option<Vec<IpNet>> {
    let mut points = Vec::new();
    for node in nodes {
        let node = node?;
        points.push((Fields(node.key).address(ipv4)?, !node.ends));
    }
    points.sort_unstable();
    let (mut found, mut open) = (Vec::new(), None);
    for (point, begins) in points {
        if let Some(first) = open.take() {
            found.push(net(first, before(point)?)?);
        }
        open = begins.then_some(point);
    }
    if let Some(first) = open {
        let last = if ipv4 { Ipv4Addr::BROADCAST.into() } else { Ipv6Addr::from(u128::MAX).into() };
        found.push(net(first, last)?);
    }
    Some(found)
}

fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => u32::from(address).checked_sub(1).map(|last| Ipv4Addr::from(last).into()),
        IpAddr::V6(address) => u128::from(address).checked_sub(1).map(|last| Ipv6Addr::from(last).into()),
    }
}

/// The net from `first` to `last`, if they are the ends of one.
pub(super) fn net(first: IpAddr, last: IpAddr) -> Option<IpNet> {
    let (bits, differ) = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (32, u128::from(u32::from(first) ^ u32::from(last))),
        (IpAddr::V6(first), IpAddr::V6(last)) => (128, u128::from(first) ^ u128::from(last)),
        _ => return None,
    };
    let net = IpNet::new(first, (bits - (128 - differ.leading_zeros())) as u8).ok()?;
    (net.network() == first && net.broadcast() == last).then_some(net)
}

/// Fields of a key, taken from the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let field = *self.0.first_chunk::<N>()?;
        self.0 = self.0.get(N.next_multiple_of(4)..).unwrap_or_default();
        Some(field)
    }
    fn link(&mut self) -> Option<Text> {
        let name = self.take::<16>()?;
        let end = name.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(&name[..end]).ok().map(Into::into)
    }
    fn address(&mut self, ipv4: bool) -> Option<IpAddr> {
        if ipv4 { self.take::<4>().map(IpAddr::from) } else { self.take::<16>().map(IpAddr::from) }
    }
    fn protocol(&mut self) -> Option<Protocol> {
        let number = self.take::<1>()?[0];
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|protocol| *protocol as u8 == number)
    }
    fn port(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }
}
