//! What operators ask: requests of the control socket, answered at once, when something has happened, or in parts;
//! reloads; scrapes.

use std::time::Instant;

use serde_json::{Value, json};

use super::{Daemon, rfc3339};
use crate::config;
use crate::control::{Client, Heard, Reply, Request};
use crate::metrics::{Scrape, Snapshot, named_counters, render};
use crate::replica::view::View;
use crate::replica::{Cache, Changes, Compared, Refill, Refused, Role};
use crate::rows::Row;
use crate::show::{CacheStatistics, Statistics};
use crate::table::SlotId;

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
    Listing(Cache, SlotId),
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
            Heard::Read(client, Ongoing::Listing(cache, next)) => self.list(client, cache, next),
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
            Request::Cache { cache } => return self.list(client, *cache, 0),
            Request::Events if self.watchers.len() >= WATCHERS => {
                Reply::Error(format!("{WATCHERS} clients watch already; end one of them"))
            }
            Request::Events => return self.watch(client),
            Request::Reload => match self.reload() {
                Ok(told) => Reply::Ok(told),
                Err(refused) => Reply::Error(format!("nothing was changed:\n{refused}")),
            },
            Request::Notify { group, .. } if *group != self.config.mechanism.group() => {
                let ours = self.config.mechanism.group();
                Reply::Error(format!("no failover group \"{group}\" here; the group is \"{ours}\""))
            }
            Request::Notify { role, .. } => {
                // Taken in the next turn, after channel and event socket have been read: what was received counts.
                self.told.push_back(*role);
                return self.wait_for(client, request);
            }
            Request::WaitReady => return self.wait_for(client, request),
            Request::Diff => {
                if !self.replica.comparing() {
                    self.replica.begin_comparison(now);
                }
                return self.wait_for(client, request);
            }
            Request::Resync => {
                self.replica.resync();
                return self.wait_for(client, request);
            }
            Request::Reset { cache: Cache::Internal } => {
                self.replica.reset_internal();
                return self.wait_for(client, request);
            }
            Request::Reset { cache: Cache::External } if self.replica.reset_external() => {
                return self.wait_for(client, request);
            }
            Request::Reset { cache: Cache::External } => {
                let why = if self.replica.owner() {
                    "this node owns its group and has no external entries"
                } else {
                    "no living peer owns the group, and nobody else has its entries"
                };
                Reply::Error(format!("nothing was changed: {why}"))
            }
        };
        self.control.answer(client, reply);
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
    fn list(&mut self, client: Client, cache: Cache, from: SlotId) {
        if from > 0 && self.replica.shown() != cache {
            let sentence = "the group changed its owner while the cache was listed; ask again";
            return self.control.answer(client, Reply::Error(sentence.into()));
        }
        let owner = self.replica.owner_name();
        let (listings, next) = self.replica.list(cache, from, SLICE);
        let rows: Vec<Row> = listings.iter().map(|listing| Row::of_cache(listing, owner)).collect();
        match next {
            // Empty slots are walked over at the loop's pace, too.
            Some(next) => self.control.give_part(client, json!(rows), Ongoing::Listing(cache, next)),
            None if rows.is_empty() => self.control.answer(client, Reply::Ok(Value::Null)),
            None => self.control.give_part(client, json!(rows), Ongoing::Listing(cache, SlotId::MAX)),
        }
    }

    fn watch(&mut self, client: Client) {
        self.unshown = self.replica.counters().unshown;
        self.watched += 1;
        let (number, client) = (self.watched, Some(client));
        self.watchers.push(Watcher { number, client, backlog: Vec::new(), unshown: 0 });
        self.replica.watch_changes(true);
    }

    /// Hand changes to whoever watches.
    pub(super) fn tell_watchers(&mut self) {
        self.watchers.retain(|watcher| watcher.client.as_ref().is_none_or(Client::waits));
        self.replica.watch_changes(!self.watchers.is_empty());
        if self.watchers.is_empty() {
            return;
        }
        let when = rfc3339();
        let unshown = self.replica.counters().unshown;
        let missed = unshown - std::mem::replace(&mut self.unshown, unshown);
        for watcher in &mut self.watchers {
            watcher.unshown += missed;
        }
        for at in 0.. {
            if at == TOLD {
                self.more = true;
                break;
            }
            let Some(change) = self.replica.poll_change() else { break };
            if self.watchers.iter().all(|watcher| watcher.backlog.len() >= BACKLOG) {
                self.watchers.iter_mut().for_each(|watcher| watcher.unshown += 1);
                continue;
            }
            let row = Row::of(&change.entry);
            let told = json!({ "when": when, "cache": change.cache, "change": change.verb, "entry": row });
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
    pub(super) fn due(&self, request: &Request, ready: bool, compared: Option<&Compared>) -> Option<Reply> {
        let replica = &self.replica;
        match request {
            Request::WaitReady if ready => Some(Reply::Ok(json!("ready"))),
            Request::Notify { .. } if !self.told.is_empty() => None,
            Request::Notify { role: Role::Primary, .. } if replica.role() != Role::Primary => {
                Some(Reply::Error("another role was told before the takeover was complete".into()))
            }
            Request::Notify { role, .. } => {
                let done = *role != Role::Primary || (replica.owner() && !replica.fencing());
                done.then(|| Reply::Ok(json!(self.last_fence)))
            }
            Request::Resync | Request::Reset { cache: Cache::Internal } if !replica.resyncing() => {
                Some(Reply::Ok(json!({ "internal": replica.held(Cache::Internal) })))
            }
            Request::Reset { cache: Cache::External } => match replica.refill() {
                Refill::Underway => None,
                Refill::GivenUp => Some(Reply::Error(
                    "the owner was lost or replaced meanwhile: everything is as it was".into(),
                )),
                Refill::Never | Refill::Done => {
                    Some(Reply::Ok(json!({ "external": replica.held(Cache::External) })))
                }
            },
            Request::Diff => compared.map(tell_compared),
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
        let _ = sd_notify::notify(false, &reloading());
        self.apply(&loaded.config);
        if keys != self.keys {
            self.replica.set_keys(&keys);
            self.keys = keys;
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
        let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
        for remark in &loaded.remarks {
            tracing::warn!("{remark}");
        }
        tracing::info!(applied = now.join(","), needs_restart = later.join(","), "configuration read again");
        Ok(json!({ "applied": now, "needs-restart": later, "remarks": loaded.remarks }))
    }

    /// Everything `status` shows.
    pub(super) fn status(&mut self, now: Instant) -> Value {
        let remarks = self.remarks(now);
        let view = self.replica.view(now);
        json!({
            "version": crate::rows::VERSION,
            "verdict": verdict(&view),
            "interface": self.config.interface,
            "failover-mechanism": self.config.mechanism.told(),
            "owner": self.replica.owner_name(),
            "last-transition": self.state.transition(),
            "last-transition-at": self.state.transition_at(),
            "expect-sync": self.config.expect_sync,
            "authenticated": self.replica.sealed(),
            "event-buffer-bytes": self.events.get_ref().buffer_size(),
            "unreadable-kernel-messages": self.unreadable(),
            "overruns": self.replica.counters().overruns,
            "last-fence": self.last_fence,
            "remarks": remarks,
            "state": view,
        })
    }

    fn statistics(&self, now: Instant) -> Statistics {
        let view = self.replica.view(now);
        let counters = self.replica.counters();
        let traffic = self.channel.traffic;
        let failed: u64 = counters.failures.iter().sum();
        let cache = |active: usize, changes: Changes, failed| CacheStatistics {
            active: active as u64,
            created: [changes.created, failed],
            updated: [changes.updated, 0],
            destroyed: [changes.destroyed, 0],
        };
        Statistics {
            version: crate::rows::VERSION,
            internal: cache(view.internal, counters.internal, 0),
            external: cache(view.external, counters.external, failed),
            internal_expected: cache(view.internal_expected, counters.internal_expected, 0),
            external_expected: cache(view.external_expected, counters.external_expected, 0),
            multicast: self.channel.is_multicast(),
            interface: self.config.interface.clone(),
            expect_sync: !self.config.expect_sync.is_empty(),
            bytes: [traffic.bytes_sent, traffic.bytes_received],
            datagrams: [traffic.sent, traffic.received],
            errors: [traffic.send_errors, traffic.receive_errors],
            malformed: counters.refused(Refused::Malformed),
            lost: counters.lost,
            failures: view.failures.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect(),
            counters: named_counters(counters)
                .iter()
                .map(|(name, _, count)| ((*name).to_owned(), *count))
                .collect(),
        }
    }

    /// A scraper asks.
    pub(super) fn give_metrics(&mut self, scrape: Scrape, now: Instant) {
        let snapshot = Snapshot {
            view: self.replica.view(now),
            counters: self.replica.counters().clone(),
            traffic: self.channel.traffic,
            timings: self.timings.clone(),
            event_buffer: self.events.get_ref().buffer_size(),
            unreadable: self.unreadable(),
            authenticated: self.replica.sealed(),
        };
        let text = render(snapshot, scrape.format);
        if let (Some(metrics), Ok(text)) = (&mut self.metrics, text) {
            metrics.answer(scrape, text);
        }
    }
}

/// sd_notify(3): a reload begins, and when.
fn reloading() -> Vec<sd_notify::NotifyState<'static>> {
    let time = sd_notify::NotifyState::monotonic_usec_now().ok();
    std::iter::once(sd_notify::NotifyState::Reloading).chain(time).collect()
}

fn tell_compared(compared: &Compared) -> Reply {
    match compared {
        Compared::NoOwner { peer } => Reply::Error(format!(
            "no node has claimed the group since this one and {peer} started: what they hold cannot be compared yet"
        )),
        Compared::NoPeer => Reply::Error("no peer is heard: there is nothing to compare with".into()),
        Compared::Silent { peer } => Reply::Error(format!("{peer} does not say what it holds")),
        Compared::Done { peer, differing, count, moving, unseen } => {
            let row = |entry: &Option<crate::entry::Entry>| entry.as_ref().map(Row::of);
            let pairs: Vec<Value> = differing
                .iter()
                .map(|pair| json!({ "here": row(&pair.here), "there": row(&pair.there) }))
                .collect();
            Reply::Ok(
                json!({ "peer": peer, "count": count, "moving": moving, "unseen": unseen, "differing": pairs }),
            )
        }
    }
}

/// One line: would a failover now lose something?
fn verdict(view: &View) -> String {
    let peer = view.peers.iter().find(|peer| peer.alive);
    match (view.owner, view.protected, peer) {
        (true, true, Some(peer)) => format!("protected: {} holds {} entries", peer.name, peer.entries),
        (true, _, Some(peer)) => format!("NOT protected: {} is not ready", peer.name),
        (true, _, None) => "NOT protected: no peer is heard".to_owned(),
        (false, true, _) => format!("ready to take over {} entries", view.external),
        (false, false, _) if view.failed > 0 => {
            format!("degraded: {} entries cannot be installed", view.failed)
        }
        (false, false, _) => view.readiness.to_owned(),
    }
}
