//! A spool whose folder or disk fails, or what is on it: what is kept, what goes first, and how it recovers.

use super::append::{Appender, Flushed};
use super::read::Cursor;
use super::tests::{Process, ROOMY, deliver, noise, segments, texts};
use super::*;
use tempfile::TempDir;

#[test]
fn a_folder_that_is_removed_by_hand_is_made_anew() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("deep/spool");
    let mut process = Process::start(&path, ROOMY);
    let mut cursor = process.cursor();
    process.write("lost");
    fs::remove_dir_all(&path).unwrap();
    let flushed = process.write("kept");
    assert_eq!(flushed, Flushed { written: 1, dropped: 1, overflown: 0 });
    assert_eq!(deliver(&process, &mut cursor).0, ["kept"]);
}

#[test]
fn a_folder_that_cannot_be_written_keeps_what_comes_until_it_can() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("spool");
    fs::write(&path, "a file where the folder should be").unwrap();
    let spool = Arc::new(Spool::new(path.clone(), ROOMY));
    let mut appender = Appender::new(Arc::clone(&spool));
    let mut flushed = Flushed::default();
    for n in 0..40 {
        let body = noise(&n.to_string(), 1 << 20);
        appender.take(0, body.as_bytes(), &mut flushed);
        assert!(appender.flush(&mut flushed).is_err());
    }
    assert_eq!((flushed.written, flushed.dropped), (0, 0));
    let kept = 40 - flushed.overflown;
    assert!((16..=18).contains(&kept), "{kept}");
    appender.tell();
    assert_eq!((spool.holds().records, spool.holds().unwritten), (kept, kept));
    // Also what nobody has tried to write yet.
    appender.take(0, b"one more", &mut flushed);
    appender.tell();
    let kept = kept + 1;
    assert_eq!((spool.holds().records, spool.holds().unwritten), (kept, kept));
    assert_eq!(spool.holds().oldest_ms, Some(0));
    fs::remove_file(&path).unwrap();
    appender.flush(&mut flushed).unwrap();
    assert_eq!((flushed.written, spool.holds().records), (kept, kept));
    assert!(spool.lock_index().recent.at(0, 0).is_none(), "memory of an outage is given back");
    let lot = Cursor::new(spool).unwrap().take(1, 1).unwrap().unwrap();
    let oldest = format!("{} ", flushed.overflown);
    assert!(texts(&lot)[0].starts_with(&oldest), "the oldest go first");
}

/// A file system of so many MiB; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where this user may not mount.
    fn mount(at: &Path, mebibytes: u32) -> Option<Self> {
        let mut mount = std::process::Command::new("mount");
        let size = format!("size={mebibytes}m");
        let mount = mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at);
        let is_mounted = mount.output().is_ok_and(|ended| ended.status.success());
        is_mounted.then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[test]
fn on_a_full_disk_the_oldest_go_first_and_what_is_delivered_makes_room() {
    const RECORDS: u64 = 300;
    let folder = TempDir::new().unwrap();
    let Some(_disk) = SmallDisk::mount(folder.path(), 4) else {
        eprintln!("skipped: only root may mount a small disk");
        return;
    };
    let mut process = Process::start(folder.path(), ROOMY);
    let mut cursor = process.cursor();
    let mut flushed = Flushed::default();
    // More than the 4 MiB there and the 16 MiB kept in memory. Somebody reads the oldest meanwhile.
    for n in 0..RECORDS {
        let body = noise(&n.to_string(), 100 << 10);
        process.appender.take(0, body.as_bytes(), &mut flushed);
        drop(process.appender.flush(&mut flushed));
    }
    let lost = flushed.dropped + flushed.overflown;
    assert!((80..200).contains(&lost) && flushed.overflown == 0, "{flushed:?}");
    let number = |text: &String| -> u64 { text.split(' ').next().unwrap().parse().unwrap() };
    let mut numbers = Vec::new();
    for _ in 0..50 {
        while let Some(lot) = cursor.take(7, 1 << 20).unwrap() {
            numbers.extend(texts(&lot).iter().map(number));
            // Where it stands cannot be noted as long as there is no room.
            drop(process.spool.settle(lot.from, lot.to));
        }
        drop(process.appender.flush(&mut flushed));
    }
    assert_eq!(numbers, (lost..RECORDS).collect::<Vec<_>>());
    assert_eq!(process.spool.holds().records, 0);
}

#[test]
fn a_torn_tail_is_skipped_and_damage_in_the_middle_is_counted() {
    let folder = TempDir::new().unwrap();
    let mut process = Process::start(folder.path(), ROOMY);
    for n in 0..6 {
        process.write(&format!("record {n}"));
    }
    drop(process);
    let path = segments(folder.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let length = bytes.len() / 6;
    bytes[length * 2 + 30] ^= 1;
    bytes.truncate(length * 6 - 3);
    fs::write(&path, bytes).unwrap();

    let again = Process::start(folder.path(), ROOMY);
    let (all, lost) = deliver(&again, &mut again.cursor());
    let expected = [0, 1, 3, 4].map(|n| format!("record {n}"));
    assert_eq!((all, lost), (expected.to_vec(), 1));
    assert_eq!(again.spool.holds().records, 0);
}

#[test]
fn of_a_damaged_record_what_was_delivered_before_is_not_lost() {
    let folder = TempDir::new().unwrap();
    let mut process = Process::start(folder.path(), ROOMY);
    for text in ["refused", "b", "c"] {
        process.appender.take(0, text.as_bytes(), &mut Flushed::default());
    }
    process.flush();
    process.write("d");
    process.spool.settle(1, 3).unwrap();
    drop(process); // no close: as kill -9 leaves it
    let path = segments(folder.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[record::HEADER] ^= 1;
    fs::write(&path, bytes).unwrap();

    let again = Process::start(folder.path(), ROOMY);
    assert_eq!(deliver(&again, &mut again.cursor()), (vec!["d".into()], 1));
    assert_eq!(again.spool.holds().records, 0);
}

#[test]
fn what_cannot_be_read_is_lost_once_and_done_with() {
    let folder = TempDir::new().unwrap();
    let mut process = Process::start(folder.path(), ROOMY);
    let mut cursor = process.cursor();
    process.write("a");
    process.write("b");
    cursor.skip_segment();
    assert!(cursor.has_lost());
    let lot = cursor.take(9, 1 << 20).unwrap().unwrap();
    assert_eq!((lot.from, lot.to, lot.lost, lot.parts.len()), (0, 2, 2, 0));
    process.spool.settle(lot.from, lot.to).unwrap();
    process.write("c");
    cursor.skip_segment();
    process.write("d");
    assert_eq!(deliver(&process, &mut cursor), (vec!["d".into()], 1));
    assert_eq!(process.spool.holds().records, 0, "so that its segment is deleted");
}
