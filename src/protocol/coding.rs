//! Replies that come compressed though nobody asked for it: which can be read, and how.

use bytes::Bytes;
use flate2::write::{MultiGzDecoder, ZlibDecoder};
use std::io::{self, Write};

/// One piece of a reply may grow to this, in bytes: a bomb must not fill the memory.
const MOST_BYTES: usize = 16 << 20;

/// Decodes the body of one reply.
#[derive(Debug)]
pub struct Decoder(Format);

#[derive(Debug)]
enum Format {
    Gzip(MultiGzDecoder<Bounded>),
    Deflate(ZlibDecoder<Bounded>),
}

/// What has been decoded and not been taken.
#[derive(Debug, Default)]
struct Bounded(Vec<u8>);

impl Decoder {
    /// For the value of a `content-encoding`; `None` where it cannot be decoded.
    #[must_use]
    pub fn of(coding: &[u8]) -> Option<Self> {
        let is = |name: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(name);
        if is(b"gzip") || is(b"x-gzip") {
            Some(Self(Format::Gzip(MultiGzDecoder::new(Bounded::default()))))
        } else if is(b"deflate") {
            Some(Self(Format::Deflate(ZlibDecoder::new(Bounded::default()))))
        } else {
            None
        }
    }

    /// What this piece of the body brings, which may be nothing yet.
    ///
    /// # Errors
    /// Where it is not of this format, or grows out of all proportion.
    pub fn push(&mut self, piece: &[u8]) -> io::Result<Bytes> {
        let decoded = match &mut self.0 {
            Format::Gzip(decoder) => {
                decoder.write_all(piece)?;
                decoder.flush()?;
                decoder.get_mut()
            }
            Format::Deflate(decoder) => {
                decoder.write_all(piece)?;
                decoder.flush()?;
                decoder.get_mut()
            }
        };
        Ok(std::mem::take(&mut decoded.0).into())
    }

    /// The body has ended.
    ///
    /// # Errors
    /// Where it has not ended as its format says it should. Of `deflate` that cannot be told.
    pub fn finish(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Format::Gzip(decoder) => decoder.try_finish(),
            Format::Deflate(decoder) => decoder.try_finish(),
        }
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MOST_BYTES {
            return Err(io::Error::other("a piece decodes to more than may be"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn decode(coding: &str, body: &[u8], size: usize) -> io::Result<Vec<u8>> {
        let mut decoder = Decoder::of(coding.as_bytes()).unwrap();
        let mut text = Vec::new();
        for piece in body.chunks(size) {
            text.extend_from_slice(&decoder.push(piece)?);
        }
        decoder.finish().map(|()| text)
    }

    #[test]
    fn a_body_is_decoded_however_it_is_cut() {
        let text = b"{\"choices\":[{}]}".repeat(100);
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(&text).unwrap();
        let zlib = zlib.finish().unwrap();
        for size in [1, 7, 10_000] {
            assert_eq!(decode("gzip", &gzip(&text), size).unwrap(), text);
            assert_eq!(decode(" GZIP", &gzip(&text), size).unwrap(), text);
            assert_eq!(decode("deflate", &zlib, size).unwrap(), text);
            let twice = [gzip(b"a"), gzip(b"b")].concat();
            assert_eq!(decode("gzip", &twice, size).unwrap(), b"ab");
        }
        for unknown in ["br", "zstd", "gzip, gzip", ""] {
            assert!(Decoder::of(unknown.as_bytes()).is_none(), "{unknown}");
        }
    }

    #[test]
    fn what_a_piece_brings_comes_at_once() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let mut decoder = Decoder::of(b"gzip").unwrap();
        for event in ["data: 1\n\n", "data: 2\n\n"] {
            encoder.write_all(event.as_bytes()).unwrap();
            encoder.flush().unwrap();
            let piece = std::mem::take(encoder.get_mut());
            assert_eq!(decoder.push(&piece).unwrap(), event);
        }
    }

    #[test]
    fn a_cut_body_garbage_and_a_bomb_are_errors() {
        let whole = gzip(&b"x".repeat(1_000));
        for length in [0, 5, 12, whole.len() - 1] {
            assert!(decode("gzip", &whole[..length], 4).is_err(), "{length}");
        }
        assert!(decode("gzip", b"{\"choices\":[]}", 4).is_err());
        assert!(decode("deflate", b"{\"choices\":[]}", 4).is_err());
        let bomb = gzip(&vec![0; MOST_BYTES + 1]);
        assert!(decode("gzip", &bomb, bomb.len()).is_err());
    }
}
