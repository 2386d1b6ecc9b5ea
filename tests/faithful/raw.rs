//! Netlink attributes as a tree, read and written without a line of ctsync: what this says of two kernels is
//! no opinion of the codec's. Names and numbers are those of linux/netfilter/nfnetlink_conntrack.h (6.18), in
//! its order.

use std::collections::BTreeMap;

const NESTED: u16 = 0x8000;
const TYPE: u16 = 0x3fff;

/// An attribute's value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Value {
    Leaf(Vec<u8>),
    Nest(Vec<(u16, Value)>),
}

pub(crate) type Attributes = Vec<(u16, Value)>;

pub(crate) fn leaf(kind: u16, bytes: &[u8]) -> (u16, Value) {
    (kind, Value::Leaf(bytes.to_vec()))
}

pub(crate) fn nest(kind: u16, inner: Attributes) -> (u16, Value) {
    (kind, Value::Nest(inner))
}

pub(crate) fn read(mut bytes: &[u8]) -> Attributes {
    let mut all = Vec::new();
    while bytes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]);
        let value = &bytes[4..length];
        let value = if kind & NESTED != 0 { Value::Nest(read(value)) } else { Value::Leaf(value.to_vec()) };
        all.push((kind & TYPE, value));
        bytes = bytes.get(length.div_ceil(4) * 4..).unwrap_or_default();
    }
    all
}

pub(crate) fn write(attributes: &Attributes) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, value) in attributes {
        let (bytes, nested) = match value {
            Value::Leaf(bytes) => (bytes.clone(), 0),
            Value::Nest(inner) => (write(inner), NESTED),
        };
        out.extend(u16::try_from(bytes.len() + 4).unwrap().to_ne_bytes());
        out.extend((kind | nested).to_ne_bytes());
        out.extend(&bytes);
        out.resize(out.len().div_ceil(4) * 4, 0);
    }
    out
}

/// A whole message: subsystem and type, flags, sequence, family.
pub(crate) fn message(kind: u16, flags: u16, sequence: u32, family: u8, attributes: &Attributes) -> Vec<u8> {
    let body = write(attributes);
    let mut out = Vec::new();
    out.extend(u32::try_from(20 + body.len()).unwrap().to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]);
    out.extend([family, 0, 0, 0]);
    out.extend(body);
    out
}

/// The messages of a buffer: type, flags, whole bytes, attributes.
pub(crate) fn messages(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>, Attributes)> {
    let mut all = Vec::new();
    while bytes.len() >= 16 {
        let length = u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize;
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        // What is no entry (done, errors) has no attributes.
        let entry = kind >= 0x100;
        let attributes = if entry { read(&bytes[20..length]) } else { Vec::new() };
        all.push((kind, bytes[..length].to_vec(), attributes));
        bytes = bytes.get(length.div_ceil(4) * 4..).unwrap_or_default();
    }
    all
}

/// Each enum of the header: its prefix, and its names from 1 on without it.
pub(crate) const HEADER: [(&str, &[&str]); 19] = [
    (
        "CTA",
        &[
            "TUPLE_ORIG",
            "TUPLE_REPLY",
            "STATUS",
            "PROTOINFO",
            "HELP",
            "NAT_SRC",
            "TIMEOUT",
            "MARK",
            "COUNTERS_ORIG",
            "COUNTERS_REPLY",
            "USE",
            "ID",
            "NAT_DST",
            "TUPLE_MASTER",
            "SEQ_ADJ_ORIG",
            "SEQ_ADJ_REPLY",
            "SECMARK",
            "ZONE",
            "SECCTX",
            "TIMESTAMP",
            "MARK_MASK",
            "LABELS",
            "LABELS_MASK",
            "SYNPROXY",
            "FILTER",
            "STATUS_MASK",
            "TIMESTAMP_EVENT",
        ],
    ),
    ("CTA_TUPLE", &["IP", "PROTO", "ZONE"]),
    ("CTA_IP", &["V4_SRC", "V4_DST", "V6_SRC", "V6_DST"]),
    (
        "CTA_PROTO",
        &[
            "NUM",
            "SRC_PORT",
            "DST_PORT",
            "ICMP_ID",
            "ICMP_TYPE",
            "ICMP_CODE",
            "ICMPV6_ID",
            "ICMPV6_TYPE",
            "ICMPV6_CODE",
        ],
    ),
    ("CTA_PROTOINFO", &["TCP", "DCCP", "SCTP"]),
    ("CTA_PROTOINFO_TCP", &["STATE", "WSCALE_ORIGINAL", "WSCALE_REPLY", "FLAGS_ORIGINAL", "FLAGS_REPLY"]),
    ("CTA_PROTOINFO_DCCP", &["STATE", "ROLE", "HANDSHAKE_SEQ", "PAD"]),
    ("CTA_PROTOINFO_SCTP", &["STATE", "VTAG_ORIGINAL", "VTAG_REPLY"]),
    ("CTA_NAT", &["V4_MINIP", "V4_MAXIP", "PROTO", "V6_MINIP", "V6_MAXIP"]),
    ("CTA_PROTONAT", &["PORT_MIN", "PORT_MAX"]),
    ("CTA_HELP", &["NAME", "INFO"]),
    ("CTA_SEQADJ", &["CORRECTION_POS", "OFFSET_BEFORE", "OFFSET_AFTER"]),
    ("CTA_SYNPROXY", &["ISN", "ITS", "TSOFF"]),
    (
        "CTA_EXPECT",
        &["MASTER", "TUPLE", "MASK", "TIMEOUT", "ID", "HELP_NAME", "ZONE", "FLAGS", "CLASS", "NAT", "FN"],
    ),
    ("CTA_EXPECT_NAT", &["DIR", "TUPLE"]),
    ("CTA_COUNTERS", &["PACKETS", "BYTES", "32_PACKETS", "32_BYTES", "PAD"]),
    ("CTA_TIMESTAMP", &["START", "STOP", "PAD"]),
    ("CTA_SECCTX", &["NAME"]),
    ("CTA_FILTER", &["ORIG_FLAGS", "REPLY_FLAGS"]),
];

