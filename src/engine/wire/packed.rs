//! An entry packed for the wire: absent fields cost nothing.
//!
//! The first part is *canonical*: the same connection state gives the same bytes on every node, and the
//! digest is a hash of exactly these bytes. Timeout and birth stamp follow it and are not part of it.
//!
//! Layout: presence bits (u16), protocol (u8), original source and destination address, layer 4, then each
//! field whose bit is set, in the order of the bits. The reply tuple is told by what differs from the plain
//! inverse. What few entries have is a second such layout within the first.

use std::net::IpAddr;

use ctsync_ctnetlink::entry::Status;

use super::reader::{Reader, WireError, put_varint};
use ctsync_ctnetlink::entry::{
    CARRIED_STATUS, DccpInfo, Entry, Expectation, Key, L4, LABELS, NAME, Rare, SctpInfo, SeqAdj, Synproxy,
    TcpInfo, Tuple,
};

const V6: u16 = 1 << 0;
const PORTS: u16 = 1 << 1;
const ICMP: u16 = 1 << 2;
const ZONE: u16 = 1 << 3;
const REPLY_SRC: u16 = 1 << 4;
const REPLY_DST: u16 = 1 << 5;
const REPLY_SRC_PORT: u16 = 1 << 6;
const REPLY_DST_PORT: u16 = 1 << 7;
const MARK: u16 = 1 << 8;
const TCP: u16 = 1 << 9;
const MASTER: u16 = 1 << 10;
const SEEN_REPLY: u16 = 1 << 11;
const ASSURED: u16 = 1 << 12;
const EXPECTED: u16 = 1 << 13;
const RARE: u16 = 1 << 14;
const EXPECTATION: u16 = 1 << 15;

// Presence bits of a rare field.
const REPLY_ZONE: u8 = 1 << 0;
const SCTP: u8 = 1 << 1;
const DCCP: u8 = 1 << 2;
const WITH_LABELS: u8 = 1 << 3;
const HELPER: u8 = 1 << 4;
const SEQADJ: u8 = 1 << 5;
const SYNPROXY: u8 = 1 << 6;
const RARE_DEFINED: u8 = (1 << 7) - 1;

/// Most bytes of an entry without what few have: IPv6, everything set, timeout and birth stamp.
pub const COMMON_ROOM: usize = 140;
/// Most bytes of what few have.
pub const RARE_ROOM: usize = 1 + 2 + 9 + 10 + LABELS + 1 + NAME + 24 + 12 + EXPECTATION_ROOM;
/// Most bytes of an expectation's own.
const EXPECTATION_ROOM: usize = 1 + 40 + 4 + 4 + 1 + NAME + 4 + 40;

/// The key's bytes: what the key hash is a hash of.
pub fn emit_key(out: &mut Vec<u8>, key: &Key) {
    out.extend_from_slice(&key_bits(key).to_be_bytes());
    emit_tuple(out, &key.orig);
    if key.zone != 0 {
        out.extend_from_slice(&key.zone.to_be_bytes());
    }
}

fn key_bits(key: &Key) -> u16 {
    let layer4 = match key.orig.l4 {
        L4::Ports { .. } => PORTS,
        L4::Icmp { .. } => ICMP,
        L4::Nothing => 0,
    };
    layer4 | flag(V6, key.orig.src.is_ipv6()) | flag(ZONE, key.zone != 0) | flag(EXPECTATION, key.expected)
}

fn flag(bit: u16, set: bool) -> u16 {
    if set { bit } else { 0 }
}

