//! What operators ask: requests of the control socket, answered at once, when something has happened, or in
//! parts; reloads; scrapes.

use std::time::Instant;

use serde_json::{Value, json};

use super::group::{Cause, Group};
use super::{Daemon, rfc3339, systemd};
use crate::config::{self, Mechanism};
use crate::control::{Client, Heard, Reply, Request};
use crate::engine::filter::Filter;
use crate::engine::replica::view::View;
use crate::engine::replica::{Cache, Changes, Counters, Refill, Refused, Role};
use crate::engine::seal::Key;
use crate::engine::table::SlotId;
use crate::engine::verdict::Around;
use crate::faces::rows::Row;
use crate::faces::show::{CacheStatistics, Statistics};
use crate::io::metrics::{GroupSnapshot, Scrape, Snapshot, named_counters, render};
use crate::kernel::hold::Hold;

/// Slots visited for one part of a listing: less than a millisecond of work.
const SLICE: SlotId = 256;
/// Changes kept for a client that is still reading; past it they are counted and not shown.
const BACKLOG: usize = 4096;
/// Changes in one part.
const CHANGES: usize = 256;
/// Clients that may watch at once.
const WATCHERS: usize = 8;
/// Clients that may wait for something to happen at once; roles are always taken, only root tells them.
const WAITING: usize = 64;
/// Changes told in one turn.
const TOLD: usize = 512;

/// What a client that is answered in parts is in the middle of.
pub(super) enum Ongoing {
    /// A cache, the group that is being listed, and where.
    Listing(Cache, usize, SlotId),
    Watching(u64),
}

/// A client that watches changes.
pub(super) struct Watcher {
    number: u64,
    /// Here while it has read everything.
    client: Option<Client>,
    backlog: Vec<Value>,
    unshown: u64,
}

impl Daemon {
    /// What a client did.
    pub(super) fn hear(&mut self, heard: Heard<Ongoing>, now: Instant) {
        match heard {
            Heard::Asked(client, request) => self.answer(client, request, now),
            Heard::Read(client, Ongoing::Listing(cache, group, next)) => {
                self.list(client, cache, group, next);
            }
            Heard::Read(client, Ongoing::Watching(number)) => {
                if let Some(watcher) = self.watchers.iter_mut().find(|watcher| watcher.number == number) {
                    watcher.client = Some(client);
                    self.more = true;
                }
            }
            Heard::Gone(Ongoing::Watching(number)) => {
                self.watchers.retain(|watcher| watcher.number != number);
                self.more = true;
            }
            Heard::Gone(Ongoing::Listing(..)) => {}
        }
    }

    fn answer(&mut self, client: Client, request: Request, now: Instant) {
        let reply = match &request {
            Request::Status => Reply::Ok(self.status(now)),
            Request::Statistics => Reply::Ok(serde_json::to_value(self.statistics(now)).unwrap_or_default()),
            Request::Cache { cache } => return self.list(client, *cache, 0, 0),
            // It is the same in all groups. A virtual address that is elsewhere now was here when an entry to
            // it was made.
            Request::Filter => {
                let mut filter =
                    self.groups.first().map_or(Filter::default(), |group| group.replica.filter().clone());
                filter.local.extend(self.groups.iter().flat_map(|group| &group.virtual_addresses));
                Reply::Ok(serde_json::to_value(filter).unwrap_or_default())
            }
            Request::Events if self.watchers.len() >= WATCHERS => {
                Reply::Error(format!("{WATCHERS} clients watch already; end one of them"))
            }
            Request::Events => return self.watch(client),
            Request::Reload => match self.reload() {
                Ok(told) => Reply::Ok(told),
                Err(refused) => Reply::Error(format!("nothing was changed:\n{refused}")),
            },
            Request::Notify { role, group } => match self.notify(*role, group) {
                Ok(()) => return self.wait_for(client, request),
                Err(refused) => Reply::Error(refused),
            },
            Request::Switch { group, to, force } => {
                match self.switch(group.as_deref(), to.as_deref(), *force, now) {
                    Ok(()) => return self.wait_for(client, request),
                    Err(refused) => Reply::Error(refused),
                }
            }
            Request::WaitReady => return self.wait_for(client, request),
            Request::Diff => {
                for group in &mut self.groups {
                    if !group.replica.comparing() {
                        group.replica.begin_comparison(now);
                        group.compared.clear();
                    }
                }
                return self.wait_for(client, request);
            }
            Request::Resync => {
                self.groups.iter_mut().for_each(|group| group.replica.resync());
                return self.wait_for(client, request);
            }
            Request::Reset { cache: Cache::Internal } => {
                self.groups.iter_mut().for_each(|group| group.replica.reset_internal());
                return self.wait_for(client, request);
            }
            Request::Reset { cache: Cache::External } => match self.reset_external() {
                Ok(()) => return self.wait_for(client, request),
                Err(refused) => Reply::Error(refused),
            },
        };
        self.control.answer(client, reply);
    }

