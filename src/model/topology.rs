//! What the user wrote: every value with its place in the file, nothing resolved, nothing defaulted that depends on
//! the host. The field docs are the reference that `netrec schema` prints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::focus::otherwise_by;
use super::source::Span;
pub use super::table::Tables;
use super::table::{given, only_tables, some, tables};
use super::values::{Cidr, Mac, PortRange, Publish};

/// A whole topology: all its files merged.
#[derive(Clone, Default, Debug)]
pub struct Topology {
    /// Owner of all it makes: `topology` in a file, else the stem of the only file. 1 to 32 of `[a-z0-9-]`.
    pub name: String,
    /// Where a file gives the name; none if it is the stem of the only file.
    pub named: Option<Span>,
    /// By name.
    pub networks: BTreeMap<String, Item<Network>>,
    /// By name.
    pub containers: BTreeMap<String, Item<Container>>,
    /// By name.
    pub endpoints: BTreeMap<String, Item<Endpoint>>,
    /// Where omitted subnets are taken from.
    pub pools: Option<Item<Pools>>,
    /// In order: the first that matches wins.
    pub policies: Vec<Item<Policy>>,
    /// How many networks, containers and endpoints one apply may remove; none: as the rails say.
    pub allow_deletes: Option<Item<u32>>,
    /// Whether docker's chain for rules of users accepts what is forwarded.
    pub docker_user: Option<Item<bool>>,
    /// What was renamed.
    pub moved: Vec<Item<Moved>>,
}

impl Topology {
    /// Whether no network, container or endpoint is declared.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.containers.is_empty() && self.endpoints.is_empty()
    }

    /// What a thing was named before, if it was renamed: `table` is `networks`, `containers` or `endpoints`.
    pub fn moved_from(&self, table: &str, name: &str) -> Option<&str> {
        let is = |path: &str| path.split_once('.') == Some((table, name));
        let moved = self.moved.iter().find(|moved| is(moved.to.get_ref()))?;
        moved.from.get_ref().split_once('.').map(|(_, from)| from)
    }

    /// Whether a table of that name is there.
    pub fn declares(&self, table: &str, name: &str) -> bool {
        match table {
            "networks" => self.networks.contains_key(name),
            "containers" => self.containers.contains_key(name),
            "endpoints" => self.endpoints.contains_key(name),
            _ => false,
        }
    }

    /// Whether a network, container or endpoint that another one has is not there.
    pub fn lacks_some_of(&self, other: &Self) -> bool {
        fn lacks<T>(some: &BTreeMap<String, Item<T>>, others: &BTreeMap<String, Item<T>>) -> bool {
            otherwise_by(others, some, |_, _| true).next().is_some()
        }
        lacks(&self.networks, &other.networks)
            || lacks(&self.containers, &other.containers)
            || lacks(&self.endpoints, &other.endpoints)
    }

    /// Whether a topology can have that name: 1 to 32 of `[a-z0-9-]`, and not [`Self::RESERVED`].
    pub fn is_name(name: &str) -> bool {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=32).contains(&name.len()) && name.bytes().all(plain) && name != Self::RESERVED
    }

    /// No topology has this name: its table would be the one for rules of users.
    pub const RESERVED: &str = "user";

    /// Containers on a network of driver `host`: their namespace is the host's own.
    pub fn on_host(&self) -> BTreeSet<&str> {
        let networks = self.networks.iter().filter(|(_, network)| network.driver.get_ref() == "host");
        let networks: BTreeSet<&str> = networks.map(|(name, _)| name.as_str()).collect();
        if networks.is_empty() {
            return BTreeSet::new();
        }
        let endpoints = self.endpoints.values();
        let endpoints = endpoints.filter(|endpoint| networks.contains(endpoint.network.get_ref().as_str()));
        endpoints.map(|endpoint| endpoint.container.get_ref().as_str()).collect()
    }
}

/// A named table of a file.
#[derive(Clone, Debug)]
pub struct Item<T> {
    /// What stands in the table.
    pub value: Arc<T>,
    /// The part of a file that it was read from, by itself; empty at the start of a file that was read as a whole. The
    /// spans of its values count from there.
    pub part: Span,
    /// The table's own name in its header.
    pub name: Span,
}

