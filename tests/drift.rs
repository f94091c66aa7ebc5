//! A drifter: somebody who changes whatever there is, several things at once, while `netrec watch` keeps it. No look that
//! nothing asked for comes to help, so what the watcher does not notice stays, and an independent look finds it.

#![expect(clippy::unwrap_used, reason = "a test may end at once")]

mod watched;
mod world;

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use watched::{FILE, NETREC, SHOP, Watcher, is_quiet, wait_for};
use world::sh;

/// Rounds; `NETREC_DRIFT=500 NETREC_SEED=7 cargo test --test drift` is a longer one.
const ROUNDS: u64 = 10;
/// Containers that the topology may have.
const CONTAINERS: usize = 4;

/// What somebody does to container `N`, whose namespace is `nN`, and perhaps to another one, `M`.
const INSIDE: &[&str] = &[
    "ip -n nN address delete 10.10.0.1N/24 dev eth0",
    "ip -n nN -6 address flush dev eth0 scope global",
    "ip -n nN route delete default",
    "ip -n nN route flush table main",
    "ip -n nN -6 route flush table main",
    "ip -n nN -6 route delete default",
    "ip -n nN rule delete priority 30078",
    "ip -n nN link set eth0 down",
    "ip -n nN link set eth0 mtu 1300",
    "ip -n nN link set eth0 address 02:00:00:00:00:01",
    "ip -n nN link set eth0 alias somebody",
    "ip -n nN link set eth0 group 7",
    "ip -n nN link set eth0 name lan0",
    "ip -n nN link set lo down",
    "ip -n nN link set lo alias somebody",
    "ip -n nN link delete eth0",
    "ip -n nN link delete eth1",
    "ip -n nN link set eth0 netns zN",
    "ip -n nN link set eth0 down; ip -n nN link set eth0 netns zN",
    "ip -n nN link set eth1 netns z",
    "ip -n nN link set eth0 name lan0; ip -n nN link set lan0 netns nM; sleep 0.02; ip -n nM link delete lan0",
    "ip -n nN link set eth0 netns t; ip -n nM link set eth0 netns nN; ip -n t link set eth0 netns nM",
    "ip -n nN link set eth0 netns t; ip -n t link set eth0 netns nN",
    "ip netns delete nN; ip netns add nN",
    "ip -n nN link add x type veth peer name y; ip -n nN link delete x",
    "ip -n nN address add 192.0.2.1/32 dev lo",
    "ip -n nN route add 198.51.100.0/24 dev eth0",
    "ip -n nN route add 203.0.113.0/24 dev eth0 proto 78 table 77",
    "nsenter --net=/run/netns/nN sh -c 'echo 1 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6'",
    "nsenter --net=/run/netns/nN sh -c 'echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6'",
    "ip -n nN link set eth0 mtu 1000",
    "ip -n nN link set eth0 down; ip -n nN link set eth0 name lan0; ip -n nN link set lan0 name eth0",
    "ip -n nN link property add dev eth0 altname lan0",
    "index=$(ip -n nN -o link show eth0 | cut -d: -f1); ip -n nN link delete eth0
     ip -n nN link add eth0 index $index type veth peer name pN netns z; sleep 0.02; ip -n z link delete pN",
    "ip -n nN link add x type veth peer name x netns nM; ip -n nM link delete x",
    "ip -n nN link add x link eth0 type macvlan; ip -n nN link set x netns nM; ip -n nM link delete x",
    "ip -n nN link add x type bridge; ip -n nN link set eth0 master x; ip -n nN link delete x",
    "for table in $(ip -n nN rule show | sed -n 's/^30078:.*lookup \\([0-9]*\\).*/\\1/p'); do
         for net in 10.10.0.0/24 10.20.0.0/24; do ip -n nN route replace $net dev eth0 table $table proto static; done
         ip -n nN route flush table $table proto static
     done",
    "ip -n nN route replace broadcast default dev eth0 table main; ip -n nN route delete broadcast default table main",
    "nsenter --net=/run/netns/nN sh -c 'echo 0 >/proc/sys/net/ipv6/conf/eth0/addr_gen_mode'",
    "mount --bind /run/netns/zN /run/netns/nN",
    "umount /run/netns/nN; mount --bind /run/netns/zN /run/netns/nN",
    "umount -l /run/netns/nN; ip netns delete nN; ip netns add nN",
    "touch /run/netns/a /run/netns/b; mount --bind /run/netns/nN /run/netns/a; mount --bind /run/netns/nM /run/netns/b
     umount -l /run/netns/nN /run/netns/nM; mount --bind /run/netns/a /run/netns/nM; mount --bind /run/netns/b /run/netns/nN
     umount -l /run/netns/a /run/netns/b; rm /run/netns/a /run/netns/b",
];

