//! A spool as a whole: over restarts, damage, want of room, and two processes in one folder.

use super::append::{Appender, Flushed};
use super::read::{Cursor, Lot, Part};
use super::*;
use std::time::Duration;
use tempfile::TempDir;

pub(super) const ROOMY: u64 = 1 << 30;

pub(super) struct Process {
    pub(super) spool: Arc<Spool>,
    pub(super) appender: Appender,
}

impl Process {
    pub(super) fn start(folder: &Path, max_bytes: u64) -> Self {
        let spool = Arc::new(Spool::new(folder.to_owned(), max_bytes));
        spool.open().unwrap();
        Self { appender: Appender::new(Arc::clone(&spool)), spool }
    }

    pub(super) fn write(&mut self, body: &str) -> Flushed {
        self.write_at(1_000, body)
    }

    fn write_at(&mut self, finished_ms: u64, body: &str) -> Flushed {
        let mut flushed = Flushed::default();
        self.appender.take(finished_ms, body.as_bytes(), &mut flushed);
        assert_eq!(flushed, Flushed::default());
        self.flush()
    }

    pub(super) fn flush(&mut self) -> Flushed {
        let mut flushed = Flushed::default();
        self.appender.flush(&mut flushed).unwrap();
        flushed
    }

    pub(super) fn cursor(&self) -> Cursor {
        Cursor::new(Arc::clone(&self.spool)).expect("the right to deliver")
    }

    pub(super) fn close(mut self) {
        self.appender.close(&mut Flushed::default()).unwrap();
    }
}

pub(super) fn texts(lot: &Lot) -> Vec<String> {
    numbered(lot).into_iter().map(|(_, text)| text).collect()
}

/// The traces of a lot with their numbers.
pub(super) fn numbered(lot: &Lot) -> Vec<(u64, String)> {
    let of_part = |part: &Part| -> Vec<(u64, String)> {
        let plain = part.plain().unwrap();
        let texts = pack::each(&plain).map(|text| String::from_utf8(text.to_vec()).unwrap());
        (part.number()..).zip(texts).collect()
    };
    lot.parts.iter().flat_map(of_part).collect()
}

/// A text that begins so, of about this length, and that no compression makes much smaller.
pub(in super::super) fn noise(begin: &str, length: usize) -> String {
    let seed = begin
        .bytes()
        .fold(1, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'0' + u8::try_from(state % 64).unwrap())
    };
    let noise: String = (0..length).map(|_| next()).collect();
    format!("{begin} {noise}")
}

/// Takes and settles everything.
pub(super) fn deliver(process: &Process, cursor: &mut Cursor) -> (Vec<String>, u64) {
    let (mut all, mut lost) = (Vec::new(), 0);
    while let Some(lot) = cursor.take(7, 1 << 20).unwrap() {
        all.extend(texts(&lot));
        lost += lot.lost;
        process.spool.settle(lot.from, lot.to).unwrap();
    }
    (all, lost)
}

pub(super) fn segments(folder: &Path) -> Vec<PathBuf> {
    folder::list(folder).unwrap().into_iter().map(|named| named.path).collect()
}

#[test]
fn what_is_deleted_needs_no_disk_and_what_waits_does() {
    let folder = TempDir::new().unwrap();
    let mut process = Process::start(folder.path(), ROOMY);
    let spool = Arc::clone(&process.spool);
    process.write("delivered");
    spool.forget_deleted();
    assert_eq!(spool.unsynced(), 1);
    deliver(&process, &mut process.cursor());
    process.close();
    spool.forget_deleted();
    assert_eq!((segments(folder.path()).len(), spool.unsynced()), (0, 0));

    let mut process = Process { appender: Appender::new(Arc::clone(&spool)), spool };
    process.write("waits");
    let spool = Arc::clone(&process.spool);
    process.close();
    spool.forget_deleted();
    assert_eq!(spool.unsynced(), 1);
    spool.sync().unwrap();
    assert_eq!(spool.unsynced(), 0);
}

