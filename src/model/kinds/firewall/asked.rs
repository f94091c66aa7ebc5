//! What is asked of the kernel once elements were changed: each that came and each that went, by its key. If nobody else has
//! written, all others are as they were, and need not be read again.

use std::collections::BTreeSet;

use super::flows;
use super::wire::{self, Node};
use super::{Element, Firewall, Rules, Turn};
use crate::model::attribute::{get, walk};
use crate::model::wire::NftMessage;

/// More elements than that are read with all others.
const ELEMENTS: usize = 64;

/// One element that came or went.
#[derive(Debug)]
pub struct Asked {
    /// The question.
    pub question: NftMessage,
    /// What the key and what it gives must be; none: no such key.
    answer: Option<Vec<u8>>,
}

impl Asked {
    /// What is asked after an [update](super::Op::Update); none where that takes more than asking for some keys.
    pub fn after(from: &Firewall, to: &Firewall) -> Option<Vec<Self>> {
        let turn = from.elements.turn(&to.elements);
        let forgotten = flows::forgotten(&flows::stale(Some(from), &to.elements, &turn));
        let Turn { mut gone, new } = turn;
        let keys: BTreeSet<Element> = new.iter().map(|element| element.key()).collect();
        // What was noted before is noted again, and then forgotten.
        gone.retain(|element| !matches!(element, Element::Stale(_)) && !keys.contains(&element.key()));
        let shaped = from.rules == Rules::Intact && from.uses == to.uses;
        let plain = shaped && new.iter().chain(&gone).all(|element| element.has_key());
        let few = new.len() + gone.len() <= ELEMENTS;
        let there = new.into_iter().chain(forgotten.iter()).map(|element| (element, Some(wire::nodes(element))));
        let all = there.chain(gone.into_iter().map(|element| (element, None)));
        let ask = |(element, answer)| {
            let question = wire::messages(&to.table, wire::GET_ELEMENTS, 0, std::iter::once(element)).pop()?;
            Some(Self { question, answer })
        };
        if plain && few { all.map(ask).collect() } else { None }
    }

    /// Whether that is what the kernel says.
    pub fn agrees(&self, answer: Option<&[u8]>) -> bool {
        let nodes = |nodes| walk(nodes).map(|(_, node)| Node::read(node)).collect::<Option<Vec<Node>>>();
        match (&self.answer, answer.map(|list| get(list, 3).unwrap_or_default())) {
            (Some(wanted), Some(found)) => nodes(found).is_some_and(|found| nodes(wanted) == Some(found)),
            (wanted, found) => wanted.is_none() && found.is_none(),
        }
    }
}
