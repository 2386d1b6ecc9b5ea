//! The table of `docs/verdict.md`: each row a situation between two real engines that exchange their alives,
//! and what the verdict then is on the router named, by the words of the page.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::path::Path;
use std::time::Duration;

use ctsync_ctnetlink::codec::Event;
use ctsync_engine::facts::{Asked, Evidence, KernelSettings, Mover, Role, Rules, Seat};
use ctsync_engine::reconcile::Op;
use ctsync_engine::replica::{Refused, Replica};
use ctsync_engine::verdict::{Around, Judge, Verdict};
use ctsync_engine::wire::{self, Body};

#[path = "common/mod.rs"]
mod common;

use common::entry;
use common::pair::Pair;

/// Whose verdict a row shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum On {
    Owner,
    Backup,
}

/// Two routers with keepalived and a ruleset each, in step.
struct Stage {
    pair: Pair,
    around: [Around; 2],
    judges: [Judge; 2],
    verdicts: [Verdict; 2],
    /// Neither hears the other any more.
    cut: bool,
    /// The backup hears nothing, and is heard.
    deaf: bool,
    /// The backup's kernel answers creates with this.
    errno: i32,
}

const RULES: Rules = Rules {
    asked: Asked::KNOWN.union(Asked::TRACKS4).union(Asked::TRACKS6).union(Asked::NAT4),
    helpers: 1,
    timeout_policies: 0,
};

fn kernel() -> KernelSettings {
    KernelSettings {
        max: 262_144,
        loose: false,
        events: true,
        timestamps: false,
        rules: RULES,
        timeouts: [432_000, 30, 120, 30, 30, 600, 180, 210],
    }
}

impl Stage {
    fn new() -> Stage {
        let around = || Around {
            group: "SYNC".into(),
            fifo: Some("/run/ctsync/vrrp.fifo".into()),
            channel_at: "eth0, multicast 225.0.0.50, UDP port 3780".into(),
            ..Around::default()
        };
        let mut stage = Stage {
            pair: Pair::start(10),
            around: [around(), around()],
            judges: [Judge::default(), Judge::default()],
            verdicts: [Verdict::default(), Verdict::default()],
            cut: false,
            deaf: false,
            errno: 0,
        };
        stage.seat(On::Owner, |seat| seat.here = 2);
        stage.seat(On::Backup, |_| ());
        stage.kernel(On::Owner, |_| ());
        stage.kernel(On::Backup, |_| ());
        stage
    }

    fn replica(&mut self, on: On) -> &mut Replica {
        match on {
            On::Owner => &mut self.pair.owner,
            On::Backup => &mut self.pair.backup,
        }
    }

    fn seat(&mut self, on: On, change: impl FnOnce(&mut Seat)) {
        let mut seat = Seat { evidence: Evidence::Told, mover: Mover::Present, addresses: 2, here: 0 };
        change(&mut seat);
        let now = self.pair.now;
        self.replica(on).set_seat(seat, now);
    }

    fn kernel(&mut self, on: On, change: impl FnOnce(&mut KernelSettings)) {
        let mut settings = kernel();
        change(&mut settings);
        self.replica(on).set_kernel(settings);
    }

    fn role(&mut self, on: On, role: Role) {
        let now = self.pair.now;
        self.replica(on).handle_role(role, now);
    }

