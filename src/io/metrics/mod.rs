//! Metrics for Prometheus: their names and text. `server`: the HTTP socket where they can be scraped;
//! `counters`: the engine's counters by name.
//!
//! Called by the daemon, which makes a [`Snapshot`] for each scrape. `docs/metrics.md` lists the names.

mod counters;
mod server;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::engine::replica::view::{PeerView, View};
use crate::engine::replica::{Changes, Counters, Role};
use crate::engine::verdict::Verdict;
use crate::io::channel::Traffic;

pub use counters::named_counters;
pub use server::{MetricsServer, Scrape};

/// What takes time, counted since start.
#[derive(Clone, Debug)]
pub struct Timings {
    /// From reading a kernel event to sending it.
    pub lag: Histogram,
    /// From hearing "primary" to the last entry installed.
    pub fence: Histogram,
}

impl Default for Timings {
    fn default() -> Timings {
        // 50 us to 1.6 s, and 100 us to 26 s.
        Timings {
            lag: Histogram::new(exponential_buckets(50e-6, 2.0, 16)),
            fence: Histogram::new(exponential_buckets(100e-6, 4.0, 10)),
        }
    }
}

/// Everything that is told, at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// This node's name.
    pub node: String,
    /// The failover groups.
    pub groups: Vec<GroupSnapshot>,
    /// The channel's.
    pub traffic: Traffic,
    /// Histograms.
    pub timings: Timings,
    /// Bytes that the event socket may hold.
    pub event_buffer: usize,
    /// Messages of the kernel that could not be read.
    pub unreadable: u64,
    /// The channel has a key.
    pub authenticated: bool,
}

/// What is told of one failover group.
#[derive(Debug)]
pub struct GroupSnapshot {
    /// Its name.
    pub name: String,
    /// The replica's state.
    pub view: View,
    /// Would a failover lose something?
    pub verdict: Verdict,
    /// Its counters.
    pub counters: Counters,
    /// Changes of the role, by the one that they led to.
    pub transitions: [u64; Role::ALL.len()],
}

/// How a scraper wants its text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text format 0.0.4.
    Prometheus,
}

impl Format {
    fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The text of a snapshot.
///
/// # Errors
/// The encoder refuses a value; none of ours.
pub fn render(snapshot: Snapshot, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("ctsync");
    registry.register_collector(Box::new(snapshot));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(match format {
        Format::OpenMetrics => out,
        Format::Prometheus => without_suffix_rules(&out),
    })
}

/// OpenMetrics names a counter without the `_total` of its samples; the older format names it with it, and
/// has no end mark.
fn without_suffix_rules(open: &str) -> String {
    let counter = |line: &str| {
        let name = line.strip_prefix("# TYPE ")?.strip_suffix(" counter")?;
        Some(name.to_owned())
    };
    let counters: Vec<String> = open.lines().filter_map(counter).collect();
    let mut out = String::with_capacity(open.len());
    for line in open.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(kind @ ("HELP" | "TYPE")), Some(name), Some(rest))
                if counters.iter().any(|counter| counter == name) =>
            {
                out += &format!("# {kind} {name}_total {rest}\n");
            }
            (Some("#"), Some("UNIT"), ..) => {}
            _ => {
                out += line;
                out.push('\n');
            }
        }
    }
    out
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_verdict(&mut encoder)?;
        self.encode_backups(&mut encoder)?;
        self.encode_state(&mut encoder)?;
        self.encode_peers(&mut encoder)?;
        self.encode_counters(&mut encoder)?;
        let help = "Messages of the kernel that could not be read, and were left out";
        counter(&mut encoder, "unreadable_kernel_messages", help, self.unreadable)?;
        self.encode_channel(&mut encoder)?;
        for (name, help, histogram) in [
            ("lag_seconds", "From reading a kernel event to sending it to the peer", &self.timings.lag),
            (
                "takeover_seconds",
                "From hearing that this node is primary to the last entry installed",
                &self.timings.fence,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, histogram.metric_type())?;
            histogram.encode(metric)?;
        }
        Ok(())
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    let gauge = ConstGauge::new(value);
    let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
    gauge.encode(metric)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let counter = ConstCounter::new(value);
    let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
    counter.encode(metric)
}

/// Labels, names and values.
type Labels<'a> = Vec<(&'a str, &'a str)>;

