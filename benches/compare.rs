//! netrec beside the floor and the other tools, on one machine, in turn: `cargo bench --bench compare -- --help`.
//!
//! Every run has fresh network and mount namespaces, and begins when those of the run before have been freed. Each phase
//! begins when the packets that the one before set off have come to rest. Ratios are medians of ratios within a round,
//! as a busy machine slows down neighbours alike.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "a program for a person, and numbers that are far from losing a digit"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use serde::de::DeserializeOwned;

#[path = "compare/hold.rs"]
mod hold;
#[path = "compare/measure.rs"]
mod measure;
#[path = "compare/plot.rs"]
mod plot;
#[path = "compare/profile.rs"]
mod profile;
#[path = "compare/rules.rs"]
mod rules;
#[path = "compare/table.rs"]
mod table;
#[path = "compare/tools.rs"]
mod tools;
#[path = "workload/mod.rs"]
mod workload;

use measure::{Phase, Run};
use profile::Samples;
use table::{Results, Subject};
use tools::Tool;

/// Times netrec, the floor and other tools that set up the same containers' networks.
#[derive(Parser, Debug)]
struct Arguments {
    /// Numbers of containers, ascending.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000")]
    sizes: Vec<usize>,
    /// Which tools; all that are installed, each up to a size that it can do in some minutes, if none is named.
    #[arg(long, value_delimiter = ',')]
    tools: Vec<String>,
    /// How often each is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Where the other tools are, if not on the search path.
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
    /// Add to the runs that this file holds: many tools take longer than one sitting.
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Write the tables and plots of docs/performance.md.
    #[arg(long)]
    write: bool,
    /// Tell where the processor time of the floors and of netrec goes instead, by perf(1).
    #[arg(long, conflicts_with_all = ["tools", "results"])]
    profile: bool,
    /// One run of one tool in the namespaces of the caller; what this program starts itself with.
    #[arg(long, hide = true, num_args = 2, value_names = ["TOOL", "SIZE"])]
    inside: Option<Vec<String>>,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(peers) = &arguments.peers {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::env::join_paths(std::iter::once(peers.clone()).chain(std::env::split_paths(&path)));
        // SAFETY: no thread was started yet.
        #[expect(unsafe_code, reason = "set before anything reads it")]
        unsafe {
            std::env::set_var("PATH", paths.expect("a directory without a colon"));
        }
    }
    if let Some([tool, size]) = arguments.inside.as_deref() {
        let (tool, size) = (Tool::named(tool).expect("a tool that the caller knows"), size.parse().expect("a number"));
        measure::prepare(tool, size);
        let said = if arguments.profile {
            serde_json::to_string(&profile::inside(tool, size))
        } else {
            serde_json::to_string(&measure::inside(tool, size))
        };
        println!("{}", said.expect("numbers"));
        return ExitCode::SUCCESS;
    }
    if arguments.profile {
        return profiled(&arguments);
    }
    let tools: Vec<Tool> = match &arguments.tools[..] {
        [] => Tool::ALL.into_iter().filter(|tool| tool.is_installed()).collect(),
        named => named.iter().map(|name| Tool::named(name).unwrap_or_else(|| panic!("no tool {name}"))).collect(),
    };
    tools::provide();
    hold::in_memory(tools.iter().flat_map(|tool| tool.programs()));
    let mut results = arguments.results.as_deref().map(Results::read).unwrap_or_default();
    let first = results.rounds();
    for size in &arguments.sizes {
        let able = |tool: &&Tool| !arguments.tools.is_empty() || *size <= tool.most();
        let tools: Vec<Tool> = tools.iter().filter(able).copied().collect();
        for round in 0..arguments.rounds {
            for tool in &tools {
                wait_until_freed();
                eprintln!("{size} containers, round {} of {}: {}", round + 1, arguments.rounds, tool.name());
                if let Some(run) = outside(*tool, *size, &[]) {
                    results.add(Subject { tool: *tool, size: *size }, first + round, run);
                }
            }
        }
    }
    if let Some(file) = &arguments.results {
        results.keep(file);
    }
    println!("{}", results.text());
    if arguments.write {
        results.write();
    }
    ExitCode::SUCCESS
}

/// Runs with and without samples, in turn.
fn profiled(arguments: &Arguments) -> ExitCode {
    tools::provide();
    hold::in_memory(profile::TOOLS.iter().flat_map(|tool| tool.programs()));
    let (mut results, mut samples) = (Results::default(), BTreeMap::<_, Samples>::new());
    for size in &arguments.sizes {
        for (round, tool) in (0..arguments.rounds).flat_map(|round| profile::TOOLS.map(|tool| (round, tool))) {
            wait_until_freed();
            let run: Option<Run> = outside(tool, *size, &[]);
            wait_until_freed();
            let Some(found) = outside::<BTreeMap<Phase, Samples>>(tool, *size, &["--profile"]) else {
                return ExitCode::FAILURE;
            };
            if let Some(run) = run {
                results.add(Subject { tool, size: *size }, round, run);
            }
            for (phase, counts) in found {
                let sum = samples.entry((tool, *size, phase)).or_default();
                for (part, count) in counts {
                    *sum.entry(part).or_default() += count;
                }
            }
        }
    }
    let text = profile::text(&results, &samples);
    println!("{text}");
    if arguments.write {
        table::put("--profile --write", &text);
    }
    ExitCode::SUCCESS
}

/// One run in a process with namespaces of its own; none, and a word about it, if it failed.
fn outside<T: DeserializeOwned>(tool: Tool, size: usize, options: &[&str]) -> Option<T> {
    // A daemon and what it has started end with the first process of their namespace.
    let processes: &[&str] = if tool.is_daemon() { &["--pid", "--fork", "--kill-child", "--mount-proc"] } else { &[] };
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private"])
        .args(processes)
        .arg(std::env::current_exe().expect("this program"))
        .args(["--inside", tool.name(), &size.to_string()])
        .args(options)
        .output()
        .expect("unshare starts");
    let run = serde_json::from_slice(&output.stdout).ok();
    if run.is_none() {
        eprintln!("{} failed: {}", tool.name(), String::from_utf8_lossy(&output.stderr));
    }
    run
}

/// Namespaces are freed after their last user has gone, and the next run would pay for it.
fn wait_until_freed() {
    const LIMIT: Duration = Duration::from_mins(1);
    const PAUSE: Duration = Duration::from_millis(300);

    let (start, mut before) = (Instant::now(), usize::MAX);
    while start.elapsed() < LIMIT {
        let now = measure::namespaces_alive();
        if now >= before {
            return;
        }
        before = now;
        std::thread::sleep(PAUSE);
    }
}
