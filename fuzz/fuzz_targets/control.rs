//! A line on the operator's socket, as a request and as a reply.

#![no_main]

use ctsync::control::{Reply, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    if let Ok(request) = serde_json::from_slice::<Request>(line) {
        let again = serde_json::to_vec(&request).expect("a request can be written");
        assert_eq!(serde_json::from_slice::<Request>(&again).expect("and read"), request);
        let _ = request.changes();
    }
    if let Ok(reply) = serde_json::from_slice::<Reply>(line) {
        // Not as the same: the last digit of a long fraction may change.
        let again = serde_json::to_vec(&reply).expect("a reply can be written");
        serde_json::from_slice::<Reply>(&again).expect("and read");
    }
});
