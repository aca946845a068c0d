//! Writes answers of the Completions API: documents.

use super::super::chat::answer::{usage, word};
use super::super::collected::{Block, Collected};
use super::super::memory::Naming;
use super::super::text::Json;

/// Writes a whole answer: its text. There are no calls, because the request declared no tools.
pub(in super::super) fn write(answer: &Collected, naming: &Naming) -> Vec<u8> {
    let mut json = Json::with_capacity(answer.bytes + 512);
    json.open(b'{')
        .key("id")
        .value(&naming.id("cmpl-"))
        .key("object")
        .text(b"text_completion");
    json.key("created")
        .number(naming.created)
        .key("model")
        .value(&naming.model);
    json.key("choices").open(b'[').open(b'{').key("index").number(0);
    let texts = answer.blocks.iter().filter_map(|block| match block {
        Block::Text(text) => Some(&**text),
        _ => None,
    });
    json.key("text")
        .text(&texts.collect::<Vec<_>>().concat())
        .key("logprobs")
        .value(b"null");
    json.key("finish_reason")
        .text(word(answer.ending.stop()))
        .close(b'}')
        .close(b']')
        .key("usage");
    usage(answer.ending.counts, &mut json);
    json.close(b'}');
    json.0
}
