//! From text to [`Topology`]: what right files say, or all that is wrong with them at once.
//!
//! A right file is read by serde, in pieces where it can be, or in one go. Of a wrong one every named table is read by
//! itself; what serde refuses is noted and taken out, and the table is read again, so that one wrong key does not hide the
//! next.

mod edit;
mod pieces;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::de::{DeserializeOwned, IntoDeserializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

use super::check::check;
use super::diagnostic::{Diagnostic, Diagnostics};
use super::source::{Source, Span};
use super::topology::{Container, Endpoint, File, Item, Moved, Network, Policy, Pools, Tables, Topology};

/// Findings in one named table at most.
const FINDINGS: usize = 100;

/// Tables that were refused: they are there, but how they go with others cannot be said.
#[derive(Default, Debug)]
pub struct Broken {
    names: BTreeSet<(&'static str, String)>,
    /// What is left of networks without what was found to be wrong: its values can be judged one by one.
    pub networks: Vec<Item<Network>>,
    /// Likewise.
    pub containers: Vec<Item<Container>>,
    /// Likewise.
    pub endpoints: Vec<Item<Endpoint>>,
}

impl Broken {
    /// Whether a table of that kind and name is there and wrong.
    pub fn has(&self, table: &'static str, name: &str) -> bool {
        self.names.contains(&(table, name.to_owned()))
    }
}

/// Reads the files of one topology and checks its rules: whoever holds a topology holds one that is right in itself.
///
/// # Errors
///
/// All that is wrong: in the TOML, in its tables, and between those tables that could be read.
pub fn parse(sources: &[Source]) -> Result<Topology, Diagnostics> {
    parse_again(sources, None)
}

/// The same, where something like it was read before: what is written as it was is shared.
///
/// # Errors
///
/// See [`parse`].
pub fn parse_again(sources: &[Source], before: Option<(&Topology, &[Source])>) -> Result<Topology, Diagnostics> {
    if let Some(topology) = before.and_then(|before| edit::read(sources, before)) {
        return Ok(topology);
    }
    let mut merge = Merge::default();
    for (file, source) in (0..).zip(sources) {
        match pieces::read(file, source, before).or_else(|| whole(file, source)) {
            Some(found) => merge.file(found),
            None => merge.damaged(file, source),
        }
    }
    merge.finish(sources)
}

/// What the file says, if all of it is right.
fn whole(file: u32, source: &Source) -> Option<Found> {
    let said: File = toml::from_str(&source.text).ok()?;
    let mut found = Found::default();
    found.add(all(file), said);
    Some(found)
}

/// No piece of the file, but all of it: as an empty part, it is never found to be one that was read before.
const fn all(file: u32) -> Span {
    Span { file, start: 0, end: 0 }
}

/// The sections of a file that hold named tables.
const SECTIONS: [&str; 3] = ["networks", "containers", "endpoints"];

/// Named tables; of one file none twice.
type Named<T> = Vec<(String, Item<T>)>;

/// What a file says, each with its place.
#[derive(Default, Debug)]
struct Found {
    topology: Option<(String, Span)>,
    pools: Option<Item<Pools>>,
    allow_deletes: Option<Item<u32>>,
    docker_user: Option<Item<bool>>,
    moved: Vec<Item<Moved>>,
    networks: Named<Network>,
    containers: Named<Container>,
    endpoints: Named<Endpoint>,
    policies: Vec<Item<Policy>>,
}

impl Found {
    /// Takes what that part of a file says.
    fn add(&mut self, part: Span, said: File) {
        fn item<T>(part: Span, value: Spanned<T>) -> Item<T> {
            let name = part.at(value.span());
            Item { value: Arc::new(value.into_inner()), part, name }
        }
        fn named<T>(part: Span, tables: Option<Tables<T>>) -> impl Iterator<Item = (String, Item<T>)> {
            let named = move |(name, value): (Spanned<String>, T)| {
                let place = part.at(name.span());
                (name.into_inner(), Item { value: Arc::new(value), part, name: place })
            };
            tables.into_iter().flatten().map(named)
        }
        let name = said.topology.map(|name| (part.at(name.span()), name.into_inner()));
        self.topology = name.map(|(span, name)| (name, span)).or(self.topology.take());
        self.pools = said.pools.map(|pools| item(part, pools)).or(self.pools.take());
        self.allow_deletes = said.allow_deletes.map(|number| item(part, number)).or(self.allow_deletes.take());
        self.docker_user = said.docker_user.map(|on| item(part, on)).or(self.docker_user.take());
        self.moved.extend(said.moved.into_iter().flatten().map(|moved| item(part, moved)));
        self.policies.extend(said.policies.into_iter().flatten().map(|policy| item(part, policy)));
        self.networks.extend(named(part, said.networks));
        self.containers.extend(named(part, said.containers));
        self.endpoints.extend(named(part, said.endpoints));
    }
}

#[derive(Default)]
struct Merge {
    topology: Topology,
    named: Option<(String, Span)>,
    findings: Vec<Diagnostic>,
    broken: Broken,
}

/// Puts a file's tables among those of the files before.
fn merge<T>(word: &str, into: &mut BTreeMap<String, Item<T>>, from: Named<T>, findings: &mut Vec<Diagnostic>) {
    let new = from.into_iter().filter(|(name, item)| {
        let Some(other) = into.get(name) else { return true };
        let finding = Diagnostic::at(item.name, format!("{word} `{name}` is declared twice")).label("again here");
        findings.push(finding.related(other.name, "first here"));
        false
    });
    let mut new = new.collect();
    into.append(&mut new);
}

/// Takes what all files together may say once.
fn once<T>(key: &str, into: &mut Option<Item<T>>, value: Option<Item<T>>, findings: &mut Vec<Diagnostic>) {
    match (&into, value) {
        (Some(other), Some(value)) => {
            let finding = Diagnostic::at(value.name, format!("`{key}` is there twice")).label("again here");
            findings.push(finding.related(other.name, "first here"));
        }
        (None, Some(value)) => *into = Some(value),
        (_, None) => {}
    }
}

impl Merge {
    fn file(&mut self, found: Found) {
        if let Some((name, span)) = found.topology {
            self.name(&name, span);
        }
        let Self { topology, findings, .. } = self;
        once("pools", &mut topology.pools, found.pools, findings);
        once("allow_deletes", &mut topology.allow_deletes, found.allow_deletes, findings);
        once("docker_user", &mut topology.docker_user, found.docker_user, findings);
        topology.moved.extend(found.moved);
        merge("network", &mut topology.networks, found.networks, findings);
        merge("container", &mut topology.containers, found.containers, findings);
        merge("endpoint", &mut topology.endpoints, found.endpoints, findings);
        topology.policies.extend(found.policies);
    }

