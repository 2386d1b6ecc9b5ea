//! Digests: order-free sums of keyed hashes, in levels, so that two tables are compared in O(1) and a
//! difference is found in O(log).
//!
//! The hash is SipHash-2-4 over the canonical bytes *as sent* ([`crate::wire::packed`]); sums wrap. A change
//! costs two additions: the root and one bucket. Inner levels are summed when somebody asks. Called by
//! `table` and the replica; knows nothing of peers.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::wire::{Node, packed};
use ctsync_ctnetlink::entry::Key;

/// Buckets: 16 to the power of [`LEVELS`].
pub const BUCKETS: usize = 65536;
/// Levels below the root.
pub const LEVELS: u8 = 4;

/// The hash of a group of nodes; the same on all of them that follow one owner.
///
/// Keyed by random numbers that no host behind the routers knows: who could choose connections by their
/// hashes would put them all into one bucket.
#[derive(Clone, Copy, Debug)]
pub struct Digester {
    hasher: SipHasher24,
}

impl Digester {
    /// By 128 bits that the owner tells its peers.
    pub fn new(seed: u128) -> Digester {
        Digester { hasher: SipHasher24::new_with_key(&seed.to_be_bytes()) }
    }

    /// A seed to begin with, from a secret that it does not tell.
    pub fn seed(secret: u128) -> u128 {
        let half = |number: u128| u128::from(Digester::new(secret).hash(&number.to_be_bytes()));
        half(1) << 64 | half(2)
    }

    /// Hash of canonical bytes or of a key's bytes; never 0, which means "none".
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        let mut hasher = self.hasher;
        hasher.write(bytes);
        hasher.finish().max(1)
    }

    /// Hash of a key; `scratch` is overwritten.
    pub fn hash_key(&self, scratch: &mut Vec<u8>, key: &Key) -> u64 {
        scratch.clear();
        packed::emit_key(scratch, key);
        self.hash(scratch)
    }
}

/// The bucket of a key hash.
pub fn bucket_of(key_hash: u64) -> u16 {
    let [high, low, ..] = key_hash.to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// The sums of one group.
#[derive(Clone)]
pub struct Sums {
    root: u64,
    buckets: Vec<u64>,
    counts: Vec<u32>,
}

impl Default for Sums {
    fn default() -> Sums {
        Sums { root: 0, buckets: vec![0; BUCKETS], counts: vec![0; BUCKETS] }
    }
}

impl Sums {
    /// The sum of everything.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Count a content hash in.
    pub fn add(&mut self, bucket: u16, content: u64) {
        self.root = self.root.wrapping_add(content);
        if let (Some(sum), Some(count)) =
            (self.buckets.get_mut(usize::from(bucket)), self.counts.get_mut(usize::from(bucket)))
        {
            *sum = sum.wrapping_add(content);
            *count += 1;
        }
    }

    /// Take a content hash out that was counted in.
    pub fn remove(&mut self, bucket: u16, content: u64) {
        self.root = self.root.wrapping_sub(content);
        if let (Some(sum), Some(count)) =
            (self.buckets.get_mut(usize::from(bucket)), self.counts.get_mut(usize::from(bucket)))
        {
            *sum = sum.wrapping_sub(content);
            *count = count.saturating_sub(1);
        }
    }

    /// The sixteen sums below a node of level 0 to 3.
    pub fn children(&self, node: Node) -> [u64; 16] {
        let mut sums = [0u64; 16];
        let range = bucket_range(node);
        let width = (range.len() / 16).max(1);
        for (sum, part) in sums.iter_mut().zip(self.buckets.get(range).unwrap_or_default().chunks(width)) {
            *sum = part.iter().fold(0, |sum, bucket| sum.wrapping_add(*bucket));
        }
        sums
    }

    /// Whether nothing is counted below a node.
    pub fn empty_below(&self, node: Node) -> bool {
        self.counts.get(bucket_range(node)).unwrap_or_default().iter().all(|count| *count == 0)
    }
}

/// The buckets below a node.
pub fn bucket_range(node: Node) -> std::ops::Range<usize> {
    let width = BUCKETS >> (4 * u32::from(node.level.min(LEVELS)));
    let start = usize::from(node.index) * width;
    start..start + width
}

/// The node's child number `at`, 0 to 15.
pub fn child(node: Node, at: u8) -> Node {
    Node { level: node.level + 1, index: node.index << 4 | u16::from(at & 15) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Node = Node::ROOT;

    #[test]
    fn sums_forget_what_is_taken_out() {
        let mut sums = Sums::default();
        sums.add(7, 1000);
        sums.add(65535, 77);
        assert_eq!(sums.root(), 1077);
        sums.remove(7, 1000);
        sums.remove(65535, 77);
        assert_eq!(sums.root(), 0);
        assert!(sums.empty_below(ROOT));
    }

    #[test]
    fn a_difference_is_found_by_walking_down() {
        let mut sums = Sums::default();
        let content = 0xdead_beef;
        sums.add(0xabcd, content);
        let mut node = ROOT;
        while node.level < LEVELS {
            let children = sums.children(node);
            let hits: Vec<u8> = (0..16u8).filter(|at| children[usize::from(*at)] != 0).collect();
            assert_eq!(hits.len(), 1, "one child differs at level {}", node.level);
            assert_eq!(children[usize::from(hits[0])], content);
            node = child(node, hits[0]);
        }
        assert_eq!(node.index, 0xabcd);
        assert_eq!(bucket_range(node), 0xabcd..0xabce);
    }
}
