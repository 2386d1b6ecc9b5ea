use proptest::prelude::*;

use super::*;
use crate::facts::{Asked, Build, Evidence, KernelSettings, Mover, Role, Rules, Seat};
use ctsync_ctnetlink::entry::{
    DccpInfo, Entry, Expectation, Key, L4, LABELS, NAME, Rare, SctpInfo, SeqAdj, Status, Synproxy, TcpInfo,
    Tuple,
};

fn address(v6: bool) -> BoxedStrategy<std::net::IpAddr> {
    if v6 {
        any::<u128>().prop_map(|bits| std::net::Ipv6Addr::from(bits).into()).boxed()
    } else {
        any::<u32>().prop_map(|bits| std::net::Ipv4Addr::from(bits).into()).boxed()
    }
}

fn layer4() -> impl Strategy<Value = L4> {
    prop_oneof![
        (any::<u16>(), any::<u16>()).prop_map(|(src, dst)| L4::Ports { src, dst }),
        (any::<u16>(), any::<u8>(), any::<u8>()).prop_map(|(id, kind, code)| L4::Icmp { id, kind, code }),
        Just(L4::Nothing),
    ]
}

/// Boxed, as those below: a debug build keeps whole strategies on the stack, more than a test's thread has.
fn tuple() -> BoxedStrategy<Tuple> {
    any::<bool>()
        .prop_flat_map(|v6| {
            (address(v6), address(v6), any::<u8>(), layer4()).prop_map(|(src, dst, proto, l4)| Tuple {
                src,
                dst,
                proto,
                l4,
            })
        })
        .boxed()
}

fn name() -> impl Strategy<Value = Box<str>> {
    let letters = proptest::collection::vec(0x21u8..0x7f, 1..=NAME);
    letters.prop_map(|bytes| String::from_utf8(bytes).unwrap().into())
}

/// What few entries have, an expectation's own part included or not.
fn rare(expected: bool) -> BoxedStrategy<Option<Box<Rare>>> {
    use proptest::option::of;
    let sctp = (any::<u8>(), any::<[u32; 2]>()).prop_map(|(state, [vtag_orig, vtag_reply])| SctpInfo {
        state,
        vtag_orig,
        vtag_reply,
    });
    let dccp = (any::<[u8; 2]>(), any::<u64>()).prop_map(|([state, role], handshake)| DccpInfo {
        state,
        role,
        handshake,
    });
    let seqadj = any::<[[u32; 3]; 2]>()
        .prop_map(|both| both.map(|[position, before, after]| SeqAdj { position, before, after }));
    let synproxy = any::<[u32; 3]>().prop_map(|[isn, its, tsoff]| Synproxy { isn, its, tsoff });
    let nat = of((any::<u32>(), tuple()));
    let expectation = (tuple(), any::<[u32; 2]>(), of(name()), nat)
        .prop_map(|(mask, [flags, class], function, nat)| Expectation { mask, flags, class, function, nat });
    let expectation = expectation.prop_map(move |expectation| expected.then_some(expectation));
    let fields = (of(any::<u16>()), of(sctp), of(dccp), of(any::<[u8; LABELS]>()), of(name()), of(seqadj));
    (fields, of(synproxy), expectation)
        .prop_map(|((reply_zone, sctp, dccp, labels, helper, seqadj), synproxy, expectation)| {
            Rare { reply_zone, sctp, dccp, labels, helper, seqadj, synproxy, expectation }.boxed()
        })
        .boxed()
}

/// Any entry or expectation that the wire can carry.
fn entry() -> BoxedStrategy<Entry> {
    let common = || prop_oneof![3 => Just(None).boxed(), 1 => rare(false).boxed()];
    prop_oneof![
        4 => (connection(), common()).prop_map(|(entry, rare)| Entry { rare, ..entry }),
        1 => (connection(), tuple(), rare(true)).prop_map(|(entry, master, rare)| Entry {
            master: Some(Box::new(master)),
            rare,
            ..entry
        }),
    ]
    .boxed()
}

