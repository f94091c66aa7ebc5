//! What an apply does to a host that is in use: nothing where nothing is to be done, no lost packet for what is not
//! edited, and no harm from others who change things at the same time.

#![allow(clippy::unwrap_used, reason = "a test may end at once")]

mod lab;
#[path = "../benches/workload/mod.rs"]
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Child, Command, Output, Stdio};

use lab::{in_private_namespaces, run, serve};
use netrec::apply::rails::Allowance;
use netrec::apply::{Target, execute, prepare_within};
use netrec::kernel::linux::Linux;
use netrec::model::lower::veth_name;
use netrec::model::parse::parse;
use netrec::model::source::Source;

const BIN: &str = env!("CARGO_BIN_EXE_netrec");

/// Two endpoints that stay as they are, one of them published.
const STAYS: &str = r#"
topology = "running"
[networks.lan]
driver = "bridge"
subnets = ["10.1.0.0/24", "fd01::/64"]
[containers.one]
netns = "one"
[containers.two]
netns = "two"
[endpoints.one]
container = "one"
network = "lan"
addresses = ["10.1.0.11", "fd01::11"]
[endpoints.two]
container = "two"
network = "lan"
addresses = ["10.1.0.12", "fd01::12"]
publish = ["8080:7/udp"]
"#;

fn apply(more: &str) -> Output {
    fs::write("/run/t.toml", format!("{STAYS}{more}")).unwrap();
    Command::new(BIN).args(["apply", "--yes", "/run/t.toml"]).stdin(Stdio::null()).output().unwrap()
}

