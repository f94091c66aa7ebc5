//! A veth pair (veth(4)): the host's end is a port of a bridge, the other end is the container's interface.
//!
//! Both ends are born in one message, the peer inside its namespace under its final name: moving or renaming it
//! afterwards waits for a grace period each. `IFF_UP` for the peer in that message fails with `ENOTCONN`, and an alias
//! is silently dropped, so both follow. One queue each, as a second one halves the speed of creation and stays unused.

use std::collections::BTreeMap;

use rtnetlink::packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage,
};
use smallvec::smallvec;

use crate::model::hash;
use crate::model::links;
use crate::model::resource::{
    Few, FieldChange, HOST, Kind, KindName, Need, Op, Part, ResourceId, Text, Thing, Wire, host,
};
use crate::model::values::Mac;
use crate::model::wire::{Body, Facts, Label, LinkFacts, Lookup, Message, Missing, NetnsFacts, Owner, Place};

/// A veth pair that netrec made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Veth {
    /// Where the host's end is: in the host's namespace. An end in a container that has lost that one stands for its
    /// pair, in its own place and under its own name, so that it can be removed.
    pub place: Text,
    /// Name of the host's end.
    pub name: Text,
    /// Whose it is.
    pub owner: Owner,
    /// The endpoint it is.
    pub label: Label,
    /// The host's end.
    pub host: End,
    /// The bridge that the host's end is a port of; none if it was taken out.
    pub bridge: Option<Text>,
    /// Port option: frames never go from this port to another isolated one.
    pub isolated: bool,
    /// Port option: frames may leave through the port they came by.
    pub hairpin: bool,
    /// Whether the host's end may have IPv6 of its own: where it cannot be switched off. What a bridge passes on asks for
    /// none.
    pub ipv6: bool,
    /// Namespace of the container's end.
    pub netns: Text,
    /// Name of the container's end; none if it is out of sight.
    pub ifname: Option<Text>,
    /// The container's end.
    pub peer: End,
}

/// What both ends have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End {
    /// Hardware address.
    pub mac: Mac,
    /// In bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Whether it makes a link-local address by itself.
    pub link_local: bool,
    /// Whether it is in the owner's link group.
    pub grouped: bool,
    /// The mark it bears; none where it bears the right one.
    pub alias: Option<Text>,
}

impl End {
    /// An end as netrec makes them: up, marked, without automatic address.
    pub fn new(mac: Mac, mtu: u32) -> Self {
        Self { mac, mtu, up: true, link_local: false, grouped: true, alias: None }
    }

    fn observed(link: &LinkFacts, owner: &Owner) -> Self {
        Self {
            mac: link.mac,
            mtu: link.mtu,
            up: link.up,
            link_local: links::makes_link_local(link),
            grouped: link.group == owner.group,
            alias: Some(link.alias.clone()),
        }
    }

    fn changes(&self, observed: &Self, fields: [&'static str; 5]) -> Vec<FieldChange> {
        let [address, mtu, state, addrgen, group] = fields;
        let mut changes = Vec::new();
        if self.mac != observed.mac {
            changes.push(FieldChange::in_place(address, observed.mac, self.mac));
        }
        if self.mtu != observed.mtu {
            changes.push(FieldChange::in_place(mtu, observed.mtu, self.mtu));
        }
        if self.up != observed.up {
            changes.push(FieldChange::in_place(state, links::state_word(observed.up), links::state_word(self.up)));
        }
        if self.link_local != observed.link_local {
            changes.push(FieldChange::in_place(addrgen, "eui64", "none"));
        }
        if self.grouped != observed.grouped {
            changes.push(FieldChange::in_place(group, "another", "ours"));
        }
        changes
    }

    /// What of this end differs from what is there, but for up and down.
    fn update(&self, from: &Self, owner: &Owner) -> Vec<LinkAttribute> {
        let mut attributes = Vec::new();
        if self.mac != from.mac {
            attributes.push(LinkAttribute::Address(self.mac.0.to_vec()));
        }
        if self.mtu != from.mtu {
            attributes.push(LinkAttribute::Mtu(self.mtu));
        }
        if self.link_local != from.link_local {
            attributes.push(links::no_link_local());
        }
        if self.grouped != from.grouped {
            attributes.push(LinkAttribute::Group(owner.group));
        }
        attributes
    }

    fn birth(&self, name: &Text, owner: &Owner) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_string()),
            LinkAttribute::Address(self.mac.0.to_vec()),
            LinkAttribute::Mtu(self.mtu),
            LinkAttribute::Group(owner.group),
            LinkAttribute::NumTxQueues(1),
            LinkAttribute::NumRxQueues(1),
        ];
        message
    }
}