/// The canonical bytes of an entry.
pub fn emit_canonical(out: &mut Vec<u8>, entry: &Entry) {
    let plain = entry.orig.inverse();
    let (plain_src, plain_dst) = l4_pair(&plain);
    let (reply_src, reply_dst) = l4_pair(&entry.reply);
    // A mark of 0 and no mark are the same to every rule.
    let mark = entry.mark.filter(|mark| *mark != 0);
    let rare = entry.rare.as_deref().filter(|rare| **rare != Rare::default());
    let bits = key_bits(&entry.key())
        | flag(REPLY_SRC, entry.reply.src != plain.src)
        | flag(REPLY_DST, entry.reply.dst != plain.dst)
        | flag(REPLY_SRC_PORT, reply_src != plain_src)
        | flag(REPLY_DST_PORT, reply_dst != plain_dst)
        | flag(MARK, mark.is_some())
        | flag(TCP, entry.tcp.is_some())
        | flag(MASTER, entry.master.is_some())
        | status_bits(entry.status)
        | flag(RARE, rare.is_some());
    out.extend_from_slice(&bits.to_be_bytes());
    emit_tuple(out, &entry.orig);
    if entry.zone != 0 {
        out.extend_from_slice(&entry.zone.to_be_bytes());
    }
    if bits & REPLY_SRC != 0 {
        emit_address(out, entry.reply.src);
    }
    if bits & REPLY_DST != 0 {
        emit_address(out, entry.reply.dst);
    }
    if bits & REPLY_SRC_PORT != 0 {
        out.extend_from_slice(&reply_src.to_be_bytes());
    }
    if bits & REPLY_DST_PORT != 0 {
        out.extend_from_slice(&reply_dst.to_be_bytes());
    }
    if let Some(mark) = mark {
        out.extend_from_slice(&mark.to_be_bytes());
    }
    if let Some(tcp) = &entry.tcp {
        emit_tcp(out, tcp);
    }
    if let Some(master) = &entry.master {
        emit_tuple_alone(out, master);
    }
    if let Some(rare) = rare {
        emit_rare(out, rare);
    }
}

fn emit_tcp(out: &mut Vec<u8>, tcp: &TcpInfo) {
    // Flags take three bits each: one byte for both sides.
    let flags = (tcp.flags_orig & TcpInfo::CARRIED_FLAGS) << 4 | (tcp.flags_reply & TcpInfo::CARRIED_FLAGS);
    // Scales are at most 14 (RFC 7323, 2.3).
    let scales = (tcp.wscale_orig & 0x0f) << 4 | (tcp.wscale_reply & 0x0f);
    out.extend_from_slice(&[tcp.state, scales, flags]);
}

fn parse_tcp(reader: &mut Reader<'_>) -> Result<TcpInfo, WireError> {
    let (state, scales, flags) = (reader.u8()?, reader.u8()?, reader.u8()?);
    Ok(TcpInfo {
        state,
        wscale_orig: scales >> 4,
        wscale_reply: scales & 0x0f,
        flags_orig: flags >> 4,
        flags_reply: flags & 0x0f,
    })
}

/// A tuple that is no key of its own message.
fn emit_tuple_alone(out: &mut Vec<u8>, tuple: &Tuple) {
    emit_key(out, &Key { orig: *tuple, zone: 0, expected: false });
}

fn parse_tuple_alone(reader: &mut Reader<'_>) -> Result<Tuple, WireError> {
    let bits = reader.u16()?;
    if bits & !(V6 | PORTS | ICMP) != 0 {
        return Err(WireError::Undefined("presence bit of a tuple"));
    }
    Ok(parse_key_fields(reader, bits)?.0)
}