fn must_apply(more: &str) {
    let output = apply(more);
    assert!(output.status.success(), "{}", said(&output));
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_second_apply_writes_nothing() {
    in_private_namespaces(|| {
        let traced = |file: &str| {
            let calls = "trace=socket,sendmsg,sendto,write,openat,open,mount,umount2,mkdir,mkdirat,unlink,unlinkat,link,linkat,\
                         rename,renameat,renameat2,symlink,symlinkat,fchmod,chmod,ftruncate,pwrite64,writev";
            let line =
                format!("strace -f -qq -xx -s 1000000 -e '{calls}' -o /run/{file} {BIN} apply --yes /run/t.toml");
            run(&line);
            fs::read_to_string(format!("/run/{file}")).unwrap()
        };
        fs::write("/run/t.toml", STAYS).unwrap();
        let (first, second) = (writes(&traced("first")), writes(&traced("second")));
        // What is looked for is what a first apply says.
        let words = NEW.map(|kind| format!("{kind}")).into_iter();
        for word in words.chain(["NFNL_MSG_BATCH_BEGIN", "mount(", "linkat(", "O_WRONLY"].map(String::from)) {
            assert!(first.iter().any(|line| line.contains(&word)), "{word} in {first:#?}");
        }
        assert_eq!(second, Vec::<String>::new());
    });
}

/// On a host that forwards nothing, and on one whose firewall and bridge somebody has taken away.
#[test]
fn the_drops_stand_before_anything_is_let_through() {
    in_private_namespaces(|| {
        fs::write("/run/t.toml", STAYS).unwrap();
        for beforehand in ["true", "nft flush ruleset; ip link delete $(ip -br link show type bridge | cut -d' ' -f1)"]
        {
            run(&format!(
                "{beforehand}; sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0
                strace -f -y -qq -e trace=sendto,write -o /run/trace {BIN} apply --yes /run/t.toml"
            ));
            let trace = fs::read_to_string("/run/trace").unwrap();
            // A transaction is done when the call returns; of all, only that of the topology's tables makes sets.
            let at =
                |word| trace.lines().position(|line| line.contains(word)).unwrap_or_else(|| panic!("{word}: {trace}"));
            let drops = at("NFT_MSG_NEWSET,");
            for opens in ["/ipv4/ip_forward>, \"1\"", "/ipv6/conf/all/forwarding>, \"1\"", "/route_localnet>, \"1\""] {
                assert!(drops < at(opens), "{opens}: {trace}");
            }
        }
    });
}

/// The traced calls that change anything, shortened: requests that are no questions, files opened for writing, all but
/// output.
fn writes(trace: &str) -> Vec<String> {
    let mut writes = Vec::new();
    // Sockets that only questions about sockets go to, by descriptor: their type has the number of `RTM_NEWADDR`.
    let mut asking = BTreeSet::new();
    let mut begun = BTreeMap::new(); // by a thread while another one goes on, which is told in two lines
    for line in trace.lines() {
        let (thread, call) = line.split_once(' ').map_or(("", line), |(thread, call)| (thread, call.trim_start()));
        let end = call.strip_prefix("<... socket resumed>");
        let whole = end.and_then(|end| Some(format!("{}{end}", begun.remove(thread)?)));
        let call = whole.as_deref().unwrap_or(call);
        let writing = match call.split('(').next().unwrap_or_default() {
            "socket" if call.ends_with("<unfinished ...>") => begun.insert(thread, call.to_owned()).is_some(),
            "socket" => {
                let descriptor = call.rsplit("= ").next().unwrap_or_default().to_owned();
                asking.remove(&descriptor);
                asking.extend(call.contains("NETLINK_SOCK_DIAG").then_some(descriptor));
                continue;
            }
            "sendmsg" if asking.contains(call[8..].split(',').next().unwrap_or_default()) => continue,
            "sendmsg" => {
                let kinds = rtnetlink_types(call);
                let said = kinds.iter().any(|kind| kind & 3 != GET);
                writes.extend(said.then(|| format!("sendmsg {kinds:?}")));
                assert!(!kinds.is_empty(), "no message in {call}");
                continue;
            }
            "sendto" => {
                let words: Vec<&str> =
                    call.split("nlmsg_type=").skip(1).filter_map(|rest| rest.split([',', '}']).next()).collect();
                assert!(!words.is_empty(), "no message in {call}");
                words.iter().any(|word| !word.contains("_GET"))
            }
            "open" | "openat" => ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"].iter().any(|flag| call.contains(flag)),
            "write" => !call.starts_with("write(1,") && !call.starts_with("write(2,"),
            _ => !call.starts_with(['+', '-', '<']),
        };
        writes.extend(writing.then(|| call.chars().take(200).collect()));
    }
    writes
}

/// `RTM_GETLINK` and all its like, by the two lowest bits.
const GET: u16 = 2;
/// `RTM_NEWLINK`, `RTM_NEWADDR` and `RTM_NEWROUTE`.
const NEW: [u16; 3] = [16, 20, 24];

/// The types of the messages in a traced `sendmsg`, whose bytes are written `\\x..`.
fn rtnetlink_types(call: &str) -> Vec<u16> {
    let text = call.split("iov_base=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
    let bytes: Vec<u8> = text.split("\\x").skip(1).map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let (mut rest, mut types) = (bytes.as_slice(), Vec::new());
    while let Some((header, _)) = rest.split_first_chunk::<6>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        types.push(u16::from_ne_bytes([header[4], header[5]]));
        rest = rest.get(length.next_multiple_of(4).max(16)..).unwrap_or_default();
    }
    types
}

/// A stream of pings, five hundred a second, until it is told to end.
struct Pings(Child);

impl Pings {
    fn start(netns: &str, to: &str) -> Self {
        let line = format!("exec ip netns exec {netns} ping -i 0.002 -W 1 -q {to}");
        Self(Command::new("sh").args(["-c", &line]).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// How many were sent, and how many came back.
    fn end(self) -> (u64, u64) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::SIGINT).unwrap();
        let told = String::from_utf8(self.0.wait_with_output().unwrap().stdout).unwrap();
        let line = told.lines().find(|line| line.contains("transmitted")).expect("ping tells what it did");
        let mut numbers = line.split(|letter: char| !letter.is_ascii_digit()).filter_map(|word| word.parse().ok());
        (numbers.next().unwrap(), numbers.next().unwrap())
    }
}

/// Asks a published port over and over, one question at a time; how many there were, and how many had no answer.
fn ask_on(stop: &std::sync::atomic::AtomicBool) -> (u32, u32) {
    let socket = lab::inside("outside", || std::net::UdpSocket::bind(("198.51.100.2", 0)).unwrap());
    socket.connect("198.51.100.1:8080").unwrap();
    socket.set_read_timeout(Some(lab::PATIENCE)).unwrap();
    let (mut asked, mut lost) = (0, 0);
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        socket.send(b"?").unwrap();
        asked += 1;
        lost += u32::from(socket.recv(&mut [0; 64]).is_err());
    }
    (asked, lost)
}

const OTHERS: &str = r#"
[networks.other]
driver = "bridge"
subnets = ["10.2.0.0/24", "fd02::/64"]
mtu = 1400
[containers.three]
netns = "three"
[endpoints.three]
container = "three"
network = "lan"
publish = ["9000:9000", "9001:9001/udp"]
[endpoints.three-other]
container = "three"
network = "other"
"#;

