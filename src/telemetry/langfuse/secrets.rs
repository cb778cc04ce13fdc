//! Which texts must be seen nowhere: every key that is known, struck out wherever it stands.

use super::cut::{clamp, cut};
use crate::secret::Secret;
use aho_corasick::{AhoCorasick, MatchKind, packed};
use memchr::memmem::{self, Finder};
use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::ops::Range;
use std::sync::LazyLock;

/// What stands where a key stood.
const STRUCK: &[u8] = b"[redacted]";

/// Shorter texts are no secrets, and striking them out would garble what is said.
const MIN_BYTES: usize = 6;
/// Most configured callers whose keys are looked for everywhere; a caller's own always is, and so
/// are ours. It bounds the memory of the automaton.
const MAX_CALLERS: usize = 1_000;

/// Up to so many keys are looked for all at once as SIMD does it, and struck out one after the other,
/// which is several times as fast as an automaton.
const FEW: usize = 8;

/// How our own callers' keys begin, and what follows: eight digits, `-`, 48 digits.
const OURS: &[u8] = b"sk-cq-";
static FIND_OURS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(OURS));
const ID_DIGITS: usize = 8;
/// Length of such a key.
const OUR_KEY: usize = OURS.len() + ID_DIGITS + 1 + 48;

/// Keys of either side.
#[derive(Clone, Default)]
pub struct Secrets {
    few: Vec<Finder<'static>>,
    /// Finds any of the few, and what begins as our callers' keys do.
    any: Option<Any>,
    many: Option<AhoCorasick>,
    longest: usize,
}

/// Strikes keys out of one call's texts: those that are known, the one its caller presented, and
/// whatever has the form of our callers' keys.
pub(super) struct Striker<'s> {
    known: &'s Secrets,
    /// The caller's own, in every form that [`forms`] knows, where it is not among those.
    own: Vec<Finder<'static>>,
    /// Length of the longest key, in bytes.
    longest: usize,
}

/// Whether any of some words is in a text.
#[derive(Clone)]
struct Any {
    /// What all of them have in common, such as `sk-`: where it is not, none of them is, and one look for
    /// it costs a part of a look for all of them.
    common: Option<Finder<'static>>,
    words: packed::Searcher,
}

impl Any {
    /// Of these words, and of what begins as our callers' keys do.
    fn of(words: &[String]) -> Option<Self> {
        let all = || words.iter().map(String::as_bytes).chain([OURS]);
        let is_common = |part: &&[u8]| all().all(|word| memmem::find(word, part).is_some());
        let common = (2..=OURS.len()).rev().find_map(|length| OURS.windows(length).find(is_common));
        let words = packed::Searcher::new(all())?;
        Some(Self { common: common.map(Finder::new), words })
    }

    fn is_in(&self, text: &[u8]) -> bool {
        let may_be = self.common.as_ref().is_none_or(|common| common.find(text).is_some());
        may_be && self.words.find(text).is_some()
    }
}

impl Secrets {
    /// Our own keys, and those of callers as far as they are known.
    pub fn new<'s>(
        own: impl IntoIterator<Item = &'s str>,
        callers: impl IntoIterator<Item = &'s str>,
    ) -> Self {
        let callers = callers.into_iter().take(MAX_CALLERS);
        let words: Vec<String> = own.into_iter().chain(callers).flat_map(forms).collect();
        let longest = words.iter().map(String::len).max().unwrap_or_default();
        if words.len() <= FEW {
            let few = words.iter().map(|word| Finder::new(word).into_owned()).collect();
            return Self { few, any: Any::of(&words), many: None, longest };
        }
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&words);
        Self { few: Vec::new(), any: None, many: automaton.ok(), longest }
    }

    /// Whether it is looked for anyhow, in all its forms; `false` also where there are too many to say so
    /// cheaply.
    pub fn knows(&self, key: &str) -> bool {
        self.few.iter().any(|few| few.needle() == key.as_bytes())
    }

    /// For one call, whose caller presented this key.
    pub(super) fn striker(&self, presented: Option<&Secret>) -> Striker<'_> {
        let is_new = |key: &&Secret| !self.knows(key.expose());
        let forms = presented.filter(is_new).map(|key| forms(key.expose())).unwrap_or_default();
        let longest = forms.iter().map(String::len).max().unwrap_or_default();
        Striker {
            known: self,
            own: forms.iter().map(|form| Finder::new(form).into_owned()).collect(),
            longest: self.longest.max(longest).max(OUR_KEY),
        }
    }
}

