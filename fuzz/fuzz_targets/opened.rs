//! What an authentic but broken peer can do: its datagrams are sealed under the right key, what is in them is
//! anything.
//!
//! The first byte of an input tells who hears it, and what else is under way there. The rest is a datagram's
//! kind and body, or several with `NEXT` between them; where one is empty, half a second passes.

#![no_main]

use std::time::Duration;

use ctsync_fuzz::stage::{Side, Stage, TURN};
use libfuzzer_sys::fuzz_target;

const NEXT: &[u8] = b"NEXT";
/// Longer than a repair may stand still, shorter than a peer may be silent.
const PAUSE: Duration = Duration::from_millis(600);

fuzz_target!(|bytes: &[u8]| {
    let Some((how, mut rest)) = bytes.split_first() else { return };
    let mut stage = Stage::fed(if how & 1 == 0 { Side::Backup } else { Side::Owner }, true);
    stage.disturb(how >> 1);
    loop {
        let at = rest.windows(NEXT.len()).position(|window| window == NEXT);
        let body = &rest[..at.unwrap_or(rest.len())];
        stage.hear_body(body);
        stage.pass(if body.is_empty() { PAUSE } else { TURN });
        stage.listen();
        let Some(at) = at else { break };
        rest = &rest[at + NEXT.len()..];
    }
    stage.check_size(bytes.len());
});
