//! The trace of one exchange: its ids, its attempts, and points in time.

mod parent;

use std::fmt::Write as _;

pub use parent::Parent;

/// Attempts that a trace remembers; further ones share the last place.
const MAX_ATTEMPTS: usize = 8;
/// Notes that a trace remembers.
const MAX_NOTES: usize = 32;

/// The reason why an exchange is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SampledBy {
    /// It is not.
    #[default]
    Nothing,
    /// The client's flag.
    Parent,
    /// Chance.
    Ratio,
    /// It failed.
    Error,
    /// It began late.
    Slow,
    /// Every exchange is kept.
    Debug,
}

/// One sending of a request to an upstream. Times are monotonic nanoseconds, 0 for unknown.
#[derive(Clone, Debug, Default)]
pub struct Attempt {
    /// The span's id.
    pub span: u64,
    /// The upstream's label.
    pub upstream: Box<str>,
    /// The choice of the upstream.
    pub began_ns: u64,
    /// The request was written.
    pub sent_ns: u64,
    /// It was given up; 0 for the last attempt.
    pub ended_ns: u64,
    /// Of the response for which it was given up.
    pub status: u16,
    /// The number of the reason for which it was given up, plus one; 0 for the last attempt.
    pub reason: u8,
    /// True when its connection had served before.
    pub is_reused: bool,
}

/// A point in time of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    pub(crate) kind: u8,
    pub(crate) at_ns: u64,
}

/// The trace of one exchange.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    pub(crate) trace_id: u128,
    pub(crate) parent: u64,
    pub(crate) link: Option<Parent>,
    /// The span of the exchange.
    pub(crate) server: u64,
    /// The span of the logical call, when there is more than one attempt.
    pub(crate) call: u64,
    pub(crate) by: SampledBy,
    /// The threshold of consistent sampling, when the gateway began the trace by chance.
    pub(crate) threshold: u64,
    pub(crate) is_random: bool,
    pub(crate) propagates: bool,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) notes: Vec<Note>,
}

impl Trace {
    /// True when the upstream is to join it.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.by != SampledBy::Nothing
    }

    /// The id of the trace.
    #[must_use]
    pub fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// Begins an attempt, whose span id is `span`; returns its number.
    pub fn begin(&mut self, span: u64, upstream: &str, began_ns: u64, is_reused: bool) -> usize {
        if self.attempts.len() < MAX_ATTEMPTS {
            self.attempts.push(Attempt::default());
        }
        let number = self.attempts.len() - 1;
        if let Some(attempt) = self.attempts.get_mut(number) {
            *attempt = Attempt {
                span,
                upstream: upstream.into(),
                began_ns,
                is_reused,
                ..Attempt::default()
            };
        }
        number
    }

    /// Notes that an attempt's request was sent, or that it was given up: with its status, 0 without a response, and the
    /// number of the reason.
    pub fn sent(&mut self, number: usize, now_ns: u64) {
        if let Some(attempt) = self.attempts.get_mut(number) {
            attempt.sent_ns = now_ns;
        }
    }

    /// See `sent`.
    pub fn failed(&mut self, number: usize, now_ns: u64, status: u16, reason: u8) {
        if let Some(attempt) = self.attempts.get_mut(number)
            && attempt.ended_ns == 0
        {
            (attempt.ended_ns, attempt.status, attempt.reason) = (now_ns, status, reason.saturating_add(1));
        }
    }

    /// Notes a point in time.
    pub fn note(&mut self, kind: u8, at_ns: u64) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(Note { kind, at_ns });
        }
    }

    /// The notes, in their order.
    pub fn notes(&self) -> impl Iterator<Item = (u8, u64)> {
        self.notes.iter().map(|note| (note.kind, note.at_ns))
    }

    /// The attempts, in their order.
    #[must_use]
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// The times at which the last attempt began and was sent; zeros without one.
    #[must_use]
    pub fn last_sent(&self) -> (u64, u64) {
        self.attempts
            .last()
            .map_or((0, 0), |attempt| (attempt.began_ns, attempt.sent_ns))
    }

    /// The value of `traceparent` for an attempt; `None` when its upstream is not to join the trace.
    #[must_use]
    pub fn traceparent(&self, number: usize) -> Option<String> {
        let span = self.attempts.get(number)?.span;
        // Bit 1: the id is random (level 2); that of another's trace may not be.
        let flags = if self.is_random { 3 } else { 1 };
        (self.is_sampled() && self.propagates).then(|| format!("00-{:032x}-{span:016x}-{flags:02x}", self.trace_id))
    }

    /// The value of `tracestate` that tells the sampling ratio, for a trace that the gateway began.
    #[must_use]
    pub fn tracestate(&self) -> Option<String> {
        if self.threshold == 0 {
            return None;
        }
        let mut state = String::from("ot=th:");
        let digits = format!("{:014x}", self.threshold);
        let _ = write!(state, "{}", digits.trim_end_matches('0'));
        Some(state)
    }
}
