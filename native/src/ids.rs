//! Request ids.

use std::sync::atomic::{AtomicU64, Ordering};

use budgateway_core::head::is_request_id;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::error::Error;

/// What an id is at most, so that it is made in place.
const MAX_PREFIX: usize = 48;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct RequestIds {
    prefix: Box<[u8]>,
    count: AtomicU64,
}

#[pymethods]
impl RequestIds {
    #[new]
    fn new(prefix: &str) -> Result<Self, Error> {
        if prefix.len() > MAX_PREFIX || !is_request_id(prefix.as_bytes()) {
            return Err(Error::value(format!("{prefix:?} does not begin request ids")));
        }
        Ok(Self {
            prefix: prefix.as_bytes().into(),
            count: AtomicU64::new(0),
        })
    }

    fn take<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        const HEX: [u8; 16] = *b"0123456789abcdef";
        let mut count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let mut id = [b'0'; MAX_PREFIX + 16];
        let digits = (16 - count.leading_zeros() as usize / 4).max(8);
        let size = self.prefix.len() + digits;
        for (to, from) in id.iter_mut().zip(&*self.prefix) {
            *to = *from;
        }
        for digit in id.iter_mut().take(size).rev().take(digits) {
            *digit = HEX[(count & 15) as usize];
            count >>= 4;
        }
        PyString::new(
            py,
            std::str::from_utf8(id.get(..size).unwrap_or_default()).unwrap_or_default(),
        )
    }
}
