//! Tracing: samples exchanges, and writes a record of each one that is kept, for the supervisor to make spans of.
//!
//! An exchange is sampled at its head, before anything is sent upstream, so that the upstream joins the trace. One that
//! was not sampled is kept all the same when it ends badly or began slowly; its upstream knows nothing of the trace
//! then. Nothing is written or allocated for all the others.

mod record;

use std::sync::Arc;

use crate::entry::{Charge, Entry, Outcome};
use crate::head::RequestHead;
use crate::rendezvous::{mix, unit};
use crate::segment::Segment;
use crate::trace::{Parent, SampledBy, Trace};

/// The share of `max_per_second` that only exchanges which ended badly may use.
const RESERVED: f64 = 0.1;
/// The low bits of a trace id that decide in consistent sampling (W3C Trace Context level 2, OpenTelemetry's `ot=th`).
const RANDOM_BITS: u32 = 56;

/// The treatment of a client's `traceparent`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ParentRule {
    /// Its trace goes on, and its flag decides.
    #[default]
    Follow,
    /// A new trace begins, with a link to it.
    Link,
    /// A new trace begins.
    Ignore,
}

/// The settings of sampling.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// The share of exchanges without a parent to follow, 0 to 1.
    pub ratio: f64,
    /// See `ParentRule`.
    pub parent: ParentRule,
    /// Keep exchanges that failed.
    pub keep_errors: bool,
    /// Keep exchanges whose first byte or token came later than this; 0 for none.
    pub slow_ns: u64,
    /// The most that is kept.
    pub max_per_second: f64,
    /// Keep every exchange.
    pub keeps_all: bool,
    /// Tell upstreams of the trace.
    pub propagates: bool,
}

/// Decides which exchanges are traced, and buffers the records of those that are kept.
#[derive(Debug)]
pub struct Tracer {
    segment: Arc<Segment>,
    sampling: Sampling,
    seed: [u64; 2],
    drawn: u64,
    /// Exchanges without a parent that are not sampled before the next one that is.
    skip: u64,
    tokens: f64,
    filled_ns: u64,
    capacity: usize,
    records: Vec<u8>,
    kept: u64,
    dropped: u64,
}

/// Records taken out of the buffer, and the counts since the last time.
#[derive(Debug, Default)]
pub struct Drained {
    /// The records, one after another.
    pub records: Vec<u8>,
    /// The number of records.
    pub kept: u64,
    /// The number of exchanges that should have been kept, but exceeded `max_per_second` or the buffer.
    pub dropped: u64,
}

impl Tracer {
    /// A tracer with a buffer of at most `capacity` bytes. Two processes need different seeds.
    #[must_use]
    pub fn new(segment: Arc<Segment>, sampling: Sampling, seed: [u64; 2], capacity: usize) -> Self {
        let mut tracer = Self {
            segment,
            sampling,
            seed,
            drawn: 0,
            skip: 0,
            tokens: most(&sampling),
            filled_ns: 0,
            capacity,
            records: Vec::new(),
            kept: 0,
            dropped: 0,
        };
        tracer.skip = tracer.draw();
        tracer
    }

    /// Samples by other settings from now on.
    pub fn follow(&mut self, sampling: Sampling) {
        self.sampling = sampling;
        self.tokens = self.tokens.min(most(&sampling));
        self.skip = self.draw();
    }

    /// The trace of an exchange that begins; `None` when it is not sampled.
    pub fn decide(&mut self, head: &RequestHead, bytes: &[u8], now_ns: u64) -> Option<Trace> {
        let parent = self.parent(head, bytes);
        let by = if self.sampling.keeps_all {
            return Some(self.begin(parent, SampledBy::Debug));
        } else if let Some(parent) = parent
            && self.sampling.parent == ParentRule::Follow
        {
            parent.is_sampled.then_some(SampledBy::Parent)
        } else if self.skip == 0 {
            self.skip = self.draw();
            Some(SampledBy::Ratio)
        } else {
            self.skip -= 1;
            None
        }?;
        if self.admit(now_ns, RESERVED) {
            Some(self.begin(parent, by))
        } else {
            self.dropped += 1;
            None
        }
    }

    /// True when an exchange that begins is certainly not sampled. `decide` is to be called when it may be, and only then.
    pub fn passes(&mut self, head: &RequestHead, bytes: &[u8], now_ns: u64) -> bool {
        if self.sampling.keeps_all {
            return false;
        }
        let follows = self.sampling.parent == ParentRule::Follow;
        match follows.then(|| self.parent(head, bytes)).flatten() {
            Some(parent) if !parent.is_sampled => return true,
            None if self.skip > 0 => {
                self.skip -= 1;
                return true;
            }
            Some(_) => {}
            None if self.has_room(now_ns, RESERVED) => return false,
            None => self.skip = self.draw(),
        }
        let passes = !self.has_room(now_ns, RESERVED);
        self.dropped += u64::from(passes);
        passes
    }

    /// A trace that is not sampled, to note failed attempts in: the exchange may be kept for its end.
    #[must_use]
    pub fn late() -> Trace {
        Trace::default()
    }

