//! The firewall of a topology: what its networks allow, and the ports it publishes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use smallvec::smallvec;
use toml::Spanned;

use super::policies::reached_directly;
use super::{Given, Lowering, NetworkPlan, Port};
use crate::model::diagnostic::Diagnostic;
use crate::model::hash::words;
use crate::model::kinds::KindName;
use crate::model::kinds::firewall::{Element, Firewall, Guard, Mapping, NetworkRules, Publication, SourceNat};
use crate::model::resource::{Few, Resource, ResourceId, host};
use crate::model::source::Span;
use crate::model::values::{Cidr, Ports, Protocol, Publish};

/// Host ports that netrec chooses from: above Linux's default range for outgoing connections (`ip_local_port_range`).
const CHOSEN_FIRST: u16 = 61_000;

/// Elements that `allow_from` may become at most in a family, one for each published port and each net that may reach
/// it. The kernel's time for them grows with their square (`nft_set_pipapo`): as many take it one to three seconds.
const ALLOWED: usize = 65_536;

/// Which of the ports that netrec chooses from are spoken for.
#[derive(Default)]
struct Claimed {
    ports: BTreeSet<(Protocol, u16)>,
    /// Those chosen before that their publish keeps, by the publish's place in the files.
    held: BTreeMap<Span, Ports>,
}

impl Claimed {
    fn is_free(&self, protocol: Protocol, mut ports: Ports) -> bool {
        ports.first = ports.first.max(CHOSEN_FIRST);
        (ports.first..=ports.last).all(|port| !self.ports.contains(&(protocol, port)))
    }

    fn claim(&mut self, protocol: Protocol, ports: Ports) {
        self.ports.extend((ports.first.max(CHOSEN_FIRST)..=ports.last).map(|port| (protocol, port)));
    }
}

/// Host ports that were chosen before, and where they listen, by the port of an endpoint that each leads to.
#[derive(Default)]
struct Chosen(BTreeMap<Target, Few<(Option<IpAddr>, u16)>>);

/// A port of an endpoint.
type Target = (Protocol, IpAddr, u16);

impl Chosen {
    /// Ranges that a publish may have had: their first port leads to its first one.
    fn of(&self, port: &Port, publish: &Publish) -> Vec<Ports> {
        let rest = (publish.container.count() - 1) as u16;
        let range = |(_, first): &(Option<IpAddr>, u16)| Some(Ports { first: *first, last: first.checked_add(rest)? });
        let targets = targets(port, publish).map(|(target, _)| (publish.protocol, target, publish.container.first));
        targets.filter_map(|target| self.0.get(&target)).flatten().filter_map(range).collect()
    }

    /// Whether all of a publish is led to from there.
    fn lead(&self, port: &Port, publish: &Publish, ports: Ports) -> bool {
        targets(port, publish).all(|(target, listen)| {
            (publish.container.first..=publish.container.last).zip(ports.first..=ports.last).all(|(to, from)| {
                self.0.get(&(publish.protocol, target, to)).is_some_and(|found| found.contains(&(listen, from)))
            })
        })
    }
}

/// The addresses of an endpoint that a publish leads to, each with where it listens.
fn targets(port: &Port, publish: &Publish) -> impl Iterator<Item = (IpAddr, Option<IpAddr>)> {
    listens(port.network, publish).into_iter().filter_map(|(ipv6, listen)| Some((port.address(ipv6)?, listen)))
}

