//! What each stage takes of a process of its own, as a command starts one: user time by the kernel, and instructions by
//! valgrind where it is installed. Both end with the plan: what is freed after it is not counted.

use std::process::Command;

use netrec::diff::diff;
use netrec::diff::plan::plan;
use netrec::model::lower::lower;
use netrec::model::observed::Observed;
use netrec::model::parse::parse;
use netrec::model::state::State;
use nix::sys::resource::{UsageWho, getrusage};

use super::callgrind;

const STAGES: [&str; 5] = ["start", "parse", "lower", "compare", "order and prove"];
const RUNS: usize = 21;

/// Ends a process after that stage, when it has told the user time that all until then had taken, in microseconds.
const UNTIL: &str = "NETREC_STAGE";

/// Prints a line for each stage, and one for all of them.
pub(crate) fn print(endpoints: usize) {
    if let Ok(until) = std::env::var(UNTIL) {
        return run(endpoints, &until);
    }
    let times: Vec<Vec<f64>> = (0..RUNS).map(|_| times(endpoints)).collect();
    let count = || STAGES.iter().map(|stage| instructions(endpoints, stage)).collect();
    let counts: Option<Vec<f64>> = callgrind::is_there().then(count);
    println!("{endpoints} endpoints        user ms: best  median of {RUNS}   million instructions");
    let line = |name: &str, from: usize, to: usize| {
        let mut taken: Vec<f64> = times.iter().map(|run| run[to] - run[from]).collect();
        taken.sort_by(f64::total_cmp);
        let count = counts.as_ref().map_or("no valgrind".into(), |it| format!("{:.0}", it[to] - it[from]));
        println!("{name:27} {:7.1} {:7.1} {count:>25}", taken[0], taken[RUNS / 2]);
    };
    for (at, stage) in STAGES.iter().enumerate().skip(1) {
        line(stage, at - 1, at);
    }
    line("all", 0, STAGES.len() - 1);
}

/// Plans, and tells after each stage; at the last one the process ends as it is.
fn run(endpoints: usize, until: &str) {
    let end = |stage: &str| {
        let used = getrusage(UsageWho::RUSAGE_SELF).expect("it is always told").user_time();
        println!("{}", used.tv_sec() * 1_000_000 + used.tv_usec());
        if stage == until {
            std::process::exit(0);
        }
    };
    let (sources, nothing) = (super::sources(endpoints), State::default());
    end("start");
    let topology = parse(&sources).expect("the workload is valid");
    end("parse");
    let desired = lower(&topology, &Observed::default()).expect("the workload can be lowered");
    end("lower");
    let difference = diff(&desired.state, &nothing);
    end("compare");
    let plan = plan(&difference, &desired.state, &nothing).expect("it is sound");
    end("order and prove");
    drop(plan);
}

/// The user time until the end of each stage, in milliseconds.
fn times(endpoints: usize) -> Vec<f64> {
    let mut this = Command::new(std::env::current_exe().expect("a program"));
    let output = until(&mut this, endpoints, STAGES[STAGES.len() - 1]).output().expect("it starts");
    assert!(output.status.success(), "{output:?}");
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    words.lines().map(|line| line.parse::<f64>().expect("a number") / 1_000.0).collect()
}

/// Millions of instructions until the end of a stage.
#[expect(clippy::cast_precision_loss, reason = "numbers that are far from losing a digit")]
fn instructions(endpoints: usize, stage: &str) -> f64 {
    callgrind::instructions(|this| until(this, endpoints, stage)) as f64 / 1e6
}

fn until<'a>(this: &'a mut Command, endpoints: usize, stage: &str) -> &'a mut Command {
    this.args(["stages", &endpoints.to_string()]).env(UNTIL, stage)
}
