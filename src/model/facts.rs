//! What Linux says, as plain values: the facts that kinds are observed in.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use ipnet::IpNet;

use super::kinds::firewall::{Firewall, Rules};
use super::resource::{HOST, Text};
use super::shared::Shared;
use super::values::{Mac, Ports, Protocol};
use super::wire::{NetnsRef, PROTOCOL, RULED};

/// What Linux says, in full: ours, foreign and all. Complete and uninterrupted, or there is none.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Facts {
    /// By the name that ids use; always with [`HOST`].
    pub namespaces: Shared<BTreeMap<Text, Arc<NetnsFacts>>>,
    /// Containers of the scope without a namespace to work in, and why.
    pub absent: BTreeMap<Text, Absent>,
    /// Values of the settings of the scope that exist.
    pub sysctls: BTreeMap<(Text, Text), Text>,
    /// Whether IPv6 cannot be switched off on links: settings are out of reach, or there is no IPv6.
    pub ipv6_fixed: bool,
    /// Our tables as they are in the kernel.
    pub tables: Tables,
    /// Whether the table for rules of users is there.
    pub user_rules: bool,
    /// Base chains of other tables that could drop what we accept.
    pub chains: Arc<Vec<ChainFacts>>,
    /// Docker's chains for rules of users, of the families that have one.
    pub docker: Vec<DockerFacts>,
    /// Files of rules that services of the host feed to nft.
    pub rulesets: Vec<RulesetFacts>,
    /// What listens on the host.
    pub listeners: Vec<ListenerFacts>,
    /// Tables of other topologies: only the elements that publish ports.
    pub topologies: Arc<Vec<TableFacts>>,
}

/// What the names of strays begin with.
const STRAY: &str = "pid:";

impl Facts {
    /// The namespace that netrec runs in.
    ///
    /// # Panics
    ///
    /// On facts that no look made: every look includes the host.
    pub fn host(&self) -> &NetnsFacts {
        self.namespaces.get(HOST).expect("every look includes the host")
    }

    /// What a namespace is called that nothing but a process in it leads to.
    pub fn stray(pid: u32) -> Text {
        format!("{STRAY}{pid}").into()
    }

    /// Namespaces that are called so.
    pub fn strays(&self) -> impl Iterator<Item = (&Text, &Arc<NetnsFacts>)> {
        self.namespaces.range(Text::from(STRAY)..).take_while(|(name, _)| name.starts_with(STRAY))
    }
}

/// Why a container has no namespace to work in.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Absent {
    /// It is not there yet; what is missing, for a person.
    #[error("{0}")]
    Missing(String),
    /// Its name is taken by something that is no namespace; by what, for a person.
    #[error("{0}")]
    Taken(String),
    /// It is that of the host.
    #[error("it is the host's own namespace")]
    Host,
    /// It is that of another container, by the name that ids use.
    #[error("it is the same namespace as {0}")]
    Same(Text),
}

/// How a namespace came into view.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum NetnsOrigin {
    /// The one netrec runs in.
    #[default]
    Host,
    /// A name under `/run/netns`.
    Named,
    /// A file under `/run/netns` that no namespace is bound over, with its content: what a kill leaves.
    Unbound(String),
    /// A container given by path or pid.
    Given,
}

/// One namespace.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct NetnsFacts {
    /// How it came into view.
    pub origin: NetnsOrigin,
    /// Ascending by index.
    pub links: Vec<LinkFacts>,
    /// As dumped.
    pub addresses: Vec<AddressFacts>,
    /// As dumped. The host: all tables; containers: `main`, and all of [`PROTOCOL`] where rules of ours may lead to other
    /// tables.
    pub routes: Vec<RouteFacts>,
    /// Ours that have a source; in containers only where an address says that there may be some ([`RULED`]) or none of ours
    /// is there, several endpoints are wanted or seen, or a default route is somebody else's.
    pub rules: Vec<RuleFacts>,
    /// Processes in it, looked for only where the namespace bears our mark and is not in the scope.
    pub processes: Vec<u32>,
    /// How to find it again, where neither its name nor the scope says so.
    pub reference: Option<NetnsRef>,
}

impl NetnsFacts {
    /// The link of that index.
    pub fn link(&self, index: u32) -> Option<&LinkFacts> {
        self.links.binary_search_by_key(&index, |link| link.index).ok().map(|at| &self.links[at])
    }

    /// Its links, and where their other ends or what they stand on is.
    pub fn ends(&self) -> impl Iterator<Item = (u32, Option<u32>, Option<i32>)> {
        self.links.iter().map(|link| (link.index, link.link, link.link_netnsid))
    }

    /// The link of that name.
    pub fn link_named(&self, name: &str) -> Option<&LinkFacts> {
        self.links.iter().find(|link| &*link.name == name)
    }
}

