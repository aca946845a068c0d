//! A sliding window of an upstream's calls and failures: ten buckets of time, shared by all workers.

use std::sync::atomic::{AtomicU64, Ordering};

const BUCKETS: usize = 10;
const COUNT_BITS: u32 = 20;
// Some room below the field's maximum, because workers add without synchronisation.
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1024;
const EPOCH_MASK: u64 = (1 << 24) - 1;
const NS_PER_MS: u64 = 1_000_000;

/// Recent counts. All zeroes is empty.
///
/// ```text
/// bucket: number of its stretch of time (24 bits) | calls (20) | failures (20)
/// ```
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Window {
    buckets: [AtomicU64; BUCKETS],
}

/// The length of a bucket, for a window of `window_ns`.
pub(crate) fn bucket_ms(window_ns: u64) -> u64 {
    window_ns.div_ceil(NS_PER_MS * BUCKETS as u64).max(1)
}

impl Window {
    /// Counts a call. A full bucket counts no more, so its ratio stays.
    #[inline]
    pub(crate) fn add(&self, bucket_ms: u64, failed: bool, now_ns: u64) {
        let epoch = now_ns / NS_PER_MS / bucket_ms;
        let bucket = &self.buckets[(epoch % BUCKETS as u64) as usize];
        let one = 1 << COUNT_BITS | u64::from(failed);
        let mut before = bucket.load(Ordering::Relaxed);
        loop {
            if before >> (2 * COUNT_BITS) == epoch & EPOCH_MASK {
                if calls(before) < COUNT_MAX {
                    bucket.fetch_add(one, Ordering::Relaxed);
                }
                return;
            }
            let fresh = (epoch & EPOCH_MASK) << (2 * COUNT_BITS) | one;
            match bucket.compare_exchange_weak(before, fresh, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(present) => before = present,
            }
        }
    }

    /// Calls and failures in the current bucket and the nine before it.
    pub(crate) fn counts(&self, bucket_ms: u64, now_ns: u64) -> (u64, u64) {
        let epoch = now_ns / NS_PER_MS / bucket_ms;
        let first = epoch.saturating_sub(BUCKETS as u64 - 1);
        (first..=epoch).fold((0, 0), |(all, failed), epoch| {
            let word = self.buckets[(epoch % BUCKETS as u64) as usize].load(Ordering::Relaxed);
            if word >> (2 * COUNT_BITS) == epoch & EPOCH_MASK {
                (all + calls(word), failed + (word & ((1 << COUNT_BITS) - 1)))
            } else {
                (all, failed)
            }
        })
    }

    #[cfg(test)]
    pub(crate) fn copy(&self) -> Self {
        let from = |at: usize| AtomicU64::new(self.buckets[at].load(Ordering::Relaxed));
        Self {
            buckets: std::array::from_fn(from),
        }
    }

    /// Clears the window.
    pub(crate) fn clear(&self) {
        for bucket in &self.buckets {
            bucket.store(0, Ordering::Relaxed);
        }
    }
}

fn calls(word: u64) -> u64 {
    word >> COUNT_BITS & ((1 << COUNT_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = NS_PER_MS;

    #[test]
    fn what_is_too_old_falls_out_bucket_by_bucket() {
        let window = Window::default();
        for second in 0..20 {
            window.add(1000, second % 2 == 0, second * 1000 * MS);
        }
        assert_eq!(window.counts(1000, 19_999 * MS), (10, 5));
        assert_eq!(window.counts(1000, 20_000 * MS), (9, 4));
        assert_eq!(window.counts(1000, 28_999 * MS), (1, 0));
        assert_eq!(window.counts(1000, 29_000 * MS), (0, 0));
    }

    #[test]
    fn a_full_bucket_keeps_its_ratio() {
        let window = Window::default();
        for _ in 0..COUNT_MAX + 5000 {
            window.add(1000, true, 0);
        }
        assert_eq!(window.counts(1000, 0), (COUNT_MAX, COUNT_MAX));
    }

    #[test]
    fn threads_lose_nothing_within_a_bucket() {
        let window = Window::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|at| window.add(1000, at % 4 == 0, 5_000 * MS)));
            }
        });
        assert_eq!(window.counts(1000, 5_000 * MS), (40_000, 10_000));
    }
}
