//! Counts of durations in log-linear buckets: bounded memory, under one percent of error, as HdrHistogram has it.

/// Sub-buckets to an octave, as a power of two: 128 keep the error under 0.8 %.
const PRECISION: u32 = 7;
const SUB_BUCKETS: usize = 1 << PRECISION;
const BUCKETS: usize = (64 - PRECISION as usize + 1) * SUB_BUCKETS;

/// Nanoseconds in, percentiles out.
pub(crate) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum: u128,
    min: u64,
    max: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            count: 0,
            sum: 0,
            min: u64::MAX,
            max: 0,
        }
    }

    pub(crate) fn record(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.count += 1;
        self.sum += u128::from(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// 0 when nothing was recorded.
    pub(crate) fn min(&self) -> u64 {
        if self.count == 0 { 0 } else { self.min }
    }

    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn mean(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        self.sum as f64 / self.count as f64
    }

    /// The value that `percent` of all are not above (nearest rank); 0 when nothing was recorded.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    pub(crate) fn percentile(&self, percent: f64) -> u64 {
        let rank = ((percent / 100.0 * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return highest(index).min(self.max);
            }
        }
        self.max
    }
}

fn bucket(value: u64) -> usize {
    let octave = (u64::BITS - value.leading_zeros()).saturating_sub(PRECISION + 1);
    // Below 2 * SUB_BUCKETS a bucket is one value wide.
    octave as usize * SUB_BUCKETS + (value >> octave) as usize
}

/// The highest value that falls into a bucket.
fn highest(index: usize) -> u64 {
    if index < 2 * SUB_BUCKETS {
        return index as u64;
    }
    let octave = (index / SUB_BUCKETS - 1) as u32;
    let place = (index % SUB_BUCKETS + SUB_BUCKETS) as u64;
    (place << octave) + ((1 << octave) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_falls_into_a_bucket_that_holds_it() {
        let mut value = 1u64;
        while value < u64::MAX / 3 {
            for near in [value - 1, value, value + 1] {
                let index = bucket(near);
                assert!(highest(index) >= near, "{near} above its bucket {index}");
                assert!(
                    index == 0 || highest(index - 1) < near,
                    "{near} below its bucket {index}"
                );
            }
            value = value * 3 / 2 + 1;
        }
        assert_eq!(highest(bucket(u64::MAX)), u64::MAX);
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn error_stays_under_one_percent() {
        for value in [129u64, 1_000, 15_300, 2_500_000, 7_777_777_777] {
            let mut one = Histogram::new();
            one.record(value);
            one.record(value * 4);
            let got = one.percentile(50.0);
            assert!(got >= value && (got - value) * 100 <= value, "{value} read as {got}");
        }
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let mut all = Histogram::new();
        for value in 1..=100 {
            all.record(value);
        }
        assert_eq!(
            (all.percentile(50.0), all.percentile(99.0), all.percentile(100.0)),
            (50, 99, 100)
        );
        assert_eq!((all.min(), all.max(), all.count), (1, 100, 100));
        assert!((all.mean() - 50.5).abs() < 1e-9);
    }

    #[test]
    fn nothing_recorded_reads_as_zero() {
        let none = Histogram::new();
        assert_eq!((none.percentile(99.0), none.min(), none.max()), (0, 0, 0));
    }
}
