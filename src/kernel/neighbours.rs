//! Tables of others: their base chains with all that these call, read as far as is needed to tell what becomes of packets
//! of our links; and the ports that other topologies publish. They are never written.

use std::collections::BTreeSet;
use std::fs::{self, DirEntry};
use std::path::Path;

use super::nft::{Nft, NftError, Outline, Question};
use crate::model::attribute::{get, number, text, walk};
use crate::model::kinds::docker_user::DockerUser;
use crate::model::kinds::firewall::Firewall;
use crate::model::values::{Ports, Protocol};
use crate::model::wire::{ChainFacts, DockerFacts, Does, ForeignRule, LinkMatch, Owner, RulesetFacts, TableFacts};

/// Rules that are read in one look at most, and calls that are followed: what is beyond is as if it were not there.
const RULES: usize = 4096;
const DEPTH: usize = 8;

/// Base chains of all other tables, sorted, with the rules of those that judge or map what is forwarded; and the maps of
/// published ports of other topologies. To be asked [steadily](Nft::steadily).
pub(super) fn look(
    nft: &mut Nft,
    outline: &Outline,
    owner: &Owner,
) -> Result<(Vec<ChainFacts>, Vec<TableFacts>), NftError> {
    let (mut chains, mut topologies, mut left) = (outline.chains(owner), BTreeSet::new(), RULES);
    for chain in &mut chains {
        let judges = ["forward", "input"].contains(&&*chain.hook) || chain.hook == "prerouting" && chain.maps;
        if chain.table.starts_with(Firewall::PREFIX) {
            topologies.insert(chain.table.clone());
        } else if judges {
            let place = (chain.family.clone(), chain.table.clone());
            chain.rules = rules(nft, &place, &chain.chain, (DEPTH, &mut left))?;
        }
    }
    let topologies: Result<Vec<_>, _> = topologies.into_iter().map(|name| published(nft, name)).collect();
    Ok((chains, topologies?))
}

/// Docker's chains for rules of users, as far as topologies put rules into them.
pub(super) fn docker(nft: &mut Nft, outline: &Outline) -> Result<Vec<DockerFacts>, NftError> {
    let (table, chain) = (DockerUser::TABLE, DockerUser::CHAIN);
    let mut chains = Vec::new();
    for (ipv6, family) in [(false, "ip"), (true, "ip6")] {
        if !outline.has_docker_user(ipv6) {
            continue;
        }
        let mut rules = nft.listed(Question::Rules { family, table, chain })?;
        let ends = |rule: &&Vec<u8>| {
            let read = Reading::of(rule);
            read.does == Does::Return && read.links.is_empty() && !read.depends && !read.mapped
        };
        let end = rules.iter().find(ends).and_then(|rule| get(rule, 3)?.first_chunk().copied());
        rules.retain(|rule| DockerUser::comment(rule).starts_with(DockerUser::MARK));
        chains.push(DockerFacts { ipv6, before: end.map(u64::from_be_bytes), rules });
    }
    Ok(chains)
}

/// The service that loads rules on hosts with systemd, and the files that it reads: Debian's and Arch's, and Fedora's.
const UNIT: &str = "nftables.service";
const FILES: [&str; 2] = ["/etc/nftables.conf", "/etc/sysconfig/nftables.conf"];

/// Files of rules that a service of this host feeds to nft. One that cannot be read says nothing.
pub(super) fn rulesets() -> Vec<RulesetFacts> {
    let read = |path| {
        let text = fs::metadata(path).ok().filter(fs::Metadata::is_file).and_then(|_| fs::read(path).ok())?;
        Some(RulesetFacts { unit: UNIT, path, text: String::from_utf8_lossy(&text).into_owned() })
    };
    if is_run(UNIT) { FILES.into_iter().filter_map(read).collect() } else { Vec::new() }
}

/// Whether a unit of systemd has been started, or is at boot: enabled, and not masked.
fn is_run(unit: &str) -> bool {
    let system = Path::new("/etc/systemd/system");
    let is_there = |path: &Path| path.symlink_metadata().is_ok();
    if is_there(&Path::new("/run/systemd/units").join(format!("invocation:{unit}"))) {
        return true;
    }
    // In a folder of what another unit wants, requires or upholds (systemd.unit(5)).
    let depends = |entry: &DirEntry| {
        Path::new(&entry.file_name()).extension().is_some_and(|it| it == "wants" || it == "requires" || it == "upholds")
    };
    let mut entries = fs::read_dir(system).into_iter().flatten().filter_map(Result::ok).filter(depends);
    let masked = || fs::read_link(system.join(unit)).is_ok_and(|to| to == Path::new("/dev/null"));
    entries.any(|entry| is_there(&entry.path().join(unit))) && !masked()
}

fn published(nft: &mut Nft, name: String) -> Result<TableFacts, NftError> {
    let mut elements = Vec::new();
    for set in Firewall::published_in() {
        elements.extend(nft.listed(Question::Elements { table: &name, set: &set })?);
    }
    Ok(TableFacts { family: 1, name, elements, ..TableFacts::default() })
}

fn rules(
    nft: &mut Nft,
    place: &(String, String),
    chain: &str,
    (depth, left): (usize, &mut usize),
) -> Result<Vec<ForeignRule>, NftError> {
    let (family, table) = place;
    let listed = nft.listed(Question::Rules { family, table, chain })?;
    let mut rules = Vec::new();
    for bytes in listed {
        if *left == 0 {
            break;
        }
        *left -= 1;
        let mut rule = Reading::of(&bytes);
        if let Does::Call { chain, rules: called, .. } = &mut rule.does
            && depth > 0
        {
            *called = self::rules(nft, place, chain, (depth - 1, left))?;
        }
        rules.push(rule);
    }
    Ok(rules)
}

