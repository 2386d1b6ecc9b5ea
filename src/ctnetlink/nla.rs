//! Netlink attributes: written, with their messages, into one growing buffer; read where they lie. Nothing of
//! conntrack lives here. Called by `codec` and by `hold`.
//!
//! An event has about thirty attributes, and reading them is a good part of what an owner does for it:
//! `netlink_packet_core::NlasIterator`, whose errors are texts, took a tenth of its time more.

use std::net::IpAddr;

use netlink_packet_core::{NLA_ALIGNTO, NLA_F_NESTED, NLA_TYPE_MASK};
use thiserror::Error;

/// `struct nlattr`.
const HEADER: usize = 4;

/// A length does not fit, or a value is of another size than its type's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("malformed netlink message")]
pub struct Malformed;

/// The attributes of a message or of a nested attribute, in order: type, without its flags, and value.
#[derive(Clone)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Begin at the first one.
    pub fn new(bytes: &'a [u8]) -> Attributes<'a> {
        Attributes(bytes)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let bytes = std::mem::take(&mut self.0);
        let Some(([a, b, c, d], _)) = bytes.split_first_chunk::<HEADER>() else {
            return (!bytes.is_empty()).then_some(Err(Malformed));
        };
        let (length, kind) = (usize::from(u16::from_ne_bytes([*a, *b])), u16::from_ne_bytes([*c, *d]));
        let Some(value) = bytes.get(HEADER..length) else { return Some(Err(Malformed)) };
        // The last one's padding may be missing.
        self.0 = bytes.get(length.next_multiple_of(NLA_ALIGNTO)..).unwrap_or_default();
        Some(Ok((kind & NLA_TYPE_MASK, value)))
    }
}

/// A value of so many bytes, such as a number's.
#[inline]
pub fn exactly<const N: usize>(value: &[u8]) -> Result<[u8; N], Malformed> {
    value.try_into().map_err(|_| Malformed)
}

/// One byte.
#[inline]
pub fn read_u8(value: &[u8]) -> Result<u8, Malformed> {
    exactly(value).map(u8::from_be_bytes)
}

/// Two bytes, big endian.
#[inline]
pub fn read_u16(value: &[u8]) -> Result<u16, Malformed> {
    exactly(value).map(u16::from_be_bytes)
}

/// Four bytes, big endian.
#[inline]
pub fn read_u32(value: &[u8]) -> Result<u32, Malformed> {
    exactly(value).map(u32::from_be_bytes)
}

/// Eight bytes, big endian.
#[inline]
pub fn read_u64(value: &[u8]) -> Result<u64, Malformed> {
    exactly(value).map(u64::from_be_bytes)
}

/// Four or sixteen bytes.
#[inline]
pub fn read_ip(value: &[u8]) -> Result<IpAddr, Malformed> {
    exactly::<4>(value).map(IpAddr::from).or_else(|_| exactly::<16>(value).map(IpAddr::from))
}

/// A buffer of one or more netlink messages under construction.
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

/// Where a message or nested attribute began; its length is written when it is closed.
#[must_use]
pub struct Mark(usize);

impl Writer {
    /// All messages written so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Forget the messages, keep the allocation.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Start a message: `struct nlmsghdr` with a length to be filled in by [`Writer::end_message`].
    pub fn begin_message(&mut self, kind: u16, flags: u16, sequence: u32) -> Mark {
        let mark = Mark(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        mark
    }

    /// Raw bytes, such as `struct nfgenmsg`.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Close a message.
    #[expect(clippy::needless_pass_by_value, reason = "a mark is used up: a message ends once")]
    pub fn end_message(&mut self, mark: Mark) {
        let length = u32::try_from(self.bytes.len() - mark.0).unwrap_or(u32::MAX);
        if let Some(field) = self.bytes.get_mut(mark.0..mark.0 + 4) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
    }

    /// One attribute with its padding.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// A string attribute, with the 0 that NLA_NUL_STRING wants.
    pub fn string(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// Start a nested attribute.
    pub fn begin_nested(&mut self, kind: u16) -> Mark {
        let mark = Mark(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        mark
    }

    /// Close a nested attribute.
    #[expect(clippy::needless_pass_by_value, reason = "a mark is used up: an attribute ends once")]
    pub fn end_nested(&mut self, mark: Mark) {
        let length = u16::try_from(self.bytes.len() - mark.0).unwrap_or(u16::MAX);
        if let Some(field) = self.bytes.get_mut(mark.0..mark.0 + 2) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(NLA_ALIGNTO) {
            self.bytes.push(0);
        }
    }
}
