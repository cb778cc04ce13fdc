//! Any bytes as a segment of the spool: reading ends, never leaves them, finds the same in windows
//! of any size, and finds every record that the damage did not touch.
#![no_main]

use cirque::telemetry::delivery::spool::pack::Contents;
use cirque::telemetry::delivery::spool::record::{BLANK, HEADER, Head, Step, seal, step};
use libfuzzer_sys::fuzz_target;

type Found = Vec<(u64, u64, Vec<u8>)>;

/// Reads as the exporter reads a file: a window that grows where it must.
fn read(bytes: &[u8], window: usize) -> Found {
    let (mut at, mut wanted, mut found) = (0, window, Vec::new());
    loop {
        let rest = &bytes[at..];
        let (seen, left) = (&rest[..wanted.min(rest.len())], rest.len() as u64);
        let taken = match step(seen, left) {
            Step::Record(record, taken) => {
                found.push((record.head.number, record.head.finished_ms, record.body.to_vec()));
                taken
            }
            Step::Skip(skipped) => skipped,
            Step::More(more) => {
                assert!(more > seen.len() && more <= rest.len(), "asks for what there is");
                wanted = more;
                continue;
            }
            Step::End => return found,
        };
        assert!(taken > 0 && taken <= rest.len(), "goes on, and never past the end");
        (at, wanted) = (at + taken, window);
    }
}

/// A segment whose bodies are text, as ours are, and where each record ends.
fn segment(text: &str, length: usize) -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    let characters: Vec<char> = text.chars().collect();
    for (number, body) in (7..).zip(characters.chunks(length)) {
        let start = bytes.len();
        bytes.extend_from_slice(&BLANK);
        bytes.extend_from_slice(body.iter().collect::<String>().as_bytes());
        let contents = Contents { traces: 1, ..Contents::default() };
        seal(&mut bytes[start..], &Head { number, finished_ms: number * 1_000, contents });
        ends.push(bytes.len());
    }
    (bytes, ends)
}

fuzz_target!(|input: &[u8]| {
    let [window, length, from, to, rest @ ..] = input else { return };
    let window = usize::from(*window) + 1;
    assert_eq!(read(rest, window), read(rest, rest.len().max(1)));

    let (whole, ends) = segment(&String::from_utf8_lossy(rest), usize::from(*length) + 1);
    assert_eq!(read(&whole, window).len(), ends.len());
    let place = |share: u8| whole.len() * usize::from(share) / 256;
    let (from, to) = (place(*from.min(to)), place(*from.max(to)));
    let mut damaged = whole.clone();
    for (byte, other) in damaged[from..to].iter_mut().zip(rest.iter().rev().cycle()) {
        *byte ^= other;
    }
    let (before, after) = (read(&whole, window), read(&damaged, window));
    let mut start = 0;
    for (record, end) in before.iter().zip(&ends) {
        let is_touched = start < to && *end > from;
        assert!(is_touched || after.contains(record), "an untouched record is lost");
        assert_eq!(end - start, HEADER + record.2.len());
        start = *end;
    }
});
