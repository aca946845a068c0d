//! Bindings of `core::limit`: one rate limit alone.

use std::borrow::Cow;

use budgateway_core::limit as core;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::error::Error;
use crate::number::Unsigned;
use crate::segment::Segment;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct RateLimit {
    inner: core::RateLimit,
}

#[pymethods]
impl RateLimit {
    #[new]
    fn new(segment: &Segment, scope: &str, per_minute: f64, burst: u64) -> Result<Self, Error> {
        Ok(Self {
            inner: core::RateLimit::new(segment.inner.clone(), scope, per_minute, burst)?,
        })
    }

    fn take(&self, key: &Bound<'_, PyAny>, cost: Unsigned, now_ns: Unsigned) -> PyResult<i64> {
        let key = bytes_of(key)?;
        Ok(match self.inner.take(&key, cost.0, now_ns.0) {
            Ok(left) => signed(left),
            Err(wait_ns) => -signed(wait_ns),
        })
    }
}

/// A key's bytes; a string's UTF-8.
fn bytes_of<'a>(key: &'a Bound<'_, PyAny>) -> PyResult<Cow<'a, [u8]>> {
    if let Ok(text) = key.cast::<PyString>() {
        return Ok(match text.to_string_lossy() {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        });
    }
    Ok(Cow::Borrowed(key.cast::<PyBytes>()?.as_bytes()))
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
