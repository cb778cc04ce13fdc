//! A reply put together again from what a tap reads of it: text, reasoning, calls of tools, within
//! bounds.

use super::media::Media;
use super::said::{Kind, Said};
use crate::protocol::lenient::MAX_WORD_CHARS;
use crate::protocol::mend::JOINS;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Most answers, and calls of tools in one, that are kept apart; what goes beyond is counted.
const MAX_CHOICES: usize = 16;
const MAX_CALLS: usize = 128;
/// So far, since each is counted once.
const MAX_COUNTED: usize = 4_096;
/// Most images of one answer that are kept.
const MAX_IMAGES: usize = 16;
/// What stands around the number of bytes that are missing at a place.
pub const CUT: (&str, &str) = ("…[", " bytes cut]…");
/// Longest name, id and finish reason that is kept of a reply, in bytes or characters.
pub const MAX_WORD: usize = MAX_WORD_CHARS;

/// A text of which at least both ends are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    head: String,
    tail: String,
    /// Bytes of the transcript's room that the tail may use.
    granted: usize,
    total: usize,
}

/// A call of a tool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolCall {
    place: u64,
    /// The id the answer to it must name; may be empty.
    pub id: String,
    /// The tool.
    pub name: String,
    /// Its arguments, JSON as the model wrote it, or plain text.
    pub arguments: Kept,
    /// Whether these stand only until others come.
    is_given: bool,
    /// What kind of tool it is: empty for a function, `custom` for one that takes plain text, else one
    /// of the upstream's own, such as `web_search_call`.
    pub kind: String,
}

/// One answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    index: u64,
    /// Text.
    pub content: Kept,
    /// Reasoning, or a summary of it.
    pub reasoning: Kept,
    /// The same under its other name, `reasoning_content`: some servers send both.
    reasoning_content: Kept,
    /// Its details, where these alone came.
    details: Kept,
    /// Why the model would not answer.
    pub refusal: Kept,
    /// What spoken output says.
    pub spoken: Kept,
    /// Addresses of images, mostly data URIs.
    pub images: Vec<Kept>,
    /// Images that came as such.
    pub drawn: Vec<Media>,
    /// Sound.
    pub sound: Option<Box<Media>>,
    /// Calls of tools, in their order.
    pub calls: Vec<ToolCall>,
    /// Those beyond the bound, by hashes of their places and, where several have one, their ids.
    cut_calls: BTreeSet<u64>,
    /// The place of one of these that has it from another.
    unkept: Option<u64>,
    /// Why it ended, in the upstream's own word.
    pub finish: Option<String>,
}

/// What a reply said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transcript {
    limit: usize,
    /// Bytes that may still be kept.
    room: usize,
    choices: Vec<Choice>,
    /// Numbers of those beyond the bound.
    cut_choices: BTreeSet<u64>,
    /// Bytes of events that could not be read, where it is not known whose they were.
    pub lost: usize,
    /// Of embeddings: how many, and how long the first is.
    pub vectors: Option<(u64, u64)>,
    /// A reply too long to be read whole, as it came.
    pub raw: Option<Kept>,
}

impl Kept {
    /// Adds text; of more than `limit` bytes, or than there is room for, both ends stay.
    fn push(&mut self, text: &str, limit: usize, room: &mut usize) {
        let joined = text.strip_prefix(JOINS);
        if joined.is_some() {
            self.drop_unknown();
        }
        let text = joined.unwrap_or(text);
        self.total += text.len();
        let mut rest = text;
        if self.tail.is_empty() {
            let most = (limit / 2).saturating_sub(self.head.len()).min(*room);
            let (head, tail) = text.split_at(text.floor_char_boundary(most));
            self.head.push_str(head);
            *room -= head.len();
            rest = tail;
        }
        if rest.is_empty() {
            return;
        }
        self.tail.push_str(rest);
        let wanted = self.tail.len().min(limit);
        let more = wanted.saturating_sub(self.granted).min(*room);
        self.granted += more;
        *room -= more;
        if self.tail.len() > self.granted {
            // Cut to half of it, so that many small texts cost no more than one long.
            let surplus = self.tail.len() - self.granted / 2;
            self.tail.drain(..self.tail.ceil_char_boundary(surplus));
        }
    }

