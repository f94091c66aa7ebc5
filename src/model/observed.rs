//! What was seen, sorted: ours, which operations may touch, and foreign, which none accepts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::both::{Both, InTurn};
use super::kinds::firewall::Firewall;
use super::kinds::sysctl::Sysctl;
use super::links;
use super::neighbours::Flush;
use super::resource::{HOST, KindName, Resource, Text, host};
use super::shared::Shared;
use super::state::State;
use super::values::{Ports, Protocol};
use super::wire::{
    Absent, AddressFacts, ChainFacts, Does, Facts, ForeignRule, LinkFacts, NetnsFacts, NetnsOrigin, Owner, PROTOCOL,
    RouteFacts,
};

/// `RTPROT_RA` (linux/rtnetlink.h): learnt from a router advertisement.
const LEARNT: u8 = 9;
/// `RTPROT_KERNEL` (linux/rtnetlink.h): made by the kernel for an address.
pub const KERNEL: u8 = 2;
/// `IFA_F_PERMANENT` (`linux/if_addr.h`): not learnt, and without a lifetime.
const PERMANENT: u32 = 0x80;

/// All that was seen of a host, as far as a topology is concerned.
#[derive(Clone, Default, Debug)]
pub struct Observed {
    /// What bears the topology's mark.
    pub ours: State,
    /// All else.
    pub foreign: Foreign,
    /// Containers without a namespace to work in, and why.
    pub absent: BTreeMap<Text, Absent>,
    /// Namespaces of containers that are there, ours or not.
    pub present: Shared<BTreeSet<Text>>,
    /// Whether anybody looked: `check` does not.
    pub looked: bool,
}

/// What belongs to others: read for conflicts, defaults and warnings.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Foreign {
    /// Links without our mark, by namespace and name.
    pub links: BTreeMap<(Text, Text), ForeignLink>,
    /// Routes by namespace; those through our links that neither we nor the kernel made are others', too.
    pub routes: Vec<(Text, ForeignRoute)>,
    /// Base chains of other tables.
    pub chains: Vec<ChainFacts>,
    /// What stands on a link of ours in the host's namespace, for a person: ports of a bridge, links made from it,
    /// addresses and routes. It would go with the link.
    pub users: BTreeMap<Text, Vec<String>>,
    /// Whether IPv6 cannot be switched off on links.
    pub ipv6_fixed: bool,
    /// Links of ours that IPv6 is switched off on, by namespace and name; but for those that are to have none.
    pub ipv6_off: BTreeSet<(Text, Text)>,
    /// Docker's chains for rules of users: by whether they are of IPv6, the handle of the rule that ends them.
    pub docker: BTreeMap<bool, Option<u64>>,
    /// What takes everybody's tables away, ours among them, whenever a service reads its file.
    pub flushes: Vec<Flush>,
    /// Ports of the host that others have.
    pub claims: Vec<Claim>,
    /// Processes in namespaces of ours that the topology no longer has.
    pub processes: BTreeMap<Text, Vec<u32>>,
}

/// A connection that somebody works through: what netrec must not cut off while it runs at its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Session {
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
}

/// A link of somebody else's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForeignLink {
    /// `IFLA_INFO_KIND`; empty for hardware, for loopback, and where this is but another name of a link.
    pub kind: Text,
    /// In bytes.
    pub mtu: u32,
    /// How many ports it has, whosever they are.
    pub ports: usize,
    /// Whether it bears the mark of another topology, and which.
    pub topology: Option<Text>,
}

/// A route of somebody else's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForeignRoute {
    /// Where to.
    pub destination: IpNet,
    /// Through which link; none for those without one.
    pub link: Option<Text>,
    /// `RTA_TABLE`.
    pub table: u32,
    /// Metric; the lowest wins.
    pub metric: u32,
    /// Whether it was learnt from a router advertisement.
    pub learnt: bool,
}

/// Ports of the host that somebody else has.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Claim {
    /// The protocol.
    pub protocol: Protocol,
    /// Whether in IPv6; none: in both families.
    pub ipv6: Option<bool>,
    /// At which address; none: at every one.
    pub address: Option<IpAddr>,
    /// The ports.
    pub ports: Ports,
    /// Who has them, for a person.
    pub holder: String,
}

