//! What passes the door between the model and Linux, both ways, as plain values: [`Facts`] come in, [`Message`]s go out.
//!
//! The kinds read the one and write the other; sockets, sequence numbers and time limits are the kernel room's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::RawFd;

use ipnet::IpNet;
use rtnetlink::packet_route::RouteNetlinkMessage;

use super::hash;
use super::kinds::firewall::Flows;
use super::resource::{HOST, ResourceId, Text};
use super::values::{Mac, Ports, Protocol};

/// Route, rule and address protocol of everything netrec makes: free in iproute2's `rt_protos`.
pub const PROTOCOL: u8 = 78;

/// The link group that links are put into right before they are deleted in one request.
pub const DOOMED: u32 = 0x6e72_646d;

/// Whose things we look after: the topology, and the number that its links carry in `IFLA_GROUP` from birth on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Owner {
    /// Name of the topology.
    pub topology: Text,
    /// Link group: 0x6e in the highest byte and 24 bits of hash; never [`DOOMED`].
    pub group: u32,
}

impl Owner {
    /// The owner that a topology's name stands for.
    pub fn new(topology: &str) -> Self {
        let group = 0x6e00_0000 | (hash::words(&[topology]) as u32 & 0x00ff_ffff);
        Self { topology: topology.into(), group: if group == DOOMED { group ^ 1 } else { group } }
    }

    /// The mark that a link carries in its alias, from the second message on: who, what, and what was last applied.
    pub fn alias(&self, id: &ResourceId, digest: u64) -> String {
        format!("netrec:{}:{id}:{:08x}", self.topology, digest as u32)
    }

    /// The content of a namespace's name file before the namespace is bound over it.
    pub fn file_mark(&self) -> String {
        format!("netrec:{}\n", self.topology)
    }

    /// Whether a text that begins like a mark of ours names this topology; `None` if it is no mark at all.
    pub fn marked(&self, text: &str) -> Option<bool> {
        let rest = text.strip_prefix("netrec:")?;
        Some(rest.split([':', '\n']).next() == Some(&*self.topology))
    }

    /// Whether a link is ours: our group at birth, and no mark of another topology; or doomed by us and not yet gone.
    pub fn owns(&self, link: &LinkFacts) -> bool {
        match self.marked(&link.alias) {
            Some(ours) => ours && (link.group == self.group || link.group == DOOMED),
            None => link.group == self.group,
        }
    }

    /// First of the 256 routing tables of this topology, for replies of containers with several endpoints.
    pub fn tables(&self) -> u32 {
        0x6e00_0000 | (self.group & 0xffff) << 8
    }
}

/// What the user calls what a resource stands for: the tail of its mark, read when no file names it any more.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Label {
    /// Its name in the topology; empty where the mark does not tell.
    pub name: Text,
    /// The name it was made under, from which its interface names and hardware addresses are derived: another one than
    /// `name` once it was renamed.
    pub born: Text,
    /// Whether it must be neither removed nor replaced.
    pub protected: bool,
}

impl Label {
    /// The label of what is not renamed.
    pub fn new(name: &str, protected: bool) -> Self {
        Self { name: name.into(), born: name.into(), protected }
    }

    /// Reads the label of a mark ([`Owner::alias`]); what bears none has an empty one.
    pub fn of(alias: &str) -> Self {
        let Some((mark, label)) = alias.rsplit_once(':') else { return Self::default() };
        let digest = mark.rsplit(':').next().unwrap_or_default();
        if digest.len() != 8 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Self::default();
        }
        let mut words = label.split(',');
        let mut read = Self::new(words.next().unwrap_or_default(), false);
        for word in words {
            match word.strip_prefix("born=") {
                Some(born) => read.born = born.into(),
                None => read.protected |= word == "protect",
            }
        }
        read
    }

    /// A mark with this label.
    pub fn on(&self, mark: &str) -> String {
        let born = if self.born == self.name { String::new() } else { format!(",born={}", self.born) };
        format!("{mark}:{}{born}{}", self.name, if self.protected { ",protect" } else { "" })
    }
}

