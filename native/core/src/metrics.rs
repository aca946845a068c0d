//! Metrics: a consumer of ended exchanges with counters and histograms, bounded and shared.
//!
//! Counters are by (route, provider, model, status); times and sizes by (route, provider, model), of exchanges that ended
//! well; the gateway's own overhead by route.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::entry::{Charge, Consumer, Entry, Outcome};
use crate::segment::layout::{
    Counts, DURATION_BUCKETS, FIRST_BUCKETS, Histogram, Latency, OUTCOMES, OVERHEAD_BUCKETS, PER_TOKEN_BUCKETS,
    TOKEN_BUCKETS,
};
use crate::segment::{LABELS, LATENCIES, LabelId, SERIES, Segment};

pub use crate::segment::layout::RETRY_REASONS;

/// Labels of errors' codes that are remembered.
const MAX_CODES: usize = 256;

const NS_PER_US: u64 = 1_000;
const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

/// Upper bounds of durations in nanoseconds, inclusive: from a cache hit to the longest plausible generation.
pub const DURATION_BOUNDS_NS: [u64; 18] = [
    NS_PER_MS,
    2 * NS_PER_MS,
    5 * NS_PER_MS,
    10 * NS_PER_MS,
    25 * NS_PER_MS,
    50 * NS_PER_MS,
    100 * NS_PER_MS,
    250 * NS_PER_MS,
    500 * NS_PER_MS,
    NS_PER_S,
    2_500 * NS_PER_MS,
    5 * NS_PER_S,
    10 * NS_PER_S,
    30 * NS_PER_S,
    60 * NS_PER_S,
    120 * NS_PER_S,
    300 * NS_PER_S,
    600 * NS_PER_S,
];

/// Upper bounds of the gateway's own overhead in nanoseconds, inclusive: dense around the typical 15 microseconds.
pub const OVERHEAD_BOUNDS_NS: [u64; 14] = [
    10 * NS_PER_US,
    15 * NS_PER_US,
    20 * NS_PER_US,
    30 * NS_PER_US,
    50 * NS_PER_US,
    75 * NS_PER_US,
    100 * NS_PER_US,
    200 * NS_PER_US,
    500 * NS_PER_US,
    NS_PER_MS,
    2 * NS_PER_MS,
    5 * NS_PER_MS,
    20 * NS_PER_MS,
    100 * NS_PER_MS,
];

/// Upper bounds of the time to a first byte or token in nanoseconds, inclusive: those of vLLM and of OpenTelemetry's
/// conventions, so that heat maps of both sides have the same rows.
pub const FIRST_BOUNDS_NS: [u64; 24] = [
    NS_PER_MS,
    5 * NS_PER_MS,
    10 * NS_PER_MS,
    20 * NS_PER_MS,
    40 * NS_PER_MS,
    60 * NS_PER_MS,
    80 * NS_PER_MS,
    100 * NS_PER_MS,
    150 * NS_PER_MS,
    250 * NS_PER_MS,
    500 * NS_PER_MS,
    750 * NS_PER_MS,
    NS_PER_S,
    1_500 * NS_PER_MS,
    2_500 * NS_PER_MS,
    5 * NS_PER_S,
    7_500 * NS_PER_MS,
    10 * NS_PER_S,
    15 * NS_PER_S,
    20 * NS_PER_S,
    30 * NS_PER_S,
    45 * NS_PER_S,
    60 * NS_PER_S,
    120 * NS_PER_S,
];

/// Upper bounds of the time per output token in nanoseconds, inclusive: likewise.
pub const PER_TOKEN_BOUNDS_NS: [u64; 21] = [
    NS_PER_MS,
    2_500 * NS_PER_US,
    5 * NS_PER_MS,
    7_500 * NS_PER_US,
    10 * NS_PER_MS,
    15 * NS_PER_MS,
    20 * NS_PER_MS,
    25 * NS_PER_MS,
    30 * NS_PER_MS,
    40 * NS_PER_MS,
    50 * NS_PER_MS,
    75 * NS_PER_MS,
    100 * NS_PER_MS,
    150 * NS_PER_MS,
    200 * NS_PER_MS,
    300 * NS_PER_MS,
    400 * NS_PER_MS,
    500 * NS_PER_MS,
    750 * NS_PER_MS,
    NS_PER_S,
    2_500 * NS_PER_MS,
];

