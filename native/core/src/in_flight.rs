//! In-flight counts per upstream: each worker counts its own exchanges, and a limit holds over all workers.
//!
//! The limit is exact: a worker first adds its exchange, then sums all rows, and takes the exchange out again when the
//! sum is too high. Among the exchanges counted at any time, the last one added has seen all the others, so there are
//! never more than the limit. Workers that race for the last permit may all withdraw; they try again, each after a
//! pause of a different length.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::segment::{Segment, UpstreamSlot, Worker};

// The number of tries for a last permit that other workers compete for.
const RACES: u32 = 6;

/// The in-flight count over all workers.
#[inline]
pub(crate) fn load(segment: &Segment, slot: UpstreamSlot) -> u64 {
    sum(segment, slot, Ordering::Relaxed)
}

/// Counts an exchange in; false when that would exceed `limit` (0: unlimited).
#[inline]
pub(crate) fn enter(segment: &Segment, worker: Worker, slot: UpstreamSlot, limit: u32) -> bool {
    if limit == 0 {
        own(segment, worker, slot).fetch_add(1, Ordering::Relaxed);
        return true;
    }
    enter_bounded(segment, worker, slot, u64::from(limit))
}

/// Counts an exchange out.
#[inline]
pub(crate) fn leave(segment: &Segment, worker: Worker, slot: UpstreamSlot) {
    // Not below zero: the row may have been cleared.
    let _ = own(segment, worker, slot).fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
}

/// Adds first and sums afterwards, sequentially consistent, so that all workers agree on the order.
fn enter_bounded(segment: &Segment, worker: Worker, slot: UpstreamSlot, limit: u64) -> bool {
    for race in 0..RACES {
        own(segment, worker, slot).fetch_add(1, Ordering::SeqCst);
        if sum(segment, slot, Ordering::SeqCst) <= limit {
            return true;
        }
        leave(segment, worker, slot);
        // A worker with a longer pause leaves the permit to the others.
        for _ in 0..worker.index() << race {
            std::hint::spin_loop();
        }
        if load(segment, slot) >= limit {
            return false;
        }
    }
    false
}

#[inline]
fn sum(segment: &Segment, slot: UpstreamSlot, order: Ordering) -> u64 {
    let rows = segment.rows().iter();
    rows.map(|row| u64::from(row.in_flight[slot.get()].load(order))).sum()
}

#[inline]
fn own(segment: &Segment, worker: Worker, slot: UpstreamSlot) -> &AtomicU32 {
    &segment.row(worker).in_flight[slot.get()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_counts_all_workers_and_forgets_the_dead() {
        let segment = Segment::new(2).unwrap();
        let slot = segment.upstream("http://a").unwrap();
        let (one, two) = (segment.worker(0).unwrap(), segment.worker(1).unwrap());
        let enters = |worker| enter(&segment, worker, slot, 2);
        assert_eq!(
            [enters(one), enters(two), enters(one), enters(two)],
            [true, true, false, false]
        );
        // Without a limit, nobody is refused.
        assert!(enter(&segment, one, slot, 0));
        assert_eq!(load(&segment, slot), 3);
        leave(&segment, one, slot);
        leave(&segment, two, slot);
        assert!(enters(one) && !enters(two));
        segment.clear(one);
        assert!(enters(two) && enters(two) && !enters(one));
        // The release of a dead worker, too late.
        leave(&segment, one, slot);
        assert_eq!(load(&segment, slot), 2);
    }
}
