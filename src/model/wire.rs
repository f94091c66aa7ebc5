//! What passes the door between the model and Linux, both ways, as plain values: [`Facts`] come in, [`Message`]s go out.
//!
//! The kinds read the one and write the other; sockets, sequence numbers and time limits are the kernel room's.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::os::fd::RawFd;

use rtnetlink::packet_route::RouteNetlinkMessage;

pub use super::facts::{
    Absent, AddressFacts, ChainFacts, DockerFacts, Does, Facts, FlowFacts, ForeignRule, LinkFacts, LinkMatch,
    ListenerFacts, NetnsFacts, NetnsOrigin, RouteFacts, RuleFacts, RulesetFacts, TableFacts, Tables,
};
use super::hash;
use super::kinds::firewall::Flows;
pub use super::kinds::firewall::numbers::DOOMED;
use super::resource::{ResourceId, Text};
use super::shared::Shared;

/// Route, rule and address protocol of everything netrec makes: free in iproute2's `rt_protos`.
pub const PROTOCOL: u8 = 78;

/// The same of addresses for whose replies there may be rules: free as well.
pub const RULED: u8 = 79;

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
        // Room for the label as well.
        let mut alias = String::with_capacity(96);
        let _ = write!(alias, "netrec:{}:{id}:{:08x}", self.topology, digest as u32);
        alias
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
        let name = Text::from(name);
        Self { born: name.clone(), name, protected }
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
    pub fn on(&self, mut mark: String) -> String {
        mark += ":";
        mark += &self.name;
        if self.born != self.name {
            mark += ",born=";
            mark += &self.born;
        }
        if self.protected {
            mark += ",protect";
        }
        mark
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

impl NetnsRef {
    /// The name, if it goes by one.
    pub fn name(&self) -> Option<&Text> {
        if let Self::Named(name) = self { Some(name) } else { None }
    }
}

/// Containers by the name that ids use, and where to find each.
pub type Containers = Shared<BTreeMap<Text, NetnsRef>>;

/// What is to be looked at: a topology's own things are found by their mark, the rest is named here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scope {
    /// Whose things.
    pub owner: Owner,
    /// The topology's containers: the name that ids use, and where to find them.
    pub containers: Containers,
    /// Those of them that are to have several endpoints, and routes in tables other than `main`.
    pub several: BTreeSet<Text>,
    /// Settings to read, by namespace and dotted name.
    pub sysctls: Vec<(Text, Text)>,
}

impl Scope {
    /// Containers that may be found by some of these, in the order of their names: where each goes by its own name the others
    /// are passed over.
    pub fn found_by<'r>(&self, all: impl Iterator<Item = &'r NetnsRef>) -> Vec<(&Text, &NetnsRef)> {
        let names: Option<BTreeSet<&Text>> = all.map(NetnsRef::name).collect();
        let by_name =
            |names: BTreeSet<&Text>| names.into_iter().filter_map(|name| self.containers.get_key_value(name)).collect();
        names.map_or_else(|| self.containers.iter().collect(), by_name)
    }
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
    /// Removal of an address after it was read again and is still ours: the kernel itself does not check.
    DeleteAddress(AddressFacts),
    /// A setting: its dotted name and its value.
    Sysctl(Text, Text),
    /// IPv6 off for a link, if it has any.
    NoIpv6(Text),
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
    /// Removal of the conntrack entries that are stale, and the transaction that notes it.
    Forget(Flows, Vec<NftMessage>),
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
    /// The table that it is about: the first attribute of all messages.
    pub table: Text,
    /// The others, encoded.
    pub attributes: Cow<'static, [u8]>,
}

/// Lookups that only the kernel can answer at the time of sending.
pub trait Lookup {
    /// Index of a link, if it is there.
    fn index(&mut self, netns: &str, link: &str) -> Option<u32>;

    /// An open descriptor of a namespace, good until the message is sent.
    fn netns_fd(&mut self, netns: &str) -> Option<RawFd>;
}

/// Nothing is there: for messages that name nothing of the kernel's.
#[derive(Debug)]
pub struct NoLookup;

impl Lookup for NoLookup {
    fn index(&mut self, _: &str, _: &str) -> Option<u32> {
        None
    }

    fn netns_fd(&mut self, _: &str) -> Option<RawFd> {
        None
    }
}

/// A message could not be written because something it names is not there.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} is not there")]
pub struct Missing(pub String);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kinds::KindName;

    #[test]
    fn a_label_is_read_as_it_was_written() {
        let owner = Owner::new("shop");
        let mark = owner
            .alias(&ResourceId::new(&crate::model::resource::HOST.into(), KindName::Bridge, "br-front"), 0x1234_abcd);
        for name in ["front", "a.b_c-d", "deadbeef"] {
            for (born, protected) in [(name, false), (name, true), ("old", false), ("old", true)] {
                let label = Label { born: born.into(), ..Label::new(name, protected) };
                assert_eq!(Label::of(&label.on(mark.clone())), label);
                assert_eq!(owner.marked(&label.on(mark.clone())), Some(true));
            }
        }
        assert_eq!(Label::of(&mark), Label::default(), "a mark without one");
        assert_eq!(Label::of("uplink: to the rack"), Label::default());
        assert_eq!(Label::of(""), Label::default());
    }
}
