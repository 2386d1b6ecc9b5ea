//! What a story may change about its routers.
//!
//! Called by the stories, which fill it in, and by `router` and `topology`, which build what it says.

use std::path::PathBuf;

use crate::routers::documented::Figure;
use crate::routers::incumbent;

/// What moves the virtual addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mover {
    Keepalived,
    Heartbeat,
    Frr,
    /// Nothing does by itself: the story.
    Story,
}

/// How keepalived does VRRP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Vrrp {
    /// 2 or 3.
    pub version: u8,
    /// To the other router's address instead of the multicast group.
    pub unicast: bool,
    /// A router that returns takes the addresses back.
    pub preempt: bool,
    /// In sync groups; else the first instance moves all addresses.
    pub grouped: bool,
    /// The IPv6 addresses have instances of their own.
    pub native6: bool,
    /// `fifo_write_vrrp_states_on_reload`.
    pub tells_on_reload: bool,
}

impl Default for Vrrp {
    fn default() -> Vrrp {
        Vrrp {
            version: 3,
            unicast: false,
            preempt: true,
            grouped: true,
            native6: false,
            tells_on_reload: true,
        }
    }
}

/// What a story changes about its routers.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// VRRP advertisement interval in seconds.
    pub advert: f64,
    /// Start ctsync at all.
    pub sync: bool,
    /// conntrackd in ctsync's place.
    pub incumbent: bool,
    /// How it is set up.
    pub incumbent_shape: incumbent::Shape,
    /// Install entries at once; else only after the VIP has moved.
    pub install: bool,
    /// Let keepalived see readiness.
    pub gate: bool,
    /// Drop invalid packets that are addressed to the router.
    pub invalid_drop_on_input: bool,
    /// Let the daemon serve metrics.
    pub metrics: bool,
    /// Synchronise every protocol, and expectations: the documented file names a few protocols only.
    pub everything: bool,
    /// `hold`: packets wait at a takeover until the fence is closed.
    pub hold: bool,
    /// `window-tracking`.
    pub window_tracking: bool,
    /// How many routers: two, or three.
    pub routers: u8,
    /// Which routers.
    pub figure: Figure,
    /// What moves the virtual addresses.
    pub mover: Mover,
    /// How keepalived does VRRP.
    pub vrrp: Vrrp,
    /// `masquerade` in place of source NAT; the routers' own WAN addresses are such that it takes the virtual
    /// one.
    pub masquerade: bool,
    /// An interface of its own for the channel, `chan0`.
    pub channel: bool,
    /// `set service conntrack-sync` lines beside the documented ones. A `failover-mechanism` among them is in
    /// its place.
    pub lines: &'static [&'static str],
    /// Rules beside the documented ones.
    pub rules: &'static str,
    /// What the daemon's key file holds; none: the channel is open.
    pub key: Option<String>,
    /// The daemon's binary.
    pub ctsync: PathBuf,
    /// The daemon is a user of its own with one capability, as a hardened unit runs it.
    pub unprivileged: bool,
}

impl Options {
    /// A pair as it should be, with quick elections.
    pub(crate) fn usual(ctsync: PathBuf) -> Options {
        Options {
            advert: 0.2,
            sync: true,
            incumbent: false,
            incumbent_shape: incumbent::Shape::default(),
            install: true,
            gate: true,
            invalid_drop_on_input: true,
            metrics: false,
            everything: false,
            hold: false,
            window_tracking: false,
            routers: 2,
            figure: Figure::Documented,
            mover: Mover::Keepalived,
            vrrp: Vrrp::default(),
            masquerade: false,
            channel: false,
            lines: &[],
            rules: "",
            key: None,
            unprivileged: false,
            ctsync,
        }
    }
}
