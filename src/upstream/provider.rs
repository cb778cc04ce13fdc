//! All that differs between providers, as one table.

use crate::protocol::Dialect;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whose API an upstream speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// <https://openrouter.ai>
    OpenRouter,
    /// <https://platform.openai.com>
    OpenAi,
    /// Azure OpenAI, v1 API: the model is the deployment's name.
    Azure,
    /// <https://docs.anthropic.com>
    Anthropic,
    /// Gemini's OpenAI-compatible endpoint.
    Gemini,
    /// <https://groq.com>
    Groq,
    /// <https://mistral.ai>
    Mistral,
    /// <https://deepseek.com>
    DeepSeek,
    /// <https://x.ai>
    Xai,
    /// <https://together.ai>
    Together,
    /// <https://fireworks.ai>
    Fireworks,
    /// <https://cerebras.ai>
    Cerebras,
    /// <https://ollama.com>
    Ollama,
    /// <https://vllm.ai>
    Vllm,
    /// llama.cpp's server.
    LlamaCpp,
    /// <https://lmstudio.ai>
    LmStudio,
    /// Any other OpenAI-compatible server.
    #[default]
    Custom,
}

/// The header that Anthropic's own API asks for, and the version where a caller names none.
pub const ANTHROPIC_VERSION: (&str, &str) = ("anthropic-version", "2023-06-01");

/// How an upstream wants its credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// `Authorization: Bearer …`.
    Bearer,
    /// `api-key: …`.
    ApiKey,
    /// `x-api-key: …`, with `anthropic-version`.
    XApiKey,
}

/// What costs nothing to ask, and shows that the provider works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// A path under the base address.
    UnderBase(&'static str),
    /// A path of the host.
    OfHost(&'static str),
}

/// What becomes of members of a request that a provider does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldPolicy {
    /// Whether it refuses a call for them; then OpenRouter's own members are taken out.
    is_strict: bool,
    /// What is taken out besides.
    more: &'static [&'static str],
    /// A member that it knows by an older name, and that name.
    older_name: Option<(&'static str, &'static str)>,
    /// A member that it refuses within `messages`.
    in_messages: Option<&'static str>,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Public base address; `None` where every installation has its own.
    pub base_url: Option<&'static str>,
    /// Where the credential goes.
    pub credential: Credential,
    /// Whether `x-session-id` and OpenRouter's attribution headers mean something there.
    pub openrouter_headers: bool,
    /// Whether OpenAI's organisation and project headers mean something there.
    pub openai_headers: bool,
    /// What is probed where the configuration names no path.
    pub probe: Probe,
    /// What becomes of members it does not know.
    pub fields: FieldPolicy,
    /// When its chat streams say what they used.
    pub stream_usage: StreamUsage,
}

/// When a provider's streams of chat and completions say what they used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamUsage {
    /// Always, or nobody knows and it may refuse to be asked.
    Unasked,
    /// Where `stream_options.include_usage` asks for it.
    Asked,
    /// Most servers of this kind do where they are asked, and some may refuse: they are asked where
    /// a limit depends on it.
    AskedIfMetered,
}

/// OpenRouter's own members of a request (WIRE section 4).
const OPENROUTER_FIELDS: [&str; 15] = [
    "cache_control",
    "debug",
    "fallbacks",
    "image_config",
    "models",
    "plugins",
    "preset",
    "provider",
    "reasoning",
    "route",
    "session_id",
    "stop_server_tools_when",
    "trace",
    "transforms",
    "usage",
];

impl FieldPolicy {
    /// Unknown members are ignored there, or nobody knows what is unknown there.
    pub const PASS: Self =
        Self { is_strict: false, more: &[], older_name: None, in_messages: None };

    const fn strict(more: &'static [&'static str]) -> Self {
        Self { is_strict: true, more, ..Self::PASS }
    }

    /// Whether a member of a request's top level stays at home. OpenAI's Responses have a
    /// `reasoning` of their own, Anthropic's Messages a `cache_control`.
    #[must_use]
    pub fn takes_out(self, field: &str, dialect: Dialect) -> bool {
        let is_native = match dialect {
            Dialect::Responses => field == "reasoning",
            Dialect::Messages => field == "cache_control",
            Dialect::Chat | Dialect::Completions | Dialect::Embeddings => false,
        };
        let is_foreign = OPENROUTER_FIELDS.contains(&field) || self.more.contains(&field);
        self.is_strict && is_foreign && !is_native
    }

    /// The name under which a member goes out, where the provider knows it by an older one.
    #[must_use]
    pub fn older_name(self, field: &str) -> Option<&'static str> {
        self.older_name.filter(|(newer, _)| *newer == field).map(|(_, older)| older)
    }

    /// A member that goes from each of `messages`, where the provider refuses one there.
    #[must_use]
    pub const fn in_messages(self) -> Option<&'static str> {
        self.in_messages
    }
}

/// The row of a provider that differs in its address alone.
const fn plain(base_url: Option<&'static str>) -> Row {
    Row {
        base_url,
        credential: Credential::Bearer,
        openrouter_headers: false,
        openai_headers: false,
        probe: Probe::UnderBase("/models"),
        fields: FieldPolicy::PASS,
        stream_usage: StreamUsage::Asked,
    }
}