fn claims(facts: &Facts) -> Vec<Claim> {
    let mut claims = Vec::new();
    for listener in &facts.listeners {
        claims.push(Claim {
            protocol: listener.protocol,
            ipv6: Some(listener.address.is_ipv6()),
            address: Some(listener.address).filter(|address| !address.is_unspecified()),
            ports: Ports { first: listener.port, last: listener.port },
            holder: "a process of the host listens".into(),
        });
    }
    for table in facts.topologies.iter() {
        let topology = table.name.trim_start_matches(Firewall::PREFIX);
        claims.extend(Firewall::published(table).into_iter().map(|mapping| Claim {
            protocol: mapping.protocol,
            ipv6: Some(mapping.target.is_ipv6()),
            address: mapping.listen,
            ports: mapping.ports,
            holder: format!("topology `{topology}` publishes"),
        }));
    }
    for chain in facts.chains.iter().filter(|chain| chain.maps) {
        let holder = format!("table {} {} maps elsewhere what comes", chain.family, chain.table);
        redirects(&chain.rules, &mut |protocol, ports| {
            let ipv6 = match &*chain.family {
                "ip" => Some(false),
                "ip6" => Some(true),
                _ => None,
            };
            claims.push(Claim { protocol, ipv6, address: None, ports, holder: holder.clone() });
        });
    }
    claims.sort_unstable();
    claims.dedup();
    claims
}

fn redirects(rules: &[ForeignRule], each: &mut impl FnMut(Protocol, Ports)) {
    for rule in rules {
        if let (true, Some(protocol), Some(ports)) = (rule.maps, rule.protocol, rule.ports) {
            each(protocol, ports);
        }
        if let Does::Call { rules, .. } = &rule.does {
            redirects(rules, each);
        }
    }
}

impl Observed {
    /// Sorts facts by whose they are.
    pub fn new(facts: &Facts, owner: &Owner) -> Self {
        Self::by_halves(facts, owner, &InTurn)
    }

    /// The same in two halves.
    pub fn by_halves(facts: &Facts, owner: &Owner, by: &impl Both) -> Self {
        // There is most of these, and each is little work.
        let half = |kind| matches!(kind, KindName::Address | KindName::Route | KindName::Rule);
        let ours =
            |of: &dyn Fn(KindName) -> bool| -> State { Resource::observe(facts, owner, of).into_iter().collect() };
        let (others, mut all) = by.both(|| ours(&half), || Self::with(ours(&|kind| !half(kind)), facts, owner));
        all.ours.append(others);
        all
    }

    fn with(ours: State, facts: &Facts, owner: &Owner) -> Self {
        let mut foreign = Foreign { chains: facts.chains.to_vec(), claims: claims(facts), ..Foreign::default() };
        for (netns, inside) in facts.namespaces.iter() {
            for link in inside.links.iter().filter(|link| !owner.owns(link) && &*link.name != "lo") {
                let ports = inside.links.iter().filter(|port| port.master == Some(link.index)).count();
                let topology =
                    link.alias.strip_prefix("netrec:").and_then(|rest| rest.split(':').next()).map(Text::from);
                let its = ForeignLink { kind: link.kind.clone(), mtu: link.mtu, ports, topology };
                // Linux takes what is meant for a link of such a name for this one, and makes no other.
                let other_name = ForeignLink { kind: Text::default(), ports: 0, ..its.clone() };
                let others = link.altnames.iter().map(|name| ((netns.clone(), name.clone()), other_name.clone()));
                foreign.links.extend(others);
                foreign.links.insert((netns.clone(), link.name.clone()), its);
            }
            let off = |link: &&LinkFacts| link.ipv6_off && owner.owns(link) && links::may_need_ipv6(netns, link);
            let off = inside.links.iter().filter(off);
            foreign.ipv6_off.extend(off.map(|link| (netns.clone(), link.name.clone())));
            let routes = inside.routes.iter().filter_map(|route| {
                let link = route.link.and_then(|index| inside.link(index));
                let theirs = link.is_none_or(|link| !owner.owns(link));
                let put_in = ![PROTOCOL, KERNEL].contains(&route.protocol);
                (theirs || put_in).then(|| (netns.clone(), foreign_route(route, link.map(|link| link.name.clone()))))
            });
            foreign.routes.extend(routes);
            if !inside.processes.is_empty() {
                foreign.processes.insert(netns.clone(), inside.processes.clone());
            }
        }
        foreign.flushes = facts.rulesets.iter().filter_map(Flush::of).collect();
        foreign.docker = facts.docker.iter().map(|chain| (chain.ipv6, chain.before)).collect();
        foreign.ipv6_fixed = facts.ipv6_fixed;
        foreign.users = users(facts.host(), owner);
        let present = present(facts);
        Self { ours, foreign, absent: facts.absent.clone(), present, looked: true }
    }
}

/// Namespaces of containers that are there.
fn present(facts: &Facts) -> Shared<BTreeSet<Text>> {
    let there = |inside: &NetnsOrigin| matches!(inside, NetnsOrigin::Named | NetnsOrigin::Given);
    let present = facts.namespaces.iter().filter(|(_, inside)| there(&inside.origin));
    present.map(|(netns, _)| netns.clone()).collect()
}

