//! Which texts of a streamed response have come, so that none of what repeats them is taken twice.

use super::said::Kind;

/// Of so many texts it is known that they came; of a response with more nothing that may repeat one is taken.
const MOST: usize = 1_024;
/// Set in the number of a piece that stands in the summary of an item and not in its content.
pub(super) const SUMMARY: u32 = 1 << 31;

/// One text: which item it belongs to, what it is, and which piece of the item. An event that does not
/// say which stands for any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) item: Option<u64>,
    pub(super) kind: Kind,
    pub(super) piece: Option<u32>,
}

/// What has come.
#[derive(Debug, Default)]
pub(super) struct Heard {
    texts: Vec<Text>,
    /// A bit for each kind that came.
    kinds: u32,
    /// The same of those that came in deltas, until their end comes.
    flowing: u32,
    /// Whether something of the item came in deltas.
    has_flowed: bool,
    /// Whether something came that could not be read.
    is_lost: bool,
    /// Whether an image is being made.
    is_drawing: bool,
}

impl Text {
    fn may_be(&self, other: &Self) -> bool {
        self.kind == other.kind
            && is_same(self.item, other.item)
            && is_same(self.piece, other.piece)
    }
}

fn is_same<T: PartialEq + Copy>(one: Option<T>, other: Option<T>) -> bool {
    one.is_none() || other.is_none() || one == other
}

impl Heard {
    /// A piece of a text came.
    pub(super) fn delta(&mut self, text: Text) {
        self.flowing |= bit(text.kind);
        self.has_flowed = true;
        // Mostly it goes on with the last one.
        if self.texts.last() != Some(&text) && !self.texts.contains(&text) {
            self.whole(text);
        }
    }

    /// A text came.
    pub(super) fn whole(&mut self, text: Text) {
        self.kinds |= bit(text.kind);
        if self.texts.len() < MOST {
            self.texts.push(text);
        }
    }

    /// Whether a text may have come already.
    pub(super) fn has(&self, text: &Text) -> bool {
        self.texts.len() == MOST || self.texts.iter().any(|known| known.may_be(text))
    }

    /// A bit for each kind of which a text came.
    pub(super) const fn kinds(&self) -> u32 {
        self.kinds
    }

    /// Whether any text of a kind came.
    pub(super) const fn has_any(&self, kind: Kind) -> bool {
        self.kinds & bit(kind) != 0
    }

    /// An item begins or ends; whether something of the one before came in deltas.
    pub(super) fn end_item(&mut self) -> bool {
        std::mem::take(&mut self.has_flowed)
    }

    /// Something came that could not be read.
    pub(super) fn lose(&mut self) {
        self.is_lost = true;
    }

    /// An image is being made.
    pub(super) fn draw(&mut self) {
        self.is_drawing = true;
    }

    /// Whether nothing came at all, or an image did not.
    pub(super) const fn lacks_any(&self) -> bool {
        let lacks_image = self.is_drawing && !self.has_any(Kind::Drawn);
        !self.is_lost && (self.kinds == 0 || lacks_image)
    }

    /// The text that came last of a kind ends; whether it came in deltas.
    pub(super) fn end(&mut self, kind: Kind) -> bool {
        let flowed = self.flowing & bit(kind) != 0;
        self.flowing &= !bit(kind);
        flowed
    }
}

/// A bit for a kind.
pub(super) const fn bit(kind: Kind) -> u32 {
    1 << kind as u32
}
