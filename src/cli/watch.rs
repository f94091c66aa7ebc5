//! `netrec watch`: the loop as a service.
//!
//! One thread waits for everything at once and asks [`Watcher`] what to do; another one looks and writes.

mod directories;
mod ears;
mod hook;
mod looker;
mod metrics;
mod mounts;
mod notice;
mod server;
mod teller;
mod vigil;

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::sync::{mpsc, oneshot};

use self::directories::{Sign, around};
use self::ears::{Ears, Happening};
use self::hook::{Change, Hook};
use self::looker::Looker;
use self::notice::Manager;
use self::server::{Asked, Listen, Outlet};
use self::teller::Teller;
use self::vigil::Vigil;
use super::control::{self, Answer, Verb};
use super::duration::duration;
use super::failure::Failure;
use super::load::{self, Loaded, load};
use super::{Exit, Input, output};
use crate::apply::NoPlan;
use crate::apply::confirm::guard;
use crate::apply::history::{History, Record};
use crate::apply::watch::event::Event;
use crate::apply::watch::reading::{Finding, Patience, Reading, is_cut_off};
use crate::apply::watch::standing::State;
use crate::apply::watch::tally::Tally;
use crate::apply::watch::{Clock, Content, Limits, Next, Sight, Watcher};
use crate::kernel::events::{Heard, Listener};
use crate::kernel::{KernelError, lock, privilege};
use crate::model::diagnostic::Diagnostic;
use crate::model::hash;
use crate::model::source::Sources;
use crate::model::wire::Owner;

/// Between the two readings of the files that must be alike.
const SETTLE: Duration = Duration::from_millis(100);
/// Before a file is followed that is as before without its end. Who wants that at once runs `netrec apply`.
const DOUBT: Duration = Duration::from_mins(1);
/// Questions that wait for the loop.
const QUESTIONS: usize = 16;
/// Nothing in particular is waited for: any time will do.
const LONG: Duration = Duration::from_hours(1);

/// Keep the host as the files say: heal what is changed, follow what is written.
///
/// Runs until it is told to end (SIGTERM, SIGINT); what it made stays. SIGHUP reads the files at once.
#[derive(Args, Debug)]
pub(super) struct Watch {
    #[command(flatten)]
    pub(super) input: Input,
    /// Look at everything that often, even if nothing is announced.
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = duration)]
    look_every: Duration,
    /// Read the files that often, even if nothing happens to them.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = duration)]
    poll_every: Duration,
    /// Read the files when nothing has happened to them for so long, or when something did for ten times as long. A single
    /// file that another is renamed into the place of is read at once.
    #[arg(long, default_value = "200ms", value_name = "TIME", value_parser = duration)]
    debounce: Duration,
    /// Answer GET /metrics (Prometheus) and /healthz there: a loopback ADDRESS:PORT, or unix:PATH.
    #[arg(long, value_name = "WHERE")]
    listen: Option<Listen>,
    /// Run this program when the state changes, with `NETREC_TOPOLOGY`, `NETREC_FROM`, `NETREC_STATE` and `NETREC_REASON`.
    #[arg(long, value_name = "PROGRAM")]
    hook: Option<PathBuf>,
    /// Room for the kernel's announcements, in bytes.
    #[arg(long, default_value_t = 8 << 20, value_name = "BYTES", value_parser = clap::value_parser!(i32).range(2048..))]
    event_buffer: i32,
}

impl Watch {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let loaded = load(&self.input.paths)?;
        privilege::check()?;
        let name = loaded.topology.name.clone();
        let watched = || Diagnostic::new(format!("topology {name} is watched by another netrec"));
        let _lock = lock::watch(&name)?.ok_or_else(|| Failure::new(Exit::Busy, watched()))?;
        output::aside().map_err(failed("thread"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed("tokio"))?;
        let result = runtime.block_on(async { Service::start(self, loaded)?.run().await });
        let _ = std::fs::remove_file(control::socket(&name));
        result
    }
}

fn failed(what: &str) -> impl Fn(std::io::Error) -> Failure {
    move |error| KernelError::io(what, &error).into()
}

/// Where things are told.
struct Mouth {
    teller: Teller,
    hook: Option<Hook>,
    manager: Manager,
    ready: bool,
    tally: Tally,
}