impl<'a> Given<'a> {
    /// The firewall, if any network of the topology is netrec's to guard, or any endpoint or published port; or all that is
    /// wrong.
    pub(super) fn firewall(
        self,
        ports: &[Port],
        networks: &BTreeMap<&str, NetworkPlan>,
    ) -> Result<Option<Firewall>, Vec<Diagnostic>> {
        let guarded = networks.values().filter(|plan| plan.is_bridged() && !plan.external);
        let rules: BTreeMap<&str, NetworkRules> = guarded.map(|plan| (plan.name, network_rules(plan))).collect();
        let chooses = |port: &Port| port.item.publishes().any(|(publish, _)| publish.get_ref().host.is_none());
        let mut claimed = if ports.iter().any(chooses) { self.claimed(ports) } else { Claimed::default() };
        let (mut publications, mut direct, mut limited, mut wrong) = (Vec::new(), Vec::new(), [0; 2], Vec::new());
        for port in ports {
            let (network, rules) = (port.network, rules.get(port.network.name));
            for (publish, own) in port.item.publishes() {
                let host = match self.host_ports(port, publish, &mut claimed) {
                    Ok(host) => host,
                    Err(finding) => {
                        wrong.push(finding);
                        continue;
                    }
                };
                let allowed = own.or(network.item.allow_from.as_ref());
                let published = publications_of(port, network, (publish.get_ref(), host), allowed);
                if let Some(ipv6) = count_allowed(&published, &mut limited) {
                    let first = own.and_then(|nets| nets.first()).map(|net| port.item.span(net));
                    let inherited = network.item.allow_from.iter().flatten().map(|net| network.item.span(net));
                    let span = first.or_else(|| inherited.min()).unwrap_or_else(|| port.item.span(publish));
                    wrong.push(too_many_allowed(span, ipv6));
                    return Err(wrong);
                }
                let routed =
                    rules.into_iter().flat_map(|rules| published.iter().filter_map(|it| reached_directly(it, rules)));
                direct.extend(routed.map(|policy| (policy, port.item.span(publish))));
                publications.extend(published);
            }
        }
        let guards = guards(ports);
        if rules.is_empty() && publications.is_empty() && guards.is_empty() {
            return if wrong.is_empty() { Ok(None) } else { Err(wrong) };
        }
        let rules: Vec<NetworkRules> = rules.into_values().collect();
        let policies = self.policies(direct, ports, networks).unwrap_or_else(|finding| {
            wrong.push(finding);
            Vec::new()
        });
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let firewall = Firewall::new(&self.topology.name, &rules, &publications);
        Ok(Some(firewall.with(guards.into_iter().chain(policies))))
    }

    /// What the topology names itself, and then what was chosen before: newcomers choose from what both leave.
    fn claimed(self, ports: &[Port]) -> Claimed {
        let mut claimed = Claimed::default();
        let publishes = self.whole.endpoints.values().flat_map(|endpoint| endpoint.publishes());
        for publish in publishes.map(|(publish, _)| publish.get_ref()) {
            if let Some(host) = publish.host {
                claimed.claim(publish.protocol, host);
            }
        }
        let before = self.chosen_before();
        let all = ports.iter().flat_map(|port| {
            let publishes = port.item.publishes().map(|(publish, _)| publish);
            publishes.map(move |publish| (port, port.item.span(publish), publish.get_ref()))
        });
        let mut open: Vec<_> = all.filter(|(.., publish)| publish.host.is_none()).collect();
        // What takes most comes first: less may be a part of it.
        open.sort_by_key(|(port, _, publish)| {
            Reverse(publish.container.count() as usize * targets(port, publish).count())
        });
        for complete in [true, false] {
            open.retain(|(port, span, publish)| {
                // Those that are complete stay, whatever else is taken since.
                let stays = |ports: &Ports| {
                    let taken = || self.is_taken(publish.protocol, *ports);
                    let stays = if complete { before.lead(port, publish, *ports) } else { !taken() };
                    stays && claimed.is_free(publish.protocol, *ports)
                };
                let held = before.of(port, publish).into_iter().find(stays);
                if let Some(ports) = held {
                    claimed.claim(publish.protocol, ports);
                    claimed.held.insert(*span, ports);
                }
                held.is_none()
            });
        }
        claimed
    }

    /// Host ports that were chosen for publishes of the endpoints that are there.
    fn chosen_before(self) -> Chosen {
        let mut chosen = Chosen::default();
        for it in self.published_before().filter(|it| it.ports.first >= CHOSEN_FIRST) {
            // Of a range each port has an entry of its own, or all have one, to the same ports.
            for from in it.ports.first..=it.ports.last {
                let to = (it.protocol, it.target, it.port.unwrap_or(from));
                chosen.0.entry(to).or_default().push((it.listen, from));
            }
        }
        chosen
    }

