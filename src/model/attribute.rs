//! Netlink attributes (`struct nlattr`, linux/netlink.h): what the kernel dumps, read where it lies; a tree to be sent; and
//! the comparison of such a tree with a dump.

use smallvec::SmallVec;

/// Attribute header: length and kind, two bytes each.
const HEADER: usize = 4;
/// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER` are flags in the kind.
const KIND_MASK: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

/// One attribute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Attr {
    /// Its kind within its nest.
    kind: u16,
    value: Value,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Value {
    /// Mostly a number or a short name.
    Bytes(SmallVec<[u8; 16]>),
    /// Attributes of different kinds, whose order says nothing.
    Nest(Vec<Attr>),
    /// Attributes whose order and number count.
    List(Vec<Attr>),
}

impl Attr {
    /// Raw content.
    pub(super) fn bytes(kind: u16, bytes: impl AsRef<[u8]>) -> Self {
        Self { kind, value: Value::Bytes(SmallVec::from_slice(bytes.as_ref())) }
    }

    /// A number in network order, as everywhere in nfnetlink.
    pub(super) fn number(kind: u16, number: u32) -> Self {
        Self::bytes(kind, number.to_be_bytes())
    }

    /// A string with its terminating NUL.
    pub(super) fn text(kind: u16, text: &str) -> Self {
        let bytes = text.bytes().chain([0]).collect();
        Self { kind, value: Value::Bytes(bytes) }
    }

    /// A nest of attributes of different kinds.
    pub(super) fn nest(kind: u16, attributes: Vec<Self>) -> Self {
        Self { kind, value: Value::Nest(attributes) }
    }

    /// A nest in which order and number count.
    pub(super) fn list(kind: u16, attributes: Vec<Self>) -> Self {
        Self { kind, value: Value::List(attributes) }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match &self.value {
            Value::Bytes(bytes) => put(out, self.kind, bytes),
            Value::Nest(inner) | Value::List(inner) => {
                put_nest(out, self.kind, |out| inner.iter().for_each(|attr| attr.encode(out)));
            }
        }
    }
}

/// The attributes as they go over the wire.
pub(super) fn encode(attributes: &[Attr]) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    for attribute in attributes {
        attribute.encode(&mut out);
    }
    out
}

/// Writes one attribute straight to the wire: for elements, of which there are many.
pub(super) fn put(out: &mut Vec<u8>, kind: u16, content: &[u8]) {
    let length = HEADER + content.len();
    out.reserve(length.next_multiple_of(4));
    out.extend_from_slice(&header(length, kind));
    out.extend_from_slice(content);
    pad(out);
}

/// Writes a nest straight to the wire.
pub(super) fn put_nest(out: &mut Vec<u8>, kind: u16, content: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    content(out);
    let header = header(out.len() - start, kind | NESTED);
    out[start..start + HEADER].copy_from_slice(&header);
    pad(out);
}

fn header(length: usize, kind: u16) -> [u8; HEADER] {
    let ([a, b], [c, d]) = ((length as u16).to_ne_bytes(), kind.to_ne_bytes());
    [a, b, c, d]
}

fn pad(out: &mut Vec<u8>) {
    let padding = out.len().next_multiple_of(4) - out.len();
    out.extend_from_slice(&[0; 3][..padding]);
}

/// The attributes of a dump: kind (without the flags for nesting and byte order) and content. What cannot be an attribute
/// ends it: a kernel newer than this code may say more, never otherwise.
pub fn walk(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*rest.first()?, *rest.get(1)?]));
        let kind = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]) & KIND_MASK;
        let content = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, content))
    })
}

/// Content of the first attribute of that kind.
pub fn get(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    walk(bytes).find(|(found, _)| *found == kind).map(|(_, content)| content)
}

/// A number in network order, as everywhere in nfnetlink.
pub fn number(bytes: &[u8], kind: u16) -> Option<u32> {
    get(bytes, kind)?.first_chunk().map(|number| u32::from_be_bytes(*number))
}

