//! What would make a takeover fail on this node, or on its peer: kernel settings and what the kernel has
//! refused so far, in one sentence each, with what to do.
//!
//! Called by the daemon for its log and for `status`. Pure: the settings are read by the daemon, and the
//! peer's come with its alives.

use crate::facts::KernelSettings;
use crate::failure::Failure;
use crate::replica::nearly_full;
use crate::replica::view::View;

/// One sentence for each thing that an operator should change; none when all is well.
pub fn remarks(own: &KernelSettings, in_use: u32, view: &View) -> Vec<String> {
    let mut all = Vec::new();
    if !own.events {
        all.push(
            "net.netfilter.nf_conntrack_events is not 1: entries older than this daemon tell neither updates nor their \
             end; set it at boot"
                .to_owned(),
        );
    }
    if nearly_full(in_use, own.max) {
        all.push(format!(
            "the kernel's table holds {in_use} entries of at most {}: raise net.netfilter.nf_conntrack_max",
            own.max
        ));
    }
    if own.rules.timeout_policies > 0 {
        all.push(format!(
            "{} `ct timeout` policies are loaded: what they set is not carried, a connection gets the other kernel's own \
             timeouts with its first packet there",
            own.rules.timeout_policies
        ));
    }
    if let Some(most) = view.narrow {
        all.push(format!(
            "datagrams of {most} bytes do not get through to the peer, {} are sent: a switch or a tunnel on the way carries \
             less than this interface; set its MTU alike",
            view.datagram
        ));
    }
    for peer in view.peers.iter().filter(|peer| peer.alive && !peer.name.is_empty()) {
        if let Some(kernel) = &peer.kernel {
            all.extend(differences(own, &peer.name, &kernel.settings));
        }
    }
    let refused = |failure: Failure| {
        view.failures.iter().find(|(word, _)| *word == failure.word()).map_or(0, |(_, count)| *count)
    };
    for (failure, sentence) in [
        (
            Failure::HelperUnknown,
            "this kernel does not know helpers of the peer's entries: load their modules, as its rules do by `ct helper`",
        ),
        (
            Failure::LabelsUnused,
            "no rule of this kernel uses labels: those of the peer's entries are left out",
        ),
        (Failure::NotPermitted, "the kernel lets this daemon change nothing: it needs CAP_NET_ADMIN"),
    ] {
        if refused(failure) > 0 {
            all.push(format!("{sentence} ({} times so far)", refused(failure)));
        }
    }
    all
}

/// Where this kernel and a peer's are set differently.
fn differences(own: &KernelSettings, name: &str, theirs: &KernelSettings) -> Vec<String> {
    let mut all = Vec::new();
    // 0 is no limit.
    let smaller = own.max > 0 && (theirs.max == 0 || own.max < theirs.max);
    if smaller {
        let most = if theirs.max == 0 { "any number".to_owned() } else { theirs.max.to_string() };
        all.push(format!(
            "net.netfilter.nf_conntrack_max is {} here and allows {most} on {name}: what it holds may not fit",
            own.max
        ));
    }
    if own.loose != theirs.loose {
        let word = |loose| u8::from(loose);
        all.push(format!(
            "net.netfilter.nf_conntrack_tcp_loose is {} here and {} on {name}: the two treat connections that they \
             do not know differently",
            word(own.loose),
            word(theirs.loose)
        ));
    }
    if own.timestamps != theirs.timestamps {
        let word = |on| if on { "on" } else { "off" };
        all.push(format!(
            "net.netfilter.nf_conntrack_timestamp is {} here and {} on {name}",
            word(own.timestamps),
            word(theirs.timestamps)
        ));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::KernelTold;

    #[test]
    fn a_good_pair_needs_no_word_and_each_flaw_has_its_own() {
        let good = KernelSettings { max: 1000, events: true, ..KernelSettings::default() };
        let view = |theirs: KernelSettings, labels: u64| View {
            peers: vec![crate::replica::view::PeerView {
                name: "router2".into(),
                alive: true,
                kernel: Some(KernelTold { settings: theirs, ..KernelTold::default() }),
                ..Default::default()
            }],
            failures: vec![(Failure::LabelsUnused.word(), labels)],
            ..Default::default()
        };
        let flaws =
            |own: KernelSettings, in_use, theirs, labels| remarks(&own, in_use, &view(theirs, labels));
        assert_eq!(flaws(good, 899, good, 0), Vec::<String>::new());
        for (own, in_use, theirs, labels, word) in [
            (KernelSettings { events: false, ..good }, 1, good, 0, "nf_conntrack_events"),
            (good, 900, good, 0, "900 entries of at most 1000"),
            (good, 1, KernelSettings { max: 2000, ..good }, 0, "2000 on router2"),
            (good, 1, KernelSettings { max: 0, ..good }, 0, "any number on router2"),
            (KernelSettings { loose: true, ..good }, 1, good, 0, "tcp_loose is 1 here and 0 on router2"),
            (
                good,
                1,
                KernelSettings { timestamps: true, ..good },
                0,
                "timestamp is off here and on on router2",
            ),
            (good, 1, good, 3, "uses labels"),
        ] {
            let found = flaws(own, in_use, theirs, labels);
            assert!(matches!(found.as_slice(), [one] if one.contains(word)), "{word}: {found:?}");
        }
        assert_eq!(flaws(KernelSettings { max: 0, ..good }, 5000, good, 0).len(), 0, "no limit");
    }
}
