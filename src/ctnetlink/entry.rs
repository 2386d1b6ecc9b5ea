//! What the kernel knows of one connection: tuples, status, protocol state; and of one that a helper
//! foresees.
//!
//! Lives here: [`Tuple`], [`Entry`], [`TcpInfo`], [`Rare`], [`Expectation`], [`Key`]. Called by every room of
//! the engine and by the netlink codec. Never here: bytes, sockets, clocks.

use std::net::IpAddr;

pub use netlink_packet_netfilter::conntrack::Status;

/// IP protocol numbers (IANA) that the engine has to tell apart.
pub mod proto {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP, RFC 4340.
    pub const DCCP: u8 = 33;
    /// GRE, RFC 2784; the kernel keeps PPTP call ids as ports.
    pub const GRE: u8 = 47;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// VRRP, RFC 9568.
    pub const VRRP: u8 = 112;
    /// SCTP, RFC 9260.
    pub const SCTP: u8 = 132;
    /// UDP-Lite, RFC 3828.
    pub const UDPLITE: u8 = 136;
}

/// What distinguishes connections of one protocol between the same two addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum L4 {
    /// Source and destination port (TCP, UDP, SCTP, DCCP, UDP-Lite, GRE keys), host byte order.
    Ports {
        /// Source port.
        src: u16,
        /// Destination port.
        dst: u16,
    },
    /// ICMP and ICMPv6 queries.
    Icmp {
        /// Identifier, host byte order.
        id: u16,
        /// Type, RFC 792 or RFC 4443.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// The generic tracker keeps nothing of layer 4.
    Nothing,
}

/// Addresses, protocol and ports of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address; of the same family as `src`.
    pub dst: IpAddr,
    /// IP protocol number.
    pub proto: u8,
    /// Ports, or ICMP id, type and code.
    pub l4: L4,
}

impl Tuple {
    /// The tuple of the packets that answer this one when nothing is translated.
    ///
    /// As the kernel's `nf_ct_invert_tuple`: ICMP queries turn into their replies.
    pub fn inverse(&self) -> Tuple {
        let l4 = match self.l4 {
            L4::Ports { src, dst } => L4::Ports { src: dst, dst: src },
            L4::Icmp { id, kind, code } => L4::Icmp { id, kind: inverse_icmp(self.proto, kind), code },
            L4::Nothing => L4::Nothing,
        };
        Tuple { src: self.dst, dst: self.src, proto: self.proto, l4 }
    }
}

/// `invmap` of nf_conntrack_proto_icmp.c and nf_conntrack_proto_icmpv6.c; other types stay as they are.
fn inverse_icmp(protocol: u8, kind: u8) -> u8 {
    match (protocol, kind) {
        (proto::ICMP, 8) => 0,
        (proto::ICMP, 0) => 8,
        (proto::ICMP, 13) => 14,
        (proto::ICMP, 14) => 13,
        (proto::ICMP, 15) => 16,
        (proto::ICMP, 16) => 15,
        (proto::ICMP, 17) => 18,
        (proto::ICMP, 18) => 17,
        (proto::ICMPV6, 128) => 129,
        (proto::ICMPV6, 129) => 128,
        (proto::ICMPV6, 139) => 140,
        (proto::ICMPV6, 140) => 139,
        (_, other) => other,
    }
}

/// What identifies an entry on every node: the original tuple within its zone. Never `CTA_ID`, which
/// differs from node to node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// Original direction.
    pub orig: Tuple,
    /// Conntrack zone of that direction, 0 when none is set.
    pub zone: u16,
    /// It names an expectation: the kernel keeps those in a table of their own.
    pub expected: bool,
}

/// TCP's part of an entry (`CTA_PROTOINFO_TCP_*`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TcpInfo {
    /// `enum tcp_conntrack`: 1 SYN_SENT, 2 SYN_RECV, 3 ESTABLISHED, ... 8 CLOSE.
    pub state: u8,
    /// Window scale announced by the originator.
    pub wscale_orig: u8,
    /// Window scale announced by the responder.
    pub wscale_reply: u8,
    /// `IP_CT_TCP_FLAG_*` of the originator's side.
    pub flags_orig: u8,
    /// `IP_CT_TCP_FLAG_*` of the responder's side.
    pub flags_reply: u8,
}

