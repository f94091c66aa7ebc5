//! A Linux bridge in the host's namespace (ip-link(8), `type bridge`).
//!
//! The MAC is always set: left to itself a bridge takes the lowest of its ports', and every neighbour's cache is wrong
//! whenever a container comes or goes. It has no automatic link-local address, as nobody asked for one.

use std::iter;

use rtnetlink::packet_route::link::{InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use smallvec::smallvec;

use crate::model::hash;
use crate::model::kinds::sysctl::IPV4_FORWARD;
use crate::model::links;
use crate::model::resource::{Few, FieldChange, Kind, KindName, Need, Op, Part, ResourceId, Text, Thing, Wire, host};
use crate::model::values::Mac;
use crate::model::wire::{Facts, Label, LinkFacts, Lookup, Message, Missing, Owner, Place};

/// A bridge that netrec made.
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own, in any combination")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bridge {
    /// Its name.
    pub name: Text,
    /// Whose it is.
    pub owner: Owner,
    /// The network it is.
    pub label: Label,
    /// Its hardware address.
    pub mac: Mac,
    /// In bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Whether it makes a link-local address by itself.
    pub link_local: bool,
    /// The mark it bears; none where it bears the right one.
    pub alias: Option<Text>,
    /// Whether it is in the owner's link group, as from birth.
    pub grouped: bool,
    /// Whether it forwards IPv4 where the host does: a link is born as `net.ipv4.conf.default.forwarding` says.
    pub forwards: bool,
}

impl Bridge {
    /// A bridge as netrec makes them: up and marked.
    pub fn new(name: Text, owner: Owner, mac: Mac, mtu: u32) -> Self {
        let label = Label::default();
        Self { name, owner, label, mac, mtu, up: true, link_local: false, alias: None, grouped: true, forwards: true }
    }

    fn mark(&self) -> String {
        let digest = hash::of(&(&self.name, self.mac, self.mtu));
        self.label.on(self.owner.alias(&self.id(), digest))
    }

    fn observed(link: &LinkFacts, owner: &Owner, forwards: bool) -> Self {
        let mut bridge = Self::new(link.name.clone(), owner.clone(), link.mac, link.mtu);
        bridge.up = link.up;
        bridge.link_local = links::makes_link_local(link);
        bridge.label = Label::of(&link.alias);
        bridge.alias = Some(link.alias.clone());
        bridge.grouped = link.group == owner.group;
        bridge.forwards = !forwards || link.forwards;
        bridge
    }

    fn birth(&self) -> Vec<Message> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(self.name.to_string()),
            LinkAttribute::Address(self.mac.0.to_vec()),
            LinkAttribute::Group(self.owner.group),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        // An MTU given at birth is not taken for the user's: the bridge would follow its smallest port, and go back to 1500
        // with the last one (`br_mtu_auto_adjust`).
        let mut after = vec![LinkAttribute::IfAlias(self.mark()), LinkAttribute::Mtu(self.mtu)];
        after.extend(links::families(
            iter::once(links::no_link_local_mode()).chain(self.forwards.then(links::forwarding)),
        ));
        let host = host();
        let mut messages = vec![links::create(&host, message), links::change(&host, &self.name, after)];
        messages.extend(self.going_up().map(links::last));
        messages
    }

    /// Up when its ports are there: what containers announce while they are made would go to every port. Meanwhile it does
    /// not snoop: with each port that begins to forward the kernel arms the query timers of all others anew
    /// (`br_port_state_selection`). All is said in one batch, so that a kill cannot come in between.
    fn going_up(&self) -> [Message; 3] {
        let host = host();
        let snoop = |on| {
            let info = vec![
                LinkInfo::Kind(InfoKind::Bridge),
                LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(on)])),
            ];
            links::change(&host, &self.name, vec![LinkAttribute::LinkInfo(info)])
        };
        [snoop(false), links::set_up(&host, &self.name, true), snoop(true)]
    }

    fn update(&self, from: &Self) -> Vec<Message> {
        let host = host();
        let mut attributes = vec![LinkAttribute::IfAlias(self.mark())];
        if self.mac != from.mac {
            attributes.push(LinkAttribute::Address(self.mac.0.to_vec()));
        }
        if self.mtu != from.mtu {
            attributes.push(LinkAttribute::Mtu(self.mtu));
        }
        if self.grouped != from.grouped {
            attributes.push(LinkAttribute::Group(self.owner.group));
        }
        let no_link_local = (self.link_local != from.link_local).then(links::no_link_local_mode);
        let forwarding = (self.forwards && !from.forwards).then(links::forwarding);
        attributes.extend(links::families(no_link_local.into_iter().chain(forwarding)));
        let mut messages = vec![links::change(&host, &self.name, attributes)];
        if self.up != from.up {
            messages.push(links::set_up(&host, &self.name, self.up));
        }
        messages
    }
}