    /// Judged ten times a second for so long.
    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            self.look();
        }
    }

    /// A tenth of a second, and judged.
    fn look(&mut self) {
        for _ in 0..10 {
            if self.cut || self.deaf {
                self.pair.now += Duration::from_millis(10);
                let now = self.pair.now;
                let Pair { owner, backup, .. } = &mut self.pair;
                for replica in [&mut *owner, &mut *backup] {
                    replica.handle_events_empty();
                    replica.handle_timeout(now);
                }
                while owner.poll_datagram(now).is_some() {}
                while let Some(datagram) = backup.poll_datagram(now) {
                    if self.deaf {
                        owner.handle_datagram(&datagram, now);
                    }
                }
            } else {
                self.pair.exchange();
            }
        }
        let errors: &[(Op, i32)] = if self.errno == 0 { &[] } else { &[(Op::Create, self.errno)] };
        while self.pair.backup.waiting() > 0 && !self.pair.batch(errors).is_empty() {}
        let Pair { owner, backup, now } = &self.pair;
        for (at, replica) in [owner, backup].into_iter().enumerate() {
            let view = replica.view(*now);
            self.verdicts[at] = self.judges[at].judge(&view, &self.around[at], *now);
        }
    }

    fn verdict(&self, on: On) -> &Verdict {
        &self.verdicts[on as usize]
    }
}

/// A row: situation, on whose router it is looked at, what makes it, the word of the reason, whether the
/// other router says `protected` all the same: it cannot know.
struct Row {
    situation: &'static str,
    on: On,
    make: fn(&mut Stage),
    word: &'static str,
    alone: bool,
}

const fn row(situation: &'static str, on: On, word: &'static str, make: fn(&mut Stage)) -> Row {
    Row { situation, on, make, word, alone: false }
}

const fn here(situation: &'static str, on: On, word: &'static str, make: fn(&mut Stage)) -> Row {
    Row { situation, on, make, word, alone: true }
}

fn nobody(peer_seen: bool) -> fn(&mut Stage) {
    if peer_seen { |stage| stage.cut = true } else { |stage| *stage = Stage { cut: true, ..Stage::new() } }
}