impl Veth {
    fn mark(&self) -> String {
        let bridge = (&self.bridge, self.isolated, self.hairpin);
        let ends = (self.host.mac, self.host.mtu, self.peer.mac, self.peer.mtu);
        self.label.on(self.owner.alias(&self.id(), hash::of(&(bridge, &self.netns, &self.ifname, ends))))
    }

    fn port_data(&self) -> LinkAttribute {
        let port = vec![InfoBridgePort::Isolated(self.isolated), InfoBridgePort::HairpinMode(self.hairpin)];
        LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(port)),
        ])
    }

    fn peer_name(&self) -> Text {
        self.ifname.clone().unwrap_or_default()
    }

    fn bridge_index(&self, lookup: &mut dyn Lookup) -> Result<u32, Missing> {
        match &self.bridge {
            None => Ok(0),
            Some(bridge) => lookup.index(HOST, bridge).ok_or_else(|| Missing(format!("bridge {bridge}"))),
        }
    }

    fn birth(&self, lookup: &mut dyn Lookup) -> Result<Vec<Message>, Missing> {
        let bridge = self.bridge_index(lookup)?;
        let netns = lookup.netns_fd(&self.netns).ok_or_else(|| Missing(format!("network namespace {}", self.netns)))?;
        let mut peer = self.peer.birth(&self.peer_name(), &self.owner);
        peer.attributes.push(LinkAttribute::NetNsFd(netns));
        let mut message = self.host.birth(&self.name, &self.owner);
        links::header_up(&mut message, true);
        if self.bridge.is_some() {
            message.attributes.push(LinkAttribute::Controller(bridge));
        }
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        let host = host();
        let mut after = vec![LinkAttribute::IfAlias(self.mark()), links::no_link_local()];
        if self.bridge.is_some() && (self.isolated || self.hairpin) {
            after.push(self.port_data());
        }
        let inside = vec![LinkAttribute::IfAlias(self.mark()), links::no_link_local()];
        let mut messages = vec![links::create(&host, message), links::change(&host, &self.name, after)];
        if !self.ipv6 {
            messages.push(self.no_ipv6());
        }
        messages.push(links::change(&self.netns, &self.peer_name(), inside));
        messages.push(links::set_up(&self.netns, &self.peer_name(), true));
        Ok(messages)
    }

    fn no_ipv6(&self) -> Message {
        Message { place: Place::Sysctl(host()), body: Body::NoIpv6(self.name.clone()) }
    }

    fn loses_ipv6(&self, from: &Self) -> bool {
        from.ipv6 && !self.ipv6
    }

    fn update(&self, from: &Self, lookup: &mut dyn Lookup) -> Result<Vec<Message>, Missing> {
        let (host, ifname, mark) = (host(), self.peer_name(), self.mark());
        let mut attributes = self.host.update(&from.host, &self.owner);
        if self.bridge != from.bridge {
            attributes.push(LinkAttribute::Controller(self.bridge_index(lookup)?));
        }
        attributes.push(LinkAttribute::IfAlias(mark.clone()));
        let mut messages = vec![links::change(&host, &self.name, attributes)];
        // A change of bridge makes a new port with default options, and options go to the bridge that it is a port of.
        let fresh = self.bridge != from.bridge && (self.isolated || self.hairpin);
        if self.bridge.is_some() && (fresh || (self.isolated, self.hairpin) != (from.isolated, from.hairpin)) {
            messages.push(links::change(&host, &self.name, vec![self.port_data()]));
        }
        if self.host.up != from.host.up {
            messages.push(links::set_up(&host, &self.name, self.host.up));
        }
        if self.loses_ipv6(from) {
            messages.push(self.no_ipv6());
        }
        let mut attributes = self.peer.update(&from.peer, &self.owner);
        attributes.push(LinkAttribute::IfAlias(mark));
        messages.push(links::change(&self.netns, &ifname, attributes));
        if self.peer.up != from.peer.up {
            messages.push(links::set_up(&self.netns, &ifname, self.peer.up));
        }
        Ok(messages)
    }

    fn observed(
        (place, inside): (&Text, &NetnsFacts),
        link: &LinkFacts,
        peer: Option<(&Text, &LinkFacts)>,
        owner: &Owner,
    ) -> Self {
        let (netns, ifname, peer) = match peer {
            Some((netns, peer)) => (netns.clone(), Some(peer.name.clone()), End::observed(peer, owner)),
            None => (place.clone(), None, End::observed(link, owner)),
        };
        let bridge = link.master.and_then(|master| inside.link(master)).map(|bridge| bridge.name.clone());
        Self {
            place: place.clone(),
            name: link.name.clone(),
            owner: owner.clone(),
            label: Label::of(&link.alias),
            host: End::observed(link, owner),
            bridge: bridge.filter(|_| &**place == HOST),
            isolated: link.isolated,
            hairpin: link.hairpin,
            ipv6: links::has_ipv6(link) && &**place == HOST,
            netns,
            ifname,
            peer,
        }
    }
}

