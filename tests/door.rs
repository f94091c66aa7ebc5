//! The kernel room against Linux: what `ip` builds is what is read; what is made is what `ip` sees.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may end at once and speak for itself"
)]

mod world;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use netrec::kernel::linux::Linux;
use netrec::kernel::netlink::{Protocol, Socket};
use netrec::kernel::netns::{self, Creation, Found};
use netrec::kernel::{Kernel, KernelError, ask, read, sysctl};
use netrec::model::resource::{Kind, Op, Resource, Step};
use netrec::model::wire::{Facts, NetnsFacts, NetnsOrigin, NetnsRef, Owner, RouteFacts, Scope};
use nix::errno::Errno;
use nix::libc;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use world::{Process, add_marked, sh};

fn scope(containers: &[(&str, NetnsRef)]) -> Scope {
    let containers = containers.iter().map(|(name, netns)| ((*name).into(), netns.clone())).collect();
    Scope { owner: Owner::new("shop"), containers, several: std::collections::BTreeSet::new(), sysctls: Vec::new() }
}

fn named(name: &str) -> NetnsRef {
    NetnsRef::Named(name.into())
}

fn facts(containers: &[(&str, NetnsRef)]) -> Facts {
    read::facts(&scope(containers)).expect("the world can be read")
}

fn names(facts: &Facts) -> Vec<&str> {
    facts.namespaces.keys().map(|name| &**name).collect()
}

fn route<'a>(netns: &'a NetnsFacts, destination: &str) -> &'a RouteFacts {
    netns.routes.iter().find(|route| route.destination.to_string() == destination).expect(destination)
}

