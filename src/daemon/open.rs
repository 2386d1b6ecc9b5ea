//! A daemon with every socket open, before its first turn.

use std::path::PathBuf;

use super::alarm::Alarm;
use super::group::{Common, Group};
use super::operator::Ongoing;
use super::pace::Pace;
use super::surroundings::Followed;
use super::systemd::Watchdog;
use super::trouble::Trouble;
use super::{Daemon, DaemonError, clock, failed, start};
use crate::config::{Config, Loaded};
use crate::control::ControlServer;
use crate::engine::groups::Assignment;
use crate::engine::seal::Key;
use crate::io::channel::Channel;
use crate::io::metrics::{MetricsServer, Timings};
use crate::io::role::NotifyFifo;
use crate::kernel::courier::Courier;
use crate::kernel::dumper::Dumper;
use crate::kernel::hold::Hold;
use crate::kernel::ruleset::Ruleset;
use crate::kernel::socket::{EventSocket, RequestSocket};
use crate::kernel::watched::watch_events;

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
    pub(super) async fn open(path: PathBuf, loaded: Loaded, keys: Vec<Key>) -> Result<Daemon, DaemonError> {
        let Loaded { config, values, remarks, .. } = loaded;
        for remark in &remarks {
            tracing::warn!("{remark}");
        }
        // The control socket first: it tells whether another daemon runs here.
        let control = open_control(&config)?;
        start::check_events_enabled();
        let followed = Followed::open().await?;
        // An interface that comes late is taken up when it is there.
        let mtu =
            followed.addresses.interface(&config.interface).await.map_or(1500, |interface| interface.mtu);
        let channel = Channel::new(&config);
        let requests = RequestSocket::open()?;
        let events = open_events(&requests, config.event_buffer)?;
        let fifo = config.notify_fifo().map(NotifyFifo::open).transpose()?;
        let hold =
            if config.hold { Some(Hold::open(config.mechanism.addresses(), config.port)?) } else { None };
        start::tell_keys(&keys, &config.interface);
        let groups = open_groups(&Common { config: &config, mtu, held: &followed.held, keys: &keys })?;
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
            followed,
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
}
