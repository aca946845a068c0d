//! Bindings of `core::access`: the access log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use budgateway_core::access as core;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::segment::Segment;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct AccessLog {
    inner: Arc<Mutex<core::AccessLog>>,
}

#[pymethods]
impl AccessLog {
    #[new]
    #[pyo3(signature = (segment, capacity_bytes = 1 << 20))]
    fn new(segment: &Segment, capacity_bytes: usize) -> Self {
        Self {
            inner: Arc::new(Mutex::new(core::AccessLog::new(segment.inner.clone(), capacity_bytes))),
        }
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
    /// The log, as the ledger writes to it.
    pub(crate) fn shared(&self) -> Arc<Mutex<core::AccessLog>> {
        self.inner.clone()
    }

    fn lines(&self) -> MutexGuard<'_, core::AccessLog> {
        // A panic leaves at most half a line behind.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
