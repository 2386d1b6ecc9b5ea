//! Datagram <-> messages: the native protocol, version 1. `docs/protocol.md` has the layout.
//!
//! `alive` has the signs of life, `message` what other bodies are made of, [`packed`] the entries in it,
//! [`reader`] the checked reads. Called by the replica; never touches a socket, never decides what a message
//! means. Received bytes never panic: what does not parse is an error with its reason.
//!
//! With a key everything behind the header is sealed ([`crate::seal`]); every answer names the incarnation
//! that it is for.

mod alive;
mod message;
pub mod packed;
pub mod reader;

use serde::{Deserialize, Serialize};

pub use alive::{Alive, Heard, KernelTold, Stood};
pub use message::{
    LIST_HEAD, LISTED_SIZE, Listed, Message, Messages, Refusal, emit_change, emit_destroy, emit_list,
    emit_put, emit_refusal, emit_sums, listed,
};
pub use packed::Changed;
pub use reader::{Reader, WireError};

/// "CT".
const MAGIC: u16 = 0x4354;
/// Spoken here; another version is refused loudly.
pub const VERSION: u8 = 1;
/// Bytes before the body.
pub const HEADER: usize = 2 + 1 + 1 + 4 + 8 + 16;
/// Bytes between the header and the messages of a stream datagram.
pub const STREAM_HEAD: usize = 1 + 8 + 8;
/// Bytes between the header and the messages of an offer, or of an answer to a look.
pub const GROUP_HEAD: usize = 16 + 1;

/// A node, told by its configured name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// One run of a daemon: 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Incarnation(pub u128);

impl Incarnation {
    /// Its upper half, the halves of that exchanged, xored with its lower one: enough to tell it from others
    /// of one group. Never 0, which is nobody's.
    pub fn folded(self) -> u64 {
        let half = |at: u32| u64::try_from(self.0 >> at & u128::from(u64::MAX)).unwrap_or(0);
        (half(64).rotate_left(32) ^ half(0)).max(1)
    }
}

/// A failover group within one stream. Each group has a stream of its own, told by its header: always 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct GroupId(pub u8);

/// "I own this group now": compared by epoch, then by node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Claim {
    /// Counts claims.
    pub epoch: u64,
    /// Who claimed.
    pub node: NodeId,
}

/// What opens every datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Nodes that belong together, and the failover group among theirs; datagrams of another number are
    /// ignored.
    pub node_group: u32,
    /// The sending node.
    pub sender: NodeId,
    /// The sending daemon's run.
    pub incarnation: Incarnation,
}

/// One datagram of the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StreamHead {
    /// The group that all messages in it are about.
    pub group: GroupId,
    /// Position in the stream; without gaps per incarnation.
    pub sequence: u64,
    /// Digest root of the group that holds after this datagram.
    pub root: u64,
}

/// What a backup asks its owner for, to repair a difference.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Want {
    /// The sixteen sums below a node of the digest tree.
    Sums(Node),
    /// Every entry below a node: the asking side has none there.
    Subtree(Node),
    /// The contents list of a bucket.
    List(u16),
    /// One entry by its key hash.
    Key(u64),
}

/// A node of the digest tree: level 0 is the root, level 4 the buckets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Node {
    /// 0 to 4.
    pub level: u8,
    /// Below 16 to the power of the level.
    pub index: u16,
}

impl Node {
    /// All of the table.
    pub const ROOT: Node = Node { level: 0, index: 0 };
}

/// A received datagram's body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body<'a> {
    /// Part of the owner's stream; messages are read by [`Messages`].
    Stream(StreamHead, &'a [u8]),
    /// I am here.
    Alive(Box<Alive>),
    /// Datagrams of the stream of `to` are missing here.
    Nack {
        /// Whose stream.
        to: Incarnation,
        /// First and last number of each hole.
        holes: Vec<(u64, u64)>,
    },
    /// Repair: send me these.
    Ask {
        /// Whose answer is wanted.
        to: Incarnation,
        /// In which group.
        group: GroupId,
        /// What.
        wants: Vec<Want>,
    },
    /// Entries that the new owner may lack, as `Put` messages.
    Offer {
        /// The owner.
        to: Incarnation,
        /// In which group.
        group: GroupId,
        /// Messages.
        messages: &'a [u8],
    },
    /// You are new here: prove that you are not a replay.
    Challenge {
        /// The new incarnation.
        to: Incarnation,
        /// To be sent back.
        nonce: u64,
    },
    /// The answer to a challenge.
    Proof {
        /// Who challenged.
        to: Incarnation,
        /// Its nonce.
        nonce: u64,
    },
    /// For an operator who compares two tables: what do you hold there? Answered by every node, outside the
    /// stream.
    Look {
        /// Whose answer is wanted.
        to: Incarnation,
        /// In which group.
        group: GroupId,
        /// What: sums, contents of a bucket, one entry.
        wants: Vec<Want>,
    },
    /// The answer to a look, as messages. A list that is not complete stays without its last part.
    Seen {
        /// Who looked.
        to: Incarnation,
        /// In which group.
        group: GroupId,
        /// Messages.
        messages: &'a [u8],
    },
    /// Send what you still hold, then an alive with this token: a takeover is waiting.
    Flush {
        /// The owner.
        to: Incarnation,
        /// Comes back in the alive.
        token: u32,
    },
}