/// What somebody does to the host; `port` is a port of the bridge, `other` perhaps another one.
const ON_HOST: &[&str] = &[
    "ip link delete br-front",
    "ip link delete $port",
    "ip link set $port nomaster",
    "ip link set $port down",
    "ip link set $port alias somebody",
    "ip link set $port type bridge_slave isolated on",
    "ip link set $port netns z; ip -n z link delete $port",
    "ip link set $port mtu 1000",
    "ip link set $port mtu 1000; ip link set $port mtu 1500",
    "ip link set $port name port0",
    "ip link set $port name port0; ip link set $other name $port; ip link set port0 name $other",
    "ip link property add dev $port altname port0",
    "ip link set $port netns z; ip -n z link set $port netns $$",
    "index=$(cat /sys/class/net/$port/ifindex); ip link delete $port
     ip link add $port index $index type veth peer name pN netns z; sleep 0.02; ip link delete $port",
    "index=$(cat /sys/class/net/$port/ifindex); ip link delete $port; ip link add up2 index $index type bridge
     sleep 0.02; ip link delete up2",
    "ip link add up2 type bridge; ip link set $port master up2; sleep 0.02; ip link delete up2",
    "ip link add up2 link $port type macvlan; ip link delete up2",
    "ip link add up2 type veth peer name x netns nN; ip link set up2 master br-front; ip link delete up2",
    "for port in $(ls /sys/class/net/br-front/brif); do ip link set $port down nomaster; done",
    "ip link set br-front mtu 1400",
    "ip link set br-front address 02:00:00:00:00:01",
    "ip link set br-front down",
    "ip address flush dev br-front",
    "ip route delete 10.10.0.0/24",
    "echo 0 >/proc/sys/net/ipv4/conf/br-front/forwarding",
    "echo 0 >/proc/sys/net/ipv4/ip_forward",
    "echo 0 >/proc/sys/net/ipv6/conf/all/forwarding",
    "nft delete table inet netrec-shop",
    "nft flush table inet netrec-shop",
    "nft delete table bridge netrec-shop",
    "nft add rule inet netrec-shop forward accept",
    "nft flush set inet netrec-shop $set",
    "nft flush map inet netrec-shop $set",
    "nft delete table inet netrec-user",
    "nft flush ruleset",
    "nft add table inet theirs; nft 'add chain inet theirs f { type filter hook forward priority 0; policy drop; }'",
    "nft delete table inet theirs",
    "ip link add up0 mtu 1400 type veth peer name up1; ip link set up0 up; ip address add 203.0.113.1/24 dev up0
     ip route add default via 203.0.113.2",
    "ip link delete up0",
];

/// Numbers from a seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }
}

/// What the file says.
struct File {
    containers: [Container; CONTAINERS],
    port: usize,
    policy: bool,
    icc: bool,
    mtu: usize,
    edits: usize,
}

#[derive(Clone, Copy)]
struct Container {
    there: bool,
    /// Its namespace is given by `netns` or by `path`.
    by: &'static str,
    back: bool,
    /// Whether its addresses and its port are left to netrec.
    chosen: bool,
    /// Which port it publishes, and which container's endpoint it has: two may change places.
    port: usize,
    name: &'static str,
}

impl File {
    fn new() -> Self {
        let container = |port| Container { there: true, by: "netns", back: false, chosen: false, port, name: "c" };
        let containers = std::array::from_fn(container);
        Self { containers, port: 8080, policy: false, icc: true, mtu: 1500, edits: 0 }
    }