/// How to find a namespace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum NetnsRef {
    /// By name, in the directory that `ip netns` uses.
    Named(Text),
    /// By the path of its file.
    Path(String),
    /// By a process in it.
    Pid(u32),
}

/// What is to be looked at: a topology's own things are found by their mark, the rest is named here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scope {
    /// Whose things.
    pub owner: Owner,
    /// The topology's containers: the name that ids use, and where to find them.
    pub containers: BTreeMap<Text, NetnsRef>,
    /// Settings to read, by namespace and dotted name.
    pub sysctls: Vec<(Text, Text)>,
}

/// What Linux says, in full: ours, foreign and all. Complete and uninterrupted, or there is none.
#[derive(Clone, Default, Debug)]
pub struct Facts {
    /// By the name that ids use; always with [`HOST`].
    pub namespaces: BTreeMap<Text, NetnsFacts>,
    /// Containers of the scope without a namespace to work in, and why.
    pub absent: BTreeMap<Text, Absent>,
    /// Values of the settings of the scope that exist.
    pub sysctls: BTreeMap<(Text, Text), Text>,
    /// Our tables as they are in the kernel.
    pub tables: Vec<TableFacts>,
    /// Base chains of other tables that could drop what we accept.
    pub chains: Vec<ChainFacts>,
    /// What listens on the host.
    pub listeners: Vec<ListenerFacts>,
    /// Tables of other topologies: only the elements that publish ports.
    pub topologies: Vec<TableFacts>,
}

