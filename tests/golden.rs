//! Every story of `tests/golden`, told by the simulated kernel: no privilege needed. `UPDATE_GOLDEN=1` rewrites.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may end at once and speak for itself"
)]

mod story;

use libtest_mimic::{Arguments, Trial};
use story::{Simulation, Story};

fn main() {
    let trials = Story::all().into_iter().map(|story| {
        Trial::test(story.name.clone(), move || {
            let told = story.tell(&mut Simulation::new(&story.before));
            story.check(&told).map_err(Into::into)
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}
