//! The loop after each event, at our own pace: when to look, what to leave alone meanwhile, what to tell.
//!
//! [`Watcher`] decides and does nothing else: it is told what happened and what time it is, and says what comes next. It
//! opens nothing and waits for nothing, so that all of it is tested on the simulated kernel with a clock that is a
//! number. Whoever runs it ([`cli`](crate::cli)) brings the files, the kernel's announcements and the time.

pub mod absence;
pub mod authors;
pub mod candidate;
mod digest;
pub mod event;
pub mod hold;
pub mod order;
pub mod pace;
pub mod reading;
pub mod reason;
pub mod round;
pub mod standing;
pub mod tally;

#[cfg(test)]
mod tests;

pub use self::order::{Content, Next, Order, Sight};

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use self::absence::Absence;
use self::authors::Authors;
use self::candidate::Candidate;
use self::event::Event;
use self::pace::{Budget, Pace};
use self::reason::Reason;
use self::standing::{Standing, State};
use super::NoPlan;
use crate::kernel::events::Heard;
use crate::model::resource::ResourceId;

/// Time since the watcher was started, on a clock that never goes back.
pub type Clock = Duration;

/// Events that nobody has fetched; beyond that the oldest are dropped.
const EVENTS: usize = 1_000;
/// After a look that was not possible the next one waits, each time twice as long, from this on.
const BLIND_FIRST: Duration = Duration::from_millis(100);
/// At most that long.
const BLIND_MAX: Duration = Duration::from_secs(30);

/// After a look that the host refused the next one waits no longer than that if something is announced meanwhile.
const HEARD: Duration = Duration::from_secs(1);

/// Looks at everything take at most that share of the time.
const WHOLE_SHARE: u32 = 1_000;

/// What the watcher keeps to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Between two looks that nothing asked for; a quarter more or less. They are at everything, unless that would take
    /// more than a thousandth of the time.
    pub slow: Duration,
    /// Sets hosts apart that run the same topology.
    pub seed: u64,
}

/// The watcher's mind.
#[expect(clippy::struct_excessive_bools, reason = "each is true or not for reasons of its own")]
#[derive(Clone, Debug)]
pub struct Watcher {
    limits: Limits,
    pace: Pace,
    budget: Budget,
    /// What is kept up: it was followed at least once.
    good: Option<Arc<Content>>,
    candidate: Candidate,
    /// What is being tried by the look under way.
    trying: Option<Arc<Content>>,
    suspended: bool,
    flips: Option<Clock>,
    /// From when to when something was announced that no look has seen.
    dirty: Option<(Clock, Clock)>,
    /// From when on something may be wrong that no look could put right, as nothing came of them.
    unhealed: Option<Clock>,
    looking: bool,
    /// Whether a round is wanted that the one ordered already cannot be.
    again: bool,
    /// No look before that.
    not_before: Clock,
    /// But from then on if something was announced since the host refused one: what was in the way may have gone.
    heard_before: Option<Clock>,
    /// A look at that time at the latest.
    slow: Clock,
    /// From then on the next look is at everything, announced or not.
    whole: Clock,
    blind: u32,
    /// Whether the last round changed something.
    wrote: bool,
    /// What differs as of the last look and is left.
    left: BTreeSet<ResourceId>,
    /// Why the files are not followed.
    files: Option<String>,
    /// Why the content, though well-formed, is not followed, or cannot be kept up.
    held_up: Reason,
    authors: Authors,
    /// When all was seen to be as it should be.
    converged: Option<Clock>,
    absence: Absence,
    standing: Standing,
    /// The state that was told last.
    told: State,
    events: VecDeque<Event>,
}

