//! The queues of exchanges that wait for an upstream.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Results of the exchanges that waited in a queue, over all workers.
#[repr(C, align(64))]
pub(crate) struct SharedCounts {
    pub(crate) joined: AtomicU64,
    pub(crate) served: AtomicU64,
    pub(crate) timed_out: AtomicU64,
    pub(crate) gone: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) waited_ns: AtomicU64,
}

/// One worker's part of a queue.
#[repr(C)]
pub(crate) struct Waiting {
    /// The start of the first exchange's wait; 0: nothing waits.
    pub(crate) since_ns: AtomicU64,
    pub(crate) depth: AtomicU32,
}

impl Waiting {
    pub(crate) fn clear(&self) {
        self.since_ns.store(0, Ordering::Relaxed);
        self.depth.store(0, Ordering::Relaxed);
    }
}