/// A name of the header.
pub(crate) fn full(prefix: &str, short: &str) -> String {
    match short.strip_prefix("32_") {
        Some(short) => format!("{prefix}32_{short}"),
        None => format!("{prefix}_{short}"),
    }
}

/// The number of an attribute by its name.
pub(crate) fn number(name: &str) -> u16 {
    let all =
        HEADER.iter().flat_map(|(prefix, names)| (1..).zip(*names).map(move |(at, name)| (prefix, name, at)));
    let mut found = all.filter(|(prefix, short, _)| full(prefix, short) == name);
    found.next().unwrap_or_else(|| panic!("the header has no {name}")).2
}

/// The enum that a nested attribute's contents are of.
pub(crate) fn inside(name: &str) -> &'static str {
    let mut known = HEADER.iter().map(|(prefix, _)| *prefix).filter(|prefix| {
        *prefix == name
            || match name {
                "CTA_TUPLE_ORIG"
                | "CTA_TUPLE_REPLY"
                | "CTA_TUPLE_MASTER"
                | "CTA_EXPECT_TUPLE"
                | "CTA_EXPECT_MASK"
                | "CTA_EXPECT_MASTER"
                | "CTA_EXPECT_NAT_TUPLE" => *prefix == "CTA_TUPLE",
                "CTA_TUPLE_IP" => *prefix == "CTA_IP",
                "CTA_TUPLE_PROTO" => *prefix == "CTA_PROTO",
                "CTA_SEQ_ADJ_ORIG" | "CTA_SEQ_ADJ_REPLY" => *prefix == "CTA_SEQADJ",
                "CTA_COUNTERS_ORIG" | "CTA_COUNTERS_REPLY" => *prefix == "CTA_COUNTERS",
                "CTA_NAT_SRC" | "CTA_NAT_DST" => *prefix == "CTA_NAT",
                "CTA_NAT_PROTO" => *prefix == "CTA_PROTONAT",
                _ => false,
            }
    });
    known.next_back().unwrap_or("CTA_UNKNOWN")
}

/// Every leaf by its path of names, `CTA_TUPLE_ORIG CTA_TUPLE_IP CTA_IP_V4_SRC`.
pub(crate) fn leaves(prefix: &str, attributes: &Attributes) -> BTreeMap<String, Vec<u8>> {
    let names = HEADER.iter().find(|(known, _)| *known == prefix).map_or(&[][..], |(_, names)| *names);
    let mut all = BTreeMap::new();
    for (kind, value) in attributes {
        let short = names.get(usize::from(*kind) - 1).map_or(kind.to_string(), |name| (*name).to_owned());
        let name = full(prefix, &short);
        match value {
            Value::Leaf(bytes) => {
                all.insert(name, bytes.clone());
            }
            Value::Nest(inner) => {
                let below = leaves(inside(&name), inner);
                all.extend(below.into_iter().map(|(path, bytes)| (format!("{name} {path}"), bytes)));
            }
        }
    }
    all
}
