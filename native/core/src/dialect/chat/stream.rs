//! Writes streams of the Chat Completions API.

use super::super::ending::Ending;
use super::super::memory::{Memory, Naming};
use super::super::reading::MAX_HELD_BYTES;
use super::super::text::{Json, input_of};
use super::super::words::{Fault, Sink, Word};
use super::answer::{usage, word as word_of};

/// The writer of one stream.
#[derive(Debug)]
pub(in super::super) struct Stream<'m> {
    memory: &'m Memory,
    naming: &'m Naming,
    state: &'m mut State,
    out: &'m mut Vec<u8>,
}

/// The state that outlives a read.
#[derive(Debug, Default)]
pub(in super::super) struct State {
    has_started: bool,
    /// The reader's keys of calls, in the order of their indices.
    calls: Vec<u32>,
    /// Calls of custom tools, whose text is known only when their arguments are whole: key, arguments.
    customs: Vec<(u32, Vec<u8>)>,
    /// Reasoning that its upstream verifies: the elements of a JSON array.
    signed: Vec<u8>,
    /// The text of the thought that goes on.
    thought: Vec<u8>,
    is_too_long: bool,
    ending: Ending,
}

impl<'m> Stream<'m> {
    /// Continues a stream; events are appended to `out`.
    pub(in super::super) fn new(
        memory: &'m Memory,
        naming: &'m Naming,
        state: &'m mut State,
        out: &'m mut Vec<u8>,
    ) -> Self {
        Self {
            memory,
            naming,
            state,
            out,
        }
    }

    /// Writes a chunk with the members of `rest` behind the common ones.
    fn chunk(&mut self, rest: impl FnOnce(&mut Json)) {
        let mut json = Json(std::mem::take(self.out));
        json.put(b"data: ")
            .open(b'{')
            .key("id")
            .value(&self.naming.id("chatcmpl-"));
        json.key("object")
            .text(b"chat.completion.chunk")
            .key("created")
            .number(self.naming.created);
        json.key("model").value(&self.naming.model);
        rest(&mut json);
        json.close(b'}').put(b"\n\n");
        *self.out = json.0;
    }

    fn choice(&mut self, finish: Option<&[u8]>, logprobs: Option<&[u8]>, delta: impl FnOnce(&mut Json)) {
        self.chunk(|json| {
            json.key("choices")
                .open(b'[')
                .open(b'{')
                .key("index")
                .number(0)
                .key("delta")
                .open(b'{');
            delta(json);
            json.close(b'}');
            if let Some(list) = logprobs {
                json.key("logprobs")
                    .open(b'{')
                    .key("content")
                    .open(b'[')
                    .value(list)
                    .close(b']')
                    .close(b'}');
            }
            json.key("finish_reason");
            match finish {
                Some(word) => json.text(word),
                None => json.value(b"null"),
            };
            json.close(b'}').close(b']');
        });
    }

    fn start(&mut self) {
        if !std::mem::replace(&mut self.state.has_started, true) {
            self.choice(None, None, |json| {
                json.key("role").text(b"assistant").key("content").text(b"");
            });
        }
    }

    fn delta(&mut self, member: &str, text: &[u8]) {
        self.start();
        self.choice(None, None, |json| {
            json.key(member).text(text);
        });
    }

    fn call(&mut self, index: usize, inside: impl FnOnce(&mut Json)) {
        self.choice(None, None, |json| {
            json.key("tool_calls")
                .open(b'[')
                .open(b'{')
                .key("index")
                .number(index as u64);
            inside(json);
            json.close(b'}').close(b']');
        });
    }

    fn keep(&mut self, bytes: usize) -> Result<(), Fault> {
        let customs: usize = self.state.customs.iter().map(|(_, text)| text.len()).sum();
        if customs + self.state.signed.len() + self.state.thought.len() + bytes > MAX_HELD_BYTES {
            return Err(Fault("a part of its answer is too long to be put in form"));
        }
        Ok(())
    }

