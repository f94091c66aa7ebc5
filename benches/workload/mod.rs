//! The workload W(N) that all benchmarks share: bridges of at most 1,000 endpoints with an IPv4 and an IPv6 subnet, and
//! for each endpoint a named namespace, an address and a default route of each family, and a published port.

use std::fmt::Write as _;

/// Endpoints of one bridge: it takes 1,023 ports.
const PER_BRIDGE: usize = 1_000;

/// The topology `w` with so many endpoints, 1 to 40,000. One more than bridges are full with joins the last of them.
pub(crate) fn topology(endpoints: usize) -> String {
    let bridges = (endpoints - 1).div_ceil(PER_BRIDGE).max(1);
    let mut text = String::from("topology = \"w\"\n");
    for network in 0..bridges {
        let _ = write!(
            text,
            "\n[networks.n{network}]\ndriver = \"bridge\"\nsubnets = [\"10.{network}.0.0/16\", \
             \"fd00:0:0:{network:x}::/64\"]\nmtu = 1500\n"
        );
    }
    for endpoint in 0..endpoints {
        let network = (endpoint / PER_BRIDGE).min(bridges - 1);
        let host = endpoint - network * PER_BRIDGE + 2;
        let _ = write!(
            text,
            "\n[containers.c{endpoint}]\nnetns = \"c{endpoint}\"\n\n[endpoints.e{endpoint}]\n\
             container = \"c{endpoint}\"\nnetwork = \"n{network}\"\n\
             addresses = [\"10.{network}.{}.{}\", \"fd00:0:0:{network:x}::{host:x}\"]\npublish = [\"{}:80\"]\n",
            host / 256,
            host % 256,
            20_000 + endpoint
        );
    }
    text
}
