//! How places and values of a configuration are written. Called by whoever reads or names one.

use std::net::IpAddr;

use ipnet::IpNet;

/// RFC 6901, 3: `~` and `/` are escaped.
pub(super) fn below(above: &str, name: &str) -> String {
    format!("{above}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// `VALUE` or `VALUE/MASK`, decimal or hexadecimal.
pub(super) fn parse_mark(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    match text.split_once('/') {
        Some((value, mask)) => Some((number(value)?, number(mask)?)),
        None => Some((number(text)?, u32::MAX)),
    }
}

/// A prefix, or an address by itself.
pub(super) fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}
