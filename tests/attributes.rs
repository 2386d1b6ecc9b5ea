//! The table of every attribute in `docs/kernel.md` against the codec: read, carried, installed, or why not.
//!
//! Each attribute of linux/netfilter/nfnetlink_conntrack.h (6.18) is altered in sample messages: what then
//! differs in the entry was read, what differs on the wire is carried, and what a request to the kernel
//! contains is installed.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};

use ctsync_ctnetlink::codec::{self, Event, Install};
use ctsync_ctnetlink::entry::Entry;
use ctsync_ctnetlink::nla::Writer;
use ctsync_engine::wire;

#[allow(dead_code, reason = "the other test needs the rest")]
#[path = "faithful/raw.rs"]
mod raw;

use raw::{Attributes, HEADER, Value, leaf, message, nest, number};

fn be16(name: &str, value: u16) -> (u16, Value) {
    leaf(number(name), &value.to_be_bytes())
}

fn be32(name: &str, value: u32) -> (u16, Value) {
    leaf(number(name), &value.to_be_bytes())
}

fn nested(name: &str, inner: Attributes) -> (u16, Value) {
    nest(number(name), inner)
}

/// Addresses end in these bytes; ports, or an ICMP query of this type.
fn tuple(name: &str, v6: bool, [src, dst]: [u8; 2], proto: u8, l4: Attributes) -> (u16, Value) {
    let family = if v6 { "V6" } else { "V4" };
    let address = |last: u8| {
        let mut bytes = vec![10; if v6 { 16 } else { 4 }];
        *bytes.last_mut().unwrap() = last;
        bytes
    };
    let ip = vec![
        leaf(number(&format!("CTA_IP_{family}_SRC")), &address(src)),
        leaf(number(&format!("CTA_IP_{family}_DST")), &address(dst)),
    ];
    let mut inner = vec![leaf(number("CTA_PROTO_NUM"), &[proto])];
    inner.extend(l4);
    nested(name, vec![nested("CTA_TUPLE_IP", ip), nested("CTA_TUPLE_PROTO", inner)])
}

fn ports(src: u16, dst: u16) -> Attributes {
    vec![be16("CTA_PROTO_SRC_PORT", src), be16("CTA_PROTO_DST_PORT", dst)]
}

fn query(which: &str, kind: u8) -> Attributes {
    vec![
        be16(&format!("CTA_PROTO_{which}_ID"), 7),
        leaf(number(&format!("CTA_PROTO_{which}_TYPE")), &[kind]),
        leaf(number(&format!("CTA_PROTO_{which}_CODE")), &[0]),
    ]
}

/// Sequence numbers of both directions, a synproxy, and everything that only the kernel itself has.
fn extensions() -> Attributes {
    let mut all = Vec::new();
    for name in ["CTA_SEQ_ADJ_ORIG", "CTA_SEQ_ADJ_REPLY"] {
        let names = ["CTA_SEQADJ_CORRECTION_POS", "CTA_SEQADJ_OFFSET_BEFORE", "CTA_SEQADJ_OFFSET_AFTER"];
        all.push(nested(name, names.map(|name| be32(name, 0x0100_0001)).into()));
    }
    let names = ["CTA_SYNPROXY_ISN", "CTA_SYNPROXY_ITS", "CTA_SYNPROXY_TSOFF"];
    all.push(nested("CTA_SYNPROXY", names.map(|name| be32(name, 0x0200_0001)).into()));
    for name in ["CTA_COUNTERS_ORIG", "CTA_COUNTERS_REPLY"] {
        let all_of = ["CTA_COUNTERS_PACKETS", "CTA_COUNTERS_BYTES", "CTA_COUNTERS_PAD"];
        let counters = all_of.map(|name| leaf(number(name), &[0, 0, 0, 0, 0, 0, 1, 0]));
        let old = ["CTA_COUNTERS32_PACKETS", "CTA_COUNTERS32_BYTES"].map(|name| be32(name, 1));
        all.push(nested(name, counters.into_iter().chain(old).collect()));
    }
    for name in ["CTA_USE", "CTA_ID", "CTA_SECMARK", "CTA_MARK_MASK", "CTA_STATUS_MASK"] {
        all.push(be32(name, 1));
    }
    for name in ["CTA_SECCTX", "CTA_TIMESTAMP", "CTA_FILTER"] {
        all.push(nested(name, vec![leaf(1, &[0, 0, 0, 0, 0, 0, 0, 1])]));
    }
    all.push(leaf(number("CTA_TIMESTAMP_EVENT"), &[0, 0, 0, 0, 0, 0, 0, 1]));
    all.push(leaf(number("CTA_LABELS_MASK"), &[0xff; 16]));
    all
}