impl Watcher {
    /// Starts with nothing to keep up.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            pace: Pace::new(limits.seed),
            budget: Budget::default(),
            good: None,
            candidate: Candidate::default(),
            trying: None,
            suspended: false,
            flips: None,
            dirty: None,
            unhealed: None,
            looking: false,
            again: false,
            not_before: Clock::ZERO,
            heard_before: None,
            slow: Clock::ZERO,
            whole: Clock::ZERO,
            blind: 0,
            wrote: false,
            left: BTreeSet::new(),
            files: None,
            held_up: Reason::default(),
            authors: Authors::default(),
            converged: None,
            absence: Absence::default(),
            standing: Standing::default(),
            told: State::Starting,
            events: VecDeque::new(),
        }
    }

    /// The files say this, completely and stably.
    pub fn accept(&mut self, content: Content, now: Clock) {
        if self.files.take().is_some() {
            self.tell(Event::Recovered);
        }
        let known = self.content().is_some_and(|known| known.digest == content.digest);
        if known && !self.candidate.is_refused() {
            self.restate();
            return;
        }
        self.candidate.offer(content);
        // Whoever changed the files may have ended a quarrel.
        self.pace = Pace::new(self.limits.seed);
        self.asked(now);
        self.restate();
    }

    /// The files cannot be read, or say nothing that can be followed.
    pub fn reject(&mut self, reason: String) {
        if self.files.as_ref() == Some(&reason) {
            return;
        }
        self.standing.counters.rejected += 1;
        self.tell(Event::Rejected { reason: reason.clone(), kept: self.good.is_some() });
        self.files = Some(reason);
        self.restate();
    }

    /// The kernel announced something at that time or before.
    pub fn heard(&mut self, heard: &Heard, at: Clock) {
        self.standing.counters.announcements += heard.messages;
        if heard.overflow {
            self.standing.counters.overflows += 1;
            self.tell(Event::Overflow);
        }
        heard.authors.iter().for_each(|author| self.authors.note(author));
        if heard.changed || heard.overflow {
            self.disturbed(at);
        }
    }

    /// Something may have changed: whoever says so wants a look.
    pub fn disturbed(&mut self, at: Clock) {
        self.dirty = Some(self.dirty.map_or((at, at), |(first, last)| (first, last.max(at))));
    }

    /// Somebody wants something else than before, which a round that is ordered already does not know.
    fn asked(&mut self, now: Clock) {
        self.disturbed(now);
        self.again = self.looking;
    }

    /// Somebody wants a look now, and what was refused tried again.
    pub fn urge(&mut self, now: Clock) {
        self.candidate.urge();
        self.asked(now);
        self.whole = now;
        self.not_before = now;
        self.budget = Budget::default();
    }

    /// Stops writing, or goes on with it; for that long, or until told otherwise.
    pub fn suspend(&mut self, suspended: bool, time: Option<Duration>, now: Clock) {
        self.flips = time.map(|time| now + time);
        if self.suspended != suspended {
            self.suspended = suspended;
            self.asked(now);
        }
        self.restate();
    }

    /// What comes next.
    pub fn next(&mut self, now: Clock) -> Next {
        if self.flips.is_some_and(|at| at <= now) {
            self.suspend(!self.suspended, None, now);
        }
        if self.looking {
            return Next::Wait(None);
        }
        let whole = now >= self.time_of_whole_look();
        let heard = self.good.is_none() && self.time_if_heard(now).is_some_and(|at| at <= now);
        self.candidate.wake(whole || now >= self.slow || heard, now);
        let at = self.time_of_look(now);
        let trying = self.candidate.due().filter(|_| !self.suspended);
        match trying.or(self.good.as_ref()).filter(|_| at <= now).cloned() {
            Some(content) => {
                self.looking = true;
                self.trying = trying.cloned();
                // Who has left a namespace, or came to a name, said nothing.
                let refused = self.blind > 0 || (self.trying.is_some() && self.candidate.is_refused());
                Next::Look(Order {
                    at: now,
                    content,
                    held: self.pace.held(now),
                    write: !self.suspended,
                    whole,
                    glance: now >= self.slow || refused,
                })
            }
            None => Next::Wait([Some(at).filter(|at| *at > now), self.flips].into_iter().flatten().min()),
        }
    }

    fn time_of_look(&mut self, now: Clock) -> Clock {
        let due = self.candidate.due().map(|_| Clock::ZERO);
        let tried = due.or(self.candidate.again()).filter(|_| !self.suspended);
        let given_way = self.candidate.gives_way().then_some(Clock::ZERO);
        let retry = self.pace.due(&self.left).filter(|_| !self.suspended);
        let may_look = self.good.is_some() || due.is_some();
        let woken = (self.is_woken() && may_look).then(|| self.budget.ready(now));
        let heard = self.time_if_heard(now);
        let first = heard.filter(|_| self.good.is_none() && !self.suspended);
        let wanted = [woken, retry, given_way, tried, first].into_iter().flatten();
        let slow = self.slow.min(self.time_of_whole_look());
        wanted.fold(slow, Clock::min).max(heard.map_or(self.not_before, |heard| heard.min(self.not_before)))
    }

    /// When to look again at what the host has refused, if something was announced since.
    fn time_if_heard(&mut self, now: Clock) -> Option<Clock> {
        let at = self.heard_before.filter(|_| self.dirty.is_some())?;
        Some(at.max(self.budget.ready(now)))
    }

    /// Whether something may be wrong that a look is to put right.
    fn is_woken(&self) -> bool {
        self.dirty.is_some() || self.unhealed.is_some()
    }

    /// What was announced is put right first, but not for ever.
    fn time_of_whole_look(&self) -> Clock {
        if self.is_woken() { self.whole + self.limits.slow } else { self.whole }
    }

    /// What came of the look that [`next`](Self::next) asked for.
    pub fn looked(&mut self, sight: Sight, now: Clock) {
        self.looking = false;
        self.standing.counters.looks += 1;
        self.standing.counters.looks_us += sight.took.as_micros() as u64;
        let since = self.dirty.map_or(now, |(first, _)| first);
        if !matches!(sight.result, Err((NoPlan::Unseen(_), _))) {
            // What was announced before it began has been seen.
            self.dirty = self.dirty.filter(|(_, last)| *last > sight.began).map(|(_, last)| (last, last));
        }
        self.heard_before = None;
        let again = std::mem::take(&mut self.again);
        if sight.deaf || again {
            self.disturbed(now);
        }
        let jitter = 75 + self.standing.counters.looks.wrapping_mul(self.limits.seed | 1) % 51;
        self.slow = now + self.limits.slow * jitter as u32 / 100;
        if sight.whole {
            // With that share left to it, a watcher of thousands of endpoints is idle when nothing happens.
            self.whole = self.slow.max(now + sight.took * WHOLE_SHARE);
        }
        // A look takes no more than half of the time, whatever happens.
        self.not_before = now + sight.took.min(Duration::from_millis(250));
        // Trying again what was refused is paid for by trying it ever more seldom.
        let given_way = self.trying.is_none() && self.candidate.gives_way();
        match sight.result {
            Ok(round) => {
                self.blind = 0;
                let idle = round.fixes.is_empty();
                if idle {
                    self.not_before = now;
                }
                // Own changes are announced as well, so the look after one is free.
                if idle && !self.wrote && !given_way {
                    self.budget.spend(sight.took, now);
                }
                self.wrote = !idle;
                self.followed();
                let unhealed = self.unhealed.take().unwrap_or(since);
                self.digest(round, (unhealed, since), now);
            }
            Err((why, text)) => {
                self.unhealed.get_or_insert(since);
                if let Some(guard) = sight.guard {
                    self.guarded(&guard, since, now);
                }
                self.hindered(&why, text, sight.took, now);
            }
        }
        if given_way || self.good.is_none() {
            self.candidate.wait(now);
        }
        if again {
            // Whoever asked meanwhile, as by deciding what waits to be confirmed, is not to wait for it.
            self.not_before = now;
            self.candidate.urge();
        }
        self.restate();
    }

    /// A round was possible, so what it was for can be followed.
    fn followed(&mut self) {
        if let Some(content) = self.trying.take() {
            self.standing.counters.accepted += 1;
            self.tell(Event::Accepted { digest: content.digest.clone() });
            self.candidate.followed(&content);
            self.good = Some(content);
        }
        if !self.candidate.is_refused() && self.held_up.end() {
            self.tell(Event::Recovered);
        }
    }

    fn hindered(&mut self, why: &NoPlan, text: String, took: Duration, now: Clock) {
        let unseen = matches!(why, NoPlan::Unseen(_));
        let blamed = self.trying.take().filter(|_| !unseen && !matches!(why, NoPlan::Undecided(_)));
        // What is kept up has its turn after what is blamed, and only then.
        let kept = self.good.is_some() && blamed.is_some();
        if self.held_up.note(&text, kept) {
            self.tell(Event::Rejected { reason: text, kept });
            self.standing.counters.rejected += u64::from(blamed.is_some());
        }
        if let Some(content) = blamed {
            // Meanwhile the files may have come to say something else, which is tried next.
            if self.candidate.is(&content) {
                self.candidate.refuse(matches!(why, NoPlan::Refused(_)));
            }
            if self.good.is_none() {
                self.budget.spend(took, now);
            }
        } else if matches!(why, NoPlan::Undecided(_)) {
            // Whoever decides is heard, but not the end of a guard that is killed.
            self.not_before = self.slow.min(now + BLIND_MAX);
        } else {
            // Not the content's fault, or not of the files' making: the same again, ever later.
            let pause = BLIND_FIRST.saturating_mul(1 << self.blind.min(16)).min(BLIND_MAX);
            self.blind += 1;
            self.not_before = now + pause;
            self.budget.spend(took, now);
        }
        self.heard_before = matches!(why, NoPlan::Refused(_)).then_some(now + HEARD);
    }

    /// Works out how it stands now, and tells if that is new.
    fn restate(&mut self) {
        let standing = &mut self.standing;
        standing.reason = self.files.clone().or_else(|| self.held_up.last().cloned());
        standing.digest = self.good.as_ref().map(|content| content.digest.clone());
        standing.contested = self.pace.contested().map(ToString::to_string).collect();
        standing.undone_by.retain(|id, _| standing.contested.contains(id));
        standing.failed = self.pace.failing().map(|(id, why)| (id.to_string(), why.to_owned())).collect();
        let to = match () {
            () if self.suspended => State::Suspended,
            () if standing.reason.is_some() => State::Degraded,
            () if self.good.is_none() => State::Starting,
            () if !standing.contested.is_empty() => State::Contested,
            () if !standing.failed.is_empty() => State::Failed,
            () if standing.drifted > 0 => State::Drifted,
            () if !standing.pending.is_empty() => State::Pending,
            () => State::InSync,
        };
        standing.state = to;
        // A drift is about to be put right, which is told by itself.
        if to != State::Drifted && to != self.told {
            let from = std::mem::replace(&mut self.told, to);
            self.tell(Event::State { from, to });
        }
    }

    fn tell(&mut self, event: Event) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// What there is to tell since the last time.
    pub fn events(&mut self) -> impl Iterator<Item = Event> {
        std::mem::take(&mut self.events).into_iter()
    }

    /// How it stands.
    pub fn standing(&self, now: Clock) -> Standing {
        let until_s = self.flips.map(|at| at.saturating_sub(now).as_secs());
        let converged_ago_s = self.converged.map(|at| now.saturating_sub(at).as_secs());
        let unguarded = self.absence.told(now);
        Standing { converged_ago_s, until_s, unguarded, ..self.standing.clone() }
    }

    /// What is kept up, or to be followed next.
    pub fn content(&self) -> Option<&Arc<Content>> {
        self.candidate.due().or(self.good.as_ref())
    }

    /// Containers that are waited for.
    pub fn pending(&self) -> impl Iterator<Item = &str> {
        self.standing.pending.keys().map(String::as_str)
    }
}
