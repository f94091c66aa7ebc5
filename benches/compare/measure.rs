//! One run of one tool: each phase timed from before its first process starts until its last has ended.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde::{Deserialize, Serialize};

use super::tools::Tool;

/// What is asked of every tool, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Debug)]
pub(super) enum Phase {
    /// All of it, from nothing.
    Up,
    /// The same once more: nothing to do.
    Again,
    /// One container more.
    Add,
    /// One published port changed.
    Port,
    /// Back to nothing, until the last link is gone.
    Down,
}

impl Phase {
    /// All of them.
    pub(super) const ALL: [Self; 5] = [Self::Up, Self::Again, Self::Add, Self::Port, Self::Down];

    /// For a heading.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Up => "Set-up",
            Self::Again => "Nothing to do",
            Self::Add => "One container added",
            Self::Port => "One port changed",
            Self::Down => "Teardown, until the last link is gone",
        }
    }
}

/// What one phase took.
#[derive(Clone, Copy, Serialize, Deserialize, Debug)]
pub(super) struct Figures {
    /// In milliseconds, what a tool does besides the network taken off.
    pub(super) wall: f64,
    /// User and system time of all processes, in milliseconds.
    pub(super) cpu: f64,
    /// User time of them alone, in milliseconds; none in results of before it was kept.
    #[serde(default)]
    pub(super) user: Option<f64>,
    /// Of the largest process so far, in MiB.
    pub(super) peak: f64,
    /// Packets delivered to the host's links from the beginning until they came to rest.
    pub(super) packets: f64,
}

/// The phases that a tool knows.
pub(super) type Run = BTreeMap<Phase, Figures>;

/// Makes ready the namespaces of the caller, which nobody else uses.
pub(super) fn prepare(tool: Tool, size: usize) {
    sh("mount -t tmpfs tmpfs /run && mkdir -p /run/netns /run/bench && ip link set lo up");
    tool.prepare(size);
}

/// All phases, in namespaces that are ready.
pub(super) fn inside(tool: Tool, size: usize) -> Run {
    let (mut run, idle) = (Run::new(), links());
    for phase in Phase::ALL {
        let Some(command) = tool.command(phase, size) else { continue };
        let mut figures = timed(command, size, (phase == Phase::Down).then_some(idle));
        figures.packets = settle() as f64;
        run.insert(phase, figures);
    }
    // After all of it: where the tool began there was nothing either.
    for (phase, figures) in &mut run {
        if let Some(command) = tool.besides(*phase) {
            figures.wall -= timed(command, size, None).wall;
        }
    }
    run
}

/// Runs a command; where a number of links is given, until no more are left.
fn timed(mut command: Command, size: usize, left: Option<usize>) -> Figures {
    let total = || {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("our own children");
        let [user, system] = [usage.user_time(), usage.system_time()].map(|time| time.num_microseconds() as f64 / 1e3);
        (user + system, user, usage.max_rss() as f64 / 1024.0)
    };
    back_memory(size);
    let ((cpu, user, _), start) = (total(), Instant::now());
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().expect("the tool starts");
    assert!(status.success(), "{command:?} ended with {status}");
    while left.is_some_and(|left| links() > left) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (wall, after) = (start.elapsed(), total());
    let (cpu, user, peak) = (after.0 - cpu, Some(after.1 - user), after.2);
    Figures { wall: wall.as_secs_f64() * 1e3, cpu, user, peak, packets: 0.0 }
}

/// Has the host of a virtual machine back some memory again, which is what is handed out next: free memory is reported to it
/// within seconds (`VIRTIO_BALLOON_F_REPORTING`), and whoever is given that page by page waits for each. By chance that
/// doubled the time of short runs, of those most that touch most. A container's network takes the kernel some 0.2 MiB. In a file,
/// as what this process has counts as the peak of those it starts.
fn back_memory(size: usize) {
    const PIECE: usize = 16 << 10;
    let path = "/run/bench/memory";
    let mut file = fs::File::create(path).expect("a private directory in memory");
    for _ in 0..((64 << 20) + size * (320 << 10)) / PIECE {
        file.write_all(&[1; PIECE]).expect("there is as much memory");
    }
    fs::remove_file(path).expect("it was made here");
}

/// Waits until no packets go out of the host's links any more, those of a set-up take seconds; how many there were.
pub(super) fn settle() -> u64 {
    const LIMIT: Duration = Duration::from_secs(30);
    const PAUSE: Duration = Duration::from_millis(500);

    let (start, mut before) = (Instant::now(), None);
    while start.elapsed() < LIMIT {
        let now = packets();
        if before.is_some_and(|before| now < before + 10) {
            return now;
        }
        before = Some(now);
        std::thread::sleep(PAUSE);
    }
    packets()
}

fn packets() -> u64 {
    let sent = |line: &str| line.split_once(':')?.1.split_ascii_whitespace().nth(9)?.parse::<u64>().ok();
    fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default().lines().filter_map(sent).sum()
}

fn links() -> usize {
    nix::net::if_::if_nameindex().map_or(0, |links| links.iter().count())
}

/// Network namespaces that the kernel has not freed yet.
pub(super) fn namespaces_alive() -> usize {
    let slabs = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    let line = slabs.lines().find(|line| line.starts_with("net_namespace"));
    line.and_then(|line| line.split_ascii_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

/// Runs a shell line that has to succeed.
fn sh(line: &str) {
    let status = Command::new("sh").args(["-ec", line]).stdout(Stdio::null()).status().expect("sh starts");
    assert!(status.success(), "{line}: {status}");
}
