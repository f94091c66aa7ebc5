//! The process that goes back. It is started before the first write, in a session of its own, looks at the kernel for
//! itself and keeps what it saw in its memory; so it outlives the login, the terminal and the netrec that started it.
//!
//! It is talked to in lines, over its stdin by the netrec that applies ([`Order`]), over a socket by all others
//! ([`ask`]). Its stdin coming to an end before it heard how the apply went is an order too: go back at once.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::{Before, roll_back};
use crate::apply::history;
use crate::kernel::{Kernel, lock};
use crate::model::source::{Source, Sources};

/// Where the sockets of guards are: the directory that is locked.
const DIRECTORY: &str = "/run/netrec";

/// How long somebody else who is writing is waited for before going back, and a guard that goes back for its answer.
const PATIENCE: Duration = Duration::from_mins(1);

/// How long a guard is waited for to say how it stands: one that does not answer is going back.
const PROMPT: Duration = Duration::from_secs(2);

/// How long a netrec that is still applying when its time is up may take to end what it is at.
const COURTESY: Duration = Duration::from_secs(10);

/// A rollback that was not complete is tried again that often, a second apart.
const TRIES: u32 = 5;

/// What a guard is to know.
#[derive(Serialize, Deserialize, Debug)]
pub struct Job {
    /// The topology's files: path and text.
    pub sources: Vec<(String, String)>,
    /// How long a confirmation is waited for.
    pub timeout: Duration,
}

impl Job {
    /// The files as they are parsed.
    pub fn sources(&self) -> Sources {
        self.sources.iter().map(|(path, text)| Source::new(path, text)).collect()
    }
}

/// What the netrec that applies says to its guard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// All is done: wait for somebody to confirm.
    Applied,
    /// Go back at once.
    RollBack,
}

impl Order {
    fn word(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::RollBack => "rollback",
        }
    }
}

/// How a guard ended, or stands.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// A confirmation is waited for, until that many seconds after 1970.
    Pending {
        /// Seconds since 1970.
        until: u64,
        /// Who applied it.
        who: String,
    },
    /// The apply is not done yet.
    Applying,
    /// What was applied stays.
    Confirmed,
    /// Gone back.
    RolledBack {
        /// Whether all is as it was.
        complete: bool,
        /// Why, for a person.
        why: String,
        /// What is not, for a person.
        left: Vec<String>,
    },
}

/// A guard, as seen by the netrec that started it.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Guard {
    /// Starts the program that `guard` is and waits until it holds what it needs.
    ///
    /// # Errors
    ///
    /// When it cannot be started or does not come to hold it.
    pub fn start(mut guard: Command, job: &Job) -> std::io::Result<Self> {
        let mut child = guard.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let (Some(mut orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        };
        let mut answers = BufReader::new(answers);
        serde_json::to_writer(&mut orders, job)?;
        writeln!(orders)?;
        let mut ready = String::new();
        answers.read_line(&mut ready)?;
        if ready.trim() != READY {
            let _ = child.wait();
            return Err(std::io::Error::other("the guard could not be set up"));
        }
        Ok(Self { child, orders, answers })
    }

    /// Gives an order; the answer is how it was carried out.
    ///
    /// # Errors
    ///
    /// When the guard is gone.
    pub fn order(&mut self, order: Order) -> std::io::Result<Answer> {
        writeln!(self.orders, "{}", order.word())?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        if order != Order::Applied {
            let _ = self.child.wait();
        }
        Ok(serde_json::from_str(&answer)?)
    }
}

const READY: &str = "ready";

/// Where a guard listens; it is there as long as something waits to be confirmed.
pub fn socket(topology: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{topology}.confirm"))
}

/// What somebody else wants of a guard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    /// How it stands.
    Status,
    /// Keep what was applied.
    Confirm,
    /// Go back at once.
    RollBack,
}

impl Question {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Status, "status"), (Self::Confirm, "confirm"), (Self::RollBack, "rollback")];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(it, _)| *it == self).map_or("", |(_, word)| *word)
    }
}

/// Asks the guard of a topology; none if there is none.
///
/// # Errors
///
/// When there is one and it does not answer, and when whoever asks may not know.
pub fn ask(topology: &str, question: Question) -> std::io::Result<Option<Answer>> {
    let path = socket(topology);
    if !path.try_exists()? {
        return Ok(None);
    }
    let mut stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error) if [std::io::ErrorKind::NotFound, std::io::ErrorKind::ConnectionRefused].contains(&error.kind()) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(if question == Question::Status { PROMPT } else { PATIENCE * 2 }))?;
    writeln!(stream, "{}", question.word())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    // A guard that ended before it could answer has decided.
    if answer.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&answer)?)) }
}

/// The topologies that have a guard.
///
/// # Errors
///
/// When whoever asks may not know.
pub fn pending() -> std::io::Result<Vec<String>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter_map(|name| name.strip_suffix(".confirm").map(str::to_owned)).collect();
    names.retain(|name| matches!(ask(name, Question::Status), Ok(Some(_)) | Err(_)));
    names.sort_unstable();
    Ok(names)
}

/// Something that a guard waits for.
enum Event {
    /// A line of the netrec that applies; none when that is gone.
    Parent(Option<String>),
    /// A question of somebody else.
    Asked(Question, UnixStream),
}

