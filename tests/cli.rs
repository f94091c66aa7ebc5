//! The program itself, as people and scripts meet it: exit codes, streams, JSON, terminals, signals; each test in fresh
//! namespaces, so that the machine is not in reach.

mod world;

use std::fs;
use std::process::{Command, Output, Stdio};

use netrec::kernel::feature::link_kind;
use netrec::kernel::netlink::{Protocol, Socket};
use rtnetlink::packet_route::link::InfoKind;
use world::sh;

const NETREC: &str = env!("CARGO_BIN_EXE_netrec");

const SHOP: &str = r#"
topology = "shop"
[networks.front]
driver = "bridge"
subnets = ["10.10.0.0/24", "fd10::/64"]
[containers.web]
netns = "web"
[endpoints.web]
container = "web"
network = "front"
publish = ["8080:80"]
"#;

/// How a run ended.
struct Ran {
    exit: i32,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Self { exit: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ran {
    #[track_caller]
    fn ends(self, exit: i32) -> Self {
        assert_eq!(self.exit, exit, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    fn json(&self) -> serde_json::Value {
        let value: serde_json::Value =
            serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}:\n{}\n{}", self.out, self.err));
        assert_eq!(value["version"], 1);
        value
    }
}

/// Runs a shell line in which `netrec` is the program; no terminal is there.
fn run(line: &str) -> Ran {
    let line = format!("netrec() {{ {NETREC} \"$@\"; }}\n{line}");
    Command::new("sh").args(["-c", &line]).stdin(Stdio::null()).output().expect("sh").into()
}

/// A world with the topology in `/run/shop.toml`.
fn with_shop(test: impl FnOnce() + Send) {
    world::run(|| {
        fs::write("/run/shop.toml", SHOP).expect("/run is ours");
        test();
    });
}

/// The same, but so long that the host is looked at while it is read.
fn long(text: &str) -> String {
    text.to_owned() + &"# long\n".repeat(8_000)
}

/// Everything in reach of the program that it could change.
fn snapshot() -> String {
    sh("ip -d link; ip address; ip rule; ip route show table all; ip -6 route show table all; ip netns list
        nft list ruleset; find /run | sort; sysctl -a 2>/dev/null | grep -E 'forward|accept_ra |route_localnet'")
}

#[track_caller]
fn untouched(before: &str, by: &str) {
    let now = snapshot();
    let difference = similar::TextDiff::from_lines(before, &now).unified_diff().header("before", "after").to_string();
    assert_eq!(difference, "", "{by}");
}

#[test]
fn an_edit_is_applied_once_and_taken_away_again() {
    with_shop(|| {
        assert_eq!(run("netrec plan --exit-code /run/shop.toml").ends(2).err, "");
        assert!(run("netrec status /run/shop.toml").ends(0).out.starts_with("topology shop: drifted\n"));
        run("netrec status --exit-code /run/shop.toml").ends(2);
        let applied = run("netrec apply /run/shop.toml").ends(0);
        assert!(applied.out.ends_with("0 failed\nverified: nothing left to do\n"), "{}", applied.out);
        assert_eq!(applied.err, "");
        assert_eq!(run("netrec apply /run/shop.toml").ends(0).out, "nothing to do\n");
        assert_eq!(run("netrec plan --exit-code /run/shop.toml").ends(0).out, "nothing to do\n");
        assert_eq!(run("netrec plan --format diff /run/shop.toml").ends(0).out, "");
        assert_eq!(run("netrec status --exit-code /run/shop.toml").ends(0).out, "topology shop: in sync\n");
        assert_eq!(run("netrec status --format json /run/shop.toml").ends(0).json()["state"], "in sync");
        let shown = run("netrec show --topology shop --format json").ends(0).json();
        assert!(shown["resources"].as_array().is_some_and(|all| all.len() > 5), "{shown}");
        assert!(run("netrec show --rules --format json /run/shop.toml").ends(0).json()["rules"].is_string());

        sh("sed -i 's/^driver/mtu = 1400\\ndriver/' /run/shop.toml");
        let diff = run("netrec plan --format diff /run/shop.toml").ends(0).out;
        assert!(diff.starts_with("--- observed\n+++ desired\n@@"), "{diff}");
        assert!(diff.contains("  mtu 1500\n") && diff.contains("  mtu 1400\n"), "{diff}");
        run("netrec apply /run/shop.toml").ends(0);

        let gone = run("netrec destroy --topology shop --format json").ends(0).json();
        assert_eq!(gone["outcome"]["converged"], true);
        assert_eq!(gone["errors"], serde_json::json!([]));
        let never = run("netrec destroy --topology shopp").ends(0).out;
        assert_eq!(never, "nothing to do\nnote: nothing here bears the mark of topology `shopp`\n");
    });
}

#[test]
fn a_chain_of_others_that_drops_what_is_forwarded_is_said_also_where_nothing_is_to_be_done() {
    with_shop(|| {
        run("netrec apply /run/shop.toml").ends(0);
        sh("nft add table ip filter
            nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'");
        for command in ["plan", "status"] {
            let out = run(&format!("netrec {command} /run/shop.toml")).ends(0).out;
            assert!(out.contains("note: chain FORWARD of table ip filter drops"), "{command}: {out}");
        }
    });
}

#[test]
fn nothing_is_touched_and_programs_are_told_why() {
    with_shop(|| {
        fs::write("/run/wrong.toml", "[networks.a]\ndriver = \"brigde\"\n").expect("/run is ours");
        sh("ip link add taken type bridge
            sed 's/^driver = .*/&\\nbridge = { name = \"taken\" }/' /run/shop.toml > /run/taken.toml");
        let locked = "mkdir -p /run/netrec && flock /run/netrec sh -c ";
        for (exit, line, says) in [
            (3, "netrec check --format json /run/wrong.toml", "`brigde`"),
            (3, "netrec apply --format json /run/wrong.toml", "`brigde`"),
            (3, "netrec plan --format json /run/absent.toml", "cannot read"),
            (3, "netrec rehearse --format json /run/wrong.toml", "`brigde`"),
            (4, "netrec plan --format json /run/taken.toml", "`taken` exists"),
            (4, "netrec apply --format json /run/taken.toml", "`taken` exists"),
            (4, "netrec status --format json /run/taken.toml", "`taken` exists"),
            (10, "setpriv --bounding-set -net_admin NETREC apply --format json /run/shop.toml", "CAP_NET_ADMIN"),
            (
                10,
                "unshare --map-user=65534 --map-group=65534 NETREC plan --format json /run/shop.toml",
                "CAP_SYS_ADMIN",
            ),
            (
                10,
                "unshare --map-user=65534 --map-group=65534 NETREC show --format json /run/shop.toml",
                "CAP_NET_ADMIN",
            ),
            (
                10,
                "unshare --map-user=65534 --map-group=65534 NETREC destroy --format json /run/shop.toml",
                "CAP_NET_ADMIN",
            ),
            (
                10,
                "unshare -Ur sh -c 'echo 0 >/proc/sys/user/max_user_namespaces; NETREC rehearse --format json /run/shop.toml'",
                "user namespaces are forbidden",
            ),
            (
                10,
                "strace -qqo /dev/null -e inject=socket:error=EPROTONOSUPPORT:when=2 NETREC apply --format json /run/shop.toml",
                "nftables",
            ),
            (
                10,
                "unshare -m sh -c 'mount -nit tmpfs none /proc/sys/net; NETREC apply --format json /run/shop.toml'",
                "no IPv6",
            ),
            (
                10,
                "unshare -m sh -c 'mount -n --bind /proc/sys/net /proc/sys/net; mount -no remount,bind,ro /proc/sys/net; NETREC apply --format json /run/shop.toml'",
                "write net.ipv4.ip_forward: ",
            ),
        ] {
            sh("mkdir -p /run/netrec");
            let before = snapshot();
            let ran = run(&line.replace("NETREC", NETREC)).ends(exit);
            let error = ran.json()["errors"][0].clone();
            assert!(error["message"].as_str().is_some_and(|message| message.contains(says)), "{line}: {error}");
            for field in ["id", "errno", "origin", "hint", "related"] {
                assert!(error.get(field).is_some(), "{line}: no {field} in {error}");
            }
            assert!(ran.err.contains(says), "{line}: people are told, too: {}", ran.err);
            untouched(&before, line);
        }
        let busy = run(&format!("{locked} '{NETREC} apply --lock-timeout 10ms --format json /run/shop.toml'")).ends(8);
        assert_eq!(busy.json()["errors"][0]["message"], "another netrec is writing");
        assert_eq!(run("netrec apply").ends(64).out, "");
        let usage = run("netrec apply --format json --nope /run/shop.toml").ends(64).json();
        assert_eq!(usage["errors"][0]["message"], "unexpected argument '--nope' found");
        let usage = run("netrec apply --format json").ends(64).json();
        assert_eq!(usage["errors"][0]["message"], "the following required arguments were not provided: <PATH>...");
        assert!(run("netrec aply /run/shop.toml").ends(64).err.contains("apply"));
    });
}

#[test]
fn a_name_that_is_taken_is_refused_and_what_is_lost_on_the_way_out_is_told() {
    with_shop(|| {
        sh("mkdir -p /run/netrec /run/netns/folder && touch /run/netns/file && ln -s /proc/0/ns/net /run/netns/link");
        let before = snapshot();
        let not_one = "is not a network namespace";
        for (name, why) in [("file", "is a file with no namespace behind it"), ("folder", not_one), ("link", not_one)] {
            fs::write("/run/shop.toml", SHOP.replace("\"web\"\n[endpoints", &format!("\"{name}\"\n[endpoints")))
                .expect("ours");
            let refused = run("netrec apply /run/shop.toml").ends(4).err;
            assert!(refused.contains(&format!("/run/netns/{name} {why}\n")), "{refused}");
            untouched(&before, name);
        }
        assert!(run("netrec destroy --topology Shop").ends(64).err.contains("a topology is named with"));
        assert!(run("netrec destroy --topology user --yes").ends(64).err.contains("and not `user`"));
        let full = run("netrec check /run/shop.toml >/dev/full").ends(1).err;
        assert_eq!(full, "error: cannot write to stdout: No space left on device (os error 28)\n");
        run("netrec completions bash | true").ends(0);
    });
}

/// Whether a command has the lock before it asks for a watcher, whose name stands in the file, and another thread than the
/// first looks at the host.
fn ahead(line: &str) -> [bool; 2] {
    run(&format!("strace -fo /run/trace -e trace=flock,connect,socket {NETREC} {line}")).ends(0);
    let trace = fs::read_to_string("/run/trace").expect("a trace");
    fs::remove_file("/run/trace").expect("it is ours");
    let at =
        |what: &str| trace.lines().position(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}: {trace}"));
    let thread = |at: usize| trace.lines().nth(at).and_then(|line| line.split(' ').next());
    [at("LOCK_EX") < at("shop.sock"), thread(at("NETLINK_ROUTE")) != thread(at("LOCK_EX"))]
}

#[test]
fn a_long_file_is_done_undone_and_refused_as_a_short_one_is() {
    with_shop(|| {
        let links = || sh("ip -br link; ip netns list");
        let before = links();
        fs::write("/run/shop.toml", long(&SHOP.replace("bridge", "brigde"))).expect("ours");
        assert!(run("netrec apply /run/shop.toml").ends(3).err.contains("`brigde`"));
        fs::write("/run/shop.toml", long(SHOP)).expect("ours");
        let unable = format!("setpriv --bounding-set -net_admin {NETREC} apply /run/shop.toml");
        assert!(run(&unable).ends(10).err.contains("CAP_NET_ADMIN"));
        let busy = format!("mkdir -p /run/netrec; flock /run/netrec {NETREC} apply --lock-timeout 0 /run/shop.toml");
        assert!(run(&busy).ends(8).err.contains("another netrec is writing"));
        assert_eq!(ahead("apply /run/shop.toml"), [true; 2], "locked and looked at before it is read");
        assert_eq!(run("netrec apply /run/shop.toml").ends(0).out, "nothing to do\n");
        sh("ip address del 10.10.0.1/24 dev $(ip -br link show type bridge | cut -d' ' -f1)");
        assert!(run("netrec apply /run/shop.toml").ends(0).out.contains("10.10.0.1/24"));
        run("netrec destroy /run/shop.toml").ends(0);
        assert_eq!(links(), before);
        fs::write("/run/shop.toml", SHOP).expect("ours");
        assert_eq!(ahead("apply /run/shop.toml"), [false; 2], "a short one is read before another thread has started");
    });
}

#[test]
fn a_kind_of_link_that_the_kernel_lacks_is_found_without_making_one() {
    world::run(|| {
        let before = snapshot();
        let mut socket = Socket::open(Protocol::Route).expect("a socket");
        for kind in [InfoKind::Bridge, InfoKind::Veth] {
            assert_eq!(link_kind(&mut socket, &kind), Ok(()));
        }
        let missing = link_kind(&mut socket, &InfoKind::Other("warpdrive".into())).expect_err("nobody has it");
        assert_eq!(missing.to_string(), "this kernel has no links of kind warpdrive");
        untouched(&before, "asking");
    });
}

#[test]
fn what_fails_is_told_with_the_kernels_words_and_its_place_and_the_next_apply_goes_on() {
    with_shop(|| {
        let fail = format!("strace -fqqo /dev/null -e inject=mount:error=EIO {NETREC}");
        let ran = run(&format!("{fail} apply --format json /run/shop.toml")).ends(5);
        let error = &ran.json()["errors"][0];
        assert_eq!((&error["id"], &error["errno"]), (&"host/netns/web".into(), &"EIO".into()));
        assert_eq!((&error["origin"]["file"], &error["origin"]["line"]), (&"/run/shop.toml".into(), &6.into()));
        assert!(ran.err.contains("I/O error") && ran.err.contains("/run/shop.toml:6:"), "{}", ran.err);
        run("netrec apply /run/shop.toml").ends(0);

        fs::write("/run/later.toml", SHOP.replace("netns = \"web\"", "path = \"/run/netns/later\"")).expect("ours");
        let waits = run("netrec apply --format json /run/later.toml").ends(6).json();
        assert_eq!(waits["outcome"]["pending"][0]["container"], "web");
        assert_eq!(run("netrec status --format json /run/later.toml").ends(0).json()["state"], "pending");
    });
}

#[test]
fn what_others_did_to_links_addresses_and_routes_of_ours_is_mended_or_told() {
    with_shop(|| {
        run("netrec apply /run/shop.toml").ends(0);
        let pair = sh("ip -br link show type veth | cut -d@ -f1").trim().to_owned();

        sh(&format!("ip netns add thief && ip link set {pair} netns thief"));
        assert!(run("netrec plan /run/shop.toml").ends(0).out.contains("- web/veth/eth0 "));
        run("netrec apply /run/shop.toml").ends(0);
        assert_eq!(run("netrec apply /run/shop.toml").ends(0).out, "nothing to do\n");

        sh("ip -n web link set eth0 group 0");
        run("netrec apply /run/shop.toml").ends(0);
        sh("ip -n web link show eth0");
        assert_eq!(run("netrec apply /run/shop.toml").ends(0).out, "nothing to do\n");

        let address = sh("ip -n web -br -4 address show dev eth0 | awk '{ print $3 }'").trim().to_owned();
        let again = format!("ip -n web address delete {address} dev eth0 && ip -n web address add {address} dev eth0");
        sh(&format!("{again} && ip -n web -6 address flush dev eth0 scope global"));
        run("netrec apply /run/shop.toml").ends(0);
        assert_eq!(run("netrec apply /run/shop.toml").ends(0).out, "nothing to do\n");

        sh("ip -n web route replace default via 10.10.0.254");
        let kept = "nothing to do\nnote: web has an IPv4 default route that is not netrec's: it stays, the one by endpoint \
                    `web` is left out\n";
        // Answers still go through the endpoint that was asked.
        assert!(run("netrec apply /run/shop.toml").ends(0).out.contains("+ web/rule/"));
        assert_eq!(run("netrec apply /run/shop.toml").ends(0).out, kept);

        sh(&format!("ip link set {pair} group 5"));
        let refused = run("netrec apply /run/shop.toml").ends(4).err;
        assert!(refused.contains("exists and is no longer in the topology's link group\n"), "{refused}");
        sh(&format!("ip link set {pair} alias ''"));
        let refused = run("netrec apply /run/shop.toml").ends(4).err;
        assert!(refused.contains("exists and is not netrec's\n"), "{refused}");
        sh(&format!("ip link delete {pair}"));
        run("netrec apply /run/shop.toml").ends(0);
        run("netrec destroy /run/shop.toml").ends(0);
        assert_eq!(sh("ip -br link | sed /^lo/d; ls /run/netns"), "thief\n");
    });
}

#[test]
fn what_bears_the_mark_of_another_topology_stays_though_it_is_in_the_group_that_is_deleted() {
    with_shop(|| {
        run("netrec apply /run/shop.toml").ends(0);
        let group = "$(ip -o link show type veth | sed 's/.* group \\([0-9]*\\) .*/\\1/')";
        sh(&format!("ip link add theirs group {group} type bridge"));
        sh("ip link set theirs alias netrec:other:host/bridge/theirs:00000000");
        run("netrec destroy /run/shop.toml").ends(0);
        assert_eq!(sh("ip -br link | sed '/^lo/d; s/ .*//'; ls /run/netns"), "theirs\n");
    });
}

#[test]
fn a_signal_ends_an_apply_between_steps_and_the_next_one_finishes() {
    with_shop(|| {
        let stop = format!(
            "strace -fqqo /dev/null -P /run/netns/web -e inject=mount:signal=SIGINT:when=1 {NETREC} apply /run/shop.toml"
        );
        let stopped = run(&stop).ends(5);
        assert!(stopped.err.starts_with("error: stopped as asked"), "{}", stopped.err);
        run("netrec apply /run/shop.toml").ends(0);
        assert_eq!(run("netrec apply /run/shop.toml").ends(0).out, "nothing to do\n");
    });
}

#[test]
fn who_flushes_the_rules_while_they_are_made_has_undone_them_and_they_are_made_again() {
    with_shop(|| {
        let flush = "timeout 20 sh -c 'until nft list table inet netrec-shop; do sleep 0.01; done' >/run/none 2>&1
                     nft flush ruleset";
        let mut flusher = Command::new("sh").args(["-c", flush]).spawn().expect("sh starts");
        // The word that flows are forgotten comes a tenth of a second after the rules.
        let slow = "strace -qqo /dev/null -e inject=sendto:delay_exit=100000";
        let applied = run(&format!("RUST_LOG=netrec=info {slow} {NETREC} apply /run/shop.toml")).ends(0);
        assert!(flusher.wait().expect("it ends").success());
        assert!(
            applied.err.contains("netrec-shop error=our tables went again while they were made\n"),
            "{}",
            applied.err
        );
        // Nothing is forwarded meanwhile.
        let waits = "host/sysctl/net.ipv4.ip_forward error=not tried, as host/firewall/netrec-shop failed\n";
        assert!(applied.err.contains(waits), "{}", applied.err);
        assert_eq!(run("netrec apply /run/shop.toml").ends(0).out, "nothing to do\n");
    });
}

/// Whether a traced netlink request only asks: strace spells out its type, or shows its bytes. Types of rtnetlink come
/// in fours: new, del, get, set (linux/rtnetlink.h).
fn asks(request: &str) -> bool {
    let Some((_, bytes)) = request.split_once("iov_base=\"") else {
        return request.contains("_GET") || request.contains("SOCK_DIAG_BY_FAMILY");
    };
    let bytes: Vec<u32> =
        bytes.split("\\x").skip(1).take(6).filter_map(|byte| u32::from_str_radix(&byte[..2], 16).ok()).collect();
    let kind = bytes.get(4).zip(bytes.get(5)).map(|(low, high)| low + 256 * high);
    // The one of sock_diag(7) only asks whatever it is.
    kind.is_some_and(|kind| kind % 4 == 2 || kind == 20)
}

#[test]
fn a_plan_only_reads() {
    with_shop(|| {
        for line in ["plan /run/shop.toml", "plan --destroy /run/shop.toml", "status /run/shop.toml"] {
            let before = snapshot();
            run(&format!("strace -xxfo /run/trace {NETREC} {line}")).ends(0);
            let trace = fs::read_to_string("/run/trace").expect("a trace");
            fs::remove_file("/run/trace").expect("it is ours");
            let said: Vec<&str> =
                trace.lines().filter(|line| line.contains(" sendmsg(") || line.contains(" sendto(")).collect();
            assert!(said.len() > 5, "{trace}");
            for request in said {
                assert!(asks(request), "{line}: {request}");
            }
            let written = |line: &&str| ["O_WRONLY", "O_RDWR", "O_CREAT", " mkdir"].iter().any(|it| line.contains(it));
            assert_eq!(trace.lines().find(written), None, "{line}");
            untouched(&before, line);
        }
    });
}

/// Runs a shell line on a terminal, with what is typed there.
fn on_terminal(typed: &str, line: &str) -> Ran {
    run(&format!("printf '{typed}' | script -qec \"{}\" /dev/null", line.replace("NETREC", NETREC)))
}

#[test]
fn on_a_terminal_it_asks_and_says_how_far_it_has_come() {
    with_shop(|| {
        let no = on_terminal("n\\n", "NETREC apply /run/shop.toml").ends(4);
        assert!(no.out.contains("apply this? [y/N]") && no.out.contains("nothing was touched"), "{}", no.out);
        run("netrec plan --exit-code /run/shop.toml").ends(2);
        let slow = "strace -fqqo /dev/null -e inject=mount:delay_enter=600000";
        let yes = on_terminal("y\\n", &format!("{slow} NETREC apply /run/shop.toml")).ends(0);
        assert!(yes.out.contains(" steps\r") || yes.out.contains(" steps\u{1b}"), "no progress: {:?}", yes.out);
        assert!(!on_terminal("", "NETREC destroy --yes /run/shop.toml").ends(0).out.contains("[y/N]"));
        let quick = run(&format!("{slow} {NETREC} apply /run/shop.toml")).ends(0);
        assert_eq!(quick.err, "", "no progress without a terminal");
    });
}

#[test]
fn a_rehearsal_touches_nothing_and_needs_nothing() {
    let topology = format!(
        "{SHOP}[networks.office]\ndriver = \"bridge\"\nsubnets = [\"10.20.0.0/24\"]\ngateways = [\"10.20.0.254\"]\nbridge = {{ name = \"br-office\", external = true }}\n\
         [containers.job]\npid = 1\n[endpoints.job]\ncontainer = \"job\"\nnetwork = \"office\"\n"
    );
    with_shop(|| {
        fs::write("/run/all.toml", topology).expect("/run is ours");
        for who in ["", "unshare --map-user=65534 --map-group=65534 "] {
            let before = snapshot();
            let ran = run(&format!("{who}{NETREC} rehearse /run/all.toml")).ends(0);
            for line in [
                "stand-in: uplink netrec-uplink with default routes, mtu 1500\n",
                "stand-in: bridge br-office, mtu 1500\n",
                "stand-in: empty namespace job for container job\n",
                "again: nothing to do\n",
                "left: nothing\n",
            ] {
                assert!(ran.out.contains(line), "{line}{}", ran.out);
            }
            let json = run(&format!("{who}{NETREC} rehearse --format json /run/all.toml")).ends(0).json();
            assert_eq!((&json["applied"]["converged"], &json["again"]["writes"]), (&true.into(), &0.into()));
            assert_eq!(json["left"], serde_json::json!([]));
            untouched(&before, who);
            run(&format!("{who}{NETREC} check /run/all.toml")).ends(0);
        }
        let fail = "strace -fqqo /dev/null -P /run/netns/web -e inject=mount:error=EIO";
        let failed = run(&format!("{fail} {NETREC} rehearse --format json /run/shop.toml")).ends(5).json();
        assert_eq!(failed["errors"][0]["id"], "host/netns/web");
        assert_eq!(failed["left"], serde_json::json!([]), "what failed is cleaned up, too");
    });
}

#[test]
fn words_for_shells_and_editors() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&format!("netrec completions {shell}")).ends(0).out;
        assert!(script.contains("rehearse") && !script.contains("guard"), "{shell}");
    }
    for shell in ["zsh", "fish"] {
        let script = run(&format!("netrec completions {shell}")).ends(0).out;
        assert_eq!(script.matches("Parse and validate").count(), 2, "after `netrec` and after `netrec help`: {shell}");
    }
    assert!(run("netrec help help").ends(0).out.contains("[COMMAND]..."), "as any command has arguments");
    let schema: serde_json::Value = serde_json::from_str(&run("netrec schema").ends(0).out).expect("JSON");
    assert_eq!(schema["title"], "netrec topology");
    assert_eq!(run("netrec --version").ends(0).out, concat!("netrec ", env!("CARGO_PKG_VERSION"), "\n"));
    assert!(run("netrec --help").ends(0).out.contains("Exit codes:"));
    for command in ["check", "plan", "apply", "destroy", "status", "show", "rehearse", "schema", "completions"] {
        assert!(run(&format!("netrec {command} --help")).ends(0).out.contains("Example"), "{command}");
    }
    with_shop(|| {
        assert!(run("netrec -v apply /run/shop.toml").ends(0).err.contains("host/netns/web"));
        assert!(run("RUST_LOG=debug netrec plan /run/shop.toml").ends(0).err.contains("planned"));
    });
}
