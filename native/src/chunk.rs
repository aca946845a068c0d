//! Chunked framing.

use std::sync::{Mutex, PoisonError};

use budgateway_core::chunk as core;
use pyo3::prelude::*;

use crate::error::{Class, Error};

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct ChunkScanner {
    inner: Mutex<core::ChunkScanner>,
    violation: Class,
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
            inner: Mutex::new(core::ChunkScanner::new()),
            violation,
        }
    }

    #[pyo3(signature = (data, start = 0))]
    fn feed(&self, data: &[u8], start: usize) -> Result<isize, Error> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match inner.feed(data.get(start..).unwrap_or_default()) {
            Ok(Some(end)) => Ok((start + end) as isize),
            Ok(None) => Ok(-1),
            Err(error) => Err(Error::gateway(self.violation, error.to_string())),
        }
    }
}
