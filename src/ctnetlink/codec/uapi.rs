//! Numbers of linux/netfilter/nfnetlink_conntrack.h, under the kernel's names. `docs/kernel.md` has the table
//! of what becomes of each attribute, and `tests/attributes.rs` holds it against the codec.

// enum ctattr_type
pub(super) const CTA_TUPLE_ORIG: u16 = 1;
pub(super) const CTA_TUPLE_REPLY: u16 = 2;
pub(super) const CTA_STATUS: u16 = 3;
pub(super) const CTA_PROTOINFO: u16 = 4;
pub(super) const CTA_HELP: u16 = 5;
pub(super) const CTA_NAT_SRC: u16 = 6;
pub(super) const CTA_TIMEOUT: u16 = 7;
pub(super) const CTA_MARK: u16 = 8;
pub(super) const CTA_ID: u16 = 12;
pub(super) const CTA_NAT_DST: u16 = 13;
pub(super) const CTA_TUPLE_MASTER: u16 = 14;
pub(super) const CTA_SEQ_ADJ_ORIG: u16 = 15;
pub(super) const CTA_SEQ_ADJ_REPLY: u16 = 16;
pub(super) const CTA_ZONE: u16 = 18;
pub(super) const CTA_LABELS: u16 = 22;
pub(super) const CTA_SYNPROXY: u16 = 24;
// enum ctattr_tuple
pub(super) const CTA_TUPLE_IP: u16 = 1;
pub(super) const CTA_TUPLE_PROTO: u16 = 2;
pub(super) const CTA_TUPLE_ZONE: u16 = 3;
// enum ctattr_ip
pub(super) const CTA_IP_V4_SRC: u16 = 1;
pub(super) const CTA_IP_V4_DST: u16 = 2;
pub(super) const CTA_IP_V6_SRC: u16 = 3;
pub(super) const CTA_IP_V6_DST: u16 = 4;
// enum ctattr_l4proto
pub(super) const CTA_PROTO_NUM: u16 = 1;
pub(super) const CTA_PROTO_SRC_PORT: u16 = 2;
pub(super) const CTA_PROTO_DST_PORT: u16 = 3;
pub(super) const CTA_PROTO_ICMP_ID: u16 = 4;
pub(super) const CTA_PROTO_ICMP_TYPE: u16 = 5;
pub(super) const CTA_PROTO_ICMP_CODE: u16 = 6;
pub(super) const CTA_PROTO_ICMPV6_ID: u16 = 7;
pub(super) const CTA_PROTO_ICMPV6_TYPE: u16 = 8;
pub(super) const CTA_PROTO_ICMPV6_CODE: u16 = 9;
// enum ctattr_protoinfo
pub(super) const CTA_PROTOINFO_TCP: u16 = 1;
pub(super) const CTA_PROTOINFO_DCCP: u16 = 2;
pub(super) const CTA_PROTOINFO_SCTP: u16 = 3;
// enum ctattr_protoinfo_tcp
pub(super) const CTA_PROTOINFO_TCP_STATE: u16 = 1;
pub(super) const CTA_PROTOINFO_TCP_WSCALE_ORIGINAL: u16 = 2;
pub(super) const CTA_PROTOINFO_TCP_WSCALE_REPLY: u16 = 3;
pub(super) const CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: u16 = 4;
pub(super) const CTA_PROTOINFO_TCP_FLAGS_REPLY: u16 = 5;
// enum ctattr_protoinfo_dccp
pub(super) const CTA_PROTOINFO_DCCP_STATE: u16 = 1;
pub(super) const CTA_PROTOINFO_DCCP_ROLE: u16 = 2;
pub(super) const CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ: u16 = 3;
// enum ctattr_protoinfo_sctp
pub(super) const CTA_PROTOINFO_SCTP_STATE: u16 = 1;
pub(super) const CTA_PROTOINFO_SCTP_VTAG_ORIGINAL: u16 = 2;
pub(super) const CTA_PROTOINFO_SCTP_VTAG_REPLY: u16 = 3;
// enum ctattr_nat, ctattr_protonat
pub(super) const CTA_NAT_V4_MINIP: u16 = 1;
pub(super) const CTA_NAT_V4_MAXIP: u16 = 2;
pub(super) const CTA_NAT_PROTO: u16 = 3;
pub(super) const CTA_NAT_V6_MINIP: u16 = 4;
pub(super) const CTA_NAT_V6_MAXIP: u16 = 5;
pub(super) const CTA_PROTONAT_PORT_MIN: u16 = 1;
pub(super) const CTA_PROTONAT_PORT_MAX: u16 = 2;
// enum ctattr_help
pub(super) const CTA_HELP_NAME: u16 = 1;
// enum ctattr_seqadj
pub(super) const CTA_SEQADJ_CORRECTION_POS: u16 = 1;
pub(super) const CTA_SEQADJ_OFFSET_BEFORE: u16 = 2;
pub(super) const CTA_SEQADJ_OFFSET_AFTER: u16 = 3;
// enum ctattr_synproxy
pub(super) const CTA_SYNPROXY_ISN: u16 = 1;
pub(super) const CTA_SYNPROXY_ITS: u16 = 2;
pub(super) const CTA_SYNPROXY_TSOFF: u16 = 3;
// enum ctattr_expect
pub(super) const CTA_EXPECT_MASTER: u16 = 1;
pub(super) const CTA_EXPECT_TUPLE: u16 = 2;
pub(super) const CTA_EXPECT_MASK: u16 = 3;
pub(super) const CTA_EXPECT_TIMEOUT: u16 = 4;
pub(super) const CTA_EXPECT_HELP_NAME: u16 = 6;
pub(super) const CTA_EXPECT_FLAGS: u16 = 8;
pub(super) const CTA_EXPECT_CLASS: u16 = 9;
pub(super) const CTA_EXPECT_NAT: u16 = 10;
pub(super) const CTA_EXPECT_FN: u16 = 11;
// enum ctattr_expect_nat
pub(super) const CTA_EXPECT_NAT_DIR: u16 = 1;
pub(super) const CTA_EXPECT_NAT_TUPLE: u16 = 2;

// enum cntl_exp_msg_types
pub(super) const IPCTNL_MSG_EXP_NEW: u8 = 0;
pub(super) const IPCTNL_MSG_EXP_GET: u8 = 1;
pub(super) const IPCTNL_MSG_EXP_DELETE: u8 = 2;
/// linux/netfilter/nfnetlink.h
pub(super) const NFNL_SUBSYS_CTNETLINK_EXP: u8 = 2;
