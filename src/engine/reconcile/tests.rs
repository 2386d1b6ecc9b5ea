//! Every decision in every state, and every answer to every request.

use ctsync_ctnetlink::entry::{Entry, Expectation, Rare};
use nix::errno::Errno;

use super::*;
use crate::failure::Failure;
use crate::table::tests::entry;
use crate::table::{SlotId, Table};

/// The flags that a decision looks at, in the order of the rows.
const FLAGS: [Flags; 6] =
    [Flags::READ_BACK, Flags::FORGOTTEN, Flags::PRESENT, Flags::INSTALLED, Flags::MINE, Flags::REPLACE];

/// Who decides, in the order of the columns. An owner is primary, unless it has just been told that it is no
/// more.
const STANDINGS: [Standing; 6] = [
    Standing { primary: false, owner: false, hot: true },
    Standing { primary: false, owner: false, hot: false },
    Standing { primary: true, owner: false, hot: true },
    Standing { primary: true, owner: false, hot: false },
    Standing { primary: true, owner: true, hot: false },
    Standing { primary: false, owner: true, hot: false },
];

/// Flags: read-back, forgotten, present, installed, mine, replace: set, not, or either.
const DECISIONS: &str = "
    ?????? | hot     | cold    | primary | cold primary | owner  | owner no more primary
    1????? | get     | get     | get     | get          | get    | get
    01???? | rest    | rest    | rest    | rest         | rest   | rest
    00000? | rest    | rest    | rest    | rest         | rest   | rest
    000?1? | destroy | destroy | stray   | stray        | stray  | destroy
    00010? | stray   | stray   | stray   | stray        | stray  | stray
    0010?? | create  | rest    | create  | rest         | create | create
    0011?0 | update  | update  | update  | update       | update | update
    0011?1 | destroy | destroy | get     | get          | get    | destroy";

fn slot(entry: Entry, flags: Flags) -> (Table, SlotId) {
    let mut table = Table::new(0);
    let id = table.insert(1, entry);
    table.get_mut(id).unwrap().set(flags);
    (table, id)
}

fn decision(word: &str) -> Decision {
    match word {
        "rest" => Decision::Rest,
        "stray" => Decision::Stray,
        "get" => Decision::Ask(Op::Get),
        "create" => Decision::Ask(Op::Create),
        "update" => Decision::Ask(Op::Update),
        "destroy" => Decision::Ask(Op::Destroy),
        word => panic!("{word}"),
    }
}

#[test]
fn every_decision_in_every_state() {
    let rows: Vec<Vec<&str>> =
        DECISIONS.trim().lines().skip(1).map(|row| row.split('|').map(str::trim).collect()).collect();
    for bits in 0..1_usize << FLAGS.len() {
        let on = |at: usize| bits >> at & 1 == 1;
        let flags: Flags = (0..FLAGS.len()).filter(|at| on(*at)).map(|at| FLAGS[at]).collect();
        let fits = |pattern: &str| {
            pattern.chars().enumerate().all(|(at, wanted)| wanted == '?' || on(at) == (wanted == '1'))
        };
        let fitting: Vec<&Vec<&str>> = rows.iter().filter(|row| fits(row[0])).collect();
        assert_eq!(fitting.len(), 1, "one row for {flags:?}");
        let (table, id) = slot(entry(1), flags);
        for (standing, wanted) in STANDINGS.into_iter().zip(&fitting[0][1..]) {
            let decided = decide(table.get(id).unwrap(), standing);
            assert_eq!(decided, decision(wanted), "{flags:?} of {standing:?}");
        }
    }
}

const ERRORS: [i32; 12] = [
    0,
    Errno::EEXIST as i32,
    Errno::ENOENT as i32,
    Errno::EBUSY as i32,
    Errno::EOPNOTSUPP as i32,
    Errno::ESHUTDOWN as i32,
    Errno::ENOMEM as i32,
    Errno::ENFILE as i32,
    Errno::EMFILE as i32,
    Errno::ENOSPC as i32,
    Errno::EPERM as i32,
    Errno::EINVAL as i32,
];

/// What an answer means for an entry that the table has. A word alone: done, or once more; a reason: refused
/// for it; `-` before a reason: once more without that part.
const OUTCOMES: &str = "
    request          | ok      | EEXIST  | ENOENT    | EBUSY   | EOPNOTSUPP      | ESHUTDOWN      | ENOMEM     | ENFILE     | EMFILE     | ENOSPC         | EPERM         | EINVAL
    create           | settled | again   | no-master | refused | refused         | refused        | table-full | table-full | table-full | chain-too-long | not-permitted | refused
    create helped    | settled | again   | no-master | refused | -helper-unknown | refused        | table-full | table-full | table-full | chain-too-long | not-permitted | refused
    create labelled  | again   | again   | no-master | refused | refused         | refused        | table-full | table-full | table-full | chain-too-long | not-permitted | refused
    create expected  | again   | again   | no-master | refused | helper-unknown  | helper-unknown | table-full | table-full | table-full | chain-too-long | not-permitted | refused
    update           | settled | refused | again     | settled | again           | refused        | table-full | table-full | table-full | -labels-unused | not-permitted | refused
    update reborn    | settled | refused | again     | again   | again           | refused        | table-full | table-full | table-full | -labels-unused | not-permitted | refused
    renew            | settled | refused | again     | refused | refused         | refused        | table-full | table-full | table-full | chain-too-long | not-permitted | refused
    track            | settled | refused | again     | refused | refused         | refused        | table-full | table-full | table-full | chain-too-long | not-permitted | refused
    destroy          | again   | refused | again     | refused | refused         | refused        | table-full | table-full | table-full | chain-too-long | not-permitted | refused
    destroy absent   | settled | refused | settled   | refused | refused         | refused        | table-full | table-full | table-full | chain-too-long | not-permitted | refused";

