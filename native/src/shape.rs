//! Bindings of `core::shape`: traffic shaping.

use budgateway_core::shape as core;
use pyo3::prelude::*;

use crate::error::Error;

/// The value that Python receives when no candidate is left.
const NOBODY: isize = -1;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Split {
    pub(crate) inner: core::Split,
}

#[pymethods]
impl Split {
    #[new]
    #[pyo3(signature = (destinations, canary = None, *, seed = 0))]
    fn new(destinations: Vec<(String, u32)>, canary: Option<(usize, f64)>, seed: u64) -> Result<Self, Error> {
        if destinations.len() > 64 {
            return Err(Error::value("a split has at most 64 destinations"));
        }
        if canary.is_some_and(|(destination, share)| destination >= destinations.len() || !(0.0..=1.0).contains(&share))
        {
            return Err(Error::value(
                "a canary is one of the destinations, and its share is 0 to 1",
            ));
        }
        Ok(Self {
            inner: core::Split::new(&borrowed(&destinations), canary, seed),
        })
    }

    #[pyo3(signature = (key, excluded = 0))]
    fn pick(&self, key: Option<&str>, excluded: u64) -> isize {
        let destination = self.inner.pick(key.map(str::as_bytes), excluded);
        destination.map_or(NOBODY, |destination| destination as isize)
    }
}

fn borrowed(named: &[(String, u32)]) -> Vec<(&str, u32)> {
    named.iter().map(|(name, weight)| (name.as_str(), *weight)).collect()
}
