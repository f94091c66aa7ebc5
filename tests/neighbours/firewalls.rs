//! What else guards a host: rules of users, the service of nftables, firewalld, ufw.

use std::process::Command;

use super::*;
use crate::world::without_forgotten;
use watched::{Fighter, Watcher};

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
        let tables =
            || without_forgotten(&run("nft -s list table inet netrec-shop; nft -s list table bridge netrec-shop"));
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
        for (folder, enables) in [("b.service.requires", true), ("c.target.upholds", true), ("d.service.d", false)] {
            let folder = format!("/etc/systemd/system/{folder}");
            run(&format!("mkdir {folder}; mv {unit} {folder}"));
            if enables {
                assert_eq!(warns("plan --exit-code").0, 0, "{folder}");
            } else {
                silent(&folder);
            }
            run(&format!("mv {folder}/nftables.service {unit}"));
        }
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
fn firewalld_rejects_what_is_forwarded_and_is_told_of() {
    in_private_namespaces(|| {
        if !is_there("firewalld") {
            return;
        }
        lan();
        settings_of_our_own();
        run("mkdir -p /run/dbus /run/firewalld");
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
        let rejects = "chain filter_FORWARD of table inet firewalld drops what its rules do not accept";

        // With the handles of all that is in them: nothing was made anew.
        let ours =
            || without_forgotten(&run("nft -sa list table inet netrec-shop; nft -sa list table bridge netrec-shop"));
        let watcher = Watcher::start("/run/t.toml", "shop", &["--look-every", "1h"]);
        watcher.until(|standing| standing["state"] == "in_sync");
        let before = ours();
        let reloads = ["--reload", "--complete-reload"];
        for reload in reloads {
            run(&format!("firewall-cmd {reload}"));
            let (exit, said) = netrec("status --exit-code", &shop);
            assert!(exit == 0 && said.contains(rejects), "{reload}: {exit} {said}");
            reached(false, "shop", "192.0.2.2:80");
        }
        follow(&said, rejects);
        for reload in reloads {
            run(&format!("firewall-cmd {reload}"));
            let (exit, said) = netrec("status --exit-code", &shop);
            assert!(exit == 0 && !said.contains("filter_FORWARD"), "{reload}: {exit} {said}");
            reached(true, "shop", "192.0.2.2:80");
            reached(true, "lan", "192.0.2.1:8080");
        }
        assert_eq!(ours(), before, "a reload leaves our tables alone");
        assert_eq!(watcher.counter("corrective"), 0, "{}", watcher.events());

        // What is asked for no more is gone with the next reload, and told of again.
        run("firewall-cmd --permanent --zone=trusted --remove-interface=br-shop; firewall-cmd --reload");
        let (exit, said) = netrec("status --exit-code", &shop);
        assert!(exit == 0 && said.contains(rejects), "{exit} {said}");
        reached(false, "shop", "192.0.2.2:80");

        // Its service, as that of nftables, may flush everything: what was ours comes back whole.
        run("nft flush ruleset");
        watcher.until(|standing| standing["counters"]["corrective"] == 2 && standing["state"] == "in_sync");
        watcher.end();
        reached(true, "lan", "192.0.2.1:8080");
        reached(true, "shop", "192.0.2.2:80");
        assert_eq!(netrec("status --exit-code", &shop).0, 0);
        assert_eq!(run("nft list tables").matches("netrec").count(), 3);
    });
}

