//! Rate limits by key: GCRA over cells in the segment, shared by all workers, bounded, and told the time.
//!
//! The generic cell rate algorithm (ITU-T I.371) keeps one number a key: the theoretical arrival time, when its bucket is
//! full again. A cell is that time and the key's hash. Cells live in sets of eleven; a key's set comes from its hash.
//!
//! What is exact: a debit is one compare-and-swap of the time, so any number of threads and processes together admit
//! `burst` plus what the rate refills, never more. What is not: when all cells of a set belong to keys that are in use
//! (not yet full again), the one that would be full first is forgotten, and its key begins with a full bucket: more is
//! admitted, never less. At 32,000 keys in use that happens to one new key in a thousand. The hash is keyed, so nobody
//! can aim at a set.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::hash::HashKey;
use crate::segment::{CELL_SETS, Segment};

// Times are kept in eighths of a nanosecond: at 1e9 a minute (60 ns each) the rate is still exact to 0.2 %, always on the
// side of less. In 64 bits that leaves 73 years of uptime.
const UNITS_PER_NS: u64 = 8;
const UNITS_PER_MINUTE: f64 = 60e9 * UNITS_PER_NS as f64;
// Beyond (18 years of uptime and as long for a bucket to fill) sums would overflow.
const MAX_UNITS: u64 = 1 << 62;

// The time of a cell that is being given to another key. Everybody but the holder of the set's lock passes it by.
const CHANGING: u64 = u64::MAX;

// The lock is held for some 20 ns and never across a call. A holder that was descheduled is waited for by giving it the
// processor; one that was killed is known by the age of its stamp. One that was stopped for as long, in those 20 ns, may
// on waking give one cell to its key a second time: one key's debits are then forgotten.
const SPINS: u32 = 100;
const YIELDS: u32 = 100;
const DEAD_AFTER_NS: u64 = 1_000_000_000;
// What to wait when the lock cannot be had: only new keys of one set, and only in the second after such a death.
const BUSY_NS: u64 = 1_000_000;

/// Why a limit cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// A bucket that never refills would refuse for ever.
    #[error("rate must be a positive number per minute, got {0}")]
    Rate(f64),
    /// A burst of nothing admits nothing.
    #[error("burst must be at least 1")]
    Burst,
    /// Years to refill.
    #[error("a burst of {burst} at {per_minute} a minute takes decades to refill")]
    Horizon {
        /// What was asked for.
        per_minute: f64,
        /// What was asked for.
        burst: u64,
    },
}

/// One limit: a scope, a rate and a burst; and the cells of its keys, in the segment.
///
/// Limits that differ in any of the three share nothing: after a change of rate, keys begin with full buckets.
#[derive(Debug)]
pub struct RateLimit {
    segment: Arc<Segment>,
    hash_key: HashKey,
    burst: u64,
    /// Units that one token takes to refill.
    interval: u64,
    /// Units that the whole bucket takes: `burst * interval`.
    tolerance: u64,
}

/// As many cells as fill three cache lines, and the lock under which they change their keys.
#[repr(C, align(64))]
pub(crate) struct CellSet {
    lock: AtomicU64,
    cells: [Cell; 11],
}

#[repr(C)]
struct Cell {
    key: AtomicU64,
    time: AtomicU64,
}

/// What became of a wish to change a cell's time.
enum Change {
    Made(u64),
    Refused(u64),
    /// The cell belongs to another key by now.
    Gone,
}

impl RateLimit {
    /// The limit called `scope`: `per_minute` tokens a minute, and up to `burst` at once.
    pub fn new(segment: Arc<Segment>, scope: &str, per_minute: f64, burst: u64) -> Result<Self, LimitError> {
        if !(per_minute.is_finite() && per_minute > 0.0) {
            return Err(LimitError::Rate(per_minute));
        }
        if burst == 0 {
            return Err(LimitError::Burst);
        }
        // Rounded up, so that what is admitted never exceeds the rate. The cast saturates.
        let interval = ((UNITS_PER_MINUTE / per_minute).ceil() as u64).max(1);
        let tolerance = burst.checked_mul(interval).filter(|&units| units <= MAX_UNITS);
        let tolerance = tolerance.ok_or(LimitError::Horizon { per_minute, burst })?;
        let name = [scope.as_bytes(), &interval.to_le_bytes(), &burst.to_le_bytes()].concat();
        let hash_key = segment.hash_key().derive(&name);
        Ok(Self {
            segment,
            hash_key,
            burst,
            interval,
            tolerance,
        })
    }

