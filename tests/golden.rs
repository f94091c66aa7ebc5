//! Every story of `tests/golden`, told by the simulated kernel: no privilege needed. `UPDATE_GOLDEN=1` rewrites.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may end at once and speak for itself"
)]

mod story;

use libtest_mimic::{Arguments, Trial};
use netrec::model::resource::Resource;
use netrec::model::state::State;
use story::{Simulation, Story};

/// The ruleset at the end of those stories that have such a file.
const RULES: &str = "rules.nft";

/// As `netrec show --rules` prints it.
fn rules(state: &State) -> String {
    let text = |resource: &Resource| if let Resource::Firewall(it) = resource { Some(it.text()) } else { None };
    state.resources().filter_map(text).collect()
}

fn main() {
    let trials = Story::all().into_iter().map(|story| {
        Trial::test(story.name.clone(), move || {
            let mut simulation = Simulation::new(&story.before);
            let told = story.tell(&mut simulation);
            story.check("expected.txt", &told)?;
            if story.folder.join(RULES).exists() {
                story.check(RULES, &rules(&simulation.kernel.ours))?;
            }
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}
