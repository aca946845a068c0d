//! Bindings of `core::head`: HTTP/1.1 heads.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use budgateway_core::head::{self as core, Field, Framing, HeadError};
use budgateway_core::price::LimitLines;
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyString};
use rustix::time::{ClockId, clock_gettime};

use crate::error::{Class, Error};
use crate::limits::Reservation;
use crate::redact::Redactor;

pub(crate) use core::flag;

/// Cells of a head's facts: size, flags, content length, status (of a request: its dialect), and the time it was read.
pub(crate) const FACTS: usize = 5;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct HeadReader {
    facts: PyBuffer<i64>,
    doubtful: Vec<PyBackedBytes>,
    dialects: core::Dialects,
    last: Mutex<core::LastHost>,
}

#[pymethods]
impl HeadReader {
    #[new]
    #[pyo3(signature = (facts, doubtful = Vec::new(), dialects = Vec::new(), /))]
    fn new(facts: PyBuffer<i64>, doubtful: Vec<PyBackedBytes>, dialects: Vec<(String, String)>) -> Result<Self, Error> {
        if facts.item_count() == FACTS && facts.is_c_contiguous() && !facts.readonly() {
            let rules = dialects.iter().map(|(method, path)| (method.as_str(), path.as_str()));
            Ok(Self {
                facts,
                doubtful,
                dialects: core::Dialects::new(rules),
                last: Mutex::default(),
            })
        } else {
            Err(Error::value(format!(
                "the facts must be {FACTS} contiguous cells of 64 bits"
            )))
        }
    }

    #[pyo3(signature = (data, /))]
    fn request(&self, data: Bound<'_, PyBytes>) -> Result<Option<RequestHead>, Error> {
        let py = data.py();
        let parsed = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            core::RequestHead::parse_after(data.as_bytes(), &mut last).map_err(request_error)?
        };
        let Some(inner) = parsed else { return Ok(None) };
        let dialect = self
            .dialects
            .of(inner.method(data.as_bytes()), inner.path(data.as_bytes()));
        let head = RequestHead::of(inner, data);
        let inner = &head.inner;
        self.note(
            py,
            [
                inner.size as i64,
                inner.flags.into(),
                signed(inner.content_length),
                dialect as i64,
                now_ns(),
            ],
        )?;
        Ok(Some(head))
    }

    #[pyo3(signature = (head, /))]
    fn dialect(&self, py: Python<'_>, head: &RequestHead) -> usize {
        let (head, bytes) = head.core(py);
        self.dialects.of(head.method(bytes), head.path(bytes))
    }

    #[pyo3(signature = (data, /))]
    fn dialect_in(&self, data: &[u8]) -> usize {
        self.dialects.of_first_line(data)
    }

    #[pyo3(signature = (data, is_head, /))]
    fn response(&self, data: Bound<'_, PyBytes>, is_head: bool) -> Result<Option<ResponseHead>, Error> {
        let py = data.py();
        let Some(head) = ResponseHead::parse(data, 0, is_head)? else {
            return Ok(None);
        };
        let inner = &head.inner;
        let length = signed(inner.content_length);
        let mut doubtful = if head.whole(py).is_some_and(|body| is_doubtful(&self.doubtful, body)) {
            flag::DOUBTFUL
        } else {
            0
        };
        if inner.is_located(head.source.bytes(py)) {
            doubtful |= flag::LOCATED;
        }
        self.note(
            py,
            [
                inner.size as i64,
                (inner.flags | doubtful).into(),
                length,
                inner.status.into(),
                now_ns(),
            ],
        )?;
        Ok(Some(head))
    }
}

/// True when the body may not be an answer: it is empty, or begins with one of `starts`.
pub(crate) fn is_doubtful(starts: &[PyBackedBytes], body: &[u8]) -> bool {
    body.is_empty() || starts.iter().any(|start| body.starts_with(start))
}

/// Reads the clock of `time.monotonic_ns` without a call into Python.
pub(crate) fn now_ns() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

impl HeadReader {
    /// The numbers go through a buffer: creating four Python ints costs as much as scanning a short head.
    fn note(&self, py: Python<'_>, facts: [i64; FACTS]) -> Result<(), Error> {
        Ok(self.facts.copy_from_slice(py, &facts)?)
    }
}

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct RequestHead {
    inner: core::RequestHead,
    source: Source,
}

