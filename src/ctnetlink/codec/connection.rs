//! The attributes of one connection (`enum ctattr_type`), both ways. Called by the codec's requests and
//! events.

use std::net::IpAddr;

use netlink_packet_netfilter::conntrack::Status;

use super::tuple::{emit_address, emit_tuple, emit_zoned_tuple, parse_tuple};
#[allow(clippy::wildcard_imports, reason = "the kernel's names")]
use super::uapi::*;
use super::{CodecError, Install, parse_name};
use crate::entry::{
    CARRIED_STATUS, DccpInfo, Entry, Key, L4, LABELS, Rare, SctpInfo, SeqAdj, Synproxy, TcpInfo, Tuple, proto,
};
use crate::nla::{Attributes, Writer, read_u8, read_u16, read_u32, read_u64};

/// The attributes of one conntrack message.
pub(super) fn parse_connection(attributes: &[u8]) -> Result<Entry, CodecError> {
    let (mut orig, mut reply, mut master, mut tcp) = (None, None, None, None);
    let (mut status, mut timeout, mut mark, mut zone) = (Status::empty(), None, None, None);
    let (mut rare, mut seqadj) = (Rare::default(), [None, None]);
    for attribute in Attributes::new(attributes) {
        let (kind, value) = attribute?;
        match kind {
            CTA_TUPLE_ORIG => orig = Some(parse_tuple(value, "original")?),
            CTA_TUPLE_REPLY => reply = Some(parse_tuple(value, "reply")?),
            CTA_TUPLE_MASTER => master = Some(Box::new(parse_tuple(value, "master")?.0)),
            CTA_STATUS => status = Status::from_bits_retain(read_u32(value)?),
            CTA_TIMEOUT => timeout = Some(read_u32(value)?),
            CTA_MARK => mark = Some(read_u32(value)?),
            CTA_ZONE => zone = Some(read_u16(value)?),
            CTA_PROTOINFO => parse_protoinfo(value, &mut tcp, &mut rare)?,
            CTA_HELP => rare.helper = parse_help(value)?,
            CTA_LABELS => rare.labels = parse_labels(value),
            CTA_SEQ_ADJ_ORIG => seqadj[0] = Some(parse_seqadj(value)?),
            CTA_SEQ_ADJ_REPLY => seqadj[1] = Some(parse_seqadj(value)?),
            CTA_SYNPROXY => rare.synproxy = parse_synproxy(value)?,
            _ => {}
        }
    }
    let (orig, orig_zone) = orig.ok_or(CodecError::Incomplete("original"))?;
    let (reply, reply_zone) = reply.ok_or(CodecError::Incomplete("reply"))?;
    if !answers(&orig, &reply) {
        return Err(CodecError::Incomplete("reply"));
    }
    // Common to both directions, or of one (`ctnetlink_dump_zone_id`).
    let (ours, theirs) = match zone {
        Some(common) => (common, common),
        None => (orig_zone.unwrap_or(0), reply_zone.unwrap_or(0)),
    };
    rare.reply_zone = (ours != theirs).then_some(theirs);
    if let [Some(orig), Some(reply)] = seqadj {
        rare.seqadj = Some([orig, reply]);
    }
    if status.contains(Status::Offload) {
        // A flow table keeps the timer; an event tells a day (`nf_flow_offload_fixup_ct`).
        timeout = None;
    }
    Ok(Entry { orig, reply, zone: ours, status, timeout, mark, tcp, master, rare: rare.boxed() })
}

/// Whether a tuple can be of packets that answer the other's: translation changes addresses and ports,
/// nothing else.
fn answers(orig: &Tuple, reply: &Tuple) -> bool {
    let layer4 = matches!(
        (orig.l4, reply.l4),
        (L4::Ports { .. }, L4::Ports { .. })
            | (L4::Icmp { .. }, L4::Icmp { .. })
            | (L4::Nothing, L4::Nothing)
    );
    layer4 && orig.proto == reply.proto && orig.src.is_ipv4() == reply.src.is_ipv4()
}

fn parse_protoinfo(attributes: &[u8], tcp: &mut Option<TcpInfo>, rare: &mut Rare) -> Result<(), CodecError> {
    for attribute in Attributes::new(attributes) {
        let (kind, value) = attribute?;
        match kind {
            CTA_PROTOINFO_TCP => *tcp = Some(parse_tcp(value)?),
            CTA_PROTOINFO_SCTP => rare.sctp = Some(parse_sctp(value)?),
            CTA_PROTOINFO_DCCP => rare.dccp = Some(parse_dccp(value)?),
            _ => {}
        }
    }
    Ok(())
}

