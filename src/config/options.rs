//! Every option there is, once: its name, what it takes, its default, what it means.
//!
//! Both readers (JSON and `set` lines), the writers, the JSON schema, ctsync-config(5) and the table in
//! `docs/operation.md` walk these tables. Data only; nothing is read or judged here.

/// An option's name and all that is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// Kebab-case, as users write it.
    pub name: &'static str,
    /// What it takes.
    pub shape: Shape,
    /// What holds when nothing is said, as JSON; empty: nothing holds.
    pub default: &'static str,
    /// VyOS has it too, in some version.
    pub vyos: bool,
    /// `ctsync reload` applies it; everything else needs a restart.
    pub reloads: bool,
    /// One or two sentences.
    pub help: &'static str,
}

/// What an option takes.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Nothing: it is there or it is not. JSON `true` or `false`.
    Flag,
    /// A whole number.
    Count {
        /// Least.
        from: u64,
        /// Most.
        to: u64,
        /// Of what, for people.
        unit: &'static str,
    },
    /// One text.
    Text(Kind),
    /// Any number of texts.
    List(Kind),
    /// A text, or a list of them where there are several.
    Several(Kind),
    /// Options of its own.
    Table(&'static [Opt]),
    /// Names chosen by the user, each with options of its own.
    Tagged(Kind, &'static [Opt]),
}

/// What a text must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A name of 1 to 64 bytes without blanks.
    Name,
    /// An absolute path.
    Path,
    /// A network interface's name.
    Interface,
    /// An IPv4 or IPv6 address of one host.
    Host,
    /// An IPv4 multicast address.
    Multicast,
    /// An address or a prefix.
    Prefix,
    /// A protocol that `accept-protocol` knows.
    Protocol,
    /// A helper that `expect-sync` knows.
    Helper,
    /// `hot` or `cold`.
    Standby,
    /// `address:port`, or an absolute path of a Unix socket.
    Listen,
    /// `all` or `any`.
    Require,
    /// A conntrack zone.
    Zone,
    /// A mark, or a mark and a mask.
    Mark,
}

impl Kind {
    /// What was expected, for an error's text.
    pub fn expected(self) -> &'static str {
        match self {
            Kind::Name => "a name of 1 to 64 bytes without blanks",
            Kind::Path => "an absolute path",
            Kind::Interface => "an interface's name of 1 to 15 bytes",
            Kind::Host => "the IPv4 or IPv6 address of one host",
            Kind::Multicast => "an IPv4 multicast address, 224.0.0.0 to 239.255.255.255",
            Kind::Prefix => "an address or a prefix, 192.0.2.1 or 192.0.2.0/24",
            Kind::Protocol => "tcp, udp, icmp, icmp6, sctp or dccp",
            Kind::Helper => {
                "all, or helpers: ftp, sip, h323, nfs, sqlnet, tftp, pptp, irc, amanda, snmp, netbios-ns, sane"
            }
            Kind::Standby => "hot or cold",
            Kind::Listen => "ADDRESS:PORT or an absolute path",
            Kind::Require => "all or any",
            Kind::Zone => "a zone from 1 to 65535",
            Kind::Mark => "VALUE or VALUE/MASK, 0x1/0xff",
        }
    }

    /// The words it takes, where they are few.
    pub fn words(self) -> &'static [&'static str] {
        match self {
            Kind::Protocol => &["tcp", "udp", "icmp", "icmp6", "sctp", "dccp"],
            Kind::Helper => &[
                "all",
                "ftp",
                "sip",
                "h323",
                "nfs",
                "sqlnet",
                "tftp",
                "pptp",
                "irc",
                "amanda",
                "snmp",
                "netbios-ns",
                "sane",
            ],
            Kind::Standby => &["hot", "cold"],
            Kind::Require => &["all", "any"],
            _ => &[],
        }
    }
}

/// An option of VyOS.
const fn vyos(name: &'static str, shape: Shape, default: &'static str, help: &'static str) -> Opt {
    Opt { name, shape, default, vyos: true, reloads: false, help }
}

/// An option of ours.
const fn ours(name: &'static str, shape: Shape, default: &'static str, help: &'static str) -> Opt {
    Opt { name, shape, default, vyos: false, reloads: false, help }
}

impl Opt {
    const fn reloads(self) -> Opt {
        Opt { reloads: true, ..self }
    }
}

/// Megabytes that fit into the `int` of a socket buffer.
const BUFFER: Shape = Shape::Count { from: 1, to: 1023, unit: "MB of 1048576 bytes" };

