//! Whether a table of the kernel is the skeleton: attribute by attribute, as read back over nfnetlink. A hash kept
//! beside the rules would survive `nft replace rule` and prove nothing.

use nftables::schema::NfListObject;

use super::rules::Skeleton;
use crate::model::attribute;
use crate::model::wire::TableFacts;

/// What the kernel says beyond what was asked for: handle, use and counters of a chain (`NFTA_CHAIN_*`).
const OF_CHAIN: &[u16] = &[2, 6, 8];
/// Handle of a rule and of the one before (`NFTA_RULE_*`).
const OF_RULE: &[u16] = &[3, 6];
/// Handle of a set, nft's notes on how to print it, and in newer kernels its type and number of elements (`NFTA_SET_*`).
const OF_SET: &[u16] = &[13, 16, 19, 20];

/// `NFTA_CHAIN_NAME`, `NFTA_RULE_CHAIN` and `NFTA_SET_NAME`.
const CHAIN_NAME: u16 = 3;
const RULE_CHAIN: u16 = 2;
const SET_NAME: u16 = 2;

/// The first thing in which a table of the kernel is not the skeleton, for a person.
pub(super) fn difference(skeleton: &Skeleton, table: &TableFacts) -> Option<String> {
    if table.flags != 0 {
        return Some(format!("flags {:#x} of the table", table.flags));
    }
    let chains = objects(skeleton, |object| match object {
        NfListObject::Chain(it) => Some(&*it.name),
        _ => None,
    });
    let chain = named(&chains, (&table.chains, CHAIN_NAME, OF_CHAIN));
    let sets = objects(skeleton, set_name);
    let set = || named(&sets, (&table.sets, SET_NAME, OF_SET)).map(|name| format!("set {name}"));
    let rules = || rules(skeleton, table).map(|name| format!("rules of {name}"));
    chain.map(|name| format!("chain {name}")).or_else(set).or_else(rules)
}

/// Names of the sets and maps that hold what netrec writes, and not what packets leave.
pub(super) fn sets(skeleton: &Skeleton) -> impl Iterator<Item = &str> {
    let remembers = |object: &&NfListObject<'_>| matches!(object, NfListObject::Set(it) if it.timeout.is_some());
    skeleton.objects.iter().filter(move |object| !remembers(object)).filter_map(set_name)
}

fn set_name<'a>(object: &'a NfListObject<'_>) -> Option<&'a str> {
    match object {
        NfListObject::Set(it) => Some(&it.name),
        NfListObject::Map(it) => Some(&it.name),
        _ => None,
    }
}

type Named<'a> = (&'a str, &'a [u8]);

fn objects<'a>(skeleton: &'a Skeleton, name: impl Fn(&'a NfListObject<'static>) -> Option<&'a str>) -> Vec<Named<'a>> {
    skeleton.compiled().filter_map(|(object, sent)| Some((name(object)?, sent))).collect()
}

/// The name of the first object that the kernel has not, has differently, or has beside ours. Mostly it names them in the
/// order in which they were made.
fn named(ours: &[Named<'_>], (dumped, name, ignored): (&[Vec<u8>], u16, &[u16])) -> Option<String> {
    for (at, (own, sent)) in ours.iter().enumerate() {
        let is_own = |it: &&Vec<u8>| attribute::is_text(it, name, own);
        let found = dumped.get(at).filter(is_own).or_else(|| dumped.iter().find(is_own));
        if !found.is_some_and(|it| attribute::agrees(sent, it, ignored)) {
            return Some((*own).to_owned());
        }
    }
    if dumped.len() == ours.len() {
        return None; // names are unique, and each of ours is among them
    }
    let foreign = dumped.iter().map(|it| attribute::text(it, name)).find(|it| ours.iter().all(|(own, _)| own != it));
    foreign.map(ToOwned::to_owned)
}

/// The first chain by name whose rules are others, or in another order.
fn rules(skeleton: &Skeleton, table: &TableFacts) -> Option<String> {
    fn chain<'a>(rule: &&'a [u8]) -> &'a [u8] {
        attribute::get(rule, RULE_CHAIN).unwrap_or_default()
    }
    let ours = skeleton.compiled().filter(|(it, _)| matches!(it, NfListObject::Rule(_))).map(|(_, sent)| sent);
    let (mut ours, mut dumped): (Vec<_>, Vec<_>) = (ours.collect(), table.rules.iter().map(Vec::as_slice).collect());
    ours.sort_by_key(chain);
    dumped.sort_by_key(chain);
    let common = ours.iter().zip(&dumped).take_while(|(sent, it)| attribute::agrees(sent, it, OF_RULE)).count();
    let other = ours.get(common).into_iter().chain(dumped.get(common)).min_by_key(|rule| chain(rule))?;
    Some(attribute::text(other, RULE_CHAIN).to_owned())
}
