//! The daemon: every socket, every timer, the only clock, one loop.
//!
//! A turn: read the clock once; read the channel, the event socket, the dump and the FIFO; let the replica
//! judge deadlines; carry out what it wants. Decides nothing that the replica could. Called by `ctsync run`.
//!
//! - `alarm`: the loop's timer.
//! - `group`: a failover group: its engine and who tells its role.
//! - `kernel`: events and dumps.
//! - `requests`: what is asked of the kernel.
//! - `start`: what a run begins with.
//! - `operator`: what operators ask.
//! - `pace`: how soon events are read.
//! - `report`: what is told without being asked.
//! - `surroundings`: addresses, links, files, rules: followed and made again.
//! - `systemd`: what the service manager is told.
//! - `trouble`: what goes wrong again and again is told once.

mod alarm;
mod group;
mod kernel;
mod operator;
mod pace;
mod report;
mod requests;
mod start;
mod surroundings;
mod systemd;
mod trouble;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, interval};

use crate::config::{Config, Loaded};
use crate::control::{Client, ControlServer, Request};
use crate::ctnetlink::codec::Incoming;
use crate::engine::facts::KernelSettings;
use crate::engine::groups::Assignment;
use crate::engine::replica::Refused;
use crate::engine::seal::Key;
use crate::engine::wire;
use crate::io::addresses::{AddressError, Addresses, Held, News};
use crate::io::channel::{Channel, Received};
use crate::io::metrics::{MetricsServer, Scrape, Timings};
use crate::io::role::{NotifyFifo, RoleError, Told};
use crate::kernel::courier::Courier;
use crate::kernel::dumper::Dumper;
use crate::kernel::hold::{Hold, HoldError};
use crate::kernel::ruleset::Ruleset;
use crate::kernel::socket::{Batch, DoorError, EventSocket, RequestSocket};
use crate::kernel::watched::{watch_events, watch_news};

use alarm::Alarm;
use group::{Cause, Common, Group};
use operator::{Ongoing, Watcher};
use pace::Pace;
use systemd::Watchdog;
use trouble::Trouble;

pub(crate) use start::filter;
pub use start::node_id;

