//! The lab's own eyes: `conntrack -L` of a namespace through a normaliser that uses no ctsync code.
//!
//! Called by the stories to compare two kernels and to look for entries the lab knows.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::machine::node::Node;

/// The entries of a kernel that are worth comparing, one normalised line each. `own` are the addresses of the
/// routers (virtual ones included): what begins or ends on a router is left out.
pub(crate) fn entries(node: &Node, own: &[String]) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for family in ["ipv4", "ipv6"] {
        let listing = node.output("conntrack", &["-L", "-f", family])?;
        all.extend(listing.lines().filter_map(|line| normalise(line, own)));
    }
    Ok(all)
}

/// One line of `conntrack -L` without what may differ between two kernels: timeout and use count.
/// `None` for noise.
fn normalise(line: &str, own: &[String]) -> Option<String> {
    if is_noise(line, own) {
        return None;
    }
    // protocol, number, timeout, rest
    let kept = line.split_whitespace().enumerate().filter(|(at, word)| {
        let timeout = *at == 2 && word.parse::<u64>().is_ok();
        !timeout && !word.starts_with("use=") && *word != "[OFFLOAD]"
    });
    Some(kept.map(|(_, word)| word).collect::<Vec<_>>().join(" "))
}

/// What begins or ends on a router, and what is local to a link.
pub(crate) fn is_noise(line: &str, own: &[String]) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let sources: Vec<&str> = words.iter().filter_map(|word| word.strip_prefix("src=")).collect();
    let destinations: Vec<&str> = words.iter().filter_map(|word| word.strip_prefix("dst=")).collect();
    let is_own = |address: &str| own.iter().any(|known| known == address);
    // The second source is the far end: a router there means that the connection ends on it.
    if sources.iter().any(|address| is_own(address)) {
        return true;
    }
    let multicast = |address: &str| {
        address.starts_with("ff")
            || address
                .split('.')
                .next()
                .and_then(|first| first.parse::<u8>().ok())
                .is_some_and(|first| first >= 224)
    };
    let loopback = |address: &str| address.starts_with("127.") || address == "::1";
    destinations.iter().any(|address| multicast(address) || loopback(address))
        || sources.iter().chain(&destinations).any(|address| address.starts_with("fe80:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_must_be_equal_is_kept() {
        let own = ["10.0.0.1".to_owned(), "10.0.0.10".to_owned()];
        let line = "tcp      6 431999 ESTABLISHED src=10.0.1.100 dst=10.0.0.100 sport=4 dport=5 \
                    src=10.0.0.100 dst=10.0.0.1 sport=5 dport=4 [ASSURED] mark=0 use=1";
        let other = line.replace("431999", "3600").replace("use=1", "use=2");
        assert!(normalise(line, &own).is_some());
        assert_eq!(normalise(line, &own), normalise(&other, &own));
        let changed = line.replace("ESTABLISHED", "TIME_WAIT");
        assert_ne!(normalise(line, &own), normalise(&changed, &own));
        let to_router = "udp 17 29 src=10.0.1.100 dst=10.0.0.10 sport=4 dport=53 \
                         src=10.0.0.10 dst=10.0.1.100 sport=53 dport=4 mark=0 use=1";
        assert_eq!(normalise(to_router, &own), None);
        let vrrp =
            "unknown 112 599 src=10.0.0.11 dst=224.0.0.18 [UNREPLIED] src=224.0.0.18 dst=10.0.0.11 use=1";
        assert_eq!(normalise(vrrp, &own), None);
    }
}
