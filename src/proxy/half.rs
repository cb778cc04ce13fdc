//! Chapter 4, half an event: what of a stream waits for its other half (ADR 9).

use super::relay::HOLD_STREAM;
use crate::protocol::tap::StreamTap;
use bytes::Bytes;

/// Takes an event that is not whole yet off the end of what is to be sent. No client can use half an
/// event, and one that an upstream cut off would garble the error event that has to follow it. One
/// that grows past [`HOLD_STREAM`] is let through as it comes.
pub(super) fn split_half_event(pieces: &mut Vec<Bytes>, tap: &StreamTap) -> Vec<Bytes> {
    let mut left = tap.unfinished();
    let unsent: usize = pieces.iter().map(Bytes::len).sum();
    if left == 0 || left > unsent.min(HOLD_STREAM) {
        return Vec::new();
    }
    let mut half = Vec::new();
    while let Some(mut piece) = pieces.pop() {
        let cut = piece.len().saturating_sub(left);
        left -= piece.len() - cut;
        half.push(piece.split_off(cut));
        if left == 0 {
            if cut > 0 {
                pieces.push(piece);
            }
            break;
        }
    }
    half.reverse();
    half
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Dialect;

    #[test]
    fn half_an_event_is_kept_back_wherever_the_pieces_are_cut() {
        let stream = b"data: {\"a\":1}\n\n: c\n\ndata: {\"b\"";
        for size in 1..stream.len() {
            let mut tap = StreamTap::new(Dialect::Chat);
            let mut pieces: Vec<Bytes> = stream.chunks(size).map(Bytes::copy_from_slice).collect();
            for piece in &pieces {
                tap.push(piece);
            }
            let half = split_half_event(&mut pieces, &tap);
            assert_eq!(half.concat(), b"data: {\"b\"", "in pieces of {size}");
            assert_eq!(pieces.concat(), b"data: {\"a\":1}\n\n: c\n\n", "in pieces of {size}");
            assert!(pieces.iter().all(|piece| !piece.is_empty()));
        }
    }

    #[test]
    fn a_half_event_that_grows_too_long_is_let_through() {
        let mut tap = StreamTap::new(Dialect::Chat);
        let mut pieces = vec![Bytes::from(format!("data: {}", "x".repeat(HOLD_STREAM)))];
        for piece in &pieces {
            tap.push(piece);
        }
        assert!(split_half_event(&mut pieces, &tap).is_empty());
        tap.push(b"y");
        let mut more = vec![Bytes::from_static(b"y")];
        assert!(split_half_event(&mut more, &tap).is_empty());
        assert_eq!((pieces.len(), more.len()), (1, 1));
    }
}
