//! The inputs that fuzzing begins with, made from what is valid: recorded bytes of a kernel, configuration
//! files, what replicas said to each other.
//!
//! `cargo test --release -- --include-ignored write` makes them anew; the other test tells whether they are
//! what would be made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ctsync::config;
use ctsync::control::{Reply, Request};
use ctsync::ctnetlink::codec::{self, Install};
use ctsync::ctnetlink::entry::{Entry, Expectation, Rare, SctpInfo, SeqAdj, Synproxy, proto};
use ctsync::ctnetlink::nla::Writer;
use ctsync::engine::replica::{Cache, Role};
use ctsync::engine::wire::{self, Body, GroupId, HEADER, Listed, Node, StreamHead, Want};
use ctsync_fuzz::stage::{Side, Stage, entry};
use serde_json::json;

/// Recorded datagrams of one side that are kept: the first ones are a greeting, the later ones repeat
/// themselves.
const GREETING: usize = 12;
const SIDES: [Side; 2] = [Side::Owner, Side::Backup];

/// Files by target and name.
type Files = BTreeMap<(&'static str, String), Vec<u8>>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn all() -> Files {
    let mut files = Files::new();
    datagrams(&mut files);
    netlink(&mut files);
    control(&mut files);
    configurations(&mut files);
    files
}

#[test]
#[ignore = "writes the corpus"]
fn write() {
    std::fs::remove_dir_all(root().join("corpus")).unwrap_or_default();
    for ((target, name), bytes) in all() {
        let directory = root().join("corpus").join(target);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(name), bytes).unwrap();
    }
}

#[test]
fn the_corpus_is_what_would_be_made() {
    let mut files = all();
    for target in std::fs::read_dir(root().join("corpus")).unwrap() {
        for file in std::fs::read_dir(target.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let made = files.iter().find(|((target, name), _)| path.ends_with(Path::new(target).join(name)));
            let key =
                made.map(|(key, _)| key.clone()).unwrap_or_else(|| panic!("{} is not made", path.display()));
            assert_eq!(files.remove(&key), Some(bytes), "{}", path.display());
        }
    }
    assert!(files.is_empty(), "not there: {:?}", files.keys());
}

/// What has everything that few have.
fn rare() -> [Entry; 2] {
    let seqadj = SeqAdj { position: 1, before: 2, after: u32::MAX };
    let whole = Rare {
        reply_zone: Some(9),
        sctp: Some(SctpInfo { state: 3, vtag_orig: 1, vtag_reply: 2 }),
        labels: Some([7; 16]),
        helper: Some("ftp".into()),
        seqadj: Some([seqadj, seqadj]),
        synproxy: Some(Synproxy { isn: 1, its: 2, tsoff: 3 }),
        ..Rare::default()
    };
    let master = Some(Box::new(entry(1).orig));
    let child = Entry { zone: 5, master: master.clone(), rare: whole.boxed(), ..entry(21) };
    let nat = Some((1, entry(3).orig));
    let own = Expectation {
        mask: entry(5).orig,
        flags: 1,
        class: 0,
        function: Some("nat-follow-master".into()),
        nat,
    };
    let rare = Rare { helper: Some("ftp".into()), expectation: Some(own), ..Rare::default() }.boxed();
    let expected = Entry { tcp: None, mark: None, master, rare, ..entry(25) };
    let expected = Entry { reply: expected.orig.inverse(), ..expected };
    [child, expected]
}

