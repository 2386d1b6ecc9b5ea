//! The test vectors of `docs/protocol.md`: what the page shows is what is sent, and is read back as what was
//! meant.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use ctsync_ctnetlink::entry::{Entry, Expectation, Key, L4, Rare, Status, TcpInfo, Tuple, proto};
use ctsync_engine::digest::Digester;
use ctsync_engine::facts::{Asked, Build, Evidence, KernelSettings, Mover, Role, Rules, Seat};
use ctsync_engine::seal::{Key as SealKey, Seal};
use ctsync_engine::wire::{
    self, Alive, Body, Claim, GroupId, Header, Heard, Incarnation, KernelTold, Listed, Messages, Node,
    NodeId, Refusal, Stood, StreamHead, Want, packed,
};

const HEADER: Header = Header {
    node_group: 0,
    sender: NodeId(0x1111_2222_3333_4444),
    incarnation: Incarnation(0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f),
};
const PEER: Incarnation = Incarnation(0xf0f1_f2f3_f4f5_f6f7_f8f9_fafb_fcfd_feff);
const SEED: u128 = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff;

/// Name of a vector and its bytes, as the page has them.
fn page() -> BTreeMap<String, Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut vectors = BTreeMap::new();
    for block in text.split("```vector ").skip(1) {
        let (name, rest) = block.split_once('\n').unwrap();
        let lines = rest.split("```").next().unwrap().lines();
        // Behind the bytes a line says what they are.
        let hex: String =
            lines.flat_map(|line| line.split("  ").next().unwrap().split_whitespace()).collect();
        let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
        assert!(vectors.insert(name.trim().to_owned(), bytes.collect()).is_none(), "{name} is there twice");
    }
    vectors
}

/// A web connection of a LAN host behind source NAT.
fn connection() -> Entry {
    let orig = Tuple {
        src: [10, 0, 1, 100].into(),
        dst: [198, 51, 100, 7].into(),
        proto: proto::TCP,
        l4: L4::Ports { src: 40000, dst: 443 },
    };
    let mut reply = orig.inverse();
    reply.dst = [10, 0, 0, 1].into();
    reply.l4 = L4::Ports { src: 443, dst: 1024 };
    Entry {
        orig,
        reply,
        zone: 0,
        status: Status::Confirmed | Status::SeenReply | Status::Assured,
        timeout: Some(432_000),
        mark: None,
        tcp: Some(TcpInfo { state: 3, wscale_orig: 7, wscale_reply: 9, flags_orig: 3, flags_reply: 3 }),
        master: None,
        rare: None,
    }
}

/// What FTP's helper foresees, IPv6.
fn expectation() -> Entry {
    let tuple = |src: u16, dst: u16| Tuple {
        src: "2001:db8::7".parse().unwrap(),
        dst: "fd00::100".parse().unwrap(),
        proto: proto::TCP,
        l4: L4::Ports { src, dst },
    };
    let own = Expectation {
        mask: Tuple { l4: L4::Ports { src: 0, dst: 0xffff }, ..tuple(0, 0) },
        flags: 0,
        class: 0,
        function: Some("nat-follow-master".into()),
        nat: None,
    };
    let rare = Rare { helper: Some("ftp".into()), expectation: Some(own), ..Rare::default() };
    Entry {
        orig: tuple(0, 5001),
        reply: tuple(0, 5001).inverse(),
        status: Status::Confirmed,
        timeout: Some(300),
        tcp: None,
        master: Some(Box::new(tuple(40001, 21).inverse())),
        rare: rare.boxed(),
        ..connection()
    }
}

fn body(body: &Body<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::emit_body(&mut bytes, &HEADER, body);
    bytes
}

fn alive() -> Alive {
    Alive {
        name: "router1".into(),
        mechanism_group: "vrrp SYNC".into(),
        last: 7,
        oldest: 3,
        turn: 12,
        token: 0,
        group: GroupId(0),
        claim: Claim { epoch: 2, node: HEADER.sender },
        owner: true,
        truth: Some(Claim { epoch: 1, node: HEADER.sender }),
        stood: Some(Stood {
            claim: Claim { epoch: 1, node: NodeId(0x5555_6666_7777_8888) },
            run: PEER,
            next: 9,
        }),
        owes: false,
        lineage: 0x0807_0605_0403_0201,
        fresh: false,
        ready: true,
        role: Role::Primary,
        seat: Seat { evidence: Evidence::Told, mover: Mover::Present, addresses: 2, here: 2 },
        peers: vec![Heard { node: NodeId(0x5555_6666_7777_8888), longest: 1452 }],
        seed: SEED,
        root: 0x0102_0304_0506_0708,
        count: 1,
        next: 0,
        kernel: Some(KernelTold {
            settings: KernelSettings {
                max: 262_144,
                loose: false,
                events: true,
                timestamps: false,
                rules: Rules {
                    asked: Asked::KNOWN | Asked::TRACKS4 | Asked::TRACKS6 | Asked::NAT4,
                    helpers: 1,
                    timeout_policies: 0,
                },
                timeouts: [432_000, 30, 120, 30, 30, 600, 180, 210],
            },
            refused: 0,
            bound: 3,
            build: Build([0, 1, 0]),
        }),
    }
}

