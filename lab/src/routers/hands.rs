//! Hands inside a running daemon: its sockets, borrowed. So its event buffer can be made small, and its
//! kernel changed in its own name, which it never hears of.
//!
//! Called by stories. The daemon itself is as it is shipped.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use ctsync::ctnetlink::nla::Writer;
use nix::sys::socket::{MsgFlags, send, setsockopt, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::machine::node::Node;

/// `NETLINK_NETFILTER`, as /proc/net/netlink shows it.
const NETFILTER: &str = "12";

/// A netlink socket of the daemon's, as /proc/net/netlink shows it.
struct Shown {
    port_id: u32,
    hears_events: bool,
    inode: u64,
}

/// The daemon's event socket.
pub(crate) struct Events(OwnedFd);

impl Events {
    /// Borrow it.
    pub(crate) fn of(node: &Node) -> Result<Events> {
        borrow(node, |socket, _| socket.hears_events).map(Events)
    }

    /// What it holds from now on, in bytes as the kernel counts them; until the daemon makes it larger again.
    pub(crate) fn set_buffer(&self, bytes: usize) -> Result<()> {
        // The kernel doubles what it is told.
        if setsockopt(&self.0, sockopt::RcvBufForce, &(bytes / 2)).is_ok() {
            return Ok(());
        }
        setsockopt(&self.0, sockopt::RcvBuf, &(bytes / 2)).context("cannot change the event buffer")
    }
}

/// The daemon's request socket.
pub(crate) struct Requests(OwnedFd);

impl Requests {
    /// Borrow it. The first netlink socket of a process has the process's number.
    pub(crate) fn of(node: &Node) -> Result<Requests> {
        borrow(node, |socket, pid| !socket.hears_events && socket.port_id == pid).map(Requests)
    }

    /// Send requests in the daemon's name: their events are its own echo, and are kept from it.
    pub(crate) fn send(&self, requests: &Writer) -> Result<()> {
        send(self.0.as_raw_fd(), requests.as_bytes(), MsgFlags::empty())
            .context("cannot change the kernel in the daemon's name")?;
        Ok(())
    }
}

fn borrow(node: &Node, wanted: impl Fn(&Shown, u32) -> bool) -> Result<OwnedFd> {
    let pid = node.pid("ctsync")?;
    let listing = fs::read_to_string(format!("/proc/{pid}/net/netlink"))?;
    let sockets: Vec<Shown> = listing.lines().filter_map(shown).collect();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let inode = target.to_str().and_then(|name| name.strip_prefix("socket:[")?.strip_suffix(']'));
        let Some(inode) = inode.and_then(|inode| inode.parse::<u64>().ok()) else { continue };
        if !sockets.iter().any(|socket| socket.inode == inode && wanted(socket, pid)) {
            continue;
        }
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok()).context("a descriptor")?;
        let process = Pid::from_raw(i32::try_from(pid)?).context("a process")?;
        let process = pidfd_open(process, PidfdFlags::empty()).context("cannot hold the daemon")?;
        return pidfd_getfd(process, number, PidfdGetfdFlags::empty())
            .context("cannot borrow a socket of the daemon");
    }
    anyhow::bail!("the daemon on {} has no such socket", node.name)
}

/// sk, Eth, Pid, Groups, Rmem, Wmem, Dump, Locks, Drops, Inode.
fn shown(line: &str) -> Option<Shown> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, NETFILTER, port_id, groups, .., inode] = words.as_slice() else { return None };
    Some(Shown {
        port_id: port_id.parse().ok()?,
        hears_events: u32::from_str_radix(groups, 16).ok()? != 0,
        inode: inode.parse().ok()?,
    })
}