    /// Somebody moves a group. A sentence if it is not moved.
    fn switch(
        &mut self,
        group: Option<&str>,
        to: Option<&str>,
        force: bool,
        now: Instant,
    ) -> Result<(), String> {
        let names: Vec<&str> = self.groups.iter().map(|group| group.name.as_str()).collect();
        let names = names.join("\", \"");
        let several = self.groups.len() > 1;
        let found = self.groups.iter_mut().find(|known| group.is_none_or(|name| known.is_named(name)));
        match found {
            Some(_) if several && group.is_none() => {
                Err(format!("say which group; there are \"{names}\": `ctsync switch GROUP`"))
            }
            Some(found) => found.begin_switch(to, force, now),
            None => Err(format!(
                "no failover group \"{}\" here; there are \"{names}\"",
                group.unwrap_or_default()
            )),
        }
    }

    /// Somebody tells a group's role. A sentence if it is nobody's to tell.
    fn notify(&mut self, role: Role, group: &str) -> Result<(), String> {
        match self.groups.iter_mut().find(|known| known.is_named(group)) {
            None => {
                let ours: Vec<&str> = self.groups.iter().map(|group| group.name.as_str()).collect();
                let (word, is) = if ours.len() == 1 { ("group", "is") } else { ("groups", "are") };
                let ours = ours.join("\", \"");
                Err(format!("no failover group \"{group}\" here; the {word} {is} \"{ours}\""))
            }
            Some(Group { mechanism: mechanism @ Mechanism::Vip { .. }, .. }) => Err(format!(
                "the role of \"{group}\" is where its addresses are: {}; nobody tells it",
                mechanism.told()
            )),
            Some(known) => {
                known.tell(role, Cause::Notify);
                Ok(())
            }
        }
    }

    /// All groups that a peer owns forget their entries and have them sent again. A sentence if there is
    /// none.
    fn reset_external(&mut self) -> Result<(), String> {
        let mut begun = false;
        for group in &mut self.groups {
            begun |= group.replica.reset_external();
        }
        if begun {
            return Ok(());
        }
        let why = if self.groups.iter().any(|group| group.replica.owner()) {
            "this node owns its group and has no external entries"
        } else {
            "no living peer owns the group, and nobody else has its entries"
        };
        Err(format!("nothing was changed: {why}"))
    }

    fn wait_for(&mut self, client: Client, request: Request) {
        let role = matches!(request, Request::Notify { .. });
        if self.waiting.len() >= WAITING && !role {
            let sentence = format!("{WAITING} clients wait already; end one of them");
            return self.control.answer(client, Reply::Error(sentence));
        }
        self.waiting.push((client, request));
        self.more = true;
    }

    /// The next part of a listing, or its end.
    fn list(&mut self, client: Client, cache: Cache, at: usize, from: SlotId) {
        let Some(group) = self.groups.get(at) else {
            return self.control.answer(client, Reply::Ok(Value::Null));
        };
        let replica = &group.replica;
        if from > 0 && replica.shown() != cache {
            let sentence = "the group changed its owner while the cache was listed; ask again";
            return self.control.answer(client, Reply::Error(sentence.into()));
        }
        let owner = replica.owner_name();
        let (listings, next) = replica.list(cache, from, SLICE);
        let rows: Vec<Row> = listings.iter().map(|listing| Row::of_cache(listing, owner)).collect();
        match next {
            // Empty slots are walked over at the loop's pace, too.
            Some(next) => self.control.give_part(client, json!(rows), Ongoing::Listing(cache, at, next)),
            None => self.control.give_part(client, json!(rows), Ongoing::Listing(cache, at + 1, 0)),
        }
    }

    fn watch(&mut self, client: Client) {
        self.unshown = self.all_unshown();
        self.watched += 1;
        let (number, client) = (self.watched, Some(client));
        self.watchers.push(Watcher { number, client, backlog: Vec::new(), unshown: 0 });
        self.groups.iter_mut().for_each(|group| group.replica.watch_changes(true));
    }

    fn all_unshown(&self) -> u64 {
        self.groups.iter().map(|group| group.replica.counters().unshown).sum()
    }