/// The containers' ends by the index of the host's end. Each end must name the index of the other, and both be ours:
/// indexes alone could agree by chance with a pair inside a container, two marks as well do not.
fn peers<'a>(facts: &'a Facts, owner: &Owner) -> BTreeMap<u32, (&'a Text, &'a LinkFacts)> {
    let (mut peers, host) = (BTreeMap::new(), facts.host());
    for (netns, inside) in facts.namespaces.iter().filter(|(netns, _)| &***netns != HOST) {
        for peer in inside.links.iter().filter(|peer| &*peer.kind == "veth" && owner.owns(peer)) {
            let other = peer.link.and_then(|index| host.link(index));
            if let Some(other) = other.filter(|other| other.link == Some(peer.index) && owner.owns(other)) {
                peers.insert(other.index, (netns, peer));
            }
        }
    }
    peers
}

/// Whether a link is the end that its pair is named by. In a container that is another host, which has a topology of the
/// same name: what is there is not ours.
fn is_first_end(link: &LinkFacts) -> bool {
    link.alias.contains(&format!(":{}:", ResourceId::new(&host(), KindName::Veth, link.name.clone())))
}

impl Kind for Veth {
    fn id(&self) -> ResourceId {
        ResourceId::new(&self.place, KindName::Veth, self.name.clone())
    }

    fn needs(&self) -> Few<Need> {
        let mut needs = smallvec![Need::Upon(Thing::Netns(self.netns.clone())), Need::After(Thing::Firewall)];
        needs.extend(self.bridge.iter().map(|bridge| Need::After(Thing::Link(host(), bridge.clone()))));
        needs
    }

    fn provides(&self) -> Few<Thing> {
        let mut things = smallvec![Thing::Link(self.place.clone(), self.name.clone())];
        things.extend(self.ifname.iter().map(|ifname| Thing::Link(self.netns.clone(), ifname.clone())));
        things
    }