fn parse_tcp(attributes: &[u8]) -> Result<TcpInfo, CodecError> {
    let mut info = TcpInfo { state: 0, wscale_orig: 0, wscale_reply: 0, flags_orig: 0, flags_reply: 0 };
    for inner in Attributes::new(attributes) {
        let (kind, value) = inner?;
        // struct nf_ct_tcp_flags { __u8 flags; __u8 mask; }: the first byte counts, a dump leaves the mask 0.
        let first = || value.first().copied().ok_or(CodecError::Incomplete("TCP"));
        match kind {
            CTA_PROTOINFO_TCP_STATE => info.state = first()?,
            CTA_PROTOINFO_TCP_WSCALE_ORIGINAL => info.wscale_orig = first()?,
            CTA_PROTOINFO_TCP_WSCALE_REPLY => info.wscale_reply = first()?,
            CTA_PROTOINFO_TCP_FLAGS_ORIGINAL => info.flags_orig = first()?,
            CTA_PROTOINFO_TCP_FLAGS_REPLY => info.flags_reply = first()?,
            _ => {}
        }
    }
    Ok(info)
}

fn parse_sctp(attributes: &[u8]) -> Result<SctpInfo, CodecError> {
    let mut info = SctpInfo { state: 0, vtag_orig: 0, vtag_reply: 0 };
    for inner in Attributes::new(attributes) {
        let (kind, value) = inner?;
        match kind {
            CTA_PROTOINFO_SCTP_STATE => info.state = read_u8(value)?,
            CTA_PROTOINFO_SCTP_VTAG_ORIGINAL => info.vtag_orig = read_u32(value)?,
            CTA_PROTOINFO_SCTP_VTAG_REPLY => info.vtag_reply = read_u32(value)?,
            _ => {}
        }
    }
    Ok(info)
}

fn parse_dccp(attributes: &[u8]) -> Result<DccpInfo, CodecError> {
    let mut info = DccpInfo { state: 0, role: 0, handshake: 0 };
    for inner in Attributes::new(attributes) {
        let (kind, value) = inner?;
        match kind {
            CTA_PROTOINFO_DCCP_STATE => info.state = read_u8(value)?,
            CTA_PROTOINFO_DCCP_ROLE => info.role = read_u8(value)?,
            CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ => info.handshake = read_u64(value)?,
            _ => {}
        }
    }
    Ok(info)
}

/// The name; CTA_HELP_INFO is private to user-space helpers.
fn parse_help(attributes: &[u8]) -> Result<Option<Box<str>>, CodecError> {
    for inner in Attributes::new(attributes) {
        let (kind, value) = inner?;
        if kind == CTA_HELP_NAME {
            return parse_name(value).map(Some);
        }
    }
    Ok(None)
}

/// The kernel leaves labels out that are all 0 (`ctnetlink_dump_labels`).
fn parse_labels(value: &[u8]) -> Option<[u8; LABELS]> {
    let mut labels = [0; LABELS];
    for (to, from) in labels.iter_mut().zip(value) {
        *to = *from;
    }
    (labels != [0; LABELS]).then_some(labels)
}

fn parse_seqadj(attributes: &[u8]) -> Result<SeqAdj, CodecError> {
    let mut adjustment = SeqAdj::default();
    for inner in Attributes::new(attributes) {
        let (kind, value) = inner?;
        match kind {
            CTA_SEQADJ_CORRECTION_POS => adjustment.position = read_u32(value)?,
            CTA_SEQADJ_OFFSET_BEFORE => adjustment.before = read_u32(value)?,
            CTA_SEQADJ_OFFSET_AFTER => adjustment.after = read_u32(value)?,
            _ => {}
        }
    }
    Ok(adjustment)
}

/// An entry that ctnetlink created has zeros, whether a synproxy is in use or not (`nfct_synproxy_ext_add`).
fn parse_synproxy(attributes: &[u8]) -> Result<Option<Synproxy>, CodecError> {
    let mut synproxy = Synproxy { isn: 0, its: 0, tsoff: 0 };
    for inner in Attributes::new(attributes) {
        let (kind, value) = inner?;
        match kind {
            CTA_SYNPROXY_ISN => synproxy.isn = read_u32(value)?,
            CTA_SYNPROXY_ITS => synproxy.its = read_u32(value)?,
            CTA_SYNPROXY_TSOFF => synproxy.tsoff = read_u32(value)?,
            _ => {}
        }
    }
    Ok((synproxy != Synproxy { isn: 0, its: 0, tsoff: 0 }).then_some(synproxy))
}

