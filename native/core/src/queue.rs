//! Queues of exchanges that wait for an upstream: depths, the longest wait, and results.
//!
//! The exchanges themselves wait in their worker. Each worker shares its depth and the start of its first exchange's
//! wait, so that a freed slot goes to the exchange that has waited longest, whichever worker holds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::segment::layout::{Row, SharedCounts, Waiting};
use crate::segment::{GAUGE_TICK, Segment, SegmentError, Worker};

/// The silence after which a worker is skipped: its exchanges cannot move.
pub const SILENT_NS: u64 = 1_000_000_000;

/// The end of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// An upstream had room.
    Served,
    /// The wait took too long.
    TimedOut,
    /// The client left, or no upstream is left to wait for.
    Gone,
}

/// Results of all workers since the segment was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Exchanges that had to wait.
    pub joined: u64,
    /// Exchanges that got an upstream.
    pub served: u64,
    /// Exchanges that waited too long.
    pub timed_out: u64,
    /// Exchanges whose client left.
    pub gone: u64,
    /// Exchanges refused because the queue was full.
    pub refused: u64,
    /// The total wait of the served exchanges, in nanoseconds.
    pub waited_ns: u64,
}

/// One queue, by name, as seen from one worker.
#[derive(Debug)]
pub struct Queue {
    segment: Arc<Segment>,
    worker: Worker,
    index: usize,
}

impl Queue {
    /// The queue of that name, created on first use and kept.
    pub fn new(segment: Arc<Segment>, worker: usize, name: &str) -> Result<Self, SegmentError> {
        Ok(Self {
            worker: segment.worker(worker)?,
            index: segment.queue(name)?,
            segment,
        })
    }

    /// Counts an exchange in, unless `limit` wait already over all workers. Exact, like the limits of `select`.
    pub fn join(&self, limit: u32) -> bool {
        let counts = self.shared();
        let own = &self.own().depth;
        own.fetch_add(1, Ordering::SeqCst);
        if self.depth() > u64::from(limit) {
            decrease(own);
            counts.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        counts.joined.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Counts an exchange out.
    pub fn leave(&self, ending: Ending, waited_ns: u64) {
        let counts = self.shared();
        decrease(&self.own().depth);
        let count = match ending {
            Ending::Served => &counts.served,
            Ending::TimedOut => &counts.timed_out,
            Ending::Gone => &counts.gone,
        };
        count.fetch_add(1, Ordering::Relaxed);
        if ending == Ending::Served {
            counts.waited_ns.fetch_add(waited_ns, Ordering::Relaxed);
        }
    }

    /// Publishes the start of this worker's longest wait; 0 when nothing waits.
    pub fn say_first(&self, since_ns: u64) {
        self.own().since_ns.store(since_ns, Ordering::SeqCst);
    }

    /// The other worker with the longest wait, if that began before `since_ns` (0: any). Of two that began together,
    /// the lower row goes first.
    #[must_use]
    pub fn elder(&self, since_ns: u64, now_ns: u64) -> Option<usize> {
        let own = if since_ns == 0 { u64::MAX } else { since_ns };
        self.segment
            .rows()
            .iter()
            .enumerate()
            .map(|(number, row)| (self.waits_since(row), number))
            .filter(|&(since, number)| since != 0 && number != self.worker.index())
            .filter(|&(_, number)| self.speaks(number, now_ns))
            .min()
            .filter(|&oldest| oldest < (own, self.worker.index()))
            .map(|(_, number)| number)
    }

    /// The depth over all workers.
    #[must_use]
    pub fn depth(&self) -> u64 {
        depth(&self.segment, self.index)
    }

    fn waits_since(&self, row: &Row) -> u64 {
        row.queues[self.index].since_ns.load(Ordering::SeqCst)
    }

    fn speaks(&self, row: usize, now_ns: u64) -> bool {
        let tick = self.segment.rows()[row].gauges[GAUGE_TICK].load(Ordering::Relaxed);
        now_ns.saturating_sub(tick.unsigned_abs()) < SILENT_NS
    }

    fn own(&self) -> &Waiting {
        &self.segment.row(self.worker).queues[self.index]
    }

    fn shared(&self) -> &SharedCounts {
        &self.segment.layout().queue_counts[self.index]
    }
}

/// Every queue: its name, its depth, and its counts.
#[must_use]
pub fn collect(segment: &Segment) -> Vec<(String, u64, Counts)> {
    let of = |(index, name): (usize, String)| {
        let shared = &segment.layout().queue_counts[index];
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = Counts {
            joined: load(&shared.joined),
            served: load(&shared.served),
            timed_out: load(&shared.timed_out),
            gone: load(&shared.gone),
            refused: load(&shared.refused),
            waited_ns: load(&shared.waited_ns),
        };
        (name, depth(segment, index), counts)
    };
    segment.queues().into_iter().map(of).collect()
}

fn depth(segment: &Segment, index: usize) -> u64 {
    let rows = segment.rows().iter();
    rows.map(|row| u64::from(row.queues[index].depth.load(Ordering::SeqCst)))
        .sum()
}

fn decrease(count: &AtomicU32) {
    // Not below zero: the row may have been cleared.
    let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 10_000_000_000;

    fn queues(workers: usize) -> Vec<Queue> {
        let segment = Arc::new(Segment::new(workers).unwrap());
        let speaking = |worker| {
            segment
                .add(segment.worker(worker).unwrap(), GAUGE_TICK, NOW as i64)
                .unwrap();
            Queue::new(segment.clone(), worker, "vllm").unwrap()
        };
        (0..workers).map(speaking).collect()
    }

    #[test]
    fn the_bound_is_over_all_workers() {
        let queues = queues(2);
        assert_eq!(
            [
                queues[0].join(2),
                queues[1].join(2),
                queues[0].join(2),
                queues[1].join(2)
            ],
            [true, true, false, false]
        );
        queues[0].leave(Ending::Served, 7);
        assert!(queues[1].join(2) && queues[1].depth() == 2);
        queues[1].leave(Ending::TimedOut, 9);
        queues[1].leave(Ending::Gone, 9);
        let (name, depth, counts) = collect(&queues[0].segment).remove(0);
        assert_eq!((name.as_str(), depth), ("vllm", 0));
        let expected = Counts {
            joined: 3,
            served: 1,
            timed_out: 1,
            gone: 1,
            refused: 2,
            waited_ns: 7,
        };
        assert_eq!(counts, expected);
    }

    #[test]
    fn the_longest_wait_goes_first_whoever_holds_it() {
        let queues = queues(3);
        assert_eq!(queues[0].elder(0, NOW), None);
        queues[1].say_first(50);
        queues[2].say_first(40);
        assert_eq!(queues[0].elder(0, NOW), Some(2));
        assert_eq!(
            [
                queues[0].elder(45, NOW),
                queues[0].elder(40, NOW),
                queues[2].elder(40, NOW)
            ],
            [Some(2), None, None]
        );
        assert_eq!(queues[1].elder(50, NOW), Some(2));
        // A silent worker is skipped.
        assert_eq!(queues[1].elder(50, NOW + SILENT_NS), None);
        queues[2].say_first(0);
        assert_eq!(queues[0].elder(0, NOW), Some(1));
    }

    #[test]
    fn the_dead_do_not_wait() {
        let queues = queues(2);
        assert!(queues[1].join(1));
        queues[1].say_first(5);
        let segment = &queues[0].segment;
        segment.clear(segment.worker(1).unwrap());
        assert_eq!((queues[0].depth(), queues[0].elder(0, NOW)), (0, None));
        assert!(queues[0].join(1));
    }
}