/// What was loaded last.
#[derive(Clone, Copy, PartialEq, Default)]
enum Loaded {
    Link {
        out: bool,
    },
    Protocol,
    Port,
    Status,
    #[default]
    Other,
}

/// A rule on its way, expression by expression (`linux/netfilter/nf_tables.h`).
#[derive(Default)]
struct Reading {
    rule: ForeignRule,
    loaded: Loaded,
}

impl Reading {
    fn of(bytes: &[u8]) -> ForeignRule {
        let mut read = Self::default();
        let expressions = get(bytes, 4).unwrap_or_default();
        walk(expressions).for_each(|(_, expression)| read.expression(expression));
        read.rule
    }

    fn expression(&mut self, expression: &[u8]) {
        let data = get(expression, 2).unwrap_or_default();
        match text(expression, 1) {
            "meta" => {
                self.loaded = match number(data, 2) {
                    Some(6) => Loaded::Link { out: false },
                    Some(7) => Loaded::Link { out: true },
                    Some(16) => Loaded::Protocol,
                    _ => Loaded::Other,
                }
            }
            "payload" => {
                self.loaded = match (number(data, 2), number(data, 3), number(data, 4)) {
                    (Some(2), Some(2), Some(2)) => Loaded::Port,
                    (Some(1), Some(9), Some(1)) => Loaded::Protocol,
                    _ => Loaded::Other,
                }
            }
            "ct" if number(data, 2) == Some(2) => self.loaded = Loaded::Status,
            "bitwise" if self.loaded == Loaded::Status => {
                // `enum ip_conntrack_status`, in the host's order: IPS_DST_NAT.
                let mask = get(get(data, 4).unwrap_or_default(), 1).unwrap_or_default();
                self.loaded = if mask == (1_u32 << 5).to_ne_bytes() { Loaded::Status } else { Loaded::Other };
                self.rule.depends |= self.loaded == Loaded::Other;
            }
            "cmp" => self.compare(data),
            "range" => {
                let port = |kind| get(get(data, kind)?, 1)?.first_chunk().map(|port| u16::from_be_bytes(*port));
                let ports = port(3).zip(port(4)).filter(|_| self.loaded == Loaded::Port && number(data, 2) == Some(0));
                self.rule.ports = ports.map(|(first, last)| Ports { first, last });
                self.rule.depends = true;
            }
            "immediate" if number(data, 1) == Some(0) => self.verdict(get(get(data, 2).unwrap_or_default(), 2)),
            "immediate" | "counter" | "log" | "notrack" => {}
            "reject" => self.rule.does = Does::Drop,
            "nat" => self.rule.maps |= number(data, 1) == Some(1),
            "redir" => self.rule.maps = true,
            "target" => match text(data, 1) {
                "REJECT" => self.rule.does = Does::Drop,
                "DNAT" | "REDIRECT" => self.rule.maps = true,
                _ => {}
            },
            "match" => self.extension(data),
            _ => (self.rule.depends, self.loaded) = (true, Loaded::Other),
        }
    }

    fn compare(&mut self, data: &[u8]) {
        let value = get(get(data, 3).unwrap_or_default(), 1).unwrap_or_default().to_vec();
        let not = number(data, 2) == Some(1);
        match self.loaded {
            Loaded::Link { out } if number(data, 2) <= Some(1) => {
                self.rule.links.push(LinkMatch { out, not, name: value });
                return;
            }
            Loaded::Status if not && value == [0; 4] => {
                self.rule.mapped = true;
                return;
            }
            Loaded::Protocol => {
                let known = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
                self.rule.protocol = known.into_iter().find(|it| value.first() == Some(&(*it as u8)) && !not);
            }
            Loaded::Port => {
                let said = value.first_chunk().map(|port| u16::from_be_bytes(*port));
                let Ports { first, last } = self.rule.ports.unwrap_or(Ports { first: 0, last: u16::MAX });
                // `enum nft_cmp_ops`; a range is two comparisons.
                let ports = said.zip(number(data, 2)).and_then(|(port, op)| match op {
                    0 => Some((port, port)),
                    2 => Some((first, port.checked_sub(1)?)),
                    3 => Some((first, port)),
                    4 => Some((port.checked_add(1)?, last)),
                    5 => Some((port, last)),
                    _ => None,
                });
                self.rule.ports = ports.map(|(first, last)| Ports { first, last });
            }
            _ => {}
        }
        self.rule.depends = true;
    }

    fn verdict(&mut self, verdict: Option<&[u8]>) {
        let Some(verdict) = verdict else { return };
        let chain = text(verdict, 2).to_owned();
        self.rule.does = match number(verdict, 1).map(u32::cast_signed) {
            Some(0) => Does::Drop,
            Some(1) => Does::Accept,
            Some(-5) => Does::Return,
            Some(-3) => Does::Call { chain, returns: true, rules: Vec::new() },
            Some(-4) => Does::Call { chain, returns: false, rules: Vec::new() },
            _ => Does::Nothing,
        };
    }

    /// Matches of xtables: of `struct xt_tcp` and `struct xt_udp` the ports are known, which stand alike in both.
    fn extension(&mut self, data: &[u8]) {
        let name = text(data, 1);
        let port = |at: usize| get(data, 3)?.get(at..)?.first_chunk().map(|port| u16::from_ne_bytes(*port));
        if let ("tcp" | "udp", Some(first), Some(last)) = (name, port(4), port(6)) {
            self.rule.protocol = Some(if name == "tcp" { Protocol::Tcp } else { Protocol::Udp });
            self.rule.ports = (0 < first && first <= last).then_some(Ports { first, last });
        }
        self.rule.depends |= name != "comment";
    }
}
