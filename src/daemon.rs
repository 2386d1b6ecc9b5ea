//! The daemon: every socket, every timer, the only clock, one loop.
//!
//! A turn: read the clock once; read the channel, the event socket, the dump and the FIFO; let the replica judge
//! deadlines; carry out what it wants. Decides nothing that the replica could. Called by `ctsync run`.

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::addresses::{AddressError, Addresses};
use crate::channel::{Channel, ChannelError};
use crate::config::{Config, Mechanism};
use crate::control::{Client, ControlServer, Reply, Request};
use crate::ctnetlink::codec::{self, Incoming};
use crate::ctnetlink::nla::Writer;
use crate::ctnetlink::socket::{BATCH, DoorError, DumpSocket, EventSocket, Read, RequestSocket};
use crate::ctnetlink::watched::{watch_dump, watch_events};
use crate::filter::Filter;
use crate::reconcile::Op;
use crate::replica::{Changes, FenceReport, Replica, Role, Settings, view::View};
use crate::role::{NotifyFifo, RoleError, Told, TrackFile};
use crate::runstate::RunState;
use crate::show::{CacheStatistics, Statistics};
use crate::wire::{Incarnation, NodeId};

/// Datagrams read in a turn; with more waiting the next turn begins at once.
const DATAGRAMS_IN: usize = 1024;
/// Datagrams sent in a turn.
const DATAGRAMS_OUT: usize = 64;
/// Events read in a turn.
const EVENTS: usize = 4096;
/// Batches of requests in a turn; a fence is not held up by a limit.
const BATCHES: usize = 8;
/// IPv6 and UDP headers.
const HEADERS: usize = 48;

