//! Reads answers of the Chat Completions API, and of engines' versions of it: documents and streams alike.

use std::borrow::Cow;

use super::super::reading::{MAX_CALLS, MAX_HELD_BYTES, fault_of};
use super::super::text::escape;
use super::super::words::{Counts, Fault, Sink, Stop, Word};
use crate::json::tape::{Kind, Value};

/// The state of one answer.
#[derive(Debug, Default)]
pub(in super::super) struct Reader {
    calls: Vec<Call>,
    /// The sequences that the client stops at.
    stops: Vec<Vec<u8>>,
}

/// A call that has begun to arrive.
#[derive(Debug)]
struct Call {
    index: u64,
    key: u32,
    id: Vec<u8>,
    name: Vec<u8>,
    has_begun: bool,
    /// Arguments from before the name was known.
    held: Vec<u8>,
}

impl Reader {
    /// A reader that recognises these stop sequences.
    pub(in super::super) fn new(stops: &[Vec<u8>]) -> Self {
        Self {
            calls: Vec::new(),
            stops: stops.to_vec(),
        }
    }

    /// Reads a document, or one event's data.
    pub(in super::super) fn read(&mut self, value: Value<'_>, sink: &mut impl Sink) -> Result<(), Fault> {
        let (mut usage, mut choice) = (None, None);
        for (name, member) in value.members() {
            match &*name {
                // Only the first of several choices is read: the others were not asked for.
                b"choices" => choice = member.elements().find(|choice| is_first(*choice)),
                b"usage" => usage = Some(member),
                b"error" if !member.is_null() => return fault_of(value, sink),
                _ => {}
            }
        }
        if let Some(choice) = choice {
            self.choice(choice, sink)?;
        }
        match usage.map(counts) {
            Some(counts) if counts != Counts::default() => sink.word(Word::Usage(counts)),
            _ => Ok(()),
        }
    }

    /// Ends the answer.
    pub(in super::super) fn end(&mut self, sink: &mut impl Sink) -> Result<(), Fault> {
        self.begin_all(sink)?;
        sink.word(Word::End)
    }

    fn choice(&mut self, choice: Value<'_>, sink: &mut impl Sink) -> Result<(), Fault> {
        let (mut finish, mut matched) = (None, None);
        let mut message = None;
        for (name, value) in choice.members() {
            match &*name {
                b"delta" | b"message" => message = Some(value),
                b"finish_reason" => finish = value.text().or(finish),
                b"logprobs" => {
                    if let Some(content) = value.get("content").filter(|content| content.kind() == Kind::Array) {
                        let inner = content.raw().get(1..content.raw().len() - 1).unwrap_or_default();
                        sink.word(Word::Logprobs(inner))?;
                    }
                }
                // vLLM's and SGLang's names for the sequence that was met; a number is a token's.
                b"stop_reason" | b"matched_stop" => matched = value.text().or(matched),
                // The Completions API.
                b"text" => text_of(value, |text| sink.word(Word::Text(text)))?,
                _ => {}
            }
        }
        if let Some(message) = message {
            self.message(message, sink)?;
        }
        let Some(finish) = finish.filter(|word| !word.is_empty()) else {
            return Ok(());
        };
        let matched = matched.filter(|text| self.stops.iter().any(|stop| stop == text));
        let stop = match finish {
            b"stop" if matched.is_some() => Stop::Sequence,
            b"length" => Stop::Length,
            b"tool_calls" | b"function_call" => Stop::Tools,
            b"content_filter" => Stop::Filter,
            _ => Stop::End,
        };
        sink.word(Word::Finish(stop, matched))
    }

    fn message(&mut self, message: Value<'_>, sink: &mut impl Sink) -> Result<(), Fault> {
        let (mut thought, mut refusal, mut content, mut calls, mut legacy) = (None, None, None, None, None);
        for (name, value) in message.members() {
            match &*name {
                b"content" => content = Some(value),
                b"reasoning_content" => thought = Some(value),
                // Servers that send both send the same.
                b"reasoning" if thought.is_none() => thought = Some(value),
                b"refusal" => refusal = Some(value),
                b"tool_calls" => calls = Some(value),
                b"function_call" => legacy = Some(value).filter(|value| !value.is_null()),
                _ => {}
            }
        }
        if let Some(thought) = thought {
            text_of(thought, |text| sink.word(Word::Thought(text)))?;
        }
        if let Some(refusal) = refusal {
            text_of(refusal, |text| sink.word(Word::Refusal(text)))?;
        }
        if let Some(content) = content {
            text_of(content, |text| sink.word(Word::Text(text)))?;
            for part in content.elements() {
                if let Some(text) = part.get("text") {
                    text_of(text, |text| sink.word(Word::Text(text)))?;
                }
            }
        }
        for (position, call) in calls.into_iter().flat_map(Value::elements).enumerate() {
            self.call(call, position as u64, sink)?;
        }
        if let Some(call) = legacy {
            self.fragment(0, b"", call, sink)?;
        }
        Ok(())
    }