/// The guard's own side: everything but what it sees.
pub struct Waiting {
    events: Receiver<Event>,
    until: Instant,
    until_unix: u64,
    path: PathBuf,
    /// Where the netrec that applies hears answers.
    answers: Box<dyn Write>,
}

impl Waiting {
    /// Opens the socket, begins to listen, and tells the netrec that applies that all is held.
    ///
    /// # Errors
    ///
    /// When the socket cannot be made.
    pub fn begin(topology: &str, timeout: Duration, mut answers: Box<dyn Write>) -> std::io::Result<Self> {
        let (tell, events) = channel();
        let path = socket(topology);
        // What a killed guard left: it was found not to answer, under the lock.
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        let asked = tell.clone();
        std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| hear(stream, &asked)));
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                let _ = tell.send(Event::Parent(Some(line)));
            }
            let _ = tell.send(Event::Parent(None));
        });
        say(&mut answers, READY);
        let until_unix = (SystemTime::now() + timeout).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Ok(Self { events, until: Instant::now() + timeout, until_unix, path, answers })
    }

    /// Waits for the decision, carries it out, and has it `noted` before anybody is told.
    pub fn decide(mut self, kernel: &mut impl Kernel, before: &Before, noted: impl FnOnce(&Answer)) {
        let (mut applied, mut late, mut asker) = (false, false, None);
        let pending = Answer::Pending { until: self.until_unix, who: history::who() };
        let decision = loop {
            let left = self.until.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(Event::Parent(_)) if late => break Err(LATE),
                Ok(Event::Parent(Some(line))) if line == Order::Applied.word() => {
                    applied = true;
                    say(&mut self.answers, &json(&pending));
                }
                Ok(Event::Parent(None)) if applied => {}
                Ok(Event::Parent(None)) => break Err("netrec ended before all was applied"),
                Ok(Event::Parent(Some(_))) => break Err("what was applied is not as it should be"),
                Err(_) if applied => break Err("it was not confirmed in time"),
                Err(_) if late => {
                    signal_parent(Signal::SIGKILL);
                    break Err(LATE);
                }
                // Asked first: who ends by itself tells how it ended.
                Err(_) => {
                    signal_parent(Signal::SIGTERM);
                    late = true;
                    self.until += COURTESY;
                }
                Ok(Event::Asked(Question::Confirm, stream)) if applied => {
                    asker = Some(stream);
                    break Ok(());
                }
                Ok(Event::Asked(Question::RollBack, stream)) if applied => {
                    asker = Some(stream);
                    break Err("`netrec rollback` was run");
                }
                Ok(Event::Asked(_, stream)) => reply(stream, if applied { &pending } else { &Answer::Applying }),
            }
        };
        let answer = match decision {
            Ok(()) => Answer::Confirmed,
            Err(why) => go_back(kernel, before, why),
        };
        noted(&answer);
        let _ = fs::remove_file(&self.path);
        say(&mut self.answers, &json(&answer));
        if let Some(stream) = asker {
            reply(stream, &answer);
        }
    }
}

const LATE: &str = "it was not applied in time";

/// A netrec that is still applying when time is up must not write on while we go back.
fn signal_parent(signal: Signal) {
    // Whoever is orphaned is a child of init, or of a subreaper, which is not netrec.
    let parent = nix::unistd::getppid();
    let same = |pid: &str| fs::read_link(format!("/proc/{pid}/exe")).ok();
    let theirs = same(&parent.to_string());
    if theirs.is_some() && theirs == same("self") {
        let _ = nix::sys::signal::kill(parent, signal);
    }
}

fn go_back(kernel: &mut impl Kernel, before: &Before, why: &str) -> Answer {
    // Without the lock if need be: who holds it that long is stuck, and the host is perhaps out of reach.
    let _lock = lock::acquire(PATIENCE);
    let mut back = roll_back(kernel, before);
    for _ in 1..TRIES {
        if back.is_complete() {
            break;
        }
        std::thread::sleep(Duration::from_secs(1));
        back = roll_back(kernel, before);
    }
    let left = match &back.report {
        Ok(report) => {
            let failed = report.failed.iter().map(|(id, error)| format!("{id}: {error}"));
            let residual = report.residual.keys().map(|id| format!("{id} is not as it was"));
            failed.chain(residual).collect()
        }
        Err(no_plan) => vec![no_plan.to_string()],
    };
    Answer::RolledBack { complete: back.is_complete(), why: why.into(), left }
}

fn hear(stream: UnixStream, tell: &Sender<Event>) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let Ok(reader) = stream.try_clone() else { return };
    let mut line = String::new();
    let read = BufReader::new(std::io::Read::take(reader, 64)).read_line(&mut line);
    let question = Question::ALL.iter().find(|(_, word)| *word == line.trim());
    if let (Ok(_), Some((question, _))) = (read, question) {
        let _ = tell.send(Event::Asked(*question, stream));
    }
}

fn json(answer: &Answer) -> String {
    serde_json::to_string(answer).unwrap_or_default()
}

fn reply(mut stream: UnixStream, answer: &Answer) {
    say(&mut stream, &json(answer));
}

/// Whoever asked may be gone: then nobody reads it.
fn say(to: &mut impl Write, line: &str) {
    let _ = writeln!(to, "{line}").and_then(|()| to.flush());
}
