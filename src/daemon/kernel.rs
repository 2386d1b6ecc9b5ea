//! The kernel's side of a turn: events and dumps to the groups that they are about, the groups' requests to the kernel.
//!
//! Called by the daemon's loop. Which group an entry is in is looked up here; what it means is the group's replica's affair.

use std::time::Instant;

use super::group::Group;
use super::{Daemon, DaemonError, failed};
use crate::ctnetlink::codec::{self, Incoming};
use crate::ctnetlink::dumper::Part;
use crate::ctnetlink::nla::Writer;
use crate::ctnetlink::socket::{BATCH, EventSocket, Read, RequestSocket};
use crate::entry::Entry;
use crate::groups::Assignment;
use crate::promises::watch_events;
use crate::reconcile::Op;

/// Events read in a turn.
const EVENTS: usize = 4096;
/// Batches of requests in a turn.
const BATCHES: usize = 8;
/// ... during a fence: about a tenth of a second.
const FENCE_BATCHES: usize = 64;

impl Daemon {
    pub(super) fn read_events(&mut self, now: Instant) -> Result<(), DaemonError> {
        let (groups, assignment) = (&mut self.groups, &self.assignment);
        let mut heard = 0;
        while heard < EVENTS {
            let read = self.events.get_mut().read(|event| self.heard.push(event))?;
            hear_events(groups, assignment, &mut self.heard, now);
            match read {
                Read::Events(count) => heard += count,
                Read::Empty => {
                    self.pace.note(heard, now);
                    groups.iter_mut().for_each(|group| group.replica.handle_events_empty());
                    return Ok(());
                }
                Read::Overrun => {
                    groups.iter_mut().for_each(|group| group.replica.handle_overrun());
                    tracing::warn!(
                        buffer = self.events.get_ref().buffer_size(),
                        "overrun: events were lost, reading the kernel table"
                    );
                }
            }
        }
        self.pace.note(heard, now);
        // What waits may be any group's.
        groups.iter_mut().for_each(|group| group.replica.handle_events_waiting());
        self.more = true;
        Ok(())
    }

    /// New entries are listened for while any group wants them.
    pub(super) fn choose_events(&mut self) -> Result<(), DaemonError> {
        let wanted = self.groups.iter().any(|group| group.replica.wants_new_entries());
        let events = self.events.get_mut();
        if wanted != events.hears_new() {
            events.hear_new(wanted)?;
            tracing::debug!(wanted, "events of new entries");
        }
        for group in &mut self.groups {
            // A dump is due.
            self.more |= group.replica.handle_hearing(wanted);
        }
        Ok(())
    }

    /// One dump serves all groups that want one when it begins; the others wait for the next.
    pub(super) fn read_dump(&mut self, now: Instant) -> Result<(), DaemonError> {
        if !self.groups.iter().any(|group| group.replica.dumping()) {
            let mut wanted = false;
            for group in &mut self.groups {
                wanted |= group.replica.poll_dump();
            }
            if !wanted {
                return Ok(());
            }
            self.dump.start()?;
        }
        match self.dump.take()? {
            None => {}
            Some(Part::Entries(entries)) => {
                for entry in entries {
                    let at = group_of(&mut self.groups, &self.assignment, &entry);
                    if let Some(group) = self.groups.get_mut(at) {
                        group.replica.handle_dump_entry(entry);
                    }
                }
            }
            Some(Part::End) => self.end_dump(true, now),
            Some(Part::Failed(error)) => {
                tracing::warn!(%error, "the dump failed and is tried again");
                self.end_dump(false, now);
            }
        }
        Ok(())
    }

    fn end_dump(&mut self, ok: bool, now: Instant) {
        self.groups.iter_mut().for_each(|group| group.replica.handle_dump_end(ok, now));
        // One that failed is due again, and waits for the next deadline: it may fail for a while.
        self.more |= ok;
    }

