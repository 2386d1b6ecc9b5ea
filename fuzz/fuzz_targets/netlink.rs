//! What the kernel tells, as events and as a dump: what is read can be written as requests, and packed for
//! the peer.

#![no_main]

use ctsync::ctnetlink::codec::{self, Answer, Install};
use ctsync::ctnetlink::entry::Entry;
use ctsync::ctnetlink::nla::Writer;
use ctsync_fuzz::wire::entry_round_trip;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = codec::parse_events(bytes, |event| survives(event.entry()));
    let _ = codec::parse_answers(bytes, |_, answer| {
        if let Answer::Found(entry) = answer {
            survives(&entry);
        }
    });
    let _ = codec::parse_dump(bytes, |_, entry| survives(&entry));
});

fn survives(entry: &Entry) {
    let whole = Install::whole(60);
    let bare = Install { timeout: None, be_liberal: false, helper: false, master: false, labels: false };
    let mut writer = Writer::default();
    for how in [whole, bare] {
        codec::emit_create(&mut writer, 1, entry, how);
        codec::emit_update(&mut writer, 2, entry, how);
        codec::emit_renew(&mut writer, 3, entry, how);
    }
    codec::emit_track(&mut writer, 4, entry);
    codec::emit_get(&mut writer, 5, &entry.key());
    codec::emit_destroy(&mut writer, 6, &entry.key());
    // Whatever is written can be taken apart.
    assert!(codec::parse_events(writer.as_bytes(), |_| {}).is_ok(), "{entry:?}");
    entry_round_trip(entry, 1);
}
