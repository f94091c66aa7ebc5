//! From tables with some [`Uses`] to the same with others, beside what they hold: sets come and go, and chains are written
//! anew in which other rules stand. All in one transaction, so packets meet the chain as it was or as it is.
//!
//! Chains stay, with or without rules: packets may be on their way through one, so Linux waits where one is deleted.

use std::collections::BTreeMap;

use super::compile::{NEW_RULE, NEW_SET};
use super::compiled::{self, Object};
use super::uses::Uses;
use super::{compare, group, made, said};
use crate::model::attribute::{self, Put as _};
use crate::model::resource::Text;
use crate::model::wire::NftMessage;

const DELETE_RULES: u16 = 8;
const DELETE_SET: u16 = 11;

/// The messages; none where the parts are the same.
pub(super) fn messages(table: &Text, from: Uses, to: Uses) -> Vec<NftMessage> {
    let mut messages = Vec::new();
    if from == to {
        return messages;
    }
    let tables = compiled::tables(group(table), from).zip(compiled::tables(group(table), to));
    for ((family, from), (_, to)) in tables {
        let (was, is) = (chains(&from), chains(&to));
        let others: Vec<&str> =
            was.keys().chain(is.keys()).copied().filter(|chain| was.get(chain) != is.get(chain)).collect();
        let named = |kind, name: &str| {
            let mut attributes = Vec::new();
            attributes.put_text(kind, name);
            attributes
        };
        let emptied = was.keys().filter(|chain| others.contains(chain));
        messages.extend(emptied.map(|chain| said(table, family, (DELETE_RULES, 0), named(compare::RULE_CHAIN, chain))));
        let gone = sets(&from).filter(|set| !to.contains(set));
        messages.extend(gone.map(|(_, set)| {
            let name = attribute::text(set, compare::SET_NAME);
            said(table, family, (DELETE_SET, 0), named(compare::SET_NAME, name))
        }));
        let new = sets(&to).filter(|set| !from.contains(set)).cloned();
        let filled = to.iter().filter(|(message, rule)| *message == NEW_RULE && others.contains(&chain(rule))).cloned();
        messages.extend(new.chain(filled).map(|object| made(table, family, object)));
    }
    messages
}

fn sets(objects: &[Object]) -> impl Iterator<Item = &Object> {
    objects.iter().filter(|(message, _)| *message == NEW_SET)
}

fn chain(rule: &[u8]) -> &str {
    attribute::text(rule, compare::RULE_CHAIN)
}

/// The rules of each chain that has any.
fn chains(objects: &[Object]) -> BTreeMap<&str, Vec<&[u8]>> {
    let mut chains: BTreeMap<&str, Vec<&[u8]>> = BTreeMap::new();
    for (_, rule) in objects.iter().filter(|(message, _)| *message == NEW_RULE) {
        chains.entry(chain(rule)).or_default().push(rule);
    }
    chains
}
