//! Linux behind the [`Kernel`] trait: a look, and steps carried out lane by lane (`kernel::run`).
//!
//! A lane is a place with an order: the rtnetlink of one namespace, the transaction of nftables, the names of
//! namespaces, the settings.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;

use super::kept::Kept;
use super::memory::{Belief, Disturbed, Memory};
use super::netfilter::{Ahead, Netfilter, Written};
use super::netns::{self, Found};
use super::nft::Nft;
use super::run::Run;
use super::surroundings::Surroundings;
use super::{Kernel, KernelError, feature, read};
use crate::beside::Threads;
use crate::model::focus::{Focus, News};
use crate::model::observed::Observed;
use crate::model::resource::{Step, Text};
use crate::model::wire::{Containers, Facts, NetnsRef, Owner, Scope};

/// From so many namespaces on it pays to sort what was seen by two threads.
const HALVES_FROM: usize = 64;

/// The kernel this program runs on, seen from its own network namespace.
#[derive(Default, Debug)]
pub struct Linux {
    containers: Containers,
    pub(super) owner: Option<Owner>,
    /// nftables in the last look: a transaction is refused if its generation has passed.
    pub(super) netfilter: Option<Netfilter>,
    belief: Belief,
    memory: Memory,
    /// The last look's.
    seen: Option<Facts>,
    /// Those of the look that news are told against.
    settled: Option<Facts>,
    kept: Kept,
    around: Arc<Surroundings>,
}

impl Kernel for Linux {
    fn observe(&mut self, scope: &Scope) -> Result<Observed, KernelError> {
        let mut facts = self.look(scope)?;
        self.around.fill(&mut facts, self.belief.is_told())?;
        // Kept by who does not remember as well: to take it apart now would have everything else wait.
        let facts = self.seen.insert(facts);
        Ok(Observed::by_halves(facts, &scope.owner, &Threads { two: facts.namespaces.len() >= HALVES_FROM }))
    }

    fn news(&mut self, scope: &Scope, open: &Focus, anew: bool) -> Result<Option<News>, KernelError> {
        let Some(settled) = self.settled.take() else { return Ok(None) };
        let mut facts = self.look(scope)?;
        if anew {
            self.around.fill(&mut facts, true)?;
        } else {
            facts.listeners.clone_from(&settled.listeners);
            facts.rulesets.clone_from(&settled.rulesets);
        }
        self.seen = Some(facts.clone());
        let focus = Focus::between(&settled, &facts, open);
        self.settled = Some(settled).filter(|_| focus.is_some());
        Ok(focus.map(|focus| News::new(focus, &facts, &scope.owner, anew)))
    }

    fn settle(&mut self) {
        self.settled = self.seen.take();
    }

    fn able(&mut self, steps: &[Step]) -> Result<(), KernelError> {
        feature::able(steps)
    }

    fn execute(&mut self, steps: &[Step], progress: &mut dyn FnMut(usize)) -> Vec<Result<(), KernelError>> {
        let containers = &self.containers;
        self.belief.before(steps, &mut self.memory);
        self.memory.written(steps, |netns| netns::reference(containers, netns));
        self.kept.end_forgetting();
        let kept = std::mem::take(&mut self.kept);
        let (results, mut kept) = Run::new(self, kept, steps).all(progress);
        self.memory.failed(steps, &results);
        kept.written = Written::by(steps, &results, std::mem::take(&mut kept.commits));
        self.kept = kept;
        self.belief.after(&results);
        tracing::debug!("written");
        results
    }
}

impl Linux {
    /// Linux, asked again only where something may have happened: whoever uses it listens, and tells of what it hears
    /// ([`disturb`](Self::disturb)).
    pub fn remembering() -> Self {
        Self { belief: Belief::Told(Disturbed::default()), ..Self::default() }
    }

    /// Linux for one run, which nobody listens beside: what it does not write to is believed for a moment to be as it was
    /// seen, so that the look that verifies does not grow with all that is there.
    pub fn for_one_run() -> Self {
        Self { belief: Belief::brief(), ..Self::default() }
    }

    /// Has the host looked at from now on: before it is known what for, and by another thread, where one is to be had.
    pub fn look_ahead(&mut self) {
        self.memory.ahead = read::Ahead::begin();
    }

    /// Believes what is known of what is around.
    pub fn believe(&mut self, around: Arc<Surroundings>) {
        self.around = around;
    }

    /// What is around.
    pub fn around(&self) -> &Surroundings {
        &self.around
    }

    /// What was seen is not as it is wanted, or for another reason than before.
    pub fn unsettle(&mut self) {
        self.settled = None;
    }

    /// What is there but for listeners and files of rules, asked for where it may be otherwise than it was seen.
    fn look(&mut self, scope: &Scope) -> Result<Facts, KernelError> {
        let _leaving = std::mem::take(&mut self.kept.leaving);
        self.seen = None;
        let disturbed = self.belief.doubts();
        // Until the look is complete nothing is known.
        let mut memory = std::mem::take(&mut self.memory);
        memory.turn_to(scope, &disturbed);
        memory.fleeting = matches!(self.belief, Belief::None);
        let same = self.owner.as_ref() == Some(&scope.owner);
        let last = self.netfilter.take().filter(|_| same);
        let kept = &mut self.kept;
        let netfilter = || {
            kept.end_forgetting();
            let (mut nft, last) = match kept.ahead.take().and_then(Ahead::end) {
                Some((nft, seen)) => (nft, Some(seen).filter(|_| same)),
                None => (kept.nft.take().map_or_else(|| Nft::open().map_err(feature::nftables), Ok)?, last),
            };
            let netfilter = Netfilter::look(&mut nft, last, kept.written.take(), &scope.owner)?;
            Ok::<_, KernelError>((nft, netfilter))
        };
        let looked = read::recall(scope, &mut memory, netfilter);
        // Whoever does not see gives the lock away: afterwards the note might be taken for that of others' rules.
        let (mut facts, netfilter) = looked.inspect_err(|_| self.kept.end_forgetting())?;
        let (nft, netfilter) = netfilter?;
        self.kept.nft = Some(nft);
        netfilter.tell(&mut facts);
        self.netfilter = Some(netfilter);
        if !memory.fleeting {
            self.memory = memory;
            self.belief.looked();
        }
        self.containers = scope.containers.clone();
        for (name, netns) in facts.strays() {
            self.containers.extend(netns.reference.clone().map(|reference| (name.clone(), reference)));
        }
        self.owner = Some(scope.owner.clone());
        tracing::debug!("looked");
        Ok(facts)
    }

    /// Something happened there, to be seen by the next look.
    pub fn disturb(&mut self, disturbed: &Disturbed) {
        if let Belief::Told(known) = &mut self.belief {
            known.extend(disturbed);
        }
    }

    pub(super) fn open(&self, netns: &Text) -> Result<OwnedFd, KernelError> {
        self.open_by(netns, netns::find)
    }

    pub(super) fn open_by(
        &self,
        netns: &Text,
        find: impl FnOnce(&NetnsRef) -> Result<Found, KernelError>,
    ) -> Result<OwnedFd, KernelError> {
        match find(&netns::reference(&self.containers, netns))? {
            Found::Bound(fd, _) => Ok(fd),
            Found::Unbound(_) => Err(KernelError::NotANamespace(format!("no namespace stands behind {netns}"))),
            Found::Absent(reason) => Err(KernelError::system(reason, Errno::ENOENT)),
        }
    }
}
