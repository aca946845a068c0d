//! Bindings of `core::retry`: the retry budget.

use budgateway_core::retry as core;
use budgateway_core::segment::LabelId;
use pyo3::prelude::*;

use crate::segment::Segment;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct RetryBudget {
    inner: core::RetryBudget,
}

#[pymethods]
impl RetryBudget {
    #[new]
    #[pyo3(signature = (segment, provider, percent = 20, reserve = 3))]
    fn new(segment: &Segment, provider: u32, percent: u32, reserve: u32) -> Self {
        Self {
            inner: core::RetryBudget::new(segment.inner.clone(), LabelId::new(provider), percent, reserve),
        }
    }

    fn take(&self) -> bool {
        self.inner.take()
    }

    fn give_back(&self) {
        self.inner.give_back();
    }

    fn repay(&self) {
        self.inner.repay();
    }
}