/// Upper bounds of a number of tokens, inclusive: powers of four.
pub const TOKEN_BOUNDS: [u64; 11] = [1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576];

// The tables of the segment have a cell for each of these.
const _: () = assert!(DURATION_BUCKETS == DURATION_BOUNDS_NS.len() + 1);
const _: () = assert!(OVERHEAD_BUCKETS == OVERHEAD_BOUNDS_NS.len() + 1);
const _: () = assert!(FIRST_BUCKETS == FIRST_BOUNDS_NS.len() + 1);
const _: () = assert!(PER_TOKEN_BUCKETS == PER_TOKEN_BOUNDS_NS.len() + 1);
const _: () = assert!(TOKEN_BUCKETS == TOKEN_BOUNDS.len() + 1);
const _: () = assert!(OUTCOMES == Outcome::ALL.len());

/// The metrics of a segment.
#[derive(Debug)]
pub struct Metrics {
    segment: Arc<Segment>,
    /// The labels of errors' codes: interning one searches all labels.
    codes: Vec<(Box<str>, LabelId)>,
}

/// A snapshot of one series. An exchange that ends meanwhile may be counted in one field and not yet in another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// All three labels are `OTHER` and the status is 0 for the series that takes overflow.
    pub route: LabelId,
    /// See `route`.
    pub provider: LabelId,
    /// See `route`.
    pub model: LabelId,
    /// See `route`.
    pub status: u16,
    /// Counts by outcome; their sum is the number of exchanges.
    pub outcomes: [u64; Outcome::ALL.len()],
    /// See `Entry` and `Charge`.
    pub bytes_in: u64,
    /// See `Entry` and `Charge`.
    pub bytes_out: u64,
    /// See `Entry` and `Charge`.
    pub tokens_in: u64,
    /// See `Entry` and `Charge`.
    pub tokens_out: u64,
    /// See `Entry` and `Charge`.
    pub tokens_cached: u64,
    /// See `Entry` and `Charge`.
    pub tokens_reasoning: u64,
    /// See `Entry` and `Charge`.
    pub cost_micros: u64,
    /// Retries by reason.
    pub retries: [u64; RETRY_REASONS],
}

/// Counts per bucket, the last one for values above all bounds, and the sum of the values.
pub type Tally<const N: usize> = ([u64; N], u64);

/// A snapshot of the times and sizes of one route, provider and model; of exchanges that ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Times {
    /// All three labels are `OTHER` for the row that takes overflow.
    pub route: LabelId,
    /// See `route`.
    pub provider: LabelId,
    /// See `route`.
    pub model: LabelId,
    /// Of plain answers, and of streams.
    pub duration: [Tally<DURATION_BUCKETS>; 2],
    /// Of plain answers.
    pub first_byte: Tally<FIRST_BUCKETS>,
    /// Of streams.
    pub first_token: Tally<FIRST_BUCKETS>,
    /// Of streams whose upstream reported at least two tokens.
    pub per_token: Tally<PER_TOKEN_BUCKETS>,
    /// In, and out.
    pub tokens: [Tally<TOKEN_BUCKETS>; 2],
}

// The last slot of a table never belongs to a key: it counts exchanges whose key found no slot.
const OVERFLOW: usize = SERIES - 1;
// Slots probed before a key overflows; with the table nine tenths full, one key in a thousand would need more.
const PROBES: usize = 64;

impl Metrics {
    /// The metrics kept in `segment`.
    #[must_use]
    pub fn new(segment: Arc<Segment>) -> Self {
        Self {
            segment,
            codes: Vec::new(),
        }
    }