#[test]
fn no_number_is_used_twice_where_the_disk_kept_the_position_and_lost_the_records() {
    let folder = TempDir::new().unwrap();
    let mut process = Process::start(folder.path(), ROOMY);
    for text in ["a", "b", "c"] {
        process.write(text);
    }
    let mut cursor = process.cursor();
    let lots: Vec<_> = (0..3).map(|_| cursor.take(1, 1 << 20).unwrap().unwrap()).collect();
    // The second of two exports has ended, and not the first.
    process.spool.settle(lots[1].from, lots[1].to).unwrap();
    drop((process, cursor));
    for path in segments(folder.path()) {
        fs::remove_file(path).unwrap();
    }
    let mut process = Process::start(folder.path(), ROOMY);
    for text in ["d", "e"] {
        process.write(text);
    }
    let (texts, _) = deliver(&process, &mut process.cursor());
    assert_eq!(texts, ["d", "e"]);
}

#[test]
fn what_is_written_is_taken_once_and_then_gone() {
    let folder = TempDir::new().unwrap();
    let mut process = Process::start(folder.path(), ROOMY);
    let mut cursor = process.cursor();
    assert!(cursor.take(10, 1 << 20).unwrap().is_none());
    for text in ["a", "b", "c"] {
        process.write(text);
    }
    assert_eq!((cursor.waiting().0, process.spool.holds().records), (3, 3));
    let lot = cursor.take(2, 1 << 20).unwrap().unwrap();
    assert_eq!((texts(&lot), lot.from, lot.to), (vec!["a".into(), "b".into()], 0, 2));
    assert_eq!((cursor.waiting().0, process.spool.holds().records), (1, 3));
    process.spool.settle(lot.from, lot.to).unwrap();
    assert_eq!(process.spool.holds().records, 1);
    assert_eq!(deliver(&process, &mut cursor), (vec!["c".into()], 0));
    process.close();
    assert_eq!(segments(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn the_oldest_is_that_of_what_still_waits_also_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let mut process = Process::start(folder.path(), ROOMY);
    let mut cursor = process.cursor();
    for second in 1..=4 {
        process.write_at(second * 1_000, "a");
    }
    let oldest = |process: &Process| process.spool.holds().oldest_ms;
    assert_eq!(oldest(&process), Some(1_000));
    let lots = [2, 1].map(|most| cursor.take(most, 1 << 20).unwrap().unwrap());
    process.spool.settle(lots[1].from, lots[1].to).unwrap();
    assert_eq!(oldest(&process), Some(1_000), "the second lot ended first");
    process.spool.settle(lots[0].from, lots[0].to).unwrap();
    assert_eq!(oldest(&process), Some(4_000), "in the same segment as what is done");
    drop((process, cursor)); // no close: as kill -9 leaves it

    let again = Process::start(folder.path(), ROOMY);
    assert_eq!(oldest(&again), Some(4_000));
    deliver(&again, &mut again.cursor());
    assert_eq!(oldest(&again), None);
}

#[test]
fn a_lot_is_bounded_in_bytes_but_never_empty() {
    let folder = TempDir::new().unwrap();
    let mut process = Process::start(folder.path(), ROOMY);
    for text in ["aaaa", "bb", "cc", "d"] {
        process.write(text);
    }
    let mut cursor = process.cursor();
    let lots: Vec<_> = std::iter::from_fn(|| cursor.take(9, 3).unwrap()).collect();
    assert_eq!(
        lots.iter().map(texts).collect::<Vec<_>>(),
        [vec!["aaaa"], vec!["bb"], vec!["cc", "d"]]
    );
    assert_eq!(
        lots.iter().map(|lot| (lot.from, lot.to)).collect::<Vec<_>>(),
        [(0, 1), (1, 2), (2, 4)]
    );
}

#[test]
fn what_is_delivered_does_not_stay_on_disk_until_there_is_more() {
    let folder = TempDir::new().unwrap();
    let mut process = Process::start(folder.path(), ROOMY);
    let mut cursor = process.cursor();
    let let_go = |process: &mut Process, idle| {
        process.appender.let_go(idle, &mut Flushed::default()).unwrap();
        segments(folder.path()).len()
    };
    for number in 0..3 {
        process.write(&format!("a{number}"));
        assert_eq!(let_go(&mut process, Duration::ZERO), 1, "nobody has it yet");
        assert_eq!(deliver(&process, &mut cursor), (vec![format!("a{number}")], 0));
        assert_eq!(let_go(&mut process, Duration::from_hours(1)), 1, "more may come");
        assert_eq!(let_go(&mut process, Duration::ZERO), 0);
        assert_eq!(let_go(&mut process, Duration::ZERO), 0);
    }
    process.write("b");
    drop(cursor);
    process.close();
    let process = Process::start(folder.path(), ROOMY);
    assert_eq!(deliver(&process, &mut process.cursor()), (vec!["b".to_owned()], 0));
}

#[test]
fn after_a_crash_what_was_not_settled_is_taken_again_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let mut process = Process::start(folder.path(), ROOMY);
    let mut cursor = process.cursor();
    for n in 0..10 {
        process.write(&n.to_string());
    }
    let lots: Vec<_> = (0..3).map(|_| cursor.take(2, 1 << 20).unwrap().unwrap()).collect();
    process.spool.settle(lots[0].from, lots[0].to).unwrap();
    process.spool.settle(lots[2].from, lots[2].to).unwrap();
    drop((process, cursor)); // no close: as kill -9 leaves it

    let again = Process::start(folder.path(), ROOMY);
    assert_eq!(again.spool.holds().records, 6);
    let mut cursor = again.cursor();
    let (all, lost) = deliver(&again, &mut cursor);
    assert_eq!((all, lost), (["2", "3", "6", "7", "8", "9"].map(String::from).to_vec(), 0));
    again.close();
    assert_eq!(segments(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn numbers_go_on_where_everything_was_delivered_before() {
    let folder = TempDir::new().unwrap();
    let mut process = Process::start(folder.path(), ROOMY);
    process.write("old");
    deliver(&process, &mut process.cursor());
    process.close();
    let mut again = Process::start(folder.path(), ROOMY);
    let mut cursor = again.cursor();
    again.write("new");
    assert_eq!(deliver(&again, &mut cursor), (vec!["new".into()], 0));
}

#[test]
fn without_room_the_oldest_go_first_and_are_counted() {
    let folder = TempDir::new().unwrap();
    let mut process = Process::start(folder.path(), 1 << 20);
    let mut cursor = process.cursor();
    let write =
        |process: &mut Process, n: u64| process.write(&noise(&n.to_string(), 10_000)).dropped;
    let mut dropped = (0..50).map(|n| write(&mut process, n)).sum::<u64>();
    assert_eq!(dropped, 0);
    let taken = cursor.take(3, 1 << 20).unwrap().unwrap();
    dropped += (50..400).map(|n| write(&mut process, n)).sum::<u64>();
    let holds = process.spool.holds();
    assert!(holds.bytes <= 1 << 20, "{holds:?}");
    // What an export had taken is on its way and not lost.
    assert_eq!(dropped + holds.records + taken.parts.len() as u64, 400);
    process.spool.settle(taken.from, taken.to).unwrap();
    let (rest, lost) = deliver(&process, &mut cursor);
    assert_eq!((rest.len() as u64, lost), (holds.records, 0));
    assert!(rest.last().unwrap().starts_with("399 "));
}

#[test]
fn a_second_process_writes_at_once_and_delivers_when_the_first_has_ended() {
    let folder = TempDir::new().unwrap();
    let mut old = Process::start(folder.path(), ROOMY);
    old.write("old 1");
    let mut new = Process::start(folder.path(), ROOMY);
    assert!(!new.spool.holds().is_ours && Cursor::new(Arc::clone(&new.spool)).is_none());
    new.write_at(7_000, "new 1");
    assert_eq!(new.spool.holds().oldest_ms, Some(7_000));
    old.write("old 2");
    let mut cursor = old.cursor();
    assert_eq!(deliver(&old, &mut cursor).0, ["old 1", "old 2"]);
    old.write("old 3");
    old.close();
    drop(cursor);

    new.spool.open().unwrap();
    new.write("new 2");
    assert_eq!(new.spool.holds().records, 3);
    let (all, lost) = deliver(&new, &mut new.cursor());
    assert_eq!((all, lost), (["old 3", "new 1", "new 2"].map(String::from).to_vec(), 0));
    new.close();
    assert_eq!(segments(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn several_that_wait_do_not_write_to_the_same_file() {
    let folder = TempDir::new().unwrap();
    let first = Process::start(folder.path(), ROOMY);
    let (mut second, mut third) =
        (Process::start(folder.path(), ROOMY), Process::start(folder.path(), ROOMY));
    second.write("second");
    third.write("third");
    first.close();
    second.spool.open().unwrap();
    assert_eq!(deliver(&second, &mut second.cursor()).0, ["second"]);
    second.close();
    third.spool.open().unwrap();
    assert_eq!(deliver(&third, &mut third.cursor()).0, ["third"]);
}

#[test]
fn who_asks_what_there_is_never_waits_for_the_disk() {
    let folder = TempDir::new().unwrap();
    let mut process = Process::start(folder.path(), ROOMY);
    process.write("one");
    let before = process.spool.holds();
    let busy = process.spool.lock_index();
    assert_eq!(process.spool.holds(), before);
    drop(busy);
    process.write("two");
    assert_eq!(process.spool.holds().records, 2);
}

#[test]
fn prompts_on_disk_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("spool");
    let mut process = Process::start(&path, ROOMY);
    process.write("a prompt");
    let lot = process.cursor().take(1, 1).unwrap().unwrap();
    process.spool.settle(lot.from, lot.to).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let mut names = Vec::new();
    for entry in fs::read_dir(&path).unwrap() {
        let file = entry.unwrap().path();
        assert_eq!(mode(&file), 0o600, "{file:?}");
        names.push(file.file_name().unwrap().to_owned());
    }
    names.sort();
    assert_eq!(names, ["00000000000000000000.open", "lock", "numbers", "position"]);
}

#[test]
fn what_is_too_much_together_is_taken_apart_and_what_is_done_stays_so() {
    let folder = TempDir::new().unwrap();
    let mut process = Process::start(folder.path(), ROOMY);
    for text in ["a", "b", "c", "d", "e"] {
        process.appender.take(0, text.as_bytes(), &mut Flushed::default());
    }
    process.flush();
    let mut cursor = process.cursor();
    let lots = [2, 9].map(|most| cursor.take(most, 1 << 20).unwrap().unwrap());
    assert_eq!(lots.each_ref().map(texts), [vec!["a", "b"], vec!["c", "d", "e"]]);
    assert_eq!(lots.each_ref().map(|lot| (lot.from, lot.to)), [(0, 2), (2, 5)]);
    process.spool.settle(1, 2).unwrap();
    process.spool.settle(3, 4).unwrap();
    // As where the destination has become another one.
    let lot = process.cursor().take(9, 1 << 20).unwrap().unwrap();
    assert_eq!((texts(&lot), lot.lost), (vec!["a".into(), "c".into(), "e".into()], 0));
    drop((process, cursor)); // no close: as kill -9 leaves it
    let again = Process::start(folder.path(), ROOMY);
    assert_eq!(again.spool.holds().records, 3);
    assert_eq!(deliver(&again, &mut again.cursor()).0, ["a", "c", "e"]);
}
