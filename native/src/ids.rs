//! Bindings of request ids.

use std::sync::{Mutex, PoisonError};

use budgateway_core::head::is_request_id;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::error::Error;

/// The maximum length of a prefix, in characters.
const MAX_PREFIX: usize = 48;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct RequestIds {
    next: Mutex<Next>,
}

/// The last id that was issued: its prefix, and its digits from `from` on.
struct Next {
    id: String,
    from: usize,
}

#[pymethods]
impl RequestIds {
    #[new]
    fn new(prefix: &str) -> Result<Self, Error> {
        if prefix.len() > MAX_PREFIX || !is_request_id(prefix.as_bytes()) {
            return Err(Error::value(format!("{prefix:?} does not begin request ids")));
        }
        let next = Next {
            id: format!("{prefix}00000000"),
            from: prefix.len(),
        };
        Ok(Self { next: Mutex::new(next) })
    }

    fn take<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        self.give(|id| PyString::new(py, id))
    }
}

impl RequestIds {
    /// Passes the next id to `to`.
    pub(crate) fn give<T>(&self, to: impl FnOnce(&str) -> T) -> T {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let Next { id, from } = &mut *next;
        advance(id, *from);
        to(id)
    }
}

/// Adds one to the hexadecimal digits from `from` on, and adds a digit on overflow.
fn advance(id: &mut String, from: usize) {
    let mut digits = std::mem::take(id).into_bytes();
    for digit in digits.iter_mut().skip(from).rev() {
        *digit = match *digit {
            b'9' => b'a',
            b'f' => b'0',
            other => other + 1,
        };
        if *digit != b'0' {
            break;
        }
    }
    if digits.iter().skip(from).all(|digit| *digit == b'0') {
        digits.insert(from, b'1');
    }
    *id = String::from_utf8(digits).unwrap_or_default();
}