/// Any entry that the wire can carry: the reply tuple differs from the inverse in addresses and ports only.
fn connection() -> BoxedStrategy<Entry> {
    let tcp = (1u8..10, 0u8..15, 0u8..15, 0u8..8, 0u8..8).prop_map(|(state, a, b, c, d)| TcpInfo {
        state,
        wscale_orig: a,
        wscale_reply: b,
        flags_orig: c,
        flags_reply: d,
    });
    let status = (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(seen, assured, expected)| {
        let mut status = Status::Confirmed;
        status.set(Status::SeenReply, seen);
        status.set(Status::Assured, assured);
        status.set(Status::Expected, expected);
        status
    });
    let nat = (any::<[bool; 4]>(), any::<[u16; 2]>(), any::<u128>());
    let rest = (any::<u16>(), any::<u32>(), proptest::option::of(1u32..), proptest::option::of(tcp));
    (tuple(), nat, status, rest, proptest::option::of(tuple()))
        .prop_map(|(orig, (which, ports, bits), status, (zone, timeout, mark, tcp), master)| {
            let mut reply = orig.inverse();
            let other = |address: std::net::IpAddr| -> std::net::IpAddr {
                if address.is_ipv4() {
                    std::net::Ipv4Addr::from((bits & 0xffff_ffff) as u32).into()
                } else {
                    std::net::Ipv6Addr::from(bits).into()
                }
            };
            if which[0] {
                reply.src = other(reply.src);
            }
            if which[1] {
                reply.dst = other(reply.dst);
            }
            match &mut reply.l4 {
                L4::Ports { src, dst } => {
                    *src = if which[2] { ports[0] } else { *src };
                    *dst = if which[3] { ports[1] } else { *dst };
                }
                L4::Icmp { id, .. } => *id = if which[2] { ports[0] } else { *id },
                L4::Nothing => {}
            }
            let timeout = Some(timeout).filter(|seconds| *seconds != 0);
            Entry { orig, reply, zone, status, timeout, mark, tcp, master: master.map(Box::new), rare: None }
        })
        .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn an_entry_arrives_as_it_was_sent(entry in entry(), birth: u16) {
        let mut bytes = Vec::new();
        emit_put(&mut bytes, &entry, birth, false);
        let mut messages = Messages::new(&bytes);
        let put = Message::Put { entry, birth, repair: false };
        prop_assert_eq!(messages.next(), Some(Ok(put)));
        prop_assert_eq!(messages.next(), None);
    }

    #[test]
    fn a_change_makes_of_an_entry_what_it_is_now(before in entry(), after in entry(), key: u64, birth: u16) {
        let after = Entry { orig: before.orig, reply: before.reply, zone: before.zone, ..after };
        let changed = Changed::of(&after);
        prop_assert_eq!(changed.is_none(), after.master.is_some() || after.rare.is_some());
        if let Some(changed) = changed {
            let mut bytes = Vec::new();
            emit_change(&mut bytes, key, birth, &changed);
            let mut whole = Vec::new();
            emit_put(&mut whole, &after, birth, false);
            prop_assert!(bytes.len() < whole.len());
            let mut messages = Messages::new(&bytes);
            let Some(Ok(Message::Change { key: arrived, birth: stamp, changed })) = messages.next() else {
                panic!("it cannot be read");
            };
            prop_assert_eq!((arrived, stamp, messages.next()), (key, birth, None));
            prop_assert_eq!(changed.applied_to(&before), after);
        }
    }

    #[test]
    fn no_entry_needs_more_room_than_is_kept_for_it(entry in entry()) {
        let mut bytes = Vec::new();
        emit_put(&mut bytes, &entry, 1, false);
        let rare = if entry.rare.is_some() { packed::RARE_ROOM } else { 0 };
        prop_assert!(bytes.len() <= 1 + packed::COMMON_ROOM + rare);
    }

    #[test]
    fn canonical_bytes_ignore_what_is_a_nodes_own(entry in entry(), timeout: u32, mask in 0u8..0x40) {
        let mut bytes = Vec::new();
        packed::emit_canonical(&mut bytes, &entry);
        let mut other = entry.clone();
        other.timeout = Some(timeout);
        other.status |= Status::SrcNat | Status::SrcNatDone | Status::Offload;
        if let Some(tcp) = &mut other.tcp {
            tcp.flags_orig |= mask & !TcpInfo::CARRIED_FLAGS;
        }
        let mut again = Vec::new();
        packed::emit_canonical(&mut again, &other);
        prop_assert_eq!(bytes, again);
    }

    #[test]
    fn the_key_decides_the_key_bytes(entry in entry()) {
        let (mut bytes, mut again) = (Vec::new(), Vec::new());
        packed::emit_key(&mut bytes, &entry.key());
        let key = entry.key();
        packed::emit_key(&mut again, &Key { zone: key.zone.wrapping_add(1), ..key });
        prop_assert_ne!(&bytes, &again);
        again.clear();
        packed::emit_key(&mut again, &Key { expected: !key.expected, ..key });
        prop_assert_ne!(&bytes, &again);
    }

    #[test]
    fn received_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 1u8..10) {
        let _ = parse(&bytes);
        let mut datagram = Vec::new();
        emit_header(&mut datagram, &header(), kind);
        datagram.extend_from_slice(&bytes);
        if let Ok((_, Body::Stream(_, messages) | Body::Offer { messages, .. })) = parse(&datagram) {
            for message in Messages::new(messages) {
                if let Ok(Message::List { lines, .. }) = message {
                    prop_assert_eq!(listed(lines).count(), lines.len() / LISTED_SIZE);
                }
            }
        }
    }

    #[test]
    fn a_truncated_datagram_is_an_error(entry in entry(), cut in 1usize..30) {
        let mut bytes = Vec::new();
        emit_put(&mut bytes, &entry, 1, true);
        let short = &bytes[..bytes.len().saturating_sub(cut)];
        prop_assert!(!matches!(Messages::new(short).next(), Some(Ok(_))));
    }
}