#[test]
fn ufw_drops_what_is_forwarded_and_is_told_of() {
    in_private_namespaces(|| {
        if !is_there("ufw") {
            return;
        }
        lan();
        settings_of_our_own();
        let shop = topology("shop", 10, r#""8080:80""#).replace("bridge.name", "host_access = true\nbridge.name");
        applied(&shop);
        for (netns, port) in [("shop", 80), ("lan", 80), ("", 22)] {
            lab::serve(netns, port);
        }
        let published = ["192.0.2.1:8080", "[2001:db8::1]:8080"];
        let out = ["192.0.2.2:80", "[2001:db8::2]:80"];
        let forwarded = |yes: bool| {
            for to in &published {
                reached(yes, "lan", to);
            }
            for to in &out {
                reached(yes, "shop", to);
            }
        };
        forwarded(true);
        let ours =
            || without_forgotten(&run("nft -sa list table inet netrec-shop; nft -sa list table bridge netrec-shop"));
        let before = ours();

        run("ufw --force reset; ufw default deny routed; ufw --force enable");
        let foreign = || run("nft -sa list table ip filter; nft -sa list table ip6 filter");
        let theirs = foreign();
        let says = |wanted: bool| {
            for verb in ["plan --exit-code", "status --exit-code"] {
                let (exit, said) = netrec(verb, &shop);
                assert_eq!(exit, 0, "nothing is left to do: {said}");
                for family in ["ip", "ip6"] {
                    let drops =
                        format!("note: chain FORWARD of table {family} filter drops what its rules do not accept");
                    assert_eq!(said.contains(&drops), wanted, "{said}");
                }
                assert!(
                    said.contains("chain INPUT of table ip filter, which guards the host, does not see them"),
                    "{said}"
                );
            }
            netrec("status", &shop).1
        };
        says(true);
        forwarded(false);
        for to in &published {
            reached(true, "", to);
        }
        assert_eq!((ours(), foreign()), (before.clone(), theirs), "each keeps to its own");

        // It rejects by a rule, where it drops by a policy.
        run("ufw default reject routed");
        let said = says(true);
        forwarded(false);
        follow(&said, "chain FORWARD of table ip filter drops what its rules do not accept");
        says(false);
        forwarded(true);
        // So with what containers ask of the host.
        let drops = "chain INPUT of table ip filter drops what its rules do not accept, also what host_access opens";
        reached(false, "shop", "10.10.0.1:22");
        follow(&said, drops);
        reached(true, "shop", "10.10.0.1:22");
        reached(true, "shop", "[fd10::1]:22");
        assert!(!netrec("status", &shop).1.contains("host_access"));
        // What is closed by a rule for the host is still published, and the host is guarded as before.
        run("ufw deny 8080/tcp");
        forwarded(true);
        reached(false, "lan", "192.0.2.1:22");
        run("ufw reload");
        says(false);
        forwarded(true);
        assert_eq!(ours(), before, "a reload leaves our tables alone");
    });
}

#[test]
fn frames_within_a_bridge_that_a_table_for_packets_drops_are_told_of() {
    in_private_namespaces(|| {
        if !fs::exists("/proc/sys/net/bridge").unwrap() {
            // Shown by the story `bridged_frames_dropped_by_others` alone, as far as the words go.
            let _ = writeln!(std::io::stderr(), "LEFT OUT: br_netfilter is not loaded");
            return;
        }
        let set = |value: u8| {
            run(&format!("for ip in ip ip6; do echo {value} > /proc/sys/net/bridge/bridge-nf-call-${{ip}}tables; done"))
        };
        // Nothing of it is ever routed.
        let other =
            "[containers.other]\nnetns = \"other\"\n[endpoints.other]\ncontainer = \"other\"\nnetwork = \"front\"\n";
        let shop = topology("shop", 10, "")
            .replace("publish = []", "")
            .replace("[containers.shop]", "internal = true\n[containers.shop]")
            + other;
        applied(&shop);
        lab::serve("shop", 80);
        lab::nft("table inet guard { chain forward { type filter hook forward priority 0; policy drop; }; }");
        let talk = |yes| ["10.10.0.10:80", "[fd10::10]:80"].map(|to| reached(yes, "other", to));
        let says = |families: &str| {
            let (exit, said) = netrec("status --exit-code", &shop);
            let note = format!(
                "note: chain forward of table inet guard drops frames between endpoints of one bridge, too, by {families}: "
            );
            assert!(exit == 0 && said.contains(&note) != families.is_empty(), "{exit} {said}");
            assert_eq!(said.contains("note:"), !families.is_empty(), "{said}");
        };
        set(1);
        says("net.bridge.bridge-nf-call-iptables = 1 and net.bridge.bridge-nf-call-ip6tables = 1");
        talk(false);
        run("echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables");
        says("net.bridge.bridge-nf-call-ip6tables = 1");
        reached(true, "other", "10.10.0.10:80");
        reached(false, "other", "[fd10::10]:80");
        set(0);
        says("");
        talk(true);
        // The other way that it names.
        set(1);
        run(
            "nft add rule inet guard forward iifname br-shop accept; nft add rule inet guard forward oifname br-shop accept",
        );
        says("");
        talk(true);
    });
}

/// Whoever flushes as soon as the rules stand never lets the step that makes them end; it is a fight like any other.
#[test]
fn who_flushes_the_rules_before_they_are_done_is_not_taken_for_a_failure() {
    in_private_namespaces(|| {
        fs::write("/run/t.toml", topology("shop", 10, r#""8080:80""#)).unwrap();
        let mut slow = Command::new("strace");
        slow.args(["-D", "-qqf", "-o", "/dev/null", "-e", "trace=sendto", "-e", "inject=sendto:delay_exit=30000"]);
        slow.arg(env!("CARGO_BIN_EXE_netrec"));
        let watcher = Watcher::start_as(slow, "/run/t.toml", "shop", &["--look-every", "1h"]);
        watcher.until(|standing| standing["state"] == "in_sync");
        let flush = "until nft list table inet netrec-shop >/run/none 2>&1; do :; done; nft flush ruleset";
        let fighter = Fighter::start(flush);
        watcher.until(|standing| standing["contested"].to_string().contains("host/firewall/netrec-shop"));
        drop(fighter);
        let events = watcher.events();
        assert!(!events.contains("\"failed\",\"id\":\"host/firewall"), "{events}");
    });
}
