//! The body of an export: a gzip stream put together from what is compressed already.

use super::super::spool::pack::BETWEEN;
use super::super::spool::read::Part;
use crate::telemetry::langfuse::envelope;
use bytes::Bytes;
use crc32fast::Hasher;

/// Deflate, no name and no time; the fastest level, an unknown system (RFC 1952).
const HEADER: [u8; 10] = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 4, 0xFF];

/// The export of these, and its length before compression.
pub(super) fn gzip(parts: &[Part]) -> (Bytes, usize) {
    let (before, after) = envelope();
    let packed: usize = parts.iter().map(|part| part.packed.len() + STORED + BETWEEN.len()).sum();
    let room = HEADER.len() + 2 * STORED + before.len() + after.len() + size_of::<[u32; 2]>();
    let mut stream = Stream { out: Vec::with_capacity(room + packed), ..Stream::default() };
    stream.out.extend_from_slice(&HEADER);
    stream.store(before, false);
    for (nth, part) in parts.iter().enumerate() {
        if nth > 0 {
            stream.store(BETWEEN, false);
        }
        let contents = part.head.contents;
        stream.out.extend_from_slice(&part.packed);
        let sum = Hasher::new_with_initial_len(contents.sum, contents.length.into());
        stream.add(&sum, part.length());
    }
    stream.store(after, true);
    stream.end()
}

/// What begins a block that is not compressed.
const STORED: usize = 5;

#[derive(Default)]
struct Stream {
    out: Vec<u8>,
    sum: Hasher,
    length: usize,
}

impl Stream {
    /// A few bytes as they are, at most 65,535: a block of their own (RFC 1951 section 3.2.4).
    fn store(&mut self, bytes: &[u8], is_last: bool) {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.out.push(u8::from(is_last));
        self.out.extend_from_slice(&length.to_le_bytes());
        self.out.extend_from_slice(&(!length).to_le_bytes());
        self.out.extend_from_slice(bytes);
        let mut sum = Hasher::new();
        sum.update(bytes);
        self.add(&sum, bytes.len());
    }

    fn add(&mut self, sum: &Hasher, length: usize) {
        self.sum.combine(sum);
        self.length += length;
    }

    fn end(mut self) -> (Bytes, usize) {
        #[expect(clippy::cast_possible_truncation, reason = "gzip counts modulo 2^32")]
        let length = self.length as u32;
        self.out.extend_from_slice(&self.sum.finalize().to_le_bytes());
        self.out.extend_from_slice(&length.to_le_bytes());
        (self.out.into(), self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::spool::pack::Packer;
    use super::*;
    use flate2::read::GzDecoder;
    use std::io::Read as _;

    fn read(parts: &[Part]) -> (serde_json::Value, usize, usize) {
        let (bytes, length) = gzip(parts);
        let (mut text, mut stream) = (String::new(), GzDecoder::new(&*bytes));
        stream.read_to_string(&mut text).unwrap();
        let body: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "one stream, whose sum and length are right");
        (body["resourceSpans"][0]["scopeSpans"][0]["spans"].clone(), length, text.len())
    }

    #[test]
    fn what_was_packed_apart_is_read_as_one_document() {
        let mut packer = Packer::default();
        let one = |packer: &mut Packer, text: &str| Part::one(packer, (1, 0), text.as_bytes());
        let parts: Vec<Part> = (0..5)
            .map(|n| {
                one(&mut packer, &format!(r#"{{"n":{n},"text":"{}"}}"#, "ab ".repeat(n * 9_000)))
            })
            .collect();
        let (spans, length, told) = read(&parts);
        assert_eq!((spans.as_array().unwrap().len(), spans[4]["n"].as_u64()), (5, Some(4)));
        assert_eq!(spans[4]["text"].as_str().unwrap().len(), 4 * 9_000 * 3);
        assert_eq!(length, told);
        assert_eq!(read(&[]).0, serde_json::json!([]));
    }
}
