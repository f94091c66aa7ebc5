//! How often one object is put right, and how much is spent on looks that find nothing to do.
//!
//! Whoever keeps undoing what we do is not fought: each try on one object waits twice as long as the one before, and
//! after a few in a row the object is contested and tried once a minute. Everything else is healed as before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Clock;
use crate::model::hash;
use crate::model::resource::ResourceId;

/// Pause after the first try; doubled with each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_mins(1);
/// So many tries in a row that each succeeded and were undone make an object contested.
const CONTESTED_FROM: u32 = 5;
/// An object that stayed right that long starts anew.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);
/// A contested or failing one has to stay right longer.
const SETTLED_AFTER: Duration = Duration::from_mins(1);
/// Objects kept in mind; beyond that the one that was quiet for longest is forgotten.
const OBJECTS: usize = 10_000;

/// The objects that were put right lately.
#[derive(Clone, Default, Debug)]
pub struct Pace {
    /// Sets hosts with the same topology apart.
    seed: u64,
    struggles: BTreeMap<ResourceId, Struggle>,
}

#[derive(Clone, Debug)]
struct Struggle {
    tries: u32,
    last: Clock,
    not_before: Clock,
    standing: Standing,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Standing {
    /// It was put right.
    Right,
    /// It is undone again and again.
    Contested,
    /// It cannot be put right, and why.
    Failing(String),
}

/// What a try means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing that has to be said of the object for itself.
    Usual,
    /// From now on it is contested.
    Contested,
    /// It fails, or fails for another reason than before.
    Failing,
}

impl Pace {
    /// Starts with nothing in mind.
    pub fn new(seed: u64) -> Self {
        Self { seed, struggles: BTreeMap::new() }
    }

    /// The objects that are to be left alone at this time.
    pub fn held(&self, now: Clock) -> BTreeSet<ResourceId> {
        self.struggles.iter().filter(|(_, it)| it.not_before > now).map(|(id, _)| id.clone()).collect()
    }

    /// When the first of these may be tried again.
    pub fn due(&self, ids: &BTreeSet<ResourceId>) -> Option<Clock> {
        ids.iter().filter_map(|id| self.struggles.get(id)).map(|it| it.not_before).min()
    }

    /// Notes a try that put an object right, or did not.
    pub fn tried(&mut self, id: &ResourceId, result: Result<(), String>, now: Clock) -> Verdict {
        let recent = |it: &Struggle| it.standing != Standing::Right || now < it.last + FORGOTTEN_AFTER;
        let before = self.struggles.remove(id).filter(recent);
        let (tries, standing) = before.map_or((0, Standing::Right), |it| (it.tries, it.standing));
        // What failed and succeeds at last was not undone by anybody.
        let in_a_row = if result.is_ok() && matches!(standing, Standing::Failing(_)) { 0 } else { tries };
        let tries = in_a_row.saturating_add(1);
        let next = match result {
            Err(why) => Standing::Failing(why),
            Ok(()) if standing == Standing::Contested || tries >= CONTESTED_FROM => Standing::Contested,
            Ok(()) => Standing::Right,
        };
        let verdict = match &next {
            _ if next == standing => Verdict::Usual,
            Standing::Right => Verdict::Usual,
            Standing::Contested => Verdict::Contested,
            Standing::Failing(_) => Verdict::Failing,
        };
        let pause = if next == Standing::Contested { PAUSE_MAX } else { pause(tries) };
        let not_before = now + self.jittered(pause, id, tries);
        self.make_room();
        self.struggles.insert(id.clone(), Struggle { tries, last: now, not_before, standing: next });
        verdict
    }

    /// Forgets an object: it is wanted otherwise than before, so what happened to it says nothing any more.
    pub fn forget(&mut self, id: &ResourceId) {
        self.struggles.remove(id);
    }

    /// Forgets those that stayed right for long enough. `wrong` are the objects that are not as they should be. The
    /// result are those that were contested or failing.
    pub fn settle(&mut self, wrong: &BTreeSet<ResourceId>, now: Clock) -> Vec<ResourceId> {
        let mut settled = Vec::new();
        self.struggles.retain(|id, it| {
            if wrong.contains(id) {
                it.last = now;
                return true;
            }
            match it.standing {
                Standing::Right => now < it.last + FORGOTTEN_AFTER,
                // What failed and is right nevertheless was put right by others.
                Standing::Failing(_) if now > it.last => {
                    settled.push(id.clone());
                    false
                }
                Standing::Contested if now >= it.last + SETTLED_AFTER => {
                    settled.push(id.clone());
                    false
                }
                _ => true,
            }
        });
        settled
    }

    /// Those that are contested.
    pub fn contested(&self) -> impl Iterator<Item = &ResourceId> {
        self.struggles.iter().filter(|(_, it)| it.standing == Standing::Contested).map(|(id, _)| id)
    }

    /// Those that fail, and why.
    pub fn failing(&self) -> impl Iterator<Item = (&ResourceId, &str)> {
        self.struggles.iter().filter_map(|(id, it)| match &it.standing {
            Standing::Failing(why) => Some((id, why.as_str())),
            _ => None,
        })
    }

    fn make_room(&mut self) {
        while self.struggles.len() >= OBJECTS {
            let quiet = self.struggles.iter().min_by_key(|(_, it)| it.last).map(|(id, _)| id.clone());
            quiet.map(|id| self.struggles.remove(&id));
        }
    }

    /// A quarter more or less.
    fn jittered(&self, pause: Duration, id: &ResourceId, tries: u32) -> Duration {
        let percent = 75 + hash::of(&(self.seed, id, tries)) % 51;
        pause * percent as u32 / 100
    }
}

fn pause(tries: u32) -> Duration {
    PAUSE_FIRST.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(PAUSE_MAX)
}

/// What looks may cost that were woken by something and found nothing to do: a fiftieth of the time, after a start that
/// is free. On a host where others change things all day netrec is not to be the one that works hardest.
#[derive(Clone, Debug)]
pub struct Budget {
    /// In microseconds; below zero looks wait.
    spare: i64,
    as_of: Clock,
}

impl Budget {
    const SHARE: i64 = 50;
    const SPARE_MAX: i64 = 500_000;
    /// The longest that a look waits.
    const WAIT_MAX: Duration = Duration::from_secs(2);

    /// Takes a look's time off.
    pub fn spend(&mut self, time: Duration, now: Clock) {
        self.refill(now);
        let debt_max = -(Self::WAIT_MAX.as_micros() as i64 / Self::SHARE);
        self.spare = (self.spare - micros(time)).max(debt_max);
    }

    /// When the next look can be afforded.
    pub fn ready(&mut self, now: Clock) -> Clock {
        self.refill(now);
        now + Duration::from_micros((-self.spare).max(0).cast_unsigned() * Self::SHARE as u64)
    }

    fn refill(&mut self, now: Clock) {
        self.spare = Self::SPARE_MAX.min(self.spare + micros(now.saturating_sub(self.as_of)) / Self::SHARE);
        self.as_of = now;
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self { spare: Self::SPARE_MAX, as_of: Clock::ZERO }
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 2)
}
