//! Would a failover this moment lose something? A pure function of what this node knows of itself and of what
//! its peers have told, in sentences with their cures.
//!
//! Called by the daemon for `status`, its log and its metrics. [`findings`] says what is wrong now; [`Judge`]
//! gives what belongs to every handover a moment, and takes the last alarm back only when it has been over
//! for a while. `docs/verdict.md` has the table, and `tests/verdict.rs` a case for each of its rows. No
//! socket, no clock.

mod backups;
mod judge;
mod kernels;

use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use crate::facts::{Asked, Evidence, Mover, Role, Seat};
use crate::replica::Refused;
use crate::replica::view::{PeerView, View};
use crate::wire::KernelTold;

pub use backups::Backups;
pub use judge::{Judge, Reason, Verdict};
use kernels::{rules, settings};

/// A role, its addresses and the ownership of a group change one after the other: that they disagree for so
/// long is a handover.
const HANDOVER: Duration = Duration::from_secs(3);
/// A peer that has just been heard tells of its kernel within so long.
const INTRODUCTION: Duration = Duration::from_secs(2);

/// What the daemon sees beside its engine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Around {
    /// How the group is named to `ctsync notify`.
    pub group: String,
    /// keepalived's notify FIFO; `None`: another mechanism.
    pub fifo: Option<String>,
    /// It was replaced, and whoever held the old one writes into nothing.
    pub fifo_replaced: bool,
    /// Why keepalived does not hear of this node's readiness.
    pub track_file: Option<String>,
    /// The channel's interface, and what is wrong with it.
    pub channel: Option<String>,
    /// `hold` is configured and holds nothing.
    pub hold_failed: bool,
    /// Where peers are expected: `eth0, 225.0.0.50, UDP 3780`.
    pub channel_at: String,
    /// Why datagrams have been refused lately, in the order of [`Refused::ALL`]; what the log says of each.
    pub refused: Vec<(Refused, String)>,
}

/// Something that would make a failover lose connections, or that leaves nobody knowing whether it would.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// A word that stays, for programs.
    pub word: &'static str,
    /// What is the case, on which router.
    pub what: String,
    /// What to do.
    pub cure: String,
    #[serde(skip)]
    patience: Duration,
}

/// One node of a pair, as it is known.
struct Side<'a> {
    name: &'a str,
    here: bool,
    role: Role,
    seat: Seat,
    kernel: Option<&'a KernelTold>,
    bound_to: Option<IpAddr>,
}

