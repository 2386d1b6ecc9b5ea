//! Messages of the stream, of offers and of answers to a look, one behind the other in a datagram's body.
//!
//! [`packed`] has the entries in them. `docs/protocol.md` has the layout.

use super::Node;
use super::packed::{self, Changed};
use super::reader::{Reader, WireError};
use ctsync_ctnetlink::entry::Entry;

const TAG_PUT: u8 = 1;
const TAG_DESTROY: u8 = 2;
const TAG_SUMS: u8 = 3;
const TAG_LIST: u8 = 4;
const TAG_LIST_LAST: u8 = 5;
const TAG_PUT_REPAIR: u8 = 6;
const TAG_CHANGE: u8 = 7;
const TAG_REFUSAL: u8 = 8;

/// One line of a contents list: the hashes of key and of canonical bytes, as sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Hash of the key.
    pub key: u64,
    /// Hash of the canonical bytes.
    pub content: u64,
}

/// Why an offered entry is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The owner's kernel does not take it.
    Impossible,
    /// The connection has ended.
    Ended,
}

impl Refusal {
    const ALL: [Refusal; 2] = [Refusal::Impossible, Refusal::Ended];
}

/// One message of the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// The entry is this now.
    Put {
        /// The entry.
        entry: Entry,
        /// Its birth stamp.
        birth: u16,
        /// Sent because a repair asked for it.
        repair: bool,
    },
    /// The entry whose put went before is this now, in what packets and rules change.
    Change {
        /// Hash of its key.
        key: u64,
        /// Its birth stamp.
        birth: u16,
        /// What it is now.
        changed: Changed,
    },
    /// The entry is gone.
    Destroy {
        /// Hash of its key.
        key: u64,
        /// The birth stamp that ended.
        birth: u16,
    },
    /// The entry was offered, and is not taken.
    Refusal {
        /// Hash of its key.
        key: u64,
        /// Its birth stamp.
        birth: u16,
        /// Why.
        why: Refusal,
    },
    /// Sums of the sixteen nodes below one.
    Sums {
        /// Their parent.
        node: Node,
        /// In order of index.
        sums: [u64; 16],
    },
    /// A part of a bucket's contents.
    List {
        /// The bucket.
        bucket: u16,
        /// The bucket is complete with this part.
        last: bool,
        /// Key and content hashes, 16 bytes each.
        lines: &'a [u8],
    },
}

/// Appends a put.
pub fn emit_put(out: &mut Vec<u8>, entry: &Entry, birth: u16, repair: bool) {
    out.push(if repair { TAG_PUT_REPAIR } else { TAG_PUT });
    packed::emit_entry(out, entry, birth);
}

/// Appends a change of an entry whose put went before.
pub fn emit_change(out: &mut Vec<u8>, key: u64, birth: u16, changed: &Changed) {
    out.push(TAG_CHANGE);
    out.extend_from_slice(&key.to_be_bytes());
    out.extend_from_slice(&birth.to_be_bytes());
    changed.emit(out);
}

/// Appends a destroy.
pub fn emit_destroy(out: &mut Vec<u8>, key: u64, birth: u16) {
    out.push(TAG_DESTROY);
    out.extend_from_slice(&key.to_be_bytes());
    out.extend_from_slice(&birth.to_be_bytes());
}

/// Appends a refusal of an offer.
pub fn emit_refusal(out: &mut Vec<u8>, key: u64, birth: u16, why: Refusal) {
    out.push(TAG_REFUSAL);
    out.extend_from_slice(&key.to_be_bytes());
    out.extend_from_slice(&birth.to_be_bytes());
    out.push(why as u8);
}

/// Appends the sums below a node.
pub fn emit_sums(out: &mut Vec<u8>, node: Node, sums: &[u64; 16]) {
    out.extend_from_slice(&[TAG_SUMS, node.level]);
    out.extend_from_slice(&node.index.to_be_bytes());
    for sum in sums {
        out.extend_from_slice(&sum.to_be_bytes());
    }
}

/// Bytes of one line of a contents list.
pub const LISTED_SIZE: usize = 16;
/// Bytes before the lines of a contents list.
pub const LIST_HEAD: usize = 5;

/// Appends a part of a contents list.
pub fn emit_list(out: &mut Vec<u8>, bucket: u16, last: bool, lines: &[Listed]) {
    out.push(if last { TAG_LIST_LAST } else { TAG_LIST });
    out.extend_from_slice(&bucket.to_be_bytes());
    out.extend_from_slice(&u16::try_from(lines.len()).unwrap_or(u16::MAX).to_be_bytes());
    for line in lines {
        out.extend_from_slice(&line.key.to_be_bytes());
        out.extend_from_slice(&line.content.to_be_bytes());
    }
}

/// The lines of a received contents list.
pub fn listed(lines: &[u8]) -> impl Iterator<Item = Listed> + '_ {
    let mut reader = Reader::new(lines);
    std::iter::from_fn(move || Some(Listed { key: reader.u64().ok()?, content: reader.u64().ok()? }))
}

/// Reads the messages of a stream datagram or an offer, one after the other.
pub struct Messages<'a> {
    reader: Reader<'a>,
}

impl<'a> Messages<'a> {
    /// Starts at the first message.
    pub fn new(bytes: &'a [u8]) -> Messages<'a> {
        Messages { reader: Reader::new(bytes) }
    }

    fn read(&mut self) -> Result<Message<'a>, WireError> {
        let reader = &mut self.reader;
        Ok(match reader.u8()? {
            tag @ (TAG_PUT | TAG_PUT_REPAIR) => {
                let (entry, birth) = packed::parse_entry(reader)?;
                Message::Put { entry, birth, repair: tag == TAG_PUT_REPAIR }
            }
            TAG_CHANGE => {
                let (key, birth) = (reader.u64()?, reader.u16()?);
                Message::Change { key, birth, changed: Changed::parse(reader)? }
            }
            TAG_DESTROY => Message::Destroy { key: reader.u64()?, birth: reader.u16()? },
            TAG_REFUSAL => {
                let (key, birth, why) = (reader.u64()?, reader.u16()?, reader.u8()?);
                let why = Refusal::ALL.get(usize::from(why)).ok_or(WireError::Undefined("refusal"))?;
                Message::Refusal { key, birth, why: *why }
            }
            TAG_SUMS => {
                let node = Node { level: reader.u8()?, index: reader.u16()? };
                if node.level > 3 || u32::from(node.index) >= 1 << (4 * u32::from(node.level)) {
                    return Err(WireError::Undefined("digest node"));
                }
                let mut sums = [0; 16];
                for sum in &mut sums {
                    *sum = reader.u64()?;
                }
                Message::Sums { node, sums }
            }
            tag @ (TAG_LIST | TAG_LIST_LAST) => {
                let (bucket, count) = (reader.u16()?, reader.u16()?);
                let lines = reader.bytes(usize::from(count) * LISTED_SIZE)?;
                Message::List { bucket, last: tag == TAG_LIST_LAST, lines }
            }
            _ => return Err(WireError::Undefined("message")),
        })
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let message = self.read();
        if message.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(message)
    }
}
