//! Bytes that were read, or are to be written: a Python object or a read buffer.

use std::sync::Arc;

use budgateway_core::rooms::Room;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Bytes from a read stay in their buffer until something needs them as a Python object.
pub(crate) enum Data {
    Bytes(Py<PyBytes>),
    Room(Arc<Room>),
}

impl Data {
    pub(crate) fn copy_of(py: Python<'_>, bytes: &[u8]) -> Self {
        Self::Bytes(PyBytes::new(py, bytes).unbind())
    }

    pub(crate) fn bytes<'a>(&'a self, py: Python<'a>) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes.as_bytes(py),
            Self::Room(room) => room.bytes(),
        }
    }

    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Bytes(bytes) => Self::Bytes(bytes.clone_ref(py)),
            Self::Room(room) => Self::Room(room.clone()),
        }
    }

    /// Converts to a Python object; this is where a read buffer is copied.
    pub(crate) fn into_python(self, py: Python<'_>) -> Py<PyBytes> {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Room(room) => PyBytes::new(py, room.bytes()).unbind(),
        }
    }
}

impl From<Room> for Data {
    fn from(room: Room) -> Self {
        Self::Room(Arc::new(room))
    }
}

impl From<Py<PyBytes>> for Data {
    fn from(bytes: Py<PyBytes>) -> Self {
        Self::Bytes(bytes)
    }
}
