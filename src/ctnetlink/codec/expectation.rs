//! The attributes of one expectation (`enum ctattr_expect`), both ways. Called by the codec's requests and
//! events.

use netlink_packet_netfilter::conntrack::Status;

use super::tuple::{emit_tuple, parse_tuple};
#[allow(clippy::wildcard_imports, reason = "the kernel's names")]
use super::uapi::*;
use super::{CodecError, Install, parse_name};
use crate::entry::{Entry, Expectation, Rare, Tuple, proto};
use crate::nla::{Attributes, Writer, read_u32};

/// The attributes of one message about an expectation, as the entry that it will become.
pub(super) fn parse_expectation(attributes: &[u8]) -> Result<Entry, CodecError> {
    let (mut expected, mut mask, mut master, mut timeout, mut helper) = (None, None, None, None, None);
    let (mut flags, mut class, mut function, mut nat) = (0, 0, None, None);
    for attribute in Attributes::new(attributes) {
        let (kind, value) = attribute?;
        match kind {
            CTA_EXPECT_TUPLE => expected = Some(parse_tuple(value, "expected")?.0),
            CTA_EXPECT_MASK => mask = Some(parse_tuple(value, "mask")?.0),
            CTA_EXPECT_MASTER => master = Some(parse_tuple(value, "master")?.0),
            CTA_EXPECT_TIMEOUT => timeout = Some(read_u32(value)?),
            CTA_EXPECT_HELP_NAME => helper = Some(parse_name(value)?),
            CTA_EXPECT_FLAGS => flags = read_u32(value)?,
            CTA_EXPECT_CLASS => class = read_u32(value)?,
            CTA_EXPECT_FN => function = Some(parse_name(value)?),
            CTA_EXPECT_NAT => nat = parse_nat(value)?,
            _ => {}
        }
    }
    let expected = expected.ok_or(CodecError::Incomplete("expected"))?;
    let mask = mask.ok_or(CodecError::Incomplete("mask"))?;
    let master = master.ok_or(CodecError::Incomplete("master"))?;
    let expectation = Expectation { mask, flags, class, function, nat };
    Ok(Entry {
        orig: expected,
        reply: expected.inverse(),
        // The kernel does not tell (`ctnetlink_exp_dump_expect`): that of its master, which is 0 mostly.
        zone: 0,
        status: Status::Confirmed,
        timeout,
        mark: None,
        tcp: None,
        master: Some(Box::new(master)),
        rare: Rare { helper, expectation: Some(expectation), ..Rare::default() }.boxed(),
    })
}

fn parse_nat(attributes: &[u8]) -> Result<Option<(u32, Tuple)>, CodecError> {
    let (mut direction, mut tuple) = (None, None);
    for inner in Attributes::new(attributes) {
        let (kind, value) = inner?;
        match kind {
            CTA_EXPECT_NAT_DIR => direction = Some(read_u32(value)?),
            CTA_EXPECT_NAT_TUPLE => tuple = Some(parse_tuple(value, "NAT")?.0),
            _ => {}
        }
    }
    Ok(direction.zip(tuple))
}

/// The expected tuple: enough to find it.
pub(super) fn emit_key(writer: &mut Writer, expected: &Tuple) {
    emit_tuple(writer, CTA_EXPECT_TUPLE, expected);
}

/// What a create needs. The kernel sets its own timeout then, by helper and class; a renewal behind it sets
/// ours.
pub(super) fn emit_new(writer: &mut Writer, entry: &Entry, how: Install) {
    emit_renewal(writer, entry, how);
    let Some(expectation) = entry.expectation() else { return };
    writer.attribute(CTA_EXPECT_FLAGS, &expectation.flags.to_be_bytes());
    writer.attribute(CTA_EXPECT_CLASS, &expectation.class.to_be_bytes());
    if let Some(name) = handed_on(entry, expectation) {
        writer.string(CTA_EXPECT_HELP_NAME, name);
    }
    if let Some(function) = &expectation.function {
        writer.string(CTA_EXPECT_FN, function);
    }
    if let Some((direction, tuple)) = &expectation.nat {
        let outer = writer.begin_nested(CTA_EXPECT_NAT);
        writer.attribute(CTA_EXPECT_NAT_DIR, &direction.to_be_bytes());
        emit_tuple(writer, CTA_EXPECT_NAT_TUPLE, tuple);
        writer.end_nested(outer);
    }
}

/// The timeout alone, which is all that can change (`ctnetlink_change_expect`); the kernel wants tuple, mask
/// and master.
pub(super) fn emit_renewal(writer: &mut Writer, entry: &Entry, how: Install) {
    let (Some(expectation), Some(master)) = (entry.expectation(), &entry.master) else { return };
    emit_key(writer, &entry.orig);
    emit_tuple(writer, CTA_EXPECT_MASK, &expectation.mask);
    emit_tuple(writer, CTA_EXPECT_MASTER, master);
    if let Some(timeout) = how.timeout {
        writer.attribute(CTA_EXPECT_TIMEOUT, &timeout.to_be_bytes());
    }
}

/// The helper that a connection is given when it comes true. The kernel tells the master's helper instead,
/// takes what it is told as the child's, and believes a class only together with it
/// (`ctnetlink_alloc_expect`): named are those that hand a helper on, and those that use classes.
fn handed_on<'a>(entry: &'a Entry, expectation: &Expectation) -> Option<&'a str> {
    match (entry.helper()?, entry.orig.proto) {
        ("RAS", proto::UDP) => Some("RAS"),
        // A call that is forwarded. The other children of H.323 have helpers that are not looked up under
        // their master's protocol: they go without.
        ("Q.931", _) if expectation.function.is_some() => Some("Q.931"),
        ("RAS" | "Q.931" | "H.245", _) => None,
        (name, _) => (name.starts_with("sip") || expectation.class != 0).then_some(name),
    }
}