/// In the kind: the body is sealed.
const SEALED: u8 = 0x80;
/// Where the kind stands.
const KIND_AT: usize = 3;
/// No count of datagrams or claims gets here: whoever tells one is broken, and what follows it must not
/// overflow.
const UNCOUNTED: u64 = 1 << 63;

const KIND_STREAM: u8 = 1;
const KIND_ALIVE: u8 = 2;
const KIND_NACK: u8 = 3;
const KIND_ASK: u8 = 4;
const KIND_OFFER: u8 = 5;
const KIND_FLUSH: u8 = 6;
const KIND_CHALLENGE: u8 = 7;
const KIND_PROOF: u8 = 8;
const KIND_LOOK: u8 = 9;
const KIND_SEEN: u8 = 10;

const WANT_SUMS: u8 = 1;
const WANT_SUBTREE: u8 = 2;
const WANT_LIST: u8 = 3;
const WANT_KEY: u8 = 4;

/// Bytes of one want on the wire.
pub const WANT_SIZE: usize = 9;

/// The group's number in a datagram's header, before anything else of it is looked at.
pub fn peek_group(datagram: &[u8]) -> Option<u32> {
    let mut reader = Reader::new(datagram);
    reader.bytes(KIND_AT + 1).ok()?;
    reader.u32().ok()
}

fn emit_header(out: &mut Vec<u8>, header: &Header, kind: u8) {
    out.extend_from_slice(&MAGIC.to_be_bytes());
    out.extend_from_slice(&[VERSION, kind]);
    out.extend_from_slice(&header.node_group.to_be_bytes());
    out.extend_from_slice(&header.sender.0.to_be_bytes());
    out.extend_from_slice(&header.incarnation.0.to_be_bytes());
}

/// A stream datagram around finished messages.
pub fn emit_stream(out: &mut Vec<u8>, header: &Header, head: &StreamHead, messages: &[u8]) {
    emit_header(out, header, KIND_STREAM);
    out.push(head.group.0);
    out.extend_from_slice(&head.sequence.to_be_bytes());
    out.extend_from_slice(&head.root.to_be_bytes());
    out.extend_from_slice(messages);
}

/// Any other datagram.
pub fn emit_body(out: &mut Vec<u8>, header: &Header, body: &Body<'_>) {
    match body {
        Body::Stream(head, messages) => emit_stream(out, header, head, messages),
        Body::Alive(alive) => {
            emit_header(out, header, KIND_ALIVE);
            alive.emit(out);
        }
        Body::Nack { to, holes } => {
            emit_header(out, header, KIND_NACK);
            out.extend_from_slice(&to.0.to_be_bytes());
            for (from, until) in holes {
                out.extend_from_slice(&from.to_be_bytes());
                out.extend_from_slice(&until.to_be_bytes());
            }
        }
        Body::Ask { to, group, wants } | Body::Look { to, group, wants } => {
            let ask = matches!(body, Body::Ask { .. });
            emit_header(out, header, if ask { KIND_ASK } else { KIND_LOOK });
            out.extend_from_slice(&to.0.to_be_bytes());
            out.push(group.0);
            for want in wants {
                emit_want(out, want);
            }
        }
        Body::Offer { to, group, messages } | Body::Seen { to, group, messages } => {
            let offer = matches!(body, Body::Offer { .. });
            emit_header(out, header, if offer { KIND_OFFER } else { KIND_SEEN });
            out.extend_from_slice(&to.0.to_be_bytes());
            out.push(group.0);
            out.extend_from_slice(messages);
        }
        Body::Challenge { to, nonce } | Body::Proof { to, nonce } => {
            let challenge = matches!(body, Body::Challenge { .. });
            emit_header(out, header, if challenge { KIND_CHALLENGE } else { KIND_PROOF });
            out.extend_from_slice(&to.0.to_be_bytes());
            out.extend_from_slice(&nonce.to_be_bytes());
        }
        Body::Flush { to, token } => {
            emit_header(out, header, KIND_FLUSH);
            out.extend_from_slice(&to.0.to_be_bytes());
            out.extend_from_slice(&token.to_be_bytes());
        }
    }
}

fn emit_want(out: &mut Vec<u8>, want: &Want) {
    let (tag, value) = match want {
        Want::Sums(node) => (WANT_SUMS, u64::from(node.level) << 16 | u64::from(node.index)),
        Want::Subtree(node) => (WANT_SUBTREE, u64::from(node.level) << 16 | u64::from(node.index)),
        Want::List(bucket) => (WANT_LIST, u64::from(*bucket)),
        Want::Key(key) => (WANT_KEY, *key),
    };
    out.push(tag);
    out.extend_from_slice(&value.to_be_bytes());
}

