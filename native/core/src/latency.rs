//! Recent latencies of the first byte: quantiles of a decaying distribution.

use std::sync::atomic::{AtomicU32, Ordering};

// Eight buckets per octave: a quantile is at most an eighth too high. Times below 2^16 ns share one bucket.
const SUB_BITS: u32 = 3;
const FIRST_OCTAVE: u32 = 16;
const OCTAVES: u32 = 26;
const BUCKETS: usize = (OCTAVES as usize) << SUB_BITS;

/// The fewest observations for a quantile.
pub const ENOUGH: u32 = 32;
// At this count, all buckets are halved: an observation's weight is halved after about a thousand more.
const FULL: u32 = 1 << 11;

/// The distribution. All zeroes is empty.
#[derive(Debug)]
pub struct LatencyHistogram {
    buckets: [AtomicU32; BUCKETS],
    count: AtomicU32,
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicU32::new(0)),
            count: AtomicU32::new(0),
        }
    }
}

impl LatencyHistogram {
    /// Records a latency.
    pub fn record(&self, ns: u64) {
        self.buckets[bucket(ns)].fetch_add(1, Ordering::Relaxed);
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 >= FULL {
            let halved = |bucket: &AtomicU32| {
                let half = bucket.load(Ordering::Relaxed) / 2;
                bucket.store(half, Ordering::Relaxed);
                half
            };
            let left = self.buckets.iter().map(halved).sum();
            self.count.store(left, Ordering::Relaxed);
        }
    }

    /// The recent latency that `percent` did not exceed; `None` with too few observations.
    pub fn quantile(&self, percent: u32) -> Option<u64> {
        let count = self.count.load(Ordering::Relaxed);
        if count < ENOUGH {
            return None;
        }
        let wanted = (u64::from(count) * u64::from(percent.min(100))).div_ceil(100).max(1);
        let mut seen = 0;
        let found = self.buckets.iter().position(|bucket| {
            seen += u64::from(bucket.load(Ordering::Relaxed));
            seen >= wanted
        });
        Some(bound(found.unwrap_or(BUCKETS - 1)))
    }
}

fn bucket(ns: u64) -> usize {
    let octave = ns.max(1).ilog2();
    if octave < FIRST_OCTAVE {
        return 0;
    }
    let sub = ns >> (octave - SUB_BITS) & ((1 << SUB_BITS) - 1);
    let at = (u64::from(octave - FIRST_OCTAVE) << SUB_BITS | sub) as usize;
    at.min(BUCKETS - 1)
}

/// The upper bound of a bucket.
fn bound(at: usize) -> u64 {
    let (octave, sub) = (
        FIRST_OCTAVE + (at as u32 >> SUB_BITS),
        at as u64 & ((1 << SUB_BITS) - 1),
    );
    (1 << octave) + ((sub + 1) << (octave - SUB_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn quantiles_are_the_sorted_lists_to_an_eighth() {
        let histogram = LatencyHistogram::default();
        let mut all: Vec<u64> = (0..1_500_u64).map(|step| MS + step * step * 997).collect();
        all.iter().for_each(|&ns| histogram.record(ns));
        all.sort_unstable();
        for percent in [1, 50, 90, 95, 99, 100] {
            let exact = all[(all.len() * percent as usize).div_ceil(100) - 1];
            let told = histogram.quantile(percent).unwrap();
            assert!(
                (exact..=exact + exact / 8 + 1).contains(&told),
                "{percent}: {told}, not {exact}"
            );
        }
    }

    #[test]
    fn nothing_is_told_of_little_and_nothing_is_out_of_range() {
        let histogram = LatencyHistogram::default();
        for _ in 1..ENOUGH {
            histogram.record(MS);
        }
        assert_eq!(histogram.quantile(50), None);
        histogram.record(0);
        assert!(histogram.quantile(100).unwrap() >= MS);
        for ns in [0, 1, 1 << 15, 1 << 16, 1 << 41, u64::MAX] {
            assert!(bucket(ns) < BUCKETS && (bucket(ns) == BUCKETS - 1 || ns < bound(bucket(ns))));
        }
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let histogram = LatencyHistogram::default();
        (0..5_000).for_each(|_| histogram.record(1000 * MS));
        (0..9_000).for_each(|_| histogram.record(MS));
        assert!(histogram.quantile(95).unwrap() < 2 * MS);
    }
}