    /// Every series that was ever observed.
    #[must_use]
    pub fn collect(&self) -> Vec<Series> {
        let keys = self
            .segment
            .layout()
            .series
            .iter()
            .map(|key| key.load(Ordering::Acquire));
        keys.enumerate()
            .filter(|&(slot, key)| key != 0 || slot == OVERFLOW)
            .map(|(slot, key)| self.series(slot, key))
            .filter(|series| series.outcomes.iter().any(|&count| count > 0))
            .collect()
    }

    /// The times and sizes of every route, provider and model that were ever observed.
    #[must_use]
    pub fn times(&self) -> Vec<Times> {
        let keys = &self.segment.layout().latency_keys;
        let keys = keys.iter().map(|key| key.load(Ordering::Acquire));
        keys.enumerate()
            .filter(|&(slot, key)| key != 0 || slot == LATENCIES - 1)
            .map(|(slot, key)| self.times_of(slot, key))
            .filter(|times| {
                times
                    .duration
                    .iter()
                    .any(|(buckets, _)| buckets.iter().any(|&count| count > 0))
            })
            .collect()
    }

    /// The number of refusals by route and code of the error; `OTHER` twice for what found no place.
    #[must_use]
    pub fn refusals(&self) -> Vec<(LabelId, LabelId, u64)> {
        let layout = self.segment.layout();
        let label = |key: u64, shift: u32| LabelId::new((key >> shift & 0x7ff) as u32);
        let keys = layout.refusal_keys.iter().map(|key| key.load(Ordering::Acquire));
        let counted = keys.enumerate().map(|(slot, key)| {
            let shards = layout.refusals.iter();
            let count = shards.map(|shard| shard[slot].load(Ordering::Relaxed)).sum();
            (label(key, 32), label(key, 21), count)
        });
        counted.filter(|&(_, _, count)| count > 0).collect()
    }

    /// The label of an error's code.
    fn code(&mut self, code: &str) -> LabelId {
        if let Some((_, label)) = self.codes.iter().find(|(known, _)| **known == *code) {
            return *label;
        }
        let label = self.segment.intern(code);
        // The codes are ours, some dozens.
        if self.codes.len() < MAX_CODES {
            self.codes.push((code.into(), label));
        }
        label
    }

    /// The gateway's own overhead by route, of every exchange.
    #[must_use]
    pub fn overheads(&self) -> Vec<(LabelId, Tally<OVERHEAD_BUCKETS>)> {
        let shards = &self.segment.layout().overheads;
        let total = |route: usize| {
            let mut total = ([0; OVERHEAD_BUCKETS], 0);
            shards.iter().for_each(|shard| shard[route].add_to(&mut total));
            (LabelId::new(route as u32), total)
        };
        let all = (0..LABELS).map(total);
        all.filter(|(_, (buckets, _))| buckets.iter().any(|&count| count > 0))
            .collect()
    }

    fn times_of(&self, slot: usize, key: u64) -> Times {
        let label = |shift: u32| LabelId::new((key >> shift & 0x7ff) as u32);
        let mut times = Times {
            route: label(32),
            provider: label(21),
            model: label(10),
            duration: [([0; DURATION_BUCKETS], 0); 2],
            first_byte: ([0; FIRST_BUCKETS], 0),
            first_token: ([0; FIRST_BUCKETS], 0),
            per_token: ([0; PER_TOKEN_BUCKETS], 0),
            tokens: [([0; TOKEN_BUCKETS], 0); 2],
        };
        for row in self.segment.layout().latencies.iter().map(|shard| &shard[slot]) {
            for (from, to) in row.duration.iter().zip(&mut times.duration) {
                from.add_to(to);
            }
            row.first_byte.add_to(&mut times.first_byte);
            row.first_token.add_to(&mut times.first_token);
            row.per_token.add_to(&mut times.per_token);
            for (from, to) in row.tokens.iter().zip(&mut times.tokens) {
                from.add_to(to);
            }
        }
        times
    }