    fn name(&mut self, name: &str, span: Span) {
        match &self.named {
            None => self.named = Some((name.to_owned(), span)),
            Some((other, first)) if other != name => self.findings.push(
                Diagnostic::at(span, format!("two names for one topology: `{other}` and `{name}`"))
                    .label("another name")
                    .related(*first, "first here")
                    .hint("several files given together make one topology: name it once"),
            ),
            Some(_) => {}
        }
    }

    /// Reads what can be read of a file that is not right.
    fn damaged(&mut self, file: u32, source: &Source) {
        let (table, errors) = DeTable::parse_recoverable(&source.text);
        // One slip confuses the rest of its line.
        let mut line = None;
        for error in &errors {
            let range = error.span().unwrap_or_default();
            let of = source.text[..range.start.min(source.text.len())].matches('\n').count();
            if line.replace(of) != Some(of) {
                let finding = Diagnostic::at(all(file).at(range), error.message().replace('\n', ", "));
                self.findings.push(finding.label("not TOML"));
            }
        }
        let mut found = File::default();
        let mut left = Broken::default();
        for (key, value) in table.into_inner() {
            match &**key.get_ref() {
                "topology" => found.topology = self.value("topology", (file, source), value).ok(),
                "pools" => found.pools = self.value("pools", (file, source), value).ok(),
                "allow_deletes" => {
                    found.allow_deletes = self.value("allow_deletes", (file, source), value).ok();
                }
                "docker_user" => found.docker_user = self.value("docker_user", (file, source), value).ok(),
                "moved" => found.moved = Some(self.list("moved", (file, source), value)),
                "networks" => {
                    (found.networks, left.networks) = self.tables("networks", (file, source), value);
                }
                "containers" => {
                    (found.containers, left.containers) = self.tables("containers", (file, source), value);
                }
                "endpoints" => {
                    (found.endpoints, left.endpoints) = self.tables("endpoints", (file, source), value);
                }
                "policies" => found.policies = Some(self.list("policies", (file, source), value)),
                _ if !errors.is_empty() => {}
                unknown => {
                    let known = found.keys().map(|(key, _)| key);
                    let finding = Diagnostic::at(all(file).at(key.span()), format!("unknown key `{unknown}`"));
                    self.findings.push(finding.label("not a key of a topology").nearest(unknown, known));
                }
            }
        }
        if errors.is_empty() {
            self.broken.networks.extend(left.networks);
            self.broken.containers.extend(left.containers);
            self.broken.endpoints.extend(left.endpoints);
        } else {
            // What a torn file seems to say is not worth complaints; its names are known all the same.
            let broken = &mut self.broken.names;
            broken.extend(found.networks.into_iter().flatten().map(|(name, _)| ("networks", name.into_inner())));
            broken.extend(found.containers.into_iter().flatten().map(|(name, _)| ("containers", name.into_inner())));
            broken.extend(found.endpoints.into_iter().flatten().map(|(name, _)| ("endpoints", name.into_inner())));
            found = File { topology: found.topology, ..File::default() };
        }
        let mut placed = Found::default();
        placed.add(all(file), found);
        self.file(placed);
    }

