//! The form of one record in a segment, and how reading goes on after damage.
//!
//! ```text
//! mark (4) │ length of the body (4) │ CRC-32 of all that follows and the length (4)
//! number of the first trace (8) │ finished, ms since 1970 (8)
//! traces (4) │ their bytes (4) │ CRC-32 of these (4) │ body: the traces, packed
//! ```
//!
//! Integers are little-endian. After damage reading goes on at the next mark that a sum agrees with.

use super::pack::{Contents, MAX_LENGTH, MAX_PACKED};
use memchr::memmem;
use std::io::Write as _;

/// What every record begins with.
const MARK: [u8; 4] = [0xFF, b'c', b'z', 0xFE];
/// Bytes before the body.
pub const HEADER: usize = 40;
/// Those of them before what is summed up.
const UNSUMMED: usize = 12;

/// One intact record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Which traces it holds.
    pub head: Head,
    /// What was written.
    pub body: &'a [u8],
}

/// What is said of a record beside its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Number of its first trace in the spool; numbers rise, those of one segment without gaps.
    pub number: u64,
    /// When the first of the calls finished, in milliseconds since 1970.
    pub finished_ms: u64,
    /// What is packed into it.
    pub contents: Contents,
}

impl Head {
    /// One above the number of its last trace.
    pub fn end(&self) -> u64 {
        self.number.saturating_add(u64::from(self.contents.traces))
    }
}

/// What stands at the beginning of some bytes of a segment.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A record, and how many bytes it takes.
    Record(Record<'a>, usize),
    /// So many bytes that are no record.
    Skip(usize),
    /// It cannot be told from less than so many bytes.
    More(usize),
    /// Nothing.
    End,
}

/// Room for a header; the body follows, then [`seal`].
pub const BLANK: [u8; HEADER] = [0; HEADER];

/// Fills in the header of a record whose body stands after [`BLANK`].
pub fn seal(record: &mut [u8], head: &Head) {
    let Some((header, rest)) = record.split_first_chunk_mut::<UNSUMMED>() else { return };
    let length = rest.len().saturating_sub(HEADER - UNSUMMED);
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    put(rest, &[&head.fields()]);
    let sum = checksum(&[&length, rest]).to_le_bytes();
    put(header, &[&MARK, &length, &sum]);
}

fn put(mut place: &mut [u8], fields: &[&[u8]]) {
    for field in fields {
        // There is room for all of them.
        drop(place.write_all(field));
    }
}

/// Reads what `bytes` begin with, of which `left` stand in the file from here on.
pub fn step(bytes: &[u8], left: u64) -> Step<'_> {
    step_by(bytes, left, Header::is_sum_of)
}

/// The same of bytes that were never out of memory, whose sum need not be checked.
pub fn step_in_memory(bytes: &[u8], left: u64) -> Step<'_> {
    step_by(bytes, left, |_, _| true)
}

fn step_by(bytes: &[u8], left: u64, is_intact: impl Fn(&Header, &[u8]) -> bool) -> Step<'_> {
    if left == 0 {
        return Step::End;
    }
    let enough = |wanted: usize| left >= wanted as u64;
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return if enough(HEADER) { Step::More(HEADER) } else { skip(bytes, left) };
    };
    let Some(header) = Header::read(header) else { return skip(bytes, left) };
    if header.length > MAX_PACKED || !enough(HEADER + header.length) {
        return skip(bytes, left);
    }
    let Some(body) = rest.get(..header.length) else {
        return Step::More(HEADER + header.length);
    };
    if !is_intact(&header, body) {
        return skip(bytes, left);
    }
    Step::Record(Record { head: header.head, body }, HEADER + header.length)
}

/// What a header says of its record, and the length of that in all, unchecked.
pub fn peek(header: &[u8; HEADER]) -> Option<(Head, usize)> {
    let header = Header::read(header)?;
    Some((header.head, HEADER + header.length))
}

impl Head {
    /// As it stands in a header.
    fn fields(&self) -> [u8; HEADER - UNSUMMED] {
        let Contents { traces, length, sum } = self.contents;
        let mut fields = [0; HEADER - UNSUMMED];
        put(
            &mut fields,
            &[
                &self.number.to_le_bytes(),
                &self.finished_ms.to_le_bytes(),
                &traces.to_le_bytes(),
                &length.to_le_bytes(),
                &sum.to_le_bytes(),
            ],
        );
        fields
    }
}

struct Header {
    length: usize,
    sum: u32,
    head: Head,
}

impl Header {
    /// `None` where there is no mark, or what nobody writes.
    fn read(bytes: &[u8; HEADER]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(&MARK)?;
        let (length, sum) = (word(&mut rest)?, word(&mut rest)?);
        let (number, finished_ms) = (long(&mut rest)?, long(&mut rest)?);
        let (traces, plain) = (word(&mut rest)?, word(&mut rest)?);
        let contents = Contents { traces, length: plain, sum: word(&mut rest)? };
        if traces == 0 || plain as usize > MAX_LENGTH {
            return None;
        }
        Some(Self { length: length as usize, sum, head: Head { number, finished_ms, contents } })
    }

