//! Vectors of `/embeddings`: texts that share words lie close to each other.

use super::ask::{text, tokens};
use super::models::Model;
use serde_json::{Value, json};

/// Length of a vector where the caller names none.
const DIMENSIONS: u64 = 256;
/// Longest vector.
const LONGEST: u64 = 4096;
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The whole reply.
pub(super) fn whole(model: &Model, body: &Value) -> Value {
    let inputs = inputs(body.get("input"));
    let dimensions = body.get("dimensions").and_then(Value::as_u64).unwrap_or(DIMENSIONS);
    let dimensions = usize::try_from(dimensions.clamp(1, LONGEST)).unwrap_or(1);
    let is_base64 = body.get("encoding_format").and_then(Value::as_str) == Some("base64");
    let items = inputs.iter().enumerate().map(|(index, input)| {
        let vector = vector(input, dimensions);
        let embedding = if is_base64 { json!(base64(&vector)) } else { json!(vector) };
        json!({ "object": "embedding", "index": index, "embedding": embedding })
    });
    let items = items.collect::<Vec<_>>();
    let used = inputs.iter().map(|input| tokens(input)).sum();
    let (cost, _) = model.cost(used, 0);
    json!({
        "object": "list",
        "data": items,
        "model": model.dated(),
        "usage": { "prompt_tokens": used, "total_tokens": used, "cost": cost },
    })
}

/// One text, several, or token numbers for either.
fn inputs(input: Option<&Value>) -> Vec<String> {
    match input {
        Some(Value::Array(many)) if !many.iter().all(Value::is_number) => {
            many.iter().map(text).collect()
        }
        Some(one) => vec![text(one)],
        None => Vec::new(),
    }
}

/// Each word counts at a place that its hash picks; the length of the vector is 1.
fn vector(input: &str, dimensions: usize) -> Vec<f32> {
    let mut vector = vec![0.0_f32; dimensions];
    for word in input.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let hash = fnv(word.to_lowercase().as_bytes());
        let place = usize::try_from(hash >> 1).unwrap_or_default() % dimensions;
        if let Some(value) = vector.get_mut(place) {
            *value += if hash & 1 == 0 { 1.0 } else { -1.0 };
        }
    }
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length > 0.0 {
        for value in &mut vector {
            *value /= length;
        }
    }
    vector
}

/// FNV-1a with 32 bits: the same everywhere and for ever, which `std`'s hasher does not promise.
fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Base64 of the little-endian numbers, which is how OpenAI's own clients ask for them.
fn base64(vector: &[f32]) -> String {
    let bytes = vector.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or_default());
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) & 63;
            let letter = BASE64.get(value as usize).copied().unwrap_or(b'=');
            text.push(if digit > group.len() { '=' } else { char::from(letter) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::models;
    use super::*;

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn texts_that_share_words_lie_closer() {
        let [sea, tide, tax] = ["High tide in Oslo", "low tide in Oslo?", "Pay your taxes"]
            .map(|text| vector(text, 256));
        assert!((dot(&sea, &sea) - 1.0).abs() < 1e-5);
        assert!(dot(&sea, &tide) > dot(&sea, &tax) + 0.3);
    }

    #[test]
    fn base64_is_what_every_decoder_reads() {
        assert_eq!(base64(&[1.0]), "AACAPw==");
        assert_eq!(base64(&[1.0, -2.5]), "AACAPwAAIMA=");
        assert_eq!(base64(&[1.0, -2.5, 0.0]), "AACAPwAAIMAAAAAA");
    }

    #[test]
    fn each_input_gets_one_vector_of_the_asked_length() {
        let model = models::find(models::EMBED).unwrap();
        let count = |input: Value| {
            let reply = whole(model, &json!({ "input": input, "dimensions": 8 }));
            let data = reply["data"].as_array().unwrap().clone();
            assert!(data.iter().all(|item| item["embedding"].as_array().unwrap().len() == 8));
            data.len()
        };
        assert_eq!(count(json!("one")), 1);
        assert_eq!(count(json!(["one", "two"])), 2);
        assert_eq!(count(json!([1, 2, 3])), 1);
        assert_eq!(count(json!([[1, 2], [3]])), 2);
    }
}
