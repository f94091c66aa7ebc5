//! Whether a table of the kernel is the skeleton: attribute by attribute, as read back over nfnetlink. A hash kept
//! beside the rules would survive `nft replace rule` and prove nothing.

use super::compile::{NEW_CHAIN, NEW_RULE, NEW_SET};
use super::compiled::Object;
use super::definition::{FILLED_BY_PACKETS, FLAGS};
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
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const SET_NAME: u16 = 2;

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

/// Names of sets and maps, and who fills them.
pub(super) fn sets(skeleton: &[Object]) -> impl Iterator<Item = (&str, Fills)> {
    let fills = |set: &[u8]| if remembers(set) { Fills::Packets } else { Fills::Netrec };
    objects(skeleton, NEW_SET).into_iter().map(move |set| (attribute::text(set, SET_NAME), fills(set)))
}

/// Who fills a set.
pub(super) enum Fills {
    /// With what a topology says.
    Netrec,
    /// With what is remembered of them for a while.
    Packets,
}

/// Whether packets fill a set.
pub(super) fn remembers(set: &[u8]) -> bool {
    attribute::number(set, FLAGS).is_some_and(|flags| flags & FILLED_BY_PACKETS != 0)
}

/// Attributes of what a message makes.
pub(super) fn objects(skeleton: &[Object], made_by: u16) -> Vec<&[u8]> {
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

#[cfg(test)]
mod tests {
    use super::super::compile::{self, UNKNOWN};
    use super::super::compiled::tables;
    use super::super::uses::Uses;
    use super::*;
    use crate::model::attribute::Put as _;

    /// A table just as it was made, with what the kernel says beyond.
    fn made((family, objects): &(u8, Vec<Object>)) -> TableFacts {
        let of = |message, handle| {
            let dumped = |own: &&[u8]| {
                let mut dumped = Vec::new();
                dumped.put_text(1, "netrec-t").put(handle, &7_u64.to_be_bytes()).extend_from_slice(own);
                dumped
            };
            super::objects(objects, message).iter().map(dumped).collect()
        };
        let (chains, sets, rules) = (of(NEW_CHAIN, 2), of(NEW_SET, 16), of(NEW_RULE, 3));
        TableFacts { name: "netrec-t".into(), family: *family, chains, sets, rules, ..TableFacts::default() }
    }

    fn chain(rule: &[u8]) -> String {
        attribute::text(rule, RULE_CHAIN).to_owned()
    }

    #[test]
    fn what_was_made_is_known_whatever_the_order_of_chains() {
        for table in tables(UNKNOWN, Uses::ALL) {
            let mut listed = made(&table);
            assert_eq!(difference(&table.1, &listed), None);
            listed.rules.sort_by_key(|rule| chain(rule));
            listed.chains.reverse();
            listed.sets.reverse();
            assert_eq!(difference(&table.1, &listed), None);
        }
    }

    #[test]
    fn whatever_is_done_to_a_rule_is_seen() {
        for table in tables(UNKNOWN, Uses::ALL) {
            let whole = made(&table);
            let differs = |rules: Vec<Vec<u8>>| difference(&table.1, &TableFacts { rules, ..whole.clone() });
            for (at, rule) in whole.rules.iter().enumerate() {
                let altered = |alter: &dyn Fn(&mut Vec<Vec<u8>>)| {
                    let mut rules = whole.rules.clone();
                    alter(&mut rules);
                    (rules != whole.rules).then(|| differs(rules))
                };
                let of_its_chain = Some(format!("rules of {}", chain(rule)));
                assert_eq!(altered(&|rules| drop(rules.remove(at))), Some(of_its_chain.clone()));
                assert_eq!(altered(&|rules| rules.insert(at, rule.clone())), Some(of_its_chain.clone()));
                // A letter of the first expression's name: expressions stand last, a header before a name.
                let letter = rule.len() - attribute::get(rule, 4).unwrap().len() + 8;
                assert_eq!(altered(&|rules| rules[at][letter] ^= 1), Some(of_its_chain.clone()));
                assert_eq!(altered(&|rules| _ = rules[at].put_number(5, 9)), Some(of_its_chain.clone()));
                let elsewhere = whole.rules.iter().find(|other| chain(other) != chain(rule)).unwrap();
                let moved = altered(&|rules| {
                    let mut moved = Vec::new();
                    attribute::walk(rule).for_each(|(kind, content)| {
                        let content =
                            if kind == RULE_CHAIN { attribute::get(elsewhere, kind).unwrap() } else { content };
                        moved.put(kind, content);
                    });
                    rules[at] = moved;
                });
                assert!(moved.unwrap().is_some());
                if whole.rules.get(at + 1).is_some_and(|next| chain(next) == chain(rule)) {
                    let exchanged = altered(&|rules| rules.swap(at, at + 1));
                    assert!(exchanged.is_none_or(|seen| seen == of_its_chain));
                }
            }
        }
    }

    #[test]
    fn whatever_is_done_to_a_chain_or_a_set_is_seen() {
        for table in tables(UNKNOWN, Uses::ALL) {
            let whole = made(&table);
            let differs = |alter: &dyn Fn(&mut TableFacts)| {
                let mut altered = whole.clone();
                alter(&mut altered);
                difference(&table.1, &altered)
            };
            assert_eq!(differs(&|it| it.flags = 1), Some("flags 0x1 of the table".into()));
            for (at, own) in whole.chains.iter().enumerate() {
                let its = Some(format!("chain {}", attribute::text(own, CHAIN_NAME)));
                assert_eq!(differs(&|it| drop(it.chains.remove(at))), its);
                assert_eq!(differs(&|it| _ = it.chains[at].put_number(12, 9)), its);
            }
            for (at, own) in whole.sets.iter().enumerate() {
                let its = Some(format!("set {}", attribute::text(own, SET_NAME)));
                assert_eq!(differs(&|it| drop(it.sets.remove(at))), its);
                assert_eq!(differs(&|it| _ = it.sets[at].put_number(17, 9)), its);
            }
            let mut foreign = Vec::new();
            foreign.put_text(SET_NAME, "theirs");
            assert_eq!(differs(&|it| it.sets.push(foreign.clone())), Some("set theirs".into()));
        }
    }

    #[test]
    fn what_packets_fill_is_told_a_size_and_nothing_else_about_its_key() {
        let tables: Vec<_> = tables(UNKNOWN, Uses::ALL).collect();
        let filled = tables.iter().flat_map(|(_, it)| super::objects(it, NEW_SET)).filter(|set| remembers(set));
        let described = filled.map(|set| attribute::get(set, super::super::definition::DESCRIPTION).unwrap());
        let kinds: Vec<u16> = described.flat_map(|it| attribute::walk(it).map(|(kind, _)| kind)).collect();
        assert_eq!(kinds, [1, 1], "NFTA_SET_DESC_SIZE of flows4 and flows6: it is left out when they are made");
        assert_eq!(tables.iter().map(|(family, _)| *family).collect::<Vec<_>>(), [compile::INET, compile::BRIDGE]);
    }
}
