//! The simulated models: what each does and costs, as a table and as OpenRouter's model list.

use super::faults::Fault;
use super::refusal::{Refusal, Trouble};
use serde_json::{Value, json};

/// One simulated model.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) id: &'static str,
    /// One line for people, in the model list and on the console.
    pub(super) about: &'static str,
    pub(super) fault: Option<Fault>,
    /// Price of an input token in billionths of a US dollar.
    pub(super) input_nanos: u32,
    /// Price of an output token in billionths of a US dollar.
    pub(super) output_nanos: u32,
    /// Longest answer in tokens.
    pub(super) max_output: u32,
}

/// Longest input of every model, in tokens.
const CONTEXT: u32 = 128_000;
/// When the models came out, in seconds since 1970: 1 August 2026.
const CREATED: u64 = 1_785_542_400;
/// What the dated name of a model ends with.
const DATE: &str = "20260801";
/// The model that embeds.
pub(super) const EMBED: &str = "demo/embed";
/// The model that thinks aloud.
pub(super) const REASONING: &str = "demo/reasoning";
/// The model that calls tools.
pub(super) const TOOLS: &str = "demo/tools";

const fn able(id: &'static str, about: &'static str, input_nanos: u32, output_nanos: u32) -> Model {
    Model { id, about, fault: None, input_nanos, output_nanos, max_output: 4096 }
}

const fn faulty(id: &'static str, fault: Fault, about: &'static str) -> Model {
    Model { id, about, fault: Some(fault), input_nanos: 150, output_nanos: 600, max_output: 4096 }
}

/// Every model, the able ones first.
pub(super) const MODELS: &[Model] = &[
    able("demo/chat", "talks", 150, 600),
    able(REASONING, "thinks before it talks", 1_000, 5_000),
    able(TOOLS, "calls the tools it is given", 500, 2_000),
    able(EMBED, "turns text into vectors", 20, 0),
    faulty("demo/fails-503", Fault::Fails503, "main answers 503, spare takes over"),
    faulty("demo/fails-429", Fault::Fails429, "main is at capacity, spare takes over"),
    faulty("demo/refuses-key", Fault::RefusesKey, "main refuses its key, spare takes over"),
    faulty("demo/error-in-200", Fault::ErrorIn200, "main fails inside a 200, spare takes over"),
    faulty("demo/fails-everywhere", Fault::FailsEverywhere, "both answer 503"),
    faulty("demo/slow", Fault::Slow, "thinks for four seconds; streams carry comments meanwhile"),
    faulty("demo/cut-mid-stream", Fault::CutMidStream, "a stream breaks off"),
    faulty("demo/stalls", Fault::Stalls, "a stream falls silent"),
    faulty("demo/truncates", Fault::Truncates, "a stream ends too early, politely"),
];

/// The model of this name, plain or dated.
pub(super) fn find(id: &str) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.id == id || model.dated() == id)
}

/// What is said of a model that is not there.
pub(super) fn unknown(id: &str) -> Refusal {
    let known = MODELS.iter().filter(|model| model.fault.is_none());
    let known = known.map(|model| model.id).collect::<Vec<_>>().join(", ");
    Refusal::new(Trouble::NotFound, format!("no simulated model {id:?}; try one of {known}"))
}

/// `GET /models`.
pub(super) fn list() -> Value {
    let items = MODELS.iter().map(Model::item).collect::<Vec<_>>();
    json!({ "total_count": items.len(), "data": items, "links": { "next": null } })
}

impl Model {
    /// The dated name that replies carry, as OpenRouter's do.
    pub(super) fn dated(&self) -> String {
        format!("{}-{DATE}", self.id)
    }

    /// Cost of a call in US dollars: input and output.
    pub(super) fn cost(&self, input_tokens: u32, output_tokens: u32) -> (f64, f64) {
        let usd = |nanos: u32, tokens: u32| f64::from(nanos) * f64::from(tokens) / 1e9;
        (usd(self.input_nanos, input_tokens), usd(self.output_nanos, output_tokens))
    }

    fn item(&self) -> Value {
        let output = if self.id == EMBED { "embeddings" } else { "text" };
        let price = |nanos: u32| format!("0.{nanos:09}");
        json!({
            "id": self.id,
            "canonical_slug": self.dated(),
            "hugging_face_id": null,
            "name": format!("Simulated: {}", self.id.trim_start_matches("demo/")),
            "created": CREATED,
            "description": format!("Simulated: {}.", self.about),
            "context_length": CONTEXT,
            "architecture": {
                "modality": format!("text->{output}"),
                "input_modalities": ["text"],
                "output_modalities": [output],
                "tokenizer": "Other",
                "instruct_type": null,
            },
            "pricing": {
                "prompt": price(self.input_nanos),
                "completion": price(self.output_nanos),
                "request": "0",
                "image": "0",
            },
            "top_provider": {
                "context_length": CONTEXT,
                "max_completion_tokens": self.max_output,
                "is_moderated": false,
            },
            "per_request_limits": null,
            "supported_parameters":
                ["max_tokens", "tools", "tool_choice", "response_format", "structured_outputs"],
            "supported_voices": null,
            "default_parameters": null,
            "knowledge_cutoff": null,
            "expiration_date": null,
            "links": { "details": format!("/api/v1/models/{}/endpoints", self.id) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_every_field_of_openrouters() {
        let list = list();
        let item = &list["data"][0];
        assert_eq!(list["total_count"], MODELS.len());
        assert_eq!(item["id"], "demo/chat");
        assert_eq!(item["pricing"]["prompt"], "0.000000150");
        assert_eq!(item["top_provider"]["max_completion_tokens"], 4096);
        assert_eq!(find("demo/chat-20260801").map(|model| model.id), Some("demo/chat"));
    }

    #[test]
    fn names_are_unique() {
        let mut names = MODELS.iter().map(|model| model.id).collect::<Vec<_>>();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), MODELS.len());
    }
}
