//! Writes answers of the Chat Completions API: documents.

use super::super::collected::{Block, Collected};
use super::super::memory::{Memory, Naming};
use super::super::text::{Json, input_of};
use super::super::words::{Counts, Stop};

/// Writes a whole answer.
pub(in super::super) fn write(answer: &Collected, memory: &Memory, naming: &Naming) -> Vec<u8> {
    let mut json = Json::with_capacity(answer.bytes + 512);
    json.open(b'{')
        .key("id")
        .value(&naming.id("chatcmpl-"))
        .key("object")
        .text(b"chat.completion");
    json.key("created")
        .number(naming.created)
        .key("model")
        .value(&naming.model);
    json.key("choices")
        .open(b'[')
        .open(b'{')
        .key("index")
        .number(0)
        .key("message")
        .open(b'{');
    json.key("role").text(b"assistant");
    let text = join(answer, |block| match block {
        Block::Text(text) => Some(text),
        _ => None,
    });
    match text {
        Some(text) => json.key("content").text(&text),
        None => json.key("content").value(b"null"),
    };
    let refusal = join(answer, |block| match block {
        Block::Refusal(text) => Some(text),
        _ => None,
    });
    match refusal {
        Some(text) => json.key("refusal").text(&text),
        None => json.key("refusal").value(b"null"),
    };
    let thought = join(answer, |block| match block {
        Block::Thought { text, .. } if !text.is_empty() => Some(text),
        _ => None,
    });
    if let Some(thought) = thought {
        json.key("reasoning_content").text(&thought);
    }
    if answer.ending.has_calls {
        json.key("tool_calls").open(b'[');
        for (index, block) in answer.blocks.iter().enumerate() {
            if let Block::Call {
                id, name, arguments, ..
            } = block
            {
                call(&mut json, memory, naming, index, id, name, arguments);
            }
        }
        json.close(b']');
    }
    signed(answer, &mut json);
    json.close(b'}').key("logprobs");
    if answer.logprobs.is_empty() {
        json.value(b"null");
    } else {
        json.open(b'{')
            .key("content")
            .open(b'[')
            .value(&answer.logprobs)
            .close(b']')
            .close(b'}');
    }
    json.key("finish_reason")
        .text(word(answer.ending.stop()))
        .close(b'}')
        .close(b']')
        .key("usage");
    usage(answer.ending.counts, &mut json);
    json.close(b'}');
    json.0
}

fn join<'a>(answer: &'a Collected, text: impl Fn(&'a Block) -> Option<&'a Vec<u8>>) -> Option<Vec<u8>> {
    answer.blocks.iter().filter_map(text).fold(None, |whole, text| {
        let mut whole: Vec<u8> = whole.unwrap_or_default();
        whole.extend_from_slice(text);
        Some(whole)
    })
}

fn call(json: &mut Json, memory: &Memory, naming: &Naming, index: usize, id: &[u8], name: &[u8], arguments: &[u8]) {
    let said = memory.name_of(name);
    json.open(b'{').key("id").value(&naming.call_id(id, index));
    if memory.is_custom(name) {
        json.key("type")
            .text(b"custom")
            .key("custom")
            .open(b'{')
            .key("name")
            .text(said);
        json.key("input").text(&input_of(arguments)).close(b'}').close(b'}');
        return;
    }
    json.key("type")
        .text(b"function")
        .key("function")
        .open(b'{')
        .key("name")
        .text(said);
    json.key("arguments")
        .text(if arguments.is_empty() { b"{}" } else { arguments })
        .close(b'}')
        .close(b'}');
}

/// Writes the reasoning that an upstream verifies when it comes back.
fn signed(answer: &Collected, json: &mut Json) {
    let is_signed = |block: &&Block| match block {
        Block::Thought { signature, .. } => !signature.is_empty(),
        Block::Sealed(_) => true,
        _ => false,
    };
    if !answer.blocks.iter().any(|block| is_signed(&block)) {
        return;
    }
    json.key("extra_content")
        .open(b'{')
        .key("anthropic")
        .open(b'{')
        .key("thinking")
        .open(b'[');
    for block in answer.blocks.iter().filter(is_signed) {
        match block {
            Block::Thought { text, signature } => {
                json.open(b'{')
                    .key("thinking")
                    .text(text)
                    .key("signature")
                    .text(signature)
                    .close(b'}');
            }
            Block::Sealed(data) => {
                json.open(b'{').key("data").text(data).close(b'}');
            }
            _ => {}
        }
    }
    json.close(b']').close(b'}').close(b'}');
}

/// The API's word for a reason.
pub(in super::super) fn word(stop: Stop) -> &'static [u8] {
    match stop {
        Stop::End | Stop::Sequence | Stop::Pause => b"stop",
        Stop::Length | Stop::ContextFull => b"length",
        Stop::Tools => b"tool_calls",
        Stop::Filter => b"content_filter",
    }
}

/// Writes token counts.
pub(in super::super) fn usage(counts: Counts, json: &mut Json) {
    let (input, output) = (counts.input.unwrap_or(0), counts.output.unwrap_or(0));
    json.open(b'{')
        .key("prompt_tokens")
        .number(input)
        .key("completion_tokens")
        .number(output);
    json.key("total_tokens").number(input.saturating_add(output));
    json.key("prompt_tokens_details")
        .open(b'{')
        .key("cached_tokens")
        .number(counts.cached.unwrap_or(0));
    if let Some(written) = counts.written {
        json.key("cache_write_tokens").number(written);
    }
    json.close(b'}').key("completion_tokens_details").open(b'{');
    json.key("reasoning_tokens")
        .number(counts.reasoning.unwrap_or(0))
        .close(b'}')
        .close(b'}');
}