impl TcpInfo {
    /// `IP_CT_TCP_FLAG_WINDOW_SCALE | SACK_PERM | CLOSE_INIT`: the flags that mean the same on every node.
    /// Be-liberal, max-ack and unacknowledged data are a node's own view and are never carried.
    pub const CARRIED_FLAGS: u8 = 0x01 | 0x02 | 0x04;
    /// `IP_CT_TCP_FLAG_BE_LIBERAL`: set on every installed entry, since ctnetlink carries no window edges.
    pub const BE_LIBERAL: u8 = 0x08;
    /// `IP_CT_TCP_FLAG_MAXACK_SET`: an acknowledgement of this side has been noted since the entry is here.
    pub const MAXACK_SET: u8 = 0x20;
}

/// SCTP's part of an entry (`CTA_PROTOINFO_SCTP_*`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SctpInfo {
    /// `enum sctp_conntrack`.
    pub state: u8,
    /// Verification tag of the originator's packets (RFC 9260, 8.5), as a number.
    pub vtag_orig: u32,
    /// Verification tag of the responder's packets.
    pub vtag_reply: u32,
}

/// DCCP's part of an entry (`CTA_PROTOINFO_DCCP_*`), on kernels before 6.16, which still track it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DccpInfo {
    /// `enum ct_dccp_states`.
    pub state: u8,
    /// `enum ct_dccp_roles` of the originator.
    pub role: u8,
    /// Sequence number of the handshake.
    pub handshake: u64,
}

/// How far NAT has moved TCP sequence numbers of one direction (`struct nf_ct_seqadj`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SeqAdj {
    /// Sequence number of the last change of length.
    pub position: u32,
    /// Offset before it, two's complement.
    pub before: u32,
    /// Offset behind it, two's complement.
    pub after: u32,
}

/// What a synproxy needs to translate (`struct nf_conn_synproxy`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Synproxy {
    /// Initial sequence number, later the offset.
    pub isn: u32,
    /// Initial timestamp.
    pub its: u32,
    /// Timestamp offset.
    pub tsoff: u32,
}

/// Bytes of `ct label`: `XT_CONNLABEL_MAXBIT` + 1 bits, in the order of the kernel's memory.
pub const LABELS: usize = 16;
/// Longest name of a helper (the kernel's are 15 bytes at most) or of an expect function.
pub const NAME: usize = 31;

/// What only an expectation has (`struct nf_conntrack_expect`); its tuple is [`Entry::orig`], its master
/// [`Entry::master`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expectation {
    /// Which bits of the expected tuple count, as a tuple.
    pub mask: Tuple,
    /// `NF_CT_EXPECT_*`.
    pub flags: u32,
    /// The helper's class of expectations: how many, and how long they are waited for.
    pub class: u32,
    /// What happens when it comes true (`CTA_EXPECT_FN`), by name.
    pub function: Option<Box<str>>,
    /// The direction and the tuple that NAT remembers for it (`CTA_EXPECT_NAT`).
    pub nat: Option<(u32, Tuple)>,
}

/// What few entries have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rare {
    /// Zone of the reply direction, where it is not that of the original one.
    pub reply_zone: Option<u16>,
    /// SCTP only.
    pub sctp: Option<SctpInfo>,
    /// DCCP only.
    pub dccp: Option<DccpInfo>,
    /// `ct label`.
    pub labels: Option<[u8; LABELS]>,
    /// Name of the helper; of an expectation: of its master's.
    pub helper: Option<Box<str>>,
    /// Of the original and of the reply direction.
    pub seqadj: Option<[SeqAdj; 2]>,
    /// TCP behind a synproxy.
    pub synproxy: Option<Synproxy>,
    /// This is no connection yet.
    pub expectation: Option<Expectation>,
}

impl Rare {
    /// Boxed, unless there is nothing in it.
    pub fn boxed(self) -> Option<Box<Rare>> {
        (self != Rare::default()).then(|| Box::new(self))
    }
}

/// One connection, from kernel to kernel. What an event left out is `None`.
///
/// An expectation travels as the entry that it will become: what it expects is the original direction, and
/// [`Rare::expectation`] has what only it has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Original direction.
    pub orig: Tuple,
    /// Reply direction, translated addresses and ports included.
    pub reply: Tuple,
    /// Conntrack zone.
    pub zone: u16,
    /// `IPS_*` bits.
    pub status: Status,
    /// Seconds until expiry when it was read. Absent in dumps of offloaded entries.
    pub timeout: Option<u32>,
    /// `ct mark`.
    pub mark: Option<u32>,
    /// TCP only.
    pub tcp: Option<TcpInfo>,
    /// Original tuple of the entry that this one is related to.
    pub master: Option<Box<Tuple>>,
    /// The rest.
    pub rare: Option<Box<Rare>>,
}

