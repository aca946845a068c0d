//! Bindings of `core::dialect`: `Translator`, `Translation` and `AnswerTranslation`.

use std::sync::{Arc, Mutex, PoisonError};

use budgateway_core::dialect::{Answer, Dialect, InlineSystem, Memory, Naming, Refusal, Target, request};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::{Class, Error};

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Translator {
    client: Dialect,
    target: Target,
    provider: String,
}

#[pymethods]
impl Translator {
    #[new]
    #[pyo3(signature = (client, upstream, provider, *, is_openai, is_engine, drops, limit_field, reasoning_field,
        replays_reasoning, inline_system, tool_images_inline, passes_unknown, default_max_tokens))]
    #[allow(clippy::too_many_arguments, reason = "each is a keyword")]
    fn new(
        client: &str,
        upstream: &str,
        provider: &str,
        is_openai: bool,
        is_engine: bool,
        drops: bool,
        limit_field: String,
        reasoning_field: String,
        replays_reasoning: bool,
        inline_system: &str,
        tool_images_inline: bool,
        passes_unknown: bool,
        default_max_tokens: u64,
    ) -> Result<Self, Error> {
        let named = |name: &str| Dialect::named(name).ok_or_else(|| Error::value(format!("unknown dialect '{name}'")));
        let inline_system = match inline_system {
            "keep" => InlineSystem::Keep,
            "fold" => InlineSystem::Fold,
            "hoist" => InlineSystem::Hoist,
            other => return Err(Error::value(format!("unknown place of system messages '{other}'"))),
        };
        Ok(Self {
            client: named(client)?,
            target: Target {
                dialect: named(upstream)?,
                name: format!("{provider} ({upstream})"),
                is_openai,
                is_engine,
                drops,
                limit_field,
                reasoning_field,
                replays_reasoning,
                inline_system,
                tool_images_inline,
                passes_unknown,
                default_max_tokens,
            },
            provider: provider.into(),
        })
    }

    fn request(&self, py: Python<'_>, body: &[u8], model: &str) -> Result<Translation, Error> {
        let asked = request(self.client, &self.target, body, model)?;
        Ok(Translation {
            body: PyBytes::new(py, &asked.body).unbind(),
            estimate: asked.memory.estimate(),
            memory: Arc::new(asked.memory),
            dropped: asked.dropped,
            client: self.client,
            upstream: self.target.dialect,
            provider: self.provider.clone(),
        })
    }
}

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Translation {
    #[pyo3(get)]
    body: Py<PyBytes>,
    #[pyo3(get)]
    dropped: Vec<String>,
    #[pyo3(get)]
    estimate: u64,
    memory: Arc<Memory>,
    client: Dialect,
    upstream: Dialect,
    provider: String,
}

#[pymethods]
impl Translation {
    fn answer(
        &self,
        request_id: &str,
        model: &str,
        created: u64,
        is_stream: bool,
        to_stream: bool,
    ) -> AnswerTranslation {
        let naming = Naming::new(request_id, model, &self.provider, created);
        let memory = self.memory.clone();
        AnswerTranslation {
            inner: Mutex::new(Answer::new(
                memory,
                naming,
                self.upstream,
                self.client,
                is_stream,
                to_stream,
            )),
            provider: self.provider.clone(),
        }
    }
}

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct AnswerTranslation {
    inner: Mutex<Answer>,
    provider: String,
}

impl AnswerTranslation {
    fn with<'py>(
        &self,
        py: Python<'py>,
        room: usize,
        step: impl FnOnce(&mut Answer, &mut Vec<u8>) -> Result<(), budgateway_core::dialect::Fault>,
    ) -> Result<Bound<'py, PyBytes>, Error> {
        let mut out = Vec::with_capacity(room);
        step(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner), &mut out)
            .map_err(|fault| Error::gateway(Class::UpstreamError, format!("upstream {}: {fault}", self.provider)))?;
        Ok(PyBytes::new(py, &out))
    }
}

#[pymethods]
impl AnswerTranslation {
    fn feed<'py>(&self, py: Python<'py>, data: &[u8]) -> Result<Bound<'py, PyBytes>, Error> {
        self.with(py, data.len() + 256, |answer, out| answer.feed(data, out))
    }

    fn fail<'py>(&self, py: Python<'py>, kind: &str, message: &str) -> Result<Bound<'py, PyBytes>, Error> {
        self.with(py, 512, |answer, out| answer.fail(kind, message, out))
    }

    fn finish<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyBytes>, Error> {
        self.with(py, 512, Answer::finish)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let class = if refusal.is_unsupported {
            Class::UnsupportedField
        } else {
            Class::BadRequest
        };
        let hint = if refusal.may_be_dropped {
            "the operator can have it dropped with lossy = \"drop\""
        } else {
            ""
        };
        Self::of_field(class, refusal.message, refusal.param, refusal.code, hint)
    }
}
