//! The daemon: every socket, every timer, the only clock, one loop.
//!
//! A turn: read the clock once; read the channel, the event socket, the dump and the FIFO; let the replica
//! judge deadlines; carry out what it wants. Decides nothing that the replica could. Called by `ctsync run`.
//!
//! - `alarm`: the loop's timer.
//! - `open`: every socket, opened. - `datagrams`: the channel, in and out.
//! - `group`: a failover group: its engine and who tells its role.
//! - `kernel`: events and dumps.
//! - `requests`: what is asked of the kernel.
//! - `start`: what a run begins with.
//! - `operator`: what operators ask.
//! - `pace`: how soon events are read.
//! - `report`: what is told without being asked; `compared`: what `diff` is answered.
//! - `switch`: a planned move; `aside`: whether this node stands aside for one.
//! - `surroundings`: addresses, links, files, rules: followed and made again.
//! - `systemd`: what the service manager is told.
//! - `trouble`: what goes wrong again and again is told once.

mod alarm;
mod aside;
mod compared;
mod datagrams;
mod group;
mod kernel;
mod open;
mod operator;
mod pace;
mod report;
mod requests;
mod start;
mod surroundings;
mod switch;
mod systemd;
mod trouble;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{Config, Loaded};
use crate::control::{Client, ControlServer, Request};
use crate::ctnetlink::codec::Event;
use crate::engine::facts::KernelSettings;
use crate::engine::groups::Assignment;
use crate::engine::replica::Refused;
use crate::engine::seal::Key;
use crate::io::addresses::AddressError;
use crate::io::channel::Channel;
use crate::io::metrics::{MetricsServer, Scrape, Timings};
use crate::io::role::{NotifyFifo, RoleError, Told};
use crate::kernel::courier::Courier;
use crate::kernel::dumper::Dumper;
use crate::kernel::hold::{Hold, HoldError};
use crate::kernel::ruleset::Ruleset;
use crate::kernel::socket::{Batch, EventSocket, RequestSocket, SocketError};

use alarm::Alarm;
use group::{Cause, Group};
use operator::{Ongoing, Watcher};
use pace::Pace;
use surroundings::Followed;
use systemd::Watchdog;
use trouble::Trouble;

pub(crate) use start::filter;
pub use start::node_id;

/// Between two looks at what nobody tells of.
const LOOK_AROUND: Duration = Duration::from_secs(1);
/// Between two looks at the kernel's settings.
const REMARKS: Duration = Duration::from_secs(10);

/// Why a daemon cannot run.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The kernel's sockets.
    #[error(transparent)]
    Socket(#[from] SocketError),
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
    followed: Followed,
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
    heard: Vec<Event>,
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

impl Daemon {
    /// Sleep until something happens or a deadline comes. True: stop.
    async fn wait(
        &mut self,
        now: Instant,
        stop: &mut Signal,
        interrupt: &mut Signal,
        hangup: &mut Signal,
    ) -> Result<bool, DaemonError> {
        if self.followed.due {
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
            _ = self.followed.look_again.tick() => self.followed.due = true,
            ready = self.followed.news.readable() => {
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