/// Presence bits (u8), then each field whose bit is set, in the order of the bits, then the expectation.
fn emit_rare(out: &mut Vec<u8>, rare: &Rare) {
    let flag = |bit: u8, set: bool| if set { bit } else { 0 };
    out.push(
        flag(REPLY_ZONE, rare.reply_zone.is_some())
            | flag(SCTP, rare.sctp.is_some())
            | flag(DCCP, rare.dccp.is_some())
            | flag(WITH_LABELS, rare.labels.is_some())
            | flag(HELPER, rare.helper.is_some())
            | flag(SEQADJ, rare.seqadj.is_some())
            | flag(SYNPROXY, rare.synproxy.is_some()),
    );
    if let Some(zone) = rare.reply_zone {
        out.extend_from_slice(&zone.to_be_bytes());
    }
    if let Some(sctp) = &rare.sctp {
        out.push(sctp.state);
        out.extend_from_slice(&sctp.vtag_orig.to_be_bytes());
        out.extend_from_slice(&sctp.vtag_reply.to_be_bytes());
    }
    if let Some(dccp) = &rare.dccp {
        out.extend_from_slice(&[dccp.state, dccp.role]);
        out.extend_from_slice(&dccp.handshake.to_be_bytes());
    }
    if let Some(labels) = &rare.labels {
        out.extend_from_slice(labels);
    }
    if let Some(helper) = &rare.helper {
        emit_name(out, helper);
    }
    for adjustment in rare.seqadj.iter().flatten() {
        for number in [adjustment.position, adjustment.before, adjustment.after] {
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
    if let Some(synproxy) = &rare.synproxy {
        for number in [synproxy.isn, synproxy.its, synproxy.tsoff] {
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
    if let Some(expectation) = &rare.expectation {
        let function = expectation.function.as_deref();
        out.push(u8::from(function.is_some()) | u8::from(expectation.nat.is_some()) << 1);
        emit_tuple_alone(out, &expectation.mask);
        out.extend_from_slice(&expectation.flags.to_be_bytes());
        out.extend_from_slice(&expectation.class.to_be_bytes());
        if let Some(function) = function {
            emit_name(out, function);
        }
        if let Some((direction, tuple)) = &expectation.nat {
            out.extend_from_slice(&direction.to_be_bytes());
            emit_tuple_alone(out, tuple);
        }
    }
}

fn parse_rare(reader: &mut Reader<'_>, expected: bool) -> Result<Rare, WireError> {
    let bits = reader.u8()?;
    if bits & !RARE_DEFINED != 0 || bits == 0 && !expected {
        return Err(WireError::Undefined("presence bit of a rare field"));
    }
    let mut rare = Rare::default();
    if bits & REPLY_ZONE != 0 {
        rare.reply_zone = Some(reader.u16()?);
    }
    if bits & SCTP != 0 {
        let (state, vtag_orig, vtag_reply) = (reader.u8()?, reader.u32()?, reader.u32()?);
        rare.sctp = Some(SctpInfo { state, vtag_orig, vtag_reply });
    }
    if bits & DCCP != 0 {
        let (state, role, handshake) = (reader.u8()?, reader.u8()?, reader.u64()?);
        rare.dccp = Some(DccpInfo { state, role, handshake });
    }
    if bits & WITH_LABELS != 0 {
        rare.labels = reader.bytes(LABELS)?.try_into().ok();
    }
    if bits & HELPER != 0 {
        rare.helper = Some(parse_name(reader)?);
    }
    if bits & SEQADJ != 0 {
        let mut one = || -> Result<SeqAdj, WireError> {
            Ok(SeqAdj { position: reader.u32()?, before: reader.u32()?, after: reader.u32()? })
        };
        rare.seqadj = Some([one()?, one()?]);
    }
    if bits & SYNPROXY != 0 {
        rare.synproxy = Some(Synproxy { isn: reader.u32()?, its: reader.u32()?, tsoff: reader.u32()? });
    }
    if expected {
        rare.expectation = Some(parse_expectation(reader)?);
    }
    Ok(rare)
}

fn parse_expectation(reader: &mut Reader<'_>) -> Result<Expectation, WireError> {
    let bits = reader.u8()?;
    if bits & !0b11 != 0 {
        return Err(WireError::Undefined("presence bit of an expectation"));
    }
    let mask = parse_tuple_alone(reader)?;
    let (flags, class) = (reader.u32()?, reader.u32()?);
    let function = if bits & 1 != 0 { Some(parse_name(reader)?) } else { None };
    let nat = if bits & 2 != 0 { Some((reader.u32()?, parse_tuple_alone(reader)?)) } else { None };
    Ok(Expectation { mask, flags, class, function, nat })
}

/// Length (u8) and bytes; the kernel has no longer names.
fn emit_name(out: &mut Vec<u8>, name: &str) {
    let length = name.len().min(NAME);
    out.push(u8::try_from(length).unwrap_or(0));
    out.extend_from_slice(name.as_bytes().get(..length).unwrap_or_default());
}

fn parse_name(reader: &mut Reader<'_>) -> Result<Box<str>, WireError> {
    let length = usize::from(reader.u8()?);
    let name = std::str::from_utf8(reader.bytes(length)?).map_err(|_| WireError::Undefined("name"))?;
    let good = !name.is_empty() && name.len() <= NAME && name.bytes().all(|byte| byte.is_ascii_graphic());
    if good { Ok(name.into()) } else { Err(WireError::Undefined("name")) }
}

/// A whole entry: canonical bytes, timeout (varint, 0 when unknown), birth stamp.
pub fn emit_entry(out: &mut Vec<u8>, entry: &Entry, birth: u16) {
    emit_canonical(out, entry);
    put_varint(out, entry.timeout.unwrap_or(0));
    out.extend_from_slice(&birth.to_be_bytes());
}

/// Reads what [`emit_entry`] wrote.
pub fn parse_entry(reader: &mut Reader<'_>) -> Result<(Entry, u16), WireError> {
    let bits = reader.u16()?;
    if bits & EXPECTATION != 0 && bits & (RARE | MASTER) != RARE | MASTER {
        return Err(WireError::Undefined("expectation without a master or its own part"));
    }
    let (orig, zone) = parse_key_fields(reader, bits)?;
    let mut reply = orig.inverse();
    if bits & REPLY_SRC != 0 {
        reply.src = parse_address(reader, bits & V6 != 0)?;
    }
    if bits & REPLY_DST != 0 {
        reply.dst = parse_address(reader, bits & V6 != 0)?;
    }
    if bits & REPLY_SRC_PORT != 0 {
        let port = reader.u16()?;
        match &mut reply.l4 {
            L4::Ports { src, .. } => *src = port,
            L4::Icmp { id, .. } => *id = port,
            L4::Nothing => return Err(WireError::Undefined("port")),
        }
    }
    if bits & REPLY_DST_PORT != 0 {
        let port = reader.u16()?;
        match &mut reply.l4 {
            L4::Ports { dst, .. } => *dst = port,
            L4::Icmp { .. } | L4::Nothing => return Err(WireError::Undefined("port")),
        }
    }
    let mark = if bits & MARK != 0 { Some(reader.u32()?) } else { None };
    let tcp = if bits & TCP != 0 { Some(parse_tcp(reader)?) } else { None };
    let master = if bits & MASTER != 0 { Some(Box::new(parse_tuple_alone(reader)?)) } else { None };
    let rare =
        if bits & RARE != 0 { Some(Box::new(parse_rare(reader, bits & EXPECTATION != 0)?)) } else { None };
    let status = status_of(bits);
    debug_assert!((CARRIED_STATUS | Status::Confirmed).contains(status));
    let timeout = parse_timeout(reader)?;
    let birth = reader.u16()?;
    Ok((Entry { orig, reply, zone, status, timeout, mark, tcp, master, rare }, birth))
}

fn status_of(bits: u16) -> Status {
    let mut status = Status::Confirmed;
    for (bit, known) in
        [(SEEN_REPLY, Status::SeenReply), (ASSURED, Status::Assured), (EXPECTED, Status::Expected)]
    {
        if bits & bit != 0 {
            status |= known;
        }
    }
    status
}

fn status_bits(status: Status) -> u16 {
    flag(SEEN_REPLY, status.contains(Status::SeenReply))
        | flag(ASSURED, status.contains(Status::Assured))
        | flag(EXPECTED, status.contains(Status::Expected))
}

fn parse_timeout(reader: &mut Reader<'_>) -> Result<Option<u32>, WireError> {
    Ok(Some(reader.varint()?).filter(|seconds| *seconds != 0))
}

/// What packets and rules change in an entry without a master and without rare fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Changed {
    status: Status,
    timeout: Option<u32>,
    mark: Option<u32>,
    tcp: Option<TcpInfo>,
}

impl Changed {
    /// Of this entry; `None` if it has more than that.
    pub fn of(entry: &Entry) -> Option<Changed> {
        let Entry { status, timeout, mark, tcp, .. } = *entry;
        (entry.master.is_none() && entry.rare.is_none()).then_some(Changed { status, timeout, mark, tcp })
    }

    /// The entry that this has become.
    pub fn applied_to(self, entry: &Entry) -> Entry {
        let Changed { status, timeout, mark, tcp } = self;
        let Entry { orig, reply, zone, .. } = *entry;
        Entry { orig, reply, zone, status, timeout, mark, tcp, master: None, rare: None }
    }

    /// Presence bits (u16, those of an entry), mark, TCP, timeout.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let mark = self.mark.filter(|mark| *mark != 0);
        let bits = flag(MARK, mark.is_some()) | flag(TCP, self.tcp.is_some()) | status_bits(self.status);
        out.extend_from_slice(&bits.to_be_bytes());
        if let Some(mark) = mark {
            out.extend_from_slice(&mark.to_be_bytes());
        }
        if let Some(tcp) = &self.tcp {
            emit_tcp(out, tcp);
        }
        put_varint(out, self.timeout.unwrap_or(0));
    }

    /// Reads what [`Changed::emit`] wrote.
    pub fn parse(reader: &mut Reader<'_>) -> Result<Changed, WireError> {
        let bits = reader.u16()?;
        if bits & !(MARK | TCP | SEEN_REPLY | ASSURED | EXPECTED) != 0 {
            return Err(WireError::Undefined("presence bit of a change"));
        }
        let mark = if bits & MARK != 0 { Some(reader.u32()?) } else { None };
        let tcp = if bits & TCP != 0 { Some(parse_tcp(reader)?) } else { None };
        Ok(Changed { status: status_of(bits), timeout: parse_timeout(reader)?, mark, tcp })
    }
}

fn parse_key_fields(reader: &mut Reader<'_>, bits: u16) -> Result<(Tuple, u16), WireError> {
    let proto = reader.u8()?;
    let src = parse_address(reader, bits & V6 != 0)?;
    let dst = parse_address(reader, bits & V6 != 0)?;
    let l4 = match (bits & PORTS != 0, bits & ICMP != 0) {
        (true, false) => L4::Ports { src: reader.u16()?, dst: reader.u16()? },
        (false, true) => L4::Icmp { id: reader.u16()?, kind: reader.u8()?, code: reader.u8()? },
        (false, false) => L4::Nothing,
        (true, true) => return Err(WireError::Undefined("layer 4")),
    };
    let zone = if bits & ZONE != 0 { reader.u16()? } else { 0 };
    Ok((Tuple { src, dst, proto, l4 }, zone))
}

fn emit_tuple(out: &mut Vec<u8>, tuple: &Tuple) {
    out.push(tuple.proto);
    emit_address(out, tuple.src);
    emit_address(out, tuple.dst);
    match tuple.l4 {
        L4::Ports { src, dst } => {
            out.extend_from_slice(&src.to_be_bytes());
            out.extend_from_slice(&dst.to_be_bytes());
        }
        L4::Icmp { id, kind, code } => {
            out.extend_from_slice(&id.to_be_bytes());
            out.extend_from_slice(&[kind, code]);
        }
        L4::Nothing => {}
    }
}

fn emit_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
    }
}

fn parse_address(reader: &mut Reader<'_>, v6: bool) -> Result<IpAddr, WireError> {
    Ok(if v6 { IpAddr::V6(reader.u128()?.into()) } else { IpAddr::V4(reader.u32()?.into()) })
}

/// Ports, or the ICMP id as "source port" and nothing as the other.
fn l4_pair(tuple: &Tuple) -> (u16, u16) {
    match tuple.l4 {
        L4::Ports { src, dst } => (src, dst),
        L4::Icmp { id, .. } => (id, 0),
        L4::Nothing => (0, 0),
    }
}
