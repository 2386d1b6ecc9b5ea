//! One entry as operators and their scripts see it: the JSON shape of every listing. `docs/json.md` describes
//! it.
//!
//! The daemon makes rows of its caches, the command line of the kernel's table; `show` lays them out. A field
//! is only ever added; anything else raises [`VERSION`].

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::ctnetlink::entry::{Entry, L4, SeqAdj, Status, Tuple};
use crate::ctnetlink::names::{protocol_name, sctp_state_name, tcp_state_name};
use crate::engine::replica::Listing;

/// Of the JSON shapes that listings, statistics and status print.
pub const VERSION: u32 = 1;

/// Addresses and ports of one direction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct End2End {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sport: Option<u16>,
    /// Destination port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dport: Option<u16>,
    /// ICMP identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u16>,
    /// ICMP type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<u8>,
    /// ICMP code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
}

impl End2End {
    fn of(tuple: &Tuple) -> End2End {
        let Tuple { src, dst, l4, .. } = *tuple;
        let bare = End2End { src, dst, sport: None, dport: None, id: None, kind: None, code: None };
        match l4 {
            L4::Ports { src, dst } => End2End { sport: Some(src), dport: Some(dst), ..bare },
            L4::Icmp { id, kind, code } => {
                End2End { id: Some(id), kind: Some(kind), code: Some(code), ..bare }
            }
            L4::Nothing => bare,
        }
    }
}

/// What only an expectation has: a connection that a helper foresees.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Expected {
    /// Which bits of the expected tuple count.
    pub mask: End2End,
    /// `NF_CT_EXPECT_*`.
    pub flags: u32,
    /// The helper's class.
    pub class: u32,
    /// What happens when it comes true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// What NAT remembers for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat: Option<End2End>,
}

/// What only a cache knows of an entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Held {
    /// Seconds since it came into the table.
    pub age: u32,
    /// Believed to be in this kernel.
    pub installed: bool,
    /// Why this kernel refuses it.
    pub failure: Option<String>,
    /// The node that owns its group.
    pub owner: Option<String>,
}

/// One entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Row {
    /// The kernel's own number for it; only in the kernel's table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// IP protocol number.
    pub protocol: u8,
    /// Its name; empty when we know none.
    pub protocol_name: String,
    /// Original direction.
    pub original: End2End,
    /// Reply direction, translated.
    pub reply: End2End,
    /// The kernel rewrites the originator.
    pub source_nat: bool,
    /// The kernel rewrites the responder.
    pub destination_nat: bool,
    /// TCP state.
    pub state: Option<String>,
    /// Packets were seen in both directions and the kernel will not drop it early.
    pub assured: bool,
    /// Packets of the reply direction were seen.
    pub seen_reply: bool,
    /// Seconds until it expires: in the kernel's table now, in a cache when last heard.
    pub timeout: Option<u32>,
    /// `ct mark`.
    pub mark: Option<u32>,
    /// Conntrack zone.
    pub zone: u16,
    /// The connection it is related to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<End2End>,
    /// Zone of the reply direction, where it is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_zone: Option<u16>,
    /// Name of the helper.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub helper: Option<String>,
    /// `ct label`, in hexadecimal, in the order of the kernel's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
    /// NAT adjusts sequence numbers: position, offset before and behind it, of both directions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seqadj: Option<[[u32; 3]; 2]>,
    /// This is an expectation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expectation: Option<Expected>,
    /// In a cache: what is known of it there.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
}

