//! The usage of one exchange: as its answer reports it, or else an estimate.

use crate::price::prompt_tokens;
use crate::sse::Usage;

/// The facts about the answer to one exchange.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer {
    /// The last usage object seen.
    pub reported: Option<Usage>,
    /// True when the answer was complete: no further usage would have been reported.
    pub is_whole: bool,
    /// True when its last event was a terminator.
    pub is_terminated: bool,
    /// True when the request reached an upstream and was a JSON request to a model.
    pub is_asked: bool,
    /// True when the request was for text, so that the answer consists of tokens.
    pub generates: bool,
    /// 0 while there was none.
    pub status: u16,
    /// Bytes of the request body.
    pub bytes_in: u64,
    /// Bytes of a JSON document in the answer; 0 for anything else.
    pub document_bytes: u64,
    /// The number of events of a stream in the answer.
    pub events: u64,
}

/// The highest output estimate for a document that reports no usage.
const MAX_GUESS: u64 = 4096;

impl Answer {
    /// The usage to count, and whether any of it is an estimate.
    ///
    /// A report counts as it is, with one exception: when a stream broke off, the report was premature, and output
    /// counts as at least one token per event. Without a report, the request counts by its bytes, and the answer by its
    /// events (a stream) or bytes; errors count nothing.
    #[must_use]
    pub fn usage(&self) -> (Usage, bool) {
        match self.reported {
            Some(usage) if self.is_whole || self.events <= usage.tokens_out => (usage, false),
            Some(usage) if self.generates => (
                Usage {
                    tokens_out: self.events,
                    ..usage
                },
                true,
            ),
            Some(usage) => (usage, false),
            None if !self.is_asked || self.status >= 400 => (Usage::default(), false),
            None => {
                let written = match self.events {
                    0 => prompt_tokens(self.document_bytes).min(MAX_GUESS),
                    events => events - u64::from(self.is_terminated),
                };
                let usage = Usage {
                    tokens_in: prompt_tokens(self.bytes_in),
                    tokens_out: if self.generates { written } else { 0 },
                    ..Usage::default()
                };
                (usage, usage.tokens_in + usage.tokens_out > 0)
            }
        }
    }
}

/// True when answers on this path are generated text.
#[must_use]
pub fn generates(path: &[u8]) -> bool {
    let last = memchr::memrchr(b'/', path).map_or(path, |slash| path.get(slash + 1..).unwrap_or_default());
    matches!(last, b"completions" | b"messages" | b"responses" | b"generate")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(tokens_in: u64, tokens_out: u64) -> Usage {
        Usage {
            tokens_in,
            tokens_out,
            ..Usage::default()
        }
    }

    #[test]
    fn what_is_reported_counts_and_a_broken_stream_by_its_events() {
        let asked = Answer {
            is_asked: true,
            generates: true,
            status: 200,
            bytes_in: 400,
            ..Answer::default()
        };
        let reported = Answer {
            reported: Some(usage(7, 9)),
            is_whole: true,
            is_terminated: true,
            events: 30,
            ..asked
        };
        assert_eq!(reported.usage(), (usage(7, 9), false));
        let broken = Answer {
            reported: Some(usage(7, 1)),
            is_whole: false,
            ..reported
        };
        assert_eq!(broken.usage(), (usage(7, 30), true));
        let unreported = Answer {
            reported: None,
            ..reported
        };
        // The terminator is an event without content.
        assert_eq!(unreported.usage(), (usage(100, 29), true));
        let document = Answer {
            document_bytes: 80,
            ..asked
        };
        assert_eq!(document.usage(), (usage(100, 20), true));
        let gone = Answer { status: 0, ..asked };
        assert_eq!(gone.usage(), (usage(100, 0), true));
        for nothing in [
            Answer {
                status: 502,
                ..document
            },
            Answer {
                is_asked: false,
                ..document
            },
        ] {
            assert_eq!(nothing.usage(), (Usage::default(), false));
        }
        let embeddings = Answer {
            generates: false,
            ..document
        };
        assert_eq!(embeddings.usage(), (usage(100, 0), true));
    }

    #[test]
    fn paths_that_write() {
        for path in ["/v1/chat/completions", "/x/v1/messages", "/v1/responses", "/generate"] {
            assert!(generates(path.as_bytes()), "{path}");
        }
        for path in ["/v1/embeddings", "/v1/messages/count_tokens", "/", ""] {
            assert!(!generates(path.as_bytes()), "{path}");
        }
    }
}
