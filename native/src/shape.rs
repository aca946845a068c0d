//! Bindings of `core::shape`: traffic shaping.

use budgateway_core::shape as core;
use pyo3::prelude::*;

use crate::error::Error;

/// The value that Python receives when no candidate is left.
const NOBODY: isize = -1;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Split {
    inner: core::Split,
}

#[pymethods]
impl Split {
    #[new]
    #[pyo3(signature = (legs, canary = None, *, seed = 0))]
    fn new(legs: Vec<(String, u32)>, canary: Option<(usize, f64)>, seed: u64) -> Result<Self, Error> {
        if legs.len() > 64 {
            return Err(Error::value("a split has at most 64 legs"));
        }
        if canary.is_some_and(|(leg, share)| leg >= legs.len() || !(0.0..=1.0).contains(&share)) {
            return Err(Error::value("a canary is one of the legs, and its share is 0 to 1"));
        }
        Ok(Self {
            inner: core::Split::new(&borrowed(&legs), canary, seed),
        })
    }

    #[pyo3(signature = (key, excluded = 0))]
    fn pick(&self, key: Option<&str>, excluded: u64) -> isize {
        let leg = self.inner.pick(key.map(str::as_bytes), excluded);
        leg.map_or(NOBODY, |leg| leg as isize)
    }
}

fn borrowed(named: &[(String, u32)]) -> Vec<(&str, u32)> {
    named.iter().map(|(name, weight)| (name.as_str(), *weight)).collect()
}
