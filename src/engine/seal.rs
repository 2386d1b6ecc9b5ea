//! A closed channel: datagrams sealed under a key that only the routers have, and replays refused.
//!
//! A sealed datagram is header, counter (8), ciphertext, tag (16). Header and counter are associated data.
//! Each run of a daemon seals under a key of its own, derived from the configured one, the group of nodes and
//! the incarnation, and counts its datagrams: a nonce never comes again. Called by the replica. No file, no
//! socket, no clock.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use thiserror::Error;

use crate::wire::{HEADER, Incarnation};

/// Bytes that a seal adds to a datagram.
pub const OVERHEAD: usize = COUNTER + TAG;
const COUNTER: usize = 8;
const TAG: usize = 16;
/// Numbers before the highest one that may still come, in 64 bits a word.
const WINDOW: u64 = 1024;
const WORDS: usize = 16;
/// Runs whose keys are kept; past it one is derived anew, which costs a microsecond.
const RUNS: usize = 16;

/// A configured key.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(pub [u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// A few letters that tell keys apart and tell nothing of the key: the same on every router.
    pub fn fingerprint(&self) -> String {
        let hash = blake3::derive_key("ctsync 2026-11 fingerprint of a key", &self.0);
        let [a, b, c, d, ..] = hash;
        format!("{a:02x}{b:02x}-{c:02x}{d:02x}")
    }

    /// Derives the keys of the runs of one group of nodes.
    fn of_group(&self, node_group: u32) -> RunKeys {
        let mut begun = blake3::Hasher::new_derive_key("ctsync 2026-11 channel, one run");
        begun.update(&self.0);
        begun.update(&node_group.to_be_bytes());
        RunKeys(begun)
    }
}

/// The derivation of a run's key, up to where the run comes in: a stranger's datagram costs no more than the
/// rest.
struct RunKeys(blake3::Hasher);

impl RunKeys {
    /// RFC 8439's key for one run.
    fn of_run(&self, incarnation: Incarnation) -> ChaCha20Poly1305 {
        let mut context = self.0.clone();
        context.update(&incarnation.0.to_be_bytes());
        ChaCha20Poly1305::new(&(*context.finalize().as_bytes()).into())
    }
}

/// Why a datagram is refused before it is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SealError {
    /// Too short to be sealed, or sealed under none of the keys, or changed on its way.
    #[error("sealed under none of our keys")]
    Forged,
    /// It has come before, or is older than anything that may still come.
    #[error("replayed")]
    Replayed,
}

/// Seals and opens for one run of this node.
pub struct Seal {
    keys: Vec<RunKeys>,
    node_group: u32,
    own: Incarnation,
    /// Without a key: off.
    sealing: Option<ChaCha20Poly1305>,
    sent: u64,
    opening: BTreeMap<u128, Vec<ChaCha20Poly1305>>,
}

impl Seal {
    /// The first key seals, all of them open: two keys on both nodes while one replaces the other.
    pub fn new(keys: &[Key], node_group: u32, own: Incarnation) -> Seal {
        let mut seal =
            Seal { keys: Vec::new(), node_group, own, sealing: None, sent: 0, opening: BTreeMap::new() };
        seal.replace_keys(keys);
        seal
    }

    /// Other keys from now on, or none. The counter goes on: a key that comes back never sees a nonce again.
    pub fn replace_keys(&mut self, keys: &[Key]) {
        self.keys = keys.iter().map(|key| key.of_group(self.node_group)).collect();
        self.sealing = self.keys.first().map(|first| first.of_run(self.own));
        self.opening.clear();
    }

    /// Whether there is a key.
    pub fn is_on(&self) -> bool {
        self.sealing.is_some()
    }

    /// Bytes that the seal takes of each datagram.
    pub fn overhead(&self) -> usize {
        if self.is_on() { OVERHEAD } else { 0 }
    }

