//! Netlink bytes <-> events, entries and requests of conntrack, `parse` and `emit` side by side.
//!
//! Called by `socket` (kernel bytes) and by the tests (recorded bytes). Pure: no socket. Unknown attributes are
//! skipped at every depth, malformed ones are errors. All integers inside attributes are big endian
//! (linux/netfilter/nfnetlink_conntrack.h); message headers are in host order.

use std::net::IpAddr;

use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkBuffer,
    NlaBuffer, NlasIterator, parse_ip, parse_u8, parse_u16_be, parse_u32_be,
};
use netlink_packet_netfilter::conntrack::{ConntrackMessageType, Status};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterProtoFamily, NetfilterSubsystem};
use thiserror::Error;

use super::nla::Writer;
use crate::entry::{CARRIED_STATUS, Entry, Key, L4, TcpInfo, Tuple, proto};

// enum ctattr_type
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_NAT_SRC: u16 = 6;
const CTA_TIMEOUT: u16 = 7;
const CTA_MARK: u16 = 8;
const CTA_ID: u16 = 12;
const CTA_NAT_DST: u16 = 13;
const CTA_TUPLE_MASTER: u16 = 14;
const CTA_ZONE: u16 = 18;
// enum ctattr_tuple
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
// enum ctattr_ip
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
// enum ctattr_l4proto
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMP_CODE: u16 = 6;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;
const CTA_PROTO_ICMPV6_CODE: u16 = 9;
// enum ctattr_protoinfo, ctattr_protoinfo_tcp
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const CTA_PROTOINFO_TCP_WSCALE_ORIGINAL: u16 = 2;
const CTA_PROTOINFO_TCP_WSCALE_REPLY: u16 = 3;
const CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: u16 = 4;
const CTA_PROTOINFO_TCP_FLAGS_REPLY: u16 = 5;
// enum ctattr_nat, ctattr_protonat
const CTA_NAT_V4_MINIP: u16 = 1;
const CTA_NAT_V4_MAXIP: u16 = 2;
const CTA_NAT_PROTO: u16 = 3;
const CTA_NAT_V6_MINIP: u16 = 4;
const CTA_NAT_V6_MAXIP: u16 = 5;
const CTA_PROTONAT_PORT_MIN: u16 = 1;
const CTA_PROTONAT_PORT_MAX: u16 = 2;

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_HEADER: usize = 16;

/// What the kernel says in one netlink message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Incoming {
    /// An entry was created.
    New(Entry),
    /// An entry changed, or is the answer to a get.
    Update(Entry),
    /// An entry is gone.
    Destroy(Entry),
    /// The answer to a request: 0 for done, else a positive errno.
    Answer {
        /// Sequence number of the request.
        sequence: u32,
        /// 0, or why the kernel refused.
        errno: i32,
    },
}