#[pymethods]
impl RequestHead {
    #[staticmethod]
    #[pyo3(signature = (data, start = 0))]
    fn parse(data: Bound<'_, PyBytes>, start: usize) -> Result<Option<Self>, Error> {
        let parsed = core::RequestHead::parse(from(&data, start)).map_err(request_error)?;
        Ok(parsed.map(|inner| Self {
            source: Source::new(data, start, inner.size),
            inner,
        }))
    }

    #[getter]
    fn size(&self) -> usize {
        self.inner.size
    }

    #[getter]
    fn flags(&self) -> u16 {
        self.inner.flags
    }

    #[getter]
    fn content_length(&self) -> i64 {
        signed(self.inner.content_length)
    }

    #[getter]
    fn method<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        latin1(py, self.inner.method(self.bytes(py)))
    }

    #[getter]
    fn path<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        latin1(py, self.inner.path(self.bytes(py)))
    }

    #[getter]
    fn query<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        latin1(py, self.inner.query(self.bytes(py)))
    }

    #[getter]
    fn host<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        lower(py, self.inner.host(self.bytes(py)))
    }

    #[getter]
    fn request_id<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyString>> {
        Some(latin1(py, self.inner.request_id(self.bytes(py))?))
    }

    fn header<'py>(&self, py: Python<'py>, name: &str) -> Option<Bound<'py, PyString>> {
        let bytes = self.bytes(py);
        Some(latin1(py, self.inner.find(bytes, name.as_bytes())?.value(bytes)))
    }

    fn headers<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyString>, Bound<'py, PyString>)> {
        pairs(py, &self.inner.fields, self.bytes(py))
    }
}

impl RequestHead {
    /// Wraps a head that was scanned from the beginning of `data`.
    pub(crate) fn of(inner: core::RequestHead, data: Bound<'_, PyBytes>) -> Self {
        Self {
            source: Source::new(data, 0, inner.size),
            inner,
        }
    }

    /// The scanned head, and the bytes that its spans index.
    pub(crate) fn core<'a>(&'a self, py: Python<'a>) -> (&'a core::RequestHead, &'a [u8]) {
        (&self.inner, self.bytes(py))
    }

    fn bytes<'a>(&'a self, py: Python<'a>) -> &'a [u8] {
        self.source.bytes(py)
    }
}

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct HeadEdits {
    pub(crate) inner: core::HeadEdits,
}

#[pymethods]
impl HeadEdits {
    #[new]
    #[pyo3(signature = (target = None, lines = Vec::new(), drop = Vec::new()))]
    fn new(target: Option<&str>, lines: Vec<(String, String)>, drop: Vec<String>) -> Result<Self, Error> {
        core::HeadEdits::new(target, &borrowed(&lines), &texts(&drop))
            .map(|inner| Self { inner })
            .map_err(|error| Error::value(error.to_string()))
    }

    #[getter]
    fn target(&self) -> Option<String> {
        let (path, query) = self.inner.target()?;
        let mut target = String::from_utf8_lossy(path).into_owned();
        if !query.is_empty() {
            target.push('?');
            target.push_str(&String::from_utf8_lossy(query));
        }
        Some(target)
    }

    fn at(&self, target: &str) -> Result<Self, Error> {
        let edits = self.inner.at(target);
        edits
            .map(|inner| Self { inner })
            .map_err(|error| Error::value(error.to_string()))
    }

    #[pyo3(name = "with_lines", signature = (lines, drop))]
    fn with(&self, lines: Vec<(String, String)>, drop: Vec<String>) -> Result<Self, Error> {
        let edits = self.inner.with(&borrowed(&lines), &texts(&drop));
        edits
            .map(|inner| Self { inner })
            .map_err(|error| Error::value(error.to_string()))
    }
}

