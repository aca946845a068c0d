//! Rates by key: GCRA over cells.
//!
//! The generic cell rate algorithm (ITU-T I.371) keeps one number per key: the theoretical arrival time, at which its
//! bucket is full again. A cell is that time and the key's hash. Cells live in sets of eleven; a key's set comes from
//! its hash.
//!
//! Exact: a debit is one compare-and-swap of the time, so any number of threads and processes together admit `burst`
//! plus the refill, never more. Not exact: when all cells of a set belong to keys in use (not yet full again), the one
//! that would be full first is evicted, and its key begins with a full bucket: more is admitted, never less. With
//! 32,000 keys in use, that happens to one new key in a thousand. The hash is keyed, so an attacker cannot target a
//! set.

use std::sync::Arc;

use super::LimitError;
use super::cells::{BUSY_NS, Change};
use crate::hash::HashKey;
use crate::segment::layout::CellSet;
use crate::segment::{CELL_SETS, Segment};

// Times are kept in eighths of a nanosecond: at 1e9 per minute (60 ns each), the rate is still exact to 0.2 %, always
// erring towards less. In 64 bits that leaves 73 years of uptime.
const UNITS_PER_NS: u64 = 8;
const UNITS_PER_S: u64 = UNITS_PER_NS * 1_000_000_000;
const UNITS_PER_MINUTE: f64 = 60.0 * UNITS_PER_S as f64;
// Beyond this (18 years of uptime and as long for a bucket to fill), sums would overflow.
const MAX_UNITS: u64 = 1 << 62;

/// The parameters of a bucket, without its key and state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    burst: u64,
    /// Units that one token takes to refill.
    interval: u64,
    /// Units that the whole bucket takes to refill: `burst * interval`.
    tolerance: u64,
}

impl Bucket {
    /// A bucket of `burst` tokens that gets `amount` of them every `period_s` seconds.
    pub fn new(amount: u64, period_s: u64, burst: u64) -> Result<Self, LimitError> {
        let per_minute = amount as f64 * 60.0 / period_s as f64;
        if amount == 0 || period_s == 0 {
            return Err(LimitError::Rate(per_minute));
        }
        // Rounded up, so that the rate is never exceeded.
        let interval = period_s.saturating_mul(UNITS_PER_S).div_ceil(amount);
        Self::from_interval(interval, burst, per_minute)
    }

    fn per_minute(per_minute: f64, burst: u64) -> Result<Self, LimitError> {
        if !(per_minute.is_finite() && per_minute > 0.0) {
            return Err(LimitError::Rate(per_minute));
        }
        // The cast saturates.
        let interval = ((UNITS_PER_MINUTE / per_minute).ceil() as u64).max(1);
        Self::from_interval(interval, burst, per_minute)
    }

    fn from_interval(interval: u64, burst: u64, per_minute: f64) -> Result<Self, LimitError> {
        if burst == 0 {
            return Err(LimitError::Burst);
        }
        let tolerance = burst.checked_mul(interval).filter(|&units| units <= MAX_UNITS);
        let tolerance = tolerance.ok_or(LimitError::Horizon { per_minute, burst })?;
        Ok(Self {
            burst,
            interval,
            tolerance,
        })
    }

    /// Tokens in a full bucket.
    #[must_use]
    pub fn burst(&self) -> u64 {
        self.burst
    }

    /// Distinguishes this bucket from others of the same name.
    pub(super) fn identity(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.interval.to_le_bytes());
        bytes[8..].copy_from_slice(&self.burst.to_le_bytes());
        bytes
    }

    /// The time after a debit, if that fits.
    #[inline]
    pub(super) fn debited(&self, time: u64, cost: u64, now: u64) -> Option<u64> {
        // Only a cost above the burst could overflow.
        let after = time.max(now) + cost.min(self.burst) * self.interval;
        // A cost of zero fits even in debt.
        (cost <= self.burst && after <= now + self.tolerance || cost == 0).then_some(after)
    }

    /// The time after an unconditional debit, which may put the bucket into debt.
    pub(super) fn forced(&self, time: u64, cost: u64, now: u64) -> u64 {
        time.max(now)
            .saturating_add(cost.saturating_mul(self.interval))
            .min(MAX_UNITS)
    }

    /// The time after a debit is given back.
    pub(super) fn credited(&self, time: u64, cost: u64) -> u64 {
        time.saturating_sub(cost.saturating_mul(self.interval))
    }

    /// Nanoseconds until `cost` fits, at least 1. For a cost that never fits, the time of a whole refill.
    pub(super) fn wait_ns(&self, time: u64, cost: u64, now: u64) -> u64 {
        if cost > self.burst {
            return to_ns(self.tolerance);
        }
        // Later times are possible: debts, and other processes with a newer clock reading.
        let after = time.max(now) + cost * self.interval;
        to_ns(after.saturating_sub(now + self.tolerance)).max(1)
    }

    /// Tokens left.
    #[inline]
    pub(super) fn left(&self, time: u64, now: u64) -> u64 {
        (now + self.tolerance).saturating_sub(time.max(now)) / self.interval
    }

    /// The need of a key for its cell: none once its bucket is full again, otherwise its time.
    #[inline]
    pub(super) fn need(now: u64) -> impl Fn(u64) -> u64 {
        move |time| if time <= now { 0 } else { time }
    }
}

