//! Steps carried out: each stage of a plan opens its lanes, says what is to be said in batches and closes them again, as an
//! open socket keeps a namespace alive; but for namespaces that were just made, which are held until they are furnished, or to
//! the end of their wave.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;

use nix::errno::Errno;

use super::kept::Kept;
use super::lane::Lane;
use super::linux::Linux;
use super::lookup::Names;
use super::netfilter::{Ahead, Ours};
use super::netlink::{Protocol, Socket};
use super::netns::{self, Born, Found, Visitor};
use super::nft::{self, Nft, NftError};
use super::{KernelError, ask, conntrack, descriptors, stop, sysctl, waves};
use crate::beside;
use crate::model::resource::{HOST, Op, Resource, Step, Text};
use crate::model::wire::{Body, Message, NftMessage, NoLookup, Owner, Place};

/// How often a transaction is tried while others change theirs.
const COMMITS: usize = 20;

/// So many namespaces at a time are made and furnished: what the kernel made for one is read from memory again where too many
/// others came in between, which is a fifth of the time of 5,000.
pub(super) const WAVE: usize = 500;

/// One execution.
pub(super) struct Run<'a> {
    linux: &'a Linux,
    kept: Kept,
    steps: &'a [Step],
    results: Vec<Result<(), KernelError>>,
    /// Messages of steps whose later parts wait for their stage, or for the end.
    rest: BTreeMap<usize, Vec<Message>>,
    /// Steps that were begun before their stage.
    early: BTreeSet<usize>,
    /// How much is still to be said to nftables.
    rules_left: usize,
    /// Namespaces made in this wave whose own lane has not come yet.
    born: BTreeMap<Text, Born>,
}

/// What a lane is to do: which step, and the messages it brings along if they were written in an earlier stage.
type Task = (usize, Option<Vec<Message>>);

impl<'a> Run<'a> {
    /// Of steps planned from the last look.
    pub(super) fn new(linux: &'a Linux, kept: Kept, steps: &'a [Step]) -> Self {
        let of_rules = |(_, place): &&(usize, Place)| *place == Place::Netfilter;
        let rules_left = steps.iter().flat_map(|step| &step.parts).filter(of_rules).count();
        Self {
            linux,
            kept,
            steps,
            results: vec![Ok(()); steps.len()],
            rest: BTreeMap::new(),
            early: BTreeSet::new(),
            rules_left,
            born: BTreeMap::new(),
        }
    }

    /// Takes all steps, and tells how each ended; after each stage how many have.
    pub(super) fn all(mut self, progress: &mut dyn FnMut(usize)) -> (Vec<Result<(), KernelError>>, Kept) {
        let mut ended = 0;
        for wave in waves::of(self.steps, WAVE) {
            let parts = |at: &usize| &self.steps[*at].parts;
            let stages = wave.iter().flat_map(parts).map(|(stage, _)| stage + 1).max().unwrap_or(0);
            for stage in 0..stages {
                self.stage(&wave, stage);
                let ends = |at: &&usize| self.steps[**at].parts.last().is_some_and(|(last, _)| *last == stage);
                ended += wave.iter().filter(ends).count();
                progress(ended);
            }
            self.born.clear();
        }
        self.last();
        (self.results, self.kept)
    }

    fn stage(&mut self, wave: &[usize], stage: usize) {
        let mut lanes: BTreeMap<Place, Vec<Task>> = BTreeMap::new();
        let stopped = stop::asked();
        for (at, step) in wave.iter().map(|at| (*at, &self.steps[*at])) {
            for (part, (_, place)) in step.parts.iter().enumerate().filter(|(_, (of, _))| *of == stage) {
                if part == 0 && (self.early.contains(&at) || !self.begins(at, stopped)) {
                    continue;
                }
                let brought = if part == 0 { None } else { Some(self.rest.remove(&at).unwrap_or_default()) };
                if self.results[at].is_ok() {
                    lanes.entry(place.clone()).or_default().push((at, brought));
                }
            }
        }
        let names = lanes.remove(&Place::Namespaces).unwrap_or_default();
        let rules = lanes.remove(&Place::Netfilter).unwrap_or_default();
        self.rules_left -= rules.len();
        let made = rules.iter().any(|(at, _)| matches!(self.steps[*at].op, Op::Create(_)));
        self.namespaces_and_rules(names, rules, |run| run.before_its_stage(wave, stage + 1));
        if made && self.rules_left == 0 {
            self.look_ahead();
        }
        let mut containers = Vec::new();
        for (place, tasks) in lanes {
            match place {
                Place::Netns(netns) if &*netns != HOST => containers.push((netns, tasks)),
                Place::Netns(_) => self.host(tasks),
                Place::Sysctl(netns) => self.settings(&netns, tasks),
                Place::Namespaces | Place::Netfilter => unreachable!("taken out above"),
            }
        }
        self.containers(containers);
        self.skip_in_vain(wave);
    }

