//! What is asked: `--from X --to Y:port/proto`, and whom these words mean.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::World;
use crate::model::diagnostic::Diagnostic;
use crate::model::kinds::firewall::Service;
use crate::model::kinds::veth::Veth;
use crate::model::resource::{HOST, Text};
use crate::model::values::Protocol;

/// Who sends what to whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// Who sends it.
    pub from: Sender,
    /// The address that is asked.
    pub to: IpAddr,
    /// What is asked for.
    pub service: Service,
}

/// Who sends a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sender {
    /// The host itself.
    Host,
    /// A namespace, perhaps from one of its addresses.
    Container(Text, Option<IpAddr>),
    /// Somebody beyond the host's links.
    Outside(IpAddr),
}

/// A word for one side.
enum Party<'a> {
    Host,
    Address(IpAddr),
    /// An endpoint.
    Endpoint(&'a Veth),
    /// A container: its endpoints.
    Container(Vec<&'a Veth>),
}

const HINT: &str = "the name of an endpoint or container, `host`, or an address";

impl World<'_> {
    /// Understands a question; `ipv6` says which family is asked in, else IPv4 goes first.
    ///
    /// # Errors
    ///
    /// What is wrong with the words, without a place: they stand in no file.
    pub fn question(&self, from: &str, to: &str, ipv6: Option<bool>) -> Result<Question, Diagnostic> {
        let (to, service) = service(to)?;
        let (asks, asked) = (self.party(from)?, self.party(to)?);
        for party in [&asks, &asked] {
            if let Party::Address(address) = party
                && (address.is_multicast() || *address == Ipv4Addr::BROADCAST || address.is_unspecified())
            {
                return Err(Diagnostic::new(format!("`{address}` is nobody's own address")).hint(HINT));
            }
        }
        let families = [false, true].into_iter().filter(|family| ipv6.is_none_or(|ipv6| ipv6 == *family));
        let mut found = families.filter_map(|ipv6| {
            let from = self.sender(&asks, ipv6)?;
            let to = self.asked(&asked, &from, ipv6)?;
            Some(Question { from, to, service })
        });
        found.next().ok_or_else(|| {
            let family = match ipv6 {
                None => "",
                Some(true) => " in IPv6",
                Some(false) => " in IPv4",
            };
            let finding = Diagnostic::new(format!("`{from}` knows no address of the other side{family}"));
            finding.hint("both need an address of the same family, and the host a route to who is outside")
        })
    }

    fn party(&self, word: &str) -> Result<Party<'_>, Diagnostic> {
        let bare = word.strip_prefix('[').and_then(|word| word.strip_suffix(']')).unwrap_or(word);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Party::Address(address));
        }
        if let Ok(net) = bare.parse::<IpNet>() {
            return Ok(Party::Address(net.hosts().next().unwrap_or(net.addr())));
        }
        if word == HOST {
            return Ok(Party::Host);
        }
        let topology = self.topology;
        if let Some(item) = topology.endpoints.get(word) {
            if topology.on_host().contains(item.container.get_ref().as_str()) {
                return Ok(Party::Host);
            }
            let veth = self.veths().find(|veth| *veth.label.name == *word);
            let absent =
                || Diagnostic::new(format!("endpoint `{word}` is not there: it has no link, or is waited for"));
            return veth.map(Party::Endpoint).ok_or_else(absent);
        }
        if topology.containers.contains_key(word) {
            if topology.on_host().contains(word) {
                return Ok(Party::Host);
            }
            let own = |veth: &&Veth| {
                let item = topology.endpoints.get(&*veth.label.name);
                item.is_some_and(|item| item.container.get_ref() == word)
            };
            let mut veths: Vec<&Veth> = self.veths().filter(own).collect();
            veths.sort_by_key(|veth| veth.ifname.clone());
            let absent =
                || Diagnostic::new(format!("container `{word}` has no endpoint with a link, or is waited for"));
            return if veths.is_empty() { Err(absent()) } else { Ok(Party::Container(veths)) };
        }
        let names = topology.endpoints.keys().chain(topology.containers.keys()).map(String::as_str);
        let known: BTreeSet<&str> = names.chain([HOST]).collect();
        let finding = Diagnostic::new(format!("`{word}` is no endpoint, container or address"));
        let nearest = finding.clone().nearest(word, known);
        Err(if nearest.hint.is_some() { nearest } else { finding.hint(HINT) })
    }

    fn address(&self, veth: &Veth, ipv6: bool) -> Option<IpAddr> {
        let own = self.addresses(&veth.netns).filter(|it| veth.ifname.as_ref() == Some(&it.link));
        own.map(|it| it.address.addr()).find(|address| address.is_ipv6() == ipv6)
    }

    fn sender(&self, party: &Party<'_>, ipv6: bool) -> Option<Sender> {
        match party {
            Party::Host => Some(Sender::Host),
            Party::Endpoint(veth) => Some(Sender::Container(veth.netns.clone(), Some(self.address(veth, ipv6)?))),
            Party::Container(veths) => {
                veths.iter().find_map(|veth| self.address(veth, ipv6))?;
                Some(Sender::Container(veths.first()?.netns.clone(), None))
            }
            Party::Address(address) if address.is_ipv6() != ipv6 => None,
            Party::Address(address) if self.is_local(*address) => Some(Sender::Host),
            Party::Address(address) => {
                let veth = self.veths().find(|veth| self.address(veth, ipv6) == Some(*address));
                Some(
                    veth.map_or(Sender::Outside(*address), |veth| {
                        Sender::Container(veth.netns.clone(), Some(*address))
                    }),
                )
            }
        }
    }

    fn asked(&self, party: &Party<'_>, from: &Sender, ipv6: bool) -> Option<IpAddr> {
        match party {
            Party::Host => self.host_address(from, ipv6),
            Party::Address(address) => (address.is_ipv6() == ipv6).then_some(*address),
            Party::Endpoint(veth) => self.address(veth, ipv6),
            // One that the sender has on its link, if there is one.
            Party::Container(veths) => {
                let addresses: Vec<IpAddr> = veths.iter().filter_map(|veth| self.address(veth, ipv6)).collect();
                let near = |to: &&IpAddr| match from {
                    Sender::Container(netns, source) => {
                        self.route(netns, *source, **to).is_some_and(|hop| hop.via.is_none())
                    }
                    _ => false,
                };
                addresses.iter().find(near).or(addresses.first()).copied()
            }
        }
    }

    /// The address by which a sender knows the host: the gateway of its own network, or the one that it is routed by.
    fn host_address(&self, from: &Sender, ipv6: bool) -> Option<IpAddr> {
        let loopback: IpAddr = if ipv6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        match from {
            Sender::Host => Some(loopback),
            Sender::Outside(address) => self.route(HOST, None, *address).and_then(|hop| hop.source),
            Sender::Container(netns, source) => {
                let inside = self.addresses(netns).map(|it| it.address).filter(|net| net.addr().is_ipv6() == ipv6);
                let mut inside = inside.filter(|net| source.is_none_or(|source| source == net.addr()));
                inside.find_map(|net| {
                    self.addresses(HOST).map(|it| it.address.addr()).find(|address| net.contains(address))
                })
            }
        }
    }
}

/// `NAME:PORT[/tcp|udp|sctp]` or `NAME/icmp`.
fn service(text: &str) -> Result<(&str, Service), Diagnostic> {
    let wrong = |what: String| {
        Diagnostic::new(what).hint("write `NAME:PORT`, `NAME:PORT/udp` or `NAME/icmp`; `[ADDRESS]:PORT` for IPv6")
    };
    let (rest, word) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let protocol = match word {
        "icmp" => return Ok((rest, Service::Echo)),
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => return Err(wrong(format!("`{other}` is no protocol that can be traced"))),
    };
    let address_alone = rest.parse::<IpAddr>().is_ok();
    let (name, port) =
        rest.rsplit_once(':').filter(|_| !address_alone).ok_or_else(|| wrong(format!("`{text}` names no port")))?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| wrong(format!("`{text}` does not end with a port from 1 to 65535")))?;
    Ok((name, Service::Port(protocol, port)))
}