impl Striker<'_> {
    /// The first `chars` characters, of a text without keys where there are more: cut before, a part of
    /// a key would stay and be found no more.
    pub(super) fn clamp<'t>(&self, text: &'t str, chars: usize) -> Cow<'t, str> {
        let short = clamp(text, chars);
        if short.len() == text.len() {
            return Cow::Borrowed(text);
        }
        Cow::Owned(clamp(&self.strike(text.to_owned()), chars).to_owned())
    }

    /// A text that was cut behind before keys were looked for: without those that are whole, and
    /// without so much of its end as a part of one may take.
    pub(super) fn head(&self, text: &str) -> String {
        let mut text = self.strike(text.to_owned());
        text.truncate(text.floor_char_boundary(text.len().saturating_sub(self.longest)));
        text
    }

    /// The same of one that was cut before.
    pub(super) fn tail(&self, text: &str) -> String {
        let mut text = self.strike(text.to_owned());
        text.drain(..text.ceil_char_boundary(self.longest.min(text.len())));
        text
    }

    /// A text that a tap may have cut to `bound` bytes or characters, as its length tells.
    pub(super) fn uncut<'t>(&self, text: &'t str, bound: usize) -> Cow<'t, str> {
        // A character at the bound may have been taken off whole.
        let was_cut = match text.len() {
            bytes if bytes > bound => text.chars().count() >= bound,
            bytes => bytes + 3 >= bound,
        };
        if was_cut { Cow::Owned(self.head(text)) } else { Cow::Borrowed(text) }
    }

    /// A text in at most so many bytes; without keys where it is cut, as [`Self::clamp`].
    pub(super) fn fitting<'t>(&self, text: Cow<'t, str>, bytes: usize) -> Cow<'t, str> {
        if text.len() <= bytes {
            return text;
        }
        Cow::Owned(cut(&self.strike(text.into_owned()), bytes).into_owned())
    }

    /// Strikes every key out of the inside of a JSON string that was written from `start` on. What
    /// begins or ends within an escape is no key, and striking it out would break the JSON.
    pub(super) fn strike_quoted(&self, out: &mut Vec<u8>, start: usize) {
        let written = out.get(start..).unwrap_or_default();
        let mut found = self.find(written);
        found.retain(|key| !is_in_escape(written, key.start) && !is_in_escape(written, key.end));
        if let Some(mut clean) = without(written, found) {
            out.truncate(start);
            out.append(&mut clean);
        }
    }

    /// The text without any of them.
    pub(super) fn strike(&self, text: String) -> String {
        if !self.finds_any(text.as_bytes()) {
            return text;
        }
        match without(text.as_bytes(), self.find(text.as_bytes())) {
            None => text,
            // Keys are ASCII, so what is left is text.
            Some(clean) => String::from_utf8(clean).unwrap_or_default(),
        }
    }

    /// Whether a key may stand anywhere in this; hardly ever wrong where it says so, never where not.
    pub(super) fn finds_any(&self, text: &[u8]) -> bool {
        let Some(any) = &self.known.any else { return !self.find(text).is_empty() };
        any.is_in(text) || self.own.iter().any(|own| own.find(text).is_some())
    }

    fn find(&self, text: &[u8]) -> Vec<Range<usize>> {
        let mut found: Vec<Range<usize>> = Vec::new();
        if let Some(many) = &self.known.many {
            found.extend(many.find_iter(text).map(|key| key.range()));
        }
        for own in self.known.few.iter().chain(&self.own) {
            let length = own.needle().len();
            found.extend(own.find_iter(text).map(|at| at..at + length));
        }
        found.extend(FIND_OURS.find_iter(text).filter_map(|at| {
            let length = our_key(text.get(at + OURS.len()..)?)?;
            Some(at..at + OURS.len() + length)
        }));
        found
    }
}

