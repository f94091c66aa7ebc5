//! What the sources keep to: rooms that point one way, sizes, words, and that nothing a user meets is without its story,
//! its example or its line in the README.

#![allow(clippy::unwrap_used, reason = "a test may end at once")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use netrec::model::drivers::DRIVERS;
use netrec::model::kinds::KindName;

/// The rooms, and which of the others each may know.
const ROOMS: [(&str, &[&str]); 6] = [
    ("model", &[]),
    ("diff", &["model"]),
    ("beside", &["model"]),
    ("kernel", &["model", "beside"]),
    ("apply", &["model", "diff", "beside", "kernel"]),
    ("cli", &["model", "diff", "kernel", "apply"]),
];

/// Lines that a source file has at most.
const LINES_MAX: usize = 500;

/// Names of modules that say nothing about what is in them.
const EMPTY_WORDS: [&str; 5] = ["utils", "util", "common", "helpers", "manager"];

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// Every file below a folder with this extension, with its text; in order.
fn files(folder: &str, extension: &str) -> Vec<(PathBuf, String)> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == extension) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "{folder} has files");
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The code of a file as far as its own tests.
fn code(text: &str) -> String {
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]");
    lines.filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn rooms_point_one_way() {
    let rooms: BTreeSet<String> = fs::read_dir(root().join("src"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.contains('.'))
        .collect();
    assert_eq!(rooms, ROOMS.iter().map(|(room, _)| (*room).to_owned()).collect(), "a new room needs a line here");
    let mut found = Vec::new();
    for (room, knows) in ROOMS {
        for (path, text) in files(&format!("src/{room}"), "rs") {
            for (other, _) in ROOMS.iter().filter(|(other, _)| *other != room && !knows.contains(other)) {
                let named = [format!("crate::{other}::"), format!("crate::{other};"), format!("crate::{{{other}")];
                if named.iter().any(|name| code(&text).contains(name.as_str())) {
                    found.push(format!("{}: {room} knows nothing of {other}", path.display()));
                }
            }
        }
    }
    none("wrong ways", &found);
}

#[test]
fn only_the_command_line_prints() {
    let found = files("src", "rs").into_iter().filter(|(path, text)| {
        let prints = ["println!", "eprintln!", "print!(", "stdout()", "stderr()"];
        !path.starts_with(root().join("src/cli")) && prints.iter().any(|word| code(text).contains(word))
    });
    none("printing outside of cli", &found.map(|(path, _)| path.display().to_string()).collect::<Vec<_>>());
}

#[test]
fn files_are_short_and_their_names_say_what_is_in_them() {
    let mut found = Vec::new();
    for (path, text) in files("src", "rs").into_iter().chain(files("tests", "rs")) {
        if text.lines().count() > LINES_MAX {
            found.push(format!("{}: {} lines, at most {LINES_MAX}", path.display(), text.lines().count()));
        }
        let names = path.strip_prefix(root()).unwrap().with_extension("");
        if names.iter().any(|name| EMPTY_WORDS.iter().any(|word| name == *word)) {
            found.push(format!("{}: a name that says nothing", path.display()));
        }
    }
    none("sources", &found);
}

#[test]
fn every_kind_and_driver_has_a_story() {
    let told: String = files("tests/golden", "txt").into_iter().map(|(_, text)| text).collect();
    let written: String = files("tests/golden", "toml").into_iter().map(|(_, text)| text).collect();
    for kind in KindName::ALL {
        for symbol in ["+", "-"] {
            // Settings and the table for rules of users are left as they are.
            let needed = symbol == "+" || !["sysctl", "table"].contains(&kind.word());
            let line = |line: &str| line.starts_with(symbol) && line.contains(&format!("/{kind}/"));
            assert!(!needed || told.lines().any(line), "no story tells `{symbol} …/{kind}/…`");
        }
    }
    for (driver, _) in DRIVERS {
        let line =
            |line: &str| line.split_whitespace().collect::<String>().starts_with(&format!("driver=\"{driver}\""));
        assert!(written.lines().any(line), "no story has driver {driver}");
    }
}

#[test]
fn every_example_is_a_story_and_the_other_way_round() {
    let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let examples: BTreeSet<String> = files("examples/topologies", "toml").iter().map(|(path, _)| stem(path)).collect();
    let folders = fs::read_dir(root().join("tests/golden")).unwrap().map(|entry| entry.unwrap().path());
    let stories: BTreeSet<String> =
        folders.filter_map(|folder| Some(stem(&folder).strip_prefix("example_")?.replace('_', "-"))).collect();
    assert_eq!(examples, stories);
    assert!(examples.len() >= 8);
    for example in examples {
        let first = read(&format!("tests/golden/example_{}/1.toml", example.replace('-', "_")));
        let text = read(&format!("examples/topologies/{example}.toml"));
        assert!(first == text, "the story of {example} tells something else");
        assert!(text.starts_with("# "), "{example} does not say what it shows");
    }
}

/// Keys of the tables about networks and who talks to whom that say nothing to the firewall but what it finds as addresses
/// and links.
const NOT_OF_THE_FIREWALL: [(&str, &[&str]); 2] = [
    ("Network", &["bridge", "driver", "gateways", "ipv4", "ipv6", "mtu", "protect", "reserved", "subnets"]),
    (
        "Endpoint",
        &[
            "addresses",
            "aliases",
            "container",
            "gateway_priority",
            "ifname",
            "ipv4",
            "ipv6",
            "mac",
            "network",
            "protect",
            "routes",
        ],
    ),
];

/// The keys of a topology's tables about networks and who talks to whom, as `TABLE.KEY`.
fn keys_of(topology: &toml::Table) -> BTreeSet<String> {
    let tables = |value: Option<&toml::Value>| match value {
        Some(toml::Value::Table(table)) => table.values().filter_map(|value| value.as_table().cloned()).collect(),
        Some(toml::Value::Array(list)) => list.iter().filter_map(|value| value.as_table().cloned()).collect(),
        _ => Vec::new(),
    };
    let (endpoints, policies) = (tables(topology.get("endpoints")), tables(topology.get("policies")));
    let published = endpoints.iter().flat_map(|endpoint| tables(endpoint.get("published"))).collect();
    let ends = policies.iter().flat_map(|policy| ["from", "to"].map(|end| policy.get(end)?.as_table().cloned()));
    let ends = ends.flatten().collect();
    let kinds = [
        ("Network", tables(topology.get("networks"))),
        ("Endpoint", endpoints),
        ("Published", published),
        ("Policy", policies),
        ("Peer", ends),
    ];
    let named = kinds.into_iter().flat_map(|(kind, tables)| {
        tables.into_iter().flat_map(move |table| table.into_iter().map(move |(key, _)| format!("{kind}.{key}")))
    });
    named.collect()
}

#[test]
fn every_mode_of_the_firewall_has_an_example_with_its_ruleset() {
    let schema = netrec::model::schema::schema();
    let mut wanted = BTreeSet::new();
    for table in ["Network", "Endpoint", "Published", "Policy", "Peer"] {
        let others = NOT_OF_THE_FIREWALL.iter().find(|(it, _)| *it == table).map_or(&[][..], |(_, keys)| keys);
        let keys: Vec<&String> = schema["$defs"][table]["properties"].as_object().unwrap().keys().collect();
        assert!(others.iter().all(|key| keys.iter().any(|it| it == key)), "{table} has not all of {others:?}");
        let keys = keys.into_iter().filter(|key| !others.contains(&key.as_str()));
        wanted.extend(keys.map(|key| format!("{table}.{key}")));
    }
    let readme = read("README.md");
    let (_, modes) = readme.split_once("`tests/golden/example_MODE/rules.nft`").unwrap();
    let modes: BTreeSet<&str> = modes.split_once("for MODE").unwrap().0.split([' ', ',', '\n']).collect();
    let mut shown = BTreeSet::new();
    for (path, _) in files("tests/golden", "nft") {
        let story = path.parent().unwrap();
        let mode = story.file_name().unwrap().to_str().unwrap().strip_prefix("example_").unwrap();
        assert!(modes.contains(mode), "README.md does not name the ruleset of {mode}");
        shown.extend(keys_of(&fs::read_to_string(story.join("1.toml")).unwrap().parse().unwrap()));
    }
    let missing: Vec<String> = wanted.difference(&shown).cloned().collect();
    none("keys of the firewall in no example with a ruleset", &missing);
}

#[test]
fn the_papers_name_what_there_is() {
    let readme = read("README.md");
    let commands = read("src/cli/mod.rs");
    let (_, commands) = commands.split_once("enum Command {\n").unwrap();
    let (commands, _) = commands.split_once("\n}\n").unwrap();
    let variants = commands.lines().filter_map(|line| line.strip_prefix("    ")?.split(['(', ' ', ',']).next());
    let names: Vec<String> =
        variants.filter(|name| name.starts_with(char::is_uppercase)).map(str::to_lowercase).collect();
    assert!(names.contains(&"apply".to_owned()));
    // Not for people, and not in the help either.
    let names = names.into_iter().filter(|name| name != "guard");
    for name in names {
        assert!(readme.contains(&format!("| `netrec {name}")), "README.md: no line for the command {name}");
    }
    let exits = read("src/cli/mod.rs");
    let (_, exits) = exits.split_once("pub enum Exit {\n").unwrap();
    let codes =
        exits.split_once("\n}\n").unwrap().0.lines().filter_map(|line| line.trim_end_matches(',').split_once(" = "));
    let codes: Vec<&str> = codes.map(|(_, code)| code).collect();
    assert!(codes.contains(&"64"));
    for code in codes {
        assert!(readme.contains(&format!("\n| {code} | ")), "README.md: no line for exit code {code}");
    }
    let decisions = files("docs/decisions", "md");
    let decided = |(path, text): &(PathBuf, String)| {
        let number = path.file_name().unwrap().to_str().unwrap()[..4].parse::<usize>().unwrap();
        assert!(text.starts_with(&format!("# {number}. ")), "{}: its number", path.display());
        number
    };
    assert_eq!(decisions.iter().map(decided).collect::<Vec<_>>(), (1..=decisions.len()).collect::<Vec<_>>());
    assert!(read("ARCHITECTURE.md").lines().count() <= 200);
    assert!(read("CHANGELOG.md").contains("## [Unreleased]"));
    assert!(read("LICENSE-MIT").contains("MIT") && read("LICENSE-APACHE").contains("Apache License"));
}
