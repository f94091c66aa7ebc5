//! What all kinds of resource have in common: identity, what they need and provide, how they change.

use std::cmp::Ordering;
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

pub use super::kinds::{KindName, Resource};
use super::wire::{Facts, Label, Lookup, Message, Missing, Owner, Place};

/// A short immutable string, cheap to clone: ids are cloned far more often than they are made.
pub type Text = Arc<str>;

/// As many needs, things or places as one resource has: so few that they stand in place, and none is allocated.
pub type Few<T> = smallvec::SmallVec<[T; 3]>;

/// A text of parts, put together where there is room for what most ids are.
pub fn text(parts: fmt::Arguments) -> Text {
    let mut text = String::with_capacity(64);
    let _ = text.write_fmt(parts);
    text.into()
}

/// How ids name the network namespace that netrec runs in.
pub const HOST: &str = "host";

/// [`HOST`] as ids hold it: one text for all of them.
pub fn host() -> Text {
    static TEXT: LazyLock<Text> = LazyLock::new(|| HOST.into());
    TEXT.clone()
}

/// Identity of a resource, printed as `netns/kind/name` everywhere: plans, logs, errors, the mark in the kernel.
#[expect(clippy::derived_hash_with_manual_eq, reason = "equal is what would be so if that were derived as well")]
#[derive(Clone, Eq, Hash, Debug)]
pub struct ResourceId {
    /// The namespace the resource lives in: [`HOST`], a named namespace, or the name of a container given by path or pid.
    pub netns: Text,
    /// What it is.
    pub kind: KindName,
    /// Unique within namespace and kind.
    pub name: Text,
}

impl ResourceId {
    /// Builds an id.
    pub fn new(netns: &Text, kind: KindName, name: impl Into<Text>) -> Self {
        Self { netns: netns.clone(), kind, name: name.into() }
    }

    /// How many characters its text has.
    pub fn width(&self) -> usize {
        self.netns.chars().count() + self.kind.word().len() + self.name.chars().count() + 2
    }
}

/// By namespace, kind and name. Ids in one namespace mostly hold one text of its name, which is not read then.
impl Ord for ResourceId {
    fn cmp(&self, other: &Self) -> Ordering {
        let same = Arc::ptr_eq(&self.netns, &other.netns);
        let netns = if same { Ordering::Equal } else { self.netns.cmp(&other.netns) };
        netns.then(self.kind.cmp(&other.kind)).then_with(|| self.name.cmp(&other.name))
    }
}

/// Likewise; and an id and its clone hold one text of everything.
impl PartialEq for ResourceId {
    fn eq(&self, other: &Self) -> bool {
        let same = |one: &Text, other: &Text| Arc::ptr_eq(one, other) || one == other;
        self.kind == other.kind && same(&self.netns, &other.netns) && same(&self.name, &other.name)
    }
}

impl PartialOrd for ResourceId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.netns, "/", self.kind.word(), "/"] {
            f.write_str(part)?;
        }
        f.write_str(&self.name)
    }
}

/// Something in the kernel that a resource provides and others need.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Thing {
    /// A network namespace, by the name that ids use.
    Netns(Text),
    /// The packet filter of a topology: what stands before anything forwards.
    Firewall,
    /// A link, by namespace and name.
    Link(Text, Text),
    /// A family on a link (false: IPv4, true: IPv6): given by its addresses, any of them.
    OnLink(Text, Text, bool),
    /// The primary IPv4 address of a subnet on a link: its deletion takes the secondaries of that subnet, or makes one
    /// of them primary, as `promote_secondaries` says.
    Primary(Text, Text, ipnet::Ipv4Net),
    /// What leads to a routing table of a namespace other than `main`: its rules, all of them.
    Table(Text, u32),
    /// `accept_ra = 2` on the links of a namespace that live on router advertisements.
    AcceptRa(Text),
    /// That a link may have IPv6 addresses, by namespace and name: where it was born without.
    Ipv6(Text, Text),
    /// An address on any of our links. Linux does not mind two of them, the network does.
    Address(IpAddr),
}

impl Thing {
    /// Whether one resource only can provide it, so that whoever releases it goes before whoever takes it.
    pub fn is_exclusive(&self) -> bool {
        !matches!(self, Self::OnLink(..) | Self::Primary(..) | Self::Table(..) | Self::AcceptRa(_) | Self::Ipv6(..))
    }
}

/// What a resource wants of a [`Thing`]. A thing that nobody in the state provides is the host's own and is there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Need {
    /// Exists in it: dies when the last provider goes, and is made again after.
    Inside(Thing),
    /// Cannot stay when the last provider goes, and the kernel is not to be left to it: removed before, made again after.
    Upon(Thing),
    /// Wants it first; survives its loss, perhaps without what it had of it ([`Kind::bereft`]).
    After(Thing),
}

impl Need {
    /// The thing needed.
    pub fn thing(&self) -> &Thing {
        match self {
            Self::Inside(thing) | Self::Upon(thing) | Self::After(thing) => thing,
        }
    }
}

/// One field that differs between what is wanted and what is there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FieldChange {
    /// The field's name as iproute2 or nftables spell it.
    pub field: &'static str,
    /// What the kernel has; empty where it has nothing.
    pub from: String,
    /// What is wanted; empty where nothing is.
    pub to: String,
    /// Whether the kernel can change it on the living object; if not, the object is replaced.
    pub in_place: bool,
}

