//! What others have on the host, and what netrec says of it before it writes: ports that are taken, tables that drop what
//! it accepts. Real listeners, a real docker, a real firewalld, a real ufw, each in namespaces of its own.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may end at once and speak for itself"
)]

mod docker;
mod firewalls;
#[path = "../lab/mod.rs"]
mod lab;
mod ports;
#[path = "../watched/mod.rs"]
mod watched;

use std::fs;
use std::io::Write as _;

use lab::{attempt, in_private_namespaces, run, world};

/// A topology of one network and one container.
fn topology(name: &str, subnet: u8, publish: &str) -> String {
    format!(
        "topology = \"{name}\"\n[networks.front]\ndriver = \"bridge\"\nsubnets = [\"10.{subnet}.0.0/24\", \
         \"fd{subnet}::/64\"]\nbridge.name = \"br-{name}\"\n[containers.{name}]\nnetns = \"{name}\"\n[endpoints.{name}]\n\
         container = \"{name}\"\nnetwork = \"front\"\naddresses = [\"10.{subnet}.0.10\", \"fd{subnet}::10\"]\n\
         publish = [{publish}]\n"
    )
}

/// Runs netrec on a topology: its exit code and all it says.
fn netrec(verb: &str, topology: &str) -> (i32, String) {
    fs::write("/run/t.toml", topology).unwrap();
    let output = attempt(&format!("{} {verb} /run/t.toml", env!("CARGO_BIN_EXE_netrec")));
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (output.status.code().unwrap(), said)
}

#[track_caller]
fn applied(topology: &str) -> String {
    let (exit, said) = netrec("apply --yes", topology);
    assert_eq!(exit, 0, "{said}");
    said
}

#[test]
fn where_ipv6_is_switched_off_it_is_switched_on_for_what_is_to_have_it() {
    in_private_namespaces(|| {
        // As an administrator does it on the host, and an engine in a container.
        run("ip netns add shop; ip netns exec shop sysctl -qw net.ipv6.conf.all.disable_ipv6=1
             sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
        let shop = topology("shop", 10, r#""8080:80""#);
        let said = applied(&shop);
        for setting in ["host/sysctl/net.ipv6.conf.br-shop", "shop/sysctl/net.ipv6.conf.eth0"] {
            let line = format!("+ {setting}.disable_ipv6 ");
            assert!(said.lines().any(|it| it.starts_with(&line) && it.ends_with("value 0")), "{said}");
        }
        lab::serve("shop", 80);
        reached(true, "", "[fd10::10]:80");
        assert_eq!(netrec("plan --exit-code", &shop), (0, "nothing to do\n".to_owned()));
        // What is not netrec's stays as it was.
        let settings = "ip netns exec shop sysctl -n net.ipv6.conf.lo.disable_ipv6 net.ipv6.conf.default.disable_ipv6";
        assert_eq!(run(settings), "1\n1\n");

        run(
            "sysctl -qw net.ipv6.conf.br-shop.disable_ipv6=1; ip netns exec shop sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1",
        );
        reached(false, "", "[fd10::10]:80");
        let said = applied(&shop);
        let on = |line: &&str| line.contains(".disable_ipv6 ") && line.ends_with("value 1 -> 0");
        assert_eq!(said.lines().filter(on).count(), 2, "{said}");
        reached(true, "", "[fd10::10]:80");

        // Without IPv6 nothing is switched on.
        let said = applied(&topology("four", 20, "").replace(", \"fd20::/64\"", "").replace(", \"fd20::10\"", ""));
        assert!(!said.contains("disable_ipv6"), "{said}");
    });
}

/// Whether a program of others can be run here: installed, and with all of root's rights. One that cannot is said, and is
/// a failure where `NETREC_NEIGHBOURS=1` asks for it.
fn is_there(program: &str) -> bool {
    let rights = fs::read_to_string("/proc/self/uid_map").unwrap().ends_with(" 4294967295\n");
    let there = rights && attempt(&format!("command -v {program}")).status.success();
    if !there {
        let text = format!("LEFT OUT: {program} is to be installed, and to be run as root");
        assert!(std::env::var("NETREC_NEIGHBOURS").is_err(), "{text}");
        let _ = writeln!(std::io::stderr(), "{text}");
    }
    there
}

/// A program of others that runs in the world of the test, ended with it.
struct Neighbour(std::process::Child);

impl Neighbour {
    /// Starts it and waits until a shell line succeeds.
    fn start(program: &str, arguments: &[&str], until: &str) -> Self {
        let log = fs::File::create(format!("/run/{program}.log")).unwrap();
        let mut command = std::process::Command::new(program);
        command.args(arguments).stdin(std::process::Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("{program} is to be installed: {error}"));
        let neighbour = Self(child);
        for _ in 0..600 {
            if attempt(until).status.success() {
                return neighbour;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("{program}: {}", fs::read_to_string(format!("/run/{program}.log")).unwrap());
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // Asked nicely, so that it takes along what it started.
        attempt(&format!("kill {}", self.0.id()));
        let _ = self.0.wait();
    }
}

/// A LAN with a neighbour who asks for the published port.
fn lan() {
    run("ip netns add lan; ip link add up0 up type veth peer name eth0 netns lan; ip -n lan link set eth0 up
         ip addr add 192.0.2.1/24 dev up0; ip -n lan addr add 192.0.2.2/24 dev eth0
         ip addr add 2001:db8::1/64 dev up0 nodad; ip -n lan addr add 2001:db8::2/64 dev eth0 nodad
         ip route add default via 192.0.2.2; ip route add default via 2001:db8::2");
}

/// The settings of others are the machine's, so they are changed in a copy.
fn settings_of_our_own() {
    run("mkdir /run/upper /run/work
         mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work /etc");
}

#[track_caller]
fn reached(yes: bool, from: &str, to: &str) {
    let patience = if yes { lab::PATIENCE } else { lab::SILENCE };
    assert_eq!(lab::ask_tcp(from, to, patience).is_some(), yes, "from {from} to {to}");
}

/// Does what the note about a chain says, as a person would: what stands in backquotes.
fn follow(said: &str, about: &str) {
    let note = said.lines().find(|line| line.contains(about)).unwrap_or_else(|| panic!("{about}: {said}"));
    note.split('`').skip(1).step_by(2).for_each(|line| drop(run(line)));
}
