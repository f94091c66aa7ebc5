//! One file a kind of kernel object, and their list. A kind knows Linux's words and nothing of drivers; the laws that
//! every kind keeps are in `tests/laws.rs`.

// Not by the macro below: rustfmt does not find what macros declare.
pub mod address;
pub mod bridge;
pub mod docker_user;
pub mod firewall;
pub mod netns;
pub mod route;
pub mod rule;
pub mod sysctl;
pub mod user_rules;
pub mod veth;

use std::fmt;
use std::sync::Arc;

use super::resource::{Few, FieldChange, Kind, Need, Op, Part, ResourceId, Thing, Wire};
use super::wire::{Facts, Label, Lookup, Message, Missing, Owner, Place};

macro_rules! kinds {
    ($($(#[$doc:meta])* $module:ident :: $kind:ident = $word:literal),* $(,)?) => {
        /// The kinds, in the order in which ids of one namespace are listed.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum KindName { $($(#[$doc])* $kind),* }

        impl KindName {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The word in ids.
            pub fn word(self) -> &'static str {
                match self { $(Self::$kind => $word),* }
            }
        }

        /// One kernel object of any kind. Shared, not copied, by all who hold it: what is wanted, the difference, the
        /// plan and its proof are the same few thousand objects.
        #[derive(Clone, PartialEq, Debug)]
        pub enum Resource { $($(#[$doc])* $kind(Arc<$module::$kind>)),* }

        $(impl From<$module::$kind> for Resource {
            fn from(it: $module::$kind) -> Self {
                Self::$kind(Arc::new(it))
            }
        })*

        impl Resource {
            /// What is ours among the facts, of some kinds.
            pub fn observe(facts: &Facts, owner: &Owner, of: impl Fn(KindName) -> bool) -> Vec<Self> {
                let mut all = Vec::new();
                $(if of(KindName::$kind) {
                    all.extend($module::$kind::observe(facts, owner).into_iter().map(Self::from));
                })*
                all
            }

            /// Where the messages of a step go ([`Wire::places`]).
            pub fn places(op: &Op) -> Few<Place> {
                match op {
                    $(Op::Create(Self::$kind(to)) => Wire::places(&Op::Create(&**to)),
                    Op::Delete(Self::$kind(from)) => Wire::places(&Op::Delete(&**from)),
                    Op::Update { from: Self::$kind(from), to: Self::$kind(to) } => {
                        Wire::places(&Op::Update { from: &**from, to: &**to })
                    })*
                    Op::Update { .. } => unreachable!("an update never changes the kind: it is part of the id"),
                }
            }

            /// What is to be said for a step ([`Wire::encode`]).
            pub fn encode(op: &Op, lookup: &mut dyn Lookup) -> Result<Vec<Message>, Missing> {
                match op {
                    $(Op::Create(Self::$kind(to)) => Wire::encode(&Op::Create(&**to), lookup),
                    Op::Delete(Self::$kind(from)) => Wire::encode(&Op::Delete(&**from), lookup),
                    Op::Update { from: Self::$kind(from), to: Self::$kind(to) } => {
                        Wire::encode(&Op::Update { from: &**from, to: &**to }, lookup)
                    })*
                    Op::Update { .. } => unreachable!("an update never changes the kind: it is part of the id"),
                }
            }
        }

        impl Kind for Resource {
            fn id(&self) -> ResourceId {
                match self { $(Self::$kind(it) => it.id()),* }
            }
            fn needs(&self) -> Few<Need> {
                match self { $(Self::$kind(it) => it.needs()),* }
            }
            fn provides(&self) -> Few<Thing> {
                match self { $(Self::$kind(it) => it.provides()),* }
            }
            fn changes(&self, observed: &Self) -> Vec<FieldChange> {
                match (self, observed) {
                    $((Self::$kind(to), Self::$kind(from)) if Arc::ptr_eq(to, from) => Vec::new(),
                    (Self::$kind(to), Self::$kind(from)) => to.changes(from),)*
                    _ => unreachable!("only resources of one id are compared, and the kind is part of it"),
                }
            }
            fn summary(&self) -> String {
                match self { $(Self::$kind(it) => it.summary()),* }
            }
            fn details(&self) -> Vec<String> {
                match self { $(Self::$kind(it) => it.details()),* }
            }
            fn bereft(&mut self, gone: &Thing) {
                match self { $(Self::$kind(it) => Arc::make_mut(it).bereft(gone)),* }
            }
            fn settled(&self, is_there: &dyn Fn(&Thing) -> bool) -> Option<Self> {
                match self { $(Self::$kind(it) => it.settled(is_there).map(Self::from)),* }
            }
            fn part(&self) -> Option<(Part, &Label)> {
                match self { $(Self::$kind(it) => it.part()),* }
            }
            fn stays(&self) -> bool {
                match self { $(Self::$kind(it) => it.stays()),* }
            }
        }
    };
}

kinds! {
    /// A named network namespace with its loopback.
    netns::Netns = "netns",
    /// A bridge of the host.
    bridge::Bridge = "bridge",
    /// A pair of links, from the host into a container.
    veth::Veth = "veth",
    /// An address on a link.
    address::Address = "address",
    /// A route through a link.
    route::Route = "route",
    /// A routing rule for replies.
    rule::Rule = "rule",
    /// A network setting.
    sysctl::Sysctl = "sysctl",
    /// The packet filter of a topology.
    firewall::Firewall = "firewall",
    /// The table for rules of users.
    user_rules::UserRules = "table",
    /// Accepts in docker's chain for rules of users.
    docker_user::DockerUser = "docker-user",
}

impl fmt::Display for KindName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