#[rustfmt::skip]
fn rows() -> Vec<Row> {
    use On::{Backup, Owner};
    vec![
        row("a pair in step, seen on the owner", Owner, "", |_| ()),
        row("a pair in step, seen on the backup", Backup, "", |_| ()),
        row("the standby's LAN cable is out, its keepalived in FAULT", Owner, "role-fault", |s| s.role(Backup, Role::Fault)),
        row("the same, seen on the standby", Backup, "role-fault", |s| s.role(Backup, Role::Fault)),
        row("the standby's keepalived is stopped", Owner, "mover-absent", |s| { s.role(Backup, Role::Unknown); s.seat(Backup, |seat| { seat.mover = Mover::Absent; seat.evidence = Evidence::Nobody; }); }),
        row("the same, seen on the standby", Backup, "mover-absent", |s| { s.role(Backup, Role::Unknown); s.seat(Backup, |seat| { seat.mover = Mover::Absent; seat.evidence = Evidence::Nobody; }); }),
        row("the standby's keepalived is there and has told nothing that anybody heard", Owner, "role-never-told", |s| s.seat(Backup, |seat| seat.evidence = Evidence::Addresses)),
        row("the standby's role is unknown, its keepalived is there", Owner, "role-unknown", |s| { s.role(Backup, Role::Unknown); s.seat(Backup, |seat| seat.evidence = Evidence::Nobody); }),
        row("the standby's role is unknown under another mechanism", Owner, "role-unknown", |s| { s.role(Backup, Role::Unknown); s.seat(Backup, |seat| { seat.mover = Mover::Unseen; seat.evidence = Evidence::Nobody; }); s.around[0].fifo = None; }),
        here("the notify FIFO was replaced under keepalived", Backup, "fifo-replaced", |s| { s.around[1].fifo_replaced = true; s.seat(Backup, |seat| seat.mover = Mover::Absent); s.role(Backup, Role::Unknown); }),
        row("keepalived was started before ctsync on the primary: the addresses are asked", Owner, "", |s| s.seat(Owner, |seat| { seat.evidence = Evidence::Addresses; seat.here = 2; })),
        row("the owner's keepalived died and left the addresses behind", Owner, "mover-absent", |s| { s.role(Owner, Role::Unknown); s.seat(Owner, |seat| { seat.mover = Mover::Absent; seat.here = 2; }); }),
        row("nobody is primary", Owner, "nobody-primary", |s| { s.role(Owner, Role::Fault); s.seat(Owner, |_| ()); }),
        row("the standby has the addresses, and nobody told it", Owner, "addresses-left", |s| s.seat(Backup, |seat| seat.here = 2)),
        row("the owner is primary and an address is missing", Owner, "addresses-missing", |s| s.seat(Owner, |seat| seat.here = 1)),
        row("both are primary: their VRRP does not hear each other", Owner, "two-primaries", |s| { s.role(Owner, Role::Backup); s.role(Owner, Role::Primary); s.pair.backup.suppose_role(Role::Primary, s.pair.now); s.seat(Backup, |seat| seat.here = 2); }),
        row("the standby is primary and does not own", Owner, "primary-not-owner", |s| { s.role(Owner, Role::Backup); s.seat(Owner, |_| ()); s.pair.backup.suppose_role(Role::Primary, s.pair.now); s.pair.backup.handle_overrun(); s.seat(Backup, |seat| seat.here = 2); }),
        row("the standby has no ruleset", Owner, "rules", |s| s.kernel(Backup, |k| k.rules = Rules { asked: Asked::KNOWN, helpers: 0, timeout_policies: 0 })),
        row("the same, seen on the standby", Backup, "rules", |s| s.kernel(Backup, |k| k.rules = Rules { asked: Asked::KNOWN, helpers: 0, timeout_policies: 0 })),
        row("the standby's rules do not translate", Owner, "rules", |s| s.kernel(Backup, |k| k.rules.asked -= Asked::NAT4)),
        row("the standby's rules do not track IPv6", Owner, "rules", |s| s.kernel(Backup, |k| k.rules.asked -= Asked::TRACKS6)),
        row("no rule on either router", Owner, "nothing-tracked", |s| for on in [Owner, Backup] { s.kernel(on, |k| k.rules.asked = Asked::KNOWN) }),
        row("the rules of one cannot be read (iptables-legacy): nothing is claimed", Owner, "", |s| s.kernel(Backup, |k| k.rules = Rules::default())),
        row("the standby's rules give no helper", Owner, "helpers", |s| s.kernel(Backup, |k| k.rules.helpers = 0)),
        row("tcp_loose is 1 here and 0 there", Owner, "loose", |s| s.kernel(Owner, |k| k.loose = true)),
        row("a timeout is shorter on the standby", Owner, "timeouts", |s| s.kernel(Backup, |k| k.timeouts[2] = 30)),
        row("the same, seen on the standby", Backup, "timeouts", |s| s.kernel(Backup, |k| k.timeouts[2] = 30)),
        row("a timeout is longer on the standby", Owner, "", |s| s.kernel(Backup, |k| k.timeouts[2] = 300)),
        row("the standby's table is too small", Owner, "table-small", |s| s.kernel(Backup, |k| k.max = 9)),
        row("masquerade to the owner's own address", Owner, "bound", bind),
        row("the same, seen on the standby", Backup, "bound", bind),
        row("the standby's kernel refuses entries", Owner, "entries-refused-there", refuse),
        row("the same, seen on the standby", Backup, "entries-refused", refuse),
        here("no peer was ever heard", Owner, "no-peer", nobody_ever),
        row("the peer is dead, or its cable is out", Owner, "peer-lost", nobody(true)),
        row("the owner is dead, and nobody was elected", Backup, "peer-lost", nobody(true)),
        here("the peer's key is another one", Owner, "peer-refused", |s| { s.cut = true; s.around[0].refused = vec![(Refused::Forged, "datagrams are sealed under a key that is not here: they are refused".into())]; }),
        here("the standby reads its kernel's table", Backup, "not-ready", |s| s.pair.backup.handle_overrun()),
        row("the standby hears nothing and is heard (a firewall)", Owner, "one-way", |s| s.deaf = true),
        row("the same, seen on the standby", Backup, "peer-lost", |s| s.deaf = true),
        row("the standby is not ready", Owner, "peer-not-ready", |s| s.pair.backup.handle_overrun()),
        here("the owner looks for entries that came up during its takeover", Owner, "looking", |s| { let wanted = false; s.pair.owner.handle_subscription(wanted); }),
        here("the channel's interface is down or gone", Owner, "channel", |s| s.around[0].channel = Some("interface eth0 does not exist".into())),
        here("the track file cannot be written", Backup, "track-file", |s| s.around[1].track_file = Some("cannot write the track file /run/ctsync/vrrp.track: No space left on device".into())),
        here("`hold` holds nothing", Backup, "hold", |s| s.around[1].hold_failed = true),
    ]
}

