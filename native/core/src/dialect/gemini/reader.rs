//! Reads answers of Gemini's generateContent: documents and streams are alike.

use super::super::reading::{MAX_CALLS, fault_of};
use super::super::text::escape;
use super::super::words::{Counts, Fault, Sink, Stop, Word};
use crate::json::tape::{Kind, Value};

/// The state of one answer.
#[derive(Debug, Default)]
pub(in super::super) struct Reader {
    calls: u32,
    finish: Option<Stop>,
}

impl Reader {
    /// Reads a document, or one event's data.
    pub(in super::super) fn read(&mut self, value: Value<'_>, sink: &mut impl Sink) -> Result<(), Fault> {
        if value.kind() == Kind::Array {
            // A stream that was not asked for as events.
            return value.elements().try_for_each(|chunk| self.read(chunk, sink));
        }
        if value.get("error").is_some() {
            return fault_of(value, sink);
        }
        let candidates = value.get("candidates");
        let is_first = |candidate: &Value<'_>| candidate.get("index").and_then(Value::count).unwrap_or(0) == 0;
        if let Some(candidate) = candidates.and_then(|list| list.elements().find(is_first)) {
            let parts = candidate.get("content").and_then(|content| content.get("parts"));
            for part in parts.into_iter().flat_map(Value::elements) {
                self.part(part, sink)?;
            }
            if let Some(reason) = candidate.get("finishReason").and_then(Value::text) {
                self.finish = Some(match reason {
                    b"MAX_TOKENS" => Stop::Length,
                    b"SAFETY"
                    | b"BLOCKLIST"
                    | b"PROHIBITED_CONTENT"
                    | b"SPII"
                    | b"IMAGE_SAFETY"
                    | b"RECITATION"
                    | b"OTHER"
                    | b"LANGUAGE"
                    | b"NO_IMAGE" => Stop::Filter,
                    b"MALFORMED_FUNCTION_CALL" | b"UNEXPECTED_TOOL_CALL" => {
                        return Err(Fault("its model made a malformed tool call"));
                    }
                    _ => Stop::End,
                });
            }
        } else if value
            .get("promptFeedback")
            .is_some_and(|feedback| feedback.get("blockReason").is_some())
        {
            self.finish = Some(Stop::Filter);
        }
        match value.get("usageMetadata") {
            Some(usage) => sink.word(Word::Usage(counts(usage))),
            None => Ok(()),
        }
    }

    /// Ends the answer. A stream has no other end than its last reason.
    pub(in super::super) fn end(&mut self, sink: &mut impl Sink) -> Result<(), Fault> {
        let finish = self.finish.ok_or(Fault("its answer has no end"))?;
        sink.word(Word::Finish(finish, None))?;
        sink.word(Word::End)
    }

    fn part(&mut self, part: Value<'_>, sink: &mut impl Sink) -> Result<(), Fault> {
        let text = part.get("text").and_then(Value::text).filter(|text| !text.is_empty());
        if let Some(text) = text {
            let is_thought = part.get("thought").is_some_and(|value| value.kind() == Kind::True);
            sink.word(if is_thought {
                Word::Thought(text)
            } else {
                Word::Text(text)
            })?;
        }
        let Some(call) = part.get("functionCall") else {
            return Ok(());
        };
        if self.calls as usize == MAX_CALLS {
            return Err(Fault("its answer has too many tool calls"));
        }
        // Each part is a call of its own, even where several have one name.
        let key = self.calls;
        self.calls += 1;
        let inner = |name: &str| call.get(name).and_then(Value::text).unwrap_or_default();
        sink.word(Word::CallBegin {
            key,
            id: inner("id"),
            name: inner("name"),
        })?;
        let mut text = Vec::new();
        escape(call.get("args").map_or(b"{}", Value::raw), &mut text);
        sink.word(Word::CallArguments { key, text: &text })
    }
}

fn counts(usage: Value<'_>) -> Counts {
    let count = |name: &str| usage.get(name).and_then(Value::count);
    let sum = |one: Option<u64>, other: Option<u64>| one.map(|one| one.saturating_add(other.unwrap_or(0)));
    let thoughts = count("thoughtsTokenCount");
    Counts {
        input: sum(count("promptTokenCount"), count("toolUsePromptTokenCount")),
        output: sum(count("candidatesTokenCount").or(thoughts.map(|_| 0)), thoughts),
        cached: count("cachedContentTokenCount"),
        written: None,
        reasoning: thoughts,
    }
}
