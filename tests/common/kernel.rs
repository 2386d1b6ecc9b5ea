//! A conntrack table as ctnetlink shows it: answers requests as the kernel does, queues events for others'
//! changes.

use std::collections::VecDeque;

use ctsync_ctnetlink::codec::Event;
use ctsync_ctnetlink::entry::{CARRIED_STATUS, Entry, Key};
use ctsync_engine::reconcile::Op;
use ctsync_engine::replica::Request;
use indexmap::IndexMap;
use nix::errno::Errno;

/// Events that the socket's buffer holds; one more is an overrun.
const BUFFER: usize = 24;

/// One node's kernel. The timeout of an entry is a ghost: the number of the connection that it really is. It
/// is carried but not part of any digest, so the checks know more than the engine.
#[derive(Default)]
pub(crate) struct Kernel {
    /// In an order that depends on nothing but what happened, so that a seed replays.
    pub table: IndexMap<Key, Entry>,
    pub events: VecDeque<Event>,
    pub overrun: bool,
    /// `nf_conntrack_max`, when it is lower than what is wanted.
    pub limit: Option<usize>,
    /// A daemon listens.
    pub heard: bool,
    /// ... for new entries, too.
    pub subscribed_new: bool,
    /// New entries that it did not hear of for that.
    pub unheard: u64,
}

/// Which connection a kernel's entry really is.
pub(crate) fn ghost(entry: &Entry) -> u32 {
    entry.timeout.unwrap_or(0)
}

impl Kernel {
    fn tell(&mut self, event: Event) {
        if !self.heard {
            return;
        }
        if !self.subscribed_new && matches!(event, Event::New(_)) {
            self.unheard += 1;
            return;
        }
        if self.events.len() >= BUFFER {
            self.overrun = true;
        } else {
            self.events.push_back(event);
        }
    }

    /// Lose the next events: the buffer was full.
    pub(crate) fn lose_events(&mut self) {
        self.overrun = true;
        self.events.clear();
    }

    /// A packet opens a connection, or a helper foresees one; false when a tuple is taken, its master is
    /// missing, or the table is full.
    pub(crate) fn open(&mut self, entry: Entry) -> bool {
        let taken = self.table.contains_key(&entry.key()) || self.reply_taken(&entry);
        if taken || self.orphan(&entry) || self.full() {
            return false;
        }
        self.table.insert(entry.key(), entry.clone());
        self.tell(Event::New(entry));
        true
    }

    /// A packet moves a connection on.
    pub(crate) fn advance(&mut self, key: &Key, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.table.get_mut(key) {
            change(entry);
            let entry = entry.clone();
            self.tell(Event::Update(entry));
        }
    }

    /// The connection ends, or an operator removes it; what its helper foresaw goes with it. Which those
    /// were.
    pub(crate) fn end(&mut self, key: &Key) -> Vec<Entry> {
        let Some(entry) = self.table.swap_remove(key) else { return Vec::new() };
        let gone = self.forget_children(&entry);
        self.tell(Event::Destroy(entry));
        gone
    }

    /// `nf_ct_remove_expectations`: nobody's request, so everybody hears of it.
    fn forget_children(&mut self, master: &Entry) -> Vec<Entry> {
        let of_it =
            |entry: &&Entry| entry.master_key() == Some(master.key()) && entry.expectation().is_some();
        let gone: Vec<Entry> = self.table.values().filter(of_it).cloned().collect();
        for entry in &gone {
            self.table.swap_remove(&entry.key());
            self.tell(Event::Destroy(entry.clone()));
        }
        gone
    }

    fn full(&self) -> bool {
        self.limit.is_some_and(|limit| self.table.len() >= limit)
    }

    fn orphan(&self, entry: &Entry) -> bool {
        entry.master_key().is_some_and(|master| !self.table.contains_key(&master))
    }

    fn reply_taken(&self, entry: &Entry) -> bool {
        let connection = |entry: &Entry| entry.expectation().is_none();
        connection(entry)
            && self
                .table
                .values()
                .any(|other| other.reply == entry.reply && other.key() != entry.key() && connection(other))
    }

    /// A request of the daemon's: an errno, or the entry read back. Causes no event: the echo is filtered.
    pub(crate) fn request(&mut self, request: Request<'_>) -> Result<Option<Entry>, Errno> {
        let key = request.entry.key();
        match request.op {
            Op::Create => {
                if self.table.contains_key(&key) || self.reply_taken(request.entry) {
                    return Err(Errno::EEXIST);
                }
                if self.orphan(request.entry) {
                    return Err(Errno::ENOENT);
                }
                if self.full() {
                    return Err(Errno::ENOMEM);
                }
                let timeout = request.install.timeout;
                self.table.insert(key, Entry { timeout, ..request.entry.clone() });
                Ok(None)
            }
            Op::Update => {
                let entry = self.table.get_mut(&key).ok_or(Errno::ENOENT)?;
                let lost = (entry.status & CARRIED_STATUS) - request.entry.status;
                if !lost.is_empty() {
                    return Err(Errno::EBUSY);
                }
                entry.status = request.entry.status;
                entry.tcp = request.entry.tcp;
                entry.mark = Some(request.entry.mark.unwrap_or(0));
                entry.timeout = request.install.timeout;
                Ok(None)
            }
            Op::Destroy => {
                let gone = self.table.swap_remove(&key).ok_or(Errno::ENOENT)?;
                self.forget_children(&gone);
                Ok(None)
            }
            Op::Get => self.table.get(&key).cloned().map(Some).ok_or(Errno::ENOENT),
            Op::Renew | Op::Track => self.table.get(&key).map(|_| None).ok_or(Errno::ENOENT),
        }
    }
}
