//! A few flows as `/proc/net/nf_conntrack` lists them (`ct_seq_show` in `nf_conntrack_standalone.c`), in a twentieth of the time
//! of a walk that takes the lock of each chain.
//!
//! It goes by position, and some that is there may be passed over. So it is believed if it has as many flows as the kernel
//! counted before.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;

use super::{ICMP, ICMPV6, known};
use crate::model::wire::FlowFacts;

const LIST: &str = "/proc/thread-self/net/nf_conntrack";

/// IPVS alters where answers come from without a word in `IPS_DST_NAT` (`ip_vs_update_conntrack`).
const IPVS: &str = "/proc/thread-self/net/ip_vs";

/// What the kernel lists at once: a page, which is nowhere smaller.
const PAGE: usize = 4 << 10;

/// All flows of the calling thread's namespace of protocols that rules tell apart, if so many were there before and they are
/// few; those that another one led to look as all others do.
pub(super) fn all(counted: u32) -> Option<Vec<FlowFacts>> {
    let mut page = [0; PAGE];
    let length = File::open(LIST).and_then(|mut list| list.read(&mut page)).ok()?;
    let listed = flows(std::str::from_utf8(&page[..length]).ok()?, counted)?;
    (!Path::new(IPVS).exists()).then_some(listed)
}

fn flows(text: &str, counted: u32) -> Option<Vec<FlowFacts>> {
    // Of a larger page the last line may be cut off, with half of a port. One that comes again where it is listed does not
    // stand for another.
    let is_whole = text.is_empty() || text.ends_with('\n');
    if !is_whole || text.lines().collect::<BTreeSet<_>>().len() < counted as usize {
        return None;
    }
    let told_apart = |line: &&str| number(line).is_none_or(|it| [ICMP, ICMPV6].contains(&it) || known(it).is_some());
    text.lines().filter(told_apart).map(flow).collect()
}

fn number(line: &str) -> Option<u8> {
    line.split_whitespace().nth(3)?.parse().ok()
}

/// `ipv4 2 udp 17 29 src=10.0.0.1 dst=10.0.0.2 sport=53 dport=53 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=53 dport=53 ...`
fn flow(line: &str) -> Option<FlowFacts> {
    let protocol = known(number(line)?);
    let values = |key: &'static str| line.split_whitespace().filter_map(move |word| word.strip_prefix(key));
    let address = |key, at| values(key).nth(at)?.parse::<IpAddr>().ok();
    let port = |key, at| if protocol.is_some() { values(key).nth(at)?.parse::<u16>().ok() } else { Some(0) };
    let (destination, answers) = ((address("dst=", 0)?, port("dport=", 0)?), (address("src=", 1)?, port("sport=", 1)?));
    Some(FlowFacts {
        protocol,
        source: address("src=", 0)?,
        destination,
        answers,
        mapped: destination != answers, // as `nf_nat_setup_info` sets IPS_DST_NAT
        assured: line.split_whitespace().any(|word| word == "[ASSURED]"),
        related: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::values::Protocol;

    #[test]
    fn lines_say_what_messages_say() {
        let text = "\
ipv4     2 udp      17 29 src=10.0.0.1 dst=192.0.2.1 sport=4000 dport=53 [UNREPLIED] src=10.10.0.2 dst=10.0.0.1 sport=5353 dport=4000 mark=0 zone=0 use=2
ipv6     10 tcp      6 431999 ESTABLISHED src=fd00::1 dst=fd00::2 sport=4000 dport=80 src=fd00::2 dst=fd00::1 sport=80 dport=4000 [ASSURED] mark=0 use=2
ipv4     2 icmp     1 29 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=7 src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=7 mark=0 use=2
ipv4     2 unknown  2 599 src=10.0.0.1 dst=224.0.0.22 [UNREPLIED] src=224.0.0.22 dst=10.0.0.1 mark=0 use=2
";
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let at = |text, port| (ip(text), port);
        let udp = FlowFacts {
            protocol: Some(Protocol::Udp),
            source: ip("10.0.0.1"),
            destination: at("192.0.2.1", 53),
            answers: at("10.10.0.2", 5353),
            mapped: true,
            assured: false,
            related: false,
        };
        let tcp = FlowFacts {
            protocol: Some(Protocol::Tcp),
            source: ip("fd00::1"),
            destination: at("fd00::2", 80),
            answers: at("fd00::2", 80),
            mapped: false,
            assured: true,
            related: false,
        };
        let icmp = FlowFacts {
            protocol: None,
            source: ip("10.0.0.1"),
            destination: at("10.0.0.2", 0),
            answers: at("10.0.0.2", 0),
            mapped: false,
            assured: false,
            related: false,
        };
        assert_eq!(flows(text, 4), Some(vec![udp, tcp, icmp]));
        assert_eq!(flows(text, 5), None, "one was passed over");
        let counting = "ipv4     2 udp      17 29 src=10.0.0.1 dst=192.0.2.1 sport=4000 dport=53 packets=2 bytes=80 [UNREPLIED] \
                        src=10.10.0.2 dst=10.0.0.1 sport=5353 dport=4000 packets=0 bytes=0 mark=0 secctx=a:b:c zone-orig=1 use=2\n";
        assert_eq!(flows(counting, 1), Some(vec![udp]));
        assert_eq!(flows(&counting.repeat(2), 2), None, "it is one");
        let cut_off = &counting[..counting.find(" dport=4000 packets=0").unwrap() - 1];
        assert_eq!(flows(cut_off, 1), None, "{cut_off}");
        assert_eq!(flows("", 0), Some(Vec::new()));
        for wrong in ["ipv4 2 udp", "ipv4 2 udp 17 29 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2", "ipv4 2 udp x 29"] {
            assert_eq!(flows(&format!("{wrong}\n"), 1), None, "{wrong}");
        }
    }
}