    /// Tables by name, and what is left of those that are wrong.
    fn tables<T: DeserializeOwned>(
        &mut self,
        word: &'static str,
        (file, source): (u32, &Source),
        value: Spanned<DeValue>,
    ) -> (Option<Tables<T>>, Vec<Item<T>>) {
        let span = value.span();
        let DeValue::Table(tables) = value.into_inner() else {
            let example = word.trim_end_matches('s');
            let finding = Diagnostic::at(all(file).at(span), format!("`{word}` is a table of tables"));
            self.findings.push(finding.label("not a table").hint(format!("write `[{word}.NAME]` for each {example}")));
            return (None, Vec::new());
        };
        let (mut found, mut left) = (Vec::new(), Vec::new());
        for (name, value) in tables {
            let key = Spanned::new(name.span(), name.get_ref().to_string());
            match self.value(word, (file, source), value) {
                Ok(value) => found.push((key, value)),
                Err(part) => {
                    left.extend(part.map(|value| Item {
                        value: Arc::new(value),
                        part: all(file),
                        name: all(file).at(key.span()),
                    }));
                    self.broken.names.insert((word, key.into_inner()));
                }
            }
        }
        (Some(found), left)
    }

    fn list<T: DeserializeOwned>(
        &mut self,
        word: &'static str,
        (file, source): (u32, &Source),
        value: Spanned<DeValue>,
    ) -> Vec<Spanned<T>> {
        let span = value.span();
        let DeValue::Array(entries) = value.into_inner() else {
            let finding = Diagnostic::at(all(file).at(span), format!("`{word}` is a list of tables"));
            self.findings.push(finding.label("not a list").hint(format!("write `[[{word}]]` above each")));
            return Vec::new();
        };
        let read = |entry: Spanned<DeValue>| {
            let span = entry.span();
            self.value(word, (file, source), entry).ok().map(|value| Spanned::new(span, value))
        };
        entries.into_iter().filter_map(read).collect()
    }

    /// Reads a value; of a table it notes all that is wrong, each time without what was found to be wrong before. What is
    /// wrong is what is left of it in the end, if anything can be read at all.
    fn value<T: DeserializeOwned>(
        &mut self,
        word: &'static str,
        (file, source): (u32, &Source),
        mut value: Spanned<DeValue>,
    ) -> Result<T, Option<T>> {
        let (mut whole, mut taken) = (true, Vec::new());
        for _ in 0..FINDINGS {
            let error = match T::deserialize(value.clone().into_deserializer()) {
                Ok(read) => return if whole { Ok(read) } else { Err(Some(read)) },
                Err(error) => error,
            };
            whole = false;
            if taken.iter().any(|key| error.message().starts_with(&format!("missing field `{key}`"))) {
                return Err(None); // it is there, and what is wrong with it was said
            }
            let at = error.span().unwrap_or_else(|| value.span());
            let path = take_out(&mut value, &at);
            let text = source.text.get(at.clone()).unwrap_or_default();
            self.findings.push(finding(&error, word, path.as_deref(), text, all(file).at(at)));
            taken.push(path.ok_or(None)?);
        }
        Err(None)
    }

