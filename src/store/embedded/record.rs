//! What a line of the journal says, as bytes with a checksum: a torn one is known for what it is.

use super::super::period::Day;
use super::super::{CallId, NanoUsd};
use crate::protocol::usage::{CostSource, Usage};
use std::sync::Arc;

/// One fact of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// A call may spend this much; written before it goes out.
    Reserved(Reserved),
    /// A call has ended. Its reservation, if it had one, is over.
    Settled(Settled),
}

/// A running call of a key with a budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reserved {
    pub(super) call: CallId,
    pub(super) day: Day,
    pub(super) amount: NanoUsd,
    pub(super) key: Arc<str>,
    pub(super) model: Arc<str>,
}

/// An ended call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) call: CallId,
    pub(super) day: Day,
    pub(super) cost: NanoUsd,
    pub(super) source: CostSource,
    /// Calls it stands for in the ledger: none where nothing was used.
    pub(super) is_counted: bool,
    pub(super) usage: Usage,
    pub(super) key: Arc<str>,
    pub(super) model: Arc<str>,
    pub(super) upstream: Arc<str>,
}

/// Length and checksum.
const HEAD: usize = 8;
/// No record is longer; a length above it is no length.
const MAX_PAYLOAD: usize = 4 << 10;
/// Longest text taken over, in bytes; models and names are far shorter.
const MAX_TEXT: usize = 512;

impl Record {
    /// Adds the record to a buffer.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEAD]);
        match self {
            Self::Reserved(Reserved { call, day, amount, key, model }) => {
                out.push(b'R');
                numbers(out, [call.0, day.0.cast_unsigned(), amount.0]);
                texts(out, &[key, model]);
            }
            Self::Settled(settled) => {
                out.push(b'S');
                out.push(code(settled.source));
                out.push(settled.is_counted.into());
                let Usage { input, cached_input, output, reasoning, .. } = settled.usage;
                let Settled { call, day, cost, .. } = settled;
                let day = day.0.cast_unsigned();
                numbers(out, [call.0, day, cost.0, input, cached_input, output, reasoning]);
                texts(out, &[&settled.key, &settled.model, &settled.upstream]);
            }
        }
        let payload = out.get(start + HEAD..).unwrap_or_default();
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let head = u64::from(crc32fast::hash(payload)) << 32 | u64::from(length);
        if let Some(place) = out.get_mut(start..start + HEAD) {
            place.copy_from_slice(&head.to_le_bytes());
        }
    }

    /// The record at the beginning of `bytes` and its length there; `None` where there is no whole
    /// one.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let length = Self::length(bytes)?;
        let (head, payload) = bytes.get(..length)?.split_at_checked(HEAD)?;
        let sum = u32::from_le_bytes(head.get(4..)?.try_into().ok()?);
        if !matches!(payload.first(), Some(b'R' | b'S')) || crc32fast::hash(payload) != sum {
            return None;
        }
        Some((Self::decode(&mut Cursor(payload))?, length))
    }

    /// How long the record at the beginning of `bytes` says that it is; `None` where no record is.
    pub(super) fn length(bytes: &[u8]) -> Option<usize> {
        let length = usize::try_from(Cursor(bytes).u32()?).ok()?;
        (length <= MAX_PAYLOAD).then_some(HEAD + length)
    }

    /// Whether these bytes may be the beginning of a record that was never written to its end.
    pub(super) fn is_torn(bytes: &[u8]) -> bool {
        bytes.len() < HEAD || Self::length(bytes).is_some_and(|length| bytes.len() <= length)
    }

    fn decode(from: &mut Cursor<'_>) -> Option<Self> {
        match from.byte()? {
            b'R' => Some(Self::Reserved(Reserved {
                call: CallId(from.u64()?),
                day: Day(from.u64()?.cast_signed()),
                amount: NanoUsd(from.u64()?),
                key: from.text()?,
                model: from.text()?,
            })),
            b'S' => {
                let source = source(from.byte()?)?;
                let is_counted = from.byte()? == 1;
                let (call, day, cost) = (CallId(from.u64()?), from.u64()?, NanoUsd(from.u64()?));
                let [input, cached_input, output, reasoning] =
                    [from.u64()?, from.u64()?, from.u64()?, from.u64()?];
                let usage = Usage {
                    input,
                    cached_input,
                    output,
                    reasoning,
                    input_total: input.saturating_add(cached_input),
                    output_total: output.saturating_add(reasoning),
                    ..Usage::default()
                };
                let (key, model, upstream) = (from.text()?, from.text()?, from.text()?);
                let day = Day(day.cast_signed());
                Some(Self::Settled(Settled {
                    call,
                    day,
                    cost,
                    source,
                    is_counted,
                    usage,
                    key,
                    model,
                    upstream,
                }))
            }
            _ => None,
        }
    }
}

