//! `hold`: packets that are to be forwarded, or are addressed to a virtual address, are dropped before connection tracking
//! sees them, until a takeover is complete. Otherwise the first packet after the addresses have moved may meet a table that
//! lacks its entry: the router answers RST, or begins an entry of its own in the middle of a connection.
//!
//! The rules are an nftables table of ours, written once by `nft`, for all to read: `nft list table inet ctsync_hold`. They
//! work while a set has its elements, which time out after a second and are renewed by the daemon's loop: a daemon that dies
//! or hangs holds nothing up. Called by the daemon; which role holds is decided here, for one group.

use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{MsgFlags, recv};
use thiserror::Error;

use crate::ctnetlink::nla::Writer;
use crate::replica::Role;

const TABLE: &str = "ctsync_hold";
const SET: &str = "holding";
/// Milliseconds after which an element that nobody renews is gone.
const LIFE: u64 = 1000;
/// Longest time for which a takeover is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two renewals: three may fail.
const RENEWAL: Duration = Duration::from_millis(250);

// enum nfnl_nft_msg_types and its attributes (`include/uapi/linux/netfilter/nf_tables.h`).
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFT_MSG_NEWSETELEM: u16 = NFNL_SUBSYS_NFTABLES << 8 | 12;
const NFT_MSG_DELSETELEM: u16 = NFNL_SUBSYS_NFTABLES << 8 | 14;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_DATA_VALUE: u16 = 1;
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

/// Packets cannot be held.
#[derive(Debug, Error)]
pub enum HoldError {
    /// The program `nft` cannot be started.
    #[error("cannot run nft, which `hold` needs: install nftables, or leave `hold` out")]
    NoNft(#[source] io::Error),
    /// It refuses the table.
    #[error("nft refuses the table of `hold`: {0}")]
    Refused(String),
    /// The kernel does not take a renewal.
    #[error("cannot {what} the set inet {TABLE} {SET}")]
    Set {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The table, and whether it holds.
pub struct Hold {
    /// The table as `nft` takes it.
    rules: String,
    socket: Socket,
    sequence: u32,
    /// Between being backup and the end of the takeover that follows.
    armed: bool,
    /// Since when it has been held for a takeover.
    primary: Option<Instant>,
    renew: Option<Instant>,
}

impl Hold {
    /// Write the table. It holds nothing yet.
    ///
    /// # Errors
    /// `nft` is not there or refuses it; the netlink socket cannot be opened.
    pub fn open(virtual_addresses: &[IpAddr], channel_port: u16) -> Result<Hold, HoldError> {
        let rules = rules(virtual_addresses, channel_port);
        write_table(&rules)?;
        let failed = |source| HoldError::Set { what: "open a socket to", source };
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        socket.set_non_blocking(true).map_err(failed)?;
        Ok(Hold { rules, socket, sequence: 0, armed: false, primary: None, renew: None })
    }

    /// Hold or let go, as the role and the takeover want it. `complete`: this node owns the group and its fence is closed.
    ///
    /// # Errors
    /// The set cannot be changed; whatever is in it is gone within a second.
    pub fn step(&mut self, role: Role, complete: bool, now: Instant) -> Result<(), HoldError> {
        self.armed = match role {
            Role::Backup | Role::Fault => true,
            // A daemon that starts again on a working primary has nothing to hold.
            Role::Primary => self.armed && !complete && self.may_wait(now),
            // Nobody tells the role any more: forwarding goes on.
            Role::Unknown => false,
        };
        if role != Role::Primary {
            self.primary = None;
        }
        match (self.armed, self.renew) {
            (true, renew) if renew.is_none_or(|at| now >= at) => {
                self.renew = Some(now + RENEWAL);
                match self.set(true) {
                    // A firewall that was loaded anew has taken the table with it.
                    Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => {
                        write_table(&self.rules)?;
                        self.set(true)
                    }
                    other => other,
                }
                .map_err(|source| HoldError::Set { what: "renew", source })
            }
            (false, Some(_)) => {
                self.renew = None;
                self.set(false).map_err(|source| HoldError::Set { what: "empty", source })
            }
            _ => Ok(()),
        }
    }

    /// A takeover that never ends must not stop a router for ever.
    fn may_wait(&mut self, now: Instant) -> bool {
        let since = *self.primary.get_or_insert(now);
        let may = now < since + PATIENCE;
        if !may {
            tracing::error!(
                "a takeover is not complete after {} s: packets are held no longer",
                PATIENCE.as_secs()
            );
        }
        may
    }

    /// When to renew.
    pub fn next(&self) -> Option<Instant> {
        self.renew
    }

    /// Whether packets are held now.
    pub fn holds(&self) -> bool {
        self.armed
    }

    /// All elements out, and in again with a new life, at once: the kernel takes a batch as a whole.
    fn set(&mut self, full: bool) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = batch(full, self.sequence);
        self.socket.send(&bytes, 0)?;
        // A batch is carried out within the call; what it answers is there already.
        let mut buffer = [0; 4096];
        let mut outcome = Ok(());
        while let Ok(length) = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            let code: Option<[u8; 4]> = buffer
                .get(..length)
                .and_then(|answer| answer.get(16..20))
                .and_then(|code| code.try_into().ok());
            match code.map(i32::from_ne_bytes) {
                Some(0) | None => {}
                Some(code) => outcome = Err(io::Error::from_raw_os_error(-code)),
            }
        }
        outcome
    }
}

fn write_table(rules: &str) -> Result<(), HoldError> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(HoldError::NoNft)?;
    if let Some(mut input) = nft.stdin.take() {
        input.write_all(rules.as_bytes()).map_err(HoldError::NoNft)?;
    }
    let output = nft.wait_with_output().map_err(HoldError::NoNft)?;
    if !output.status.success() {
        return Err(HoldError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(())
}

impl Drop for Hold {
    /// A daemon that ends in order leaves nothing behind.
    fn drop(&mut self) {
        let _ = Command::new("nft").args(["delete", "table", "inet", TABLE]).stderr(Stdio::null()).status();
    }
}

fn rules(virtual_addresses: &[IpAddr], channel_port: u16) -> String {
    let list = |v4: bool| {
        let all: Vec<String> = virtual_addresses
            .iter()
            .filter(|address| address.is_ipv4() == v4)
            .map(IpAddr::to_string)
            .collect();
        if all.is_empty() { String::new() } else { format!("elements = {{ {} }};", all.join(", ")) }
    };
    format!(
        "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{
  set virtual4 {{ type ipv4_addr; {} }}
  set virtual6 {{ type ipv6_addr; {} }}
  set {SET} {{ typeof meta nfproto; flags timeout; }}
  chain prerouting {{
    type filter hook prerouting priority -300; policy accept;
    meta nfproto != @{SET} accept
    iif lo accept
    meta l4proto 112 accept
    ip daddr 224.0.0.18 accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert }} accept
    udp dport {channel_port} accept
    ip daddr @virtual4 counter drop
    ip6 daddr @virtual6 counter drop
    fib daddr type {{ local, broadcast, anycast, multicast }} accept
    counter drop
  }}
}}
",
        list(true),
        list(false)
    )
}