struct Service {
    topology: String,
    paths: Vec<PathBuf>,
    start: Instant,
    watcher: Watcher,
    reading: Reading,
    looker: Looker,
    vigil: Vigil,
    ears: Ears,
    mouth: Mouth,
    /// Whoever waits for a round that is ordered after that time.
    waiting: Vec<(Clock, oneshot::Sender<Answer>)>,
    /// The files that are listened to: others may be mounted over them, of which inotify says nothing.
    heard: Vec<Option<(u64, u64)>>,
    reloading: bool,
    /// Whether signs of life are to be waited for anew: the containers are others, or there was one.
    turned: bool,
}

impl Service {
    fn start(options: Watch, loaded: Loaded) -> Result<Self, Failure> {
        let start = Instant::now();
        let topology = loaded.topology.name.clone();
        let mut route = Listener::route()?;
        let mut netfilter = Listener::netfilter(&Owner::new(&topology))?;
        for listener in [&mut route, &mut netfilter] {
            listener.set_buffer(options.event_buffer)?;
        }
        let (asking, questions) = mpsc::channel(QUESTIONS);
        let control = server::open(&topology).map_err(failed("control socket"))?;
        tokio::spawn(server::serve(control, asking.clone()));
        if let Some(listen) = &options.listen {
            let outlet = Outlet::open(listen).map_err(failed(&format!("--listen {listen}")))?;
            tokio::spawn(outlet.serve(topology.clone(), asking));
        }
        let ears = Ears::open([route, netfilter], questions)?;
        let manager = Manager::from_environment();
        // The service manager hears from completed looks only, so there must be enough of them.
        let slow = manager.watchdog.map_or(options.look_every, |limit| options.look_every.min(limit / 3));
        let seed = hash::of(&(std::process::id(), &topology));
        let patience = Patience { quiet: options.debounce, settle: SETTLE, poll: options.poll_every, doubt: DOUBT };
        let mut service = Self {
            watcher: Watcher::new(Limits { slow, seed }),
            reading: Reading::new(patience, fingerprint(&Ok(loaded.sources.clone())), Clock::ZERO),
            paths: options.input.paths,
            looker: Looker::start(start).map_err(failed("thread"))?,
            vigil: Vigil::default(),
            ears,
            mouth: Mouth {
                teller: Teller::new(options.input.output.format, &topology),
                hook: options.hook.map(Hook::start).transpose().map_err(failed("thread"))?,
                manager,
                ready: false,
                tally: Tally::default(),
            },
            waiting: Vec::new(),
            heard: Vec::new(),
            reloading: false,
            turned: false,
            topology,
            start,
        };
        service.follow(Content::new(loaded.topology, loaded.sources));
        service.listen_to_files();
        service.ears.decisions.watch(around(&guard::socket(&service.topology)).into_iter());
        // What was saved while we were getting ready.
        service.reading.urge(Clock::ZERO);
        Ok(service)
    }

    fn now(&self) -> Clock {
        self.start.elapsed()
    }

    async fn run(mut self) -> Result<Exit, Failure> {
        loop {
            let wake = self.advance();
            match self.ears.next(&mut self.looker, self.start + wake).await {
                Happening::Announced(heard) => self.announced(&heard?),
                Happening::Files(replaced) => self.stirred(replaced),
                Happening::Namespaces => self.turned = true,
                Happening::Mounts => {
                    self.vigil.wake(self.now());
                    if self.identities() != self.heard {
                        self.stirred(true);
                    }
                }
                Happening::Decided => self.watcher.urge(self.now()),
                Happening::Seen(sight) => {
                    let gone = || Failure::new(Exit::Unexpected, Diagnostic::new("the looking thread has ended"));
                    self.seen(sight.ok_or_else(gone)?);
                    // Before anything else, as somebody may wait for the word.
                    self.tell();
                }
                Happening::Asked(asked) => self.asked(asked),
                Happening::Reload => {
                    self.mouth.manager.reloading();
                    self.reloading = true;
                    self.watcher.urge(self.now());
                    self.reading.urge(self.now());
                }
                Happening::End => break,
                Happening::Time => {}
            }
        }
        self.mouth.manager.say("STOPPING=1");
        self.enter();
        Ok(Exit::Done)
    }

