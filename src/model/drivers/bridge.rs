//! `driver = "bridge"`: a bridge of the host, and a veth pair an endpoint.

use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv6Net};

use crate::model::kinds::address::Address;
use crate::model::kinds::bridge::Bridge;
use crate::model::kinds::veth::{End, Veth};
use crate::model::lower::{Lowering, NetworkPlan, Port, Subnet, bridge_mac, host_mac};
use crate::model::resource::host;

/// What the host has on every bridge that routes IPv6: Linux asks for a neighbour on behalf of packets that it forwards
/// from a link-local address only (RFC 4861 section 7.2.2), and the bridge makes none up for itself.
const LINK_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), 64);

/// Wants the bridge with its gateway addresses, unless it is somebody else's, and every endpoint's pair.
pub(super) fn lower(network: &NetworkPlan, ports: &[&Port], lowering: &mut Lowering) {
    let topology = &lowering.topology.name;
    if !network.external {
        let mac = bridge_mac(topology, &network.born);
        let label = lowering.label(network.name, &network.born, network.item.protect.as_ref());
        let forwards = network.forwards(false);
        let bridge = Bridge::new(network.link.clone(), lowering.owner.clone(), mac, network.mtu);
        let bridge = Bridge { label, forwards, ..bridge };
        lowering.want(bridge, network.item.name);
        let gateway = |subnet: &Subnet| IpNet::new(subnet.gateway?, subnet.net.prefix_len()).ok();
        let mut gateways: Vec<IpNet> = network.subnets.iter().filter_map(gateway).collect();
        if gateways.iter().any(|gateway| gateway.addr().is_ipv6()) {
            gateways.push(LINK_LOCAL.into());
        }
        for gateway in gateways {
            let address = Address::new(&host(), &network.link, gateway);
            lowering.want(address, network.item.name);
        }
    }
    for port in ports {
        lowering.want(pair(network, port, lowering), port.item.name);
    }
}

fn pair(network: &NetworkPlan, port: &Port, lowering: &Lowering) -> Veth {
    Veth {
        place: host(),
        name: port.link.clone(),
        owner: lowering.owner.clone(),
        label: lowering.label(port.name, &port.born, port.item.protect.as_ref()),
        host: End::new(host_mac(&lowering.topology.name, &port.born), network.mtu),
        bridge: Some(network.link.clone()),
        isolated: !network.icc,
        hairpin: lowering.reflects(port),
        ipv6: lowering.observed.foreign.ipv6_fixed,
        netns: port.netns.clone(),
        ifname: Some(port.ifname.clone()),
        peer: End::new(port.mac, network.mtu),
    }
}