#[test]
fn what_is_not_edited_loses_no_packet() {
    in_private_namespaces(|| {
        run("ip netns add outside; ip link add wan type veth peer name eth0 netns outside; ip link set wan up
            ip address add 198.51.100.1/24 dev wan; ip -n outside address add 198.51.100.2/24 dev eth0
            ip -n outside link set eth0 up");
        must_apply("");
        serve("two", 7);
        run("ip netns exec one ping -c 1 10.1.0.12; ip netns exec one ping -c 1 fd01::12");
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| ask_on(&stop));
            let pings = [Pings::start("one", "10.1.0.12"), Pings::start("one", "fd01::12")];
            for _ in 0..3 {
                must_apply(OTHERS);
                must_apply(&OTHERS.replace("1400", "1300").replace("9000:9000", "9002:9000"));
                must_apply(
                    &OTHERS.replace(
                        "container = \"three\"\nnetwork = \"other\"",
                        "container = \"one\"\nnetwork = \"other\"",
                    ),
                );
                run("nft insert rule inet netrec-running forward counter");
                must_apply(&OTHERS.replace("endpoints.three]", "endpoints.renamed]"));
                must_apply("");
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            for pings in pings {
                let (sent, returned) = pings.end();
                assert!(sent > 100 && sent == returned, "{returned} of {sent} pings came back");
            }
            let (asked, lost) = asking.join().unwrap();
            assert!(asked > 100 && lost == 0, "{lost} of {asked} questions had no answer");
        });
    });
}

#[test]
fn applies_at_once_take_turns() {
    in_private_namespaces(|| {
        fs::write("/run/a.toml", STAYS).unwrap();
        fs::write("/run/b.toml", format!("{STAYS}{OTHERS}")).unwrap();
        for _ in 0..5 {
            let start = |file: &&str| {
                let mut command = Command::new(BIN);
                command.args(["apply", "--yes", "--lock-timeout", "60", file]).stdin(Stdio::null());
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            };
            let running: Vec<Child> =
                ["/run/a.toml", "/run/b.toml", "/run/a.toml", "/run/b.toml"].iter().map(start).collect();
            for child in running {
                let output = child.wait_with_output().unwrap();
                assert!(output.status.success(), "{}", said(&output));
            }
            let is = |file| Command::new(BIN).args(["plan", "--exit-code", file]).output().unwrap().status.success();
            assert!(is("/run/a.toml") != is("/run/b.toml"), "the host is as one of the files says");
        }
    });
}

#[test]
fn links_of_others_may_come_and_go_meanwhile() {
    in_private_namespaces(|| {
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    run("ip link add churn type veth peer name churn-peer; ip address add 203.0.113.1/24 dev churn
                        ip link set churn up; ip netns add churn; ip link delete churn; ip netns delete churn");
                }
            });
            let applied: Vec<Output> = (0..10).flat_map(|_| [apply(OTHERS), apply("")]).collect();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            for output in applied {
                // A look that is interrupted each time is said and decides nothing: the next apply goes on.
                let seen = !String::from_utf8_lossy(&output.stderr).contains("tables changed");
                assert!(output.status.success() || !seen, "{}", said(&output));
            }
        });
        must_apply("");
        let again = apply("");
        assert!(said(&again).contains("nothing to do"), "{}", said(&again));
    });
}

#[test]
fn links_that_go_by_themselves_are_where_they_were_to_go() {
    const MORE: &str = r#"
[containers.five]
netns = "five"
[endpoints.a]
container = "five"
network = "lan"
[endpoints.b]
container = "five"
network = "lan"
[endpoints.c]
container = "five"
network = "lan"
"#;
    let topology = |more: &str| parse(&[Source::new("t.toml", format!("{STAYS}{more}"))]).unwrap();
    in_private_namespaces(|| {
        let (with, without) = (topology(MORE), topology(""));
        for gone in [&["a"][..], &["a", "b"], &["a", "b", "c"]] {
            let mut kernel = Linux::default();
            let mut carry_out = |topology, between: &dyn Fn()| {
                let target = Target::Topology(topology);
                let prepared = prepare_within(&mut kernel, target, &Allowance::granted()).unwrap();
                between();
                execute(&mut kernel, target, prepared, &mut |_, _| {}).unwrap()
            };
            assert!(carry_out(&with, &|| {}).is_converged());
            // Before the plan that removes all three is carried out.
            let others =
                || gone.iter().for_each(|it| drop(run(&format!("ip link delete {}", veth_name("running", it)))));
            let report = carry_out(&without, &others);
            assert!(report.is_converged() && report.failed.is_empty(), "{gone:?}: {:?}", report.failed);
            assert_eq!(report.rounds, 1, "{gone:?}");
        }
    });
}

/// Applies while two links go by themselves that are to be deleted: when the thread that deletes them has started, and before
/// it says so, as each thread says its first message late. With what else is slow.
fn apply_while_links_go(topology: &str, links: [&str; 2], slow: &str) {
    fs::write("/run/t.toml", topology).unwrap();
    let slow = format!("strace -Dfqqo /dev/null -e inject=sendmsg:delay_enter=500000:when=1 {slow}");
    let [one, other] = links.map(|endpoint| veth_name("running", endpoint));
    let said = run(&format!(
        "{slow} {BIN} -v apply --yes --allow-deletes 3 /run/t.toml 2>&1 & export netrec=$!
        timeout 20 sh -c 'until grep -qx delete /proc/$netrec/task/*/comm; do sleep 0.01; done'
        ip link delete {one}; ip link delete {other}; wait $netrec"
    ));
    assert!(said.contains("verified") && !said.contains("not converged yet"), "{said}");
}

