//! Leases: concurrency per key, counted in rows that only their own worker writes.
//!
//! A key has a slot; each worker counts its leases of that slot in its own row, and the sum over the rows is the
//! concurrency. A killed worker leaves nothing behind once its row is zeroed.
//!
//! To take a lease, a worker adds one to its own count, then sums all rows, and takes the one back when the sum is
//! above the limit. All of this is sequentially consistent, so among simultaneous additions the last one sees all the
//! others, and the limit is never exceeded. Two workers that compete for the last lease may both withdraw; they retry a
//! few times, and are then refused.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::segment::layout::{LEASE_KEYS as KEYS, LEASE_SETS, LEASE_SLOTS as SLOTS, Row};
use crate::segment::{Segment, Worker};

// The key of a slot that is being reassigned.
const CHANGING: u64 = u64::MAX;
// The number of retries of workers that withdrew for each other.
const TRIES: u32 = 8;

/// A lease with its slot, if there was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease(Option<u16>);

/// Counts a lease of the key, unless `limit` are in use; `Err` when they are.
///
/// The lease is not counted when every slot of the key's set is in use by other keys: more is admitted, never less.
pub(super) fn take(segment: &Segment, worker: Worker, hash: u64, limit: u32, now_ns: u64) -> Result<Lease, ()> {
    let row = segment.row(worker);
    for _ in 0..TRIES {
        let Some(slot) = slot_of(segment, hash, now_ns) else {
            return Ok(Lease(None));
        };
        let own = &row.leases[slot];
        own.fetch_add(1, Ordering::SeqCst);
        let is_ours = key_of(segment, slot).load(Ordering::SeqCst) == hash;
        if is_ours && running(segment, slot) <= limit {
            return Ok(Lease(Some(slot as u16)));
        }
        give_back(own);
        if is_ours && running(segment, slot) >= limit {
            return Err(());
        }
        std::hint::spin_loop();
    }
    Err(())
}

/// The key's leases in use, over all workers.
pub(super) fn count(segment: &Segment, hash: u64) -> u32 {
    find(segment, hash).map_or(0, |slot| running(segment, slot))
}

/// Ends a lease.
pub(super) fn release(segment: &Segment, worker: Worker, lease: Lease) {
    if let Lease(Some(slot)) = lease {
        give_back(&segment.row(worker).leases[usize::from(slot)]);
    }
}

/// Every key with leases, and their number.
pub(super) fn held(segment: &Segment) -> impl Iterator<Item = (u64, u32)> {
    (0..SLOTS).filter_map(|slot| {
        let count = running(segment, slot);
        (count > 0).then(|| (key_of(segment, slot).load(Ordering::SeqCst), count))
    })
}

/// Sets the number of `worker`'s leases of the key, as far as there is a slot for it.
pub(super) fn set(segment: &Segment, worker: Worker, hash: u64, count: u32, now_ns: u64) {
    let slot = if count > 0 {
        slot_of(segment, hash, now_ns)
    } else {
        find(segment, hash)
    };
    if let Some(slot) = slot {
        segment.row(worker).leases[slot].store(count, Ordering::SeqCst);
    }
}

/// Decrements, but not below zero: the row may have been cleared.
fn give_back(count: &AtomicU32) {
    let _ = count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1));
}

fn running(segment: &Segment, slot: usize) -> u32 {
    let count = |row: &Row| row.leases[slot].load(Ordering::SeqCst);
    segment.rows().iter().map(count).fold(0, u32::saturating_add)
}

fn home(hash: u64) -> usize {
    (hash >> 32) as usize % LEASE_SETS
}

fn key_of(segment: &Segment, slot: usize) -> &AtomicU64 {
    &segment.layout().lease_sets[slot / KEYS].keys[slot % KEYS]
}

#[inline]
fn find(segment: &Segment, hash: u64) -> Option<usize> {
    let home = home(hash);
    let keys = &segment.layout().lease_sets[home].keys;
    let index = keys.iter().position(|key| key.load(Ordering::SeqCst) == hash)?;
    Some(home * KEYS + index)
}

