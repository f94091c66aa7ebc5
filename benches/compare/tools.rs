//! The tools, and how each is asked for the same.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::measure::Phase;
use super::{rules, workload};

/// Where inputs are written: on the private `/run`.
const INPUTS: &str = "/run/bench";
/// netrec's rules, for the floor.
const RULES: &str = "/run/bench/rules";

/// A program, or a set of programs, that can do W(N) or a part of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Tool {
    /// The kernel's own work and nothing else.
    Floor,
    /// The floor for the whole of what netrec does: with its rules, marks like its own, and a look at all of it.
    Whole,
    /// This project.
    Netrec,
    /// What a careful operator writes: `ip -batch`, one for each namespace, and `nft -f`.
    Operator,
    /// Podman's program, one process a container, with its nftables driver.
    Netavark,
    /// The CNI plugins bridge and portmap, one process each a container.
    Cni,
    /// Docker's engine, the network part alone: what to run and remove containers takes beyond the same without a network.
    Docker,
    /// On nmstate's shape, which is all in one namespace: `ip -batch`.
    PairsOperator,
    /// netrec, with the far ends in one container.
    PairsNetrec,
    /// nmstatectl, which knows no namespaces and no published ports.
    PairsNmstate,
}

impl Tool {
    /// All of them, the measure of all others first.
    pub(super) const ALL: [Self; 10] = [
        Self::Floor,
        Self::Whole,
        Self::Netrec,
        Self::Operator,
        Self::Netavark,
        Self::Cni,
        Self::Docker,
        Self::PairsOperator,
        Self::PairsNetrec,
        Self::PairsNmstate,
    ];

