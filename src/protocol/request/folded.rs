//! Which names are, to a server that does not mind their case, names that decide something.
//!
//! Go's JSON reader, and with it Ollama and many gateways, takes `Model` for `model`, and the last of
//! both wins: such a server would read another value than the one that was checked here.

/// The names whose values are decided on, at the top and in the objects that are read below it.
const DECIDING: [&str; 17] = [
    "best_of",
    "conversation",
    "fallbacks",
    "include_usage",
    "max_completion_tokens",
    "max_output_tokens",
    "max_tokens",
    "model",
    "models",
    "n",
    "plugins",
    "preset",
    "previous_response_id",
    "prompt",
    "stream",
    "stream_options",
    "tools",
];

/// The deciding name that `name` is in other letters.
pub(super) fn folded(name: &str) -> Option<&'static str> {
    if is_plain(name) {
        return None;
    }
    DECIDING.into_iter().find(|deciding| is_same(name, deciding))
}

/// Whether folding leaves it as it is.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase())
}

/// Whether it is this name, in any letters.
pub(super) fn is_same(name: &str, deciding: &str) -> bool {
    name.chars().map(fold).eq(deciding.chars())
}

/// Whether it ends like this, in any letters.
pub(super) fn ends_as(name: &str, end: &str) -> bool {
    let mut letters = name.chars().rev().map(fold);
    end.chars().rev().all(|letter| letters.next() == Some(letter))
}

/// Unicode's simple folding, as far as it ends in the letters of these names: the long s and the
/// sign of kelvin are the only ones beyond ASCII.
const fn fold(letter: char) -> char {
    match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        letter => letter.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_letters_of_a_deciding_name_are_found() {
        for (name, found) in [
            ("Model", Some("model")),
            ("MODELS", Some("models")),
            ("model\u{17f}", Some("models")),
            ("max_to\u{212a}ens", Some("max_tokens")),
            ("N", Some("n")),
            ("model", None),
            ("models2", None),
            ("User", None),
            ("maxTokens", None),
            ("mödel", None),
            ("", None),
        ] {
            assert_eq!(folded(name), found, "{name}");
        }
    }
}
