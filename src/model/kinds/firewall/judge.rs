//! Flows that began while our rules did not stand: to conntrack they are established like any other, and what is
//! established passes. Once the rules stand again, those go that the rules would not have let begin; the others stay, and
//! with them the translations of their addresses.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Element, Firewall, Hook, Packet, Role, Ruleset, Service};
use crate::model::resource::Text;
use crate::model::wire::FlowFacts;

/// The rules, and where the addresses are that they are about.
#[derive(Debug)]
pub(super) struct Judge {
    rules: Ruleset,
    /// Bridges by subnet; of an internal network only that it is internal is known.
    bridges: Vec<(IpNet, Option<Text>)>,
    internal: Text,
}

impl Judge {
    pub(super) fn new(firewall: &Firewall) -> Self {
        let (mut bridges, mut internal) = (Vec::new(), Text::default());
        for element in firewall.elements.iter() {
            match element {
                Element::Subnet(net) => bridges.push((*net, None)),
                Element::Link(Role::Internal, link) => internal = link.clone(),
                _ => {}
            }
        }
        for element in firewall.elements.iter() {
            let Element::Hairpin(link, net) = element else { continue };
            for (_, bridge) in bridges.iter_mut().filter(|(subnet, _)| subnet == net) {
                *bridge = Some(link.clone());
            }
        }
        Self { rules: Ruleset::new(firewall), bridges, internal }
    }

    /// Whether a flow, which our rules know as one that stands, might begin by them. One that is wrongly thought not to
    /// begins anew with its next packet.
    pub(super) fn lets_begin(&self, flow: &FlowFacts) -> bool {
        let at = |address: IpAddr| self.bridges.iter().find(|(net, _)| net.contains(&address));
        let (from, to) = (at(flow.source), at(flow.answers.0));
        if flow.own || (from.is_none() && to.is_none()) {
            return true;
        }
        let service = flow.protocol.map_or(Service::Echo, |protocol| Service::Port(protocol, flow.answers.1));
        let mut packet = Packet::new(flow.source, flow.answers.0, service);
        let name = |bridge: Option<&(IpNet, Option<Text>)>| {
            bridge.map(|(_, link)| link.as_ref().unwrap_or(&self.internal).clone()).unwrap_or_default()
        };
        (packet.iif, packet.oif, packet.mapped) = (name(from), name(to), flow.mapped);
        let internal = |bridge: Option<&(IpNet, Option<Text>)>| bridge.is_some_and(|(_, link)| link.is_none());
        if internal(from) && internal(to) && from != to {
            packet.oif = Text::default();
        }
        let hook = if flow.local && !flow.mapped { Hook::Input } else { Hook::Forward };
        self.rules.hook(false, hook, &mut packet, &|_| false).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kinds::firewall::{NetworkRules, SourceNat};
    use crate::model::values::Protocol;

    fn judge() -> Judge {
        let network = |bridge: &str, nets: &[&str], internal| NetworkRules {
            bridge: bridge.into(),
            subnets: nets.iter().map(|net| net.parse().expect("a net")).collect(),
            internal,
            ipv4: SourceNat::Masquerade,
            ipv6: SourceNat::Masquerade,
            icc: true,
            open: false,
            host_access: false,
            trusted: Vec::new(),
        };
        Judge::new(&Firewall::new(
            "t",
            &[
                network("br0", &["10.1.0.0/24", "10.2.0.0/24"], false),
                network("br1", &["10.3.0.0/24"], false),
                network("br2", &["10.4.0.0/24"], true),
                network("br3", &["10.5.0.0/24"], true),
            ],
            &[],
        ))
    }

    #[test]
    fn what_would_not_begin_is_told_from_what_would() {
        for (from, to, stays) in [
            ("10.1.0.2", "10.2.0.2", true),
            ("10.1.0.2", "10.3.0.2", false),
            ("10.1.0.2", "192.0.2.2", true),
            ("192.0.2.2", "10.1.0.2", false),
            ("192.0.2.2", "192.0.2.3", true),
            ("10.4.0.2", "10.4.0.3", true),
            ("10.4.0.2", "10.5.0.2", false),
            ("10.4.0.2", "192.0.2.2", false),
        ] {
            let address = |text: &str| text.parse::<IpAddr>().expect("an address");
            for protocol in [Some(Protocol::Tcp), None] {
                let flow = FlowFacts {
                    protocol,
                    source: address(from),
                    own: false,
                    destination: (address(to), 80),
                    answers: (address(to), 80),
                    mapped: false,
                    assured: true,
                    local: false,
                };
                assert_eq!(judge().lets_begin(&flow), stays, "{from} to {to}");
                assert!(judge().lets_begin(&FlowFacts { own: true, ..flow }), "what the host itself began");
            }
        }
        // A published port leads there, wherever it was asked for.
        let mapped = FlowFacts {
            protocol: Some(Protocol::Tcp),
            source: "192.0.2.2".parse().expect("an address"),
            own: false,
            destination: ("192.0.2.1".parse().expect("an address"), 8080),
            answers: ("10.1.0.2".parse().expect("an address"), 80),
            mapped: true,
            assured: true,
            local: true,
        };
        assert!(judge().lets_begin(&mapped));
    }
}
