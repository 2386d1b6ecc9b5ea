//! What comparisons with peers found, as `diff` is answered. Called by `report` when all are done. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::control::Reply;
use crate::ctnetlink::entry::Entry;
use crate::engine::replica::Compared;
use crate::faces::rows::Row;

/// What the comparisons found, as one answer: a part for each peer, of all groups together.
pub(super) fn tell_compared(all: &[Compared]) -> Reply {
    #[derive(Default)]
    struct Found {
        sums: [usize; 3],
        differing: Vec<Value>,
    }
    let row = |entry: &Option<Entry>| entry.as_ref().map(Row::of);
    let mut found: BTreeMap<&str, Found> = BTreeMap::new();
    let mut failed = BTreeSet::new();
    for compared in all {
        match compared {
            Compared::NoOwner { peer } => _ = failed.insert(format!(
                "no node has claimed the group since this one and {peer} started: what they hold cannot be compared yet"
            )),
            Compared::NoPeer => _ = failed.insert("no peer is heard: there is nothing to compare with".into()),
            Compared::Silent { peer } => _ = failed.insert(format!("{peer} does not say what it holds")),
            Compared::Done { peer, differing, count, moving, unseen } => {
                let found = found.entry(peer).or_default();
                for (sum, count) in found.sums.iter_mut().zip([count, moving, unseen]) {
                    *sum += *count;
                }
                let pairs = differing.iter();
                let pairs = pairs.map(|pair| json!({ "here": row(&pair.here), "there": row(&pair.there) }));
                found.differing.extend(pairs);
            }
        }
    }
    if found.is_empty() {
        return Reply::Error(failed.into_iter().collect::<Vec<String>>().join("; "));
    }
    let tables = found.into_iter().map(|(peer, Found { sums: [count, moving, unseen], differing })| {
        json!({ "peer": peer, "count": count, "moving": moving, "unseen": unseen, "differing": differing })
    });
    Reply::Ok(json!({ "tables": tables.collect::<Vec<Value>>(), "failed": failed }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(peer: &str, count: usize) -> Compared {
        Compared::Done { peer: peer.into(), differing: Vec::new(), count, moving: 1, unseen: 0 }
    }

    #[test]
    fn a_peer_is_one_part_however_many_groups_it_shares() {
        let silent = Compared::Silent { peer: "router4".into() };
        let all = [done("router3", 2), done("router2", 1), silent, done("router3", 5)];
        let Reply::Ok(told) = tell_compared(&all) else { panic!("an answer") };
        let tables: Vec<(&str, u64, u64)> = told["tables"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|table| {
                let number = |name: &str| table[name].as_u64().unwrap_or_default();
                (table["peer"].as_str().unwrap_or_default(), number("count"), number("moving"))
            })
            .collect();
        assert_eq!(tables, [("router2", 1, 1), ("router3", 7, 2)]);
        assert_eq!(told["failed"], json!(["router4 does not say what it holds"]));
    }

    #[test]
    fn nobody_to_compare_with_is_said_once() {
        let told = tell_compared(&[Compared::NoPeer, Compared::NoPeer]);
        let sentence = "no peer is heard: there is nothing to compare with";
        assert_eq!(told, Reply::Error(sentence.into()));
    }
}