/// A string attribute without its NUL; empty if it is missing or no UTF-8.
pub fn text(bytes: &[u8], kind: u16) -> &str {
    let content = get(bytes, kind).unwrap_or_default();
    let end = content.iter().position(|byte| *byte == 0).unwrap_or(content.len());
    std::str::from_utf8(&content[..end]).unwrap_or_default()
}

/// Whether a string attribute is that text.
pub(super) fn is_text(bytes: &[u8], kind: u16, text: &str) -> bool {
    get(bytes, kind).is_some_and(|content| content.strip_suffix(&[0]).unwrap_or(content) == text.as_bytes())
}

/// Whether a dump says what was sent: every attribute sent is there with the same content, and no other. Zero is how
/// defaults are written, and the kernel adds some and leaves others out; the `ignored` kinds (handles, use counters) are
/// its own.
pub(super) fn agrees(sent: &[Attr], dumped: &[u8], ignored: &[u16]) -> bool {
    let dumped: SmallVec<[(u16, &[u8]); 16]> = walk(dumped).collect();
    let all_there = sent.iter().all(|attr| {
        let found = dumped.iter().find(|(kind, _)| *kind == attr.kind);
        match (found, &attr.value) {
            (Some((_, content)), value) => same(value, content),
            (None, Value::Bytes(bytes)) => bytes.iter().all(|byte| *byte == 0),
            (None, _) => false,
        }
    });
    all_there
        && dumped.iter().all(|(kind, content)| {
            ignored.contains(kind)
                || sent.iter().any(|attr| attr.kind == *kind)
                || content.iter().all(|byte| *byte == 0)
        })
}

fn same(sent: &Value, dumped: &[u8]) -> bool {
    match sent {
        Value::Bytes(bytes) => **bytes == *dumped,
        Value::Nest(inner) => agrees(inner, dumped, &[]),
        Value::List(inner) => {
            let mut found = walk(dumped);
            let agree = inner.iter().all(|attr| {
                found.next().is_some_and(|(kind, content)| kind == attr.kind && same(&attr.value, content))
            });
            agree && found.next().is_none()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(last: u32) -> Vec<Attr> {
        vec![
            Attr::text(1, "table"),
            Attr::list(4, vec![Attr::nest(1, vec![Attr::number(1, 7)]), Attr::nest(1, vec![Attr::number(1, last)])]),
        ]
    }

    #[test]
    fn what_is_sent_agrees_with_itself_and_with_defaults_added() {
        let mut dump = encode(&sample(8));
        assert!(agrees(&sample(8), &dump, &[]));
        dump.extend(encode(&[Attr::number(9, 0), Attr::number(3, 77)]));
        assert!(!agrees(&sample(8), &dump, &[]));
        assert!(agrees(&sample(8), &dump, &[3]));
        assert_eq!(text(&dump, 1), "table");
        assert!(is_text(&dump, 1, "table"));
        assert!(!is_text(&dump, 1, "tabl") && !is_text(&dump, 1, "table2") && !is_text(&dump, 2, ""));
    }

    #[test]
    fn every_difference_is_seen() {
        let sent = sample(8);
        assert!(!agrees(&sent, &encode(&sample(9)), &[]));
        assert!(!agrees(&sent, &encode(&sent[..1]), &[]));
        assert!(!agrees(&sent[..1], &encode(&sent), &[]));
        let longer = vec![sent[0].clone(), Attr::list(4, vec![Attr::nest(1, vec![Attr::number(1, 7)]); 3])];
        assert!(!agrees(&sent, &encode(&longer), &[]));
    }

    #[test]
    fn broken_bytes_end_the_walk() {
        for broken in [&[0u8][..], &[0, 0, 0, 0], &[3, 0, 1, 0], &[200, 0, 1, 0, 1], &[255; 7]] {
            assert_eq!(walk(broken).count(), 0);
        }
    }
}
