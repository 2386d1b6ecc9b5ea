//! Oracles of the wire format: what was read can be written, and is read again as the same. Called by the
//! targets and by the stage, for what a replica says.

use ctsync::ctnetlink::entry::Entry;
use ctsync::engine::wire::{self, Body, Changed, Message, Messages, Node, Reader, packed};

/// Whatever parses is written and read again.
pub fn round_trip(datagram: &[u8]) {
    let _ = wire::peek(datagram);
    let Ok((header, body)) = wire::parse(datagram) else { return };
    let mut again = Vec::new();
    wire::emit_body(&mut again, &header, &body);
    assert_eq!(wire::parse(&again), Ok((header, body.clone())));
    if let Body::Stream(_, messages) | Body::Offer { messages, .. } | Body::Seen { messages, .. } = body {
        Messages::new(messages).flatten().for_each(|message| message_round_trip(&message));
    }
}

/// Whether all of a datagram can be read, messages included: a peer could use it.
pub fn is_whole(datagram: &[u8]) -> bool {
    match wire::parse(datagram) {
        Ok((_, Body::Stream(_, messages) | Body::Offer { messages, .. } | Body::Seen { messages, .. })) => {
            Messages::new(messages).all(|message| message.is_ok())
        }
        Ok(_) => true,
        Err(_) => false,
    }
}

fn message_round_trip(message: &Message<'_>) {
    let mut bytes = Vec::new();
    match message {
        Message::Put { entry, birth, .. } => return entry_round_trip(entry, *birth),
        Message::Change { key, birth, changed } => return change_round_trip(*key, *birth, changed),
        Message::Destroy { key, birth } => wire::emit_destroy(&mut bytes, *key, *birth),
        Message::Refusal { key, birth, why } => wire::emit_refusal(&mut bytes, *key, *birth, *why),
        Message::Sums { node: node @ Node { .. }, sums } => wire::emit_sums(&mut bytes, *node, sums),
        Message::List { bucket, last, lines } => {
            let listed: Vec<_> = wire::listed(lines).collect();
            assert_eq!(listed.len() * wire::LISTED_SIZE, lines.len());
            wire::emit_list(&mut bytes, *bucket, *last, &listed);
        }
    }
    assert_eq!(Messages::new(&bytes).next(), Some(Ok(message.clone())));
}

/// As of an entry: what it means has one form.
fn change_round_trip(key: u64, birth: u16, changed: &Changed) {
    let mut bytes = Vec::new();
    wire::emit_change(&mut bytes, key, birth, changed);
    let again = Messages::new(&bytes).next();
    let Some(Ok(Message::Change { key: arrived, birth: stamp, changed: again })) = again else {
        panic!("{again:?} of {changed:?}")
    };
    let mut twice = Vec::new();
    wire::emit_change(&mut twice, arrived, stamp, &again);
    assert_eq!((arrived, stamp, twice), (key, birth, bytes), "{changed:?}");
}

/// An entry may come in bytes that nobody would write; what it means has one form, on every node.
pub fn entry_round_trip(entry: &Entry, birth: u16) {
    let mut bytes = Vec::new();
    packed::emit_entry(&mut bytes, entry, birth);
    let room = packed::COMMON_ROOM + if entry.rare.is_some() { packed::RARE_ROOM } else { 0 };
    assert!(bytes.len() <= room, "{} bytes of {room}: {entry:?}", bytes.len());
    let mut reader = Reader::new(&bytes);
    let again = packed::parse_entry(&mut reader);
    let Ok((arrived, stamp)) = again else { panic!("{again:?} of {entry:?}") };
    assert!(reader.is_empty() && stamp == birth, "{entry:?}");
    assert_eq!(canonical(&arrived), canonical(entry), "{entry:?}");
    assert_eq!(arrived.key(), entry.key());
}

fn canonical(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::new();
    packed::emit_canonical(&mut bytes, entry);
    bytes
}