/// The status bits that mean the same on every node; the kernel derives the others (NAT, its "done" bits,
/// CONFIRMED) by itself or they are a node's own affair (OFFLOAD, DYING).
pub const CARRIED_STATUS: Status = Status::Expected.union(Status::SeenReply).union(Status::Assured);

impl Entry {
    /// Original tuple and zone.
    pub fn key(&self) -> Key {
        Key { orig: self.orig, zone: self.zone, expected: self.expectation().is_some() }
    }

    /// The key of its master. A master is looked up in the zone of its child (`ctnetlink_create_conntrack`).
    pub fn master_key(&self) -> Option<Key> {
        Some(Key { orig: **self.master.as_ref()?, zone: self.zone, expected: false })
    }

    /// What only an expectation has.
    pub fn expectation(&self) -> Option<&Expectation> {
        self.rare.as_ref()?.expectation.as_ref()
    }

    /// Name of the helper.
    pub fn helper(&self) -> Option<&str> {
        self.rare.as_ref()?.helper.as_deref()
    }

    /// Source address or port differ between the directions: the kernel rewrites the originator.
    pub fn source_nat(&self) -> bool {
        let plain = self.orig.inverse();
        self.reply.dst != plain.dst || ports(&self.reply).1 != ports(&plain).1
    }

    /// The kernel rewrites the responder.
    pub fn destination_nat(&self) -> bool {
        let plain = self.orig.inverse();
        self.reply.src != plain.src || ports(&self.reply).0 != ports(&plain).0
    }

    /// Whether no update makes the kernel's entry of this key the other: it has another translation, or
    /// something that nothing takes away, or is another expectation, of which only the timeout can change.
    /// What it lacks is no reason: this kernel may know no such helper, and would be asked in vain again and
    /// again.
    pub fn must_be_replaced_by(&self, other: &Entry) -> bool {
        let expected = self.expectation();
        let left_over = self.rare.as_deref().is_some_and(|mine| {
            let theirs = other.rare.as_deref();
            mine.helper.is_some() && self.helper() != other.helper()
                || mine.labels.is_some() && theirs.is_none_or(|theirs| theirs.labels.is_none())
                || mine.seqadj.is_some() && theirs.is_none_or(|theirs| theirs.seqadj.is_none())
                || mine.synproxy.is_some() && theirs.is_none_or(|theirs| theirs.synproxy.is_none())
        });
        self.reply != other.reply
            || left_over
            || expected != other.expectation()
            || expected.is_some() && (&self.master, self.helper()) != (&other.master, other.helper())
    }

    /// The GRE entry of a PPTP call as a kernel needs it that has not seen the call being set up: one entry a
    /// direction.
    ///
    /// A GRE packet names the call of its receiver; the other key of its tuple comes from a map that the PPTP
    /// helper fills when the call is set up, and that nobody else can fill. Without it that key is 0
    /// (`gre_pkt_to_tuple`). So packets to the server are met by an original tuple without the client's key,
    /// packets to the client by a reply tuple without the server's; what its other tuple holds is what NAT
    /// writes into the packet (`gre_manip_pkt`).
    pub fn without_keymap(&self) -> Option<[Entry; 2]> {
        let (L4::Ports { src: near, dst: call }, L4::Ports { dst: back, .. }) = (self.orig.l4, self.reply.l4)
        else {
            return None;
        };
        let of = |orig: [u16; 2], reply: [u16; 2]| {
            let keys = |[src, dst]: [u16; 2]| L4::Ports { src, dst };
            Entry {
                orig: Tuple { l4: keys(orig), ..self.orig },
                reply: Tuple { l4: keys(reply), ..self.reply },
                ..self.clone()
            }
        };
        self.is_call().then(|| [of([0, call], [call, 0]), of([near, 0], [0, back])])
    }

    /// The GRE entry of a PPTP call, both of its keys known.
    pub fn is_call(&self) -> bool {
        let keyed = matches!(self.orig.l4, L4::Ports { src: 1.., dst: 1.. });
        keyed && self.orig.proto == proto::GRE && self.master.is_some()
    }