/// The text with each range struck out; `None` where there is none.
fn without(text: &[u8], mut ranges: Vec<Range<usize>>) -> Option<Vec<u8>> {
    ranges.first()?;
    ranges.sort_unstable_by_key(|range| range.start);
    let mut clean = Vec::with_capacity(text.len());
    let mut from = 0;
    for range in ranges {
        if range.start >= from {
            clean.extend_from_slice(text.get(from..range.start).unwrap_or_default());
            clean.extend_from_slice(STRUCK);
        }
        from = from.max(range.end);
    }
    clean.extend_from_slice(text.get(from..).unwrap_or_default());
    Some(clean)
}

/// Whether a place inside a JSON string lies within an escape, such as `\n` or `\u001f`.
fn is_in_escape(json: &[u8], at: usize) -> bool {
    let before = json.get(..at).unwrap_or_default();
    let Some(near) = before.iter().rev().take(5).position(|byte| *byte == b'\\') else {
        return false;
    };
    let backslash = at - 1 - near;
    let earlier = before.get(..backslash).unwrap_or_default();
    let is_escaped = earlier.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1;
    let length = if json.get(backslash + 1) == Some(&b'u') { 6 } else { 2 };
    !is_escaped && backslash + length > at
}

/// A key as it stands in text, in a JSON string, in a JSON string inside one, and in one inside that: an
/// argument of a tool in a prompt in a span; as PHP writes it in JSON, and as it stands in a URL (RFC 3986
/// section 2). None of one that is too short.
fn forms(key: &str) -> Vec<String> {
    if key.len() < MIN_BYTES {
        return Vec::new();
    }
    let mut forms = in_json(key.to_owned());
    if key.contains('/') {
        forms.append(&mut in_json(key.replace('/', "\\/")));
    }
    // A header's value of several words stands in no URL, and each of them is looked for itself.
    if key.contains(' ') {
        return forms;
    }
    for (keeps_slash, is_upper) in [(false, true), (true, true), (false, false), (true, false)] {
        let url = in_url(key, keeps_slash, is_upper);
        if !forms.contains(&url) {
            forms.push(url);
        }
    }
    forms
}

/// As it is, and inside up to three JSON strings.
fn in_json(key: String) -> Vec<String> {
    let mut forms = vec![key];
    for _ in 0..3 {
        let last = forms.last().map(String::as_str).unwrap_or_default();
        if !last.contains(['"', '\\']) {
            break;
        }
        forms.push(last.replace('\\', "\\\\").replace('"', "\\\""));
    }
    forms
}