    fn edit(&mut self, dice: &mut Dice) {
        let (at, other) = (dice.below(CONTAINERS), dice.below(CONTAINERS));
        let ports = self.containers.map(|it| it.port);
        let container = &mut self.containers[at];
        match dice.below(13) {
            0 | 1 => container.there = !container.there,
            2 | 3 => container.by = dice.of(&["netns", "path"]),
            4 => container.back = !container.back,
            5 => container.name = dice.of(&["a", "c", "x"]),
            6 => self.port = 8080 + dice.below(3),
            7 => self.policy = !self.policy,
            8 => container.chosen = !container.chosen,
            9 | 10 => (container.port, self.containers[other].port) = (ports[other], ports[at]),
            11 => self.mtu = 2900 - self.mtu,
            _ => self.icc = !self.icc,
        }
        self.containers[0].there = true;
    }

    fn write(&mut self) {
        self.edits += 1;
        let (icc, port, mtu, edits) = (self.icc, self.port, self.mtu, self.edits);
        let mut text = format!(
            "# {edits}\ntopology = \"shop\"\nallow_deletes = 100\n[networks.front]\ndriver = \"bridge\"\nicc = {icc}\n\
             subnets = [\"10.10.0.0/24\", \"fd10::/64\"]\nmtu = {mtu}\nbridge.name = \"br-front\"\n\
             [networks.back]\ndriver = \"bridge\"\nsubnets = [\"10.20.0.0/24\", \"fd20::/64\"]\nbridge.name = \"br-back\"\n"
        );
        for (at, it) in self.containers.iter().enumerate().filter(|(_, it)| it.there) {
            let name = it.name;
            let (by, directory) = (it.by, if it.by == "path" { "/run/netns/" } else { "" });
            let _ = write!(
                text,
                "[containers.{name}{at}]\n{by} = \"{directory}n{at}\"\n[endpoints.front{}]\ncontainer = \"{name}{at}\"\nnetwork = \"front\"\n",
                it.port
            );
            text += &if it.chosen {
                "publish = [\"80\"]\n".to_owned()
            } else {
                let publish = port + 10 * it.port;
                format!("addresses = [\"10.10.0.1{at}\", \"fd10::1{at}\"]\npublish = [\"{publish}:80\"]\n")
            };
            if it.back {
                let _ = write!(text, "[endpoints.back{at}]\ncontainer = \"{name}{at}\"\nnetwork = \"back\"\n");
            }
        }
        if self.policy {
            text += "[[policies]]\naction = \"allow\"\nfrom = { network = \"back\" }\nto = { network = \"front\" }\nports = [\"80\"]\n";
        }
        fs::write("/run/files/new", text).unwrap();
        fs::rename("/run/files/new", FILE).unwrap();
    }
}

