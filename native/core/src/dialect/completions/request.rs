//! Reads requests of the Completions API.

use super::super::loss::{Loss, Refusal};
use super::super::reading::{flag, is_set, knob};
use super::super::words::{Ask, Part, Turn, Who};
use crate::json::tape::{Kind, Value};

/// The API's own limit, where the client sets none.
const DEFAULT_LIMIT: &[u8] = b"16";

/// The settings that other dialects may have.
const KNOBS: [&str; 8] = [
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "n",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
];

/// Reads a request: its prompt is one message of the user.
pub(in super::super) fn read<'a>(body: Value<'a>, loss: &mut Loss<'_>) -> Result<Ask<'a>, Refusal> {
    let mut ask = Ask {
        limit: Some(DEFAULT_LIMIT),
        ..Ask::default()
    };
    for (name, value) in body.members() {
        match &*name {
            b"model" => {}
            b"prompt" => {
                let mut prompts = value.elements();
                let only = if value.kind() == Kind::Array {
                    prompts.next().filter(|_| prompts.next().is_none())
                } else {
                    Some(value)
                };
                let Some(text) = only.and_then(Value::text) else {
                    return Err(loss.refusal("prompt", "a prompt other than one text"));
                };
                ask.turns.push(Turn {
                    who: Who::User,
                    parts: vec![Part::Text(text.into(), None)],
                    at: 0,
                });
            }
            b"max_tokens" if !value.is_null() => ask.limit = Some(value.raw()),
            b"stream" => ask.stream = flag(value),
            b"stream_options" => ask.wants_usage = value.get("include_usage").is_some_and(flag),
            b"stop" => {
                ask.stop = value
                    .text()
                    .into_iter()
                    .chain(value.elements().filter_map(Value::text))
                    .collect();
            }
            b"user" => (ask.user, ask.user_name) = (value.text(), "user"),
            b"suffix" if is_set(value) => loss.lossy("suffix", "`suffix`")?,
            b"echo" if flag(value) => loss.lossy("echo", "`echo`")?,
            b"best_of" if value.count().is_some_and(|count| count > 1) => loss.lossy("best_of", "`best_of`")?,
            b"logprobs" if !value.is_null() => loss.lossy("logprobs", "`logprobs`")?,
            b"suffix" | b"echo" | b"best_of" | b"logprobs" => {}
            other => match KNOBS.iter().find(|knob| knob.as_bytes() == other) {
                Some(said) => knob(&mut ask, said, said, value),
                None if is_set(value) => ask.extras.push((name, value.raw())),
                None => {}
            },
        }
    }
    if ask.turns.is_empty() {
        return Err(Refusal::invalid("prompt", "`prompt` must be a text"));
    }
    Ok(ask)
}