    /// The character that stands for half of one goes, since the other half came.
    fn drop_unknown(&mut self) {
        let end = if self.tail.is_empty() { &mut self.head } else { &mut self.tail };
        if end.ends_with(char::REPLACEMENT_CHARACTER) {
            end.pop();
            self.total -= char::REPLACEMENT_CHARACTER.len_utf8();
        }
    }

    /// The beginning; all of it where nothing is [`Self::missing`] and the end is empty.
    #[must_use]
    pub fn head(&self) -> &str {
        &self.head
    }

    /// The end, which follows what is missing.
    #[must_use]
    pub fn tail(&self) -> &str {
        &self.tail
    }

    /// Bytes left out between the two.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.total - self.head.len() - self.tail.len()
    }

    /// Whether nothing was ever said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }
}

impl ToolCall {
    /// The place of its arguments.
    fn told(&mut self) -> &mut Kept {
        if std::mem::take(&mut self.is_given) {
            self.arguments = Kept::default();
        }
        &mut self.arguments
    }

    /// The same for those that stand until others come.
    fn given(&mut self) -> Option<&mut Kept> {
        self.is_given |= self.arguments.is_empty();
        self.is_given.then_some(&mut self.arguments)
    }

    fn set(&mut self, kind: Kind, text: &str) {
        if kind == Kind::CallType {
            self.kind = word(text);
        } else if kind == Kind::ItemId && self.id.is_empty() {
            self.id = word(text);
        } else if kind == Kind::CallName && self.name != text {
            let room = MAX_WORD.saturating_sub(self.name.len());
            let (text, _) = text.split_at(text.floor_char_boundary(room));
            self.name.push_str(text);
        }
    }
}

impl Choice {
    /// Reasoning under the name that was used.
    #[must_use]
    pub fn thoughts(&self) -> &Kept {
        let names = [&self.reasoning, &self.reasoning_content];
        names.into_iter().find(|kept| !kept.is_empty()).unwrap_or(&self.details)
    }

    /// The place of a text, of which pieces may have come and may come.
    fn text(&mut self, kind: Kind, call: u64) -> Option<&mut Kept> {
        match kind {
            Kind::Content | Kind::Delta | Kind::Whole => Some(&mut self.content),
            Kind::Reasoning => Some(&mut self.reasoning),
            Kind::ReasoningContent => Some(&mut self.reasoning_content),
            Kind::Detail => Some(&mut self.details),
            Kind::Refusal => Some(&mut self.refusal),
            Kind::Spoken => Some(&mut self.spoken),
            Kind::Image if self.images.len() < MAX_IMAGES => {
                self.images.push(Kept::default());
                self.images.last_mut()
            }
            Kind::Arguments | Kind::Asked => self.call(call, None).map(ToolCall::told),
            Kind::Given => self.call(call, None).and_then(ToolCall::given),
            Kind::Image
            | Kind::Drawn
            | Kind::Sound
            | Kind::CallId
            | Kind::CallName
            | Kind::CallType
            | Kind::ItemId
            | Kind::Id
            | Kind::Finish
            | Kind::Nothing => None,
        }
    }

    /// Takes what comes whole.
    fn set(&mut self, kind: Kind, call: u64, text: &str) {
        match kind {
            Kind::Finish => self.finish = Some(word(text)),
            Kind::Drawn if self.drawn.len() < MAX_IMAGES => {
                let mut drawn = Media::default();
                drawn.push(text);
                self.drawn.push(drawn);
            }
            Kind::Sound => self.sound.get_or_insert_default().push(text),
            Kind::CallId => {
                if let Some(call) = self.call(call, Some(text)) {
                    call.id = word(text);
                }
            }
            Kind::CallName | Kind::CallType | Kind::ItemId => {
                if let Some(call) = self.call(call, None) {
                    call.set(kind, text);
                }
            }
            Kind::Content
            | Kind::Reasoning
            | Kind::ReasoningContent
            | Kind::Refusal
            | Kind::Spoken
            | Kind::Image
            | Kind::Drawn
            | Kind::Arguments
            | Kind::Asked
            | Kind::Given
            | Kind::Detail
            | Kind::Id
            | Kind::Delta
            | Kind::Whole
            | Kind::Nothing => {}
        }
    }

    /// Calls of tools that were too many to be kept.
    #[must_use]
    pub fn cut_calls(&self) -> usize {
        self.cut_calls.len()
    }