fn messages() -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::emit_put(&mut bytes, &connection(), 0x2a2a, false);
    wire::emit_put(&mut bytes, &expectation(), 0x2a2b, true);
    wire::emit_destroy(&mut bytes, 0xaabb_ccdd_eeff_0011, 0x2a29);
    wire::emit_refusal(&mut bytes, 0xaabb_ccdd_eeff_0022, 0x2a28, Refusal::Ended);
    wire::emit_sums(&mut bytes, Node { level: 3, index: 0x0abc }, &std::array::from_fn(|at| at as u64));
    wire::emit_list(&mut bytes, 0xabcd, true, &[Listed { key: 0xabcd_0000_0000_0001, content: 5 }]);
    bytes
}

/// Every vector, made by the code.
fn made() -> BTreeMap<&'static str, Vec<u8>> {
    let digester = Digester::new(SEED);
    let key = Key { orig: connection().orig, zone: 0, expected: false };
    let mut canonical = Vec::new();
    packed::emit_canonical(&mut canonical, &connection());
    let head = StreamHead { group: GroupId(0), sequence: 7, root: 0x0102_0304_0506_0708 };
    let mut stream = Vec::new();
    wire::emit_stream(&mut stream, &HEADER, &head, &messages());
    let challenge = body(&Body::Challenge { to: PEER, nonce: 0x1234 });
    let mut marked = challenge.clone();
    wire::mark_sealed(&mut marked);
    let secret = SealKey(std::array::from_fn(|at| u8::try_from(at).unwrap()));
    BTreeMap::from([
        ("entry", canonical.clone()),
        ("key-hash", digester.hash_key(&mut Vec::new(), &key).to_be_bytes().to_vec()),
        ("content-hash", digester.hash(&canonical).to_be_bytes().to_vec()),
        ("stream", stream),
        ("alive", body(&Body::Alive(Box::new(alive())))),
        ("nack", body(&Body::Nack { to: PEER, holes: vec![(4, 5), (9, 9)] })),
        (
            "ask",
            body(&Body::Ask {
                to: PEER,
                group: GroupId(0),
                wants: vec![
                    Want::Sums(Node { level: 0, index: 0 }),
                    Want::Subtree(Node { level: 2, index: 0xab }),
                    Want::List(0xabcd),
                    Want::Key(0xabcd_0000_0000_0001),
                ],
            }),
        ),
        ("flush", body(&Body::Flush { to: PEER, token: 5 })),
        ("challenge", challenge),
        ("proof", body(&Body::Proof { to: PEER, nonce: 0x1234 })),
        ("sealed-challenge", Seal::new(&[secret], HEADER.node_group, HEADER.incarnation).seal(marked)),
    ])
}

/// As the page shows bytes.
fn hex(bytes: &[u8]) -> String {
    bytes.chunks(32).fold(String::new(), |mut all, line| {
        line.iter().for_each(|byte| write!(all, "{byte:02x}").unwrap());
        all + "\n"
    })
}

#[test]
fn the_page_shows_what_is_sent() {
    let (page, made) = (page(), made());
    for (name, bytes) in &made {
        let shown = page.get(*name).unwrap_or_else(|| panic!("no vector {name}:\n{}", hex(bytes)));
        assert_eq!(hex(shown), hex(bytes), "{name}");
    }
    let unknown: Vec<&String> = page.keys().filter(|name| !made.contains_key(name.as_str())).collect();
    assert!(unknown.is_empty(), "nothing is known of {unknown:?}");
}

#[test]
fn what_the_page_shows_is_read_as_what_was_meant() {
    let page = page();
    let (header, Body::Stream(head, found)) = wire::parse(&page["stream"]).unwrap() else { panic!() };
    assert_eq!((header, head.sequence), (HEADER, 7));
    let read: Vec<_> = Messages::new(found).map(Result::unwrap).collect();
    assert_eq!(read, Messages::new(&messages()).map(Result::unwrap).collect::<Vec<_>>());
    assert_eq!(read.len(), 6);
    assert_eq!(wire::parse(&page["alive"]).unwrap().1, Body::Alive(Box::new(alive())));
    let Body::Nack { to, holes } = wire::parse(&page["nack"]).unwrap().1 else { panic!() };
    assert_eq!((to, holes), (PEER, vec![(4, 5), (9, 9)]));
    let secret = SealKey(std::array::from_fn(|at| u8::try_from(at).unwrap()));
    let mut seal = Seal::new(&[secret], HEADER.node_group, PEER);
    let (mut opened, number) = seal.open(&page["sealed-challenge"], HEADER.incarnation, true).unwrap();
    wire::unmark_sealed(&mut opened);
    assert_eq!((opened, number), (page["challenge"].clone(), 1));
}
