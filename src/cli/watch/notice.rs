//! Words to the service manager (`sd_notify(3)`): a datagram of lines to the socket it named.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager, if one started us.
pub(super) struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// It wants to hear from us at least that often.
    pub(super) watchdog: Option<Duration>,
}

impl Manager {
    /// Looks into the environment.
    pub(super) fn from_environment() -> Self {
        let variable = |name| std::env::var(name).ok();
        let socket = variable("NOTIFY_SOCKET").and_then(|name| {
            let address = match name.strip_prefix('@') {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(&name),
            };
            Some((UnixDatagram::unbound().ok()?, address.ok()?))
        });
        let pid = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = variable("WATCHDOG_USEC").filter(|_| pid && socket.is_some()).and_then(|it| it.parse().ok());
        Self { socket, watchdog: watchdog.map(Duration::from_micros).filter(|it| !it.is_zero()) }
    }

    /// Says something. A manager that does not listen is no error.
    pub(super) fn say(&self, lines: &str) {
        if let Some((socket, address)) = &self.socket {
            let _ = socket.send_to_addr(lines.as_bytes(), address);
        }
    }

    /// Says that the files are read again; systemd wants to know when that began.
    pub(super) fn reloading(&self) {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(Duration::from);
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.unwrap_or_default().as_micros()));
    }
}
