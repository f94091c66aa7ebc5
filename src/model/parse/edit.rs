//! A file that is as it was read before but for a few tables in a row: those are read, and all others stay what they were,
//! further up or down.
//!
//! The edit is widened to the header of a named table at both ends, in text that is as it was. A file is cut at each such
//! header, whatever is above it, so all pieces around the edit are what they were, and say the same. Where what was there
//! and what is there now are pieces of named tables alone, and each can be read by itself, no string and no list goes on
//! beyond them, and no key that stands in no table came or went. Such a key may declare a section as well, but not one of
//! which a table stands under its own header.

use std::collections::BTreeMap;
use std::ops::Range;

use super::pieces::{self, Piece, Table, pieces};
use super::{Broken, Found, Named, check};
use crate::model::source::{Source, Span};
use crate::model::topology::{Item, Topology};

/// What the files say, if that is plainly so: one of them at most was edited. Nothing is found to be wrong here; whoever
/// reads all of it says what is.
pub(super) fn read(sources: &[Source], before: (&Topology, &[Source])) -> Option<Topology> {
    let topology = edited(sources, before)?;
    #[cfg(debug_assertions)]
    assert_eq!(format!("{topology:?}"), format!("{:?}", super::parse(sources).expect("what is plain is right")));
    Some(topology)
}

fn edited(sources: &[Source], before: (&Topology, &[Source])) -> Option<Topology> {
    let (topology, were) = before;
    if !sources.iter().map(|source| &source.path).eq(were.iter().map(|source| &source.path)) {
        return None;
    }
    let mut differ = (0..).zip(were.iter().zip(sources)).filter(|(_, (was, is))| was.text != is.text);
    let Some((file, (was, is))) = differ.next() else { return Some(topology.clone()) };
    if differ.next().is_some() {
        return None;
    }
    let edit = Edit::find(file, (&was.text, &is.text), topology)?;
    tables(&was.text, &edit.was)?;
    let mut found = Found::default();
    for (table, start, text) in tables(&is.text, &edit.is)? {
        let part = Span { file, start: start as u32, end: (start + text.len()) as u32 };
        found.table(table, text, part, Some(before))?;
    }
    let mut topology = topology.clone();
    // Keys of the whole file stand above all headers, and so above the edit.
    let Topology {
        name: _,
        named: _,
        allow_deletes: _,
        docker_user: _,
        networks,
        containers,
        endpoints,
        pools,
        policies,
        moved,
    } = &mut topology;
    edit.replace(networks, found.networks)?;
    edit.replace(containers, found.containers)?;
    edit.replace(endpoints, found.endpoints)?;
    edit.shift_all(pools);
    edit.shift_all(policies);
    edit.shift_all(moved);
    (!topology.is_empty() && check(&topology, &Broken::default()).is_empty()).then_some(topology)
}

/// What stands in place of what, from the beginning of the line of one header to that of another one.
struct Edit {
    file: u32,
    was: Range<usize>,
    is: Range<usize>,
}

impl Edit {
    fn find(file: u32, (was, is): (&str, &str), topology: &Topology) -> Option<Self> {
        fn places<T>(tables: &BTreeMap<String, Item<T>>, file: u32) -> impl Iterator<Item = (Span, Span)> {
            tables.values().filter(move |item| item.name.file == file).map(|item| (item.name, item.part))
        }
        let Topology { networks, containers, endpoints, .. } = topology;
        let tables = places(networks, file).chain(places(containers, file)).chain(places(endpoints, file));
        // A file that was not read in pieces has its tables in none.
        let name = |(name, part): (Span, Span)| (part.end > 0).then_some((name.start as usize, name.end as usize));
        let names: Vec<(usize, usize)> = tables.map(name).collect::<Option<_>>()?;
        let start = common(was.as_bytes(), is.as_bytes());
        let end = was.len() - common_end(&was.as_bytes()[start..], &is.as_bytes()[start..]);
        // Both headers are whole in what is as it was.
        let first = names.iter().filter(|(_, to)| to + "]".len() < start).max()?;
        let first = header(was, *first).filter(|line| line.end <= start)?;
        let second = match names.iter().filter(|(from, _)| *from > end).min() {
            Some(name) => header(was, *name).filter(|line| line.start >= end)?.start,
            None => was.len(),
        };
        let until = is.len() - (was.len() - second);
        let is_line = second == was.len() || is[..until].ends_with('\n');
        is_line.then_some(Self { file, was: first.start..second, is: first.start..until })
    }

