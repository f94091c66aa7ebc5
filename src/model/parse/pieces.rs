//! A file in pieces that can be read by themselves: the table of each network, container and endpoint, and what stands
//! between those. Read so, what the TOML parser works on stays in the processor's cache, however long the file is, and
//! a piece that is as it was when the file was read before need not be read again.
//!
//! Whatever is not plainly right is for those who read the file as a whole: a piece that cannot be read (as one that ends
//! within a string, a line of which looks like a header), and what is declared in several.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::{Found, Named};
use crate::model::source::{Source, Span};
use crate::model::topology::{File, Item, Topology};

/// What the file says, if each of its pieces says so by itself. What was read `before`, of whichever files, is taken from
/// there where the text is the same.
pub(super) fn read(file: u32, source: &Source, before: Option<(&Topology, &[Source])>) -> Option<Found> {
    let mut found = Found::default();
    // The sections that have tables in pieces of their own, and the keys that are in others: no list, and no table of
    // tables, can be declared in several.
    let (mut apart, mut keys) = (Vec::new(), Vec::new());
    for Piece { start, text, table } in pieces(&source.text) {
        let part = Span { file, start: start as u32, end: (start + text.len()) as u32 };
        if let Some(table) = table {
            if !apart.contains(&table.section) {
                apart.push(table.section);
            }
            found.table(table, text, part, before)?;
            continue;
        }
        let said: File = toml::from_str(text).ok()?;
        for (key, _) in said.keys().into_iter().filter(|(_, is)| *is) {
            if keys.contains(&key) {
                return None;
            }
            keys.push(key);
        }
        found.add(part, said);
    }
    let clash = keys.iter().any(|key| apart.contains(key));
    (!clash && sorted(&mut found.networks) && sorted(&mut found.containers) && sorted(&mut found.endpoints))
        .then_some(found)
}

/// Whether no two are of one name.
fn sorted<T>(tables: &mut Named<T>) -> bool {
    tables.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    tables.windows(2).all(|pair| pair[0].0 != pair[1].0)
}

impl Found {
    /// Takes a table of a piece of its own, if there is nothing else in that.
    pub(super) fn table(
        &mut self,
        table: Table,
        text: &str,
        part: Span,
        before: Option<(&Topology, &[Source])>,
    ) -> Option<()> {
        if self.again(table, text, part, before) {
            return Some(());
        }
        if table.is_plain {
            return self.plain(table, text, part);
        }
        let said: File = toml::from_str(text).ok()?;
        let alone = said.tables() == 1 && said.keys().into_iter().all(|(key, is)| is == (key == table.section));
        alone.then(|| self.add(part, said))
    }

    /// Takes a table from what was read before, if it was read from the same text.
    fn again(&mut self, table: Table, text: &str, part: Span, before: Option<(&Topology, &[Source])>) -> bool {
        fn take<T>(
            into: &mut Named<T>,
            from: &BTreeMap<String, Item<T>>,
            table: Table,
            part: Span,
            same: impl Fn(Span) -> bool,
        ) -> bool {
            // What is under a header says something else than the same text with none above it.
            let under = |item: &&Item<T>| (item.name.start < item.part.start) == table.is_plain;
            let item = from.get(table.name).filter(under).filter(|item| same(item.part));
            into.extend(item.map(|item| named(table, part, item.value.clone())));
            item.is_some()
        }
        let Some((topology, sources)) = before else { return false };
        let same = |of: Span| of.text(sources) == text;
        match table.section {
            "networks" => take(&mut self.networks, &topology.networks, table, part, same),
            "containers" => take(&mut self.containers, &topology.containers, table, part, same),
            _ => take(&mut self.endpoints, &topology.endpoints, table, part, same),
        }
    }

    /// Reads what stands under the header of a table.
    fn plain(&mut self, table: Table, text: &str, part: Span) -> Option<()> {
        fn read<T: DeserializeOwned>(into: &mut Named<T>, table: Table, text: &str, part: Span) -> Option<()> {
            into.push(named(table, part, Arc::new(toml::from_str(text).ok()?)));
            Some(())
        }
        match table.section {
            "networks" => read(&mut self.networks, table, text, part),
            "containers" => read(&mut self.containers, table, text, part),
            _ => read(&mut self.endpoints, table, text, part),
        }
    }
}

