//! What this node's rules ask of connection tracking: read from nf_tables, again whenever its generation has
//! changed.
//!
//! A standby without a ruleset tracks nothing, translates nothing and loses everything at a takeover, while
//! its table is full of entries. Which hooks are registered only the newest kernels tell (`nfnetlink_hook`),
//! so the rules themselves are asked: an expression that needs tracking switches it on (`nf_ct_netns_get`).
//! iptables' nft variant shows as `match` and `target`; of legacy tables nothing is seen, and nothing is
//! claimed then. Called by the daemon's loop, once a second; a large ruleset is read by a thread. Changes
//! nothing.

use std::io;
use std::os::fd::AsRawFd;
use std::thread::JoinHandle;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::ctnetlink::nla::{Attributes, Writer, read_u32};
use crate::engine::facts::{Asked, HELPERS, Rules};

// linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_GETGEN: u16 = 16;
const NFT_MSG_GETOBJ: u16 = 19;
const NFTA_GEN_ID: u16 = 1;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_MATCH_NAME: u16 = 1;
const NFTA_NAT_FAMILY: u16 = 2;
const NFTA_OBJ_TYPE: u16 = 3;
const NFTA_OBJ_DATA: u16 = 4;
const NFT_OBJECT_CT_HELPER: u32 = 3;
const NFT_OBJECT_CT_TIMEOUT: u32 = 7;
const NFTA_CT_HELPER_NAME: u16 = 1;
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADERS: usize = 16 + 4;
/// The kernel fills at most this much per dump read.
const READ_BUFFER: usize = 32 * 1024;
/// Longest wait for an answer of the kernel, in seconds.
const PATIENCE: i64 = 5;

/// Expressions that need connection tracking.
const TRACKING: [&str; 8] =
    ["ct", "nat", "masq", "redir", "flow_offload", "connlimit", "synproxy", "ct_helper"];
/// ... and those of them that translate.
const TRANSLATING: [&str; 3] = ["nat", "masq", "redir"];
/// iptables' matches and targets that need tracking, and those that translate.
const XT_TRACKING: [&str; 7] = ["conntrack", "state", "connmark", "connlimit", "connbytes", "CONNMARK", "CT"];
const XT_TRANSLATING: [&str; 5] = ["SNAT", "DNAT", "MASQUERADE", "REDIRECT", "NETMAP"];

/// The rules as last read.
pub struct Ruleset {
    socket: Socket,
    /// The generation that was read, or is being read.
    generation: Option<u32>,
    rules: Rules,
    reading: Option<JoinHandle<io::Result<Rules>>>,
    /// Looks that are left out: what changes again and again without changing what it asks for, `hold` and
    /// its like, is read rarely.
    rest: u32,
}

/// So many looks are left out after a reading that found nothing new.
const REST: u32 = 10;

impl Ruleset {
    /// Nothing is read yet.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn open() -> io::Result<Ruleset> {
        Ok(Ruleset { socket: open()?, generation: None, rules: Rules::default(), reading: None, rest: 0 })
    }

    /// What the rules ask for, as far as is known; begins to read them again when they have changed.
    pub fn look(&mut self) -> Rules {
        if self.reading.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(reading) = self.reading.take()
        {
            match reading.join() {
                Ok(Ok(rules)) => {
                    self.rest = if rules == self.rules { REST } else { 0 };
                    self.rules = rules;
                }
                // Read again at the next look.
                Ok(Err(_)) | Err(_) => self.generation = None,
            }
        }
        self.rest = self.rest.saturating_sub(1);
        if self.reading.is_none() && self.rest == 0 {
            match generation(&self.socket) {
                Ok(generation) if self.generation != Some(generation) => {
                    self.reading = std::thread::Builder::new().name("ruleset".into()).spawn(read).ok();
                    self.generation = self.reading.as_ref().map(|_| generation);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => (self.rules, self.generation) = (Rules::default(), None),
            }
        }
        self.rules
    }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    // The kernel answers at once; a thread must not hang if it does not.
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
    Ok(socket)
}

