//! Netlink bytes <-> events, entries and requests of conntrack, `parse` and `emit` side by side.
//!
//! - `connection` and `expectation`: the attributes of the two kinds of entries; `tuple`: of both; `uapi`:
//!   numbers.
//!
//! Called by `socket` (kernel bytes) and by the tests (recorded bytes). Pure: no socket. Unknown attributes
//! are skipped at every depth, malformed ones are errors. All integers inside attributes are big endian
//! (linux/netfilter/nfnetlink_conntrack.h); message headers are in host order.

mod connection;
mod expectation;
mod tuple;
mod uapi;

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkBuffer,
};
use netlink_packet_netfilter::conntrack::ConntrackMessageType;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterProtoFamily, NetfilterSubsystem};
use thiserror::Error;

use super::nla::{Attributes, Malformed, Mark, Writer, read_u32};
use crate::entry::{Entry, Key, NAME, Tuple};
use uapi::{
    CTA_ID, IPCTNL_MSG_EXP_DELETE, IPCTNL_MSG_EXP_GET, IPCTNL_MSG_EXP_NEW, NFNL_SUBSYS_CTNETLINK_EXP,
};

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_HEADER: usize = 16;

/// What has happened in the kernel's table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// An entry was created.
    New(Entry),
    /// An entry changed.
    Update(Entry),
    /// An entry is gone.
    Destroy(Entry),
}

impl Event {
    /// The entry that it is about.
    pub fn entry(&self) -> &Entry {
        let (Event::New(entry) | Event::Update(entry) | Event::Destroy(entry)) = self;
        entry
    }
}

/// What the kernel says to one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It is done.
    Done,
    /// It is not, with a positive errno.
    Refused(i32),
    /// The entry that a get asked for.
    Found(Entry),
}

/// Bytes from the kernel that are not what the uapi headers promise.
#[derive(Debug, Error)]
pub enum CodecError {
    /// Length fields or the sizes of values do not fit.
    #[error("malformed netlink message from the kernel")]
    Malformed(#[from] Malformed),
    /// A tuple lacks an address or its protocol number, or something else its contents.
    #[error("conntrack message without a complete {0}")]
    Incomplete(&'static str),
}

/// Take a received buffer of events apart. How many could not be read: their neighbours are not affected.
///
/// # Errors
/// The buffer is no sequence of messages.
pub fn parse_events(bytes: &[u8], mut each: impl FnMut(Event)) -> Result<u64, CodecError> {
    for_each_message(bytes, |message| {
        match about(message)? {
            // ctnetlink_conntrack_event: a new entry carries both flags, an update none.
            Some((entry, true)) if message.flags() & (NLM_F_CREATE | NLM_F_EXCL) != 0 => {
                each(Event::New(entry));
            }
            Some((entry, true)) => each(Event::Update(entry)),
            Some((entry, false)) => each(Event::Destroy(entry)),
            None => {}
        }
        Ok(())
    })
}

/// Take a received buffer of answers apart: `each` gets the sequence number of the request, and what is said
/// to it. How many could not be read.
///
/// # Errors
/// The buffer is no sequence of messages.
pub fn parse_answers(bytes: &[u8], mut each: impl FnMut(u32, Answer)) -> Result<u64, CodecError> {
    for_each_message(bytes, |message| {
        let answer = if message.message_type() == NLMSG_ERROR {
            Some(match parse_errno(message)? {
                0 => Answer::Done,
                errno => Answer::Refused(errno),
            })
        } else {
            about(message)?.filter(|(_, there)| *there).map(|(entry, _)| Answer::Found(entry))
        };
        if let Some(answer) = answer {
            each(message.sequence_number(), answer);
        }
        Ok(())
    })
}

/// How far a dump is after a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DumpState {
    /// More comes.
    More,
    /// That was the last buffer.
    Done,
    /// The kernel refused, with a positive errno.
    Refused(i32),
}

/// Take a buffer of a dump apart: `each` gets the kernel's id (`CTA_ID`, for people to read only) and the
/// entry. How far the dump is, and how many messages could not be read.
///
/// # Errors
/// The buffer is no sequence of messages.
pub fn parse_dump(bytes: &[u8], mut each: impl FnMut(u32, Entry)) -> Result<(DumpState, u64), CodecError> {
    let mut state = DumpState::More;
    let unreadable = for_each_message(bytes, |message| {
        match message.message_type() {
            NLMSG_DONE => state = DumpState::Done,
            NLMSG_ERROR => state = DumpState::Refused(parse_errno(message)?),
            _ => {
                if let Some((entry, true)) = about(message)? {
                    each(parse_id(message.payload().get(4..).unwrap_or_default())?, entry);
                }
            }
        }
        Ok(())
    })?;
    Ok((state, unreadable))
}

fn for_each_message(
    mut bytes: &[u8],
    mut each: impl FnMut(&NetlinkBuffer<&[u8]>) -> Result<(), CodecError>,
) -> Result<u64, CodecError> {
    let mut unreadable = 0;
    while bytes.len() >= NLMSG_HEADER {
        let message = NetlinkBuffer::new_checked(bytes).map_err(|_| Malformed)?;
        unreadable += u64::from(each(&message).is_err());
        let advance = (message.length() as usize).div_ceil(4) * 4;
        bytes = bytes.get(advance..).unwrap_or_default();
    }
    Ok(unreadable)
}

/// The entry or expectation that a message is about, and whether it exists (else it is gone).
fn about(message: &NetlinkBuffer<&[u8]>) -> Result<Option<(Entry, bool)>, CodecError> {
    let [subsystem, kind] = message.message_type().to_be_bytes();
    let attributes = message.payload().get(4..).unwrap_or_default();
    if subsystem == u8::from(NetfilterSubsystem::Conntrack) {
        let exists = match kind.into() {
            ConntrackMessageType::New => true,
            ConntrackMessageType::Delete => false,
            _ => return Ok(None),
        };
        return Ok(Some((connection::parse_connection(attributes)?, exists)));
    }
    let exists = match (subsystem, kind) {
        (NFNL_SUBSYS_CTNETLINK_EXP, IPCTNL_MSG_EXP_NEW) => true,
        (NFNL_SUBSYS_CTNETLINK_EXP, IPCTNL_MSG_EXP_DELETE) => false,
        _ => return Ok(None),
    };
    Ok(Some((expectation::parse_expectation(attributes)?, exists)))
}

/// `struct nlmsgerr`: a negative errno in host order.
fn parse_errno(message: &NetlinkBuffer<&[u8]>) -> Result<i32, CodecError> {
    let code = message.payload().get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    Ok(code.ok_or(CodecError::Incomplete("error"))?.saturating_neg())
}

fn parse_id(attributes: &[u8]) -> Result<u32, CodecError> {
    for attribute in Attributes::new(attributes) {
        let (kind, value) = attribute?;
        if kind == CTA_ID {
            return Ok(read_u32(value)?);
        }
    }
    Ok(0)
}

/// A name as the kernel writes it: its bytes, a 0 behind them.
fn parse_name(value: &[u8]) -> Result<Box<str>, CodecError> {
    let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
    let good = !name.is_empty() && name.len() <= NAME && name.iter().all(u8::is_ascii_graphic);
    let name = std::str::from_utf8(name).ok().filter(|_| good).ok_or(CodecError::Incomplete("name"))?;
    Ok(name.into())
}

/// Which of the kernel's two tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KernelTable {
    /// Entries.
    Connections,
    /// Expectations.
    Expectations,
}

