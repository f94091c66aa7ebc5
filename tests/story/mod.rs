//! A story: topologies in order, what happens between them, and the transcript that people would see. The same story is
//! told by the simulated kernel (`golden.rs`) and by Linux (`kernel.rs`), and both must tell it alike.

#![allow(dead_code, reason = "every test binary uses its part")]

pub(crate) mod linux;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use netrec::apply::confirm::{Before as Undo, undo};
use netrec::apply::rails::Allowance;
use netrec::apply::{NoPlan, Prepared, Report, Target, execute, prepare, prepare_within};
use netrec::diff::render::{Summary, text};
use netrec::kernel::Kernel;
use netrec::kernel::simulated::Simulated;
use netrec::model::diagnostic::render;
use netrec::model::kinds::route::MAIN;
use netrec::model::kinds::sysctl::Sysctl;
use netrec::model::observed::{Claim, ForeignLink, ForeignRoute, Session};
use netrec::model::parse::parse;
use netrec::model::resource::HOST;
use netrec::model::source::{Source, Sources};
use netrec::model::state::State;
use netrec::model::topology::Topology;
use netrec::model::values::{Ports, Protocol};
use netrec::model::wire::{ChainFacts, Scope};
use serde::Deserialize;

/// The settings of `br_netfilter`.
pub(crate) const FILTERS_BRIDGED: [&str; 2] =
    ["net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"];

/// What was there before: others' things.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Before {
    /// Named namespaces.
    pub namespaces: Vec<String>,
    /// Links.
    pub links: Vec<Link>,
    /// Routes.
    pub routes: Vec<Route>,
    /// Base chains that drop what is forwarded: `family table chain`.
    pub drops: Vec<[String; 3]>,
    /// Whether docker is there, with its chain for rules of users and its drop in IPv4.
    pub docker: bool,
    /// Ports of the host that a process listens on, with TCP and at every address.
    pub listens: Vec<u16>,
    /// Ports that the topology `other` publishes, with TCP and at every IPv4 address.
    pub publishes: Vec<u16>,
    /// Ports that table `ip nat` maps elsewhere, with TCP.
    pub maps: Vec<u16>,
    /// Whether bridged packets meet the rules for routed ones (`br_netfilter`).
    pub filters_bridged: bool,
    /// Whether the host's links are born without IPv6.
    pub born_without_ipv6: bool,
    /// Sessions that netrec is run in: where they come from, and our end.
    pub sessions: Vec<[std::net::SocketAddr; 2]>,
    /// The first chapter that they are there in.
    pub sessions_since: usize,
}

/// A link of somebody else's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Link {
    pub netns: String,
    pub name: String,
    /// `bridge`, or `veth` with its other end in a namespace of its own.
    pub kind: String,
    pub mtu: u32,
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// A route of somebody else's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    pub netns: String,
    pub to: ipnet::IpNet,
    pub link: String,
    #[serde(default = "main_table")]
    pub table: u32,
    #[serde(default)]
    pub via: Option<String>,
    #[serde(default)]
    pub learnt: bool,
}

fn main_table() -> u32 {
    MAIN
}

/// A folder of `tests/golden`.
pub(crate) struct Story {
    pub name: String,
    pub folder: PathBuf,
    pub before: Before,
    /// `1.toml`, `2.drift`, `3.destroy`, … in order.
    pub chapters: Vec<PathBuf>,
}

/// Who tells a story, beyond the kernel itself.
pub(crate) trait Teller {
    type Kernel: Kernel;
    fn kernel(&mut self) -> &mut Self::Kernel;
    /// Removes a resource behind netrec's back.
    fn drift(&mut self, id: &str, scope: &Scope);
    /// Puts something of somebody else's on a link: `port NAME`, `address NET` or `route NET`.
    fn foreign(&mut self, what: &str, name: &str, link: &str);
    /// Called before each execution with what will be done.
    fn planned(&mut self, _: Target, _: &Prepared) {}
    /// Called after each execution with what was reached.
    fn reached(&mut self, target: Target, prepared: &Prepared);
    /// How many things were written since the last call.
    fn writes(&mut self) -> u64;
}

impl Story {
    /// All stories, by name.
    pub(crate) fn all() -> Vec<Self> {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let mut folders: Vec<PathBuf> =
            std::fs::read_dir(golden).expect("tests/golden").map(|entry| entry.expect("entry").path()).collect();
        folders.sort();
        folders.into_iter().map(Self::read).collect()
    }

    pub(crate) fn read(folder: PathBuf) -> Self {
        let mut chapters: Vec<(u32, PathBuf)> = std::fs::read_dir(&folder)
            .expect("a folder")
            .filter_map(|entry| {
                let path = entry.expect("entry").path();
                Some((path.file_stem()?.to_str()?.parse().ok()?, path))
            })
            .collect();
        chapters.sort();
        let before = std::fs::read_to_string(folder.join("observed.toml")).unwrap_or_default();
        Self {
            name: folder.file_name().expect("a name").to_string_lossy().into_owned(),
            before: toml::from_str(&before).expect("observed.toml"),
            chapters: chapters.into_iter().map(|(_, path)| path).collect(),
            folder,
        }
    }

