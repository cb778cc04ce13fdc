//! What one event says, noted while it is read: which text belongs to which answer and tool call.

use crate::protocol::lenient::Lenient;
use crate::protocol::mend::JOINS;

/// What a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    /// Text of the answer.
    #[default]
    Content,
    /// Reasoning.
    Reasoning,
    /// Reasoning under its other name.
    ReasoningContent,
    /// Reasoning told in detail, where it has neither of these names.
    Detail,
    /// A refusal.
    Refusal,
    /// The transcript of spoken output.
    Spoken,
    /// The address of an image.
    Image,
    /// An image, or sound, in base64.
    Drawn,
    Sound,
    /// The id of a tool's call.
    CallId,
    /// The tool.
    CallName,
    /// Its arguments, or the plain text it takes.
    Arguments,
    /// What kind of tool that is, where it is no function.
    CallType,
    /// The id of an item, for a tool's call that has no other.
    ItemId,
    /// The same of an item that has not said yet what it is.
    Id,
    /// What a tool of the upstream's own is asked.
    Asked,
    /// Arguments that stand only until others come.
    Given,
    /// Why the answer ended.
    Finish,
    /// A delta whose event says only later what it is.
    Delta,
    /// The whole of such a text.
    Whole,
    /// Something that counts for nothing.
    Nothing,
}

impl Kind {
    /// The text that this is.
    pub(super) const fn text(self) -> Self {
        if matches!(self, Self::Asked) { Self::Arguments } else { self }
    }

    /// The text that this belongs to: a call's arguments stand for all of it.
    pub(super) const fn of_text(self) -> Self {
        let is_of_call = matches!(
            self,
            Self::Asked | Self::CallId | Self::CallName | Self::CallType | Self::ItemId
        );
        if is_of_call { Self::Arguments } else { self }
    }
}

#[derive(Debug, Clone, Copy)]
struct Part {
    choice: u64,
    call: u64,
    kind: Kind,
    /// Of an item made of pieces, which one.
    piece: u32,
    end: usize,
}

impl Part {
    /// Whether what another part says goes on with the text of this one.
    fn goes_on(&self, other: &Self) -> bool {
        let is_text = matches!(
            self.kind,
            Kind::Content | Kind::Reasoning | Kind::ReasoningContent | Kind::Detail
        );
        is_text && (self.choice, self.call, self.kind) == (other.choice, other.call, other.kind)
    }
}

/// Texts of some events, in their order: several are gathered, since a token says little and a transcript
/// is spread over memory that a stream has not touched since its last one. It lives as long as its tap, so
/// that a chunk allocates nothing; while it is off nothing is noted.
#[derive(Debug, Default)]
pub(super) struct Said {
    is_on: bool,
    text: String,
    parts: Vec<Part>,
    /// Where the parts of the event that is being read begin.
    event_from: usize,
    choice: u64,
    call: u64,
    piece: u32,
    /// Answers and calls begun in this event, and where the parts of the last ones begin.
    choices: u64,
    calls: u64,
    choice_from: usize,
    call_from: usize,
}

/// A buffer above this is given back after the event that needed it.
const KEPT_CAPACITY_BYTES: usize = 8 << 10;
/// So much is worth taking over, in bytes and in parts: some dozens of tokens.
const ENOUGH_BYTES: usize = 256;
const ENOUGH_PARTS: usize = 8;

impl Said {
    /// Notes what is read from now on.
    pub(super) fn on() -> Self {
        Self { is_on: true, ..Self::default() }
    }

    pub(super) const fn is_on(&self) -> bool {
        self.is_on
    }