    /// How it is called, here and in tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Whole => "floor:whole",
            Self::Netrec => "netrec",
            Self::Operator => "ip+nft",
            Self::Netavark => "netavark",
            Self::Cni => "cni",
            Self::Docker => "docker",
            Self::PairsOperator => "pairs:ip",
            Self::PairsNetrec => "pairs:netrec",
            Self::PairsNmstate => "pairs:nmstatectl",
        }
    }

    /// The tool of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.name() == name)
    }

    /// What its ratios are to.
    pub(super) fn base(self) -> Self {
        match self {
            Self::PairsOperator | Self::PairsNetrec | Self::PairsNmstate => Self::PairsOperator,
            _ => Self::Floor,
        }
    }

    /// The largest size that it does without keeping everybody waiting.
    pub(super) fn most(self) -> usize {
        match self {
            Self::Floor | Self::Whole | Self::Netrec => usize::MAX,
            Self::Operator => 1_000,
            _ => 100,
        }
    }

    /// Whether it can be run here.
    pub(super) fn is_installed(self) -> bool {
        match self {
            Self::Floor | Self::Whole | Self::Netrec => true,
            Self::Operator => on_path("ip").is_some() && on_path("nft").is_some(),
            Self::Netavark => on_path("netavark").is_some(),
            Self::Cni => plugins().is_some(),
            Self::Docker => on_path("dockerd").is_some() && on_path("docker").is_some(),
            Self::PairsOperator | Self::PairsNetrec | Self::PairsNmstate => on_path("nmstatectl").is_some(),
        }
    }

    /// What it runs, as far as it is installed.
    pub(super) fn programs(self) -> Vec<PathBuf> {
        let named: &[&str] = match self {
            Self::Floor | Self::Whole => return vec![floor()],
            Self::Netrec | Self::PairsNetrec => return vec![netrec()],
            Self::Operator | Self::PairsOperator => &["sh", "ip", "nft"],
            Self::Netavark => &["sh", "ip", "netavark", "nft"],
            Self::Cni => &["sh", "ip", "nft", "iptables"],
            Self::Docker => {
                &["sh", "docker", "dockerd", "docker-proxy", "containerd", "containerd-shim-runc-v2", "runc"]
            }
            Self::PairsNmstate => &["nmstatectl"],
        };
        let plugins = plugins().filter(|_| self == Self::Cni).into_iter();
        let plugins =
            plugins.flat_map(|directory| ["bridge", "host-local", "portmap"].map(|name| directory.join(name)));
        named.iter().filter_map(|name| on_path(name)).chain(plugins).collect()
    }

    /// Whether a daemon does the work: what that takes is not seen in the figures of the processes that ask it.
    pub(super) fn is_daemon(self) -> bool {
        self == Self::Docker
    }

    /// Writes its inputs, starts what is to be there before; not part of any time.
    pub(super) fn prepare(self, size: usize) {
        match self {
            Self::Floor => {}
            Self::Whole => {
                fs::write(RULES, rules::transactions(size)).expect("inputs are written to a private directory");
            }
            Self::Netrec => {
                let more = workload::topology(size + 1);
                write("up.toml", &workload::topology(size));
                write("port.toml", &more.replace("\"20000:80\"", "\"19999:80\""));
                write("add.toml", &more);
            }
            Self::Operator => operator(size),
            Self::Netavark => netavark(size),
            Self::Cni => cni(size),
            Self::Docker => docker(size),
            Self::PairsOperator | Self::PairsNmstate => pairs(size),
            Self::PairsNetrec => write("up.toml", &pairs_topology(size)),
        }
    }

    /// How it does a phase, if it can.
    pub(super) fn command(self, phase: Phase, size: usize) -> Option<Command> {
        match (self, phase) {
            (Self::Floor, _) => {
                let word = match phase {
                    Phase::Up => "up",
                    Phase::Again => "again",
                    Phase::Add => "add",
                    Phase::Port => "port",
                    Phase::Down => "down",
                };
                Some(run(&[&floor().display().to_string(), word, &size.to_string()]))
            }
            (Self::Whole, Phase::Up | Phase::Down) => {
                let word = if phase == Phase::Up { "whole" } else { "down" };
                Some(run(&[&floor().display().to_string(), word, &size.to_string(), RULES]))
            }
            (Self::Netrec | Self::PairsNetrec, Phase::Down) => {
                Some(run(&[&netrec().display().to_string(), "destroy", "--yes", "--topology", "w"]))
            }
            (Self::PairsNmstate, Phase::Up | Phase::Again) => Some(nmstatectl("up")),
            (Self::PairsNmstate, Phase::Down) => Some(nmstatectl("down")),
            (Self::PairsNetrec, Phase::Add | Phase::Port) | (Self::Whole | Self::PairsNmstate, _) => None,
            (Self::Netrec | Self::PairsNetrec, _) => {
                let file = match phase {
                    Phase::Add => "add.toml",
                    Phase::Port => "port.toml",
                    _ => "up.toml",
                };
                Some(run(&[&netrec().display().to_string(), "apply", "--yes", &format!("{INPUTS}/{file}")]))
            }
            (_, Phase::Up) => script("up"),
            (_, Phase::Down) => script("down"),
            (_, _) => None,
        }
    }

    /// What its command for a phase does besides the network, by itself, if anything: that is not the network's time.
    pub(super) fn besides(self, phase: Phase) -> Option<Command> {
        match (self, phase) {
            (Self::Docker, Phase::Up) => script("up-besides"),
            (Self::Docker, Phase::Down) => script("down-besides"),
            (_, _) => None,
        }
    }
}

/// The floor, with the C library in itself where netrec has it as well (`build.rs`).
fn build_floor() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/compare/floor.c");
    let built = |more: &[&str]| {
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-pthread"]).args(more).arg("-o").arg(floor()).arg(source);
        cc.status().is_ok_and(|status| status.success())
    };
    assert!(built(&["-static-pie"]) || built(&[]), "the floor needs a C compiler and the kernel's headers");
}

/// Puts beside this program what is not to be found on the path.
pub(super) fn provide() {
    build_floor();
    install();
}

/// netrec, as whoever installs it has it. The linker has written its own through a mapping, page by page, and so
/// it lies in memory; of what was copied Linux maps many pages at once.
fn install() {
    fs::copy(env!("CARGO_BIN_EXE_netrec"), netrec()).expect("there is room beside this program");
}

fn floor() -> PathBuf {
    beside("floor")
}

fn netrec() -> PathBuf {
    beside("installed")
}

fn beside(name: &str) -> PathBuf {
    std::env::current_exe().expect("this program").with_file_name(name)
}

