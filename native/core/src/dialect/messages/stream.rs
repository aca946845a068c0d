//! Writes streams of the Messages API: one block at a time, each opened and closed, whatever order the upstream has.

use std::collections::VecDeque;

use super::super::ending::Ending;
use super::super::memory::{Memory, Naming};
use super::super::reading::MAX_HELD_BYTES;
use super::super::text::{Braces, Json, is_blank};
use super::super::words::{Counts, Fault, Sink, Stop, Word};
use super::answer::{usage, word as word_of};

/// Longer white space between blocks is cut.
const MAX_BLANK: usize = 4096;

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
    index: u64,
    open: Open,
    braces: Braces,
    /// Parts that wait for the open call to be whole, in order.
    queue: VecDeque<Waiting>,
    queued_bytes: usize,
    /// White space behind a call: the next text begins with it, or it is dropped.
    blank: Vec<u8>,
    ending: Ending,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Open {
    #[default]
    Nothing,
    Text,
    Thought {
        is_signed: bool,
    },
    Call(u32),
    /// Nothing, directly behind a call.
    AfterCall,
}

#[derive(Debug)]
enum Waiting {
    Text(Vec<u8>),
    Thought(Vec<u8>),
    Call {
        key: u32,
        id: Vec<u8>,
        name: Vec<u8>,
        arguments: Vec<u8>,
    },
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

    /// Writes an event of a name and its data, without the type.
    fn event(&mut self, name: &str, data: impl FnOnce(&mut Json)) {
        let mut json = Json(std::mem::take(self.out));
        json.put(b"event: ").put(name.as_bytes()).put(b"\ndata: ");
        json.open(b'{').key("type").text(name.as_bytes());
        data(&mut json);
        json.close(b'}').put(b"\n\n");
        *self.out = json.0;
    }

    fn start(&mut self) {
        if self.state.has_started {
            return;
        }
        self.state.has_started = true;
        let (naming, memory) = (self.naming, self.memory);
        let mut counts = self.state.ending.counts;
        counts.input = counts.input.or(Some(memory.estimate));
        let counts = Counts {
            output: Some(0),
            ..counts
        };
        self.event("message_start", |json| {
            json.key("message").open(b'{').key("id").value(&naming.id("msg_"));
            json.key("type")
                .text(b"message")
                .key("role")
                .text(b"assistant")
                .key("model")
                .value(&naming.model);
            json.key("content")
                .value(b"[]")
                .key("stop_reason")
                .value(b"null")
                .key("stop_sequence")
                .value(b"null");
            json.key("usage");
            usage(counts, json);
            json.close(b'}');
        });
    }

    fn open(&mut self, open: Open, block: impl FnOnce(&mut Json)) {
        self.start();
        self.close();
        let index = self.state.index;
        self.event("content_block_start", |json| {
            json.key("index").number(index).key("content_block");
            block(json);
        });
        self.state.open = open;
    }

    fn close(&mut self) {
        if let Open::Thought { is_signed: false } = self.state.open {
            let naming = self.naming;
            self.delta("signature_delta", "signature", &naming.mark);
        }
        if matches!(self.state.open, Open::Nothing | Open::AfterCall) {
            return;
        }
        let index = self.state.index;
        self.event("content_block_stop", |json| {
            json.key("index").number(index);
        });
        self.state.index += 1;
        self.state.open = match self.state.open {
            Open::Call(_) => Open::AfterCall,
            _ => Open::Nothing,
        };
    }

    #[inline]
    fn delta(&mut self, kind: &str, member: &str, text: &[u8]) {
        let index = self.state.index;
        self.event("content_block_delta", |json| {
            json.key("index")
                .number(index)
                .key("delta")
                .open(b'{')
                .key("type")
                .text(kind.as_bytes());
            json.key(member).text(text).close(b'}');
        });
    }

    fn text(&mut self, text: &[u8]) {
        if self.state.open != Open::Text {
            if self.state.open == Open::AfterCall || matches!(self.state.open, Open::Call(_)) {
                if self.state.blank.len() < MAX_BLANK {
                    self.state.blank.extend_from_slice(text);
                }
                if is_blank(text) {
                    self.close();
                    return;
                }
                let whole = std::mem::take(&mut self.state.blank);
                self.open_text();
                self.delta("text_delta", "text", &whole);
                return;
            }
            self.open_text();
        }
        self.delta("text_delta", "text", text);
    }

