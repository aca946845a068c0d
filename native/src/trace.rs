//! Bindings of `core::trace`: sampling, and the records of traced exchanges.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use budgateway_core::head as core_head;
use budgateway_core::trace as core_trace;
use budgateway_core::tracer as core;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::Error;
use crate::head::{HeadEdits, RequestHead, now_ns};
use crate::segment::Segment;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Tracer {
    inner: Arc<Mutex<core::Tracer>>,
}

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Trace {
    inner: Mutex<core_trace::Trace>,
    tracer: Arc<Mutex<core::Tracer>>,
}

#[pymethods]
impl Tracer {
    #[new]
    #[pyo3(signature = (
        segment, seed, *, ratio, parent, keep_errors, keep_slower_than_ns, max_per_second, keeps_all, propagates,
        capacity_bytes = 4 << 20
    ))]
    #[allow(clippy::too_many_arguments, reason = "keywords, once a worker")]
    fn new(
        segment: &Segment,
        seed: [u64; 2],
        ratio: f64,
        parent: &str,
        keep_errors: bool,
        keep_slower_than_ns: u64,
        max_per_second: f64,
        keeps_all: bool,
        propagates: bool,
        capacity_bytes: usize,
    ) -> Result<Self, Error> {
        let parent = match parent {
            "follow" => core::ParentRule::Follow,
            "link" => core::ParentRule::Link,
            "ignore" => core::ParentRule::Ignore,
            _ => return Err(Error::value("parent is follow, link or ignore")),
        };
        let sampling = core::Sampling {
            ratio,
            parent,
            keep_errors,
            slow_ns: keep_slower_than_ns,
            max_per_second,
            keeps_all,
            propagates,
        };
        let tracer = core::Tracer::new(segment.inner.clone(), sampling, seed, capacity_bytes);
        Ok(Self {
            inner: Arc::new(Mutex::new(tracer)),
        })
    }

    #[pyo3(signature = (head, /))]
    fn decide(&self, py: Python<'_>, head: &RequestHead) -> Option<Trace> {
        let (head, bytes) = head.core(py);
        let trace = locked(&self.inner).decide(head, bytes, now_ns().unsigned_abs())?;
        Some(self.trace(trace))
    }

    fn late(&self) -> Trace {
        self.trace(core::Tracer::late())
    }

    fn drain<'py>(&self, py: Python<'py>) -> (Bound<'py, PyBytes>, u64, u64) {
        let drained = locked(&self.inner).drain();
        (PyBytes::new(py, &drained.records), drained.kept, drained.dropped)
    }
}

impl Tracer {
    /// The tracer, as ledger and fast path use it.
    pub(crate) fn shared(&self) -> Arc<Mutex<core::Tracer>> {
        self.inner.clone()
    }

    fn trace(&self, trace: core_trace::Trace) -> Trace {
        Trace {
            inner: Mutex::new(trace),
            tracer: self.inner.clone(),
        }
    }
}

#[pymethods]
impl Trace {
    #[getter]
    fn trace_id(&self) -> String {
        format!("{:032x}", self.lock().trace_id())
    }

    #[getter]
    fn is_sampled(&self) -> bool {
        self.lock().is_sampled()
    }

    #[pyo3(signature = (upstream, began_ns, is_reused, /))]
    fn begin(&self, upstream: &str, began_ns: u64, is_reused: bool) -> usize {
        let span = locked(&self.tracer).span_id();
        self.lock().begin(span, upstream, began_ns, is_reused)
    }

    #[pyo3(signature = (number, edits, /))]
    fn edits(&self, number: usize, edits: Option<&HeadEdits>) -> Result<Option<HeadEdits>, Error> {
        let trace = self.lock();
        let edits = edits.map_or_else(core_head::HeadEdits::default, |edits| edits.inner.clone());
        let Some(parent) = trace.traceparent(number) else {
            return Ok(None);
        };
        let state = trace.tracestate();
        let state = state.as_deref().map(|state| ("tracestate", state));
        let lines: Vec<(&str, &str)> = [Some(("traceparent", parent.as_str())), state]
            .into_iter()
            .flatten()
            .collect();
        let inner = edits
            .with_lines(&lines)
            .map_err(|error| Error::value(error.to_string()))?;
        Ok(Some(HeadEdits { inner }))
    }

    #[pyo3(signature = (number, now_ns, /))]
    fn sent(&self, number: usize, now_ns: u64) {
        self.lock().sent(number, now_ns);
    }

    #[pyo3(signature = (number, now_ns, status, reason, /))]
    fn failed(&self, number: usize, now_ns: u64, status: u16, reason: u8) {
        self.lock().failed(number, now_ns, status, reason);
    }

    #[pyo3(signature = (kind, at_ns, /))]
    fn note(&self, kind: u8, at_ns: u64) {
        self.lock().note(kind, at_ns);
    }

    #[getter]
    fn notes(&self) -> Vec<(u8, u64)> {
        self.lock().notes().collect()
    }

    #[getter]
    fn attempts(&self) -> Vec<(String, u64, u64, u64, u16, u8)> {
        let trace = self.lock();
        let attempts = trace.attempts().iter();
        attempts
            .map(|one| {
                let upstream = one.upstream.to_string();
                (
                    upstream,
                    one.began_ns,
                    one.sent_ns,
                    one.ended_ns,
                    one.status,
                    one.reason,
                )
            })
            .collect()
    }

    #[getter]
    fn last_sent(&self) -> (u64, u64) {
        self.lock().last_sent()
    }
}

impl Trace {
    pub(crate) fn lock(&self) -> MutexGuard<'_, core_trace::Trace> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A panic leaves at most a wrong count behind.
pub(crate) fn locked(tracer: &Mutex<core::Tracer>) -> MutexGuard<'_, core::Tracer> {
    tracer.lock().unwrap_or_else(PoisonError::into_inner)
}