    /// Whether a step is to be taken.
    fn begins(&mut self, at: usize, stopped: bool) -> bool {
        if self.skips(at) {
            return false;
        }
        if stopped {
            self.results[at] = Err(KernelError::Stopped);
        }
        !stopped
    }

    /// Says what the host hears first in a stage while namespaces are made in the one before.
    fn before_its_stage(&mut self, wave: &[usize], stage: usize) {
        let first = waves::beside_names(self.steps, wave, stage);
        let stopped = stop::asked();
        let tasks: Vec<Task> = first.iter().filter(|at| self.begins(**at, stopped)).map(|at| (*at, None)).collect();
        self.early.extend(first);
        if !tasks.is_empty() {
            self.host(tasks);
        }
    }

    /// Has rules that are complete looked at while links are made.
    fn look_ahead(&mut self) {
        if self.kept.forgetting.is_some() || beside::processors() == 1 {
            return;
        }
        let owner = self.linux.owner.clone().expect("steps are planned from a look");
        match self.kept.nft.take().map(|nft| Ahead::begin(nft, owner)) {
            Some(Ok(ahead)) => self.kept.ahead = Some(ahead),
            Some(Err(nft)) => self.kept.nft = Some(nft),
            None => {}
        }
    }

    /// Says what is to be said when all else has been.
    fn last(&mut self) {
        let route = |message: Message| match message.body {
            Body::RouteLast(route, flags) => Message { body: Body::Route(route, flags), ..message },
            _ => message,
        };
        let rest = std::mem::take(&mut self.rest).into_iter().filter(|(at, _)| self.results[*at].is_ok());
        let tasks: Vec<Task> =
            rest.map(|(at, messages)| (at, Some(messages.into_iter().map(route).collect()))).collect();
        if tasks.is_empty() {
            return;
        }
        let links: BTreeSet<Text> = tasks.iter().map(|(at, _)| self.steps[*at].id.name.clone()).collect();
        self.host(tasks);
        ask::settle_carriers(&links);
    }

    /// A step is not taken when one that it waits for has failed.
    fn skips(&mut self, at: usize) -> bool {
        let failed = self.steps[at].waits.iter().find(|wait| self.results[**wait as usize].is_err());
        if let Some(failed) = failed {
            self.results[at] = Err(KernelError::Skipped(self.steps[*failed as usize].id.to_string()));
        }
        failed.is_some()
    }

    /// What was said in the same batch as something that failed, and waits for it, failed for that reason.
    fn skip_in_vain(&mut self, wave: &[usize]) {
        for at in wave.iter().copied() {
            let failed = self.steps[at].waits.iter().find(|wait| self.results[**wait as usize].is_err());
            if let (Some(failed), true) = (failed, self.results[at].is_err()) {
                self.results[at] = Err(KernelError::Skipped(self.steps[*failed as usize].id.to_string()));
            }
        }
    }

    fn note(&mut self, ended: Ended) {
        for (at, result) in ended.results {
            if self.results[at].is_ok() {
                self.results[at] = result;
            }
        }
        self.rest.extend(ended.rest);
    }

    fn host(&mut self, tasks: Vec<Task>) {
        let ended = self.lane(&HOST.into(), Socket::open(Protocol::Route), tasks);
        self.note(ended);
    }

