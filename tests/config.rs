//! Configuration files as users write them: broken ones, each with its error and a snapshot of it; the
//! documented ones, accepted; every option through both forms.
//!
//! `INSTA_UPDATE=always cargo test --test config` writes the snapshots again.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ctsync::config::options::{Kind, OPTIONS, Opt, Shape};
use ctsync::config::{self, Machine, check_machine, parse, read, to_json, to_set_lines};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn files(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(directory);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension != "snap"));
    files.sort();
    files
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// The error without this machine's path, and the variants in it.
fn told(path: &Path, refused: &config::Refused) -> (String, Vec<String>) {
    let directory = format!("{}/", path.parent().unwrap().display());
    let words = refused.errors.iter().map(|error| error.mistake.word()).collect();
    (refused.to_string().replace(&directory, ""), words)
}

/// Every variant of the enums below [`config::Mistake`], from their sources: a new one needs a fixture here.
fn variants() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/mistake");
    let sources =
        std::fs::read_dir(folder).unwrap().map(|file| std::fs::read_to_string(file.unwrap().path()));
    let enums = |source: String| -> Vec<String> {
        let bodies = source.split("Mistake {\n").skip(1).filter_map(|rest| rest.split("\n}\n").next());
        let lines = bodies.flat_map(str::lines).filter_map(|line| line.strip_prefix("    "));
        let variants = lines.filter(|line| line.starts_with(|letter: char| letter.is_ascii_uppercase()));
        variants.map(|line| line.split([' ', '(', '{', ',']).next().unwrap().to_owned()).collect()
    };
    let mut all: BTreeSet<String> = sources.flat_map(|source| enums(source.unwrap())).collect();
    // Those that hold the others.
    all.retain(|word| !["File", "Json", "Value", "Combination", "Line", "Machine"].contains(&word.as_str()));
    all
}

#[test]
fn every_mistake_has_a_file_and_an_error_of_its_own() {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let mut all = String::new();
    let mut note = |file: String, text: String, words: Vec<String>| {
        all += &format!("{file}\n{text}\n\n");
        for word in words {
            seen.entry(word).or_insert_with(|| file.clone());
        }
    };
    let broken = files("broken");
    assert!(broken.len() >= 45, "{} broken files", broken.len());
    for path in &broken {
        let refused = match read(path) {
            Ok(_) => panic!("{} is accepted", path.display()),
            Err(refused) => refused,
        };
        let (text, words) = told(path, &refused);
        for error in &refused.errors {
            // Where a mistake is in one place, that place is told.
            let everywhere = [
                "Empty",
                "NotText",
                "ByteOrderMark",
                "NeitherForm",
                "Braces",
                "NothingOfOurs",
                "NoInterface",
                "NoMechanism",
            ];
            assert!(
                error.place.is_some() || everywhere.contains(&error.mistake.word().as_str()),
                "{}: {error}",
                path.display()
            );
        }
        note(name(path), text, words);
    }
    for path in files("machine") {
        let loaded = read(&path).unwrap_or_else(|refused| panic!("{refused}"));
        let refused = match check_machine(&loaded, &machine(&name(&path))) {
            Ok(_) => panic!("{} is accepted", path.display()),
            Err(refused) => refused,
        };
        let (text, words) = told(&path, &refused);
        note(format!("machine: {}", name(&path)), text, words);
    }
    let unreadable = read(Path::new("/nonexistent/config.json")).unwrap_err();
    note("no file".into(), unreadable.to_string(), vec![unreadable.errors[0].mistake.word()]);
    let large = tempfile::NamedTempFile::new().unwrap();
    large.as_file().set_len(5 * 1024 * 1024).unwrap();
    let refused = read(large.path()).unwrap_err();
    note("large file".into(), refused.errors[0].mistake.to_string(), vec![refused.errors[0].mistake.word()]);
    for (case, bytes, mode) in [
        ("key-permissions", "00".repeat(32), 0o640),
        ("not-a-key", "# the pair's\nnot hexadecimal\n".to_owned(), 0o600),
        ("no-key", "# none yet\n".to_owned(), 0o600),
        ("key-unreadable", String::new(), 0),
    ] {
        let refused = keys(&bytes, mode).unwrap_err();
        note(case.into(), refused.errors[0].mistake.word(), vec![refused.errors[0].mistake.word()]);
    }
    // A host without a name cannot be had here.
    let without: Vec<String> =
        variants().into_iter().filter(|word| !seen.contains_key(word) && word != "NoNodeName").collect();
    assert!(without.is_empty(), "mistakes without a file: {without:?}");
    println!("{} files, {} distinct mistakes", all.matches("\n\n").count(), seen.len());
    assert!(seen.len() >= 45, "{} distinct mistakes", seen.len());
    insta::assert_snapshot!("broken", all);
}

