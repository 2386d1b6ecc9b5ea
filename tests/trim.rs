//! Leases go back to their protocols' timeouts: after a takeover, and when the owner is lost for good. And a
//! message of one failover group means nothing to another.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::{Duration, Instant};

use ctsync_ctnetlink::codec::Event;
use ctsync_ctnetlink::entry::Entry;
use ctsync_engine::reconcile::Op;
use ctsync_engine::replica::{Refused, Replica, Role, Tunables};

#[path = "common/mod.rs"]
mod common;

use common::{entry, replica};

/// `owner-lost-timeout` of these tests.
const OWNER_LOST: Duration = Duration::from_secs(20);
/// UDP entries of a hundred seconds, and one with as long a timeout as a lease.
const SHORT: u16 = 600;

struct Stage {
    owner: Option<Replica>,
    backup: Replica,
    now: Instant,
    /// What the backup's kernel was last told of each entry's timer, by source port.
    asked: Vec<(Op, u16, Option<u32>)>,
}

fn port(entry: &Entry) -> u16 {
    match entry.orig.l4 {
        ctsync_ctnetlink::entry::L4::Ports { src, .. } => src,
        _ => 0,
    }
}

impl Stage {
    fn start() -> Stage {
        #[expect(clippy::disallowed_methods, reason = "the virtual clock has to begin somewhere")]
        let now = Instant::now();
        let (owner, backup) = (replica(1, Role::Primary, false, now), replica(2, Role::Backup, true, now));
        let mut stage = Stage { owner: Some(owner), backup, now, asked: Vec::new() };
        stage.backup.tune(Tunables {
            alive: Duration::from_millis(250),
            lost_after: Duration::from_secs(1),
            gate_limit: Duration::from_secs(30),
            owner_lost: OWNER_LOST,
            hot: true,
            track_windows: false,
        });
        stage.run(2000);
        for number in 0..=SHORT {
            let mut entry = entry(number, 1);
            if number == SHORT {
                entry.timeout = Some(432_000);
            }
            stage.owner.as_mut().unwrap().handle_event(Event::New(entry), stage.now);
        }
        stage.run(1000);
        assert!(stage.backup.readiness(stage.now).is_ready());
        assert_eq!(
            stage.asked.iter().filter(|(op, _, timeout)| *op == Op::Create && *timeout >= Some(3600)).count(),
            601
        );
        stage.asked.clear();
        stage
    }

    fn run(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds / 10 {
            self.now += Duration::from_millis(10);
            let Stage { owner, backup, now, asked } = self;
            for replica in owner.iter_mut().chain([&mut *backup]) {
                replica.handle_events_empty();
                replica.handle_timeout(*now);
            }
            if let Some(owner) = owner {
                while let Some(datagram) = owner.poll_datagram(*now) {
                    backup.handle_datagram(&datagram, *now);
                }
            }
            while let Some(datagram) = backup.poll_datagram(*now) {
                if let Some(owner) = owner {
                    owner.handle_datagram(&datagram, *now);
                }
            }
            while backup.waiting() > 0 {
                let requests = backup.poll_requests(64, |request| {
                    asked.push((request.op, port(request.entry), request.install.timeout));
                });
                if requests == 0 {
                    break;
                }
                backup.handle_answers_end(&vec![false; requests], *now);
            }
        }
    }
}

#[test]
fn a_takeover_gives_leases_back_at_a_pace() {
    let mut stage = Stage::start();
    stage.owner = None;
    stage.run(1500);
    stage.asked.clear();
    stage.backup.handle_role(Role::Primary, stage.now);
    assert!(stage.backup.owner() && !stage.backup.fencing());
    assert!(stage.asked.is_empty(), "the fence itself trims nothing");
    stage.run(10);
    let first = stage.asked.len();
    assert!(0 < first && first <= 256, "{first} in the first slice");
    stage.run(200);
    let trimmed: Vec<u16> = stage
        .asked
        .iter()
        .filter(|asked| matches!(asked, (Op::Renew, _, Some(100))))
        .map(|asked| asked.1)
        .collect();
    assert_eq!(trimmed, (0..SHORT).collect::<Vec<_>>(), "each once; the long one has its own timeout");
    assert_eq!(stage.asked.len(), usize::from(SHORT));
    assert_eq!(stage.backup.counters().trimmed, u64::from(SHORT));
}

#[test]
fn an_owner_lost_for_good_is_not_waited_for() {
    let mut stage = Stage::start();
    stage.owner = None;
    stage.run(u64::try_from(OWNER_LOST.as_millis()).unwrap() - 500);
    assert_eq!(stage.backup.counters().trimmed, 0);
    assert_eq!(stage.backup.held(ctsync_engine::replica::Cache::External), 601);
    stage.asked.clear();
    stage.run(2500);
    let given_back = |asked: &&(Op, u16, Option<u32>)| matches!(asked, (Op::Update, _, Some(100)));
    assert_eq!(stage.asked.iter().filter(given_back).count(), usize::from(SHORT));
    // Its end is believed now, and nothing is created again.
    stage.asked.clear();
    stage.backup.handle_event(Event::Destroy(entry(7, 1)), stage.now);
    stage.run(1000);
    assert_eq!(stage.backup.held(ctsync_engine::replica::Cache::External), 600);
    assert!(stage.asked.is_empty(), "{:?}", stage.asked);
}

#[test]
fn an_owner_that_comes_back_after_all_finds_a_backup() {
    let mut stage = Stage::start();
    let owner = stage.owner.take();
    stage.run(u64::try_from(OWNER_LOST.as_millis()).unwrap() + 3000);
    stage.backup.handle_event(Event::Destroy(entry(7, 1)), stage.now);
    stage.asked.clear();
    stage.owner = owner;
    stage.run(3000);
    assert!(stage.backup.readiness(stage.now).is_ready());
    assert_eq!(
        stage.backup.held(ctsync_engine::replica::Cache::External),
        601,
        "what ended meanwhile is there again"
    );
    let leased = |number: u16| {
        stage
            .asked
            .iter()
            .any(|(_, port, timeout)| *port == number && timeout.is_some_and(|timeout| timeout >= 3600))
    };
    assert!((0..SHORT).all(leased), "every lease is renewed");
}

#[test]
fn another_groups_datagrams_change_nothing() {
    let mut stage = Stage::start();
    let owner = stage.owner.as_mut().unwrap();
    owner.handle_event(Event::New(entry(900, 1)), stage.now);
    let mut datagram = owner.poll_datagram(stage.now).unwrap();
    // The number of the group is the second word of the header.
    datagram[7] ^= 1;
    assert_ne!(ctsync_engine::wire::peek_group(&datagram), Some(owner.number()));
    let (position, foreign) = (stage.backup.position(), stage.backup.counters().refused(Refused::Foreign));
    stage.backup.handle_datagram(&datagram, stage.now);
    assert_eq!(stage.backup.position(), position);
    assert_eq!(stage.backup.counters().refused(Refused::Foreign), foreign + 1);
}
