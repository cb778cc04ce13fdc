//! Where events begin and end in a stream of server-sent events, however it is cut into chunks.

use memchr::{memchr, memchr2};

/// Longest event that is kept, in bytes of its field lines. Gateways with 64 KiB cut real events
/// (images, tool results); those without a bound were filled by an upstream that sent no newline.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// What is kept of the end of a longer one.
const END_BYTES: usize = 64 << 10;

/// Buffers above this are given back after the event that needed them, so that an idle stream
/// stays small.
const KEPT_CAPACITY_BYTES: usize = 16 << 10;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One event, as <https://html.spec.whatwg.org/multipage/server-sent-events.html> dispatches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// The `event` field; empty where there is none.
    pub name: &'a [u8],
    /// The `data` lines, joined by a line feed; of an event that was too long its last bytes.
    pub data: &'a [u8],
    /// Whether it was too long to be kept.
    pub is_skipped: bool,
    /// Bytes of its field lines.
    pub bytes: usize,
}

/// Finds events over arbitrary cuts, with LF, CRLF or CR. Nothing makes it fail: of an event over
/// 1 MiB there is but the end, and the name if it came first. It allocates only for what a cut or several `data` lines split.
#[derive(Debug, Default)]
pub struct Framer {
    /// How much of a byte order mark has been seen at the very start.
    mark: usize,
    /// The last byte was a CR, so that an LF now belongs to it.
    after_cr: bool,
    line: Line,
    /// The field line that an earlier chunk began.
    begun: Vec<u8>,
    /// A field line has been seen since the last empty line.
    is_open: bool,
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    bytes: usize,
    /// The last bytes of an event that is too long.
    end: Vec<u8>,
    /// Bytes since the last place where an event of our own may stand.
    unfinished: usize,
    skipped: u64,
}

/// What the line at the end of the last chunk is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Line {
    #[default]
    Start,
    Comment,
    Field,
}

/// The parts of the current event that lie in the chunk at hand.
#[derive(Default)]
struct Here<'c> {
    name: Option<&'c [u8]>,
    data: Option<&'c [u8]>,
}

impl Framer {
    /// At the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads on, calling `on` for each event that ends in this chunk.
    pub fn push(&mut self, chunk: &[u8], mut on: impl FnMut(Event<'_>)) {
        let mut rest = self.after_mark(chunk);
        let mut here = Here::default();
        self.unfinished += chunk.len();
        self.mark_boundary(rest);
        while let Some(first) = rest.first() {
            if std::mem::take(&mut self.after_cr) && *first == b'\n' {
                rest = rest.get(1..).unwrap_or_default();
                self.mark_boundary(rest);
                continue;
            }
            let Some(end) = memchr2(b'\n', b'\r', rest) else {
                self.begin_line(rest);
                break;
            };
            let (line, tail) = rest.split_at(end);
            self.after_cr = tail.first() == Some(&b'\r');
            rest = tail.get(1..).unwrap_or_default();
            match std::mem::take(&mut self.line) {
                Line::Start if line.is_empty() => {
                    self.dispatch(&here, &mut on);
                    here = Here::default();
                }
                Line::Start => self.whole_line(line, &mut here),
                Line::Field => self.end_line(line),
                Line::Comment => {}
            }
            self.mark_boundary(rest);
        }
        self.keep(&here);
    }

    /// Whether nothing of an unfinished event or line is pending: a place where an event of our
    /// own may stand.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        let in_mark = self.mark > 0 && self.mark < BYTE_ORDER_MARK.len();
        !self.is_open && self.line == Line::Start && !in_mark
    }

    /// How many of the last bytes belong to an event that is not whole yet; 0 at a boundary.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// Notes how much of the chunk follows the last boundary.
    fn mark_boundary(&mut self, rest: &[u8]) {
        if self.at_boundary() {
            self.unfinished = rest.len();
        }
    }

    /// Events passed over because they were too long.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Whether the event under way is too long already.
    #[must_use]
    pub fn is_skipping(&self) -> bool {
        self.bytes > MAX_EVENT_BYTES
    }

