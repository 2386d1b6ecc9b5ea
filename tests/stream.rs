//! What an owner sends of its changes, and what it keeps of that.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::time::Duration;

use ctsync_ctnetlink::codec::Event;
use ctsync_ctnetlink::entry::{Entry, Expectation, Rare};
use ctsync_engine::digest::Digester;
use ctsync_engine::filter::Filter;
use ctsync_engine::wire::{self, Alive, Body, Changed, Header, Message, Messages, StreamHead};

#[path = "common/mod.rs"]
mod common;

use common::entry;
use common::pair::Pair;

/// What the owner has to tell now, by the names of its messages; the backup hears it if it is to.
fn told(pair: &mut Pair, arrives: bool) -> Vec<&'static str> {
    let mut told = Vec::new();
    while let Some(datagram) = pair.owner.poll_datagram(pair.now) {
        if let (_, Body::Stream(_, messages)) = wire::parse(&datagram).unwrap() {
            told.extend(Messages::new(messages).map(|message| match message.unwrap() {
                Message::Put { .. } => "put",
                Message::Change { .. } => "change",
                Message::Destroy { .. } => "destroy",
                Message::Refusal { .. } => "refusal",
                Message::Sums { .. } | Message::List { .. } => "repair",
            }));
        }
        if arrives {
            pair.backup.handle_datagram(&datagram, pair.now);
        }
    }
    told
}

/// The owner's next sign of life.
fn said(pair: &mut Pair) -> (Header, Alive) {
    pair.now += Duration::from_millis(300);
    let sent = std::iter::from_fn(|| pair.owner.poll_datagram(pair.now));
    let alives = sent.filter_map(|datagram| match wire::parse(&datagram).unwrap() {
        (header, Body::Alive(alive)) => Some((header, *alive)),
        _ => None,
    });
    alives.last().unwrap()
}

/// The two hold the same, and no repair was needed for it.
fn assert_alike(pair: &Pair) {
    let [owner, backup] = [&pair.owner, &pair.backup].map(|replica| {
        let mut all: Vec<String> = replica.entries().map(|(entry, _)| format!("{entry:?}")).collect();
        all.sort_unstable();
        all
    });
    assert_eq!(owner, backup);
    assert_eq!(pair.backup.view(pair.now).root, pair.owner.view(pair.now).root);
    assert_eq!(pair.backup.counters().repairs, 0);
}

#[test]
fn a_change_is_told_without_the_tuples() {
    let mut pair = Pair::start(3);
    let changed = Entry { timeout: Some(30), ..entry(1, 7) };
    pair.owner.handle_event(Event::Update(changed), pair.now);
    assert_eq!(told(&mut pair, true), ["change"]);
    assert_alike(&pair);
    // Ended and made again between two datagrams: another one.
    pair.owner.handle_event(Event::Destroy(entry(1, 7)), pair.now);
    pair.owner.handle_event(Event::New(entry(1, 8)), pair.now);
    assert_eq!(told(&mut pair, true), ["put"]);
    assert_alike(&pair);
}

/// Events were lost, and the kernel shows another connection under the same key: what a change leaves out
/// differs.
#[test]
fn another_translation_is_told_whole() {
    let mut pair = Pair::start(3);
    let mut other = entry(1, 1);
    other.reply.dst = [192, 0, 2, 1].into();
    pair.owner.handle_event(Event::Update(other.clone()), pair.now);
    assert_eq!(told(&mut pair, true), ["put"]);
    assert_alike(&pair);
    other.mark = Some(9);
    pair.owner.handle_event(Event::Update(other), pair.now);
    assert_eq!(told(&mut pair, true), ["change"]);
    assert_alike(&pair);
}

/// A backup that lost the put cannot use the change: the stream goes on when it has both.
#[test]
fn a_change_waits_for_what_it_changes() {
    let mut pair = Pair::start(3);
    pair.owner.handle_event(Event::New(entry(9, 1)), pair.now);
    assert_eq!(told(&mut pair, false), ["put"]);
    pair.owner.handle_event(Event::Update(entry(9, 2)), pair.now);
    assert_eq!(told(&mut pair, true), ["change"]);
    assert_eq!(pair.backup.entries().count(), 3);
    pair.run(100);
    assert_eq!(pair.backup.entries().count(), 4);
    assert_alike(&pair);
}

/// Somebody on an open channel tells of a change that no owner makes: of an expectation, which would be
/// another key afterwards.
#[test]
fn an_expectation_is_not_changed() {
    let mut pair = Pair::start(3);
    let helped = |own| Rare { helper: Some("ftp".into()), expectation: own, ..Rare::default() }.boxed();
    let own = Expectation { mask: entry(200, 1).orig, flags: 0, class: 0, function: None, nat: None };
    let master = Entry { rare: helped(None), ..entry(100, 1) };
    let child = Entry { master: Some(Box::new(master.orig)), rare: helped(Some(own)), ..entry(200, 1) };
    let filter = Filter { expect: vec!["ftp".to_owned()], ..pair.owner.filter().clone() };
    pair.owner.set_filter(filter);
    for new in [&master, &child] {
        pair.owner.handle_event(Event::New(new.clone()), pair.now);
    }
    pair.run(100);
    assert_alike(&pair);
    let (header, alive) = said(&mut pair);
    let key = Digester::new(alive.seed).hash_key(&mut Vec::new(), &child.key());
    let mut messages = Vec::new();
    for birth in 0..50 {
        wire::emit_change(&mut messages, key, birth, &Changed::of(&entry(200, 9)).unwrap());
    }
    let head = StreamHead { sequence: alive.last + 1, root: alive.root, ..StreamHead::default() };
    let mut forged = Vec::new();
    wire::emit_stream(&mut forged, &header, &head, &messages);
    let heard = pair.backup.counters().heard;
    pair.backup.handle_datagram(&forged, pair.now);
    assert_eq!(pair.backup.counters().heard, heard + 1);
    assert_alike(&pair);
}

/// The oldest datagram that an owner keeps, and the last one it has sent, as its next sign of life says.
fn kept(pair: &mut Pair) -> (u64, u64) {
    let (_, alive) = said(pair);
    (alive.oldest, alive.last)
}

#[test]
fn what_the_backup_has_is_not_kept_for_it() {
    let mut pair = Pair::start(100);
    let (oldest, last) = kept(&mut pair);
    assert_eq!(oldest, last + 1);
    // It is lost on the way; the alive that tells of it, too.
    pair.owner.handle_event(Event::New(entry(200, 1)), pair.now);
    let lost = std::iter::from_fn(|| pair.owner.poll_datagram(pair.now)).count();
    assert_eq!(lost, 1);
    assert_eq!(kept(&mut pair), (last + 1, last + 1));
    pair.run(1000);
    assert_eq!(pair.backup.counters().nacks, 1);
    assert_eq!((pair.owner.counters().resent, pair.backup.counters().repairs), (1, 0));
    assert_eq!(kept(&mut pair), (last + 2, last + 1));
}
