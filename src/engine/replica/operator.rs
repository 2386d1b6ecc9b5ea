//! What an operator asks for: resets, reloads, listings in slices, live changes, how old the oldest unsent
//! change is.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

use super::dumps::Purpose;
use super::{Replica, Tunables};
use crate::filter::Filter;
use crate::seal::Key;
use crate::table::{Flags, SlotId};
use ctsync_ctnetlink::entry::Entry;

/// Changes kept for an operator who watches; past it they are counted and not shown.
const JOURNAL: usize = 16_384;
/// One of the two views of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cache {
    /// Entries of groups owned here.
    Internal,
    /// Entries of groups owned by a peer.
    External,
}

/// What happened to an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// It was not there before.
    New,
    /// It is another one now.
    Update,
    /// It is gone.
    Destroy,
}

/// A change of a cache, for an operator who watches.
#[derive(Clone, Debug)]
pub struct Change {
    /// Of which.
    pub cache: Cache,
    /// What happened.
    pub verb: Verb,
    /// The entry as it is, or was.
    pub entry: Entry,
}

/// How far a reset of the external cache is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Refill {
    /// There was none.
    #[default]
    Never,
    /// The owner sends everything again.
    Underway,
    /// It has.
    Done,
    /// It was lost or replaced first: everything is as it was.
    GivenUp,
}

/// An entry as listings show it.
#[derive(Debug)]
pub struct Listing<'a> {
    /// The entry.
    pub entry: Cow<'a, Entry>,
    /// Seconds since it came into the table.
    pub age: u32,
    /// Believed to be in the kernel.
    pub installed: bool,
    /// Why the kernel refuses it.
    pub failure: Option<&'static str>,
}

/// Changes not yet told to whoever watches.
#[derive(Default)]
pub(super) struct Journal {
    watched: bool,
    changes: VecDeque<Change>,
}

impl Replica {
    pub(super) fn note_change(&mut self, id: SlotId, cache: Cache, verb: Verb) {
        if !self.journal.watched {
            return;
        }
        if self.journal.changes.len() >= JOURNAL {
            self.counters.unshown += 1;
        } else if let Some(slot) = self.table.get(id) {
            self.journal.changes.push_back(Change { cache, verb, entry: slot.entry().into_owned() });
        }
    }

    /// Somebody watches, or nobody does any more.
    pub fn watch_changes(&mut self, watched: bool) {
        if self.journal.watched != watched {
            self.journal = Journal { watched, ..Journal::default() };
        }
    }

