//! Networks and pools: drivers and what each takes, subnets, gateways, ways out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toml::Spanned;

use super::{Checking, Once, family, is};
use crate::model::diagnostic::Diagnostic;
use crate::model::drivers::DRIVERS;
use crate::model::ipam;
use crate::model::source::Span;
use crate::model::topology::{Item, Network};
use crate::model::values::MTU_IPV6;

/// Drivers that netrec means to have.
const LATER: [&str; 3] = ["macvlan", "ipvlan", "overlay"];

/// Blocks of which no part can be a subnet (RFC 6890), and what is in them.
const SPECIAL: [(IpNet, &str); 7] = [
    (v4([0, 0, 0, 0], 8), "addresses of \"this host\" (RFC 1122, 3.2.1.3)"),
    (v4([127, 0, 0, 0], 8), "loopback addresses"),
    (v4([224, 0, 0, 0], 4), "addresses of groups"),
    (v6(Ipv6Addr::LOCALHOST, 128), "loopback addresses"),
    (v6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96), "IPv4 addresses in the guise of IPv6 ones"),
    (v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10), "link-local addresses"),
    (v6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8), "addresses of groups"),
];

const fn v4([a, b, c, d]: [u8; 4], length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

const fn v6(address: Ipv6Addr, length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(address, length))
}

/// `BR_MAX_PORTS` (`net/bridge/br_private.h`) without port 0.
const BRIDGE_PORTS: usize = 1_023;