    fn finish(mut self, sources: &[Source]) -> Result<Topology, Diagnostics> {
        let stem = sources.first().and_then(|source| Path::new(&source.path).file_stem());
        self.topology.named = self.named.as_ref().map(|(_, span)| *span);
        self.topology.name = match self.named {
            Some((name, _)) => name,
            None => stem.unwrap_or_default().to_string_lossy().into_owned(),
        };
        let Topology { name, pools, allow_deletes, moved, .. } = &self.topology;
        let says_nothing = pools.is_none() && allow_deletes.is_none() && moved.is_empty();
        if self.findings.is_empty() && says_nothing && self.topology.is_empty() && Topology::is_name(name) {
            let paths: Vec<&str> = sources.iter().map(|source| source.path.as_str()).collect();
            let hint = format!("to remove everything of it, run `netrec destroy --topology {name}`");
            let message = format!("`{}` declares no network, container or endpoint", paths.join("`, `"));
            return Err(vec![Diagnostic::new(message).hint(hint)].into());
        }
        self.findings.extend(check(&self.topology, &self.broken));
        if self.findings.is_empty() { Ok(self.topology) } else { Err(self.findings.into()) }
    }
}

/// Takes out of a table the innermost entry that a place is in, and says its key; nothing where only the table itself
/// is to blame.
fn take_out(value: &mut Spanned<DeValue>, at: &Range<usize>) -> Option<String> {
    let within = |span: Range<usize>| span.start <= at.start && at.end <= span.end;
    match value.get_mut() {
        DeValue::Table(table) => {
            let hit = table.iter().find(|(key, value)| within(key.span()) || within(value.span()));
            let hit = hit.map(|(key, _)| key.clone())?;
            let inner = table.get_mut(&hit).filter(|_| !within(hit.span())).and_then(|value| take_out(value, at));
            if inner.is_none() {
                table.remove(&hit);
            }
            // An entry of a list goes by the list's key.
            Some(inner.filter(|key| !key.is_empty()).unwrap_or_else(|| hit.into_inner().into_owned()))
        }
        DeValue::Array(array) => {
            let hit = array.iter().position(|value| within(value.span()))?;
            let inner = array.get_mut(hit).and_then(|value| take_out(value, at));
            if inner.is_none() {
                let entries = array.iter().enumerate().filter(|(at, _)| *at != hit);
                *array = entries.map(|(_, value)| value.clone()).collect();
            }
            Some(inner.unwrap_or_default())
        }
        _ => None,
    }
}

/// serde's complaint in our words.
fn finding(error: &Error, word: &str, key: Option<&str>, text: &str, span: Span) -> Diagnostic {
    let message = error.message();
    let mut quoted = message.split('`').skip(1).step_by(2);
    let subject = word.trim_end_matches('s');
    let (article, subject) = match subject {
        "endpoint" => ("an", subject),
        "pool" => ("", "pools"),
        "policie" => ("a", "policy"),
        "moved" => ("an", "entry"),
        _ => ("a", subject),
    };
    if message.starts_with("unknown field") {
        let unknown = quoted.next().unwrap_or_default();
        let of = format!("not a key that {article} {subject} has here").replace("  ", " ");
        return Diagnostic::at(span, format!("unknown key `{unknown}`")).label(of).nearest(unknown, quoted);
    }
    if message.starts_with("missing field") {
        let missing = quoted.next().unwrap_or_default();
        let finding = Diagnostic::at(span, format!("`{missing}` is missing"));
        return finding.label(format!("every {subject} needs it")).hint(format!("add `{missing} = …`"));
    }
    let message = message.replace('\n', ", ").replace(" as i128", "");
    let message =
        message.replace("expected u32", "expected a whole number").replace("expected i32", "expected a whole number");
    let message =
        message.split_once("expected struct ").map_or(message.clone(), |(said, _)| format!("{said}expected a table"));
    match key.filter(|_| word != "moved").and_then(|key| shape(word, key)) {
        Some((noun, shape)) if message.starts_with("invalid IP address") => {
            Diagnostic::at(span, format!("{text} is not {noun}")).hint(shape)
        }
        Some((_, shape)) => Diagnostic::at(span, message).hint(shape),
        None => Diagnostic::at(span, message),
    }
}

/// What a value of a key is, and looks like, for those with a grammar.
fn shape(word: &str, key: &str) -> Option<(&'static str, &'static str)> {
    Some(match key {
        "from" | "to" if word == "policies" => {
            ("a side", "a side is written `{ network = \"NAME\" }`, with `network`, `endpoint` or `cidr`")
        }
        "subnets" | "to" | "ipv4" | "ipv6" | "cidr" | "allow_from" => {
            ("a subnet", "a subnet is written `10.10.0.0/24` or `fd10::/64`")
        }
        "addresses" | "gateways" | "reserved" | "snat" | "publish_address" | "via" => {
            ("an address", "an address is written `10.10.0.10` or `fd10::10`, without a prefix length")
        }
        "mac" => ("a hardware address", "a hardware address is written `02:42:0a:0a:00:0a`"),
        "publish" => ("a publish", "a publish is written `[ADDRESS:]HOST_PORT[-LAST]:PORT[-LAST][/tcp|udp|sctp]`"),
        "ports" => ("ports", "ports are written `PORT[-LAST][/tcp|udp|sctp]`"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::diagnostic::render;

    const TEXT: &str = r#"topology = "shop"
[pools]
ipv4 = ["10.0.0.0/8"]
[networks.front]
driver = "bridge"
subnets = ["10.10.0.0/24", "fd10::/64"]
bridge = { name = "br-front" }
[containers]
api = { netns = "api" }
[endpoints.api-front]
container = "api"
network = "front"
addresses = ["10.10.0.10"]
publish = ["8080:80", "127.0.0.1:5353:53/udp"]
routes = [{ to = "192.0.2.0/24", via = "10.10.0.254" }]
"#;

    proptest! {
        /// Whatever is done to a file, all that is said of it can be shown, and saying it does not panic.
        #[test]
        fn a_mangled_file_is_read_or_complained_about(
            edits in prop::collection::vec((0..TEXT.len(), 0..8_usize, "[\\[\\]{}\"=.,:/a-z0-9\n -]{0,3}"), 0..4)
        ) {
            let mut text = TEXT.to_owned();
            for (at, cut, put) in edits {
                let at = at.min(text.len());
                let end = (at + cut).min(text.len());
                text.replace_range(at..end, &put);
            }
            let sources = [Source::new("shop.toml", text.as_str())];
            match parse(&sources) {
                Ok(_) => {}
                Err(findings) => prop_assert!(!render(&findings, &sources).is_empty(), "{text}"),
            }
        }
    }

    #[test]
    fn no_type_of_ours_is_named() {
        let sources = [Source::new("a.toml", "topology = \"t\"\n[[policies]]\naction = \"allow\"\nfrom = \"x\"\n")];
        let said = parse(&sources).expect_err("wrong");
        assert_eq!(said.iter().next().expect("one").message, "invalid type: string \"x\", expected a table");
    }

    #[test]
    fn files_make_one_topology() {
        let network = Source::new("a.toml", "[networks.n]\ndriver = \"bridge\"\n");
        let container = Source::new("b.toml", "topology = \"t\"\n[containers.c]\nnetns = \"c\"\n");
        let both = parse(&[network.clone(), container.clone()]).expect("right");
        assert_eq!((both.name.as_str(), both.networks.len(), both.containers.len()), ("t", 1, 1));
        assert_eq!(parse(std::slice::from_ref(&network)).expect("right").name, "a");
        let twice = parse(&[network.clone(), network]).expect_err("twice");
        assert_eq!(twice.iter().next().expect("one").message, "network `n` is declared twice");
        let other = Source::new("c.toml", "topology = \"u\"\n");
        let two = parse(&[container, other]).expect_err("two names");
        assert_eq!(two.iter().next().expect("one").message, "two names for one topology: `t` and `u`");
    }
}
