//! Writes answers of the Messages API: documents.

use super::super::collected::{Block, Collected};
use super::super::memory::{Memory, Naming};
use super::super::text::{Json, unescaped};
use super::super::words::{Counts, Fault, Stop};
use crate::json::tape::{Kind, Tape};

/// Writes a whole answer.
pub(in super::super) fn write(answer: &Collected, memory: &Memory, naming: &Naming) -> Result<Vec<u8>, Fault> {
    let stop = answer.ending.stop();
    let mut json = Json::with_capacity(answer.bytes + 512);
    json.open(b'{').key("id").value(&naming.id("msg_"));
    json.key("type")
        .text(b"message")
        .key("role")
        .text(b"assistant")
        .key("model")
        .value(&naming.model);
    json.key("content").open(b'[');
    let mut is_empty = true;
    for (index, block) in answer.blocks.iter().enumerate() {
        match block {
            Block::Text(text) | Block::Refusal(text) => {
                json.open(b'{')
                    .key("type")
                    .text(b"text")
                    .key("text")
                    .text(text)
                    .close(b'}');
            }
            Block::Thought { text, signature } => {
                json.open(b'{')
                    .key("type")
                    .text(b"thinking")
                    .key("thinking")
                    .text(text)
                    .key("signature");
                json.text(if signature.is_empty() { &naming.mark } else { signature })
                    .close(b'}');
            }
            Block::Sealed(data) => {
                json.open(b'{')
                    .key("type")
                    .text(b"redacted_thinking")
                    .key("data")
                    .text(data)
                    .close(b'}');
            }
            Block::Call {
                id, name, arguments, ..
            } => {
                json.open(b'{')
                    .key("type")
                    .text(b"tool_use")
                    .key("id")
                    .value(&naming.call_id(id, index));
                json.key("name").text(memory.name_of(name)).key("input");
                json.value(&object_of(arguments, stop)?).close(b'}');
            }
        }
        is_empty = false;
    }
    if is_empty {
        json.value(br#"{"type":"text","text":""}"#);
    }
    json.close(b']')
        .key("stop_reason")
        .text(word(stop))
        .key("stop_sequence");
    match answer.ending.sequence.as_ref() {
        Some(sequence) if stop == Stop::Sequence => json.text(sequence),
        _ => json.value(b"null"),
    };
    json.key("usage");
    let mut counts = answer.ending.counts;
    counts.input = counts.input.or(Some(memory.estimate));
    usage(counts, &mut json);
    json.close(b'}');
    Ok(json.0)
}

/// A call's arguments as an object. An answer that was cut has none: no client runs a call behind that reason.
pub(in super::super) fn object_of(arguments: &[u8], stop: Stop) -> Result<Vec<u8>, Fault> {
    let text = unescaped(arguments);
    if text.trim_ascii().is_empty() {
        return Ok(b"{}".to_vec());
    }
    let is_object = Tape::read(&text, Vec::new()).is_ok_and(|tape| tape.root().kind() == Kind::Object);
    match (is_object, stop) {
        (true, _) => Ok(text.trim_ascii().to_vec()),
        (false, Stop::Length | Stop::ContextFull) => Ok(b"{}".to_vec()),
        _ => Err(Fault("a tool call's arguments are no JSON object")),
    }
}

/// The API's word for a reason.
pub(in super::super) fn word(stop: Stop) -> &'static [u8] {
    match stop {
        Stop::End => b"end_turn",
        Stop::Sequence => b"stop_sequence",
        Stop::Length => b"max_tokens",
        Stop::ContextFull => b"model_context_window_exceeded",
        Stop::Tools => b"tool_use",
        Stop::Filter => b"refusal",
        Stop::Pause => b"pause_turn",
    }
}

/// Writes token counts: the input's are parts that add up.
pub(in super::super) fn usage(counts: Counts, json: &mut Json) {
    let (cached, written) = (counts.cached.unwrap_or(0), counts.written.unwrap_or(0));
    let rest = counts.input.unwrap_or(0).saturating_sub(cached.saturating_add(written));
    json.open(b'{').key("input_tokens").number(rest);
    json.key("cache_creation_input_tokens")
        .number(written)
        .key("cache_read_input_tokens")
        .number(cached);
    json.key("cache_creation")
        .open(b'{')
        .key("ephemeral_5m_input_tokens")
        .number(written);
    json.key("ephemeral_1h_input_tokens").number(0).close(b'}');
    json.key("output_tokens").number(counts.output.unwrap_or(0)).close(b'}');
}