/// The keys of a file with these bytes and this mode; mode 0: no file.
fn keys(bytes: &str, mode: u32) -> Result<Vec<ctsync::engine::seal::Key>, config::Refused> {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    if mode > 0 {
        std::fs::write(&file, bytes).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let text = format!(
        r#"{{ "interface": {{ "eth0": {{}} }}, "failover-mechanism": {{ "manual": {{ "group": "G" }} }}, "key-file": "{}" }}"#,
        file.display()
    );
    config::read_keys(&parse(Path::new("config.json"), &text).unwrap())
}

#[test]
fn keys_are_read_in_their_order() {
    let text = format!("# the pair's\n{}\n\n{} # the next one\n", "01".repeat(32), "Ab".repeat(32));
    let found = keys(&text, 0o600).unwrap();
    assert_eq!(found, [ctsync::engine::seal::Key([1; 32]), ctsync::engine::seal::Key([0xab; 32])]);
}

/// A machine with eth0, eth1 and (without an IPv4 address) eth2, keepalived and heartbeat configured.
fn machine(case: &str) -> Machine {
    const KEEPALIVED: &str = "global_defs {\n  vrrp_notify_fifo /run/ctsync/vrrp.fifo\n  fifo_write_vrrp_states_on_reload\n}\n\
        vrrp_track_file ctsync {\n  file /run/ctsync/vrrp.track\n  weight 1\n}\n\
        vrrp_sync_group SYNC {\n  group { WAN LAN }\n  sync_group_tracking_weight\n  track_file { ctsync weight 1 }\n}\n\
        vrrp_sync_group UNWEIGHTED {\n  group { WAN }\n  track_file {\n    ctsync weight 1\n  }\n}\n\
        vrrp_sync_group HIGHEST {\n  group { TOP }\n  sync_group_tracking_weight\n  track_file { ctsync weight 1 }\n}\n\
        vrrp_instance TOP {\n  priority 255\n}\n";
    let running = case != "vrrp-not-running.json" && case != "cluster-not-running.json";
    let keepalived = if case == "keepalived-unreadable.json" {
        Err(std::io::ErrorKind::PermissionDenied.into())
    } else {
        let left_out =
            if case == "states-on-reload.json" { "fifo_write_vrrp_states_on_reload" } else { "\0" };
        Ok(KEEPALIVED.replace(left_out, ""))
    };
    let programs = if running { vec!["keepalived".to_owned(), "heartbeat".to_owned()] } else { vec![] };
    Machine {
        interfaces: Some(
            [
                ("eth0".to_owned(), vec!["10.0.0.10".parse().unwrap(), "fd00::10".parse().unwrap()]),
                ("eth1".to_owned(), vec!["10.0.1.10".parse().unwrap()]),
                ("eth2".to_owned(), vec!["fd00::2".parse().unwrap()]),
            ]
            .into(),
        ),
        running: Some(programs),
        keepalived: Some(("/etc/keepalived/keepalived.conf".into(), keepalived)),
        haresources: Some((
            "/etc/ha.d/haresources".into(),
            "router1 ctsync::GROUP IPaddr2::10.0.0.1/24/eth0\n".into(),
        )),
    }
}

/// However many there are of one kind, the next kind is told; the text is read over all of them.
#[test]
fn many_comments_hide_nothing() {
    let comments: String = (0..60).map(|number| format!("  // ä comment {number}\n")).collect();
    let text = format!(
        "{{\n{comments}  \"acept-protocol\": [\"tcp\"], \"interface\": {{ \"eth0\": {{}} }},\n  \
         \"failover-mechanism\": {{ \"manual\": {{ \"group\": \"G\" }} }}\n}}\n"
    );
    let refused = parse(Path::new("config.json"), &text).unwrap_err();
    let words: Vec<String> = refused.errors.iter().map(|error| error.mistake.word()).collect();
    assert_eq!(words.iter().filter(|word| *word == "Comment").count(), 50, "{words:?}");
    assert_eq!(words.last().unwrap(), "UnknownOption", "{words:?}");
    assert_eq!(refused.errors.last().unwrap().place.unwrap().line, 62);
}

#[test]
fn a_machine_that_has_everything_is_accepted() {
    let text =
        r#"{ "interface": { "eth0": {} }, "failover-mechanism": { "vrrp": { "sync-group": "SYNC" } } }"#;
    let loaded = parse(Path::new("config.json"), text).unwrap();
    check_machine(&loaded, &machine("")).unwrap_or_else(|refused| panic!("{refused}"));
}

/// The examples of the VyOS documentation and tests, and the two routers of the lab.
#[test]
fn documented_files_are_accepted() {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/examples/documented");
    let routers = ["router1.set", "router2.set", "cluster/router1.set", "cluster/router2.set"];
    let mut told = String::new();
    for path in files("good").into_iter().chain(routers.map(|router| lab.join(router))) {
        let loaded = read(&path).unwrap_or_else(|refused| panic!("{refused}"));
        told += &format!("{}\n{}", name(&path), to_json(&loaded.values));
        for remark in &loaded.remarks {
            told += &format!("remark: {remark}\n");
        }
        told += "\n";
        // Both forms of it mean the same.
        for text in [to_json(&loaded.values), to_set_lines(&loaded.values)] {
            let again = parse(Path::new("again"), &text).unwrap_or_else(|refused| panic!("{refused}"));
            assert_eq!(again.config, loaded.config, "{text}");
        }
    }
    insta::assert_snapshot!("good", told);
}

#[test]
fn the_schema_in_the_documents_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.schema.json");
    current(&path, &(serde_json::to_string_pretty(&config::schema()).unwrap() + "\n"));
}