/// One limit: a scope, a rate and a burst; and the cells of its keys, in the segment.
///
/// Limits that differ in any of the three share nothing: after a change of rate, keys begin with full buckets.
#[derive(Debug)]
pub struct RateLimit {
    segment: Arc<Segment>,
    hash_key: HashKey,
    bucket: Bucket,
}

impl RateLimit {
    /// The limit called `scope`: `per_minute` tokens per minute, and up to `burst` at once.
    pub fn new(segment: Arc<Segment>, scope: &str, per_minute: f64, burst: u64) -> Result<Self, LimitError> {
        let bucket = Bucket::per_minute(per_minute, burst)?;
        let hash_key = segment
            .limit_key()
            .derive(&[scope.as_bytes(), &bucket.identity()].concat());
        Ok(Self {
            segment,
            hash_key,
            bucket,
        })
    }

    /// Debits `cost` from `key`'s bucket. Returns the remaining tokens, or `Err` with the nanoseconds to wait, at least
    /// 1; then nothing was debited.
    ///
    /// A cost above the burst is always refused; its wait is the time of a whole refill.
    #[inline]
    pub fn take(&self, key: &[u8], cost: u64, now_ns: u64) -> Result<u64, u64> {
        let (hash, now) = (self.hash(key), to_units(now_ns));
        let set = self.set(hash);
        if cost == 0 && set.value(hash).is_none() {
            return Ok(self.bucket.burst);
        }
        let debit = |time| self.bucket.debited(time, cost, now);
        match set.change(hash, now_ns, Bucket::need(now), debit) {
            Change::Made(after) => Ok(self.bucket.left(after, now)),
            Change::Refused(time) => Err(self.bucket.wait_ns(time, cost, now)),
            Change::Busy => Err(BUSY_NS),
        }
    }

    /// Gives back a debit after a later limit refused. An evicted key has no debit to give back.
    pub fn refund(&self, key: &[u8], cost: u64) {
        let hash = self.hash(key);
        let cost = cost.min(self.bucket.burst);
        self.set(hash)
            .adjust(hash, |time| Some(self.bucket.credited(time, cost)));
    }

    /// Nanoseconds until `key`'s bucket is full again.
    #[must_use]
    pub fn reset_ns(&self, key: &[u8], now_ns: u64) -> u64 {
        let hash = self.hash(key);
        let time = self.set(hash).value(hash).unwrap_or(0);
        to_ns(time.saturating_sub(to_units(now_ns)))
    }

    #[inline]
    fn hash(&self, key: &[u8]) -> u64 {
        // 0 is the key of an empty cell.
        self.hash_key.hash(key).max(1)
    }

    #[inline]
    fn set(&self, hash: u64) -> &CellSet {
        cells_of(&self.segment, hash)
    }
}

/// The set of a key's cell.
#[inline]
pub(super) fn cells_of(segment: &Segment, hash: u64) -> &CellSet {
    &segment.layout().cell_sets[(hash >> 32) as usize % CELL_SETS]
}

pub(super) fn to_units(ns: u64) -> u64 {
    ns.saturating_mul(UNITS_PER_NS).min(MAX_UNITS)
}

