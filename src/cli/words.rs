//! What can be typed: the verbs and their arguments, as clap reads them. Called by the command line alone.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCandidates;

use super::{caches, completion};
use crate::config;
use crate::engine::replica::Cache;

#[derive(Subcommand, Debug)]
pub(super) enum Verb {
    /// Run the daemon.
    Run {
        /// Configuration file: JSON, or VyOS `set` lines.
        #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
        config: PathBuf,
    },
    /// Would a failover now lose something? A verdict and what it rests on; exits 3 if it would.
    Status {
        /// Only this failover group. Without it, all.
        #[arg(add = ArgValueCandidates::new(completion::groups))]
        group: Option<String>,
        #[command(flatten)]
        form: Form,
    },
    /// Show the kernel's table, the caches, statistics or synchronisation state.
    #[command(subcommand)]
    Show(Show),
    /// Rebuild a cache, or clear this kernel's table.
    #[command(subcommand)]
    Reset(Reset),
    /// Where this node's table differs from its own kernel and from the peer's table; exits 1 if it does.
    Diff {
        #[command(flatten)]
        form: Form,
    },
    /// Changes of the caches as they happen, until interrupted.
    Events {
        #[command(flatten)]
        choice: caches::Choice,
        #[command(flatten)]
        form: Form,
    },
    /// Read this kernel's table again.
    Resync {
        #[command(flatten)]
        form: Form,
    },
    /// Read the configuration again; what cannot change while the daemon runs is named.
    Reload {
        #[command(flatten)]
        form: Form,
    },
    /// Tell the role of a failover group; returns when the takeover is complete.
    ///
    /// For scripts. The words of keepalived (master, backup, fault) and of heartbeat (start, stop) are
    /// understood.
    Notify {
        /// The role.
        #[arg(value_enum, ignore_case = true)]
        role: RoleWord,
        /// The group's name.
        #[arg(add = ArgValueCandidates::new(completion::groups))]
        group: String,
        #[command(flatten)]
        form: Form,
    },
    /// Move a failover group to another router, on purpose and only when that is safe; returns when the other
    /// one carries it.
    ///
    /// Typed on the owner. It stands aside until the daemon is started again, or `ctsync switch` is typed
    /// there once more.
    Switch {
        /// The group's name. With one group alone it need not be said.
        #[arg(add = ArgValueCandidates::new(completion::groups))]
        group: Option<String>,
        /// The router that should take over; the election decides, by priority.
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
        /// Also when connections would be lost.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        form: Form,
    },
    /// Wait until this node could take over without loss.
    WaitReady {
        /// Give up after this many seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        timeout: u64,
    },
    /// Check, convert and explain configuration files.
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Make a key for `key-file`: 32 random bytes, in hexadecimal.
    Keygen {
        /// Write it to this new file, readable by its owner alone, instead of standard output.
        file: Option<PathBuf>,
    },
    /// Write manual pages, completions and the JSON schema, for packagers.
    #[command(hide = true)]
    Assets {
        /// An existing directory.
        directory: PathBuf,
    },
}

#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Form {
    /// JSON instead of text.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Subcommand, Debug)]
pub(super) enum Show {
    /// This kernel's table.
    #[command(subcommand)]
    Conntrack(Conntrack),
    /// Synchronisation.
    #[command(subcommand, name = "conntrack-sync")]
    ConntrackSync(ConntrackSync),
}

#[derive(Subcommand, Debug)]
pub(super) enum Conntrack {
    /// Connections tracked by this kernel.
    Table {
        /// Which family.
        family: Family,
        /// `source` and `destination`, each with ADDRESS, ADDRESS:PORT, any or any:PORT; IPv6 as
        /// [ADDRESS]:PORT.
        #[arg(value_name = "source ADDRESS destination ADDRESS")]
        ends: Vec<String>,
        /// Also the reply direction, NAT, mark and zone.
        #[arg(long)]
        wide: bool,
        #[command(flatten)]
        form: Form,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(super) enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

#[derive(Subcommand, Debug)]
pub(super) enum ConntrackSync {
    /// Entries of the internal or external cache.
    Cache {
        /// Which: what is owned here, or what a peer owns.
        cache: CacheWord,
        /// Only connections, or only expectations.
        section: Option<Section>,
        /// Also the reply direction, NAT, state, age, owner and whether it is installed.
        #[arg(long)]
        wide: bool,
        #[command(flatten)]
        form: Form,
    },
    /// Counters of both caches and the channel.
    Statistics {
        /// Without the frame: connections, or expectations.
        section: Option<Section>,
        #[command(flatten)]
        form: Form,
    },
    /// Interface, mechanism, last transition.
    Status {
        #[command(flatten)]
        form: Form,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum Reset {
    /// Forget every connection that this kernel tracks. The peer hears of it.
    Conntrack {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Rebuild a cache.
    #[command(subcommand, name = "conntrack-sync")]
    ConntrackSync(ResetCache),
}

#[derive(Subcommand, Clone, Copy, Debug)]
pub(super) enum ResetCache {
    /// Read this kernel's table again and send the peer everything again.
    InternalCache,
    /// Forget the peer's entries and have them sent again; the kernel keeps them meanwhile.
    ExternalCache,
}

#[derive(Subcommand, Debug)]
pub(super) enum ConfigVerb {
    /// Is the file good? Everything that is wrong, each with its place; exits 1 if anything is.
    Check {
        /// JSON, or VyOS `set` lines.
        #[arg(default_value = config::DEFAULT_PATH)]
        file: PathBuf,
        /// Also whether this machine has what the file names.
        #[arg(long)]
        system: bool,
        /// keepalived's configuration: does it have what the mechanism `vrrp` needs?
        #[arg(long, value_name = "FILE")]
        keepalived: Option<PathBuf>,
        #[command(flatten)]
        form: Form,
    },
    /// Print the file as JSON, or as `set` lines.
    Convert {
        /// JSON, or VyOS `set` lines.
        file: PathBuf,
        /// Which form.
        #[arg(long, value_enum, default_value_t = To::Json)]
        to: To,
    },
    /// Print the documented example.
    Example {
        /// Which form.
        #[arg(long, value_enum, default_value_t = To::Json)]
        to: To,
    },
    /// Print what keepalived.conf needs.
    Keepalived {
        /// JSON, or VyOS `set` lines.
        #[arg(default_value = config::DEFAULT_PATH)]
        file: PathBuf,
    },
    /// Print the JSON schema, for editors.
    Schema,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(super) enum To {
    /// JSON.
    Json,
    /// `set service conntrack-sync` lines.
    Set,
}

#[derive(Clone, Copy, ValueEnum, Debug)]
pub(super) enum CacheWord {
    /// What is owned here.
    Internal,
    /// What a peer owns.
    External,
}

impl From<CacheWord> for Cache {
    fn from(word: CacheWord) -> Cache {
        match word {
            CacheWord::Internal => Cache::Internal,
            CacheWord::External => Cache::External,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(super) enum Section {
    /// Connections.
    Main,
    /// Expectations.
    Expect,
}

#[derive(Clone, Copy, ValueEnum, Debug)]
pub(super) enum RoleWord {
    /// This node forwards.
    #[value(aliases = ["master", "start"])]
    Primary,
    /// Another node forwards.
    #[value(alias = "stop")]
    Backup,
    /// This node must not forward.
    Fault,
}
