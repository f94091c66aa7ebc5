//! `netrec trace --live`: what the kernel itself says of such a packet.

use serde::Serialize;

use super::Failure;
use crate::cli::Exit;
use crate::kernel::netns::{self, Found};
use crate::kernel::trace::{Event, Verdict, trace};
use crate::kernel::{KernelError, stop};
use crate::model::diagnostic::Diagnostic;
use crate::model::kinds::firewall::Firewall;
use crate::model::lower;
use crate::model::topology::Topology;
use crate::model::trace::{Question, Sender, Trace, World};

/// What the kernel said.
#[derive(Serialize)]
pub(super) struct Live {
    steps: Vec<Step>,
    /// Whether a rule or a policy dropped it; what else may end it is not told.
    pub(super) dropped: bool,
    /// Whether the topology's rules decided as the plan says.
    as_planned: bool,
}

#[derive(Serialize)]
struct Step {
    table: String,
    chain: String,
    rule: String,
    verdict: &'static str,
}

impl Live {
    /// Sends a packet like the one that was followed, and listens.
    pub(super) fn of(
        (world, topology): (&World<'_>, &Topology),
        question: &Question,
        planned: &Trace,
    ) -> Result<Self, Failure> {
        let usage = |what: String, hint| Failure::new(Exit::Usage, Diagnostic::new(what).hint(hint));
        let Some(packet) = &planned.sent else {
            return Ok(Self { steps: Vec::new(), dropped: false, as_planned: true });
        };
        let netns = match &question.from {
            Sender::Host => None,
            Sender::Outside(address) => {
                let hint = "`--live` sends from endpoints, containers and `host`";
                return Err(usage(format!("nothing can be sent from {address}"), hint));
            }
            Sender::Container(name, _) => {
                let found = lower::namespaces(topology).get(name).map(netns::find).transpose()?;
                let Some(Found::Bound(netns, _)) = found else {
                    return Err(usage(format!("`{name}` is not there to send from"), "`netrec apply` first"));
                };
                Some(netns)
            }
        };
        stop::listen();
        let events = trace(packet, netns.as_ref().map(std::os::fd::AsFd::as_fd))?;
        if stop::asked() {
            return Err(KernelError::Stopped.into());
        }
        Ok(Self::heard(world, &Firewall::table_name(&topology.name), &events, planned))
    }

    fn heard(world: &World<'_>, own: &str, events: &[Event], planned: &Trace) -> Self {
        let rule = |event: &Event| {
            let Some((at, count)) = event.rule else { return "policy".to_owned() };
            let mut rules =
                if event.table == own { world.rules(event.family == "bridge", &event.chain) } else { Vec::new() };
            // Where there are more or fewer, that place is another rule's.
            if rules.len() == count { rules.swap_remove(at) } else { format!("rule {}", at + 1) }
        };
        // What goes on is of interest only where it remembers something; what is accepted by policy was not judged.
        let decides = |event: &&Event| match event.verdict {
            Verdict::Drop => true,
            Verdict::Accept => event.rule.is_some(),
            Verdict::On => event.table == own && rule(event).contains(" update "),
        };
        let decisive: Vec<&Event> = events.iter().filter(decides).collect();
        let ours = decisive.iter().filter(|it| it.table == own).map(|event| (event.chain.clone(), rule(event)));
        let wanted = planned.steps.iter().filter(|step| step.at.starts_with("inet ") || step.at.starts_with("bridge "));
        let as_planned = ours.eq(wanted.map(|step| (step.chain.clone(), step.rule.clone())));
        let verdict = |verdict| match verdict {
            Verdict::Accept => "accept",
            Verdict::Drop => "drop",
            Verdict::On => "continue",
        };
        let steps = decisive.iter().map(|event| Step {
            table: format!("{} {}", event.family, event.table),
            chain: event.chain.clone(),
            rule: rule(event),
            verdict: verdict(event.verdict),
        });
        let dropped = events.iter().any(|event| event.verdict == Verdict::Drop);
        Self { steps: steps.collect(), dropped, as_planned }
    }

    /// The same for people.
    pub(super) fn text(&self) -> String {
        let width = |of: fn(&Step) -> &str| self.steps.iter().map(|step| of(step).len()).max().unwrap_or(0);
        let (tables, chains) = (width(|step| &step.table), width(|step| &step.chain));
        let line = |it: &Step| {
            let verdict = if it.rule.ends_with(it.verdict) { String::new() } else { format!("  => {}", it.verdict) };
            format!("  {:<tables$}  {:<chains$}  {}{verdict}\n", it.table, it.chain, it.rule)
        };
        let steps: String = self.steps.iter().map(line).collect();
        let ends = if self.dropped { "dropped" } else { "not dropped by any rule" };
        let planned = if self.as_planned { "as planned" } else { "not as planned: `netrec plan` says what differs" };
        format!("live:\n{steps}{ends}, {planned}\n")
    }
}