    /// The call that a part belongs to. Some servers number none of them: there a new id begins a
    /// new call.
    fn call(&mut self, place: u64, id: Option<&str>) -> Option<&mut ToolCall> {
        let found = self.calls.iter().rposition(|call| call.place == place);
        let is_other = |call: &ToolCall| id.is_some_and(|id| !call.id.is_empty() && call.id != id);
        let is_found = found.and_then(|at| self.calls.get(at)).is_some_and(|call| !is_other(call));
        if is_found && (id.is_some() || self.unkept != Some(place)) {
            self.unkept = self.unkept.filter(|unkept| *unkept != place);
            return self.calls.get_mut(found?);
        }
        if self.calls.len() < MAX_CALLS {
            self.calls.push(ToolCall { place, ..ToolCall::default() });
            return self.calls.last_mut();
        }
        if found.is_none() || !is_found {
            self.unkept = Some(place).filter(|_| found.is_some());
            if self.cut_calls.len() < MAX_COUNTED {
                let mut hasher = DefaultHasher::new();
                (place, id.filter(|_| found.is_some())).hash(&mut hasher);
                self.cut_calls.insert(hasher.finish());
            }
        }
        None
    }
}

impl Transcript {
    /// Nothing yet; each text keeps at most about `limit` bytes, all of them together twice that.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, room: limit.saturating_mul(2), ..Self::default() }
    }

    /// The answers, in the order in which they began.
    #[must_use]
    pub fn choices(&self) -> &[Choice] {
        &self.choices
    }

    /// Answers that were too many to be kept.
    #[must_use]
    pub fn cut_choices(&self) -> usize {
        self.cut_choices.len()
    }

    /// Bytes it holds in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let beside = |choice: &Choice| {
            let cut = choice.cut_calls.len() * size_of::<u64>();
            size_of::<Choice>() + choice.calls.len() * (size_of::<ToolCall>() + MAX_WORD) + cut
        };
        let beside: usize = self.choices.iter().map(beside).sum();
        self.limit.saturating_mul(2) - self.room + beside
    }

    /// Takes over what one event said.
    pub(super) fn take(&mut self, said: &Said) {
        for (choice, call, kind, text) in said.parts() {
            self.add((choice, call), kind, text);
        }
    }

    /// Keeps both ends of a reply that could not be read whole as they came.
    pub(super) fn take_raw(&mut self, head: &str, tail: &str, missing: usize) {
        let total = head.len() + missing + tail.len();
        let (head, _) = head.split_at(head.floor_char_boundary(self.limit / 2));
        let surplus = tail.len().saturating_sub(self.limit - head.len());
        let (_, tail) = tail.split_at(tail.ceil_char_boundary(surplus));
        self.room = self.room.saturating_sub(head.len() + tail.len());
        self.raw = Some(Kept { head: head.into(), tail: tail.into(), granted: 0, total });
    }

    /// So many bytes could not be read: a mark says so in the text of the only answer.
    pub(super) fn lose(&mut self, bytes: usize) {
        if self.choices.len() > 1 {
            self.lost = self.lost.saturating_add(bytes);
            return;
        }
        let choice = self.choices.first().map_or(0, |choice| choice.index);
        let mark = [CUT.0, &bytes.to_string(), CUT.1].concat();
        self.add((choice, 0), Kind::Content, &mark);
    }

    fn add(&mut self, (choice, call): (u64, u64), kind: Kind, text: &str) {
        let found = self.choices.iter().position(|known| known.index == choice);
        if found.is_none() && self.choices.len() < MAX_CHOICES {
            // Mostly there is one, and it is not small.
            self.choices.reserve_exact(1);
            self.choices.push(Choice { index: choice, ..Choice::default() });
        }
        let at = found.unwrap_or(self.choices.len() - 1);
        let Self { limit, room, choices, cut_choices, .. } = self;
        let Some(choice) = choices.get_mut(at).filter(|known| known.index == choice) else {
            if cut_choices.len() < MAX_COUNTED {
                cut_choices.insert(choice);
            }
            return;
        };
        if let Some(kept) = choice.text(kind, call) {
            kept.push(text, *limit, room);
        } else {
            choice.set(kind, call, text);
        }
    }
}

fn word(text: &str) -> String {
    let (word, _) = text.split_at(text.floor_char_boundary(MAX_WORD));
    word.to_owned()
}