impl Kind for Bridge {
    fn id(&self) -> ResourceId {
        ResourceId::new(&host(), KindName::Bridge, self.name.clone())
    }

    fn needs(&self) -> Few<Need> {
        smallvec![Need::After(Thing::Firewall)]
    }

    fn provides(&self) -> Few<Thing> {
        smallvec![Thing::Link(host(), self.name.clone())]
    }

    fn changes(&self, observed: &Self) -> Vec<FieldChange> {
        let mut changes = Vec::new();
        if self.mac != observed.mac {
            changes.push(FieldChange::in_place("address", observed.mac, self.mac));
        }
        if self.mtu != observed.mtu {
            changes.push(FieldChange::in_place("mtu", observed.mtu, self.mtu));
        }
        if self.up != observed.up {
            changes.push(FieldChange::in_place("state", links::state_word(observed.up), links::state_word(self.up)));
        }
        if self.link_local != observed.link_local {
            changes.push(FieldChange::in_place("addrgenmode", "eui64", "none"));
        }
        if self.grouped != observed.grouped {
            changes.push(FieldChange::in_place("group", "doomed", "ours"));
        }
        if self.forwards && !observed.forwards {
            changes.push(FieldChange::in_place("forwarding", 0, 1));
        }
        changes.extend(links::label_change(&observed.label, &self.label));
        if let (true, Some(alias)) = (changes.is_empty(), &observed.alias) {
            changes.extend(links::mark_change("mark", alias, &self.mark()));
        }
        changes
    }

    fn part(&self) -> Option<(Part, &Label)> {
        Some((Part::Network, &self.label))
    }

    fn summary(&self) -> String {
        format!("mtu {}, {}", self.mtu, self.mac)
    }
}

impl Wire for Bridge {
    fn places(op: &Op<&Self>) -> Few<Place> {
        let _ = op;
        smallvec![Place::Netns(host())]
    }

    fn encode(op: &Op<&Self>, lookup: &mut dyn Lookup) -> Result<Vec<Message>, Missing> {
        Ok(match op {
            Op::Create(to) => to.birth(),
            Op::Update { from, to } => to.update(from),
            Op::Delete(from) => vec![links::delete(&host(), &from.name, lookup)?],
        })
    }

    fn observe(facts: &Facts, owner: &Owner) -> Vec<Self> {
        let ours = |link: &&LinkFacts| &*link.kind == "bridge" && owner.owns(link);
        let forward = facts.sysctls.get(&(host(), IPV4_FORWARD.into()));
        let forwards = forward.is_some_and(|value| &**value == "1");
        facts.host().links.iter().filter(ours).map(|link| Self::observed(link, owner, forwards)).collect()
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::RouteNetlinkMessage;
    use rtnetlink::packet_route::link::LinkFlags;

    use super::*;
    use crate::model::wire::Body;

    /// In this order alone no port that begins to forward has the kernel arm the timers of all others.
    #[test]
    fn it_goes_up_last_and_does_not_snoop_meanwhile() {
        let bridge = Bridge::new("br-front".into(), Owner::new("shop"), Mac::default(), 1500);
        let said = bridge.birth().into_iter().filter_map(|message| {
            let Body::RouteLast(RouteNetlinkMessage::SetLink(link) | RouteNetlinkMessage::NewLink(link), _) =
                message.body
            else {
                return None;
            };
            let snoops = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::LinkInfo(info) => info.iter().find_map(|info| match info {
                    LinkInfo::Data(InfoData::Bridge(data)) => Some(data.clone()),
                    _ => None,
                }),
                _ => None,
            });
            Some((link.header.flags.contains(LinkFlags::Up), snoops))
        });
        let snoop = |on| (false, Some(vec![InfoBridge::MulticastSnooping(on)]));
        assert_eq!(said.collect::<Vec<_>>(), [snoop(false), (true, None), snoop(true)]);
    }
}
