use super::combine::MEGABYTE;
use super::*;

const DOCUMENTED: &str = r#"{
    "node": "router1",
    "accept-protocol": ["tcp", "udp", "icmp"],
    "event-listen-queue-size": 8,
    "failover-mechanism": { "vrrp": { "sync-group": "SYNC" } },
    "interface": { "eth0": {} },
    "mcast-group": "225.0.0.50",
    "sync-queue-size": 8
}"#;

fn good(text: &str) -> Loaded {
    parse(Path::new("config"), text).unwrap_or_else(|refused| panic!("{refused}"))
}

#[test]
fn the_documented_example_is_accepted() {
    let Loaded { config, remarks, .. } = good(DOCUMENTED);
    assert_eq!(config.interface, "eth0");
    assert_eq!(config.port, 3780);
    assert_eq!(config.accept_protocol, [6, 17, 1]);
    assert_eq!((config.event_buffer, config.sync_queue), (8 * MEGABYTE, 8 * MEGABYTE));
    assert_eq!(config.mechanism.group(), "SYNC");
    assert!(config.tunables.hot && remarks.is_empty());
}

#[test]
fn the_printed_example_is_accepted() {
    let loaded = good(EXAMPLE);
    assert_eq!(to_json(&loaded.values).parse::<Json>().unwrap(), EXAMPLE.parse::<Json>().unwrap());
}

#[test]
fn every_default_fits_its_option() {
    options::walk(&mut |path, option| {
        if option.default.is_empty() {
            return;
        }
        let default: Json = serde_json::from_str(option.default).unwrap();
        let fits = match option.shape {
            Shape::Flag => default.is_boolean(),
            Shape::Count { from, to, .. } => {
                default.as_u64().is_some_and(|number| (from..=to).contains(&number))
            }
            Shape::Text(_) => default.is_string(),
            Shape::List(_) | Shape::Several(_) | Shape::Table(_) | Shape::Tagged(..) => false,
        };
        assert!(fits, "{path:?}: {default}");
        assert!(!option.help.is_empty());
    });
}

/// The short forms, comma lists, comments and quotes of the 1.2 documentation mean what the full form means.
#[test]
fn old_and_new_lines_mean_the_same() {
    let seed = good(
        "set service conntrack-sync accept-protocol 'tcp,udp,icmp'\n\
         set service conntrack-sync event-listen-queue-size '8'\n\
         set service conntrack-sync failover-mechanism cluster group 'GROUP' # Or VRRP\n\
         set service conntrack-sync interface 'eth0'\n\
         set service conntrack-sync mcast-group '225.0.0.50'\n\
         set service conntrack-sync sync-queue-size '8'\n",
    );
    assert_eq!(seed.config.mechanism, Mechanism::Cluster { group: "GROUP".into(), virtual_address: vec![] });
    let newer = good(
        "set service conntrack-sync accept-protocol tcp\n\
         set service conntrack-sync accept-protocol udp\n\
         set service conntrack-sync accept-protocol \"icmp\"\n\
         set service conntrack-sync event-listen-queue-size 8\n\
         set service conntrack-sync cluster group GROUP\n\
         set service conntrack-sync interface eth0\n\
         set service conntrack-sync sync-queue-size 8\n",
    );
    assert_eq!(seed.config, newer.config);
    let (one, other) = ("ignore-address ipv4 192.0.2.0/24", "ignore-address 192.0.2.0/24");
    let with = |line: &str| {
        good(&format!(
            "# both\nset interfaces ethernet eth0 address 10.0.0.10/24\nset service conntrack-sync {line}\n\
             set service conntrack-sync interface eth0\nset service conntrack-sync vrrp sync-group 7\n"
        ))
    };
    assert_eq!(with(one).config, with(other).config);
    assert_eq!(with(one).config.mechanism.group(), "7");
    let remarks = with(one).remarks.join("\n");
    assert!(remarks.contains("1 line of another service is not ours and skipped: interfaces"), "{remarks}");
}

