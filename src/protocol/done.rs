//! Which bytes of a `/messages` stream are a stray `[DONE]` event; all others pass as they are.
//!
//! OpenRouter was seen to end these streams with `event: data`, `data: [DONE]`, on which
//! Anthropic's SDKs fail with a JSON error after a complete answer.

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

/// Drops `[DONE]` events over any cut, holding back only what may be the beginning of one.
#[derive(Debug, Default)]
pub struct DoneFilter {
    place: Place,
    /// The last byte was a CR, so that an LF now belongs to it.
    after_cr: bool,
    /// That CR was dropped, so its LF is dropped too.
    dropped_cr: bool,
    held: Bytes,
}

/// Where in the stream the next byte stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At the start of a line, with no field line since the last empty one.
    #[default]
    Fresh,
    /// In a comment that no field line came before.
    Comment,
    /// In a line of an event that passes.
    Line,
    /// At the start of a line of an event that passes.
    LineStart,
}

/// Why a text is not a `[DONE]` event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Miss {
    /// It may become one.
    TooShort,
    /// It is something else.
    Different,
}

impl DoneFilter {
    /// At the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What of the held bytes and this chunk is to be sent now, in order.
    pub fn push(&mut self, chunk: Bytes) -> Vec<Bytes> {
        let chunk = self.after_held(chunk);
        let mut sent = Vec::with_capacity(1);
        let mut passed = 0;
        let mut at = 0;
        while let Some(rest) = chunk.get(at..).filter(|rest| !rest.is_empty()) {
            if self.place != Place::Fresh {
                at += self.pass_line(rest);
                continue;
            }
            let line_end = self.line_end(rest);
            if line_end > 0 {
                if self.dropped_cr {
                    passed = at + line_end;
                }
                at += line_end;
                continue;
            }
            self.dropped_cr = false;
            match done_event(rest) {
                Err(Miss::Different) => {
                    self.place =
                        if rest.first() == Some(&b':') { Place::Comment } else { Place::Line };
                }
                Err(Miss::TooShort) => {
                    self.held = Bytes::copy_from_slice(rest);
                    sent.push(chunk.slice(passed..at));
                    passed = chunk.len();
                    at = passed;
                }
                Ok(after) => {
                    sent.push(chunk.slice(passed..at));
                    passed = chunk.len() - after.len();
                    self.after_cr = chunk.get(passed - 1) == Some(&b'\r');
                    self.dropped_cr = self.after_cr;
                    at = passed;
                }
            }
        }
        sent.push(chunk.slice(passed..));
        sent.retain(|piece| !piece.is_empty());
        sent
    }

    /// The bytes still held when the stream ends, unless they are a `[DONE]` that was cut short
    /// after its last letter.
    pub fn finish(&mut self) -> Option<Bytes> {
        let held = std::mem::take(&mut self.held);
        let closed = [&held[..], b"\n\n"].concat();
        (!held.is_empty() && done_event(&closed).is_err()).then_some(held)
    }

    /// The chunk with the held bytes before it.
    fn after_held(&mut self, chunk: Bytes) -> Bytes {
        if self.held.is_empty() {
            return chunk;
        }
        let mut joined = BytesMut::with_capacity(self.held.len() + chunk.len());
        joined.extend_from_slice(&std::mem::take(&mut self.held));
        joined.extend_from_slice(&chunk);
        joined.freeze()
    }

    /// Reads an empty line, or the LF of a CR before it, at the start of a line; bytes read.
    fn line_end(&mut self, rest: &[u8]) -> usize {
        let after_cr = std::mem::take(&mut self.after_cr);
        match rest.first() {
            Some(b'\n') if after_cr => 1,
            Some(b'\n' | b'\r') => {
                self.dropped_cr = false;
                self.after_cr = rest.first() == Some(&b'\r');
                1
            }
            Some(_) | None => 0,
        }
    }

    /// Reads on to the end of a line that passes; bytes read.
    fn pass_line(&mut self, rest: &[u8]) -> usize {
        if std::mem::take(&mut self.after_cr) && rest.first() == Some(&b'\n') {
            return 1;
        }
        let Some(end) = memchr2(b'\n', b'\r', rest) else {
            if self.place == Place::LineStart {
                self.place = Place::Line;
            }
            return rest.len();
        };
        self.after_cr = rest.get(end) == Some(&b'\r');
        self.place = match self.place {
            Place::LineStart if end == 0 => Place::Fresh,
            Place::Line | Place::LineStart => Place::LineStart,
            Place::Comment | Place::Fresh => Place::Fresh,
        };
        end + 1
    }
}

/// Reads one `[DONE]` event at the start of `text`; what follows it.
fn done_event(text: &[u8]) -> Result<&[u8], Miss> {
    let rest = match line(text, b"event:", b"data") {
        Err(Miss::Different) => text,
        Err(Miss::TooShort) => return Err(Miss::TooShort),
        Ok(rest) => rest,
    };
    line_feed(line(rest, b"data:", b"[DONE]")?)
}

fn line<'t>(text: &'t [u8], field: &[u8], value: &[u8]) -> Result<&'t [u8], Miss> {
    let rest = literal(text, field)?;
    let rest = rest.strip_prefix(b" ").unwrap_or(rest);
    line_feed(literal(rest, value)?)
}

