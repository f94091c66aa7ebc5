//! Expressions of rules (`NFTA_EXPR_*` in `linux/netfilter/nf_tables.h`), taken apart once: they are done for many packets.

use crate::model::attribute;

/// An expression with its attributes, each as whatever it may be read as.
#[derive(Debug)]
pub(super) struct Expression {
    pub(super) name: String,
    /// By kind.
    attributes: Vec<Option<Attribute>>,
}

#[derive(Debug)]
struct Attribute {
    content: Vec<u8>,
    number: u32,
    text: String,
    value: Option<Vec<u8>>,
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
            attributes.resize_with(attributes.len().max(kind + 1), || None);
            attributes[kind] = Some(Attribute {
                content: content.to_vec(),
                number: content.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes)),
                text: std::str::from_utf8(content).unwrap_or_default().trim_end_matches('\0').to_owned(),
                value: attribute::get(content, 1).map(<[u8]>::to_vec),
            });
        }
        Self { name: attribute::text(bytes, 1).to_owned(), attributes }
    }

    fn get(&self, kind: usize) -> Option<&Attribute> {
        self.attributes.get(kind)?.as_ref()
    }

    pub(super) fn has(&self, kind: usize) -> bool {
        self.get(kind).is_some()
    }

    /// A number; 0 where there is none.
    pub(super) fn number(&self, kind: usize) -> u32 {
        self.get(kind).map_or(0, |attribute| attribute.number)
    }

    /// A string; empty where there is none.
    pub(super) fn text(&self, kind: usize) -> &str {
        self.get(kind).map_or("", |attribute| &attribute.text)
    }

    /// `NFTA_DATA_VALUE`.
    pub(super) fn value(&self, kind: usize) -> Option<&[u8]> {
        self.get(kind)?.value.as_deref()
    }

    /// `NFTA_DATA_VERDICT`.
    pub(super) fn verdict(&self, kind: usize) -> Option<&[u8]> {
        attribute::get(&self.get(kind)?.content, 2)
    }
}