/// Lists all of a table for a family (`None`: IPv4 and IPv6).
pub fn emit_dump(
    writer: &mut Writer,
    sequence: u32,
    table: KernelTable,
    family: Option<NetfilterProtoFamily>,
) {
    let family = family.unwrap_or(NetfilterProtoFamily::Unspec);
    let kind = match table {
        KernelTable::Connections => connection_message(ConntrackMessageType::Get),
        KernelTable::Expectations => expectation_message(IPCTNL_MSG_EXP_GET),
    };
    let mark = begin(writer, kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, family);
    writer.end_message(mark);
}

/// Asks for one entry by its original tuple.
pub fn emit_get(writer: &mut Writer, sequence: u32, key: &Key) {
    emit_by_key(writer, sequence, key, ConntrackMessageType::Get, IPCTNL_MSG_EXP_GET);
}

/// Removes one entry by its original tuple.
pub fn emit_destroy(writer: &mut Writer, sequence: u32, key: &Key) {
    emit_by_key(writer, sequence, key, ConntrackMessageType::Delete, IPCTNL_MSG_EXP_DELETE);
}

fn emit_by_key(
    writer: &mut Writer,
    sequence: u32,
    key: &Key,
    connection: ConntrackMessageType,
    expected: u8,
) {
    let kind = if key.expected { expectation_message(expected) } else { connection_message(connection) };
    let mark = begin(writer, kind, NLM_F_REQUEST, sequence, family(&key.orig));
    if key.expected {
        expectation::emit_key(writer, &key.orig);
    } else {
        connection::emit_key(writer, key);
    }
    writer.end_message(mark);
}