/// The original tuple in its zone: enough to find an entry, whichever directions the zone is of.
pub(super) fn emit_key(writer: &mut Writer, key: &Key) {
    emit_tuple(writer, CTA_TUPLE_ORIG, &key.orig);
    if key.zone != 0 {
        writer.attribute(CTA_ZONE, &key.zone.to_be_bytes());
    }
}

/// What a create needs: the reply tuple is the plain inverse of the original and the translation travels as
/// NAT attributes.
pub(super) fn emit_new(writer: &mut Writer, entry: &Entry, how: Install) {
    let mut inverse = entry.orig.inverse();
    if entry.orig.proto == proto::GRE {
        // The kernel translates a GRE key only of an entry that has its master, which it reads after the
        // translation (`nf_nat_l4proto_unique_tuple`): the key stands in the tuple, the address in the NAT
        // attribute.
        inverse.l4 = entry.reply.l4;
    }
    match entry.rare.as_ref().and_then(|rare| rare.reply_zone) {
        // A zone of one direction stands in its tuple (`ctnetlink_parse_tuple_zone`).
        Some(reply) => {
            let of = |zone: u16| (zone != 0).then_some(zone);
            emit_zoned_tuple(writer, CTA_TUPLE_ORIG, &entry.orig, of(entry.zone));
            emit_zoned_tuple(writer, CTA_TUPLE_REPLY, &inverse, of(reply));
        }
        None => {
            emit_key(writer, &entry.key());
            emit_tuple(writer, CTA_TUPLE_REPLY, &inverse);
        }
    }
    // EXPECTED may not differ from the entry, which has it only after CTA_TUPLE_MASTER is read.
    let status = (entry.status & (CARRIED_STATUS - Status::Expected)) | Status::Confirmed;
    emit_common(writer, entry, how, status);
    if let Some(master) = entry.master.as_ref().filter(|_| how.master) {
        emit_tuple(writer, CTA_TUPLE_MASTER, master);
    }
    if entry.source_nat() {
        emit_nat(writer, CTA_NAT_SRC, entry.reply.dst, translated_source(entry));
    }
    if entry.destination_nat() || entry.source_nat() {
        // Without it the kernel would look whether anybody has the same tuple (`nf_nat_alloc_null_binding`,
        // `get_unique_tuple`): a walk through its table. One address and one port leave nothing to look for.
        emit_nat(writer, CTA_NAT_DST, entry.reply.src, translated_destination(entry));
    }
}

/// What an update may change: NAT and master cannot (`ctnetlink_change_conntrack` refuses them).
pub(super) fn emit_change(writer: &mut Writer, entry: &Entry, how: Install) {
    emit_key(writer, &entry.key());
    // EXPECTED may not differ from the kernel's entry, which has it with its master alone.
    let status = if how.master { entry.status } else { entry.status - Status::Expected };
    emit_common(writer, entry, how, (status & CARRIED_STATUS) | Status::Confirmed);
    if entry.mark.is_none() {
        // The kernel's may be of an earlier connection with this tuple.
        writer.attribute(CTA_MARK, &0u32.to_be_bytes());
    }
}

/// Timeout and window tracking alone.
pub(super) fn emit_renewal(writer: &mut Writer, entry: &Entry, how: Install) {
    emit_key(writer, &entry.key());
    if let Some(timeout) = how.timeout {
        writer.attribute(CTA_TIMEOUT, &timeout.to_be_bytes());
    }
    if entry.tcp.is_some() && how.be_liberal {
        emit_liberal(writer, TcpInfo::BE_LIBERAL, TcpInfo::BE_LIBERAL | TcpInfo::MAXACK_SET);
    }
}

/// Not be-liberal any more, on either side.
pub(super) fn emit_tracking(writer: &mut Writer, entry: &Entry) {
    emit_key(writer, &entry.key());
    emit_liberal(writer, 0, TcpInfo::BE_LIBERAL);
}

