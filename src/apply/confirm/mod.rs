//! Commit-confirm: an apply that goes back by itself unless somebody who can still reach the host says that it is good.
//!
//! Going back is the same loop with the state that was seen before as its target ([`Before`]); what it would do is
//! planned and simulated before the first write, so that its [`Certainty`] can be told. A process of its own, the
//! [`guard`], holds that state in its memory and goes back when it is told to, when time is up, or when the netrec that
//! applies is gone. What was never confirmed is remembered by its digest ([`memory`]) and not tried again unasked.
//!
//! A reboot while a confirm is pending needs no rollback: nothing that netrec makes outlives the kernel. What was not
//! confirmed by then is in the memory, so a watcher that starts at boot leaves it alone.

pub mod guard;
pub mod memory;

use std::fmt;
use std::sync::Arc;

use super::{NoPlan, Prepared, Report, Target, execute, look};
use crate::diff::plan::plan;
use crate::diff::{Change, diff};
use crate::kernel::Kernel;
use crate::model::kinds::firewall::{Firewall, Rules};
use crate::model::observed::Observed;
use crate::model::resource::{Kind, Resource, ResourceId, Text};
use crate::model::simulate::Simulation;
use crate::model::source::Span;
use crate::model::state::{Desired, Pending, State};
use crate::model::wire::{NetnsRef, Scope};

/// What was there before an apply: where a rollback leads.
#[derive(Clone, Debug)]
pub struct Before {
    state: State,
    scope: Scope,
    /// What of it no rollback brings back.
    lost: Vec<String>,
}

/// How well an apply can be undone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Certainty {
    /// All of ours will be as it was.
    Exact,
    /// But for what is listed.
    Approximate(Vec<String>),
    /// Not at all, and why.
    Impossible(String),
}

impl fmt::Display for Certainty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("exact"),
            Self::Approximate(lost) => write!(f, "approximate: {}", lost.join("; ")),
            Self::Impossible(why) => write!(f, "impossible: {why}"),
        }
    }
}

impl Before {
    /// What was seen when that was prepared, as far as it can be wanted.
    fn of(prepared: &Prepared, target: Target) -> Self {
        let observed = &prepared.observed;
        let (mut state, mut lost) = (State::default(), Vec::new());
        for (id, resource) in observed.ours.iter() {
            // Settings that the apply leaves alone are none of the rollback's business either, but for those that go
            // with their link.
            let goes = matches!(resource, Resource::Sysctl(setting) if setting.goes_with_link());
            if resource.stays() && !goes && prepared.desired.state.get(id).is_none() {
                continue;
            }
            match restorable(resource) {
                Ok(resource) => state.insert(resource),
                Err("") => {}
                Err(why) => lost.push(format!("{id}: {why}")),
            }
        }
        let mut scope = target.scope();
        // A namespace that is new is to be removed, so it is looked at for who lives in it.
        scope.containers.retain(|name, found| !matches!(found, NetnsRef::Named(_)) || observed.present.contains(name));
        Self { state, scope, lost }
    }

    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// What is wanted of it now: not what was in a container that is gone, and still a namespace that others moved into.
    pub(super) fn desired(&self, observed: &Observed) -> Desired {
        let mut desired = Desired { topology: self.scope.owner.topology.to_string(), ..Desired::default() };
        let mut state = State::default();
        let provided =
            |netns: &Text| self.state.resources().any(|it| matches!(it, Resource::Netns(it) if it.name == *netns));
        let gone = |netns: &Text| observed.absent.contains_key(netns) && !provided(netns);
        let lacks_ipv6 = observed.lacks_ipv6(&observed.ours);
        for (id, resource) in self.state.iter() {
            let inside = matches!(resource, Resource::Veth(veth) if gone(&veth.netns));
            let has_ipv6 = |link| !lacks_ipv6(&id.netns, &link);
            let idle = matches!(resource, Resource::Sysctl(it) if it.gives_ipv6().is_some_and(has_ipv6));
            if !inside && !idle && !gone(&id.netns) {
                state.insert(resource.clone());
            }
        }
        for (container, reason) in observed.absent.iter().filter(|(netns, _)| !provided(netns)) {
            let pending =
                Pending { container: container.to_string(), reason: reason.to_string(), origin: Span::default() };
            desired.pending.push(pending);
        }
        for (id, resource) in observed.ours.iter().filter(|(id, _)| self.state.get(id).is_none()) {
            if is_inhabited(id, resource, observed) {
                desired.notes.push(format!("namespace {} stays: somebody is in it", id.name));
                state.insert(resource.clone());
            }
        }
        desired.state = state;
        desired
    }
}

