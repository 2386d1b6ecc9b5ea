//! Which room may use which: the table in `docs/architecture.md`, held against the paths in the sources. An
//! arrow that the page does not have, one that it has and nobody uses, or a circle is a failure.
//!
//! Tests within the rooms may use what they like.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::Visit;

/// Who uses whom.
type Arrows = BTreeMap<String, BTreeSet<String>>;

/// Folders whose rooms have a row each on the page.
const MAPPED: [&str; 4] = ["src", "src/engine", "src/ctnetlink", "lab/src"];
/// Folders whose rooms must not go in circles, and no more.
const UNMAPPED: [&str; 9] = [
    "src/config",
    "src/daemon",
    "src/engine/replica",
    "lab/src/bench",
    "lab/src/load",
    "lab/src/machine",
    "lab/src/routers",
    "lab/src/scenario",
    "lab/src/verbs",
];
/// Crates of their own within `src`: one room each, seen from outside.
const CRATES: [&str; 2] = ["engine", "ctnetlink"];
/// The program's own crate, as the lab sees it.
const PROGRAM: &str = "ctsync";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Paths of a file, each as its segments, without those of its tests.
#[derive(Default)]
struct Paths(Vec<Vec<String>>);

impl Paths {
    fn tree(&mut self, above: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [above, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.0.push(with(&name.ident)),
            syn::UseTree::Rename(name) => self.0.push(with(&name.ident)),
            syn::UseTree::Glob(_) => self.0.push(above.to_vec()),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(above, tree)),
        }
    }
}

impl<'a> Visit<'a> for Paths {
    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        let test = |attribute: &syn::Attribute| {
            attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Ident>().is_ok_and(|word| word == "test")
        };
        if !item.attrs.iter().any(test) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        self.tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        self.0.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        syn::visit::visit_path(self, path);
    }
}

fn paths(source: &str) -> Vec<Vec<String>> {
    let mut paths = Paths::default();
    paths.visit_file(&syn::parse_file(source).unwrap());
    paths.0
}

/// The Rust files below a folder.
fn all_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(all_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// ... tests apart.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = all_files(folder);
    found.retain(|path| !path.ends_with("tests.rs"));
    found
}

/// The rooms of a folder, and the files of each. The file that opens the folder (`mod.rs`, `lib.rs`,
/// `main.rs`) is none.
fn rooms(folder: &str) -> BTreeMap<String, Vec<PathBuf>> {
    let base = root().join(folder);
    let mut rooms: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in files(&base) {
        let first = path.strip_prefix(&base).unwrap().components().next().unwrap();
        let room = first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned();
        if !["mod", "lib", "main"].contains(&room.as_str()) {
            rooms.entry(room).or_default().push(path);
        }
    }
    rooms
}

/// Which rooms of a folder use which, by paths that begin with one of these.
fn arrows(folder: &str, begins: &[&[&str]]) -> Arrows {
    let rooms = rooms(folder);
    let mut arrows = Arrows::new();
    for (room, files) in &rooms {
        let used = arrows.entry(room.clone()).or_default();
        if folder == "src" && CRATES.contains(&room.as_str()) {
            continue;
        }
        for path in files.iter().flat_map(|file| paths(&std::fs::read_to_string(file).unwrap())) {
            let to = begins.iter().find_map(|begin| {
                let begins = path.len() > begin.len() && path.iter().zip(*begin).all(|(a, b)| a == b);
                begins.then(|| path[begin.len()].clone())
            });
            used.extend(to.filter(|to| to != room && rooms.contains_key(to)));
            let outside = path[0].strip_prefix("ctsync_").filter(|name| CRATES.contains(name));
            let program = (path[0] == PROGRAM).then_some(PROGRAM);
            used.extend(outside.or(program).map(ToOwned::to_owned));
        }
    }
    arrows
}

