//! By which endpoint a container answers: rules and tables come where there are several ways, and go when there are not,
//! whatever others did to them meanwhile.

#![allow(clippy::unwrap_used, reason = "a test may end at once")]

mod lab;

use std::fs;
use std::process::{Command, Output, Stdio};

use lab::{in_private_namespaces, run};

/// One endpoint of a container, by which it answers.
const FIRST: &str = r#"
topology = "replies"
[networks.lan]
driver = "bridge"
subnets = ["10.1.0.0/24", "fd01::/64"]
[containers.one]
netns = "one"
[endpoints.one]
container = "one"
network = "lan"
addresses = ["10.1.0.11", "fd01::11"]
"#;

fn apply(more: &str) -> Output {
    fs::write("/run/t.toml", format!("{FIRST}{more}")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_netrec"))
        .args(["apply", "--yes", "/run/t.toml"])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn must_apply(more: &str) -> String {
    let output = apply(more);
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Rules of ours and routes of tables of ours in the container.
fn ways() -> usize {
    let rules = "ip -n one rule show priority 30078; ip -n one -6 rule show priority 30078";
    let routes = "ip -n one route show table all proto 78; ip -n one -6 route show table all proto 78";
    run(&format!("{rules}; ({routes}) | grep table || true")).lines().count()
}

/// Deletes the container's link that has an address of that subnet.
fn delete_link(subnet: &str) {
    run(&format!("ip -n one link delete $(ip -n one -o address show to {subnet} | awk '{{print $2}}')"));
}

/// Another endpoint of a container, which has a table for each then.
const SECOND: &str = r#"
[networks.back]
driver = "bridge"
subnets = ["10.2.0.0/24"]
[endpoints.back]
container = "one"
network = "back"
"#;

/// Others may take away whatever leads to a table of ours, and every link of a container but one.
#[test]
fn routes_that_no_rule_leads_to_any_more_are_made_again() {
    let taken = "ip -n one rule flush; ip -n one -6 rule flush; ip -n one link delete eth0
        ip -n one rule add priority 32766 lookup main; ip -n one -6 rule add priority 32766 lookup main";
    in_private_namespaces(|| {
        must_apply(SECOND);
        run(taken);
        let again = said(&apply(SECOND));
        assert!(again.contains(" 0 failed"), "{again}");
    });
}

/// `ip rule flush`, or a manager of networks inside that keeps foreign rules away: all that is missing are the rules.
#[test]
fn routes_of_a_table_whose_rules_somebody_took_are_not_made_again() {
    in_private_namespaces(|| {
        must_apply("");
        run("ip -n one route replace default via 10.1.0.254");
        must_apply("");
        run("ip -n one rule delete priority 30078; ip -n one -6 rule delete priority 30078");
        let again = said(&apply(""));
        assert!(again.contains("2 create, 0 update, 0 replace, 0 delete") && again.contains(" 0 failed"), "{again}");
    });
}

/// Nobody but others put it there, whoever's table it is.
#[test]
fn a_route_of_others_in_a_table_of_ours_stays() {
    in_private_namespaces(|| {
        must_apply(SECOND);
        let table = run("ip -n one rule show | awk '/from 10.1.0.11 / {print $5}'");
        let link = run("ip -n one -o addr show to 10.1.0.11 | awk '{print $2}'");
        let (table, link) = (table.trim(), link.trim());
        run(&format!("ip -n one route replace 10.1.0.0/24 dev {link} table {table} proto static"));
        let again = apply(SECOND);
        assert!(!again.status.success() && said(&again).contains("File exists"), "{}", said(&again));
        assert!(run(&format!("ip -n one route show table {table}")).contains("proto static"));
    });
}

#[test]
fn rules_go_with_their_endpoint_though_its_link_went_before() {
    for subnet in ["10.1.0.0/24", "10.2.0.0/24"] {
        in_private_namespaces(|| {
            must_apply("");
            assert_eq!(ways(), 0);
            must_apply(SECOND);
            assert_eq!(must_apply(SECOND), "nothing to do\n");
            assert!(ways() >= 6, "three rules, and a route each at least");
            delete_link(subnet);
            must_apply("");
            assert_eq!(ways(), 0);
            assert_eq!(must_apply(""), "nothing to do\n");
        });
    }
}

#[test]
fn rules_go_with_the_default_route_of_others_they_stood_beside() {
    in_private_namespaces(|| {
        must_apply("");
        run("ip -n one route replace default via 10.1.0.254");
        must_apply("");
        assert!(must_apply("").contains("nothing to do\n"));
        assert!(ways() > 0);
        run("ip -n one route delete default");
        must_apply("");
        assert_eq!(ways(), 0);
        assert_eq!(must_apply(""), "nothing to do\n");
    });
}

/// What is put again brings its route along in IPv6, and does not in IPv4.
#[test]
fn an_address_that_lost_its_route_gets_it_back_with_its_mark() {
    in_private_namespaces(|| {
        must_apply("");
        run("ip -n one -6 route delete fd01::/64 dev eth0; ip -n one route delete 10.1.0.0/24 dev eth0");
        assert!(must_apply(SECOND).contains(" 0 failed"));
        assert!(run("ip -n one -6 route show fd01::/64; ip -n one route show 10.1.0.0/24").lines().count() == 2);
        assert_eq!(must_apply(SECOND), "nothing to do\n");
    });
}

/// An address of another topology in the same container says nothing of ours.
#[test]
fn rules_go_though_another_topology_has_an_address_in_the_container() {
    let other = r#"
topology = "other"
[networks.olan]
driver = "bridge"
internal = true
subnets = ["10.9.0.0/24"]
[containers.one]
netns = "one"
[endpoints.oone]
container = "one"
network = "olan"
"#;
    in_private_namespaces(|| {
        must_apply(SECOND);
        fs::write("/run/other.toml", other).unwrap();
        run(&format!("{} apply --yes /run/other.toml", env!("CARGO_BIN_EXE_netrec")));
        for subnet in ["10.1.0.0/24", "10.2.0.0/24"] {
            delete_link(subnet);
        }
        let empty = FIRST.split("[endpoints.one]").next().unwrap();
        fs::write("/run/t.toml", empty).unwrap();
        run(&format!("{} apply --yes /run/t.toml", env!("CARGO_BIN_EXE_netrec")));
        assert_eq!(run("ip -n one rule show priority 30078; ip -n one -6 rule show priority 30078"), "");
    });
}