    /// A plain datagram, sealed; as it is without a key.
    pub fn seal(&mut self, datagram: Vec<u8>) -> Vec<u8> {
        let Some(sealing) = &self.sealing else { return datagram };
        self.sent += 1;
        let (header, body) = datagram.split_at(HEADER.min(datagram.len()));
        let mut sealed = Vec::with_capacity(datagram.len() + OVERHEAD);
        sealed.extend_from_slice(header);
        sealed.extend_from_slice(&self.sent.to_be_bytes());
        let associated = sealed.clone();
        sealed.extend_from_slice(body);
        let body = sealed.get_mut(HEADER + COUNTER..).unwrap_or_default();
        // It fails for bodies of 256 GiB only; what it leaves then opens nowhere.
        if let Ok(tag) = sealing.encrypt_inout_detached(&nonce(self.sent), &associated, body.into()) {
            sealed.extend_from_slice(&tag);
        }
        sealed
    }

    /// The plain datagram in a sealed one, and its number. The ciphers of a `known` run are kept, a
    /// stranger's are not.
    ///
    /// # Errors
    /// [`SealError::Forged`].
    pub fn open(
        &mut self,
        sealed: &[u8],
        from: Incarnation,
        known: bool,
    ) -> Result<(Vec<u8>, u64), SealError> {
        if !known {
            return open_with(self.keys.iter().map(|key| key.of_run(from)), sealed);
        }
        if self.opening.len() >= RUNS && !self.opening.contains_key(&from.0) {
            self.opening.clear();
        }
        let keys = &self.keys;
        let ciphers = self.opening.entry(from.0);
        let ciphers = ciphers.or_insert_with(|| keys.iter().map(|key| key.of_run(from)).collect());
        open_with(ciphers.iter(), sealed)
    }
}

fn open_with(
    ciphers: impl Iterator<Item = impl Borrow<ChaCha20Poly1305>>,
    sealed: &[u8],
) -> Result<(Vec<u8>, u64), SealError> {
    let associated = sealed.get(..HEADER + COUNTER).ok_or(SealError::Forged)?;
    let (header, counter) = associated.split_at(HEADER);
    let counter = u64::from_be_bytes(counter.try_into().map_err(|_| SealError::Forged)?);
    let rest = sealed.get(HEADER + COUNTER..).ok_or(SealError::Forged)?;
    let (body, tag) = rest.split_last_chunk::<TAG>().ok_or(SealError::Forged)?;
    let tag = Tag::from(*tag);
    let mut plain = Vec::with_capacity(sealed.len());
    for cipher in ciphers {
        plain.clear();
        plain.extend_from_slice(header);
        plain.extend_from_slice(body);
        let inside = plain.get_mut(HEADER..).unwrap_or_default();
        if cipher.borrow().decrypt_inout_detached(&nonce(counter), associated, inside.into(), &tag).is_ok() {
            return Ok((plain, counter));
        }
    }
    Err(SealError::Forged)
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    bytes.into()
}

/// Which numbers of one run have come; RFC 4303, 3.4.3.
#[derive(Clone, Debug, Default)]
pub struct Replays {
    highest: u64,
    seen: [u64; WORDS],
}

impl Replays {
    /// Of a run that has just proved itself by this number: whatever it sent before does not count any more.
    pub fn after(number: u64) -> Replays {
        Replays { highest: number, seen: [u64::MAX; WORDS] }
    }

    /// Note a number that was authentic.
    ///
    /// # Errors
    /// [`SealError::Replayed`]: it has come before, or is too old to tell.
    pub fn note(&mut self, number: u64) -> Result<(), SealError> {
        if number == 0 || self.highest.saturating_sub(number) >= WINDOW {
            return Err(SealError::Replayed);
        }
        while self.highest < number {
            // Places that come into the window are free; a jump frees all of them at most once.
            self.highest = (self.highest + 1).max(number.saturating_sub(WINDOW - 1));
            let (word, bit) = place(self.highest);
            if let Some(word) = self.seen.get_mut(word) {
                *word &= !bit;
            }
        }
        let (word, bit) = place(number);
        let word = self.seen.get_mut(word).ok_or(SealError::Replayed)?;
        if *word & bit != 0 {
            return Err(SealError::Replayed);
        }
        *word |= bit;
        Ok(())
    }
}

