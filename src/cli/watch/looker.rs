//! The thread that looks and writes: netlink calls block, and the watcher has to answer meanwhile.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::sync::mpsc;

use crate::apply::watch::round::{Draft, Guard, Round, guard};
use crate::apply::watch::{Content, Order, Sight};
use crate::apply::{Known, NoPlan, Target};
use crate::cli::confirm;
use crate::cli::failure::Failure;
use crate::kernel::events::{Heard, Nsids};
use crate::kernel::linux::Linux;
use crate::kernel::memory::Disturbed;
use crate::kernel::{Kernel, KernelError, lock};
use crate::model::focus::otherwise;
use crate::model::resource::KindName;
use crate::model::state::State;
use crate::model::wire::{Containers, NetnsRef};

/// How long another netrec may write before a round is given up and tried again.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// Takes orders, one at a time, and gives back what came of them.
pub(super) struct Looker {
    orders: mpsc::Sender<Order>,
    sights: mpsc::Receiver<Sight>,
    /// Whether what came of the last order is not known yet.
    busy: bool,
    /// What was heard since the last order.
    heard: Arc<Mutex<Heard>>,
}

impl Looker {
    /// Starts the thread; its times are since `start`.
    pub(super) fn start(start: Instant) -> std::io::Result<Self> {
        let (orders, taken) = mpsc::channel(1);
        let (done, sights) = mpsc::channel(1);
        let heard = Arc::new(Mutex::new(Heard::default()));
        let mut hand = Hand {
            start,
            linux: Linux::remembering(),
            nsids: Nsids::default(),
            heard: heard.clone(),
            listening: None,
            before: None,
            known: None,
            bygone: None,
        };
        std::thread::Builder::new().name("look".into()).spawn(move || hand.serve(taken, &done))?;
        Ok(Self { orders, sights, busy: false, heard })
    }

    /// Gives an order; the one before must have come back.
    pub(super) fn order(&mut self, order: Order) {
        self.busy = true;
        // It fails only if the thread has ended, which `sight` tells.
        let _ = self.orders.try_send(order);
    }

    /// What came of the order; none if the thread has ended.
    pub(super) async fn sight(&mut self) -> Option<Sight> {
        let sight = self.sights.recv().await;
        self.busy = false;
        sight
    }

    /// Whether a look is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Something was announced, which the next look is to see.
    pub(super) fn hears(&self, heard: &Heard) {
        self.heard.lock().expect("nobody panics with it").extend(heard);
    }

    /// Names may stand for other namespaces by now.
    pub(super) fn hears_of_names(&self) {
        self.hears(&Heard { names: true, ..Heard::default() });
    }
}

struct Hand {
    start: Instant,
    linux: Linux,
    nsids: Nsids,
    heard: Arc<Mutex<Heard>>,
    /// The digest of the content whose containers are heard, and these.
    listening: Option<(String, Containers)>,
    /// What the last round wanted.
    before: Option<State>,
    /// What a content came to.
    known: Option<(Arc<Content>, Box<Known>)>,
    /// What was known of the one before.
    bygone: Option<(Arc<Content>, Box<Known>)>,
}

impl Hand {
    fn serve(&mut self, mut orders: mpsc::Receiver<Order>, done: &mpsc::Sender<Sight>) {
        while let Some(order) = orders.blocking_recv() {
            if done.blocking_send(self.carry_out(&order)).is_err() {
                return;
            }
            // Thousands of objects, for which nobody has to wait.
            self.bygone = None;
        }
    }

    fn carry_out(&mut self, order: &Order) -> Sight {
        let began = self.start.elapsed();
        tracing::debug!("the look begins");
        let heard = std::mem::take(&mut *self.heard.lock().expect("nobody panics with it"));
        let mut disturbed = self.nsids.disturbed(&heard);
        disturbed.anywhere |= order.whole;
        disturbed.names |= order.glance;
        let names = disturbed.names || disturbed.anywhere;
        self.linux.disturb(&disturbed);
        // Before the look, so that nothing happens unheard between the two.
        if names || self.listening.as_ref().is_none_or(|(digest, _)| *digest != order.content.digest) {
            self.listen(&order.content, names);
        }
        // A whole look is the judge, and is not to be told what is known.
        let known = self.known.take().filter(|_| !order.whole);
        let topology = &order.content.topology;
        let same = |content: &Content| content.digest == order.content.digest;
        let target = match &known {
            Some((content, known)) if same(content) => Target::Known(topology, known),
            Some((content, known)) => Target::Turned(&order.content, known, &content.topology),
            None => Target::Topology(topology),
        };
        let result = round(&mut self.linux, order, target, self.before.as_ref());
        let guard = match &result {
            Ok(_) | Err(NoPlan::Unseen(_)) => None,
            Err(_) => guarded(&mut self.linux, order, self.before.as_ref()),
        };
        (self.known, self.bygone) = match known {
            Some((content, known)) if same(&content) => (Some((content, known)), None),
            other => (None, other),
        };
        tracing::debug!("the look ends");
        let made = result.iter().flat_map(|round| &round.fixes).filter(|fix| fix.id.kind == KindName::Netns);
        let made: Vec<NetnsRef> = made.map(|fix| NetnsRef::Named(fix.id.name.clone())).collect();
        let deaf = if names { self.listen(&order.content, true) } else { self.hear(made.iter()) };
        let result = match result {
            Ok(mut round) => {
                match round.known.take() {
                    Some(known) => {
                        self.known = Some((order.content.clone(), known));
                        self.linux.settle();
                    }
                    None if round.settled => self.linux.settle(),
                    // What is known and when all was so belong together.
                    None => self.linux.unsettle(),
                }
                self.before = Some(round.wanted.clone());
                Ok(round)
            }
            Err(no_plan) => {
                if self.known.is_none() {
                    self.linux.unsettle();
                }
                let text = describe(&no_plan, order);
                Err((no_plan, text))
            }
        };
        Sight {
            ordered: order.at,
            began,
            whole: order.whole,
            took: self.start.elapsed().saturating_sub(began),
            deaf,
            guard,
            result,
        }
    }

