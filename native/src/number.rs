//! Numbers passed from Python.

use pyo3::prelude::*;

/// An unsigned 64-bit number. Extracted as signed first, which is CPython's fast path.
pub(crate) struct Unsigned(pub(crate) u64);

impl FromPyObject<'_, '_> for Unsigned {
    type Error = PyErr;

    #[inline]
    fn extract(number: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        match number.extract::<i64>().map(u64::try_from) {
            Ok(Ok(number)) => Ok(Self(number)),
            _ => number.extract::<u64>().map(Self),
        }
    }
}