    /// What this topology publishes already.
    pub(super) fn published_before(self) -> impl Iterator<Item = &'a Mapping> {
        let name = Firewall::table_name(&self.topology.name);
        let live = self.observed.ours.get(&ResourceId::new(&host(), KindName::Firewall, name));
        let live = live.and_then(|it| if let Resource::Firewall(live) = it { Some(live) } else { None });
        let elements = live.into_iter().flat_map(|live| live.elements.iter());
        elements.filter_map(|element| if let Element::Publish(mapping) = element { Some(mapping) } else { None })
    }

    /// Whether others have any of these ports: they listen there, or lead them elsewhere.
    fn is_taken(self, protocol: Protocol, ports: Ports) -> bool {
        self.observed.foreign.claims.iter().any(|of| of.protocol == protocol && of.ports.overlaps(ports))
    }

    /// The user's host ports, or as many as the container's: those chosen before, or the first free ones upwards from a
    /// hash.
    ///
    /// # Errors
    ///
    /// Where so many are not free in a row.
    fn host_ports(self, port: &Port, publish: &Spanned<Publish>, claimed: &mut Claimed) -> Result<Ports, Diagnostic> {
        let (span, publish) = (port.item.span(publish), publish.get_ref());
        let given = publish.host.or_else(|| claimed.held.get(&span).copied());
        if let Some(given) = given {
            return Ok(given);
        }
        let count = publish.container.count();
        let rooms = (u32::from(u16::MAX - CHOSEN_FIRST) + 2).saturating_sub(count);
        let hash = words(&[&self.topology.name, "publish", port.name, &publish.to_string()]);
        let start = hash.checked_rem(u64::from(rooms)).unwrap_or(0) as u32;
        let range = |step: u32| {
            let first = CHOSEN_FIRST + ((start + step) % rooms) as u16;
            Ports { first, last: first + (count - 1) as u16 }
        };
        let free =
            |ports: &Ports| claimed.is_free(publish.protocol, *ports) && !self.is_taken(publish.protocol, *ports);
        let Some(chosen) = (0..rooms).map(range).find(free) else {
            let message = format!("no {count} host ports in a row are left for `{publish}`");
            let label = format!("netrec chooses from {CHOSEN_FIRST} to {}", u16::MAX);
            let finding = Diagnostic::at(span, message).label(label);
            return Err(finding.hint(format!("name them: `{}:{}`", publish.container, publish.container)));
        };
        claimed.claim(publish.protocol, chosen);
        Ok(chosen)
    }
}

/// Counts by family what `allow_from` of publications becomes: the family that it is too much of.
fn count_allowed(publications: &[Publication], counts: &mut [usize; 2]) -> Option<bool> {
    for it in publications {
        let ipv6 = it.target.is_ipv6();
        counts[usize::from(ipv6)] += it.allow_from.iter().flatten().filter(|net| net.addr().is_ipv6() == ipv6).count();
    }
    [false, true].into_iter().find(|ipv6| counts[usize::from(*ipv6)] > ALLOWED)
}

fn too_many_allowed(span: Span, ipv6: bool) -> Diagnostic {
    let family = if ipv6 { "IPv6" } else { "IPv4" };
    let message = format!("`allow_from` of all published ports comes to more than {ALLOWED} elements in {family}");
    let finding = Diagnostic::at(span, message).label("one for each net and each port that it is for");
    finding.hint("fewer or wider nets, fewer ports, or a rule of your own in table `netrec-user`")
}

/// One entry an address that it listens on and a family that the endpoint has.
fn publications_of(
    port: &Port,
    network: &NetworkPlan,
    (publish, ports): (&Publish, Ports),
    allowed: Option<&Vec<Spanned<Cidr>>>,
) -> Vec<Publication> {
    let allow_from = allowed.map(|nets| IpNet::aggregate(&nets.iter().map(|net| **net.get_ref()).collect()));
    let (protocol, first) = (publish.protocol, publish.container.first);
    let publication = |(ipv6, listen)| {
        let (target, allow_from) = (port.address(ipv6)?, allow_from.clone());
        Some(Publication { listen, protocol, ports, target, first, allow_from })
    };
    listens(network, publish).into_iter().filter_map(publication).collect()
}

/// Where a publish listens: whether in IPv6, and at which address; none: at every one of the family.
pub(super) fn listens(network: &NetworkPlan, publish: &Publish) -> Few<(bool, Option<IpAddr>)> {
    let own: Option<Few<IpAddr>> = publish.address.map(|address| smallvec![address]);
    let addresses =
        own.unwrap_or_else(|| network.item.publish_address.iter().map(|address| *address.get_ref()).collect());
    if addresses.is_empty() {
        return smallvec![(false, None), (true, None)];
    }
    let at = |address: IpAddr| (address.is_ipv6(), (!address.is_unspecified()).then_some(address));
    addresses.into_iter().map(at).collect()
}

/// What endpoints may send: as themselves only, or anything.
fn guards(ports: &[Port]) -> Vec<Element> {
    let is_loose = |port: &&Port| port.item.anti_spoofing.as_ref().is_some_and(|flag| !*flag.get_ref());
    let (loose, guarded): (Vec<&Port>, Vec<&Port>) = ports.iter().partition(is_loose);
    let guard = |port: &Port| {
        let addresses = port.addresses.iter().map(IpNet::addr).collect();
        Guard { link: port.link.clone(), mac: port.mac, addresses }
    };
    let mut elements = Guard::elements(guarded.into_iter().map(guard).collect());
    elements.extend(loose.into_iter().map(|port| Element::Loose(port.link.clone())));
    elements
}

