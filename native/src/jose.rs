//! Bindings of `core::jose`: verifies tokens with the keys that Python read.

use std::borrow::Cow;
use std::sync::Arc;

use budgateway_core::jose::{self as core, Algorithm, Algorithms, Curve, Material, Outcome};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::error::Error;

/// A token's signature is wrong, or its signed claims are unusable; the others as `auth/bearer.py` names them.
pub(crate) const TOKEN_REFUSED: u8 = 0;
pub(crate) const TOKEN_UNKNOWN_KEY: u8 = 1;
pub(crate) const TOKEN_REJECTED: u8 = 2;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct TokenVerifier {
    pub(crate) inner: Arc<core::Verifier>,
}

/// The fields read of `records.Issuer`.
#[derive(FromPyObject)]
struct Issuer {
    name: String,
    issuer: String,
    algorithms: Vec<String>,
    jwks_url: String,
    discovery_url: String,
    audience: Vec<String>,
    any_audience: bool,
    leeway_s: f64,
    claims: ClaimPaths,
    tenant: String,
    roles: Vec<String>,
    group_roles: Vec<(String, Vec<String>)>,
}

/// `records.ClaimPaths`.
#[derive(FromPyObject)]
struct ClaimPaths {
    user: String,
    tenant: String,
    roles: String,
    groups: String,
    models: String,
}

/// `jose.key.Numbers`: the kid, the algorithms, the kind of key, and up to two numbers.
type Numbers = (Option<String>, Vec<String>, String, Vec<u8>, Vec<u8>);

#[pymethods]
impl TokenVerifier {
    #[new]
    #[pyo3(signature = (issuers, /))]
    fn new(issuers: Vec<(Issuer, Option<Vec<Numbers>>)>) -> Result<Self, Error> {
        let issuers = issuers.into_iter().map(|(issuer, keys)| issuer.with(keys));
        Ok(Self {
            inner: Arc::new(core::Verifier::new(issuers.collect::<Result<_, _>>()?)),
        })
    }

    #[pyo3(signature = (token, now_s, /))]
    fn verify<'py>(&self, token: &Bound<'py, PyString>, now_s: f64) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let py = token.py();
        // Half of a surrogate pair cannot be converted, and lengths differ beyond ASCII: Python counts characters.
        let Some(text) = token.to_str().ok().filter(|text| text.is_ascii()) else {
            return Ok(None);
        };
        let refused = |kind: u8, issuer: &str, message: Cow<'static, str>| (kind, issuer, message).into_pyobject(py);
        match self.inner.verify(text.as_bytes(), now_s) {
            Outcome::Verified(found) => (
                found.id,
                found.tenant,
                PyTuple::new(py, found.roles)?,
                PyTuple::new(py, found.groups)?,
                PyTuple::new(py, found.models)?,
                found.expires_s,
            )
                .into_pyobject(py),
            Outcome::Refused(message) => refused(TOKEN_REFUSED, "", message),
            Outcome::UnknownKey(issuer) => {
                refused(TOKEN_UNKNOWN_KEY, issuer, "its issuer has no key with its kid".into())
            }
            Outcome::Rejected(message) => refused(TOKEN_REJECTED, "", message),
            Outcome::Unsure => return Ok(None),
        }
        .map(Some)
    }
}

impl Issuer {
    fn with(self, keys: Option<Vec<Numbers>>) -> Result<core::Issuer, Error> {
        let keys = keys.map(|keys| keys.iter().map(key).collect::<Result<_, _>>());
        Ok(core::Issuer {
            algorithms: algorithms(&self.algorithms)?,
            keys: keys.transpose()?,
            is_fetched: !self.jwks_url.is_empty() || !self.discovery_url.is_empty(),
            name: self.name.into(),
            issuer: self.issuer.into(),
            audience: boxed(self.audience),
            any_audience: self.any_audience,
            leeway_s: self.leeway_s,
            claims: core::ClaimPaths {
                user: self.claims.user.into(),
                tenant: self.claims.tenant.into(),
                roles: self.claims.roles.into(),
                groups: self.claims.groups.into(),
                models: self.claims.models.into(),
            },
            tenant: self.tenant.into(),
            roles: boxed(self.roles),
            group_roles: self
                .group_roles
                .into_iter()
                .map(|(group, roles)| (group.into(), boxed(roles)))
                .collect(),
        })
    }
}

fn key((kid, names, kind, first, second): &Numbers) -> Result<core::Key, Error> {
    let material = match kind.as_str() {
        "oct" => Material::Secret(first),
        "RSA" => Material::Rsa(first, second),
        "P-256" => Material::Point(Curve::P256, first),
        "P-384" => Material::Point(Curve::P384, first),
        "Ed25519" => Material::Ed25519(first),
        _ => Material::Other,
    };
    Ok(core::Key::new(kid.as_deref(), algorithms(names)?, material))
}

fn algorithms(names: &[String]) -> Result<Algorithms, Error> {
    let found = names
        .iter()
        .map(|name| Algorithm::named(name).ok_or_else(|| Error::value(format!("no algorithm is called {name:?}"))));
    found.collect()
}

fn boxed(texts: Vec<String>) -> Vec<Box<str>> {
    texts.into_iter().map(Into::into).collect()
}
