//! What earlier looks saw and nothing was announced of since, so that the next one need not ask again.
//!
//! Whoever hears what Linux announces says where ([`Disturbed`]); what this program itself writes is noted as it is
//! written. Everything else is as it was: that is what announcements are for. A whole look, taken now and then, forgets
//! all of it and is the judge. Whoever hears nothing believes it for a moment only (`Belief`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use super::KernelError;
use super::netns::{self, Identity};
use super::read::{Ahead, Seen};
use super::surroundings::MOMENT;
use crate::model::focus::otherwise;
use crate::model::kinds::sysctl::IPV4_FORWARD;
use crate::model::resource::{HOST, Op, Resource, Step, Text};
use crate::model::wire::{Absent, Facts, NetnsFacts, NetnsRef, Place, Scope};

/// Written to at most, for what was seen elsewhere to be believed by who does not listen.
const PLACES_MAX: usize = 16;

/// Where something may be otherwise than it was seen.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Disturbed {
    /// Anywhere: announcements were lost, or a look is to be the judge.
    pub anywhere: bool,
    /// In the host's namespace, but of its links only in these.
    pub host: bool,
    /// The host's links, by index.
    pub links: BTreeSet<u32>,
    /// In these.
    pub namespaces: BTreeSet<NetnsRef>,
    /// Names, paths and process ids may stand for other namespaces than before.
    pub names: bool,
}

impl Disturbed {
    /// Anywhere.
    pub fn anywhere() -> Self {
        Self { anywhere: true, ..Self::default() }
    }

    /// Whether it is nowhere.
    pub fn is_nowhere(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what others say.
    pub fn extend(&mut self, other: &Self) {
        self.anywhere |= other.anywhere;
        self.host |= other.host;
        self.names |= other.names;
        self.links.extend(&other.links);
        self.namespaces.extend(other.namespaces.iter().cloned());
    }
}

/// Whether what was seen is believed.
#[derive(Default, Debug)]
pub(super) enum Belief {
    /// It is not kept: each look asks everywhere.
    #[default]
    None,
    /// Nobody listens, so it is believed for a moment, by the look that verifies what was written. Already a look at a
    /// thousand namespaces takes a tenth of a second, and what it saw first is as old when it is over.
    Brief {
        /// When the last look at everything was over; none if too much was written since.
        looked: Option<Instant>,
        /// Whether steps were taken since, each with success.
        written: bool,
    },
    /// Whoever listens tells where not.
    Told(Disturbed),
}

impl Belief {
    pub(super) fn brief() -> Self {
        Self::Brief { looked: None, written: false }
    }

    pub(super) fn is_told(&self) -> bool {
        matches!(self, Self::Told(_))
    }

    /// Where the next look is not to believe it.
    pub(super) fn doubts(&mut self) -> Disturbed {
        match self {
            Self::Told(disturbed) => std::mem::take(disturbed),
            Self::Brief { looked: Some(looked), written: true } if looked.elapsed() < MOMENT => Disturbed::default(),
            Self::Brief { looked, .. } => {
                *looked = None;
                Disturbed::anywhere()
            }
            Self::None => Disturbed::anywhere(),
        }
    }

    /// A look is over. What it believed is as old as before.
    pub(super) fn looked(&mut self) {
        if let Self::Brief { looked, written } = self {
            looked.get_or_insert_with(Instant::now);
            *written = false;
        }
    }

    /// Steps are about to be taken. Where many namespaces are written to, a look at everything is as quick, and what was seen
    /// is let go: it is most of the memory.
    pub(super) fn before(&mut self, steps: &[Step], memory: &mut Memory) {
        let Self::Brief { looked, .. } = self else { return };
        let mut met = BTreeSet::new();
        let places = steps.iter().flat_map(|step| &step.parts).map(|(_, place)| place);
        if places.filter(|place| met.insert(*place)).nth(PLACES_MAX).is_some() {
            (*looked, *memory) = (None, Memory::default());
        }
    }

    /// Steps were taken. Whatever hindered one is to be seen, wherever it is.
    pub(super) fn after(&mut self, results: &[Result<(), KernelError>]) {
        if let Self::Brief { written, .. } = self {
            *written = results.iter().all(Result::is_ok);
        }
    }
}

/// What was seen.
#[derive(Default, Debug)]
pub(super) struct Memory {
    /// Whether nobody will ask what it was: nothing is kept.
    pub(super) fleeting: bool,
    /// A look at the host that has begun.
    pub(super) ahead: Option<Ahead>,
    /// What was looked for.
    scope: Option<Scope>,
    host: Option<Host>,
    /// What of the host is to be asked again.
    host_again: Option<Again>,
    /// Whether what stands behind a name is to be made sure of.
    glances: bool,
    namespaces: BTreeMap<NetnsRef, (Identity, Seen)>,
    /// What all of it came to.
    gathered: Option<Facts>,
    /// What of it is to be asked again, or for the first time: nobody has been there, or nothing stood there.
    forgotten: BTreeMap<NetnsRef, Option<Identity>>,
}

/// The host's namespace and its settings.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) facts: Arc<NetnsFacts>,
    pub(super) sysctls: Vec<(Text, Text)>,
}