    /// Takes an ended exchange: writes its record if it is sampled, or is kept for its end.
    pub fn enter(&mut self, entry: &Entry<'_>, charge: &Charge) {
        match entry.trace {
            Some(trace) if trace.is_sampled() => self.keep(trace, entry, charge),
            _ => match self.verdict(entry) {
                SampledBy::Nothing => {}
                by => self.keep_late(by, entry, charge),
            },
        }
    }

    /// Takes the records out of the buffer.
    pub fn drain(&mut self) -> Drained {
        Drained {
            records: std::mem::take(&mut self.records),
            kept: std::mem::take(&mut self.kept),
            dropped: std::mem::take(&mut self.dropped),
        }
    }

    /// A span id; never 0.
    pub fn span_id(&mut self) -> u64 {
        self.bits().max(1)
    }

    fn parent(&self, head: &RequestHead, bytes: &[u8]) -> Option<Parent> {
        if self.sampling.parent == ParentRule::Ignore {
            return None;
        }
        Parent::parse(head.find(bytes, b"traceparent")?.value(bytes))
    }

    fn begin(&mut self, parent: Option<Parent>, by: SampledBy) -> Trace {
        let mut trace = Trace {
            server: self.span_id(),
            call: self.span_id(),
            by,
            propagates: self.sampling.propagates,
            ..Trace::default()
        };
        match parent {
            Some(parent) if self.sampling.parent == ParentRule::Follow => {
                (trace.trace_id, trace.parent) = (parent.trace_id, parent.span_id);
            }
            parent => {
                trace.link = parent;
                trace.is_random = true;
                if by == SampledBy::Ratio {
                    trace.threshold = threshold(self.sampling.ratio);
                }
                let span = (1 << RANDOM_BITS) - trace.threshold;
                let low = trace.threshold + self.bits() % span;
                let high = u128::from(self.bits()) << 64 | u128::from(self.bits() >> RANDOM_BITS << RANDOM_BITS);
                trace.trace_id = (high | u128::from(low)).max(1);
            }
        }
        trace
    }

    /// Takes a place among what may be kept in this second, if one is left above the reserve.
    fn admit(&mut self, now_ns: u64, reserve: f64) -> bool {
        let admits = self.has_room(now_ns, reserve);
        if admits {
            self.tokens -= 1.0;
        }
        admits
    }

    fn has_room(&mut self, now_ns: u64, reserve: f64) -> bool {
        let most = most(&self.sampling);
        let elapsed_s = now_ns.saturating_sub(self.filled_ns) as f64 / 1e9;
        self.filled_ns = self.filled_ns.max(now_ns);
        self.tokens = (self.tokens + elapsed_s * self.sampling.max_per_second).min(most);
        // A bucket of one has nothing to reserve.
        self.tokens >= (1.0 + reserve * self.sampling.max_per_second).min(most)
    }

    /// The length of a run of exchanges that are not sampled: geometrically distributed.
    fn draw(&mut self) -> u64 {
        let ratio = self.sampling.ratio;
        if ratio >= 1.0 {
            0
        } else if ratio <= 0.0 {
            u64::MAX
        } else {
            (unit(self.bits()).ln() / (-ratio).ln_1p()) as u64
        }
    }

    fn bits(&mut self) -> u64 {
        self.drawn = self.drawn.wrapping_add(1);
        mix(self.seed[0] ^ mix(self.seed[1].wrapping_add(self.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15))))
    }

    /// The reason to keep an exchange that was not sampled.
    fn verdict(&self, entry: &Entry<'_>) -> SampledBy {
        let has_failed = matches!(entry.outcome, Outcome::UpstreamFailed | Outcome::Truncated) || entry.status >= 500;
        if self.sampling.keep_errors && has_failed {
            SampledBy::Error
        } else if self.sampling.slow_ns > 0 && entry.first_byte_ns() > self.sampling.slow_ns {
            SampledBy::Slow
        } else {
            SampledBy::Nothing
        }
    }

    #[cold]
    fn keep(&mut self, trace: &Trace, entry: &Entry<'_>, charge: &Charge) {
        if self.records.len() >= self.capacity {
            self.dropped += 1;
        } else {
            record::write(&mut self.records, &self.segment, trace, entry, charge);
            self.kept += 1;
        }
    }

    #[cold]
    fn keep_late(&mut self, by: SampledBy, entry: &Entry<'_>, charge: &Charge) {
        if !self.admit(entry.ended_ns, 0.0) {
            self.dropped += 1;
            return;
        }
        let parent = entry.head.and_then(|(head, bytes)| self.parent(head, bytes));
        let mut trace = self.begin(parent, by);
        if let Some(late) = entry.trace {
            trace.attempts.clone_from(&late.attempts);
            trace.notes.clone_from(&late.notes);
            for attempt in &mut trace.attempts {
                attempt.span = self.span_id();
            }
        }
        self.keep(&trace, entry, charge);
    }
}

/// The most that may be kept at once.
fn most(sampling: &Sampling) -> f64 {
    sampling.max_per_second.max(1.0)
}

fn threshold(ratio: f64) -> u64 {
    let all = (1_u64 << RANDOM_BITS) as f64;
    ((1.0 - ratio.clamp(0.0, 1.0)) * all).min(all - 1.0) as u64
}

#[cfg(test)]
mod tests;
