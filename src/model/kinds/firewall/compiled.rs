//! The skeleton as nfnetlink takes it. The build script has put it together ([`super::compile`] of [`super::rules`]): a run
//! sends it from where it lies in the program, and compares with it what the kernel dumps.

use std::borrow::Cow;

use super::compare;
use super::compile::{self, HOLDS_GROUP, UNKNOWN};
use super::uses::Uses;
use crate::model::attribute;

const TABLES: [(u8, &[u8]); 2] = [
    (compile::INET, include_bytes!(concat!(env!("OUT_DIR"), "/rules.1"))),
    (compile::BRIDGE, include_bytes!(concat!(env!("OUT_DIR"), "/rules.7"))),
];

/// The message that makes an object, and its attributes but for the table that it is in.
pub(super) type Object = (u16, Cow<'static, [u8]>);

/// Both tables of a topology whose ports are in that group and that uses those parts, by their family: each with what is in
/// it in the order in which it is made.
pub(super) fn tables(group: u32, uses: Uses) -> impl Iterator<Item = (u8, Vec<Object>)> {
    TABLES.into_iter().map(move |(family, objects)| {
        let all = compiled(objects).filter(|(needs, ..)| uses.contains(*needs));
        let object = |(_, message, attributes)| match message & HOLDS_GROUP {
            0 => (message, Cow::Borrowed(attributes)),
            _ => (message & !HOLDS_GROUP, filled_in(attributes, group).into()),
        };
        (family, all.map(object).collect())
    })
}

/// The parts that some sets belong to, known by name.
pub(super) fn uses<'a>(sets: impl Iterator<Item = &'a str>) -> Uses {
    let of = |set: &'a str| {
        let mut all = TABLES.into_iter().flat_map(|(_, objects)| compiled(objects));
        let own = all.find(|(_, message, attributes)| {
            *message == compile::NEW_SET && attribute::is_text(attributes, compare::SET_NAME, set)
        });
        own.map_or(Uses::NONE, |(uses, ..)| uses)
    };
    sets.map(of).fold(Uses::NONE, |all, one| all | one)
}

/// What the build script wrote: of each object its parts, its message and its attributes.
fn compiled(objects: &'static [u8]) -> impl Iterator<Item = (Uses, u16, &'static [u8])> {
    attribute::walk(objects).filter_map(|(message, object)| {
        let (uses, attributes) = object.split_first_chunk()?;
        Some((Uses(u32::from_ne_bytes(*uses)), message, attributes))
    })
}

fn filled_in(attributes: &[u8], group: u32) -> Vec<u8> {
    let mut attributes = attributes.to_vec();
    for word in attributes.chunks_exact_mut(4).filter(|word| **word == UNKNOWN.to_ne_bytes()) {
        word.copy_from_slice(&group.to_ne_bytes());
    }
    attributes
}

#[cfg(test)]
mod tests {
    use super::super::rules::Skeleton;
    use super::*;

    #[test]
    fn what_was_compiled_before_is_what_would_be_compiled_now() {
        for group in [0x6e00_0001, 0x6e00_0000, 0x6eff_ffff, UNKNOWN, UNKNOWN ^ 1] {
            for uses in [Uses::ALL, Uses::NONE, Uses::PUBLISH | Uses::WITHIN, Uses::DENY | Uses::NO_ICC] {
                for (skeleton, (family, objects)) in Skeleton::both(group, uses).iter().zip(tables(group, uses)) {
                    assert_eq!(compile::family(skeleton.family), family);
                    assert_eq!(compile::objects(skeleton).collect::<Vec<_>>(), objects);
                }
            }
        }
    }
}
