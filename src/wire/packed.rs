//! An entry packed for the wire: absent fields cost nothing.
//!
//! The first part is *canonical*: the same connection state gives the same bytes on every node, and the digest is
//! a hash of exactly these bytes. Timeout and birth stamp follow it and are not part of it.
//!
//! Layout: presence bits (u16), protocol (u8), original source and destination address, layer 4, then each field
//! whose bit is set, in the order of the bits. The reply tuple is told by what differs from the plain inverse.

use std::net::IpAddr;

use netlink_packet_netfilter::conntrack::Status;

use super::reader::{Reader, WireError, put_varint};
use crate::entry::{CARRIED_STATUS, Entry, Key, L4, TcpInfo, Tuple};

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
const DEFINED: u16 = (1 << 14) - 1;

/// Presence bits that belong to the key.
const KEY_BITS: u16 = V6 | PORTS | ICMP | ZONE;

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
    layer4 | flag(V6, key.orig.src.is_ipv6()) | flag(ZONE, key.zone != 0)
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
    let bits = key_bits(&entry.key())
        | flag(REPLY_SRC, entry.reply.src != plain.src)
        | flag(REPLY_DST, entry.reply.dst != plain.dst)
        | flag(REPLY_SRC_PORT, reply_src != plain_src)
        | flag(REPLY_DST_PORT, reply_dst != plain_dst)
        | flag(MARK, mark.is_some())
        | flag(TCP, entry.tcp.is_some())
        | flag(MASTER, entry.master.is_some())
        | flag(SEEN_REPLY, entry.status.contains(Status::SeenReply))
        | flag(ASSURED, entry.status.contains(Status::Assured))
        | flag(EXPECTED, entry.status.contains(Status::Expected));
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
        // Flags take three bits each: one byte for both sides.
        let flags =
            (tcp.flags_orig & TcpInfo::CARRIED_FLAGS) << 4 | (tcp.flags_reply & TcpInfo::CARRIED_FLAGS);
        // Scales are at most 14 (RFC 7323, 2.3).
        let scales = (tcp.wscale_orig & 0x0f) << 4 | (tcp.wscale_reply & 0x0f);
        out.extend_from_slice(&[tcp.state, scales, flags]);
    }
    if let Some(master) = &entry.master {
        emit_key(out, &Key { orig: **master, zone: 0 });
    }
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
    if bits & !DEFINED != 0 {
        return Err(WireError::Undefined("presence bit"));
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
    let tcp = if bits & TCP != 0 {
        let (state, scales, flags) = (reader.u8()?, reader.u8()?, reader.u8()?);
        Some(TcpInfo {
            state,
            wscale_orig: scales >> 4,
            wscale_reply: scales & 0x0f,
            flags_orig: flags >> 4,
            flags_reply: flags & 0x0f,
        })
    } else {
        None
    };
    let master = if bits & MASTER != 0 {
        let bits = reader.u16()?;
        if bits & !KEY_BITS != 0 {
            return Err(WireError::Undefined("presence bit of a master"));
        }
        Some(Box::new(parse_key_fields(reader, bits)?.0))
    } else {
        None
    };
    let mut status = Status::Confirmed;
    for (bit, known) in
        [(SEEN_REPLY, Status::SeenReply), (ASSURED, Status::Assured), (EXPECTED, Status::Expected)]
    {
        if bits & bit != 0 {
            status |= known;
        }
    }
    debug_assert!((CARRIED_STATUS | Status::Confirmed).contains(status));
    let timeout = Some(reader.varint()?).filter(|seconds| *seconds != 0);
    let birth = reader.u16()?;
    Ok((Entry { orig, reply, zone, status, timeout, mark, tcp, master }, birth))
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