fn named<T>(table: Table, part: Span, value: Arc<T>) -> (String, Item<T>) {
    let (start, end) = (table.at as u32, (table.at + table.name.len()) as u32);
    (table.name.to_owned(), Item { value, part, name: Span { file: part.file, start, end } })
}

/// A part of a file: from the start of a line on, or from the end of the header of a plain table.
pub(super) struct Piece<'a> {
    pub(super) start: usize,
    pub(super) text: &'a str,
    /// The named table that it begins with the header of, or that is under such a header.
    pub(super) table: Option<Table<'a>>,
}

/// A named table, by its header.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    pub(super) section: &'a str,
    pub(super) name: &'a str,
    /// Where the name stands in the file.
    pub(super) at: usize,
    /// Whether there is no other header in its piece, and nothing but a comment in the rest of its line: what is under it
    /// is then read without it, which takes a quarter less.
    pub(super) is_plain: bool,
}

/// Cuts where a line is the header of a named table, and where it is another one after the end of such a table. Headers may
/// be indented: what begins with that of a table is that table and nothing else, or whoever takes it for known loses the
/// rest.
pub(super) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = vec![Piece { start: 0, text: "", table: None }];
    let lines = text.match_indices('\n').map(|(at, _)| at + 1);
    for at in std::iter::once(0).chain(lines) {
        let Some((header, table)) = header(text, at) else { continue };
        let last = pieces.last_mut().expect("there is one");
        let is_part = |last: &Table| {
            let path = header.trim_start_matches('[').strip_prefix(last.section)?.strip_prefix('.')?;
            path.strip_prefix(last.name)?.starts_with('.').then_some(())
        };
        match &mut last.table {
            Some(last) if table.is_none() && is_part(last).is_some() => last.is_plain = false,
            None if table.is_none() => {}
            _ => pieces.push(Piece { start: at, text: "", table }),
        }
    }
    let mut end = text.len();
    for piece in pieces.iter_mut().rev() {
        let start = piece.start;
        if let Some(Table { name, at, is_plain: true, .. }) = piece.table {
            piece.start = at + name.len() + "]".len();
        }
        piece.text = &text[piece.start..end];
        end = start;
    }
    pieces
}

/// The header that a line begins with, without its first bracket, and the named table that it is of, if it is of one.
pub(super) fn header(text: &str, line: usize) -> Option<(&str, Option<Table<'_>>)> {
    let header = text[line..].trim_start_matches([' ', '\t']).strip_prefix('[')?;
    Some((header, table(header, text.len() - header.len())))
}

/// The table that a header names, without its first bracket, if it is written in the usual way; and where that stands.
fn table(header: &str, at: usize) -> Option<Table<'_>> {
    let (section, rest) = header.split_once('.').filter(|(section, _)| super::SECTIONS.contains(section))?;
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let end = rest.bytes().position(|byte| !bare(byte))?;
    let (name, rest) = rest.split_at(end);
    let rest = rest.strip_prefix(']')?.trim_start_matches([' ', '\t']);
    let is_plain = ["\n", "\r\n", "#"].iter().any(|next| rest.starts_with(next));
    (end > 0).then(|| Table { section, name, at: at + section.len() + ".".len(), is_plain })
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use proptest::prelude::*;

    use super::*;
    use crate::model::parse::{parse, parse_again, whole};

    const TEXT: &str = r#"topology = "shop"
docker_user = false
[pools]
ipv4 = ["10.0.0.0/8"]
[networks.front]
driver = "bridge"
subnets = ["10.10.0.0/24"]
bridge = { name = "br-front" }
# of the shop
[networks.back]
driver = "bridge"
[networks.back.bridge]
name = "br-back"