fn connection(v6: bool, proto: u8, l4: Attributes, back: Attributes, protoinfo: Attributes) -> Attributes {
    let mut all = vec![
        tuple("CTA_TUPLE_ORIG", v6, [1, 2], proto, l4),
        // Translated at both ends.
        tuple("CTA_TUPLE_REPLY", v6, [20, 10], proto, back),
        be32("CTA_STATUS", 0x0e),
        be32("CTA_TIMEOUT", 300),
        be32("CTA_MARK", 0x77),
        leaf(number("CTA_LABELS"), &[3; 16]),
        tuple("CTA_TUPLE_MASTER", v6, [1, 2], 6, ports(5, 21)),
        nested(
            "CTA_HELP",
            vec![leaf(number("CTA_HELP_NAME"), b"ftp\0"), leaf(number("CTA_HELP_INFO"), &[1; 4])],
        ),
    ];
    if !protoinfo.is_empty() {
        all.push(nested("CTA_PROTOINFO", protoinfo));
    }
    all
}

/// A name, whether it is an expectation, and a message's attributes.
fn samples() -> Vec<(&'static str, bool, Attributes)> {
    let tcp = || {
        nested(
            "CTA_PROTOINFO_TCP",
            vec![
                leaf(number("CTA_PROTOINFO_TCP_STATE"), &[3]),
                leaf(number("CTA_PROTOINFO_TCP_WSCALE_ORIGINAL"), &[6]),
                leaf(number("CTA_PROTOINFO_TCP_WSCALE_REPLY"), &[7]),
                leaf(number("CTA_PROTOINFO_TCP_FLAGS_ORIGINAL"), &[3, 0]),
                leaf(number("CTA_PROTOINFO_TCP_FLAGS_REPLY"), &[3, 0]),
            ],
        )
    };
    let sctp = nested(
        "CTA_PROTOINFO_SCTP",
        vec![
            leaf(number("CTA_PROTOINFO_SCTP_STATE"), &[4]),
            be32("CTA_PROTOINFO_SCTP_VTAG_ORIGINAL", 0x11),
            be32("CTA_PROTOINFO_SCTP_VTAG_REPLY", 0x22),
        ],
    );
    let dccp = nested(
        "CTA_PROTOINFO_DCCP",
        vec![
            leaf(number("CTA_PROTOINFO_DCCP_STATE"), &[4]),
            leaf(number("CTA_PROTOINFO_DCCP_ROLE"), &[1]),
            leaf(number("CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ"), &[0, 0, 0, 0, 0, 0, 0, 9]),
            leaf(number("CTA_PROTOINFO_DCCP_PAD"), &[]),
        ],
    );
    let mut everything = connection(false, 6, ports(1000, 80), ports(8080, 2000), vec![tcp()]);
    everything.extend(extensions());
    let mut zoned = connection(false, 6, ports(1000, 80), ports(8080, 2000), vec![tcp()]);
    zoned.push(be16("CTA_ZONE", 5));
    let mut one_way = connection(true, 6, ports(1000, 80), ports(8080, 2000), vec![tcp()]);
    if let Value::Nest(inner) = &mut one_way[0].1 {
        inner.push(be16("CTA_TUPLE_ZONE", 6));
    }
    let nat = nested(
        "CTA_EXPECT_NAT",
        vec![be32("CTA_EXPECT_NAT_DIR", 1), tuple("CTA_EXPECT_NAT_TUPLE", false, [7, 8], 6, ports(0, 9))],
    );
    let expectation = vec![
        tuple("CTA_EXPECT_MASTER", false, [1, 2], 6, ports(5, 21)),
        tuple("CTA_EXPECT_TUPLE", false, [2, 1], 6, ports(0, 40_000)),
        tuple("CTA_EXPECT_MASK", false, [255, 255], 6, ports(0, 0xffff)),
        be32("CTA_EXPECT_TIMEOUT", 300),
        be32("CTA_EXPECT_ID", 1),
        leaf(number("CTA_EXPECT_HELP_NAME"), b"sip\0"),
        be16("CTA_EXPECT_ZONE", 1),
        be32("CTA_EXPECT_FLAGS", 1),
        be32("CTA_EXPECT_CLASS", 1),
        leaf(number("CTA_EXPECT_FN"), b"nat-follow-master\0"),
        nat,
    ];
    vec![
        ("TCP", false, everything),
        ("TCP in a zone", false, zoned),
        ("TCP in a zone of one direction", false, one_way),
        ("ICMP", false, connection(false, 1, query("ICMP", 8), query("ICMP", 0), vec![])),
        ("ICMPv6", false, connection(true, 58, query("ICMPV6", 128), query("ICMPV6", 129), vec![])),
        ("SCTP", false, connection(false, 132, ports(1, 2), ports(3, 4), vec![sctp])),
        ("DCCP", false, connection(false, 33, ports(1, 2), ports(3, 4), vec![dccp])),
        ("expectation", true, expectation),
    ]
}

