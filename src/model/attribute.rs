//! Netlink attributes (`struct nlattr`, linux/netlink.h): written as they are sent, read where they lie; and the comparison
//! of what was sent with what the kernel dumps.

/// Attribute header: length and kind, two bytes each.
const HEADER: usize = 4;
/// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER` are flags in the kind.
const KIND_MASK: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

/// `NFTA_LIST_ELEM` (`linux/netfilter/nf_tables.h`): what lists are nests of.
pub const LIST_ELEM: u16 = 1;

/// Attributes to be sent, one behind the other.
pub trait Put {
    /// Raw content.
    fn put(&mut self, kind: u16, content: &[u8]) -> &mut Self;
    /// A number in network order, as everywhere in nfnetlink.
    fn put_number(&mut self, kind: u16, number: u32) -> &mut Self;
    /// A string with its terminating NUL.
    fn put_text(&mut self, kind: u16, text: &str) -> &mut Self;
    /// A nest: of attributes of different kinds whose order says nothing, or of [elements](LIST_ELEM), whose order does.
    fn put_nest(&mut self, kind: u16, content: impl for<'a> FnOnce(&'a mut Self) -> &'a mut Self) -> &mut Self;
}

impl Put for Vec<u8> {
    fn put(&mut self, kind: u16, content: &[u8]) -> &mut Self {
        let length = HEADER + content.len();
        self.reserve(length.next_multiple_of(4));
        self.extend_from_slice(&header(length, kind));
        self.extend_from_slice(content);
        pad(self);
        self
    }

    fn put_number(&mut self, kind: u16, number: u32) -> &mut Self {
        self.put(kind, &number.to_be_bytes())
    }

    fn put_text(&mut self, kind: u16, text: &str) -> &mut Self {
        let length = HEADER + text.len() + 1;
        self.reserve(length.next_multiple_of(4));
        self.extend_from_slice(&header(length, kind));
        self.extend_from_slice(text.as_bytes());
        self.push(0);
        pad(self);
        self
    }

    fn put_nest(&mut self, kind: u16, content: impl for<'a> FnOnce(&'a mut Self) -> &'a mut Self) -> &mut Self {
        let start = self.len();
        self.extend_from_slice(&[0; HEADER]);
        content(self);
        let header = header(self.len() - start, kind | NESTED);
        self[start..start + HEADER].copy_from_slice(&header);
        pad(self);
        self
    }
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
    flagged(bytes).map(|(kind, content)| (kind & KIND_MASK, content))
}

fn flagged(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (kind, content, behind) = first(rest)?;
        rest = behind;
        Some((kind, content))
    })
}

/// The first attribute, its kind with flags, and what stands behind it.
fn first(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (length, kind) = head(bytes)?;
    let behind = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, &bytes[HEADER..length], behind))
}