    /// Debits `cost` from `key`'s bucket: `Ok` with what remains, or `Err` with the nanoseconds to wait, at least 1, and
    /// nothing was debited.
    ///
    /// A cost above the burst is refused for ever; its wait is the time of a whole refill.
    #[inline]
    pub fn take(&self, key: &[u8], cost: u64, now_ns: u64) -> Result<u64, u64> {
        if cost > self.burst {
            return Err(to_ns(self.tolerance));
        }
        let now = to_units(now_ns);
        let hash = self.hash(key);
        let set = self.set(hash);
        let debit = cost * self.interval;
        let latest = now + self.tolerance;
        let fits = |time: u64| Some(time.max(now) + debit).filter(|&after| after <= latest);
        loop {
            let change = match set.cell(hash) {
                Some(cell) => cell.change(hash, fits),
                None if cost == 0 => return Ok(self.burst),
                None => set.admit(hash, now + debit, now_ns),
            };
            match change {
                Change::Made(after) => return Ok((latest - after) / self.interval),
                Change::Refused(BUSY) => return Err(BUSY_NS),
                // Times beyond `latest` are possible when another process' clock reading is newer: wait the longer.
                Change::Refused(time) => return Err(to_ns((time.max(now) + debit).saturating_sub(latest)).max(1)),
                Change::Gone => {}
            }
        }
    }

    /// Gives back a debit, when a later dimension refused. A key that was forgotten has nothing to be given back.
    pub fn refund(&self, key: &[u8], cost: u64) {
        let hash = self.hash(key);
        let credit = cost.min(self.burst) * self.interval;
        while let Some(cell) = self.set(hash).cell(hash) {
            match cell.change(hash, |time| Some(time.saturating_sub(credit))) {
                Change::Gone => {}
                Change::Made(_) | Change::Refused(_) => return,
            }
        }
    }

    /// Nanoseconds until `key`'s bucket is full again.
    #[must_use]
    pub fn reset_ns(&self, key: &[u8], now_ns: u64) -> u64 {
        let hash = self.hash(key);
        let time = self.set(hash).cell(hash).and_then(|cell| cell.time(hash)).unwrap_or(0);
        to_ns(time.saturating_sub(to_units(now_ns)))
    }

    #[inline]
    fn hash(&self, key: &[u8]) -> u64 {
        // 0 is the key of an empty cell.
        self.hash_key.hash(key).max(1)
    }

    #[inline]
    fn set(&self, hash: u64) -> &CellSet {
        &self.segment.layout().cell_sets[(hash >> 32) as usize % CELL_SETS]
    }
}

/// In place of a time: the lock was not to be had. No cell has it, because it is above all bounds.
const BUSY: u64 = u64::MAX;

impl CellSet {
    #[inline]
    fn cell(&self, hash: u64) -> Option<&Cell> {
        self.cells
            .iter()
            .find(|cell| cell.key.load(Ordering::Acquire) == hash && cell.time(hash).is_some())
    }

    /// Gives a cell to the key, its time set to `time`. `Gone` when another process was faster: look again.
    #[cold]
    fn admit(&self, hash: u64, time: u64, now_ns: u64) -> Change {
        let Some(stamp) = self.lock(now_ns) else {
            return Change::Refused(BUSY);
        };
        let change = if self.cell(hash).is_some() {
            Change::Gone
        } else {
            self.replace(hash, time, now_ns)
        };
        // Fails when the lock was taken from us because we slept for a second: then it is not ours to open.
        let _ = self
            .lock
            .compare_exchange(stamp, 0, Ordering::Release, Ordering::Relaxed);
        change
    }

    /// With the lock held: changes the key of the cell that is needed least.
    fn replace(&self, hash: u64, time: u64, now_ns: u64) -> Change {
        let now = to_units(now_ns);
        // Free ones (time 0), then expired ones, then the one that would be full first. One left CHANGING was abandoned
        // by a holder that died: nobody else uses it.
        let urgency = |&(_, time): &(&Cell, u64)| if time == CHANGING || time <= now { 0 } else { time };
        let seen = self.cells.iter().map(|cell| (cell, cell.time.load(Ordering::Acquire)));
        let Some((cell, before)) = seen.min_by_key(urgency) else {
            return Change::Gone;
        };
        if !cell.claim(before) {
            return Change::Gone;
        }
        cell.key.store(hash, Ordering::Release);
        cell.time.store(time, Ordering::Release);
        Change::Made(time)
    }

