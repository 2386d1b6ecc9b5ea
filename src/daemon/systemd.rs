//! What systemd is told: that the daemon runs, that it reads its configuration again, and that its loop
//! turns.
//!
//! Called by the daemon. Started by hand there is nobody to tell, and every call does nothing.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// The daemon serves.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A manager that hears nothing ends the unit by its timeout: the reason belongs into the log.
fn tell(states: &[NotifyState<'_>]) {
    let socket = std::env::var("NOTIFY_SOCKET").unwrap_or_default();
    let told = match socket.strip_prefix('@') {
        Some(name) => tell_abstract(name, states),
        None => sd_notify::notify(states),
    };
    if let Err(error) = told {
        tracing::warn!("cannot tell the service manager at NOTIFY_SOCKET={socket}: {error}");
    }
}

/// The crate knows sockets in the file system alone; containers have one in the abstract namespace, unix(7).
fn tell_abstract(name: &str, states: &[NotifyState<'_>]) -> std::io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?;
    let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
    socket.send(lines.as_bytes()).map(|_| ())
}

/// A reload begins now, sd_notify(3); [`ready`] ends it.
pub(super) fn reloading() {
    let time = NotifyState::monotonic_usec_now().ok();
    let states: Vec<NotifyState<'_>> = std::iter::once(NotifyState::Reloading).chain(time).collect();
    tell(&states);
}

/// The unit's `WatchdogSec=`: a daemon that says nothing for so long is killed and started again.
pub(super) struct Watchdog {
    /// Between two signs of life; `None`: nobody watches.
    period: Option<Duration>,
    due: Instant,
}

impl Watchdog {
    /// As the environment has it, sd_watchdog_enabled(3).
    pub(super) fn from_environment(now: Instant) -> Watchdog {
        // Half of it, as the manual page advises.
        Watchdog { period: sd_notify::watchdog_enabled().map(|limit| limit / 2), due: now }
    }

    /// When the next sign of life is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.period.map(|_| self.due)
    }

    /// Called once a turn: the loop is alive.
    pub(super) fn turned(&mut self, now: Instant) {
        let Some(period) = self.period.filter(|_| now >= self.due) else { return };
        tell(&[NotifyState::Watchdog]);
        self.due = now + period;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_in_the_abstract_namespace_hears_it() {
        let name = format!("ctsync-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        tell_abstract(&name, &[NotifyState::Ready, NotifyState::Watchdog]).unwrap();
        let mut heard = [0; 64];
        let length = manager.recv(&mut heard).unwrap();
        assert_eq!(heard.get(..length), Some(&b"READY=1\nWATCHDOG=1\n"[..]));
    }
}