/// With every byte escaped that a URL may not have everywhere; a slash it may have in many places.
fn in_url(key: &str, keeps_slash: bool, is_upper: bool) -> String {
    let mut url = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                url.push(byte.into());
            }
            b'/' if keeps_slash => url.push('/'),
            _ => {
                let _infallible =
                    if is_upper { write!(url, "%{byte:02X}") } else { write!(url, "%{byte:02x}") };
            }
        }
    }
    url
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Length of what follows the beginning of one of our keys.
fn our_key(rest: &[u8]) -> Option<usize> {
    let (head, tail) = (rest.get(..ID_DIGITS)?, rest.get(ID_DIGITS + 1..OUR_KEY - OURS.len())?);
    let is_hex = |digits: &[u8]| digits.iter().all(u8::is_ascii_hexdigit);
    let has_dash = rest.get(ID_DIGITS) == Some(&b'-');
    (is_hex(head) && has_dash && is_hex(tail)).then_some(OUR_KEY - OURS.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, prop_assert, proptest};

    fn struck(secrets: &Secrets, presented: Option<&str>, text: &str) -> String {
        let presented = presented.map(|key| Secret::new(key.to_owned()));
        secrets.striker(presented.as_ref()).strike(text.to_owned())
    }

    #[test]
    fn every_known_key_is_struck_out_wherever_it_stands() {
        let secrets = Secrets::new(["sk-or-upstream", "pk-lf-1"], ["sk-caller-1", "abc"]);
        let text = "a sk-or-upstream, sk-caller-1sk-caller-1 and sk-presented; abc stays";
        let clean = "a [redacted], [redacted][redacted] and [redacted]; abc stays";
        assert_eq!(struck(&secrets, Some("sk-presented"), text), clean);
        assert_eq!(struck(&secrets, None, "nothing é"), "nothing é");
        assert_eq!(
            struck(&Secrets::default(), Some("sk-presented"), "sk-presented!"),
            "[redacted]!"
        );
        let nested = Secrets::new(["sk-abcdef"], []);
        assert_eq!(struck(&nested, Some("sk-abcdef-longer"), "sk-abcdef-longer."), "[redacted].");
    }

    #[test]
    fn a_key_that_json_escapes_is_found_in_json_too() {
        let key = r#"sk-"odd\key"#;
        let once = serde_json::to_string(key).unwrap();
        let twice = serde_json::to_string(&once).unwrap();
        let thrice = serde_json::to_string(&twice).unwrap();
        for text in [key, &once, &twice, &thrice] {
            let clean = struck(&Secrets::default(), Some(key), text);
            assert!(clean.contains("[redacted]") && !clean.contains("odd"), "{clean}");
        }
    }

    #[test]
    fn a_key_is_found_in_a_url_and_as_php_writes_it() {
        let secrets = Secrets::new(["AbC/dEf+GhI=="], []);
        for text in [
            "k=AbC%2FdEf%2BGhI%3D%3D&",
            "k=AbC/dEf%2bGhI%3d%3d&",
            r"AbC\/dEf+GhI==",
            r"AbC\\/dEf+GhI==",
            "AbC/dEf+GhI==",
        ] {
            let clean = struck(&secrets, None, text);
            assert!(clean.contains("[redacted]") && !clean.contains("dEf"), "{clean}");
        }
    }

    proptest! {
        /// A caller that knows its key could otherwise write a prompt that breaks a whole batch.
        #[test]
        fn no_prompt_breaks_the_json_around_it(
            text in r#"[n0-9a-f"\\\\\n\t\x1f\x01é]{0,60}"#,
            key in r#"[nrtu0-9a-f"\\\\]{6,9}"#,
            at in any::<prop::sample::Index>(),
        ) {
            let mut text: Vec<char> = text.chars().collect();
            let at = at.index(text.len() + 1);
            text.splice(at..at, key.chars());
            let text: String = text.into_iter().collect();
            let presented = Secret::new(key.clone());
            let secrets = Secrets::default();
            let mut out = serde_json::to_vec(&text).unwrap();
            out.pop();
            secrets.striker(Some(&presented)).strike_quoted(&mut out, 1);
            out.push(b'"');
            let clean: String = serde_json::from_slice(&out).unwrap();
            prop_assert!(!clean.contains(&key), "{clean}");
        }
    }

    #[test]
    fn keys_of_our_own_form_are_struck_out_though_nobody_knows_them() {
        let key = format!("sk-cq-{:08x}-{:048x}", 7, 9);
        let clean = struck(&Secrets::default(), None, &format!("x{key}y{key}"));
        assert_eq!(clean, "x[redacted]y[redacted]");
        for other in ["sk-cq-", "sk-cq-0000000g-", key.trim_end_matches('9'), "sk-cq-é0000000-"] {
            assert_eq!(struck(&Secrets::default(), None, other), other);
        }
    }

    proptest! {
        #[test]
        fn a_look_for_any_misses_none(
            keys in prop::collection::vec("(sk-c?|pk-|)[ab-]{6,8}", 1..9),
            text in "[abckps-]{0,60}",
            quoted in any::<Option<prop::sample::Index>>(),
        ) {
            let secrets = Secrets::new([], keys.iter().map(String::as_str));
            let striker = secrets.striker(None);
            let text = quoted.map_or_else(|| text.clone(), |nth| text.clone() + nth.get(&keys).as_str());
            let is_there = keys.iter().any(|key| text.contains(key));
            prop_assert!(!is_there || striker.finds_any(text.as_bytes()), "{:?} in {}", keys, text);
        }
    }

    #[test]
    fn many_keys_are_found_as_few_are() {
        let keys: Vec<String> = (0..40).map(|n| format!("sk-caller-{n:02}")).collect();
        let secrets = Secrets::new([], keys.iter().map(String::as_str));
        let clean =
            struck(&secrets, Some("sk-presented"), "sk-caller-00 sk-caller-39 sk-presented");
        assert_eq!(clean, "[redacted] [redacted] [redacted]");
    }

    #[test]
    fn no_print_shows_them() {
        let secrets = Secrets::new(["sk-or-upstream"], []);
        assert_eq!(format!("{secrets:?}"), "[redacted]");
    }
}