    fn series(&self, slot: usize, key: u64) -> Series {
        let shards = || self.segment.layout().counts.iter().map(|shard| &shard[slot]);
        let sum = |field: fn(&Counts) -> &AtomicU64| shards().map(|counts| field(counts).load(Ordering::Relaxed)).sum();
        let label = |shift: u32| LabelId::new((key >> shift & 0x7ff) as u32);
        let mut series = Series {
            route: label(32),
            provider: label(21),
            model: label(10),
            status: (key & 0x3ff) as u16,
            outcomes: [0; Outcome::ALL.len()],
            bytes_in: sum(|counts| &counts.bytes_in),
            bytes_out: sum(|counts| &counts.bytes_out),
            tokens_in: sum(|counts| &counts.tokens_in),
            tokens_out: sum(|counts| &counts.tokens_out),
            tokens_cached: sum(|counts| &counts.tokens_cached),
            tokens_reasoning: sum(|counts| &counts.tokens_reasoning),
            cost_micros: sum(|counts| &counts.cost_micros),
            retries: [0; RETRY_REASONS],
        };
        for counts in shards() {
            series
                .outcomes
                .iter_mut()
                .zip(&counts.outcomes)
                .for_each(|(to, from)| *to += from.load(Ordering::Relaxed));
            let retries = series.retries.iter_mut().zip(&counts.retries);
            retries.for_each(|(to, from)| *to += from.load(Ordering::Relaxed));
        }
        series
    }
}

impl Consumer for Metrics {
    fn enter(&mut self, entry: &Entry<'_>, charge: &Charge) -> usize {
        let key = key(entry);
        if entry.outcome == Outcome::Refused {
            let code = u64::from(self.code(entry.error).get());
            let refusal = 1 << 43 | u64::from(entry.route.get()) << 32 | code << 21;
            let slot = slot(&self.segment.layout().refusal_keys, refusal);
            self.segment.own_refusals()[slot].fetch_add(1, Ordering::Relaxed);
        }
        let counts = &self.segment.own_counts()[slot(&self.segment.layout().series, key)];
        counts.outcomes[entry.outcome as usize].fetch_add(1, Ordering::Relaxed);
        let overheads = self.segment.own_overheads();
        if let Some(overhead) = overheads.get(entry.route.get() as usize) {
            overhead.add(entry.overhead_ns, &OVERHEAD_BOUNDS_NS);
        }
        if entry.outcome == Outcome::Complete && entry.status < 400 {
            // The same key without the status.
            let slot = slot(&self.segment.layout().latency_keys, key & !0x3ff);
            self.segment.own_latencies()[slot].enter(entry, charge);
        }
        if entry.retries > 0 {
            let more = counts.retries.iter().zip(entry.retries.to_le_bytes());
            more.for_each(|(count, more)| _ = count.fetch_add(u64::from(more), Ordering::Relaxed));
        }
        for (count, more) in [
            (&counts.bytes_in, entry.bytes_in),
            (&counts.bytes_out, entry.bytes_out),
            (&counts.tokens_in, charge.usage.tokens_in),
            (&counts.tokens_out, charge.usage.tokens_out),
            (&counts.tokens_cached, charge.usage.tokens_cached),
            (&counts.tokens_reasoning, charge.usage.tokens_reasoning),
            (&counts.cost_micros, charge.micros()),
        ] {
            if more > 0 {
                count.fetch_add(more, Ordering::Relaxed);
            }
        }
        0
    }
}

impl Latency {
    #[inline]
    fn enter(&self, entry: &Entry<'_>, charge: &Charge) {
        let first_ns = entry.first_byte_ns();
        self.duration[usize::from(entry.is_stream)].add(entry.duration_ns(), &DURATION_BOUNDS_NS);
        if first_ns > 0 {
            let first = if entry.is_stream {
                &self.first_token
            } else {
                &self.first_byte
            };
            first.add(first_ns, &FIRST_BOUNDS_NS);
        }
        let usage = &charge.usage;
        if usage.tokens_in == 0 && usage.tokens_out == 0 {
            return;
        }
        self.tokens[0].add(usage.tokens_in, &TOKEN_BOUNDS);
        self.tokens[1].add(usage.tokens_out, &TOKEN_BOUNDS);
        if let Some(per_token_ns) = entry.per_token_ns(charge) {
            self.per_token.add(per_token_ns, &PER_TOKEN_BOUNDS_NS);
        }
    }
}