impl FieldChange {
    /// A change that the kernel makes on the living object.
    pub fn in_place(field: &'static str, from: impl fmt::Display, to: impl fmt::Display) -> Self {
        Self { field, from: from.to_string(), to: to.to_string(), in_place: true }
    }

    /// A change that needs the object to be deleted and made again.
    pub fn replaces(field: &'static str, from: impl fmt::Display, to: impl fmt::Display) -> Self {
        Self { in_place: false, ..Self::in_place(field, from, to) }
    }
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.from.as_str(), self.to.as_str()) {
            ("", to) => write!(f, "{} {to}", self.field),
            (from, "") => write!(f, "{} {from} removed", self.field),
            (from, to) => write!(f, "{} {from} -> {to}", self.field),
        }
    }
}

/// What of the user's a resource stands for: what a deletion is counted by, and what can be protected.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Part {
    /// A network.
    Network,
    /// A container.
    Container,
    /// An endpoint, and the host's link that its network is.
    Endpoint(Option<Text>),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "network",
            Self::Container => "container",
            Self::Endpoint(_) => "endpoint",
        })
    }
}

/// A step on one resource.
#[derive(Clone, PartialEq, Debug)]
pub enum Op<R = Resource> {
    /// Make it; it must not exist.
    Create(R),
    /// Change it on the living object.
    Update {
        /// What is there.
        from: R,
        /// What is wanted.
        to: R,
    },
    /// Remove it, and with it everything inside it.
    Delete(R),
}

impl<R> Op<R> {
    /// The resource as it is after the step, or was before it is deleted.
    pub fn subject(&self) -> &R {
        match self {
            Self::Create(to) | Self::Update { to, .. } => to,
            Self::Delete(from) => from,
        }
    }

    /// What the step starts from, if anything.
    pub fn from(&self) -> Option<&R> {
        match self {
            Self::Create(_) => None,
            Self::Update { from, .. } | Self::Delete(from) => Some(from),
        }
    }

    /// What the step leaves, if anything.
    pub fn to(&self) -> Option<&R> {
        match self {
            Self::Create(to) | Self::Update { to, .. } => Some(to),
            Self::Delete(_) => None,
        }
    }
}

/// The stages of a step's messages, and where they are said; most steps have one.
pub type Parts = smallvec::SmallVec<[(usize, Place); 1]>;

/// A step of a plan, with what the kernel needs to know to take it at the right time.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// What it is about.
    pub id: ResourceId,
    /// What is done.
    pub op: Op,
    /// The stage in which each run of its messages is said: a later stage begins when the one before it has ended, or when
    /// all has that it waits for; places of one stage are independent of each other, and within a place steps keep their order.
    pub parts: Parts,
    /// The steps, by their position, that must have succeeded before this one is taken.
    pub waits: Few<u32>,
}

/// A kind of kernel object. A new kind is one file in `kinds/` and one word in its list.
pub trait Kind: Clone + PartialEq + fmt::Debug + Sized {
    /// Identity: two values with the same id are the same object at two times.
    fn id(&self) -> ResourceId;

    /// What must exist for it, wanted or living.
    fn needs(&self) -> Few<Need>;

    /// What it gives to others.
    fn provides(&self) -> Few<Thing>;

    /// The managed fields in which `observed` differs from `self`, which is wanted. Empty when nothing is to be done.
    fn changes(&self, observed: &Self) -> Vec<FieldChange>;

    /// One line, at most 60 columns, that tells a person what it is. Ids, indexes and digests do not belong in it.
    fn summary(&self) -> String;

    /// Further lines for what a person wants to see of it before it is made: by default none.
    fn details(&self) -> Vec<String> {
        Vec::new()
    }

    /// What is left of it when a thing that it is [`Need::After`] goes: by default all of it.
    fn bereft(&mut self, gone: &Thing) {
        let _ = gone;
    }

    /// What the kernel makes of it, as things stand; none where that is what was asked for, as by default.
    fn settled(&self, is_there: &dyn Fn(&Thing) -> bool) -> Option<Self> {
        let _ = is_there;
        None
    }

    /// What of the user's it stands for, as its mark tells; most kinds are only parts of such a thing.
    fn part(&self) -> Option<(Part, &Label)> {
        None
    }

    /// Whether it is left as it is when nobody asks for it any more, as a sysctl others may rely on.
    fn stays(&self) -> bool {
        false
    }
}

/// How a kind stands on the wire. Pure: values in, values out.
pub trait Wire: Kind {
    /// Where the messages of a step go, one entry a message run: the order of steps is planned with it.
    fn places(op: &Op<&Self>) -> Few<Place>;

    /// What is to be said for a step, in order.
    ///
    /// # Errors
    ///
    /// When a link or a namespace it names is not there at this moment.
    fn encode(op: &Op<&Self>, lookup: &mut dyn Lookup) -> Result<Vec<Message>, Missing>;

    /// All of this kind that bear the owner's mark.
    fn observe(facts: &Facts, owner: &Owner) -> Vec<Self>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_as_wide_as_it_is_written() {
        for (netns, name) in [(HOST, "netrec-shop"), ("c0", "eth0:fd00::2/64"), ("müller", "br–größe"), ("", "")] {
            let id = ResourceId::new(&netns.into(), KindName::Address, name);
            assert_eq!(id.to_string(), format!("{netns}/address/{name}"));
            assert_eq!(id.width(), id.to_string().chars().count());
        }
    }
}