/// A way that comes back to where it began.
fn circle(arrows: &Arrows) -> Option<Vec<String>> {
    fn walk(arrows: &Arrows, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> Option<Vec<String>> {
        let room = way.last().unwrap().clone();
        for next in arrows.get(&room).into_iter().flatten() {
            if let Some(at) = way.iter().position(|room| room == next) {
                return Some([&way[at..], std::slice::from_ref(next)].concat());
            }
            if !done.contains(next) {
                way.push(next.clone());
                let found = walk(arrows, way, done);
                if found.is_some() {
                    return found;
                }
                way.pop();
            }
        }
        done.insert(room);
        None
    }
    let mut done = BTreeSet::new();
    arrows.keys().find_map(|room| walk(arrows, &mut vec![room.clone()], &mut done))
}

fn mapped() -> Arrows {
    let mut all = Arrows::new();
    for folder in MAPPED {
        let part = folder.trim_start_matches("src").trim_end_matches("src").trim_matches('/');
        let prefix = if part.is_empty() { String::new() } else { format!("{part}/") };
        for (room, used) in arrows(folder, &[&["crate"]]) {
            let outside = |to: &str| CRATES.contains(&to) || to == PROGRAM;
            let inner = |to: String| if outside(&to) { to } else { format!("{prefix}{to}") };
            all.entry(format!("{prefix}{room}")).or_default().extend(used.into_iter().map(inner));
        }
    }
    all
}

/// The page's table: room, and what it may use.
fn page() -> Arrows {
    let page = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let table = page.split("| room | may use |\n").nth(1).expect("the page has the table");
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let used = cells[1].split(',').map(str::trim).filter(|name| !name.is_empty());
        (cells[0].trim_matches('`').to_owned(), used.map(ToOwned::to_owned).collect())
    })
    .collect()
}

#[test]
fn the_page_has_every_arrow_and_no_other() {
    let (sources, page) = (mapped(), page());
    let rendered = |arrows: &Arrows| {
        let row = |(room, used): (&String, &BTreeSet<String>)| {
            format!("| `{room}` | {} |\n", used.iter().cloned().collect::<Vec<_>>().join(", "))
        };
        arrows.iter().map(row).collect::<String>()
    };
    assert!(
        sources == page,
        "docs/architecture.md should say:\n{}\nand says:\n{}",
        rendered(&sources),
        rendered(&page)
    );
    assert_eq!(circle(&sources), None);
}

#[test]
fn no_rooms_go_in_circles() {
    for folder in UNMAPPED {
        let inside: Vec<&str> =
            folder.split('/').filter(|part| !["src", "engine", "lab"].contains(part)).collect();
        let from_crate = [&["crate"], inside.as_slice()].concat();
        let found = arrows(folder, &[&["super"], &from_crate]);
        assert!(found.values().any(|used| !used.is_empty()), "{folder}: no arrow was found at all");
        assert_eq!(circle(&found), None, "{folder}");
    }
}

/// A planted arrow, by each way to write it, is found; one in a test is not.
#[test]
fn an_arrow_is_seen_however_it_is_written() {
    let written = [
        "use crate::daemon::Daemon;",
        "use crate::{entry, daemon::{self, Daemon}};",
        "pub use crate::daemon as other;",
        "fn a() { crate::daemon::start(); }",
        "fn a(b: &crate::daemon::Daemon) {}",
        "impl crate::daemon::Start for A {}",
    ];
    let found =
        |source: &str| paths(source).iter().any(|path| path[..2.min(path.len())] == ["crate", "daemon"]);
    for source in written {
        assert!(found(source), "{source}");
        assert!(!found(&format!("#[cfg(test)]\nmod tests {{ {source} }}")), "{source}");
    }
    let circular = [("a", "b"), ("b", "c"), ("c", "b")];
    let arrows: Arrows =
        circular.iter().map(|(from, to)| ((*from).to_owned(), BTreeSet::from([(*to).to_owned()]))).collect();
    assert_eq!(circle(&arrows).unwrap(), ["b", "c", "b"]);
}

/// A room that one can take in: no file is longer than this, no comment wider than code may be
/// (`rustfmt.toml`). The length of functions is clippy's affair.
#[test]
fn files_and_comments_have_an_end() {
    const LINES: usize = 500;
    const COLUMNS: usize = 110;
    let mut beyond = Vec::new();
    let mut seen = 0;
    for folder in ["src", "lab/src", "tests", "fuzz/src", "fuzz/fuzz_targets"] {
        for path in all_files(&root().join(folder)) {
            let text = std::fs::read_to_string(&path).unwrap();
            seen += 1;
            if text.lines().count() > LINES {
                beyond.push(format!("{}: {} lines", path.display(), text.lines().count()));
            }
            for (at, line) in text.lines().enumerate() {
                if line.trim_start().starts_with("//") && line.chars().count() > COLUMNS {
                    beyond.push(format!("{}:{}: {} columns", path.display(), at + 1, line.chars().count()));
                }
            }
        }
    }
    assert!(seen > 200, "{seen} files were looked at");
    assert!(beyond.is_empty(), "{beyond:#?}");
}
