//! Bindings of `core::usage`: usage totals.

use budgateway_core::usage as core;
use pyo3::prelude::*;

use crate::segment::{Segment, label};

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct UsageTable {
    segment: Py<Segment>,
}

/// Principal, tenant, model, route; requests, tokens in, out, cached, reasoning; micro-dollars; estimated.
type Row = (
    Option<String>,
    String,
    String,
    String,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
);

#[pymethods]
impl UsageTable {
    #[new]
    fn new(segment: Py<Segment>) -> Self {
        Self { segment }
    }

    fn collect(&self) -> Vec<Row> {
        let segment = &self.segment.get().inner;
        let row = |used: core::Used| {
            (
                used.principal,
                used.tenant,
                label(segment, used.model),
                label(segment, used.route),
                used.requests,
                used.usage.tokens_in,
                used.usage.tokens_out,
                used.usage.tokens_cached,
                used.usage.tokens_reasoning,
                used.micros,
                used.estimated,
            )
        };
        let table = core::UsageTable::new(segment.clone());
        table.collect().into_iter().map(row).collect()
    }
}
