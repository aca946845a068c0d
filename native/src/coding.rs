//! Bindings of `core::coding`: `BodyDecoder`.

use std::sync::{Mutex, PoisonError};

use budgateway_core::coding::Decoder;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::Error;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct BodyDecoder {
    inner: Mutex<Decoder>,
}

#[pymethods]
impl BodyDecoder {
    #[new]
    #[pyo3(signature = (coding, limit, /))]
    fn new(coding: &str, limit: usize) -> Result<Self, Error> {
        Ok(Self {
            inner: Mutex::new(Decoder::new(coding, limit)?),
        })
    }

    #[pyo3(signature = (piece, /))]
    fn feed<'py>(&self, py: Python<'py>, piece: &[u8]) -> Result<Bound<'py, PyBytes>, Error> {
        let out = py.detach(|| {
            let mut out = Vec::new();
            let mut decoder = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            decoder.feed(piece, &mut out).map(|()| out)
        });
        Ok(PyBytes::new(py, &out?))
    }

    fn finish(&self) -> Result<(), Error> {
        let decoder = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(decoder.finish()?)
    }
}
