//! The ledger: records the metrics and the access line of an exchange in one call.

use std::sync::{Mutex, PoisonError};

use budgateway_core::access::Line;
use budgateway_core::head::RequestHead as RequestHeadCore;
use budgateway_core::metrics::{Observation, Outcome};
use budgateway_core::segment::LabelId;
use budgateway_core::sse::usage_of_document;
use budgateway_core::usage::{Answer, UsageTable, generates};
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::access::AccessLog;
use crate::error::Error;
use crate::head::{RequestHead, ResponseHead, flag};
use crate::limits::{Price, Reservation};
use crate::metrics::{Metrics, count, outcome_of, unknown_outcome};
use crate::pump::BodyPump;

/// Cells of the row, in the order that `record_cy.py` fills them.
const CELLS: usize = 16;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Ledger {
    metrics: Py<Metrics>,
    access: Option<Py<AccessLog>>,
    row: PyBuffer<i64>,
    state: Mutex<State>,
}

struct State {
    table: UsageTable,
    /// Tokens and micro-dollars to debit for the exchange that was recorded last.
    used: (u64, u64),
}

#[pymethods]
impl Ledger {
    #[new]
    fn new(metrics: Py<Metrics>, access: Option<Py<AccessLog>>, row: PyBuffer<i64>) -> Result<Self, Error> {
        if row.item_count() == CELLS && row.is_c_contiguous() {
            let state = Mutex::new(State {
                table: UsageTable::new(metrics.get().segment()),
                used: (0, 0),
            });
            Ok(Self {
                metrics,
                access,
                row,
                state,
            })
        } else {
            Err(Error::value(format!(
                "the row must be {CELLS} contiguous cells of 64 bits"
            )))
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one crossing an exchange, no object for it")]
    fn record(
        &self,
        py: Python<'_>,
        head: Option<&RequestHead>,
        pump: Option<&BodyPump>,
        document: Option<&Bound<'_, PyAny>>,
        reservation: Option<&Reservation>,
        price: Option<&Price>,
        request_id: &Bound<'_, PyString>,
        client: &Bound<'_, PyString>,
        principal: Option<&Bound<'_, PyString>>,
        tenant: Option<&Bound<'_, PyString>>,
        upstream: &Bound<'_, PyString>,
        model: &Bound<'_, PyString>,
        error: Option<&Bound<'_, PyString>>,
    ) -> Result<isize, Error> {
        // The numbers go through a buffer: boxing thirteen of them would cost more than recording them.
        let mut cells = [0_i64; CELLS];
        self.row.copy_to_slice(py, &mut cells)?;
        let [
            route,
            provider,
            model_label,
            status,
            outcome,
            attempts,
            stream,
            bytes_in,
            bytes_out,
            unix_ms,
            duration_ns,
            overhead_ns,
            first_byte_ns,
            now_ns,
            asked,
            retries,
        ] = cells;
        let outcome = usize::try_from(outcome).unwrap_or(usize::MAX);
        let outcome = outcome_of(outcome).ok_or_else(|| unknown_outcome(outcome))?;
        let answer = match (pump, document) {
            (Some(pump), _) => pump.answer(),
            (None, Some(document)) => answer_of(whole(document).unwrap_or_default()),
            (None, None) => Answer::default(),
        };
        // Lossy: a log line must never fail an exchange.
        let [request_id, client, upstream, model] =
            [request_id, client, upstream, model].map(|text| text.to_string_lossy());
        let [principal, tenant, error] =
            [principal, tenant, error].map(|text| text.map(|text| text.to_string_lossy()).unwrap_or_default());
        Ok(self.enter(&Entry {
            route: label(route),
            provider: label(provider),
            model_label: label(model_label),
            status,
            outcome,
            attempts,
            is_stream: stream != 0,
            is_asked: asked != 0,
            bytes_in,
            bytes_out,
            unix_ms,
            duration_ns,
            overhead_ns,
            first_byte_ns,
            now_ns,
            retries,
            head: head.map(|head| head.core(py)),
            answer,
            reservation,
            price,
            request_id: &request_id,
            client: &client,
            principal: &principal,
            tenant: &tenant,
            upstream: &upstream,
            model: &model,
            error: &error,
        }))
    }

    #[getter]
    fn used(&self) -> (u64, u64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).used
    }
}

impl Ledger {
    /// Counts an exchange, settles its limits and writes its access line. Returns the bytes of unwritten lines.
    pub(crate) fn enter(&self, entry: &Entry<'_>) -> isize {
        let (method, path, is_json): (&[u8], &[u8], bool) = entry.head.map_or((b"", b"", false), |(head, bytes)| {
            (head.method(bytes), head.path(bytes), head.flags & flag::JSON != 0)
        });
        let status = u16::try_from(entry.status).unwrap_or(0);
        let counted = Answer {
            is_whole: entry.answer.is_whole || entry.outcome == Outcome::Complete,
            is_asked: entry.is_asked && is_json && !entry.model.is_empty(),
            generates: generates(path),
            status,
            bytes_in: count(entry.bytes_in),
            ..entry.answer
        }
        .usage();
        let (usage, is_estimated) = counted;
        let micros = entry.price.map(|price| {
            price
                .inner
                .micros(usage.tokens_in, usage.tokens_out, usage.tokens_cached)
        });
        let used = (usage.tokens_in.saturating_add(usage.tokens_out), micros.unwrap_or(0));
        if let Some(reservation) = entry.reservation {
            reservation.settle(used.0, used.1, count(entry.now_ns));
        }
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.used = used;
            state.table.add(
                entry.principal,
                entry.tenant,
                entry.model_label,
                entry.route,
                &counted,
                used.1,
            );
        }
        let metrics = self.metrics.get().inner();
        metrics.repay(entry.provider);
        metrics.observe(&Observation {
            route: entry.route,
            provider: entry.provider,
            model: entry.model_label,
            status,
            outcome: entry.outcome,
            duration_ns: count(entry.duration_ns),
            overhead_ns: count(entry.overhead_ns),
            first_byte_ns: count(entry.first_byte_ns),
            bytes_in: count(entry.bytes_in),
            bytes_out: count(entry.bytes_out),
            tokens_in: usage.tokens_in,
            tokens_out: usage.tokens_out,
            tokens_cached: usage.tokens_cached,
            tokens_reasoning: usage.tokens_reasoning,
            cost_micros: used.1,
            retries: entry.retries as u64,
        });
        let Some(access) = &self.access else {
            return 0;
        };
        let tokens = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let waiting = access.get().lines().append(&Line {
            unix_ms: entry.unix_ms,
            request_id: entry.request_id,
            client: entry.client,
            principal: entry.principal,
            method,
            path,
            status: entry.status,
            outcome: Some(entry.outcome),
            error: entry.error,
            route: entry.route,
            provider: entry.provider,
            upstream: entry.upstream,
            model: entry.model,
            stream: entry.is_stream,
            attempts: entry.attempts,
            bytes_in: entry.bytes_in,
            bytes_out: entry.bytes_out,
            duration_ns: entry.duration_ns,
            overhead_ns: entry.overhead_ns,
            first_byte_ns: entry.first_byte_ns,
            tokens_in: tokens(usage.tokens_in),
            tokens_out: tokens(usage.tokens_out),
            tokens_cached: tokens(usage.tokens_cached),
            tokens_reasoning: tokens(usage.tokens_reasoning),
            cost_micros: micros.map_or(-1, tokens),
            is_estimated,
        });
        waiting as isize
    }
}