    /// Hand changes to whoever watches.
    pub(super) fn tell_watchers(&mut self) {
        self.watchers.retain(|watcher| watcher.client.as_ref().is_none_or(Client::waits));
        let watched = !self.watchers.is_empty();
        self.groups.iter_mut().for_each(|group| group.replica.watch_changes(watched));
        if self.watchers.is_empty() {
            return;
        }
        let when = rfc3339();
        let unshown = self.all_unshown();
        let missed = unshown - std::mem::replace(&mut self.unshown, unshown);
        for watcher in &mut self.watchers {
            watcher.unshown += missed;
        }
        for at in 0.. {
            if at == TOLD {
                self.more = true;
                break;
            }
            let next =
                |group: &mut Group| group.replica.poll_change().map(|change| (group.name.clone(), change));
            let Some((group, change)) = self.groups.iter_mut().find_map(next) else { break };
            if self.watchers.iter().all(|watcher| watcher.backlog.len() >= BACKLOG) {
                self.watchers.iter_mut().for_each(|watcher| watcher.unshown += 1);
                continue;
            }
            let row = Row::of(&change.entry);
            let told = json!({ "when": when, "group": group, "cache": change.cache, "change": change.verb, "entry": row });
            for watcher in &mut self.watchers {
                if watcher.backlog.len() < BACKLOG {
                    watcher.backlog.push(told.clone());
                } else {
                    watcher.unshown += 1;
                }
            }
        }
        for watcher in &mut self.watchers {
            if watcher.backlog.is_empty() && watcher.unshown == 0 {
                continue;
            }
            if let Some(client) = watcher.client.take() {
                let part = watcher.backlog.len().min(CHANGES);
                let changes: Vec<Value> = watcher.backlog.drain(..part).collect();
                let unshown =
                    if watcher.backlog.is_empty() { std::mem::take(&mut watcher.unshown) } else { 0 };
                let part = json!({ "changes": changes, "unshown": unshown });
                self.control.give_part(client, part, Ongoing::Watching(watcher.number));
            }
        }
    }

    /// What a waiting request gets, if its time has come.
    pub(super) fn due(&self, request: &Request, ready: bool, compared: Option<&Reply>) -> Option<Reply> {
        let held = |cache| self.groups.iter().map(|group| group.replica.held(cache)).sum::<usize>();
        match request {
            Request::WaitReady if ready => Some(Reply::Ok(json!("ready"))),
            Request::Notify { role, group } => {
                let group = self.groups.iter().find(|known| known.is_named(group))?;
                group.answer_notify(*role)
            }
            Request::Switch { group, to, .. } => {
                let mut groups = self.groups.iter();
                let group = groups.find(|known| group.as_ref().is_none_or(|name| known.is_named(name)))?;
                group.answer_switch(to.as_deref())
            }
            Request::Resync | Request::Reset { cache: Cache::Internal } => {
                let done = !self.groups.iter().any(|group| group.replica.resyncing());
                done.then(|| Reply::Ok(json!({ "internal": held(Cache::Internal) })))
            }
            Request::Reset { cache: Cache::External } => {
                let any = |what| self.groups.iter().any(|group| group.replica.refill() == what);
                if any(Refill::Underway) {
                    return None;
                }
                Some(if any(Refill::GivenUp) {
                    Reply::Error("the owner was lost or replaced meanwhile: everything is as it was".into())
                } else {
                    Reply::Ok(json!({ "external": held(Cache::External) }))
                })
            }
            Request::Diff => compared.cloned(),
            _ => None,
        }
    }

    /// Read the configuration again and apply what can be applied.
    ///
    /// # Errors
    /// The file is refused; nothing was changed.
    pub(super) fn reload(&mut self) -> Result<Value, config::Refused> {
        let loaded = config::read(&self.path)?;
        let keys = config::read_keys(&loaded)?;
        let (mut now, later) = config::difference(&self.values, &loaded.values);
        systemd::reloading();
        self.apply(&loaded.config);
        if keys != self.keys {
            self.groups.iter_mut().for_each(|group| group.replica.set_keys(&keys));
            self.keys = keys;
            super::start::tell_keys(&self.keys, &self.config.interface);
            if !now.contains(&"key-file") {
                now.push("key-file");
            }
        }
        // What needs a restart stays as it was; so does what `status` says of it.
        for name in &now {
            match loaded.values.get(*name) {
                Some(value) => self.values.insert((*name).to_owned(), value.clone()),
                None => self.values.shift_remove(*name),
            };
        }
        systemd::ready();
        for remark in &loaded.remarks {
            tracing::warn!("{remark}");
        }
        tracing::info!(applied = now.join(","), needs_restart = later.join(","), "configuration read again");
        Ok(json!({ "applied": now, "needs-restart": later, "remarks": loaded.remarks }))
    }