/// `service conntrack-sync`.
pub const OPTIONS: &[Opt] = &[
    vyos(
        "interface",
        Shape::Tagged(Kind::Interface, INTERFACE),
        "",
        "The channel's interface: multicast on it, or unicast to `peer`. Required. With several, the first one is \
         used.",
    ),
    vyos(
        "failover-mechanism",
        Shape::Table(MECHANISM),
        "",
        "How this node learns whether it is primary: `vrrp`, `cluster`, `vip` or `manual`. Required, exactly one.",
    ),
    vyos("accept-protocol", Shape::List(Kind::Protocol), "", "Protocols to synchronise. Without it, all.")
        .reloads(),
    vyos(
        "ignore-address",
        Shape::List(Kind::Prefix),
        "",
        "Addresses and prefixes that are not synchronised, whichever end of a connection they are.",
    )
    .reloads(),
    vyos(
        "event-listen-queue-size",
        BUFFER,
        "8",
        "Size of the socket buffer for the kernel's events; what waits in it takes memory, room does not.",
    )
    .reloads(),
    vyos(
        "sync-queue-size",
        BUFFER,
        "1",
        "Size of the ring of sent datagrams kept for resending, and of the channel's socket buffers.",
    ),
    vyos(
        "expect-sync",
        Shape::List(Kind::Helper),
        "",
        "Helpers whose expectations are synchronised, or `all`: connections that they foresee, such as the data channels \
         of FTP.",
    )
    .reloads(),
    vyos("mcast-group", Shape::Text(Kind::Multicast), "\"225.0.0.50\"", "The channel's multicast group."),
    vyos(
        "listen-address",
        Shape::List(Kind::Host),
        "",
        "Address to receive on when a `peer` is set; must be this router's. With several, the first one is used.",
    ),
    vyos(
        "disable-external-cache",
        Shape::Flag,
        "false",
        "Accepted: the peer's entries are always installed at once here, unless `standby` is `cold`.",
    ),
    vyos("startup-resync", Shape::Flag, "false", "Accepted: always on here."),
    vyos(
        "disable-syslog",
        Shape::Flag,
        "false",
        "Accepted: ctsync logs to standard error, where systemd's journal takes it, and never to syslog.",
    ),
    vyos(
        "purge-timeout",
        Shape::Count { from: 1, to: 2_147_483_647, unit: "seconds" },
        "60",
        "Accepted: a backup never purges the kernel's table, it removes only what the owner has ended.",
    ),
    ours(
        "node",
        Shape::Text(Kind::Name),
        "",
        "This node's name; differs between the routers. Without it, the host name.",
    ),
    ours(
        "node-group",
        Shape::Count { from: 0, to: 4_294_967_295, unit: "" },
        "0",
        "Pairs that share a link need different numbers.",
    ),
    ours(
        "key-file",
        Shape::Text(Kind::Path),
        "",
        "Keys of the channel, one a line, as `ctsync keygen` makes them: the first one seals, all of them open. Readable \
         by its owner alone. Without it anyone on the channel's link can write to both tables.",
    )
    .reloads(),
    ours(
        "standby",
        Shape::Text(Kind::Standby),
        "\"hot\"",
        "`hot` installs the owner's entries at once, `cold` only at a takeover.",
    )
    .reloads(),
    ours(
        "window-tracking",
        Shape::Flag,
        "false",
        "After a takeover TCP entries get the kernel's window tracking back, as soon as packets were seen both ways. Without \
         it they stay be-liberal, as installed, for the rest of their life here.",
    )
    .reloads(),
    ours(
        "include-local",
        Shape::Flag,
        "false",
        "Synchronise also what cannot fail over: connections that begin or end on the router itself, loopback, VRRP, \
         link-local multicast. Never the channel's own.",
    )
    .reloads(),
    ours(
        "alive-interval",
        Shape::Count { from: 10, to: 60_000, unit: "milliseconds" },
        "250",
        "Between two signs of life.",
    )
    .reloads(),
    ours(
        "peer-timeout",
        Shape::Count { from: 20, to: 600_000, unit: "milliseconds" },
        "1000",
        "Silence after which the peer counts as lost; at least twice the alive-interval.",
    )
    .reloads(),
    ours(
        "gate-timeout",
        Shape::Count { from: 1, to: 86_400, unit: "seconds" },
        "30",
        "Without progress towards readiness for this long, the node may be elected all the same.",
    )
    .reloads(),
    ours(
        "owner-lost-timeout",
        Shape::Count { from: 1, to: 604_800, unit: "seconds" },
        "3600",
        "When no node has owned a group for this long, its entries go back to their protocols' timeouts and end by them.",
    )
    .reloads(),
    ours(
        "hold",
        Shape::Flag,
        "false",
        "While this node is not primary, and until a takeover is complete, drop what is to be forwarded or addressed to \
         the virtual addresses: no packet meets a table that lacks its entry. Needs the program `nft`.",
    ),
    ours(
        "group",
        Shape::Tagged(Kind::Name, GROUP),
        "",
        "Another failover group, by a name that is the same on all nodes: its own mechanism, role, owner and digest. An \
         entry belongs to the first group with an address, prefix, zone or mark of it; what belongs to none, to the group of \
         `failover-mechanism` above.",
    ),
    ours(
        "metrics-listen",
        Shape::Text(Kind::Listen),
        "",
        "Where metrics can be scraped by HTTP, as `/metrics`: `127.0.0.1:9338`, `[::1]:9338` or a Unix socket's path. \
         Without it, nowhere.",
    ),
    ours(
        "control-socket",
        Shape::Text(Kind::Path),
        "\"/run/ctsync/control.sock\"",
        "The socket that `ctsync` talks to.",
    ),
    ours(
        "state-directory",
        Shape::Text(Kind::Path),
        "\"/run/ctsync\"",
        "Where the role and the last transition outlive the daemon; void after a reboot.",
    ),
];