#[test]
fn the_table_of_options_in_the_documents_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operation.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once("<!-- options -->\n").unwrap();
    let (_, after) = rest.split_once("<!-- end of options -->\n").unwrap();
    let table = config::reference_table();
    current(&path, &format!("{before}<!-- options -->\n{table}<!-- end of options -->\n{after}"));
}

/// Generated parts of the documents; `INSTA_UPDATE=always` writes them.
fn current(path: &Path, text: &str) {
    if std::env::var("INSTA_UPDATE").is_ok_and(|value| value == "always") {
        std::fs::write(path, text).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == text, "{} is not current: INSTA_UPDATE=always writes it", path.display());
}

fn text(kind: Kind) -> BoxedStrategy<Value> {
    let host = prop_oneof![
        (1u8..224, any::<[u8; 3]>())
            .prop_filter("a host", |(first, _)| *first != 127)
            .prop_map(|(first, [a, b, c])| std::net::IpAddr::from([first, a, b, c]).to_string()),
        any::<u64>().prop_map(|low| std::net::Ipv6Addr::from(0xfd00 << 112 | u128::from(low)).to_string()),
    ];
    match kind {
        Kind::Name => "[A-Za-z0-9_.-]{1,20}|[1-9][0-9]{0,2}|x#y|it's".prop_map(Value::from).boxed(),
        Kind::Interface => "[a-z]{1,4}[0-9]{1,2}(\\.[0-9]{1,3})?".prop_map(Value::from).boxed(),
        Kind::Path => "/run/[a-z]{1,8}(/[a-z. ]{0,6}[a-z])?".prop_map(Value::from).boxed(),
        Kind::Host => host.prop_map(Value::from).boxed(),
        Kind::Multicast => (224u8..240, any::<[u8; 3]>())
            .prop_map(|(a, [b, c, d])| json!(format!("{a}.{b}.{c}.{d}")))
            .boxed(),
        Kind::Prefix => (any::<u32>(), 0u8..33)
            .prop_map(|(bits, length)| {
                let net = ipnet::Ipv4Net::new(bits.into(), length).unwrap().trunc();
                if length == 32 { json!(net.addr().to_string()) } else { json!(net.to_string()) }
            })
            .boxed(),
        Kind::Protocol | Kind::Standby | Kind::Require => {
            prop::sample::select(kind.words()).prop_map(Value::from).boxed()
        }
        Kind::Helper => prop::sample::select(&kind.words()[1..]).prop_map(Value::from).boxed(),
        Kind::Zone => (1u16..).prop_map(|zone| json!(zone.to_string())).boxed(),
        Kind::Mark => {
            (any::<u32>(), any::<u32>()).prop_map(|(value, mask)| json!(format!("{value:#x}/{mask}"))).boxed()
        }
        Kind::Listen => prop_oneof![
            (any::<[u8; 4]>(), 1u16..)
                .prop_map(|([a, b, c, d], port)| json!(format!("{a}.{b}.{c}.{d}:{port}"))),
            Just(json!("[fd00::1]:9338")),
            Just(json!("/run/ctsync/metrics.sock")),
        ]
        .boxed(),
    }
}

fn value(option: &'static Opt) -> BoxedStrategy<Value> {
    match option.shape {
        Shape::Flag => any::<bool>().prop_map(Value::from).boxed(),
        Shape::Count { from, to, .. } => (from..=to).prop_map(Value::from).boxed(),
        Shape::Text(kind) | Shape::Several(kind) => text(kind),
        Shape::List(kind) => prop::collection::vec(text(kind), 1..4).prop_map(unique).boxed(),
        Shape::Table(options) => table(options),
        Shape::Tagged(kind, options) => (text(kind), table(options))
            .prop_map(|(tag, table)| json!({ tag.as_str().unwrap(): table }))
            .boxed(),
    }
}