/// Datagrams read in a turn; with more waiting the next turn begins at once.
const DATAGRAMS_IN: usize = 64;
/// Datagrams sent in a turn.
const DATAGRAMS_OUT: usize = 64;
/// Between two looks at what nobody tells of.
const LOOK_AROUND: Duration = Duration::from_secs(1);
/// Between two looks at the kernel's settings.
const REMARKS: Duration = Duration::from_secs(10);
/// Between two looks at the addresses that nobody asked for.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Why a daemon cannot run.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The kernel's door.
    #[error(transparent)]
    Door(#[from] DoorError),
    /// The VRRP daemon's.
    #[error(transparent)]
    Role(#[from] RoleError),
    /// Addresses and interface.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// What keeps packets away.
    #[error(transparent)]
    Hold(#[from] HoldError),
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
    /// The configuration file.
    path: PathBuf,
    /// What holds of it: what a reload cannot change is as it was at the start.
    config: Config,
    keys: Vec<Key>,
    values: Map<String, Value>,
    /// The failover groups; there is always a first one.
    groups: Vec<Group>,
    assignment: Assignment,
    events: AsyncFd<EventSocket>,
    requests: RequestSocket,
    courier: Courier,
    /// Not in use now.
    batches: Vec<Batch>,
    dump: Dumper,
    channel: Channel,
    /// What is wrong with its interface.
    channel_wrong: Option<String>,
    /// Its interface has another name now.
    renamed: Option<String>,
    unsent: Option<Vec<u8>>,
    addresses: Addresses,
    news: AsyncFd<News>,
    /// Addresses and the channel's interface are to be looked at.
    follow_due: bool,
    /// The addresses as last listed.
    held: Vec<Held>,
    /// A change of an address that was not heard of, with a full socket, must not be missed for ever.
    look_again: Interval,
    hold: Option<Hold>,
    /// The last change of what is held failed.
    hold_failed: bool,
    /// keepalived has one for all its groups.
    fifo: Option<NotifyFifo>,
    fifo_trouble: Trouble,
    control_trouble: Trouble,
    ruleset: Ruleset,
    /// The kernel's settings and rules as last looked at.
    kernel: KernelSettings,
    control: ControlServer<Ongoing>,
    waiting: Vec<(Client, Request)>,
    watchers: Vec<Watcher>,
    /// Clients that ever watched.
    watched: u64,
    /// Changes that could not be shown, when last looked at.
    unshown: u64,
    metrics: Option<MetricsServer>,
    timings: Timings,
    /// Refused datagrams that the log has been told of.
    complained: Vec<Refused>,
    /// What would make a takeover fail, as last told; and when to look again.
    remarks: Vec<String>,
    remarks_due: Instant,
    look_due: Instant,
    /// The time of this turn.
    now: Instant,
    watchdog: Watchdog,
    alarm: Alarm,
    pace: Pace,
    buffer: Vec<u8>,
    /// Events that are read together.
    heard: Vec<Incoming>,
    answered: Vec<bool>,
    /// More waits than one turn reads: the next turn begins at once.
    more: bool,
    /// Datagrams read since silence could last be judged.
    unjudged: usize,
}

/// Run until told to stop.
pub async fn run(path: PathBuf, loaded: Loaded, keys: Vec<Key>) -> Result<(), DaemonError> {
    let mut daemon = Daemon::open(path, loaded, keys).await?;
    let mut stop = signal(SignalKind::terminate()).map_err(failed("handle SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("handle SIGINT"))?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed("handle SIGHUP"))?;
    systemd::ready();
    tracing::info!(node = daemon.config.node, interface = daemon.config.interface, "ctsync runs");
    loop {
        let now = clock();
        daemon.turn(now)?;
        daemon.watchdog.turned(now);
        if daemon.wait(now, &mut stop, &mut interrupt, &mut hangup).await? {
            tracing::info!("stopping");
            let _ = std::fs::remove_file(&daemon.config.control_socket);
            return Ok(());
        }
    }
}

/// Whether the channel is sealed, and under which keys; what is told is no secret.
fn tell_keys(keys: &[Key], interface: &str) {
    let fingerprints: Vec<String> = keys.iter().map(Key::fingerprint).collect();
    match fingerprints.split_first() {
        None => tracing::warn!("no key is configured: anyone on {interface} can write to this table"),
        Some((seals, [])) => tracing::info!(seals, "the channel is sealed"),
        Some((seals, opens)) => tracing::info!(seals, opens = opens.join(","), "the channel is sealed"),
    }
}

/// Now, as RFC 3339 has it, in microseconds.
fn rfc3339() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}

/// Now, as `date` prints it.
fn local_time() -> String {
    jiff::Zoned::now().strftime("%a %d %b %Y %r %Z").to_string()
}

/// The only clock of the daemon, read once a turn, and once more when the loop goes to sleep.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
fn clock() -> Instant {
    Instant::now()
}

/// The operator's socket, in the directory where the role is kept, too.
fn open_control(config: &Config) -> Result<ControlServer<Ongoing>, DaemonError> {
    std::fs::create_dir_all(&config.state_directory)
        .map_err(failed(format!("make {}", config.state_directory.display())))?;
    ControlServer::open(&config.control_socket)
        .map_err(failed(format!("listen on {}", config.control_socket.display())))
}

fn open_events(requests: &RequestSocket, buffer: usize) -> Result<EventSocket, DaemonError> {
    let events = EventSocket::open(requests.port_id(), buffer)?;
    if events.buffer_size() < buffer {
        tracing::warn!(
            bytes = events.buffer_size(),
            "the event buffer is smaller than asked for: no CAP_NET_ADMIN outside a user namespace?"
        );
    }
    Ok(events)
}

fn open_groups(common: &Common<'_>) -> Result<Vec<Group>, DaemonError> {
    let mut groups = vec![Group::open(common, None)?];
    for further in &common.config.further {
        groups.push(Group::open(common, Some(further))?);
    }
    groups.iter_mut().for_each(|group| group.look_at_addresses(common.held));
    Ok(groups)
}

async fn open_metrics(config: &Config) -> Result<Option<MetricsServer>, DaemonError> {
    let Some(address) = &config.metrics else { return Ok(None) };
    MetricsServer::open(address).await.map(Some).map_err(failed(format!("serve metrics at {address}")))
}

impl Daemon {
    async fn open(path: PathBuf, loaded: Loaded, keys: Vec<Key>) -> Result<Daemon, DaemonError> {
        let Loaded { config, values, remarks, .. } = loaded;
        for remark in &remarks {
            tracing::warn!("{remark}");
        }
        // The control socket first: it tells whether another daemon runs here.
        let control = open_control(&config)?;
        start::check_events_enabled();
        // The word of changes first: what changes while it is listed is heard.
        let news = News::open()?;
        let addresses = Addresses::open()?;
        // An interface that comes late is taken up when it is there.
        let mtu = addresses.interface(&config.interface).await.map_or(1500, |interface| interface.mtu);
        let channel = Channel::new(&config);
        let requests = RequestSocket::open()?;
        let events = open_events(&requests, config.event_buffer)?;
        let fifo = config.notify_fifo().map(NotifyFifo::open).transpose()?;
        let hold =
            if config.hold { Some(Hold::open(config.mechanism.addresses(), config.port)?) } else { None };
        let held = addresses.list().await?;
        tell_keys(&keys, &config.interface);
        let groups = open_groups(&Common { config: &config, mtu, held: &held, keys: &keys })?;
        let mut ruleset = Ruleset::open().map_err(failed("open a socket to nf_tables"))?;
        let kernel = start::kernel_settings(ruleset.look());
        let assignment = Assignment::new(config.further.iter().map(|group| group.rules.clone()).collect());
        let metrics = open_metrics(&config).await?;
        let mut daemon = Daemon {
            events: watch_events(events).map_err(failed("register the event socket"))?,
            dump: Dumper::spawn().map_err(failed("start the thread that reads dumps"))?,
            path,
            config,
            keys,
            values,
            groups,
            assignment,
            requests,
            courier: Courier::spawn().map_err(failed("start the thread that carries requests"))?,
            batches: Vec::new(),
            channel,
            channel_wrong: None,
            renamed: None,
            unsent: None,
            addresses,
            news: watch_news(news).map_err(failed("register the route socket"))?,
            follow_due: false,
            held,
            look_again: interval(LOOK_AGAIN),
            hold,
            hold_failed: false,
            fifo,
            fifo_trouble: Trouble::default(),
            control_trouble: Trouble::default(),
            ruleset,
            kernel,
            control,
            waiting: Vec::new(),
            watchers: Vec::new(),
            watched: 0,
            unshown: 0,
            metrics,
            timings: Timings::default(),
            complained: Vec::new(),
            remarks: Vec::new(),
            remarks_due: clock(),
            look_due: clock(),
            now: clock(),
            watchdog: Watchdog::from_environment(clock()),
            alarm: Alarm::new().map_err(failed("make a timer"))?,
            pace: Pace::new(clock()),
            buffer: vec![0; 65536],
            heard: Vec::new(),
            answered: Vec::new(),
            more: false,
            unjudged: 0,
        };
        daemon.follow().await;
        Ok(daemon)
    }

    /// Sleep until something happens or a deadline comes. True: stop.
    async fn wait(
        &mut self,
        now: Instant,
        stop: &mut Signal,
        interrupt: &mut Signal,
        hangup: &mut Signal,
    ) -> Result<bool, DaemonError> {
        if self.follow_due {
            self.follow().await;
            self.more = true;
        }
        let dumping = self.groups.iter().any(|group| group.replica.dumping());
        let deadlines = self.groups.iter().map(|group| group.replica.poll_timeout(now));
        let renewal = self.hold.as_ref().and_then(Hold::next);
        // With more to do the operator's socket, signals and addresses are looked at all the same, without
        // waiting.
        let mut more = std::mem::take(&mut self.more);
        if let Some(nap) = self.pace.nap().filter(|_| !more) {
            // Not in the runtime's hands: whatever waits there is woken by each event.
            std::thread::sleep(nap);
            more = true;
        }
        let deadline = deadlines.chain(renewal).chain(self.watchdog.next()).min().unwrap_or(now);
        let ahead = deadline.saturating_duration_since(clock());
        tokio::select! {
            ready = self.events.readable() => {
                // Cleared before it is read: the turn reads until empty, and what comes later wakes again.
                ready.map_err(failed("wait for events"))?.clear_ready();
            }
            ready = self.channel.readable() => ready.map_err(failed("wait for the peer"))?,
            () = self.dump.ready(), if dumping => {}
            ready = self.channel.writable(), if self.unsent.is_some() => {
                ready.map_err(failed("wait for the channel"))?;
            }
            ready = fifo_readable(self.fifo.as_ref()) => ready.map_err(failed("wait for keepalived"))?,
            _ = self.look_again.tick() => self.follow_due = true,
            ready = self.news.readable() => {
                // Cleared before it is read, as above.
                ready.map_err(failed("wait for the word of addresses"))?.clear_ready();
            }
            heard = self.control.next() => self.hear(heard, now),
            scrape = scraped(self.metrics.as_mut()) => self.give_metrics(scrape, now),
            _ = hangup.recv() => {
                if let Err(refused) = self.reload() {
                    tracing::error!("SIGHUP: nothing was changed:\n{refused}");
                }
            }
            () = tokio::task::yield_now(), if more => {}
            rung = self.alarm.at(deadline, ahead), if !more => rung.map_err(failed("wait for the time"))?,
            _ = stop.recv() => return Ok(true),
            _ = interrupt.recv() => return Ok(true),
        }
        Ok(false)
    }

    fn turn(&mut self, now: Instant) -> Result<(), DaemonError> {
        self.now = now;
        let drained = self.read_channel(now);
        self.read_news(now);
        self.read_events(now)?;
        self.read_dump(now)?;
        self.read_fifo(now);
        self.look_around(now);
        for at in 0..self.groups.len() {
            let Some(group) = self.groups.get_mut(at) else { break };
            group.take_roles(now);
            if drained {
                // Silence is judged only when nothing is left to be heard: a stopped process wakes up to full
                // sockets.
                group.replica.handle_timeout(now);
            } else {
                group.replica.handle_busy_turn(now);
            }
            self.send_requests(at, now)?;
        }
        self.choose_events()?;
        self.step_hold(now);
        self.send_datagrams(now);
        self.report(now)
    }

    /// Packets are held for the first group: with several there is no `hold`.
    fn step_hold(&mut self, now: Instant) {
        let (Some(hold), Some(group)) = (&mut self.hold, self.groups.first()) else { return };
        let replica = &group.replica;
        let complete = replica.owner() && !replica.fencing();
        match hold.step(replica.role(), complete, now) {
            Ok(()) => self.hold_failed = false,
            Err(error) if !std::mem::replace(&mut self.hold_failed, true) => {
                let error = anyhow::Error::new(error);
                tracing::error!("packets are not held: {error:#}");
            }
            Err(_) => {}
        }
    }

    fn read_channel(&mut self, now: Instant) -> bool {
        for _ in 0..DATAGRAMS_IN {
            if !self.hear_one(now) {
                self.unjudged = 0;
                return true;
            }
        }
        self.more = true;
        // Under a flood the socket is never empty. After as many datagrams as it can hold, everything that
        // waited when it was last empty has been read.
        self.unjudged += DATAGRAMS_IN;
        let all_read = self.unjudged >= self.channel.capacity();
        if all_read {
            self.unjudged = 0;
        }
        all_read
    }

    /// The next datagram that waits, if one does.
    fn hear_one(&mut self, now: Instant) -> bool {
        match self.channel.receive(&mut self.buffer) {
            Received::Datagram(length) => {
                let datagram = self.buffer.get(..length).unwrap_or_default();
                // What belongs to no group here is refused, and counted, by the first one.
                let number = wire::peek_group(datagram);
                let at = self.groups.iter().position(|group| number == Some(group.replica.number()));
                if let Some(group) = self.groups.get_mut(at.unwrap_or(0)) {
                    group.replica.handle_datagram(datagram, now);
                }
            }
            Received::Far => {
                if let Some(group) = self.groups.first_mut() {
                    group.replica.refuse_datagram(Refused::Far);
                }
            }
            Received::Nothing => return false,
        }
        true
    }

    fn read_fifo(&mut self, now: Instant) {
        let Some(fifo) = &mut self.fifo else { return };
        let told = match fifo.read() {
            Ok(told) => told,
            // A look at the files makes it again.
            Err(error) => return self.fifo_trouble.note(Err(error), ""),
        };
        let held = fifo.is_held();
        for Told(subject, role) in told {
            let about_it = |group: &&mut Group| group.mechanism.subject() == Some(&subject);
            if let Some(group) = self.groups.iter_mut().find(about_it) {
                group.tell(role, Cause::Keepalived);
            }
        }
        for group in self.groups.iter_mut().filter(|group| group.mechanism.subject().is_some()) {
            group.note_fifo(held, now);
        }
    }

    fn send_datagrams(&mut self, now: Instant) {
        let mut quiet = 0;
        for turn in 0..DATAGRAMS_OUT {
            let at = turn % self.groups.len();
            let Some(group) = self.groups.get_mut(at) else { return };
            let Some(datagram) = self.unsent.take().or_else(|| group.replica.poll_datagram(now)) else {
                quiet += 1;
                if quiet >= self.groups.len() {
                    return;
                }
                continue;
            };
            quiet = 0;
            if let Some(lag) = group.replica.take_lag() {
                self.timings.lag.observe(lag.as_secs_f64());
            }
            if !self.channel.send(&datagram) {
                self.unsent = Some(datagram);
                return;
            }
        }
        self.more = true;
    }
}

async fn scraped(metrics: Option<&mut MetricsServer>) -> Scrape {
    match metrics {
        Some(metrics) => metrics.next().await,
        None => std::future::pending().await,
    }
}

async fn fifo_readable(fifo: Option<&NotifyFifo>) -> io::Result<()> {
    match fifo {
        Some(fifo) => fifo.readable().await,
        None => std::future::pending().await,
    }
}
