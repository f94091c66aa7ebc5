//! A network setting under `/proc/sys/net` (ip-sysctl in the kernel's documentation).
//!
//! A setting has no mark and always has a value. Only settings that the topology asks for are read and written, and
//! they are left as they are when nobody asks any more: others may have come to rely on them.

use std::sync::LazyLock;

use smallvec::smallvec;

use crate::model::links;
use crate::model::resource::{Few, FieldChange, Kind, KindName, Need, Op, ResourceId, Text, Thing, Wire};
use crate::model::wire::{Body, Facts, LinkFacts, Lookup, Message, Missing, Owner, Place};

/// A setting and its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sysctl {
    /// Its namespace.
    pub netns: Text,
    /// Dotted name as sysctl(8) writes it; a dot within an interface name is written `/`.
    pub key: Text,
    /// Its value, without white space around it.
    pub value: Text,
}

/// Whether the host forwards IPv4.
pub const IPV4_FORWARD: &str = "net.ipv4.ip_forward";

/// What `disable_ipv6` is for links yet to be born.
const DEFAULT: &str = "default";

impl Sysctl {
    /// Whether a link has no IPv6; without one, whether links are born so.
    pub fn disable_ipv6(link: Option<&str>) -> Text {
        fn key(link: &str) -> Text {
            format!("net.ipv6.conf.{}.disable_ipv6", link.replace('.', "/")).into()
        }
        static BORN: LazyLock<Text> = LazyLock::new(|| key(DEFAULT));
        link.map_or_else(|| BORN.clone(), key)
    }

    /// The link that it gives IPv6 to.
    pub fn gives_ipv6(&self) -> Option<Text> {
        self.link().filter(|_| self.is_disable_ipv6() && &*self.value == "0")
    }

    /// Whether it is of a link, which is not born with it.
    pub fn goes_with_link(&self) -> bool {
        let born = if self.is_disable_ipv6() { "1" } else { "0" };
        self.link().is_some() && &*self.value != born
    }

    fn is_disable_ipv6(&self) -> bool {
        self.key.ends_with(".disable_ipv6")
    }

    fn is_accept_ra(&self) -> bool {
        self.key.ends_with(".accept_ra")
    }

    /// The link that the setting is of: it comes and goes with it. None for those of the whole namespace.
    pub fn link(&self) -> Option<Text> {
        let mut words = self.key.split('.');
        let (_, _, conf, link) = (words.next()?, words.next()?, words.next()?, words.next()?);
        (conf == "conf" && !["all", "default"].contains(&link)).then(|| link.replace('/', ".").into())
    }
}

impl Kind for Sysctl {
    fn id(&self) -> ResourceId {
        ResourceId::new(&self.netns, KindName::Sysctl, self.key.clone())
    }

    fn needs(&self) -> Few<Need> {
        let mut needs = Few::new();
        let (on, forwards) = (&*self.value != "0", !self.is_accept_ra() && !self.is_disable_ipv6());
        if on && forwards {
            // Drops stand before anything begins to forward, and until it has ended.
            needs.push(Need::After(Thing::Firewall));
        }
        if on && &*self.key == "net.ipv6.conf.all.forwarding" {
            needs.push(Need::After(Thing::AcceptRa(self.netns.clone())));
        }
        needs.extend(self.link().map(|link| Need::Inside(Thing::Link(self.netns.clone(), link))));
        needs
    }

    fn provides(&self) -> Few<Thing> {
        let accept_ra = self.is_accept_ra().then(|| Thing::AcceptRa(self.netns.clone()));
        let ipv6 = self.gives_ipv6().map(|link| Thing::Ipv6(self.netns.clone(), link));
        accept_ra.into_iter().chain(ipv6).collect()
    }

    fn changes(&self, observed: &Self) -> Vec<FieldChange> {
        if self.value == observed.value {
            return Vec::new();
        }
        vec![FieldChange::in_place("value", &observed.value, &self.value)]
    }

    fn summary(&self) -> String {
        format!("value {}", self.value)
    }

    fn stays(&self) -> bool {
        true
    }
}

impl Wire for Sysctl {
    fn places(op: &Op<&Self>) -> Few<Place> {
        smallvec![Place::Sysctl(op.subject().netns.clone())]
    }

    fn encode(op: &Op<&Self>, _: &mut dyn Lookup) -> Result<Vec<Message>, Missing> {
        let it = op.subject();
        let body = Body::Sysctl(it.key.clone(), it.value.clone());
        Ok(op.to().map(|_| Message { place: Place::Sysctl(it.netns.clone()), body }).into_iter().collect())
    }

    fn observe(facts: &Facts, owner: &Owner) -> Vec<Self> {
        let observed = |((netns, key), value): (&(Text, Text), &Text)| Self {
            netns: netns.clone(),
            key: key.clone(),
            value: value.clone(),
        };
        let mut all: Vec<Self> = facts.sysctls.iter().map(observed).collect();
        // Links tell it themselves, and where they are born with IPv6 and have it there is nothing to tell.
        for (netns, inside) in facts.namespaces.iter() {
            let born = facts.sysctls.get(&(netns.clone(), Self::disable_ipv6(None)));
            let told = born.is_some_and(|value| &**value != "0");
            let asked = |link: &&LinkFacts| owner.owns(link) && links::may_need_ipv6(netns, link);
            let links = inside.links.iter().filter(|link| told || link.ipv6_off).filter(asked);
            all.extend(links.map(|link| Self {
                netns: netns.clone(),
                key: Self::disable_ipv6(Some(&link.name)),
                value: if link.ipv6_off { "1" } else { "0" }.into(),
            }));
        }
        all
    }
}
