//! The ledger: one crossing at an exchange's end, for its metrics and its access line.

use budgateway_core::access::Line;
use budgateway_core::metrics::Observation;
use budgateway_core::segment::LabelId;
use budgateway_core::sse::{Usage, usage_of_document};
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::access::AccessLog;
use crate::error::Error;
use crate::head::{RequestHead, ResponseHead};
use crate::metrics::{Metrics, count, outcome_of, unknown_outcome};
use crate::pump::BodyPump;

/// Cells of the row, in the order that `record_cy.py` fills them.
const CELLS: usize = 13;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Ledger {
    metrics: Py<Metrics>,
    access: Option<Py<AccessLog>>,
    row: PyBuffer<i64>,
}

#[pymethods]
impl Ledger {
    #[new]
    fn new(metrics: Py<Metrics>, access: Option<Py<AccessLog>>, row: PyBuffer<i64>) -> Result<Self, Error> {
        if row.item_count() == CELLS && row.is_c_contiguous() {
            Ok(Self { metrics, access, row })
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
        request_id: &Bound<'_, PyString>,
        client: &Bound<'_, PyString>,
        principal: &Bound<'_, PyString>,
        upstream: &Bound<'_, PyString>,
        model: &Bound<'_, PyString>,
        error: &Bound<'_, PyString>,
    ) -> Result<usize, Error> {
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
        ] = cells;
        let usage = match (pump, document) {
            (Some(pump), _) => pump.usage(),
            (None, Some(document)) => usage_in(document),
            (None, None) => None,
        }
        .unwrap_or_default();
        let outcome = usize::try_from(outcome).unwrap_or(usize::MAX);
        let outcome = outcome_of(outcome).ok_or_else(|| unknown_outcome(outcome))?;
        let label = |cell: i64| LabelId::new(u32::try_from(cell).unwrap_or(0));
        self.metrics.get().inner().observe(&Observation {
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
        });
        let Some(access) = &self.access else {
            return Ok(0);
        };
        let (method, path): (&[u8], &[u8]) = head.map_or((b"", b""), |head| {
            let (head, bytes) = head.core(py);
            (head.method(bytes), head.path(bytes))
        });
        // Lossy, because a log line must never be what fails an exchange.
        let [request_id, client, principal, upstream, model, error] =
            [request_id, client, principal, upstream, model, error].map(|text| text.to_string_lossy());
        let tokens = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        Ok(access.get().lines().append(&Line {
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
        }))
    }
}

/// The usage in a whole document: its bytes, or the head that it came behind.
fn usage_in(document: &Bound<'_, PyAny>) -> Option<Usage> {
    if let Ok(head) = document.cast::<ResponseHead>() {
        return usage_of_document(head.get().whole(document.py())?);
    }
    usage_of_document(document.cast::<PyBytes>().ok()?.as_bytes())
}
