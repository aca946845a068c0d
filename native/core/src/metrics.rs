//! Metrics: a consumer of ended exchanges with counters and histograms by (route, provider, model, status), bounded and
//! shared.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::entry::{Charge, Consumer, Entry, Outcome};
use crate::segment::layout::{Counts, DURATION_BUCKETS, Histogram, OUTCOMES, OVERHEAD_BUCKETS};
use crate::segment::{LabelId, SERIES, Segment};

pub use crate::segment::layout::RETRY_REASONS;

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

// The tables of the segment have a cell for each of these.
const _: () = assert!(DURATION_BUCKETS == DURATION_BOUNDS_NS.len() + 1);
const _: () = assert!(OVERHEAD_BUCKETS == OVERHEAD_BOUNDS_NS.len() + 1);
const _: () = assert!(OUTCOMES == Outcome::ALL.len());

/// The metrics of a segment.
#[derive(Debug)]
pub struct Metrics {
    segment: Arc<Segment>,
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
    /// Counts per bucket, the last one for values above all bounds, and the sum in nanoseconds.
    pub duration: ([u64; DURATION_BUCKETS], u64),
    /// See `duration`.
    pub overhead: ([u64; OVERHEAD_BUCKETS], u64),
    /// See `duration`.
    pub first_byte: ([u64; DURATION_BUCKETS], u64),
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

// The last slot never belongs to a key: it counts exchanges whose key found no slot.
const OVERFLOW: usize = SERIES - 1;
// Slots probed before a key overflows; with the table nine tenths full, one key in a thousand would need more.
const PROBES: usize = 64;

impl Metrics {
    /// The metrics kept in `segment`.
    #[must_use]
    pub fn new(segment: Arc<Segment>) -> Self {
        Self { segment }
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

    /// The slot of a key's counts: its own, or the overflow slot.
    #[inline]
    fn slot(&self, key: u64) -> usize {
        let keys = &self.segment.layout().series;
        // Fibonacci hashing: the keys are consecutive small numbers from our own configuration.
        let home = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize;
        for probe in home..home + PROBES {
            let slot = probe % OVERFLOW;
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
        OVERFLOW
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
            duration: ([0; DURATION_BUCKETS], 0),
            overhead: ([0; OVERHEAD_BUCKETS], 0),
            first_byte: ([0; DURATION_BUCKETS], 0),
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
            counts.duration.add_to(&mut series.duration);
            counts.overhead.add_to(&mut series.overhead);
            counts.first_byte.add_to(&mut series.first_byte);
        }
        series
    }
}

impl Consumer for Metrics {
    fn enter(&mut self, entry: &Entry<'_>, charge: &Charge) -> usize {
        let counts = &self.segment.own_counts()[self.slot(key(entry))];
        counts.outcomes[entry.outcome as usize].fetch_add(1, Ordering::Relaxed);
        counts.duration.add(entry.duration_ns(), &DURATION_BOUNDS_NS);
        counts.overhead.add(entry.overhead_ns, &OVERHEAD_BOUNDS_NS);
        let first_byte_ns = entry.first_byte_ns();
        if first_byte_ns > 0 {
            counts.first_byte.add(first_byte_ns, &DURATION_BOUNDS_NS);
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

impl<const N: usize> Histogram<N> {
    #[inline]
    fn add(&self, value_ns: u64, bounds_ns: &[u64]) {
        let bucket = bounds_ns.partition_point(|&bound| bound < value_ns);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(value_ns, Ordering::Relaxed);
    }

    fn add_to(&self, total: &mut ([u64; N], u64)) {
        total
            .0
            .iter_mut()
            .zip(&self.buckets)
            .for_each(|(to, from)| *to += from.load(Ordering::Relaxed));
        total.1 += self.sum_ns.load(Ordering::Relaxed);
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
        // Bounds are inclusive: they belong to the bucket below.
        assert_eq!((ok.duration.0[2], ok.duration.1), (2, 10 * NS_PER_MS));
        assert_eq!(ok.overhead.0[1], 2);
        assert_eq!(ok.first_byte, ([0; DURATION_BUCKETS], 0));
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
    fn bounds_rise_and_the_last_bucket_takes_the_rest() {
        assert!(DURATION_BOUNDS_NS.is_sorted() && OVERHEAD_BOUNDS_NS.is_sorted());
        let mut metrics = Metrics::new(Arc::new(Segment::new(1).unwrap()));
        let entry = Entry {
            ended_ns: u64::MAX,
            first_ns: 1,
            ..seen(1, 200)
        };
        metrics.enter(&entry, &charge());
        let all = metrics.collect();
        assert_eq!((all[0].duration.0[18], all[0].first_byte.0[0]), (1, 1));
    }
}
