//! A routing rule that sends replies of an address to that endpoint's own table (ip-rule(8)): a container with several
//! endpoints answers through the one it was asked by.
//!
//! Its mark is its protocol number together with a table of the owner's; the kernel refuses to delete a rule when asked
//! with another protocol.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use smallvec::smallvec;

use crate::model::links::{NEW, route_message};
use crate::model::resource::{Few, FieldChange, Kind, KindName, Need, Op, ResourceId, Text, Thing, Wire};
use crate::model::wire::{Facts, Lookup, Message, Missing, NetnsFacts, Owner, PROTOCOL, Place, RuleFacts};

/// Priority of our rules: before the main table's 32766, after whatever an operator writes by hand.
pub const PRIORITY: u32 = 30_078;

/// A rule `from ADDRESS lookup TABLE`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Its namespace.
    pub netns: Text,
    /// Packets of this source address.
    pub source: IpAddr,
    /// `FRA_PRIORITY`.
    pub priority: u32,
    /// The table to look in.
    pub table: u32,
}

impl Rule {
    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = if self.source.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.src_len = if self.source.is_ipv4() { 32 } else { 128 };
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![
            RuleAttribute::Source(self.source),
            RuleAttribute::Priority(self.priority),
            RuleAttribute::Table(self.table),
            RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
        ];
        message
    }

    fn observed(netns: &Text, inside: &NetnsFacts, owner: &Owner) -> Vec<Self> {
        let tables = owner.tables()..=owner.tables() | 0xff;
        let observed = |rule: &RuleFacts| {
            let source = rule.source.addr();
            let ours = tables.contains(&rule.table) && rule.source == IpNet::from(source);
            ours.then(|| Self { netns: netns.clone(), source, priority: rule.priority, table: rule.table })
        };
        inside.rules.iter().filter_map(observed).collect()
    }
}

impl Kind for Rule {
    fn id(&self) -> ResourceId {
        ResourceId::new(&self.netns, KindName::Rule, format!("{}:{}@{:x}", self.priority, self.source, self.table))
    }

    fn needs(&self) -> Few<Need> {
        smallvec![Need::Inside(Thing::Netns(self.netns.clone())), Need::After(Thing::Address(self.source))]
    }

    fn provides(&self) -> Few<Thing> {
        smallvec![Thing::Table(self.netns.clone(), self.table)]
    }

    fn changes(&self, _: &Self) -> Vec<FieldChange> {
        Vec::new()
    }

    fn summary(&self) -> String {
        format!("replies of {} by its own endpoint", self.source)
    }
}

impl Wire for Rule {
    fn places(op: &Op<&Self>) -> Few<Place> {
        smallvec![Place::Netns(op.subject().netns.clone())]
    }

    fn encode(op: &Op<&Self>, _: &mut dyn Lookup) -> Result<Vec<Message>, Missing> {
        let it = op.subject();
        Ok(vec![match op {
            Op::Create(_) | Op::Update { .. } => {
                route_message(&it.netns, RouteNetlinkMessage::NewRule(it.message()), NEW)
            }
            Op::Delete(_) => route_message(&it.netns, RouteNetlinkMessage::DelRule(it.message()), 0),
        }])
    }

    fn observe(facts: &Facts, owner: &Owner) -> Vec<Self> {
        facts.namespaces.iter().flat_map(|(netns, inside)| Self::observed(netns, inside, owner)).collect()
    }
}
