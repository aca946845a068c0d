//! The parser of record, for messages that are whole.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// llhttp, of one direction: it reads all of an express' messages, one after the other.
pub(super) struct Parser {
    make: Py<PyAny>,
    ended: Py<Ended>,
    feed: Mutex<Py<PyAny>>,
}

/// Hears of a message's end.
#[pyclass(frozen, module = "budgateway._native")]
struct Ended {
    seen: AtomicBool,
}

#[pymethods]
impl Ended {
    fn on_message_complete(&self) {
        self.seen.store(true, Ordering::Relaxed);
    }
}

impl Parser {
    /// `make` gives a parser (of httptools) that reports to its argument.
    pub(super) fn new(py: Python<'_>, make: Py<PyAny>) -> PyResult<Self> {
        let seen = AtomicBool::new(false);
        let ended = Py::new(py, Ended { seen })?;
        let feed = Mutex::new(fresh(py, &make, &ended)?);
        Ok(Self { make, ended, feed })
    }

    /// Whether it takes `data` for one message that keeps its connection open, and no more than that.
    pub(super) fn is_whole(&self, data: &Bound<'_, PyBytes>) -> PyResult<bool> {
        let py = data.py();
        let feed = self.feed().clone_ref(py);
        let fed = feed.call1(py, (data,));
        if fed.is_ok() && self.ended.get().seen.swap(false, Ordering::Relaxed) {
            return Ok(true);
        }
        // It stands in the middle of what it did not like.
        let fresh = fresh(py, &self.make, &self.ended)?;
        let former = std::mem::replace(&mut *self.feed(), fresh);
        drop(former);
        self.ended.get().seen.store(false, Ordering::Relaxed);
        Ok(false)
    }

    fn feed(&self) -> MutexGuard<'_, Py<PyAny>> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fresh(py: Python<'_>, make: &Py<PyAny>, ended: &Py<Ended>) -> PyResult<Py<PyAny>> {
    make.call1(py, (ended,))?.getattr(py, "feed_data")
}
