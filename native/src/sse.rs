//! Bindings of `core::sse`: `UsageScanner` and `ModelRewriter`.

use std::sync::{Mutex, PoisonError};

use budgateway_core::sse;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct UsageScanner {
    inner: Mutex<sse::UsageScanner>,
}

impl UsageScanner {
    fn with<T>(&self, f: impl FnOnce(&mut sse::UsageScanner) -> T) -> T {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[pymethods]
impl UsageScanner {
    #[new]
    fn new(sse: bool) -> Self {
        Self {
            inner: Mutex::new(sse::UsageScanner::new(sse)),
        }
    }

    fn feed(&self, data: &[u8]) -> usize {
        self.with(|scanner| scanner.feed(data))
    }

    #[getter]
    fn usage(&self) -> Option<(u64, u64, u64, u64)> {
        let usage = self.with(|scanner| scanner.usage())?;
        Some((
            usage.tokens_in,
            usage.tokens_out,
            usage.tokens_cached,
            usage.tokens_reasoning,
        ))
    }

    #[getter]
    fn done(&self) -> bool {
        self.with(|scanner| scanner.done())
    }

    #[getter]
    fn error(&self) -> bool {
        self.with(|scanner| scanner.error())
    }
}

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct ModelRewriter {
    inner: Mutex<sse::ModelRewriter>,
}

#[pymethods]
impl ModelRewriter {
    #[new]
    fn new(sse: bool, model: &str) -> Self {
        Self {
            inner: Mutex::new(sse::ModelRewriter::new(sse, model)),
        }
    }

    fn feed<'py>(&self, py: Python<'py>, data: &[u8]) -> Bound<'py, PyBytes> {
        let mut rewriter = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        PyBytes::new(py, rewriter.feed(data))
    }

    fn finish<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let mut rewriter = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        PyBytes::new(py, &rewriter.finish())
    }
}