fn parse(expected: bool, attributes: &Attributes) -> Option<Entry> {
    let bytes = message(if expected { 0x0200 } else { 0x0100 }, 0, 1, 2, attributes);
    let mut found = None;
    codec::parse_events(&bytes, |event| {
        if let Event::Update(entry) = event {
            found = Some(entry);
        }
    })
    .ok()?;
    found
}

fn on_the_wire(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::emit_put(&mut bytes, entry, 1, false);
    bytes
}

/// Every leaf and nest below `attributes`, altered one at a time; `each` gets the names on the way to it.
fn alter(prefix: &str, attributes: &Attributes, each: &mut dyn FnMut(&[String], Attributes)) {
    let names = HEADER.iter().find(|(known, _)| *known == prefix).map_or(&[][..], |(_, names)| *names);
    for (at, (kind, value)) in attributes.iter().enumerate() {
        let Some(short) = names.get(usize::from(*kind) - 1) else { continue };
        let name = raw::full(prefix, short);
        let mut put = |path: &[String], value: Value| {
            let mut altered = attributes.clone();
            altered[at].1 = value;
            let path: Vec<String> = std::iter::once(name.clone()).chain(path.iter().cloned()).collect();
            each(&path, altered);
        };
        match value {
            Value::Leaf(bytes) => {
                let mut bytes = bytes.clone();
                // The last byte of a number, the first of a string or of flags.
                let place = if bytes.len() == 2 || bytes.last() == Some(&0) {
                    0
                } else {
                    bytes.len().saturating_sub(1)
                };
                if let Some(byte) = bytes.get_mut(place) {
                    *byte ^= 0x02;
                }
                put(&[], Value::Leaf(bytes));
            }
            Value::Nest(inner) => {
                alter(raw::inside(&name), inner, &mut |path, inner| put(path, Value::Nest(inner)));
            }
        }
    }
}

