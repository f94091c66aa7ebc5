//! A named network namespace (ip-netns(8)) with its loopback up.
//!
//! The mark is the content of the name's file before the namespace is bound over it, and the alias of the namespace's
//! own `lo`; it is complete before the name exists, so a kill leaves either a marked file or a marked namespace.

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use smallvec::smallvec;

use crate::model::hash;
use crate::model::links;
use crate::model::resource::{Few, FieldChange, Kind, KindName, Need, Op, Part, ResourceId, Text, Thing, Wire, host};
use crate::model::wire::{Body, Facts, Label, Lookup, Message, Missing, NetnsFacts, NetnsOrigin, Owner, Place};

/// A named network namespace that netrec made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Netns {
    /// Its name under `/run/netns`.
    pub name: Text,
    /// Whose it is.
    pub owner: Owner,
    /// The container it is.
    pub label: Label,
    /// Whether a namespace is bound over the name; a kill can leave the bare file.
    pub bound: bool,
    /// Whether its `lo` is up.
    pub lo_up: bool,
}

impl Netns {
    /// A namespace as netrec makes them.
    pub fn new(name: &Text, owner: &Owner, label: Label) -> Self {
        Self { name: name.clone(), owner: owner.clone(), label, bound: true, lo_up: true }
    }

    fn mark(&self) -> String {
        self.label.on(self.owner.alias(&self.id(), hash::words(&[&self.name])))
    }

    fn lo(&self) -> LinkMessage {
        let mut lo = LinkMessage::default();
        lo.header.index = 1;
        lo.header.flags = LinkFlags::Up;
        lo.header.change_mask = LinkFlags::Up;
        lo.attributes.push(LinkAttribute::IfAlias(self.mark()));
        lo
    }

    fn observed(name: &Text, facts: &NetnsFacts, owner: &Owner) -> Option<Self> {
        let (mark, bound, lo_up) = match &facts.origin {
            NetnsOrigin::Named => {
                let lo = facts.link(1)?;
                (&*lo.alias, true, lo.up)
            }
            NetnsOrigin::Unbound(content) => (content.as_str(), false, false),
            NetnsOrigin::Host | NetnsOrigin::Given => return None,
        };
        let observed = || Self { bound, lo_up, ..Self::new(name, owner, Label::of(mark)) };
        owner.marked(mark)?.then(observed)
    }
}

impl Kind for Netns {
    fn id(&self) -> ResourceId {
        ResourceId::new(&host(), KindName::Netns, self.name.clone())
    }

    fn needs(&self) -> Few<Need> {
        Few::new()
    }

    fn provides(&self) -> Few<Thing> {
        smallvec![Thing::Netns(self.name.clone())]
    }

    fn changes(&self, observed: &Self) -> Vec<FieldChange> {
        let mut changes = Vec::new();
        if self.bound != observed.bound {
            changes.push(FieldChange::replaces("namespace", "none behind its name", "its own"));
        } else if self.lo_up != observed.lo_up {
            changes.push(FieldChange::in_place("lo", "down", "up"));
        } else if self.label != observed.label {
            let outdated = || FieldChange::in_place("mark", "outdated", "set");
            changes.push(links::label_change(&observed.label, &self.label).unwrap_or_else(outdated));
        }
        changes
    }

    fn part(&self) -> Option<(Part, &Label)> {
        Some((Part::Container, &self.label))
    }

    fn summary(&self) -> String {
        "network namespace, lo up".into()
    }
}

impl Wire for Netns {
    fn places(op: &Op<&Self>) -> Few<Place> {
        match op {
            Op::Create(_) | Op::Delete(_) => smallvec![Place::Namespaces],
            Op::Update { to, .. } => smallvec![Place::Netns(to.name.clone())],
        }
    }

    fn encode(op: &Op<&Self>, _: &mut dyn Lookup) -> Result<Vec<Message>, Missing> {
        let lo = |it: &Self| (RouteNetlinkMessage::SetLink(it.lo()), 0);
        Ok(vec![match op {
            Op::Create(to) => Message {
                place: Place::Namespaces,
                body: Body::CreateNetns { name: to.name.clone(), mark: to.owner.file_mark(), setup: vec![lo(to)] },
            },
            Op::Update { to, .. } => {
                let (message, flags) = lo(to);
                Message { place: Place::Netns(to.name.clone()), body: Body::Route(message, flags) }
            }
            Op::Delete(from) => Message { place: Place::Namespaces, body: Body::DeleteNetns(from.name.clone()) },
        }])
    }

    fn observe(facts: &Facts, owner: &Owner) -> Vec<Self> {
        facts.namespaces.iter().filter_map(|(name, netns)| Self::observed(name, netns, owner)).collect()
    }
}
