//! The end of an answer, which is written only when the upstream's has come: its reason and its usage.

use super::words::{Counts, Stop, Word};

/// The end as far as the words so far tell it.
#[derive(Debug, Default)]
pub(super) struct Ending {
    stop: Option<Stop>,
    /// The sequence that was met.
    pub(super) sequence: Option<Vec<u8>>,
    pub(super) counts: Counts,
    pub(super) has_calls: bool,
    pub(super) has_ended: bool,
}

impl Ending {
    /// Takes note of a word.
    pub(super) fn word(&mut self, word: Word<'_>) {
        match word {
            // The first reason counts: some servers repeat it.
            Word::Finish(stop, sequence) if self.stop.is_none() => {
                self.stop = Some(stop);
                self.sequence = sequence.map(<[u8]>::to_vec);
            }
            Word::Usage(counts) => self.counts.merge(counts),
            Word::CallBegin { .. } => self.has_calls = true,
            Word::End => self.has_ended = true,
            _ => {}
        }
    }

    /// The reason: an answer with a tool call says so, unless it was cut; one without never does.
    pub(super) fn stop(&self) -> Stop {
        match self.stop.unwrap_or(Stop::End) {
            Stop::End | Stop::Tools | Stop::Pause if self.has_calls => Stop::Tools,
            Stop::Tools => Stop::End,
            stop => stop,
        }
    }
}