/// Both sides alike. Whoever is made be-liberal forgets that acknowledgements were seen here: from now on
/// they are seen elsewhere, and what is known of the windows grows old.
fn emit_liberal(writer: &mut Writer, flags: u8, mask: u8) {
    let outer = writer.begin_nested(CTA_PROTOINFO);
    let inner = writer.begin_nested(CTA_PROTOINFO_TCP);
    for kind in [CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, CTA_PROTOINFO_TCP_FLAGS_REPLY] {
        writer.attribute(kind, &[flags, mask]);
    }
    writer.end_nested(inner);
    writer.end_nested(outer);
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
        let mask = TcpInfo::CARRIED_FLAGS | TcpInfo::BE_LIBERAL | TcpInfo::MAXACK_SET;
        for (kind, flags) in [
            (CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, tcp.flags_orig),
            (CTA_PROTOINFO_TCP_FLAGS_REPLY, tcp.flags_reply),
        ] {
            writer.attribute(kind, &[(flags & TcpInfo::CARRIED_FLAGS) | liberal, mask]);
        }
        writer.end_nested(inner);
        writer.end_nested(outer);
    }
    if let Some(rare) = &entry.rare {
        emit_rare(writer, rare, how);
    }
}

fn emit_rare(writer: &mut Writer, rare: &Rare, how: Install) {
    if let Some(sctp) = &rare.sctp {
        let outer = writer.begin_nested(CTA_PROTOINFO);
        let inner = writer.begin_nested(CTA_PROTOINFO_SCTP);
        writer.attribute(CTA_PROTOINFO_SCTP_STATE, &[sctp.state]);
        writer.attribute(CTA_PROTOINFO_SCTP_VTAG_ORIGINAL, &sctp.vtag_orig.to_be_bytes());
        writer.attribute(CTA_PROTOINFO_SCTP_VTAG_REPLY, &sctp.vtag_reply.to_be_bytes());
        writer.end_nested(inner);
        writer.end_nested(outer);
    }
    if let Some(dccp) = &rare.dccp {
        let outer = writer.begin_nested(CTA_PROTOINFO);
        let inner = writer.begin_nested(CTA_PROTOINFO_DCCP);
        writer.attribute(CTA_PROTOINFO_DCCP_STATE, &[dccp.state]);
        writer.attribute(CTA_PROTOINFO_DCCP_ROLE, &[dccp.role]);
        writer.attribute(CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ, &dccp.handshake.to_be_bytes());
        writer.end_nested(inner);
        writer.end_nested(outer);
    }
    if let Some(helper) = rare.helper.as_deref().filter(|_| how.helper) {
        let outer = writer.begin_nested(CTA_HELP);
        writer.string(CTA_HELP_NAME, helper);
        writer.end_nested(outer);
    }
    if let Some(labels) = rare.labels.filter(|_| how.labels) {
        writer.attribute(CTA_LABELS, &labels);
    }
    if let Some(adjustments) = &rare.seqadj {
        for (kind, adjustment) in [CTA_SEQ_ADJ_ORIG, CTA_SEQ_ADJ_REPLY].into_iter().zip(adjustments) {
            let outer = writer.begin_nested(kind);
            writer.attribute(CTA_SEQADJ_CORRECTION_POS, &adjustment.position.to_be_bytes());
            writer.attribute(CTA_SEQADJ_OFFSET_BEFORE, &adjustment.before.to_be_bytes());
            writer.attribute(CTA_SEQADJ_OFFSET_AFTER, &adjustment.after.to_be_bytes());
            writer.end_nested(outer);
        }
    }
    if let Some(synproxy) = &rare.synproxy {
        let outer = writer.begin_nested(CTA_SYNPROXY);
        writer.attribute(CTA_SYNPROXY_ISN, &synproxy.isn.to_be_bytes());
        writer.attribute(CTA_SYNPROXY_ITS, &synproxy.its.to_be_bytes());
        writer.attribute(CTA_SYNPROXY_TSOFF, &synproxy.tsoff.to_be_bytes());
        writer.end_nested(outer);
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
        L4::Ports { .. } if entry.orig.proto == proto::GRE => None,
        L4::Ports { dst, .. } => Some(dst),
        L4::Icmp { id, .. } => Some(id),
        L4::Nothing => None,
    }
}

fn translated_destination(entry: &Entry) -> Option<u16> {
    match entry.reply.l4 {
        L4::Ports { .. } if entry.orig.proto == proto::GRE => None,
        L4::Ports { src, .. } => Some(src),
        // The id belongs to the source's side.
        L4::Icmp { .. } | L4::Nothing => None,
    }
}