#[test]
fn links_are_read_as_ip_made_them() {
    world::run(|| {
        sh("ip netns add api
            ip link add br0 address 02:00:00:00:00:01 mtu 1400 type bridge
            ip link set br0 up group 77 alias 'netrec:shop:host/bridge/br0:0123abcd'
            ip link add v0 mtu 1400 master br0 group 78 type veth peer name eth0 address 02:00:00:00:00:02 netns api
            ip link set v0 type bridge_slave isolated on
            ip -n api link set eth0 addrgenmode none up");
        let facts = facts(&[("api", named("api"))]);
        let host = facts.host();
        let bridge = host.link_named("br0").unwrap();
        assert_eq!((&*bridge.kind, bridge.mtu, bridge.up, bridge.group), ("bridge", 1400, true, 77));
        assert_eq!((bridge.mac.to_string().as_str(), bridge.master), ("02:00:00:00:00:01", None));
        assert_eq!(&*bridge.alias, "netrec:shop:host/bridge/br0:0123abcd");

        let port = host.link_named("v0").unwrap();
        assert_eq!((&*port.kind, port.up, port.group, port.master), ("veth", false, 78, Some(bridge.index)));
        assert_eq!((port.isolated, port.hairpin), (true, false));
        let api = &facts.namespaces["api"];
        let eth0 = api.link_named("eth0").unwrap();
        assert_eq!((port.link, eth0.link), (Some(eth0.index), Some(port.index)));
        assert!(port.link_netnsid.is_some() && eth0.link_netnsid.is_some());
        assert_eq!((eth0.addr_gen_mode, port.addr_gen_mode), (Some(1), Some(0)));
        assert_eq!(api.origin, NetnsOrigin::Named);
        assert_eq!(api.link(1).map(|lo| (&*lo.name, lo.up)), Some(("lo", false)));
        assert_eq!(host.link(1).map(|lo| (&*lo.name, lo.up)), Some(("lo", true)));
    });
}

#[test]
fn addresses_and_their_flags_and_protocol_are_read() {
    world::run(|| {
        sh("ip link add br0 up type bridge
            ip addr add 10.1.2.3/24 dev br0
            ip addr add 10.1.2.4/24 dev br0 noprefixroute
            ip addr add 10.9.0.1 peer 10.9.0.2/32 dev br0
            ip addr add fd10::1/64 dev br0 nodad");
        let ours = [add_marked([10, 5, 0, 1], 78)];
        assert_eq!(Socket::open(Protocol::Route).unwrap().batch(&ours), [Ok(())]);
        let facts = facts(&[]);
        let host = facts.host();
        let index = host.link_named("br0").unwrap().index;
        let of = |text: &str| {
            let found = host.addresses.iter().find(|it| it.address.to_string() == text && it.link == index);
            found.map(|it| (it.protocol, it.flags)).expect(text)
        };
        let permanent = libc::IFA_F_PERMANENT;
        assert_eq!(of("10.1.2.3/24"), (0, permanent));
        assert_eq!(of("10.1.2.4/24"), (0, permanent | libc::IFA_F_NOPREFIXROUTE | libc::IFA_F_SECONDARY));
        assert_eq!(of("10.9.0.1/32"), (0, permanent), "the local end, not the peer's");
        assert_eq!(of("fd10::1/64"), (0, permanent | libc::IFA_F_NODAD));
        let on_lo = |text: &str| host.addresses.iter().find(|it| it.address.to_string() == text).map(|it| it.protocol);
        assert!(on_lo("127.0.0.1/8").is_some());
        assert_eq!(on_lo("10.5.0.1/24"), Some(78));
    });
}

const ROUTES: &str = "ip link add br0 up type bridge
    ip addr add 10.1.2.3/24 dev br0
    ip addr add fd10::1/64 dev br0 nodad
    ip route add default via 10.1.2.254 metric 50 src 10.1.2.3
    ip route add 192.0.2.0/24 via 10.1.2.9 table 1845494016 proto 78
    ip route add 198.51.100.0/24 via 10.1.2.9 table 100 proto static
    ip route add blackhole 203.0.113.0/24
    ip route add 172.16.0.0/16 nexthop via 10.1.2.7 nexthop via 10.1.2.8
    ip route add 172.17.0.0/16 via inet6 fd10::9 dev br0
    ip route add default via fd10::fe
    ip route add fd20::/64 via fd10::9 table 100 proto 78
    ip rule add from 10.1.2.0/24 lookup 1845494016 priority 1000 protocol 78
    ip -6 rule add from fd10::/64 lookup 100 priority 1001 protocol 78
    ip rule add from 10.1.3.0/24 lookup 100 priority 1002 protocol 4";

#[test]
fn routes_and_rules_of_the_host_are_read_from_all_tables() {
    world::run(|| {
        sh(ROUTES);
        let facts = facts(&[]);
        let host = facts.host();
        let index = host.link_named("br0").unwrap().index;
        let default = route(host, "0.0.0.0/0");
        assert_eq!((default.gateway, default.metric), ("10.1.2.254".parse().ok(), 50));
        assert_eq!((default.link, default.source), (Some(index), "10.1.2.3".parse().ok()));
        assert_eq!((default.table, default.route_type, default.scope), (254, 1, 0));
        let ours = route(host, "192.0.2.0/24");
        assert_eq!((ours.table, ours.protocol), (1_845_494_016, 78));
        assert_eq!((route(host, "198.51.100.0/24").table, route(host, "198.51.100.0/24").protocol), (100, 4));
        assert_eq!(route(host, "203.0.113.0/24").route_type, libc::RTN_BLACKHOLE);
        assert_eq!((route(host, "172.16.0.0/16").link, route(host, "172.16.0.0/16").gateway), (Some(index), None));
        assert_eq!(route(host, "172.17.0.0/16").gateway, "fd10::9".parse().ok());
        assert_eq!(route(host, "::/0").gateway, "fd10::fe".parse().ok());
        assert_eq!(route(host, "fd20::/64").table, 100);
        assert_eq!((route(host, "10.1.2.3/32").table, route(host, "10.1.2.3/32").route_type), (255, 2));
        assert!(host.routes.iter().all(|route| !matches!(route.route_type, 3..=5)));

        let rule = |priority| host.rules.iter().find(|rule| rule.priority == priority).unwrap();
        assert_eq!((rule(1000).table, rule(1000).source), (1_845_494_016, "10.1.2.0/24".parse().unwrap()));
        assert_eq!((rule(1001).table, rule(1001).source), (100, "fd10::/64".parse().unwrap()));
        assert_eq!(host.rules.len(), 2, "neither the kernel's own nor those of others");
    });
}

#[test]
fn routes_of_containers_are_those_of_main_and_ours_each_once() {
    world::run(|| {
        sh("ip netns add api");
        fs::write("/run/routes", format!("ip link set lo up\n{ROUTES}\nip route add 10.77.0.0/16 dev br0 proto 78\n"))
            .unwrap();
        sh("ip netns exec api sh -eu /run/routes");
        let facts = facts(&[("api", named("api"))]);
        let api = &facts.namespaces["api"];
        assert_eq!(route(api, "192.0.2.0/24").table, 1_845_494_016);
        assert_eq!(route(api, "fd20::/64").table, 100);
        assert!(!api.routes.iter().any(|route| route.destination.to_string() == "198.51.100.0/24"), "foreign table");
        assert_eq!(api.routes.iter().filter(|route| route.destination.to_string() == "10.77.0.0/16").count(), 1);
        assert_eq!(route(api, "0.0.0.0/0").metric, 50);
        assert_eq!(route(api, "::/0").table, 254);
        assert_eq!(api.rules.len(), 2);
    });
}

#[test]
fn other_tables_of_a_container_and_rules_are_read_where_something_of_ours_may_be_there() {
    world::run(|| {
        sh("ip netns add api; ip -n api link add br0 up type bridge
            ip -n api route add 192.0.2.0/24 dev br0 table 1845494016 proto 78
            ip -n api rule add priority 30078 from 192.0.2.1 table 1845494016 protocol 78");
        let seen = || {
            let api = &facts(&[("api", named("api"))]).namespaces["api"];
            (api.routes.iter().filter(|route| route.table == 1_845_494_016).count(), api.rules.len())
        };
        let mut inside = Socket::open_in(fs::File::open("/run/netns/api").unwrap().as_fd(), Protocol::Route).unwrap();
        let mut add = |last, mark| assert_eq!(inside.batch(&[add_marked([10, 5, 0, last], mark)]), [Ok(())]);
        add(1, 78);
        assert_eq!(seen(), (1, 1), "no address is ours");
        sh(&format!("ip -n api link set lo group {}", Owner::new("shop").group));
        assert_eq!(seen(), (0, 0));
        add(2, 79);
        assert_eq!(seen(), (1, 1), "one says so");
        sh("ip -n api address delete 10.5.0.2/24 dev lo");
        assert_eq!(seen(), (0, 0));
        sh("ip -n api route add default dev br0 proto 78");
        assert_eq!(seen(), (0, 0));
        sh("ip -n api route replace default dev br0 proto static");
        assert_eq!(seen(), (1, 1));
        sh("ip -n api route delete default; ip -n api link add br1 type bridge");
        assert_eq!(seen(), (1, 1));
    });
}

#[test]
fn containers_are_found_by_name_path_and_process() {
    world::run(|| {
        sh("ip netns add one; ip netns add two; ip netns add three
            ip -n one link add one type bridge; ip -n two link add two type bridge; ip -n three link add three type bridge");
        let process = Process::start("three");
        let facts = facts(&[
            ("a", named("one")),
            ("b", NetnsRef::Path("/run/netns/two".into())),
            ("c", NetnsRef::Pid(process.id())),
        ]);
        assert_eq!(names(&facts), ["a", "b", "c", "host"]);
        for (name, link, origin) in
            [("a", "one", NetnsOrigin::Named), ("b", "two", NetnsOrigin::Given), ("c", "three", NetnsOrigin::Given)]
        {
            let netns = &facts.namespaces[name];
            assert!(netns.link_named(link).is_some(), "{name}");
            assert_eq!(netns.origin, origin);
        }
        assert!(facts.absent.is_empty(), "{:?}", facts.absent);
    });
}

#[test]
fn what_is_not_there_or_not_a_container_is_absent_with_its_reason() {
    world::run(|| {
        sh("ip netns add one; touch /run/file /run/netns/bare /run/netns/me; mkfifo /run/pipe
            mount --bind /proc/self/ns/net /run/netns/me");
        let gone = Process::start("one");
        let number = gone.id();
        drop(gone);
        let path = |path: &str| NetnsRef::Path(path.into());
        let facts = facts(&[
            ("again", path("/run/netns/one")),
            ("bare", named("bare")),
            ("dead", NetnsRef::Pid(number)),
            ("escape", named("../file")),
            ("file", path("/run/file")),
            ("me", named("me")),
            ("missing", named("missing")),
            ("mount", path("/proc/self/ns/mnt")),
            ("nowhere", path("/run/nowhere")),
            ("one", named("one")),
            ("pipe", path("/run/pipe")),
            ("zero", NetnsRef::Pid(0)),
        ]);
        let absent: BTreeMap<&str, String> =
            facts.absent.iter().map(|(name, why)| (&**name, why.to_string())).collect();
        let expected = BTreeMap::from([
            ("bare", "/run/netns/bare is a file with no namespace behind it"),
            ("escape", "`../file` cannot be the name of a namespace"),
            ("file", "/run/file is not a network namespace"),
            ("me", "it is the host's own namespace"),
            ("missing", "no namespace is named missing"),
            ("mount", "/proc/self/ns/mnt is not a network namespace"),
            ("nowhere", "/run/nowhere is not there"),
            ("one", "it is the same namespace as again"),
            ("pipe", "/run/pipe is not a network namespace"),
            ("zero", "process 0 is not there"),
        ]);
        let mut expected: BTreeMap<&str, String> = expected.into_iter().map(|(name, why)| (name, why.into())).collect();
        expected.insert("dead", format!("process {number} is not there"));
        assert_eq!(absent, expected);
        assert_eq!(names(&facts), ["again", "host"]);
    });
}

#[test]
fn leftovers_are_found_by_their_mark_and_nothing_else_is_looked_at() {
    world::run(|| {
        sh("ip netns add old; ip -n old link set lo alias 'netrec:shop:host/netns/old:00000000'
            ip netns add theirs; ip -n theirs link set lo alias 'netrec:shop2:host/netns/theirs:00000000'
            ip netns add plain; ip netns add kept; ip -n kept link set lo alias 'netrec:shop:host/netns/kept:00000000'
            printf 'netrec:shop\\n' > /run/netns/half; printf 'netrec:shop2\\n' > /run/netns/half2
            touch /run/netns/empty; mkdir /run/netns/directory; mkfifo /run/netns/pipe
            ln -s old /run/netns/second; touch /run/netns/mnt; mount --bind /proc/self/ns/uts /run/netns/mnt
            head -c 100000 /dev/zero | tr '\\0' x > /run/netns/long; printf 'netrec:shop\\n%100000s' x > /run/netns/long2");
        let process = Process::start("old");
        let facts = facts(&[("renamed", NetnsRef::Path("/run/netns/kept".into()))]);
        assert_eq!(names(&facts), ["half", "host", "long2", "old", "renamed"]);
        let origin = |name: &str| facts.namespaces[name].origin.clone();
        assert_eq!(origin("half"), NetnsOrigin::Unbound("netrec:shop\n".into()));
        assert!(matches!(origin("long2"), NetnsOrigin::Unbound(content) if content.len() == 256));
        assert_eq!(origin("old"), NetnsOrigin::Named);
        assert_eq!(facts.namespaces["old"].processes, [process.id()]);
        assert!(facts.absent.is_empty());
    });
}

#[test]
fn a_lost_end_is_looked_for_behind_its_own_pair_and_nowhere_else() {
    world::run(|| {
        // Two hosts with the same topology, and so with the same marks and even the same indexes.
        let group = Owner::new("shop").group;
        sh(&format!(
            "ip netns add other; ip netns add here; ip netns add there
             ip link add pair group {group} type veth peer name eth0 group {group} netns here
             ip -n other link add pair group {group} type veth peer name eth0 netns there
             ip -n there link set eth0 group {group}"
        ));
        let (here, there) = (Process::start("here"), Process::start("there"));
        sh("ip netns del here; ip netns del there; ip netns del other");
        let facts = facts(&[]);
        let found: Vec<&str> = names(&facts).into_iter().filter(|name| name.starts_with("pid:")).collect();
        assert_eq!(found, [format!("pid:{}", here.id())], "the other is pid:{}", there.id());
    });
}

#[test]
fn many_namespaces_are_read_in_parallel_each_as_itself() {
    world::run(|| {
        sh("for n in $(seq 40); do ip netns add n$n; ip -n n$n link add br$n type bridge; done");
        let containers: Vec<(String, NetnsRef)> =
            (1..=40).map(|n| (format!("c{n}"), named(&format!("n{n}")))).collect();
        let borrowed: Vec<(&str, NetnsRef)> = containers.iter().map(|(name, it)| (&**name, it.clone())).collect();
        let facts = facts(&borrowed);
        assert_eq!(facts.namespaces.len(), 41);
        for n in 1..=40 {
            let links: Vec<&str> =
                facts.namespaces[format!("c{n}").as_str()].links.iter().map(|link| &*link.name).collect();
            assert_eq!(links, ["lo", &format!("br{n}")]);
        }
        assert!(facts.host().link_named("br1").is_none());
        assert_eq!(facts.host().links.len(), 1, "the host is read from the caller's namespace");
    });
}

#[test]
fn namespaces_that_come_and_go_do_not_spoil_a_look() {
    world::run(|| {
        sh("for n in $(seq 20); do ip netns add n$n; ip -n n$n link add stay type bridge; done");
        let containers: Vec<(String, NetnsRef)> =
            (1..=20).map(|n| (format!("n{n}"), named(&format!("n{n}")))).collect();
        let mut borrowed: Vec<(&str, NetnsRef)> = containers.iter().map(|(name, it)| (&**name, it.clone())).collect();
        borrowed.push(("guest", named("guest")));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let marked = [lo_up("netrec:shop:host/netns/x:00000000")];
                while !stop.load(Ordering::Relaxed) {
                    let creations =
                        ["guest", "left"].map(|name| Creation { name, mark: "netrec:shop\n", setup: &marked });
                    assert_eq!(netns::create(&creations), [Ok(()), Ok(())]);
                    assert_eq!((netns::delete("guest"), netns::delete("left")), (Ok(()), Ok(())));
                }
            });
            let mut seen = BTreeMap::<bool, u32>::new();
            for _ in 0..300 {
                let facts = facts(&borrowed);
                assert!((1..=20).all(|n| facts.namespaces[format!("n{n}").as_str()].links.len() == 2));
                for name in ["guest", "left"] {
                    let found = facts.namespaces.get(name);
                    *seen.entry(found.is_some()).or_default() += 1;
                    // The file alone, or the finished namespace: never one without the mark.
                    assert!(found.is_none_or(|netns| match &netns.origin {
                        NetnsOrigin::Unbound(content) => content == "netrec:shop\n",
                        _ => netns.link(1).is_some_and(|lo| lo.up && lo.alias.starts_with("netrec:shop:")),
                    }));
                }
            }
            stop.store(true, Ordering::Relaxed);
            assert_eq!(seen.len(), 2, "it was there, and it was not: {seen:?}");
        });
    });
}

#[test]
fn settings_are_read_in_their_namespace() {
    world::run(|| {
        sh("ip netns add api; ip netns exec api sysctl -qw net.ipv4.ip_forward=1
            ip link add br.x type bridge; sysctl -qw net.ipv4.conf.br/x.forwarding=1
            sysctl -qw net.ipv4.ip_local_reserved_ports=8080,9000-9010,20000-20010,30000-30010");
        let mut scope = scope(&[("api", named("api"))]);
        let settings = [
            ("api", "net.ipv4.ip_forward", Some("1")),
            ("host", "net.ipv4.ip_forward", Some("0")),
            ("host", "net.ipv4.conf.br/x.forwarding", Some("1")),
            ("host", "net.ipv4.ip_local_port_range", Some("32768 60999")),
            ("host", "net.ipv4.ip_local_reserved_ports", Some("8080,9000-9010,20000-20010,30000-30010")),
            ("host", "net.ipv4.no_such_thing", None),
            ("host", "net.ipv4.route.flush", None),
            ("host", "net.ipv6.conf.br/x.stable_secret", None),
        ];
        scope.sysctls = settings.iter().map(|(netns, name, _)| ((*netns).into(), (*name).into())).collect();
        let facts = read::facts(&scope).unwrap();
        for (netns, name, value) in settings {
            assert_eq!(facts.sysctls.get(&(netns.into(), name.into())).map(|it| &**it), value, "{name}");
        }
    });
}

#[test]
fn settings_are_written_and_refusals_reported() {
    world::run(|| {
        assert_eq!(sysctl::write("net.ipv4.ip_forward", "1"), Ok(()));
        assert_eq!(sh("sysctl -n net.ipv4.ip_forward"), "1\n");
        let errno = |result: Result<(), KernelError>| result.unwrap_err().errno();
        assert_eq!(errno(sysctl::write("net.ipv4.ip_forward", "maybe")), Some(Errno::EINVAL));
        assert_eq!(errno(sysctl::write("net.ipv4.nothing", "1")), Some(Errno::ENOENT));
    });
}

fn lo_up(alias: &str) -> (RouteNetlinkMessage, u16) {
    let mut lo = LinkMessage::default();
    lo.header.index = 1;
    lo.header.flags = LinkFlags::Up;
    lo.header.change_mask = LinkFlags::Up;
    lo.attributes.push(LinkAttribute::IfAlias(alias.into()));
    (RouteNetlinkMessage::SetLink(lo), 0)
}

#[test]
fn namespaces_are_made_as_ip_makes_them_and_removed_by_either() {
    world::run(|| {
        let setup = [lo_up("netrec:shop:host/netns/x:00000000")];
        let creation = |name| Creation { name, mark: "netrec:shop\n", setup: &setup };
        assert_eq!(netns::create(&[creation("one"), creation("two"), creation("three")]), [Ok(()), Ok(()), Ok(())]);
        assert_eq!(netns::names().unwrap(), ["one", "three", "two"]);
        assert!(sh("ip -n two -d link show lo").contains("UP"));
        assert!(sh("ip -n two -d link show lo").contains("netrec:shop:host/netns/x"));
        assert!(sh("grep ' /run/netns ' /proc/self/mountinfo").contains("shared:"), "reaches other mount namespaces");
        let inodes = sh("stat -L -c %i /run/netns/* | sort -u | wc -l");
        assert_eq!(inodes.trim(), "3", "each its own namespace");

        sh("ip netns add four; ip netns delete one");
        assert_eq!(sh("grep -c ' /run/netns ' /proc/self/mountinfo").trim(), "1", "mounted once, whoever comes first");
        for name in ["two", "three", "four", "four", "never"] {
            assert_eq!(netns::delete(name), Ok(()), "{name}");
        }
        assert!(netns::names().unwrap().is_empty());
        assert!(!sh("cat /proc/self/mountinfo").contains("nsfs"));
    });
}

#[test]
fn a_namespace_that_could_not_be_made_leaves_nothing_and_touches_nothing() {
    let good = [lo_up("x")];
    let mut bad = LinkMessage::default();
    bad.header.index = 99;
    let bad = [(RouteNetlinkMessage::SetLink(bad), 0)];
    let creations = [("theirs", &good), ("file", &good), ("broken", &bad), ("../up", &good), ("fine", &good)]
        .map(|(name, setup)| Creation { name, mark: "netrec:shop\n", setup });
    let at_home = || assert_eq!(sh("ip link show lo").matches("alias x").count(), 0, "the caller stays where it was");
    for others in 0..3 {
        world::run(|| {
            // Not by ip, which would prepare the directory.
            sh("mkdir /run/netns; cd /run/netns; touch file theirs; unshare -n mount --bind /proc/self/ns/net theirs");
            let (results, ()) = netns::create_beside(&creations, others, at_home);
            let errnos: Vec<_> = results.iter().map(|result| result.as_ref().err().map(KernelError::errno)).collect();
            let expected =
                [Some(Some(Errno::EEXIST)), Some(Some(Errno::EEXIST)), Some(Some(Errno::ENODEV)), Some(None), None];
            assert_eq!(errnos, expected);
            assert_eq!(netns::names().unwrap(), ["file", "fine", "theirs"]);
            assert!(matches!(netns::by_name("theirs"), Ok(Found::Bound(..))));
            assert!(matches!(netns::by_name("file"), Ok(Found::Unbound(content)) if content.is_empty()));
            assert_eq!(sh("grep -c ' /run/netns ' /proc/self/mountinfo"), "1\n", "mounted onto itself once");
            at_home();
        });
    }
}

#[test]
fn a_name_that_came_to_stand_for_another_namespace_is_not_removed() {
    world::run(|| {
        let setup = [lo_up("netrec:shop:host/netns/api:00000000")];
        for (meanwhile, ends) in [("ip netns delete api; ip netns add api", "changed since"), ("true", "")] {
            assert_eq!(netns::create(&[Creation { name: "api", mark: "netrec:shop\n", setup: &setup }]), [Ok(())]);
            let mut kernel = Linux::default();
            let ours = kernel.observe(&scope(&[])).unwrap().ours;
            let op = Op::Delete(ours.resources().next().unwrap().clone());
            let parts = Resource::places(&op).into_iter().enumerate().collect();
            sh(meanwhile);
            let step = Step { id: op.subject().id(), op, parts, waits: netrec::model::resource::Few::new() };
            let ended = kernel
                .execute(&[step], &mut |_| {})
                .remove(0)
                .map_or_else(|error| error.to_string(), |()| String::new());
            assert!(ended.contains(ends), "{ended}");
            assert_eq!(fs::exists("/run/netns/api").unwrap(), !ends.is_empty());
            sh("test ! -e /run/netns/api || ip netns delete api");
        }
    });
}

#[test]
fn what_runs_inside_leaves_the_caller_outside() {
    world::run(|| {
        sh("ip netns add api; ip -n api link add inner type bridge");
        let before = netns::identity(netns::own().unwrap().as_fd()).unwrap();
        let Ok(Found::Bound(fd, identity)) = netns::by_name("api") else { panic!("api is there") };
        let there = netns::inside(fd.as_fd(), || netns::identity(netns::own().unwrap().as_fd()).unwrap()).unwrap();
        assert_eq!(there, identity);
        assert_eq!(netns::identity(netns::own().unwrap().as_fd()).unwrap(), before);
        let mut socket = Socket::open_in(fd.as_fd(), Protocol::Route).unwrap();
        assert!(ask::link_named(&mut socket, "inner").unwrap().is_some());
        assert!(ask::link_named(&mut socket, "outer").unwrap().is_none());
        assert!(ask::link(&mut socket, 99).unwrap().is_none());
        let own = Socket::open(Protocol::Route).unwrap();
        assert_ne!(own.cookie().unwrap(), socket.cookie().unwrap());
    });
}
