//! What a look takes of nftables: our tables, and what concerns us of others'. One generation of the ruleset holds one
//! thing, so of the same nothing is asked again.

use std::sync::Arc;

use super::nft::{Nft, NftError};
use super::{KernelError, feature, neighbours};
use crate::model::wire::{ChainFacts, DockerFacts, Facts, Owner, TableFacts, Tables};

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

impl Netfilter {
    /// Looks, unless nothing happened since the last time.
    pub(super) fn look(nft: &mut Nft, last: Option<Self>, owner: &Owner) -> Result<Self, KernelError> {
        if let Some(last) = last
            && nft.generation()? == last.generation
        {
            return Ok(last);
        }
        let look = nft.steadily(|nft| {
            let (chains, topologies) = neighbours::look(nft, owner)?;
            Ok((Ours::look(nft, owner)?, chains, topologies))
        });
        let ((ours, chains, topologies), generation) = look.map_err(feature::nftables)?;
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

impl Ours {
    /// To be asked [steadily](Nft::steadily).
    pub(super) fn look(nft: &mut Nft, owner: &Owner) -> Result<Self, NftError> {
        let (tables, docker) = (nft.tables(owner)?.into(), neighbours::docker(nft)?);
        Ok(Self { tables, user_rules: nft.has_user_rules()?, docker })
    }
}
