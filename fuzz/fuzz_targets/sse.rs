//! Any bytes as a reply: what is read from them does not depend on how they are cut.
#![no_main]

use bytes::Bytes;
use cirque::protocol::Dialect;
use cirque::protocol::done::DoneFilter;
use cirque::protocol::sse::Framer;
use cirque::protocol::tap::{PlainTap, StreamTap};
use libfuzzer_sys::fuzz_target;

const DIALECTS: [Dialect; 5] = [
    Dialect::Chat,
    Dialect::Completions,
    Dialect::Responses,
    Dialect::Messages,
    Dialect::Embeddings,
];

fn events(stream: &[u8], size: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (mut framer, mut seen) = (Framer::new(), Vec::new());
    for chunk in stream.chunks(size) {
        framer.push(chunk, |event| seen.push((event.name.to_vec(), event.data.to_vec())));
    }
    seen
}

fn tapped(dialect: Dialect, stream: &[u8], size: usize) -> StreamTap {
    let mut tap = StreamTap::new(dialect);
    for chunk in stream.chunks(size) {
        tap.push(chunk);
    }
    tap
}

fn filtered(stream: &[u8], size: usize) -> Vec<u8> {
    let (mut filter, mut sent) = (DoneFilter::new(), Vec::new());
    for chunk in stream.chunks(size) {
        sent.extend(filter.push(Bytes::copy_from_slice(chunk)));
    }
    sent.extend(filter.finish());
    sent.concat()
}

fuzz_target!(|input: &[u8]| {
    let [choice, size, stream @ ..] = input else { return };
    let size = usize::from(*size) + 1;
    let whole = stream.len().max(1);
    assert_eq!(events(stream, size), events(stream, whole));
    assert_eq!(filtered(stream, size), filtered(stream, whole));

    let dialect = DIALECTS[usize::from(*choice) % DIALECTS.len()];
    let (cut, uncut) = (tapped(dialect, stream, size), tapped(dialect, stream, whole));
    assert_eq!(cut.garbled(), uncut.garbled());
    assert_eq!(cut.is_complete(), uncut.is_complete());
    assert_eq!(cut.at_boundary(), uncut.at_boundary());
    assert_eq!(cut.into_reading(), uncut.into_reading());

    let mut plain = PlainTap::new(dialect);
    for chunk in stream.chunks(size) {
        plain.push(&Bytes::copy_from_slice(chunk));
    }
    drop(plain.finish());
});