/// Why a daemon cannot run.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The kernel's door.
    #[error(transparent)]
    Door(#[from] DoorError),
    /// The peer's.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The VRRP daemon's.
    #[error(transparent)]
    Role(#[from] RoleError),
    /// Addresses and interface.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Anything else of the system's.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> DaemonError {
    let what = what.into();
    move |source| DaemonError::System { what, source }
}

struct Daemon {
    config: Config,
    replica: Replica,
    events: AsyncFd<EventSocket>,
    requests: RequestSocket,
    dump: AsyncFd<DumpSocket>,
    dump_waits: bool,
    channel: Channel,
    unsent: Option<Vec<u8>>,
    addresses: Addresses,
    fifo: Option<NotifyFifo>,
    track: Option<TrackFile>,
    control: ControlServer,
    waiting: Vec<(Client, Request)>,
    /// Roles told by `notify`, not yet taken.
    told: VecDeque<Role>,
    /// Kinds of refused datagrams that have been complained about.
    complained: [bool; 2],
    state: RunState,
    /// When the role became primary, until the fence that follows is reported.
    told_primary: Option<Instant>,
    last_fence: Option<LastFence>,
    shown: Option<(Role, bool, &'static str)>,
    buffer: Vec<u8>,
    answered: Vec<bool>,
    /// More waits than one turn reads: the next turn begins at once.
    more: bool,
}

/// Run until told to stop.
pub async fn run(config: Config) -> Result<(), DaemonError> {
    let mut daemon = Daemon::open(config).await?;
    let mut stop = signal(SignalKind::terminate()).map_err(failed("handle SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("handle SIGINT"))?;
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
    tracing::info!(node = daemon.config.node, interface = daemon.config.interface, "ctsync runs");
    loop {
        let now = clock();
        daemon.turn(now)?;
        if daemon.wait(now, &mut stop, &mut interrupt).await? {
            tracing::info!("stopping");
            let _ = std::fs::remove_file(&daemon.config.control_socket);
            return Ok(());
        }
    }
}

/// The last takeover, and when it was complete.
#[derive(serde::Serialize)]
#[serde(rename_all = "kebab-case")]
struct LastFence {
    #[serde(flatten)]
    report: FenceReport,
    /// Seconds since 1970.
    closed_at: f64,
}

fn unix_seconds() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The only clock of the daemon, read once a turn.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
fn clock() -> Instant {
    Instant::now()
}

impl Daemon {
    async fn open(config: Config) -> Result<Daemon, DaemonError> {
        for remark in &config.remarks {
            tracing::warn!("{remark}");
        }
        std::fs::create_dir_all(&config.state_directory)
            .map_err(failed(format!("make {}", config.state_directory.display())))?;
        // The control socket first: it tells whether another daemon runs here.
        let control = ControlServer::open(&config.control_socket)
            .map_err(failed(format!("listen on {}", config.control_socket.display())))?;
        check_events_enabled();
        let addresses = Addresses::watch()?;
        let interface = addresses.interface(&config.interface).await?;
        let channel = Channel::open(&config, interface.index, interface.address)?;
        let requests = RequestSocket::open()?;
        let events = EventSocket::open(requests.port_id(), config.event_buffer)?;
        if events.buffer_size() < config.event_buffer.min(2 * 1024 * 1024) {
            tracing::warn!(
                bytes = events.buffer_size(),
                "the event buffer is smaller than asked for: no CAP_NET_ADMIN outside a user namespace?"
            );
        }
        let (fifo, track) = match &config.mechanism {
            Mechanism::Vrrp { sync_group, notify_fifo, track_file, .. } => {
                (Some(NotifyFifo::open(notify_fifo, sync_group)?), Some(TrackFile::new(track_file)))
            }
            Mechanism::Manual { .. } => (None, None),
        };
        let state = RunState::open(&config.state_directory);
        let local = addresses.list().await?;
        let mut settings = settings(&config, interface.mtu, &state);
        settings.restored.role = check_role(&config, settings.restored.role, &local);
        tracing::warn!("no key is configured: anyone on {} can write to this table", config.interface);
        let filter = Filter { local, channel_port: config.port, accept: config.accept_protocol.clone() };
        let replica = Replica::new(settings, filter, clock());
        Ok(Daemon {
            events: watch_events(events).map_err(failed("register the event socket"))?,
            dump: watch_dump(DumpSocket::open()?).map_err(failed("register the dump socket"))?,
            config,
            replica,
            requests,
            dump_waits: false,
            channel,
            unsent: None,
            addresses,
            fifo,
            track,
            control,
            waiting: Vec::new(),
            told: VecDeque::new(),
            complained: [false; 2],
            state,
            told_primary: None,
            last_fence: None,
            shown: None,
            buffer: vec![0; 65536],
            answered: Vec::new(),
            more: false,
        })
    }

    /// Sleep until something happens or a deadline comes. True: stop.
    async fn wait(
        &mut self,
        now: Instant,
        stop: &mut Signal,
        interrupt: &mut Signal,
    ) -> Result<bool, DaemonError> {
        if std::mem::take(&mut self.more) {
            tokio::task::yield_now().await;
            return Ok(false);
        }
        let deadline = self.replica.poll_timeout(now);
        tokio::select! {
            ready = self.events.readable() => {
                // Cleared before it is read: the turn reads until empty, and what comes later wakes again.
                ready.map_err(failed("wait for events"))?.clear_ready();
            }
            ready = self.channel.readable() => ready.map_err(failed("wait for the peer"))?,
            ready = self.dump.readable(), if self.dump_waits => {
                ready.map_err(failed("wait for the dump"))?.clear_ready();
                self.dump_waits = false;
            }
            ready = self.channel.writable(), if self.unsent.is_some() => {
                ready.map_err(failed("wait for the channel"))?;
            }
            ready = fifo_readable(self.fifo.as_ref()) => ready.map_err(failed("wait for keepalived"))?,
            Some(()) = self.addresses.changed() => {
                let local = self.addresses.list().await?;
                self.replica.handle_addresses(local);
            }
            (client, request) = self.control.next() => self.answer(client, request, now),
            () = tokio::time::sleep_until(deadline.into()) => {}
            _ = stop.recv() => return Ok(true),
            _ = interrupt.recv() => return Ok(true),
        }
        Ok(false)
    }

    fn turn(&mut self, now: Instant) -> Result<(), DaemonError> {
        let drained = self.read_channel(now);
        self.read_events(now)?;
        self.read_dump(now)?;
        self.read_fifo(now)?;
        while let Some(role) = self.told.pop_front() {
            self.take_role(role, now);
        }
        if drained {
            // Silence is judged only when nothing is left to be heard: a stopped process wakes up to full sockets.
            self.replica.handle_timeout(now);
        }
        self.replica.step_takeover(now);
        self.send_requests(now)?;
        self.replica.step_takeover(now);
        self.send_datagrams(now);
        self.report(now)
    }

    fn read_channel(&mut self, now: Instant) -> bool {
        for _ in 0..DATAGRAMS_IN {
            let Some(length) = self.channel.receive(&mut self.buffer) else { return true };
            self.replica.handle_datagram(self.buffer.get(..length).unwrap_or_default(), now);
        }
        self.more = true;
        false
    }

    fn read_events(&mut self, now: Instant) -> Result<(), DaemonError> {
        let replica = &mut self.replica;
        for _ in 0..EVENTS {
            match self.events.get_mut().read(|event| replica.handle_event(event, now))? {
                Read::Messages => {}
                Read::Empty => {
                    replica.handle_events_empty();
                    return Ok(());
                }
                Read::Overrun => {
                    replica.handle_overrun();
                    self.events.get_mut().grow();
                    tracing::warn!(
                        buffer = self.events.get_ref().buffer_size(),
                        "overrun: events were lost, reading the kernel table"
                    );
                }
            }
        }
        self.more = true;
        Ok(())
    }

    fn read_dump(&mut self, now: Instant) -> Result<(), DaemonError> {
        if self.replica.poll_dump() {
            self.dump.get_mut().start(None)?;
        }
        if !self.replica.dumping() {
            return Ok(());
        }
        let replica = &mut self.replica;
        match self.dump.get_mut().read(|_, entry| replica.handle_dump_entry(entry)) {
            Ok(None) => self.dump_waits = true,
            Ok(Some(false)) => self.more = true,
            Ok(Some(true)) => {
                replica.handle_dump_end(true, now);
                self.more = true;
            }
            Err(error) => {
                tracing::warn!(%error, "the dump failed and is tried again");
                replica.handle_dump_end(false, now);
                self.dump = watch_dump(DumpSocket::open()?).map_err(failed("register the dump socket"))?;
            }
        }
        Ok(())
    }

    fn read_fifo(&mut self, now: Instant) -> Result<(), DaemonError> {
        let Some(fifo) = &mut self.fifo else { return Ok(()) };
        let told = fifo.read()?;
        for told in told {
            match told {
                Told::Role(role) => self.take_role(role, now),
                Told::Gone => {
                    tracing::warn!("keepalived is gone: the role is unknown, forwarding goes on");
                    self.take_role(Role::Unknown, now);
                }
            }
        }
        Ok(())
    }

    fn take_role(&mut self, role: Role, now: Instant) {
        if role != self.replica.role() {
            let when = local_time();
            tracing::info!(role = role.word(), group = self.config.mechanism.group(), "role");
            self.state.note_transition(role, &when);
        }
        if role == Role::Primary {
            self.told_primary = Some(clock());
        }
        // What was received before counts: channel and event socket have been read in this turn.
        self.replica.handle_role(role, now);
    }

    fn send_requests(&mut self, now: Instant) -> Result<(), DaemonError> {
        let mut batches = 0;
        while self.replica.waiting() > 0 {
            if batches == BATCHES && !self.replica.fencing() {
                self.more = true;
                break;
            }
            batches += 1;
            if self.send_batch(now)? == 0 {
                break;
            }
        }
        Ok(())
    }

    fn send_batch(&mut self, now: Instant) -> Result<u32, DaemonError> {
        let mut answers: Vec<(usize, Incoming)> = Vec::new();
        let replica = &mut self.replica;
        let result = self.requests.execute(
            |writer, first| {
                let mut next = first;
                replica.poll_requests(BATCH as usize, |request| {
                    emit(writer, next, request);
                    next = next.wrapping_add(1);
                });
                next.wrapping_sub(first)
            },
            |at, answer| answers.push((at as usize, answer)),
        );
        self.answered.clear();
        self.answered.resize(2 * BATCH as usize, result.is_err());
        for (at, answer) in answers {
            if let Some(answered) = self.answered.get_mut(at) {
                *answered = true;
            }
            match answer {
                Incoming::Answer { errno, .. } => self.replica.handle_answer(at, errno),
                Incoming::New(entry) | Incoming::Update(entry) => self.replica.handle_read_back(at, entry),
                Incoming::Destroy(_) => {}
            }
        }
        self.replica.handle_answers_end(&self.answered, now);
        match result {
            Ok(count) => Ok(count),
            Err(error) => {
                // What the kernel did is not known: read it all again.
                tracing::warn!(%error, "answers were lost, reading the kernel table");
                self.replica.handle_overrun();
                self.requests = RequestSocket::open()?;
                let events = EventSocket::open(self.requests.port_id(), self.config.event_buffer)?;
                self.events = watch_events(events).map_err(failed("register the event socket"))?;
                Ok(0)
            }
        }
    }

    fn send_datagrams(&mut self, now: Instant) {
        for _ in 0..DATAGRAMS_OUT {
            let Some(datagram) = self.unsent.take().or_else(|| self.replica.poll_datagram(now)) else {
                return;
            };
            if !self.channel.send(&datagram) {
                self.unsent = Some(datagram);
                return;
            }
        }
        self.more = true;
    }

    /// Tell whoever should know what changed: log, `/run`, track file, waiting clients.
    fn report(&mut self, now: Instant) -> Result<(), DaemonError> {
        while let Some(mut report) = self.replica.poll_fence_report() {
            // The turn's own clock stands still while the kernel works: what an operator waits for is this.
            report.took = self.told_primary.take().map_or(report.took, |told| clock() - told);
            tracing::info!(
                held = report.held,
                pending = report.pending,
                failed = report.failed,
                milliseconds = report.took.as_secs_f64() * 1e3,
                epoch = report.epoch,
                "takeover complete"
            );
            self.last_fence = Some(LastFence { report, closed_at: unix_seconds() });
        }
        let readiness = self.replica.readiness(now);
        let shown = (self.replica.role(), self.replica.owner(), readiness.word());
        if self.shown.as_ref() != Some(&shown) {
            if self.shown.as_ref().map(|(role, owner, _)| (*role, *owner)) != Some((shown.0, shown.1)) {
                tracing::info!(role = shown.0.word(), owner = shown.1, "{}", shown.2);
            } else {
                tracing::debug!("{}", shown.2);
            }
            self.shown = Some(shown);
        }
        if let Some(track) = &mut self.track {
            track.set(self.replica.gate_open())?;
        }
        if let Err(error) = self.state.keep(self.replica.persist()) {
            tracing::error!(%error, directory = %self.config.state_directory.display(), "cannot keep state");
        }
        while let Some((peer, here)) = self.replica.poll_peer_change() {
            tracing::info!(peer, "{}", if here { "peer heard" } else { "peer lost" });
        }
        self.complain();
        let fencing = self.replica.fencing();
        let ready = readiness.is_ready();
        let mut index = 0;
        while let Some((client, request)) = self.waiting.get(index) {
            let reply = match request {
                _ if !client.waits() => {
                    self.waiting.swap_remove(index);
                    continue;
                }
                Request::WaitReady if ready => Some(serde_json::json!(readiness.word())),
                Request::Notify { .. } if !fencing && self.told.is_empty() => {
                    Some(serde_json::json!(self.last_fence))
                }
                _ => None,
            };
            match reply {
                Some(value) => {
                    let (client, _) = self.waiting.swap_remove(index);
                    self.control.answer(client, Reply::Ok(value));
                    self.more = true;
                }
                None => index += 1,
            }
        }
        Ok(())
    }

    /// Datagrams that point to a mistake are refused loudly, once.
    fn complain(&mut self) {
        let counters = self.replica.counters();
        let now = [counters.other_version > 0, counters.same_name > 0];
        if now[0] && !self.complained[0] {
            tracing::error!("a peer speaks another version of the protocol; its datagrams are refused");
        }
        if now[1] && !self.complained[1] {
            let node = &self.config.node;
            tracing::error!("another node is named {node} too; set `node` to different names on both");
        }
        self.complained = now;
    }

    fn answer(&mut self, client: Client, request: Request, now: Instant) {
        let reply = match &request {
            Request::Status => Reply::Ok(self.status(now)),
            Request::Statistics => Reply::Ok(serde_json::to_value(self.statistics(now)).unwrap_or_default()),
            Request::Notify { group, .. } if *group != self.config.mechanism.group() => {
                let ours = self.config.mechanism.group();
                Reply::Error(format!("no failover group \"{group}\" here; the group is \"{ours}\""))
            }
            Request::Notify { role, .. } => {
                // Taken in the next turn, after channel and event socket have been read: what was received counts.
                self.told.push_back(*role);
                self.more = true;
                self.waiting.push((client, request));
                return;
            }
            Request::WaitReady => {
                self.waiting.push((client, request));
                return;
            }
        };
        self.control.answer(client, reply);
    }

    fn status(&self, now: Instant) -> serde_json::Value {
        let view = self.replica.view(now);
        let mechanism = match &self.config.mechanism {
            Mechanism::Vrrp { sync_group, .. } => format!("vrrp [sync-group {sync_group}]"),
            Mechanism::Manual { group } => format!("manual [group {group}]"),
        };
        serde_json::json!({
            "verdict": verdict(&view),
            "interface": self.config.interface,
            "failover-mechanism": mechanism,
            "last-transition": self.state.transition(),
            "authenticated": false,
            "event-buffer-bytes": self.events.get_ref().buffer_size(),
            "overruns": self.replica.counters().overruns,
            "last-fence": self.last_fence,
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
            internal: cache(view.internal, counters.internal, 0),
            external: cache(view.external, counters.external, failed),
            multicast: self.channel.is_multicast(),
            interface: self.config.interface.clone(),
            bytes: [traffic.bytes_sent, traffic.bytes_received],
            datagrams: [traffic.sent, traffic.received],
            errors: [traffic.send_errors, traffic.receive_errors],
            malformed: counters.malformed,
            lost: counters.lost,
            failures: view.failures.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect(),
            counters: [
                ("requests", counters.requests),
                ("ignored", counters.ignored),
                ("overruns", counters.overruns),
                ("dumps", counters.dumps),
                ("other-version", counters.other_version),
                ("foreign", counters.foreign),
                ("same-name", counters.same_name),
                ("unproved", counters.unproved),
                ("nacks", counters.nacks),
                ("resent", counters.resent),
                ("repairs", counters.repairs),
                ("repaired-out", counters.repaired_out),
                ("repaired-in", counters.repaired_in),
                ("offered", counters.offered),
                ("dropped-destroys", counters.dropped_destroys),
                ("claims", counters.claims),
                ("yields", counters.yields),
            ]
            .map(|(word, count)| (word.to_owned(), count))
            .to_vec(),
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

fn emit(writer: &mut Writer, sequence: u32, request: crate::replica::Request<'_>) {
    let (entry, install) = (request.entry, request.install);
    match request.op {
        Op::Create => codec::emit_create(writer, sequence, entry, install),
        Op::Update => codec::emit_update(writer, sequence, entry, install),
        Op::Destroy => codec::emit_destroy(writer, sequence, &entry.key()),
        Op::Get => codec::emit_get(writer, sequence, &entry.key()),
        Op::Renew => codec::emit_renew(writer, sequence, entry, install),
    }
}

async fn fifo_readable(fifo: Option<&NotifyFifo>) -> io::Result<()> {
    match fifo {
        Some(fifo) => fifo.readable().await,
        None => std::future::pending().await,
    }
}

fn settings(config: &Config, mtu: usize, state: &RunState) -> Settings {
    Settings {
        name: config.node.clone(),
        node: node_id(&config.node),
        node_group: config.node_group,
        incarnation: incarnation(),
        datagram: mtu.clamp(576, 65_535) - HEADERS,
        ring: config.sync_queue,
        alive: config.alive,
        lost_after: config.peer_timeout,
        lease: LEASE,
        hot: config.hot,
        sweep: SWEEP,
        flush_wait: FLUSH_WAIT,
        gate_limit: config.gate_timeout,
        restored: state.restored(),
    }
}

/// Seconds: the shortest timeout of an installed entry. The sweep renews it six times within.
const LEASE: u32 = 3600;
/// Every entry is compared with the kernel this often.
const SWEEP: std::time::Duration = std::time::Duration::from_secs(600);
/// How long a takeover waits for a peer that still talks.
const FLUSH_WAIT: std::time::Duration = std::time::Duration::from_millis(100);

/// A node's number: a fixed hash of its name.
pub fn node_id(name: &str) -> NodeId {
    NodeId(crate::digest::Digester::new(0).hash(name.as_bytes()))
}

/// 128 random bits for this run: std's hasher keys come from the system's random source.
fn incarnation() -> Incarnation {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let half = || u128::from(RandomState::new().build_hasher().finish());
    Incarnation(half() << 64 | half() ^ u128::from(std::process::id()))
}

/// A remembered role is believed only if the addresses agree: the FIFO replays nothing.
fn check_role(
    config: &Config,
    remembered: Option<Role>,
    local: &std::collections::HashSet<std::net::IpAddr>,
) -> Option<Role> {
    let Mechanism::Vrrp { virtual_address, .. } = &config.mechanism else { return remembered };
    if virtual_address.is_empty() {
        return remembered;
    }
    let here = virtual_address.iter().all(|address| local.contains(address));
    match remembered {
        Some(Role::Primary) if !here => {
            tracing::warn!("the last role was MASTER but the virtual addresses are not here: backup");
            Some(Role::Backup)
        }
        Some(Role::Backup | Role::Fault) if here => {
            tracing::warn!("the last role was not MASTER but the virtual addresses are here: primary");
            Some(Role::Primary)
        }
        other => other,
    }
}

/// Without `nf_conntrack_events` 1 entries older than every listener never report an update or their end.
fn check_events_enabled() {
    const PATH: &str = "/proc/sys/net/netfilter/nf_conntrack_events";
    let now = std::fs::read_to_string(PATH).unwrap_or_default();
    if now.trim() != "1" && std::fs::write(PATH, "1").is_err() {
        tracing::warn!(
            "net.netfilter.nf_conntrack_events is {} and cannot be set: entries older than this daemon tell \
             neither updates nor their end; set it to 1 at boot",
            if now.trim().is_empty() { "absent" } else { now.trim() }
        );
    }
}

/// The time as `date` prints it.
fn local_time() -> String {
    jiff::Zoned::now().strftime("%a %d %b %Y %r %Z").to_string()
}