    fn replace<T>(&self, tables: &mut BTreeMap<String, Item<T>>, new: Named<T>) -> Option<()> {
        // One that stands under its own header says that no key declares the section, now as before.
        let apart = |item: &Item<T>| item.part.file == self.file && item.name.start < item.part.start;
        if !new.is_empty() && !tables.values().any(apart) {
            return None;
        }
        tables.retain(|_, item| {
            let goes = item.name.file == self.file && self.was.contains(&(item.name.start as usize));
            self.shift_all([&mut *item]);
            !goes
        });
        new.into_iter().all(|(name, item)| tables.insert(name, item).is_none()).then_some(())
    }

    fn shift_all<'a, T: 'a>(&self, items: impl IntoIterator<Item = &'a mut Item<T>>) {
        for item in items {
            self.shift(&mut item.name);
            self.shift(&mut item.part);
        }
    }

    fn shift(&self, span: &mut Span) {
        if span.file == self.file && span.start as usize >= self.was.end {
            let shifted = |at: u32| (at as usize - self.was.end + self.is.end) as u32;
            (span.start, span.end) = (shifted(span.start), shifted(span.end));
        }
    }
}

/// Bytes that are compared at once: slices are compared many at a time, and what they give one by one is not.
const CHUNK: usize = 256;

/// How many bytes are the same at the start of both.
fn common(one: &[u8], other: &[u8]) -> usize {
    let chunks = one.chunks(CHUNK).zip(other.chunks(CHUNK)).take_while(|(one, other)| one == other);
    let whole: usize = chunks.map(|(chunk, _)| chunk.len()).sum();
    whole + one[whole..].iter().zip(&other[whole..]).take_while(|(one, other)| one == other).count()
}

/// How many bytes are the same at the end of both.
fn common_end(one: &[u8], other: &[u8]) -> usize {
    let chunks = one.rchunks(CHUNK).zip(other.rchunks(CHUNK)).take_while(|(one, other)| one == other);
    let whole: usize = chunks.map(|(chunk, _)| chunk.len()).sum();
    let (one, other) = (&one[..one.len() - whole], &other[..other.len() - whole]);
    whole + one.iter().rev().zip(other.iter().rev()).take_while(|(one, other)| one == other).count()
}

/// The tables of a part of a file, each with where its text begins and the text, if there is nothing else.
fn tables<'a>(text: &'a str, part: &Range<usize>) -> Option<Vec<(Table<'a>, usize, &'a str)>> {
    let beyond = |piece: &Piece| piece.table.is_some() || !piece.text.is_empty();
    let of = |piece: Piece<'a>| {
        let table = piece.table?;
        Some((Table { at: part.start + table.at, ..table }, part.start + piece.start, piece.text))
    };
    pieces(&text[part.clone()]).into_iter().filter(beyond).map(of).collect()
}