const SOURCES: [CostSource; 5] = [
    CostSource::Upstream,
    CostSource::Config,
    CostSource::Catalogue,
    CostSource::Estimate,
    CostSource::None,
];

fn code(source: CostSource) -> u8 {
    let place = SOURCES.iter().position(|known| *known == source).unwrap_or(SOURCES.len());
    u8::try_from(place).unwrap_or(u8::MAX)
}

fn source(code: u8) -> Option<CostSource> {
    SOURCES.get(usize::from(code)).copied()
}

fn numbers<const N: usize>(out: &mut Vec<u8>, numbers: [u64; N]) {
    out.extend_from_slice(numbers.map(u64::to_le_bytes).as_flattened());
}

fn texts(out: &mut Vec<u8>, texts: &[&str]) {
    for text in texts {
        let mut end = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = text.get(..end).unwrap_or_default();
        out.extend_from_slice(&u16::try_from(text.len()).unwrap_or_default().to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    }
}

struct Cursor<'b>(&'b [u8]);

impl<'b> Cursor<'b> {
    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<Arc<str>> {
        let length = self.array().map(u16::from_le_bytes)?;
        std::str::from_utf8(self.take(length.into())?).ok().map(Arc::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};
    use proptest::strategy::Strategy;

    fn record() -> impl Strategy<Value = Record> {
        let text = ".{0,40}";
        (any::<bool>(), any::<[u32; 7]>(), 0_usize..5, any::<bool>(), [text, text, text]).prop_map(
            |(is_reserved, n, source, is_counted, texts)| {
                let [key, model, upstream] = texts.map(Arc::from);
                let [call, day, nano, input, cached_input, output, reasoning] = n.map(u64::from);
                let (call, day) = (CallId(call), Day(day.cast_signed()));
                if is_reserved {
                    let amount = NanoUsd(nano);
                    return Record::Reserved(Reserved { call, day, amount, key, model });
                }
                let usage = Usage {
                    input,
                    cached_input,
                    output,
                    reasoning,
                    input_total: input + cached_input,
                    output_total: output + reasoning,
                    ..Usage::default()
                };
                let (cost, source) = (NanoUsd(nano), SOURCES[source]);
                Record::Settled(Settled {
                    call,
                    day,
                    cost,
                    source,
                    is_counted,
                    usage,
                    key,
                    model,
                    upstream,
                })
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_a_torn_one_is_none(
            records in prop::collection::vec(record(), 1..4),
            cut in any::<prop::sample::Index>(),
            flip in any::<prop::sample::Index>(),
        ) {
            let mut bytes = Vec::new();
            for record in &records {
                record.write(&mut bytes);
            }
            let mut rest = &bytes[..];
            for record in &records {
                let (read, length) = Record::read(rest).unwrap();
                prop_assert_eq!(&read, record);
                rest = &rest[length..];
            }
            prop_assert!(rest.is_empty());
            let mut one = Vec::new();
            records[0].write(&mut one);
            prop_assert_eq!(Record::read(&one[..cut.index(one.len())]), None);
            let place = flip.index(one.len());
            one[place] ^= 0x55;
            prop_assert_eq!(Record::read(&one), None);
        }
    }

    #[test]
    fn a_text_too_long_is_cut_between_characters() {
        let record = Record::Reserved(Reserved {
            call: CallId(1),
            day: Day(2),
            amount: NanoUsd(3),
            key: "é".repeat(400).into(),
            model: "".into(),
        });
        let mut bytes = Vec::new();
        record.write(&mut bytes);
        let (read, _) = Record::read(&bytes).unwrap();
        assert!(matches!(read, Record::Reserved(Reserved { key, .. }) if key.len() == MAX_TEXT));
    }
}