/// Length, header included, and kind with flags of the first attribute, if all of it is there.
fn head(bytes: &[u8]) -> Option<(usize, u16)> {
    let [a, b, c, d] = *bytes.first_chunk::<HEADER>()?;
    let length = usize::from(u16::from_ne_bytes([a, b]));
    (HEADER..=bytes.len()).contains(&length).then_some((length, u16::from_ne_bytes([c, d])))
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
/// its own. No kind is there twice, but for elements of a list.
pub(super) fn agrees(sent: &[u8], dumped: &[u8], ignored: &[u16]) -> bool {
    let is_zero = |content: &[u8]| content.iter().all(|byte| *byte == 0);
    let added = |(kind, content): (u16, &[u8])| ignored.contains(&kind) || is_zero(content);
    // Mostly the kernel names them in the order in which they were sent: what is before the rest has been seen to.
    let mut rest = dumped;
    for (kind, content) in flagged(sent) {
        let own = kind & KIND_MASK;
        let found = loop {
            match first(rest) {
                Some((next, it, behind)) if next & KIND_MASK == own => {
                    rest = behind;
                    break Some(it);
                }
                Some((next, it, behind)) if added((next & KIND_MASK, it)) => rest = behind,
                _ => break None,
            }
        };
        let agreed = match found.or_else(|| get(dumped, own)) {
            Some(found) => same((kind, content), found),
            None => kind & NESTED == 0 && is_zero(content),
        };
        if !agreed {
            return false;
        }
    }
    walk(rest).all(|it| added(it) || get(sent, it.0).is_some())
}

/// Whether attributes were dumped just as they were sent, as they mostly are, but for the flags of nests. What is in a nest
/// stands right behind its header.
fn alike(sent: &[u8], dumped: &[u8]) -> bool {
    if sent.len() != dumped.len() {
        return false;
    }
    let mut at = 0;
    while at < sent.len() {
        let (Some((length, kind)), Some((dumped_length, dumped_kind))) = (head(&sent[at..]), head(&dumped[at..]))
        else {
            return false;
        };
        let end = if kind & NESTED == 0 { sent.len().min(at + length.next_multiple_of(4)) } else { at + HEADER };
        let same_head = length == dumped_length && kind & KIND_MASK == dumped_kind & KIND_MASK;
        if !same_head || sent[at + HEADER..end] != dumped[at + HEADER..end] {
            return false;
        }
        at = end;
    }
    true
}

fn same((kind, sent): (u16, &[u8]), dumped: &[u8]) -> bool {
    if kind & NESTED == 0 {
        return sent == dumped;
    }
    if alike(sent, dumped) {
        return true;
    }
    let mut inner = flagged(sent).peekable();
    if inner.peek().is_none_or(|(kind, _)| *kind != LIST_ELEM | NESTED) {
        return agrees(sent, dumped, &[]);
    }
    let mut found = walk(dumped);
    inner.all(|element| found.next().is_some_and(|(kind, content)| kind == LIST_ELEM && same(element, content)))
        && found.next().is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(numbers: &[u32]) -> Vec<u8> {
        let mut sample = Vec::new();
        sample.put_text(1, "table");
        sample.put_nest(4, |out| {
            numbers.iter().fold(out, |out, number| out.put_nest(LIST_ELEM, |out| out.put_number(2, *number)))
        });
        sample
    }

    #[test]
    fn what_is_sent_agrees_with_itself_and_with_defaults_added() {
        let sent = sample(&[7, 8]);
        let mut dump = sent.clone();
        assert!(agrees(&sent, &dump, &[]));
        dump.put_number(9, 0).put_number(3, 77);
        assert!(!agrees(&sent, &dump, &[]));
        assert!(agrees(&sent, &dump, &[3]));
        assert!(!agrees(&dump, &sent, &[]), "a number is not there");
        assert_eq!(text(&dump, 1), "table");
        assert!(is_text(&dump, 1, "table"));
        assert!(!is_text(&dump, 1, "tabl") && !is_text(&dump, 1, "table2") && !is_text(&dump, 2, ""));
    }

    #[test]
    fn every_difference_is_seen() {
        let sent = sample(&[7, 8]);
        for other in [&[7, 9][..], &[8, 7], &[7], &[7, 8, 8], &[]] {
            assert!(!agrees(&sent, &sample(other), &[]) && !agrees(&sample(other), &sent, &[]), "{other:?}");
        }
        let mut shorter = Vec::new();
        shorter.put_text(1, "table");
        assert!(!agrees(&sent, &shorter, &[]) && !agrees(&shorter, &sent, &[]));
    }

    #[test]
    fn the_order_of_different_attributes_says_nothing() {
        let nest = |kinds: [u16; 2]| {
            let mut out = Vec::new();
            out.put_nest(2, |out| out.put_number(kinds[0], 7).put_number(kinds[1], 7));
            out
        };
        assert!(agrees(&nest([1, 3]), &nest([3, 1]), &[]));
        assert!(!agrees(&nest([1, 3]), &nest([1, 4]), &[]));
    }

    /// The kind whose content is a nest; no kind is now this and now that.
    const NEST: u16 = 4;

    /// What stands under a kind: a number, or numbers in a nest.
    type Entry = (u16, Result<u32, Vec<(u16, u32)>>);

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let number = || prop_oneof![Just(0u32), Just(7)];
        let kinds = || Just((1..5u16).collect::<Vec<_>>()).prop_shuffle();
        let nest = (kinds(), prop::collection::vec(number(), 0..3)).prop_map(|(k, n)| k.into_iter().zip(n).collect());
        let content = (number(), nest).prop_map(|(number, nest)| (Ok(number), Err(nest)));
        (kinds(), prop::collection::vec(content, 0..5)).prop_map(|(kinds, contents)| {
            let typed = |(kind, (number, nest))| (kind, if kind == NEST { nest } else { number });
            kinds.into_iter().zip(contents).map(typed).collect()
        })
    }

    /// As Linux dumps rules: nests have no flag.
    fn unflagged(mut bytes: Vec<u8>) -> Vec<u8> {
        let mut at = 0;
        while let Some((length, kind)) = head(&bytes[at..]) {
            bytes[at + 2..at + HEADER].copy_from_slice(&(kind & KIND_MASK).to_ne_bytes());
            at += if kind & NESTED == 0 { length.next_multiple_of(4) } else { HEADER };
        }
        bytes
    }

    fn written(entries: &[Entry]) -> Vec<u8> {
        let mut out = Vec::new();
        for (kind, content) in entries {
            match content {
                Ok(number) => out.put_number(*kind, *number),
                Err(nest) => out
                    .put_nest(*kind, |out| nest.iter().fold(out, |out, (kind, number)| out.put_number(*kind, *number))),
            };
        }
        out
    }

    /// The definition, without regard to the order.
    fn by_definition(sent: &[Entry], dumped: &[Entry], ignored: &[u16]) -> bool {
        let flat =
            |entries: &[(u16, u32)]| entries.iter().map(|(kind, number)| (*kind, Ok(*number))).collect::<Vec<_>>();
        let is_zero = |content: &Result<u32, Vec<(u16, u32)>>| match content {
            Ok(number) => *number == 0,
            Err(nest) => nest.is_empty(),
        };
        let of =
            |entries: &[Entry], kind| entries.iter().find(|(it, _)| *it == kind).map(|(_, content)| content.clone());
        let there = sent.iter().all(|(kind, content)| match (content, of(dumped, *kind)) {
            (Ok(sent), Some(Ok(dumped))) => *sent == dumped,
            (Err(sent), Some(Err(dumped))) => by_definition(&flat(sent), &flat(&dumped), &[]),
            (content, None) => content == &Ok(0),
            _ => false,
        });
        let asked = |(kind, content): &Entry| ignored.contains(kind) || of(sent, *kind).is_some() || is_zero(content);
        there && dumped.iter().all(asked)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever the order.
        #[test]
        fn a_dump_agrees_as_it_is_defined((sent, other) in (entries(), entries()), (again, order) in (any::<bool>(), 1..5u16)) {
            let mut dumped = if again { sent.clone() } else { Vec::new() };
            for entry in other {
                if dumped.iter().all(|(kind, _)| *kind != entry.0) {
                    dumped.push(entry);
                }
            }
            if again {
                dumped.sort_by_key(|(kind, _)| kind * order % 5);
            }
            for ignored in [&[][..], &[2]] {
                let expected = by_definition(&sent, &dumped, ignored);
                prop_assert_eq!(agrees(&written(&sent), &written(&dumped), ignored), expected);
                prop_assert_eq!(agrees(&written(&sent), &unflagged(written(&dumped)), ignored), expected);
            }
        }
    }

    #[test]
    fn what_is_dumped_as_it_was_sent_is_seen_at_a_glance() {
        let sent = sample(&[7, 8]);
        let dumped = unflagged(sent.clone());
        assert!(sent != dumped && alike(&sent, &dumped) && alike(&sent, &sent));
        for at in 0..dumped.len() {
            let mut other = dumped.clone();
            other[at] ^= 1;
            assert!(!alike(&sent, &other), "byte {at}");
        }
        assert!(!alike(&sent, &dumped[..dumped.len() - 4]) && !alike(&sent[..4], &dumped[..8]));
    }

    #[test]
    fn broken_bytes_end_the_walk() {
        for broken in [&[0u8][..], &[0, 0, 0, 0], &[3, 0, 1, 0], &[200, 0, 1, 0, 1], &[255; 7]] {
            assert_eq!(walk(broken).count(), 0);
        }
    }
}
