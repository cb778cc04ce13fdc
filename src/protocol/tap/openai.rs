//! What a chunk or a whole reply of chat completions, completions and embeddings says.

use super::Notes;
use super::fault::{ErrorValue, bare_error};
use super::produced::Produced;
use super::said::{Kind, Said};
use crate::protocol::lenient::{Count, Lenient, Word, read, read_document, skip};
use crate::protocol::usage::OpenAiCounts;
use serde::de::MapAccess;

/// A chunk of a stream, or a whole reply: they differ in `delta` and `message` alone.
#[derive(Debug, Default)]
pub(super) struct Reply {
    /// Names are looked for only until they are known, since every chunk repeats them.
    skips_names: bool,
    /// Whether it has any member that says what it is.
    is_known: bool,
    id: Word,
    model: Word,
    error: ErrorValue,
    choices: Choices,
    counts: OpenAiCounts,
    groq: Groq,
    vectors: Vectors,
}

/// The `data` of embeddings: how many there are, and how long the first is.
#[derive(Debug, Default)]
struct Vectors {
    count: u64,
    length: u64,
}

/// One embedding: a list of numbers, or the same in base64.
struct Vector<'v>(&'v mut Vectors);

#[derive(Debug, Default)]
struct Choices {
    produced: Produced,
    finish: Word,
    error: ErrorValue,
    /// The number of the one being read, and whether it has said that it is finished.
    index: Count,
    is_finished: bool,
    /// One bit for each that has.
    finished: u64,
}

/// Groq's own member of the last chunk.
#[derive(Debug, Default)]
struct Groq {
    counts: OpenAiCounts,
    error: ErrorValue,
}

struct Delta<'p>(&'p mut Produced);

/// Reads one chunk of a stream.
pub(super) fn event(notes: &mut Notes, name: &[u8], data: &[u8]) -> serde_json::Result<()> {
    let reading = &notes.reading;
    let skips_names = reading.id.is_some() && reading.model.is_some();
    let mut reply = Reply { skips_names, ..Reply::saying(notes.said()) };
    let read = read_document(data, &mut reply);
    if read.is_err() {
        notes.give_back(reply.choices.produced.said);
        return read;
    }
    let is_known = reply.is_known;
    reply.note(notes);
    // Some servers say what is wrong without an `error` around it. Events with names of their own are
    // the provider's, and change nothing.
    if !is_known && matches!(name, b"" | b"error" | b"message" | b"data") {
        notes.fault(bare_error(name, data));
    }
    Ok(())
}

impl Reply {
    /// A reply to be read, whose texts are noted.
    pub(super) fn saying(said: Said) -> Self {
        let choices = Choices { produced: Produced::noting(said), ..Choices::default() };
        Self { choices, ..Self::default() }
    }

    pub(super) fn note(mut self, notes: &mut Notes) {
        self.choices.next();
        forget_details(&mut self.choices.produced.said);
        notes.names(self.id.0, self.model.0);
        notes.produce(self.choices.produced);
        notes.vectors(self.vectors.count, self.vectors.length);
        let named = self.error.fault();
        // SDKs raise on an error at the top and on no other (WIRE section 7).
        notes.is_loud |= named.is_some();
        let fault = named.or_else(|| self.choices.error.fault());
        notes.fault(fault.or_else(|| self.groq.error.fault()));
        notes.finish(self.choices.finish.0, self.choices.finished);
        // What stands at the top is the last word.
        if self.groq.counts.has_any() {
            notes.bill_openai(&self.groq.counts);
        }
        notes.bill_openai(&self.counts);
    }
}

/// Details are wanted only where the reasoning has no other name.
fn forget_details(said: &mut Said) {
    let (mut has_details, mut has_text) = (false, false);
    said.each(|_, _, kind| {
        has_details |= kind == Kind::Detail;
        has_text |= matches!(kind, Kind::Reasoning | Kind::ReasoningContent);
    });
    if has_details && has_text {
        said.forget(|_, _, kind| kind == Kind::Detail);
    }
}

impl Choices {
    /// The one before has been read.
    fn next(&mut self) {
        let index = std::mem::take(&mut self.index).0.unwrap_or_default().min(63);
        self.finished |= u64::from(std::mem::take(&mut self.is_finished)) << index;
    }
}

impl Lenient for Reply {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        self.is_known |= matches!(name, "error" | "choices" | "usage" | "x_groq");
        match name {
            "id" if !self.skips_names => read(map, &mut self.id),
            "model" if !self.skips_names => read(map, &mut self.model),
            "error" => read(map, &mut self.error),
            "choices" => read(map, &mut self.choices),
            "usage" => read(map, &mut self.counts),
            "x_groq" => read(map, &mut self.groq),
            "data" if self.choices.produced.said.is_on() => read(map, &mut self.vectors),
            _ => skip(map),
        }
    }
}

