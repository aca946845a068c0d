//! The only place that turns the core's errors into Python exceptions.

use budgateway_core::coding::CodingError;
use budgateway_core::json::{FieldsError, JsonError, SpliceError};
use budgateway_core::limit::LimitError;
use budgateway_core::segment::SegmentError;
use budgateway_core::select::SelectError;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType};

/// The error type of the bindings: core errors convert into it, and pyo3 raises the exception that it holds.
pub(crate) struct Error(PyErr);

/// The classes of `budgateway.errors` that the core raises.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "each is used by the binding that needs it")]
pub(crate) enum Class {
    BadRequest,
    HeadTooLarge,
    TargetTooLong,
    ExpectationFailed,
    Overloaded,
    RequestTooLarge,
    UnsupportedCoding,
    UnsupportedField,
    UpstreamError,
    UpstreamProtocolError,
}

impl Error {
    /// The failure of one exchange: `message` is lower case, names the thing and holds no secret.
    pub(crate) fn gateway(class: Class, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Python::attach(|py| match class.of(py) {
            Ok(class) => PyErr::from_type(class.clone(), message),
            Err(missing) => missing,
        }))
    }

    /// The failure of one exchange because of a field of its body.
    pub(crate) fn of_field(class: Class, message: String, param: String, code: &str, hint: &str) -> Self {
        let made = Python::attach(|py| {
            let words = PyDict::new(py);
            words.set_item("hint", hint)?;
            words.set_item("param", (!param.is_empty()).then_some(param))?;
            let error = class.of(py)?.call((message,), Some(&words))?;
            if !code.is_empty() {
                error.setattr("code", code)?;
            }
            Ok(PyErr::from_value(error))
        });
        Self(made.unwrap_or_else(|missing: PyErr| missing))
    }

    /// An invalid argument: the caller's or the operator's mistake.
    pub(crate) fn value(message: impl Into<String>) -> Self {
        Self(PyValueError::new_err(message.into()))
    }
}

impl Class {
    /// The Python class, imported once per process.
    fn of(self, py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
        static BAD_REQUEST: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        static HEAD_TOO_LARGE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        static TARGET_TOO_LONG: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        static EXPECTATION_FAILED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        static OVERLOADED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        static REQUEST_TOO_LARGE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        static UNSUPPORTED_CODING: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        static UNSUPPORTED_FIELD: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        static UPSTREAM_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        static UPSTREAM_PROTOCOL: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let (cell, name) = match self {
            Self::BadRequest => (&BAD_REQUEST, "BadRequest"),
            Self::HeadTooLarge => (&HEAD_TOO_LARGE, "HeadTooLarge"),
            Self::TargetTooLong => (&TARGET_TOO_LONG, "TargetTooLong"),
            Self::ExpectationFailed => (&EXPECTATION_FAILED, "ExpectationFailed"),
            Self::Overloaded => (&OVERLOADED, "Overloaded"),
            Self::RequestTooLarge => (&REQUEST_TOO_LARGE, "RequestTooLarge"),
            Self::UnsupportedCoding => (&UNSUPPORTED_CODING, "UnsupportedCoding"),
            Self::UnsupportedField => (&UNSUPPORTED_FIELD, "UnsupportedField"),
            Self::UpstreamError => (&UPSTREAM_ERROR, "UpstreamError"),
            Self::UpstreamProtocolError => (&UPSTREAM_PROTOCOL, "UpstreamProtocolError"),
        };
        cell.import(py, "budgateway.errors", name)
    }
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        error.0
    }
}

impl From<PyErr> for Error {
    fn from(error: PyErr) -> Self {
        Self(error)
    }
}

impl From<CodingError> for Error {
    fn from(error: CodingError) -> Self {
        let class = match error {
            CodingError::Unknown => Class::UnsupportedCoding,
            CodingError::Busy => Class::Overloaded,
            CodingError::TooLarge(_) | CodingError::Bomb => Class::RequestTooLarge,
            _ => Class::BadRequest,
        };
        Self::gateway(class, error.to_string())
    }
}

impl From<JsonError> for Error {
    fn from(error: JsonError) -> Self {
        Self::gateway(Class::BadRequest, error.to_string())
    }
}

impl From<FieldsError> for Error {
    fn from(error: FieldsError) -> Self {
        Self::value(error.to_string())
    }
}

impl From<SpliceError> for Error {
    fn from(error: SpliceError) -> Self {
        Self::value(error.to_string())
    }
}

impl From<SegmentError> for Error {
    fn from(error: SegmentError) -> Self {
        match error {
            SegmentError::System(error) => Self(error.into()),
            error => Self::value(error.to_string()),
        }
    }
}

impl From<LimitError> for Error {
    fn from(error: LimitError) -> Self {
        Self::value(error.to_string())
    }
}

impl From<SelectError> for Error {
    fn from(error: SelectError) -> Self {
        Self::value(error.to_string())
    }
}
