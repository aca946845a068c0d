//! Bindings of `core::frame`: WebSocket frames.

use std::sync::{Mutex, MutexGuard, PoisonError};

use budgateway_core::frame::{self as core, FrameError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct FrameScanner {
    inner: Mutex<core::FrameScanner>,
}

#[pymethods]
impl FrameScanner {
    #[new]
    #[pyo3(signature = (masked, compressed, max_message_bytes, /))]
    fn new(masked: bool, compressed: bool, max_message_bytes: u64) -> Self {
        Self {
            inner: Mutex::new(core::FrameScanner::new(masked, compressed, max_message_bytes)),
        }
    }

    #[pyo3(signature = (data, /))]
    fn feed<'py>(&self, data: Bound<'py, PyBytes>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let mut scanner = self.scanner();
        let bytes = data.as_bytes();
        let passed = scanner.feed(bytes);
        if passed.carried == 0 {
            if passed.end == bytes.len() {
                drop(scanner);
                return Ok((!data.as_bytes().is_empty()).then_some(data));
            }
            if passed.end == 0 {
                return Ok(None);
            }
        }
        let new = bytes.get(..passed.end).unwrap_or_default();
        let out = PyBytes::new_with(data.py(), passed.carried + new.len(), |out| {
            let (first, second) = out.split_at_mut(passed.carried);
            first.copy_from_slice(scanner.carried(passed));
            second.copy_from_slice(new);
            Ok(())
        })?;
        Ok(Some(out))
    }

    #[getter]
    fn ended(&self) -> u16 {
        let scanner = self.scanner();
        scanner
            .close_code()
            .or(scanner.error().map(FrameError::close_code))
            .unwrap_or(0)
    }

    #[getter]
    fn error(&self) -> Option<String> {
        self.scanner().error().map(|error| error.to_string())
    }

    #[getter]
    fn between_frames(&self) -> bool {
        self.scanner().between_frames()
    }

    #[getter]
    fn frames(&self) -> u64 {
        self.scanner().frames()
    }
}

impl FrameScanner {
    fn scanner(&self) -> MutexGuard<'_, core::FrameScanner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