    /// Does what is due, and says when something is due next.
    fn advance(&mut self) -> Clock {
        if self.reading.next() <= self.now() {
            self.read();
        }
        if self.time_of_glance().is_some_and(|at| at <= self.now()) && self.vigil.changed(self.now()) {
            self.looker.hears_of_names();
            self.watcher.disturbed(self.now());
        }
        let wake = match self.watcher.next(self.now()) {
            Next::Look(order) => {
                self.looker.order(order);
                None
            }
            Next::Wait(at) => at,
        };
        if !self.looker.is_busy() && std::mem::take(&mut self.turned) {
            // Nobody waits for it: what happens unheard before is seen by the glance after.
            self.ears.namespaces.watch(self.vigil.signs().into_iter());
            self.vigil.wake(self.now());
        }
        self.tell();
        let entry = self.mouth.tally.due();
        if entry.is_some_and(|at| at <= self.now()) {
            self.enter();
        }
        [wake, self.time_of_glance(), Some(self.reading.next()), entry]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.now() + LONG)
    }

    /// When to glance at namespaces. Not while a look is under way: the next one has to come first before anything can be
    /// done about what is seen, and thousands of names would only be in the way of this one.
    fn time_of_glance(&self) -> Option<Clock> {
        self.vigil.next().filter(|_| !self.looker.is_busy())
    }

    fn announced(&mut self, heard: &Heard) {
        self.looker.hears(heard);
        self.watcher.heard(heard, self.now());
    }

    /// Something happened to the files; whether nothing but that one was put, whole, in the place of another.
    fn stirred(&mut self, replaced: bool) {
        tracing::debug!(replaced, "something happened to the files");
        // Of several the others may follow.
        if replaced && self.paths.len() == 1 && !self.paths[0].is_dir() {
            self.reading.replaced(self.now());
        } else {
            self.reading.disturbed(self.now());
        }
        self.listen_to_files();
    }

    fn files(&self) -> Vec<PathBuf> {
        self.paths.iter().flat_map(|path| load::expand(path).unwrap_or_default()).collect()
    }

    /// Which files they are, by device and inode.
    fn identities(&self) -> Vec<Option<(u64, u64)>> {
        let identity = |file| std::fs::metadata(file).ok().map(|it| (it.dev(), it.ino()));
        self.files().into_iter().map(identity).collect()
    }

    fn listen_to_files(&mut self) {
        self.heard = self.identities();
        let entries = self.paths.iter().cloned().chain(self.files()).flat_map(|file| around(&file));
        let directories = self.paths.iter().filter(|path| path.is_dir());
        self.ears.files.watch(entries.chain(directories.map(|path| Sign::In(path.clone(), load::counts))));
    }

    /// Reads the files, and follows what they say if it stays.
    fn read(&mut self) {
        let text = load::read_all(&self.paths);
        tracing::debug!("the files were read");
        if self.reading.read((fingerprint(&text), text.is_ok()), self.now()) == Finding::New {
            self.understand(text, false);
        }
    }

    /// Follows what the files say if that can be; `asked`: because somebody says so, and not just the files.
    fn understand(&mut self, text: Result<Sources, Failure>, asked: bool) {
        let before = self.watcher.content().map(|before| (&before.topology, &before.sources[..]));
        let understood = text.and_then(|text| load::understand(text, before));
        let less = understood
            .as_ref()
            .map_or(true, |loaded| before.is_some_and(|(before, _)| loaded.topology.lacks_some_of(before)));
        if less && !asked && self.reading.hesitates() {
            return;
        }
        match understood {
            Ok(loaded) if loaded.topology.name == self.topology => {
                tracing::debug!("the files were understood");
                let content = Content::new(loaded.topology, loaded.sources);
                let known = self.watcher.content().filter(|_| !asked);
                let cut_off = known.is_some_and(|known| is_cut_off(&content.sources, &known.sources));
                if cut_off && !self.reading.believes(self.now()) {
                    let reason = "the files are as before without their end: followed if they stay so for a minute, \
                                  or at once with `netrec apply`";
                    self.watcher.reject(reason.into());
                } else {
                    self.follow(content);
                }
            }
            Ok(loaded) => {
                let (old, new) = (&self.topology, &loaded.topology.name);
                let reason =
                    format!("the files are of topology {new} now, and {old} is what is watched: start it anew");
                self.watcher.reject(reason);
            }
            Err(failure) => self.watcher.reject(failure.text().trim_end().to_owned()),
        }
        self.listen_to_files();
    }

    fn follow(&mut self, content: Content) {
        self.turned |= self.vigil.turn_to(&content);
        self.watcher.accept(content, self.now());
    }

    fn seen(&mut self, sight: Sight) {
        let (ordered, looked) = (sight.ordered, !matches!(sight.result, Err((NoPlan::Unseen(_), _))));
        self.watcher.looked(sight, self.now());
        if looked {
            self.mouth.manager.say("WATCHDOG=1");
        }
        let standing = self.watcher.standing(self.now());
        if std::mem::take(&mut self.reloading) || (!self.mouth.ready && looked && is_verdict(standing.state)) {
            self.mouth.ready = true;
            self.mouth.manager.say("READY=1");
        }
        let (done, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(since, _)| *since <= ordered);
        self.waiting = waiting;
        for (_, answer) in done {
            let _ = answer.send(self.answer(None));
        }
    }

    fn asked(&mut self, Asked { question, answer }: Asked) {
        let (now, time) = (self.now(), question.for_ms.map(Duration::from_millis));
        match question.verb {
            Verb::Status => {}
            Verb::Suspend => self.watcher.suspend(true, time, now),
            Verb::Resume => self.watcher.suspend(false, time, now),
            Verb::Apply => return self.apply(question.digest.as_deref(), answer),
        }
        let _ = answer.send(self.answer(None));
    }

    /// Whoever asks has read the files; if they say the same to us, there is nothing to wait for.
    fn apply(&mut self, digest: Option<&str>, answer: oneshot::Sender<Answer>) {
        let text = load::read_all(&self.paths);
        let read = text.as_ref().ok().map(|sources| Content::digest(sources));
        if digest.is_some() && read.as_deref() != digest {
            let error = "the watcher's files say something else: change those, or suspend it, or end it";
            let _ = answer.send(self.answer(Some(error.into())));
            return;
        }
        self.reading = Reading::new(self.reading.patience(), fingerprint(&text), self.now());
        self.understand(text, true);
        let now = self.now();
        self.watcher.urge(now);
        self.waiting.push((now, answer));
    }

    fn answer(&self, error: Option<String>) -> Answer {
        Answer { version: 1, error, files: control::told(&self.paths), standing: self.watcher.standing(self.now()) }
    }

    /// Enters into the history what was changed since the last entry.
    fn enter(&mut self) {
        let now = self.now();
        let Some((summary, plan)) = self.mouth.tally.take(now) else { return };
        let standing = self.watcher.standing(now);
        let record = Record::new(&self.topology, "watch", standing.state.to_string()).with_plan(&plan);
        History::default().add(&Record { digest: standing.digest, summary, ..record });
    }

    fn tell(&mut self) {
        let now = self.now();
        self.mouth.teller.catch_up(now);
        let events: Vec<Event> = self.watcher.events().collect();
        for event in &events {
            self.mouth.teller.tell(event, now);
            self.mouth.tally.note(event, now);
            if let Event::State { from, to } = *event {
                let reason = self.watcher.standing(now).reason;
                let why = reason.iter().filter_map(|reason| reason.lines().next());
                self.mouth.manager.say(&why.fold(format!("STATUS={to}"), |said, why| format!("{said}: {why}")));
                if let Some(hook) = &self.mouth.hook {
                    hook.run(Change { topology: self.topology.clone(), from, to, reason });
                }
            }
        }
    }
}

/// Whether all was done that can be for now: what is refused, fails or is contested does not get better by waiting, and
/// whoever started us learns of it from the status.
fn is_verdict(state: State) -> bool {
    !matches!(state, State::Starting | State::Drifted)
}

/// The same for the same text in the same files, and for the same reason not to be read.
fn fingerprint(text: &Result<Sources, Failure>) -> u64 {
    match text {
        Ok(sources) => {
            let words: Vec<&str> = sources.iter().flat_map(|it| [it.path.as_str(), it.text.as_str()]).collect();
            hash::words(&words)
        }
        Err(failure) => !hash::words(&[&failure.text()]),
    }
}
