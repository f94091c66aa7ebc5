//! Every story of `tests/golden`, told by the simulated kernel: no privilege needed. `UPDATE_GOLDEN=1` rewrites.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may end at once and speak for itself"
)]

mod story;

use libtest_mimic::{Arguments, Trial};
use netrec::apply::confirm::{Certainty, roll_back, undo};
use netrec::apply::{Prepared, Target, execute};
use netrec::diff::diff;
use netrec::diff::render::text;
use netrec::kernel::simulated::Simulated;
use netrec::model::resource::Resource;
use netrec::model::state::State;
use netrec::model::wire::Scope;
use story::{Simulation, Story, Teller};

/// The ruleset at the end of those stories that have such a file.
const RULES: &str = "rules.nft";

/// As `netrec show --rules` prints it.
fn rules(state: &State) -> String {
    let text = |resource: &Resource| if let Resource::Firewall(it) = resource { Some(it.text()) } else { None };
    state.resources().filter_map(text).collect()
}

fn main() {
    let told = Story::all().into_iter().map(|story| {
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
    let undone = Story::all().into_iter().map(|story| {
        Trial::test(format!("rollback_{}", story.name), move || {
            story.tell(&mut Undoing(Simulation::new(&story.before)));
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), told.chain(undone).collect()).exit();
}

/// Tells a story on the simulated kernel; beside it every chapter is told on a copy, and undone there.
struct Undoing(Simulation);

impl Teller for Undoing {
    type Kernel = Simulated;

    fn kernel(&mut self) -> &mut Simulated {
        &mut self.0.kernel
    }

    fn drift(&mut self, id: &str, scope: &Scope) {
        self.0.drift(id, scope);
    }

    fn foreign(&mut self, what: &str, name: &str, link: &str) {
        self.0.foreign(what, name, link);
    }

    fn planned(&mut self, target: Target, prepared: &Prepared) {
        let (mut copy, there) = (self.0.kernel.clone(), self.0.kernel.ours.clone());
        let (before, certainty) = undo(prepared, target);
        assert!(!matches!(certainty, Certainty::Impossible(_)), "{certainty}");
        execute(&mut copy, target, prepared.clone(), &mut |_, _| {}).expect("a run");
        let back = roll_back(&mut copy, &before);
        assert!(back.is_complete(), "{back:?}");
        let difference = text(&diff(&lasting(&there), &lasting(&copy.ours)));
        assert!(difference.is_empty(), "not as it was ({certainty}):\n{difference}");
    }

    fn reached(&mut self, _: Target, _: &Prepared) {}

    fn writes(&mut self) -> u64 {
        0
    }
}

/// Without settings that say by being absent what they say by 0.
fn lasting(state: &State) -> State {
    let off = |resource: &&Resource| !matches!(resource, Resource::Sysctl(setting) if &*setting.value == "0");
    state.resources().filter(off).cloned().collect()
}