/// Entries that leave under an address of the owner alone.
fn bind(stage: &mut Stage) {
    let own: std::net::IpAddr = [10, 0, 0, 10].into();
    let virtual_address: std::net::IpAddr = [10, 0, 0, 1].into();
    stage.pair.owner.handle_addresses([own, virtual_address].into());
    stage.pair.owner.set_virtual_addresses([virtual_address].into());
    for (number, address) in [(100, own), (101, own), (102, virtual_address)] {
        let mut masqueraded = entry(number, 1);
        masqueraded.reply.dst = address;
        stage.pair.owner.handle_event(Event::New(masqueraded), stage.pair.now);
    }
}

fn refuse(stage: &mut Stage) {
    stage.errno = nix::libc::EINVAL;
    for number in 100..103 {
        stage.pair.owner.handle_event(Event::New(entry(number, 1)), stage.pair.now);
    }
}

fn nobody_ever(stage: &mut Stage) {
    let now = stage.pair.now;
    let mut lonely = common::replica(3, Role::Primary, true, now);
    lonely.set_seat(Seat { evidence: Evidence::Told, mover: Mover::Present, addresses: 2, here: 2 }, now);
    stage.pair.owner = lonely;
    stage.cut = true;
}

/// As the page has it.
fn rendered(rows: &[Row]) -> String {
    let mut table =
        "| situation | verdict | exit | metric | what to do |\n|---|---|---|---|---|\n".to_owned();
    for row in rows {
        let mut stage = Stage::new();
        stage.run(2);
        assert!(stage.verdicts.iter().all(|verdict| verdict.protected), "before: {:?}", stage.verdicts);
        (row.make)(&mut stage);
        stage.run(5);
        let verdict = stage.verdict(row.on);
        assert_eq!(verdict.protected, row.word.is_empty(), "{}: {verdict:?}", row.situation);
        let other = stage.verdict(if row.on == On::Owner { On::Backup } else { On::Owner });
        if !row.alone {
            assert_eq!(other.protected, verdict.protected, "{}, the other router: {other:?}", row.situation);
        }
        let reason = verdict.reasons.iter().find(|reason| reason.finding.word == row.word);
        assert_eq!(reason.is_some(), !row.word.is_empty(), "{}: {verdict:?}", row.situation);
        let (exit, metric, cure) = match reason {
            None => (0, "1".to_owned(), "-".to_owned()),
            Some(reason) => (3, format!("0, `{}`", row.word), reason.finding.cure.clone()),
        };
        let first = match reason {
            Some(reason) if verdict.reasons.len() > 1 => format!("NOT protected: {}", reason.finding.what),
            _ => verdict.verdict.clone(),
        };
        let cell = |text: &str| text.replace('|', "\\|");
        table += &format!(
            "| {} | {} | {exit} | {metric} | {} |\n",
            cell(row.situation),
            cell(&first),
            cell(&cure)
        );
    }
    table
}