const INTERFACE: &[Opt] = &[
    vyos(
        "peer",
        Shape::Several(Kind::Host),
        "",
        "Unicast to this address instead of multicast; IPv6 too. With more than two routers a list of the others.",
    ),
    vyos("port", Shape::Count { from: 1, to: 65_535, unit: "" }, "3780", "The channel's UDP port."),
];

const MECHANISM: &[Opt] = &[
    vyos(
        "vrrp",
        Shape::Table(VRRP),
        "",
        "keepalived: its notify FIFO tells the role, its track file hears readiness.",
    ),
    vyos(
        "cluster",
        Shape::Table(CLUSTER),
        "",
        "heartbeat or Pacemaker: a resource script tells the role by `ctsync notify start|stop GROUP`.",
    ),
    ours(
        "vip",
        Shape::Table(VIP),
        "",
        "The virtual addresses themselves tell the role, for VRRP daemons that tell nothing (FRR): this node is primary \
         while they are on an interface that works.",
    ),
    ours("manual", Shape::Table(MANUAL), "", "`ctsync notify` tells the role."),
];

const VRRP: &[Opt] = &[
    vyos(
        "sync-group",
        Shape::Text(Kind::Name),
        "",
        "The name of keepalived's `vrrp_sync_group`. Required, unless `instance` is given.",
    ),
    ours(
        "instance",
        Shape::Text(Kind::Name),
        "",
        "The name of a `vrrp_instance` that is in no sync group, in place of `sync-group`.",
    ),
    ours(
        "notify-fifo",
        Shape::Text(Kind::Path),
        "",
        "keepalived's `vrrp_notify_fifo`; made if missing. Without it, `vrrp.fifo` in the state-directory.",
    ),
    ours(
        "track-file",
        Shape::Text(Kind::Path),
        "",
        "The file that keepalived tracks. Without it, `vrrp.track` in the state-directory.",
    ),
    VIRTUAL_ADDRESS,
];

const CLUSTER: &[Opt] =
    &[vyos("group", Shape::Text(Kind::Name), "", "The cluster group's name. Required."), VIRTUAL_ADDRESS];

const MANUAL: &[Opt] = &[
    ours("group", Shape::Text(Kind::Name), "", "The name by which `notify` names the group. Required."),
    VIRTUAL_ADDRESS,
];

const VIRTUAL_ADDRESS: Opt = ours(
    "virtual-address",
    Shape::List(Kind::Host),
    "",
    "The group's virtual addresses: they check a remembered role after a restart, `hold` needs them, and an entry with an end \
     in one of them belongs to the group.",
);

const VIP: &[Opt] = &[
    ours("address", Shape::List(Kind::Host), "", "The group's virtual addresses. Required."),
    ours(
        "interface",
        Shape::Text(Kind::Interface),
        "",
        "Only addresses on this interface count. Without it, wherever they are.",
    ),
    ours(
        "require",
        Shape::Text(Kind::Require),
        "\"all\"",
        "`all`: primary while every address is here. `any`: while one is.",
    ),
    ours("group", Shape::Text(Kind::Name), "\"vip\"", "The group's name in logs and `status`."),
];

const GROUP: &[Opt] = &[
    ours(
        "failover-mechanism",
        Shape::Table(MECHANISM),
        "",
        "How this node learns whether it is primary in this group. Required.",
    ),
    ours("prefix", Shape::List(Kind::Prefix), "", "Entries with an end in one of these belong to the group."),
    ours("zone", Shape::List(Kind::Zone), "", "Entries of these conntrack zones belong to the group."),
    ours(
        "mark",
        Shape::Text(Kind::Mark),
        "",
        "Entries whose mark is this when they are created belong to the group: VALUE or VALUE/MASK.",
    ),
];

/// An option and where it stands: `failover-mechanism vrrp sync-group`.
pub fn walk(visit: &mut impl FnMut(&[&'static str], &Opt)) {
    fn below(
        path: &mut Vec<&'static str>,
        options: &'static [Opt],
        visit: &mut impl FnMut(&[&'static str], &Opt),
    ) {
        for option in options {
            path.push(option.name);
            visit(path, option);
            match option.shape {
                Shape::Table(inner) => below(path, inner, visit),
                Shape::Tagged(_, inner) => {
                    path.push("NAME");
                    below(path, inner, visit);
                    path.pop();
                }
                Shape::Flag | Shape::Count { .. } | Shape::Text(_) | Shape::List(_) | Shape::Several(_) => {}
            }
            path.pop();
        }
    }
    below(&mut Vec::new(), OPTIONS, visit);
}
