//! Bindings of `core::ledger`: the record of each ended exchange, entered in one call.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use budgateway_core::answer::Answer;
use budgateway_core::entry::Entry;
use budgateway_core::head as head_core;
use budgateway_core::ledger::{self as core, consumers};
use budgateway_core::segment::LabelId;
use budgateway_core::sse::usage_of_document;
use budgateway_core::tracer as trace_core;
use pyo3::buffer::PyBuffer;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};

use crate::access::AccessLog;
use crate::error::Error;
use crate::head::{RequestHead, ResponseHead};
use crate::limits::{Price, Reservation};
use crate::metrics::{outcome_of, unknown_outcome};
use crate::pump::BodyPump;
use crate::segment::Segment;
use crate::trace::{Trace, Tracer, locked};

/// Names the cells of the row, in their order.
macro_rules! cells {
    ($($name:ident)*) => {
        const CELLS: &[&str] = &[$(stringify!($name)),*];

        /// The numbers of one exchange, as `record_cy.py` writes them.
        #[derive(Clone, Copy)]
        struct Numbers {
            $($name: i64),*
        }

        impl Numbers {
            fn of([$($name),*]: [i64; CELLS.len()]) -> Self {
                Self { $($name),* }
            }
        }
    };
}

cells! {
    route provider model_label status outcome attempts retries is_stream is_asked bytes_in bytes_out
    started_ns first_ns ended_ns overhead_ns
}

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Ledger {
    epoch_ns: i64,
    row: PyBuffer<i64>,
    inner: Mutex<core::Ledger>,
    tracer: Mutex<Option<Arc<Mutex<trace_core::Tracer>>>>,
    /// True while there is a tracer: spares the fast path a lock.
    traces: AtomicBool,
}

#[pymethods]
impl Ledger {
    #[new]
    #[pyo3(signature = (segment, row, *, access = None, epoch_ns = 0))]
    fn new(
        segment: &Segment,
        row: PyBuffer<i64>,
        access: Option<&Bound<'_, AccessLog>>,
        epoch_ns: i64,
    ) -> Result<Self, Error> {
        if row.item_count() == CELLS.len() && row.is_c_contiguous() {
            let access = access.map(|access| access.get().shared());
            Ok(Self {
                epoch_ns,
                row,
                inner: Mutex::new(core::Ledger::new(consumers(&segment.inner, access))),
                tracer: Mutex::default(),
                traces: AtomicBool::new(false),
            })
        } else {
            Err(Error::value(format!(
                "the row must be {} contiguous cells of 64 bits",
                CELLS.len()
            )))
        }
    }

    #[classattr]
    #[pyo3(name = "CELLS")]
    fn cells(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
        PyTuple::new(py, CELLS)
    }

    /// Numbers come from the row, because boxing fifteen of them would cost more than recording them.
    #[pyo3(signature = (head, answer, reservation, price, principal, *, request_id, client, model, upstream, error, trace = None, transforms = None))]
    #[allow(clippy::too_many_arguments, reason = "one crossing an exchange; texts by name")]
    fn record(
        &self,
        py: Python<'_>,
        head: Option<&RequestHead>,
        answer: Option<&Bound<'_, PyAny>>,
        reservation: Option<&Reservation>,
        price: Option<&Price>,
        principal: Option<&Bound<'_, PyAny>>,
        request_id: &Bound<'_, PyString>,
        client: &Bound<'_, PyString>,
        model: &Bound<'_, PyString>,
        upstream: &Bound<'_, PyString>,
        error: &Bound<'_, PyString>,
        trace: Option<&Trace>,
        transforms: Option<&str>,
    ) -> Result<isize, Error> {
        let mut cells = [0_i64; CELLS.len()];
        self.row.copy_to_slice(py, &mut cells)?;
        let numbers = Numbers::of(cells);
        let outcome = usize::try_from(numbers.outcome).unwrap_or(usize::MAX);
        let outcome = outcome_of(outcome).ok_or_else(|| unknown_outcome(outcome))?;
        let (answer, passed) = facts_of(answer);
        let (id, tenant) = match principal {
            None => (None, None),
            Some(principal) => (
                text_of(principal.getattr(intern!(py, "id"))?),
                text_of(principal.getattr(intern!(py, "tenant"))?),
            ),
        };
        // Lossy: a log line must never fail an exchange.
        let [request_id, client, model, upstream, error] =
            [request_id, client, model, upstream, error].map(|text| text.to_string_lossy());
        let [id, tenant] =
            [&id, &tenant].map(|text| text.as_ref().map(|text| text.to_string_lossy()).unwrap_or_default());
        let trace = trace.map(Trace::lock);
        Ok(self.enter(&Entry {
            route: label(numbers.route),
            provider: label(numbers.provider),
            model_label: label(numbers.model_label),
            model: &model,
            upstream: &upstream,
            head: head.map(|head| head.core(py)),
            request_id: &request_id,
            client: &client,
            principal: &id,
            tenant: &tenant,
            status: u16::try_from(numbers.status).unwrap_or(0),
            outcome,
            error: &error,
            transforms: transforms.unwrap_or_default(),
            is_stream: numbers.is_stream != 0,
            is_asked: numbers.is_asked != 0,
            attempts: count(numbers.attempts),
            retries: numbers.retries as u64,
            bytes_in: count(numbers.bytes_in),
            // A translated answer has more or fewer bytes than the pump passed: the number may be negative.
            bytes_out: count(numbers.bytes_out.saturating_add_unsigned(passed)),
            epoch_ns: self.epoch_ns,
            started_ns: count(numbers.started_ns),
            first_ns: count(numbers.first_ns),
            ended_ns: count(numbers.ended_ns),
            overhead_ns: count(numbers.overhead_ns),
            answer,
            price: price.map(|price| price.inner),
            reservation: reservation.map(|reservation| reservation as _),
            trace: trace.as_deref(),
        }))
    }