/// Bytes from the kernel that are not what the uapi headers promise.
#[derive(Debug, Error)]
pub enum CodecError {
    /// Length fields or attribute sizes do not fit.
    #[error("malformed netlink message from the kernel")]
    Malformed(#[from] DecodeError),
    /// A tuple lacks an address or its protocol number.
    #[error("conntrack message without a complete {0} tuple")]
    Incomplete(&'static str),
}

/// Take a received buffer of events or answers apart.
///
/// `each` gets the message and the sequence number of the request that it answers (0 for events).
pub fn parse(bytes: &[u8], mut each: impl FnMut(u32, Incoming)) -> Result<(), CodecError> {
    for_each_message(bytes, |message| {
        let sequence = message.sequence_number();
        if message.message_type() == NLMSG_ERROR {
            each(sequence, Incoming::Answer { sequence, errno: parse_errno(message)? });
            return Ok(());
        }
        let attributes = message.payload().get(4..).unwrap_or_default();
        match conntrack_type(message) {
            Some(ConntrackMessageType::New) => {
                let entry = parse_entry(attributes)?;
                // ctnetlink_conntrack_event: a new entry carries both flags, an update and an answer none.
                let created = message.flags() & (NLM_F_CREATE | NLM_F_EXCL) != 0;
                each(sequence, if created { Incoming::New(entry) } else { Incoming::Update(entry) });
            }
            Some(ConntrackMessageType::Delete) => each(sequence, Incoming::Destroy(parse_entry(attributes)?)),
            _ => {}
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

/// Take a buffer of a dump apart: `each` gets the kernel's id (`CTA_ID`, for people to read only) and the entry.
pub fn parse_dump(bytes: &[u8], mut each: impl FnMut(u32, Entry)) -> Result<DumpState, CodecError> {
    let mut state = DumpState::More;
    for_each_message(bytes, |message| {
        match (message.message_type(), conntrack_type(message)) {
            (NLMSG_DONE, _) => state = DumpState::Done,
            (NLMSG_ERROR, _) => state = DumpState::Refused(parse_errno(message)?),
            (_, Some(ConntrackMessageType::New)) => {
                let attributes = message.payload().get(4..).unwrap_or_default();
                each(parse_id(attributes)?, parse_entry(attributes)?);
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(state)
}

fn for_each_message(
    mut bytes: &[u8],
    mut each: impl FnMut(&NetlinkBuffer<&[u8]>) -> Result<(), CodecError>,
) -> Result<(), CodecError> {
    while bytes.len() >= NLMSG_HEADER {
        let message = NetlinkBuffer::new_checked(bytes)?;
        each(&message)?;
        let advance = (message.length() as usize).div_ceil(4) * 4;
        bytes = bytes.get(advance..).unwrap_or_default();
    }
    Ok(())
}

fn conntrack_type(message: &NetlinkBuffer<&[u8]>) -> Option<ConntrackMessageType> {
    let [subsystem, kind] = message.message_type().to_be_bytes();
    (subsystem == u8::from(NetfilterSubsystem::Conntrack)).then(|| kind.into())
}

/// `struct nlmsgerr`: a negative errno in host order.
fn parse_errno(message: &NetlinkBuffer<&[u8]>) -> Result<i32, CodecError> {
    let code = message.payload().get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    Ok(code.ok_or(CodecError::Incomplete("error"))?.saturating_neg())
}

fn parse_id(attributes: &[u8]) -> Result<u32, CodecError> {
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        if attribute.kind() == CTA_ID {
            return Ok(parse_u32_be(attribute.value())?);
        }
    }
    Ok(0)
}

/// The attributes of one conntrack message.
pub fn parse_entry(attributes: &[u8]) -> Result<Entry, CodecError> {
    let (mut orig, mut reply, mut master, mut tcp) = (None, None, None, None);
    let (mut status, mut timeout, mut mark, mut zone) = (Status::empty(), None, None, 0);
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            CTA_TUPLE_ORIG => orig = Some(parse_tuple(value, "original")?),
            CTA_TUPLE_REPLY => reply = Some(parse_tuple(value, "reply")?),
            CTA_TUPLE_MASTER => master = Some(Box::new(parse_tuple(value, "master")?)),
            CTA_STATUS => status = Status::from_bits_retain(parse_u32_be(value)?),
            CTA_TIMEOUT => timeout = Some(parse_u32_be(value)?),
            CTA_MARK => mark = Some(parse_u32_be(value)?),
            CTA_ZONE => zone = parse_u16_be(value)?,
            CTA_PROTOINFO => tcp = parse_protoinfo(value)?,
            _ => {}
        }
    }
    Ok(Entry {
        orig: orig.ok_or(CodecError::Incomplete("original"))?,
        reply: reply.ok_or(CodecError::Incomplete("reply"))?,
        zone,
        status,
        timeout,
        mark,
        tcp,
        master,
    })
}

fn parse_tuple(attributes: &[u8], which: &'static str) -> Result<Tuple, CodecError> {
    let (mut src, mut dst, mut number, mut l4) = (None, None, None, L4::Nothing);
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        for inner in NlasIterator::new(attribute.value()) {
            let inner = inner?;
            match (attribute.kind(), inner.kind()) {
                (CTA_TUPLE_IP, CTA_IP_V4_SRC | CTA_IP_V6_SRC) => src = Some(parse_ip(inner.value())?),
                (CTA_TUPLE_IP, CTA_IP_V4_DST | CTA_IP_V6_DST) => dst = Some(parse_ip(inner.value())?),
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => number = Some(parse_u8(inner.value())?),
                (CTA_TUPLE_PROTO, kind) => parse_l4(kind, &inner, &mut l4)?,
                _ => {}
            }
        }
    }
    match (src, dst, number) {
        (Some(src), Some(dst), Some(number)) => Ok(Tuple { src, dst, proto: number, l4 }),
        _ => Err(CodecError::Incomplete(which)),
    }
}

fn parse_l4(kind: u16, attribute: &NlaBuffer<&[u8]>, l4: &mut L4) -> Result<(), CodecError> {
    let value = attribute.value();
    let (src_port, dst_port) = if let L4::Ports { src, dst } = *l4 { (src, dst) } else { (0, 0) };
    let (icmp_id, icmp_kind, icmp_code) =
        if let L4::Icmp { id, kind, code } = *l4 { (id, kind, code) } else { (0, 0, 0) };
    match kind {
        CTA_PROTO_SRC_PORT => *l4 = L4::Ports { src: parse_u16_be(value)?, dst: dst_port },
        CTA_PROTO_DST_PORT => *l4 = L4::Ports { src: src_port, dst: parse_u16_be(value)? },
        CTA_PROTO_ICMP_ID | CTA_PROTO_ICMPV6_ID => {
            *l4 = L4::Icmp { id: parse_u16_be(value)?, kind: icmp_kind, code: icmp_code };
        }
        CTA_PROTO_ICMP_TYPE | CTA_PROTO_ICMPV6_TYPE => {
            *l4 = L4::Icmp { id: icmp_id, kind: parse_u8(value)?, code: icmp_code };
        }
        CTA_PROTO_ICMP_CODE | CTA_PROTO_ICMPV6_CODE => {
            *l4 = L4::Icmp { id: icmp_id, kind: icmp_kind, code: parse_u8(value)? };
        }
        _ => {}
    }
    Ok(())
}

fn parse_protoinfo(attributes: &[u8]) -> Result<Option<TcpInfo>, CodecError> {
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        if attribute.kind() != CTA_PROTOINFO_TCP {
            continue;
        }
        let mut info = TcpInfo { state: 0, wscale_orig: 0, wscale_reply: 0, flags_orig: 0, flags_reply: 0 };
        for inner in NlasIterator::new(attribute.value()) {
            let inner = inner?;
            // struct nf_ct_tcp_flags { __u8 flags; __u8 mask; }: the first byte counts, a dump leaves the mask 0.
            let first = || inner.value().first().copied().ok_or(CodecError::Incomplete("TCP"));
            match inner.kind() {
                CTA_PROTOINFO_TCP_STATE => info.state = first()?,
                CTA_PROTOINFO_TCP_WSCALE_ORIGINAL => info.wscale_orig = first()?,
                CTA_PROTOINFO_TCP_WSCALE_REPLY => info.wscale_reply = first()?,
                CTA_PROTOINFO_TCP_FLAGS_ORIGINAL => info.flags_orig = first()?,
                CTA_PROTOINFO_TCP_FLAGS_REPLY => info.flags_reply = first()?,
                _ => {}
            }
        }
        return Ok(Some(info));
    }
    Ok(None)
}

/// Lists all entries of a family (`None`: IPv4 and IPv6).
pub fn emit_dump(writer: &mut Writer, sequence: u32, family: Option<NetfilterProtoFamily>) {
    let family = family.unwrap_or(NetfilterProtoFamily::Unspec);
    let mark = begin(writer, ConntrackMessageType::Get, NLM_F_REQUEST | NLM_F_DUMP, sequence, family);
    writer.end_message(mark);
}

/// Asks for one entry by its original tuple.
pub fn emit_get(writer: &mut Writer, sequence: u32, key: &Key) {
    let mark = begin(writer, ConntrackMessageType::Get, NLM_F_REQUEST, sequence, family(&key.orig));
    emit_key(writer, key);
    writer.end_message(mark);
}

/// Removes one entry by its original tuple.
pub fn emit_destroy(writer: &mut Writer, sequence: u32, key: &Key) {
    let mark = begin(writer, ConntrackMessageType::Delete, NLM_F_REQUEST, sequence, family(&key.orig));
    emit_key(writer, key);
    writer.end_message(mark);
}

/// Removes every entry: a delete without a tuple (`ctnetlink_flush_conntrack`).
pub fn emit_flush(writer: &mut Writer, sequence: u32) {
    let family = NetfilterProtoFamily::Unspec;
    let mark = begin(writer, ConntrackMessageType::Delete, NLM_F_REQUEST, sequence, family);
    writer.end_message(mark);
}

/// Removes every expectation: `IPCTNL_MSG_EXP_DELETE` without a tuple (`ctnetlink_del_expect`).
pub fn emit_flush_expectations(writer: &mut Writer, sequence: u32) {
    const NFNL_SUBSYS_CTNETLINK_EXP: u8 = 2;
    const IPCTNL_MSG_EXP_DELETE: u8 = 2;
    let kind = u16::from_be_bytes([NFNL_SUBSYS_CTNETLINK_EXP, IPCTNL_MSG_EXP_DELETE]);
    let mark = writer.begin_message(kind, NLM_F_REQUEST, sequence);
    let mut header = [0; 4];
    NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0).emit(&mut header);
    writer.raw(&header);
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
}

/// Creates an entry that must not exist yet.
///
/// The reply tuple is the plain inverse of the original and the translation travels as NAT attributes: with the
/// translated reply tuple the kernel would list the entry rightly and rewrite no packet (`nf_nat_setup_info`).
pub fn emit_create(writer: &mut Writer, sequence: u32, entry: &Entry, how: Install) {
    let flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL;
    let mark = begin(writer, ConntrackMessageType::New, flags, sequence, family(&entry.orig));
    emit_key(writer, &entry.key());
    emit_tuple(writer, CTA_TUPLE_REPLY, &entry.orig.inverse());
    // EXPECTED may not differ from the entry, which has it only after CTA_TUPLE_MASTER is read.
    let status = (entry.status & (CARRIED_STATUS - Status::Expected)) | Status::Confirmed;
    emit_common(writer, entry, how, status);
    if let Some(master) = &entry.master {
        emit_tuple(writer, CTA_TUPLE_MASTER, master);
    }
    if entry.source_nat() {
        emit_nat(writer, CTA_NAT_SRC, entry.reply.dst, translated_source(entry));
    }
    if entry.destination_nat() {
        emit_nat(writer, CTA_NAT_DST, entry.reply.src, translated_destination(entry));
    }
    writer.end_message(mark);
}

/// Changes an entry that exists. NAT and master cannot change (`ctnetlink_change_conntrack` refuses them).
pub fn emit_update(writer: &mut Writer, sequence: u32, entry: &Entry, how: Install) {
    let mark = begin(writer, ConntrackMessageType::New, NLM_F_REQUEST, sequence, family(&entry.orig));
    emit_key(writer, &entry.key());
    emit_common(writer, entry, how, (entry.status & CARRIED_STATUS) | Status::Confirmed);
    writer.end_message(mark);
}

/// Sets timeout and window tracking of an entry that exists, nothing of its state; ENOENT tells that it does not.
pub fn emit_renew(writer: &mut Writer, sequence: u32, entry: &Entry, how: Install) {
    let mark = begin(writer, ConntrackMessageType::New, NLM_F_REQUEST, sequence, family(&entry.orig));
    emit_key(writer, &entry.key());
    if let Some(timeout) = how.timeout {
        writer.attribute(CTA_TIMEOUT, &timeout.to_be_bytes());
    }
    if entry.tcp.is_some() && how.be_liberal {
        let outer = writer.begin_nested(CTA_PROTOINFO);
        let inner = writer.begin_nested(CTA_PROTOINFO_TCP);
        for kind in [CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, CTA_PROTOINFO_TCP_FLAGS_REPLY] {
            writer.attribute(kind, &[TcpInfo::BE_LIBERAL, TcpInfo::BE_LIBERAL]);
        }
        writer.end_nested(inner);
        writer.end_nested(outer);
    }
    writer.end_message(mark);
}

/// Ends a batch: the kernel acknowledges this message when it has worked off all before it (`netlink_rcv_skb`
/// skips a no-op and answers it). Requests themselves are not acknowledged: only failures answer.
pub fn emit_barrier(writer: &mut Writer, sequence: u32) {
    let mark = writer.begin_message(NLMSG_NOOP, NLM_F_REQUEST | NLM_F_ACK, sequence);
    writer.end_message(mark);
}

fn emit_common(writer: &mut Writer, entry: &Entry, how: Install, status: Status) {
    writer.attribute(CTA_STATUS, &status.bits().to_be_bytes());
    if let Some(timeout) = how.timeout {
        writer.attribute(CTA_TIMEOUT, &timeout.to_be_bytes());
    }
    if let Some(mark) = entry.mark {
        writer.attribute(CTA_MARK, &mark.to_be_bytes());
    }
    if let Some(tcp) = &entry.tcp {
        let outer = writer.begin_nested(CTA_PROTOINFO);
        let inner = writer.begin_nested(CTA_PROTOINFO_TCP);
        writer.attribute(CTA_PROTOINFO_TCP_STATE, &[tcp.state]);
        writer.attribute(CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, &[tcp.wscale_orig]);
        writer.attribute(CTA_PROTOINFO_TCP_WSCALE_REPLY, &[tcp.wscale_reply]);
        let liberal = if how.be_liberal { TcpInfo::BE_LIBERAL } else { 0 };
        let mask = TcpInfo::CARRIED_FLAGS | TcpInfo::BE_LIBERAL;
        for (kind, flags) in [
            (CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, tcp.flags_orig),
            (CTA_PROTOINFO_TCP_FLAGS_REPLY, tcp.flags_reply),
        ] {
            writer.attribute(kind, &[(flags & TcpInfo::CARRIED_FLAGS) | liberal, mask]);
        }
        writer.end_nested(inner);
        writer.end_nested(outer);
    }
}

fn begin(
    writer: &mut Writer,
    kind: ConntrackMessageType,
    flags: u16,
    sequence: u32,
    family: NetfilterProtoFamily,
) -> super::nla::Mark {
    let kind = u16::from_be_bytes([NetfilterSubsystem::Conntrack.into(), kind.into()]);
    let mark = writer.begin_message(kind, flags, sequence);
    let mut header = [0; 4];
    NetfilterHeader::new(family, 0, 0).emit(&mut header);
    writer.raw(&header);
    mark
}

fn family(tuple: &Tuple) -> NetfilterProtoFamily {
    if tuple.src.is_ipv4() { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 }
}

fn emit_key(writer: &mut Writer, key: &Key) {
    emit_tuple(writer, CTA_TUPLE_ORIG, &key.orig);
    if key.zone != 0 {
        writer.attribute(CTA_ZONE, &key.zone.to_be_bytes());
    }
}

fn emit_tuple(writer: &mut Writer, kind: u16, tuple: &Tuple) {
    let outer = writer.begin_nested(kind);
    let ip = writer.begin_nested(CTA_TUPLE_IP);
    emit_address(writer, [CTA_IP_V4_SRC, CTA_IP_V6_SRC], tuple.src);
    emit_address(writer, [CTA_IP_V4_DST, CTA_IP_V6_DST], tuple.dst);
    writer.end_nested(ip);
    let protocol = writer.begin_nested(CTA_TUPLE_PROTO);
    writer.attribute(CTA_PROTO_NUM, &[tuple.proto]);
    match tuple.l4 {
        L4::Ports { src, dst } => {
            writer.attribute(CTA_PROTO_SRC_PORT, &src.to_be_bytes());
            writer.attribute(CTA_PROTO_DST_PORT, &dst.to_be_bytes());
        }
        L4::Icmp { id, kind, code } => {
            let kinds = if tuple.proto == proto::ICMPV6 {
                [CTA_PROTO_ICMPV6_ID, CTA_PROTO_ICMPV6_TYPE, CTA_PROTO_ICMPV6_CODE]
            } else {
                [CTA_PROTO_ICMP_ID, CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMP_CODE]
            };
            writer.attribute(kinds[0], &id.to_be_bytes());
            writer.attribute(kinds[1], &[kind]);
            writer.attribute(kinds[2], &[code]);
        }
        L4::Nothing => {}
    }
    writer.end_nested(protocol);
    writer.end_nested(outer);
}

fn emit_address(writer: &mut Writer, [v4, v6]: [u16; 2], address: IpAddr) {
    match address {
        IpAddr::V4(address) => writer.attribute(v4, &address.octets()),
        IpAddr::V6(address) => writer.attribute(v6, &address.octets()),
    }
}

/// A NAT range of exactly one address and, where the protocol has one, one port or id.
fn emit_nat(writer: &mut Writer, kind: u16, address: IpAddr, port: Option<u16>) {
    let outer = writer.begin_nested(kind);
    emit_address(writer, [CTA_NAT_V4_MINIP, CTA_NAT_V6_MINIP], address);
    emit_address(writer, [CTA_NAT_V4_MAXIP, CTA_NAT_V6_MAXIP], address);
    if let Some(port) = port {
        let inner = writer.begin_nested(CTA_NAT_PROTO);
        writer.attribute(CTA_PROTONAT_PORT_MIN, &port.to_be_bytes());
        writer.attribute(CTA_PROTONAT_PORT_MAX, &port.to_be_bytes());
        writer.end_nested(inner);
    }
    writer.end_nested(outer);
}

fn translated_source(entry: &Entry) -> Option<u16> {
    match entry.reply.l4 {
        L4::Ports { dst, .. } => Some(dst),
        L4::Icmp { id, .. } => Some(id),
        L4::Nothing => None,
    }
}

fn translated_destination(entry: &Entry) -> Option<u16> {
    match entry.reply.l4 {
        L4::Ports { src, .. } => Some(src),
        // The id belongs to the source's side.
        L4::Icmp { .. } | L4::Nothing => None,
    }
}