/// The names in the kernel's requests for an entry.
fn requested(entry: &Entry) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let how = Install::whole(3600);
    for emit in [codec::emit_create, codec::emit_update, codec::emit_renew] {
        let mut writer = Writer::default();
        emit(&mut writer, 1, entry, how);
        let prefix = if entry.expectation().is_some() { "CTA_EXPECT" } else { "CTA" };
        let attributes = raw::read(&writer.as_bytes()[20..]);
        names.extend(
            raw::leaves(prefix, &attributes).keys().flat_map(|path| path.split(' ').map(str::to_owned)),
        );
    }
    names
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Becomes {
    read: bool,
    carried: bool,
    installed: bool,
}

fn found() -> BTreeMap<String, Becomes> {
    let all = HEADER.iter().flat_map(|(prefix, names)| names.iter().map(move |name| raw::full(prefix, name)));
    let mut found: BTreeMap<String, Becomes> = all.map(|name| (name, Becomes::default())).collect();
    for (what, expected, attributes) in samples() {
        let entry = parse(expected, &attributes).unwrap_or_else(|| panic!("{what} is not read"));
        let plain = on_the_wire(&entry);
        let prefix = if expected { "CTA_EXPECT" } else { "CTA" };
        alter(prefix, &attributes, &mut |path, altered| {
            let other = parse(expected, &altered);
            let read = other.as_ref() != Some(&entry);
            let carried = other.is_some_and(|other| on_the_wire(&other) != plain);
            for name in path {
                let place = found.get_mut(name).unwrap();
                place.read |= read;
                place.carried |= carried;
            }
        });
        for name in requested(&entry) {
            found.get_mut(&name).unwrap().installed = true;
        }
    }
    found
}

#[test]
fn the_table_of_attributes_is_true() {
    let page = include_str!("../docs/kernel.md");
    let section =
        page.split("## Every attribute").nth(1).expect("the section").split("\n## ").next().unwrap();
    let mut told = BTreeMap::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let yes = |at: usize| match cells[at] {
            "yes" => true,
            "-" => false,
            other => panic!("{other} in {line}"),
        };
        let becomes = Becomes { read: yes(2), carried: yes(3), installed: yes(4) };
        let whole = becomes.read && becomes.carried && becomes.installed;
        assert!(whole || cells[5].len() > 5, "why not? {line}");
        told.insert(cells[1].trim_matches('`').to_owned(), becomes);
    }
    let found = found();
    let word = |is| if is { "yes" } else { "-" };
    for (name, is) in &found {
        if told.get(name) != Some(is) {
            println!("| `{name}` | {} | {} | {} |", word(is.read), word(is.carried), word(is.installed));
        }
    }
    let wrong: Vec<_> = found.iter().filter(|(name, is)| told.get(*name) != Some(is)).collect();
    assert!(wrong.is_empty(), "{} attributes are not as the document says", wrong.len());
    assert_eq!(told.len(), found.len(), "the document names attributes that the header lacks");
}

/// nfs and sqlnet have user-space helpers, which not every kernel can run: their expectations on constructed
/// messages.
#[test]
fn expectations_of_user_space_helpers_are_taken_by_the_users_words() {
    let filter =
        |word: &str| ctsync_engine::filter::Filter { expect: vec![word.into()], ..Default::default() };
    let (_, _, sample) = samples().pop().unwrap();
    for (word, helper) in [("nfs", "rpc\0"), ("sqlnet", "tns\0"), ("h323", "Q.931\0"), ("ftp", "ftp\0")] {
        let mut attributes = sample.clone();
        for (kind, value) in &mut attributes {
            if *kind == number("CTA_EXPECT_HELP_NAME") {
                *value = Value::Leaf(helper.as_bytes().to_vec());
            }
        }
        let entry = parse(true, &attributes).unwrap();
        for other in ["nfs", "sqlnet", "h323", "ftp", "sip"] {
            assert_eq!(filter(other).accepts(&entry), other == word, "{helper} and {other}");
        }
        assert!(filter("all").accepts(&entry));
        assert!(!ctsync_engine::filter::Filter::default().accepts(&entry), "off unless asked for");
    }
}
