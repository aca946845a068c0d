//! Bindings of `core::pace`: quantiles of the time to the first byte.

use budgateway_core::pace as core;
use pyo3::prelude::*;

use crate::number::Unsigned;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Pace {
    inner: core::Pace,
}

#[pymethods]
impl Pace {
    #[new]
    fn new() -> Self {
        Self {
            inner: core::Pace::default(),
        }
    }

    fn hear(&self, ns: Unsigned) {
        self.inner.hear(ns.0);
    }

    fn quantile(&self, percent: u32) -> i64 {
        self.inner.quantile(percent).map_or(-1, |ns| ns as i64)
    }
}