fn borrowed(lines: &[(String, String)]) -> Vec<(&str, &str)> {
    lines
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

fn texts(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct RequestHeadWriter {
    pub(crate) inner: core::RequestHeadWriter,
}

#[pymethods]
impl RequestHeadWriter {
    #[new]
    #[pyo3(signature = (host, prefix, strip, allow, fixed, without = Vec::new()))]
    fn new(
        host: &str,
        prefix: &str,
        strip: &str,
        allow: Vec<String>,
        fixed: Vec<(String, String)>,
        without: Vec<String>,
    ) -> Result<Self, Error> {
        core::RequestHeadWriter::new(host, prefix, strip, &texts(&allow), &borrowed(&fixed))
            .and_then(|writer| writer.without(&texts(&without)))
            .map(|inner| Self { inner })
            .map_err(|error| Error::value(error.to_string()))
    }

    #[pyo3(signature = (head, request_id, content_length, edits = None))]
    fn write<'py>(
        &self,
        py: Python<'py>,
        head: &Bound<'py, RequestHead>,
        request_id: &str,
        content_length: i64,
        edits: Option<&HeadEdits>,
    ) -> Result<Bound<'py, PyBytes>, Error> {
        let plan = self.plan(py, head.get(), request_id, framing(content_length)?, edits)?;
        Ok(PyBytes::new_with(py, plan.len(), |out| {
            plan.write(out);
            Ok(())
        })?)
    }

    #[pyo3(signature = (head, is_head, /))]
    fn relocate(&self, py: Python<'_>, head: Py<ResponseHead>, is_head: bool) -> Result<Py<ResponseHead>, Error> {
        let given = head.get();
        let bytes = given.source.bytes(py);
        let found = given.inner.scan_relocated(bytes, &self.inner, is_head);
        let Some((inner, mut anew)) =
            found.map_err(|error| Error::gateway(Class::UpstreamProtocolError, error.to_string()))?
        else {
            return Ok(head);
        };
        anew.extend_from_slice(given.whole(py).unwrap_or_default());
        let data = PyBytes::new(py, &anew);
        let source = Source::all(data, 0);
        Ok(Py::new(py, ResponseHead { inner, source })?)
    }

    #[pyo3(signature = (head, request_id, body, edits = None, /))]
    fn write_whole<'py>(
        &self,
        py: Python<'py>,
        head: &Bound<'py, RequestHead>,
        request_id: &str,
        body: &Bound<'py, PyBytes>,
        edits: Option<&HeadEdits>,
    ) -> Result<Bound<'py, PyBytes>, Error> {
        let body = body.as_bytes();
        let plan = self.plan(py, head.get(), request_id, Framing::Length(body.len() as u64), edits)?;
        join(py, plan.len(), |out| plan.write(out), body)
    }
}

impl RequestHeadWriter {
    #[inline]
    fn plan<'a>(
        &'a self,
        py: Python<'a>,
        head: &'a RequestHead,
        request_id: &'a str,
        framing: Framing,
        edits: Option<&'a HeadEdits>,
    ) -> Result<core::RequestPlan<'a>, Error> {
        let (head, bytes) = head.core(py);
        match edits {
            None => self.inner.plan(head, bytes, request_id.as_bytes(), framing),
            Some(edits) => self
                .inner
                .plan_edited(head, bytes, request_id.as_bytes(), framing, &edits.inner),
        }
        .map_err(|error| Error::value(error.to_string()))
    }
}

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct ResponseHead {
    inner: core::ResponseHead,
    source: Source,
}

#[pymethods]
impl ResponseHead {
    #[staticmethod]
    #[pyo3(signature = (data, start = 0, is_head = false))]
    fn parse(data: Bound<'_, PyBytes>, start: usize, is_head: bool) -> Result<Option<Self>, Error> {
        let parsed = core::ResponseHead::parse(from(&data, start), is_head)
            .map_err(|error| Error::gateway(Class::UpstreamProtocolError, error.to_string()))?;
        Ok(parsed.map(|inner| Self {
            source: match inner.message() {
                // A complete message is short-lived, so its bytes are not copied.
                Some(end) if end <= data.as_bytes().len() - start => Source::all(data, start),
                _ => Source::new(data, start, inner.size),
            },
            inner,
        }))
    }

    /// The body, when the scanned bytes held the whole message.
    pub(crate) fn body<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.whole(py).map(|body| PyBytes::new(py, body))
    }

    #[getter]
    fn size(&self) -> usize {
        self.inner.size
    }

    #[getter]
    fn flags(&self) -> u16 {
        self.inner.flags
    }

    #[getter]
    fn status(&self) -> u16 {
        self.inner.status
    }

    #[getter]
    fn content_length(&self) -> i64 {
        signed(self.inner.content_length)
    }

    fn header<'py>(&self, py: Python<'py>, name: &str) -> Option<Bound<'py, PyString>> {
        let bytes = self.source.bytes(py);
        Some(latin1(py, self.inner.find(bytes, name.as_bytes())?.value(bytes)))
    }

    fn headers<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyString>, Bound<'py, PyString>)> {
        pairs(py, &self.inner.fields, self.source.bytes(py))
    }
}

