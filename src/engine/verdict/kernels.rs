//! An owner's kernel beside its standby's: what lives on the one and would die on the other, by their rules
//! or their settings.
//!
//! Called for the findings between two nodes.

use super::{Finding, Side, finding};
use crate::facts::{Asked, HELPERS, KernelSettings, TIMEOUTS};

/// Does the standby's kernel track and translate what the owner's does?
pub(super) fn rules(owner: &Side<'_>, standby: &Side<'_>) -> Vec<Finding> {
    if !owner.asks(Asked::KNOWN) || !standby.asks(Asked::KNOWN) {
        return Vec::new();
    }
    let tracking = Asked::TRACKS4 | Asked::TRACKS6;
    let any =
        |side: &Side<'_>| side.kernel.is_some_and(|kernel| kernel.settings.rules.asked.intersects(tracking));
    if !any(owner) && !any(standby) {
        return vec![finding(
            "nothing-tracked",
            "no rule on either router asks for connection tracking: there is nothing to synchronise".into(),
            "load the ruleset on both; a state policy such as `ct state established accept` switches tracking on",
        )];
    }
    let mut all = Vec::new();
    let asked = [
        ("tracking of IPv4", Asked::TRACKS4),
        ("tracking of IPv6", Asked::TRACKS6),
        ("translation of IPv4", Asked::NAT4),
        ("translation of IPv6", Asked::NAT6),
    ];
    let lacking: Vec<&str> = asked
        .into_iter()
        .filter(|(_, bit)| owner.asks(*bit) && !standby.asks(*bit))
        .map(|(what, _)| what)
        .collect();
    if !lacking.is_empty() {
        all.push(finding(
            "rules",
            format!(
                "the rules of {} lack {}, which those of {} have",
                standby.name,
                lacking.join(", "),
                owner.name
            ),
            format!(
                "load the ruleset {}: `systemctl restart nftables`, or what loads yours",
                standby.place()
            ),
        ));
    }
    let helpers = |side: &Side<'_>| side.kernel.map_or(0, |kernel| kernel.settings.rules.helpers);
    let lacking = helpers(owner) & !helpers(standby);
    if lacking != 0 {
        let names = HELPERS.iter().enumerate().filter(|(at, _)| lacking & (1 << at) != 0);
        let names: Vec<&str> = names.map(|(_, name)| *name).collect();
        all.push(finding(
            "helpers",
            format!(
                "the rules of {} know no helper {}, those of {} do",
                standby.name,
                names.join(", "),
                owner.name
            ),
            format!("load the same ruleset {}", standby.place()),
        ));
    }
    all
}

/// Do the standby's settings let connections live that the owner's let live?
pub(super) fn settings(
    owner: &str,
    one: &KernelSettings,
    standby: &Side<'_>,
    two: &KernelSettings,
    entries: u32,
) -> Vec<Finding> {
    let mut all = Vec::new();
    let name = standby.name;
    if one.loose && !two.loose {
        all.push(finding(
            "loose",
            format!("net.netfilter.nf_conntrack_tcp_loose is 1 on {owner} and 0 on {name}"),
            "set it alike on both: what lives without its entry on one dies on the other",
        ));
    }
    if two.max > 0 && entries > two.max {
        all.push(finding(
            "table-small",
            format!(
                "net.netfilter.nf_conntrack_max is {} on {name}, and {entries} entries have to fit",
                two.max
            ),
            format!("raise it {}", standby.place()),
        ));
    }
    let place = if standby.here { "here" } else { "there" };
    let (mut shorter, mut settings) = (Vec::new(), Vec::new());
    for (what, (one, two)) in TIMEOUTS.iter().zip(one.timeouts.iter().zip(two.timeouts)) {
        if two > 0 && two < *one {
            shorter.push(format!("nf_conntrack_{what} {two} s {place} and {one} s on {owner}"));
            settings.push(format!("net.netfilter.nf_conntrack_{what}={one}"));
        }
    }
    if !shorter.is_empty() {
        all.push(finding(
            "timeouts",
            format!("idle connections end sooner on {name}: {}", shorter.join(", ")),
            format!("`sysctl -w {}` {}, and in /etc/sysctl.d", settings.join(" "), standby.place()),
        ));
    }
    all
}