fn is_inhabited(id: &ResourceId, resource: &Resource, observed: &Observed) -> bool {
    let foreign = &observed.foreign;
    matches!(resource, Resource::Netns(netns) if netns.bound)
        && (foreign.processes.contains_key(&id.name) || foreign.links.keys().any(|(netns, _)| *netns == id.name))
}

/// What can be wanted of what was seen, or why not; without words where nobody would want it.
fn restorable(resource: &Resource) -> Result<Resource, &'static str> {
    let mut resource = resource.clone();
    match &mut resource {
        Resource::Netns(netns) if !netns.bound => return Err(""),
        Resource::Veth(veth) if veth.ifname.is_none() => return Err("its other end is out of sight"),
        Resource::Veth(veth) => {
            let veth = Arc::make_mut(veth);
            for end in [&mut veth.host, &mut veth.peer] {
                (end.grouped, end.link_local, end.alias) = (true, false, None);
            }
        }
        Resource::Bridge(bridge) => {
            let bridge = Arc::make_mut(bridge);
            (bridge.grouped, bridge.alias) = (true, None);
        }
        Resource::Firewall(firewall) if firewall.rules != Rules::Intact => {
            *firewall = Firewall::holding(firewall.table.clone(), firewall.elements.clone()).into();
        }
        _ => {}
    }
    Ok(resource)
}

/// The way back from what is prepared, planned and simulated: where it leads, and how well.
pub fn undo(prepared: &Prepared, target: Target) -> (Before, Certainty) {
    let before = Before::of(prepared, target);
    let certainty = certainty(prepared, &before).unwrap_or_else(Certainty::Impossible);
    (before, certainty)
}

fn certainty(prepared: &Prepared, before: &Before) -> Result<Certainty, String> {
    let mut simulation = Simulation::new(&prepared.observed.ours, &prepared.desired.state);
    for step in &prepared.plan.steps {
        simulation.apply(&step.id, &step.op).map_err(|refusal| refusal.to_string())?;
    }
    let after = simulation.state();
    plan(&diff(&before.state, &after), &before.state, &after).map_err(|flaw| flaw.to_string())?;
    let mut lost = before.lost.clone();
    for change in prepared.diff.values() {
        match change {
            Change::Delete { from: Resource::Netns(netns), .. }
            | Change::Replace { from: Resource::Netns(netns), .. }
                if netns.bound =>
            {
                lost.push(format!("namespace {} would be a new one, without what others set in it", netns.name));
            }
            Change::Update { from: Resource::Firewall(firewall), .. } if firewall.rules != Rules::Intact => {
                lost.push("what others changed in the firewall's rules does not come back".into());
            }
            _ => {}
        }
    }
    Ok(if lost.is_empty() { Certainty::Exact } else { Certainty::Approximate(lost) })
}

/// How a rollback ended.
#[derive(Debug)]
pub struct RolledBack {
    /// What the loop says of it, if it could run at all.
    pub report: Result<Report, NoPlan>,
}

impl RolledBack {
    /// Whether all is as it was.
    pub fn is_complete(&self) -> bool {
        self.report.as_ref().is_ok_and(Report::is_converged)
    }
}

