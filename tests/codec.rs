//! The netlink codec against bytes recorded from a kernel (6.18), both ways.
//!
//! `tests/fixtures/conntrack-events.hex` has one event a line: the entries of `tests/kernel.rs` created, then
//! destroyed. `tests/kernel.rs` says how to record it anew.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

use ctsync_ctnetlink::codec::{self, Event, Install};
use ctsync_ctnetlink::entry::{Entry, L4, Status, proto};
use ctsync_ctnetlink::nla::Writer;

fn recorded() -> Vec<Vec<u8>> {
    include_str!("fixtures/conntrack-events.hex")
        .lines()
        .map(|line| {
            (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap()).collect()
        })
        .collect()
}

fn parse(bytes: &[u8]) -> Event {
    let mut all = Vec::new();
    codec::parse_events(bytes, |event| all.push(event)).unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn created() -> Vec<(Vec<u8>, Entry)> {
    let events = recorded().into_iter().map(|bytes| (parse(&bytes), bytes));
    events
        .filter_map(|(event, bytes)| if let Event::New(entry) = event { Some((bytes, entry)) } else { None })
        .collect()
}

#[test]
fn recorded_events_are_read() {
    let all = created();
    assert_eq!(all.len(), 16);
    assert_eq!(recorded().len(), 32);
    let first = &all[0].1;
    assert_eq!((first.orig.proto, first.orig.l4), (proto::TCP, L4::Ports { src: 4000, dst: 443 }));
    assert_eq!(first.reply, first.orig.inverse());
    let tcp = first.tcp.unwrap();
    assert_eq!((tcp.state, tcp.wscale_orig, tcp.wscale_reply), (3, 7, 9));
    assert!(first.status.contains(Status::SeenReply | Status::Assured | Status::Confirmed));
    assert_eq!(first.timeout, Some(3600));
    let ping = &all[2].1;
    assert_eq!(ping.orig.l4, L4::Icmp { id: 77, kind: 8, code: 0 });
    assert_eq!(ping.reply.l4, L4::Icmp { id: 77, kind: 0, code: 0 });
    assert!(all[3].1.orig.src.is_ipv6());
    assert_eq!(all[4].1.orig.proto, proto::ICMPV6);
    assert_eq!(all[6].1.orig.l4, L4::Nothing);
    assert_eq!(all[7].1.mark, Some(0xbeef));
    assert_eq!(all[8].1.zone, 7);
    assert_eq!(all.iter().filter(|(_, entry)| entry.source_nat()).count(), 6);
    assert_eq!(all.iter().filter(|(_, entry)| entry.destination_nat()).count(), 1);
}

#[test]
fn the_end_of_an_entry_names_the_same_key() {
    let keys: Vec<_> = created().into_iter().map(|(_, entry)| entry.key()).collect();
    let ended: Vec<_> = recorded()
        .iter()
        .filter_map(|bytes| if let Event::Destroy(entry) = parse(bytes) { Some(entry.key()) } else { None })
        .collect();
    assert_eq!(keys, ended);
}

/// The attribute of a kind at the top level of a message, with its header and padding.
fn attribute(message: &[u8], kind: u16) -> &[u8] {
    let mut at = 20;
    while at + 4 <= message.len() {
        let length = usize::from(u16::from_ne_bytes([message[at], message[at + 1]]));
        let found = u16::from_ne_bytes([message[at + 2], message[at + 3]]) & 0x3fff;
        if found == kind {
            return &message[at..at + length.div_ceil(4) * 4];
        }
        at += length.div_ceil(4) * 4;
    }
    panic!("no attribute {kind}");
}

#[test]
fn tuples_marks_and_zones_are_written_as_the_kernel_writes_them() {
    const CTA_TUPLE_ORIG: u16 = 1;
    const CTA_TUPLE_REPLY: u16 = 2;
    const CTA_MARK: u16 = 8;
    const CTA_ZONE: u16 = 18;
    for (kernel, entry) in created() {
        let mut writer = Writer::default();
        codec::emit_create(&mut writer, 1, &entry, Install { be_liberal: false, ..Install::whole(1) });
        let ours = writer.as_bytes();
        assert_eq!(attribute(ours, CTA_TUPLE_ORIG), attribute(&kernel, CTA_TUPLE_ORIG), "{entry:?}");
        if !entry.source_nat() && !entry.destination_nat() {
            assert_eq!(attribute(ours, CTA_TUPLE_REPLY), attribute(&kernel, CTA_TUPLE_REPLY), "{entry:?}");
        }
        if entry.mark.is_some() {
            assert_eq!(attribute(ours, CTA_MARK), attribute(&kernel, CTA_MARK));
        }
        if entry.zone != 0 {
            assert_eq!(attribute(ours, CTA_ZONE), attribute(&kernel, CTA_ZONE));
        }
    }
}

#[test]
fn any_cut_is_an_error_or_nothing_never_a_panic() {
    for bytes in recorded() {
        for cut in 0..bytes.len() {
            let mut count = 0;
            let _ = codec::parse_events(&bytes[..cut], |_| count += 1);
            assert_eq!(count, 0, "half a message is no message");
        }
    }
}

#[test]
fn any_flipped_byte_is_survived() {
    for bytes in recorded().iter().take(4) {
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut spoilt = bytes.clone();
                spoilt[at] ^= flip;
                let _ = codec::parse_events(&spoilt, |_| {});
                let _ = codec::parse_answers(&spoilt, |_, _| {});
            }
        }
    }
}