    /// Bytes of the field lines of the event under way.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.bytes
    }

    /// Its name, as far as that has come.
    #[must_use]
    pub fn pending_name(&self) -> &[u8] {
        &self.name
    }

    /// Cuts a byte order mark off the start of the stream.
    fn after_mark<'c>(&mut self, chunk: &'c [u8]) -> &'c [u8] {
        let mut rest = chunk;
        while let (Some(expected), Some((first, tail))) =
            (BYTE_ORDER_MARK.get(self.mark), rest.split_first())
        {
            if first != expected {
                let matched = BYTE_ORDER_MARK.get(..self.mark).unwrap_or_default();
                self.mark = BYTE_ORDER_MARK.len();
                self.begin_line(matched);
                return rest;
            }
            self.mark += 1;
            rest = tail;
        }
        rest
    }

    /// Takes the part of a line that ends with the chunk.
    fn begin_line(&mut self, part: &[u8]) {
        if self.line == Line::Start {
            self.line = match part.first() {
                None => Line::Start,
                Some(b':') => Line::Comment,
                Some(_) => Line::Field,
            };
        }
        if self.line == Line::Field && self.fits(part) {
            self.begun.extend_from_slice(part);
        }
    }

    /// Takes the rest of a field line that an earlier chunk began.
    fn end_line(&mut self, rest: &[u8]) {
        if !self.fits(rest) {
            return;
        }
        let mut line = std::mem::take(&mut self.begun);
        line.extend_from_slice(rest);
        match field(&line) {
            (b"data", value) => self.add_data(value),
            (b"event", value) => self.set_name(value),
            _ => {}
        }
        line.clear();
        self.begun = line;
    }

    /// Takes a line that lies wholly in the chunk.
    fn whole_line<'c>(&mut self, line: &'c [u8], here: &mut Here<'c>) {
        if line.first() == Some(&b':') || !self.fits(line) {
            return;
        }
        match field(line) {
            (b"data", value) if !self.has_data && here.data.is_none() => here.data = Some(value),
            (b"data", value) => {
                if let Some(first) = here.data.take() {
                    self.add_data(first);
                }
                self.add_data(value);
            }
            (b"event", value) => here.name = Some(value),
            _ => {}
        }
    }

    /// Counts bytes of the open event; false once they are too many, however they were cut.
    fn fits(&mut self, part: &[u8]) -> bool {
        self.is_open = true;
        let was_kept = self.bytes <= MAX_EVENT_BYTES;
        self.bytes = self.bytes.saturating_add(part.len());
        if self.bytes <= MAX_EVENT_BYTES {
            return true;
        }
        if was_kept {
            let before = if self.begun.is_empty() { &self.data } else { &self.begun };
            self.end = last_of(before).to_vec();
        }
        self.end.extend_from_slice(last_of(part));
        let surplus = self.end.len().saturating_sub(END_BYTES);
        // Now and then, or many small parts would cost a copy of it all each.
        if surplus > END_BYTES {
            self.end.drain(..surplus);
        }
        false
    }

    fn add_data(&mut self, value: &[u8]) {
        if self.has_data {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
        self.has_data = true;
    }

    fn set_name(&mut self, value: &[u8]) {
        self.name.clear();
        self.name.extend_from_slice(value);
    }

    /// Copies what the chunk held of an event that goes on after it.
    fn keep(&mut self, here: &Here<'_>) {
        if let Some(value) = here.data {
            self.add_data(value);
        }
        if let Some(value) = here.name {
            self.set_name(value);
        }
    }

    fn dispatch(&mut self, here: &Here<'_>, on: &mut impl FnMut(Event<'_>)) {
        let name = here.name.unwrap_or(&self.name);
        let bytes = self.bytes;
        if self.bytes > MAX_EVENT_BYTES {
            self.skipped += 1;
            on(Event { name, data: last_of(&self.end), is_skipped: true, bytes });
            self.end = Vec::new();
        } else if let Some(data) = here.data {
            on(Event { name, data, is_skipped: false, bytes });
        } else if self.has_data {
            on(Event { name, data: &self.data, is_skipped: false, bytes });
        }
        self.is_open = false;
        self.has_data = false;
        self.bytes = 0;
        for buffer in [&mut self.begun, &mut self.name, &mut self.data] {
            buffer.clear();
            buffer.shrink_to(KEPT_CAPACITY_BYTES);
        }
    }
}

fn last_of(bytes: &[u8]) -> &[u8] {
    bytes.get(bytes.len().saturating_sub(END_BYTES)..).unwrap_or(bytes)
}