/// Bodies that one side may say to the other, by name.
fn bodies(from: Side) -> Vec<(&'static str, Vec<u8>)> {
    let (to, group) = (from.other().header().incarnation, GroupId(0));
    let node = Node { level: 1, index: 3 };
    let root = Node { level: 0, index: 0 };
    let wants = vec![Want::Sums(root), Want::Subtree(node), Want::List(7), Want::Key(1)];
    let [child, expected] = rare();
    let mut puts = Vec::new();
    wire::emit_put(&mut puts, &entry(11), 1, false);
    wire::emit_put(&mut puts, &child, 2, true);
    wire::emit_put(&mut puts, &expected, 3, false);
    wire::emit_destroy(&mut puts, 1, 1);
    let mut answers = Vec::new();
    wire::emit_sums(&mut answers, root, &[1; 16]);
    wire::emit_list(&mut answers, 7, false, &[Listed { key: 7 << 48, content: 1 }]);
    wire::emit_list(&mut answers, 7, true, &[]);
    // The recorded stream is over: this is its next datagram.
    let recorded = Stage::heard(from.other(), false).filter_map(|datagram| match wire::parse(datagram) {
        Ok((_, Body::Stream(head, _))) => Some(head.sequence),
        _ => None,
    });
    let head = StreamHead { group, sequence: recorded.max().unwrap_or(0) + 1, root: 0 };
    let of = |body: Body<'_>| {
        let mut bytes = Vec::new();
        wire::emit_body(&mut bytes, &from.header(), &body);
        bytes
    };
    vec![
        ("stream-puts", of(Body::Stream(head, &puts))),
        ("stream-answers", of(Body::Stream(head, &answers))),
        ("nack", of(Body::Nack { to, holes: vec![(1, 2), (4, 4)] })),
        ("ask", of(Body::Ask { to, group, wants: wants.clone() })),
        ("look", of(Body::Look { to, group, wants })),
        ("offer", of(Body::Offer { to, group, messages: &puts })),
        ("seen", of(Body::Seen { to, group, messages: &answers })),
        ("flush", of(Body::Flush { to, token: 3 })),
        ("challenge", of(Body::Challenge { to, nonce: 1 })),
        ("proof", of(Body::Proof { to, nonce: 1 })),
    ]
}

fn datagrams(files: &mut Files) {
    for from in SIDES {
        let side = format!("{from:?}").to_lowercase();
        let greeting = || Stage::heard(from.other(), false).take(GREETING);
        let mut opened = vec![u8::from(from == Side::Backup)];
        for (number, datagram) in greeting().enumerate() {
            files.insert(("datagram", format!("{side}-heard-{number:02}")), datagram.to_vec());
        }
        for (name, datagram) in bodies(from) {
            let body = [&opened[..1], &datagram[3..4], &datagram[HEADER..]].concat();
            files.insert(("opened", format!("{side}-{name}")), body.clone());
            opened.extend_from_slice(&body[1..]);
            opened.extend_from_slice(b"NEXT");
            files.insert(("datagram", format!("{side}-{name}")), datagram);
        }
        files.insert(("opened", format!("{side}-all")), opened.clone());
        for how in [2, 4, 8, 16] {
            let disturbed = [&[opened[0] | how], &opened[1..]].concat();
            files.insert(("opened", format!("{side}-all-{how:02}")), disturbed);
        }
        let together = bodies(from).into_iter().flat_map(|(_, datagram)| datagram).collect();
        files.insert(("datagram", format!("{side}-all")), together);
        let alive = Stage::heard(from.other(), false).last().unwrap_or_default();
        files.insert(
            ("opened", format!("{side}-alive")),
            [&opened[..1], &alive[3..4], &alive[HEADER..]].concat(),
        );
        for (number, datagram) in Stage::heard(from.other(), true).take(GREETING).enumerate() {
            files.insert(("sealed", format!("{side}-heard-{number:02}")), datagram.to_vec());
        }
        files.insert(("sealed", format!("{side}-plain")), alive.to_vec());
    }
}