    pub(super) fn send_requests(&mut self, at: usize, now: Instant) -> Result<(), DaemonError> {
        let mut batches = 0;
        while let Some(group) = self.groups.get(at)
            && group.replica.waiting() > 0
        {
            // A fence goes before everything, but what is held has to be renewed meanwhile; renewals of leases can wait.
            let fence = group.replica.fencing() && group.replica.pending() > 0;
            if batches == if fence { FENCE_BATCHES } else { BATCHES } {
                self.more = true;
                break;
            }
            batches += 1;
            if self.send_batch(at, now)? == 0 {
                break;
            }
        }
        Ok(())
    }

    fn send_batch(&mut self, at: usize, now: Instant) -> Result<u32, DaemonError> {
        let Some(group) = self.groups.get_mut(at) else { return Ok(0) };
        let replica = &mut group.replica;
        let mut answers: Vec<(usize, Incoming)> = Vec::new();
        // What this batch removes, and does not create again, by its position.
        let mut removed: Vec<(usize, Entry)> = Vec::new();
        let several = !self.config.further.is_empty();
        let result = self.requests.execute(
            |writer, first| {
                let mut next = first;
                replica.poll_requests(BATCH as usize, |request| {
                    let at = next.wrapping_sub(first) as usize;
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
            },
            |at, answer| answers.push((at as usize, answer)),
        );
        self.answered.clear();
        self.answered.resize(2 * BATCH as usize, result.is_err());
        for (at, answer) in answers {
            if let Some(answered) = self.answered.get_mut(at) {
                *answered = true;
            }
            if matches!(answer, Incoming::Answer { errno, .. } if errno != 0) {
                removed.retain(|(destroy, _)| *destroy != at);
            }
            match answer {
                Incoming::Answer { errno, .. } => replica.handle_answer(at, errno),
                Incoming::New(entry) | Incoming::Update(entry) => replica.handle_read_back(at, entry),
                Incoming::Destroy(_) => {}
            }
        }
        replica.handle_answers_end(&self.answered, now);
        // Its own socket filter keeps this daemon from hearing what it removes; another group may hold it by now.
        for (_, entry) in removed {
            for (_, group) in self.groups.iter_mut().enumerate().filter(|(other, _)| *other != at) {
                group.replica.handle_removed(entry.clone(), now);
            }
        }
        match result {
            Ok(count) => Ok(count),
            Err(error) => {
                // What the kernel did is not known: read it all again.
                tracing::warn!(%error, "answers were lost, reading the kernel table");
                self.groups.iter_mut().for_each(|group| group.replica.handle_overrun());
                self.requests = RequestSocket::open()?;
                let events = EventSocket::open(self.requests.port_id(), self.config.event_buffer)?;
                self.events = watch_events(events).map_err(failed("register the event socket"))?;
                Ok(0)
            }
        }
    }
}

/// An event goes to the group that holds its entry, else to the one that the entry belongs to; its end, to all.
fn hear_events(groups: &mut [Group], assignment: &Assignment, events: &mut Vec<Incoming>, now: Instant) {
    if let [only] = groups {
        return only.replica.handle_events(events, now);
    }
    for event in events.drain(..) {
        match &event {
            Incoming::Destroy(_) => {
                for group in &mut *groups {
                    group.replica.handle_event(event.clone(), now);
                }
            }
            Incoming::New(entry) | Incoming::Update(entry) => {
                let at = group_of(groups, assignment, entry);
                if let Some(group) = groups.get_mut(at) {
                    group.replica.handle_event(event, now);
                }
            }
            Incoming::Answer { .. } => {}
        }
    }
}

/// An entry stays in the group that holds it, a child goes with its master, any other one where it is assigned.
fn group_of(groups: &mut [Group], assignment: &Assignment, entry: &Entry) -> usize {
    if groups.len() == 1 {
        return 0;
    }
    let holder = groups.iter_mut().position(|group| group.replica.holds(entry));
    let master = || groups.iter_mut().position(|group| group.replica.holds_master_of(entry));
    holder.or_else(master).unwrap_or_else(|| assignment.group_of(entry))
}

fn emit(writer: &mut Writer, sequence: u32, request: crate::replica::Request<'_>) {
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