fn header() -> Header {
    Header { node_group: 7, sender: NodeId(0x0102_0304_0506_0708), incarnation: Incarnation(9) }
}

#[test]
fn every_body_comes_back() {
    let alive = Alive {
        name: "router1".into(),
        last: 10,
        oldest: 3,
        turn: 5,
        token: 77,
        claim: Claim { epoch: 4, node: NodeId(5) },
        owner: true,
        truth: Some(Claim { epoch: 3, node: NodeId(5) }),
        stood: Some(Stood { claim: Claim { epoch: 2, node: NodeId(6) }, run: Incarnation(8), next: 11 }),
        owes: true,
        lineage: 9,
        ready: true,
        root: 0xdead_beef,
        count: 223,
        mechanism_group: "vrrp SYNC".into(),
        role: Role::Fault,
        seat: Seat { evidence: Evidence::Addresses, mover: Mover::Absent, addresses: 3, here: 1 },
        peers: vec![Heard { node: NodeId(0x5555_6666_7777_8888), longest: 1452 }],
        kernel: Some(KernelTold {
            settings: KernelSettings {
                max: 262_144,
                loose: true,
                events: false,
                timestamps: true,
                rules: Rules { asked: Asked::KNOWN | Asked::NAT6, helpers: 0x2001, timeout_policies: 2 },
                timeouts: [1, 2, 3, 4, 5, 6, 7, u32::MAX],
            },
            refused: 7,
            bound: 8,
            build: Build([9, 8, 7]),
        }),
        ..Alive::default()
    };
    let quiet = Alive { kernel: None, ..alive.clone() };
    let node = Node { level: 3, index: 0xabc };
    let wants = vec![Want::Sums(node), Want::Subtree(node), Want::List(65535), Want::Key(u64::MAX)];
    let (to, group) = (Incarnation(42), GroupId(0));
    for body in [
        Body::Alive(Box::new(alive)),
        Body::Alive(Box::new(quiet)),
        Body::Nack { to, holes: vec![(1, 9), (12, 12)] },
        Body::Ask { to, group, wants },
        Body::Offer { to, group, messages: b"x" },
        Body::Flush { to, token: 3 },
        Body::Challenge { to, nonce: 4 },
        Body::Proof { to, nonce: 5 },
        Body::Stream(StreamHead { group, sequence: 12, root: 13 }, b"messages"),
    ] {
        let mut bytes = Vec::new();
        emit_body(&mut bytes, &header(), &body);
        assert_eq!(parse(&bytes), Ok((header(), body)));
    }
}

