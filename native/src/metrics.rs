//! Bindings of `core::metrics`: counters and histograms.

use budgateway_core::entry::Outcome;
use budgateway_core::exposition;
use budgateway_core::metrics as core;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

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

    fn times(&self) -> Vec<Times> {
        let segment = &self.segment.get().inner;
        let named = |inner: core::Times| Times {
            route: label(segment, inner.route),
            provider: label(segment, inner.provider),
            model: label(segment, inner.model),
            inner,
        };
        self.inner.times().into_iter().map(named).collect()
    }

    fn refusals(&self) -> Vec<(String, String, u64)> {
        let segment = &self.segment.get().inner;
        let named = |(route, code, count)| (label(segment, route), label(segment, code), count);
        self.inner.refusals().into_iter().map(named).collect()
    }

    fn overheads(&self) -> Vec<(String, (Vec<u64>, f64))> {
        let segment = &self.segment.get().inner;
        let named = |(route, tally)| (label(segment, route), seconds(&tally));
        self.inner.overheads().into_iter().map(named).collect()
    }

    /// Releases the GIL: a full table takes milliseconds.
    fn render<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let segment = &self.segment.get().inner;
        let text = py.detach(|| exposition::render(segment, &self.inner));
        PyBytes::new(py, text.as_bytes())
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

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Times {
    #[pyo3(get)]
    route: String,
    #[pyo3(get)]
    provider: String,
    #[pyo3(get)]
    model: String,
    inner: core::Times,
}

#[pymethods]
impl Times {
    #[getter]
    fn plain(&self) -> (Vec<u64>, f64) {
        seconds(&self.inner.duration[0])
    }

    #[getter]
    fn stream(&self) -> (Vec<u64>, f64) {
        seconds(&self.inner.duration[1])
    }

    #[getter]
    fn first_byte(&self) -> (Vec<u64>, f64) {
        seconds(&self.inner.first_byte)
    }

    #[getter]
    fn first_token(&self) -> (Vec<u64>, f64) {
        seconds(&self.inner.first_token)
    }

    #[getter]
    fn per_token(&self) -> (Vec<u64>, f64) {
        seconds(&self.inner.per_token)
    }

    #[getter]
    fn tokens(&self) -> [(Vec<u64>, u64); 2] {
        self.inner.tokens.map(|(buckets, sum)| (buckets.to_vec(), sum))
    }
}

/// The outcome that an `OUTCOME_*` number stands for.
pub(crate) fn outcome_of(number: usize) -> Option<Outcome> {
    Outcome::from_number(number)
}

/// Adds the histogram bounds, in seconds.
pub(crate) fn add_bounds(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let in_seconds = |bounds: &[u64]| bounds.iter().map(|&ns| ns as f64 / NS_PER_S).collect::<Vec<_>>();
    for (name, bounds) in [
        ("DURATION_BOUNDS_S", &core::DURATION_BOUNDS_NS[..]),
        ("OVERHEAD_BOUNDS_S", &core::OVERHEAD_BOUNDS_NS[..]),
        ("FIRST_BOUNDS_S", &core::FIRST_BOUNDS_NS[..]),
        ("PER_TOKEN_BOUNDS_S", &core::PER_TOKEN_BOUNDS_NS[..]),
    ] {
        module.add(name, PyTuple::new(module.py(), in_seconds(bounds))?)?;
    }
    module.add("TOKEN_BOUNDS", PyTuple::new(module.py(), core::TOKEN_BOUNDS)?)
}

/// Counts per bucket, and the sum of nanoseconds in seconds.
fn seconds<const N: usize>((buckets, sum_ns): &core::Tally<N>) -> (Vec<u64>, f64) {
    (buckets.to_vec(), *sum_ns as f64 / NS_PER_S)
}

pub(crate) fn unknown_outcome(number: usize) -> Error {
    Error::value(format!("outcome {number} is none of OUTCOME_*"))
}
