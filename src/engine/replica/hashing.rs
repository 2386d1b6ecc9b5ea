//! What keys and contents are hashed by, and the memory that hashing needs. One seed goes with a claim, so
//! that digests of two nodes can be compared.
//!
//! Owned by the replica. No clock.

use ctsync_ctnetlink::entry::{Entry, Key};

use crate::digest::Digester;
use crate::wire::packed;

/// The seed in use, and scratch memory.
#[derive(Debug)]
pub(super) struct Hashing {
    /// The group's owner's, once one is known.
    seed: u128,
    digester: Digester,
    scratch: Vec<u8>,
    /// Of the keys of a batch.
    hashes: Vec<u64>,
}

impl Hashing {
    /// By a seed of this node's own.
    pub(super) fn new(secret: u128) -> Hashing {
        let seed = Digester::seed(secret);
        let (digester, scratch) = (Digester::new(seed), Vec::with_capacity(2048));
        Hashing { seed, digester, scratch, hashes: Vec::new() }
    }

    pub(super) fn seed(&self) -> u128 {
        self.seed
    }

    /// By another seed from now on. False: it is the one in use.
    pub(super) fn adopt(&mut self, seed: u128) -> bool {
        if seed == self.seed {
            return false;
        }
        self.seed = seed;
        self.digester = Digester::new(seed);
        true
    }

    /// A key's hash; its top bits are its bucket.
    pub(super) fn key(&mut self, key: &Key) -> u64 {
        self.digester.hash_key(&mut self.scratch, key)
    }

    /// The hash of what digests compare of an entry.
    pub(super) fn content(&mut self, entry: &Entry) -> u64 {
        self.scratch.clear();
        packed::emit_canonical(&mut self.scratch, entry);
        self.digester.hash(&self.scratch)
    }

    /// The hashes of a batch of keys: known ones are taken as they are. To be given back.
    pub(super) fn batch(&mut self, keys: impl Iterator<Item = Hashed>) -> Vec<u64> {
        let mut hashes = std::mem::take(&mut self.hashes);
        hashes.clear();
        hashes.extend(keys.map(|key| match key {
            Hashed::Known(hash) => hash,
            Hashed::Key(key) => self.key(&key),
        }));
        hashes
    }

    /// The memory of [`Hashing::batch`], for the next one.
    pub(super) fn give_back(&mut self, hashes: Vec<u64>) {
        self.hashes = hashes;
    }
}

/// A key, or what it hashes to; 0 for none.
pub(super) enum Hashed {
    Key(Key),
    Known(u64),
}

impl Hashed {
    pub(super) fn of(entry: &Entry) -> Hashed {
        Hashed::Key(entry.key())
    }
}
