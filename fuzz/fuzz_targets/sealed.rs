//! Somebody on the link, without the key, or with a recording of what was said: nothing that they send is
//! heard.
//!
//! Nothing may change, so one replica hears all inputs: that is what is checked.

#![no_main]

use std::cell::RefCell;

use ctsync::engine::replica::Replica;
use ctsync_fuzz::stage::{Side, Stage, refusals};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static STAGES: RefCell<[Stage; 2]> =
        RefCell::new([Side::Owner, Side::Backup].map(|side| {
            let mut stage = Stage::fed(side, true);
            while stage.replica.poll_datagram(stage.now).is_some() {}
            stage
        }));
}

fuzz_target!(|bytes: &[u8]| {
    STAGES.with_borrow_mut(|stages| stages.iter_mut().for_each(|stage| refused(stage, bytes)));
});

fn refused(stage: &mut Stage, bytes: &[u8]) {
    let before = (state(&stage.replica), refusals(stage.replica.counters()));
    stage.hear(bytes);
    let after = (state(&stage.replica), refusals(stage.replica.counters()));
    assert_eq!(after, (before.0, before.1 + 1));
    assert_eq!(stage.replica.poll_datagram(stage.now), None, "it answers");
}

/// Entries, changes, and everything that a stream moves.
fn state(replica: &Replica) -> (usize, usize, [u64; 10]) {
    let counters = replica.counters();
    let caches = [counters.internal, counters.external];
    let changes = caches.map(|cache| cache.created + cache.updated + cache.destroyed);
    let stream = [counters.lost, counters.nacks, counters.resent, counters.repairs, counters.offered];
    let roles = [counters.claims, counters.yields, counters.heard];
    let mut all = [0; 10];
    let numbers = changes.into_iter().chain(stream).chain(roles);
    all.iter_mut().zip(numbers).for_each(|(to, from)| *to = from);
    (replica.entries().count(), replica.waiting(), all)
}
