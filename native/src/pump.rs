//! The pump.

use std::sync::{Mutex, MutexGuard, PoisonError};

use budgateway_core::pump as core;
use budgateway_core::sse::{self, Usage};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::{Class, Error};

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct BodyPump {
    inner: Mutex<State>,
}

struct State {
    pump: core::Pump,
    end: isize,
}

#[pymethods]
impl BodyPump {
    #[new]
    #[pyo3(signature = (unframe, frame, scan, model = None, /))]
    fn new(unframe: bool, frame: bool, scan: u8, model: Option<&str>) -> Self {
        let (document, events) = (scan == SCAN_DOCUMENT, scan == SCAN_EVENTS);
        let scanner = (document || events).then(|| sse::UsageScanner::new(events));
        let rewriter = model.map(|model| sse::ModelRewriter::new(events, model));
        Self {
            inner: Mutex::new(State {
                pump: core::Pump::new(unframe, frame, scanner, rewriter),
                end: -1,
            }),
        }
    }

    #[pyo3(signature = (data, /))]
    fn feed<'py>(&self, py: Python<'py>, data: &Bound<'py, PyBytes>) -> Result<Option<Bound<'py, PyBytes>>, Error> {
        let mut state = self.state();
        let bytes = data.as_bytes();
        let fed = state
            .pump
            .feed(bytes)
            .map_err(|error| Error::gateway(Class::UpstreamProtocolError, error.to_string()))?;
        state.end = fed.end.map_or(-1, |end| end as isize);
        if fed.is_verbatim(bytes) {
            return Ok(Some(data.clone()));
        }
        match fed.framed_size() {
            0 => Ok(None),
            size => Ok(Some(PyBytes::new_with(py, size, |into| {
                fed.write(bytes, into);
                Ok(())
            })?)),
        }
    }

    fn finish<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.state().pump.finish())
    }

    #[getter]
    fn end(&self) -> isize {
        self.state().end
    }

    #[getter]
    fn between_events(&self) -> bool {
        self.state().pump.is_between_events()
    }

    #[getter]
    fn passed(&self) -> u64 {
        self.state().pump.passed()
    }
}

/// What to look for: a JSON document's usage.
pub(crate) const SCAN_DOCUMENT: u8 = 1;
/// An event stream's.
pub(crate) const SCAN_EVENTS: u8 = 2;

impl BodyPump {
    pub(crate) fn usage(&self) -> Option<Usage> {
        self.state().pump.usage()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
