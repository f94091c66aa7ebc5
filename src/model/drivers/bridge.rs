//! `driver = "bridge"`: a bridge of the host, and a veth pair an endpoint.

use ipnet::IpNet;

use crate::model::kinds::address::Address;
use crate::model::kinds::bridge::Bridge;
use crate::model::kinds::veth::{End, Veth};
use crate::model::lower::{Lowering, NetworkPlan, Port, bridge_mac, host_mac};
use crate::model::resource::{HOST, Resource};

/// Wants the bridge with its gateway addresses, unless it is somebody else's, and every endpoint's pair and addresses.
pub(super) fn lower<'a>(network: &NetworkPlan<'a>, ports: &[&Port<'a>], lowering: &mut Lowering<'a>) {
    let topology = &lowering.topology.name;
    if !network.external {
        let mac = bridge_mac(topology, network.name);
        let bridge = Bridge::new(network.link.clone(), lowering.owner.clone(), mac, network.mtu);
        lowering.want(Resource::Bridge(bridge), network.item.name);
        for subnet in &network.subnets {
            let gateway = subnet.gateway.and_then(|gateway| IpNet::new(gateway, subnet.net.prefix_len()).ok());
            if let Some(gateway) = gateway {
                let address = Address::new(&HOST.into(), &network.link, gateway);
                lowering.want(Resource::Address(address), network.item.name);
            }
        }
    }
    for port in ports {
        lowering.want(Resource::Veth(pair(network, port, lowering)), port.item.name);
        for address in &port.addresses {
            let address = Address::new(&port.netns, &port.ifname, *address);
            lowering.want(Resource::Address(address), port.item.name);
        }
    }
}

fn pair<'a>(network: &NetworkPlan<'a>, port: &Port<'a>, lowering: &Lowering<'a>) -> Veth {
    Veth {
        name: port.link.clone(),
        owner: lowering.owner.clone(),
        host: End::new(host_mac(&lowering.topology.name, port.name), network.mtu),
        bridge: Some(network.link.clone()),
        isolated: !network.icc,
        hairpin: lowering.reflects(port),
        netns: port.netns.clone(),
        ifname: Some(port.ifname.clone()),
        peer: End::new(port.mac, network.mtu),
    }
}
