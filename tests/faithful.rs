//! What one kernel knows of an entry arrives in another: 20,000 entries and their expectations of namespace
//! A, half of them made by real packets, through codec, wire and engine into namespace B, and both compared
//! attribute by attribute.
//!
//! What may differ stands in `docs/kernel.md`, with the kernel's reason; anything else is a failure.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ctsync::ctnetlink::codec::{self, Answer};
use ctsync::engine::filter::Filter;
use ctsync::engine::reconcile::Op;
use ctsync::engine::replica::{Replica, Role};
use ctsync::kernel::socket::{BATCH, RequestSocket};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sched::{CloneFlags, unshare};

#[path = "common/mod.rs"]
mod common;
#[path = "faithful/made.rs"]
mod made;
#[path = "faithful/packets.rs"]
mod packets;
#[path = "faithful/raw.rs"]
mod raw;

use raw::{Attributes, leaves, message, messages};

/// Of each half, at least.
const CASES: u32 = 10_000;
/// Packets that are sent for them: some meet an entry that is there.
const PACKETS: u32 = 10_500;

const CT_NEW: u16 = 0x0100;
const CT_GET: u16 = 0x0101;
const EXP_NEW: u16 = 0x0200;
const EXP_GET: u16 = 0x0201;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE_EXCL: u16 = 0x600;

/// A namespace, held by what was opened in it.
struct Node {
    netlink: Socket,
    requests: RequestSocket,
}

/// Tracking on, everything local, `inside` run there.
fn node(inside: impl FnOnce() + Send + 'static) -> Node {
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (needs root)");
        for command in [
            "ip link set lo up",
            "ip route add local 10.0.0.0/8 dev lo",
            "ip -6 route add local fd00::/8 dev lo",
        ] {
            let words: Vec<&str> = command.split(' ').collect();
            assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success(), "{command}");
        }
        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(include_bytes!("faithful/rules.nft")).unwrap();
        assert!(nft.wait().unwrap().success(), "nft");
        inside();
        let mut netlink = Socket::new(NETLINK_NETFILTER).unwrap();
        netlink.bind_auto().unwrap();
        Node { netlink, requests: RequestSocket::open().unwrap() }
    })
    .join()
    .unwrap()
}

impl Node {
    /// Create what is written here attribute by attribute; the kernel must take it.
    fn create(&mut self, kind: u16, sequence: u32, family: u8, attributes: &Attributes) -> i32 {
        let request = message(kind, REQUEST | ACK | CREATE_EXCL, sequence, family, attributes);
        self.netlink.send_to(&request, &SocketAddr::new(0, 0), 0).unwrap();
        let (answer, _) = self.netlink.recv_from_full().unwrap();
        -i32::from_ne_bytes(answer[16..20].try_into().unwrap())
    }

    /// Whole messages of a dump, with their attributes.
    fn dump(&mut self, kind: u16) -> Vec<(Vec<u8>, Attributes)> {
        let request = message(kind, REQUEST | DUMP, 1, 0, &Vec::new());
        self.netlink.send_to(&request, &SocketAddr::new(0, 0), 0).unwrap();
        let mut all = Vec::new();
        loop {
            let (bytes, _) = self.netlink.recv_from_full().unwrap();
            for (kind, bytes, attributes) in messages(&bytes) {
                match kind {
                    3 => return all,
                    2 => panic!("the dump was refused"),
                    _ => all.push((bytes, attributes)),
                }
            }
        }
    }
}

/// A table's entries by the bytes of their original (or expected) tuple and its zone.
type Table = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

fn table(prefix: &str, dump: &[(Vec<u8>, Attributes)]) -> Table {
    let identity = |path: &str| {
        path.starts_with("CTA_TUPLE_ORIG") || path.starts_with("CTA_EXPECT_TUPLE") || path == "CTA_ZONE"
    };
    let one = |attributes: &Attributes| {
        let all = leaves(prefix, attributes);
        let key =
            all.iter().filter(|(path, _)| identity(path)).map(|(path, bytes)| format!("{path} {bytes:?}"));
        (key.collect::<Vec<_>>().join(","), all)
    };
    let table: Table = dump.iter().map(|(_, attributes)| one(attributes)).collect();
    assert_eq!(table.len(), dump.len(), "entries that only look alike");
    table
}

/// How an attribute may differ.
enum Excuse {
    All,
    /// In these bits.
    Bits(Vec<u8>),
    /// Absent here, zeros there.
    Zero,
    /// While one side of a TCP connection has not told its window scale.
    HalfOpen,
}

