//! A story told by Linux, in namespaces that the caller has made.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

use netrec::apply::confirm::{Certainty, roll_back, undo};
use netrec::apply::{Prepared, Target, execute};
use netrec::diff::diff;
use netrec::diff::render::text;
use netrec::kernel::linux::Linux;
use netrec::kernel::{Kernel, netlink};
use netrec::model::kinds::firewall::{Firewall, Publication};
use netrec::model::resource::{Kind, Op, Resource, Step};
use netrec::model::shared::Shared;
use netrec::model::state::State;
use netrec::model::values::{Ports, Protocol};
use netrec::model::wire::{Owner, Scope};

use super::{Before, FILTERS_BRIDGED, Simulation, Teller, deletion};

/// Tells on Linux, with a simulated kernel that hears the same beside it.
pub(crate) struct OnLinux {
    kernel: Linux,
    shadow: Simulation,
    writes: u64,
    /// Open for as long as the story is told.
    listeners: Vec<TcpListener>,
    /// In what the simulated kernel was not as Linux.
    pub differences: String,
}

impl OnLinux {
    /// With others' things, on an empty host.
    pub(crate) fn new(before: &Before) -> Self {
        sh("mkdir -p /run/netns");
        build(before);
        plant();
        let (kernel, shadow) = (Linux::for_one_run(), Simulation::new(before));
        let listen = |port: &u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).expect("a free port");
        let listeners = before.listens.iter().map(listen).collect();
        Self { kernel, shadow, writes: netlink::counters().writes, listeners, differences: String::new() }
    }
}

impl Teller for OnLinux {
    type Kernel = Linux;

    fn kernel(&mut self) -> &mut Linux {
        &mut self.kernel
    }

    fn drift(&mut self, id: &str, scope: &Scope) {
        // It is not the run that does that.
        let mut kernel = Linux::default();
        let observed = kernel.observe(scope).expect("a look");
        take(&mut kernel, deletion(&observed.ours, id));
        self.shadow.drift(id, scope);
    }

    fn foreign(&mut self, what: &str, name: &str, link: &str) {
        match what {
            "port" => sh(&format!("ip link add {name} master {link} type veth peer name {name}-far")),
            "address" => sh(&format!("ip address add {name} dev {link}")),
            _ => sh(&format!("ip route add {name} dev {link}")),
        };
        self.shadow.foreign(what, name, link);
    }

    /// Every chapter is told twice: what was done the first time is rolled back before.
    fn planned(&mut self, target: Target, prepared: &Prepared) {
        let (before, certainty) = undo(prepared, target);
        let scope = target.scope();
        let _ = execute(&mut self.kernel, target, prepared.clone(), &mut |_, _| {});
        let back = roll_back(&mut self.kernel, &before);
        let there = self.kernel.observe(&scope).expect("a look").ours;
        let difference = text(&diff(&lasting(&prepared.observed.ours), &lasting(&there)));
        if !back.is_complete() || (certainty == Certainty::Exact && !difference.is_empty()) {
            self.differences += &format!("not as it was ({certainty}): {back:?}\n{difference}");
        }
    }

    fn reached(&mut self, target: Target, _: &Prepared) {
        let shadow = netrec::apply::prepare(&mut self.shadow.kernel, target);
        if let Ok(prepared) = shadow {
            let _ = netrec::apply::execute(&mut self.shadow.kernel, target, prepared, &mut |_, _| {});
        }
        let scope = target.scope();
        let linux = lasting(&self.kernel.observe(&scope).expect("a look").ours);
        let simulated = lasting(&self.shadow.kernel.observe(&scope).expect("a look").ours);
        let difference = text(&diff(&simulated, &linux));
        if !difference.is_empty() {
            self.differences += &format!("the simulated kernel differs from Linux:\n{difference}");
        }
    }

    fn writes(&mut self) -> u64 {
        let (before, now) = (self.writes, netlink::counters().writes);
        self.writes = now;
        now - before
    }
}

fn lasting(state: &State) -> State {
    state.resources().filter(|resource| !resource.stays()).cloned().collect()
}