    /// Turns to the containers of a content, `all` of them or those that were not heard before: what stands behind their
    /// names is not known. Whether one was there that is to be looked at.
    fn listen(&mut self, content: &Content, all: bool) -> bool {
        let containers = content.scope.containers.clone();
        let before = self.listening.take().map(|(_, before)| before).filter(|_| !all).unwrap_or_default();
        let there = self.hear(otherwise(&containers, &before).map(|(_, netns)| netns));
        self.listening = Some((content.digest.clone(), containers));
        there
    }

    /// Gives nsids to namespaces that have none; whether there were such, which are to be looked at.
    fn hear<'a>(&mut self, containers: impl Iterator<Item = &'a NetnsRef>) -> bool {
        let new = self.nsids.assign(containers).unwrap_or_else(|error| {
            tracing::warn!(%error, "not all namespaces are heard; the slow look sees them");
            Disturbed::default()
        });
        self.linux.disturb(&new);
        !new.is_nowhere()
    }
}

fn round(kernel: &mut Linux, order: &Order, target: Target, before: Option<&State>) -> Result<Round, NoPlan> {
    let topology = &order.content.topology;
    let draft = Draft::new(kernel, topology, &order.held, target)?;
    if draft.is_idle() || !order.write {
        return Ok(draft.rest());
    }
    // The lock is taken only to write, and if nobody else has it the draft is as good as made under it: what it
    // deletes is read again before, and what it makes must not be there.
    if let Some(_lock) = lock::acquire(Duration::ZERO).map_err(NoPlan::Unseen)? {
        may_write(&order.content)?;
        return draft.carry_out(kernel, before);
    }
    let busy = || NoPlan::Unseen(KernelError::Lost(Errno::EWOULDBLOCK));
    let _lock = lock::acquire(LOCK_PATIENCE).map_err(NoPlan::Unseen)?.ok_or_else(busy)?;
    may_write(&order.content)?;
    Draft::new(kernel, topology, &order.held, target)?.carry_out(kernel, before)
}

/// The firewall is seen to, where the rest is refused.
fn guarded(kernel: &mut Linux, order: &Order, before: Option<&State>) -> Option<Guard> {
    let lock = if order.write { lock::acquire(Duration::ZERO).ok().flatten() } else { None };
    let contested = order.held.iter().any(|id| id.kind == KindName::Firewall);
    let may = lock.is_some() && !contested && may_write(&order.content).is_ok();
    guard(kernel, &order.content.scope, before.filter(|_| may))
}

/// Under the lock: nobody decides meanwhile. What waits to be confirmed is left to whoever confirms it, and what never was
/// is not tried again.
fn may_write(content: &Content) -> Result<(), NoPlan> {
    let name = &content.topology.name;
    if let Some(finding) = confirm::undecided(name) {
        return Err(NoPlan::Undecided(vec![finding].into()));
    }
    // No time that passes helps it.
    let discarded = confirm::discarded(name, &content.digest);
    discarded.map_or(Ok(()), |finding| Err(NoPlan::Invalid(vec![finding].into())))
}

fn describe(no_plan: &NoPlan, order: &Order) -> String {
    let no_plan = match no_plan {
        NoPlan::Invalid(findings) => NoPlan::Invalid(findings.clone()),
        NoPlan::Refused(findings) => NoPlan::Refused(findings.clone()),
        NoPlan::Undecided(findings) => NoPlan::Undecided(findings.clone()),
        NoPlan::Unseen(error) => NoPlan::Unseen(error.clone()),
        NoPlan::Flawed(flaw) => NoPlan::Flawed(flaw.clone()),
    };
    Failure::unplanned(no_plan, &order.content.sources).text().trim_end().to_owned()
}
