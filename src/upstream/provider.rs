//! All that differs between providers, as one table.

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
}

impl Provider {
    /// The row of this provider. Sources: WIRE section 6, read 2026-11-22.
    #[must_use]
    pub const fn row(self) -> Row {
        const fn plain(base_url: Option<&'static str>) -> Row {
            Row {
                base_url,
                credential: Credential::Bearer,
                openrouter_headers: false,
                openai_headers: false,
            }
        }
        match self {
            Self::OpenRouter => {
                Row { openrouter_headers: true, ..plain(Some("https://openrouter.ai/api/v1")) }
            }
            Self::OpenAi => {
                Row { openai_headers: true, ..plain(Some("https://api.openai.com/v1")) }
            }
            Self::Azure => Row { credential: Credential::ApiKey, ..plain(None) },
            Self::Anthropic => Row {
                credential: Credential::XApiKey,
                ..plain(Some("https://api.anthropic.com/v1"))
            },
            Self::Gemini => plain(Some("https://generativelanguage.googleapis.com/v1beta/openai")),
            Self::Groq => plain(Some("https://api.groq.com/openai/v1")),
            Self::Mistral => plain(Some("https://api.mistral.ai/v1")),
            Self::DeepSeek => plain(Some("https://api.deepseek.com/v1")),
            Self::Xai => plain(Some("https://api.x.ai/v1")),
            Self::Together => plain(Some("https://api.together.ai/v1")),
            Self::Fireworks => plain(Some("https://api.fireworks.ai/inference/v1")),
            Self::Cerebras => plain(Some("https://api.cerebras.ai/v1")),
            Self::Ollama => plain(Some("http://127.0.0.1:11434/v1")),
            Self::Vllm => plain(Some("http://127.0.0.1:8000/v1")),
            Self::LlamaCpp => plain(Some("http://127.0.0.1:8080/v1")),
            Self::LmStudio => plain(Some("http://127.0.0.1:1234/v1")),
            Self::Custom => plain(None),
        }
    }
}
