//! Which failover group an entry belongs to.
//!
//! Called by the daemon for entries that no group holds yet: an entry stays in the group that it was born in.
//! No socket, no clock.

use ipnet::IpNet;

use ctsync_ctnetlink::entry::Entry;

/// What makes an entry a group's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rule {
    /// An end of it, in either direction, is in here.
    Prefix(IpNet),
    /// It is in this zone.
    Zone(u16),
    /// Its mark, under the mask, is this.
    Mark(u32, u32),
}

impl Rule {
    fn takes(&self, entry: &Entry) -> bool {
        match self {
            Rule::Prefix(net) => {
                let ends = [entry.orig.src, entry.orig.dst, entry.reply.src, entry.reply.dst];
                // A connection that a helper foresees goes where its master went.
                let master = entry.master.as_deref().map(|master| [master.src, master.dst]);
                ends.iter().chain(master.iter().flatten()).any(|end| net.contains(end))
            }
            Rule::Zone(zone) => entry.zone == *zone,
            Rule::Mark(value, mask) => entry.mark.unwrap_or_default() & mask == value & mask,
        }
    }
}

/// The rules of every group but the first, in the configuration's order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Assignment {
    further: Vec<Vec<Rule>>,
}

impl Assignment {
    /// From each further group's rules.
    pub fn new(further: Vec<Vec<Rule>>) -> Assignment {
        Assignment { further }
    }

    /// The number of the entry's group: that of the first with a rule for it, 0 when there is none.
    pub fn group_of(&self, entry: &Entry) -> usize {
        let takes = |rules: &Vec<Rule>| rules.iter().any(|rule| rule.takes(entry));
        self.further.iter().position(takes).map_or(0, |at| at + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctsync_ctnetlink::entry::{L4, Status, Tuple, proto};

    #[test]
    fn the_first_group_with_a_rule_takes_an_entry() {
        let orig = Tuple {
            src: [10, 0, 1, 100].into(),
            dst: [192, 0, 2, 1].into(),
            proto: proto::TCP,
            l4: L4::Ports { src: 1000, dst: 80 },
        };
        let mut entry = Entry {
            reply: orig.inverse(),
            orig,
            zone: 0,
            status: Status::empty(),
            timeout: None,
            mark: Some(0x105),
            tcp: None,
            master: None,
            rare: None,
        };
        let prefix = |text: &str| Rule::Prefix(text.parse().unwrap());
        let groups = Assignment::new(vec![
            vec![Rule::Zone(7)],
            vec![prefix("10.9.0.0/16"), Rule::Mark(0x5, 0xff)],
            vec![prefix("10.0.1.0/24")],
        ]);
        assert_eq!(groups.group_of(&entry), 2, "its mark comes before its prefix");
        entry.mark = None;
        assert_eq!(groups.group_of(&entry), 3);
        entry.zone = 7;
        assert_eq!(groups.group_of(&entry), 1);
        entry.zone = 0;
        entry.reply.dst = [10, 9, 0, 1].into();
        assert_eq!(groups.group_of(&entry), 2, "source NAT to the group's address");
        assert_eq!(Assignment::default().group_of(&entry), 0);
    }
}
