//! The wire: paths, request bodies, event streams, usage and errors, without any I/O.

pub mod coding;
pub mod done;
pub mod edit;
pub mod errors;
pub mod length;
pub(crate) mod lenient;
pub(crate) mod mend;
pub mod path;
pub mod prompt;
pub mod request;
pub mod sse;
pub mod tap;
pub mod tokens;
pub mod usage;
pub mod usage_chunk;
pub mod word;

/// A wire format for inference; a call keeps its dialect from the caller to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI's chat completions.
    Chat,
    /// OpenAI's older text completions.
    Completions,
    /// OpenAI's responses.
    Responses,
    /// Anthropic's messages.
    Messages,
    /// OpenAI's embeddings.
    Embeddings,
}

impl Dialect {
    /// What is appended to an upstream's `base_url`.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/chat/completions",
            Self::Completions => "/completions",
            Self::Responses => "/responses",
            Self::Messages => "/messages",
            Self::Embeddings => "/embeddings",
        }
    }

    /// The path served, as metrics and the log name it.
    #[must_use]
    pub const fn route(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::Embeddings => "/v1/embeddings",
        }
    }

    /// Whether `stream: true` means anything here.
    #[must_use]
    pub const fn may_stream(self) -> bool {
        match self {
            Self::Chat | Self::Completions | Self::Responses | Self::Messages => true,
            Self::Embeddings => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_the_upstream_path_under_v1() {
        use Dialect::{Chat, Completions, Embeddings, Messages, Responses};
        for dialect in [Chat, Completions, Responses, Messages, Embeddings] {
            assert_eq!(dialect.route(), format!("/v1{}", dialect.path()));
            assert_eq!(dialect.may_stream(), dialect != Embeddings);
        }
    }
}