    /// Says the tasks of one namespace on a socket that is in it.
    fn lane(&self, netns: &Text, socket: Result<Socket, KernelError>, tasks: Vec<Task>) -> Ended {
        let mut ended = Ended::default();
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                ended.results.extend(tasks.iter().map(|(at, _)| (*at, Err(error.clone()))));
                return ended;
            }
        };
        let owner = self.linux.owner.as_ref().expect("steps are planned from a look");
        let mut lane = Lane::new(Names::new(self.linux, &self.born), netns, owner, socket);
        for (at, brought) in tasks {
            let place = Place::Netns(netns.clone());
            let messages = match brought {
                Some(messages) => Ok(messages),
                None => encode(&self.steps[at].op, &mut lane),
            };
            match messages {
                Ok(messages) => {
                    let mut messages = messages.into_iter().peekable();
                    let now =
                        |message: &Message| message.place == place && !matches!(message.body, Body::RouteLast(..));
                    while let Some(message) = messages.next_if(now) {
                        lane.say(at, message.body);
                    }
                    let rest: Vec<Message> = messages.collect();
                    if !rest.is_empty() {
                        ended.rest.insert(at, rest);
                    }
                }
                Err(error) => lane.fail(at, error),
            }
            if lane.is_full() {
                lane.flush();
            }
            if matches!(self.steps[at].op, Op::Delete(_)) {
                lane.forget_links();
            }
        }
        ended.results = lane.end();
        ended
    }

    /// Lanes in containers: of those that were just made through what they were made with, of others by their name.
    fn containers(&mut self, lanes: Vec<(Text, Vec<Task>)>) {
        let mut away = Vec::new();
        for (netns, tasks) in lanes {
            // A lane that deletes links does so from where the calling thread is.
            let deletes = tasks.iter().any(|(at, _)| matches!(self.steps[*at].op, Op::Delete(_)));
            match self.born.remove(&netns).filter(|_| !deletes) {
                Some(born) => {
                    let ended = self.lane(&netns, Ok(born.socket), tasks);
                    self.note(ended);
                }
                None => away.push((netns, Mutex::new(tasks))),
            }
        }
        if away.is_empty() {
            return;
        }
        // One thread: what is said here is carried out under the one rtnl lock, and a second thread gains nothing.
        let ended = netns::visit(&away, 0, |visitor, (netns, tasks)| {
            let tasks = std::mem::take(&mut *tasks.lock().expect("each lane has one visitor, which does not panic"));
            let socket = self.linux.open_by(netns, |netns| visitor.find(netns)).and_then(|fd| {
                visitor.enter(fd.as_fd())?;
                Socket::open(Protocol::Route)
            });
            self.lane(netns, socket, tasks)
        });
        for ended in ended {
            self.note(ended);
        }
    }

    /// Messages of tasks at a place that looks nothing up; what follows elsewhere is left for its stage.
    fn messages(&mut self, place: &Place, tasks: Vec<Task>) -> Vec<(usize, Body)> {
        let mut bodies = Vec::new();
        for (at, brought) in tasks {
            match brought.map_or_else(|| Resource::encode(&self.steps[at].op, &mut NoLookup), Ok) {
                Ok(messages) => {
                    let (here, rest): (Vec<_>, Vec<_>) = messages.into_iter().partition(|it| it.place == *place);
                    bodies.extend(here.into_iter().map(|message| (at, message.body)));
                    self.rest.extend((!rest.is_empty()).then_some((at, rest)));
                }
                Err(missing) => self.results[at] = Err(KernelError::Missing(missing.to_string())),
            }
        }
        bodies
    }

    /// Namespaces that go do so first: each waits for a grace period, and none ends while flows are forgotten. Those that come
    /// are made beside the transaction, which may take the kernel longer than a few of them, and `more`; and on two threads:
    /// once it has the modules, none holds for long what the others wait for. One alone is made in less time than a thread
    /// starts.
    fn namespaces_and_rules(&mut self, names: Vec<Task>, rules: Vec<Task>, more: impl FnOnce(&mut Self)) {
        let bodies = self.messages(&Place::Namespaces, names);
        let (mut made, mut creations, mut removals) = (Vec::new(), Vec::new(), Vec::new());
        for (at, body) in &bodies {
            match body {
                Body::DeleteNetns(name) => removals.push((*at, name)),
                Body::CreateNetns { name, mark, setup } => {
                    made.push(*at);
                    creations.push(netns::Creation { name, mark, setup });
                }
                _ => unreachable!("only namespaces are said there: Wire::places"),
            }
        }
        self.remove_names(removals);
        let others = match creations.len() {
            0 => 0,
            several if several > 1 && beside::processors() > 1 => 2,
            _ => usize::from(!rules.is_empty()),
        };
        let beside = || {
            self.netfilter(rules);
            if others > 0 {
                more(self);
            }
        };
        let (created, ()) = netns::create_beside(&creations, others, beside);
        for (at, result) in made.into_iter().zip(created) {
            self.results[at] = result.map(|born| {
                self.born.extend(born.map(|born| (self.steps[at].id.name.clone(), born)));
            });
        }
    }

    fn remove_names(&mut self, removals: Vec<(usize, &Text)>) {
        let removed = netns::visit(&removals, 0, |visitor, (_, name)| {
            let owner = self.linux.owner.as_ref().expect("steps are planned from a look");
            remove(visitor, name, owner)
        });
        for ((at, _), result) in removals.into_iter().zip(removed) {
            self.results[at] = result.map(|netns| self.kept.leaving.extend(netns));
        }
    }

    fn netfilter(&mut self, tasks: Vec<Task>) {
        let mut generation = self.linux.netfilter.as_ref().map(|last| last.after(self.kept.commits));
        let mut begun = BTreeSet::new();
        let mut bodies = self.messages(&Place::Netfilter, tasks).into_iter().peekable();
        while let Some((at, body)) = bodies.next() {
            if self.results[at].is_err() {
                continue;
            }
            self.results[at] = match body {
                Body::Nft(messages) if messages.is_empty() => Ok(()),
                Body::Nft(messages) if begun.insert(at) => self.commit(&messages, &mut generation),
                // What follows the first transaction of a step only says what has become of it. What stands behind the
                // rules is not to be done without them.
                Body::Nft(messages) => self.follow_up(&messages, &mut generation),
                // What is said after it waits for it.
                Body::Forget(flows, note) if bodies.peek().is_some() || self.kept.unforgotten => {
                    self.kept.unforgotten = false;
                    let forgotten = conntrack::forget(&mut self.kept.conntrack, &flows);
                    forgotten.and_then(|_| self.follow_up(&note, &mut generation))
                }
                Body::Forget(flows, note) => match self.kept.begin_forgetting(flows, note) {
                    Ok(Some(note)) => self.follow_up(&note, &mut generation),
                    begun => begun.map(drop),
                },
                _ => unreachable!("only nftables and conntrack are said there: Wire::places"),
            };
        }
    }

    fn follow_up(&mut self, messages: &[NftMessage], generation: &mut Option<u32>) -> Result<(), KernelError> {
        *generation = generation.map(nft::next);
        match self.commit(messages, &mut None) {
            Err(KernelError::Refused { errno: Errno::ENOENT, .. }) => Err(KernelError::Undone("our tables")),
            other => other,
        }
    }

    /// A transaction of the generation that was looked at, or of a later one in which our tables are still as they were:
    /// others may be busy with theirs.
    fn commit(&mut self, messages: &[NftMessage], generation: &mut Option<u32>) -> Result<(), KernelError> {
        let mut nft = self.kept.nft.take().map_or_else(Nft::open, Ok)?;
        for _ in 0..COMMITS {
            match nft.commit(messages, *generation) {
                Err(NftError::Stale) => {}
                committed => {
                    *generation = generation.filter(|_| committed.is_ok()).map(nft::next);
                    self.kept.commits += u32::from(committed.is_ok());
                    self.kept.nft = committed.is_ok().then_some(nft);
                    return committed.map_err(Into::into);
                }
            }
            let owner = self.linux.owner.as_ref().expect("steps are planned from a look");
            let (ours, now) = nft.steadily(|nft, outline| Ours::look(nft, outline, owner))?;
            if self.linux.netfilter.as_ref().is_none_or(|last| ours != last.ours) {
                break;
            }
            *generation = Some(now);
        }
        Err(NftError::Stale.into())
    }

    fn settings(&mut self, netns: &Text, tasks: Vec<Task>) {
        for (at, body) in self.messages(&Place::Sysctl(netns.clone()), tasks) {
            let set = || sysctl::set(&body);
            self.results[at] = if &**netns == HOST {
                set()
            } else {
                self.linux.open(netns).and_then(|fd| netns::inside(fd.as_fd(), set)).unwrap_or_else(Err)
            };
        }
    }
}

