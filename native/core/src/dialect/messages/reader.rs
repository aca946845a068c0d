//! Reads answers of the Messages API: documents and streams.

use super::super::reading::{MAX_CALLS, fault_of};
use super::super::text::escape;
use super::super::words::{Counts, Fault, Sink, Stop, Word};
use crate::json::tape::Value;

/// The state of one answer.
#[derive(Debug, Default)]
pub(in super::super) struct Reader {
    /// The message's id: a second message of another id is no part of the answer.
    id: Vec<u8>,
    calls: usize,
    has_ended: bool,
}

impl Reader {
    /// Reads a document, or one event's data.
    pub(in super::super) fn read(&mut self, value: Value<'_>, sink: &mut impl Sink) -> Result<(), Fault> {
        if self.has_ended {
            return Ok(());
        }
        let text = |name: &str| value.get(name).and_then(Value::text);
        let index = || value.get("index").and_then(Value::count).unwrap_or(0) as u32;
        match text("type").unwrap_or_default() {
            b"message" => {
                for (index, block) in value.get("content").into_iter().flat_map(Value::elements).enumerate() {
                    self.block(index as u32, block, true, sink)?;
                }
                self.ending(value, sink)?;
                counted(value, sink)
            }
            b"message_start" => {
                let Some(message) = value.get("message") else {
                    return Ok(());
                };
                let id = message.get("id").and_then(Value::text).unwrap_or_default();
                if !self.id.is_empty() && self.id != id {
                    return Err(Fault("a second message began in its stream"));
                }
                self.id = id.to_vec();
                counted(message, sink)
            }
            b"content_block_start" => match value.get("content_block") {
                Some(block) => self.block(index(), block, false, sink),
                None => Ok(()),
            },
            b"content_block_delta" => {
                let delta = value.get("delta");
                let text = |name: &str| {
                    delta
                        .and_then(|delta| delta.get(name)?.text())
                        .filter(|text| !text.is_empty())
                };
                let kind = delta.and_then(|delta| delta.get("type")?.text());
                let word = match kind.unwrap_or_default() {
                    b"text_delta" => text("text").map(Word::Text),
                    b"thinking_delta" => text("thinking").map(Word::Thought),
                    b"signature_delta" => text("signature").map(Word::Signature),
                    b"input_json_delta" => text("partial_json").map(|text| Word::CallArguments { key: index(), text }),
                    _ => None,
                };
                word.map_or(Ok(()), |word| sink.word(word))
            }
            b"message_delta" => {
                if let Some(delta) = value.get("delta") {
                    self.ending(delta, sink)?;
                }
                counted(value, sink)
            }
            b"message_stop" => self.end(sink),
            b"error" => fault_of(value, sink),
            _ => Ok(()),
        }
    }

    /// Ends the answer.
    pub(in super::super) fn end(&mut self, sink: &mut impl Sink) -> Result<(), Fault> {
        self.has_ended = true;
        sink.word(Word::End)
    }

    fn block(&mut self, key: u32, block: Value<'_>, is_whole: bool, sink: &mut impl Sink) -> Result<(), Fault> {
        let text = |name: &str| block.get(name).and_then(Value::text).filter(|text| !text.is_empty());
        match block.get("type").and_then(Value::text).unwrap_or_default() {
            b"text" => text("text").map_or(Ok(()), |text| sink.word(Word::Text(text))),
            b"thinking" => {
                text("thinking").map_or(Ok(()), |text| sink.word(Word::Thought(text)))?;
                text("signature").map_or(Ok(()), |text| sink.word(Word::Signature(text)))
            }
            b"redacted_thinking" => text("data").map_or(Ok(()), |data| sink.word(Word::Sealed(data))),
            b"tool_use" => {
                self.calls += 1;
                if self.calls > MAX_CALLS {
                    return Err(Fault("its answer has too many tool calls"));
                }
                sink.word(Word::CallBegin {
                    key,
                    id: text("id").unwrap_or_default(),
                    name: text("name").unwrap_or_default(),
                })?;
                // In a stream the input begins empty, and its text follows.
                match block.get("input").map(Value::raw) {
                    Some(input) if is_whole || input.len() > 2 => {
                        let mut text = Vec::new();
                        escape(input, &mut text);
                        sink.word(Word::CallArguments { key, text: &text })
                    }
                    _ => Ok(()),
                }
            }
            // Tools that the server has run itself: their results are in the text.
            _ => Ok(()),
        }
    }

    fn ending(&mut self, holder: Value<'_>, sink: &mut impl Sink) -> Result<(), Fault> {
        let Some(reason) = holder.get("stop_reason").and_then(Value::text) else {
            return Ok(());
        };
        let stop = match reason {
            b"max_tokens" => Stop::Length,
            b"model_context_window_exceeded" => Stop::ContextFull,
            b"stop_sequence" => Stop::Sequence,
            b"tool_use" => Stop::Tools,
            b"refusal" => Stop::Filter,
            b"pause_turn" => Stop::Pause,
            _ => Stop::End,
        };
        sink.word(Word::Finish(stop, holder.get("stop_sequence").and_then(Value::text)))
    }
}

fn counted(holder: Value<'_>, sink: &mut impl Sink) -> Result<(), Fault> {
    let Some(usage) = holder.get("usage") else {
        return Ok(());
    };
    let count = |name: &str| usage.get(name).and_then(Value::count);
    let (cached, written) = (count("cache_read_input_tokens"), count("cache_creation_input_tokens"));
    let rest = count("input_tokens");
    sink.word(Word::Usage(Counts {
        input: rest.map(|rest| {
            rest.saturating_add(cached.unwrap_or(0))
                .saturating_add(written.unwrap_or(0))
        }),
        output: count("output_tokens"),
        cached,
        written,
        reasoning: usage
            .get("output_tokens_details")
            .and_then(|details| details.get("thinking_tokens")?.count()),
    }))
}