/// The slot of a key in a table of keys: its own, or the last one.
#[inline]
fn slot(keys: &[AtomicU64], key: u64) -> usize {
    let last = keys.len() - 1;
    // Fibonacci hashing: the keys are consecutive small numbers from our own configuration.
    let home = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize;
    for probe in home..home + PROBES {
        let slot = probe % last;
        let present = keys[slot].load(Ordering::Relaxed);
        if present == key {
            return slot;
        }
        if present == 0 {
            match keys[slot].compare_exchange(0, key, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return slot,
                Err(other) if other == key => return slot,
                Err(_) => {}
            }
        }
    }
    last
}

impl<const N: usize> Histogram<N> {
    #[inline]
    fn add(&self, value: u64, bounds: &[u64]) {
        let bucket = bounds.partition_point(|&bound| bound < value);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    fn add_to(&self, total: &mut Tally<N>) {
        total
            .0
            .iter_mut()
            .zip(&self.buckets)
            .for_each(|(to, from)| *to += from.load(Ordering::Relaxed));
        total.1 += self.sum.load(Ordering::Relaxed);
    }
}

/// Three labels of 11 bits and a status of 10, below a bit that marks the slot as taken.
#[inline]
fn key(seen: &Entry<'_>) -> u64 {
    let labels = u64::from(seen.route.get()) << 32 | u64::from(seen.provider.get()) << 21;
    1 << 43 | labels | u64::from(seen.model_label.get()) << 10 | u64::from(seen.status.min(0x3ff))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(route: u32, status: u16) -> Entry<'static> {
        Entry {
            route: LabelId::new(route),
            provider: LabelId::new(2),
            model_label: LabelId::new(2047),
            status,
            outcome: Outcome::Truncated,
            ended_ns: 5 * NS_PER_MS,
            overhead_ns: 10 * NS_PER_US + 1,
            bytes_in: 1,
            bytes_out: 2,
            retries: 0x02_00_00_01,
            ..Entry::default()
        }
    }

    fn charge() -> Charge {
        Charge {
            usage: crate::sse::Usage {
                tokens_in: 3,
                tokens_out: 4,
                tokens_cached: 5,
                tokens_reasoning: 6,
            },
            is_estimated: false,
            cost_micros: Some(7),
        }
    }

    #[test]
    fn processes_add_up() {
        let one = Arc::new(Segment::new(1).unwrap());
        let two = Arc::new(Segment::attach(one.fd()).unwrap());
        let (mut one, mut two) = (Metrics::new(one), Metrics::new(two));
        one.enter(&seen(1, 200), &charge());
        two.enter(&seen(1, 200), &charge());
        two.enter(&seen(1, 503), &charge());
        let mut all = one.collect();
        all.sort_by_key(|series| series.status);
        let [ok, failed] = all.as_slice() else {
            panic!("two series, got {}", all.len())
        };
        assert_eq!(
            (ok.route.get(), ok.provider.get(), ok.model.get(), ok.status),
            (1, 2, 2047, 200)
        );
        assert_eq!((ok.outcomes, failed.outcomes), ([0, 0, 0, 2, 0], [0, 0, 0, 1, 0]));
        let overheads = one.overheads();
        assert_eq!((overheads.len(), overheads[0].0.get(), overheads[0].1.0[1]), (1, 1, 3));
        // What did not end well has no times.
        assert_eq!(one.times(), []);
        assert_eq!(ok.retries, [2, 0, 0, 4, 0, 0, 0, 0]);
        assert_eq!((ok.bytes_in, ok.bytes_out, ok.tokens_in, ok.tokens_out), (2, 4, 6, 8));
        assert_eq!((ok.tokens_cached, ok.tokens_reasoning, ok.cost_micros), (10, 12, 14));
    }