#[test]
fn the_page_has_every_situation_and_its_verdict() {
    let rows = rows();
    assert!(rows.len() >= 30, "{} rows", rows.len());
    let table = rendered(&rows);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/verdict.md");
    let page = std::fs::read_to_string(&path).unwrap();
    if std::env::var("INSTA_UPDATE").is_ok_and(|value| value == "always") {
        let begins = page.find("| situation |").unwrap();
        let ends = begins + page[begins..].find("\n\n").unwrap() + 1;
        std::fs::write(&path, [&page[..begins], &table, &page[ends..]].concat()).unwrap();
        return;
    }
    assert!(page.contains(&table), "docs/verdict.md is not current: INSTA_UPDATE=always writes it:\n{table}");
}

/// Every word that a verdict can give as its reason has a row.
#[test]
fn every_reason_has_a_row() {
    let source =
        [include_str!("../src/engine/verdict/mod.rs"), include_str!("../src/engine/verdict/kernels.rs")]
            .concat();
    let mut words: Vec<&str> = source
        .split("finding(\n")
        .flat_map(|part| part.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next()))
        .chain(source.split("finding(\"").skip(1).filter_map(|part| part.split('"').next()))
        .collect();
    words.sort_unstable();
    words.dedup();
    assert!(words.len() > 20, "{words:?}");
    let rows = rows();
    // What lasts for moments, or needs another build, has cases of its own below and in tests/backup.rs.
    let elsewhere = ["takeover", "backlog", "two-owners", "peer-untold"];
    let missing: Vec<&&str> = words
        .iter()
        .filter(|word| !rows.iter().any(|row| row.word == **word) && !elsewhere.contains(*word))
        .collect();
    assert!(missing.is_empty(), "no row shows {missing:?}");
}

/// What belongs to a handover is no alarm while it lasts; an alarm comes at once and goes with patience.
#[test]
fn alarms_come_at_once_and_go_with_patience() {
    let mut stage = Stage::new();
    stage.run(2);
    stage.seat(On::Owner, |seat| seat.here = 1);
    stage.run(2);
    assert!(stage.verdict(On::Owner).protected, "a handover takes a moment: {:?}", stage.verdicts);
    stage.seat(On::Owner, |seat| seat.here = 2);
    stage.run(2);
    stage.seat(On::Owner, |seat| seat.here = 1);
    stage.run(2);
    assert!(stage.verdict(On::Owner).protected, "two short ones are not a long one");
    stage.seat(On::Owner, |seat| seat.here = 2);
    stage.run(1);
    stage.role(On::Backup, Role::Fault);
    stage.pair.exchange();
    let judged = |stage: &mut Stage| {
        let view = stage.pair.owner.view(stage.pair.now);
        stage.judges[0].judge(&view, &stage.around[0], stage.pair.now)
    };
    assert!(!judged(&mut stage).protected, "at once");
    stage.role(On::Backup, Role::Backup);
    stage.pair.exchange();
    assert!(!judged(&mut stage).protected, "not yet over");
    stage.run(2);
    assert!(stage.verdict(On::Owner).protected);
}

/// Beside an alarm that is not over, one that is misleads; and it does not come back when the other one is
/// over, too.
#[test]
fn an_alarm_that_is_over_is_not_shown_beside_another() {
    let mut stage = Stage::new();
    stage.run(2);
    let words = |stage: &Stage| -> Vec<&str> {
        stage.verdict(On::Owner).reasons.iter().map(|reason| reason.finding.word).collect()
    };
    stage.role(On::Backup, Role::Fault);
    stage.run(1);
    assert_eq!(words(&stage), ["role-fault"]);
    stage.role(On::Backup, Role::Backup);
    stage.seat(On::Backup, |seat| seat.mover = Mover::Absent);
    let mut seen = Vec::new();
    for well in [false, true] {
        if well {
            stage.seat(On::Backup, |_| ());
        }
        for _ in 0..30 {
            stage.look();
            seen.push(words(&stage));
        }
    }
    seen.dedup();
    assert_eq!(seen, [vec!["mover-absent"], vec![]], "alone, and not back when that is over");
}