    fn lock(&self, now_ns: u64) -> Option<u64> {
        let stamp = now_ns.max(1);
        for attempt in 0..SPINS + YIELDS {
            match self
                .lock
                .compare_exchange(0, stamp, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return Some(stamp),
                Err(holder) if now_ns.saturating_sub(holder) > DEAD_AFTER_NS => {
                    let stolen = self
                        .lock
                        .compare_exchange(holder, stamp, Ordering::Acquire, Ordering::Relaxed);
                    if stolen.is_ok() {
                        return Some(stamp);
                    }
                }
                Err(_) if attempt < SPINS => std::hint::spin_loop(),
                Err(_) => std::thread::yield_now(),
            }
        }
        None
    }
}

impl Cell {
    /// The time, if the cell is that key's.
    #[inline]
    fn time(&self, hash: u64) -> Option<u64> {
        let time = self.time.load(Ordering::Acquire);
        (time != CHANGING && self.key.load(Ordering::Acquire) == hash).then_some(time)
    }

    /// With the lock held: takes the cell from its key, unless that was debited since its time was `before`.
    ///
    /// From here no debit can reach the old key: a debit is a swap of the time that was read together with the key.
    fn claim(&self, before: u64) -> bool {
        // Left by a holder that died: nobody else uses it.
        before == CHANGING
            || self
                .time
                .compare_exchange(before, CHANGING, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// Changes the time by `change`, unless that says no.
    ///
    /// The time is read before the key and swapped after it: a cell that changed its key in between changed its time too.
    #[inline]
    fn change(&self, hash: u64, change: impl Fn(u64) -> Option<u64>) -> Change {
        loop {
            let Some(before) = self.time(hash) else {
                return Change::Gone;
            };
            let Some(after) = change(before) else {
                return Change::Refused(before);
            };
            if self
                .time
                .compare_exchange_weak(before, after, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
            {
                return Change::Made(after);
            }
        }
    }
}

fn to_units(ns: u64) -> u64 {
    ns.saturating_mul(UNITS_PER_NS).min(MAX_UNITS)
}

fn to_ns(units: u64) -> u64 {
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
        // Many more keys than cells, one a second each: a cell expires a second after its only debit.
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
    fn a_key_that_came_meanwhile_is_not_given_a_second_cell() {
        let limit = limit(60.0, 10);
        let (hash, now) = (limit.hash(b"k"), to_units(SECOND));
        assert!(matches!(limit.set(hash).admit(hash, now + 1, SECOND), Change::Made(_)));
        assert!(matches!(limit.set(hash).admit(hash, now + 1, SECOND), Change::Gone));
    }

    #[test]
    fn a_cell_debited_meanwhile_is_not_given_away() {
        let limit = limit(60.0, 10);
        assert_eq!(limit.take(b"k", 1, SECOND), Ok(9));
        let hash = limit.hash(b"k");
        let cell = limit.set(hash).cell(hash).unwrap();
        let before = cell.time(hash).unwrap();
        assert_eq!(limit.take(b"k", 1, SECOND), Ok(8));
        assert!(!cell.claim(before));
        // And the other way round: one taken away between look and debit is not debited.
        let debit = cell.change(hash, |time| cell.claim(time).then_some(time + 1));
        assert!(matches!(debit, Change::Gone));
        assert_eq!(cell.time.load(Ordering::Relaxed), CHANGING);
    }

    #[test]
    fn a_lock_left_by_the_dead_is_taken_after_a_second() {
        let limit = limit(60.0, 10);
        let set = limit.set(limit.hash(b"k"));
        set.lock.store(5 * SECOND, Ordering::Relaxed);
        set.cells[0].time.store(CHANGING, Ordering::Relaxed);
        assert_eq!(limit.take(b"k", 1, 5 * SECOND + 10), Err(BUSY_NS));
        assert_eq!(limit.take(b"k", 1, 6 * SECOND + 10), Ok(9));
        assert_eq!(set.lock.load(Ordering::Relaxed), 0);
        assert_eq!(set.cells[0].key.load(Ordering::Relaxed), limit.hash(b"k"));
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

    /// Keys come and go in one set while others debit theirs: what a key is given is still never too much.
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
        // 1 token a microsecond; each thread walks through the same times.
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
