//! A real docker beside us: what it drops, and its chain for rules of users.

use super::*;

/// A network that nothing is routed for; with `br_netfilter`, which docker brings along, its frames meet docker's drop.
const BACK: &str = r#"
[networks.back]
driver = "bridge"
subnets = ["10.30.0.0/24"]
internal = true
bridge.name = "br-back"
[endpoints.db]
container = "db"
network = "back"
addresses = ["10.30.0.10"]
[endpoints.cache]
container = "cache"
network = "back"
[containers]
db.netns = "db"
cache.netns = "cache"
"#;

/// Starts one with files of its own.
fn docker() -> Neighbour {
    let arguments = ["--data-root", "/run/d", "--exec-root", "/run/e", "--pidfile", "/run/p", "-H", "unix:///run/s"];
    Neighbour::start("dockerd", &arguments, "docker -H unix:///run/s info")
}

#[test]
fn docker_drops_what_is_forwarded_and_is_told_of() {
    in_private_namespaces(|| {
        if !is_there("dockerd") {
            return;
        }
        lan();
        let _docker = docker();
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
        let shop = topology("shop", 10, r#""8080:80""#) + BACK;
        let asked = format!("docker_user = true\n{shop}");
        let said = applied(&asked);
        assert!(said.contains("note: docker has no chain DOCKER-USER here"), "{said}");
        // Docker drops only where it has begun to forward itself.
        run("sysctl -qw net.ipv4.ip_forward=0");
        let _docker = docker();
        let rules = || run("iptables -S DOCKER-USER; iptables -S FORWARD");
        run("iptables -I DOCKER-USER -s 198.51.100.0/24 -j DROP");
        let before = rules();
        lab::serve("shop", 80);
        lab::serve("lan", 80);
        lab::serve("db", 80);
        reached(false, "lan", "192.0.2.1:8080");
        reached(false, "cache", "10.30.0.10:80");

        let said = applied(&asked);
        assert!(said.contains("+ host/docker-user/ip  accept br-shop to up0") && !said.contains("note:"), "{said}");
        reached(true, "lan", "192.0.2.1:8080");
        reached(true, "cache", "10.30.0.10:80");
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
        reached(false, "cache", "10.30.0.10:80");
        applied(&asked);
        assert_eq!(netrec("destroy --yes", &asked).0, 0);
        let left = rules().lines().filter(|line| !line.contains("br-other")).collect::<Vec<_>>().join("\n");
        assert_eq!(left.trim(), before.trim());
        assert!(rules().contains("br-other"));
    });
}
