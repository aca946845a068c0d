//! Bindings of `core::pump`: the body pump.

use std::sync::{Mutex, MutexGuard, PoisonError};

use budgateway_core::answer::Answer;
use budgateway_core::chunk::ChunkError;
use budgateway_core::pump as core;
use budgateway_core::sse::{self, First};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::redact::Redactor;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct BodyPump {
    inner: Mutex<State>,
}

struct State {
    pump: core::Pump,
    end: isize,
    fault: Option<ChunkError>,
}

#[pymethods]
impl BodyPump {
    #[new]
    #[pyo3(signature = (unframe, frame, scan, model = None, keeps_usage = false, redactor = None, only_errors = false, /))]
    fn new(
        unframe: bool,
        frame: bool,
        scan: u8,
        model: Option<&str>,
        keeps_usage: bool,
        redactor: Option<&Redactor>,
        only_errors: bool,
    ) -> Self {
        let (document, events) = (scan == SCAN_DOCUMENT, scan == SCAN_EVENTS);
        let scanner = (document || events).then(|| match keeps_usage {
            true => sse::UsageScanner::cutting_usage(events),
            false => sse::UsageScanner::new(events),
        });
        let rewriter = model.map(|model| sse::ModelRewriter::new(events, model));
        let mut pump = core::Pump::new(unframe, frame, scanner, rewriter);
        if let Some(redactor) = redactor {
            pump = pump.redacting(redactor.inner.clone(), only_errors);
        }
        Self {
            inner: Mutex::new(State {
                pump,
                end: -1,
                fault: None,
            }),
        }
    }

    #[pyo3(signature = (data, /))]
    fn feed<'py>(&self, py: Python<'py>, data: &Bound<'py, PyBytes>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let mut state = self.state();
        let bytes = data.as_bytes();
        let fed = state.pump.feed(bytes);
        state.end = fed.end.map_or(-1, |end| end as isize);
        if fed.fault.is_some() {
            state.end = BROKEN;
            state.fault = fed.fault;
        }
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
    fn fault(&self) -> Option<String> {
        self.state().fault.map(|fault| fault.to_string())
    }

    #[getter]
    fn between_events(&self) -> bool {
        self.state().pump.is_between_events()
    }

    #[getter]
    fn seen(&self) -> u8 {
        let state = self.state();
        let pump = &state.pump;
        let first = match pump.first() {
            First::Nothing => 0,
            First::Event => SEEN_EVENT,
            First::Promise => SEEN_EVENT | SEEN_PROMISE,
            First::Error => SEEN_EVENT | SEEN_ERROR_FIRST,
            First::Other => SEEN_EVENT | SEEN_OTHER_FIRST,
        };
        let whole = if pump.is_whole() { SEEN_END } else { 0 };
        let error = if pump.has_error() { SEEN_ERROR } else { 0 };
        first | whole | error | if pump.has_content() { SEEN_CONTENT } else { 0 }
    }

    #[getter]
    pub(crate) fn passed(&self) -> u64 {
        self.state().pump.passed()
    }
}

/// The end of a body with broken framing.
const BROKEN: isize = -2;

/// Scan for the usage of a JSON document.
pub(crate) const SCAN_DOCUMENT: u8 = 1;
/// Scan for the usage of an event stream.
pub(crate) const SCAN_EVENTS: u8 = 2;

/// Bits of a stream's observations: an event carried data.
pub(crate) const SEEN_EVENT: u8 = 1;
/// The first event was an error.
pub(crate) const SEEN_ERROR_FIRST: u8 = 2;
/// The first event was not a JSON object.
pub(crate) const SEEN_OTHER_FIRST: u8 = 4;
/// A terminator was seen, or the end of every choice that began.
pub(crate) const SEEN_END: u8 = 8;
/// An error event was seen anywhere.
pub(crate) const SEEN_ERROR: u8 = 16;
/// The first event belongs to an API whose streams mark their end.
pub(crate) const SEEN_PROMISE: u8 = 32;
/// An event carried content: text, reasoning or a tool call.
pub(crate) const SEEN_CONTENT: u8 = 64;

impl BodyPump {
    /// The facts about an answer that its body shows.
    pub(crate) fn answer(&self) -> Answer {
        let state = self.state();
        let pump = &state.pump;
        let is_terminated = pump.is_done();
        Answer {
            reported: pump.usage(),
            is_whole: is_terminated || pump.is_settled(),
            is_terminated,
            document_bytes: if pump.is_document() { pump.passed() } else { 0 },
            events: pump.events(),
            ..Answer::default()
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