#[test]
fn links_of_which_some_go_by_themselves_are_waited_for() {
    in_private_namespaces(|| {
        let endpoint = |name: &str| format!("[endpoints.{name}]\ncontainer = \"one\"\nnetwork = \"lan\"\n");
        for gone in [["a", "b"], ["b", "c"]] {
            must_apply(&["a", "b", "c"].map(endpoint).concat());
            apply_while_links_go(STAYS, gone, "");
        }
    });
}

#[test]
fn links_that_are_made_after_others_went_by_themselves_stay() {
    in_private_namespaces(|| {
        run("ip link add br0 up type bridge");
        let own = "subnets = [\"10.1.0.0/24\", \"fd01::/64\"]";
        let of_others = "subnets = [\"10.1.0.0/24\"]\ninternal = true\nbridge = { name = \"br0\", external = true }";
        let topology = STAYS.replace(own, of_others).replace(", \"fd01::11\"", "").replace(", \"fd01::12\"", "");
        let topology = topology.replace("publish = [\"8080:7/udp\"]\n", "");
        fs::write("/run/t.toml", &topology).unwrap();
        run(&format!("{BIN} apply --yes /run/t.toml"));
        let renamed = topology.replace("endpoints.one", "endpoints.uno").replace("endpoints.two", "endpoints.due");
        // The last look is so slow that the links are deleted before netrec ends.
        apply_while_links_go(&renamed, ["one", "two"], "-e inject=sendto:delay_exit=20000");
        for endpoint in ["uno", "due"] {
            run(&format!("ip link show {}", veth_name("running", endpoint)));
        }
    });
}

#[test]
fn a_namespace_that_others_delete_is_made_again() {
    in_private_namespaces(|| {
        for _ in 0..10 {
            must_apply(OTHERS);
            // Its links go a moment later, perhaps while netrec looks, plans or writes.
            run("ip netns delete three");
            must_apply(OTHERS);
            run("ip netns exec three ip address show dev eth0 | grep -q 10.1.0");
        }
        let again = apply(OTHERS);
        assert!(said(&again).contains("nothing to do"), "{}", said(&again));
    });
}

/// As at `pids.max`: Rust asks for a stack that nobody has.
#[test]
fn where_no_thread_can_be_started_one_does_it_all() {
    in_private_namespaces(|| {
        fs::write("/run/t.toml", workload::topology(260)).unwrap(); // lowered by two, where there can be two
        let alone = |arguments: &[&str]| {
            let mut command = Command::new(BIN);
            command.args(arguments).env("RUST_MIN_STACK", (1_u64 << 60).to_string()).stdin(Stdio::null());
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", said(&output));
            said(&output)
        };
        alone(&["apply", "--yes", "/run/t.toml"]);
        let output = Command::new(BIN).args(["apply", "--yes", "/run/t.toml"]).stdin(Stdio::null()).output().unwrap();
        assert_eq!([said(&output), alone(&["apply", "--yes", "/run/t.toml"])], ["nothing to do\n"; 2]);
        alone(&["destroy", "--yes", "/run/t.toml"]);
        assert_eq!(fs::read_dir("/run/netns").unwrap().count(), 0);
    });
}

/// Asks for no setting of the host.
const INTERNAL: &str = r#"
topology = "running"
[networks.lan]
driver = "bridge"
subnets = ["10.1.0.0/24"]
internal = true
[containers.one]
netns = "one"
[endpoints.one]
container = "one"
network = "lan"
"#;

/// Containers of engines, units with `ProcSubset=pid` and policies of security modules are of many kinds.
#[test]
fn where_ipv6_of_a_port_cannot_be_switched_off_all_else_is_done() {
    let out_of_reach = [
        "mount -t proc -o subset=pid proc /proc",
        "mount --bind /proc/sys/net/ipv6 /proc/sys/net/ipv6; mount -o remount,bind,ro /proc/sys/net/ipv6",
    ];
    for mount in out_of_reach {
        in_private_namespaces(|| {
            fs::write("/run/t.toml", INTERNAL).unwrap();
            run(mount);
            let again = || Command::new(BIN).args(["apply", "--yes", "/run/t.toml"]).output().unwrap();
            let first = again();
            assert!(first.status.success(), "{mount}: {}", said(&first));
            assert_eq!(said(&again()), "nothing to do\n", "{mount}");
        });
    }
}