/// Runs a script; it must succeed.
pub(crate) fn sh(script: &str) -> String {
    let output = Command::new("sh").arg("-ec").arg(script).output().expect("sh");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Makes what a story says was there before.
fn build(before: &Before) {
    for key in FILTERS_BRIDGED {
        let (value, file) = (u8::from(before.filters_bridged), key.replace('.', "/"));
        // Without `br_netfilter` there is nothing to switch off.
        sh(&format!("[ {value} = 0 -a ! -e /proc/sys/{file} ] || echo {value} > /proc/sys/{file}"));
    }
    if before.born_without_ipv6 {
        sh("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6");
    }
    for namespace in &before.namespaces {
        sh(&format!("ip netns add {namespace} && ip -n {namespace} link set lo up"));
    }
    for (at, link) in before.links.iter().enumerate() {
        let (inside, name, mtu) = (inside_of(&link.netns), &link.name, link.mtu);
        match link.kind.as_str() {
            "veth" => sh(&format!(
                "ip netns add far{at} && ip {inside} link add {name} mtu {mtu} type veth peer name far netns far{at} \
                 && ip -n far{at} link set far up"
            )),
            kind => sh(&format!("ip {inside} link add {name} mtu {mtu} type {kind}")),
        };
        for address in &link.addresses {
            sh(&format!("ip {inside} address add {address} dev {name} nodad"));
        }
        sh(&format!("ip {inside} link set {name} up"));
    }
    for route in &before.routes {
        let inside = inside_of(&route.netns);
        let via = route.via.as_ref().map(|via| format!("via {via}")).unwrap_or_default();
        let learnt = if route.learnt { "proto ra" } else { "" };
        sh(&format!("ip {inside} route add {} {via} dev {} table {} {learnt}", route.to, route.link, route.table));
    }
    if before.docker {
        sh("nft add table ip filter; nft add chain ip filter DOCKER-USER
            nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'
            nft add rule ip filter FORWARD counter jump DOCKER-USER");
    }
    if !before.publishes.is_empty() {
        publish(&before.publishes);
    }
    for port in &before.maps {
        sh(&format!(
            "nft add table ip nat
             nft 'add chain ip nat PREROUTING {{ type nat hook prerouting priority -100; }}'
             nft add rule ip nat PREROUTING tcp dport {port} dnat to 198.51.100.7:80"
        ));
    }
    for [family, table, chain] in &before.drops {
        let hook = "{ type filter hook forward priority 0; policy drop; }";
        sh(&format!("nft add table {family} {table} && nft 'add chain {family} {table} {chain} {hook}'"));
    }
}

/// Makes the tables of another topology that publishes ports.
fn publish(ports: &[u16]) {
    let publication = |port: &u16| Publication {
        listen: None,
        protocol: Protocol::Tcp,
        ports: Ports { first: *port, last: *port },
        target: Ipv4Addr::new(198, 51, 100, 8).into(),
        first: 80,
        allow_from: None,
    };
    let publications: Vec<Publication> = ports.iter().map(publication).collect();
    let (mut kernel, owner) = (Linux::default(), Owner::new("other"));
    let firewall = Firewall::new(&owner.topology, &[], &publications);
    kernel
        .observe(&Scope {
            owner,
            containers: Shared::default(),
            several: std::collections::BTreeSet::new(),
            sysctls: Vec::new(),
        })
        .expect("a look");
    take(&mut kernel, Op::Create(firewall.into()));
}

/// Takes one step.
fn take(kernel: &mut Linux, op: Op) {
    let parts = Resource::places(&op).into_iter().enumerate().collect();
    let step = Step { id: op.subject().id(), op, parts, waits: netrec::model::resource::Few::new() };
    let results = kernel.execute(&[step], &mut |_| {});
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

fn inside_of(netns: &str) -> String {
    if netns == "host" { String::new() } else { format!("-n {netns}") }
}

/// Others' things that look much like ours.
fn plant() {
    sh("ip link add nr-foreign00 type bridge
        ip link add nr-foreign01 group 1845493760 type bridge
        ip link set nr-foreign01 alias netrec:somebody:host/bridge/nr-foreign01:00000000
        ip address add 100.127.255.1/32 dev lo
        ip address add 198.51.100.1/24 dev nr-foreign00
        ip rule add from 100.127.255.1 lookup 100 priority 30078 protocol 78
        ip netns add netrec-foreign
        nft add table inet netrec2
        nft 'add chain inet netrec2 forward { type filter hook forward priority 0; policy accept; }'
        nft add rule inet netrec2 forward counter accept");
}

/// How others' things are.
pub(crate) fn snapshot() -> String {
    sh("ip -d link show dev nr-foreign00; ip -d link show dev nr-foreign01; ip address show dev nr-foreign00
        ip address show dev lo; ip rule show from 100.127.255.1; ls /run/netns/netrec-foreign
        ip -n netrec-foreign link; nft -s list table inet netrec2
        for table in 'inet netrec-other' 'ip nat'; do nft -s list table $table 2>/dev/null || true; done")
}
