//! What the engine counts, by the names that metrics and `statistics --json` share.

use crate::engine::replica::{Counters, Refused};

/// Counters of the replica with a name of their own: also what `statistics --json` tells.
pub fn named_counters(counters: &Counters) -> Vec<(&'static str, &'static str, u64)> {
    let refused = Refused::ALL.iter().map(|why| {
        let (name, help) = refused_words(*why);
        (name, help, counters.refused(*why))
    });
    let mut all = vec![
        ("requests", "Requests to the kernel", counters.requests),
        ("tracked_entries", "TCP entries that got their window tracking back", counters.tracked),
        ("trimmed_entries", "Entries whose lease went back to their protocol's timeout", counters.trimmed),
        ("ignored_events", "Kernel events of entries that are not synchronised", counters.ignored),
        ("overruns", "Times the kernel dropped events", counters.overruns),
        ("dumps", "Times the kernel table was read", counters.dumps),
        ("heard_datagrams", "Datagrams listened to", counters.heard),
        ("unusable_datagrams", "Datagrams with a part that could not be read", counters.unusable),
        ("lost_datagrams", "Datagrams missed in the stream when a gap was found", counters.lost),
        ("nacks", "Requests to send datagrams again", counters.nacks),
        ("resent_datagrams", "Datagrams sent again", counters.resent),
        ("repairs", "Repairs begun because a digest differed", counters.repairs),
        ("repaired_entries_sent", "Entries sent because a repair asked", counters.repaired_out),
        ("repaired_entries_received", "Entries received because a repair asked", counters.repaired_in),
        ("offered_entries_sent", "Entries offered to a new owner", counters.offered),
        ("offered_entries_taken", "Entries taken of other nodes' offers", counters.taken),
        ("offered_entries_ended", "Offers refused because the connection had ended", counters.ended_offers),
        (
            "claims_covered",
            "Claims followed whose maker had all that was here, so that no table was walked",
            counters.covered,
        ),
        (
            "claims_fallen_back_to",
            "Lower claims followed because nobody was heard to own the group by the higher one",
            counters.fallbacks,
        ),
        (
            "dropped_destroys",
            "Destroys left to the digest because too many waited",
            counters.dropped_destroys,
        ),
        ("claims", "Times this node claimed its group", counters.claims),
        ("yields", "Times this node yielded its group", counters.yields),
        (
            "held_back_ends",
            "Ends held back because an address that left this node caused them",
            counters.held_back,
        ),
        ("shown_changes_lost", "Changes that `ctsync events` could not show", counters.unshown),
    ];
    all.extend(refused);
    all
}

/// Name and meaning of a reason to refuse a datagram.
fn refused_words(why: Refused) -> (&'static str, &'static str) {
    match why {
        Refused::Malformed => ("malformed_datagrams", "Datagrams that did not parse"),
        Refused::OtherVersion => ("other_version_datagrams", "Datagrams of another protocol version"),
        Refused::OwnRun => ("own_datagrams", "Datagrams under our own run's name, sent back to us"),
        Refused::Foreign => ("foreign_datagrams", "Datagrams of other node groups"),
        Refused::Unreadable => ("unreadable_datagrams", "Sealed datagrams although there is no key"),
        Refused::Unsealed => ("unsealed_datagrams", "Plain datagrams although there is a key"),
        Refused::Forged => {
            ("forged_datagrams", "Datagrams sealed under none of our keys, or changed on their way")
        }
        Refused::Replayed => ("replayed_datagrams", "Authentic datagrams that had come before"),
        Refused::SameName => ("same_name_datagrams", "Datagrams of another node with our name"),
        Refused::Early => ("early_datagrams", "Datagrams before our own kernel table was read"),
        Refused::Unproved => {
            ("unproved_datagrams", "Datagrams of incarnations that have not proved themselves")
        }
        Refused::Overtaken => ("overtaken_datagrams", "Signs of life that a later one had overtaken"),
        Refused::Misdirected => {
            ("misdirected_datagrams", "Datagrams for another run, or for a role that this node does not have")
        }
        Refused::Elsewhere => {
            ("elsewhere_datagrams", "Datagrams for another node, or of another owner's stream")
        }
        Refused::Far => ("far_datagrams", "Datagrams that came through a router"),
        Refused::OtherGroup => {
            ("other_group_datagrams", "Datagrams of another failover group under this one's number")
        }
    }
}
