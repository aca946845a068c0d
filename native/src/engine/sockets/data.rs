//! Bytes that were read, or are to be written: a Python object or a read buffer.

use std::sync::Arc;

use budgateway_core::read_buffers::ReadBuffer;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustix::io::Errno;

/// Bytes from a read stay in their buffer until something needs them as a Python object.
pub(crate) enum Data {
    Bytes(Py<PyBytes>),
    Buffer(Arc<ReadBuffer>),
}

/// The result of one read.
pub(crate) enum Read {
    Data(Data),
    End,
    Nothing,
    Failed(Errno),
}

impl Data {
    pub(crate) fn copy_of(py: Python<'_>, bytes: &[u8]) -> Self {
        Self::Bytes(PyBytes::new(py, bytes).unbind())
    }

    pub(crate) fn bytes<'a>(&'a self, py: Python<'a>) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes.as_bytes(py),
            Self::Buffer(buffer) => buffer.bytes(),
        }
    }

    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Bytes(bytes) => Self::Bytes(bytes.clone_ref(py)),
            Self::Buffer(buffer) => Self::Buffer(buffer.clone()),
        }
    }

    /// Converts to a Python object; this is where a read buffer is copied.
    pub(crate) fn into_python(self, py: Python<'_>) -> Py<PyBytes> {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Buffer(buffer) => PyBytes::new(py, buffer.bytes()).unbind(),
        }
    }
}

impl From<ReadBuffer> for Data {
    fn from(buffer: ReadBuffer) -> Self {
        Self::Buffer(Arc::new(buffer))
    }
}

impl From<Py<PyBytes>> for Data {
    fn from(bytes: Py<PyBytes>) -> Self {
        Self::Bytes(bytes)
    }
}
