//! From text to [`Topology`]: what right files say, or all that is wrong with them at once.
//!
//! A right file is read by serde, in pieces where it can be, or in one go. Of a wrong one every named table is read by
//! itself; what serde refuses is noted and taken out, and the table is read again, so that one wrong key does not hide the
//! next.

mod damaged;
mod edit;
mod pieces;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;

use super::check::check;
use super::diagnostic::{Diagnostic, Diagnostics};
use super::source::{Source, Span};
use super::topology::{Container, Endpoint, File, Item, Moved, Network, Policy, Pools, Tables, Topology};

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
    /// Lines that are no TOML, of the file that is read.
    torn: BTreeSet<usize>,
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

    fn finish(mut self, sources: &[Source]) -> Result<Topology, Diagnostics> {
        self.topology.named = self.named.as_ref().map(|(_, span)| *span);
        self.topology.name = match (self.named, sources) {
            (Some((name, _)), _) => name,
            (None, [only]) => Path::new(&only.path).file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            (None, _) => {
                // One more of them, or one less, would make another topology beside what was made before.
                let message = "several files make one topology, and none of them names it";
                self.findings.push(Diagnostic::new(message).hint("write `topology = \"NAME\"` in one of them"));
                String::new()
            }
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
        let twice = parse(&[network.clone(), container.clone(), network.clone()]).expect_err("twice");
        assert_eq!(twice.iter().next().expect("one").message, "network `n` is declared twice");
        let nameless = parse(&[network, Source::new("d.toml", "")]).expect_err("no name");
        let said: Vec<&str> = nameless.iter().map(|finding| &*finding.message).collect();
        assert_eq!(said, ["several files make one topology, and none of them names it"]);
        let other = Source::new("c.toml", "topology = \"u\"\n");
        let two = parse(&[container, other]).expect_err("two names");
        assert_eq!(two.iter().next().expect("one").message, "two names for one topology: `t` and `u`");
    }
}
