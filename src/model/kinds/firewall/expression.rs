//! Expressions of rules (`NFTA_EXPR_*` in `linux/netfilter/nf_tables.h`), taken apart once: they are done for many packets.

use crate::model::attribute;

/// An expression with its attributes.
#[derive(Debug)]
pub(super) struct Expression {
    pub(super) name: String,
    /// Their contents by kind.
    attributes: Vec<Option<Vec<u8>>>,
}

impl Expression {
    /// Those of a rule, in order.
    pub(super) fn all(rule: &[u8]) -> Vec<Self> {
        attribute::walk(attribute::get(rule, 4).unwrap_or_default()).map(|(_, content)| Self::new(content)).collect()
    }

    fn new(bytes: &[u8]) -> Self {
        let mut attributes = Vec::new();
        for (kind, content) in attribute::walk(attribute::get(bytes, 2).unwrap_or_default()) {
            let kind = usize::from(kind);
            attributes.resize(attributes.len().max(kind + 1), None);
            attributes[kind] = Some(content.to_vec());
        }
        Self { name: attribute::text(bytes, 1).to_owned(), attributes }
    }

    fn get(&self, kind: usize) -> Option<&[u8]> {
        self.attributes.get(kind)?.as_deref()
    }

    pub(super) fn has(&self, kind: usize) -> bool {
        self.get(kind).is_some()
    }

    /// A number; 0 where there is none.
    pub(super) fn number(&self, kind: usize) -> u32 {
        self.get(kind).and_then(|content| content.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }

    /// A string; empty where there is none.
    pub(super) fn text(&self, kind: usize) -> &str {
        std::str::from_utf8(self.get(kind).unwrap_or_default()).unwrap_or_default().trim_end_matches('\0')
    }

    /// `NFTA_DATA_VALUE`.
    pub(super) fn value(&self, kind: usize) -> Option<&[u8]> {
        attribute::get(self.get(kind)?, 1)
    }

    /// `NFTA_DATA_VERDICT`.
    pub(super) fn verdict(&self, kind: usize) -> Option<&[u8]> {
        attribute::get(self.get(kind)?, 2)
    }
}
