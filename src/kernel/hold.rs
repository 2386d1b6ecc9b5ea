//! `hold`: packets that are to be forwarded, or are addressed to a virtual address, are dropped before
//! connection tracking sees them, until a takeover is complete. Otherwise the first packet after the
//! addresses have moved may meet a table that lacks its entry: the router answers RST, or begins an entry of
//! its own in the middle of a connection.
//!
//! The rules are an nftables table of ours, written once by `nft`, for all to read:
//! `nft list table inet ctsync_hold`. They work while a set has its elements, which time out after a second
//! and are renewed by the daemon's loop: a daemon that dies or hangs holds nothing up. Called by the daemon;
//! which role holds is decided here, for one group.

use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{MsgFlags, recv};
use thiserror::Error;

use crate::ctnetlink::codec::{self, Answer};
use crate::ctnetlink::nla::Writer;
use crate::engine::replica::Role;

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

/// When packets are held: between being backup and the end of the takeover that follows.
#[derive(Default)]
struct Policy {
    held: bool,
    /// Since when a takeover has been waited for.
    primary: Option<Instant>,
}

impl Policy {
    fn judge(&mut self, role: Role, complete: bool, now: Instant) -> bool {
        let since = match role {
            Role::Primary => *self.primary.get_or_insert(now),
            Role::Backup | Role::Fault | Role::Unknown => {
                self.primary = None;
                now
            }
        };
        // A takeover that never ends must not stop a router for ever.
        let overdue = self.held && !complete && now >= since + PATIENCE;
        if overdue {
            tracing::error!(
                "a takeover is not complete after {} s: packets are held no longer",
                PATIENCE.as_secs()
            );
        }
        self.held = match role {
            Role::Backup | Role::Fault => true,
            // A daemon that starts again on a working primary has nothing to hold.
            Role::Primary => self.held && !complete && !overdue,
            // Nobody tells the role any more: forwarding goes on.
            Role::Unknown => false,
        };
        self.held
    }
}

/// The table, and whether it holds.
pub struct Hold {
    /// The table as `nft` takes it.
    rules: String,
    socket: Socket,
    sequence: u32,
    policy: Policy,
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
        Ok(Hold { rules, socket, sequence: 0, policy: Policy::default(), renew: None })
    }

    /// Hold or let go, as the role and the takeover want it. `complete`: this node owns the group and its
    /// fence is closed.
    ///
    /// # Errors
    /// The set cannot be changed; whatever is in it is gone within a second.
    pub fn step(&mut self, role: Role, complete: bool, now: Instant) -> Result<(), HoldError> {
        let gone = |error: &io::Error| error.raw_os_error() == Some(nix::libc::ENOENT);
        match (self.policy.judge(role, complete, now), self.renew) {
            (true, renew) if renew.is_none_or(|at| now >= at) => {
                self.renew = Some(now + RENEWAL);
                match self.set(true) {
                    // A firewall that was loaded anew has taken the table with it.
                    Err(error) if gone(&error) => {
                        write_table(&self.rules)?;
                        self.set(true)
                    }
                    other => other,
                }
                .map_err(|source| HoldError::Set { what: "renew", source })
            }
            (false, Some(_)) => {
                self.renew = None;
                let emptied = self.set(false).or_else(|error| if gone(&error) { Ok(()) } else { Err(error) });
                emptied.map_err(|source| HoldError::Set { what: "empty", source })
            }
            _ => Ok(()),
        }
    }

    /// When to renew.
    pub fn next(&self) -> Option<Instant> {
        self.renew
    }

    /// Whether packets are held now.
    pub fn holds(&self) -> bool {
        self.policy.held
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
            let answer = buffer.get(..length).unwrap_or_default();
            let read = codec::parse_answers(answer, |_, answer| {
                if let Answer::Refused(errno) = answer {
                    outcome = Err(io::Error::from_raw_os_error(errno));
                }
            });
            if let Err(error) = read {
                outcome = Err(io::Error::other(error));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Role, takeover complete, second, held then.
    type Step = (Role, bool, u64, bool);

    #[test]
    fn packets_are_held_from_backup_to_the_end_of_a_takeover() {
        use Role::{Backup, Fault, Primary, Unknown};
        let cases: [&[Step]; 6] = [
            &[
                (Unknown, false, 0, false),
                (Backup, false, 1, true),
                (Primary, false, 2, true),
                (Primary, true, 3, false),
            ],
            // A daemon that starts on a working primary, whatever becomes of its claim.
            &[(Primary, false, 0, false), (Primary, true, 1, false), (Primary, false, 2, false)],
            // An owner that is told backup holds at once; nobody tells, nothing is held.
            &[(Primary, true, 0, false), (Backup, true, 1, true), (Unknown, true, 2, false)],
            &[(Fault, false, 0, true), (Primary, true, 1, false)],
            // A takeover that never ends is given up once, and counted anew after the next one.
            &[
                (Backup, false, 0, true),
                (Primary, false, 1, true),
                (Primary, false, 30, true),
                (Primary, false, 31, false),
            ],
            &[
                (Backup, false, 0, true),
                (Primary, false, 1, true),
                (Backup, false, 40, true),
                (Primary, false, 41, true),
            ],
        ];
        #[expect(clippy::disallowed_methods, reason = "the virtual clock has to begin somewhere")]
        let began = Instant::now();
        for steps in cases {
            let mut policy = Policy::default();
            for step in steps {
                let (role, complete, second, held) = *step;
                let now = began + Duration::from_secs(second);
                assert_eq!(policy.judge(role, complete, now), held, "{step:?} of {steps:?}");
            }
        }
    }
}