    #[test]
    fn what_finds_no_place_is_counted_together() {
        let mut metrics = Metrics::new(Arc::new(Segment::new(1).unwrap()));
        for route in 0..2_000 {
            metrics.enter(&seen(route, 200), &charge());
            metrics.enter(&seen(route, 404), &charge());
        }
        let all = metrics.collect();
        assert!(all.len() > SERIES * 9 / 10 && all.len() <= SERIES);
        assert_eq!(all.iter().map(|series| series.outcomes[3]).sum::<u64>(), 4_000);
        let rest: Vec<_> = all.iter().filter(|series| series.status == 0).collect();
        assert_eq!(rest.len(), 1);
        assert_eq!(rest[0].route, LabelId::OTHER);
    }

    #[test]
    fn refusals_are_by_route_and_code() {
        let mut metrics = Metrics::new(Arc::new(Segment::new(1).unwrap()));
        let refused = |route, error| Entry {
            outcome: Outcome::Refused,
            error,
            ..seen(route, 429)
        };
        for entry in [
            refused(1, "slow"),
            refused(1, "slow"),
            refused(1, "who"),
            refused(2, "slow"),
            seen(2, 502),
        ] {
            metrics.enter(&entry, &charge());
        }
        let label = |name: &str| metrics.segment.intern(name);
        let mut all = metrics.refusals();
        all.sort_by_key(|(route, code, _)| (route.get(), code.get()));
        let [one, two] = [1, 2].map(LabelId::new);
        assert_eq!(
            all,
            [(one, label("slow"), 2), (one, label("who"), 1), (two, label("slow"), 1)]
        );
    }

    fn good() -> Entry<'static> {
        Entry {
            outcome: Outcome::Complete,
            started_ns: NS_PER_S,
            first_ns: NS_PER_S + 5 * NS_PER_MS,
            ended_ns: NS_PER_S + 11 * NS_PER_MS,
            ..seen(1, 200)
        }
    }

    #[test]
    fn times_are_of_what_ended_well_by_route_provider_and_model() {
        let mut metrics = Metrics::new(Arc::new(Segment::new(1).unwrap()));
        metrics.enter(&good(), &charge());
        metrics.enter(&Entry { status: 204, ..good() }, &Charge::default());
        metrics.enter(&Entry { status: 404, ..good() }, &charge());
        let stream = Entry {
            is_stream: true,
            ..good()
        };
        metrics.enter(&stream, &charge());
        let estimate = Charge {
            is_estimated: true,
            ..charge()
        };
        metrics.enter(&stream, &estimate);
        let all = metrics.times();
        assert_eq!(all.len(), 1);
        let times = &all[0];
        assert_eq!(
            (times.route.get(), times.provider.get(), times.model.get()),
            (1, 2, 2047)
        );
        let count = |buckets: &[u64]| buckets.iter().sum::<u64>();
        assert_eq!((count(&times.duration[0].0), count(&times.duration[1].0)), (2, 2));
        // Bounds are inclusive: they belong to the bucket below.
        assert_eq!((times.first_byte.0[1], times.first_byte.1), (2, 10 * NS_PER_MS));
        assert_eq!((times.first_token.0[1], times.first_token.1), (2, 10 * NS_PER_MS));
        // Four tokens out, of which the first came 6 ms before the end.
        assert_eq!((times.per_token.0[1], times.per_token.1), (1, 2 * NS_PER_MS));
        assert_eq!(
            (times.tokens[0].0[1], times.tokens[1].0[1], times.tokens[1].1),
            (3, 3, 12)
        );
    }

    #[test]
    fn bounds_rise_and_the_last_bucket_takes_the_rest() {
        for bounds in [
            &DURATION_BOUNDS_NS[..],
            &OVERHEAD_BOUNDS_NS,
            &FIRST_BOUNDS_NS,
            &PER_TOKEN_BOUNDS_NS,
            &TOKEN_BOUNDS,
        ] {
            assert!(bounds.is_sorted());
        }
        let mut metrics = Metrics::new(Arc::new(Segment::new(1).unwrap()));
        let entry = Entry {
            started_ns: 0,
            first_ns: 1,
            ended_ns: u64::MAX,
            ..good()
        };
        metrics.enter(&entry, &charge());
        let all = metrics.times();
        assert_eq!((all[0].duration[0].0[18], all[0].first_byte.0[0]), (1, 1));
    }
}