/// The record of one exchange. Times and durations are monotonic nanoseconds, except `unix_ms`.
pub(crate) struct Entry<'a> {
    pub(crate) route: LabelId,
    pub(crate) provider: LabelId,
    pub(crate) model_label: LabelId,
    pub(crate) status: i64,
    pub(crate) outcome: Outcome,
    pub(crate) attempts: i64,
    pub(crate) is_stream: bool,
    /// True when the request was sent to an upstream.
    pub(crate) is_asked: bool,
    pub(crate) bytes_in: i64,
    pub(crate) bytes_out: i64,
    pub(crate) unix_ms: i64,
    pub(crate) duration_ns: i64,
    pub(crate) overhead_ns: i64,
    /// 0 when there was no first byte.
    pub(crate) first_byte_ns: i64,
    pub(crate) now_ns: i64,
    /// Eight-bit retry counters, one per reason.
    pub(crate) retries: i64,
    /// The request's head, with the bytes that it was scanned from.
    pub(crate) head: Option<(&'a RequestHeadCore, &'a [u8])>,
    pub(crate) answer: Answer,
    pub(crate) reservation: Option<&'a Reservation>,
    pub(crate) price: Option<&'a Price>,
    pub(crate) request_id: &'a str,
    pub(crate) client: &'a str,
    pub(crate) principal: &'a str,
    pub(crate) tenant: &'a str,
    pub(crate) upstream: &'a str,
    pub(crate) model: &'a str,
    /// The code of the error that ended it, or empty.
    pub(crate) error: &'a str,
}

/// A label from its cell in the row.
fn label(cell: i64) -> LabelId {
    LabelId::new(u32::try_from(cell).unwrap_or(0))
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

/// The bytes of a complete document, or of the body after the head that came with it.
fn whole<'a>(document: &'a Bound<'_, PyAny>) -> Option<&'a [u8]> {
    match document.cast::<ResponseHead>() {
        Ok(head) => head.get().whole(document.py()),
        Err(_) => Some(document.cast::<PyBytes>().ok()?.as_bytes()),
    }
}