/// Writes a step's messages; if something it names is about to be made by what was said before, says that first. What is
/// to go from a link that went by itself, as with its peer's namespace, is gone.
fn encode(op: &Op, lane: &mut Lane) -> Result<Vec<Message>, KernelError> {
    if let Ok(messages) = Resource::encode(op, lane) {
        return Ok(messages);
    }
    lane.flush();
    match (Resource::encode(op, lane), op) {
        (Err(_), Op::Delete(_)) => Ok(Vec::new()),
        (messages, _) => messages.map_err(|missing| KernelError::Missing(missing.to_string())),
    }
}

/// Removes the name of a namespace if what stands behind it at this moment bears the owner's mark; the namespace, if it may
/// be held.
fn remove(visitor: &Visitor<'_>, name: &Text, owner: &Owner) -> Result<Option<OwnedFd>, KernelError> {
    let (mark, netns) = match netns::by_name(name)? {
        Found::Bound(fd, _) => {
            visitor.enter(fd.as_fd())?;
            (ask::loopback(&mut Socket::open(Protocol::Route)?)?.alias, Some(fd))
        }
        Found::Unbound(content) => (content.into(), None),
        Found::Absent(_) => return Ok(None),
    };
    if owner.marked(&mark) != Some(true) {
        return Err(KernelError::Changed(format!("namespace {name}")));
    }
    netns::delete(name)?;
    Ok(netns.filter(|netns| descriptors::may_hold(netns.as_fd())))
}

/// How the tasks of a lane ended.
#[derive(Default)]
struct Ended {
    results: Vec<(usize, Result<(), KernelError>)>,
    rest: BTreeMap<usize, Vec<Message>>,
}