fn parse_want(reader: &mut Reader<'_>) -> Result<Want, WireError> {
    let (tag, value) = (reader.u8()?, reader.u64()?);
    let node = || -> Result<Node, WireError> {
        let level = u8::try_from(value >> 16).ok().filter(|level| *level <= 4);
        let level = level.ok_or(WireError::Undefined("digest level"))?;
        let index = (value & 0xffff) as u16;
        if u32::from(index) >= 1u32 << (4 * u32::from(level)) {
            return Err(WireError::Undefined("digest index"));
        }
        Ok(Node { level, index })
    };
    Ok(match tag {
        WANT_SUMS => Want::Sums(node()?),
        WANT_SUBTREE => Want::Subtree(node()?),
        WANT_LIST => Want::List(u16::try_from(value).map_err(|_| WireError::Undefined("bucket"))?),
        WANT_KEY => Want::Key(value),
        _ => return Err(WireError::Undefined("want")),
    })
}

/// Mark a plain datagram as one whose body will be sealed.
pub fn mark_sealed(datagram: &mut [u8]) {
    if let Some(kind) = datagram.get_mut(KIND_AT) {
        *kind |= SEALED;
    }
}

/// ... and take the mark off after opening it.
pub fn unmark_sealed(datagram: &mut [u8]) {
    if let Some(kind) = datagram.get_mut(KIND_AT) {
        *kind &= !SEALED;
    }
}

/// Read the header alone, and whether the body is sealed.
pub fn peek(bytes: &[u8]) -> Result<(Header, bool), WireError> {
    let mut reader = Reader::new(bytes);
    let (kind, header) = parse_header(&mut reader)?;
    Ok((header, kind & SEALED != 0))
}

fn parse_header(reader: &mut Reader<'_>) -> Result<(u8, Header), WireError> {
    if reader.u16()? != MAGIC {
        return Err(WireError::Magic);
    }
    let version = reader.u8()?;
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    let kind = reader.u8()?;
    let header = Header {
        node_group: reader.u32()?,
        sender: NodeId(reader.u64()?),
        incarnation: Incarnation(reader.u128()?),
    };
    Ok((kind, header))
}

/// Read header and body of a received datagram.
pub fn parse(bytes: &[u8]) -> Result<(Header, Body<'_>), WireError> {
    let (header, _) = peek(bytes)?;
    Ok((header, parse_body(bytes)?))
}

/// Read the body of a datagram whose header has been read already. One that is sealed has none that can be
/// read.
pub fn parse_body(bytes: &[u8]) -> Result<Body<'_>, WireError> {
    let kind = *bytes.get(KIND_AT).ok_or(WireError::Truncated)?;
    let mut reader = Reader::new(bytes.get(HEADER..).ok_or(WireError::Truncated)?);
    Ok(match kind {
        KIND_STREAM => {
            let (group, sequence) = (GroupId(reader.u8()?), parse_count(&mut reader)?);
            Body::Stream(StreamHead { group, sequence, root: reader.u64()? }, reader.rest())
        }
        KIND_ALIVE => Body::Alive(Box::new(Alive::parse(&mut reader)?)),
        KIND_NACK => {
            let to = Incarnation(reader.u128()?);
            let mut holes = Vec::with_capacity(reader.rest().len() / 16);
            while !reader.is_empty() {
                holes.push((reader.u64()?, reader.u64()?));
            }
            Body::Nack { to, holes }
        }
        KIND_ASK | KIND_LOOK => {
            let (to, group) = (Incarnation(reader.u128()?), GroupId(reader.u8()?));
            let mut wants = Vec::with_capacity(reader.rest().len() / WANT_SIZE);
            while !reader.is_empty() {
                wants.push(parse_want(&mut reader)?);
            }
            if kind == KIND_ASK { Body::Ask { to, group, wants } } else { Body::Look { to, group, wants } }
        }
        KIND_OFFER | KIND_SEEN => {
            let (to, group) = (Incarnation(reader.u128()?), GroupId(reader.u8()?));
            let messages = reader.rest();
            if kind == KIND_OFFER {
                Body::Offer { to, group, messages }
            } else {
                Body::Seen { to, group, messages }
            }
        }
        KIND_FLUSH => Body::Flush { to: Incarnation(reader.u128()?), token: reader.u32()? },
        KIND_CHALLENGE => Body::Challenge { to: Incarnation(reader.u128()?), nonce: reader.u64()? },
        KIND_PROOF => Body::Proof { to: Incarnation(reader.u128()?), nonce: reader.u64()? },
        _ => return Err(WireError::Undefined("datagram kind")),
    })
}

fn parse_count(reader: &mut Reader<'_>) -> Result<u64, WireError> {
    Some(reader.u64()?).filter(|count| *count < UNCOUNTED).ok_or(WireError::Undefined("count"))
}

#[cfg(test)]
mod tests;