/// The line of the header of a table whose name is there, if that is a header.
fn header(text: &str, (from, to): (usize, usize)) -> Option<Range<usize>> {
    let start = text[..from].rfind('\n').map_or(0, |at| at + 1);
    let end = text[to..].find('\n').map_or(text.len(), |at| to + at + 1);
    let (_, table) = pieces::header(text, start)?;
    table.filter(|table| table.at == from).map(|_| start..end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::parse::parse;

    const TEXT: &str = "topology = \"shop\"
[networks.front]
driver = \"bridge\"
[containers.api]
netns = \"api\"
[containers.db]
netns = \"db\"
[endpoints.api]
container = \"api\"
network = \"front\"
[endpoints.db]
container = \"db\"
network = \"front\"
[[policies]]
action = \"deny\"
to = { endpoint = \"db\" }
";

    fn sources(text: &str) -> [Source; 2] {
        [
            Source::new("a.toml", "topology = \"shop\"\n[containers.more]\nnetns = \"more\"\n"),
            Source::new("b.toml", text),
        ]
    }

    /// What is said of an edit of the second of two files, if it is plain: in debug builds that is compared with what
    /// whoever reads all says.
    fn edited(before: &str, after: &str) -> Option<Topology> {
        let was = parse(&sources(before)).expect("right");
        let is = read(&sources(after), (&was, &sources(before)))?;
        let back = read(&sources(before), (&is, &sources(after))).expect("it is as plain the other way");
        assert_eq!(format!("{was:?}"), format!("{back:?}"));
        Some(is)
    }

    #[test]
    fn tables_come_go_and_are_other_ones() {
        let table = "[containers.new]\nnetns = \"new\"\n";
        for (was, is) in [
            ("[containers.db]\n", format!("{table}[containers.db]\n")),
            ("[endpoints.db]\n", format!("# new\n  {table}[endpoints.db]\n")),
            ("[containers.db]\nnetns = \"db\"\n", "[containers.db]\npid = 1\n".into()),
            ("netns = \"db\"\n", "netns = \"db\" # the\n\n".into()),
            ("[containers.api]\nnetns = \"api\"\n", "[containers.api]\n[containers.api.more]\n".into()),
            ("[containers.db]\nnetns = \"db\"\n[endpoints.api]", "[endpoints.api]".into()),
        ] {
            let after = TEXT.replace(was, &is);
            let right = parse(&[Source::new("b.toml", &*after)]).is_ok();
            assert_eq!(edited(TEXT, &after).is_some(), right, "{after}");
        }
        assert!(edited(TEXT, TEXT).is_some(), "nothing is otherwise");
    }

    #[test]
    fn what_is_not_plain_is_for_those_who_read_all() {
        for (was, is) in [
            ("topology = \"shop\"", "topology = \"other\""),
            ("action = \"deny\"", "action = \"allow\""),
            ("[endpoints.api]", "[containers.api]\nnetns = \"x\"\n[endpoints.api]"),
            ("[endpoints.api]", "[containers.more]\nnetns = \"x\"\n[endpoints.api]"),
            ("[endpoints.api]", "[[moved]]\nfrom = \"containers.x\"\nto = \"containers.db\"\n[endpoints.api]"),
            ("[endpoints.api]", "[containers.\"new\"]\nnetns = \"x\"\n[endpoints.api]"),
            ("[containers.db]\n", "[containers.db]\nwrong = 1\n"),
            ("[[policies]]\naction = \"deny\"\nto = { endpoint = \"db\" }\n", ""),
            ("netns = \"db\"\n[endpoints.api]", "netns = \"db\"[endpoints.api]"),
        ] {
            assert!(edited(TEXT, &TEXT.replace(was, is)).is_none(), "{is}");
        }
        // A section is declared in one way.
        let before = "containers.api.netns = \"api\"\n[networks.front]\ndriver = \"none\"\n";
        assert!(edited(before, &format!("{before}[containers.db]\nnetns = \"db\"\n")).is_none());
    }
    #[test]
    fn several_files_and_other_names_of_files_are_for_those_who_read_all() {
        let was = parse(&sources(TEXT)).expect("right");
        let [more, shop] = sources(&TEXT.replace("pid = 1", "pid = 2"));
        let other = Source::new("a.toml", "[containers.more]\nnetns = \"other\"\n");
        let edited = Source::new("b.toml", TEXT.replace("netns = \"db\"", "pid = 1"));
        let renamed = Source::new("c.toml", TEXT);
        for is in [[other, edited], [more.clone(), renamed], [shop, more]] {
            assert!(read(&is, (&was, &sources(TEXT))).is_none());
        }
    }

    fn tables() -> impl Strategy<Value = Vec<String>> {
        let name = || prop::sample::select(&["a", "b", "c", "d"][..]);
        let container = (name(), 0..3).prop_map(|(name, kind)| match kind {
            0 => format!("[containers.{name}]\nnetns = \"{name}\"\n\n"),
            1 => format!("  [containers.{name}] # \u{e9}\r\nnetns = \"\"\"{name}\"\"\"\r\n"),
            _ => format!("[containers.{name}]\nsysctls = {{ \"net.ipv4.ip_forward\" = 1 }}\nnetns = \"{name}\"\n"),
        });
        let network = (name(), any::<bool>()).prop_map(|(name, apart)| {
            let named = if apart { format!("[networks.{name}.bridge]\nname = \"br-{name}\"\n") } else { String::new() };
            format!("[networks.{name}]\ndriver = \"bridge\"\n{named}")
        });
        let other = prop::sample::select(
            &[
                "[pools]\nipv4 = [\"10.0.0.0/8\"]\n",
                "[[moved]]\nfrom = \"containers.z\"\nto = \"containers.a\"\n",
                "[[policies]]\naction = \"deny\"\nto = { network = \"a\" }\n",
                "# of the shop\n",
            ][..],
        );
        let other = other.prop_map(ToOwned::to_owned);
        prop::collection::vec(prop_oneof![4 => container, 2 => network, 1 => other], 2..8)
    }

    proptest! {
        /// Whatever tables come, go, and are other ones: what is plain is what whoever reads all says.
        #[test]
        fn an_edit_is_what_the_files_say(before in tables(), new in tables(), at in 0..8_usize, until in 0..8_usize) {
            let (at, until) = (at.min(before.len()), until.min(before.len()));
            let (at, until) = (at.min(until), at.max(until));
            let after = [&before[..at], &new[..new.len() - 2], &before[until..]].concat();
            for (before, after) in [(&before, &after), (&after, &before)] {
                let (before, after) = (sources(&before.concat()), sources(&after.concat()));
                if let Ok(was) = parse(&before) {
                    // Compared in there.
                    let plain = read(&after, (&was, &before)).is_some();
                    prop_assert!(!plain || parse(&after).is_ok());
                }
            }
        }
    }
}
