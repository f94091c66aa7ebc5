//! The pure parts of the loop at growing sizes: `cargo bench --bench pure`. Near-linear is the goal, and 150 ms of user
//! time for everything at 10,000 endpoints; nothing here asks the kernel.

use divan::Bencher;
use divan::counter::ItemsCount;
use netrec::diff::diff;
use netrec::diff::plan::plan;
use netrec::model::lower::lower;
use netrec::model::observed::Observed;
use netrec::model::parse::parse;
use netrec::model::source::{Source, Sources};
use netrec::model::state::{Desired, State};
use netrec::model::topology::Topology;

#[path = "workload/mod.rs"]
mod workload;

const SIZES: [usize; 3] = [100, 1_000, 10_000];

fn main() {
    divan::main();
}

fn sources(endpoints: usize) -> Sources {
    vec![Source::new("w.toml", workload::topology(endpoints))]
}

fn topology(endpoints: usize) -> Topology {
    parse(&sources(endpoints)).expect("the workload is valid")
}

fn desired(endpoints: usize) -> Desired {
    lower(&topology(endpoints), &Observed::default()).expect("the workload can be lowered")
}

#[divan::bench(args = SIZES)]
fn parsing(bencher: Bencher, endpoints: usize) {
    let sources = sources(endpoints);
    bencher.counter(ItemsCount::new(endpoints)).bench(|| parse(&sources));
}

#[divan::bench(args = SIZES)]
fn lowering(bencher: Bencher, endpoints: usize) {
    let topology = topology(endpoints);
    bencher.counter(ItemsCount::new(endpoints)).bench(|| lower(&topology, &Observed::default()));
}

#[divan::bench(args = SIZES)]
fn comparing(bencher: Bencher, endpoints: usize) {
    let (desired, nothing) = (desired(endpoints).state, State::default());
    bencher.counter(ItemsCount::new(endpoints)).bench(|| diff(&desired, &nothing));
}

#[divan::bench(args = SIZES)]
fn comparing_equals(bencher: Bencher, endpoints: usize) {
    let desired = desired(endpoints).state;
    bencher.counter(ItemsCount::new(endpoints)).bench(|| diff(&desired, &desired));
}

#[divan::bench(args = SIZES)]
fn ordering(bencher: Bencher, endpoints: usize) {
    let diff = diff(&desired(endpoints).state, &State::default());
    bencher.counter(ItemsCount::new(endpoints)).bench(|| plan(&diff));
}

#[divan::bench(args = SIZES)]
fn proving(bencher: Bencher, endpoints: usize) {
    let (desired, nothing) = (desired(endpoints).state, State::default());
    let plan = plan(&diff(&desired, &nothing)).expect("an order");
    bencher.counter(ItemsCount::new(endpoints)).bench(|| plan.prove(&desired, &nothing));
}