impl ResponseHead {
    /// The head's own bytes.
    fn bytes<'a>(&'a self, py: Python<'a>) -> &'a [u8] {
        self.source.bytes(py).get(..self.inner.size).unwrap_or_default()
    }

    /// The body, when the message is complete and has one.
    pub(crate) fn whole<'a>(&'a self, py: Python<'a>) -> Option<&'a [u8]> {
        self.source.bytes(py).get(self.inner.size..self.inner.message()?)
    }
}

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct ResponseHeadWriter {
    inner: core::ResponseHeadWriter,
}

#[pymethods]
impl ResponseHeadWriter {
    #[new]
    #[pyo3(signature = (drop = Vec::new()))]
    fn new(drop: Vec<String>) -> Result<Self, Error> {
        let drop: Vec<&str> = drop.iter().map(String::as_str).collect();
        core::ResponseHeadWriter::new(&drop)
            .map(|inner| Self { inner })
            .map_err(|error| Error::value(error.to_string()))
    }

    #[pyo3(signature = (
        head, content_length, keep_alive, request_id, lines, attempts, overhead_us, reservation = None, redactor = None, /
    ))]
    #[allow(clippy::too_many_arguments, reason = "one crossing a response, no object for it")]
    fn write<'py>(
        &self,
        py: Python<'py>,
        head: &Bound<'py, ResponseHead>,
        content_length: i64,
        keep_alive: bool,
        request_id: &str,
        lines: &[u8],
        attempts: u64,
        overhead_us: u64,
        reservation: Option<&Reservation>,
        redactor: Option<&Redactor>,
    ) -> Result<Bound<'py, PyBytes>, Error> {
        let head = head.get();
        let limits = limit_lines(reservation);
        let disclosure = core::Disclosure {
            request_id: request_id.as_bytes(),
            lines,
            limits: limits.as_bytes(),
            attempts,
            overhead_us,
        };
        let bytes = blotted(redactor, head.bytes(py));
        let plan = self
            .inner
            .plan(&head.inner, &bytes, framing(content_length)?, keep_alive, &disclosure)
            .map_err(|error| Error::value(error.to_string()))?;
        Ok(PyBytes::new_with(py, plan.len(), |out| {
            plan.write(out);
            Ok(())
        })?)
    }

    #[pyo3(signature = (head, keep_alive, request_id, lines, attempts, overhead_us, reservation = None, redactor = None, /))]
    #[allow(clippy::too_many_arguments, reason = "one crossing a response, no object for it")]
    fn write_whole<'py>(
        &self,
        py: Python<'py>,
        head: &Bound<'py, ResponseHead>,
        keep_alive: bool,
        request_id: &str,
        lines: &[u8],
        attempts: u64,
        overhead_us: u64,
        reservation: Option<&Reservation>,
        redactor: Option<&Redactor>,
    ) -> Result<Bound<'py, PyBytes>, Error> {
        let head = head.get();
        let limits = limit_lines(reservation);
        let body = head
            .whole(py)
            .ok_or_else(|| Error::value("the message has no whole body"))?;
        // A model's output holds none of our secrets; an upstream's error text may.
        let tells_error = !(200..300).contains(&head.inner.status) || is_error(body);
        let body = blotted(redactor.filter(|_| tells_error), body);
        let disclosure = core::Disclosure {
            request_id: request_id.as_bytes(),
            lines,
            limits: limits.as_bytes(),
            attempts,
            overhead_us,
        };
        let bytes = blotted(redactor, head.bytes(py));
        let framing = Framing::Length(body.len() as u64);
        let plan = self
            .inner
            .plan(&head.inner, &bytes, framing, keep_alive, &disclosure)
            .map_err(|error| Error::value(error.to_string()))?;
        join(py, plan.len(), |out| plan.write(out), &body)
    }
}

