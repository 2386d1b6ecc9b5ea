//! An owner, a backup in step with it, and a kernel of the backup that does what it is told.

#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::time::{Duration, Instant};

use ctsync_ctnetlink::codec::Event;
use ctsync_ctnetlink::entry::Entry;
use ctsync_engine::reconcile::Op;
use ctsync_engine::replica::{Replica, Role};

use super::{entry, replica, start};

/// The two, and their clock.
pub(crate) struct Pair {
    pub owner: Replica,
    pub backup: Replica,
    pub now: Instant,
}

impl Pair {
    pub(crate) fn start(entries: u16) -> Pair {
        Pair::with(entries, true)
    }

    /// With a hot or a cold backup.
    pub(crate) fn with(entries: u16, hot: bool) -> Pair {
        let now = start();
        let (owner, backup) = (replica(1, Role::Primary, false, now), replica(2, Role::Backup, hot, now));
        let mut pair = Pair { owner, backup, now };
        pair.run(2000);
        for number in 0..entries {
            pair.owner.handle_event(Event::New(entry(number, 1)), pair.now);
        }
        pair.run(1000);
        assert!(pair.owner.owner() && pair.backup.readiness(pair.now).is_ready());
        pair
    }

    pub(crate) fn run(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds / 10 {
            self.exchange();
            self.answer_all();
        }
    }

    /// Datagrams both ways; no requests.
    pub(crate) fn exchange(&mut self) {
        self.now += Duration::from_millis(10);
        let Pair { owner, backup, now } = self;
        for _ in 0..2 {
            for replica in [&mut *owner, &mut *backup] {
                replica.handle_events_empty();
                replica.handle_timeout(*now);
            }
            while let Some(datagram) = owner.poll_datagram(*now) {
                backup.handle_datagram(&datagram, *now);
            }
            while let Some(datagram) = backup.poll_datagram(*now) {
                owner.handle_datagram(&datagram, *now);
            }
        }
    }

    pub(crate) fn answer_all(&mut self) {
        while self.backup.waiting() > 0 && !self.batch(&[]).is_empty() {}
    }

    /// One batch of the backup's requests, answered: `errors` by operation, all others are done.
    pub(crate) fn batch(&mut self, errors: &[(Op, i32)]) -> Vec<(Op, Entry)> {
        let mut requests = Vec::new();
        self.backup.poll_requests(64, |request| requests.push((request.op, request.entry.clone())));
        let mut answered = vec![false; requests.len()];
        for (at, (op, _)) in requests.iter().enumerate() {
            if let Some((_, errno)) = errors.iter().find(|(failing, _)| failing == op) {
                self.backup.handle_answer(at, *errno);
                answered[at] = true;
            }
        }
        self.backup.handle_answers_end(&answered, self.now);
        requests
    }

    pub(crate) fn batches(&mut self) -> Vec<Vec<Op>> {
        let mut all = Vec::new();
        while self.backup.waiting() > 0 {
            let batch = self.batch(&[]);
            if batch.is_empty() {
                break;
            }
            all.push(batch.into_iter().map(|(op, _)| op).collect());
        }
        all
    }
}

/// Its owner has been silent; told that it is primary, its kernel does what it is told.
pub(crate) fn take_over(backup: &mut Replica, now: Instant) {
    backup.handle_timeout(now);
    backup.handle_role(Role::Primary, now);
    while backup.waiting() > 0 {
        let count = backup.poll_requests(64, |_| {});
        backup.handle_answers_end(&vec![false; count], now);
    }
    backup.handle_events_empty();
    assert!(backup.owner() && !backup.fencing());
}