impl<T> Item<T> {
    /// The place of one of the item's values.
    pub fn span<V>(&self, value: &Spanned<V>) -> Span {
        self.part.at(value.span())
    }
}

impl<T> std::ops::Deref for Item<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

only_tables!(Pools, Moved, Network, BridgeOptions, Container, Endpoint, Published, Policy, Peer, StaticRoute);

/// One file as it stands, or a part of one.
#[derive(Clone, Default, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "netrec topology")]
pub struct File {
    /// Owner name of everything in the topology: 1 to 32 of `[a-z0-9-]`. Default: the stem of the file's name, if
    /// there is only one.
    #[schemars(with = "Option<String>")]
    pub topology: Option<Spanned<String>>,
    /// Where networks without `subnets` take theirs from.
    #[schemars(with = "Option<Pools>")]
    pub pools: Option<Spanned<Pools>>,
    /// How many networks, containers and endpoints one apply may remove. Default: any number up to 5, more only up to
    /// 30 % of those that are there, and never two or more that are all endpoints of a network.
    #[schemars(with = "Option<u32>")]
    pub allow_deletes: Option<Spanned<u32>>,
    /// true: accepts for the networks go into docker's chain `DOCKER-USER`, where docker drops what is forwarded, as long
    /// as the chain is there: what comes to them, what leaves by the host's default routes, and what stays within internal
    /// ones while `br_netfilter` is on. Default: false.
    #[schemars(with = "Option<bool>")]
    pub docker_user: Option<Spanned<bool>>,
    /// What was renamed since it was made: it lives on under its new name. An entry can go once it was applied.
    #[schemars(with = "Vec<Moved>")]
    pub moved: Option<Vec<Spanned<Moved>>>,
    /// Networks by name.
    #[serde(deserialize_with = "tables")]
    #[schemars(with = "BTreeMap<String, Network>")]
    pub networks: Option<Tables<Network>>,
    /// Containers (sandboxes) by name.
    #[serde(deserialize_with = "tables")]
    #[schemars(with = "BTreeMap<String, Container>")]
    pub containers: Option<Tables<Container>>,
    /// Endpoints by name: each joins one container to one network.
    #[serde(deserialize_with = "tables")]
    #[schemars(with = "BTreeMap<String, Endpoint>")]
    pub endpoints: Option<Tables<Endpoint>>,
    /// Who may talk to whom, beyond or against the defaults. In order, over all files as given: the first policy that
    /// matches a packet wins. What none matches: endpoints of a network reach each other (unless `icc = false`), and the
    /// outside (unless `internal`); endpoints of different networks do not, and from outside only published ports are
    /// reached.
    #[schemars(with = "Vec<Policy>")]
    pub policies: Option<Vec<Spanned<Policy>>>,
}