    fn end(&mut self) {
        self.start();
        for (key, arguments) in std::mem::take(&mut self.state.customs) {
            let index = self.state.calls.iter().position(|own| *own == key).unwrap_or(0);
            self.call(index, |json| {
                json.key("custom")
                    .open(b'{')
                    .key("input")
                    .text(&input_of(&arguments))
                    .close(b'}');
            });
        }
        if !self.state.signed.is_empty() {
            let signed = std::mem::take(&mut self.state.signed);
            self.choice(None, None, |json| {
                json.key("extra_content")
                    .open(b'{')
                    .key("anthropic")
                    .open(b'{')
                    .key("thinking")
                    .open(b'[');
                json.value(&signed).close(b']').close(b'}').close(b'}');
            });
        }
        let stop = self.state.ending.stop();
        self.choice(Some(word_of(stop)), None, |_| {});
        if self.memory.wants_usage {
            let counts = self.state.ending.counts;
            self.chunk(|json| {
                json.key("choices").value(b"[]").key("usage");
                usage(counts, json);
            });
        }
        self.out.extend_from_slice(b"data: [DONE]\n\n");
    }
}

impl Sink for Stream<'_> {
    fn word(&mut self, word: Word<'_>) -> Result<(), Fault> {
        if self.state.ending.has_ended {
            return Ok(());
        }
        self.state.ending.word(word);
        match word {
            Word::Text(text) => {
                self.state.thought.clear();
                self.delta("content", text);
            }
            Word::Thought(text) => {
                // A longer one is passed on without its signature.
                if self.keep(text.len()).is_ok() {
                    self.state.thought.extend_from_slice(text);
                } else {
                    self.state.is_too_long = true;
                    self.state.thought.clear();
                }
                self.delta("reasoning_content", text);
            }
            Word::Refusal(text) => self.delta("refusal", text),
            Word::Signature(_) if self.state.is_too_long => {}
            Word::Signature(signature) => {
                self.keep(signature.len() + self.state.thought.len())?;
                let mut json = Json(std::mem::take(&mut self.state.signed));
                json.open(b'{').key("thinking").text(&self.state.thought);
                json.key("signature").text(signature).close(b'}');
                self.state.signed = json.0;
                self.state.thought.clear();
            }
            Word::Sealed(data) => {
                self.keep(data.len())?;
                let mut json = Json(std::mem::take(&mut self.state.signed));
                json.open(b'{').key("data").text(data).close(b'}');
                self.state.signed = json.0;
            }
            Word::Logprobs(list) if !list.is_empty() => {
                self.start();
                self.choice(None, Some(list), |_| {});
            }
            Word::CallBegin { key, id, name } => {
                self.start();
                self.state.calls.push(key);
                let index = self.state.calls.len() - 1;
                let (memory, naming) = (self.memory, self.naming);
                let (said, is_custom) = (memory.name_of(name), memory.is_custom(name));
                if is_custom {
                    self.state.customs.push((key, Vec::new()));
                }
                self.call(index, |json| {
                    json.key("id").value(&naming.call_id(id, index));
                    if is_custom {
                        json.key("type")
                            .text(b"custom")
                            .key("custom")
                            .open(b'{')
                            .key("name")
                            .text(said);
                        json.key("input").text(b"").close(b'}');
                    } else {
                        json.key("type")
                            .text(b"function")
                            .key("function")
                            .open(b'{')
                            .key("name")
                            .text(said);
                        json.key("arguments").text(b"").close(b'}');
                    }
                });
            }
            Word::CallArguments { key, text } if !text.is_empty() => {
                if let Some((_, arguments)) = self.state.customs.iter_mut().find(|(own, _)| *own == key) {
                    arguments.extend_from_slice(text);
                    return self.keep(0);
                }
                if let Some(index) = self.state.calls.iter().position(|own| *own == key) {
                    self.call(index, |json| {
                        json.key("function").open(b'{').key("arguments").text(text).close(b'}');
                    });
                }
            }
            Word::Fault { message, kind } => {
                let kind: &[u8] = match kind {
                    b"api_error" | b"overloaded_error" | b"timeout_error" => b"server_error",
                    other => other,
                };
                let mut json = Json(std::mem::take(self.out));
                json.put(b"data: ")
                    .open(b'{')
                    .key("error")
                    .open(b'{')
                    .key("message")
                    .text(message);
                json.key("type")
                    .text(kind)
                    .key("param")
                    .value(b"null")
                    .key("code")
                    .value(b"null");
                json.close(b'}').close(b'}').put(b"\n\n");
                *self.out = json.0;
                self.state.ending.has_ended = true;
            }
            Word::End => self.end(),
            Word::Logprobs(_) | Word::CallArguments { .. } | Word::Finish(..) | Word::Usage(_) => {}
        }
        Ok(())
    }
}
