//! Tuples: `parse` and `emit` of nested CTA_TUPLE_* and CTA_EXPECT_* attributes. Called by the codec's other
//! rooms.

use std::net::IpAddr;

use super::CodecError;
#[allow(clippy::wildcard_imports, reason = "the kernel's names")]
use super::uapi::*;
use crate::entry::{L4, Tuple, proto};
use crate::nla::{Attributes, Writer, read_ip, read_u8, read_u16};

/// A tuple, and the zone that only its direction has.
pub(super) fn parse_tuple(
    attributes: &[u8],
    which: &'static str,
) -> Result<(Tuple, Option<u16>), CodecError> {
    let (mut src, mut dst, mut number, mut l4, mut zone) = (None, None, None, L4::Nothing, None);
    for attribute in Attributes::new(attributes) {
        let (outer, value) = attribute?;
        if outer == CTA_TUPLE_ZONE {
            zone = Some(read_u16(value)?);
            continue;
        }
        for inner in Attributes::new(value) {
            let (kind, value) = inner?;
            match (outer, kind) {
                (CTA_TUPLE_IP, CTA_IP_V4_SRC | CTA_IP_V6_SRC) => src = Some(read_ip(value)?),
                (CTA_TUPLE_IP, CTA_IP_V4_DST | CTA_IP_V6_DST) => dst = Some(read_ip(value)?),
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => number = Some(read_u8(value)?),
                (CTA_TUPLE_PROTO, kind) => parse_l4(kind, value, &mut l4)?,
                _ => {}
            }
        }
    }
    match (src, dst, number) {
        (Some(src), Some(dst), Some(number)) if src.is_ipv4() == dst.is_ipv4() => {
            Ok((Tuple { src, dst, proto: number, l4 }, zone))
        }
        _ => Err(CodecError::Incomplete(which)),
    }
}

fn parse_l4(kind: u16, value: &[u8], l4: &mut L4) -> Result<(), CodecError> {
    let (src_port, dst_port) = if let L4::Ports { src, dst } = *l4 { (src, dst) } else { (0, 0) };
    let (icmp_id, icmp_kind, icmp_code) =
        if let L4::Icmp { id, kind, code } = *l4 { (id, kind, code) } else { (0, 0, 0) };
    match kind {
        CTA_PROTO_SRC_PORT => *l4 = L4::Ports { src: read_u16(value)?, dst: dst_port },
        CTA_PROTO_DST_PORT => *l4 = L4::Ports { src: src_port, dst: read_u16(value)? },
        CTA_PROTO_ICMP_ID | CTA_PROTO_ICMPV6_ID => {
            *l4 = L4::Icmp { id: read_u16(value)?, kind: icmp_kind, code: icmp_code };
        }
        CTA_PROTO_ICMP_TYPE | CTA_PROTO_ICMPV6_TYPE => {
            *l4 = L4::Icmp { id: icmp_id, kind: read_u8(value)?, code: icmp_code };
        }
        CTA_PROTO_ICMP_CODE | CTA_PROTO_ICMPV6_CODE => {
            *l4 = L4::Icmp { id: icmp_id, kind: icmp_kind, code: read_u8(value)? };
        }
        _ => {}
    }
    Ok(())
}

pub(super) fn emit_tuple(writer: &mut Writer, kind: u16, tuple: &Tuple) {
    emit_zoned_tuple(writer, kind, tuple, None);
}

/// A tuple with a zone that only its direction has.
pub(super) fn emit_zoned_tuple(writer: &mut Writer, kind: u16, tuple: &Tuple, zone: Option<u16>) {
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
    if let Some(zone) = zone {
        writer.attribute(CTA_TUPLE_ZONE, &zone.to_be_bytes());
    }
    writer.end_nested(outer);
}

pub(super) fn emit_address(writer: &mut Writer, [v4, v6]: [u16; 2], address: IpAddr) {
    match address {
        IpAddr::V4(address) => writer.attribute(v4, &address.octets()),
        IpAddr::V6(address) => writer.attribute(v6, &address.octets()),
    }
}