    fn open_text(&mut self) {
        self.open(Open::Text, |json| {
            json.value(br#"{"type":"text","text":""}"#);
        });
    }

    fn thought(&mut self, text: &[u8]) {
        if !matches!(self.state.open, Open::Thought { is_signed: false }) {
            self.open(Open::Thought { is_signed: false }, |json| {
                json.value(br#"{"type":"thinking","thinking":"","signature":""}"#);
            });
        }
        if !text.is_empty() {
            self.delta("thinking_delta", "thinking", text);
        }
    }

    fn signature(&mut self, text: &[u8]) {
        if !matches!(self.state.open, Open::Thought { .. }) {
            self.thought(b"");
        }
        self.delta("signature_delta", "signature", text);
        self.state.open = Open::Thought { is_signed: true };
    }

    fn call(&mut self, key: u32, id: &[u8], name: &[u8]) {
        let (naming, memory) = (self.naming, self.memory);
        // White space between two calls is no text.
        self.state.blank.clear();
        self.state.braces = Braces::default();
        self.open(Open::Call(key), |json| {
            json.open(b'{')
                .key("type")
                .text(b"tool_use")
                .key("id")
                .value(&naming.call_id(id, key as usize));
            json.key("name")
                .text(memory.name_of(name))
                .key("input")
                .value(b"{}")
                .close(b'}');
        });
    }

    fn arguments(&mut self, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        self.delta("input_json_delta", "partial_json", text);
        self.state.braces.feed(text);
    }

    /// True while a call is open whose arguments are not whole.
    fn is_busy(&self) -> bool {
        matches!(self.state.open, Open::Call(_)) && !self.state.braces.is_complete()
    }

    fn wait(&mut self, bytes: usize, waiting: Waiting) -> Result<(), Fault> {
        self.state.queued_bytes += bytes + 64;
        if self.state.queued_bytes > MAX_HELD_BYTES {
            return Err(Fault("its parallel tool calls are too long to be put in order"));
        }
        self.state.queue.push_back(waiting);
        Ok(())
    }

    /// Writes what waited, up to a call that is not whole yet; `all`: to the end.
    fn drain(&mut self, all: bool) {
        while (all || !self.is_busy())
            && let Some(waiting) = self.state.queue.pop_front()
        {
            match waiting {
                Waiting::Text(text) => self.text(&text),
                Waiting::Thought(text) => self.thought(&text),
                Waiting::Call {
                    key,
                    id,
                    name,
                    arguments,
                } => {
                    self.call(key, &id, &name);
                    self.arguments(&arguments);
                }
            }
        }
        if self.state.queue.is_empty() {
            self.state.queued_bytes = 0;
        }
    }

    fn end(&mut self) {
        self.drain(true);
        self.start();
        self.close();
        if self.state.index == 0 {
            self.open_text();
            self.close();
        }
        let stop = self.state.ending.stop();
        let sequence = self.state.ending.sequence.take().filter(|_| stop == Stop::Sequence);
        let mut counts = self.state.ending.counts;
        counts.input = counts.input.or(Some(self.memory.estimate));
        self.event("message_delta", |json| {
            json.key("delta")
                .open(b'{')
                .key("stop_reason")
                .text(word_of(stop))
                .key("stop_sequence");
            match &sequence {
                Some(sequence) => json.text(sequence),
                None => json.value(b"null"),
            };
            json.close(b'}').key("usage");
            usage(counts, json);
        });
        self.event("message_stop", |_| {});
    }
}

impl Sink for Stream<'_> {
    fn word(&mut self, word: Word<'_>) -> Result<(), Fault> {
        if self.state.ending.has_ended {
            return Ok(());
        }
        self.state.ending.word(word);
        match word {
            Word::Text(text) | Word::Refusal(text) if self.is_busy() => {
                return self.wait(text.len(), Waiting::Text(text.to_vec()));
            }
            Word::Thought(text) if self.is_busy() => {
                return self.wait(text.len(), Waiting::Thought(text.to_vec()));
            }
            Word::Text(text) | Word::Refusal(text) => self.text(text),
            Word::Thought(text) => self.thought(text),
            Word::Signature(text) if !self.is_busy() => self.signature(text),
            Word::Sealed(data) if !self.is_busy() => {
                self.open(Open::Text, |json| {
                    json.open(b'{')
                        .key("type")
                        .text(b"redacted_thinking")
                        .key("data")
                        .text(data)
                        .close(b'}');
                });
                self.close();
            }
            Word::CallBegin { key, id, name } => {
                if self.is_busy() {
                    let call = Waiting::Call {
                        key,
                        id: id.to_vec(),
                        name: name.to_vec(),
                        arguments: Vec::new(),
                    };
                    return self.wait(id.len() + name.len(), call);
                }
                self.call(key, id, name);
            }
            Word::CallArguments { key, text } => {
                if self.state.open == Open::Call(key) {
                    self.arguments(text);
                    self.drain(false);
                    return Ok(());
                }
                let waiting = self.state.queue.iter_mut().find_map(|waiting| match waiting {
                    Waiting::Call {
                        key: own, arguments, ..
                    } if *own == key => Some(arguments),
                    _ => None,
                });
                if let Some(arguments) = waiting {
                    arguments.extend_from_slice(text);
                    self.state.queued_bytes += text.len();
                    if self.state.queued_bytes > MAX_HELD_BYTES {
                        return Err(Fault("its parallel tool calls are too long to be put in order"));
                    }
                }
            }
            Word::Fault { message, kind } => {
                self.event("error", |json| {
                    json.key("error")
                        .open(b'{')
                        .key("type")
                        .text(kind)
                        .key("message")
                        .text(message)
                        .close(b'}');
                });
                self.state.ending.has_ended = true;
            }
            Word::End => self.end(),
            Word::Signature(_) | Word::Sealed(_) | Word::Logprobs(_) | Word::Finish(..) | Word::Usage(_) => {}
        }
        Ok(())
    }
}
