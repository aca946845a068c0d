//! Bindings of `core::credentials`: verified credentials, which the fast path and the authentication stage share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use budgateway_core::credentials as core;
use budgateway_core::credentials::{Credential, Source};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::error::Error;
use crate::jose::TokenVerifier;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct CredentialCache {
    inner: Mutex<core::Credentials>,
}

#[pymethods]
impl CredentialCache {
    #[new]
    #[pyo3(signature = (capacity, tenants, /))]
    fn new(capacity: usize, tenants: Vec<String>) -> Self {
        let tenants = tenants.into_iter().map(Into::into).collect();
        Self {
            inner: Mutex::new(core::Credentials::new(capacity, tenants)),
        }
    }

    #[pyo3(signature = (verifier, /))]
    fn learn(&self, verifier: Option<&TokenVerifier>) {
        let verifier = verifier.map(|verifier| verifier.inner.clone());
        self.lock().learn(verifier);
    }

    #[pyo3(signature = (is_key, value, now_s, /))]
    fn find<'py>(
        &self,
        is_key: bool,
        value: &Bound<'py, PyString>,
        now_s: f64,
    ) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let py = value.py();
        let found = match value.to_str() {
            Ok(text) if text.is_ascii() => self.lock().find(source(is_key), text.as_bytes(), now_s),
            _ => self.lock().find(source(is_key), &latin_1(value)?, now_s),
        };
        found.map(|found| told(py, &found)).transpose()
    }

    /// `who`: the principal's id, the name of its API key or "", its tenant and groups.
    #[pyo3(signature = (is_key, value, who, principal_class, expires_s, /))]
    fn insert(
        &self,
        is_key: bool,
        value: &Bound<'_, PyString>,
        who: (String, String, String, Vec<String>),
        principal_class: u32,
        expires_s: f64,
    ) -> PyResult<()> {
        let value = latin_1(value)?;
        let (id, key, tenant, groups) = who;
        let credential = Credential {
            id: id.into(),
            key: Some(key).filter(|key| !key.is_empty()).map(Into::into),
            tenant: tenant.into(),
            groups: groups.into_iter().map(Into::into).collect(),
            class: principal_class,
            expires_s,
        };
        self.lock().insert(source(is_key), &value, credential);
        Ok(())
    }

    #[pyo3(signature = (roles, tenant, models, principal_class, /))]
    fn name_class(&self, roles: Vec<String>, tenant: &str, models: Vec<String>, principal_class: u32) {
        let (roles, models) = (roles.iter().map(String::as_str), models.iter().map(String::as_str));
        self.lock().name_class(roles, tenant, models, principal_class);
    }

    fn __len__(&self) -> usize {
        self.lock().len()
    }
}

impl CredentialCache {
    pub(crate) fn find_or_verify(&self, source: Source, value: &[u8], now_s: f64) -> Option<Arc<Credential>> {
        self.lock().find_or_verify(source, value, now_s)
    }

    fn lock(&self) -> MutexGuard<'_, core::Credentials> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn source(is_key: bool) -> Source {
    if is_key { Source::Key } else { Source::Authorization }
}

/// A credential for Python: id, API key's name or "", tenant, groups, class, and expiry.
pub(crate) fn told<'py>(py: Python<'py>, found: &Credential) -> PyResult<Bound<'py, PyTuple>> {
    let groups = PyTuple::new(py, found.groups.iter().map(|group| &**group))?;
    let key = found.key.as_deref().unwrap_or_default();
    (&*found.id, key, &*found.tenant, groups, found.class, found.expires_s).into_pyobject(py)
}

/// The bytes of a header's value, which Python holds as Latin-1.
fn latin_1(value: &Bound<'_, PyString>) -> PyResult<Vec<u8>> {
    let text = value.to_str()?;
    if text.is_ascii() {
        return Ok(text.as_bytes().to_vec());
    }
    let bytes = text.chars().map(|char| u8::try_from(u32::from(char)));
    bytes
        .collect::<Result<_, _>>()
        .map_err(|_| Error::value("a header's value is Latin-1").into())
}