impl Lenient for Vectors {
    const READS_LISTS: bool = true;

    fn item(&mut self) {
        self.count += 1;
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        // One is as long as any other.
        if name == "embedding" && self.count == 1 {
            read(map, &mut Vector(self))
        } else {
            skip(map)
        }
    }
}

impl Lenient for Vector<'_> {
    const READS_LISTS: bool = true;

    fn item(&mut self) {
        self.0.length += 1;
    }

    fn text(&mut self, base64: &str) {
        // Four bytes a number, three bytes in four characters.
        self.0.length = base64.trim_end_matches('=').len() as u64 * 3 / 16;
    }
}

impl Lenient for Choices {
    const READS_LISTS: bool = true;

    fn item(&mut self) {
        self.next();
        self.produced.said.begin_choice();
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "delta" | "message" => read(map, &mut Delta(&mut self.produced)),
            "text" => read(map, &mut self.produced),
            "index" => {
                read(map, &mut self.index)?;
                if let Some(index) = self.index.0.filter(|_| self.produced.said.is_on()) {
                    self.produced.said.choice(index.min(u32::MAX.into()));
                }
                Ok(())
            }
            "finish_reason" => {
                let mut finish = Word::default();
                read(map, &mut finish)?;
                self.produced.said.say(Kind::Finish, finish.0.as_deref().unwrap_or_default());
                self.is_finished |= finish.0.is_some();
                self.finish.0 = finish.0.or(self.finish.0.take());
                Ok(())
            }
            "error" => read(map, &mut self.error),
            _ => skip(map),
        }
    }
}

impl Lenient for Delta<'_> {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "content" => self.0.read(map, Kind::Content),
            "reasoning" => self.0.read(map, Kind::Reasoning),
            "reasoning_content" => self.0.read(map, Kind::ReasoningContent),
            "refusal" => self.0.read(map, Kind::Refusal),
            "tool_calls" | "function_call" => self.0.read(map, Kind::Arguments),
            "audio" => self.0.read(map, Kind::Spoken),
            "images" => self.0.read(map, Kind::Image),
            // It repeats `reasoning`, unless that is encrypted: a token, but no text to count.
            "reasoning_details" => {
                let mut details = Produced::noting(std::mem::take(&mut self.0.said));
                let done = details.read(map, Kind::Detail);
                self.0.is_any |= details.is_any;
                self.0.said = details.said;
                done
            }
            _ => skip(map),
        }
    }
}

impl Lenient for Groq {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "usage" => read(map, &mut self.counts),
            "error" => read(map, &mut self.error),
            _ => skip(map),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::protocol::Dialect;
    use crate::protocol::tap::{StreamTap, UpstreamFault};

    fn fault(event: &str) -> Option<UpstreamFault> {
        let mut tap = StreamTap::new(Dialect::Chat);
        tap.push(event.as_bytes());
        tap.fault().cloned()
    }

    #[test]
    fn an_event_of_the_providers_own_is_no_error() {
        for event in [
            "event: hermes.tool.progress\ndata: {\"name\":\"web_search\",\"status\":\"failed\"}\n\n",
            "event: x.note\ndata: {\"object\":\"error\",\"message\":\"m\",\"code\":500}\n\n",
            "data: {\"type\":\"status\",\"message\":\"model loading\"}\n\n",
            "data: {\"code\":0,\"message\":\"Success\",\"sid\":\"s\"}\n\n",
            "data: {\"id\":\"x\",\"object\":\"chat.completion.chunk\"}\n\n",
            "data: {\"choices\":[],\"prompt_filter_results\":[{\"message\":\"error\"}]}\n\n",
            "data: {\"error\":null}\n\n",
            "data: {}\n\n",
        ] {
            assert_eq!(fault(event), None, "{event}");
        }
        for event in [
            "data: {\"object\":\"error\",\"message\":\"m\",\"code\":null}\n\n",
            "event: error\ndata: {\"message\":\"m\",\"type\":\"server_error\",\"data\":null}\n\n",
            "data: {\"message\":\"m\",\"code\":503}\n\n",
            "data: {\"message\":\"m\",\"code\":\"internal_server_error\"}\n\n",
            "data: {\"message\":\"m\",\"type\":\"rate_limit_exceeded\"}\n\n",
            "event: error\ndata: {\"message\":\"m\"}\n\n",
        ] {
            assert_eq!(fault(event).unwrap().message.as_deref(), Some("m"), "{event}");
        }
    }
}
