//! What a reply says about itself: who answered, what it cost, why it ended.

use super::fault::UpstreamFault;
use super::transcript::Transcript;
use crate::protocol::usage::{Counted, UpstreamCost, Usage};

/// What a reply said about itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// The model that answered, in the upstream's own name for it.
    pub model: Option<String>,
    /// The upstream's id of the reply.
    pub id: Option<String>,
    /// Tokens, as the upstream counted them.
    pub usage: Option<Usage>,
    /// Whether there was output after that count.
    pub is_early: bool,
    /// Money, as the upstream counted it.
    pub upstream_cost: Option<UpstreamCost>,
    /// Why it ended, in OpenAI's words where there is one: `stop`, `length`, `tool_calls`,
    /// `content_filter`, `error`; else the upstream's own word.
    pub finish: Option<String>,
    /// Whether a stream has said that nothing more comes, by `[DONE]`: some say no other word.
    pub is_done: bool,
    /// Whether its upstream says that it goes on with the call behind the reply (`background`).
    pub is_under_way: bool,
    /// The error it carried.
    pub fault: Option<UpstreamFault>,
    /// What it said, where that is kept.
    pub output: Option<Box<Transcript>>,
}

impl Reading {
    /// Whether it says what the call cost, in dollars or in tokens.
    #[must_use]
    pub fn names_a_price(&self) -> bool {
        let is_used = |usage: Usage| usage.input_total > 0 || usage.output_total > 0;
        self.upstream_cost.is_some() || self.usage.is_some_and(is_used)
    }

    /// Keeps the last counts; Groq sends them twice. Money from before more output is not all.
    pub(super) fn bill(&mut self, counted: Counted) {
        let Reading { usage, upstream_cost, is_early, .. } = self;
        *is_early &= !counted.names_output;
        let output = |usage: Option<Usage>| usage.map_or(0, |usage| usage.output_total);
        let is_more = output(counted.usage) > output(*usage);
        let earlier =
            upstream_cost.map(|cost| UpstreamCost { is_all: cost.is_all && !is_more, ..cost });
        *upstream_cost = counted.cost.or(earlier);
        *usage = counted.usage.or(*usage);
    }

    /// More output comes: what was counted before is the least.
    pub(super) fn goes_on(&mut self) {
        self.is_early = self.usage.is_some();
        if let Some(cost) = &mut self.upstream_cost {
            cost.is_all = false;
        }
    }
}
