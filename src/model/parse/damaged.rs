//! What is wrong in a file that is not right, all at once, each at its place.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use serde::de::{DeserializeOwned, IntoDeserializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

use super::{Broken, Found, Merge, all};
use crate::model::diagnostic::Diagnostic;
use crate::model::source::{Source, Span};
use crate::model::table::EMPTY;
use crate::model::topology::{File, Item, Tables};

/// Findings in one named table at most.
const FINDINGS: usize = 100;

impl Merge {
    /// Reads what can be read of a file that is not right.
    pub(super) fn damaged(&mut self, file: u32, source: &Source) {
        let (table, errors) = DeTable::parse_recoverable(&source.text);
        self.torn = torn(&errors, (file, source), &mut self.findings);
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
            // What is missing may stand in what could not be read.
            let missing = error.message().starts_with("missing field") && !self.torn.is_empty();
            // What was wrong in a list was said, and taken out of it.
            let emptied = error.message() == EMPTY && path.as_ref().is_some_and(|key| taken.contains(key));
            if !missing && !emptied && !self.torn.contains(&line_of(source, &at)) {
                self.findings.push(finding(&error, word, path.as_deref(), text, all(file).at(at)));
            }
            taken.push(path.ok_or(None)?);
        }
        Err(None)
    }
}

/// Says what is no TOML, and in which lines.
fn torn(errors: &[Error], (file, source): (u32, &Source), findings: &mut Vec<Diagnostic>) -> BTreeSet<usize> {
    let (mut lines, mut repeated) = (BTreeSet::new(), 0..0);
    for error in errors {
        let at = error.span().unwrap_or_default();
        let twice = error.message() == "duplicate key";
        // One slip confuses the rest of its line, and a header that is there twice all that is below it.
        if !lines.insert(line_of(source, &at)) || twice && repeated.contains(&at.start) {
            continue;
        }
        let (above, from) = source.text.split_at(at.start.min(source.text.len()));
        if twice && above.rsplit('\n').next().is_some_and(|line| line.starts_with('[')) {
            repeated = at.start..at.start + from.find("\n[").unwrap_or(from.len());
        }
        let name = source.text.get(at.clone()).unwrap_or_default();
        let message = if twice { format!("`{name}` is there twice") } else { error.message().replace('\n', ", ") };
        findings.push(Diagnostic::at(all(file).at(at), message).label("not TOML"));
    }
    lines
}

/// The number of a place's line, from 0.
fn line_of(source: &Source, at: &Range<usize>) -> usize {
    source.text.as_bytes().iter().take(at.start).filter(|byte| **byte == b'\n').count()
}

/// Takes out of a table the innermost entry that a place is in, and says its key; nothing where only the table itself
/// is to blame.
fn take_out(value: &mut Spanned<DeValue>, at: &Range<usize>) -> Option<String> {
    match value.get_mut() {
        DeValue::Table(table) => {
            let hit = table.iter().find(|(key, value)| within(&key.span(), at) || holds(value, at));
            let hit = hit.map(|(key, _)| key.clone())?;
            let inner = table.get_mut(&hit).filter(|_| !within(&hit.span(), at)).and_then(|value| take_out(value, at));
            if inner.is_none() {
                table.remove(&hit);
            }
            // An entry of a list goes by the list's key.
            Some(inner.filter(|key| !key.is_empty()).unwrap_or_else(|| hit.into_inner().into_owned()))
        }
        DeValue::Array(array) => {
            let hit = array.iter().position(|value| holds(value, at))?;
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

fn within(span: &Range<usize>, at: &Range<usize>) -> bool {
    span.start <= at.start && at.end <= span.end
}

/// Whether a place is in a value. The span of a table with a header of its own is that header's alone.
fn holds(value: &Spanned<DeValue>, at: &Range<usize>) -> bool {
    let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue>)| within(&key.span(), at) || holds(value, at);
    within(&value.span(), at)
        || match value.get_ref() {
            DeValue::Table(table) => table.iter().any(entry),
            DeValue::Array(array) => array.iter().any(|value| holds(value, at)),
            _ => false,
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
        let who = key.map_or(subject.to_owned(), |list| format!("entry of `{list}`"));
        return finding.label(format!("every {who} needs it")).hint(format!("add `{missing} = …`"));
    }
    if let (EMPTY, Some(key)) = (message, key) {
        let meant = match key {
            "subnets" => "leave it out to have them taken from the pools",
            "allow_from" => "leave it out for the default; to let in nobody but the host, publish at `127.0.0.1`",
            "publish_address" => "leave it out to publish at every address of the host",
            _ => "leave it out to mean every port, ICMP included",
        };
        return Diagnostic::at(span, format!("`{key}` is empty")).hint(meant);
    }
    let mut message = message.replace('\n', ", ").replace(" as i128", "");
    let number = NUMBERS.into_iter().find(|(ours, ..)| message.ends_with(&format!("expected {ours}")));
    if let Some((_, least, most)) = number.filter(|_| message.starts_with("invalid value")) {
        return Diagnostic::at(span, format!("{text} is out of range")).hint(format!("from {least} to {most}"));
    }
    if let Some((ours, ..)) = number {
        message = message.replace(&format!("expected {ours}"), "expected a whole number");
    }
    let map = if text.starts_with(['{', '[']) { "type: table" } else { "type: date" };
    for (of_serde, plain) in [("type: sequence", "type: list"), ("type: map", map), ("a sequence", "a list")] {
        message = message.replace(of_serde, plain);
    }
    if message == "invalid type: list, expected a table" {
        return Diagnostic::at(span, message)
            .hint("a table is written `[NAME]` or `{ … }`; `[[NAME]]` begins an entry of a list");
    }
    match key.filter(|_| word != "moved").and_then(|key| shape(word, key)) {
        Some((noun, shape)) if message.starts_with("invalid IP address") => {
            Diagnostic::at(span, format!("{text} is not {noun}")).hint(shape)
        }
        Some((_, shape)) => Diagnostic::at(span, message).hint(shape),
        None => Diagnostic::at(span, message),
    }
}

/// Our types of numbers, and the least and the most that they hold.
const NUMBERS: [(&str, i64, i64); 3] =
    [("u8", 0, u8::MAX as i64), ("u32", 0, u32::MAX as i64), ("i32", i32::MIN as i64, i32::MAX as i64)];

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