impl Row {
    /// An entry as such.
    pub fn of(entry: &Entry) -> Row {
        let rare = entry.rare.as_deref().cloned().unwrap_or_default();
        let tcp = entry.tcp.map(|tcp| tcp_state_name(tcp.state));
        let state = tcp.or_else(|| rare.sctp.map(|sctp| sctp_state_name(sctp.state)));
        let numbers = |of: SeqAdj| [of.position, of.before, of.after];
        Row {
            id: None,
            protocol: entry.orig.proto,
            protocol_name: protocol_name(entry.orig.proto).to_owned(),
            original: End2End::of(&entry.orig),
            reply: End2End::of(&entry.reply),
            source_nat: entry.source_nat(),
            destination_nat: entry.destination_nat(),
            state: state.map(str::to_owned),
            assured: entry.assured(),
            seen_reply: entry.status.contains(Status::SeenReply),
            timeout: entry.timeout,
            mark: entry.mark,
            zone: entry.zone,
            master: entry.master.as_deref().map(End2End::of),
            reply_zone: rare.reply_zone,
            helper: rare.helper.map(String::from),
            labels: rare.labels.map(|labels| labels.iter().map(|byte| format!("{byte:02x}")).collect()),
            seqadj: rare.seqadj.map(|both| both.map(numbers)),
            expectation: rare.expectation.map(|expectation| Expected {
                mask: End2End::of(&expectation.mask),
                flags: expectation.flags,
                class: expectation.class,
                function: expectation.function.map(String::from),
                nat: expectation.nat.map(|(_, tuple)| End2End::of(&tuple)),
            }),
            held: None,
        }
    }

    /// An entry of the kernel's table.
    pub fn of_kernel(id: u32, entry: &Entry) -> Row {
        Row { id: Some(id), ..Row::of(entry) }
    }

    /// An entry of a cache.
    pub fn of_cache(listing: &Listing<'_>, owner: Option<&str>) -> Row {
        let held = Held {
            age: listing.age,
            installed: listing.installed,
            failure: listing.failure.map(str::to_owned),
            owner: owner.map(str::to_owned),
        };
        Row { held: Some(held), ..Row::of(&listing.entry) }
    }

    /// What must be alike in two tables that agree. An event leaves out a mark that is 0.
    pub fn content(&self) -> Row {
        let mark = self.mark.filter(|mark| *mark != 0);
        Row { id: None, timeout: None, held: None, mark, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctnetlink::entry::{Expectation, LABELS, Rare, proto};

    /// Every field of an entry stands in the document, and the document names no other.
    #[test]
    fn the_documented_shape_is_this_one() {
        let orig = Tuple {
            src: [10, 0, 1, 100].into(),
            dst: [10, 0, 0, 100].into(),
            proto: proto::TCP,
            l4: L4::Ports { src: 1, dst: 2 },
        };
        let entry = Entry {
            orig,
            reply: orig.inverse(),
            zone: 0,
            status: Status::empty(),
            timeout: None,
            mark: None,
            tcp: None,
            master: Some(Box::new(orig)),
            rare: Rare {
                reply_zone: Some(1),
                labels: Some([1; LABELS]),
                helper: Some("ftp".into()),
                seqadj: Some(<[SeqAdj; 2]>::default()),
                expectation: Some(Expectation {
                    mask: orig,
                    flags: 0,
                    class: 0,
                    function: Some("nat-follow-master".into()),
                    nat: Some((0, orig)),
                }),
                ..Rare::default()
            }
            .boxed(),
        };
        let listing =
            Listing { entry: std::borrow::Cow::Borrowed(&entry), age: 1, installed: true, failure: None };
        let row = Row { id: Some(1), ..Row::of_cache(&listing, None) };
        let value = serde_json::to_value(&row).unwrap();
        let mut shown: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let page = include_str!("../../docs/json.md");
        let table = page.split("## An entry").nth(1).unwrap().split("## Commands").next().unwrap();
        let names = table.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
        let mut listed: Vec<&str> =
            names.flat_map(|cell| cell.split(", ")).map(|name| name.trim_matches('`')).collect();
        shown.sort_unstable();
        listed.sort_unstable();
        assert_eq!(shown, listed);
        assert_eq!(serde_json::from_value::<Row>(value).unwrap(), row);
    }
}