/// Whoever comes back hears nobody yet: that is not a channel that carries one way only.
#[test]
fn a_peer_that_returns_is_not_deaf() {
    let mut stage = Stage::new();
    stage.run(2);
    for _ in 0..3 {
        stage.cut = true;
        stage.run(3);
        stage.cut = false;
        for look in 0..40 {
            // Its own words are the first that arrive.
            stage.deaf = look < 5;
            stage.look();
            let reasons = &stage.verdict(On::Owner).reasons;
            assert!(reasons.iter().all(|reason| reason.finding.word != "one-way"), "{reasons:?}");
        }
    }
    assert!(stage.verdict(On::Owner).protected);
}

/// Under loss a backup is behind for moments: that is no alarm. One that stays behind is.
#[test]
fn a_moment_behind_is_no_alarm() {
    let mut stage = Stage::new();
    stage.run(2);
    let (mut looks, mut alarms, mut behind) = (0, Vec::new(), 0);
    let mut random = fastrand::Rng::with_seed(1);
    for step in 0..3000u16 {
        stage.pair.now += Duration::from_millis(10);
        let now = stage.pair.now;
        for number in 0..50u16 {
            stage.pair.owner.handle_event(Event::Update(entry(number % 10, u32::from(step) + 1)), now);
        }
        let Pair { owner, backup, .. } = &mut stage.pair;
        for replica in [&mut *owner, &mut *backup] {
            replica.handle_events_empty();
            replica.handle_timeout(now);
        }
        while let Some(datagram) = owner.poll_datagram(now) {
            if random.f64() > 0.3 {
                backup.handle_datagram(&datagram, now);
            }
        }
        while let Some(datagram) = backup.poll_datagram(now) {
            if random.f64() > 0.3 {
                owner.handle_datagram(&datagram, now);
            }
        }
        stage.pair.answer_all();
        let Pair { owner, backup, now } = &stage.pair;
        behind += u32::from(!backup.readiness(*now).is_ready());
        for (at, replica) in [owner, backup].into_iter().enumerate() {
            looks += 1;
            let view = replica.view(*now);
            let verdict = stage.judges[at].judge(&view, &stage.around[at], *now);
            alarms.extend((!verdict.protected).then_some(verdict.verdict));
        }
    }
    assert!(behind > 500, "30 % loss is felt: {behind}");
    assert!(alarms.is_empty(), "{} of {looks} looks: {:?}", alarms.len(), alarms);
}

/// Two pairs on one link with one `node-group`: neither hears the other, and both say so.
#[test]
fn another_pair_under_our_number_is_refused() {
    let mut stage = Stage::new();
    stage.run(2);
    let mut datagram = Vec::new();
    let header =
        wire::Header { node_group: 0, sender: wire::NodeId(9), incarnation: wire::Incarnation(9 << 64 | 9) };
    let claim = wire::Claim { epoch: 1 << 40, node: wire::NodeId(9) };
    let alive = wire::Alive {
        name: "router9".into(),
        mechanism_group: "vrrp OTHER".into(),
        turn: 1,
        owner: true,
        claim,
        ..wire::Alive::default()
    };
    wire::emit_body(&mut datagram, &header, &Body::Alive(Box::new(alive)));
    for on in [On::Owner, On::Backup] {
        let now = stage.pair.now;
        stage.replica(on).handle_datagram(&datagram, now);
        assert_eq!(stage.replica(on).stranger(), Some(("router9", "vrrp OTHER")));
        assert!(stage.replica(on).refused_lately(now).any(|why| why == Refused::OtherGroup));
        let answers = std::iter::from_fn(|| stage.replica(on).poll_datagram(now));
        let challenged = answers
            .filter(|datagram| matches!(wire::parse(datagram), Ok((_, Body::Challenge { .. }))))
            .count();
        assert_eq!(challenged, 0, "it is not asked who it is");
    }
    stage.run(2);
    assert!(stage.verdicts.iter().all(|verdict| verdict.protected) && stage.pair.owner.owner());
}