/// True when a document is an error, whatever its status.
fn is_error(body: &[u8]) -> bool {
    let body = body.trim_ascii_start();
    [&b"{\"error\""[..], b"{\"object\":\"error\"", b"{\"object\": \"error\""]
        .iter()
        .any(|start| body.starts_with(start))
}

/// Removes our secrets from a head or a body before it is sent.
fn blotted<'a>(redactor: Option<&Redactor>, bytes: &'a [u8]) -> Cow<'a, [u8]> {
    match redactor {
        Some(redactor) if redactor.inner.finds(bytes) => {
            let mut bytes = bytes.to_vec();
            redactor.inner.blot(&mut bytes);
            Cow::Owned(bytes)
        }
        _ => Cow::Borrowed(bytes),
    }
}

/// Joins a head and its body into one `bytes`.
pub(crate) fn join<'py>(
    py: Python<'py>,
    size: usize,
    write: impl FnOnce(&mut [u8]),
    body: &[u8],
) -> Result<Bound<'py, PyBytes>, Error> {
    Ok(PyBytes::new_with(py, size + body.len(), |out| {
        if let Some((head, rest)) = out.split_at_mut_checked(size) {
            write(head);
            rest.copy_from_slice(body);
        }
        Ok(())
    })?)
}

/// The limit headers of an answer.
#[inline]
pub(crate) fn limit_lines(reservation: Option<&Reservation>) -> LimitLines {
    let mut lines = LimitLines::new();
    if let Some(reservation) = reservation {
        reservation.write_lines(&mut lines);
    }
    lines
}

/// Maximum surplus bytes that a head keeps alive rather than being copied out of them.
const MAX_KEPT_BEHIND: usize = 1024;

/// The bytes that a head was scanned from.
struct Source {
    data: Py<PyBytes>,
    start: usize,
}

impl Source {
    fn all(data: Bound<'_, PyBytes>, start: usize) -> Self {
        let data = data.unbind();
        Self { data, start }
    }

    /// Copies the head out when more than `MAX_KEPT_BEHIND` bytes follow it: a head may live as long as its stream.
    fn new(data: Bound<'_, PyBytes>, start: usize, size: usize) -> Self {
        let bytes = data.as_bytes();
        if bytes.len() - size > MAX_KEPT_BEHIND {
            let head = bytes.get(start..start + size).unwrap_or_default();
            return Self {
                data: PyBytes::new(data.py(), head).unbind(),
                start: 0,
            };
        }
        Self {
            data: data.unbind(),
            start,
        }
    }

    fn bytes<'a>(&'a self, py: Python<'a>) -> &'a [u8] {
        self.data.as_bytes(py).get(self.start..).unwrap_or_default()
    }
}

fn from<'a>(data: &'a Bound<'_, PyBytes>, start: usize) -> &'a [u8] {
    data.as_bytes().get(start..).unwrap_or_default()
}

fn request_error(error: HeadError) -> Error {
    let class = match error {
        HeadError::HeadTooLarge | HeadError::LineTooLong | HeadError::TooManyHeaders => Class::HeadTooLarge,
        HeadError::TargetTooLong => Class::TargetTooLong,
        HeadError::Expectation => Class::ExpectationFailed,
        _ => Class::BadRequest,
    };
    Error::gateway(class, error.to_string())
}

fn framing(content_length: i64) -> Result<Framing, Error> {
    match content_length {
        -1 => Ok(Framing::None),
        -2 => Ok(Framing::Chunked),
        length => u64::try_from(length)
            .map(Framing::Length)
            .map_err(|_| Error::value("content_length is -1, -2 or a length")),
    }
}

fn signed(length: Option<u64>) -> i64 {
    length.and_then(|length| i64::try_from(length).ok()).unwrap_or(-1)
}

fn pairs<'py>(py: Python<'py>, fields: &[Field], head: &[u8]) -> Vec<(Bound<'py, PyString>, Bound<'py, PyString>)> {
    fields
        .iter()
        .map(|field| (lower(py, field.name(head)), latin1(py, field.value(head))))
        .collect()
}

/// Decodes Latin-1: each byte is the code point of the same number.
fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.is_ascii() => PyString::new(py, text),
        _ => PyString::new(py, &bytes.iter().map(|byte| *byte as char).collect::<String>()),
    }
}

fn lower<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    latin1(py, &bytes.to_ascii_lowercase())
}