impl Checking<'_> {
    pub(super) fn networks(&mut self) {
        let (mut bridges, mut subnets) = (Once::new(), Vec::new());
        let mut endpoints = BTreeMap::<&str, Vec<Span>>::new();
        for endpoint in self.topology.endpoints.values() {
            endpoints.entry(endpoint.network.get_ref()).or_default().push(endpoint.name);
        }
        for (name, item) in &self.topology.networks {
            if !self.driver(item) {
                continue;
            }
            if !item.has_driver("bridge") {
                self.bridge_keys(item);
                continue;
            }
            self.subnets(name, item, &mut subnets);
            self.gateways(name, item);
            self.ways_out(name, item);
            self.ways_in(item);
            self.mtu(name, item);
            self.external(item);
            self.ports(name, item, endpoints.remove(name.as_str()).unwrap_or_default());
            let own = item.bridge.as_ref().and_then(|bridge| bridge.get_ref().name.as_ref());
            if let Some(own) = own {
                self.ifname(own, item.span(own));
                if let Some(first) = bridges.claim(own.get_ref(), item.span(own)) {
                    self.twice(format!("bridge `{}`", own.get_ref()), item.span(own), first);
                }
            }
        }
    }

    /// What can be said of each value of a network by itself.
    pub(super) fn network_values(&mut self, item: &Item<Network>) {
        self.driver(item);
        for subnet in item.subnets.iter().flatten() {
            self.fits(subnet.get_ref(), item.span(subnet));
        }
        if let Some(name) = item.bridge.as_ref().and_then(|bridge| bridge.get_ref().name.as_ref()) {
            self.ifname(name, item.span(name));
        }
    }

    /// Whether there is such a driver; says so if not.
    fn driver(&mut self, item: &Item<Network>) -> bool {
        let (driver, span) = (item.driver.get_ref().as_str(), item.span(&item.driver));
        if DRIVERS.iter().any(|(word, _)| *word == driver) {
            return true;
        }
        let finding = if LATER.contains(&driver) {
            let known: Vec<String> = DRIVERS.iter().map(|(word, _)| format!("`{word}`")).collect();
            let finding = Diagnostic::at(span, format!("driver `{driver}` is not there yet"));
            finding.hint(format!("this version has {}", known.join(", ")))
        } else {
            let finding = Diagnostic::at(span, format!("there is no driver `{driver}`"));
            finding.nearest(driver, DRIVERS.iter().map(|(word, _)| *word))
        };
        self.say(finding);
        false
    }

    /// The keys that only a bridge network has a use for.
    fn bridge_keys(&mut self, item: &Item<Network>) {
        let Network { driver, .. } = &**item;
        let first = |list: &[Spanned<IpAddr>]| list.first().map(Spanned::span);
        let keys = [
            ("subnets", item.subnets.iter().flatten().next().map(Spanned::span)),
            ("gateways", first(&item.gateways)),
            ("reserved", first(&item.reserved)),
            ("ipv4", item.ipv4.as_ref().map(Spanned::span)),
            ("ipv6", item.ipv6.as_ref().map(Spanned::span)),
            ("internal", item.internal.as_ref().map(Spanned::span)),
            ("masquerade", item.masquerade.as_ref().map(Spanned::span)),
            ("snat", first(&item.snat)),
            ("publish_address", first(&item.publish_address)),
            ("mtu", item.mtu.as_ref().map(Spanned::span)),
            ("icc", item.icc.as_ref().map(Spanned::span)),
            ("host_access", item.host_access.as_ref().map(Spanned::span)),
            ("host_address", item.host_address.as_ref().map(Spanned::span)),
            ("open", item.open.as_ref().map(Spanned::span)),
            ("trusted_interfaces", item.trusted_interfaces.first().map(Spanned::span)),
            ("allow_from", item.allow_from.iter().flatten().next().map(Spanned::span)),
            ("bridge", item.bridge.as_ref().map(Spanned::span)),
        ];
        for (key, span) in keys.into_iter().filter_map(|(key, span)| Some((key, span?))) {
            let finding =
                Diagnostic::at(item.part.at(span), format!("`{key}` means nothing for driver `{}`", driver.get_ref()));
            self.say(
                finding.related(item.span(driver), "the driver").hint("leave it out, or use `driver = \"bridge\"`"),
            );
        }
    }

    fn subnets(&mut self, name: &str, item: &Item<Network>, seen: &mut Vec<(IpNet, Span)>) {
        let Some(subnets) = &item.subnets else {
            if !item.has_family(false) && !item.has_family(true) {
                let span = item.ipv4.as_ref().map_or(item.name, |flag| item.span(flag));
                self.say(
                    Diagnostic::at(span, format!("`{name}` has neither IPv4 nor IPv6")).hint("leave one of them on"),
                );
            }
            return;
        };
        for (key, flag) in [("ipv4", &item.ipv4), ("ipv6", &item.ipv6)] {
            if let Some(flag) = flag {
                let finding = Diagnostic::at(item.span(flag), format!("`{key}` means nothing besides `subnets`"));
                self.say(finding.hint("the families of a network are those of its subnets"));
            }
        }
        for subnet in subnets {
            let (net, span) = (**subnet.get_ref(), item.span(subnet));
            if !self.fits(&net, span) {
                continue;
            }
            if let Some((other, first)) = seen.iter().find(|(other, _)| ipam::overlap(&net, other)).copied() {
                let finding = Diagnostic::at(span, format!("subnet `{net}` overlaps `{other}`"));
                let finding = finding.label("this one").related(first, "and this one");
                self.say(finding.hint("subnets of a topology have no address in common"));
            }
            seen.push((net, span));
        }
    }

    /// Whether it can be the subnet of a network; says so if not.
    fn fits(&mut self, net: &IpNet, span: Span) -> bool {
        if !self.host_bits(net, span) {
            return false;
        }
        let why = unfit(net);
        if let Some(why) = why {
            self.say(Diagnostic::at(span, format!("`{net}` cannot be the subnet of a network")).label(why));
        }
        why.is_none()
    }

    /// Whether nothing is set after the prefix; says so if not.
    pub(super) fn host_bits(&mut self, net: &IpNet, span: Span) -> bool {
        if *net == net.trunc() {
            return true;
        }
        let finding = Diagnostic::at(span, format!("`{net}` has bits set after its prefix"));
        self.say(finding.label("the address of a host, not of a network").hint(format!("write `{}`", net.trunc())));
        false
    }

    fn gateways(&mut self, name: &str, item: &Item<Network>) {
        let addressed = is(item.host_address.as_ref(), true);
        let mut once = Once::new();
        for gateway in &item.gateways {
            let (address, span) = (*gateway.get_ref(), item.span(gateway));
            let Some(net) = item.subnet_of(address) else {
                self.no_subnet(&address, name, item, span);
                continue;
            };
            self.usable(&net, address, span);
            if let Some(first) = once.claim(net, span) {
                let finding = Diagnostic::at(span, format!("subnet `{net}` has two gateways"));
                self.say(finding.label("the second").related(first, "the first"));
            }
            if !addressed {
                let finding = Diagnostic::at(span, "a network without `host_address` has no gateway");
                self.say(finding.hint("leave one of the two out"));
            }
        }
        for reserved in &item.reserved {
            let (address, span) = (*reserved.get_ref(), item.span(reserved));
            if item.subnets.is_some() && item.subnet_of(address).is_none() {
                self.no_subnet(&address, name, item, span);
            }
        }
    }

    /// An address that is in none of a network's subnets.
    pub(super) fn no_subnet(&mut self, address: &IpAddr, name: &str, item: &Item<Network>, span: Span) {
        let finding = Diagnostic::at(span, format!("`{address}` is in no subnet of `{name}`"));
        let subnets: Vec<String> = item.subnets.iter().flatten().map(|net| format!("`{}`", **net.get_ref())).collect();
        self.say(if subnets.is_empty() {
            finding.related(item.name, "takes its subnets from the pools").hint("give the network `subnets`")
        } else {
            finding.hint(format!("its subnets are {}", subnets.join(", ")))
        });
    }

    /// Whether an interface can have an address in its subnet; says so if not.
    pub(super) fn usable(&mut self, net: &IpNet, address: IpAddr, span: Span) -> bool {
        if ipam::is_usable(net, address) {
            return true;
        }
        let finding = if address == net.broadcast() && address.is_ipv4() {
            Diagnostic::at(span, format!("`{address}` is the broadcast address of `{net}`"))
        } else {
            let anycast =
                if address.is_ipv6() { "routers answer to it (RFC 4291, 2.6.1)" } else { "no host can have it" };
            Diagnostic::at(span, format!("`{address}` is the subnet's own address")).label(anycast)
        };
        let usable = ipam::usable_addresses(net);
        self.say(finding.hint(format!("`{}` to `{}` can be given", usable.0, usable.1)));
        false
    }

    fn ways_out(&mut self, name: &str, item: &Item<Network>) {
        let internal = item.internal.as_ref().filter(|internal| *internal.get_ref());
        let mut families = Once::new();
        for snat in &item.snat {
            let (address, span) = (*snat.get_ref(), item.span(snat));
            self.host_address(address, span);
            if let Some(first) = families.claim(address.is_ipv6(), span) {
                let finding = Diagnostic::at(span, format!("a second {} `snat` address", family(address.is_ipv6())));
                self.say(finding.related(first, "the first").hint("at most one a family"));
            }
            if !item.has_family(address.is_ipv6()) {
                let message = format!("`{name}` has no {} to translate", family(address.is_ipv6()));
                self.say(Diagnostic::at(span, message));
            }
        }
        if let (Some(masquerade), Some(snat)) = (item.masquerade.as_ref().filter(|it| *it.get_ref()), item.snat.first())
        {
            let finding = Diagnostic::at(item.span(masquerade), "`masquerade` and `snat` exclude each other");
            self.say(finding.related(item.span(snat), "fixed source address").hint("leave `masquerade` out"));
        }
        if let Some(internal) = internal {
            let masquerade =
                item.masquerade.as_ref().filter(|it| *it.get_ref()).map(|it| ("masquerade", item.span(it)));
            let open = item.open.as_ref().filter(|it| *it.get_ref()).map(|it| ("open", item.span(it)));
            let snat = item.snat.first().map(|it| ("snat", item.span(it)));
            for (key, span) in [masquerade, open, snat].into_iter().flatten() {
                let finding = Diagnostic::at(span, format!("`{key}` contradicts `internal`"));
                self.say(finding.related(item.span(internal), "no way in or out").hint("leave one of the two out"));
            }
        } else if let Some(flag) = item.host_address.as_ref().filter(|it| !*it.get_ref()) {
            let finding =
                Diagnostic::at(item.span(flag), "only an `internal` network can be without the host's address");
            self.say(finding.label("nothing could leave").hint("add `internal = true`"));
        }
    }

    fn ways_in(&mut self, item: &Item<Network>) {
        let internal = item.internal.as_ref().filter(|internal| *internal.get_ref());
        let mut once = Once::new();
        for link in &item.trusted_interfaces {
            let span = item.span(link);
            self.ifname(link, span);
            if let Some(first) = once.claim(link.get_ref(), span) {
                self.twice(format!("trusted interface `{}`", link.get_ref()), span, first);
            }
        }
        if let Some(nets) = &item.allow_from {
            self.allow_from(nets, item);
        }
        let trusted = item.trusted_interfaces.first().map(|it| ("trusted_interfaces", item.span(it)));
        let allowed = item.allow_from.iter().flatten().next().map(|it| ("allow_from", item.span(it)));
        for (key, span) in [trusted, allowed].into_iter().flatten() {
            if let Some(internal) = internal {
                let finding = Diagnostic::at(span, format!("`{key}` contradicts `internal`"));
                self.say(finding.related(item.span(internal), "no way in or out").hint("leave one of the two out"));
            }
        }
        if let Some((key, span)) = trusted.filter(|_| item.is_external()) {
            let finding = Diagnostic::at(span, format!("`{key}` means nothing on a bridge of others"));
            self.say(finding.hint("netrec filters nothing there but what endpoints send"));
        }
    }

    fn mtu(&mut self, name: &str, item: &Item<Network>) {
        let Some(mtu) = &item.mtu else { return };
        let (bytes, span) = (*mtu.get_ref(), item.span(mtu));
        if !(68..=65_535).contains(&bytes) {
            self.say(Diagnostic::at(span, format!("an MTU of {bytes} bytes")).hint("68 to 65535 bytes"));
        } else if bytes < MTU_IPV6 && item.has_family(true) {
            let finding = Diagnostic::at(span, format!("an MTU of {bytes} bytes is too small for IPv6"));
            let hint = format!("at least {MTU_IPV6} bytes (RFC 8200), or `{name}` without IPv6");
            self.say(finding.label("Linux would drop the IPv6 addresses").hint(hint));
        }
    }

    fn external(&mut self, item: &Item<Network>) {
        let Some(bridge) = item.bridge.as_ref().filter(|_| item.is_external()) else { return };
        let external = bridge.get_ref().external.as_ref().map_or(item.name, |flag| item.span(flag));
        if bridge.get_ref().name.is_none() {
            let finding = Diagnostic::at(external, "which bridge to use is not said");
            self.say(finding.hint("add `name = \"…\"`, the bridge's name"));
        }
        let Some(subnets) = &item.subnets else {
            let finding = Diagnostic::at(external, "a network on a bridge of others needs `subnets`");
            self.say(finding.hint("those that are used on it"));
            return;
        };
        for net in subnets.iter().filter(|_| !item.is_internal()) {
            if !item.gateways.iter().any(|gateway| net.get_ref().contains(gateway.get_ref())) {
                let finding = Diagnostic::at(item.span(net), format!("subnet `{}` has no gateway", **net.get_ref()));
                let finding = finding.related(external, "netrec gives no address to a bridge of others");
                self.say(finding.hint("add its router to `gateways`, or `internal = true`"));
            }
        }
        let flags = [
            ("masquerade", &item.masquerade),
            ("open", &item.open),
            ("host_access", &item.host_access),
            ("host_address", &item.host_address),
        ];
        for (key, flag) in flags.into_iter().filter_map(|(key, flag)| Some((key, flag.as_ref()?))) {
            let finding = Diagnostic::at(item.span(flag), format!("`{key}` means nothing on a bridge of others"));
            self.say(finding.related(external, "netrec adds ports to it, and nothing else"));
        }
        if let Some(snat) = item.snat.first() {
            let finding = Diagnostic::at(item.span(snat), "`snat` means nothing on a bridge of others");
            self.say(finding.related(external, "netrec adds ports to it, and nothing else"));
        }
    }

    fn ports(&mut self, name: &str, item: &Item<Network>, mut places: Vec<Span>) {
        if places.len() > BRIDGE_PORTS {
            places.sort();
            let message = format!("`{name}` has {} endpoints, and a bridge takes {BRIDGE_PORTS}", places.len());
            let finding = Diagnostic::at(places[BRIDGE_PORTS], message).label("the first too many");
            self.say(finding.related(item.name, "this network").hint("give some of them another network"));
        }
    }

    pub(super) fn pools(&mut self) {
        let Some(pools) = &self.topology.pools else { return };
        let mut seen: Vec<(IpNet, Span)> = Vec::new();
        let families = [
            (false, &pools.ipv4, &pools.ipv4_prefix, 24, 8..=30),
            (true, &pools.ipv6, &pools.ipv6_prefix, 64, 16..=126),
        ];
        for (ipv6, nets, prefix, default, range) in families {
            let length = prefix.as_ref().map_or(default, |prefix| *prefix.get_ref());
            if let Some(prefix) = prefix.as_ref().filter(|_| !range.contains(&length)) {
                let finding = Diagnostic::at(pools.span(prefix), format!("no subnet is cut to a length of {length}"));
                self.say(finding.hint(format!("{} to {}", range.start(), range.end())));
            }
            for net in nets.iter().flatten() {
                let (pool, span) = (**net.get_ref(), pools.span(net));
                if pool.addr().is_ipv6() != ipv6 {
                    let finding = Diagnostic::at(span, format!("`{pool}` is not {}", family(ipv6)));
                    self.say(finding.hint(format!("it belongs into `{}`", if ipv6 { "ipv4" } else { "ipv6" })));
                } else if !self.host_bits(&pool, span) {
                } else if let Some(why) = unfit(&pool) {
                    self.say(Diagnostic::at(span, format!("`{pool}` cannot be a pool")).label(why));
                } else if pool.prefix_len() > length {
                    let finding =
                        Diagnostic::at(span, format!("pool `{pool}` is smaller than the /{length} to cut from it"));
                    self.say(finding.hint("a larger pool, or a longer prefix"));
                }
                if let Some((_, first)) = seen.iter().find(|(other, _)| ipam::overlap(&pool, other)).copied() {
                    self.say(
                        Diagnostic::at(span, format!("pool `{pool}` overlaps another")).related(first, "the other"),
                    );
                }
                seen.push((pool, span));
            }
        }
    }

    /// An address that a host can have.
    pub(super) fn host_address(&mut self, address: IpAddr, span: Span) {
        let why = match address {
            _ if address.is_unspecified() => "stands for every address",
            _ if address.is_multicast() => "a group of hosts",
            _ if address.is_loopback() => "never leaves the host",
            IpAddr::V4(address) if address.is_broadcast() => "every host on the link",
            IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => "an IPv4 address in the guise of an IPv6 one",
            _ => return,
        };
        self.say(Diagnostic::at(span, format!("`{address}` is not the address of a host on a network")).label(why));
    }
}

/// Why a block cannot be used for endpoints.
fn unfit(net: &IpNet) -> Option<&'static str> {
    match net {
        _ if net.prefix_len() == net.max_prefix_len() => Some("one address: no room for a gateway and an endpoint"),
        _ if net.prefix_len() == 0 => Some("every address there is"),
        _ => SPECIAL.iter().find(|(special, _)| ipam::overlap(net, special)).map(|(_, why)| *why),
    }
}
