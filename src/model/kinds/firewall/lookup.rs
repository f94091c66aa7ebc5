//! Elements of a set, found by key as the kernel finds them: whole keys, intervals, or intervals in every field of a
//! concatenation. Sorted by the field that tells them apart best, so that a set of thousands is not walked for each packet.

use std::ops::Range;

use super::definition::INTERVAL;
use super::elements::Element;
use super::wire::{self, Node};
use crate::model::attribute;

/// A set or map with its elements.
#[derive(Debug)]
pub(super) struct Set {
    /// Bytes of a key.
    pub(super) width: usize,
    fields: Vec<Range<usize>>,
    /// Which of the fields the entries are sorted by.
    by: usize,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    first: Vec<u8>,
    last: Vec<u8>,
    /// How far this one and those before it reach in the field that they are sorted by.
    reach: Vec<u8>,
    gives: Vec<u8>,
    element: Element,
}

impl Set {
    /// A set by the attributes of its definition.
    pub(super) fn new(definition: &[u8], elements: impl Iterator<Item = Element>) -> Self {
        let number = |bytes, kind| attribute::number(bytes, kind).unwrap_or_default() as usize;
        let width = number(definition, 5);
        let concatenated = attribute::get(definition, 9).and_then(|description| attribute::get(description, 2));
        let mut at = 0_usize;
        let mut place = |width: usize| {
            let place = at..at + width;
            at = place.end.next_multiple_of(4);
            place
        };
        let fields: Vec<Range<usize>> = match concatenated {
            Some(widths) => attribute::walk(widths).map(|(_, field)| place(number(field, 1))).collect(),
            None => vec![place(width)],
        };
        let interval = number(definition, 3) & INTERVAL as usize != 0;
        let mut entries: Vec<Entry> =
            elements.filter_map(|element| Entry::new(element, width, interval, fields.len() > 1)).collect();
        let tells = |field: &Range<usize>| {
            let mut firsts: Vec<&[u8]> = entries.iter().map(|entry| &entry.first[field.clone()]).collect();
            firsts.sort_unstable();
            firsts.dedup();
            firsts.len()
        };
        let by = (0..fields.len()).max_by_key(|field| tells(&fields[*field])).unwrap_or(0);
        let field = fields[by].clone();
        entries.sort_by(|a, b| a.first[field.clone()].cmp(&b.first[field.clone()]));
        let mut reach: Vec<u8> = Vec::new();
        for entry in &mut entries {
            reach = reach.max(entry.last[field.clone()].to_vec());
            entry.reach.clone_from(&reach);
        }
        Self { width, fields, by, entries }
    }

    /// The element that covers a key, and what it gives; sets give nothing.
    pub(super) fn find(&self, key: &[u8]) -> Option<(&Element, &[u8])> {
        let field = self.fields[self.by].clone();
        let begun = self.entries.partition_point(|entry| entry.first[field.clone()] <= key[field.clone()]);
        let mut near = self.entries[..begun].iter().rev().take_while(|entry| *entry.reach >= key[field.clone()]);
        let covers = |entry: &&Entry| {
            let mut fields = self.fields.iter().cloned();
            fields.all(|field| {
                entry.first[field.clone()] <= key[field.clone()] && key[field.clone()] <= entry.last[field]
            })
        };
        near.find(covers).map(|entry| (&entry.element, &*entry.gives))
    }
}

impl Entry {
    fn new(element: Element, width: usize, interval: bool, concatenated: bool) -> Option<Self> {
        let bytes = wire::nodes(&element);
        let mut nodes = attribute::walk(&bytes).filter_map(|(_, content)| Node::read(content));
        let (node, next) = (nodes.next()?, nodes.next());
        let first = node.key.get(..width)?.to_vec();
        let last = match (interval, concatenated) {
            (false, _) => first.clone(),
            (true, true) => node.last.unwrap_or(node.key).get(..width)?.to_vec(),
            (true, false) => next.map_or_else(|| vec![u8::MAX; width], |end| before(end.key)),
        };
        let gives = node.data.unwrap_or_default().to_vec();
        Some(Self { first, last, reach: Vec::new(), gives, element })
    }
}

/// The key before the one past an interval.
fn before(end: &[u8]) -> Vec<u8> {
    let mut last = end.to_vec();
    for byte in last.iter_mut().rev() {
        let (less, borrows) = byte.overflowing_sub(1);
        *byte = less;
        if !borrows {
            break;
        }
    }
    last
}