    /// The next change, if somebody watches.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.journal.changes.pop_front()
    }

    /// How long the oldest change of the last datagram had waited, once.
    pub fn take_lag(&mut self) -> Option<Duration> {
        self.out.unsent.take_longest()
    }

    /// Up to `limit` entries of a cache from a place on, and where the next slice begins. A slice visits a
    /// bounded number of slots, so it may be short.
    pub fn list(&self, cache: Cache, from: SlotId, limit: SlotId) -> (Vec<Listing<'_>>, Option<SlotId>) {
        if cache != self.shown() {
            return (Vec::new(), None);
        }
        let until = self.table.end().min(from.saturating_add(limit));
        let life = self.life.seconds();
        let rows = (from..until).filter_map(|id| {
            let slot = self.table.get(id).filter(|slot| slot.has(Flags::PRESENT))?;
            Some(Listing {
                entry: slot.entry(),
                age: life.saturating_sub(slot.since),
                installed: slot.has(Flags::INSTALLED),
                failure: slot.failure().map(crate::failure::Failure::word),
            })
        });
        (rows.collect(), (until < self.table.end()).then_some(until))
    }

    /// The cache that the table's entries are in.
    pub fn shown(&self) -> Cache {
        if self.ownership.is_owner() { Cache::Internal } else { Cache::External }
    }

    /// Entries in a cache.
    pub fn held(&self, cache: Cache) -> usize {
        if cache == self.shown() { self.table.counts().present } else { 0 }
    }

    /// The name of the node that owns the group, as far as it is known.
    pub fn owner_name(&self) -> Option<&str> {
        if self.ownership.is_owner() {
            return Some(&self.settings.name);
        }
        let peer = self.peers.get(self.group.claim.node)?;
        Some(peer.name.as_str()).filter(|name| !name.is_empty())
    }

    /// Other settings, from now on.
    pub fn tune(&mut self, tunables: Tunables) {
        let warmer = tunables.hot && !self.settings.tunables.hot;
        self.settings.tunables = tunables;
        self.out.alives.by(self.life.now() + tunables.alive);
        if warmer {
            self.queue_what_is_not_installed();
        }
    }

    /// Another filter, from now on: what it leaves out is no longer synchronised and stays in this kernel;
    /// what it lets in is found by a dump.
    pub fn set_filter(&mut self, filter: Filter) {
        self.filter = filter;
        self.dumps.want(Purpose::Whole);
        if !self.ownership.is_owner() {
            // The owner's filter decides what its group holds.
            return;
        }
        for id in 0..self.table.end() {
            let left_out = self
                .table
                .get(id)
                .is_some_and(|slot| slot.has(Flags::PRESENT) && !self.filter.accepts(&slot.entry()));
            if left_out {
                self.set_present(id, false);
                self.mark_dirty(id);
                self.release(id);
            }
        }
    }

    /// Other keys of the channel from now on, or none.
    pub fn set_keys(&mut self, keys: &[Key]) {
        self.out.seal.replace_keys(keys);
    }

    /// Payload bytes of the largest datagram from now on: the interface has another size.
    pub fn set_datagram(&mut self, bytes: usize) {
        self.out.size.set_most(bytes);
    }

    /// Whether the channel has a key.
    pub fn sealed(&self) -> bool {
        self.out.seal.is_on()
    }

    /// The filter as it is.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Read the kernel table again.
    pub fn resync(&mut self) {
        self.dumps.want(Purpose::Whole);
    }

    /// Whether a reading of the kernel table is due or under way.
    pub fn resyncing(&self) -> bool {
        self.dumps.resyncing()
    }

    /// Read the kernel table again and send the peer everything again, paced.
    pub fn reset_internal(&mut self) {
        self.resync();
        if self.ownership.is_owner() {
            self.out.answers.want_everything();
        }
    }

    /// Forget the owner's entries and have them sent again. Until that is done they are kept aside and in the
    /// kernel: if the owner is lost or replaced meanwhile, they are all there is. False: there is no living
    /// owner to send them again, and nothing was changed.
    pub fn reset_external(&mut self) -> bool {
        if self.ownership.is_owner() || !self.peers.own() {
            if self.refill != Refill::Underway {
                self.refill = Refill::Never;
            }
            return false;
        }
        for id in 0..self.table.end() {
            // What is owed to the owner is nowhere else.
            let forget =
                self.table.get(id).is_some_and(|slot| slot.has(Flags::PRESENT) && !slot.has(Flags::OFFER));
            if forget {
                self.set_present(id, false);
                self.count_as(id, 0);
                if let Some(mut slot) = self.table.get_mut(id) {
                    slot.set(Flags::FORGOTTEN);
                }
            }
        }
        self.following.differ();
        self.refill = Refill::Underway;
        true
    }

    /// How far the last reset of the external cache is.
    pub fn refill(&self) -> Refill {
        self.refill
    }

    /// The owner has sent everything: what it no longer has goes from the kernel too.
    pub(super) fn finish_refill(&mut self) {
        if self.refill != Refill::Underway || !self.following.is_equal() {
            return;
        }
        self.refill = Refill::Done;
        for id in 0..self.table.end() {
            if self.table.get(id).is_some_and(|slot| slot.has(Flags::FORGOTTEN)) {
                self.drop_forgotten(id);
            }
        }
    }

    /// The owner no longer has what a reset keeps aside: what this node installed of it goes. What it holds
    /// on its own kernel's word alone, from before it heard of an owner, stays there as a stray (11).
    pub(super) fn drop_forgotten(&mut self, id: SlotId) {
        let Some(mut slot) = self.table.get_mut(id) else { return };
        slot.clear(Flags::FORGOTTEN | Flags::STRAY);
        self.want_kernel(id, false);
        self.release(id);
    }

    /// Nobody will send it again: what a reset forgot is back in the table.
    pub(super) fn give_refill_up(&mut self) {
        if self.refill != Refill::Underway {
            return;
        }
        self.refill = Refill::GivenUp;
        for id in 0..self.table.end() {
            let Some(slot) = self.table.get(id).filter(|slot| slot.has(Flags::FORGOTTEN)) else { continue };
            let (installed, stray) = (slot.has(Flags::INSTALLED), slot.has(Flags::STRAY));
            self.set_present(id, true);
            self.count_as_held(id);
            if !installed || stray {
                self.want_kernel(id, stray);
            }
        }
    }
}
