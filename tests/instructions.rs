//! Instructions, counted by valgrind, that the pure parts take from text to a plan that has proved itself: the same on
//! every machine, so a step back is seen where a clock would see noise.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may end at once and speak for itself"
)]

#[path = "../benches/workload/callgrind.rs"]
mod callgrind;
#[path = "../benches/workload/mod.rs"]
mod workload;

use netrec::diff::diff;
use netrec::diff::plan::plan;
use netrec::model::lower::lower;
use netrec::model::observed::Observed;
use netrec::model::parse::parse;
use netrec::model::source::Source;
use netrec::model::state::State;

/// How many endpoints this program is to plan, under valgrind.
const ENDPOINTS: &str = "NETREC_ENDPOINTS";

fn pure(endpoints: usize) {
    let topology = parse(&[Source::new("w.toml", workload::topology(endpoints))]).unwrap();
    let desired = lower(&topology, &Observed::default()).unwrap();
    let nothing = State::default();
    plan(&diff(&desired.state, &nothing), &desired.state, &nothing).unwrap();
}

/// Instructions that planning so many endpoints takes.
fn instructions(endpoints: usize) -> u64 {
    callgrind::instructions(|this| {
        this.args(["--exact", "planning_is_near_linear_and_no_dearer_than_it_was", "--test-threads", "1"])
            .env(ENDPOINTS, endpoints.to_string())
    })
}

#[test]
fn planning_is_near_linear_and_no_dearer_than_it_was() {
    if let Ok(endpoints) = std::env::var(ENDPOINTS) {
        return pure(endpoints.parse().unwrap());
    }
    if !callgrind::is_there() {
        eprintln!("SKIPPED: valgrind is not installed, nothing was shown about instructions");
        return;
    }
    let [one, few, many] = [1, 51, 401].map(instructions);
    let (few, many) = ((few - one) / 50, (many - one) / 400);
    println!("{few} instructions an endpoint among 50, {many} among 400, {one} for one alone");
    assert!(many * 100 <= few * 120, "{few} instructions an endpoint among 50, {many} among 400");
    // A third more than it was when this was written, without optimisation.
    assert!(many <= 1_000_000, "{many} instructions an endpoint");
}