    fn is_sum_of(&self, body: &[u8]) -> bool {
        let length = u32::try_from(self.length).unwrap_or(u32::MAX).to_le_bytes();
        self.sum == checksum(&[&length, &self.head.fields(), body])
    }
}

fn word(bytes: &mut &[u8]) -> Option<u32> {
    let (word, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*word))
}

fn long(bytes: &mut &[u8]) -> Option<u64> {
    let (long, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*long))
}

fn checksum(pieces: &[&[u8]]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    for piece in pieces {
        sum.update(piece);
    }
    sum.finalize()
}

/// To the next mark after the first byte, else to where one might begin beyond these bytes.
fn skip(bytes: &[u8], left: u64) -> Step<'_> {
    let found = bytes.get(1..).and_then(|rest| memmem::find(rest, &MARK));
    if let Some(at) = found {
        return Step::Skip(at + 1);
    }
    if bytes.len() as u64 >= left {
        return Step::Skip(usize::try_from(left).unwrap_or(usize::MAX));
    }
    Step::Skip(bytes.len().saturating_sub(MARK.len() - 1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(number: u64, body: &[u8]) -> Head {
        let length = u32::try_from(body.len()).unwrap();
        let contents = Contents { traces: length % 3 + 1, length, sum: !length };
        Head { number, finished_ms: 1_000 + number, contents }
    }

    fn segment(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, body) in (10..).zip(bodies) {
            let start = bytes.len();
            bytes.extend_from_slice(&BLANK);
            bytes.extend_from_slice(body);
            seal(&mut bytes[start..], &head(number, body));
        }
        bytes
    }

    /// Reads as a file would be read, `window` bytes at first.
    fn read(bytes: &[u8], window: usize) -> Vec<(u64, Vec<u8>)> {
        let (mut at, mut wanted, mut found) = (0, window, Vec::new());
        loop {
            let rest = &bytes[at..];
            match step(&rest[..wanted.min(rest.len())], rest.len() as u64) {
                Step::Record(record, taken) => {
                    assert_eq!(record.head, head(record.head.number, record.body));
                    found.push((record.head.number, record.body.to_vec()));
                    (at, wanted) = (at + taken, window);
                }
                Step::Skip(skipped) => {
                    assert!(skipped > 0 && skipped <= rest.len(), "always on, never past the end");
                    (at, wanted) = (at + skipped, window);
                }
                Step::More(more) => {
                    assert!(more > wanted.min(rest.len()) && more <= rest.len());
                    wanted = more;
                }
                Step::End => return found,
            }
        }
    }

    fn bodies() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let body = "[a-zA-Zäöü\u{0}-\u{7f}]{0,60}".prop_map(String::into_bytes);
        prop::collection::vec(body, 0..12)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bodies in bodies(), window in 1_usize..200) {
            let expected: Vec<_> = (10..).zip(bodies.iter().cloned()).collect();
            prop_assert_eq!(read(&segment(&bodies), window), expected);
        }

        #[test]
        fn any_bytes_are_read_to_their_end(bytes in prop::collection::vec(any::<u8>(), 0..400), window in 1_usize..64) {
            read(&bytes, window);
        }

        #[test]
        fn damage_costs_only_the_records_it_touches(
            bodies in bodies(), at in any::<prop::sample::Index>(), damage in prop::collection::vec(any::<u8>(), 1..40),
        ) {
            let mut bytes = segment(&bodies);
            prop_assume!(!bytes.is_empty());
            let from = at.index(bytes.len());
            let to = (from + damage.len()).min(bytes.len());
            let touched = |number: u64| {
                let before = |n: usize| bodies[..n].iter().map(|body| HEADER + body.len()).sum::<usize>();
                let index = usize::try_from(number - 10).unwrap();
                before(index) < to && before(index + 1) > from
            };
            bytes[from..to].copy_from_slice(&damage[..to - from]);
            let found = read(&bytes, 64);
            for (number, body) in (10..).zip(&bodies).filter(|(number, _)| !touched(*number)) {
                prop_assert!(found.contains(&(number, body.clone())), "{} is lost", number);
            }
            for (number, body) in found {
                let index = usize::try_from(number - 10).unwrap();
                prop_assert_eq!(&bodies[index], &body, "nothing is read that was not written");
            }
        }

        #[test]
        fn a_torn_tail_costs_only_the_last_record(bodies in bodies(), cut in any::<prop::sample::Index>()) {
            let bytes = segment(&bodies);
            prop_assume!(!bytes.is_empty());
            let cut = cut.index(bytes.len());
            let mut whole = 0;
            let mut end = 0;
            for body in &bodies {
                end += HEADER + body.len();
                whole += usize::from(end <= cut);
            }
            prop_assert_eq!(read(&bytes[..cut], 64).len(), whole);
        }
    }

    #[test]
    fn a_length_that_points_past_the_end_is_damage() {
        let mut bytes = segment(&[b"one".to_vec(), b"two".to_vec()]);
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(read(&bytes, 64), [(11, b"two".to_vec())]);
    }
}