impl<'a> Side<'a> {
    fn own(view: &'a View) -> Side<'a> {
        Side {
            name: "this router",
            here: true,
            role: view.role,
            seat: view.seat,
            kernel: Some(&view.kernel),
            bound_to: view.bound_to,
        }
    }

    fn of(peer: &'a PeerView) -> Side<'a> {
        Side {
            name: &peer.name,
            here: false,
            role: peer.role,
            seat: peer.seat,
            kernel: peer.kernel.as_ref(),
            bound_to: None,
        }
    }

    fn asks(&self, what: Asked) -> bool {
        self.kernel.is_some_and(|kernel| kernel.settings.rules.asked.contains(what))
    }

    /// Where a command has to be typed.
    fn place(&self) -> String {
        if self.here { "here".into() } else { format!("on {}", self.name) }
    }
}

/// Everything that is wrong now.
pub fn findings(view: &View, around: &Around) -> Vec<Finding> {
    judged(view, around).0
}

/// Everything that is wrong now, and how an owner's backups stand.
fn judged(view: &View, around: &Around) -> (Vec<Finding>, Backups) {
    let mut all = own_findings(view, around);
    if view.owner {
        let (with, backups) = backups::judge(view, around);
        all.extend(with);
        return (all, backups);
    }
    let alive: Vec<&PeerView> = view.peers.iter().filter(|peer| peer.alive).collect();
    if let Some(owner) = alive.iter().find(|peer| peer.owner) {
        let (owner, own) = (Side::of(owner), Side::own(view));
        all.extend(between(&owner, &own, peer_entries(view), around));
    } else {
        all.extend(fitness(&Side::own(view), around));
        if alive.is_empty() {
            all.push(nobody_heard(view, around));
        }
    }
    (all, Backups::default())
}

fn finding(word: &'static str, what: String, cure: impl Into<String>) -> Finding {
    Finding { word, what, cure: cure.into(), patience: Duration::ZERO }
}

fn patient(patience: Duration, finding: Finding) -> Finding {
    Finding { patience, ..finding }
}

fn peer_entries(view: &View) -> u32 {
    view.peers.iter().filter(|peer| peer.alive && peer.owner).map(|peer| peer.entries).max().unwrap_or(0)
}

/// What this node alone knows.
fn own_findings(view: &View, around: &Around) -> Vec<Finding> {
    let mut all = Vec::new();
    if let Some(wrong) = &around.channel {
        all.push(finding(
            "channel",
            wrong.clone(),
            "bring the interface up; ctsync takes the channel up again by itself",
        ));
    }
    if around.hold_failed {
        all.push(finding(
            "hold",
            "`hold` holds nothing: its table cannot be changed".into(),
            "see the log; it needs the program nft and CAP_NET_ADMIN",
        ));
    }
    if around.fifo_replaced {
        let fifo = around.fifo.as_deref().unwrap_or("its notify FIFO");
        all.push(finding(
            "fifo-replaced",
            format!(
                "{fifo} was replaced while keepalived held it: keepalived writes into a file that is gone"
            ),
            "`systemctl restart keepalived` here (a primary hands over by that); RuntimeDirectoryPreserve=yes in ctsync's unit prevents the next time",
        ));
    }
    if let Some(why) = &around.track_file {
        all.push(finding(
            "track-file",
            format!("keepalived does not hear whether this router is ready: {why}"),
            "make the directory writable again; ctsync writes the file again by itself",
        ));
    }
    if view.owner {
        if view.fencing {
            all.push(finding("takeover", "a takeover is under way".into(), "wait"));
        }
        if view.backlog {
            let seconds = view.unsent_for.unwrap_or_default();
            all.push(finding(
                "backlog",
                format!("{} changes wait for the channel, the oldest for {seconds:.1} s", view.unsent),
                "the channel is too narrow or loses too much: look at its interface's counters",
            ));
        }
        if !view.hears_new_entries {
            all.push(finding(
                "looking",
                "entries that came up during the takeover are still looked for".into(),
                "wait",
            ));
        }
    } else if !view.in_step && !view.readiness.starts_with("alone") {
        all.push(finding(
            "not-ready",
            view.readiness.to_owned(),
            "wait; `ctsync wait-ready` returns when it is over",
        ));
    }
    if view.failed > 0 {
        all.push(finding(
            "entries-refused",
            format!("{} entries cannot be installed", view.failed),
            "`ctsync show conntrack-sync cache external --wide` names them and why",
        ));
    }
    all
}

/// This node owns the group: what is wrong with it and this peer.
fn as_owner(view: &View, peer: &PeerView, around: &Around) -> Vec<Finding> {
    let mut all = Vec::new();
    let name = &peer.name;
    if peer.owner {
        all.push(patient(
            HANDOVER,
            finding(
                "two-owners",
                format!("this router and {name} both own the group"),
                "each hears the other's claim and one yields within a second: look at the log of both",
            ),
        ));
    }
    if !peer.ready {
        let cure = format!("`ctsync status` on {name} says what it waits for");
        all.push(finding("peer-not-ready", format!("{name} is not ready"), cure));
    }
    if !peer.hears {
        let deaf = finding(
            "one-way",
            format!("{name} is heard and does not hear this router: the channel carries one way only"),
            format!(
                "`tcpdump` on {name}: does what this router says arrive? Then a firewall there drops it, else one here, or \
                 the switch (IGMP snooping). The channel is {}",
                around.channel_at
            ),
        );
        // Whoever has just come hears nobody yet.
        all.push(patient(INTRODUCTION, deaf));
    }
    if let Some(kernel) = peer.kernel.filter(|kernel| kernel.refused > 0) {
        all.push(finding(
            "entries-refused-there",
            format!("{} entries cannot be installed on {name}", kernel.refused),
            format!("`ctsync show conntrack-sync cache external --wide` on {name} names them and why"),
        ));
    }
    let entries = u32::try_from(view.internal).unwrap_or(u32::MAX);
    all.extend(between(&Side::own(view), &Side::of(peer), entries, around));
    all
}

/// An owner and the node that would take over from it.
fn between(owner: &Side<'_>, standby: &Side<'_>, entries: u32, around: &Around) -> Vec<Finding> {
    let mut all = fitness(standby, around);
    all.extend(authority(owner, standby, around));
    for side in [owner, standby] {
        all.extend(addresses(side));
    }
    let (Some(one), Some(two)) = (owner.kernel, standby.kernel) else {
        let silent = if owner.kernel.is_none() { owner } else { standby };
        all.push(patient(
            INTRODUCTION,
            finding(
                "peer-untold",
                format!("{} has not said what its kernel is set to", silent.name),
                "wait; if it stays, the two builds differ",
            ),
        ));
        return all;
    };
    all.extend(rules(owner, standby));
    all.extend(settings(owner.name, &one.settings, standby, &two.settings, entries));
    if one.bound > 0 {
        all.push(finding(
            "bound",
            format!(
                "{} entries are translated to {}an address of {} alone, and end with it",
                one.bound,
                owner.bound_to.map_or(String::new(), |address| format!("{address}, ")),
                owner.name
            ),
            "translate to a virtual address on both (`snat to` it instead of `masquerade`): new connections live then; or leave these \
             to die: ignore-address",
        ));
    }
    all
}

/// Could this node be elected?
fn fitness(side: &Side<'_>, around: &Around) -> Vec<Finding> {
    let (name, place) = (side.name, side.place());
    if side.here && around.fifo_replaced {
        // That is said, whatever the role.
        return Vec::new();
    }
    if side.seat.mover == Mover::Absent {
        return vec![absent(side, "cannot be elected", around)];
    }
    let tell = if around.fifo.is_some() {
        format!(
            "`systemctl reload keepalived` {place}, with fifo_write_vrrp_states_on_reload in its global_defs"
        )
    } else {
        format!("`ctsync notify backup {}` {place}, or what your cluster tells it with", around.group)
    };
    match (side.role, side.seat.evidence) {
        (Role::Fault, _) => vec![finding(
            "role-fault",
            format!("{name} cannot be elected: its role is FAULT"),
            if around.fifo.is_some() {
                format!(
                    "`journalctl -u keepalived` {place}: it names the interface or script that fails, or it is being stopped"
                )
            } else {
                format!(
                    "what tells the role {place} says why; when it is over, `ctsync notify backup {}`",
                    around.group
                )
            },
        )],
        (Role::Unknown, _) => {
            vec![finding("role-unknown", format!("{name} does not know its role"), tell)]
        }
        (Role::Backup, Evidence::Addresses | Evidence::Nobody) => vec![finding(
            "role-never-told",
            format!("nobody has told {name} its role: whether it can be elected is not known"),
            tell,
        )],
        (Role::Backup, Evidence::Told) | (Role::Primary, _) => Vec::new(),
    }
}

fn absent(side: &Side<'_>, what: &str, around: &Around) -> Finding {
    let (name, place) = (side.name, side.place());
    let fifo = around.fifo.as_deref().unwrap_or("its notify FIFO");
    finding(
        "mover-absent",
        format!("{name} {what}: keepalived does not run, or does not hold {fifo}"),
        format!(
            "`systemctl restart keepalived` {place}; its global_defs must have `vrrp_notify_fifo {fifo}`"
        ),
    )
}

/// Who is primary, and does it own the group?
fn authority(owner: &Side<'_>, standby: &Side<'_>, around: &Around) -> Vec<Finding> {
    let found = match (owner.role, standby.role) {
        (Role::Primary, Role::Primary) => finding(
            "two-primaries",
            format!("{} and {} are both primary", owner.name, standby.name),
            "their VRRP does not hear each other, or an address stayed behind when keepalived died: `ip address` on both",
        ),
        (Role::Primary, _) => return Vec::new(),
        (_, Role::Primary) => finding(
            "primary-not-owner",
            format!("{} is primary, and {} still owns the group", standby.name, owner.name),
            "look at the log of both: the claim does not get through",
        ),
        _ if owner.seat.mover == Mover::Absent => absent(owner, "has nobody who moves its addresses", around),
        (role, _) => finding(
            "nobody-primary",
            format!("nobody is primary: {} owns the group and its role is {}", owner.name, role.word()),
            "start what moves the addresses, or tell the role: `ctsync status` shows both nodes' roles",
        ),
    };
    vec![patient(HANDOVER, found)]
}

/// Do a node's addresses fit its role?
fn addresses(side: &Side<'_>) -> Option<Finding> {
    let Seat { addresses, here, .. } = side.seat;
    let (name, place) = (side.name, side.place());
    let found = match side.role {
        Role::Primary if here < addresses => finding(
            "addresses-missing",
            format!("{name} is primary and has {here} of {addresses} virtual addresses"),
            format!("`ip address` {place}: somebody removed one, or an interface is down"),
        ),
        Role::Backup | Role::Fault | Role::Unknown if addresses > 0 && here == addresses => finding(
            "addresses-left",
            format!("{name} has the virtual addresses and its role is {}", side.role.word()),
            format!(
                "restart keepalived {place}: what it says does not arrive, or it died and left them behind"
            ),
        ),
        _ => return None,
    };
    Some(patient(HANDOVER, found))
}

/// No peer lives: why, as far as it shows.
fn nobody_heard(view: &View, around: &Around) -> Finding {
    if let Some((why, sentence)) = around.refused.first() {
        let cure = match why {
            Refused::OtherVersion => "bring both routers to one version of ctsync",
            Refused::Far => "give the channel a link of its own, or name the `peer` at its end",
            Refused::SameName => "set `node` to different names",
            Refused::Unsealed | Refused::Unreadable | Refused::Forged => {
                "the same key-file on both, then `ctsync reload`: `ctsync status` shows the fingerprints"
            }
            _ => "node-group and failover mechanism: compare both configurations",
        };
        return finding("peer-refused", format!("no peer is believed: {sentence}"), cure);
    }
    let mut lost: Vec<&PeerView> = view.peers.iter().collect();
    lost.sort_by_key(|peer| peer.silent_ms);
    let silent = |peer: &&PeerView| format!("{} not for {:.0} s", peer.name, peer.silent_ms as f64 / 1e3);
    let lost: Vec<String> = lost.iter().map(silent).collect();
    let at = &around.channel_at;
    match lost.is_empty() {
        false => finding(
            "peer-lost",
            format!("no peer is heard, {}", lost.join(", ")),
            format!(
                "is it up, does ctsync run there, does its cable carry, does a firewall here drop what it says? The channel is {at}"
            ),
        ),
        true => finding(
            "no-peer",
            match around.channel {
                None => {
                    "no peer is heard, and none was since the start, although the channel's interface is up"
                        .into()
                }
                Some(_) => "no peer is heard, and none was since the start".into(),
            },
            format!(
                "does ctsync run on the other router, and do both firewalls let it through? The channel is {at}"
            ),
        ),
    }
}
