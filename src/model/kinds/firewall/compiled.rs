//! The skeleton as nfnetlink takes it. The build script has put it together ([`super::compile`] of [`super::rules`]): a run
//! sends it from where it lies in the program, and compares with it what the kernel dumps.

use std::borrow::Cow;

use super::compile::{self, HOLDS_GROUP, UNKNOWN};
use crate::model::attribute;

const TABLES: [(u8, &[u8]); 2] = [
    (compile::INET, include_bytes!(concat!(env!("OUT_DIR"), "/rules.1"))),
    (compile::BRIDGE, include_bytes!(concat!(env!("OUT_DIR"), "/rules.7"))),
];

/// The message that makes an object, and its attributes but for the table that it is in.
pub(super) type Object = (u16, Cow<'static, [u8]>);

/// Both tables of a topology whose ports are in that group, by their family: each with what is in it in the order in which
/// the kernel lists it.
pub(super) fn tables(group: u32) -> impl Iterator<Item = (u8, Vec<Object>)> {
    TABLES.into_iter().map(move |(family, objects)| {
        let object = |(message, attributes)| match message & HOLDS_GROUP {
            0 => (message, Cow::Borrowed(attributes)),
            _ => (message & !HOLDS_GROUP, filled_in(attributes, group).into()),
        };
        (family, attribute::walk(objects).map(object).collect())
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
            for (skeleton, (family, objects)) in Skeleton::both(group).iter().zip(tables(group)) {
                assert_eq!(compile::family(skeleton.family), family);
                assert_eq!(compile::objects(skeleton).collect::<Vec<_>>(), objects);
            }
        }
    }
}