    #[pyo3(signature = (tracer, /))]
    fn follow(&self, tracer: Option<&Tracer>) {
        let tracer = tracer.map(Tracer::shared);
        self.traces.store(tracer.is_some(), Ordering::Relaxed);
        (*self.tracer.lock().unwrap_or_else(PoisonError::into_inner)).clone_from(&tracer);
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).follow(tracer);
    }

    #[getter]
    fn used(&self) -> (u64, u64) {
        let ledger = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        (ledger.charged().tokens(), ledger.charged().micros())
    }
}

impl Ledger {
    /// Enters an ended exchange; returns the bytes of unwritten access lines.
    pub(crate) fn enter(&self, entry: &Entry<'_>) -> isize {
        let mut ledger = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.enter(entry) as isize
    }

    /// True when an exchange that begins is certainly not sampled, so that nothing but its end may be traced.
    #[inline]
    pub(crate) fn passes(&self, head: &head_core::RequestHead, bytes: &[u8], now_ns: i64) -> bool {
        !self.traces.load(Ordering::Relaxed) || self.passes_tracer(head, bytes, now_ns)
    }

    fn passes_tracer(&self, head: &head_core::RequestHead, bytes: &[u8], now_ns: i64) -> bool {
        let tracer = self.tracer.lock().unwrap_or_else(PoisonError::into_inner);
        tracer
            .as_ref()
            .is_none_or(|tracer| locked(tracer).passes(head, bytes, count(now_ns)))
    }

    /// Wall-clock time less monotonic time.
    pub(crate) fn epoch_ns(&self) -> i64 {
        self.epoch_ns
    }
}

/// A label from its cell in the row.
fn label(cell: i64) -> LabelId {
    LabelId::new(u32::try_from(cell).unwrap_or(0))
}

/// A count from Python; negative means unknown and counts as 0.
pub(crate) fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn text_of(value: Bound<'_, PyAny>) -> Option<Bound<'_, PyString>> {
    value.cast_into().ok()
}

/// The usage that a complete JSON document reports.
pub(crate) fn answer_of(document: &[u8]) -> Answer {
    Answer {
        reported: usage_of_document(document),
        is_whole: true,
        is_terminated: true,
        document_bytes: document.len() as u64,
        ..Answer::default()
    }
}

/// The facts about an answer (the pump of a stream, or a complete document), and the bytes that a pump passed on.
pub(crate) fn facts_of(answer: Option<&Bound<'_, PyAny>>) -> (Answer, u64) {
    match answer {
        None => (Answer::default(), 0),
        Some(answer) => match answer.cast::<BodyPump>() {
            Ok(pump) => (pump.get().answer(), pump.get().passed()),
            Err(_) => (answer_of(whole(answer).unwrap_or_default()), 0),
        },
    }
}

/// The bytes of a complete document, or of the body after the head that came with it.
fn whole<'a>(document: &'a Bound<'_, PyAny>) -> Option<&'a [u8]> {
    match document.cast::<ResponseHead>() {
        Ok(head) => head.get().whole(document.py()),
        Err(_) => Some(document.cast::<PyBytes>().ok()?.as_bytes()),
    }
}
