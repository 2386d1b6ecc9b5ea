//! What the groups ask of the kernel in a turn.
//!
//! Called by the daemon's loop. Few requests are sent by the loop itself; with many the kernel works off one
//! batch in another thread while the next is put together.

use std::collections::VecDeque;
use std::time::Instant;

use super::{Daemon, DaemonError, failed};
use crate::ctnetlink::codec::{self, Answer};
use crate::ctnetlink::entry::Entry;
use crate::ctnetlink::nla::Writer;
use crate::engine::reconcile::Op;
use crate::kernel::courier::Carried;
use crate::kernel::socket::{BATCH, Batch, EventSocket, RequestSocket};
use crate::kernel::watched::watch_events;

/// Batches in a turn.
const BATCHES: usize = 8;
/// ... while many wait, or during a fence: half a tenth of a second.
const MANY_BATCHES: usize = 128;
/// Keys waiting, from which on they are many.
const MANY: usize = 4 * BATCH as usize;
/// Batches given away at once: the kernel has one, and the next are there while this thread waits for a
/// processor.
const AHEAD: usize = 8;

/// What a batch removes, and does not create again, by its position in the batch.
type Removed = Vec<(u32, Entry)>;

impl Daemon {
    pub(super) fn send_requests(&mut self, at: usize, now: Instant) -> Result<(), DaemonError> {
        let mut batches = 0;
        while let Some(group) = self.groups.get(at)
            && group.replica.waiting() > 0
        {
            // A fence goes before everything, but what is held has to be renewed meanwhile; renewals of
            // leases can wait.
            let (pending, fence) = (group.replica.pending(), group.replica.fencing());
            let most = if pending >= MANY || (fence && pending > 0) { MANY_BATCHES } else { BATCHES };
            if batches >= most {
                self.more = true;
                break;
            }
            let sent = if pending >= MANY {
                self.send_many(at, most - batches, now)?
            } else {
                usize::from(self.send_one(at, now)?)
            };
            if sent == 0 {
                break;
            }
            batches += sent;
        }
        Ok(())
    }

    /// Whether there was anything to send, and the kernel has answered.
    fn send_one(&mut self, at: usize, now: Instant) -> Result<bool, DaemonError> {
        let Some((mut batch, removed)) = self.write_batch(at) else { return Ok(false) };
        let carried = self.requests.carrier().carry_out(&mut batch);
        let lost = self.take_answers(at, (batch, carried), removed, now);
        if lost {
            self.begin_anew()?;
        }
        Ok(!lost)
    }

    /// So many batches, while the peer goes on to be heard; how many were sent, none if answers were lost.
    fn send_many(&mut self, at: usize, most: usize, now: Instant) -> Result<usize, DaemonError> {
        let mut removals: VecDeque<Removed> = VecDeque::new();
        let (mut sent, mut lost) = (0, false);
        loop {
            while !lost && sent < most && self.courier.under_way() < AHEAD {
                let Some((batch, removed)) = self.write_batch(at) else { break };
                self.courier.give(self.requests.carrier(), batch)?;
                removals.push_back(removed);
                sent += 1;
            }
            let Some(removed) = removals.pop_front() else { break };
            let carried = loop {
                if let Some(carried) = self.courier.take()? {
                    break carried;
                }
                // An owner's answers are about what its kernel says, and offers would contradict them.
                let owner = self.groups.get(at).is_some_and(|group| group.replica.owner());
                if owner || !self.hear_one(now) {
                    break self.courier.wait()?;
                }
            };
            lost |= self.take_answers(at, carried, removed, now);
            // The owner sends no more than what this node has said that it heard.
            self.send_datagrams(now);
        }
        if lost {
            // Not before all are back: what they did would be heard as somebody else's doing.
            self.begin_anew()?;
            sent = 0;
        }
        Ok(sent)
    }

    /// `None`: there is nothing to ask.
    fn write_batch(&mut self, at: usize) -> Option<(Batch, Removed)> {
        let group = self.groups.get_mut(at)?;
        let mut batch = self.batches.pop().unwrap_or_default();
        let mut removed = Removed::new();
        let several = !self.config.further.is_empty();
        self.requests.write(&mut batch, |writer, first| {
            let mut next = first;
            group.replica.poll_requests(BATCH as usize, |request| {
                let at = next.wrapping_sub(first);
                match request.op {
                    Op::Destroy if several => removed.push((at, request.entry.clone())),
                    Op::Create
                        if removed.last().is_some_and(|(before, entry)| {
                            before + 1 == at && entry.key() == request.entry.key()
                        }) =>
                    {
                        removed.pop();
                    }
                    _ => {}
                }
                emit(writer, next, request);
                next = next.wrapping_add(1);
            });
            next.wrapping_sub(first)
        });
        if batch.count() == 0 {
            self.batches.push(batch);
            return None;
        }
        Some((batch, removed))
    }

    /// Whether some were lost.
    fn take_answers(&mut self, at: usize, carried: Carried, mut removed: Removed, now: Instant) -> bool {
        let (mut batch, carried) = carried;
        let Some(group) = self.groups.get_mut(at) else { return false };
        let replica = &mut group.replica;
        self.answered.clear();
        self.answered.resize(2 * BATCH as usize, carried.is_err());
        for (at, answer) in batch.take_answers() {
            if let Some(answered) = self.answered.get_mut(at as usize) {
                *answered = true;
            }
            match answer {
                Answer::Done => replica.handle_answer(at as usize, 0),
                Answer::Refused(errno) => {
                    removed.retain(|(destroy, _)| *destroy != at);
                    replica.handle_answer(at as usize, errno);
                }
                Answer::Found(entry) => replica.handle_read_back(at as usize, entry),
            }
        }
        replica.handle_answers_end(&self.answered, now);
        self.batches.push(batch);
        // Its own socket filter keeps this daemon from hearing what it removes; another group may hold it by
        // now.
        for (_, entry) in removed {
            for (_, group) in self.groups.iter_mut().enumerate().filter(|(other, _)| *other != at) {
                group.replica.handle_removed(entry.clone(), now);
            }
        }
        carried
            .inspect_err(|error| tracing::warn!(%error, "answers were lost, reading the kernel table"))
            .is_err()
    }

    /// What the kernel did is not known: read it all again, through sockets in which nothing of before is
    /// left.
    fn begin_anew(&mut self) -> Result<(), DaemonError> {
        self.groups.iter_mut().for_each(|group| group.replica.handle_overrun());
        self.requests = RequestSocket::open()?;
        let events = EventSocket::open(self.requests.port_id(), self.config.event_buffer)?;
        self.events = watch_events(events).map_err(failed("register the event socket"))?;
        Ok(())
    }
}

fn emit(writer: &mut Writer, sequence: u32, request: crate::engine::replica::Request<'_>) {
    let (entry, install) = (request.entry, request.install);
    match request.op {
        Op::Create => codec::emit_create(writer, sequence, entry, install),
        Op::Update => codec::emit_update(writer, sequence, entry, install),
        Op::Destroy => codec::emit_destroy(writer, sequence, &entry.key()),
        Op::Get => codec::emit_get(writer, sequence, &entry.key()),
        Op::Renew => codec::emit_renew(writer, sequence, entry, install),
        Op::Track => codec::emit_track(writer, sequence, entry),
    }
}