    /// Everything `status` shows.
    pub(super) fn status(&mut self, now: Instant) -> Value {
        let remarks = self.remarks(now);
        let arounds: Vec<Around> = (0..self.groups.len()).map(|at| self.around(at)).collect();
        let groups: Vec<Value> =
            self.groups.iter_mut().zip(&arounds).map(|(group, around)| group.status(around, now)).collect();
        let mut groups = groups.into_iter();
        // The first group's are at the top: most routers have no other.
        let mut status = groups.next().unwrap_or_default();
        for (name, value) in [
            ("version", json!(crate::faces::rows::VERSION)),
            ("interface", json!(self.config.interface)),
            ("expect-sync", json!(self.config.expect_sync)),
            ("authenticated", json!(self.sealed())),
            ("event-buffer-bytes", json!(self.events.get_ref().buffer_size())),
            ("unreadable-kernel-messages", json!(self.unreadable())),
            ("holding", json!(self.hold.as_ref().map(Hold::holds))),
            ("remarks", json!(remarks)),
            ("groups", groups.collect()),
            ("key-fingerprints", json!(self.keys.iter().map(Key::fingerprint).collect::<Vec<_>>())),
            ("channel", json!(self.channel.place())),
        ] {
            if let Some(object) = status.as_object_mut() {
                object.insert(name.to_owned(), value);
            }
        }
        status
    }

    fn sealed(&self) -> bool {
        self.groups.iter().all(|group| group.replica.sealed())
    }

    fn statistics(&self, now: Instant) -> Statistics {
        let views: Vec<View> = self.groups.iter().map(|group| group.replica.view(now)).collect();
        let counters: Vec<&Counters> = self.groups.iter().map(|group| group.replica.counters()).collect();
        let traffic = self.channel.traffic;
        let sum = |read: fn(&Counters) -> u64| counters.iter().map(|counters| read(counters)).sum::<u64>();
        let cache = |active: fn(&View) -> usize, changes: fn(&Counters) -> Changes, failed| {
            let sum = |read: fn(&Changes) -> u64| {
                counters.iter().map(|counters| read(&changes(counters))).sum::<u64>()
            };
            CacheStatistics {
                active: views.iter().map(active).sum::<usize>() as u64,
                created: [sum(|changes| changes.created), failed],
                updated: [sum(|changes| changes.updated), 0],
                destroyed: [sum(|changes| changes.destroyed), 0],
            }
        };
        let failed = sum(|counters| counters.failures.iter().sum());
        let mut failures: Vec<(String, u64)> = Vec::new();
        let mut named: Vec<(String, u64)> = Vec::new();
        for (view, counters) in views.iter().zip(&counters) {
            add_up(&mut failures, view.failures.iter().copied());
            add_up(&mut named, named_counters(counters).into_iter().map(|(name, _, count)| (name, count)));
        }
        Statistics {
            version: crate::faces::rows::VERSION,
            internal: cache(|view| view.internal, |counters| counters.internal, 0),
            external: cache(|view| view.external, |counters| counters.external, failed),
            internal_expected: cache(|view| view.internal_expected, |counters| counters.internal_expected, 0),
            external_expected: cache(
                |view| view.external_expected,
                |counters| counters.external_expected,
                failed,
            ),
            multicast: self.channel.is_multicast(),
            interface: self.config.interface.clone(),
            expect_sync: !self.config.expect_sync.is_empty(),
            bytes: [traffic.bytes_sent, traffic.bytes_received],
            datagrams: [traffic.sent, traffic.received],
            errors: [traffic.send_errors, traffic.receive_errors],
            malformed: sum(|counters| counters.refused(Refused::Malformed)),
            lost: sum(|counters| counters.lost),
            failures,
            counters: named,
        }
    }

    /// A scraper asks.
    pub(super) fn give_metrics(&mut self, scrape: Scrape, now: Instant) {
        let groups = self.groups.iter().map(|group| GroupSnapshot {
            name: group.name.clone(),
            view: group.replica.view(now),
            verdict: group.verdict().clone(),
            counters: group.replica.counters().clone(),
            transitions: group.transitions_by_role,
        });
        let snapshot = Snapshot {
            node: self.config.node.clone(),
            groups: groups.collect(),
            traffic: self.channel.traffic,
            timings: self.timings.clone(),
            event_buffer: self.events.get_ref().buffer_size(),
            unreadable: self.unreadable(),
            authenticated: self.sealed(),
        };
        let text = render(snapshot, scrape.format);
        if let (Some(metrics), Ok(text)) = (&mut self.metrics, text) {
            metrics.answer(scrape, text);
        }
    }
}

/// Counts by name, in the order in which the names first come.
fn add_up(sums: &mut Vec<(String, u64)>, counts: impl Iterator<Item = (&'static str, u64)>) {
    for (name, count) in counts {
        match sums.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += count,
            None => sums.push((name.to_owned(), count)),
        }
    }
}
