//! Bindings of `core::json`: `Peeker` and `BodyPeek`.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use budgateway_core::json::{Fields, JsonError, Members, Splice, asking_options, is_clear, unescape};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBytes, PyString};

use crate::error::Error;

const DEFAULT_FIELDS: [&str; 7] = [
    "model",
    "stream",
    "user",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "stream_options",
];

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Peeker {
    fields: Fields,
    model: Option<usize>,
    stream: Option<usize>,
    user: Option<usize>,
    max_completion_tokens: Option<usize>,
    max_output_tokens: Option<usize>,
    max_tokens: Option<usize>,
    stream_options: Option<usize>,
    /// A cache of one: most requests name the same model as the previous one.
    last_model: Mutex<Option<Remembered>>,
}

/// A model's name: its raw bytes, and the Python string.
type Remembered = (Box<[u8]>, Py<PyString>);

/// Longer names are not cached: no model has one.
const MAX_REMEMBERED: usize = 256;

#[pymethods]
impl Peeker {
    #[new]
    #[pyo3(signature = (fields=None))]
    #[pyo3(
        text_signature = "(fields=('model', 'stream', 'user', 'max_tokens', 'max_completion_tokens', 'max_output_tokens', 'stream_options'))"
    )]
    fn new(fields: Option<Vec<PyBackedStr>>) -> Result<Self, Error> {
        let fields = match fields {
            Some(names) => Fields::exacting(names),
            None => Fields::exacting(DEFAULT_FIELDS),
        }?;
        Ok(Self {
            model: fields.index("model"),
            stream: fields.index("stream"),
            user: fields.index("user"),
            max_completion_tokens: fields.index("max_completion_tokens"),
            max_output_tokens: fields.index("max_output_tokens"),
            max_tokens: fields.index("max_tokens"),
            stream_options: fields.index("stream_options"),
            last_model: Mutex::default(),
            fields,
        })
    }

    fn peek(slf: &Bound<'_, Self>, body: &Bound<'_, PyBytes>) -> Result<BodyPeek, Error> {
        let members = slf.get().members(body.as_bytes())?;
        Ok(BodyPeek {
            peeker: slf.clone().unbind(),
            body: body.clone().unbind(),
            members,
        })
    }
}

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct BodyPeek {
    peeker: Py<Peeker>,
    body: Py<PyBytes>,
    members: Members,
}

/// The fields of a body, for a native caller.
pub(crate) struct Said {
    /// The span of the model's name, still escaped.
    pub(crate) model: Option<Range<usize>>,
    pub(crate) is_stream: bool,
    pub(crate) max_tokens: Option<u64>,
    /// The span of `user`, still escaped.
    pub(crate) user: Option<Range<usize>>,
}

impl Peeker {
    /// A peeker for the default fields.
    pub(crate) fn usual() -> Result<Self, Error> {
        Self::new(None)
    }

    fn members(&self, body: &[u8]) -> Result<Members, JsonError> {
        let members = self.fields.peek(body)?;
        match self.model {
            Some(model) if !members.raw_string(body, model).is_none_or(is_clear) => {
                Err(JsonError::Unclear(self.fields.name(model).into()))
            }
            _ => Ok(members),
        }
    }

    /// Reads the fields of a body; `None` when the body is rejected.
    pub(crate) fn look(&self, body: &[u8]) -> Option<Said> {
        let members = self.members(body).ok()?;
        let string = |field: usize| {
            members.raw_string(body, field)?;
            let span = members.span(field)?;
            Some(span.start + 1..span.end - 1)
        };
        let count = |field: Option<usize>| members.count(body, field?);
        Some(Said {
            model: self.model.and_then(string),
            is_stream: self.stream.and_then(|field| members.text(body, field)) == Some(b"true"),
            max_tokens: count(self.max_completion_tokens)
                .or_else(|| count(self.max_tokens))
                .or_else(|| count(self.max_output_tokens)),
            user: self.user.and_then(string),
        })
    }
}

impl BodyPeek {
    fn string<'py>(&self, py: Python<'py>, field: Option<usize>) -> Option<Bound<'py, PyString>> {
        let raw = self.members.raw_string(self.body.as_bytes(py), field?)?;
        Some(text(py, raw))
    }

    fn count(&self, py: Python<'_>, field: Option<usize>) -> Option<u64> {
        self.members.count(self.body.as_bytes(py), field?)
    }
}

#[pymethods]
impl BodyPeek {
    #[getter]
    fn model<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyString>> {
        let peeker = self.peeker.get();
        let raw = self.members.raw_string(self.body.as_bytes(py), peeker.model?)?;
        let mut last = peeker.last_model.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((bytes, name)) = last.as_ref()
            && **bytes == *raw
        {
            return Some(name.bind(py).clone());
        }
        let name = text(py, raw);
        if raw.len() <= MAX_REMEMBERED {
            *last = Some((raw.into(), name.clone().unbind()));
        }
        Some(name)
    }

    #[getter]
    fn stream(&self, py: Python<'_>) -> bool {
        let value = self
            .peeker
            .get()
            .stream
            .and_then(|field| self.members.text(self.body.as_bytes(py), field));
        value == Some(b"true")
    }

    #[getter]
    fn user<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyString>> {
        self.string(py, self.peeker.get().user)
    }

    #[getter]
    pub(crate) fn max_tokens(&self, py: Python<'_>) -> Option<u64> {
        let peeker = self.peeker.get();
        self.count(py, peeker.max_completion_tokens)
            .or_else(|| self.count(py, peeker.max_tokens))
            .or_else(|| self.count(py, peeker.max_output_tokens))
    }

    #[getter]
    fn asking_options<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        let field = self.peeker.get().stream_options?;
        let asking = asking_options(self.members.text(self.body.as_bytes(py), field))?;
        self.members.is_object().then(|| PyBytes::new(py, &asking))
    }

    fn span(&self, field: &str) -> Option<(usize, usize)> {
        let span = self.members.span(self.peeker.get().fields.index(field)?)?;
        Some((span.start, span.end))
    }

    fn rewrite<'py>(&self, py: Python<'py>, edits: &Bound<'py, PyAny>) -> Result<Bound<'py, PyBytes>, Error> {
        let fields = &self.peeker.get().fields;
        let mut owned: Vec<(usize, Option<Bound<'py, PyBytes>>)> = Vec::with_capacity(4);
        for edit in edits.try_iter()? {
            let (name, value): (Bound<'py, PyString>, Option<Bound<'py, PyBytes>>) = edit?.extract()?;
            let name = name.to_str()?;
            let field = fields
                .index(name)
                .ok_or_else(|| Error::value(format!("'{name}' is not a wanted field")))?;
            owned.push((field, value));
        }
        let edits = owned
            .iter()
            .map(|(field, value)| (*field, value.as_ref().map(|value| value.as_bytes())));
        let splice = Splice::plan(fields, &self.members, self.body.as_bytes(py), edits)?;
        // A writer, because `new_with` zeroes the bytes first.
        Ok(PyBytes::new_with_writer(py, splice.len(), |out| {
            splice.pieces(|piece| out.write_bytes(piece))
        })?)
    }
}

/// The content of a JSON string as a Python string.
fn text<'py>(py: Python<'py>, raw: &[u8]) -> Bound<'py, PyString> {
    match std::str::from_utf8(raw) {
        Ok(text) if !text.contains('\\') => PyString::new(py, text),
        _ => PyString::new(py, &unescape(raw)),
    }
}