impl Facts {
    /// The namespace that netrec runs in.
    ///
    /// # Panics
    ///
    /// On facts that no look made: every look includes the host.
    pub fn host(&self) -> &NetnsFacts {
        self.namespaces.get(HOST).expect("every look includes the host")
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
#[derive(Clone, Default, Debug)]
pub struct NetnsFacts {
    /// How it came into view.
    pub origin: NetnsOrigin,
    /// Ascending by index.
    pub links: Vec<LinkFacts>,
    /// As dumped.
    pub addresses: Vec<AddressFacts>,
    /// As dumped. The host: all tables; containers: `main`, and all of [`PROTOCOL`].
    pub routes: Vec<RouteFacts>,
    /// As dumped.
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

    /// The link of that name.
    pub fn link_named(&self, name: &str) -> Option<&LinkFacts> {
        self.links.iter().find(|link| &*link.name == name)
    }
}

/// A link (rtnetlink(7), `struct ifinfomsg` and `IFLA_*`).
#[derive(Clone, Default, Debug)]
pub struct LinkFacts {
    /// Interface index.
    pub index: u32,
    /// `IFLA_IFNAME`.
    pub name: Text,
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
    /// Content of `IFLA_INFO_DATA`: the kind's own attributes.
    pub info_data: Vec<u8>,
    /// Content of `IFLA_INFO_SLAVE_DATA`: a port's attributes.
    pub slave_data: Vec<u8>,
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

/// A route (`struct rtmsg` and `RTA_*`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteFacts {
    /// `RTA_TABLE`.
    pub table: u32,
    /// Destination; the default route is the net of length 0.
    pub destination: IpNet,
    /// `RTA_GATEWAY` or `RTA_VIA`.
    pub gateway: Option<IpAddr>,
    /// `RTA_OIF`; none with several next hops.
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

/// A routing rule (`struct fib_rule_hdr` and `FRA_*`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleFacts {
    /// Whether it is of the IPv6 database.
    pub ipv6: bool,
    /// `FRA_PRIORITY`.
    pub priority: u32,
    /// `FRA_TABLE`.
    pub table: u32,
    /// `FRA_PROTOCOL`.
    pub protocol: u8,
    /// `FRA_SRC`.
    pub source: Option<IpNet>,
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

/// A flow of conntrack (`CTA_*` in `linux/netfilter/nfnetlink_conntrack.h`), as far as published ports are concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowFacts {
    /// The protocol.
    pub protocol: Protocol,
    /// Where its first packet was sent to.
    pub destination: (IpAddr, u16),
    /// Who is to answer: the source of the reply tuple.
    pub answers: (IpAddr, u16),
    /// `IPS_DST_NAT`: whether its destination was changed.
    pub mapped: bool,
    /// `IPS_ASSURED`: whether both sides have been heard, and TCP stands.
    pub assured: bool,
    /// Whether `destination` is an address of the host.
    pub local: bool,
}

/// Where a message is to be said; messages to one place are said in order, to several at once.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// The names under `/run/netns`.
    Namespaces,
    /// nfnetlink: nftables, each message a transaction, and conntrack.
    Netfilter,
    /// rtnetlink in that namespace.
    Netns(Text),
    /// `/proc/sys/net` of that namespace.
    Sysctl(Text),
}

/// One thing to be said to the kernel.
#[derive(Clone, Debug)]
pub struct Message {
    /// Where.
    pub place: Place,
    /// What.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug)]
pub enum Body {
    /// An rtnetlink request, with its flags beyond `NLM_F_REQUEST` and `NLM_F_ACK`.
    Route(RouteNetlinkMessage, u16),
    /// The same to the host, when all else of the plan has been said.
    RouteLast(RouteNetlinkMessage, u16),
    /// Removal of a link through the [`DOOMED`] group: re-checked by index, group and alias right before.
    DeleteLink {
        /// Its index.
        index: u32,
        /// Its name, to be the same still.
        name: Text,
    },
    /// Removal of an address after it was read again and still bears [`PROTOCOL`]: the kernel itself does not check.
    DeleteAddress(AddressFacts),
    /// A setting: its dotted name and its value.
    Sysctl(Text, Text),
    /// A new named namespace: content of the name's file before the binding, and what to say inside before that.
    CreateNetns {
        /// Its name.
        name: Text,
        /// Content of the file that the namespace is bound over.
        mark: String,
        /// rtnetlink requests inside, with flags.
        setup: Vec<(RouteNetlinkMessage, u16)>,
    },
    /// Removal of a named namespace after it was looked at again and still bears our mark.
    DeleteNetns(Text),
    /// Messages of one nftables transaction, without its begin and end.
    Nft(Vec<NftMessage>),
    /// Removal of the conntrack entries that are stale.
    Forget(Flows),
}

/// One message of an nftables transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NftMessage {
    /// `NFT_MSG_*`.
    pub message: u16,
    /// `nfgen_family`.
    pub family: u8,
    /// Flags beyond `NLM_F_REQUEST`.
    pub flags: u16,
    /// Encoded attributes.
    pub attributes: Vec<u8>,
}

/// Lookups that only the kernel can answer at the time of sending.
pub trait Lookup {
    /// Index of a link, if it is there.
    fn index(&mut self, netns: &str, link: &str) -> Option<u32>;

    /// An open descriptor of a namespace, good until the message is sent.
    fn netns_fd(&mut self, netns: &str) -> Option<RawFd>;
}

/// A message could not be written because something it names is not there.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} is not there")]
pub struct Missing(pub String);

/// The attributes in a run of them: number (without the flags for nesting and byte order) and content. What cannot be
/// an attribute ends the run: a kernel newer than this code may say more, never otherwise.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let content = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, content))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kinds::KindName;

    #[test]
    fn a_label_is_read_as_it_was_written() {
        let owner = Owner::new("shop");
        let mark = owner.alias(&ResourceId::new(&HOST.into(), KindName::Bridge, "br-front"), 0x1234_abcd);
        for name in ["front", "a.b_c-d", "deadbeef"] {
            for (born, protected) in [(name, false), (name, true), ("old", false), ("old", true)] {
                let label = Label { born: born.into(), ..Label::new(name, protected) };
                assert_eq!(Label::of(&label.on(&mark)), label);
                assert_eq!(owner.marked(&label.on(&mark)), Some(true));
            }
        }
        assert_eq!(Label::of(&mark), Label::default(), "a mark without one");
        assert_eq!(Label::of("uplink: to the rack"), Label::default());
        assert_eq!(Label::of(""), Label::default());
    }
}
