//! The parser of record, for complete messages.
//!
//! Clients send the same head with every request but for a few values, and so do servers: a head that the parser accepted
//! before is not parsed again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use budgateway_core::head::{Field, HeadCache};
use budgateway_core::read_buffers::BUFFER_BYTES;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView, PySlice};

use crate::engine::sockets::Data;

/// An llhttp parser for one direction, which reads all messages of the fast path one after the other.
pub(super) struct Parser {
    make: Py<PyAny>,
    ended: Py<Ended>,
    feed: Mutex<Py<PyAny>>,
    filler: Filler,
    head_cache: Mutex<HeadCache>,
}

/// Stands for a body that would otherwise have to be copied into a Python object: a parser does not look at a body
/// whose length the head declares. No message begins like the filler, so a parser that believes the body to be shorter
/// fails.
struct Filler {
    most: Py<PyMemoryView>,
    /// The size that was requested last, and its slice.
    last: Mutex<(usize, Py<PyAny>)>,
}

/// Receives the parser's end-of-message event.
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
    /// `make` returns a parser (of httptools) that reports to its argument.
    pub(super) fn new(py: Python<'_>, make: Py<PyAny>) -> PyResult<Self> {
        let seen = AtomicBool::new(false);
        let ended = Py::new(py, Ended { seen })?;
        let feed = Mutex::new(fresh(py, &make, &ended)?);
        let filler = Filler::new(py)?;
        Ok(Self {
            make,
            ended,
            feed,
            filler,
            head_cache: Mutex::default(),
        })
    }

    /// True when the parser accepts `data` as exactly one message that keeps its connection open: a head of `size`
    /// bytes with these fields, and a body of the declared length.
    pub(super) fn is_whole(&self, py: Python<'_>, data: &Data, size: usize, fields: &[Field]) -> PyResult<bool> {
        let Some((head, body)) = data.bytes(py).split_at_checked(size) else {
            return Ok(false);
        };
        if !body.is_empty() && self.head_cache().contains(head, fields) {
            return Ok(true);
        }
        let is_whole = match data {
            Data::Bytes(bytes) => self.ends_with(bytes.bind(py)),
            Data::Buffer(_) => {
                let filler = self.filler.of(py, body.len())?;
                !self.ends_with(&PyBytes::new(py, head)) && self.ends_with(filler.bind(py))
            }
        };
        if is_whole {
            self.head_cache().insert(head, fields);
        } else {
            // After an error, the parser stopped in the middle of a message; replace it.
            let fresh = fresh(py, &self.make, &self.ended)?;
            let former = std::mem::replace(&mut *self.feed(), fresh);
            drop(former);
            self.ended.get().seen.store(false, Ordering::Relaxed);
        }
        Ok(is_whole)
    }

    /// True when these bytes complete a message.
    fn ends_with(&self, bytes: &Bound<'_, PyAny>) -> bool {
        let feed = self.feed().clone_ref(bytes.py());
        let fed = feed.call1(bytes.py(), (bytes,));
        self.ended.get().seen.swap(false, Ordering::Relaxed) && fed.is_ok()
    }

    fn head_cache(&self) -> MutexGuard<'_, HeadCache> {
        self.head_cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn feed(&self) -> MutexGuard<'_, Py<PyAny>> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Filler {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let bytes = PyBytes::new_with(py, BUFFER_BYTES, |_| Ok(()))?;
        let most = PyMemoryView::from(&bytes)?;
        let last = Mutex::new((BUFFER_BYTES, most.clone().into_any().unbind()));
        let most = most.unbind();
        Ok(Self { most, last })
    }

    fn of(&self, py: Python<'_>, size: usize) -> PyResult<Py<PyAny>> {
        if let (last, filler) = &*self.last()
            && *last == size
        {
            return Ok(filler.clone_ref(py));
        }
        let filler = self.most.bind(py).get_item(PySlice::new(py, 0, size as isize, 1))?;
        let former = std::mem::replace(&mut *self.last(), (size, filler.clone().unbind()));
        drop(former);
        Ok(filler.unbind())
    }

    fn last(&self) -> MutexGuard<'_, (usize, Py<PyAny>)> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fresh(py: Python<'_>, make: &Py<PyAny>, ended: &Py<Ended>) -> PyResult<Py<PyAny>> {
    make.call1(py, (ended,))?.getattr(py, "feed_data")
}
