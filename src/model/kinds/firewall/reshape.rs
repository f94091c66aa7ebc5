//! From tables of ours to the same with other elements, and with other [parts](Uses): sets come and go, and chains are
//! written anew in which other rules stand; packets meet a chain as it was or as it is. Chains stay, with or without rules:
//! packets may be on their way through one, so Linux waits where one is deleted.
//!
//! Linux puts rules and keys in force before intervals (`nft_set_commit_update`, after `gencursor` has moved on): for
//! milliseconds a rule that was just made asks an empty set. So where intervals come, what goes waits for a second transaction,
//! and where they close, what opens does: meanwhile there is at least what closes of both.

use std::collections::{BTreeMap, BTreeSet};

use super::compile::{NEW_RULE, NEW_SET};
use super::compiled::{self, Object};
use super::uses::Uses;
use super::wire::{DELETE_ELEMENTS, NEW_ELEMENTS};
use super::{CREATE, Element, Elements, Firewall, Role, Turn, Verdict, compare, group, made, said, wire};
use crate::model::attribute::{self, Put as _};
use crate::model::resource::Text;
use crate::model::wire::NftMessage;

const DELETE_RULES: u16 = 8;
const DELETE_SET: u16 = 11;

/// What is said to make `to` of intact tables, with `notes`, in one transaction or in two.
pub(super) fn update(from: &Firewall, to: &Firewall, turn: Turn, notes: &Elements) -> [Vec<NftMessage>; 2] {
    // What was noted before is noted again, or forgotten. What is in a set that goes does so with it.
    let stays = |set: &&str| to.uses.contains(compiled::uses(std::iter::once(*set)));
    let stay: Vec<&str> = from.elements.sets().into_iter().filter(stays).collect();
    let Turn { mut gone, new } = turn;
    gone.retain(|element| !notes.contains(element) && stay.contains(&element.set()));

    let (intervals, closes) = (new.iter().any(|it| !it.has_key()), new.iter().any(|it| it.closes()));
    let replaced: BTreeSet<Element> = gone.iter().filter(|_| closes).map(|element| element.key()).collect();
    let waits = |element: &&Element| closes && opens(element) && !replaced.contains(&element.key());
    let (new_late, new): (Vec<&Element>, Vec<&Element>) = new.into_iter().partition(waits);
    // Intervals of a set must not overlap, so those that give way do so at once.
    let filled: BTreeSet<&str> = new.iter().map(|element| element.set()).collect();
    let waits = |element: &&Element| intervals && !filled.contains(element.set());
    let (gone_late, gone): (Vec<&Element>, Vec<&Element>) = gone.into_iter().partition(waits);
    let between = if intervals { from.uses | to.uses } else { to.uses };

    let elements = |message, flags, all: Vec<&Element>| wire::messages(&to.table, message, flags, all.into_iter());
    let mut first = elements(DELETE_ELEMENTS, 0, gone);
    first.extend(reshape(&to.table, from.uses, between));
    first.extend(elements(NEW_ELEMENTS, CREATE, new.into_iter().chain(notes.iter()).collect()));
    let mut second = elements(DELETE_ELEMENTS, 0, gone_late);
    second.extend(reshape(&to.table, between, to.uses));
    second.extend(elements(NEW_ELEMENTS, CREATE, new_late));
    [first, second]
}

/// Whether it lets pass what may be stopped without it.
fn opens(element: &Element) -> bool {
    match element {
        Element::Link(role, _) => matches!(role, Role::Open | Role::HostAccess | Role::Icc),
        Element::Policy(verdict, _) => *verdict == Verdict::Allow,
        Element::Publish(_) | Element::Trusted(..) => true,
        _ => false,
    }
}

/// From some parts to others.
fn reshape(table: &Text, from: Uses, to: Uses) -> Vec<NftMessage> {
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
    for rule in compare::objects(objects, NEW_RULE) {
        chains.entry(chain(rule)).or_default().push(rule);
    }
    chains
}
