//! Bindings of `core::redact`: removes our secrets from upstream answers.

use std::sync::Arc;

use budgateway_core::redact as core;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Redactor {
    pub(crate) inner: Arc<core::Redactor>,
}

#[pymethods]
impl Redactor {
    #[new]
    #[pyo3(signature = (secrets, /))]
    fn new(secrets: Vec<String>) -> Self {
        Self {
            inner: Arc::new(core::Redactor::new(secrets.iter().map(String::as_str))),
        }
    }

    #[pyo3(signature = (text, /))]
    fn blot<'py>(&self, text: &Bound<'py, PyBytes>) -> Bound<'py, PyBytes> {
        if !self.inner.finds(text.as_bytes()) {
            return text.clone();
        }
        let mut blotted = text.as_bytes().to_vec();
        self.inner.blot(&mut blotted);
        PyBytes::new(text.py(), &blotted)
    }
}
