//! A network setting under `/proc/sys/net` (ip-sysctl in the kernel's documentation).
//!
//! A setting has no mark and always has a value. Only settings that the topology asks for are read and written, and
//! they are left as they are when nobody asks any more: others may have come to rely on them.

use crate::model::resource::{FieldChange, Kind, KindName, Need, Op, ResourceId, Text, Thing, Wire};
use crate::model::wire::{Body, Facts, Lookup, Message, Missing, Owner, Place};

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

impl Sysctl {
    /// The link that the setting is of: it comes and goes with it. None for those of the whole namespace.
    fn link(&self) -> Option<Text> {
        let mut words = self.key.split('.');
        let (_, _, conf, link) = (words.next()?, words.next()?, words.next()?, words.next()?);
        (conf == "conf" && !["all", "default"].contains(&link)).then(|| link.replace('/', ".").into())
    }
}

impl Kind for Sysctl {
    fn id(&self) -> ResourceId {
        ResourceId::new(&self.netns, KindName::Sysctl, self.key.clone())
    }

    fn needs(&self) -> Vec<Need> {
        let mut needs = Vec::new();
        let (on, accept_ra) = (&*self.value != "0", !self.provides().is_empty());
        if on && !accept_ra {
            // Drops stand before anything begins to forward, and until it has ended.
            needs.push(Need::After(Thing::Firewall));
        }
        if on && &*self.key == "net.ipv6.conf.all.forwarding" {
            needs.push(Need::After(Thing::AcceptRa(self.netns.clone())));
        }
        needs.extend(self.link().map(|link| Need::Inside(Thing::Link(self.netns.clone(), link))));
        needs
    }

    fn provides(&self) -> Vec<Thing> {
        let accept_ra = self.key.ends_with(".accept_ra");
        accept_ra.then(|| Thing::AcceptRa(self.netns.clone())).into_iter().collect()
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
    fn places(op: &Op<&Self>) -> Vec<Place> {
        vec![Place::Sysctl(op.subject().netns.clone())]
    }

    fn encode(op: &Op<&Self>, _: &mut dyn Lookup) -> Result<Vec<Message>, Missing> {
        let it = op.subject();
        let body = Body::Sysctl(it.key.clone(), it.value.clone());
        Ok(op.to().map(|_| Message { place: Place::Sysctl(it.netns.clone()), body }).into_iter().collect())
    }

    fn observe(facts: &Facts, _: &Owner) -> Vec<Self> {
        let observed = |((netns, key), value): (&(Text, Text), &Text)| Self {
            netns: netns.clone(),
            key: key.clone(),
            value: value.clone(),
        };
        facts.sysctls.iter().map(observed).collect()
    }
}
