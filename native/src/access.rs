//! Bindings of `core::access`: the access log.

use std::sync::{Mutex, MutexGuard, PoisonError};

use budgateway_core::access as core;
use budgateway_core::segment::LabelId;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::head::RequestHead;
use crate::metrics::outcome_of;
use crate::segment::Segment;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct AccessLog {
    inner: Mutex<core::AccessLog>,
}

#[pymethods]
impl AccessLog {
    #[new]
    #[pyo3(signature = (segment, capacity_bytes = 1 << 20))]
    fn new(segment: &Segment, capacity_bytes: usize) -> Self {
        Self {
            inner: Mutex::new(core::AccessLog::new(segment.inner.clone(), capacity_bytes)),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one crossing an exchange, no object for it")]
    fn append(
        &self,
        py: Python<'_>,
        unix_ms: i64,
        head: Option<&RequestHead>,
        request_id: &Bound<'_, PyString>,
        client: &Bound<'_, PyString>,
        principal: &Bound<'_, PyString>,
        route: u32,
        provider: u32,
        upstream: &Bound<'_, PyString>,
        model: &Bound<'_, PyString>,
        status: i64,
        outcome: usize,
        error: &Bound<'_, PyString>,
        attempts: i64,
        stream: bool,
        bytes_in: i64,
        bytes_out: i64,
        duration_ns: i64,
        overhead_ns: i64,
        first_byte_ns: i64,
        tokens_in: i64,
        tokens_out: i64,
        tokens_cached: i64,
    ) -> usize {
        let (method, path): (&[u8], &[u8]) = head.map_or((b"", b""), |head| {
            let (head, bytes) = head.core(py);
            (head.method(bytes), head.path(bytes))
        });
        // Lossy: a log line must never fail an exchange.
        let [request_id, client, principal, upstream, model, error] =
            [request_id, client, principal, upstream, model, error].map(|text| text.to_string_lossy());
        self.lines().append(&core::Line {
            unix_ms,
            request_id: &request_id,
            client: &client,
            principal: &principal,
            method,
            path,
            status,
            outcome: outcome_of(outcome),
            error: &error,
            route: LabelId::new(route),
            provider: LabelId::new(provider),
            upstream: &upstream,
            model: &model,
            stream,
            attempts,
            bytes_in,
            bytes_out,
            duration_ns,
            overhead_ns,
            first_byte_ns,
            tokens_in,
            tokens_out,
            tokens_cached,
            tokens_reasoning: -1,
            cost_micros: -1,
            is_estimated: false,
        })
    }

    fn drain<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let lines = self.lines().drain();
        let block = PyBytes::new(py, &lines);
        self.lines().recycle(lines);
        block
    }

    #[getter]
    fn dropped(&self) -> u64 {
        self.lines().dropped()
    }
}

impl AccessLog {
    pub(crate) fn lines(&self) -> MutexGuard<'_, core::AccessLog> {
        // A panic leaves at most half a line behind.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