fn netlink(files: &mut Files) {
    let recorded = include_str!("../../tests/fixtures/conntrack-events.hex");
    let bytes = |line: &str| -> Vec<u8> {
        (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap()).collect()
    };
    for (number, line) in recorded.lines().enumerate() {
        files.insert(("netlink", format!("event-{number:02}")), bytes(line));
    }
    let dump = recorded.lines().take(8).flat_map(bytes);
    // NLMSG_DONE, and NLMSG_ERROR with ENOENT.
    let done = [20, 0, 0, 0, 3, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    files.insert(("netlink", "dump".into()), dump.chain(done).collect());
    let refused =
        [&[36, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff][..], &[0; 16]].concat();
    files.insert(("netlink", "refused".into()), refused);
    for (name, entry) in ["everything", "expectation"].into_iter().zip(rare()) {
        let mut writer = Writer::default();
        codec::emit_create(&mut writer, 1, &entry, Install::whole(60));
        files.insert(("netlink", name.into()), writer.as_bytes().to_vec());
    }
    assert_eq!(entry(1).orig.proto, proto::TCP);
}

fn control(files: &mut Files) {
    let requests = [
        Request::Status,
        Request::Statistics,
        Request::Cache { cache: Cache::External },
        Request::Events,
        Request::WaitReady,
        Request::Diff,
        Request::Notify { role: Role::Primary, group: "SYNC".into() },
        Request::Resync,
        Request::Reset { cache: Cache::Internal },
        Request::Reload,
    ];
    for (number, request) in requests.iter().enumerate() {
        files.insert(("control", format!("request-{number:02}")), serde_json::to_vec(request).unwrap());
    }
    let replies = [
        Reply::Part(json!([1, null, "x"])),
        Reply::Ok(json!({ "ready": true, "lag": 0.5 })),
        Reply::Error("no".into()),
    ];
    for (number, reply) in replies.iter().enumerate() {
        files.insert(("control", format!("reply-{number}")), serde_json::to_vec(reply).unwrap());
    }
}

/// Every option once.
const EVERYTHING: &str = r#"{
  "interface": { "eth0": { "peer": "192.0.2.2", "port": 3781 } },
  "failover-mechanism": { "vrrp": { "sync-group": "SYNC", "notify-fifo": "/run/a.fifo", "track-file": "/run/a.track",
    "virtual-address": ["192.0.2.254", "2001:db8::1"] } },
  "accept-protocol": ["tcp", "udp", "icmp", "icmp6", "sctp", "dccp"], "ignore-address": ["192.0.2.0/24", "2001:db8::/32"],
  "event-listen-queue-size": 8, "sync-queue-size": 1, "expect-sync": ["ftp", "sip"], "mcast-group": "225.0.0.50",
  "listen-address": ["192.0.2.1"], "disable-external-cache": true, "startup-resync": true, "disable-syslog": true,
  "purge-timeout": 60, "node": "router1", "node-group": 4294967295, "key-file": "/etc/ctsync/key", "standby": "cold",
  "window-tracking": true, "include-local": true, "alive-interval": 250, "peer-timeout": 1000, "gate-timeout": 30,
  "metrics-listen": "[::1]:9338", "control-socket": "/run/c.sock", "state-directory": "/run/ctsync"
}
"#;

fn configurations(files: &mut Files) {
    let directory = |name: &str| -> Vec<PathBuf> {
        let found = std::fs::read_dir(root().join("../tests/config").join(name)).unwrap();
        found.map(|file| file.unwrap().path()).collect()
    };
    let mut texts = vec![
        ("example".to_owned(), config::EXAMPLE.to_owned()),
        ("everything".to_owned(), EVERYTHING.to_owned()),
        (
            "cluster".to_owned(),
            r#"{"interface":{"eth0":{}},"failover-mechanism":{"cluster":{"group":"a"}}}"#.to_owned(),
        ),
        (
            "manual".to_owned(),
            r#"{"interface":{"eth0":{}},"failover-mechanism":{"manual":{"group":"a"}}}"#.to_owned(),
        ),
    ];
    for path in directory("good").into_iter().chain(directory("machine")) {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        texts.push((name, std::fs::read_to_string(&path).unwrap()));
    }
    for (name, text) in texts {
        let loaded =
            config::parse(Path::new("file"), &text).unwrap_or_else(|refused| panic!("{name}: {refused}"));
        let (json, lines) = (config::to_json(&loaded.values), config::to_set_lines(&loaded.values));
        let is_json = text.starts_with('{');
        files.insert(("json", name.clone()), if is_json { text.clone() } else { json }.into_bytes());
        files.insert(("set_lines", name), if is_json { lines } else { text }.into_bytes());
    }
}