    /// Take over what an update event tells; what it leaves out stays. (`ctnetlink_conntrack_event` sends an
    /// attribute only when its event bit is set.)
    pub fn merge(&mut self, newer: Entry) {
        self.reply = newer.reply;
        self.status = newer.status;
        self.timeout = newer.timeout.or(self.timeout);
        self.mark = newer.mark.or(self.mark);
        self.tcp = newer.tcp.or(self.tcp);
        self.master = newer.master.or_else(|| self.master.take());
        if let Some(newer) = newer.rare {
            let mine = self.rare.get_or_insert_default();
            mine.reply_zone = newer.reply_zone;
            mine.sctp = newer.sctp.or(mine.sctp);
            mine.dccp = newer.dccp.or(mine.dccp);
            mine.labels = newer.labels.or(mine.labels);
            mine.helper = newer.helper.or_else(|| mine.helper.take());
            mine.seqadj = newer.seqadj.or(mine.seqadj);
            mine.synproxy = newer.synproxy.or(mine.synproxy);
            mine.expectation = newer.expectation.or_else(|| mine.expectation.take());
        }
    }

    /// Take over what a dump or the answer to a get tells: what is not in it is not there any more. Only an
    /// offloaded entry is listed without its timer and protocol state (`ctnetlink_dump_info`).
    pub fn replace(&mut self, newer: Entry) {
        let (timeout, tcp) = (newer.timeout.or(self.timeout), newer.tcp.or(self.tcp));
        let protocol = self.rare.as_ref().map(|mine| (mine.sctp, mine.dccp));
        *self = Entry { timeout, tcp, ..newer };
        if let Some((sctp, dccp)) = protocol.filter(|state| *state != (None, None)) {
            let mine = self.rare.get_or_insert_default();
            mine.sctp = mine.sctp.or(sctp);
            mine.dccp = mine.dccp.or(dccp);
        }
    }

    /// Whether the kernel saw packets in both directions and will not drop the entry early.
    pub fn assured(&self) -> bool {
        self.status.contains(Status::Assured)
    }
}

fn ports(tuple: &Tuple) -> (u16, u16) {
    match tuple.l4 {
        L4::Ports { src, dst } => (src, dst),
        // The id of an ICMP query belongs to its originator: only source NAT translates it.
        L4::Icmp { id, .. } => (0, id),
        L4::Nothing => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple() -> Tuple {
        Tuple {
            src: [10, 0, 1, 100].into(),
            dst: [10, 0, 0, 100].into(),
            proto: proto::TCP,
            l4: L4::Ports { src: 40000, dst: 22 },
        }
    }

    #[test]
    fn inverse_twice_is_the_same() {
        assert_eq!(tuple().inverse().inverse(), tuple());
        let ping = Tuple { proto: proto::ICMP, l4: L4::Icmp { id: 7, kind: 8, code: 0 }, ..tuple() };
        assert_eq!(ping.inverse().l4, L4::Icmp { id: 7, kind: 0, code: 0 });
        assert_eq!(ping.inverse().inverse(), ping);
    }

    #[test]
    fn what_a_kernel_lacks_is_no_reason_to_replace_its_entry() {
        let plain = Entry {
            orig: tuple(),
            reply: tuple().inverse(),
            zone: 0,
            status: Status::Confirmed,
            timeout: None,
            mark: None,
            tcp: None,
            master: None,
            rare: None,
        };
        let rare = Rare { helper: Some("ftp".into()), labels: Some([1; LABELS]), ..Rare::default() };
        let rich = Entry { rare: rare.boxed(), ..plain.clone() };
        assert!(!plain.must_be_replaced_by(&rich), "helpless, or unlabelled");
        assert!(rich.must_be_replaced_by(&plain), "of an earlier connection");
        assert!(!rich.must_be_replaced_by(&rich) && !plain.must_be_replaced_by(&plain));
    }

    #[test]
    fn nat_is_told_by_the_reply_tuple() {
        let mut entry = Entry {
            orig: tuple(),
            reply: tuple().inverse(),
            zone: 0,
            status: Status::Confirmed,
            timeout: None,
            mark: None,
            tcp: None,
            master: None,
            rare: None,
        };
        assert!(!entry.source_nat() && !entry.destination_nat());
        entry.reply.dst = [10, 0, 0, 1].into();
        assert!(entry.source_nat() && !entry.destination_nat());
        entry.reply.src = [10, 0, 0, 99].into();
        assert!(entry.destination_nat());
    }
}