/// Who stands on links of ours without being ours.
fn users(host: &NetnsFacts, owner: &Owner) -> BTreeMap<Text, Vec<String>> {
    let mut users = BTreeMap::<Text, Vec<String>>::new();
    let ours = |index: u32| host.link(index).filter(|link| owner.owns(link)).map(|link| link.name.clone());
    let mut add = |link: Option<Text>, who: String| {
        if let Some(link) = link {
            users.entry(link).or_default().push(who);
        }
    };
    for link in host.links.iter().filter(|link| !owner.owns(link)) {
        add(link.master.and_then(ours), format!("port `{}`", link.name));
        let parent = link.link.filter(|_| link.link_netnsid.is_none() && &*link.kind != "veth");
        add(parent.and_then(ours), format!("link `{}`", link.name));
    }
    for it in host.addresses.iter().filter(|it| !is_automatic(it)) {
        add(ours(it.link), format!("address {}", it.address));
    }
    for route in host.routes.iter().filter(|route| ![PROTOCOL, KERNEL, LEARNT].contains(&route.protocol)) {
        add(route.link.and_then(ours), format!("the route to {}", route.destination));
    }
    users
}

/// Whether an address is ours, or one that the kernel gives by itself.
fn is_automatic(it: &AddressFacts) -> bool {
    let link_local = matches!(it.address.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    it.is_ours() || link_local || it.flags & PERMANENT == 0
}

fn foreign_route(route: &RouteFacts, link: Option<Text>) -> ForeignRoute {
    ForeignRoute {
        destination: route.destination,
        link,
        table: route.table,
        metric: route.metric,
        learnt: route.protocol == LEARNT,
    }
}

impl Observed {
    /// Tells whether IPv6 is to be switched on for a link that is to have it, by its namespace and name: links are born
    /// without there, as settings say that were read, or it is off now.
    pub fn lacks_ipv6(&self, read: &State) -> impl Fn(&Text, &Text) -> bool {
        let key = Sysctl::disable_ipv6(None);
        let without = read.resources().filter_map(|resource| match resource {
            Resource::Sysctl(setting) if setting.key == key && &*setting.value != "0" => Some(setting.netns.clone()),
            _ => None,
        });
        let without: BTreeSet<Text> = without.collect();
        move |netns, link| without.contains(netns) || self.foreign.ipv6_off.contains(&(netns.clone(), link.clone()))
    }
}

impl Foreign {
    /// How many objects of others were seen: links, and tables that filter.
    pub fn count(&self) -> usize {
        self.links.len() + self.chains.len()
    }

    /// Whether others have the same things in a namespace as they have there in another view.
    pub fn is_alike_in(&self, netns: &Text, other: &Self) -> bool {
        self.links_in(netns).eq(other.links_in(netns))
            && self.routes_in(netns).eq(other.routes_in(netns))
            && self.ipv6_off_in(netns).eq(other.ipv6_off_in(netns))
            && self.processes.get(netns) == other.processes.get(netns)
    }

    /// Whether that link, of a namespace and by its name, is the same in both.
    pub fn is_alike_at(&self, link: &(Text, Text), other: &Self) -> bool {
        self.links.get(link) == other.links.get(link) && self.ipv6_off.contains(link) == other.ipv6_off.contains(link)
    }

    fn ipv6_off_in<'a>(&'a self, netns: &'a Text) -> impl Iterator<Item = &'a (Text, Text)> {
        self.ipv6_off.range((netns.clone(), Text::from(""))..).take_while(move |(of, _)| of == netns)
    }

    fn links_in<'a>(&'a self, netns: &'a Text) -> impl Iterator<Item = (&'a (Text, Text), &'a ForeignLink)> {
        self.links.range((netns.clone(), Text::from(""))..).take_while(move |((of, _), _)| of == netns)
    }

    fn routes_in<'a>(&'a self, netns: &'a Text) -> impl Iterator<Item = &'a (Text, ForeignRoute)> {
        self.routes.iter().filter(move |(of, _)| of == netns)
    }

    /// A link of somebody else's in the host's namespace.
    pub fn host_link(&self, name: &str) -> Option<&ForeignLink> {
        self.links.get(&(host(), name.into()))
    }

    /// Default routes of the host's main table, best first: what the host reaches the world through.
    pub fn uplinks(&self) -> Vec<&ForeignRoute> {
        let mut uplinks: Vec<&ForeignRoute> = self
            .routes
            .iter()
            .filter(|(netns, route)| &**netns == HOST && route.destination.prefix_len() == 0)
            .map(|(_, route)| route)
            .filter(|route| route.table == super::kinds::route::MAIN && route.link.is_some())
            .collect();
        uplinks.sort_by_key(|route| (route.destination.addr().is_ipv6(), route.metric));
        uplinks
    }
}