/// Whatever is accepted can be converted to `set` lines, and means the same there.
#[test]
fn odd_paths_and_names_survive_conversion() {
    for odd in ["/a b", "/it's", "/\"quoted\"", "/both ' and \"", "/#", "/'", "/ü\u{a0}"] {
        let text = DOCUMENTED.replace("\"node\"", &format!("\"key-file\": {}, \"node\"", Json::from(odd)));
        let loaded = good(&text);
        let lines = to_set_lines(&loaded.values);
        assert_eq!(good(&lines).config, loaded.config, "{lines}");
    }
    for broken in ["/a\nb", "/a\0b"] {
        let text = DOCUMENTED.replace("\"node\"", &format!("\"key-file\": {}, \"node\"", Json::from(broken)));
        assert!(parse(Path::new("file"), &text).is_err(), "{broken:?}");
    }
}

#[test]
fn only_what_differs_is_reloaded_or_needs_a_restart() {
    let old = good(DOCUMENTED).values;
    let new = good(&DOCUMENTED.replace("\"icmp\"", "\"sctp\"").replace("225.0.0.50", "225.0.0.51")).values;
    assert_eq!(difference(&old, &new), (vec!["accept-protocol"], vec!["mcast-group"]));
    assert_eq!(difference(&old, &old), (vec![], vec![]));
    // What is the default need not be said.
    let said = good(&DOCUMENTED.replace("\"node\"", "\"alive-interval\": 250, \"node\"")).values;
    assert_eq!(difference(&old, &said), (vec![], vec![]));
}

/// A peer is told it in a name of 64 bytes, whole: cut there it would be another one.
#[test]
fn a_groups_identity_fits_into_a_name() {
    for (group, told) in [
        ("SYNC".to_owned(), "SYNC".to_owned()),
        ("ü".repeat(32), "ü".repeat(24)),
        ("x".repeat(64), "x".repeat(48)),
    ] {
        let mechanism = Mechanism::Manual { group, virtual_address: vec![] };
        assert_eq!(mechanism.identity(), format!("manual {told}"));
        assert!(mechanism.identity().len() <= 64);
    }
}

#[test]
fn our_fragments_pass_our_check() {
    let loaded = good(DOCUMENTED);
    let fragments = keepalived_fragments(&loaded.config).unwrap();
    let file = Path::new("keepalived.conf");
    assert!(keepalived::check(&loaded.config.mechanism, file, &fragments).is_empty());
    let missing = |taken: &str| {
        let text = fragments.replace(taken, "");
        keepalived::check(&loaded.config.mechanism, file, &text)
            .into_iter()
            .map(|(_, mistake)| Mistake::from(mistake).word())
            .collect::<Vec<_>>()
    };
    assert_eq!(missing("    sync_group_tracking_weight\n"), ["TrackingWeight"]);
    assert_eq!(missing("ctsync weight 1"), ["TrackFile"]);
    assert_eq!(missing("vrrp_notify_fifo /run/ctsync/vrrp.fifo"), ["NotifyFifo"]);
    let misspelt = fragments.replace("SYNC", "SYNCH");
    let all = keepalived::check(&loaded.config.mechanism, file, &misspelt);
    assert!(all.first().unwrap().1.to_string().ends_with("did you mean \"SYNCH\"?"), "{all:?}");
}

#[test]
fn fragments_of_groups_and_instances_pass_too() {
    for (file, needed) in [("two-groups.set", 2), ("instance.set", 1)] {
        let path = format!("{}/tests/config/good/{file}", env!("CARGO_MANIFEST_DIR"));
        let loaded = read(Path::new(&path)).unwrap();
        let fragments = keepalived_fragments(&loaded.config).unwrap();
        let mut checked = 0;
        for (_, mechanism) in loaded.config.mechanisms() {
            assert!(
                keepalived::check(mechanism, Path::new("keepalived.conf"), &fragments).is_empty(),
                "{fragments}"
            );
            checked += u32::from(matches!(mechanism, Mechanism::Vrrp { .. }));
        }
        assert_eq!(checked, needed);
    }
}
