//! A file that is as it was read before but for a few tables in a row: those are read, and all others stay what they were,
//! further up or down.

use std::collections::BTreeMap;
use std::ops::Range;

use super::pieces::{Piece, Table, pieces, table};
use super::{Broken, Found, Named, check};
use crate::model::source::{Source, Span};
use crate::model::topology::{Item, Topology};

/// What the files say, if that is plainly so: one of them at most was edited, between headers of named tables, where both
/// before and now named tables stand in pieces of their own. Nothing is found to be wrong here; whoever reads all of it
/// says what is.
pub(super) fn read(sources: &[Source], before: (&Topology, &[Source])) -> Option<Topology> {
    let (topology, were) = before;
    let paths = |sources: &[Source]| sources.iter().map(|source| source.path.clone()).collect::<Vec<_>>();
    if paths(sources) != paths(were) {
        return None;
    }
    let mut edited = (0..).zip(were.iter().zip(sources)).filter(|(_, (was, is))| was.text != is.text);
    let Some((file, (was, is))) = edited.next() else { return Some(topology.clone()) };
    let edit = Edit::find(file, (&was.text, &is.text), topology).filter(|_| edited.next().is_none())?;
    tables(&was.text, &edit.was)?;
    let mut found = Found::default();
    for (table, start, text) in tables(&is.text, &edit.is)? {
        let part = Span { file, start: start as u32, end: (start + text.len()) as u32 };
        found.table(table, text, part, Some(before))?;
    }
    let mut topology = topology.clone();
    edit.replace(&mut topology.networks, found.networks)?;
    edit.replace(&mut topology.containers, found.containers)?;
    edit.replace(&mut topology.endpoints, found.endpoints)?;
    let Topology { named, pools, policies, allow_deletes, docker_user, moved, .. } = &mut topology;
    if let Some(name) = named {
        edit.shift(name);
    }
    edit.shift_all(pools);
    edit.shift_all(policies);
    edit.shift_all(allow_deletes);
    edit.shift_all(docker_user);
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
        // Where one stands under a header, the section is declared in no other way.
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

/// Bytes that are compared at once.
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
    let header = text[start..].trim_start_matches([' ', '\t']).strip_prefix('[')?;
    table(header, text.len() - header.len()).filter(|table| table.at == from).map(|_| start..end)
}

#[cfg(test)]
mod tests {
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

    /// What is said of an edit of the second of two files, if it is plain; it is what whoever reads all says.
    fn edited(before: &str, after: &str) -> Option<Topology> {
        let sources =
            |text| [Source::new("a.toml", "[containers.more]\nnetns = \"more\"\n"), Source::new("b.toml", text)];
        let was = parse(&sources(before)).expect("right");
        let is = read(&sources(after), (&was, &sources(before)));
        if let Some(is) = &is {
            assert_eq!(format!("{is:?}"), format!("{:?}", parse(&sources(after)).expect("right")));
        }
        is
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
        ] {
            assert!(edited(TEXT, &TEXT.replace(was, is)).is_none(), "{is}");
        }
        // A section is declared in one way.
        let before = "containers.api.netns = \"api\"\n[networks.front]\ndriver = \"none\"\n";
        assert!(edited(before, &format!("{before}[containers.db]\nnetns = \"db\"\n")).is_none());
    }
}