/// Read all rules and objects of this network namespace.
///
/// # Errors
/// The kernel has no nf_tables, or does not answer.
pub fn read() -> io::Result<Rules> {
    let socket = open()?;
    let mut rules = Rules { asked: Asked::KNOWN, ..Rules::default() };
    ask(&socket, NFT_MSG_GETRULE, NLM_F_DUMP, |family, attributes| {
        note_rule(family, attributes, &mut rules);
    })?;
    ask(&socket, NFT_MSG_GETOBJ, NLM_F_DUMP, |_, attributes| note_object(attributes, &mut rules))?;
    let is = |path: &str, what: fn(&str) -> bool| std::fs::read_to_string(path).is_ok_and(|text| what(&text));
    if is("/sys/module/nf_conntrack/parameters/enable_hooks", |text| text.trim() == "Y") {
        rules.asked |= Asked::TRACKS4 | Asked::TRACKS6;
    }
    let legacy = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];
    // There while legacy tables are; not everybody may read it.
    let seen = |path: &&str| match std::fs::read_to_string(path) {
        Ok(text) => !text.trim().is_empty(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    if legacy.iter().any(seen) {
        rules.asked -= Asked::KNOWN;
    }
    Ok(rules)
}

fn generation(socket: &Socket) -> io::Result<u32> {
    let mut found = None;
    ask(socket, NFT_MSG_GETGEN, 0, |_, attributes| {
        let id = attributes.flatten().find(|(kind, _)| *kind == NFTA_GEN_ID);
        found = id.and_then(|(_, value)| read_u32(value).ok());
    })?;
    found.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no generation"))
}

/// One request, and all its answers: the family and attributes of each.
fn ask(socket: &Socket, kind: u16, flags: u16, mut each: impl FnMut(u8, Attributes<'_>)) -> io::Result<()> {
    let mut writer = Writer::default();
    let mark = writer.begin_message(NFNL_SUBSYS_NFTABLES << 8 | kind, NLM_F_REQUEST | flags, 1);
    writer.raw(&[0; 4]);
    writer.end_message(mark);
    socket.send_to(writer.as_bytes(), &SocketAddr::new(0, 0), 0)?;
    let mut buffer = vec![0; READ_BUFFER];
    // A single answer is there when the request has been sent: the loop that asks for it never waits. Dumps
    // are read by a thread.
    let waits = if flags & NLM_F_DUMP == 0 { MsgFlags::MSG_DONTWAIT } else { MsgFlags::empty() };
    loop {
        let length = match recv(socket.as_raw_fd(), &mut buffer, waits) {
            Ok(length) => length,
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        let mut bytes = buffer.get(..length).unwrap_or_default();
        while let Ok(message) = NetlinkBuffer::new_checked(bytes) {
            match message.message_type() {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = message.payload().first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(io::Error::from_raw_os_error(-code));
                }
                _ => {
                    let length = message.length() as usize;
                    let family = message.payload().first().copied().unwrap_or(0);
                    each(family, Attributes::new(bytes.get(HEADERS..length).unwrap_or_default()));
                }
            }
            let advance = (message.length() as usize).next_multiple_of(4);
            bytes = bytes.get(advance..).unwrap_or_default();
        }
        if flags & NLM_F_DUMP == 0 {
            return Ok(());
        }
    }
}

fn value(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    Attributes::new(attributes).flatten().find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A string without the 0 at its end.
fn text(value: &[u8]) -> &str {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    std::str::from_utf8(value.get(..end).unwrap_or_default()).unwrap_or_default()
}

fn note_rule(family: u8, attributes: Attributes<'_>, rules: &mut Rules) {
    let expressions = attributes.flatten().filter(|(kind, _)| *kind == NFTA_RULE_EXPRESSIONS);
    for (_, expression) in expressions.flat_map(|(_, list)| Attributes::new(list).flatten()) {
        let name = value(expression, NFTA_EXPR_NAME).map_or("", text);
        let data = value(expression, NFTA_EXPR_DATA).unwrap_or_default();
        let mut family = family;
        let (tracks, translates) = match name {
            "match" | "target" => {
                let name = value(data, NFTA_MATCH_NAME).map_or("", text);
                let translates = XT_TRANSLATING.contains(&name);
                (translates || XT_TRACKING.contains(&name), translates)
            }
            name => {
                if name == "nat" {
                    // In a table of both families it is one's.
                    let own = value(data, NFTA_NAT_FAMILY).and_then(|value| read_u32(value).ok());
                    family = own.and_then(|own| u8::try_from(own).ok()).unwrap_or(family);
                }
                (TRACKING.contains(&name), TRANSLATING.contains(&name))
            }
        };
        let (four, six) = match family {
            NFPROTO_INET => (true, true),
            NFPROTO_IPV4 => (true, false),
            NFPROTO_IPV6 => (false, true),
            _ => (false, false),
        };
        rules.asked.set(Asked::TRACKS4, rules.asked.contains(Asked::TRACKS4) || tracks && four);
        rules.asked.set(Asked::TRACKS6, rules.asked.contains(Asked::TRACKS6) || tracks && six);
        rules.asked.set(Asked::NAT4, rules.asked.contains(Asked::NAT4) || translates && four);
        rules.asked.set(Asked::NAT6, rules.asked.contains(Asked::NAT6) || translates && six);
    }
}

fn note_object(attributes: Attributes<'_>, rules: &mut Rules) {
    let (mut kind, mut data) = (0, &[][..]);
    for (attribute, found) in attributes.flatten() {
        match attribute {
            NFTA_OBJ_TYPE => kind = read_u32(found).unwrap_or(0),
            NFTA_OBJ_DATA => data = found,
            _ => {}
        }
    }
    match kind {
        NFT_OBJECT_CT_HELPER => {
            let name = value(data, NFTA_CT_HELPER_NAME).map_or("", text);
            if let Some(at) = HELPERS.iter().position(|helper| *helper == name) {
                rules.helpers |= 1 << at;
            }
        }
        NFT_OBJECT_CT_TIMEOUT => rules.timeout_policies = rules.timeout_policies.saturating_add(1),
        _ => {}
    }
}