/// Samples of one metric, told apart by their labels.
fn family<'a, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    kind: MetricType,
    samples: impl IntoIterator<Item = (Labels<'a>, M)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in samples {
        value.encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn flag(set: bool) -> f64 {
    if set { 1.0 } else { 0.0 }
}

fn size(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

/// The protocol's version, as a label.
const PROTOCOL: &str = "1";
const _: () = assert!(crate::engine::wire::VERSION == 1, "the label says so");

/// Name, meaning, and how a value is read.
type Read<T> = (&'static str, &'static str, fn(&T) -> f64);

const STATE: [Read<View>; 19] = [
    ("ready", "This node could take over without loss, or owns the group", |view| flag(view.ready)),
    ("degraded", "Entries are held that this kernel refuses", |view| flag(view.failed > 0)),
    ("owner", "This node owns the failover group", |view| flag(view.owner)),
    ("primary", "This node was told that it is primary", |view| flag(view.role == Role::Primary)),
    ("gate_open", "The election may choose this node", |view| flag(view.gate_open)),
    ("internal_entries", "Entries of the group when owned here", |view| size(view.internal)),
    ("external_entries", "Entries of the group when owned by a peer", |view| size(view.external)),
    ("internal_expectations", "Expectations of the group when owned here", |view| {
        size(view.internal_expected)
    }),
    ("external_expectations", "Expectations of the group when owned by a peer", |view| {
        size(view.external_expected)
    }),
    ("orphans", "Entries and expectations that wait for their masters", |view| size(view.orphans)),
    ("pending_installs", "Entries that wait for the kernel", |view| size(view.pending)),
    ("refused_entries", "Entries that the kernel refuses now", |view| size(view.failed)),
    ("offered_entries", "Entries owed to the owner that replaced this node", |view| size(view.offers)),
    ("unsent_changes", "Changes that wait for the channel", |view| size(view.unsent)),
    ("oldest_unsent_seconds", "For how long the oldest of them has waited", |view| {
        view.unsent_for.unwrap_or(0.0)
    }),
    ("behind_datagrams", "Datagrams of the owner's stream not applied yet", |view| view.behind as f64),
    ("digests_equal", "This table and the peer's are equal", |view| flag(view.equal_for.is_some())),
    ("digests_equal_seconds", "For how long the digests have been equal", |view| {
        view.equal_for.unwrap_or(0.0)
    }),
    ("sweep_age_seconds", "Since the last whole comparison of table and kernel, or since start", |view| {
        view.sweep_age
    }),
];

const PEER: [Read<PeerView>; 6] = [
    ("peer_up", "The peer was heard within the peer timeout", |peer| flag(peer.alive)),
    ("peer_ready", "The peer says that it could take over", |peer| flag(peer.ready)),
    ("peer_silent_seconds", "Since the peer's last datagram", |peer| peer.silent_ms as f64 / 1e3),
    ("peer_entries", "Entries in the peer's table", |peer| f64::from(peer.entries)),
    ("peer_behind_datagrams", "Datagrams of our stream that it had not applied when last heard", |peer| {
        peer.behind as f64
    }),
    ("peer_lag_seconds", "For how long the oldest of them had been sent then", |peer| peer.lag_seconds),
];

impl Snapshot {
    /// What is told of each group.
    fn of_groups<'a, T, I: IntoIterator<Item = T>>(
        &'a self,
        read: impl Fn(&'a GroupSnapshot) -> I,
    ) -> impl Iterator<Item = (Labels<'a>, T)> {
        self.groups.iter().flat_map(move |group| {
            read(group).into_iter().map(|sample| (vec![("group", group.name.as_str())], sample))
        })
    }

    fn encode_verdict(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let about = ("protected", "A failover now would lose nothing");
        let samples = self.of_groups(|group| [ConstGauge::new(flag(group.verdict.protected))]);
        family(encoder, about, MetricType::Gauge, samples)?;
        let reasons = self.of_groups(|group| &group.verdict.reasons).map(|(mut labels, reason)| {
            labels.push(("reason", reason.finding.word));
            (labels, reason.seconds as f64)
        });
        // One word may stand for two things, on both routers, say.
        let mut longest: Vec<(Labels<'_>, f64)> = Vec::new();
        for (labels, seconds) in reasons {
            match longest.iter_mut().find(|(known, _)| *known == labels) {
                Some((_, known)) => *known = known.max(seconds),
                None => longest.push((labels, seconds)),
            }
        }
        let about = (
            "unprotected_seconds",
            "Why a failover now would lose something, and for how long that has been so",
        );
        let samples = longest.into_iter().map(|(labels, seconds)| (labels, ConstGauge::new(seconds)));
        family(encoder, about, MetricType::Gauge, samples)?;
        let roles = self.of_groups(|group| {
            Role::ALL.map(|role| (role.word(), ConstGauge::new(flag(group.view.role == role))))
        });
        let samples = roles.map(|(mut labels, (role, value))| {
            labels.push(("role", role));
            (labels, value)
        });
        family(encoder, ("role", "1 for the role that this node has"), MetricType::Gauge, samples)?;
        let peers = self.of_groups(|group| &group.view.peers).flat_map(|(labels, peer)| {
            Role::ALL.map(|role| {
                let mut labels = labels.clone();
                labels.extend([("peer", peer.name.as_str()), ("role", role.word())]);
                (labels, ConstGauge::new(flag(peer.alive && peer.role == role)))
            })
        });
        family(encoder, ("peer_role", "1 for the role that the peer has"), MetricType::Gauge, peers)?;
        let build = vec![
            ("version", env!("CARGO_PKG_VERSION")),
            ("protocol", PROTOCOL),
            ("node", self.node.as_str()),
        ];
        let about = ("info", "This daemon's build");
        family(encoder, about, MetricType::Gauge, [(build, ConstGauge::new(1.0))])?;
        let told: Vec<(Labels<'_>, &str, String)> = self
            .of_groups(|group| &group.view.peers)
            .filter(|(_, peer)| peer.alive)
            .filter_map(|(labels, peer)| Some((labels, peer.name.as_str(), peer.kernel?.build.to_string())))
            .collect();
        let builds = told.iter().map(|(labels, peer, version)| {
            let mut labels = labels.clone();
            labels.extend([("peer", *peer), ("version", version.as_str())]);
            (labels, ConstGauge::new(1.0))
        });
        family(encoder, ("peer_info", "1: the build that a living peer runs"), MetricType::Gauge, builds)
    }

    fn encode_backups(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (about, fit) in [
            (
                ("fit_backups", "Backups that would carry everything on; 0 on who does not own the group"),
                true,
            ),
            (
                (
                    "known_backups",
                    "Backups that were heard of since the start; 0 on who does not own the group",
                ),
                false,
            ),
        ] {
            let samples = self.of_groups(move |group| {
                let backups = &group.verdict.backups;
                [ConstGauge::new(size(if fit { backups.fit } else { backups.known }))]
            });
            family(encoder, about, MetricType::Gauge, samples)?;
        }
        Ok(())
    }

    fn encode_state(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, read) in STATE {
            let samples = self.of_groups(|group| [ConstGauge::new(read(&group.view))]);
            family(encoder, (name, help), MetricType::Gauge, samples)?;
        }
        gauge(encoder, "channel_authenticated", "The channel has a key", flag(self.authenticated))?;
        gauge(encoder, "event_buffer_bytes", "What the event socket may hold", size(self.event_buffer))
    }

    fn encode_peers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, read) in PEER {
            let samples = self.of_groups(|group| &group.view.peers).map(|(mut labels, peer)| {
                labels.push(("peer", peer.name.as_str()));
                (labels, ConstGauge::new(read(peer)))
            });
            family(encoder, (name, help), MetricType::Gauge, samples)?;
        }
        Ok(())
    }

    fn encode_counters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let changes = self.of_groups(|group| {
            let caches = [("internal", group.counters.internal), ("external", group.counters.external)];
            caches.into_iter().flat_map(|(cache, Changes { created, updated, destroyed })| {
                [("created", created), ("updated", updated), ("destroyed", destroyed)]
                    .map(|(change, count)| (cache, change, count))
            })
        });
        let changes = changes.map(|(mut labels, (cache, change, count))| {
            labels.extend([("cache", cache), ("change", change)]);
            (labels, ConstCounter::new(count))
        });
        let about = ("changes", "Entries created, updated, destroyed in a cache");
        family(encoder, about, MetricType::Counter, changes)?;
        let failures = self.of_groups(|group| &group.view.failures).map(|(mut labels, (reason, count))| {
            labels.push(("reason", reason));
            (labels, ConstCounter::new(*count))
        });
        let about = ("install_failures", "Installs that the kernel refused");
        family(encoder, about, MetricType::Counter, failures)?;
        let transitions = self.of_groups(|group| Role::ALL.into_iter().zip(group.transitions));
        let transitions = transitions.map(|(mut labels, (role, count))| {
            labels.push(("role", role.word()));
            (labels, ConstCounter::new(count))
        });
        let about = ("transitions", "Changes of the role, by the one that they led to");
        family(encoder, about, MetricType::Counter, transitions)?;
        let named: Vec<_> = self.of_groups(|group| [named_counters(&group.counters)]).collect();
        let Some((_, first)) = named.first() else { return Ok(()) };
        for (at, (name, help, _)) in first.iter().enumerate() {
            let samples = named.iter().filter_map(|(labels, counts)| {
                counts.get(at).map(|(_, _, count)| (labels.clone(), ConstCounter::new(*count)))
            });
            family(encoder, (name, help), MetricType::Counter, samples)?;
        }
        Ok(())
    }

    fn encode_channel(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Traffic { bytes_sent, bytes_received, sent, received, send_errors, receive_errors } =
            self.traffic;
        for (name, help, value) in [
            ("sent_bytes", "Payload sent to the peer", bytes_sent),
            ("received_bytes", "Payload received", bytes_received),
            ("sent_datagrams", "Datagrams sent to the peer", sent),
            ("received_datagrams", "Datagrams received", received),
            ("send_errors", "Sends that failed", send_errors),
            ("receive_errors", "Receives that failed", receive_errors),
        ] {
            counter(encoder, name, help, value)?;
        }
        Ok(())
    }
}