    /// All of it has been taken over.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(KEPT_CAPACITY_BYTES);
        self.parts.clear();
        self.begin_event();
    }

    fn begin_event(&mut self) {
        let from = self.parts.len();
        (self.event_from, self.choice_from, self.call_from) = (from, from, from);
        (self.choice, self.call, self.choices, self.calls) = (0, 0, 0, 0);
        self.piece = 0;
    }

    /// The event has been read. Whether enough is noted to be taken over.
    pub(super) fn end_event(&mut self) -> bool {
        // One more piece of the text before, as nearly always.
        if let Some([before, only]) = self.parts.get_mut(self.event_from.saturating_sub(1)..)
            && before.goes_on(only)
            && !self.text.get(before.end..).is_some_and(|text| text.starts_with(JOINS))
        {
            before.end = only.end;
            self.parts.pop();
        }
        self.begin_event();
        self.text.len() >= ENOUGH_BYTES || self.parts.len() >= ENOUGH_PARTS
    }

    /// The event could not be read to its end: what it said counts for nothing.
    pub(super) fn drop_event(&mut self) {
        self.parts.truncate(self.event_from);
        self.text.truncate(self.parts.last().map_or(0, |part| part.end));
        self.text.shrink_to(KEPT_CAPACITY_BYTES);
        self.begin_event();
    }

    pub(super) fn say(&mut self, kind: Kind, text: &str) {
        if self.is_on && !text.is_empty() {
            self.text.push_str(text);
            let (choice, call, end) = (self.choice, self.call, self.text.len());
            self.parts.push(Part { choice, call, kind, piece: self.piece, end });
        }
    }

    /// The next answer of a list begins.
    pub(super) fn begin_choice(&mut self) {
        self.choice = self.choices;
        self.choices += 1;
        self.choice_from = self.parts.len();
        self.calls = 0;
        self.call = 0;
    }

    /// The answer that is being read says which it is, maybe after its text.
    pub(super) fn choice(&mut self, index: u64) {
        self.choice = index;
        for part in self.parts.iter_mut().skip(self.choice_from) {
            part.choice = index;
        }
    }

    /// The next call of a list begins.
    pub(super) fn begin_call(&mut self) {
        self.call = self.calls;
        self.calls += 1;
        self.call_from = self.parts.len();
    }

    /// The call that is being read says which it is, maybe after its arguments.
    pub(super) fn call(&mut self, index: u64) {
        self.call = index;
        for part in self.parts.iter_mut().skip(self.call_from) {
            part.call = index;
        }
    }

    /// What was noted as one kind since the last call began was another.
    pub(super) fn turn(&mut self, from: Kind, to: Kind) {
        for part in self.parts.iter_mut().skip(self.call_from).filter(|part| part.kind == from) {
            part.kind = to;
        }
    }

    /// The piece of an item that is being read.
    pub(super) fn piece(&mut self, piece: u32) {
        self.piece = piece;
    }

    /// Takes back what the event has said, as far as it is asked to by call, piece and kind.
    pub(super) fn forget(&mut self, mut is_none: impl FnMut(u64, u32, Kind) -> bool) {
        // The text stays where it is: ends are what tells parts apart.
        for part in self.parts.iter_mut().skip(self.event_from) {
            if is_none(part.call, part.piece, part.kind) {
                part.kind = Kind::Nothing;
            }
        }
    }

    /// Shows call, piece and kind of all that the event has said.
    pub(super) fn each(&self, mut on: impl FnMut(u64, u32, Kind)) {
        for part in self.parts.iter().skip(self.event_from) {
            if part.kind != Kind::Nothing {
                on(part.call, part.piece, part.kind);
            }
        }
    }

    /// Answer, call, kind and text of each part.
    pub(super) fn parts(&self) -> impl Iterator<Item = (u64, u64, Kind, &str)> {
        let mut start = 0;
        self.parts.iter().filter_map(move |part| {
            let text = self.text.get(start..part.end)?;
            start = part.end;
            let is_any = !matches!(part.kind, Kind::Nothing | Kind::Id);
            is_any.then_some((part.choice, part.call, part.kind, text))
        })
    }
}

/// A text that is noted and counts as nothing else.
pub(super) struct Note<'s>(pub(super) &'s mut Said, pub(super) Kind);

impl Lenient for Note<'_> {
    fn text(&mut self, text: &str) {
        self.0.say(self.1, text);
    }
}

/// The number of a call.
pub(super) struct CallIndex<'s>(pub(super) &'s mut Said);

impl Lenient for CallIndex<'_> {
    fn whole(&mut self, index: u64) {
        self.0.call(index.min(u64::from(u32::MAX)));
    }
}