fn unique(list: Vec<Value>) -> Value {
    let mut kept: Vec<Value> = Vec::new();
    for item in list {
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    Value::Array(kept)
}

/// Any choice of options, in their order.
fn table(options: &'static [Opt]) -> BoxedStrategy<Value> {
    let each: Vec<_> = options
        .iter()
        .map(|option| {
            prop::option::of(value(option)).prop_map(|value| value.map(|value| (option.name, value)))
        })
        .collect();
    each.prop_map(|all| {
        all.into_iter().flatten().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>()
    })
    .prop_map(Value::Object)
    .boxed()
}

/// The mechanism of this number among those given, with what it needs. `name`: the group's.
fn one_mechanism(all: &Value, number: usize, name: &str) -> Value {
    let (word, inner) =
        [("vrrp", "sync-group"), ("cluster", "group"), ("manual", "group"), ("vip", "group")][number];
    let mut chosen = all.get(word).cloned().unwrap_or_else(|| json!({}));
    let options = chosen.as_object_mut().unwrap();
    options.insert(inner.into(), json!(name));
    options.remove("instance");
    if word == "vip" {
        options.entry("address").or_insert_with(|| json!(["10.0.0.1"]));
    }
    json!({ word: chosen })
}

/// What the single values allow and their combination does not is put right.
fn possible(mut file: Map<String, Value>, mechanism: usize) -> Map<String, Value> {
    file.entry("interface").or_insert_with(|| json!({ "eth0": {} }));
    let all = file.remove("failover-mechanism").unwrap_or_else(|| json!({}));
    let chosen = one_mechanism(&all, mechanism, "SYNC");
    let first = &chosen[["vrrp", "cluster", "manual", "vip"][mechanism]];
    let addresses = first.get("virtual-address").or(first.get("address")).is_some();
    file.insert("failover-mechanism".into(), chosen);
    for group in file.get_mut("group").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        let group = group.as_object_mut().unwrap();
        let all = group.remove("failover-mechanism").unwrap_or_else(|| json!({}));
        group.insert("failover-mechanism".into(), one_mechanism(&all, 2, "ANOTHER"));
        group.entry("prefix").or_insert_with(|| json!(["10.0.0.0/8"]));
    }
    if file.contains_key("group") || !addresses {
        file.remove("hold");
    }
    let peer = file["interface"].as_object().unwrap().values().next().unwrap().get("peer").cloned();
    let v6 = |value: &Value| value.as_str().unwrap().contains(':');
    let listen = file.get("listen-address").and_then(|list| list.get(0)).cloned();
    if let Some(listen) = listen
        && peer.is_none_or(|peer| v6(&peer) != v6(&listen))
    {
        file.remove("listen-address");
    }
    let number = |file: &Map<String, Value>, name: &str, default: u64| {
        file.get(name).and_then(Value::as_u64).unwrap_or(default)
    };
    let alive = number(&file, "alive-interval", 250);
    if number(&file, "peer-timeout", 1000) < 2 * alive {
        file.insert("peer-timeout".into(), json!(2 * alive));
    }
    file
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// `set` lines, JSON and the daemon's view of them say the same, for every option.
    #[test]
    fn every_option_goes_through_both_forms(file in table(OPTIONS), mechanism in 0usize..4) {
        let Value::Object(file) = file else { unreachable!() };
        let file = possible(file, mechanism);
        let from_json = parse(Path::new("a.json"), &to_json(&file)).map_err(|refused| TestCaseError::fail(refused.to_string()))?;
        let lines = to_set_lines(&from_json.values);
        let from_lines = parse(Path::new("b.set"), &lines).map_err(|refused| TestCaseError::fail(format!("{refused}\n{lines}")))?;
        prop_assert_eq!(&from_json.config, &from_lines.config, "{}", lines);
        let again = parse(Path::new("c.json"), &to_json(&from_lines.values)).unwrap();
        prop_assert_eq!(&again.config, &from_json.config);
        prop_assert_eq!(config::difference(&from_json.values, &from_lines.values), (vec![], vec![]));
    }

    /// Whatever stands in a file, there is an answer.
    #[test]
    fn no_text_makes_it_panic(text in "(set|delete|\\{)? ?(service conntrack-sync)? ?[\\PC]{0,80}") {
        let _ = parse(Path::new("any"), &text);
    }
}