impl File {
    /// All keys, and whether each is there.
    pub fn keys(&self) -> [(&'static str, bool); 9] {
        [
            ("topology", self.topology.is_some()),
            ("pools", self.pools.is_some()),
            ("allow_deletes", self.allow_deletes.is_some()),
            ("docker_user", self.docker_user.is_some()),
            ("moved", self.moved.is_some()),
            ("networks", self.networks.is_some()),
            ("containers", self.containers.is_some()),
            ("endpoints", self.endpoints.is_some()),
            ("policies", self.policies.is_some()),
        ]
    }

    /// How many named tables there are.
    pub fn tables(&self) -> usize {
        fn count<T>(tables: Option<&Tables<T>>) -> usize {
            tables.map_or(0, Vec::len)
        }
        count(self.networks.as_ref()) + count(self.containers.as_ref()) + count(self.endpoints.as_ref())
    }
}

/// Where networks without `subnets` take theirs from: the first free block, upwards from a hash of the network's name.
#[derive(Clone, Default, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, remote = "Self")]
#[schemars(rename = "Pools")]
pub struct Pools {
    /// IPv4 blocks to cut subnets from. Default: `["10.208.0.0/12"]`.
    #[schemars(with = "Option<Vec<String>>")]
    pub ipv4: Option<Vec<Spanned<Cidr>>>,
    /// Prefix length of a subnet cut from `ipv4`, 8 to 30. Default: 24.
    #[schemars(with = "Option<u8>")]
    pub ipv4_prefix: Option<Spanned<u8>>,
    /// IPv6 blocks to cut subnets from. Default: a unique local /48 (RFC 4193) derived from the topology's name.
    #[schemars(with = "Option<Vec<String>>")]
    pub ipv6: Option<Vec<Spanned<Cidr>>>,
    /// Prefix length of a subnet cut from `ipv6`, 16 to 126. Default: 64.
    #[schemars(with = "Option<u8>")]
    pub ipv6_prefix: Option<Spanned<u8>>,
}

/// A network, container or endpoint that has another name than when it was made.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schemars(rename = "Moved")]
pub struct Moved {
    /// What it was: `networks.NAME`, `containers.NAME` or `endpoints.NAME`.
    #[schemars(with = "String")]
    pub from: Spanned<String>,
    /// What it is now, of the same table.
    #[schemars(with = "String")]
    pub to: Spanned<String>,
}

/// A network: endpoints of the same network reach each other, endpoints of different ones do not.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schemars(rename = "Network")]
pub struct Network {
    /// What makes the network: `bridge`, `host` or `none`.
    #[schemars(with = "String")]
    pub driver: Spanned<String>,
    /// Subnets in CIDR notation, several per family allowed. Default: one per family from the pools.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<Vec<String>>", extend("minItems" = 1))]
    pub subnets: Option<Vec<Spanned<Cidr>>>,
    /// Addresses of the host in the subnets. Default: the first host address of each subnet.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub gateways: Vec<Spanned<IpAddr>>,
    /// Auxiliary addresses that are never given to an endpoint that does not ask for them.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub reserved: Vec<Spanned<IpAddr>>,
    /// `false`: no IPv4 subnet is taken from the pools. Only without `subnets`. Default: true.
    #[schemars(with = "Option<bool>")]
    pub ipv4: Option<Spanned<bool>>,
    /// `false`: no IPv6 subnet is taken from the pools. Only without `subnets`. Default: true.
    #[schemars(with = "Option<bool>")]
    pub ipv6: Option<Spanned<bool>>,
    /// `true`: no default route, no NAT, no way out. Default: false.
    #[schemars(with = "Option<bool>")]
    pub internal: Option<Spanned<bool>>,
    /// NAT to the host's address on the way out. Default: true, unless `internal` or `snat`.
    #[schemars(with = "Option<bool>")]
    pub masquerade: Option<Spanned<bool>>,
    /// Fixed source addresses on the way out instead of masquerade, at most one per family.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub snat: Vec<Spanned<IpAddr>>,
    /// Where publishes without an address listen. Default: every host address, both families.
    #[serde(default, deserialize_with = "some")]
    #[schemars(with = "Vec<String>", extend("minItems" = 1))]
    pub publish_address: Vec<Spanned<IpAddr>>,
    /// Maximum transmission unit in bytes, 68 to 65535, at least 1280 with an IPv6 subnet. Default: the uplink's,
    /// or that least.
    #[schemars(with = "Option<u32>")]
    pub mtu: Option<Spanned<u32>>,
    /// `false`: endpoints of this network cannot talk to each other. Default: true.
    #[schemars(with = "Option<bool>")]
    pub icc: Option<Spanned<bool>>,
    /// `true`: containers reach services of the host through the gateway address. Default: false; true if `internal`.
    #[schemars(with = "Option<bool>")]
    pub host_access: Option<Spanned<bool>>,
    /// `false`: the bridge has no address, so there is no gateway; only with `internal`. Default: true.
    #[schemars(with = "Option<bool>")]
    pub host_address: Option<Spanned<bool>>,
    /// `true`: no port filter: whoever has a route to the subnets reaches every port. Default: false.
    #[schemars(with = "Option<bool>")]
    pub open: Option<Spanned<bool>>,
    /// Links of the host from which every port of the endpoints is reached, published or not, such as a VPN's.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub trusted_interfaces: Vec<Spanned<String>>,
    /// Who may reach published ports of this network, in CIDR notation, besides the host itself. Default: everybody.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<Vec<String>>", extend("minItems" = 1))]
    pub allow_from: Option<Vec<Spanned<Cidr>>>,
    /// `true`: an apply or destroy that would remove or replace it is refused, also when no file names it any more; set
    /// it to false and apply first. Default: false.
    #[schemars(with = "Option<bool>")]
    pub protect: Option<Spanned<bool>>,
    /// Options of the `bridge` driver.
    #[schemars(with = "Option<BridgeOptions>")]
    pub bridge: Option<Spanned<BridgeOptions>>,
}

/// Options of the `bridge` driver.
#[derive(Clone, Default, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, remote = "Self")]
#[schemars(rename = "BridgeOptions")]
pub struct BridgeOptions {
    /// Name of the bridge, 1 to 15 bytes. Default: `nr-` and a hash of topology and network.
    #[schemars(with = "Option<String>")]
    pub name: Option<Spanned<String>>,
    /// `true`: use this existing bridge, never create, change or delete it. Needs `name`, and `gateways` for a way out.
    /// Default: false.
    #[schemars(with = "Option<bool>")]
    pub external: Option<Spanned<bool>>,
}

/// A container (sandbox): exactly one of `netns`, `path`, `pid`.
#[derive(Clone, Default, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, remote = "Self")]
#[schemars(rename = "Container")]
pub struct Container {
    /// A named network namespace, as `ip netns` names them. Created and owned if absent, attached to and never deleted
    /// if it was there before.
    #[schemars(with = "Option<String>")]
    pub netns: Option<Spanned<String>>,
    /// Path of a network namespace file, such as `/proc/4711/ns/net`.
    #[schemars(with = "Option<String>")]
    pub path: Option<Spanned<String>>,
    /// A process whose network namespace it is.
    #[schemars(with = "Option<u32>")]
    pub pid: Option<Spanned<u32>>,
    /// `false`: never create the named namespace, wait for it. Only with `netns`. Default: true.
    #[schemars(with = "Option<bool>")]
    pub create: Option<Spanned<bool>>,
    /// `true`: an apply or destroy that would remove or replace it is refused, also when no file names it any more; set
    /// it to false and apply first. Default: false.
    #[schemars(with = "Option<bool>")]
    pub protect: Option<Spanned<bool>>,
}

/// An endpoint joins one container to one network.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schemars(rename = "Endpoint")]
pub struct Endpoint {
    /// Name of the container.
    #[schemars(with = "String")]
    pub container: Spanned<String>,
    /// Name of the network.
    #[schemars(with = "String")]
    pub network: Spanned<String>,
    /// Its addresses. Each family of the network without one here is given one, held as long as the endpoint lives.
    /// Default: from the family's first subnet with room.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub addresses: Vec<Spanned<IpAddr>>,
    /// `false`: no IPv4 address. Default: true where the network has IPv4.
    #[schemars(with = "Option<bool>")]
    pub ipv4: Option<Spanned<bool>>,
    /// `false`: no IPv6 address. Default: true where the network has IPv6.
    #[schemars(with = "Option<bool>")]
    pub ipv6: Option<Spanned<bool>>,
    /// Hardware address, unicast. Default: derived from topology and endpoint, locally administered.
    #[schemars(with = "Option<String>")]
    pub mac: Option<Spanned<Mac>>,
    /// Name of the interface in the container, 1 to 15 bytes. Default: `eth0`, `eth1`, … by gateway priority, then name.
    #[schemars(with = "Option<String>")]
    pub ifname: Option<Spanned<String>>,
    /// Further names under which others find it.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub aliases: Vec<Spanned<String>>,
    /// Of several endpoints of a container the one with the highest has the default route; a tie goes to the name that
    /// sorts first. Default: 0.
    #[schemars(with = "Option<i32>")]
    pub gateway_priority: Option<Spanned<i32>>,
    /// Published ports: `[ADDRESS:]HOST_PORT[-LAST]:PORT[-LAST][/tcp|udp|sctp]`, an IPv6 address in brackets, or just
    /// `PORT` for a host port that netrec chooses.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub publish: Vec<Spanned<Publish>>,
    /// Published ports with options.
    #[serde(default)]
    pub published: Vec<Published>,
    /// `false`: the endpoint may send frames that are not its own, as routers, virtual machine hosts and DHCP servers do.
    /// Default: true: other hardware and IP addresses than its own, router advertisements, redirects and DHCP answers
    /// are dropped. An endpoint with IPv6 may also use the link-local address made of its hardware address.
    #[schemars(with = "Option<bool>")]
    pub anti_spoofing: Option<Spanned<bool>>,
    /// `true`: an apply or destroy that would remove or replace it is refused, also when no file names it any more; set
    /// it to false and apply first. Default: false.
    #[schemars(with = "Option<bool>")]
    pub protect: Option<Spanned<bool>>,
    /// Static routes of the container through this endpoint.
    #[serde(default)]
    pub routes: Vec<StaticRoute>,
}

/// A published port with options.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schemars(rename = "Published")]
pub struct Published {
    /// The port, written as in `publish`.
    #[schemars(with = "String")]
    pub publish: Spanned<Publish>,
    /// Who may reach it, in CIDR notation, besides the host itself. Default: what the network says.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<Vec<String>>", extend("minItems" = 1))]
    pub allow_from: Option<Vec<Spanned<Cidr>>>,
}

impl Endpoint {
    /// All its published ports, and who may reach them if it says so itself.
    pub fn publishes(&self) -> impl Iterator<Item = (&Spanned<Publish>, Option<&Vec<Spanned<Cidr>>>)> {
        let plain = self.publish.iter().map(|publish| (publish, None));
        plain.chain(self.published.iter().map(|it| (&it.publish, it.allow_from.as_ref())))
    }
}

/// What a policy does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// What matches passes.
    Allow,
    /// What matches is dropped.
    Deny,
}

