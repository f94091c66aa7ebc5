//! From what the user wrote to what the kernel is to hold: every blank filled, every rule checked.
//!
//! Blanks are filled with what is held already (addresses, subnets, interface names), then with what the host says (the
//! uplink's MTU, live routes), then by a hash of the name. So the same file and the same host give the same state, and
//! an edit of one thing does not move another.

mod conflicts;
mod containers;
mod endpoints;
mod labels;
mod names;
mod neighbours;
mod networks;
mod part;
mod policies;
mod publish;
mod routes;
mod settings;

use std::net::IpAddr;

use ipnet::IpNet;

pub use containers::{namespaces, scope};
pub use labels::table;
pub use names::{bridge_mac, bridge_name, host_mac, veth_name};
pub use part::{Turned, turned};
pub(super) use routes::TABLES;
pub use settings::route_localnet;

use self::labels::Labels;
use super::both::{Both, InTurn};
use super::diagnostic::{Diagnostic, Diagnostics};
use super::drivers;
use super::kinds::KindName;
use super::kinds::firewall::Firewall;
use super::kinds::user_rules::UserRules;
use super::observed::{ForeignLink, Observed};
use super::resource::{Kind as _, Resource, ResourceId, Text};
use super::source::Span;
use super::state::{Desired, State};
use super::topology::{Endpoint, Item, Network, Topology};
use super::values::Mac;
use super::wire::Owner;

/// Why a topology cannot be lowered. Nothing is touched either way.
#[derive(Debug)]
pub enum Rejection {
    /// It is wrong in itself.
    Invalid(Diagnostics),
    /// It contradicts what is live on this host.
    Refused(Diagnostics),
}

/// Fills every blank of a topology and says what the kernel is to hold.
///
/// # Errors
///
/// All findings at once: those of the topology itself, or else those against the live host.
pub fn lower(topology: &Topology, observed: &Observed) -> Result<Desired, Rejection> {
    lower_by(topology, observed, &InTurn)
}

/// The same, for whoever has two threads for it.
///
/// # Errors
///
/// Those of [`lower`].
pub fn lower_by(topology: &Topology, observed: &Observed, by: &impl Both) -> Result<Desired, Rejection> {
    all(Lowering::new(topology, topology, (observed, &observed.ours)), by)
}

/// What all of the lowering's topology comes to.
fn all(mut lowering: Lowering, by: &impl Both) -> Result<Desired, Rejection> {
    let sandboxes = lowering.sandboxes();
    let networks = lowering.networks(&sandboxes);
    let ports = lowering.endpoints(&sandboxes, &networks);
    let given = lowering.given();
    let firewall = || given.firewall(&ports, &networks);
    let (firewall, ()) = by.both(firewall, || {
        for network in networks.values() {
            drivers::lower(network, &ports, &mut lowering);
        }
        lowering.routes(&ports);
    });
    lowering.firewall(firewall);
    lowering.settings(&ports, &networks);
    lowering.isolation_notes(&ports);
    lowering.taken_ports(&ports);
    lowering.docker_user(&networks);
    lowering.neighbours_notes(&networks);
    lowering.finish()
}

/// What a topology is lowered from.
#[derive(Clone, Copy)]
struct Given<'a> {
    topology: &'a Topology,
    whole: &'a Topology,
    observed: &'a Observed,
}

/// A topology on its way down.
pub struct Lowering<'a> {
    /// What the user wrote, or a part of it.
    pub topology: &'a Topology,
    /// All of it: which addresses and ports are spoken for.
    whole: &'a Topology,
    /// Whose things are made.
    pub owner: Owner,
    /// What was seen.
    pub observed: &'a Observed,
    /// Where settings are found that are read and never wanted.
    read: &'a State,
    /// As they were asked for; of two with one id the last is meant.
    wanted: Vec<(ResourceId, Resource, Span)>,
    labels: Labels,
    bridged: [bool; 2],
    desired: Desired,
    invalid: Vec<Diagnostic>,
    refused: Vec<Diagnostic>,
}

/// A container, as found.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// The name that ids use for its namespace.
    pub netns: Text,
    /// Whether it is there, or will be made.
    pub there: bool,
}

/// A network with every blank filled.
#[derive(Clone, Debug)]
pub struct NetworkPlan<'a> {
    /// Its name in the topology.
    pub name: &'a str,
    /// What the user wrote.
    pub item: &'a Item<Network>,
    /// The name that its own names are derived from ([`Label::born`](super::wire::Label)).
    pub born: Text,
    /// Name of its link.
    pub link: Text,
    /// Whether the link is somebody else's.
    pub external: bool,
    /// Subnets, and the host's address in each.
    pub subnets: Vec<Subnet>,
    /// In bytes.
    pub mtu: u32,
    /// No way out.
    pub internal: bool,
    /// Endpoints reach each other.
    pub icc: bool,
}