/// A message that cannot be read costs nobody else anything: it is counted, its neighbours are read.
#[test]
fn an_unreadable_message_leaves_its_neighbours_alone() {
    const NLA_HEADER_AT: usize = 20;
    let all = recorded();
    let mut spoilt = all[1].clone();
    // Its first attribute, the original tuple, becomes one that nobody knows: the tuple is missing.
    spoilt[NLA_HEADER_AT + 2] = 60;
    let together = [all[0].clone(), spoilt, all[2].clone()].concat();
    let mut read = Vec::new();
    let unreadable = codec::parse_events(&together, |event| read.push(event)).unwrap();
    assert_eq!(unreadable, 1);
    assert_eq!(read, [parse(&all[0]), parse(&all[2])]);
}

/// No kernel tells such entries; the wire could not carry them.
#[test]
fn directions_that_do_not_belong_together_are_unreadable() {
    let (_, tcp) = created().into_iter().find(|(_, entry)| entry.orig.proto == proto::TCP).unwrap();
    let unreadable = |entry: &Entry| {
        let mut writer = Writer::default();
        codec::emit_create(&mut writer, 1, entry, Install::whole(1));
        codec::parse_events(writer.as_bytes(), |_| {}).unwrap()
    };
    assert_eq!(unreadable(&tcp), 0);
    let mut families = tcp.clone();
    families.orig.src = std::net::Ipv6Addr::LOCALHOST.into();
    assert_eq!(unreadable(&families), 1);
    // The reply tuple is behind the original one, its protocol's number at the end of the first attributes.
    let mut writer = Writer::default();
    codec::emit_create(&mut writer, 1, &tcp, Install::whole(1));
    let reply = attribute(writer.as_bytes(), 2).to_vec();
    let at = writer.as_bytes().windows(reply.len()).position(|window| window == reply).unwrap();
    let number = reply.windows(5).position(|window| window == [5, 0, 1, 0, proto::TCP]).unwrap() + 4;
    let mut other = writer.as_bytes().to_vec();
    other[at + number] = proto::UDP;
    assert_eq!(codec::parse_events(&other, |_| {}).unwrap(), 1);
}

/// Who makes an entry be-liberal also forgets that acknowledgements were seen: window tracking would come
/// back with edges of before another node carried it.
#[test]
fn be_liberal_forgets_what_was_seen() {
    let (_, entry) = created().into_iter().find(|(_, entry)| entry.tcp.is_some()).unwrap();
    let flags = |emit: &dyn Fn(&mut Writer)| -> usize {
        let mut writer = Writer::default();
        emit(&mut writer);
        // One attribute of two bytes a side: be-liberal, and the mask with MAXACK_SET in it (0x20).
        writer.as_bytes().windows(2).filter(|pair| pair[0] & 0x28 == 0x08 && pair[1] & 0x28 == 0x28).count()
    };
    let how = Install::whole(1);
    assert_eq!(flags(&|writer| codec::emit_renew(writer, 1, &entry, how)), 2);
    assert_eq!(flags(&|writer| codec::emit_update(writer, 1, &entry, how)), 2);
    assert_eq!(flags(&|writer| codec::emit_track(writer, 1, &entry)), 0);
}