pub(super) fn to_ns(units: u64) -> u64 {
    units.div_ceil(UNITS_PER_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn limit(per_minute: f64, burst: u64) -> RateLimit {
        RateLimit::new(Arc::new(Segment::new(1).unwrap()), "test", per_minute, burst).unwrap()
    }

    #[test]
    fn a_burst_then_the_rate() {
        let limit = limit(60.0, 3);
        let now = 100 * SECOND;
        assert_eq!(limit.take(b"k", 1, now), Ok(2));
        assert_eq!(limit.take(b"k", 2, now), Ok(0));
        assert_eq!(limit.take(b"k", 1, now), Err(SECOND));
        assert_eq!(limit.take(b"k", 1, now + SECOND - 1), Err(1));
        assert_eq!(limit.take(b"k", 1, now + SECOND), Ok(0));
        assert_eq!(limit.take(b"other", 1, now), Ok(2));
        assert_eq!(limit.reset_ns(b"k", now + SECOND), 3 * SECOND);
    }

    #[test]
    fn a_refund_restores_what_was_taken() {
        let limit = limit(60.0, 3);
        assert_eq!(limit.take(b"k", 3, SECOND), Ok(0));
        limit.refund(b"k", 2);
        assert_eq!(limit.take(b"k", 2, SECOND), Ok(0));
        limit.refund(b"never seen", 2);
        assert_eq!(limit.take(b"never seen", 0, SECOND), Ok(3));
    }

    #[test]
    fn extremes_do_not_overflow() {
        let fast = limit(1e9, 10_000_000);
        let uptime = 10 * 365 * 86_400 * SECOND;
        assert_eq!(fast.take(b"k", 10_000_000, uptime), Ok(0));
        assert_eq!(fast.take(b"k", 10_000_000, uptime), Err(600_000_000));
        assert_eq!(fast.take(b"k", 10_000_000, uptime + 600_000_000), Ok(0));
        assert_eq!(fast.take(b"k", u64::MAX, uptime), Err(600_000_000));
        fast.refund(b"k", u64::MAX);
        let slow = limit(1.0, 1_000_000);
        assert_eq!(slow.take(b"k", 1_000_000, u64::MAX), Ok(0));
        assert!(slow.take(b"k", 1, u64::MAX).is_err());
        let segment = Arc::new(Segment::new(1).unwrap());
        assert!(matches!(
            RateLimit::new(segment.clone(), "x", 1e-9, 10_000_000),
            Err(LimitError::Horizon { .. })
        ));
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(
                RateLimit::new(segment.clone(), "x", rate, 1),
                Err(LimitError::Rate(_))
            ));
        }
    }

    #[test]
    fn limits_of_different_scope_or_rate_share_nothing() {
        let segment = Arc::new(Segment::new(1).unwrap());
        let limits = [("a", 60.0, 1), ("b", 60.0, 1), ("a", 61.0, 1), ("a", 60.0, 2)];
        for (scope, rate, burst) in limits {
            let limit = RateLimit::new(segment.clone(), scope, rate, burst).unwrap();
            assert_eq!(limit.take(b"k", burst, SECOND), Ok(0), "{scope} {rate} {burst}");
        }
        let again = RateLimit::new(segment, "a", 60.0, 1).unwrap();
        assert!(again.take(b"k", 1, SECOND).is_err());
    }

    #[test]
    fn expired_cells_are_reused_before_live_ones() {
        let limit = limit(60.0, 10);
        // Many more keys than cells, one per second: a cell expires a second after its only debit.
        for second in 1..200_000_u64 {
            assert_eq!(limit.take(&second.to_le_bytes(), 1, second * SECOND), Ok(9));
        }
        let now = 300_000 * SECOND;
        assert_eq!(limit.take(b"kept", 10, now), Ok(0));
        for number in 0..20_000_u64 {
            let _ = limit.take(&number.to_le_bytes(), 1, now + 1);
        }
        assert!(
            limit.take(b"kept", 1, now + 2).is_err(),
            "the fullest bucket was forgotten first"
        );
    }

    #[test]
    fn a_lock_left_by_the_dead_is_taken_after_a_second() {
        let limit = limit(60.0, 10);
        let set = limit.set(limit.hash(b"k"));
        set.abandon(5 * SECOND);
        assert_eq!(limit.take(b"k", 1, 5 * SECOND + 10), Err(BUSY_NS));
        assert_eq!(limit.take(b"k", 1, 6 * SECOND + 10), Ok(9));
        assert!(set.is_open());
        // In the cell that the dead process had begun to change.
        assert_eq!(
            set.entries().map(|(key, _)| key).collect::<Vec<_>>(),
            [limit.hash(b"k")]
        );
    }

    #[test]
    fn threads_admit_exactly_burst_plus_rate() {
        let segment = Arc::new(Segment::new(1).unwrap());
        for round in 0..50_u64 {
            let admitted: u64 = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|_| {
                        let limit = RateLimit::new(segment.clone(), &round.to_string(), 60.0, 100).unwrap();
                        scope.spawn(move || (0..60).filter(|_| limit.take(b"k", 1, SECOND).is_ok()).count() as u64)
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            assert_eq!(admitted, 100);
        }
    }

    /// Keys come and go in one set while others debit theirs: no key ever gets too much.
    #[test]
    fn changing_keys_do_not_leak_debits() {
        let segment = Arc::new(Segment::new(1).unwrap());
        let limit = RateLimit::new(segment.clone(), "x", 6e7, 5).unwrap();
        let home = limit.hash(b"victim") >> 32;
        let neighbours: Vec<Vec<u8>> = (0_u64..)
            .map(|number| number.to_le_bytes().to_vec())
            .filter(|key| (limit.hash(key) >> 32) % CELL_SETS as u64 == home % CELL_SETS as u64)
            .take(6)
            .collect();
        // 1 token per microsecond; each thread passes through the same times.
        let end = 20_000_u64;
        let taken: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let mut taken = 0;
                        for step in 0..end {
                            let now = SECOND + step * 1_000;
                            taken += u64::from(limit.take(b"victim", 1, now).is_ok());
                            let _ = limit.take(&neighbours[step as usize % neighbours.len()], 1, now);
                        }
                        taken
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!(taken <= end + 5, "{taken}");
    }
}