fn outcome(word: &str) -> Outcome {
    let failure = |word: &str| *Failure::ALL.iter().find(|failure| failure.word() == word).expect("a reason");
    match word {
        "settled" => Outcome::Settled,
        "again" => Outcome::Again,
        word => word
            .strip_prefix('-')
            .map_or_else(|| Outcome::Failed(failure(word)), |word| Outcome::Without(failure(word))),
    }
}

/// The request of a row, and what it was about.
fn asked(row: &str) -> (Op, Entry, Flags) {
    let (op, what) = row.split_once(' ').unwrap_or((row, ""));
    let op = match op {
        "create" => Op::Create,
        "update" => Op::Update,
        "renew" => Op::Renew,
        "track" => Op::Track,
        "destroy" => Op::Destroy,
        op => panic!("{op}"),
    };
    let own = Expectation { mask: entry(1).orig, flags: 0, class: 0, function: None, nat: None };
    let rare = match what {
        "helped" => Rare { helper: Some("ftp".into()), ..Rare::default() },
        "labelled" => Rare { labels: Some([7; 16]), ..Rare::default() },
        "expected" => Rare { helper: Some("ftp".into()), expectation: Some(own), ..Rare::default() },
        _ => Rare::default(),
    };
    let flags = match what {
        "absent" => Flags::INSTALLED | Flags::MINE,
        "reborn" => Flags::PRESENT | Flags::INSTALLED | Flags::REBORN,
        _ if op == Op::Create => Flags::PRESENT,
        _ => Flags::PRESENT | Flags::INSTALLED | Flags::MINE,
    };
    (op, Entry { rare: rare.boxed(), ..entry(1) }, flags)
}

#[test]
fn every_answer_to_every_request() {
    let mut pairs = 0;
    for row in OUTCOMES.trim().lines().skip(1) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let (op, entry, flags) = asked(cells[0]);
        assert_eq!(cells.len(), ERRORS.len() + 1, "{row}");
        for (errno, wanted) in ERRORS.into_iter().zip(&cells[1..]) {
            let (mut table, id) = slot(entry.clone(), flags);
            let mut slot = table.get_mut(id).unwrap();
            assert_eq!(note_answer(&mut slot, op, errno), outcome(wanted), "{} answered {errno}", cells[0]);
            // What the kernel is believed to hold follows from what it said.
            let installed = match (op, errno) {
                (op, 0) => op != Op::Destroy,
                (op, errno) => op != Op::Create && errno != Errno::ENOENT as i32,
            };
            assert_eq!(slot.has(Flags::INSTALLED), installed, "{} answered {errno}", cells[0]);
            pairs += 1;
        }
    }
    assert_eq!(pairs, 10 * ERRORS.len(), "every request, every answer");
}

/// A create and an update that contradict each other are a clash of reply tuples, not a reason to go on for
/// ever.
#[test]
fn contradictions_end() {
    for (op, errno) in [(Op::Create, Errno::EEXIST), (Op::Update, Errno::ENOENT)] {
        let (mut table, id) = slot(entry(1), Flags::PRESENT);
        let mut slot = table.get_mut(id).unwrap();
        let outcomes: Vec<Outcome> =
            (0..CLASH_AFTER).map(|_| note_answer(&mut slot, op, errno as i32)).collect();
        assert_eq!(outcomes.last(), Some(&Outcome::Failed(Failure::NatClash)), "{op:?}");
        assert!(outcomes[..outcomes.len() - 1].iter().all(|outcome| *outcome == Outcome::Again));
    }
}

/// What was left out once is not left out twice: the second refusal is one.
#[test]
fn without_a_part_it_is_tried_once() {
    for (row, errno, failure) in [
        ("create helped", Errno::EOPNOTSUPP, Failure::Refused),
        ("update", Errno::ENOSPC, Failure::ChainTooLong),
    ] {
        let (op, entry, flags) = asked(row);
        let (mut table, id) = slot(entry, flags);
        let mut slot = table.get_mut(id).unwrap();
        assert!(matches!(note_answer(&mut slot, op, errno as i32), Outcome::Without(_)), "{row}");
        assert_eq!(note_answer(&mut slot, op, errno as i32), Outcome::Failed(failure), "{row}");
    }
}
