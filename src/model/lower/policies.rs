//! Policies: names become addresses, and published ports of routed networks policies of their own, behind the user's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toml::Spanned;

use super::{Given, NetworkPlan, Port};
use crate::model::diagnostic::Diagnostic;
use crate::model::kinds::firewall::{Element, NetworkRules, Policy, Publication, SourceNat, policies};
use crate::model::source::Span;
use crate::model::topology::{Action, Peer};
use crate::model::values::Ports;

impl Given<'_> {
    /// Elements of the user's policies, and of `direct` ones after them, each with the place of its published port.
    ///
    /// # Errors
    ///
    /// If there are too many.
    pub(super) fn policies(
        self,
        direct: Vec<(Policy, Span)>,
        ports: &[Port],
        networks: &BTreeMap<&str, NetworkPlan>,
    ) -> Result<Vec<Element>, Diagnostic> {
        let addresses =
            |peer: Option<&Spanned<Peer>>| peer.map_or_else(anywhere, |peer| of(peer.get_ref(), ports, networks));
        let own = self.topology.policies.iter().map(|policy| Policy {
            allow: *policy.action.get_ref() == Action::Allow,
            from: addresses(policy.from.as_ref()),
            to: addresses(policy.to.as_ref()),
            ports: policy.ports.iter().map(|ports| (ports.get_ref().protocol, ports.get_ref().ports)).collect(),
        });
        let (direct, places): (Vec<Policy>, Vec<Span>) = direct.into_iter().unzip();
        let all: Vec<Policy> = own.chain(direct).collect();
        let bridged: Vec<Vec<IpNet>> = networks.values().filter(|plan| plan.icc && !plan.external).map(nets).collect();
        policies(&all, &bridged).map_err(|too_many| {
            let of_port = too_many.0.checked_sub(self.topology.policies.len()).map(|at| {
                let finding = Diagnostic::at(places[at], too_many.to_string());
                let finding = finding.label("without NAT on the way out this is a policy, too");
                finding.hint("fewer or wider nets in `allow_from`")
            });
            of_port.unwrap_or_else(|| {
                let finding = Diagnostic::at(self.topology.policies[too_many.0].name, too_many.to_string());
                finding.hint("fewer policies, or such that do not overlap")
            })
        })
    }
}

fn anywhere() -> Vec<IpNet> {
    vec![Ipv4Net::default().into(), Ipv6Net::default().into()]
}

fn nets(plan: &NetworkPlan) -> Vec<IpNet> {
    plan.subnets.iter().map(|subnet| subnet.net).collect()
}

/// The addresses of one side of a policy; none of an endpoint that is waited for.
fn of(peer: &Peer, ports: &[Port], networks: &BTreeMap<&str, NetworkPlan>) -> Vec<IpNet> {
    if let Some(network) = &peer.network {
        return networks.get(network.get_ref().as_str()).map(nets).unwrap_or_default();
    }
    if let Some(endpoint) = &peer.endpoint {
        let port = ports.iter().find(|port| port.name == endpoint.get_ref());
        return port.iter().flat_map(|port| &port.addresses).map(|net| IpNet::from(net.addr())).collect();
    }
    peer.cidr.iter().map(|net| **net.get_ref()).collect()
}

/// Published at every address of the host, a port of an endpoint whose address is not translated on the way out is
/// reached at the endpoint's own address, too.
pub(super) fn reached_directly(publication: &Publication, network: &NetworkRules) -> Option<Policy> {
    let target = publication.target;
    let routed = match target {
        IpAddr::V4(_) => network.ipv4 == SourceNat::Keep,
        IpAddr::V6(_) => network.ipv6 == SourceNat::Keep,
    };
    if !routed || network.open || network.internal || publication.listen.is_some() {
        return None;
    }
    let first = publication.first;
    let last = first.checked_add(publication.ports.last - publication.ports.first)?;
    let to = vec![IpNet::from(target)];
    let from = publication.allow_from.clone().unwrap_or_else(anywhere);
    Some(Policy { allow: true, from, to, ports: vec![(publication.protocol, Ports { first, last })] })
}