fn place(number: u64) -> (usize, u64) {
    let at = number % WINDOW;
    (usize::try_from(at / 64).unwrap_or(0), 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GROUP: u32 = 7;
    const RUN: Incarnation = Incarnation(0x0102_0304);

    fn seal(keys: &[u8]) -> Seal {
        let keys: Vec<Key> = keys.iter().map(|byte| Key([*byte; 32])).collect();
        Seal::new(&keys, GROUP, RUN)
    }

    fn datagram() -> Vec<u8> {
        (0..HEADER + 100).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    #[test]
    fn what_was_sealed_opens_and_is_not_readable() {
        let sealed = seal(&[1]).seal(datagram());
        assert_eq!(sealed.len(), datagram().len() + OVERHEAD);
        assert_eq!(seal(&[1]).open(&sealed, RUN, true), Ok((datagram(), 1)));
        assert!(!sealed.windows(16).any(|part| part == &datagram()[HEADER + 8..HEADER + 24]));
    }

    #[test]
    fn any_changed_bit_and_any_cut_is_noticed() {
        let sealed = seal(&[1]).seal(datagram());
        let mut opener = seal(&[1]);
        for at in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[at / 8] ^= 1 << (at % 8);
            assert_eq!(opener.open(&changed, RUN, true), Err(SealError::Forged), "bit {at}");
        }
        for length in 0..sealed.len() {
            assert_eq!(opener.open(&sealed[..length], RUN, true), Err(SealError::Forged));
        }
        assert_eq!(opener.open(&sealed, Incarnation(5), true), Err(SealError::Forged), "another run's key");
    }

    #[test]
    fn equal_datagrams_are_sealed_differently_and_keys_rotate() {
        let (mut old, mut both, mut new) = (seal(&[1]), seal(&[2, 1]), seal(&[2]));
        let (first, second) = (old.seal(datagram()), old.seal(datagram()));
        assert_ne!(first[HEADER + 8..], second[HEADER + 8..]);
        assert!(both.open(&first, RUN, true).is_ok(), "the old key opens while both are known");
        assert!(new.open(&both.seal(datagram()), RUN, true).is_ok(), "the first key seals");
        assert_eq!(new.open(&first, RUN, true), Err(SealError::Forged), "the old key is gone");
        let before = both.seal(datagram());
        both.replace_keys(&[Key([1; 32])]);
        both.replace_keys(&[Key([2; 32])]);
        let after = both.seal(datagram());
        assert_ne!(before[HEADER..HEADER + 8], after[HEADER..HEADER + 8], "a nonce never comes again");
    }

    #[test]
    fn without_a_key_it_is_off() {
        let mut off = seal(&[]);
        assert_eq!((off.seal(datagram()), off.is_on(), off.overhead()), (datagram(), false, 0));
        assert_eq!(off.open(&seal(&[1]).seal(datagram()), RUN, true), Err(SealError::Forged));
    }

    #[test]
    fn replays_are_refused() {
        let mut replays = Replays::default();
        for number in [1, 2, 5, 3, 1000, 4, 2000, 1999] {
            assert_eq!(replays.note(number), Ok(()), "{number}");
            assert_eq!(replays.note(number), Err(SealError::Replayed), "{number} again");
        }
        assert_eq!(replays.note(976), Err(SealError::Replayed), "too old to tell");
        assert_eq!(replays.note(977), Ok(()), "the oldest that may come");
        assert_eq!(replays.note(0), Err(SealError::Replayed));
        let mut after = Replays::after(700);
        assert_eq!([699, 700, 1].map(|number| after.note(number)), [Err(SealError::Replayed); 3]);
        assert_eq!([701, 5000, 4999].map(|number| after.note(number)), [Ok(()); 3]);
        assert_eq!(replays.note(u64::MAX), Ok(()));
        assert_eq!(replays.note(u64::MAX - 1023), Ok(()));
    }

    proptest! {
        /// As a set that remembers everything, within the window.
        #[test]
        fn the_window_is_a_set(numbers in proptest::collection::vec(1u64..3000, 0..400)) {
            let (mut replays, mut seen, mut highest) = (Replays::default(), std::collections::HashSet::new(), 0);
            for number in numbers {
                let fresh = number + WINDOW > highest && seen.insert(number);
                highest = highest.max(number);
                prop_assert_eq!(replays.note(number).is_ok(), fresh, "{}", number);
            }
        }
    }
}