fn literal<'t>(text: &'t [u8], wanted: &[u8]) -> Result<&'t [u8], Miss> {
    match text.strip_prefix(wanted) {
        Some(rest) => Ok(rest),
        None if wanted.starts_with(text) => Err(Miss::TooShort),
        None => Err(Miss::Different),
    }
}

fn line_feed(text: &[u8]) -> Result<&[u8], Miss> {
    match text {
        [] => Err(Miss::TooShort),
        [b'\r', b'\n', rest @ ..] | [b'\r' | b'\n', rest @ ..] => Ok(rest),
        _ => Err(Miss::Different),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, prop_assert_eq, prop_oneof, proptest};
    use proptest::strategy::{Just, Strategy};

    fn filtered<'c>(chunks: impl IntoIterator<Item = &'c [u8]>) -> String {
        let mut filter = DoneFilter::new();
        let mut sent: Vec<Bytes> = Vec::new();
        for chunk in chunks {
            sent.extend(filter.push(Bytes::copy_from_slice(chunk)));
            assert!(filter.held.len() <= "event: data\r\ndata: [DONE]\r\n".len());
        }
        sent.extend(filter.finish());
        String::from_utf8(sent.concat()).unwrap()
    }

    fn golden(name: &str) -> String {
        let path = format!("{}/tests/golden/wire/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn the_recorded_stray_event_is_dropped_at_every_cut() {
        let stream = golden("messages_stream_openrouter.sse");
        let wanted = stream.strip_suffix("event: data\ndata: [DONE]\n\n").unwrap();
        for cut in 0..=stream.len() {
            let (head, tail) = stream.as_bytes().split_at(cut);
            assert_eq!(filtered([head, tail]), wanted, "{cut}");
        }
        assert_eq!(filtered(stream.as_bytes().chunks(1)), wanted);
        let crlf = stream.replace('\n', "\r\n");
        assert_eq!(filtered(crlf.as_bytes().chunks(1)), wanted.replace('\n', "\r\n"));
        let cr = stream.replace('\n', "\r");
        assert_eq!(filtered(cr.as_bytes().chunks(1)), wanted.replace('\n', "\r"));
    }

    #[test]
    fn other_streams_pass_untouched() {
        for name in ["messages_stream_anthropic.sse", "messages_stream_error.sse"] {
            let stream = golden(name);
            assert_eq!(filtered([stream.as_bytes()]), stream);
            assert_eq!(filtered(stream.as_bytes().chunks(1)), stream);
        }
        for text in [
            "event: data\n\n",
            "event: data\ndata: {}\n\n",
            "event: datum\ndata: [DONE]\n\n",
            "data: [DONE]\ndata: more\n\n",
            "data: [DONE] \n\n",
            "data: x\ndata: [DONE]\n\n",
            "id: 1\ndata: [DONE]\n\n",
            "data: [DO",
            "event: da",
        ] {
            assert_eq!(filtered([text.as_bytes()]), text);
            assert_eq!(filtered(text.as_bytes().chunks(1)), text);
        }
    }

    #[test]
    fn every_form_of_the_stray_event_is_dropped() {
        for (text, left) in [
            ("data: [DONE]\n\n", ""),
            ("data:[DONE]\r\n\r\n", ""),
            ("event:data\rdata:[DONE]\r\r", ""),
            ("data: [DONE]", ""),
            ("event: data\ndata: [DONE]\r\n", ""),
            ("\n: c\ndata: [DONE]\n\n\n: d\n\n", "\n: c\n\n: d\n\n"),
            ("data: [DONE]\n\ndata: [DONE]\n\ndata: x\n\n", "data: x\n\n"),
        ] {
            assert_eq!(filtered([text.as_bytes()]), left, "{text:?}");
            assert_eq!(filtered(text.as_bytes().chunks(1)), left, "{text:?}");
        }
    }

    #[test]
    fn a_chunk_without_it_is_passed_on_without_a_copy() {
        let chunk = Bytes::from_static(b"event: ping\ndata: {}\n\n");
        let sent = DoneFilter::new().push(chunk.clone());
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].as_ptr(), chunk.as_ptr());
    }

    proptest! {
        #[test]
        fn only_the_stray_event_is_missing_whatever_the_cuts(
            blocks in prop::collection::vec(prop_oneof![
                Just("event: data\ndata: [DONE]\n\n".to_owned()),
                Just("data: [DONE]\n\n".to_owned()),
                "(event|data): [a-z]{0,6}\n\n",
                "event: data\ndata: [a-z\\[]{1,6}\n\n",
                "(: [a-z]{0,6}\n){1,2}",
            ], 0..8),
            crlf in any::<bool>(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let end = |text: String| if crlf { text.replace('\n', "\r\n") } else { text };
            let stream = end(blocks.concat());
            let kept = blocks.iter().filter(|block| !block.contains("data: [DONE]\n"));
            let wanted = end(kept.cloned().collect());
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &stream.as_bytes()[pair[0]..pair[1]]);
            prop_assert_eq!(filtered(pieces), wanted);
        }

        #[test]
        fn streams_without_the_word_pass_exactly(
            bytes in prop::collection::vec(prop_oneof![
                Just("\n"), Just("\r"), Just(": "), Just("data"), Just("event"), Just("[DONE"),
                Just("x"),
            ], 0..40).prop_map(|parts| parts.concat()),
            size in 1_usize..9,
        ) {
            prop_assert_eq!(filtered(bytes.as_bytes().chunks(size)), bytes);
        }
    }
}
