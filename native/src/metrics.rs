//! Bindings of `core::metrics`: counters and histograms.

use budgateway_core::entry::Outcome;
use budgateway_core::metrics as core;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::error::Error;
use crate::segment::{Segment, label};

const NS_PER_S: f64 = 1e9;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Metrics {
    segment: Py<Segment>,
    inner: core::Metrics,
}

#[pymethods]
impl Metrics {
    #[new]
    fn new(segment: Bound<'_, Segment>) -> Self {
        let inner = core::Metrics::new(segment.get().inner.clone());
        Self {
            segment: segment.unbind(),
            inner,
        }
    }

    fn collect(&self) -> Vec<Series> {
        let segment = &self.segment.get().inner;
        let named = |inner: core::Series| Series {
            route: label(segment, inner.route),
            provider: label(segment, inner.provider),
            model: label(segment, inner.model),
            inner,
        };
        self.inner.collect().into_iter().map(named).collect()
    }
}

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Series {
    #[pyo3(get)]
    route: String,
    #[pyo3(get)]
    provider: String,
    #[pyo3(get)]
    model: String,
    inner: core::Series,
}

#[pymethods]
impl Series {
    #[getter]
    fn status(&self) -> u16 {
        self.inner.status
    }

    #[getter]
    fn count(&self) -> u64 {
        self.inner.outcomes.iter().sum()
    }

    #[getter]
    fn outcomes(&self) -> Vec<u64> {
        self.inner.outcomes.to_vec()
    }

    #[getter]
    fn duration(&self) -> (Vec<u64>, f64) {
        histogram(&self.inner.duration.0, self.inner.duration.1)
    }

    #[getter]
    fn overhead(&self) -> (Vec<u64>, f64) {
        histogram(&self.inner.overhead.0, self.inner.overhead.1)
    }

    #[getter]
    fn first_byte(&self) -> (Vec<u64>, f64) {
        histogram(&self.inner.first_byte.0, self.inner.first_byte.1)
    }

    #[getter]
    fn bytes_in(&self) -> u64 {
        self.inner.bytes_in
    }

    #[getter]
    fn bytes_out(&self) -> u64 {
        self.inner.bytes_out
    }

    #[getter]
    fn tokens_in(&self) -> u64 {
        self.inner.tokens_in
    }

    #[getter]
    fn tokens_out(&self) -> u64 {
        self.inner.tokens_out
    }

    #[getter]
    fn tokens_cached(&self) -> u64 {
        self.inner.tokens_cached
    }

    #[getter]
    fn tokens_reasoning(&self) -> u64 {
        self.inner.tokens_reasoning
    }

    #[getter]
    fn cost_micros(&self) -> u64 {
        self.inner.cost_micros
    }

    #[getter]
    fn retries(&self) -> Vec<u64> {
        self.inner.retries.to_vec()
    }
}

/// The outcome that an `OUTCOME_*` number stands for.
pub(crate) fn outcome_of(number: usize) -> Option<Outcome> {
    Outcome::from_number(number)
}

/// Adds the histogram bounds, in seconds.
pub(crate) fn add_bounds(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let seconds = |bounds: &[u64]| bounds.iter().map(|&ns| ns as f64 / NS_PER_S).collect::<Vec<_>>();
    for (name, bounds) in [
        ("DURATION_BOUNDS_S", &core::DURATION_BOUNDS_NS[..]),
        ("OVERHEAD_BOUNDS_S", &core::OVERHEAD_BOUNDS_NS[..]),
    ] {
        module.add(name, PyTuple::new(module.py(), seconds(bounds))?)?;
    }
    Ok(())
}

fn histogram(buckets: &[u64], sum_ns: u64) -> (Vec<u64>, f64) {
    (buckets.to_vec(), sum_ns as f64 / NS_PER_S)
}

pub(crate) fn unknown_outcome(number: usize) -> Error {
    Error::value(format!("outcome {number} is none of OUTCOME_*"))
}