/// What the document says may differ.
fn excused() -> BTreeMap<String, Excuse> {
    let page = include_str!("../docs/kernel.md");
    let section = page.split("## What differs on the other node").nth(1).expect("the section");
    let section = section.split("\n## ").next().unwrap();
    let mut all = BTreeMap::new();
    for line in section.lines().filter_map(|line| line.strip_prefix("| `")) {
        let mut cells = line.split(" | ");
        let name = cells.next().unwrap().trim_end_matches('`').to_owned();
        let bits = cells.next().unwrap().trim_matches('`');
        let excuse = match bits {
            "all" => Excuse::All,
            "zero" => Excuse::Zero,
            "half-open" => Excuse::HalfOpen,
            mask => {
                let hex = mask.strip_prefix("0x").unwrap_or_else(|| panic!("what is {mask}?"));
                let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
                Excuse::Bits((0..hex.len()).step_by(2).map(byte).collect())
            }
        };
        all.insert(name, excuse);
    }
    assert!(all.len() > 3, "the table was not read");
    all
}

/// One side has not told a window scale.
fn half_open(entry: &BTreeMap<String, Vec<u8>>) -> bool {
    const WINDOW_SCALE: u8 = 1;
    let mut flags = entry.iter().filter(|(path, _)| path.contains("CTA_PROTOINFO_TCP_FLAGS"));
    flags.any(|(_, flags)| flags[0] & WINDOW_SCALE == 0)
}

/// Attributes that differ between the two though they may not: name, and how often each.
fn differences(ours: &Table, theirs: &Table) -> BTreeMap<String, (u32, String)> {
    let excused = excused();
    let mut all: BTreeMap<String, (u32, String)> = BTreeMap::new();
    let mut note = |what: &str, example: String| {
        let place = all.entry(what.to_owned()).or_insert((0, example));
        place.0 += 1;
    };
    for (key, entry) in ours {
        let Some(other) = theirs.get(key) else {
            note("missing", format!("{entry:?}"));
            continue;
        };
        let names: BTreeSet<&String> = entry.keys().chain(other.keys()).collect();
        for path in names {
            let (mine, his) = (entry.get(path), other.get(path));
            if mine == his {
                continue;
            }
            let excuse = path.split(' ').find_map(|name| excused.get(name));
            let good = match (excuse, mine, his) {
                (Some(Excuse::All), ..) => true,
                (Some(Excuse::Bits(mask)), Some(mine), Some(his)) => {
                    let differ = mine.iter().zip(his).map(|(mine, his)| mine ^ his);
                    differ.zip(mask).all(|(differ, mask)| differ & !mask == 0)
                }
                (Some(Excuse::Zero), None, Some(his)) => his.iter().all(|byte| *byte == 0),
                (Some(Excuse::HalfOpen), _, Some(his)) => half_open(entry) && his == &[0],
                _ => false,
            };
            if !good {
                note(path, format!("{mine:?} became {his:?} in {entry:?}"));
            }
        }
    }
    let extra = theirs.keys().filter(|key| !ours.contains_key(*key)).count();
    if extra > 0 {
        note("extra", format!("{extra}"));
    }
    all
}

/// The daemon's part: datagrams from one replica to the other, the other's requests to its kernel.
fn replicate(entries: &[(Vec<u8>, Attributes)], kernel: &mut RequestSocket) -> Replica {
    #[expect(clippy::disallowed_methods, reason = "the virtual clock has to begin somewhere")]
    let mut now = Instant::now();
    let filter = Filter { expect: vec!["all".into()], include_local: true, ..Filter::default() };
    let mut owner = common::replica(1, Role::Primary, false, now);
    let mut backup = common::replica(2, Role::Backup, true, now);
    owner.set_filter(filter);
    owner.handle_events_empty();
    assert!(owner.poll_dump());
    for (bytes, _) in entries {
        codec::parse_dump(bytes, |_, entry| owner.handle_dump_entry(entry)).unwrap();
    }
    owner.handle_dump_end(true, now);
    for _ in 0..2_000 {
        now += Duration::from_millis(10);
        for replica in [&mut owner, &mut backup] {
            replica.handle_events_empty();
            replica.handle_timeout(now);
        }
        while let Some(datagram) = owner.poll_datagram(now) {
            backup.handle_datagram(&datagram, now);
        }
        while let Some(datagram) = backup.poll_datagram(now) {
            owner.handle_datagram(&datagram, now);
        }
        while backup.waiting() > 0 && batch(&mut backup, kernel, now) > 0 {}
    }
    let view = backup.view(now);
    assert_eq!((view.failed, view.orphans), (0, 0));
    assert!(owner.owner() && backup.readiness(now).is_ready(), "{:?}", backup.readiness(now));
    backup
}

