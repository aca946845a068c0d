//! The ledger: one crossing at an exchange's end, for its metrics and its access line.

use std::sync::{Mutex, PoisonError};

use budgateway_core::access::Line;
use budgateway_core::metrics::{Observation, Outcome};
use budgateway_core::segment::LabelId;
use budgateway_core::sse::usage_of_document;
use budgateway_core::usage::{Answer, UsageTable, generates};
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::access::AccessLog;
use crate::decide::{Grant, Price};
use crate::error::Error;
use crate::head::{RequestHead, ResponseHead, flag};
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
    /// What the exchange recorded last is to be debited with: tokens, and micro-dollars.
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
        grant: Option<&Grant>,
        price: Option<&Price>,
        request_id: &Bound<'_, PyString>,
        client: &Bound<'_, PyString>,
        principal: Option<&Bound<'_, PyString>>,
        tenant: Option<&Bound<'_, PyString>>,
        upstream: &Bound<'_, PyString>,
        model: &Bound<'_, PyString>,
        error: Option<&Bound<'_, PyString>>,
    ) -> Result<isize, Error> {
        // The numbers do not travel as Python ints: at thirteen of them the boxing would cost more than the recording.
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
        let label = |cell: i64| LabelId::new(u32::try_from(cell).unwrap_or(0));
        let (method, path, is_json): (&[u8], &[u8], bool) = head.map_or((b"", b"", false), |head| {
            let (head, bytes) = head.core(py);
            (head.method(bytes), head.path(bytes), head.flags & flag::JSON != 0)
        });
        let answer = match (pump, document) {
            (Some(pump), _) => pump.answer(),
            (None, Some(document)) => {
                let document = whole(document).unwrap_or_default();
                Answer {
                    reported: usage_of_document(document),
                    is_whole: true,
                    is_terminated: true,
                    document_bytes: document.len() as u64,
                    ..Answer::default()
                }
            }
            (None, None) => Answer::default(),
        };
        // Lossy, because a log line must never be what fails an exchange.
        let [request_id, client, upstream, model] =
            [request_id, client, upstream, model].map(|text| text.to_string_lossy());
        let [principal, tenant, error] =
            [principal, tenant, error].map(|text| text.map(|text| text.to_string_lossy()).unwrap_or_default());
        let counted = Answer {
            is_whole: answer.is_whole || outcome == Outcome::Complete,
            is_asked: asked != 0 && is_json && !model.is_empty(),
            generates: generates(path),
            status: u16::try_from(status).unwrap_or(0),
            bytes_in: count(bytes_in),
            ..answer
        }
        .usage();
        let (usage, is_estimated) = counted;
        let micros = price.map(|price| {
            price
                .inner
                .micros(usage.tokens_in, usage.tokens_out, usage.tokens_cached)
        });
        let used = (usage.tokens_in.saturating_add(usage.tokens_out), micros.unwrap_or(0));
        if let Some(grant) = grant {
            grant.settle(used.0, used.1, count(now_ns));
        }
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.used = used;
            state
                .table
                .add(&principal, &tenant, label(model_label), label(route), &counted, used.1);
        }
        let metrics = self.metrics.get().inner();
        metrics.repay(label(provider));
        metrics.observe(&Observation {
            route: label(route),
            provider: label(provider),
            model: label(model_label),
            status: u16::try_from(status).unwrap_or(0),
            outcome,
            duration_ns: count(duration_ns),
            overhead_ns: count(overhead_ns),
            first_byte_ns: count(first_byte_ns),
            bytes_in: count(bytes_in),
            bytes_out: count(bytes_out),
            tokens_in: usage.tokens_in,
            tokens_out: usage.tokens_out,
            tokens_cached: usage.tokens_cached,
            tokens_reasoning: usage.tokens_reasoning,
            cost_micros: used.1,
            retries: retries as u64,
        });
        let Some(access) = &self.access else {
            return Ok(0);
        };
        let tokens = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let waiting = access.get().lines().append(&Line {
            unix_ms,
            request_id: &request_id,
            client: &client,
            principal: &principal,
            method,
            path,
            status,
            outcome: Some(outcome),
            error: &error,
            route: label(route),
            provider: label(provider),
            upstream: &upstream,
            model: &model,
            stream: stream != 0,
            attempts,
            bytes_in,
            bytes_out,
            duration_ns,
            overhead_ns,
            first_byte_ns,
            tokens_in: tokens(usage.tokens_in),
            tokens_out: tokens(usage.tokens_out),
            tokens_cached: tokens(usage.tokens_cached),
            tokens_reasoning: tokens(usage.tokens_reasoning),
            cost_micros: micros.map_or(-1, tokens),
            is_estimated,
        });
        Ok(waiting as isize)
    }

    #[getter]
    fn used(&self) -> (u64, u64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).used
    }
}

/// A whole document: its bytes, or those behind the head that it came with.
fn whole<'a>(document: &'a Bound<'_, PyAny>) -> Option<&'a [u8]> {
    match document.cast::<ResponseHead>() {
        Ok(head) => head.get().whole(document.py()),
        Err(_) => Some(document.cast::<PyBytes>().ok()?.as_bytes()),
    }
}
