//! A machine of its own for a test: fresh network and mount namespaces with an empty `/run` and `/var/lib` and without
//! units of systemd, on a thread that ends with the test, so that tests of one process do not meet.
//!
//! A test on the kernel runs where it can: as root, or else as the root of a user namespace. One that cannot says so and
//! shows nothing; where `NETREC_KERNEL=1` asks for the kernel that is a failure.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a world that cannot be made fails the test, or says so")]

use std::fs;
use std::io::Write as _;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressProtocol};

/// Says that this process is inside of the namespaces that [`WAY`] found possible.
const INSIDE: &str = "NETREC_INSIDE";

/// Where the units are that an administrator has put there or enabled: what they do is no part of a test's machine.
const UNITS: &str = "/etc/systemd/system";

/// Where `ip` and `nft` are, also for users who are not expected to need them.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a world is made here, as `unshare` spells it; or why none can be.
static WAY: LazyLock<Result<&str, String>> = LazyLock::new(|| {
    let world = "mount --make-rprivate / && mount -t tmpfs t /run && mount -t tmpfs t /var/lib && ip link set lo up && nft list tables";
    let attempt = |way: &str| {
        let output = Command::new("unshare").args([way, "sh", "-ec", world]).env("PATH", PATH).output();
        let output = output.map_err(|error| format!("unshare: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        if output.status.success() { Ok(()) } else { Err(said) }
    };
    let Err(as_we_are) = attempt("-nm") else { return Ok("-nm") };
    attempt("-Urnm")
        .map(|()| "-Urnm")
        .map_err(|as_own_root| format!("{as_we_are}; with a user namespace: {as_own_root}"))
});

/// Why there can be no world here, if so: said to whoever reads, and fatal where the kernel was asked for.
///
/// # Panics
///
/// When `NETREC_KERNEL=1`.
pub(crate) fn left_out(what: &str) -> bool {
    let Err(why) = &*WAY else { return false };
    let text = format!("LEFT OUT: {what} needs root, or user namespaces, and ip and nft: {why}");
    assert!(std::env::var("NETREC_KERNEL").is_err(), "{text}");
    // Not by a macro: those are silenced while a test succeeds.
    let _ = writeln!(std::io::stderr(), "{text}");
    true
}

/// A program, to be started in namespaces of its own and with the tools in reach.
pub(crate) fn program(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.arg(WAY.as_ref().unwrap()).arg(program).env("PATH", PATH).env(INSIDE, "1");
    command
}

/// Runs a test in a world of its own, if there can be one.
pub(crate) fn run(test: impl FnOnce() + Send) {
    let inside = std::env::var_os(INSIDE).is_some();
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    if !inside && left_out(&name) {
        return;
    }
    if !inside && *WAY == Ok("-Urnm") {
        // A process with threads cannot enter a user namespace: this test again, alone in a process that begins there.
        let output = program(&std::env::current_exe().unwrap()).args(["--exact", &name]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "in a user namespace:\n{said}");
        return;
    }
    std::thread::scope(|scope| {
        let world = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
            for empty in ["/run", "/var/lib", UNITS].into_iter().filter(|path| Path::new(path).exists()) {
                mount(Some("netrec-test"), empty, Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).unwrap();
            }
            sh("ip link set lo up");
            test();
        });
        world.join().unwrap_or_else(|panic| resume_unwind(panic));
    });
}

/// Runs a script in the world; it must succeed.
pub(crate) fn sh(script: &str) -> String {
    let output = attempt(script);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{script}\n{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Runs a script in the world, whatever comes of it.
pub(crate) fn attempt(script: &str) -> Output {
    Command::new("sh").args(["-euc", script]).env("PATH", PATH).stdin(Stdio::null()).output().unwrap()
}

/// The full size of a test, where it was asked for.
pub(crate) fn full_size(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|size| size.parse().expect("a number"))
}

/// Says how much something took at worst. Time is nothing to judge a busy machine by, so only a test of full size fails.
pub(crate) fn within<T: PartialOrd + Copy + std::fmt::Debug>(limit: T, worst: T, what: &str, full: bool) {
    eprintln!("{what}: {worst:.1?} at worst, {limit:?} at most");
    assert!(!full || worst <= limit, "{what}: {worst:?} is more than {limit:?}");
}

/// A process in a named namespace, killed when dropped.
pub(crate) struct Process(Child);

impl Process {
    /// Starts one and waits until it is in there.
    pub(crate) fn start(netns: &str) -> Self {
        let mut child = Command::new("ip").args(["netns", "exec", netns, "sleep", "1000"]).spawn().unwrap();
        let comm = format!("/proc/{}/comm", child.id());
        while fs::read_to_string(&comm).unwrap() != "sleep\n" {
            assert_eq!(child.try_wait().unwrap(), None, "nobody is in {netns}");
            std::thread::yield_now();
        }
        Self(child)
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A request that gives an IPv4 address to a link.
pub(crate) fn add_address(address: [u8; 4], prefix: u8, link: u32) -> (RouteNetlinkMessage, u16) {
    let mut message = AddressMessage::default();
    message.header.family = rtnetlink::packet_route::AddressFamily::Inet;
    message.header.prefix_len = prefix;
    message.header.index = link;
    message.attributes.push(AddressAttribute::Local(address.into()));
    (RouteNetlinkMessage::NewAddress(message), (nix::libc::NLM_F_CREATE | nix::libc::NLM_F_EXCL) as u16)
}

/// The same for the loopback link, with a protocol number, which iproute2 has a word for only since 6.3.
pub(crate) fn add_marked(address: [u8; 4], protocol: u8) -> (RouteNetlinkMessage, u16) {
    let (mut message, flags) = add_address(address, 24, 1);
    if let RouteNetlinkMessage::NewAddress(message) = &mut message {
        message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(protocol)));
    }
    (message, flags)
}

/// A listing by nft without notes of flows that are forgotten: they stay until others take their place.
pub(crate) fn without_forgotten(listed: &str) -> String {
    let word = |set: &str| set.contains("255.255.255.255") || set.contains("ffff:ffff:ffff:ffff");
    let counts = |set: &&str| !(set.contains("\tset stale") && word(set));
    listed.split("\n\n").filter(counts).collect::<Vec<_>>().join("\n\n")
}