fn run(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

fn script(name: &str) -> Option<Command> {
    let file = format!("{INPUTS}/{name}.sh");
    fs::exists(&file).unwrap_or(false).then(|| run(&["sh", "-e", &file]))
}

fn write(name: &str, content: &str) {
    fs::write(format!("{INPUTS}/{name}"), content).expect("inputs are written to a private directory");
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// The directory of the CNI plugins.
fn plugins() -> Option<PathBuf> {
    ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"]
        .into_iter()
        .map(PathBuf::from)
        .find(|directory| directory.join("portmap").is_file())
}

fn nmstatectl(direction: &str) -> Command {
    run(&["nmstatectl", "apply", "-k", "-q", &format!("{INPUTS}/{direction}.yml")])
}

/// Lines of a script, for one container `n` after the other.
fn each(size: usize, lines: &str) -> String {
    format!("n=0\nwhile [ $n -lt {size} ]; do\n{lines}\nn=$((n + 1))\ndone\n")
}

/// The last two bytes of an address: hosts from 2 on.
fn host(endpoint: usize) -> (usize, usize) {
    ((endpoint + 2) / 256, (endpoint + 2) % 256)
}

/// A bridge's hardware address: fixed, as netrec and the floor have theirs.
const BRIDGE: &str = "02:BB:00:00:00:01";

/// Of an end in the host (`AA`) or in a container (`CC`), fixed as well.
fn mac(end: &str, endpoint: usize) -> String {
    format!("02:{end}:00:00:{:02X}:{:02X}", endpoint / 256, endpoint % 256)
}

/// One bridge of up to 1,000 containers.
fn operator(size: usize) {
    let mut outer = format!(
        "link add n0 address {BRIDGE} mtu 1500 type bridge\naddr add 10.0.0.1/16 dev n0\n\
         addr add fd00::1/64 dev n0 nodad\nlink set n0 up\n",
    );
    let (mut elements, mut gone) = (Vec::new(), String::new());
    for endpoint in 0..size {
        let (high, low) = host(endpoint);
        let _ = write!(
            outer,
            "netns add c{endpoint}\nlink add e{endpoint} mtu 1500 group 77 address {} master n0 up type veth \
             peer name eth0 netns c{endpoint} address {} mtu 1500\n",
            mac("AA", endpoint),
            mac("CC", endpoint)
        );
        write(
            &format!("c{endpoint}"),
            &format!(
                "link set lo up\naddr add 10.0.{high}.{low}/16 dev eth0\naddr add fd00::{:x}/64 dev eth0 nodad\n\
                 link set eth0 up\nroute add default via 10.0.0.1\nroute add default via fd00::1\n",
                endpoint + 2
            ),
        );
        elements.push(format!("{} : 10.0.{high}.{low} . 80", 20_000 + endpoint));
        let _ = writeln!(gone, "netns del c{endpoint}");
    }
    write("outer", &outer);
    write("gone", &gone);
    write(
        "nft",
        &format!(
            "table ip w {{\nmap publish {{ type inet_service : ipv4_addr . inet_service\nelements = {{ {} }}\n}}\n\
             chain pre {{ type nat hook prerouting priority dstnat; dnat ip to tcp dport map @publish; }}\n\
             chain post {{ type nat hook postrouting priority srcnat; ip saddr 10.0.0.0/16 oifname != n0 masquerade; \
             }}\n}}\n",
            elements.join(", ")
        ),
    );
    write(
        "up.sh",
        &format!(
            "cd {INPUTS}\necho 1 > /proc/sys/net/ipv4/ip_forward\necho 1 > /proc/sys/net/ipv6/conf/all/forwarding\n\
             ip -batch outer\n{}nft -f nft\n",
            each(size, "ip -n c$n -batch c$n")
        ),
    );
    write(
        "down.sh",
        &format!("nft delete table ip w\nip link del group 77\nip link del n0\nip -batch {INPUTS}/gone\n"),
    );
}

/// Namespaces only, as the engine makes them before it calls its network program.
fn namespaces(size: usize) {
    let each = |word: &str| (0..size).fold(String::new(), |text, n| text + &format!("netns {word} c{n}\n"));
    write("make", &each("add"));
    write("gone", &each("del"));
}

fn netavark(size: usize) {
    namespaces(size);
    for endpoint in 0..size {
        let (high, low) = host(endpoint);
        let network = serde_json::json!({
            "name": "w", "id": format!("{:064x}", 1), "driver": "bridge", "network_interface": "n0",
            "subnets": [
                {"subnet": "10.0.0.0/16", "gateway": "10.0.0.1"}, {"subnet": "fd00::/64", "gateway": "fd00::1"}
            ],
            "ipv6_enabled": true, "internal": false, "dns_enabled": false,
            "ipam_options": {"driver": "host-local"}, "options": {"mtu": "1500"}
        });
        let input = serde_json::json!({
            "container_id": format!("{endpoint:064x}"), "container_name": format!("c{endpoint}"),
            "port_mappings": [{
                "container_port": 80, "host_ip": "", "host_port": 20_000 + endpoint, "protocol": "tcp", "range": 1
            }],
            "networks": {"w": {
                "static_ips": [format!("10.0.{high}.{low}"), format!("fd00::{:x}", endpoint + 2)],
                "static_mac": mac("CC", endpoint),
                "interface_name": "eth0"
            }},
            "network_info": {"w": network}
        });
        write(&format!("c{endpoint}"), &input.to_string());
    }
    let all = |word: &str| {
        let one = format!("netavark --config {INPUTS} {word} /run/netns/c$n < {INPUTS}/c$n");
        format!("export NETAVARK_FW=nftables\n{}", each(size, &one))
    };
    write("up.sh", &format!("ip -batch {INPUTS}/make\n{}", all("setup")));
    write("down.sh", &format!("{}ip -batch {INPUTS}/gone\n", all("teardown")));
}

fn cni(size: usize) {
    namespaces(size);
    let plugins = plugins().expect("the plugins are installed").display().to_string();
    write(
        "bridge.json",
        &serde_json::json!({
            "cniVersion": "0.4.0", "name": "w", "type": "bridge", "bridge": "n0", "isGateway": true, "ipMasq": true,
            "mtu": 1500, "ipam": {
                "type": "host-local", "dataDir": format!("{INPUTS}/leases"),
                "ranges": [[{"subnet": "10.0.0.0/16"}], [{"subnet": "fd00::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
            }
        })
        .to_string(),
    );
    let all = |command: &str, body: &str| {
        let one = format!("export CNI_CONTAINERID=c$n CNI_NETNS=/run/netns/c$n\n{body}");
        format!("cd {INPUTS}\nexport CNI_PATH={plugins} CNI_IFNAME=eth0 CNI_COMMAND={command}\n{}", each(size, &one))
    };
    let add = all(
        "ADD",
        &format!(
            "{plugins}/bridge < bridge.json > result$n\n{{ printf '{{\"cniVersion\":\"0.4.0\",\"name\":\"w\",\
             \"type\":\"portmap\",\"capabilities\":{{\"portMappings\":true}},\"runtimeConfig\":{{\"portMappings\":\
             [{{\"hostPort\":%d,\"containerPort\":80,\"protocol\":\"tcp\"}}]}},\"prevResult\":' $((20000 + n)); \
             cat result$n; echo '}}'; }} > portmap$n\n{plugins}/portmap < portmap$n"
        ),
    );
    let delete = all("DEL", &format!("{plugins}/portmap < portmap$n\n{plugins}/bridge < bridge.json"));
    write("up.sh", &format!("ip -batch {INPUTS}/make\n{add}"));
    write("down.sh", &format!("{delete}ip link del n0\nip -batch {INPUTS}/gone\n"));
}

/// Containers with a network and published ports, and besides as many without any. The engine and all of its children end
/// with the process namespace of this run. Its image holds a program that waits and needs no library. One container comes
/// and goes before the first that is timed, as an engine serves for weeks; and it has to be running for a while: of one
/// whose program could not be started the network goes with it, and is quickly made.
fn docker(size: usize) {
    let host = format!("export DOCKER_HOST=unix://{INPUTS}/docker.sock\n");
    write("pause.c", "int pause(void);\nint main(void) { return pause(); }\n");
    write(
        "start.sh",
        &format!(
            "{host}cd {INPUTS}\n\
             dockerd --data-root {INPUTS}/data --exec-root {INPUTS}/exec -p {INPUTS}/pid -H $DOCKER_HOST \
             --exec-opt native.cgroupdriver=cgroupfs > log 2>&1 &\n\
             n=0\nuntil docker info > /dev/null 2>&1; do n=$((n + 1)); [ $n -lt 300 ]; sleep 0.1; done\n\
             mkdir image\ncc -static -o image/pause pause.c\n\
             tar -C image -c . | docker import -c 'CMD [\"/pause\"]' - pause\n\
             docker run -d -p 19999:80 --name first pause\nsleep 1\ndocker top first\ndocker rm -f first\n"
        ),
    );
    let start = |network: &str| each(size, &format!("docker run -d --network {network} --name c$n pause"));
    let remove = each(size, "docker rm -f c$n");
    write(
        "up.sh",
        &format!(
            "{host}docker network create --ipv6 --subnet 10.0.0.0/16 --subnet fd00::/64 w\n{}",
            start("w -p $((20000 + n)):80")
        ),
    );
    write("down.sh", &format!("{host}{remove}docker network rm w\n"));
    write("up-besides.sh", &format!("{host}{}", start("none")));
    write("down-besides.sh", &format!("{host}{remove}"));
    let started = run(&["sh", "-e", &format!("{INPUTS}/start.sh")]).stdout(Stdio::null()).status();
    assert!(started.is_ok_and(|status| status.success()), "the engine starts, and a container runs");
}

/// nmstate's shape: a bridge, and pairs of which both ends stay in the namespace.
fn pairs(size: usize) {
    let (mut ports, mut links, mut gone) = (String::new(), String::new(), String::new());
    let mut batch = format!(
        "link add n0 address {BRIDGE} type bridge\naddr add 10.0.0.1/16 dev n0\naddr add fd00::1/64 dev n0 nodad\n\
         link set n0 up\n",
    );
    let addresses = |four: &str, six: &str| {
        format!(
            "  ipv4: {{enabled: true, dhcp: false, address: [{{ip: {four}, prefix-length: 16}}]}}\n  ipv6: {{enabled: \
             true, dhcp: false, autoconf: false, address: [{{ip: '{six}', prefix-length: 64}}]}}\n"
        )
    };
    for pair in 0..size {
        let (high, low) = host(pair);
        let (four, six) = (format!("10.0.{high}.{low}"), format!("fd00::{:x}", pair + 2));
        let _ = writeln!(ports, "    - name: v{pair}");
        let _ = write!(
            links,
            "- name: v{pair}\n  type: veth\n  state: up\n  mtu: 1500\n  veth: {{peer: e{pair}}}\n- name: e{pair}\n  \
             type: veth\n  state: up\n  mtu: 1500\n  mac-address: {}\n  veth: {{peer: v{pair}}}\n{}",
            mac("CC", pair),
            addresses(&four, &six)
        );
        let _ = write!(gone, "- name: v{pair}\n  type: veth\n  state: absent\n");
        let _ = write!(
            batch,
            "link add v{pair} mtu 1500 group 77 master n0 up type veth peer name e{pair} address {} mtu 1500\n\
             link set e{pair} up\naddr add {four}/16 dev e{pair}\naddr add {six}/64 dev e{pair} nodad\n",
            mac("CC", pair)
        );
    }
    write(
        "up.yml",
        &format!(
            "interfaces:\n- name: n0\n  type: linux-bridge\n  state: up\n  mac-address: {BRIDGE}\n{}  bridge:\n    \
             options: {{stp: {{enabled: false}}}}\n    port:\n{ports}{links}",
            addresses("10.0.0.1", "fd00::1")
        ),
    );
    write("down.yml", &format!("interfaces:\n{gone}- name: n0\n  type: linux-bridge\n  state: absent\n"));
    write("batch", &batch);
    write("up.sh", &format!("exec ip -batch {INPUTS}/batch\n"));
    write("down.sh", "ip link del group 77\nip link del n0\n");
}

/// The same number of pairs with the far ends in one container.
fn pairs_topology(size: usize) -> String {
    let mut text = String::from(
        "topology = \"w\"\n\n[networks.n0]\ndriver = \"bridge\"\nsubnets = [\"10.0.0.0/16\", \"fd00::/64\"]\n\
         \n[containers.c]\nnetns = \"c\"\n",
    );
    for pair in 0..size {
        let (high, low) = host(pair);
        let _ = write!(
            text,
            "\n[endpoints.e{pair}]\ncontainer = \"c\"\nnetwork = \"n0\"\nifname = \"e{pair}\"\naddresses = \
             [\"10.0.{high}.{low}\", \"fd00::{:x}\"]\n",
            pair + 2
        );
    }
    text
}