/// Removes everything of a table: a delete without a tuple (`ctnetlink_flush_conntrack`,
/// `ctnetlink_del_expect`).
pub fn emit_flush(writer: &mut Writer, sequence: u32, table: KernelTable) {
    let kind = match table {
        KernelTable::Connections => connection_message(ConntrackMessageType::Delete),
        KernelTable::Expectations => expectation_message(IPCTNL_MSG_EXP_DELETE),
    };
    let mark = begin(writer, kind, NLM_F_REQUEST, sequence, NetfilterProtoFamily::Unspec);
    writer.end_message(mark);
}

/// How an entry goes into the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Install {
    /// Seconds: the lease of a backup, or the protocol's own timeout. `None` leaves it; a create needs one.
    pub timeout: Option<u32>,
    /// Switch window tracking off for this entry: ctnetlink carries no window edges, and without this a
    /// connection with data in flight at the takeover stands still for ever.
    pub be_liberal: bool,
    /// Name its helper; false where this kernel does not know it.
    pub helper: bool,
    /// Name its master; false where that has ended and is nowhere any more.
    pub master: bool,
    /// Set its labels; false where no rule of this kernel uses labels.
    pub labels: bool,
}

impl Install {
    /// Everything, for so many seconds.
    pub const fn whole(timeout: u32) -> Install {
        Install { timeout: Some(timeout), be_liberal: true, helper: true, master: true, labels: true }
    }
}

/// Creates an entry that must not exist yet.
///
/// The reply tuple is the plain inverse of the original and the translation travels as NAT attributes: with
/// the translated reply tuple the kernel would list the entry rightly and rewrite no packet
/// (`nf_nat_setup_info`).
pub fn emit_create(writer: &mut Writer, sequence: u32, entry: &Entry, how: Install) {
    let mark = begin_new(writer, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL, sequence, entry);
    match entry.expectation() {
        Some(_) => expectation::emit_new(writer, entry, how),
        None => connection::emit_new(writer, entry, how),
    }
    writer.end_message(mark);
}

/// Changes an entry that exists. NAT and master cannot change, and of an expectation nothing but its timeout.
pub fn emit_update(writer: &mut Writer, sequence: u32, entry: &Entry, how: Install) {
    let mark = begin_new(writer, NLM_F_REQUEST, sequence, entry);
    match entry.expectation() {
        Some(_) => expectation::emit_renewal(writer, entry, how),
        None => connection::emit_change(writer, entry, how),
    }
    writer.end_message(mark);
}

/// Sets timeout and window tracking of an entry that exists, nothing of its state; ENOENT tells that it does
/// not.
pub fn emit_renew(writer: &mut Writer, sequence: u32, entry: &Entry, how: Install) {
    let mark = begin_new(writer, NLM_F_REQUEST, sequence, entry);
    match entry.expectation() {
        Some(_) => expectation::emit_renewal(writer, entry, how),
        None => connection::emit_renewal(writer, entry, how),
    }
    writer.end_message(mark);
}

/// Switches window tracking on again for a TCP entry that exists, and changes nothing else.
pub fn emit_track(writer: &mut Writer, sequence: u32, entry: &Entry) {
    let mark = begin_new(writer, NLM_F_REQUEST, sequence, entry);
    connection::emit_tracking(writer, entry);
    writer.end_message(mark);
}

/// Ends a batch: the kernel acknowledges this message when it has worked off all before it (`netlink_rcv_skb`
/// skips a no-op and answers it). Requests themselves are not acknowledged: only failures answer.
pub fn emit_barrier(writer: &mut Writer, sequence: u32) {
    let mark = writer.begin_message(NLMSG_NOOP, NLM_F_REQUEST | NLM_F_ACK, sequence);
    writer.end_message(mark);
}

fn begin_new(writer: &mut Writer, flags: u16, sequence: u32, entry: &Entry) -> Mark {
    let kind = match entry.expectation() {
        Some(_) => expectation_message(IPCTNL_MSG_EXP_NEW),
        None => connection_message(ConntrackMessageType::New),
    };
    begin(writer, kind, flags, sequence, family(&entry.orig))
}

fn begin(writer: &mut Writer, kind: u16, flags: u16, sequence: u32, family: NetfilterProtoFamily) -> Mark {
    let mark = writer.begin_message(kind, flags, sequence);
    let mut header = [0; 4];
    NetfilterHeader::new(family, 0, 0).emit(&mut header);
    writer.raw(&header);
    mark
}

fn connection_message(kind: ConntrackMessageType) -> u16 {
    u16::from_be_bytes([NetfilterSubsystem::Conntrack.into(), kind.into()])
}

fn expectation_message(kind: u8) -> u16 {
    u16::from_be_bytes([NFNL_SUBSYS_CTNETLINK_EXP, kind])
}

fn family(tuple: &Tuple) -> NetfilterProtoFamily {
    if tuple.src.is_ipv4() { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 }
}
