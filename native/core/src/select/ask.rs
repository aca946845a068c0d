//! The two ends of a choice: the request for which an upstream is wanted, and what came of it there.

use crate::breaker::Verdict;
use crate::rendezvous;
use crate::sse::Usage;

/// A request for which an upstream is wanted. Fields that a policy does not need (`Needs::request`) may be empty.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The time of the choice.
    pub now_ns: u64,
    /// Bit i excludes index i, because it was tried or cannot serve the request. Indices from 64 on cannot be excluded.
    pub tried: u64,
    /// The hash of the key that keeps related requests at one upstream.
    pub pin: Option<u64>,
    /// The hash of the principal, or of the client's network.
    pub key: Option<u64>,
    /// The model that the client named.
    pub model: &'a [u8],
    /// Bytes of the body, from which the prompt's tokens are estimated.
    pub prompt_bytes: u64,
    /// True when the client requests a stream.
    pub streams: bool,
    /// The prompt's beginning in chunks, first to last.
    pub prefix: &'a [Chunk],
}

/// A chunk of a prompt. Equal hashes mean equal prompts up to the chunk's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The hash of the prompt from its start to the end of this chunk.
    pub hash: u64,
    /// The estimated tokens of this chunk.
    pub tokens: u32,
}

/// A number that comes back with a request's outcome, for instance the request's index in a table of the policy's
/// own: 47 bits. 0 for none.
pub type Note = u64;

/// The outcome of a request at one upstream.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// The note that `Policy::sent` returned for it.
    pub note: Note,
    /// The time of its end.
    pub now_ns: u64,
    /// Its verdict on the upstream; neutral for a stream whose beginning was reported as a success.
    pub verdict: Verdict,
    /// The time from the request to the response's first byte; `None` when there was no response.
    pub first_byte_ns: Option<u64>,
    /// The time from the request to its end; 0: unknown.
    pub total_ns: u64,
    /// The tokens that the upstream reported.
    pub usage: Option<Usage>,
}

/// The needs of a policy besides the candidates. Nothing else is computed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// A turn, from a counter that all workers share.
    pub turns: bool,
    /// Frequent load reports of the engines.
    pub load_reports: bool,
    /// The key, model, size and prefix of each request.
    pub request: bool,
    /// The start, first byte, times and tokens of each request.
    pub outcome: bool,
}

/// The pin of a key.
#[must_use]
pub fn pin_of(key: &[u8]) -> u64 {
    rendezvous::hash(key)
}

impl<'a> Ask<'a> {
    /// A request of which only the time is known, and the upstreams that it cannot use.
    #[inline]
    pub const fn new(now_ns: u64, tried: u64) -> Self {
        Self {
            now_ns,
            tried,
            pin: None,
            key: None,
            model: b"",
            prompt_bytes: 0,
            streams: false,
            prefix: &[],
        }
    }

    /// The same request, pinned by `key`.
    #[must_use]
    pub fn pinned(self, key: Option<&[u8]>) -> Self {
        Self {
            pin: key.map(pin_of),
            ..self
        }
    }

    /// The same request, by the asker of that name.
    #[must_use]
    pub fn by(self, asker: &[u8]) -> Self {
        Self {
            key: (!asker.is_empty()).then(|| rendezvous::hash(asker)),
            ..self
        }
    }
}

impl Observation {
    /// An outcome of which only the verdict is known.
    #[inline]
    pub const fn new(verdict: Verdict, now_ns: u64) -> Self {
        Self {
            note: 0,
            now_ns,
            verdict,
            first_byte_ns: None,
            total_ns: 0,
            usage: None,
        }
    }
}

impl Needs {
    /// Nothing but the candidates.
    pub const NONE: Self = Self {
        turns: false,
        load_reports: false,
        request: false,
        outcome: false,
    };

    /// The names of the needs that are true.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let all = [
            (self.turns, "turns"),
            (self.load_reports, "load_reports"),
            (self.request, "request"),
            (self.outcome, "outcome"),
        ];
        all.into_iter()
            .filter(|(is_needed, _)| *is_needed)
            .map(|(_, name)| name)
    }
}
