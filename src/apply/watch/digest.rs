//! What a round came to: what is told of it, and what is kept in mind.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::event::Event;
use super::pace::Verdict;
use super::round::{Fix, Guard, Round};
use super::{Clock, Watcher};
use crate::kernel::KernelError;
use crate::model::resource::{KindName, ResourceId};

impl Watcher {
    /// Something was announced since `since`, and something earlier, at `unhealed`, if looks came to nothing meanwhile.
    pub(super) fn digest(&mut self, round: Round, (unhealed, since): (Clock, Clock), now: Clock) {
        let Round { fixes, failed, left, converged, pending, wanted, unguarded, .. } = round;
        let failed: BTreeMap<&ResourceId, &KernelError> = failed.iter().map(|(id, why)| (id, why)).collect();
        self.note_changes(&fixes, &failed, now.saturating_sub(unhealed));
        self.note_tries(&fixes, &failed, now);
        let mut wrong = left.clone();
        wrong.extend(failed.into_keys().cloned());
        match wanted.iter().find(|(id, _)| id.kind == KindName::Firewall) {
            Some((id, _)) => self.note_absence((unguarded, !(unguarded && wrong.contains(id))), since, now),
            None => self.absence.unwanted(),
        }
        for id in self.pace.settle(&wrong, now) {
            self.tell(Event::Settled { id: id.to_string() });
        }
        let pending: BTreeMap<String, String> = pending.into_iter().map(|it| (it.container, it.reason)).collect();
        self.note_pending(&pending);
        if !converged {
            // Something moved under us: look again, at the usual pace.
            self.disturbed(now);
        }
        self.standing.pending = pending;
        self.standing.resources = wanted.len();
        self.standing.drifted = wrong.len();
        if converged && wrong.is_empty() {
            self.converged = Some(now);
        }
        self.left = wrong;
    }

    /// The firewall was seen to, and nothing else.
    pub(super) fn guarded(&mut self, guard: &Guard, since: Clock, now: Clock) {
        self.note_changes(&guard.fixes, &BTreeMap::new(), now.saturating_sub(since));
        self.note_tries(&guard.fixes, &BTreeMap::new(), now);
        self.note_absence((guard.gone, guard.stands), since, now);
    }

    fn note_changes(&mut self, fixes: &[Fix], failed: &BTreeMap<&ResourceId, &KernelError>, took: Duration) {
        let done = || fixes.iter().filter(|fix| !failed.contains_key(&fix.id));
        let intentional = done().filter(|fix| fix.intentional).count();
        let corrective = done().count() - intentional;
        self.standing.counters.intentional += intentional as u64;
        self.standing.counters.corrective += corrective as u64;
        self.standing.counters.failed += failed.len() as u64;
        // One that is contested already is not told each time it is tried.
        let contested: BTreeSet<&ResourceId> = self.pace.contested().collect();
        let (roots, followers): (Vec<_>, Vec<_>) =
            done().filter(|fix| !contested.contains(&fix.id)).partition(|fix| !fix.follows);
        if roots.is_empty() && followers.is_empty() {
            return;
        }
        let objects = Event::named(roots.into_iter().chain(followers).map(|fix| &fix.id));
        self.tell(Event::Changed { corrective, intentional, objects, took_ms: took.as_millis() as u64 });
    }

    fn note_tries(&mut self, fixes: &[Fix], failed: &BTreeMap<&ResourceId, &KernelError>, now: Clock) {
        for fix in fixes.iter().filter(|fix| !failed.contains_key(&fix.id)) {
            if fix.intentional {
                self.pace.forget(&fix.id);
            } else if !fix.follows && self.pace.tried(&fix.id, Ok(()), now) == Verdict::Contested {
                let by = self.authors.suspect(fix.id.kind);
                self.standing.undone_by.extend(by.clone().map(|by| (fix.id.to_string(), by)));
                self.tell(Event::Contested { id: fix.id.to_string(), by });
            }
        }
        let follows: BTreeSet<&ResourceId> = fixes.iter().filter(|fix| fix.follows).map(|fix| &fix.id).collect();
        let alone = failed.keys().all(|id| follows.contains(id));
        for (id, error) in failed {
            // What fails because that fails from which it follows is held with it.
            if error.is_consequence() || (follows.contains(id) && !alone) {
                continue;
            }
            let error = error.to_string();
            if self.pace.tried(id, Err(error.clone()), now) == Verdict::Failing {
                self.tell(Event::Failed { id: id.to_string(), error });
            }
        }
    }

    /// Whether the firewall was found gone, and whether it stands now.
    pub(super) fn note_absence(&mut self, (gone, stands): (bool, bool), since: Clock, now: Clock) {
        if let Some(took) = self.absence.saw((gone, stands), since, now) {
            self.tell(Event::Unguarded { took_ms: took.as_millis() as u64 });
        }
    }

    fn note_pending(&mut self, pending: &BTreeMap<String, String>) {
        let before = std::mem::take(&mut self.standing.pending);
        for (container, reason) in pending.iter().filter(|(container, _)| !before.contains_key(*container)) {
            self.tell(Event::Pending { container: container.clone(), reason: reason.clone() });
        }
        for container in before.into_keys().filter(|container| !pending.contains_key(container)) {
            self.tell(Event::Attached { container });
        }
    }
}