/// A link (rtnetlink(7), `struct ifinfomsg` and `IFLA_*`).
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the kernel's")]
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct LinkFacts {
    /// Interface index.
    pub index: u32,
    /// `IFLA_IFNAME`.
    pub name: Text,
    /// `IFLA_ALT_IFNAME`: what else it answers to.
    pub altnames: Vec<Text>,
    /// `IFLA_INFO_KIND`; empty for hardware and loopback.
    pub kind: Text,
    /// `IFLA_ADDRESS`, zeros if it is not of six bytes.
    pub mac: Mac,
    /// `IFLA_MTU` in bytes.
    pub mtu: u32,
    /// `IFF_UP`.
    pub up: bool,
    /// `IFLA_GROUP`.
    pub group: u32,
    /// `IFLA_IFALIAS`.
    pub alias: Text,
    /// `IFLA_MASTER`: index of the bridge it is a port of.
    pub master: Option<u32>,
    /// `IFLA_LINK`: index of the peer or parent, in the namespace of `link_netnsid` if that is given.
    pub link: Option<u32>,
    /// `IFLA_LINK_NETNSID`.
    pub link_netnsid: Option<i32>,
    /// `IFLA_INET6_ADDR_GEN_MODE`.
    pub addr_gen_mode: Option<u8>,
    /// `forwarding` in `IFLA_INET_CONF`.
    pub forwards: bool,
    /// `disable_ipv6` in `IFLA_INET6_CONF`: Linux gives it no IPv6 address.
    pub ipv6_off: bool,
    /// `IFLA_BRPORT_ISOLATED` of a bridge's port.
    pub isolated: bool,
    /// `IFLA_BRPORT_MODE` of a bridge's port.
    pub hairpin: bool,
}

/// An address (`struct ifaddrmsg` and `IFA_*`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressFacts {
    /// Index of its link.
    pub link: u32,
    /// The address and the length of its subnet's prefix; host bits are kept.
    pub address: IpNet,
    /// `IFA_PROTO`; 0 where the kernel has none.
    pub protocol: u8,
    /// `IFA_FLAGS`.
    pub flags: u32,
}

impl AddressFacts {
    /// Whether it bears a mark of netrec's.
    pub fn is_ours(&self) -> bool {
        [PROTOCOL, RULED].contains(&self.protocol)
    }
}

/// A route (`struct rtmsg` and `RTA_*`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteFacts {
    /// `RTA_TABLE`.
    pub table: u32,
    /// Destination; the default route is the net of length 0.
    pub destination: IpNet,
    /// `RTA_GATEWAY` or `RTA_VIA`.
    pub gateway: Option<IpAddr>,
    /// `RTA_OIF`; with several next hops that of the first.
    pub link: Option<u32>,
    /// `RTA_PRIORITY`.
    pub metric: u32,
    /// `rtm_protocol`.
    pub protocol: u8,
    /// `rtm_type`: 1 is unicast.
    pub route_type: u8,
    /// `rtm_scope`.
    pub scope: u8,
    /// `RTA_PREFSRC`.
    pub source: Option<IpAddr>,
}

/// A routing rule of our protocol number, for a source (`struct fib_rule_hdr` and `FRA_*`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleFacts {
    /// `FRA_PRIORITY`.
    pub priority: u32,
    /// `FRA_TABLE`.
    pub table: u32,
    /// `FRA_SRC`.
    pub source: IpNet,
}

/// One of our nftables tables, as the kernel dumps it over nfnetlink: attributes as bytes, handles left out.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct TableFacts {
    /// `nfgen_family`: `NFPROTO_INET` or `NFPROTO_BRIDGE`.
    pub family: u8,
    /// `NFTA_TABLE_NAME`.
    pub name: String,
    /// `NFTA_TABLE_FLAGS`: a dormant table filters nothing.
    pub flags: u32,
    /// Attributes of each chain (`NFT_MSG_NEWCHAIN`), as dumped.
    pub chains: Vec<Vec<u8>>,
    /// Attributes of each rule (`NFT_MSG_NEWRULE`), in order within their chain.
    pub rules: Vec<Vec<u8>>,
    /// Attributes of each set or map (`NFT_MSG_NEWSET`).
    pub sets: Vec<Vec<u8>>,
    /// Attributes of the element lists (`NFT_MSG_NEWSETELEM`), several per set for large ones.
    pub elements: Vec<Vec<u8>>,
}

/// The tables of one topology, shared by all that were told of them, and what they come to, which is read from thousands of
/// elements once. Of what was seen before, but for a few elements since, only that is known.
#[derive(Clone, Default, Debug)]
pub struct Tables(Arc<Ours>);

