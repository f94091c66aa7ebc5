//! What others have on the host, and what netrec says of it before it writes: ports that are taken, tables that drop what
//! it accepts. Real listeners, a real docker, a real firewalld, each in namespaces of its own.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may end at once and speak for itself"
)]

mod lab;

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, UdpSocket};

use lab::{attempt, in_private_namespaces, run};

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
fn refused(publish: &str, because: &str) {
    let before = run("nft list ruleset; ip -o link | cut -d: -f2; ip netns");
    let (exit, said) = netrec("apply --yes", &topology("shop", 10, publish));
    assert!(exit == 4 && said.contains(because), "{publish}: {exit} {said}");
    assert!(said.contains("/run/t.toml:12:12") && said.contains(publish), "the place is shown: {said}");
    assert_eq!(run("nft list ruleset; ip -o link | cut -d: -f2; ip netns"), before);
}

#[track_caller]
fn applied(topology: &str) -> String {
    let (exit, said) = netrec("apply --yes", topology);
    assert_eq!(exit, 0, "{said}");
    said
}

#[test]
fn a_port_that_something_listens_on_is_refused() {
    in_private_namespaces(|| {
        run("ip link add up0 up type veth peer name far; ip addr add 192.0.2.1/24 dev up0");
        let _every = TcpListener::bind("[::]:8080").unwrap();
        let _four = TcpListener::bind("127.0.0.1:8081").unwrap();
        let _datagrams = UdpSocket::bind("192.0.2.1:5300").unwrap();
        let client = UdpSocket::bind("192.0.2.1:5400").unwrap();
        client.connect("192.0.2.1:9").unwrap();
        refused(r#""8080:80""#, "port 8080/tcp is taken: a process of the host listens there");
        refused(r#""192.0.2.1:8000-8090:8000-8090""#, "port 8080/tcp is taken");
        refused(r#""[::]:8080:80""#, "port 8080/tcp is taken");
        refused(r#""8081:80""#, "port 127.0.0.1:8081/tcp is taken");
        refused(r#""5300:53/udp""#, "port 192.0.2.1:5300/udp is taken");
        // Another address, family or protocol, and a client's own port, are none of it.
        applied(&topology("shop", 10, r#""192.0.2.1:8081:80", "[::]:5300:53/udp", "8080:80/udp", "5400:53/udp""#));
    });
}

#[test]
fn whoever_comes_to_a_port_that_is_published_is_told_of() {
    in_private_namespaces(|| {
        let published = topology("shop", 10, r#""8080:80""#);
        applied(&published);
        let (exit, said) = netrec("plan --exit-code", &published);
        assert!(exit == 0 && said == "nothing to do\n", "{exit} {said}");
        let _late = TcpListener::bind("0.0.0.0:8080").unwrap();
        let (exit, said) = netrec("plan --exit-code", &published);
        assert!(exit == 0 && said.contains("note: port 8080/tcp is taken: a process"), "{exit} {said}");
    });
}

#[test]
fn a_host_port_is_chosen_around_others_and_stays_when_they_go_or_come() {
    in_private_namespaces(|| {
        let chosen = |said: &str| {
            let (_, rest) = said.split_once("publish tcp ").unwrap_or_else(|| panic!("{said}"));
            rest.split_once(' ').unwrap().0.parse::<u16>().unwrap()
        };
        let shop = topology("shop", 10, r#""80""#);
        let first = chosen(&applied(&shop));
        assert_eq!(netrec("destroy --yes", &shop).0, 0);
        let listener = TcpListener::bind(("0.0.0.0", first)).unwrap();
        let second = chosen(&applied(&shop));
        assert_eq!(second, first + 1);
        drop(listener);
        assert_eq!(netrec("plan --exit-code", &shop), (0, "nothing to do\n".to_owned()));
        let _late = TcpListener::bind(("0.0.0.0", second)).unwrap();
        assert_eq!(netrec("plan --exit-code", &shop).0, 0);
    });
}

#[test]
fn a_port_that_another_topology_publishes_is_refused() {
    in_private_namespaces(|| {
        applied(&topology("other", 20, r#""8080:80", "127.0.0.1:9000-9010:9000-9010/udp""#));
        refused(r#""8080:80""#, "port 8080/tcp is taken: topology `other` publishes there");
        refused(r#""9005:80/udp""#, "port 127.0.0.1:9000-9010/udp is taken: topology `other`");
        applied(&topology("shop", 10, r#""8081:80", "8080:80/udp""#));
    });
}

#[test]
fn a_port_that_another_table_maps_is_refused() {
    in_private_namespaces(|| {
        lab::nft(
            "table ip nat { chain DOCKER { iifname != docker0 tcp dport 8080 counter dnat to 172.17.0.2:80; }
             chain PREROUTING { type nat hook prerouting priority -100; fib daddr type local counter jump DOCKER; }; }",
        );
        run("iptables -t nat -A DOCKER -p udp --dport 5000:5010 -j DNAT --to-destination 172.17.0.3");
        refused(r#""8080:80""#, "port 8080/tcp is taken: table ip nat maps elsewhere what comes there");
        refused(r#""5005:80/udp""#, "port 5000-5010/udp is taken: table ip nat maps");
        applied(&topology("shop", 10, r#""[::]:8080:80", "8080:80/udp""#));
    });
}

#[test]
fn a_service_that_flushes_the_ruleset_is_told_of() {
    in_private_namespaces(|| {
        // An `/etc` of the test's own.
        run("mkdir /run/etc; cp -a /etc/. /run/etc 2>/dev/null || true; mount --bind /run/etc /etc
             mkdir -p /etc/systemd/system/sysinit.target.wants; rm -f /etc/sysconfig/nftables.conf");
        let file = |first: &str| {
            format!("#!/usr/sbin/nft -f\n\n{first}\n\ntable inet filter {{\n\tchain input {{\n\t}}\n}}\n")
        };
        fs::write("/etc/nftables.conf", file("flush ruleset")).unwrap();
        let shop = topology("shop", 10, r#""8080:80""#);
        let tables = || run("nft -s list table inet netrec-shop; nft -s list table bridge netrec-shop");
        let silent =
            |why: &str| assert_eq!(netrec("plan --exit-code", &shop), (0, "nothing to do\n".to_owned()), "{why}");
        let warns = |verb: &str| {
            let (exit, said) = netrec(verb, &shop);
            let found = said.lines().find(|line| line.starts_with("note: /etc/nftables.conf:3 flushes the ruleset"));
            let found = found.unwrap_or_else(|| panic!("{exit} {said}")).to_owned();
            (exit, found)
        };
        applied(&shop);
        silent("the service is off");

        let unit = "/etc/systemd/system/sysinit.target.wants/nftables.service";
        run(&format!("ln -s /lib/systemd/system/nftables.service {unit}"));
        assert_eq!((warns("plan --exit-code").0, warns("status --exit-code").0), (0, 0));
        run("ln -s /dev/null /etc/systemd/system/nftables.service");
        silent("it is masked");
        run(&format!(
            "rm /etc/systemd/system/nftables.service {unit}; mkdir -p /run/systemd/units
             ln -s 0 /run/systemd/units/invocation:nftables.service"
        ));
        let (_, note) = warns("plan --exit-code");

        // What it does is as it is told, and what it says to write instead leaves ours alone.
        run("nft -f /etc/nftables.conf");
        assert_eq!(warns("status --exit-code").0, 2, "ours are gone");
        applied(&shop);
        let ours = tables();
        let instead = note.split('`').nth(1).unwrap();
        fs::write("/etc/nftables.conf", file(instead)).unwrap();
        run("nft -f /etc/nftables.conf; nft -f /etc/nftables.conf");
        assert_eq!(tables(), ours);
        silent("nothing is flushed");
    });
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
         ip route add default via 192.0.2.2");
}

#[track_caller]
fn reached(yes: bool, from: &str, to: &str) {
    let patience = if yes { lab::PATIENCE } else { lab::SILENCE };
    assert_eq!(lab::ask_tcp(from, to, patience).is_some(), yes, "from {from} to {to}");
}

#[test]
fn what_users_drop_is_lost_and_what_they_accept_is_judged_as_ever() {
    in_private_namespaces(|| {
        lan();
        let shop = |publish: &str| topology("shop", 10, publish);
        applied(&shop(r#""8080:80", "8081:81", "8082:82""#));
        for port in [80, 81, 82, 90] {
            lab::serve("shop", port);
        }
        run("ip -n lan route add 10.10.0.0/24 via 192.0.2.1; ip -n lan addr add 192.0.2.3/24 dev eth0");
        let rules = || run("nft -s list table inet netrec-user");
        assert_eq!(rules().matches("policy accept").count(), 4, "{}", rules());
        assert!(!rules().lines().any(|line| ["accept", "drop"].contains(&line.trim())), "no rule stands in it");

        // By the port that was published, and by the container's; an accept of what is not published opens nothing.
        run("nft add rule inet netrec-user prerouting iifname up0 tcp dport 8080 drop
             nft add rule inet netrec-user forward tcp dport 81 drop
             nft add rule inet netrec-user forward ip daddr 10.10.0.10 tcp dport 90 accept");
        let judged = || {
            reached(false, "lan", "192.0.2.1:8080");
            reached(false, "lan", "192.0.2.1:8081");
            reached(true, "lan", "192.0.2.1:8082");
            reached(false, "lan", "10.10.0.10:90");
            reached(true, "", "192.0.2.1:8080");
        };
        judged();

        let theirs = rules();
        applied(&shop(r#""8080:80", "8081:81", "8082:82", "8083:83""#));
        let (exit, said) = netrec("plan --exit-code", &shop(r#""8080:80", "8081:81", "8082:82", "8083:83""#));
        assert!(exit == 0 && said == "nothing to do\n", "{exit} {said}");
        judged();
        let said = netrec("destroy --yes", &shop(r#""8080:80""#));
        assert!(said.0 == 0 && !said.1.contains("netrec-user"), "{}", said.1);
        assert_eq!(rules(), theirs);
        assert_eq!(run("nft list tables").trim(), "table inet netrec-user");
        applied(&topology("other", 20, ""));
        applied(&shop(r#""8080:80", "8081:81", "8082:82""#));
        assert_eq!(rules(), theirs, "also of a topology that comes new to it");

        // A table that a user emptied of its chains is as they want it; one that is gone is made again.
        run("nft delete table inet netrec-user; nft add table inet netrec-user");
        let (exit, said) = netrec("plan --exit-code", &shop(r#""8080:80", "8081:81", "8082:82""#));
        assert!(exit == 0 && said == "nothing to do\n", "{exit} {said}");
        run("nft delete table inet netrec-user");
        let said = applied(&shop(r#""8080:80", "8081:81", "8082:82""#));
        assert!(said.contains("+ host/table/netrec-user  empty, for your rules"), "{said}");
    });
}

/// Does what the note about a chain says, as a person would: what stands in backquotes.
fn follow(said: &str, about: &str) {
    let note = said.lines().find(|line| line.contains(about)).unwrap_or_else(|| panic!("{about}: {said}"));
    note.split('`').skip(1).step_by(2).for_each(|line| drop(run(line)));
}

#[test]
fn docker_drops_what_is_forwarded_and_is_told_of() {
    in_private_namespaces(|| {
        if !is_there("dockerd") {
            return;
        }
        lan();
        let arguments =
            ["--data-root", "/run/d", "--exec-root", "/run/e", "--pidfile", "/run/p", "-H", "unix:///run/s"];
        let _docker = Neighbour::start("dockerd", &arguments, "docker -H unix:///run/s info");
        let foreign = || run("nft -s list table ip filter; nft -s list table ip nat");
        let before = foreign();
        assert!(before.contains("policy drop"), "docker drops what it does not know: {before}");

        let shop = topology("shop", 10, r#""8080:80""#);
        let said = applied(&shop);
        lab::serve("shop", 80);
        lab::serve("lan", 80);
        assert_eq!(foreign(), before);
        reached(false, "lan", "192.0.2.1:8080");
        reached(false, "shop", "192.0.2.2:80");
        assert!(said.contains("chain FORWARD of table ip filter drops frames between endpoints of one bridge, too"));

        follow(&said, "drops what its rules do not accept");
        reached(true, "lan", "192.0.2.1:8080");
        reached(true, "shop", "192.0.2.2:80");
        let (exit, said) = netrec("plan --exit-code", &shop);
        assert!(exit == 0 && said == "nothing to do\n", "{exit} {said}");
        // Docker does not touch what stands in there, and netrec neither.
        assert_eq!(netrec("destroy --yes", &shop).0, 0);
        assert_eq!(foreign().lines().filter(|line| line.contains("br-shop")).count(), 2);
    });
}

#[test]
fn docker_accepts_what_is_forwarded_where_a_topology_asks_for_it() {
    in_private_namespaces(|| {
        if !is_there("dockerd") {
            return;
        }
        lan();
        let shop = topology("shop", 10, r#""8080:80""#);
        let asked = format!("docker_user = true\n{shop}");
        let said = applied(&asked);
        assert!(said.contains("note: docker has no chain DOCKER-USER here"), "{said}");
        let arguments =
            ["--data-root", "/run/d", "--exec-root", "/run/e", "--pidfile", "/run/p", "-H", "unix:///run/s"];
        // Docker drops only where it has begun to forward itself.
        run("sysctl -qw net.ipv4.ip_forward=0");
        let _docker = Neighbour::start("dockerd", &arguments, "docker -H unix:///run/s info");
        let rules = || run("iptables -S DOCKER-USER; iptables -S FORWARD");
        run("iptables -I DOCKER-USER -s 198.51.100.0/24 -j DROP");
        let before = rules();
        lab::serve("shop", 80);
        lab::serve("lan", 80);
        reached(false, "lan", "192.0.2.1:8080");

        let said = applied(&asked);
        assert!(said.contains("+ host/docker-user/ip  accept br-shop to up0") && !said.contains("note:"), "{said}");
        reached(true, "lan", "192.0.2.1:8080");
        reached(true, "shop", "192.0.2.2:80");
        // Behind what users put there, before the return that ends it, and such that iptables can read it.
        let lines: Vec<String> = run("iptables -S DOCKER-USER").lines().map(str::to_owned).collect();
        let at = |what: &str| lines.iter().position(|line| line.contains(what)).unwrap_or_else(|| panic!("{lines:?}"));
        assert!(at("DROP") < at("-i br-shop -o up0") && at("-i br-shop -o up0") < lines.len(), "{lines:?}");
        assert!(lines.iter().all(|line| !line.contains("RETURN")) || at("br-shop") < at("RETURN"), "{lines:?}");
        assert_eq!(netrec("plan --exit-code", &asked), (0, "nothing to do\n".to_owned()));

        // One that is gone comes back, one that is there twice goes, one of another topology and of others stays.
        run("nft add rule ip filter DOCKER-USER oifname br-other accept comment \\\"netrec:other\\\"
             gone=$(nft -a list chain ip filter DOCKER-USER | sed -n 's/.*iifname \"br-shop\".*# handle //p')
             nft delete rule ip filter DOCKER-USER handle $gone
             nft add rule ip filter DOCKER-USER oifname br-shop drop comment \\\"netrec:shop\\\"");
        let said = applied(&asked);
        assert!(said.contains("~ host/docker-user/ip  accept br-shop to up0") && said.contains("handle"), "{said}");
        assert_eq!(run("iptables -S DOCKER-USER").matches("br-shop").count(), 2);
        applied(&shop);
        assert_eq!(run("iptables -S DOCKER-USER").matches("br-shop").count(), 0, "the key is gone");
        applied(&asked);
        assert_eq!(netrec("destroy --yes", &asked).0, 0);
        let left = rules().lines().filter(|line| !line.contains("br-other")).collect::<Vec<_>>().join("\n");
        assert_eq!(left.trim(), before.trim());
        assert!(rules().contains("br-other"));
    });
}

#[test]
fn firewalld_rejects_what_is_forwarded_and_is_told_of() {
    in_private_namespaces(|| {
        if !is_there("firewalld") {
            return;
        }
        lan();
        // Its settings are the machine's, so they are changed in a copy.
        run("mkdir -p /run/dbus /run/firewalld /run/upper /run/work
             mount -t overlay overlay -o lowerdir=/etc/firewalld,upperdir=/run/upper,workdir=/run/work /etc/firewalld");
        let bus = "test -S /run/dbus/system_bus_socket";
        let _bus = Neighbour::start("dbus-daemon", &["--system", "--nofork", "--nopidfile"], bus);
        let _firewalld = Neighbour::start("firewalld", &["--nofork", "--nopid"], "firewall-cmd --state");

        let shop = topology("shop", 10, r#""8080:80""#);
        let said = applied(&shop);
        lab::serve("shop", 80);
        lab::serve("lan", 80);
        // It accepts what is mapped and rejects all else that no zone of its own lets out.
        reached(true, "lan", "192.0.2.1:8080");
        reached(false, "shop", "192.0.2.2:80");
        assert!(said.contains("chain filter_INPUT of table inet firewalld, which guards the host, does not see them"));

        follow(&said, "chain filter_FORWARD of table inet firewalld drops what its rules do not accept");
        let ours = || run("nft -s list table inet netrec-shop; nft -s list table bridge netrec-shop");
        let before = ours();
        run("firewall-cmd --reload");
        assert_eq!(ours(), before, "a reload leaves our tables alone");
        reached(true, "shop", "192.0.2.2:80");
        let (exit, said) = netrec("plan --exit-code", &shop);
        assert!(exit == 0 && !said.contains("filter_FORWARD"), "{exit} {said}");

        // Its service, as that of nftables, may flush everything: what was ours comes back whole.
        run("nft flush ruleset");
        assert_eq!(netrec("status --exit-code", &shop).0, 2);
        applied(&shop);
        assert_eq!(ours(), before);
    });
}
