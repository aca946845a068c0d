//! Bindings of `core::queue`: queues of exchanges that wait for an upstream.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use budgateway_core::queue as core;
use pyo3::prelude::*;

use crate::error::Error;
use crate::number::Unsigned;
use crate::segment::Segment;

pub(crate) const WAIT_SERVED: u8 = 0;
pub(crate) const WAIT_TIMED_OUT: u8 = 1;
pub(crate) const WAIT_GONE: u8 = 2;

/// The number of requests that wait for a lease in this worker: the queue counts them, and the fast path looks.
#[pyclass(frozen, module = "budgateway._native")]
#[derive(Default)]
pub(crate) struct WaitingCount {
    count: AtomicUsize,
}

#[pymethods]
impl WaitingCount {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    #[pyo3(signature = (count, /))]
    fn set(&self, count: usize) {
        self.count.store(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Queue {
    pub(crate) inner: core::Queue,
    /// Its provider has more queues, for the same upstreams.
    has_siblings: AtomicBool,
}

type Row = (String, u64, u64, u64, u64, u64, u64, f64);

#[pymethods]
impl Queue {
    #[new]
    fn new(segment: &Segment, worker: usize, name: &str) -> Result<Self, Error> {
        Ok(Self {
            inner: core::Queue::new(segment.inner.clone(), worker, name)?,
            has_siblings: AtomicBool::new(false),
        })
    }

    /// Tells that its provider has more queues from now on.
    fn add_sibling(&self) {
        self.has_siblings.store(true, Ordering::Relaxed);
    }

    fn join(&self, limit: u32) -> bool {
        self.inner.join(limit)
    }

    fn leave(&self, ending: i64, waited_ns: Unsigned) -> Result<(), Error> {
        const SERVED: i64 = WAIT_SERVED as i64;
        const TIMED_OUT: i64 = WAIT_TIMED_OUT as i64;
        const GONE: i64 = WAIT_GONE as i64;
        let ending = match ending {
            SERVED => core::Ending::Served,
            TIMED_OUT => core::Ending::TimedOut,
            GONE => core::Ending::Gone,
            unknown => return Err(Error::value(format!("ending {unknown} is none of WAIT_*"))),
        };
        self.inner.leave(ending, waited_ns.0);
        Ok(())
    }

    fn say_first(&self, since_ns: Unsigned) {
        self.inner.say_first(since_ns.0);
    }

    fn elder(&self, since_ns: Unsigned, now_ns: Unsigned) -> isize {
        self.inner.elder(since_ns.0, now_ns.0).map_or(-1, |row| row as isize)
    }

    #[getter]
    fn depth(&self) -> u64 {
        self.inner.depth()
    }

    #[staticmethod]
    fn collect(segment: &Segment) -> Vec<Row> {
        core::collect(&segment.inner)
            .into_iter()
            .map(|(name, depth, counts)| {
                let waited_s = counts.waited_ns as f64 / 1e9;
                (
                    name,
                    depth,
                    counts.joined,
                    counts.served,
                    counts.timed_out,
                    counts.gone,
                    counts.refused,
                    waited_s,
                )
            })
            .collect()
    }
}

impl Queue {
    /// True when a freed slot may be wanted: an exchange waits here, in any worker, or may wait in another queue.
    pub(crate) fn is_wanted(&self) -> bool {
        self.has_siblings.load(Ordering::Relaxed) || self.inner.depth() > 0
    }
}
