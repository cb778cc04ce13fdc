//! What one upstream lists: its models read item by item, whatever shape the list has.

use super::prices::{self, Override, Prices};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::fmt;
use std::sync::Arc;

/// Longer names are no model's, and would only swell the list.
const MAX_ID_BYTES: usize = 256;

/// Where providers other than OpenRouter say how much a model can read: Groq, Mistral, vLLM.
const CONTEXT_FIELDS: [&str; 4] =
    ["context_length", "context_window", "max_context_length", "max_model_len"];

/// The models one upstream lists, under its own names.
#[derive(Debug, Default)]
pub struct UpstreamList {
    models: Vec<Model>,
}

/// What the gateway itself reads of a model; all of it optional.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Entry {
    /// What it costs; `None` also where a price is not a number or negative, as OpenRouter shows
    /// for models that route to others.
    pub prices: Option<Prices>,
    /// Longest answer in tokens.
    pub max_output_tokens: Option<u64>,
    /// Longest prompt and answer together, in tokens.
    pub context_length: Option<u64>,
    /// The dated name that OpenRouter's replies carry instead of the name asked for.
    pub canonical_slug: Option<String>,
}

/// One model of one upstream.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) id: String,
    /// All fields but the id as the upstream wrote them, and those it left out: `,"key":value` …
    fields: String,
    /// Whether `fields` say whose model it is; else the name of the upstream stands in.
    is_owned: bool,
    pub(super) entry: Entry,
    /// When its tokens cost something else.
    pub(super) overrides: Arc<[Override]>,
    /// The most they may cost; `None` where nobody can say.
    pub(super) most: Option<Prices>,
}

impl UpstreamList {
    /// Reads a list in OpenRouter's or OpenAI's shape (`{"data":[…]}`) or a bare array, as
    /// Together has it. An item that is no model is left out; the others stand.
    ///
    /// # Errors
    /// Where there is no list at all, what was found instead; never a part of the body.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Wrapped<'a> {
            #[serde(borrow)]
            data: Option<Vec<&'a RawValue>>,
        }
        let text = String::from_utf8_lossy(body);
        let items = if text.trim_start().starts_with('[') {
            serde_json::from_str(&text).map_err(|error| fault(&error))?
        } else {
            // Ollama says `"data":null` when it has no models.
            let wrapped: Wrapped<'_> =
                serde_json::from_str(&text).map_err(|error| fault(&error))?;
            wrapped.data.unwrap_or_default()
        };
        let models = items.into_iter().filter_map(|item: &RawValue| Model::parse(item.get()));
        Ok(Self { models: models.collect() })
    }

    pub(super) fn models(&self) -> &[Model] {
        &self.models
    }

    pub(super) fn get(&self, id: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.id == id)
    }
}

/// `serde_json`'s own message may quote the body.
fn fault(error: &serde_json::Error) -> String {
    let what =
        if error.is_syntax() || error.is_eof() { "not JSON" } else { "not a list of models" };
    format!("{what} at line {}, column {}", error.line(), error.column())
}

impl Model {
    /// A model of which only the name is known.
    pub(super) fn unlisted(id: &str) -> Self {
        let mut model = Self {
            id: id.to_owned(),
            fields: String::new(),
            is_owned: false,
            entry: Entry::default(),
            overrides: Arc::default(),
            most: None,
        };
        model.complete(&Fields(Vec::new()));
        model
    }

    fn parse(item: &str) -> Option<Self> {
        let fields: Fields<'_> = serde_json::from_str(item).ok()?;
        let id = plain_id(fields.read("id")?, fields.read("owned_by"));
        if id.is_empty() || id.len() > MAX_ID_BYTES {
            return None;
        }
        let pricing: Map<String, Value> = fields.read("pricing").unwrap_or_default();
        let entry = Entry {
            prices: Prices::of(&pricing),
            max_output_tokens: fields
                .read("top_provider")
                .and_then(|top: Map<String, Value>| top.get("max_completion_tokens")?.as_u64())
                .or_else(|| fields.read("max_completion_tokens")),
            context_length: CONTEXT_FIELDS.iter().find_map(|name| fields.read(name)),
            canonical_slug: fields.read("canonical_slug"),
        };
        let is_owned = fields.has("owned_by");
        let overrides = prices::overrides(&pricing);
        let most = entry.prices.and_then(|prices| prices.most(&pricing, &overrides));
        let mut model = Self { id, fields: String::new(), is_owned, entry, overrides, most };
        for (name, value) in fields.0.iter().filter(|(name, _)| name != "id") {
            model.put(name, value.get());
        }
        model.complete(&fields);
        Some(model)
    }

    /// Adds what clients of OpenAI's and OpenRouter's lists rely on, where it is known.
    fn complete(&mut self, fields: &Fields<'_>) {
        if !fields.has("object") {
            self.put("object", r#""model""#);
        }
        if !fields.has("created") {
            self.put("created", "0");
        }
        if !fields.has("name") {
            self.put("name", &quoted(&self.id));
        }
        if let Some(tokens) = self.entry.context_length.filter(|_| !fields.has("context_length")) {
            self.put("context_length", &tokens.to_string());
        }
    }

    fn put(&mut self, name: &str, value: &str) {
        for part in [",", &quoted(name), ":", value] {
            self.fields.push_str(part);
        }
    }

    /// The item under the name callers use.
    pub(super) fn to_json(&self, id: &str, upstream: &str) -> String {
        let id = quoted(id);
        if self.is_owned {
            return format!(r#"{{"id":{id}{}}}"#, self.fields);
        }
        // OpenRouter names the author before the slash.
        let author = self.id.split_once('/').map_or(upstream, |(author, _)| author);
        format!(r#"{{"id":{id}{},"owned_by":{}}}"#, self.fields, quoted(author))
    }
}

/// Gemini lists `models/gemini-…` and is called with or without the prefix; no caller expects it.
/// A server that names itself as the owner may mean a path.
fn plain_id(id: String, owner: Option<String>) -> String {
    match id.strip_prefix("models/") {
        Some(plain) if owner.is_none_or(|owner| owner == "google") => plain.to_owned(),
        Some(_) | None => id,
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The fields of one item, in order, their values as they stand.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Fields<'a> {
    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// One field, where it is there and of this type.
    fn read<T: Deserialize<'a>>(&self, name: &str) -> Option<T> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        serde_json::from_str(value.get()).ok()
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}
