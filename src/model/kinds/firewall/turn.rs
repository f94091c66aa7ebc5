//! How elements become others.

use std::collections::BTreeMap;

use super::{Element, Elements, Firewall};
use crate::model::resource::{FieldChange, Text};

/// What goes and what comes where elements become others, each in order.
#[derive(Default, Debug)]
pub(super) struct Turn<'a> {
    /// Only in what was.
    pub gone: Vec<&'a Element>,
    /// Only in what is to be.
    pub new: Vec<&'a Element>,
}

impl<'a> Turn<'a> {
    /// From what is there, if anything is.
    pub(super) fn between(from: Option<&'a Firewall>, to: &'a Elements) -> Self {
        static NOTHING: Elements = Elements::NONE;
        from.map_or(&NOTHING, |from| &from.elements).turn(to)
    }
}

impl Elements {
    /// What goes and what comes where these become others, in linear time.
    pub(super) fn turn<'a>(&'a self, to: &'a Self) -> Turn<'a> {
        let (mut turn, mut here, mut there) = (Turn::default(), self.as_slice(), to.as_slice());
        loop {
            match (here, there) {
                // Mostly that is so, and it is told sooner than which is the first.
                ([one, ones @ ..], [other, others @ ..]) if one == other => (here, there) = (ones, others),
                ([one, ones @ ..], [other, ..]) if one < other => {
                    turn.gone.push(one);
                    here = ones;
                }
                ([_, ..], [other, others @ ..]) => {
                    turn.new.push(other);
                    there = others;
                }
                (here, there) => {
                    turn.gone.extend(here);
                    turn.new.extend(there);
                    return turn;
                }
            }
        }
    }

    /// These with what elements of some endpoints are, in place of what they were; none if others have part in what is
    /// otherwise, or have to give way: who named an address or a port gets it from whom it was given to.
    pub fn turned(&self, was: &Self, is: &Self) -> Option<Self> {
        let own = |element: &Element| matches!(element, Element::Publish(_) | Element::Mac(..) | Element::Source(..));
        let Turn { gone: missing, new: others } = was.turn(self);
        let turn = was.turn(is);
        let seizes = |new: &Element| {
            let from = |other: &&Element| match (new, other) {
                (Element::Source(.., one), Element::Source(.., other)) => one == other,
                (Element::Publish(one), Element::Publish(other)) => {
                    one.protocol == other.protocol && one.ports.overlaps(other.ports)
                }
                _ => false,
            };
            others.iter().any(from)
        };
        // Which addresses loose ones have is told nowhere here.
        let loose = |element: &Element| matches!(element, Element::Loose(_));
        let apart = missing.is_empty()
            && !self.iter().chain(is.iter()).any(loose)
            && turn.gone.into_iter().all(own)
            && turn.new.into_iter().all(|new| own(new) && !seizes(new));
        apart.then(|| others.iter().copied().chain(is.iter()).cloned().collect())
    }

    /// The differences from what is there to this, as fields; a target that changed is one of them.
    pub fn changes(&self, observed: &Self) -> Vec<FieldChange> {
        let mut by_key: BTreeMap<Element, (Option<&Element>, Option<&Element>)> = BTreeMap::new();
        let Turn { gone, new } = observed.turn(self);
        for element in gone {
            by_key.entry(element.key()).or_default().0 = Some(element);
        }
        for element in new {
            by_key.entry(element.key()).or_default().1 = Some(element);
        }
        let text = |element: Option<&Element>| element.map(ToString::to_string).unwrap_or_default();
        let lone = by_key.iter().filter(|(key, _)| key.guarded().is_none());
        let mut changes: Vec<FieldChange> =
            lone.map(|(key, (from, to))| FieldChange::in_place(key.field(), text(*from), text(*to))).collect();
        // Of a port's guard the name is enough: what it may send from stands where its addresses do.
        let mut guards: BTreeMap<&Text, (bool, bool)> = BTreeMap::new();
        for (key, (from, to)) in &by_key {
            let Some(link) = key.guarded() else { continue };
            let (gone, new) = guards.entry(link).or_default();
            *gone |= from.is_some();
            *new |= to.is_some();
        }
        changes.extend(guards.into_iter().map(|(link, (gone, new))| {
            let shown = |there| if there { link.to_string() } else { String::new() };
            FieldChange::in_place("guard", shown(gone && !new), shown(new))
        }));
        changes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::model::kinds::firewall::Role;
    use crate::model::values::Mac;

    proptest! {
        #[test]
        fn what_goes_and_comes_is_what_the_other_has_not(was: BTreeSet<u8>, is: BTreeSet<u8>) {
            let element = |it: &u8| match it % 4 {
                0 => Element::Loose(it.to_string().into()),
                1 => Element::Mac(it.to_string().into(), Mac([*it; 6])),
                2 => Element::Source("p".into(), Mac([0; 6]), Ipv4Addr::new(10, 0, 0, *it).into()),
                _ => Element::Link(Role::ALL[usize::from(it / 32)], it.to_string().into()),
            };
            let all = |of: &BTreeSet<u8>| of.iter().map(element).collect::<Elements>();
            let (before, after) = (all(&was), all(&is));
            let turn = before.turn(&after);
            let only = |one: &BTreeSet<u8>, other| all(&one.difference(other).copied().collect());
            prop_assert!(turn.gone.into_iter().eq(only(&was, &is).iter()));
            prop_assert!(turn.new.into_iter().eq(only(&is, &was).iter()));
        }
    }
}