/// Links of the host that may be otherwise by now. What is not links is asked with them: it is little, and Linux does not
/// announce what routes a link takes along.
#[derive(Clone, Default, Debug)]
pub(super) struct Again {
    pub(super) indexes: BTreeSet<u32>,
    pub(super) names: BTreeSet<Text>,
}

impl Memory {
    /// Forgets what may be otherwise by now, and everything that was not looked for in the same way.
    pub(super) fn turn_to(&mut self, scope: &Scope, disturbed: &Disturbed) {
        let alike = |last: &Scope| last.owner == scope.owner && last.sysctls == scope.sysctls;
        if disturbed.anywhere || !self.scope.as_ref().is_some_and(alike) {
            *self = Self { ahead: self.ahead.take(), ..Self::default() };
        }
        if disturbed.host || !disturbed.links.is_empty() {
            self.host_again.get_or_insert_default().indexes.extend(&disturbed.links);
        }
        self.glances = disturbed.names;
        if disturbed.names {
            self.gathered = None;
        }
        disturbed.namespaces.iter().for_each(|netns| self.forget(netns));
        // What is seen of a namespace depends on whether it is to have several endpoints,
        if let Some(last) = self.scope.as_mut().filter(|last| last.several != scope.several) {
            let last = std::mem::replace(&mut last.several, scope.several.clone());
            let turned = last.symmetric_difference(&scope.several).filter_map(|name| scope.containers.get(name));
            turned.for_each(|netns| self.forget(netns));
        }
        // and on whose it is said to be.
        if let Some(Scope { containers: last, .. }) = self.scope.take_if(|last| last.containers != scope.containers) {
            let gone: BTreeSet<&NetnsRef> = otherwise(&last, &scope.containers).map(|(_, netns)| netns).collect();
            let new: BTreeSet<&NetnsRef> = otherwise(&scope.containers, &last).map(|(_, netns)| netns).collect();
            let kept = self.namespaces.len();
            new.symmetric_difference(&gone).for_each(|netns| drop(self.namespaces.remove(*netns)));
            // Those that came along may be asked by themselves.
            if gone.is_empty() && self.namespaces.len() == kept {
                self.forgotten.extend(new.into_iter().map(|netns| (netns.clone(), None)));
            } else {
                self.gathered = None;
            }
        }
        self.scope.get_or_insert_with(|| scope.clone());
    }

    fn forget(&mut self, netns: &NetnsRef) {
        match self.namespaces.remove(netns) {
            Some((identity, _)) => drop(self.forgotten.insert(netns.clone(), Some(identity))),
            None => drop(self.forgotten.entry(netns.clone()).or_default()),
        }
    }

    /// Forgets what was forgotten by one name by its others too.
    fn forget_by_other_names(&mut self) {
        let forgotten: BTreeSet<Identity> = self.forgotten.values().flatten().copied().collect();
        let by = |(_, (identity, _)): &(&NetnsRef, &(Identity, Seen))| forgotten.contains(identity);
        let names: Vec<NetnsRef> = self.namespaces.iter().filter(by).map(|(netns, _)| netns.clone()).collect();
        for netns in &names {
            self.forget(netns);
        }
    }

    /// Whether a namespace was seen by more than one name.
    pub(super) fn met_twice(&self, identity: Identity) -> bool {
        self.namespaces.values().filter(|(it, _)| *it == identity).nth(1).is_some()
    }

    /// What the last look came to, and the namespaces of it to be asked again, if that is all there is to ask.
    pub(super) fn take_gathered(&mut self) -> Option<(Facts, BTreeMap<NetnsRef, Option<Identity>>)> {
        let forgotten = std::mem::take(&mut self.forgotten);
        let gathered = self.gathered.take().filter(|_| self.host.is_some());
        gathered.map(|gathered| (gathered, forgotten))
    }

    pub(super) fn keep_gathered(&mut self, facts: &Facts) {
        self.gathered = (!self.fleeting).then(|| facts.clone());
    }

