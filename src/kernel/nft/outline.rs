//! What tables and chains there are, of whomever.

use super::{BRIDGE, FAMILIES, GENMSG, INET};
use crate::model::attribute::{self, number, text};
use crate::model::kinds::docker_user::DockerUser;
use crate::model::kinds::firewall::Firewall;
use crate::model::kinds::user_rules::UserRules;
use crate::model::wire::{ChainFacts, Owner};

/// The tables and chains of all families, as dumped.
#[derive(Debug)]
pub struct Outline {
    pub(super) tables: Vec<Vec<u8>>,
    pub(super) chains: Vec<Vec<u8>>,
}

impl Outline {
    /// Base chains of all tables but the topology's and that for rules of users, at hooks where they could drop what it
    /// accepts.
    pub fn chains(&self, owner: &Owner) -> Vec<ChainFacts> {
        let name = Firewall::table_name(&owner.topology);
        let is_ours = |family, table: &str| match family {
            INET => table == name || table == UserRules::TABLE,
            BRIDGE => table == name,
            _ => false,
        };
        let all = self.chains.iter().filter_map(|it| Some((*it.first()?, it.get(GENMSG..)?)));
        let others = all.filter(|(family, it)| !is_ours(*family, text(it, 1)));
        let mut chains: Vec<_> = others.filter_map(|(family, it)| base_chain(family, it)).collect();
        chains.sort_unstable();
        chains
    }

    /// Whether the table for rules of users is there.
    pub(in crate::kernel) fn has_user_rules(&self) -> bool {
        self.table(INET, UserRules::TABLE).is_some()
    }

    /// Whether docker's chain for rules of users is there, in `ip` or `ip6`.
    pub(in crate::kernel) fn has_docker_user(&self, ipv6: bool) -> bool {
        let family = if ipv6 { 10 } else { 2 };
        self.chains_of(family, DockerUser::TABLE).any(|it| text(it, 3) == DockerUser::CHAIN)
    }

    pub(super) fn table(&self, family: u8, name: &str) -> Option<&[u8]> {
        of(&self.tables, family, name).next()
    }

    pub(super) fn chains_of(&self, family: u8, table: &str) -> impl Iterator<Item = &[u8]> {
        of(&self.chains, family, table)
    }
}

/// Attributes of what is in a table, or is that.
fn of<'a>(listed: &'a [Vec<u8>], family: u8, table: &str) -> impl Iterator<Item = &'a [u8]> {
    let here = listed.iter().filter(move |it| it.first() == Some(&family)).filter_map(|it| it.get(GENMSG..));
    here.filter(move |it| text(it, 1) == table)
}

fn base_chain(family: u8, attributes: &[u8]) -> Option<ChainFacts> {
    const HOOKS: [&str; 5] = ["prerouting", "input", "forward", "output", "postrouting"];
    let (_, family) = FAMILIES.into_iter().find(|(number, _)| *number == family)?;
    let hook = attribute::get(attributes, 4)?;
    // An arp chain has two hooks, numbered from 0: input and output.
    let at = number(hook, 1)? as usize;
    Some(ChainFacts {
        family: family.to_owned(),
        table: text(attributes, 1).to_owned(),
        chain: text(attributes, 3).to_owned(),
        hook: (*if family == "arp" { ["input", "output"].get(at) } else { HOOKS.get(at) }?).to_owned(),
        priority: number(hook, 2)?.cast_signed(),
        drops: number(attributes, 5) == Some(0),
        maps: text(attributes, 7) == "nat",
        rules: Vec::new(),
    })
}
