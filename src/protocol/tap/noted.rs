//! How what an event says gets over a note pad into the transcript, where one is kept.

use super::{Dialect, Notes, Reading, Said, Transcript, responses};

impl Notes {
    /// Of a reply of which so much is kept.
    pub(super) fn keeping(limit: Option<usize>) -> Self {
        let mut notes = Self::default();
        notes.keep(limit);
        notes
    }

    pub(super) fn keep(&mut self, limit: Option<usize>) {
        self.reading.output = limit.map(|limit| Box::new(Transcript::new(limit)));
        self.said = if limit.is_some() { Said::on() } else { Said::default() };
    }

    /// The note pad, for one event.
    pub(super) fn said(&mut self) -> Said {
        std::mem::take(&mut self.said)
    }

    /// Takes the note pad back, and over what stands in it once that is enough.
    pub(super) fn transcribe(&mut self, mut said: Said) {
        if !said.is_on() {
            return;
        }
        let is_enough = said.end_event();
        self.said = said;
        if is_enough {
            self.take_over();
        }
    }

    /// Takes over what stands in the note pad.
    pub(super) fn take_over(&mut self) {
        if let Some(output) = &mut self.reading.output {
            output.take(&self.said);
        }
        self.said.clear();
    }

    /// Whether an event of this name that is too long to be read had something that no other says.
    pub(super) fn is_loss(&mut self, dialect: Dialect, name: &[u8]) -> bool {
        dialect != Dialect::Responses || responses::is_loss(self, name)
    }

    /// An event of so many bytes was too long to be read.
    pub(super) fn lose(&mut self, bytes: usize) {
        self.take_over();
        if let Some(output) = &mut self.reading.output {
            output.lose(bytes);
        }
    }

    /// Takes the note pad back, without what the last event has written.
    pub(super) fn give_back(&mut self, mut said: Said) {
        said.drop_event();
        self.said = said;
    }

    /// Takes what has been read so far.
    pub(super) fn take_reading(&mut self) -> Reading {
        self.take_over();
        std::mem::take(&mut self.reading)
    }

    pub(super) fn vectors(&mut self, count: u64, length: u64) {
        if let Some(output) = self.reading.output.as_mut().filter(|_| count > 0) {
            output.vectors = Some((count, length));
        }
    }
}
