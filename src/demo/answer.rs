//! What the simulated model says: its thoughts, its words or its tool call, and what they cost.

use super::ask::{Ask, tokens};
use super::faults::Fault;
use super::models::{self, Model};
use super::reply::Stamp;
use super::schema;

/// Characters of the question that the answer repeats.
const ECHO: usize = 160;
/// Words of the question that go into strings of structured output.
const SUBJECT: usize = 80;

/// Why the answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    /// All is said.
    Stop,
    /// The caller's maximum, or the model's.
    Length,
    /// A tool is to be called.
    ToolCall,
}

/// A function to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) name: String,
    /// JSON.
    pub(super) arguments: String,
}

/// Tokens and US dollars of one call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bill {
    pub(super) input: u32,
    /// Reasoning included.
    pub(super) output: u32,
    pub(super) reasoning: u32,
    pub(super) input_usd: f64,
    pub(super) output_usd: f64,
}

/// One answer, cut into the pieces it is streamed in.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub(super) reasoning: Vec<String>,
    pub(super) text: Vec<String>,
    pub(super) call: Option<Call>,
    pub(super) finish: Finish,
    pub(super) bill: Bill,
}

/// An answer with all that its wire form tells besides it.
#[derive(Debug)]
pub(super) struct Spoken<'a> {
    pub(super) model: &'a Model,
    pub(super) ask: &'a Ask,
    pub(super) answer: Answer,
    /// Which provider speaks.
    pub(super) provider: String,
    pub(super) stamp: &'a Stamp<'a>,
}

/// The answer of `model`, served by `provider`, to a call.
pub(super) fn compose(ask: &Ask, model: &Model, provider: &str) -> Answer {
    let call = ask.tool.as_ref().filter(|_| model.id == models::TOOLS && ask.tool_result.is_none());
    let call = call.map(|tool| Call {
        name: tool.name.clone(),
        arguments: schema::sample(&tool.parameters, subject(&ask.prompt)).to_string(),
    });
    let (mut reasoning, mut text) = (Vec::new(), Vec::new());
    if model.id == models::REASONING {
        reasoning = words(&thoughts(ask));
    }
    if call.is_none() {
        text = words(&speech(ask, model, provider));
    }
    let limit = ask.max_output.unwrap_or(u32::MAX).min(model.max_output);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let wanted = reasoning.len() + text.len();
    reasoning.truncate(limit);
    text.truncate(limit - reasoning.len());
    let finish = match &call {
        Some(_) => Finish::ToolCall,
        None if wanted > limit => Finish::Length,
        None => Finish::Stop,
    };
    let count = |pieces: &[String]| u32::try_from(pieces.len()).unwrap_or(u32::MAX);
    let called = call.as_ref().map_or(0, |call| 1 + tokens(&call.arguments));
    let output = count(&reasoning) + count(&text) + called;
    let (input_usd, output_usd) = model.cost(ask.input_tokens, output);
    let bill = Bill {
        input: ask.input_tokens,
        output,
        reasoning: count(&reasoning),
        input_usd,
        output_usd,
    };
    Answer { reasoning, text, call, finish, bill }
}

/// Pieces as a tokenizer might cut them: one word each, with the space behind it.
fn words(text: &str) -> Vec<String> {
    text.split_inclusive(' ').map(str::to_owned).collect()
}

/// What a question is about, as far as one who understands nothing can tell: its last word with a
/// capital, else all of it.
fn subject(prompt: &str) -> &str {
    let trimmed = |word: &'_ str| word.trim_end_matches(|c: char| !c.is_alphanumeric()).len();
    let named =
        prompt.split_whitespace().skip(1).filter(|word| word.starts_with(char::is_uppercase));
    match named.last() {
        Some(word) => word.get(..trimmed(word)).unwrap_or(word),
        None => clip(prompt, SUBJECT),
    }
}

/// At most this many characters of a text.
fn clip(text: &str, characters: usize) -> &str {
    let end = text.char_indices().nth(characters).map_or(text.len(), |(at, _)| at);
    text.get(..end).unwrap_or(text)
}

fn thoughts(ask: &Ask) -> String {
    format!(
        "The question has {} words. I know nothing of the world, only of the gateway in front of \
         me, so I shall speak of that. ",
        tokens(&ask.prompt)
    )
}

