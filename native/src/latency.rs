//! Bindings of `core::latency`: quantiles of the time to the first byte.

use budgateway_core::latency as core;
use pyo3::prelude::*;

use crate::number::Unsigned;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct LatencyHistogram {
    inner: core::LatencyHistogram,
}

#[pymethods]
impl LatencyHistogram {
    #[new]
    fn new() -> Self {
        Self {
            inner: core::LatencyHistogram::default(),
        }
    }

    fn record(&self, ns: Unsigned) {
        self.inner.record(ns.0);
    }

    fn quantile(&self, percent: u32) -> i64 {
        self.inner.quantile(percent).map_or(-1, |ns| ns as i64)
    }
}