impl NetworkPlan<'_> {
    /// Whether its link is a bridge.
    fn is_bridged(&self) -> bool {
        self.item.driver.get_ref() == "bridge"
    }

    /// Whether the host forwards packets of a family for it.
    pub fn forwards(&self, ipv6: bool) -> bool {
        let gateways = self.subnets.iter().filter_map(|subnet| subnet.gateway);
        !self.internal && !self.external && gateways.into_iter().any(|gateway| gateway.is_ipv6() == ipv6)
    }

    /// Whether it has a subnet of a family.
    fn has(&self, ipv6: bool) -> bool {
        self.subnets.iter().any(|subnet| subnet.net.addr().is_ipv6() == ipv6)
    }
}

/// A subnet and its gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subnet {
    /// The subnet.
    pub net: IpNet,
    /// The next hop of its endpoints; none where there is none.
    pub gateway: Option<IpAddr>,
}

/// An endpoint with every blank filled.
#[derive(Clone, Debug)]
pub struct Port<'a> {
    /// Its name in the topology.
    pub name: &'a str,
    /// What the user wrote.
    pub item: &'a Item<Endpoint>,
    /// The name that its own names are derived from ([`Label::born`](super::wire::Label)).
    pub born: Text,
    /// Its network.
    pub network: &'a NetworkPlan<'a>,
    /// Its container's namespace.
    pub netns: Text,
    /// The link on the host's side.
    pub link: Text,
    /// The link in the container.
    pub ifname: Text,
    /// Hardware address of the link in the container.
    pub mac: Mac,
    /// Its addresses with the prefix lengths of their subnets: first the one that replies and mappings use.
    pub addresses: Vec<IpNet>,
}

impl Port<'_> {
    /// Its first address of a family.
    pub fn address(&self, ipv6: bool) -> Option<IpAddr> {
        self.addresses.iter().map(IpNet::addr).find(|address| address.is_ipv6() == ipv6)
    }

    /// Of several endpoints of a container the first in this order has the default route, and `eth0`.
    pub fn rank(&self) -> (std::cmp::Reverse<i32>, &str) {
        let priority = self.item.gateway_priority.as_ref().map_or(0, |priority| *priority.get_ref());
        (std::cmp::Reverse(priority), self.name)
    }
}

impl NetworkPlan<'_> {
    /// The next hop from an address in one of its subnets.
    pub fn gateway_of(&self, address: IpAddr) -> Option<IpAddr> {
        self.subnets.iter().find(|subnet| subnet.net.contains(&address)).and_then(|subnet| subnet.gateway)
    }
}

impl<'a> Lowering<'a> {
    fn new(topology: &'a Topology, whole: &'a Topology, (observed, read): (&'a Observed, &'a State)) -> Self {
        Self {
            topology,
            whole,
            owner: Owner::new(&topology.name),
            observed,
            read,
            wanted: Vec::new(),
            labels: Labels::of(topology, whole, &observed.ours),
            bridged: settings::bridged(read),
            desired: Desired { topology: topology.name.clone(), ..Desired::default() },
            invalid: Vec::new(),
            refused: Vec::new(),
        }
    }

    fn given(&self) -> Given<'a> {
        Given { topology: self.topology, whole: self.whole, observed: self.observed }
    }

    /// Wants a resource, asked for at a place of the topology.
    pub fn want(&mut self, resource: impl Into<Resource>, origin: Span) {
        let resource = resource.into();
        self.wanted.push((resource.id(), resource, origin));
    }

    /// Says something that the user should know before saying yes.
    pub fn note(&mut self, note: String) {
        self.desired.notes.push(note);
    }

    fn firewall(&mut self, firewall: Result<Option<Firewall>, Vec<Diagnostic>>) {
        match firewall {
            Ok(Some(firewall)) => {
                let origin = self.topology.networks.values().map(|network| network.name).min().unwrap_or_default();
                self.want(firewall, origin);
                self.want(UserRules, origin);
            }
            Ok(None) => {}
            Err(findings) => self.invalid.extend(findings),
        }
    }

    fn refuse(&mut self, finding: Diagnostic) {
        self.refused.push(finding);
    }

    /// Whose a link is that is not ours, for a person.
    fn whose(&self, link: &ForeignLink) -> String {
        match &link.topology {
            None => "not netrec's".into(),
            Some(own) if **own == *self.topology.name => "no longer in the topology's link group".into(),
            Some(other) => format!("of topology `{other}`"),
        }
    }

    /// Addresses of ours on a link.
    fn held<'k>(&self, netns: &str, link: &'k Text) -> impl Iterator<Item = IpNet> + use<'a, 'k> {
        self.observed.ours.of_kind(netns, KindName::Address).filter_map(move |resource| match resource {
            Resource::Address(it) if it.link == *link => Some(it.address),
            _ => None,
        })
    }

    fn ours_named(&self, netns: &Text, kind: KindName, name: &Text) -> Option<&'a Resource> {
        self.observed.ours.get(&ResourceId::new(netns, kind, name.clone()))
    }

    fn finish(mut self) -> Result<Desired, Rejection> {
        if !self.invalid.is_empty() {
            return Err(Rejection::Invalid(self.invalid.into()));
        }
        if !self.refused.is_empty() {
            return Err(Rejection::Refused(self.refused.into()));
        }
        self.desired.fill(self.wanted);
        Ok(self.desired)
    }
}
