//! The README says what is: its tour is run and prints what stands there, its reference is the JSON Schema's.
//! `UPDATE_GOLDEN=1` rewrites both.

#![allow(clippy::unwrap_used, reason = "a test may end at once")]

mod world;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;

use serde_json::Value;

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");

/// Held by who reads and writes the file.
static FILE: Mutex<()> = Mutex::new(());

/// Compares what stands in the README with what should, or puts it there.
fn hold(should: impl FnOnce(&str) -> String) {
    let _held = FILE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let stands = std::fs::read_to_string(README).unwrap();
    let should = should(&stands);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(README, should).unwrap();
    } else if stands != should {
        panic!("{}", similar::TextDiff::from_lines(&stands, &should).unified_diff().header("README.md", "true"));
    }
}

/// Blocks fenced as of a language: what stands before each, and what in it.
fn blocks<'a>(readme: &'a str, language: &str) -> Vec<(&'a str, &'a str)> {
    let (mut blocks, mut rest) = (Vec::new(), readme);
    while let Some((before, after)) = rest.split_once(&format!("```{language}\n")) {
        let (inside, next) = after.split_once("```\n").expect("a fence ends");
        blocks.push((before, inside));
        rest = next;
    }
    blocks.push((rest, ""));
    blocks
}

/// All commands of the tour in one shell, each with a line before it that no command prints.
fn tour(readme: &str) -> String {
    const MARK: &str = "=== of the tour";
    let file = blocks(readme, "toml")[0].1;
    let name = file.lines().next().unwrap().strip_prefix("# ").expect("the file says its name");
    std::fs::create_dir("/run/tour").unwrap();
    std::fs::write(format!("/run/tour/{name}"), file).unwrap();
    let console = blocks(readme, "console");
    let commands = console.iter().flat_map(|(_, inside)| inside.lines()).filter_map(|line| line.strip_prefix("$ "));
    let bin = Path::new(env!("CARGO_BIN_EXE_netrec")).parent().unwrap().display();
    let mut script = format!("cd /run/tour; export PATH={bin}:$PATH; exec </dev/null >printed 2>&1\n");
    for command in commands {
        let _ = writeln!(script, "echo '{MARK}'\n{}", command.replace("sudo ", ""));
    }
    std::fs::write("/run/tour/script", script).unwrap();
    world::sh("sh /run/tour/script");
    let printed = std::fs::read_to_string("/run/tour/printed").unwrap();
    let mark = format!("{MARK}\n");
    let mut answers = printed.split(&mark).skip(1);
    let mut should = String::new();
    for (before, inside) in console {
        should += before;
        if inside.is_empty() {
            continue;
        }
        should += "```console\n";
        for command in inside.lines().filter(|line| line.starts_with("$ ")) {
            let _ = write!(should, "{command}\n{}", answers.next().expect("an answer a command"));
        }
        should += "```\n";
    }
    should
}

#[test]
fn the_tour_prints_what_stands_there() {
    world::run(|| hold(tour));
}

#[test]
fn the_reference_is_the_schemas() {
    hold(|stands| {
        let (before, rest) = stands.split_once("<!-- reference -->\n").unwrap();
        let (_, after) = rest.split_once("<!-- end of reference -->").unwrap();
        let schema = netrec::model::schema::schema();
        let tables = [
            ("At the top of a file", "", None),
            ("`[networks.NAME]`", "Network", Some(())),
            ("`[networks.NAME.bridge]`", "BridgeOptions", Some(())),
            ("`[containers.NAME]`", "Container", Some(())),
            ("`[endpoints.NAME]`", "Endpoint", Some(())),
            ("`[[endpoints.NAME.published]]`", "Published", Some(())),
            ("`routes` of an endpoint", "StaticRoute", Some(())),
            ("`[[policies]]`", "Policy", Some(())),
            ("`from` and `to` of a policy", "Peer", Some(())),
            ("`[pools]`", "Pools", Some(())),
            ("`[[moved]]`", "Moved", Some(())),
        ];
        assert_eq!(tables.len(), schema["$defs"].as_object().unwrap().len() + 1, "a new table needs a line here");
        let mut reference = String::new();
        for (title, name, defined) in tables {
            let table = if defined.is_some() { &schema["$defs"][name] } else { &schema };
            let about = if defined.is_some() { one_line(&table["description"]) + "\n\n" } else { String::new() };
            let _ = write!(reference, "### {title}\n\n{about}{}\n", rows(table));
        }
        format!("{before}<!-- reference -->\n{reference}<!-- end of reference -->{after}")
    });
}

fn rows(table: &Value) -> String {
    let mut rows = String::from("| Key | Type | Default | Meaning |\n| --- | --- | --- | --- |\n");
    let required = |key: &str| table["required"].as_array().is_some_and(|keys| keys.iter().any(|it| it == key));
    for (key, value) in table["properties"].as_object().unwrap() {
        let text = one_line(&value["description"]).replace('|', "\\|");
        let (meaning, default) = match text.split_once(" Default: ") {
            Some((meaning, default)) => (meaning, default.trim_end_matches('.')),
            None if required(key) => (&*text, "required"),
            None => (&*text, "none"),
        };
        let _ = writeln!(rows, "| `{key}` | {} | {default} | {meaning} |", kind(value));
    }
    rows
}

fn kind(value: &Value) -> String {
    let word = value["type"].as_str().or_else(|| value["type"][0].as_str());
    match word {
        Some("array") => format!("list of {}s", kind(&value["items"])),
        Some("object") | None => "table".into(),
        Some(word) => word.into(),
    }
}

fn one_line(text: &Value) -> String {
    text.as_str().unwrap().replace('\n', " ")
}