    /// Tells the story to the end.
    pub(crate) fn tell(&self, teller: &mut impl Teller) -> String {
        let mut transcript = String::new();
        let mut last = (Topology::default(), Sources::new());
        let session = |[peer, local]: &[std::net::SocketAddr; 2]| Session { peer: *peer, local: *local };
        let sessions: Vec<Session> = self.before.sessions.iter().map(session).collect();
        let mut before = None;
        for (at, chapter) in self.chapters.iter().enumerate() {
            let sessions = if at + 1 < self.before.sessions_since { &[] } else { sessions.as_slice() };
            let name = chapter.file_name().expect("a name").to_string_lossy().into_owned();
            let _ = writeln!(transcript, "== {name}");
            let content = std::fs::read_to_string(chapter).expect("a chapter");
            match chapter.extension().and_then(|extension| extension.to_str()) {
                Some("drift") => {
                    let scope = netrec::model::lower::scope(&last.0);
                    for line in content.lines() {
                        match line.split_whitespace().collect::<Vec<_>>()[..] {
                            ["delete", id] => teller.drift(id, &scope),
                            [what, name, "on", link] => teller.foreign(what, name, link),
                            _ => panic!("`delete ID`, or `port NAME on LINK`, or with `address` or `route`: {line}"),
                        }
                        let _ = writeln!(transcript, "{line}");
                    }
                }
                Some("destroy") => {
                    let target = Target::Nothing(&last.0.name, Some(&last.0));
                    transcript += &chapter_text(teller, (target, sessions), &last.1, &mut None);
                }
                Some("rollback") => {
                    let before: Undo = before.take().expect("an apply to be rolled back");
                    transcript += &chapter_text(teller, (Target::State(&before), sessions), &last.1, &mut None);
                }
                _ => {
                    let sources = vec![Source::new(name, content)];
                    match parse(&sources) {
                        Err(findings) => transcript += &(render(&findings, &sources) + "exit 3\n"),
                        Ok(topology) => {
                            transcript +=
                                &chapter_text(teller, (Target::Topology(&topology), sessions), &sources, &mut before);
                            last = (topology, sources);
                        }
                    }
                }
            }
            transcript.push('\n');
        }
        transcript
    }

    /// Compares with a file of the story, or writes it where `UPDATE_GOLDEN` says so.
    pub(crate) fn check(&self, file: &str, told: &str) -> Result<(), String> {
        let path = self.folder.join(file);
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        if expected == told {
            return Ok(());
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            return std::fs::write(&path, told).map_err(|error| error.to_string());
        }
        let difference = similar::TextDiff::from_lines(expected.as_str(), told);
        Err(difference.unified_diff().header(file, "told").to_string())
    }
}

fn chapter_text<T: Teller>(
    teller: &mut T,
    (target, sessions): (Target, &[Session]),
    sources: &Sources,
    before: &mut Option<Undo>,
) -> String {
    let allowance = Allowance { sessions: sessions.to_vec(), ..Allowance::default() };
    let prepared = match prepare_within(teller.kernel(), target, &allowance) {
        Ok(prepared) => prepared,
        Err(no_plan) => return rejected(&no_plan, sources),
    };
    let mut told = text(&prepared.diff);
    let _ = writeln!(told, "plan: {}", Summary::of(&prepared.diff, 0));
    for note in &prepared.desired.notes {
        let _ = writeln!(told, "note: {note}");
    }
    for pending in &prepared.desired.pending {
        let _ = writeln!(told, "pending: container {}: {}", pending.container, pending.reason);
    }
    if !prepared.diff.is_empty() {
        *before = Some(undo(&prepared, target).0);
        teller.planned(target, &prepared);
        // What was rolled back has other handles now, so it is planned from a look of its own; settings are as they were.
        let looked = prepare_within(teller.kernel(), target, &allowance).ok();
        let looked = looked.filter(|looked| text(&looked.diff) == text(&prepared.diff));
        let looked = looked.unwrap_or_else(|| prepared.clone());
        match execute(teller.kernel(), target, looked, &mut |_, _| {}) {
            Ok(report) => told += &outcome(&report),
            Err(no_plan) => told += &rejected(&no_plan, sources),
        }
    }
    teller.reached(target, &prepared);
    teller.writes();
    told + &again(teller, target)
}

fn outcome(report: &Report) -> String {
    let mut told = format!("applied: {} steps, {} failed\n", report.done + report.failed.len(), report.failed.len());
    for (id, error) in &report.failed {
        let _ = writeln!(told, "failed: {id}: {error}");
    }
    if !report.is_converged() || report.rounds != 1 {
        let _ = write!(told, "rounds: {}\n{}", report.rounds, text(&report.residual));
    }
    told
}