/// Splits a line into its field and its value, less one leading space.
fn field(line: &[u8]) -> (&[u8], &[u8]) {
    let Some((name, value)) = memchr(b':', line).and_then(|colon| line.split_at_checked(colon))
    else {
        return (line, b"");
    };
    let value = value.strip_prefix(b":").unwrap_or(value);
    (name, value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, prop_assert_eq, prop_oneof, proptest};
    use proptest::strategy::{Just, Strategy};

    type Seen = Vec<(String, String)>;

    fn feed(framer: &mut Framer, chunk: &[u8], seen: &mut Seen) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        framer.push(chunk, |event| {
            let data = if event.is_skipped { "too long".to_owned() } else { text(event.data) };
            seen.push((text(event.name), data));
        });
    }

    fn events<'c>(chunks: impl IntoIterator<Item = &'c [u8]>) -> Seen {
        let (mut framer, mut seen) = (Framer::new(), Seen::new());
        for chunk in chunks {
            feed(&mut framer, chunk, &mut seen);
        }
        seen
    }

    fn expected(pairs: &[(&str, &str)]) -> Seen {
        pairs.iter().map(|(name, data)| ((*name).to_owned(), (*data).to_owned())).collect()
    }

    #[test]
    fn fields_read_as_the_standard_says() {
        let stream = "\u{feff}: comment\n\ndata: a\nid: 1\nretry: 5\ndata:b\ndata\ndata:  c\n\n\
                      event: first\nevent: named\ndata\n\nevent: only\n\n:x\ndata: [DONE]\n\ndata: lost";
        let want = [("", "a\nb\n\n c"), ("named", ""), ("", "[DONE]")];
        assert_eq!(events([stream.as_bytes()]), expected(&want));
    }

    #[test]
    fn a_name_does_not_outlive_its_event() {
        let stream = b"event: a\ndata: 1\n\ndata: 2\n\nevent: b\n\ndata: 3\n\n";
        assert_eq!(events(stream.chunks(1)), expected(&[("a", "1"), ("", "2"), ("", "3")]));
    }

    #[test]
    fn an_unfinished_event_is_as_long_as_what_follows_the_last_boundary() {
        let stream = b"\xef\xbb\xbf: c\r\n\r\nevent: a\r\ndata: 1\r\n\r\ndata: 2\n\n\n: d\ndata: 3";
        for size in 1..=stream.len() {
            let mut framer = Framer::new();
            for chunk in stream.chunks(size) {
                framer.push(chunk, |_| {});
                assert_eq!(framer.at_boundary(), framer.unfinished() == 0, "in chunks of {size}");
            }
            assert_eq!(framer.unfinished(), "data: 3".len(), "in chunks of {size}");
        }
    }

    #[test]
    fn a_boundary_is_where_nothing_is_pending() {
        let mut framer = Framer::new();
        for (chunk, is_boundary) in [
            (&b""[..], true),
            (b"\xef", false),
            (b"\xbb\xbf", true),
            (b": hi", false),
            (b"\n", true),
            (b"\n", true),
            (b"event: x\n", false),
            (b"data: y", false),
            (b"\r", false),
            (b"\n", false),
            (b"\r", true),
            (b"\n", true),
            (b"id: 4\n", false),
            (b"\n", true),
        ] {
            framer.push(chunk, |_| {});
            assert_eq!(framer.at_boundary(), is_boundary, "{chunk:?}");
        }
    }

    #[test]
    fn an_event_of_a_mebibyte_passes_and_a_longer_one_is_counted() {
        for (extra, whole) in [(0, true), (1, false)] {
            let long = "x".repeat(MAX_EVENT_BYTES - "event: edata: ".len() + extra);
            let stream = format!(":{long}\nevent: e\ndata: {long}\n\ndata: after\n\n");
            for size in [stream.len(), 65_536, 1_000_003] {
                let (mut framer, mut seen) = (Framer::new(), Seen::new());
                for chunk in stream.as_bytes().chunks(size) {
                    feed(&mut framer, chunk, &mut seen);
                    assert!(framer.begun.capacity() + framer.data.capacity() < 5 << 20);
                }
                assert_eq!((seen.len(), seen[0].0.as_str()), (2, "e"));
                assert_eq!(seen[0].1 == "too long", !whole);
                assert_eq!(framer.skipped(), u64::from(!whole));
                assert_eq!(seen.last().unwrap().1, "after");
                assert!(framer.data.capacity() <= KEPT_CAPACITY_BYTES);
                assert_eq!(framer.end.capacity(), 0);
                assert!(framer.at_boundary());
            }
        }
    }

    #[test]
    fn of_a_longer_event_the_end_is_known_in_every_cut() {
        let long = "x".repeat(MAX_EVENT_BYTES - 30);
        for (lines, end) in [
            (format!("data: {long}{long}the end"), "xthe end".to_owned()),
            (format!("data: {long}\ndata: {long}the end"), "xthe end".to_owned()),
            (
                format!("data: {long}{}the end", "y".repeat(40)),
                format!("x{}the end", "y".repeat(40)),
            ),
        ] {
            let stream = format!("event: e\n{lines}\n\n");
            for size in [stream.len(), 7, 65_536, 1_000_003] {
                let (mut framer, mut ends) = (Framer::new(), Vec::new());
                for chunk in stream.as_bytes().chunks(size) {
                    framer.push(chunk, |event| ends.push(event.data.to_vec()));
                    assert!(framer.end.len() <= 2 * END_BYTES);
                }
                assert_eq!((ends.len(), ends[0].len()), (1, END_BYTES), "{size}");
                assert!(ends[0].ends_with(end.as_bytes()), "{size}");
            }
        }
    }

    #[test]
    fn a_line_that_never_ends_takes_no_more_than_its_bound() {
        let mut framer = Framer::new();
        let chunk = vec![b'x'; 65_536];
        for _ in 0..100 {
            framer.push(&chunk, |_| panic!("no event ended"));
        }
        assert!(framer.begun.capacity() <= 2 * MAX_EVENT_BYTES);
    }

    fn line() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(String::new()),
            Just("data: x".to_owned()),
            Just("data".to_owned()),
            Just("event: e".to_owned()),
            Just(": c".to_owned()),
            Just("id: 7".to_owned()),
            "[a-z: é\u{feff}]{0,12}",
            "(data|event): ?[^\r\n]{0,20}",
        ]
    }

    proptest! {
        #[test]
        fn any_cut_and_any_line_end_give_the_same_events(
            lines in prop::collection::vec(line(), 0..24),
            ends in prop::collection::vec(0_usize..3, 24),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
            mark in any::<bool>(),
        ) {
            let end = |style: usize| ["\n", "\r\n", "\r"][style];
            let mark = if mark { "\u{feff}" } else { "" };
            let join = |style: &dyn Fn(usize) -> usize| -> String {
                let lines = lines.iter().enumerate();
                let lines = lines.map(|(at, line)| format!("{line}{}", end(style(at))));
                std::iter::once(mark.to_owned()).chain(lines).collect()
            };
            let reference = events([join(&|_| 0).as_bytes()]);
            for style in 0..3 {
                prop_assert_eq!(&events([join(&|_| style).as_bytes()]), &reference);
            }
            // An empty line that ends in LF after a CR would be part of that line's end.
            let mixed = join(&|at| {
                let may_merge = at > 0 && lines[at].is_empty() && ends[at - 1] == 2;
                if may_merge { 2 } else { ends[at] }
            });
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(mixed.len() + 1)).collect();
            cuts.extend([0, mixed.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &mixed.as_bytes()[pair[0]..pair[1]]);
            prop_assert_eq!(&events(pieces), &reference);
            for style in 0..3 {
                prop_assert_eq!(&events(join(&|_| style).as_bytes().chunks(1)), &reference);
            }
        }

        #[test]
        fn any_bytes_in_any_cut_give_the_same_events(
            bytes in prop::collection::vec(prop_oneof![
                Just(b'\n'), Just(b'\r'), Just(b':'), Just(b' '), Just(b'd'), any::<u8>()
            ], 0..64),
            cut in any::<prop::sample::Index>(),
        ) {
            let (head, tail) = bytes.split_at(cut.index(bytes.len() + 1));
            let whole = events([&bytes[..]]);
            prop_assert_eq!(&events([head, tail]), &whole);
            prop_assert_eq!(&events(bytes.chunks(1)), &whole);
        }
    }
}
