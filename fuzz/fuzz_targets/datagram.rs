//! Whatever comes in from the channel, without a key: the codec, and a replica that has met its peer.
//!
//! An input is one datagram or several: each begins where magic number and version stand.

#![no_main]

use ctsync_fuzz::stage::{Side, Stage, TURN};
use ctsync_fuzz::wire::round_trip;
use libfuzzer_sys::fuzz_target;

/// "CT" and the version.
const BEGINS: &[u8] = &[0x43, 0x54, 1];

fuzz_target!(|bytes: &[u8]| {
    let datagrams = split(bytes);
    datagrams.iter().for_each(|datagram| round_trip(datagram));
    // Who it pretends to come from decides who hears it.
    let from_owner = datagrams.iter().filter_map(|datagram| ctsync::engine::wire::peek(datagram).ok()).next();
    let from_owner = from_owner.is_some_and(|(header, _)| header.sender == Side::Owner.header().sender);
    let mut stage = Stage::fed(if from_owner { Side::Backup } else { Side::Owner }, false);
    for datagram in datagrams {
        stage.hear(datagram);
        stage.pass(TURN);
        stage.listen();
    }
    stage.check_size(bytes.len());
});

fn split(bytes: &[u8]) -> Vec<&[u8]> {
    let begins = (1..bytes.len()).filter(|at| bytes[*at..].starts_with(BEGINS)).chain([bytes.len()]);
    let mut from = 0;
    begins.map(|until| &bytes[std::mem::replace(&mut from, until)..until]).collect()
}