/// A policy. It judges what endpoints send and what is sent to them through the host or their bridge, not what the host
/// itself sends or is sent (`host_access`). Answers to what passed pass as well. Published ports are matched with the
/// endpoint's address and port.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schemars(rename = "Policy")]
pub struct Policy {
    /// `allow` or `deny`. An `allow` opens neither an `internal` network nor, between its endpoints, one with
    /// `icc = false`.
    #[schemars(with = "String", extend("enum" = ["allow", "deny"]))]
    pub action: Spanned<Action>,
    /// Who asks. Default: anybody.
    #[schemars(with = "Option<Peer>")]
    pub from: Option<Spanned<Peer>>,
    /// Who is asked. Default: anybody. At least one of `from` and `to` is given.
    #[schemars(with = "Option<Peer>")]
    pub to: Option<Spanned<Peer>>,
    /// Ports that are asked for: `PORT[-LAST][/tcp|udp|sctp]`. Default: everything, ICMP included.
    #[serde(default, deserialize_with = "some")]
    #[schemars(with = "Vec<String>", extend("minItems" = 1))]
    pub ports: Vec<Spanned<PortRange>>,
}

/// One side of a policy: exactly one of `network`, `endpoint` and `cidr`.
#[derive(Clone, Default, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, remote = "Self")]
#[schemars(rename = "Peer")]
pub struct Peer {
    /// Every address in the subnets of a network.
    #[schemars(with = "Option<String>")]
    pub network: Option<Spanned<String>>,
    /// The addresses of an endpoint.
    #[schemars(with = "Option<String>")]
    pub endpoint: Option<Spanned<String>>,
    /// Addresses in CIDR notation, wherever they are.
    #[schemars(with = "Option<String>")]
    pub cidr: Option<Spanned<Cidr>>,
}

/// A static route in a container.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schemars(rename = "StaticRoute")]
pub struct StaticRoute {
    /// Destination in CIDR notation.
    #[schemars(with = "String")]
    pub to: Spanned<Cidr>,
    /// Next hop in one of the endpoint's subnets. Default: none, the destination is on the link.
    #[schemars(with = "Option<String>")]
    pub via: Option<Spanned<IpAddr>>,
    /// Metric; the lowest wins. Default: the kernel's (0 for IPv4, 1024 for IPv6).
    #[schemars(with = "Option<u32>")]
    pub metric: Option<Spanned<u32>>,
}
