//! Published ports that somebody else has: found out before anything is written, for afterwards one of the two would be
//! silently without.

use std::net::IpAddr;

use super::publish::listens;
use super::{Lowering, Port};
use crate::model::diagnostic::Diagnostic;
use crate::model::observed::Claim;
use crate::model::values::{Ports, Protocol, Publish};

impl Lowering<'_> {
    /// Refuses to publish what others have. A port that this topology has published already works, so whoever came to it
    /// later is only told of.
    pub(super) fn taken_ports(&mut self, ports: &[Port]) {
        for port in ports {
            for (publish, _) in port.item.publishes() {
                let Some(host) = publish.get_ref().host else { continue };
                let claim = listens(port.network, publish.get_ref())
                    .into_iter()
                    .filter(|(ipv6, _)| port.address(*ipv6).is_some())
                    .find_map(|(ipv6, at)| self.claim(publish.get_ref(), (ipv6, at), host));
                let Some((claim, ours)) = claim else { continue };
                let at = match claim.address {
                    Some(IpAddr::V6(address)) => format!("[{address}]:"),
                    Some(address) => format!("{address}:"),
                    None => String::new(),
                };
                let message = format!("port {at}{}/{} is taken: {} there", claim.ports, claim.protocol, claim.holder);
                if ours {
                    self.note(format!("{message}, behind what this topology publishes, and is not reached"));
                } else {
                    let finding = Diagnostic::at(port.item.span(publish), message).label("to be published here");
                    self.refuse(finding.hint("publish at another host port, or at an address that is free"));
                }
            }
        }
    }

    /// Who has one of some ports, and whether this topology published them before.
    fn claim(&self, publish: &Publish, (ipv6, at): (bool, Option<IpAddr>), ports: Ports) -> Option<(Claim, bool)> {
        let same = |claim: &&Claim| {
            let address = claim.address.is_none() || at.is_none() || claim.address == at;
            let family = claim.ipv6.is_none_or(|of| of == ipv6);
            claim.protocol == publish.protocol && family && address && claim.ports.overlaps(ports)
        };
        let claim = self.observed.foreign.claims.iter().find(same)?.clone();
        Some((claim, self.is_published(publish.protocol, (ipv6, at), ports)))
    }

    fn is_published(&self, protocol: Protocol, (ipv6, at): (bool, Option<IpAddr>), ports: Ports) -> bool {
        self.given().published_before().any(|it| {
            let same = (it.protocol, it.target.is_ipv6(), it.listen) == (protocol, ipv6, at);
            same && it.ports.overlaps(ports)
        })
    }
}