    fn call(&mut self, call: Value<'_>, position: u64, sink: &mut impl Sink) -> Result<(), Fault> {
        let index = call.get("index").and_then(Value::count).unwrap_or(position);
        let id = call.get("id").and_then(Value::text).unwrap_or_default();
        match call.get("function").or_else(|| call.get("custom")) {
            Some(function) => self.fragment(index, id, function, sink),
            None => self.fragment(index, id, call, sink),
        }
    }

    fn fragment(&mut self, index: u64, id: &[u8], function: Value<'_>, sink: &mut impl Sink) -> Result<(), Fault> {
        let same = |call: &Call| call.index == index && (id.is_empty() || call.id.is_empty() || call.id == id);
        let place = match self.calls.iter().rposition(same) {
            Some(place) => place,
            None if self.calls.len() == MAX_CALLS => return Err(Fault("its answer has too many tool calls")),
            None => {
                let key = self.calls.len() as u32;
                self.calls.push(Call {
                    index,
                    key,
                    id: Vec::new(),
                    name: Vec::new(),
                    has_begun: false,
                    held: Vec::new(),
                });
                self.calls.len() - 1
            }
        };
        let Some(call) = self.calls.get_mut(place) else {
            return Ok(());
        };
        if call.id.is_empty() && !call.has_begun {
            call.id.extend_from_slice(id);
        }
        if let Some(name) = function.get("name").and_then(Value::text)
            && !call.has_begun
            && !name.is_empty()
        {
            // Without an id a name may come in pieces; with one it is whole, and may be repeated.
            if !call.id.is_empty() {
                call.name.clear();
            }
            call.name.extend_from_slice(name);
            if call.name.len() > MAX_HELD_BYTES {
                return Err(Fault("the name of a tool is too long"));
            }
        }
        let arguments = function.get("arguments").or_else(|| function.get("input"));
        let arguments: Cow<'_, [u8]> = match arguments {
            Some(value) if value.kind() == Kind::Text => value.text().unwrap_or_default().into(),
            Some(value) => {
                let mut text = Vec::new();
                escape(value.raw(), &mut text);
                text.into()
            }
            None => Cow::Borrowed(b""),
        };
        let is_known = !call.name.is_empty() && (!call.id.is_empty() || !arguments.is_empty());
        if is_known && !call.has_begun {
            call.begin(sink)?;
        }
        if arguments.is_empty() {
            return Ok(());
        }
        if call.has_begun {
            return sink.word(Word::CallArguments {
                key: call.key,
                text: &arguments,
            });
        }
        if call.held.len() + arguments.len() > MAX_HELD_BYTES {
            return Err(Fault("a tool call has no name"));
        }
        call.held.extend_from_slice(&arguments);
        Ok(())
    }

    /// Begins the calls that have a name and nothing else; one without a name is none.
    fn begin_all(&mut self, sink: &mut impl Sink) -> Result<(), Fault> {
        for call in &mut self.calls {
            if !call.has_begun && !call.name.is_empty() {
                call.begin(sink)?;
            }
        }
        Ok(())
    }
}

impl Call {
    fn begin(&mut self, sink: &mut impl Sink) -> Result<(), Fault> {
        self.has_begun = true;
        sink.word(Word::CallBegin {
            key: self.key,
            id: &self.id,
            name: &self.name,
        })?;
        let held = std::mem::take(&mut self.held);
        if held.is_empty() {
            return Ok(());
        }
        sink.word(Word::CallArguments {
            key: self.key,
            text: &held,
        })
    }
}

fn is_first(choice: Value<'_>) -> bool {
    choice.get("index").and_then(Value::count).unwrap_or(0) == 0
}

/// Passes a text on, unless it is empty or none.
fn text_of(value: Value<'_>, mut to: impl FnMut(&[u8]) -> Result<(), Fault>) -> Result<(), Fault> {
    match value.text() {
        Some(text) if !text.is_empty() => to(text),
        _ => Ok(()),
    }
}

fn counts(usage: Value<'_>) -> Counts {
    let count = |name: &str| usage.get(name).and_then(Value::count);
    let input = usage.get("prompt_tokens_details");
    let output = usage.get("completion_tokens_details");
    let detail = |of: Option<Value<'_>>, name: &str| of?.get(name)?.count();
    Counts {
        input: count("prompt_tokens"),
        output: count("completion_tokens"),
        // The second one is DeepSeek's.
        cached: detail(input, "cached_tokens").or_else(|| count("prompt_cache_hit_tokens")),
        written: detail(input, "cache_write_tokens"),
        reasoning: detail(output, "reasoning_tokens"),
    }
}