fn batch(full: bool, sequence: u32) -> Vec<u8> {
    let mut writer = Writer::default();
    let message = |writer: &mut Writer, kind, flags, family, subsystem: u16| {
        let mark = writer.begin_message(kind, NLM_F_REQUEST | flags, sequence);
        writer.raw(&[family, 0]);
        writer.raw(&subsystem.to_be_bytes());
        mark
    };
    let mark = message(&mut writer, NFNL_MSG_BATCH_BEGIN, 0, 0, NFNL_SUBSYS_NFTABLES);
    writer.end_message(mark);
    let names = |writer: &mut Writer| {
        writer.string(NFTA_SET_ELEM_LIST_TABLE, TABLE);
        writer.string(NFTA_SET_ELEM_LIST_SET, SET);
    };
    let mark = message(&mut writer, NFT_MSG_DELSETELEM, NLM_F_ACK, NFPROTO_INET, 0);
    names(&mut writer);
    writer.end_message(mark);
    if full {
        let mark = message(&mut writer, NFT_MSG_NEWSETELEM, NLM_F_ACK | NLM_F_CREATE, NFPROTO_INET, 0);
        names(&mut writer);
        let elements = writer.begin_nested(NFTA_SET_ELEM_LIST_ELEMENTS);
        for family in [NFPROTO_IPV4, NFPROTO_IPV6] {
            let element = writer.begin_nested(NFTA_LIST_ELEM);
            writer.attribute(NFTA_SET_ELEM_TIMEOUT, &LIFE.to_be_bytes());
            let key = writer.begin_nested(NFTA_SET_ELEM_KEY);
            writer.attribute(NFTA_DATA_VALUE, &[family]);
            writer.end_nested(key);
            writer.end_nested(element);
        }
        writer.end_nested(elements);
        writer.end_message(mark);
    }
    let mark = message(&mut writer, NFNL_MSG_BATCH_END, 0, 0, NFNL_SUBSYS_NFTABLES);
    writer.end_message(mark);
    writer.as_bytes().to_vec()
}
