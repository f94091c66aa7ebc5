//! The simulated kernel behind the [`Kernel`] trait, with faults on demand: golden stories without privilege, random
//! stories, offline plans.

use std::collections::{BTreeMap, BTreeSet};

use super::{Kernel, KernelError, netns};
use crate::model::kinds::sysctl::Sysctl;
use crate::model::lower::route_localnet;
use crate::model::observed::{Foreign, Observed};
use crate::model::resource::{HOST, Kind, Op, Resource, Step, Text, Thing};
use crate::model::simulate::{Refusal, Simulation};
use crate::model::state::State;
use crate::model::wire::{Absent, NetnsRef, Scope};

/// A host that is nothing but values.
#[derive(Clone, Default, Debug)]
pub struct Simulated {
    /// What bears the mark of the topology.
    pub ours: State,
    /// What belongs to others.
    pub foreign: Foreign,
    /// Namespaces of others that are there: names, and names of containers given by path or pid.
    pub namespaces: BTreeSet<Text>,
    /// Executions of steps, from 0, that fail; by number since the host was made.
    pub faults: BTreeSet<usize>,
    executed: usize,
}

impl Kernel for Simulated {
    fn observe(&mut self, scope: &Scope) -> Result<Observed, KernelError> {
        let made: BTreeSet<Text> = self.ours.resources().filter_map(own_netns).collect();
        let there = |netns: &Text| self.namespaces.contains(netns) || made.contains(netns);
        let absent = scope.containers.iter().filter(|(netns, _)| !there(netns));
        let absent: BTreeMap<Text, Absent> = absent.map(|(netns, found)| (netns.clone(), reason(found))).collect();
        let present = scope.containers.keys().filter(|netns| there(netns)).cloned().collect();
        let mut ours = State::default();
        for resource in self.ours.resources().filter(|resource| !resource.stays()) {
            ours.insert(resource.clone());
        }
        for (netns, key) in &scope.sysctls {
            if let Some(setting) = ours_setting(&self.ours, netns, key) {
                ours.insert(setting);
            }
        }
        for bridge in self.ours.resources().filter(|resource| matches!(resource, Resource::Bridge(_))) {
            if let Some(setting) = ours_setting(&self.ours, &HOST.into(), &route_localnet(&bridge.id().name)) {
                ours.insert(setting);
            }
        }
        for link in self.foreign.uplinks().iter().filter(|route| route.learnt).filter_map(|route| route.link.clone()) {
            let key = format!("net.ipv6.conf.{link}.accept_ra");
            ours.insert(Sysctl { netns: HOST.into(), key: key.into(), value: "1".into() }.into());
        }
        for setting in self.ours.resources().filter(|resource| resource.stays()) {
            ours.insert(setting.clone());
        }
        Ok(Observed { ours, foreign: self.foreign.clone(), absent, present, looked: true })
    }

    fn execute(&mut self, steps: &[Step], progress: &mut dyn FnMut(usize)) -> Vec<Result<(), KernelError>> {
        let mut results: Vec<Result<(), KernelError>> = Vec::with_capacity(steps.len());
        let wanted: State = steps.iter().filter_map(|step| step.op.to().cloned()).collect();
        let mut simulation = Simulation::new(&self.observed_settings(steps), &wanted);
        for (at, step) in steps.iter().enumerate() {
            let failed = step.waits.iter().find(|wait| results[**wait as usize].is_err());
            results.push(match failed {
                Some(failed) => Err(KernelError::Skipped(steps[*failed as usize].id.to_string())),
                None if self.faults.contains(&self.executed) => {
                    Err(KernelError::unable("made to fail", "take the fault out"))
                }
                None => {
                    simulation.apply(&step.id, &step.op).map_err(|refusal| KernelError::Missing(refusal.to_string()))
                }
            });
            self.executed += 1;
            progress(at + 1);
        }
        self.ours = simulation.state();
        results
    }
}

impl Simulated {
    /// How many steps were executed since the host was made.
    pub fn executed(&self) -> usize {
        self.executed
    }

    /// Does behind netrec's back what a step would do. Others do not clear away first what stands upon a thing, and so
    /// it goes with it.
    ///
    /// # Errors
    ///
    /// When the simulated kernel refuses.
    pub fn drift(&mut self, op: &Op) -> Result<(), KernelError> {
        let wanted: State = op.to().cloned().into_iter().collect();
        let mut simulation = Simulation::new(&self.ours, &wanted);
        let mut ops = vec![op.clone()];
        while let Some(op) = ops.last() {
            match simulation.apply(&op.subject().id(), op) {
                Ok(()) => drop(ops.pop()),
                Err(Refusal::Carries { holder, .. }) => {
                    ops.extend(simulation.state().get(&holder).cloned().map(Op::Delete));
                }
                Err(refusal) => return Err(KernelError::Missing(refusal.to_string())),
            }
        }
        self.ours = simulation.state();
        Ok(())
    }

    /// The state with those settings that a step changes and that always have a value.
    fn observed_settings(&self, steps: &[Step]) -> State {
        let mut state = self.ours.clone();
        let settings = steps.iter().filter_map(|step| step.op.from()).filter(|resource| resource.stays());
        settings.cloned().for_each(|setting| state.insert(setting));
        state
    }
}

fn own_netns(resource: &Resource) -> Option<Text> {
    match resource {
        Resource::Netns(netns) if netns.bound => Some(netns.name.clone()),
        _ => None,
    }
}

/// A setting has a value, 0 until it is set, as long as its link is there.
fn ours_setting(state: &State, netns: &Text, key: &Text) -> Option<Resource> {
    let setting = Resource::from(Sysctl { netns: netns.clone(), key: key.clone(), value: "0".into() });
    let links: BTreeSet<Thing> =
        state.resources().flat_map(Kind::provides).filter(|thing| matches!(thing, Thing::Link(..))).collect();
    let there = setting.needs().iter().all(|need| match need.thing() {
        link @ Thing::Link(..) => links.contains(link),
        _ => true,
    });
    there.then_some(setting)
}

fn reason(found: &NetnsRef) -> Absent {
    Absent::Missing(match found {
        NetnsRef::Path(path) if path == "/proc/self/ns/net" => return Absent::Host,
        NetnsRef::Named(name) => netns::nobody(name),
        NetnsRef::Path(path) => format!("{path} is not there"),
        NetnsRef::Pid(pid) => format!("process {pid} is not there"),
    })
}
