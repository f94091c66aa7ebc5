//! What a look takes of nftables: our tables, and what concerns us of others'. One generation of the ruleset holds one
//! thing, so of the same nothing is asked again; and of those that only we have made, what we wrote.

use std::sync::Arc;
use std::thread::JoinHandle;

#[cfg(debug_assertions)]
use super::netlink;
use super::nft::{self, Nft, NftError, Outline};
use super::{KernelError, feature, neighbours};
use crate::beside;
use crate::model::kinds::firewall::{Asked, Firewall};
use crate::model::resource::{Op, Resource, Step};
use crate::model::wire::{ChainFacts, DockerFacts, Facts, Owner, Place, TableFacts, Tables};

/// What nftables holds, as of a generation.
#[derive(Debug)]
pub(super) struct Netfilter {
    pub(super) generation: u32,
    pub(super) ours: Ours,
    chains: Arc<Vec<ChainFacts>>,
    topologies: Arc<Vec<TableFacts>>,
}

/// What netrec writes of it.
#[derive(PartialEq, Debug)]
pub(super) struct Ours {
    tables: Tables,
    user_rules: bool,
    docker: Vec<DockerFacts>,
}

/// What was written since the last look.
#[derive(Debug)]
pub(super) struct Written {
    from: Arc<Firewall>,
    to: Arc<Firewall>,
    /// In so many transactions.
    commits: u32,
}

/// A look that has begun, on a thread of its own: when all rules are written, and links still are.
#[derive(Debug)]
pub(super) struct Ahead(JoinHandle<Result<(Nft, Netfilter), KernelError>>);

impl Ahead {
    /// Begins it.
    ///
    /// # Errors
    ///
    /// When there can be no other thread: its socket.
    pub(super) fn begin(nft: Nft, owner: Owner) -> Result<Self, Nft> {
        let look =
            |(mut nft, owner): (Nft, Owner)| Netfilter::look(&mut nft, None, None, &owner).map(|seen| (nft, seen));
        beside::spawn("rules", (nft, owner), look).map(Self).map_err(|(nft, _)| nft)
    }

    /// Waits for its end. Where it failed, whoever looks again finds out why.
    pub(super) fn end(self) -> Option<(Nft, Netfilter)> {
        beside::join(self.0).ok()
    }
}

impl Netfilter {
    /// The generation that so many transactions of ours have made, if nobody else made any.
    pub(super) fn after(&self, commits: u32) -> u32 {
        later(self.generation, commits)
    }

    /// Looks, unless nothing happened since the last time, or nothing but what was written.
    pub(super) fn look(
        nft: &mut Nft,
        last: Option<Self>,
        written: Option<Written>,
        owner: &Owner,
    ) -> Result<Self, KernelError> {
        if let Some(last) = last {
            let generation = nft.generation()?;
            if generation == last.generation {
                return Ok(last);
            }
            if let Some(written) = written.filter(|it| it.is_all(last.generation, generation))
                && let Some(ours) = written.found(nft, &last.ours)
                && nft.generation()? == generation
            {
                #[cfg(debug_assertions)]
                netlink::uncounted(|| {
                    if let Ok((whole, at)) = nft.steadily(|nft, outline| Ours::look(nft, outline, owner))
                        && at == generation
                    {
                        assert!(whole == ours, "what is there is what was, and what was written");
                    }
                });
                return Ok(Self { generation, ours, ..last });
            }
        }
        let look = nft.steadily(|nft, outline| {
            let (chains, topologies) = neighbours::look(nft, outline, owner)?;
            Ok((Ours::look(nft, outline, owner)?, chains, topologies))
        });
        let ((ours, chains, topologies), generation) = look.map_err(feature::nftables)?;
        // Read here, while other threads may still look elsewhere, and not when somebody asks for it.
        ours.tables.firewall();
        Ok(Self { generation, ours, chains: chains.into(), topologies: topologies.into() })
    }

    /// Fills in its part of the facts.
    pub(super) fn tell(&self, facts: &mut Facts) {
        facts.tables.clone_from(&self.ours.tables);
        facts.chains.clone_from(&self.chains);
        facts.topologies.clone_from(&self.topologies);
        facts.user_rules = self.ours.user_rules;
        facts.docker.clone_from(&self.ours.docker);
    }
}

impl Written {
    /// What steps have written; none if that is more than an update of our tables.
    pub(super) fn by(steps: &[Step], results: &[Result<(), KernelError>], commits: u32) -> Option<Self> {
        let here = |(step, _): &(&Step, _)| step.parts.iter().any(|(_, place)| *place == Place::Netfilter);
        let mut steps = steps.iter().zip(results).filter(here);
        match (steps.next()?, steps.next()) {
            ((Step { op: Op::Update { from, to }, .. }, Ok(())), None) => match (from, to) {
                (Resource::Firewall(from), Resource::Firewall(to)) => {
                    Some(Self { from: from.clone(), to: to.clone(), commits })
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Another transaction followed, that belongs to it.
    pub(super) fn goes_on(&mut self) {
        self.commits += 1;
    }

    /// Whether nobody else has written between two generations.
    fn is_all(&self, before: u32, after: u32) -> bool {
        later(before, self.commits) == after
    }

    /// Asks for what was written; what was there before, with that, if the kernel has it so.
    fn found(&self, nft: &mut Nft, before: &Ours) -> Option<Ours> {
        before.tables.firewall().filter(|known| **known == *self.from)?;
        let mut asked = Asked::after(&self.from, &self.to)?.into_iter();
        let found = asked.all(|it| nft.element(&it.question).is_ok_and(|answer| it.agrees(answer.as_deref())));
        let Ours { user_rules, docker, .. } = before;
        found.then(|| Ours {
            tables: Firewall::clone(&self.to).into(),
            user_rules: *user_rules,
            docker: docker.clone(),
        })
    }
}

impl Ours {
    /// To be asked [steadily](Nft::steadily).
    pub(super) fn look(nft: &mut Nft, outline: &Outline, owner: &Owner) -> Result<Self, NftError> {
        let (tables, docker) = (nft.tables(outline, owner)?.into(), neighbours::docker(nft, outline)?);
        Ok(Self { tables, user_rules: outline.has_user_rules(), docker })
    }
}

fn later(generation: u32, commits: u32) -> u32 {
    (0..commits).fold(generation, |at, _| nft::next(at))
}