    fn changes(&self, observed: &Self) -> Vec<FieldChange> {
        let mut changes = Vec::new();
        if (&self.netns, &self.ifname) != (&observed.netns, &observed.ifname) {
            let shown = |it: &Self| match &it.ifname {
                Some(ifname) => format!("{ifname} in {}", it.netns),
                None => "out of sight".into(),
            };
            changes.push(FieldChange::replaces("peer", shown(observed), shown(self)));
            return changes;
        }
        let none = || "none".into();
        if self.bridge != observed.bridge {
            let (from, to) = (observed.bridge.clone(), self.bridge.clone());
            changes.push(FieldChange::in_place("master", from.unwrap_or_else(none), to.unwrap_or_else(none)));
        }
        for (field, from, to) in
            [("isolated", observed.isolated, self.isolated), ("hairpin", observed.hairpin, self.hairpin)]
        {
            if from != to {
                changes.push(FieldChange::in_place(field, on(from), on(to)));
            }
        }
        if self.loses_ipv6(observed) {
            changes.push(FieldChange::in_place("disable_ipv6", 0, 1));
        }
        changes.extend(self.host.changes(&observed.host, ["address", "mtu", "state", "addrgenmode", "group"]));
        changes.extend(
            self.peer
                .changes(&observed.peer, ["peer address", "peer mtu", "peer state", "peer addrgenmode", "peer group"]),
        );
        changes.extend(links::label_change(&observed.label, &self.label));
        if changes.is_empty() {
            let mark = self.mark();
            for (field, end) in [("mark", &observed.host), ("peer mark", &observed.peer)] {
                changes.extend(end.alias.as_ref().and_then(|alias| links::mark_change(field, alias, &mark)));
            }
        }
        changes
    }

    fn part(&self) -> Option<(Part, &Label)> {
        Some((Part::Endpoint(self.bridge.clone()), &self.label))
    }

    fn summary(&self) -> String {
        let bridge = self.bridge.as_deref().unwrap_or("no bridge");
        format!("{} in {} on {bridge}, mtu {}", self.peer_name(), self.netns, self.peer.mtu)
    }

    fn bereft(&mut self, gone: &Thing) {
        if matches!((gone, &self.bridge), (Thing::Link(netns, name), Some(bridge)) if &**netns == HOST && name == bridge)
        {
            self.bridge = None;
        }
    }
}

fn on(flag: bool) -> &'static str {
    if flag { "on" } else { "off" }
}

impl Wire for Veth {
    fn places(op: &Op<&Self>) -> Few<Place> {
        let places = |to: &Self, silent: bool| {
            let inside = Place::Netns(to.netns.clone());
            // Before the other end is up: until then this one has no carrier, and Linux begins nothing on it.
            let setting = silent.then(|| Place::Sysctl(host()));
            [Place::Netns(host())].into_iter().chain(setting).chain([inside]).collect()
        };
        match op {
            Op::Create(to) => places(to, !to.ipv6),
            Op::Update { from, to } => places(to, to.loses_ipv6(from)),
            Op::Delete(from) => smallvec![Place::Netns(from.place.clone())],
        }
    }

    fn encode(op: &Op<&Self>, lookup: &mut dyn Lookup) -> Result<Vec<Message>, Missing> {
        match op {
            Op::Create(to) => to.birth(lookup),
            Op::Update { from, to } => to.update(from, lookup),
            Op::Delete(from) => Ok(vec![links::delete(&from.place, &from.name, lookup)?]),
        }
    }

    fn observe(facts: &Facts, owner: &Owner) -> Vec<Self> {
        let (peers, mut observed) = (peers(facts, owner), Vec::new());
        let is_peer = |netns: &Text, link: &LinkFacts| {
            let of = link.link.and_then(|host| peers.get(&host));
            of.is_some_and(|(of, peer)| *of == netns && peer.index == link.index)
        };
        for (netns, inside) in facts.namespaces.iter() {
            let on_host = &**netns == HOST;
            for link in inside.links.iter().filter(|link| &*link.kind == "veth" && owner.owns(link)) {
                let peer = peers.get(&link.index).filter(|_| on_host).copied();
                if on_host || !(is_peer(netns, link) || is_first_end(link)) {
                    observed.push(Self::observed((netns, inside), link, peer, owner));
                }
            }
        }
        observed
    }
}
