//! Policies: whom they speak of, and whether they can mean what they say.

use toml::Spanned;

use super::{Checking, is};
use crate::model::diagnostic::Diagnostic;
use crate::model::source::Span;
use crate::model::topology::{Action, Item, Network, Peer, Policy};

impl Checking<'_> {
    pub(super) fn policies(&mut self) {
        for policy in &self.topology.policies {
            if policy.from.is_none() && policy.to.is_none() {
                let finding = Diagnostic::at(policy.name, "a policy between anybody and anybody");
                self.say(finding.hint("add `from`, `to`, or both"));
            }
            let peers = [policy.from.as_ref(), policy.to.as_ref()];
            for peer in peers.into_iter().flatten() {
                self.peer(policy, peer);
            }
            let cidrs = peers.map(|peer| peer.and_then(|peer| peer.get_ref().cidr.as_ref()));
            if let [Some(from), Some(to)] = cidrs
                && from.get_ref().addr().is_ipv6() != to.get_ref().addr().is_ipv6()
            {
                let finding = Diagnostic::at(policy.span(to), "the two ends are of different families");
                self.say(
                    finding.related(policy.span(from), "the other end").hint("nothing goes from one to the other"),
                );
            }
            if *policy.action.get_ref() == Action::Allow {
                self.opens(policy);
            }
        }
    }

    fn peer(&mut self, policy: &Item<Policy>, peer: &Spanned<Peer>) {
        let Peer { network, endpoint, cidr } = peer.get_ref();
        let given = usize::from(network.is_some()) + usize::from(endpoint.is_some()) + usize::from(cidr.is_some());
        if given != 1 {
            let finding = Diagnostic::at(policy.span(peer), "exactly one of `network`, `endpoint` and `cidr`");
            self.say(finding.label(format!("{given} of them")));
        }
        if let Some(net) = cidr {
            self.host_bits(net.get_ref(), policy.span(net));
        }
        if let Some(name) = network {
            self.network_named(name.get_ref(), policy.span(name));
        }
        let Some(name) = endpoint else { return };
        let (span, name) = (policy.span(name), name.get_ref().as_str());
        match self.topology.endpoints.get(name) {
            Some(endpoint) => self.network_named(endpoint.network.get_ref(), span),
            None if self.broken.has("endpoints", name) => {}
            None => {
                let finding = Diagnostic::at(span, format!("there is no endpoint `{name}`"));
                self.say(finding.nearest(name, self.topology.endpoints.keys().map(String::as_str)));
            }
        }
    }

    /// A network that a policy speaks of, at a place.
    fn network_named(&mut self, name: &str, span: Span) {
        let Some(item) = self.topology.networks.get(name) else {
            if !self.broken.has("networks", name) {
                let finding = Diagnostic::at(span, format!("there is no network `{name}`"));
                self.say(finding.nearest(name, self.topology.networks.keys().map(String::as_str)));
            }
            return;
        };
        if !item.has_driver("bridge") || item.is_external() {
            let finding = Diagnostic::at(span, format!("netrec does not judge what passes on `{name}`"));
            let place = if item.is_external() { item.name } else { item.span(&item.driver) };
            self.say(finding.related(place, "not a bridge of netrec's"));
        }
    }

    /// An `allow` that opens what its network keeps closed.
    fn opens(&mut self, policy: &Item<Policy>) {
        let of = |peer: Option<&Spanned<Peer>>| -> Option<(&str, &Item<Network>)> {
            let peer = peer?.get_ref();
            let endpoint = |name: &Spanned<String>| Some(&self.topology.endpoints.get(name.get_ref())?.network);
            let name = peer.network.as_ref().or(peer.endpoint.as_ref().and_then(endpoint))?;
            self.topology.networks.get_key_value(name.get_ref()).map(|(name, item)| (name.as_str(), item))
        };
        let ends = [of(policy.from.as_ref()), of(policy.to.as_ref())];
        let span = policy.span(&policy.action);
        if let [Some((one, item)), Some((other, _))] = ends
            && one == other
        {
            if let Some(icc) = item.icc.as_ref().filter(|_| !is(item.icc.as_ref(), true)) {
                let finding = Diagnostic::at(span, format!("`allow` within `{one}` contradicts `icc = false`"));
                let finding = finding.related(item.span(icc), "its endpoints cannot talk to each other");
                self.say(finding.hint("leave `icc` out, and `deny` what is not wanted"));
            }
            return;
        }
        let internal = |(name, item): (&'_ str, &'_ Item<Network>)| {
            let internal = item.internal.as_ref().filter(|_| item.is_internal())?;
            let finding = Diagnostic::at(span, format!("`allow` contradicts `internal` of `{name}`"));
            Some(finding.related(item.span(internal), "no way in or out").hint("leave one of the two out"))
        };
        let findings: Vec<Diagnostic> = ends.into_iter().flatten().filter_map(internal).collect();
        self.findings.extend(findings);
    }
}