/// What an independent look says is to be done; none if nothing.
fn plan() -> Option<Value> {
    let output = Command::new(NETREC).args(["plan", "--format", "json", FILE]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let plan: Value = serde_json::from_str(&said).unwrap_or_default();
    let nothing = ["create", "update", "replace", "delete"].iter().all(|what| plan["summary"][what] == 0);
    (!nothing).then_some(plan)
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// Some things at once, as a script that always ends well.
fn script(dice: &mut Dice) -> String {
    let mut script = String::from(
        "exec 2>/dev/null; set +e
         port=$(ip -br link show master br-front | head -1 | sed 's/@.*//')
         other=$(ip -br link show master br-front | tail -1 | sed 's/@.*//')
         set=$(nft list table inet netrec-shop | awk '$1 == \"set\" || $1 == \"map\" {print $2}' | shuf -n1)\n",
    );
    for _ in 0..=dice.below(4) {
        let (one, other) = (dice.below(CONTAINERS), dice.below(CONTAINERS));
        let what = if dice.below(4) == 0 { dice.of(ON_HOST) } else { dice.of(INSIDE) };
        let what = what.replace("nN", &format!("n{one}")).replace("zN", &format!("z{one}"));
        script += &what.replace("nM", &format!("n{other}")).replace("1N", &format!("1{one}"));
        script += dice.of(&["\n", "\nsleep 0.01\n", "\nsleep 0.1\n"]);
    }
    // Names that the topology does not make are there at the end, and are all of different namespaces.
    script
        + "met=
           for n in n0 n1 n2 n3; do
               this=:; ip -n $n link show lo && this=:$(stat -Lc %i /run/netns/$n)
               case \"$met$this\" in
                   *\"$this\"*\"$this\"|*:) umount -l /run/netns/$n; ip netns delete $n; ip netns add $n;;
               esac
               met=\"$met$this\"
           done; true\n"
}

#[test]
fn nothing_that_is_announced_is_missed() {
    world::run(|| {
        let (rounds, seed) = (number("NETREC_DRIFT", ROUNDS), number("NETREC_SEED", 1));
        let (mut dice, mut file) = (Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1), File::new());
        sh(
            "mkdir -p /run/files /run/netns; for n in z z0 z1 z2 z3 t; do ip netns add $n; ip -n $n link set lo up; done",
        );
        file.write();
        let watcher = Watcher::start(FILE, "shop", &["--look-every", "1h", "--debounce", "10ms"]);
        watcher.until(|standing| standing["state"] == "in_sync");
        for round in 0..rounds {
            let suspended = dice.below(8) == 0;
            if suspended {
                watcher.ask(r#"{"version":1,"do":"suspend"}"#);
            }
            let script = script(&mut dice);
            // A new content, or two, may come before what somebody does or after it, and be looked at together with it.
            let (edits, before, together) = (dice.below(4), dice.below(2) == 0, dice.below(2) == 0);
            if together {
                watcher.signal(Signal::SIGSTOP);
            }
            if !before {
                sh(&script);
            }
            for _ in 1..edits {
                (0..=dice.below(3)).for_each(|_| file.edit(&mut dice));
                file.write();
            }
            if before {
                sh(&script);
            }
            if together {
                watcher.signal(Signal::SIGCONT);
            }
            if suspended {
                watcher.ask(r#"{"version":1,"do":"resume"}"#);
            }
            let (mut left, mut tries) = (None, 0);
            let settled = wait_for(|| {
                let state = watcher.standing().unwrap_or_else(|| panic!("it has ended{}", about(seed, round, &script)));
                // Who is fought with too often waits for a minute, or for the next content.
                tries += 1;
                // Not so often that the files are never still.
                if tries % 50 == 2 && ["contested", "failed"].contains(&state["state"].as_str().unwrap()) {
                    file.write();
                }
                left = plan();
                left.is_none() && state["state"] == "in_sync"
            });
            let standing = || format!("{:#}\n{}", watcher.standing().unwrap(), watcher.events());
            settled.unwrap_or_else(|| panic!("{left:#?}\n{}{}", standing(), about(seed, round, &script)));
        }
        assert_eq!(watcher.counter("overflows"), 0);
        watcher.end();
    });
}

/// What a person wants to know of a round that went wrong.
fn about(seed: u64, round: u64, script: &str) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    format!("\nseed {seed} round {round}\n{script}\n{}\n{}", read(FILE), read("/run/complaints"))
}

#[test]
fn a_namespace_is_heard_under_its_new_name() {
    world::run(|| {
        let watcher = Watcher::of(SHOP, &["--look-every", "1h"]);
        let follow = |content: &str| {
            let accepted = watcher.counter("accepted");
            fs::write(FILE, content).unwrap();
            let followed = |standing: &Value| standing["counters"]["accepted"].as_u64() > Some(accepted);
            watcher.until(|standing| followed(standing) && standing["state"] == "in_sync");
        };
        let heals_in = |netns: &str| {
            sh(&format!("ip -n {netns} address delete 10.10.0.10/24 dev eth0"));
            let is_back = || sh(&format!("ip -n {netns} address show dev eth0")).contains("10.10.0.10/24");
            wait_for(is_back).expect("it is heard");
        };
        let heals = || heals_in("api");
        // The file calls it otherwise.
        follow(&SHOP.replace(r#"netns = "api""#, r#"path = "/run/netns/api""#));
        heals();
        follow(SHOP);
        heals();
        // Looks go on with the content before while the next one waits. What somebody else made is not made again.
        sh("ip netns add own; ip -n own link set lo up");
        follow(&SHOP.replace(r#"netns = "api""#, r#"netns = "own""#));
        watcher.ask(r#"{"version":1,"do":"suspend"}"#);
        watcher.until(|standing| standing["state"] == "suspended");
        std::thread::sleep(Duration::from_millis(500)); // until the look that follows from it is over
        let (looks, accepted) = (watcher.counter("looks"), watcher.counter("accepted"));
        fs::write(FILE, SHOP.replace(r#"netns = "api""#, r#"path = "/run/netns/own""#)).unwrap();
        watcher.until(|standing| standing["counters"]["looks"].as_u64() > Some(looks));
        watcher.ask(r#"{"version":1,"do":"resume"}"#);
        watcher.until(|standing| standing["counters"]["accepted"].as_u64() > Some(accepted));
        heals_in("own");
        follow(SHOP);
        heals();
        // What was another container's. A name without a namespace would be given one: nobody looks in between.
        let corrective = watcher.counter("corrective");
        watcher.signal(Signal::SIGSTOP);
        sh("cd /run/netns; touch a b; mount --bind api a; mount --bind db b; umount -l api db
            mount --bind a db; mount --bind b api; umount -l a b; rm a b");
        watcher.signal(Signal::SIGCONT);
        watcher.until(|standing| standing["counters"]["corrective"].as_u64() > Some(corrective + 5));
        watcher.until(|standing| standing["state"] == "in_sync");
        heals();
        watcher.end();
    });
}

/// A mount is all that happens: the file was there before, and so was the namespace. Of neither Linux says anything.
#[test]
fn a_namespace_that_is_mounted_is_heard() {
    world::run(|| {
        sh("ip netns add sandbox; mkdir /run/sandboxes; touch /run/sandboxes/db");
        let waiting = SHOP.replace("netns = \"db\"", "path = \"/run/sandboxes/db\"");
        let watcher = Watcher::of(&waiting, &["--look-every", "1h", "--poll-every", "1h"]);
        for _ in 0..3 {
            watcher.until(|standing| standing["state"] == "pending");
            is_quiet(&watcher);
            sh("mount --bind /run/netns/sandbox /run/sandboxes/db");
            watcher.until(|standing| standing["state"] == "in_sync");
            is_quiet(&watcher);
            sh("umount /run/sandboxes/db");
        }
        watcher.end();
    });
}

/// Linux announces what comes, and not what goes for it.
#[test]
fn what_takes_the_place_of_a_route_is_heard() {
    world::run(|| {
        let watcher = Watcher::of(SHOP, &["--look-every", "1h"]);
        std::thread::sleep(Duration::from_secs(3)); // until the last echo has been heard
        sh("ip -n api route replace broadcast default dev eth0 table main
            ip -n api route delete broadcast default table main");
        wait_for(|| sh("ip -n api route").contains("default via")).expect("it is heard");
        watcher.end();
    });
}

#[test]
fn what_somebody_marks_as_theirs_is() {
    world::run(|| {
        let watcher = Watcher::of(SHOP, &["--look-every", "1h"]);
        for mark in ["ip -n api link set lo alias somebody", "ip -n api link set eth0 group 7 alias somebody"] {
            let looks = watcher.counter("looks");
            sh(mark);
            watcher.until(|standing| standing["counters"]["looks"].as_u64() > Some(looks));
            watcher.until(|standing| standing["state"] == "in_sync");
        }
        assert_eq!(watcher.counter("failed"), 0, "{}", watcher.events());
        watcher.end();
    });
}

/// Linux does not announce that the last process has left a namespace.
#[test]
fn a_namespace_goes_once_nobody_is_in_it() {
    world::run(|| {
        let without = SHOP.replace("[containers.db]\nnetns = \"db\"\n", "");
        let without = without.split("[endpoints.db-front]").next().unwrap();
        let gone = || !sh("ls /run/netns").contains("db");
        let mut watcher = Watcher::of(SHOP, &["--look-every", "1h"]);
        for anew in [false, true] {
            let process = world::Process::start("db");
            fs::write(FILE, without).unwrap();
            if anew {
                watcher.end();
                watcher = Watcher::start(FILE, "shop", &["--look-every", "1h"]);
            }
            watcher.until(|standing| standing["reason"].as_str().is_some_and(|it| it.contains("in use by process")));
            drop(process);
            wait_for(gone).unwrap_or_else(|| panic!("{}", watcher.events()));
            fs::write(FILE, SHOP).unwrap();
            wait_for(|| world::attempt("ip -n db address show eth0").status.success()).expect("it is made again");
            watcher.until(|standing| standing["state"] == "in_sync");
            assert_eq!(watcher.count("recovered"), 1 + usize::from(anew), "{}", watcher.events());
        }
        watcher.end();
    });
}
