//! Whether a table of the kernel is the skeleton: attribute by attribute, as read back over nfnetlink. A hash kept
//! beside the rules would survive `nft replace rule` and prove nothing.

use super::compile::{NEW_CHAIN, NEW_RULE, NEW_SET};
use super::compiled::Object;
use super::definition::EXPIRES;
use crate::model::attribute;
use crate::model::wire::TableFacts;

/// What the kernel says beyond what was asked for: the table, and handle, use and counters of a chain (`NFTA_CHAIN_*`).
const OF_CHAIN: &[u16] = &[1, 2, 6, 8];
/// The table, handle of a rule and of the one before (`NFTA_RULE_*`).
const OF_RULE: &[u16] = &[1, 3, 6];
/// The table, handle of a set, nft's notes on how to print it, and in newer kernels its type and number of elements
/// (`NFTA_SET_*`).
const OF_SET: &[u16] = &[1, 13, 16, 19, 20];

/// `NFTA_CHAIN_NAME`, `NFTA_RULE_CHAIN` and `NFTA_SET_NAME`.
const CHAIN_NAME: u16 = 3;
const RULE_CHAIN: u16 = 2;
const SET_NAME: u16 = 2;

/// The first thing in which a table of the kernel is not the skeleton, for a person.
pub(super) fn difference(skeleton: &[Object], table: &TableFacts) -> Option<String> {
    if table.flags != 0 {
        return Some(format!("flags {:#x} of the table", table.flags));
    }
    let chain = named(&objects(skeleton, NEW_CHAIN), (&table.chains, CHAIN_NAME, OF_CHAIN));
    let set = || named(&objects(skeleton, NEW_SET), (&table.sets, SET_NAME, OF_SET)).map(|name| format!("set {name}"));
    let rules = || rules(&objects(skeleton, NEW_RULE), table).map(|name| format!("rules of {name}"));
    chain.map(|name| format!("chain {name}")).or_else(set).or_else(rules)
}

/// Names of the sets and maps that hold what netrec writes, and not what packets leave.
pub(super) fn sets(skeleton: &[Object]) -> impl Iterator<Item = &str> {
    let sets = objects(skeleton, NEW_SET).into_iter().filter(|set| !remembers(set));
    sets.map(|set| attribute::text(set, SET_NAME))
}

/// Whether packets fill a set.
pub(super) fn remembers(set: &[u8]) -> bool {
    attribute::get(set, EXPIRES).is_some()
}

fn objects(skeleton: &[Object], made_by: u16) -> Vec<&[u8]> {
    skeleton.iter().filter(|(message, _)| *message == made_by).map(|(_, attributes)| &**attributes).collect()
}

/// The name of the first object that the kernel has not, has differently, or has beside ours. Mostly it names them in the
/// order in which they were made.
fn named(ours: &[&[u8]], (dumped, name, ignored): (&[Vec<u8>], u16, &[u16])) -> Option<String> {
    for (at, sent) in ours.iter().enumerate() {
        let own = attribute::text(sent, name);
        let is_own = |it: &&Vec<u8>| attribute::is_text(it, name, own);
        let found = dumped.get(at).filter(is_own).or_else(|| dumped.iter().find(is_own));
        if !found.is_some_and(|it| attribute::agrees(sent, it, ignored)) {
            return Some(own.to_owned());
        }
    }
    if dumped.len() == ours.len() {
        return None; // names are unique, and each of ours is among them
    }
    let foreign = dumped
        .iter()
        .map(|it| attribute::text(it, name))
        .find(|it| !ours.iter().any(|own| attribute::is_text(own, name, it)));
    foreign.map(ToOwned::to_owned)
}

/// The first chain by name whose rules are others, or in another order. Mostly the kernel lists them as they were made,
/// chain by chain.
fn rules(ours: &[&[u8]], table: &TableFacts) -> Option<String> {
    fn chain<'a>(rule: &&'a [u8]) -> &'a [u8] {
        attribute::get(rule, RULE_CHAIN).unwrap_or_default()
    }
    let is_own = |(sent, dumped): (&&[u8], &[u8])| attribute::agrees(sent, dumped, OF_RULE);
    let listed = || table.rules.iter().map(Vec::as_slice);
    if ours.len() == table.rules.len() && ours.iter().zip(listed()).all(is_own) {
        return None;
    }
    let (mut ours, mut dumped): (Vec<_>, Vec<_>) = (ours.to_vec(), listed().collect());
    ours.sort_by_key(chain);
    dumped.sort_by_key(chain);
    let common = ours.iter().zip(dumped.iter().copied()).take_while(|it| is_own(*it)).count();
    let other = ours.get(common).into_iter().chain(dumped.get(common)).min_by_key(|rule| chain(rule))?;
    Some(attribute::text(other, RULE_CHAIN).to_owned())
}