/// What comes after it is reckoned with: one that has no successor would overflow.
#[test]
fn a_count_that_nobody_reaches_is_refused() {
    let claim = |epoch| Claim { epoch, node: NodeId(1) };
    let stream = |sequence| Body::Stream(StreamHead { sequence, ..StreamHead::default() }, b"");
    let alive = |alive: Alive| Body::Alive(Box::new(alive));
    let bodies = |count| {
        [
            alive(Alive { last: count, ..Alive::default() }),
            alive(Alive { oldest: count, ..Alive::default() }),
            alive(Alive { next: count, ..Alive::default() }),
            alive(Alive { claim: claim(count), ..Alive::default() }),
            stream(count),
        ]
    };
    for (count, good) in [(UNCOUNTED - 1, true), (UNCOUNTED, false), (u64::MAX, false)] {
        for body in bodies(count) {
            let mut bytes = Vec::new();
            emit_body(&mut bytes, &header(), &body);
            assert_eq!(parse(&bytes).is_ok(), good, "{body:?}");
        }
    }
}

#[test]
fn another_version_and_other_programs_are_told_apart() {
    let mut bytes = Vec::new();
    emit_body(&mut bytes, &header(), &Body::Flush { to: Incarnation(1), token: 1 });
    bytes[2] = 9;
    assert_eq!(parse(&bytes), Err(WireError::Version(9)));
    bytes[0] = 0;
    assert_eq!(parse(&bytes), Err(WireError::Magic));
    assert_eq!(parse(&[]), Err(WireError::Truncated));
}

#[test]
fn a_name_that_no_node_has_is_refused() {
    let header = Header { node_group: 0, sender: NodeId(1), incarnation: Incarnation(2) };
    let alive = Alive { name: "n".repeat(64), mechanism_group: "manual G".into(), ..Alive::default() };
    let mut good = Vec::new();
    emit_body(&mut good, &header, &Body::Alive(Box::new(alive)));
    assert!(parse(&good).is_ok());
    // The first attribute: its kind, its length, and the name.
    let at = good.windows(2).position(|bytes| bytes == [1, 64]).unwrap();
    let mut long = good.clone();
    long[at + 1] = 65;
    assert_eq!(parse(&long), Err(WireError::Undefined("name")));
    let mut no_text = good.clone();
    no_text[at + 2] = 0xff;
    assert_eq!(parse(&no_text), Err(WireError::Undefined("name")));
}

/// What a later build adds: an attribute that is not known here, and more of one that is.
#[test]
fn what_a_later_build_adds_to_an_alive_is_left_out() {
    let alive = Box::new(Alive { name: "a".into(), token: 7, ..Alive::default() });
    let mut bytes = Vec::new();
    emit_body(&mut bytes, &header(), &Body::Alive(alive.clone()));
    let at = bytes.windows(2).position(|bytes| bytes == [4, 4]).unwrap();
    bytes[at + 1] = 6;
    bytes.extend([0xff, 0xff, 200, 3, 1, 2, 3, 0, 1, 2]);
    assert_eq!(parse(&bytes), Ok((header(), Body::Alive(alive))));
    bytes.truncate(bytes.len() - 5);
    assert_eq!(parse(&bytes), Err(WireError::Truncated));
}

#[test]
fn a_translated_tcp_entry_costs_at_most_33_bytes() {
    let orig = Tuple {
        src: [10, 0, 1, 100].into(),
        dst: [10, 0, 0, 100].into(),
        proto: 6,
        l4: L4::Ports { src: 40000, dst: 443 },
    };
    let mut reply = orig.inverse();
    reply.dst = [10, 0, 0, 1].into();
    reply.l4 = L4::Ports { src: 443, dst: 50000 };
    let tcp = Some(TcpInfo { state: 3, wscale_orig: 7, wscale_reply: 7, flags_orig: 3, flags_reply: 3 });
    let status = Status::Confirmed | Status::SeenReply | Status::Assured;
    let entry = Entry {
        orig,
        reply,
        zone: 0,
        status,
        timeout: Some(432_000),
        mark: None,
        tcp,
        master: None,
        rare: None,
    };
    let mut bytes = Vec::new();
    emit_put(&mut bytes, &entry, 1, false);
    assert!(bytes.len() <= 33, "{} bytes", bytes.len());
}