/// The second apply: nothing to do, and nothing written.
fn again<T: Teller>(teller: &mut T, target: Target) -> String {
    let prepared = match prepare(teller.kernel(), target) {
        Ok(prepared) if prepared.diff.is_empty() => prepared,
        Ok(prepared) => return format!("again:\n{}", text(&prepared.diff)),
        Err(no_plan) => return format!("again: {no_plan:?}\n"),
    };
    let report = execute(teller.kernel(), target, prepared, &mut |_, _| {});
    let idle = report.is_ok_and(|report| report.done == 0 && report.is_converged());
    let writes = teller.writes();
    if idle && writes == 0 { "again: nothing to do\n".into() } else { format!("again: {writes} writes\n") }
}

fn rejected(no_plan: &NoPlan, sources: &Sources) -> String {
    match no_plan {
        NoPlan::Invalid(findings) => render(findings, sources) + "exit 3\n",
        NoPlan::Refused(findings) => render(findings, sources) + "exit 4\n",
        NoPlan::Undecided(findings) => render(findings, sources) + "exit 8\n",
        NoPlan::Unseen(error) => format!("error: {error}\n"),
        NoPlan::Flawed(flaw) => format!("flaw: {flaw}\n"),
    }
}

/// A story told by the simulated kernel.
#[derive(Default)]
pub(crate) struct Simulation {
    pub kernel: Simulated,
}

impl Simulation {
    /// With others' things in it.
    pub(crate) fn new(before: &Before) -> Self {
        let mut kernel = Simulated::default();
        kernel.namespaces = before.namespaces.iter().map(|name| name.as_str().into()).collect();
        for link in &before.links {
            let ports = 0;
            let facts = ForeignLink { kind: link.kind.as_str().into(), mtu: link.mtu, ports, topology: None };
            kernel.foreign.links.insert((link.netns.as_str().into(), link.name.as_str().into()), facts);
            for address in link.addresses.iter().map(|address| address.parse::<ipnet::IpNet>().expect("an address")) {
                let route = route(address.trunc(), &link.name);
                kernel.foreign.routes.push((link.netns.as_str().into(), route));
            }
        }
        for it in &before.routes {
            kernel.foreign.routes.push((
                it.netns.as_str().into(),
                ForeignRoute { table: it.table, learnt: it.learnt, ..route(it.to, &it.link) },
            ));
        }
        for [family, table, chain] in before.drops.clone() {
            let hook = "forward".into();
            kernel.foreign.chains.push(ChainFacts {
                family,
                table,
                chain,
                hook,
                priority: 0,
                drops: true,
                maps: false,
                rules: Vec::new(),
            });
        }
        kernel.foreign.docker.extend(before.docker.then_some((false, None)));
        let holders = [
            (&before.listens, "a process of the host listens"),
            (&before.publishes, "topology `other` publishes"),
            (&before.maps, "table ip nat maps elsewhere what comes"),
        ];
        let claims = holders.into_iter().flat_map(|(ports, holder)| ports.iter().map(move |port| claim(*port, holder)));
        kernel.foreign.claims = claims.collect();
        let on = |key| Sysctl { netns: HOST.into(), key, value: "1".into() }.into();
        if before.filters_bridged {
            for key in FILTERS_BRIDGED {
                kernel.ours.insert(on(key.into()));
            }
        }
        if before.born_without_ipv6 {
            kernel.ours.insert(on(Sysctl::disable_ipv6(None)));
        }
        Self { kernel }
    }
}

fn claim(port: u16, holder: &str) -> Claim {
    let (protocol, ports) = (Protocol::Tcp, Ports { first: port, last: port });
    Claim { protocol, ipv6: Some(false), address: None, ports, holder: holder.into() }
}

fn route(destination: ipnet::IpNet, link: &str) -> ForeignRoute {
    ForeignRoute { destination, link: Some(link.into()), table: MAIN, metric: 0, learnt: false }
}

impl Teller for Simulation {
    type Kernel = Simulated;

    fn kernel(&mut self) -> &mut Simulated {
        &mut self.kernel
    }

    fn drift(&mut self, id: &str, _: &Scope) {
        let op = deletion(&self.kernel.ours, id);
        self.kernel.drift(&op).expect("a drift that Linux allows");
    }

    fn foreign(&mut self, what: &str, name: &str, link: &str) {
        let told = match what {
            "port" => format!("port `{name}`"),
            "address" => format!("address {name}"),
            _ => format!("the route to {name}"),
        };
        self.kernel.foreign.users.entry(link.into()).or_default().push(told);
    }

    fn reached(&mut self, _: Target, _: &Prepared) {}

    fn writes(&mut self) -> u64 {
        0
    }
}

/// The removal of a resource by the text of its id.
pub(crate) fn deletion(state: &State, id: &str) -> netrec::model::resource::Op {
    let found = state.iter().find(|(it, _)| it.to_string() == id);
    let (_, resource) = found
        .unwrap_or_else(|| panic!("no {id} among {:#?}", state.iter().map(|it| it.0.to_string()).collect::<Vec<_>>()));
    netrec::model::resource::Op::Delete(resource.clone())
}