    /// What was seen of the host, and what of it is to be asked again.
    pub(super) fn take_host(&mut self) -> Option<(Host, Option<Again>)> {
        let again = self.host_again.take();
        self.host.take().map(|host| (host, again))
    }

    pub(super) fn keep_host(&mut self, host: &Host) {
        self.host = (!self.fleeting).then(|| host.clone());
    }

    /// What was seen of a namespace, if the same one still stands there.
    pub(super) fn namespace(&mut self, netns: &NetnsRef) -> Option<Seen> {
        let (identity, seen) = self.namespaces.get(netns)?;
        if !self.glances || netns::glance(netns) == Some(*identity) {
            return Some(seen.clone());
        }
        // Nor is it believed by a later look, which does not make sure.
        self.namespaces.remove(netns);
        None
    }

    /// What of it has stood behind a name is kept.
    pub(super) fn keep<'a>(&mut self, visits: impl Iterator<Item = (&'a NetnsRef, &'a Seen)>) {
        if self.fleeting {
            return;
        }
        let stood = |(netns, seen): (&NetnsRef, &Seen)| match seen {
            Seen::Namespace(identity, ..) | Seen::Foreign(Some(identity)) => {
                Some((netns.clone(), (*identity, seen.clone())))
            }
            _ => None,
        };
        if self.namespaces.is_empty() {
            self.namespaces = visits.filter_map(stood).collect();
        } else {
            self.namespaces.extend(visits.filter_map(stood));
        }
    }

    /// Forgets where steps write, and where the kernel does more than is written: the far end of a pair, and what a path
    /// leads to.
    pub(super) fn written(&mut self, steps: &[Step], reference: impl Fn(&Text) -> NetnsRef) {
        // A namespace that was not there may be one that is made now.
        if let Some(gathered) = &self.gathered
            && steps.iter().any(|step| matches!(step.op, Op::Create(Resource::Netns(_))))
        {
            let missing = gathered.absent.iter().filter(|(_, why)| matches!(why, Absent::Missing(_)));
            for (container, _) in missing {
                self.forgotten.entry(reference(container)).or_default();
            }
        }
        let (mut far, mut others) = (BTreeSet::new(), false);
        for step in steps {
            // The far ends of what is inside go with it.
            if let Op::Delete(Resource::Netns(netns)) = &step.op {
                match self.namespaces.get(&reference(&netns.name)) {
                    Some((_, Seen::Namespace(_, inside, _))) => {
                        far.extend(inside.ends().filter_map(|(_, link, _)| link));
                    }
                    _ => others = true,
                }
            }
        }
        let mut forget = |netns: &Text| {
            if &**netns == HOST {
                self.host_again.get_or_insert_default();
            } else {
                self.forget(&reference(netns));
            }
        };
        let mut names = BTreeSet::new();
        for step in steps {
            for (_, place) in &step.parts {
                match place {
                    Place::Netns(netns) | Place::Sysctl(netns) => forget(netns),
                    Place::Namespaces => forget(&step.id.name),
                    // Its generation tells.
                    Place::Netfilter => {}
                }
            }
            let ends = match &step.op {
                Op::Create(to) => [Some(to), None],
                Op::Update { from, to } => [Some(from), Some(to)],
                Op::Delete(from) => [Some(from), None],
            };
            for end in ends.into_iter().flatten() {
                match end {
                    Resource::Veth(veth) => {
                        forget(&veth.netns);
                        names.insert(veth.name.clone());
                    }
                    // Whether a link has IPv6 is seen at the link.
                    Resource::Sysctl(setting) if &*setting.netns == HOST => {
                        names.extend(setting.link());
                        // So has each link a setting that goes with the host's.
                        others |= &*setting.key == IPV4_FORWARD;
                    }
                    // Its ports are changed with it.
                    Resource::Bridge(_) => others = true,
                    _ => {}
                }
            }
        }
        self.forget_by_other_names();
        if others {
            self.host = None;
        } else if !names.is_empty() || !far.is_empty() {
            let again = self.host_again.get_or_insert_default();
            again.names.append(&mut names);
            again.indexes.append(&mut far);
        }
    }

    /// Forgets what may have hindered steps: an address is refused where its link has no IPv6, which is seen at the link.
    /// Elsewhere than on the host that is forgotten with all else of the namespace.
    pub(super) fn failed(&mut self, steps: &[Step], results: &[Result<(), KernelError>]) {
        let failed = steps.iter().zip(results).filter(|(_, result)| result.is_err());
        for (step, _) in failed {
            if let Resource::Address(address) = step.op.subject()
                && &*address.netns == HOST
            {
                self.host_again.get_or_insert_default().names.insert(address.link.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests;
