//! Bindings of `core::transform`: rules for bodies and for the events of a stream.

use std::sync::{Arc, Mutex, PoisonError};

use budgateway_core::json::{Names, Path, quote, unescape};
use budgateway_core::sse::DataRewriter;
use budgateway_core::transform::{
    self as core, Condition, MAX_RULES, Mode, Operation, Rule, Scalar, Style, SystemText,
};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::Error;

/// A condition: its kind, its path, and JSON texts to compare with.
type ConditionWords = (String, String, Vec<String>);
/// An operation: its kind, and up to three words that depend on it.
type OperationWords = (String, String, Option<String>, Option<String>);

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Transform {
    inner: Arc<core::Transform>,
}

#[pymethods]
impl Transform {
    #[new]
    #[pyo3(signature = (rules, exacting, /))]
    fn new(rules: Vec<(Vec<ConditionWords>, Vec<OperationWords>)>, exacting: bool) -> Result<Self, Error> {
        if rules.len() > MAX_RULES {
            return Err(Error::value(format!("at most {MAX_RULES} rules, got {}", rules.len())));
        }
        let mut names = Names::default();
        let rules = rules
            .into_iter()
            .map(|(conditions, operations)| {
                let conditions = conditions.into_iter().map(|words| condition(&mut names, words));
                let conditions = conditions.collect::<Result<_, Error>>()?;
                let operations = operations.into_iter().map(|words| operation(&mut names, words));
                Ok(Rule::new(conditions, operations.collect::<Result<_, Error>>()?))
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self {
            inner: Arc::new(core::Transform::new(names, rules, exacting)),
        })
    }

    #[pyo3(signature = (body, mask, values = Vec::new(), /))]
    fn apply<'py>(
        &self,
        body: &Bound<'py, PyBytes>,
        mask: u64,
        values: Vec<Option<String>>,
    ) -> Result<Option<(Bound<'py, PyBytes>, u64)>, Error> {
        let py = body.py();
        let values = quoted(values);
        let Some(applied) = self.inner.apply(body.as_bytes(), mask, &values)? else {
            return Ok(None);
        };
        let edited = match applied.changed() {
            // A writer, because `new_with` zeroes the bytes first.
            Some(document) => PyBytes::new_with_writer(py, document.len(), |out| {
                document.pieces(|piece| out.write_bytes(piece))
            })?,
            None => body.clone(),
        };
        Ok(Some((edited, applied.held)))
    }

    #[pyo3(signature = (text, mask, values = Vec::new(), /))]
    fn edit<'py>(&self, text: &Bound<'py, PyBytes>, mask: u64, values: Vec<Option<String>>) -> Bound<'py, PyBytes> {
        match self.inner.edit(text.as_bytes(), mask, &quoted(values)) {
            Some(edited) => PyBytes::new(text.py(), &edited),
            None => text.clone(),
        }
    }
}

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct EventTransform {
    rules: Arc<core::Transform>,
    mask: u64,
    values: Vec<Option<Box<[u8]>>>,
    rewriter: Mutex<DataRewriter>,
}

#[pymethods]
impl EventTransform {
    #[new]
    #[pyo3(signature = (transform, mask, values = Vec::new(), /))]
    fn new(transform: &Transform, mask: u64, values: Vec<Option<String>>) -> Self {
        Self {
            rules: transform.inner.clone(),
            mask,
            values: quoted(values),
            rewriter: Mutex::default(),
        }
    }

    #[pyo3(signature = (data, /))]
    fn feed<'py>(&self, data: &Bound<'py, PyBytes>) -> Bound<'py, PyBytes> {
        let mut rewriter = self.rewriter.lock().unwrap_or_else(PoisonError::into_inner);
        let out = rewriter.feed(data.as_bytes(), |text| self.rules.edit(text, self.mask, &self.values));
        match out == data.as_bytes() {
            true => data.clone(),
            false => PyBytes::new(data.py(), out),
        }
    }

    fn finish<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let mut rewriter = self.rewriter.lock().unwrap_or_else(PoisonError::into_inner);
        PyBytes::new(py, &rewriter.finish())
    }
}

fn quoted(values: Vec<Option<String>>) -> Vec<Option<Box<[u8]>>> {
    values.into_iter().map(|value| value.map(|text| quote(&text))).collect()
}

fn path(names: &mut Names, text: &str) -> Result<Path, Error> {
    Path::parse(names, text).map_err(|error| Error::value(error.to_string()))
}

fn number(text: &str) -> Result<f64, Error> {
    text.parse()
        .map_err(|_| Error::value(format!("'{text}' is not a number")))
}

fn scalar(text: &str) -> Result<Scalar, Error> {
    let raw = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    Ok(match (raw, text) {
        (Some(raw), _) => Scalar::Text(unescape(raw.as_bytes()).into()),
        (_, "true") => Scalar::Bool(true),
        (_, "false") => Scalar::Bool(false),
        _ => Scalar::Number(number(text)?),
    })
}

fn condition(names: &mut Names, (kind, place, values): ConditionWords) -> Result<Condition, Error> {
    let path = path(names, &place)?;
    let bound = || number(values.first().map_or("", |text| text));
    Ok(match kind.as_str() {
        "present" => Condition::Present(path),
        "absent" => Condition::Absent(path),
        "in" => Condition::In(
            path,
            values.iter().map(|text| scalar(text)).collect::<Result<_, Error>>()?,
        ),
        "above" => Condition::Above(path, bound()?),
        "below" => Condition::Below(path, bound()?),
        _ => return Err(Error::value(format!("no such condition: '{kind}'"))),
    })
}

fn operation(names: &mut Names, (kind, place, word, other): OperationWords) -> Result<Operation, Error> {
    let word = word.unwrap_or_default();
    let json = || word.as_bytes().into();
    Ok(match kind.as_str() {
        "remove" => Operation::Remove(path(names, &place)?),
        "rename" => Operation::Rename(path(names, &place)?, names.intern(&word)),
        "default" => Operation::Default(path(names, &place)?, json()),
        "set" => Operation::Set(path(names, &place)?, json()),
        "set_from" => Operation::SetFrom(path(names, &place)?, number(&word)? as usize),
        "cap" => Operation::Cap {
            path: path(names, &place)?,
            max: number(&word)?,
            text: json(),
            default: other.map(|text| text.into_bytes().into()),
        },
        "system" => {
            let style = match place.as_str() {
                "chat" => Style::Chat,
                "messages" => Style::Messages,
                "responses" => Style::Responses,
                "gemini" => Style::Gemini,
                _ => return Err(Error::value(format!("no such style: '{place}'"))),
            };
            let mode = match word.as_str() {
                "prepend" => Mode::Prepend,
                "append" => Mode::Append,
                _ => Mode::Replace,
            };
            Operation::System(SystemText::new(names, style, mode, &other.unwrap_or_default()))
        }
        _ => return Err(Error::value(format!("no such operation: '{kind}'"))),
    })
}