fn speech(ask: &Ask, model: &Model, provider: &str) -> String {
    if let Some(wanted) = &ask.schema {
        return schema::sample(wanted, subject(&ask.prompt)).to_string();
    }
    let opening = match &ask.tool_result {
        Some(result) => format!("The tool says: “{}”.", clip(result.trim(), ECHO)),
        None => format!("You said: “{}”.", clip(ask.prompt.trim(), ECHO)),
    };
    format!("{opening} {}", remark(model, provider))
}

fn remark(model: &Model, provider: &str) -> String {
    let (id, about) = (model.id, model.about);
    match model.fault {
        None => format!(
            "I am {id}, a simulation, so I have nothing clever to add. But your words have come a \
             long way: Cirque checked your key, found a route for {id}, picked the upstream \
             {provider}, put a key of its own in the place of yours, and now passes on every byte \
             as I say it. It also notes when I began, counts my tokens and adds up my fee. Ask \
             demo/fails-503 the same to watch a failover."
        ),
        Some(
            Fault::Fails503
            | Fault::Fails429
            | Fault::RefusesKey
            | Fault::ErrorIn200
            | Fault::FailsEverywhere,
        ) => format!(
            "Here {about}: that is what {id} is for. I am {provider}, and if the other one was \
             asked first, you did not notice. The header of this reply tells: x-cirque-upstream \
             names me, x-cirque-attempts counts us."
        ),
        Some(Fault::Slow) => "Sorry for the wait, I was thinking. A stream carries comments \
             meanwhile, so that nobody on the way takes the silence for the end."
            .to_owned(),
        Some(Fault::CutMidStream | Fault::Stalls | Fault::Truncates) => format!(
            "With {id}, {about}, on purpose, about here, and a careless gateway would hand you \
             half an answer as if it were whole. Cirque sends an error event instead, and tells \
             its log and its metrics. (If you can read this to the end, you did not ask for a \
             stream.)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ask::Surface;
    use super::*;
    use serde_json::{Value, json};

    fn answer(model: &str, body: &Value) -> Answer {
        let ask = Ask::read(Surface::Chat, body).unwrap();
        compose(&ask, models::find(model).unwrap(), "demo-main")
    }

    fn asked(question: &str) -> Value {
        json!({"messages": [{"role": "user", "content": question}]})
    }

    #[test]
    fn an_answer_repeats_the_question_and_names_who_speaks() {
        let answer = answer("demo/chat", &asked("Where is Oslo?"));
        let text = answer.text.concat();
        assert!(text.starts_with("You said: “Where is Oslo?”."), "{text}");
        assert!(text.contains("demo-main"));
        assert_eq!(answer.finish, Finish::Stop);
        assert_eq!(answer.bill.output as usize, answer.text.len());
        assert!(answer.bill.output_usd > 0.0);
    }

    #[test]
    fn an_answer_stops_at_its_maximum_reasoning_included() {
        let mut body = asked("Why?");
        body["max_tokens"] = json!(30);
        let answer = answer("demo/reasoning", &body);
        assert_eq!(answer.finish, Finish::Length);
        assert_eq!(answer.bill.output, 30);
        assert!(answer.bill.reasoning > 0 && answer.bill.reasoning < 30);
    }

    #[test]
    fn a_tool_is_called_with_arguments_that_fit_its_schema() {
        let mut body = asked("How high is the tide in Bergen?");
        body["tools"] = json!([{"type": "function", "function": {"name": "tide", "parameters":
            {"type": "object", "properties": {"port": {"type": "string"}}}}}]);
        let call = answer("demo/tools", &body).call.unwrap();
        assert_eq!((call.name.as_str(), call.arguments.as_str()), ("tide", r#"{"port":"Bergen"}"#));
        assert_eq!(answer("demo/chat", &body).call, None);
        body["messages"] = json!([{"role": "tool", "content": "06:12"}]);
        assert!(answer("demo/tools", &body).text.concat().starts_with("The tool says: “06:12”."));
    }

    #[test]
    fn structured_output_is_json_of_the_schema() {
        let mut body = asked("Who lives in Tromsø?");
        body["response_format"] = json!({"type": "json_schema", "json_schema": {"schema":
            {"type": "object", "properties": {"city": {"type": "string"}}}}});
        assert_eq!(answer("demo/chat", &body).text.concat(), r#"{"city":"Tromsø"}"#);
    }

    #[test]
    fn a_long_question_is_clipped_between_characters() {
        assert_eq!(clip("äöü", 2), "äö");
        assert_eq!(clip("ä", 2), "ä");
    }
}
