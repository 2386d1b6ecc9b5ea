//! Writing netlink messages and attributes into one growing buffer. Nothing of conntrack lives here; reading
//! is `netlink_packet_core::NlasIterator`'s. Called by `codec` and by `hold`.

use netlink_packet_core::{NLA_ALIGNTO, NLA_F_NESTED};

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