fn network_rules(plan: &NetworkPlan) -> NetworkRules {
    let item = plan.item;
    let is = |flag: &Option<Spanned<bool>>, default: bool| flag.as_ref().map_or(default, |flag| *flag.get_ref());
    let masquerade = is(&item.masquerade, !plan.internal);
    let snat =
        |ipv6: bool| item.snat.iter().map(|address| *address.get_ref()).find(|address| address.is_ipv6() == ipv6);
    NetworkRules {
        bridge: plan.link.clone(),
        subnets: plan.subnets.iter().map(|subnet| subnet.net).collect(),
        internal: plan.internal,
        ipv4: match snat(false) {
            Some(IpAddr::V4(address)) => SourceNat::Fixed(address),
            _ if masquerade => SourceNat::Masquerade,
            _ => SourceNat::Keep,
        },
        ipv6: match snat(true) {
            Some(IpAddr::V6(address)) => SourceNat::Fixed(address),
            _ if masquerade => SourceNat::Masquerade,
            _ => SourceNat::Keep,
        },
        icc: plan.icc,
        open: is(&item.open, false),
        host_access: is(&item.host_access, plan.internal),
        trusted: item.trusted_interfaces.iter().map(|link| link.get_ref().as_str().into()).collect(),
    }
}

impl Lowering<'_> {
    /// Says of which published ports neighbours on the same network are cut off against what `icc = false` promises:
    /// mapped within the bridge, their packets never reach the host, which alone could pass them on.
    pub(super) fn isolation_notes(&mut self, ports: &[Port]) {
        let isolated = |port: &&Port| !port.network.icc && self.reflects(port);
        let names: BTreeSet<&str> = ports.iter().filter(isolated).map(|port| port.network.name).collect();
        for name in names {
            self.note(format!(
                "endpoints of network {name} do not reach its published ports: they are cut off from each other \
                 (icc = false), and net.bridge.bridge-nf-call-iptables is on, so the bridge maps the ports itself"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::model::diagnostic::Diagnostic;
    use crate::model::lower::{Rejection, lower};
    use crate::model::observed::Observed;
    use crate::model::parse::parse;
    use crate::model::source::Source;

    /// A network with an option, that says who may reach the port that each of its endpoints publishes.
    fn topology(option: &str, nets: usize, endpoints: usize) -> String {
        let nets: Vec<String> = (0..nets).map(|at| format!("\"16.{}.{}.0/25\"", at / 256, at % 256)).collect();
        let mut text = format!(
            "[networks.front]\ndriver = \"bridge\"\nsubnets = [\"10.10.0.0/16\"]\n{option}\nallow_from = [{}]\n",
            nets.join(", ")
        );
        for at in 0..endpoints {
            text += &format!("[containers.c{at}]\nnetns = \"c{at}\"\n[endpoints.e{at}]\ncontainer = \"c{at}\"\n");
            text += &format!("network = \"front\"\npublish = [\"{}:80\"]\n", 20_000 + at);
        }
        text
    }

    /// What is wrong with it, each with the text that is pointed at.
    fn findings(text: &str) -> Vec<(String, &str)> {
        let topology = parse(&[Source::new("t.toml", text)]).expect("right in itself");
        let findings = match lower(&topology, &Observed::default()) {
            Ok(_) => Vec::new(),
            Err(Rejection::Invalid(findings) | Rejection::Refused(findings)) => findings.into_vec(),
        };
        let place = |it: &Diagnostic| it.span.map_or("", |span| &text[span.start as usize..span.end as usize]);
        findings.iter().map(|finding| (finding.message.clone(), place(finding))).collect()
    }

    #[test]
    fn who_may_reach_published_ports_is_limited_in_number() {
        assert_eq!(findings(&topology("", 256, 256)), []);
        let message = "`allow_from` of all published ports comes to more than 65536 elements in IPv4";
        assert_eq!(findings(&topology("", 257, 256)), [(message.to_owned(), "\"16.0.0.0/25\"")]);
    }

    #[test]
    fn of_routed_ports_it_is_limited_as_policies_are() {
        let routed = |nets| topology("masquerade = false", nets, 64);
        assert_eq!(findings(&routed(256)), []);
        let message = "more than 16384 elements are needed to tell apart what policies say";
        // Endpoints in the order of their names.
        assert_eq!(findings(&routed(257)), [(message.to_owned(), "\"20009:80\"")]);
    }
}