/// The key's slot, assigned if it has none; `None` when none is free.
fn slot_of(segment: &Segment, hash: u64, now_ns: u64) -> Option<usize> {
    if let Some(slot) = find(segment, hash) {
        return Some(slot);
    }
    let home = home(hash);
    let set = &segment.layout().lease_sets[home];
    let held = set.lock.take(now_ns)?;
    let slot = find(segment, hash).or_else(|| {
        (home * KEYS..home * KEYS + KEYS).find(|&slot| {
            let key = key_of(segment, slot);
            let before = key.load(Ordering::SeqCst);
            if running(segment, slot) > 0 {
                return false;
            }
            // A worker that adds to the old key's count from here on sees that the key is gone, and withdraws; an
            // earlier one is in the sum. A key left CHANGING was abandoned by a holder that died.
            key.store(CHANGING, Ordering::SeqCst);
            let is_free = running(segment, slot) == 0;
            key.store(if is_free { hash } else { before }, Ordering::SeqCst);
            is_free
        })
    });
    set.lock.release(held);
    slot
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicI64;

    use super::*;

    #[test]
    fn all_workers_count_together_and_the_dead_leave_nothing() {
        let segment = Segment::new(2).unwrap();
        let (one, two) = (segment.worker(0).unwrap(), segment.worker(1).unwrap());
        let lease = take(&segment, one, 7, 2, 1).unwrap();
        take(&segment, two, 7, 2, 1).unwrap();
        assert_eq!(take(&segment, one, 7, 2, 1), Err(()));
        assert_eq!((count(&segment, 7), count(&segment, 8)), (2, 0));
        segment.clear(two);
        assert_eq!(count(&segment, 7), 1);
        release(&segment, one, lease);
        // A cleared row has nothing left to give back.
        release(&segment, one, lease);
        assert_eq!(count(&segment, 7), 0);
    }

    #[test]
    fn slots_in_use_keep_their_keys_and_others_are_given_away() {
        let segment = Segment::new(1).unwrap();
        let worker = segment.worker(0).unwrap();
        // All in one set.
        for key in 1..=KEYS as u64 {
            take(&segment, worker, key, 9, 1).unwrap();
        }
        let uncounted = take(&segment, worker, 100, 1, 1).unwrap();
        assert_eq!((uncounted, count(&segment, 100)), (Lease(None), 0));
        let slot = find(&segment, 3).unwrap();
        release(&segment, worker, Lease(Some(slot as u16)));
        let counted = take(&segment, worker, 101, 1, 1).unwrap();
        assert_eq!(counted, Lease(Some(slot as u16)));
        assert_eq!(
            (count(&segment, 3), count(&segment, 101), count(&segment, 4)),
            (0, 1, 1)
        );
    }

    /// Threads of several workers take and release as fast as they can while keys come and go: never more than the
    /// limit.
    #[test]
    fn threads_never_run_more_than_the_limit() {
        let segment = Arc::new(Segment::new(4).unwrap());
        let held = [const { AtomicI64::new(0) }; 40];
        let most = AtomicI64::new(0);
        std::thread::scope(|scope| {
            for number in 0..4 {
                let (segment, held, most) = (&segment, &held, &most);
                scope.spawn(move || {
                    let worker = segment.worker(number).unwrap();
                    for step in 0..40_000_usize {
                        // More keys than the slots of their set.
                        let key = (step * (number + 1)) % held.len();
                        if let Ok(lease) = take(segment, worker, key as u64 + 1, 3, 1) {
                            if lease != Lease(None) {
                                let now = held[key].fetch_add(1, Ordering::SeqCst) + 1;
                                most.fetch_max(now, Ordering::SeqCst);
                                std::hint::spin_loop();
                                held[key].fetch_sub(1, Ordering::SeqCst);
                            }
                            release(segment, worker, lease);
                        }
                    }
                });
            }
        });
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)), "{most:?}");
        assert!((0..SLOTS).all(|slot| running(&segment, slot) == 0));
    }
}
