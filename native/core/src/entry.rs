//! The record of one ended exchange, and the contract of its consumers.

use std::fmt::Debug;

use crate::answer::{Answer, generates};
use crate::head::{RequestHead, flag};
use crate::price::Price;
use crate::segment::LabelId;
use crate::sse::Usage;
use crate::trace::Trace;

/// A consumer of ended exchanges. A new one is a file with this trait, and a line in the list in `ledger.rs`.
pub trait Consumer: Debug + Send {
    /// Takes one exchange, and returns the bytes that wait in a buffer to be written out; 0 without a buffer.
    ///
    /// Called once for each exchange, on both paths, while its client waits: it may not block, and should not allocate.
    fn enter(&mut self, entry: &Entry<'_>, charge: &Charge) -> usize;
}

/// The usage of an exchange, and its cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charge {
    /// The tokens.
    pub usage: Usage,
    /// True when some of the tokens are an estimate.
    pub is_estimated: bool,
    /// The cost in micro-dollars; `None` without a price.
    pub cost_micros: Option<u64>,
}

impl Charge {
    /// Tokens in and out.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.usage.tokens_in.saturating_add(self.usage.tokens_out)
    }

    /// The cost in micro-dollars, 0 without a price.
    #[must_use]
    pub fn micros(&self) -> u64 {
        self.cost_micros.unwrap_or(0)
    }
}

/// The limits of an exchange, reserved until its usage is known.
pub trait Settle: Debug {
    /// Settles them by the actual usage.
    fn settle(&self, tokens: u64, micros: u64, now_ns: u64);
}

/// The result of an exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The whole response reached the client.
    #[default]
    Complete,
    /// The gateway refused the request.
    Refused,
    /// No upstream answered.
    UpstreamFailed,
    /// The upstream stopped in the middle of an answer.
    Truncated,
    /// The client left first.
    ClientGone,
}

impl Outcome {
    /// All outcomes, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::Complete,
        Self::Refused,
        Self::UpstreamFailed,
        Self::Truncated,
        Self::ClientGone,
    ];

    /// The outcome with that number.
    #[must_use]
    pub fn from_number(number: usize) -> Option<Self> {
        Self::ALL.get(number).copied()
    }

    /// The name in logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Refused => "refused",
            Self::UpstreamFailed => "upstream_failed",
            Self::Truncated => "truncated",
            Self::ClientGone => "client_gone",
        }
    }
}

/// The record of one ended exchange. Times are monotonic nanoseconds. Empty texts and `OTHER` labels are unknown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry<'a> {
    /// The route.
    pub route: LabelId,
    /// The provider that answered last.
    pub provider: LabelId,
    /// The model, if the configuration names it.
    pub model_label: LabelId,
    /// The model as the client named it.
    pub model: &'a str,
    /// The label of the upstream that answered last.
    pub upstream: &'a str,
    /// The request's head, with the bytes that it was scanned from; `None` when no whole head arrived.
    pub head: Option<(&'a RequestHead, &'a [u8])>,
    /// The id that client, upstream and logs have in common.
    pub request_id: &'a str,
    /// The client's address.
    pub client: &'a str,
    /// The id of the principal.
    pub principal: &'a str,
    /// The principal's tenant.
    pub tenant: &'a str,
    /// The status sent, 0 to 1023.
    pub status: u16,
    /// The end of the exchange.
    pub outcome: Outcome,
    /// The code of the error that ended it, or empty.
    pub error: &'a str,
    /// The names of the transformation rules that were applied, as a JSON list; empty for none.
    pub transforms: &'a str,
    /// True when the answer is an event stream.
    pub is_stream: bool,
    /// True when the request was sent to an upstream.
    pub is_asked: bool,
    /// The number of times it was sent.
    pub attempts: u64,
    /// Retries by reason: an eight-bit count for each of `RETRY_REASONS`, the first in the lowest bits.
    pub retries: u64,
    /// Bytes of the request body.
    pub bytes_in: u64,
    /// Bytes of the response body.
    pub bytes_out: u64,
    /// Wall-clock time less monotonic time.
    pub epoch_ns: i64,
    /// The first byte of the request.
    pub started_ns: u64,
    /// The first byte of the response, or the first token of a stream; 0 when there was none.
    pub first_ns: u64,
    /// The last byte of the response.
    pub ended_ns: u64,
    /// The gateway's own part of the duration.
    pub overhead_ns: u64,
    /// The facts about the answer that its body shows.
    pub answer: Answer,
    /// The price of the model's tokens.
    pub price: Option<Price>,
    /// The limits to settle.
    pub reservation: Option<&'a dyn Settle>,
    /// The trace, when it is sampled or an attempt has failed.
    pub trace: Option<&'a Trace>,
}

impl Entry<'_> {
    /// The request's method; empty without a head.
    #[must_use]
    pub fn method(&self) -> &[u8] {
        self.head.map_or(b"", |(head, bytes)| head.method(bytes))
    }

    /// The request's path, without its query; empty without a head.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        self.head.map_or(b"", |(head, bytes)| head.path(bytes))
    }

    /// The time from the first byte of the request to the last of the response.
    #[must_use]
    pub fn duration_ns(&self) -> u64 {
        self.ended_ns.saturating_sub(self.started_ns)
    }

    /// The time from the first byte of the request to the first of the response; 0 when there was none.
    #[must_use]
    pub fn first_byte_ns(&self) -> u64 {
        self.first_ns.saturating_sub(self.started_ns)
    }

    /// The time per output token of a stream, after the first one, which is there when the time starts. `None` where the
    /// upstream did not report at least two: an estimate counts events, and an event is not a token.
    #[must_use]
    pub fn per_token_ns(&self, charge: &Charge) -> Option<u64> {
        let more = charge.usage.tokens_out.checked_sub(1).filter(|&more| more > 0)?;
        let is_known = self.is_stream && self.first_byte_ns() > 0 && !charge.is_estimated;
        is_known.then(|| self.ended_ns.saturating_sub(self.first_ns) / more)
    }

    /// The start in milliseconds since 1970, UTC.
    #[must_use]
    pub fn unix_ms(&self) -> i64 {
        self.epoch_ns
            .saturating_add_unsigned(self.started_ns)
            .div_euclid(1_000_000)
    }

    /// The usage to count, and its cost.
    #[must_use]
    pub fn charge(&self) -> Charge {
        let is_json = self.head.is_some_and(|(head, _)| head.flags & flag::JSON != 0);
        let (usage, is_estimated) = Answer {
            is_whole: self.answer.is_whole || self.outcome == Outcome::Complete,
            is_asked: self.is_asked && is_json && !self.model.is_empty(),
            generates: generates(self.path()),
            status: self.status,
            bytes_in: self.bytes_in,
            ..self.answer
        }
        .usage();
        let cost = |price: Price| price.micros(usage.tokens_in, usage.tokens_out, usage.tokens_cached);
        Charge {
            usage,
            is_estimated,
            cost_micros: self.price.map(cost),
        }
    }
}
