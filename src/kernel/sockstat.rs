//! How many sockets the calling thread's network namespace has, by protocol (`proc_pid_net(5)`): two small files, where who
//! they are is asked of tables that all namespaces have in common.

use std::fs::File;
use std::io::Read;

use crate::model::values::Protocol;

/// Those that have a port.
#[derive(Debug)]
pub(super) struct InUse(Option<String>);

impl InUse {
    /// As of now.
    pub(super) fn read() -> Self {
        Self(text().ok())
    }

    /// Whether there may be any: none only if the kernel says so.
    pub(super) fn may_be(&self, protocol: Protocol, ipv6: bool) -> bool {
        let name = match (protocol, ipv6) {
            (Protocol::Tcp, false) => "TCP:",
            (Protocol::Tcp, true) => "TCP6:",
            (Protocol::Udp, false) => "UDP:",
            (Protocol::Udp, true) => "UDP6:",
            (Protocol::Sctp, _) => return true,
        };
        let text = self.0.as_deref().unwrap_or_default();
        let number = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" inuse ")?.split(' ').next());
        number != Some("0")
    }
}

fn text() -> std::io::Result<String> {
    let mut text = String::with_capacity(1 << 10);
    for path in ["/proc/thread-self/net/sockstat", "/proc/thread-self/net/sockstat6"] {
        File::open(path)?.read_to_string(&mut text)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    const ALL: [(Protocol, bool); 4] =
        [(Protocol::Tcp, false), (Protocol::Udp, false), (Protocol::Tcp, true), (Protocol::Udp, true)];

    #[test]
    fn none_are_there_only_if_the_kernel_says_so() {
        let none = "TCP: inuse 0 orphan 0\nUDP: inuse 0 mem 0\nTCP6: inuse 0\nUDP6: inuse 0\n";
        let found = |text: Option<String>| ALL.map(|(protocol, ipv6)| InUse(text.clone()).may_be(protocol, ipv6));
        assert_eq!(found(Some(none.to_owned())), [false; 4]);
        assert_eq!(found(Some(none.replace("UDP6: inuse 0", "UDP6: inuse 10"))), [false, false, false, true]);
        assert_eq!(found(Some(String::new())), [true; 4]);
        assert_eq!(found(None), [true; 4]);
        assert!(InUse(Some(none.to_owned())).may_be(Protocol::Sctp, false));
    }

    #[test]
    fn sockets_that_have_a_port_count() {
        for (any, ipv6) in [("127.0.0.1:0", false), ("[::1]:0", true)] {
            let (Ok(_tcp), Ok(_udp)) = (TcpListener::bind(any), UdpSocket::bind(any)) else { continue };
            let found = InUse::read();
            assert!(found.0.is_none() || found.0.as_deref().is_some_and(|text| text.contains("TCP: inuse ")));
            assert!(found.may_be(Protocol::Tcp, ipv6) && found.may_be(Protocol::Udp, ipv6), "{found:?}");
        }
    }
}
