//! Bindings of `core::chunk`: chunked framing.

use std::sync::{Mutex, MutexGuard, PoisonError};

use budgateway_core::chunk as core;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::{Class, Error};

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct ChunkScanner {
    inner: Mutex<State>,
    violation: Class,
}

struct State {
    scanner: core::ChunkScanner,
    body: Vec<u8>,
}

#[pymethods]
impl ChunkScanner {
    #[new]
    #[pyo3(signature = (upstream = false))]
    fn new(upstream: bool) -> Self {
        let violation = if upstream {
            Class::UpstreamProtocolError
        } else {
            Class::BadRequest
        };
        Self {
            inner: Mutex::new(State {
                scanner: core::ChunkScanner::new(),
                body: Vec::new(),
            }),
            violation,
        }
    }

    #[pyo3(signature = (data, start = 0))]
    fn feed(&self, data: &[u8], start: usize) -> Result<isize, Error> {
        let mut state = self.state();
        let State { scanner, body } = &mut *state;
        let data = data.get(start..).unwrap_or_default();
        match scanner.feed_with(data, |from, to| body.extend_from_slice(&data[from..to])) {
            Ok(Some(end)) => Ok((start + end) as isize),
            Ok(None) => Ok(-1),
            Err(error) => Err(Error::gateway(self.violation, error.to_string())),
        }
    }

    fn take<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &std::mem::take(&mut self.state().body))
    }
}

impl ChunkScanner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