#[derive(Default, Debug)]
struct Ours {
    /// As they were read, if they were.
    tables: Option<Vec<TableFacts>>,
    firewall: OnceLock<Option<Firewall>>,
}

impl Tables {
    /// What they come to, whoever asks.
    pub fn firewall(&self) -> Option<&Firewall> {
        let Ours { tables, firewall } = &*self.0;
        firewall.get_or_init(|| Firewall::observed(tables.as_deref()?)).as_ref()
    }

    /// Whether nobody changed the rules, of which nothing else is known then.
    fn is_intact(&self) -> bool {
        self.firewall().is_none_or(|firewall| firewall.rules == Rules::Intact)
    }
}

impl From<Vec<TableFacts>> for Tables {
    fn from(tables: Vec<TableFacts>) -> Self {
        Self(Arc::new(Ours { tables: Some(tables), firewall: OnceLock::new() }))
    }
}

impl From<Firewall> for Tables {
    fn from(firewall: Firewall) -> Self {
        Self(Arc::new(Ours { tables: None, firewall: Some(firewall).into() }))
    }
}

impl PartialEq for Tables {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.tables.is_some() && self.0.tables == other.0.tables)
            || (self.is_intact() && self.firewall() == other.firewall())
    }
}

impl Eq for Tables {}

/// Docker's chain for rules of users, in one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DockerFacts {
    /// Of `ip6 filter`, or of `ip filter`.
    pub ipv6: bool,
    /// Handle of the first rule that leaves the chain for all packets.
    pub before: Option<u64>,
    /// Attributes of each rule (`NFT_MSG_NEWRULE`) that bears the mark of a topology.
    pub rules: Vec<Vec<u8>>,
}

/// A base chain of somebody else's table.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ChainFacts {
    /// `ip`, `ip6`, `inet`, `bridge` or `arp`.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// `prerouting`, `input`, `forward`, `output` or `postrouting`.
    pub hook: String,
    /// Where it stands among the chains of the hook.
    pub priority: i32,
    /// Whether what no rule decides is dropped.
    pub drops: bool,
    /// Whether it is of type `nat`.
    pub maps: bool,
    /// Its rules, where they were asked for.
    pub rules: Vec<ForeignRule>,
}

/// A rule of somebody else's, as far as links decide it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct ForeignRule {
    /// The links that it is for.
    pub links: Vec<LinkMatch>,
    /// Whether it is only for what was mapped, that is for published ports.
    pub mapped: bool,
    /// Whether it asks for more, so that it may hold or not.
    pub depends: bool,
    /// The one protocol that it is for, if that is known.
    pub protocol: Option<Protocol>,
    /// The destination ports that it is for, if they are known.
    pub ports: Option<Ports>,
    /// Whether it changes the destination.
    pub maps: bool,
    /// What it does besides.
    pub does: Does,
}

/// A comparison with the name of the link that a packet came or leaves by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LinkMatch {
    /// Whether it leaves by it.
    pub out: bool,
    /// Whether it must be another one.
    pub not: bool,
    /// The beginning of its name in a field of 16 bytes: with the NUL it is the whole name.
    pub name: Vec<u8>,
}

/// What a rule does with a packet.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub enum Does {
    /// Goes on.
    #[default]
    Nothing,
    /// Ends this table's judgement.
    Accept,
    /// Drops or rejects it.
    Drop,
    /// Goes back to whoever called.
    Return,
    /// Asks another chain.
    Call {
        /// Its name.
        chain: String,
        /// Whether it goes on behind this rule if that one does not decide.
        returns: bool,
        /// Its rules.
        rules: Vec<ForeignRule>,
    },
}

/// A file of rules that a service of the host feeds to nft when it starts and when it reloads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RulesetFacts {
    /// The service.
    pub unit: &'static str,
    /// The file.
    pub path: &'static str,
    /// What is written in it.
    pub text: String,
}

/// A socket of the host that waits for whoever comes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ListenerFacts {
    /// The protocol.
    pub protocol: Protocol,
    /// Its address; unspecified: every one of the family.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// A flow of conntrack (`CTA_*` in `linux/netfilter/nfnetlink_conntrack.h`), as its first packet began it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowFacts {
    /// The protocol; none: ICMP of the family.
    pub protocol: Option<Protocol>,
    /// Where its first packet was sent from.
    pub source: IpAddr,
    /// Where that was sent to; the port is 0 where the protocol has none.
    pub destination: (IpAddr, u16),
    /// Who is to answer: the source of the reply tuple.
    pub answers: (IpAddr, u16),
    /// `IPS_DST_NAT`: whether its destination was changed.
    pub mapped: bool,
    /// `IPS_ASSURED`: whether both sides have been heard, and TCP stands.
    pub assured: bool,
    /// `IPS_EXPECTED`: whether another flow led to it.
    pub related: bool,
}