fn batch(backup: &mut Replica, kernel: &mut RequestSocket, now: Instant) -> u32 {
    let mut answers = Vec::new();
    let count = kernel
        .execute(
            |writer, first| {
                let mut next = first;
                backup.poll_requests(BATCH as usize, |request| {
                    let (entry, how) = (request.entry, request.install);
                    match request.op {
                        Op::Create => codec::emit_create(writer, next, entry, how),
                        Op::Update => codec::emit_update(writer, next, entry, how),
                        Op::Destroy => codec::emit_destroy(writer, next, &entry.key()),
                        Op::Get => codec::emit_get(writer, next, &entry.key()),
                        Op::Renew => codec::emit_renew(writer, next, entry, how),
                        Op::Track => codec::emit_track(writer, next, entry),
                    }
                    next = next.wrapping_add(1);
                });
                next.wrapping_sub(first)
            },
            |at, answer| answers.push((at as usize, answer)),
        )
        .unwrap();
    let mut answered = vec![false; 2 * BATCH as usize];
    for (at, answer) in answers {
        answered[at] = true;
        match answer {
            Answer::Done => backup.handle_answer(at, 0),
            Answer::Refused(errno) => backup.handle_answer(at, errno),
            Answer::Found(entry) => backup.handle_read_back(at, entry),
        }
    }
    backup.handle_answers_end(&answered, now);
    count
}

#[test]
#[ignore = "needs root for a network namespace; `cargo lab test` runs it"]
fn what_one_kernel_knows_arrives_in_the_other() {
    let seed = std::env::var("CTSYNC_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut ours = node(move || {
        let mut sender = packets::Sender::new(seed);
        (0..PACKETS).for_each(|_| sender.send());
    });
    let mut theirs = node(|| {});
    let by_packets = ours.dump(CT_GET).len();
    let mut maker = made::Maker::new(seed);
    for at in 0..CASES {
        let (family, attributes) = maker.next();
        let errno = ours.create(CT_NEW, at + 1, family, &attributes);
        assert_eq!(errno, 0, "number {at} was refused: {:?}", leaves("CTA", &attributes));
    }
    for (at, (family, attributes)) in maker.expectations().into_iter().enumerate() {
        let errno = ours.create(EXP_NEW, at as u32 + 1, family, &attributes);
        assert_eq!(errno, 0, "expectation {at} was refused: {:?}", leaves("CTA_EXPECT", &attributes));
    }
    let mut entries = ours.dump(CT_GET);
    let connections = table("CTA", &entries);
    let expectations = ours.dump(EXP_GET);
    let expected = table("CTA_EXPECT", &expectations);
    println!(
        "{by_packets} entries by packets, {} written, {} expectations (seed {seed})",
        connections.len() - by_packets,
        expected.len()
    );
    let written = connections.len() - by_packets;
    assert!(by_packets >= CASES as usize && written >= CASES as usize && expected.len() > 100);
    entries.extend(expectations);
    let backup = replicate(&entries, &mut theirs.requests);
    let arrived = table("CTA", &theirs.dump(CT_GET));
    let arrived_expected = table("CTA_EXPECT", &theirs.dump(EXP_GET));
    let mut wrong = differences(&connections, &arrived);
    wrong.extend(differences(&expected, &arrived_expected));
    for (name, (count, example)) in &wrong {
        println!("{count:>6} {name}: {}", example.chars().take(600).collect::<String>());
    }
    assert!(wrong.is_empty(), "{} kinds of differences: {:?}", wrong.len(), wrong.keys());
    assert_eq!(backup.counters().failures.iter().sum::<u64>(), 0, "{:?}", backup.counters().failures);
    every_attribute_was_there(&arrived, &arrived_expected);
}

/// Each attribute that is carried was present in some entries and absent in others: the comparison saw it.
fn every_attribute_was_there(connections: &Table, expectations: &Table) {
    let count = |table: &Table, name: &str| {
        let has = |entry: &&BTreeMap<String, Vec<u8>>| {
            entry.iter().any(|(path, bytes)| path.contains(name) && bytes.iter().any(|byte| *byte != 0))
        };
        table.values().filter(has).count()
    };
    for name in [
        "CTA_MARK",
        "CTA_LABELS",
        "CTA_HELP_NAME",
        "CTA_ZONE",
        "CTA_TUPLE_ORIG CTA_TUPLE_ZONE",
        "CTA_TUPLE_REPLY CTA_TUPLE_ZONE",
        "CTA_TUPLE_MASTER",
        "CTA_SEQ_ADJ_ORIG",
        "CTA_SEQ_ADJ_REPLY",
        "CTA_SYNPROXY_ISN",
        "CTA_PROTOINFO_TCP_STATE",
        "CTA_PROTOINFO_TCP_WSCALE_REPLY",
        "CTA_PROTOINFO_SCTP_VTAG_ORIGINAL",
        "CTA_PROTO_ICMP_ID",
        "CTA_PROTO_ICMPV6_ID",
        "CTA_IP_V6_SRC",
    ] {
        let found = count(connections, name);
        println!("{found:>6} entries with {name}");
        assert!(
            (200..connections.len() - 200).contains(&found),
            "{found} of {} have {name}",
            connections.len()
        );
    }
    for name in
        ["CTA_EXPECT_NAT", "CTA_EXPECT_FN", "CTA_EXPECT_FLAGS", "CTA_EXPECT_CLASS", "CTA_EXPECT_HELP_NAME"]
    {
        let found = count(expectations, name);
        println!("{found:>6} expectations with {name}");
        assert!(found >= 50, "{found} of {} have {name}", expectations.len());
    }
}
