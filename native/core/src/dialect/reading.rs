//! Shared by all readers: bounds, flags, errors.

use super::words::{Ask, Fault, Knob, Sink, Source, Word};
use crate::json::tape::{Kind, Value};

/// Most messages and parts of one request.
pub(super) const MAX_PARTS: usize = 64 * 1024;
/// Most tool calls of one answer.
pub(super) const MAX_CALLS: usize = 1024;
/// Most parts of one answer that is kept whole.
pub(super) const MAX_BLOCKS: usize = 4096;
/// Bytes of a stream that are held back to be put in order.
pub(super) const MAX_HELD_BYTES: usize = 1 << 20;
/// Passes on the error that an answer holds, by Anthropic's name for its kind.
pub(super) fn fault_of(answer: Value<'_>, sink: &mut impl Sink) -> Result<(), Fault> {
    let error = answer.get("error");
    let inside = |name: &str| error.and_then(|error| error.get(name));
    let message = inside("message").or(error).and_then(Value::text);
    let status = ["code", "status", "status_code"]
        .iter()
        .find_map(|name| inside(name)?.count());
    let said = [inside("type"), inside("code")];
    let said = said.into_iter().flatten().find_map(Value::text).unwrap_or_default();
    let kind: &[u8] = match (said, status) {
        (b"rate_limit_error" | b"rate_limit_exceeded" | b"insufficient_quota" | b"RESOURCE_EXHAUSTED", _)
        | (_, Some(429)) => b"rate_limit_error",
        (b"overloaded_error" | b"overloaded" | b"UNAVAILABLE", _) | (_, Some(503 | 529)) => b"overloaded_error",
        (b"invalid_request_error" | b"context_length_exceeded" | b"BadRequestError", _) | (_, Some(400..=499)) => {
            b"invalid_request_error"
        }
        _ => b"api_error",
    };
    sink.word(Word::Fault {
        message: message.unwrap_or(b"the upstream reported an error"),
        kind,
    })
}

/// Notes a setting of the sampler, unless it is null.
pub(super) fn knob<'a>(ask: &mut Ask<'a>, name: &'static str, said: &'static str, value: Value<'a>) {
    if !value.is_null() {
        ask.knobs.push(Knob {
            name,
            said,
            value: value.raw(),
        });
    }
}

/// True for `true`.
pub(super) fn flag(value: Value<'_>) -> bool {
    value.kind() == Kind::True
}

/// False for null, `false`, and what is empty: the API's defaults.
pub(super) fn is_set(value: Value<'_>) -> bool {
    !matches!(value.raw(), b"null" | b"false" | b"\"\"")
        && (value.kind() != Kind::Object || value.members().next().is_some())
        && (value.kind() != Kind::Array || value.elements().next().is_some())
}

/// An image or a document by its URL, which may hold its bytes.
pub(super) fn data_url(url: &[u8]) -> Source<'_> {
    let inside = || {
        let rest = url.strip_prefix(b"data:")?;
        let comma = memchr::memchr(b',', rest)?;
        let (media, data) = (rest.get(..comma)?, rest.get(comma + 1..)?);
        Some((media.strip_suffix(b";base64")?, data))
    };
    match inside() {
        Some((media, data)) => Source::Base64 {
            media: media.into(),
            data,
        },
        None => Source::Url(url.into()),
    }
}