/// Goes back: the same loop, with what was there before as its target.
pub fn roll_back(kernel: &mut impl Kernel, before: &Before) -> RolledBack {
    let target = Target::State(before);
    let report = look(kernel, target).and_then(|prepared| {
        if prepared.diff.is_empty() {
            return Ok(Report::idle(prepared.diff, prepared.desired));
        }
        execute(kernel, target, prepared, &mut |_, _| {})
    });
    RolledBack { report }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::simulated::Simulated;
    use crate::model::parse::parse;
    use crate::model::source::Source;
    use crate::model::topology::Topology;

    fn topology(subnet: &str) -> Topology {
        let text = format!(
            "[networks.n]\ndriver = \"bridge\"\nsubnets = [\"{subnet}\"]\n[containers.c]\nnetns = \"c\"\n\
             [endpoints.e]\ncontainer = \"c\"\nnetwork = \"n\"\n"
        );
        parse(&[Source::new("t.toml", text)]).expect("right")
    }

    /// A host with a topology, and with another one applied over it: what was there before the latter.
    fn applied(faults: impl IntoIterator<Item = usize>) -> (Simulated, Before, State) {
        let mut kernel = Simulated::default();
        let (good, bad) = (topology("10.1.0.0/24"), topology("10.2.0.0/24"));
        let run = |kernel: &mut Simulated, target: Target| {
            let prepared = look(kernel, target).expect("a plan");
            let (before, certainty) = undo(&prepared, target);
            assert_eq!(certainty, Certainty::Exact);
            execute(kernel, target, prepared, &mut |_, _| {}).expect("a run");
            before
        };
        run(&mut kernel, Target::Topology(&good));
        let there = kernel.ours.clone();
        kernel.faults = faults.into_iter().collect();
        let before = run(&mut kernel, Target::Topology(&bad));
        (kernel, before, there)
    }

    /// Executions from here on, more than any run has.
    fn all_that_follow(kernel: &Simulated) -> std::ops::Range<usize> {
        kernel.executed()..kernel.executed() + 1_000
    }

    #[test]
    fn what_failed_half_way_goes_back_completely() {
        let (kernel, ..) = applied([]);
        let steps = kernel.executed();
        let first = steps / 2;
        for fault in first..steps {
            let (mut kernel, before, there) = applied(fault..fault + 1_000);
            kernel.faults.clear();
            assert!(roll_back(&mut kernel, &before).is_complete(), "fault {fault}");
            assert!(diff(&there, &kernel.ours).is_empty(), "fault {fault}");
        }
    }

    #[test]
    fn a_rollback_that_fails_is_incomplete_and_can_be_tried_again() {
        let (mut kernel, before, there) = applied([]);
        kernel.faults = all_that_follow(&kernel).collect();
        let back = roll_back(&mut kernel, &before);
        assert!(!back.is_complete());
        assert!(!back.report.expect("a report").failed.is_empty(), "what failed is said");
        kernel.faults.clear();
        assert!(roll_back(&mut kernel, &before).is_complete());
        assert!(diff(&there, &kernel.ours).is_empty());
        assert_eq!(roll_back(&mut kernel, &before).report.expect("a report").done, 0, "and once is enough");
    }

    #[test]
    fn what_lived_in_a_container_that_is_gone_is_waited_for() {
        let text = "[networks.n]\ndriver = \"bridge\"\nsubnets = [\"10.1.0.0/24\"]\n[containers.c]\npid = 7\n\
                    [endpoints.e]\ncontainer = \"c\"\nnetwork = \"n\"\n";
        let with = parse(&[Source::new("t.toml", text)]).expect("right");
        let without = parse(&[Source::new("t.toml", text.split("[containers").next().expect("one"))]).expect("right");
        let mut kernel = Simulated::default();
        kernel.namespaces.insert("c".into());
        let prepared = look(&mut kernel, Target::Topology(&with)).expect("a plan");
        execute(&mut kernel, Target::Topology(&with), prepared, &mut |_, _| {}).expect("a run");
        // The scope of a rollback is that of the file that is undone; its container is still given there.
        let prepared = look(&mut kernel, Target::Topology(&with)).expect("a plan");
        let (before, _) = undo(&prepared, Target::Topology(&with));
        let prepared = look(&mut kernel, Target::Topology(&without)).expect("a plan");
        execute(&mut kernel, Target::Topology(&without), prepared, &mut |_, _| {}).expect("a run");
        kernel.namespaces.clear();
        let back = roll_back(&mut kernel, &before);
        assert!(back.is_complete(), "{back:?}");
        assert_eq!(back.report.expect("a report").desired.pending[0].container, "c");
    }
}