/// The row of one that refuses what it does not know.
const fn strict(base_url: &'static str, more: &'static [&'static str]) -> Row {
    Row { fields: FieldPolicy::strict(more), ..plain(Some(base_url)) }
}

/// The row of one that says what its streams used by itself, or may refuse to be asked.
const fn unasked(row: Row) -> Row {
    Row { stream_usage: StreamUsage::Unasked, ..row }
}

impl Provider {
    /// The row of this provider. Sources: WIRE sections 4 and 6, read 2026-11-22.
    #[must_use]
    pub const fn row(self) -> Row {
        match self {
            Self::OpenRouter => Row {
                openrouter_headers: true,
                // `/models` is public; `/key` tells whether the credential works, and what is left.
                probe: Probe::UnderBase("/key"),
                stream_usage: StreamUsage::Unasked,
                ..plain(Some("https://openrouter.ai/api/v1"))
            },
            Self::OpenAi => {
                Row { openai_headers: true, ..strict("https://api.openai.com/v1", &[]) }
            }
            Self::Azure => Row {
                credential: Credential::ApiKey,
                fields: FieldPolicy::strict(&[]),
                ..plain(None)
            },
            Self::Anthropic => Row {
                credential: Credential::XApiKey,
                ..strict("https://api.anthropic.com/v1", &[])
            },
            Self::Gemini => strict(
                "https://generativelanguage.googleapis.com/v1beta/openai",
                &["frequency_penalty", "metadata", "store"],
            ),
            Self::Groq => strict("https://api.groq.com/openai/v1", &[]),
            Self::Mistral => Row {
                fields: FieldPolicy {
                    older_name: Some(("max_completion_tokens", "max_tokens")),
                    in_messages: Some("reasoning_content"),
                    ..FieldPolicy::strict(&["store"])
                },
                stream_usage: StreamUsage::Unasked,
                ..plain(Some("https://api.mistral.ai/v1"))
            },
            Self::DeepSeek => plain(Some("https://api.deepseek.com/v1")),
            Self::Xai => plain(Some("https://api.x.ai/v1")),
            Self::Together => unasked(plain(Some("https://api.together.ai/v1"))),
            Self::Fireworks => unasked(strict("https://api.fireworks.ai/inference/v1", &[])),
            Self::Cerebras => unasked(strict("https://api.cerebras.ai/v1", &["metadata", "store"])),
            Self::Ollama => Row {
                probe: Probe::OfHost("/api/version"),
                ..plain(Some("http://127.0.0.1:11434/v1"))
            },
            Self::Vllm => {
                Row { probe: Probe::OfHost("/health"), ..plain(Some("http://127.0.0.1:8000/v1")) }
            }
            Self::LlamaCpp => {
                Row { probe: Probe::OfHost("/health"), ..plain(Some("http://127.0.0.1:8080/v1")) }
            }
            Self::LmStudio => unasked(plain(Some("http://127.0.0.1:1234/v1"))),
            Self::Custom => Row { stream_usage: StreamUsage::AskedIfMetered, ..plain(None) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::request::OPTIONAL;

    #[test]
    fn strict_providers_lose_what_is_openrouters_alone() {
        let out =
            |provider: Provider, field, dialect| provider.row().fields.takes_out(field, dialect);
        assert!(out(Provider::OpenAi, "session_id", Dialect::Chat));
        assert!(out(Provider::OpenAi, "reasoning", Dialect::Chat));
        assert!(!out(Provider::OpenAi, "reasoning", Dialect::Responses));
        assert!(!out(Provider::OpenAi, "metadata", Dialect::Chat));
        assert!(out(Provider::Cerebras, "metadata", Dialect::Chat));
        assert!(!out(Provider::Anthropic, "cache_control", Dialect::Messages));
        assert!(!out(Provider::OpenAi, "temperature", Dialect::Chat));
        assert!(out(Provider::Anthropic, "fallbacks", Dialect::Messages));
        assert!(out(Provider::Gemini, "frequency_penalty", Dialect::Chat));
        assert!(!out(Provider::OpenAi, "frequency_penalty", Dialect::Chat));
        for provider in [Provider::OpenRouter, Provider::Custom, Provider::Vllm] {
            assert!(!out(provider, "session_id", Dialect::Chat), "{provider:?}");
        }
    }

    #[test]
    fn whatever_a_row_takes_out_is_looked_for_in_bodies() {
        assert!(OPENROUTER_FIELDS.iter().all(|field| OPTIONAL.contains(field)));
        for provider in [Provider::Gemini, Provider::Mistral, Provider::Cerebras] {
            let more = provider.row().fields.more;
            assert!(!more.is_empty(), "{provider:?}");
            assert!(more.iter().all(|field| OPTIONAL.contains(field)), "{provider:?}");
        }
        let mistral = Provider::Mistral.row().fields;
        assert_eq!(mistral.older_name("max_completion_tokens"), Some("max_tokens"));
        assert_eq!(Provider::OpenAi.row().fields.older_name("max_completion_tokens"), None);
        assert_eq!(mistral.in_messages(), Some("reasoning_content"));
        assert_eq!(Provider::DeepSeek.row().fields.in_messages(), None);
    }
}
