//! What the kernel tells in a turn: events and dumps, to the groups that they are about.
//!
//! Called by the daemon's loop. Which group an entry is in is looked up here; what it means is the group's
//! replica's affair.

use std::time::Instant;

use super::group::Group;
use super::{Daemon, DaemonError};
use crate::ctnetlink::codec::Event;
use crate::ctnetlink::entry::Entry;
use crate::engine::groups::Assignment;
use crate::kernel::dumper::Part;
use crate::kernel::socket::Read;

/// Events read in a turn.
const EVENTS: usize = 4096;
impl Daemon {
    pub(super) fn read_events(&mut self, now: Instant) -> Result<(), DaemonError> {
        let mut heard = 0;
        while heard < EVENTS {
            let read = self.events.get_mut().read(|event| self.heard.push(event))?;
            if self.heard.iter().any(|event| matches!(event, Event::Destroy(_))) {
                // An address that left may have ended them: the word of that is there by now.
                self.read_news(now);
            }
            hear_events(&mut self.groups, &self.assignment, &mut self.heard, now);
            let groups = &mut self.groups;
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
        self.groups.iter_mut().for_each(|group| group.replica.handle_events_waiting());
        self.more = true;
        Ok(())
    }

    /// New entries are listened for while any group wants them.
    pub(super) fn choose_events(&mut self) -> Result<(), DaemonError> {
        let wanted = self.groups.iter().any(|group| group.replica.wants_new_entries());
        let events = self.events.get_mut();
        if wanted != events.subscribed_new() {
            events.subscribe_new(wanted)?;
            tracing::debug!(wanted, "events of new entries");
        }
        for group in &mut self.groups {
            // A dump is due.
            self.more |= group.replica.handle_subscription(wanted);
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
}

/// An event goes to the group that holds its entry, else to the one that the entry belongs to; its end, to
/// all.
fn hear_events(groups: &mut [Group], assignment: &Assignment, events: &mut Vec<Event>, now: Instant) {
    if let [only] = groups {
        return only.replica.handle_events(events, now);
    }
    for event in events.drain(..) {
        match &event {
            Event::Destroy(_) => {
                for group in &mut *groups {
                    group.replica.handle_event(event.clone(), now);
                }
            }
            Event::New(entry) | Event::Update(entry) => {
                let at = group_of(groups, assignment, entry);
                if let Some(group) = groups.get_mut(at) {
                    group.replica.handle_event(event, now);
                }
            }
        }
    }
}

/// An entry stays in the group that holds it, a child goes with its master, any other one where it is
/// assigned.
fn group_of(groups: &mut [Group], assignment: &Assignment, entry: &Entry) -> usize {
    if groups.len() == 1 {
        return 0;
    }
    let holder = groups.iter_mut().position(|group| group.replica.holds(entry));
    let master = || groups.iter_mut().position(|group| group.replica.holds_master_of(entry));
    holder.or_else(master).unwrap_or_else(|| assignment.group_of(entry))
}