[containers.api]
netns = "api"
[endpoints.api-front]
container = "api"
network = "front"
addresses = [
  "10.10.0.10",
]
publish = ["8080:80", "127.0.0.1:5353:53/udp"]
[[endpoints.api-front.routes]]
to = "192.0.2.0/24"
[endpoints.api-back]
container = "api"
network = "back"
[[policies]]
action = "deny"
to = { endpoint = "api-back" }
[[policies]]
action = "allow"
from = { network = "front" }
[[moved]]
from = "networks.rear"
to = "networks.back"
"#;

    /// Pieces of such files, to be put anywhere.
    const SCRAPS: [&str; 15] = [
        "[endpoints.api-back]\n",
        "[endpoints]\n",
        "endpoints = {}\n",
        "[networks.front.bridge]\n",
        "[[endpoints.api-front.routes]]\n",
        "[[policies]]\n",
        "policies = []\n",
        "[pools]\n",
        "topology = \"shop\"\n",
        "  [networks.third]\ndriver = \"none\"\n",
        "[containers.\"api\"]\nnetns = \"x\"\n",
        "[containers.db]# of the shop\nnetns = \"db\"\n",
        "[containers.db]\t\r\nnetns = \"db\"\r\n",
        "[containers.db] netns = \"db\"\n",
        "\"\"\"\n",
    ];

    /// What was found, with the places that are meant.
    fn places(found: &Found) -> Vec<String> {
        fn item<T: Debug>(name: &str, item: &Item<T>) -> String {
            let said = format!("{:?}", item.value);
            let mut parts = said.split("span: ");
            let mut text = format!("{name} {:?} {}", item.name, parts.next().unwrap_or_default());
            for part in parts {
                let (range, rest) = part.split_once(',').expect("a range and more");
                let (start, end) = range.split_once("..").expect("a range");
                let of = |at: &str| item.part.start + at.parse::<u32>().expect("a number");
                text += &format!("{}..{},{rest}", of(start), of(end));
            }
            text
        }
        fn all<T: Debug>(items: &[Item<T>]) -> impl Iterator<Item = String> {
            items.iter().map(|it| item("", it))
        }
        fn named<T: Debug>(items: &Named<T>) -> impl Iterator<Item = String> {
            items.iter().map(|(name, it)| item(name, it))
        }
        let once = [format!("{:?}", found.topology)].into_iter();
        let once = once.chain(found.pools.iter().map(|it| item("", it)));
        let once = once.chain(found.allow_deletes.iter().map(|it| item("", it)));
        let once = once.chain(found.docker_user.iter().map(|it| item("", it)));
        let lists = all(&found.moved).chain(all(&found.policies));
        let tables = named(&found.networks).chain(named(&found.containers)).chain(named(&found.endpoints));
        once.chain(lists).chain(tables).collect()
    }

    fn mangled(edits: &[(usize, usize, String)]) -> Source {
        let mut text = TEXT.to_owned();
        for (at, cut, put) in edits {
            let at = (*at).min(text.len());
            let end = (at + cut).min(text.len());
            text.replace_range(at..end, put);
        }
        Source::new("shop.toml", text)
    }

    fn edits() -> impl Strategy<Value = Vec<(usize, usize, String)>> {
        let starts: Vec<usize> = TEXT.match_indices('\n').map(|(at, _)| at + 1).collect();
        let anywhere = (0..TEXT.len(), 0..8_usize, "[\\[\\]{}\"=.,:/a-z0-9\n -]{0,3}");
        let scrap = (proptest::sample::select(starts), Just(0), proptest::sample::select(&SCRAPS[..]));
        let scrap = scrap.prop_map(|(at, cut, put)| (at, cut, put.to_owned()));
        prop::collection::vec(prop_oneof![anywhere, scrap], 0..3)
    }

    proptest! {
        /// Pieces say what the whole file says, or nothing.
        #[test]
        fn what_is_read_in_pieces_is_what_the_file_says(edits in edits()) {
            let source = mangled(&edits);
            if let Some(found) = read(0, &source, None) {
                let whole = whole(0, &source).expect("the file is right");
                prop_assert_eq!(places(&found), places(&whole), "{}", source.text);
            }
        }

        /// Whatever was read before, what is said of a file and where is the same.
        #[test]
        fn what_was_read_before_makes_no_difference(before in edits(), after in edits()) {
            let more = || Source::new("more.toml", "[containers.db]\nnetns = \"db\"\n");
            let (before, after) = ([mangled(&before), more()], [mangled(&after), more()]);
            if let Ok(topology) = parse(&before) {
                let again = read(0, &after[0], Some((&topology, &before)));
                prop_assert_eq!(again.as_ref().map(places), read(0, &after[0], None).as_ref().map(places));
                let said = |topology| format!("{topology:?}");
                let again = parse_again(&after, Some((&topology, &before)));
                prop_assert_eq!(again.map(said), parse(&after).map(said));
            }
        }
    }

    #[test]
    fn a_header_that_is_indented_begins_a_piece_as_well() {
        let text = "[networks.front]\ndriver = \"none\"\n  [networks.back]\n  driver = \"none\"\n";
        let sources = [Source::new("shop.toml", text)];
        let was = parse(&sources).expect("right");
        let is = parse_again(&sources, Some((&was, &sources))).expect("right");
        assert_eq!(is.networks.keys().collect::<Vec<_>>(), ["back", "front"]);
    }

    /// Each piece of these is right by itself.
    #[test]
    fn what_is_declared_in_several_pieces_is_for_those_who_read_the_whole() {
        for text in [
            "endpoints = {}\n[endpoints.api]\ncontainer = \"api\"\nnetwork = \"front\"\n",
            "[networks.front]\ndriver = \"none\"\n[networks.front]\ndriver = \"none\"\n",
            "[pools]\n[networks.front]\ndriver = \"none\"\n[pools]\n",
            "policies = []\n[networks.front]\ndriver = \"none\"\n[[policies]]\naction = \"deny\"\n",
        ] {
            let source = Source::new("shop.toml", text);
            assert!(read(0, &source, None).is_none() && whole(0, &source).is_none(), "{text}");
        }
    }

    #[test]
    fn nothing_but_a_comment_follows_a_header_in_its_line() {
        for (text, tables) in [
            ("[containers.db]\t# of the shop\nnetns = \"db\"\n", Some(1)),
            ("[containers.db]\r\nnetns = \"db\"\r\n", Some(1)),
            ("[containers.db]", Some(1)),
            ("[containers.db] netns = \"db\"\n", None),
        ] {
            let source = Source::new("shop.toml", text);
            let count = |found: Option<Found>| found.map(|found| found.containers.len());
            assert_eq!((count(read(0, &source, None)), count(whole(0, &source))), (tables, tables), "{text}");
        }
    }

    #[test]
    fn what_is_written_as_before_is_shared() {
        let before = [mangled(&[])];
        let after = [Source::new("shop.toml", before[0].text.replace("8080:80", "8081:80"))];
        let was = parse(&before).expect("right");
        let is = parse_again(&after, Some((&was, &before))).expect("right");
        let shared: Vec<&str> = was
            .endpoints
            .iter()
            .filter(|(name, item)| std::sync::Arc::ptr_eq(&item.value, &is.endpoints[*name].value))
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(shared, ["api-back"]);
        assert!(std::sync::Arc::ptr_eq(&was.containers["api"].value, &is.containers["api"].value));
    }

    /// No line but the first is seen to be a header, so that the file is one piece, which is not right by itself.
    #[test]
    fn a_table_that_was_read_with_others_is_read_again() {
        let text = "[networks.front]\ndriver = \"bridge\"\n  [containers.api]\n  netns = \"api\"\n";
        let before = [Source::new("shop.toml", text)];
        let was = parse(&before).expect("right");
        for after in [text.to_owned(), format!("{text}[containers.db]\nnetns = \"db\"\n")] {
            let is = parse_again(&[Source::new("shop.toml", after)], Some((&was, &before))).expect("right");
            assert!(is.containers.contains_key("api"));
        }
    }

    #[test]
    fn what_was_before_all_headers_is_not_what_is_under_one() {
        let before = [Source::new("shop.toml", "# of the shop\ntopology = \"shop\"\ncontainers.db.netns = \"db\"\n")];
        let was = parse(&before).expect("right");
        let after = [Source::new("shop.toml", format!("[containers.db]{}", before[0].text))];
        let said = |topology| format!("{topology:?}");
        assert_eq!(parse_again(&after, Some((&was, &before))).map(said), parse(&after).map(said));
    }

    #[test]
    fn pieces_are_what_the_whole_is() {
        for text in [
            "\u{feff}[containers.db]\nnetns = \"db\"\n",
            "\u{feff}\n[containers.db]\nnetns = \"db\"\n",
            "[containers.db]\n\u{feff}netns = \"db\"\n",
            "[containers.db]\u{feff}\nnetns = \"db\"\n",
            "[containers.db]\rnetns = \"db\"\n",
            "[containers.db]\r\nnetns = \"db\"\r\n[containers.x]\r\n\tnetns=\"x\"",
            "[containers.db]# \u{1} c\nnetns = \"db\"\n",
            "[containers.db]# c\rnetns = \"db\"\n",
            "[containers.db]\ncontainers.x.netns = \"db\"\n",
            "[networks.a]\ndriver = \"bridge\"\nbridge.name = \"x\"\n",
            "[networks.a]\ndriver = \"bridge\"\nbridge.name = \"x\"\n[networks.a.bridge]\nmtu = 1\n",
            "[networks.a]\ndriver = \"bridge\"\n[networks.b]\ndriver=\"none\"\n[networks.a.bridge]\nname=\"x\"\n",
            "[networks.a]\ndriver = \"\"\"\nbridge\"\"\"\n",
            "[networks.a]\ndriver = \"\"\"\n[networks.b]\n\"\"\"\n[networks.c]\ndriver=\"none\"\n",
            "[networks.a]\nsubnets = [\n[networks.b]\n]\n",
            "[networks.a]\nsubnets = [ # [\n  \"10.0.0.0/24\", # ]\n]\n",
            "[networks.a.bridge]\nname = \"x\"\n[networks.a]\ndriver = \"bridge\"\n",
            "[networks]\na = { driver = \"none\" }\n[networks.b]\ndriver = \"none\"\n",
            "[networks.b]\ndriver = \"none\"\n[networks]\na = { driver = \"none\" }\n",
            "[networks.b]\ndriver = \"none\"\ndriver = \"none\"\n",
            "networks.a.driver = \"none\"\n[networks.b]\ndriver = \"none\"\n",
            "[networks.a]\n[[networks.a]]\n",
            "[[networks.a]]\n",
            "[networks.a]\ndriver = \"none\"\n[ networks . b ]\ndriver = \"none\"\n",
            "[networks.a] [networks.b]\n",
            "[networks.a]\n  \t[networks.b]\ndriver=\"none\"",
            "[networks.a]\ndriver={}\n",
            "[networks.1]\ndriver=\"none\"\n[networks.-]\ndriver=\"none\"\n",
            "[containers.a]\n[containers.b]\nnetns=\"b\"\n",
            "[containers.db]\nnetns = \"db\" \u{0}\n",
            "[networks.a]\ndriver = \"bridge\"\nbridge = {\n name = \"x\",\n}\n",
            "[endpoints.a]\ncontainer=\"c\"\nnetwork=\"n\"\nroutes=[{to=\"1.0.0.0/8\"}]\n[[endpoints.a.routes]]\nto=\"2.0.0.0/8\"\n",
            "[endpoints.a]\ncontainer=\"c\"\nnetwork=\"n\"\n[endpoints.b]\ncontainer=\"c\"\nnetwork=\"n\"\n[[endpoints.a.routes]]\nto=\"2.0.0.0/8\"\n",
        ] {
            let source = Source::new("shop.toml", text);
            let (pieces, all) = (read(0, &source, None), whole(0, &source));
            if let Some(found) = pieces {
                assert_eq!(Some(places(&found)), all.as_ref().map(places), "{text:?}");
            }
        }
    }
}
