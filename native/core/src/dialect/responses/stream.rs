//! Writes streams of the Responses API: numbered events, and at the end everything once more.

use super::super::ending::Ending;
use super::super::memory::{Memory, Naming};
use super::super::reading::MAX_BLOCKS;
use super::super::text::{Json, input_of};
use super::super::words::{Fault, Sink, Word};
use super::answer::{End, Item, response};

/// The closing events repeat the whole answer; a longer one is not kept.
const MAX_KEPT_BYTES: usize = 8 << 20;

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
    number: u64,
    items: Vec<Kept>,
    kept_bytes: usize,
    ending: Ending,
}

/// An item that has begun.
#[derive(Debug)]
struct Kept {
    kind: Kind,
    text: Vec<u8>,
    logprobs: Vec<u8>,
    /// Its state at its end; `None` while it is open.
    status: Option<&'static str>,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Message,
    Refusal,
    Thought,
    Call { key: u32, id: Vec<u8>, name: Vec<u8> },
}

impl Kept {
    fn item(&self) -> Item<'_> {
        match &self.kind {
            Kind::Message => Item::Message {
                text: &self.text,
                logprobs: &self.logprobs,
            },
            Kind::Refusal => Item::Refusal(&self.text),
            Kind::Thought => Item::Thought(&self.text),
            Kind::Call { id, name, .. } => Item::Call {
                id,
                name,
                arguments: &self.text,
            },
        }
    }
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

    fn event(&mut self, name: &str, data: impl FnOnce(&mut Json, &State)) {
        let mut json = Json(std::mem::take(self.out));
        json.put(b"event: ").put(name.as_bytes()).put(b"\ndata: ");
        json.open(b'{')
            .key("type")
            .text(name.as_bytes())
            .key("sequence_number")
            .number(self.state.number);
        data(&mut json, self.state);
        json.close(b'}').put(b"\n\n");
        self.state.number += 1;
        *self.out = json.0;
    }

    fn start(&mut self) {
        if std::mem::replace(&mut self.state.has_started, true) {
            return;
        }
        let (memory, naming) = (self.memory, self.naming);
        for name in ["response.created", "response.in_progress"] {
            self.event(name, |json, _| {
                json.key("response");
                response(json, memory, naming, End::InProgress, b"[]", None);
            });
        }
    }

    /// Writes an event of an item: its id and place, and more.
    fn item_event(&mut self, index: usize, name: &str, data: impl FnOnce(&mut Json, &Kept)) {
        let (memory, naming) = (self.memory, self.naming);
        self.event(name, |json, state| {
            let Some(kept) = state.items.get(index) else { return };
            json.key("item_id")
                .value(&naming.item_id(kept.item().prefix(memory), index));
            json.key("output_index").number(index as u64);
            data(json, kept);
        });
    }

    /// Writes an event that holds a whole item.
    fn whole(&mut self, index: usize, name: &str, status: &str) {
        let (memory, naming) = (self.memory, self.naming);
        self.event(name, |json, state| {
            json.key("output_index").number(index as u64).key("item");
            if let Some(kept) = state.items.get(index) {
                kept.item().write(index, status, memory, naming, json);
            }
        });
    }

    /// Begins an item; a text or a thought before it ends.
    fn begin(&mut self, kind: Kind) -> usize {
        self.start();
        let last = self.state.items.len();
        if let Some(before) = last.checked_sub(1)
            && self
                .state
                .items
                .get(before)
                .is_some_and(|kept| !matches!(kept.kind, Kind::Call { .. }))
        {
            self.close(before, "completed");
        }
        self.state.items.push(Kept {
            kind,
            text: Vec::new(),
            logprobs: Vec::new(),
            status: None,
        });
        self.whole(last, "response.output_item.added", "in_progress");
        let wants_summary = self.memory.wants_summary;
        match self.state.items.get(last).map(|kept| &kept.kind) {
            Some(Kind::Thought) if wants_summary => {
                self.item_event(last, "response.reasoning_summary_part.added", |json, _| {
                    json.key("summary_index")
                        .number(0)
                        .key("part")
                        .value(br#"{"type":"summary_text","text":""}"#);
                });
            }
            Some(Kind::Message | Kind::Refusal | Kind::Thought) => {
                self.item_event(last, "response.content_part.added", |json, kept| {
                    json.key("content_index").number(0).key("part");
                    kept.item().part(json);
                });
            }
            _ => {}
        }
        last
    }

    /// The place of the open text or thought of this kind; a new one, if the last item is another.
    fn current(&mut self, kind: Kind) -> usize {
        match self.state.items.last() {
            Some(kept) if kept.kind == kind && kept.status.is_none() => self.state.items.len() - 1,
            _ => self.begin(kind),
        }
    }

    fn keep(&mut self, index: usize, text: &[u8]) -> Result<(), Fault> {
        self.state.kept_bytes += text.len();
        if self.state.kept_bytes > MAX_KEPT_BYTES {
            return Err(Fault("its answer is too long to be repeated at the end of the stream"));
        }
        if let Some(kept) = self.state.items.get_mut(index) {
            kept.text.extend_from_slice(text);
        }
        Ok(())
    }

    fn close(&mut self, index: usize, status: &'static str) {
        let Some(kept) = self.state.items.get_mut(index) else {
            return;
        };
        if kept.status.is_some() {
            return;
        }
        kept.status = Some(status);
        let wants_summary = self.memory.wants_summary;
        let memory = self.memory;
        match &kept.kind {
            Kind::Thought if wants_summary => {
                self.item_event(index, "response.reasoning_summary_text.done", |json, kept| {
                    json.key("summary_index").number(0).key("text").text(&kept.text);
                });
                self.item_event(index, "response.reasoning_summary_part.done", |json, kept| {
                    json.key("summary_index")
                        .number(0)
                        .key("part")
                        .open(b'{')
                        .key("type")
                        .text(b"summary_text");
                    json.key("text").text(&kept.text).close(b'}');
                });
            }
            Kind::Call { name, .. } => {
                let is_custom = memory.is_custom(name);
                if is_custom {
                    // Its text is a member of the arguments, and known only when these are whole.
                    self.item_event(index, "response.custom_tool_call_input.delta", |json, kept| {
                        json.key("delta").text(&input_of(&kept.text));
                    });
                    self.item_event(index, "response.custom_tool_call_input.done", |json, kept| {
                        json.key("input").text(&input_of(&kept.text));
                    });
                } else {
                    self.item_event(index, "response.function_call_arguments.done", |json, kept| {
                        if let Kind::Call { name, .. } = &kept.kind {
                            json.key("name").text(memory.said(name).0);
                        }
                        json.key("arguments")
                            .text(if kept.text.is_empty() { b"{}" } else { &kept.text });
                    });
                }
            }
            kind => {
                let (done, member) = match kind {
                    Kind::Message => ("response.output_text.done", "text"),
                    Kind::Refusal => ("response.refusal.done", "refusal"),
                    _ => ("response.reasoning_text.done", "text"),
                };
                self.item_event(index, done, |json, kept| {
                    json.key("content_index").number(0).key(member).text(&kept.text);
                    if kept.kind == Kind::Message {
                        json.key("logprobs").open(b'[').value(&kept.logprobs).close(b']');
                    }
                });
                self.item_event(index, "response.content_part.done", |json, kept| {
                    json.key("content_index").number(0).key("part");
                    kept.item().part(json);
                });
            }
        }
        self.whole(index, "response.output_item.done", status);
    }

    fn end(&mut self) {
        self.start();
        let end = End::of(self.state.ending.stop());
        let count = self.state.items.len();
        for index in 0..count {
            // Only the last one was cut.
            self.close(index, if index + 1 == count { end.word() } else { "completed" });
        }
        let (memory, naming) = (self.memory, self.naming);
        let mut output = Json::with_capacity(self.state.kept_bytes + 256);
        output.open(b'[');
        for (index, kept) in self.state.items.iter().enumerate() {
            kept.item()
                .write(index, kept.status.unwrap_or("completed"), memory, naming, &mut output);
        }
        output.close(b']');
        let counts = self.state.ending.counts;
        let name = match end {
            End::Incomplete(_) => "response.incomplete",
            _ => "response.completed",
        };
        self.event(name, |json, _| {
            json.key("response");
            response(json, memory, naming, end, &output.0, Some(counts));
        });
    }

    fn fail(&mut self, kind: &[u8], message: &[u8]) {
        self.start();
        let code: &[u8] = match kind {
            b"rate_limit_error" => b"rate_limit_exceeded",
            b"invalid_request_error" => b"invalid_prompt",
            _ => b"server_error",
        };
        let naming = self.naming;
        self.event("response.failed", |json, _| {
            json.key("response")
                .open(b'{')
                .key("id")
                .value(&naming.id("resp_"))
                .key("object")
                .text(b"response");
            json.key("created_at")
                .number(naming.created)
                .key("status")
                .text(b"failed");
            json.key("error")
                .open(b'{')
                .key("code")
                .text(code)
                .key("message")
                .text(message)
                .close(b'}');
            json.key("incomplete_details")
                .value(b"null")
                .key("model")
                .value(&naming.model)
                .key("output")
                .value(b"[]");
            json.key("parallel_tool_calls")
                .value(b"true")
                .key("tool_choice")
                .text(b"auto");
            json.key("tools").value(b"[]").key("usage").value(b"null").close(b'}');
        });
        self.state.ending.has_ended = true;
    }
}

impl Sink for Stream<'_> {
    fn word(&mut self, word: Word<'_>) -> Result<(), Fault> {
        if self.state.ending.has_ended {
            return Ok(());
        }
        self.state.ending.word(word);
        if self.state.items.len() > MAX_BLOCKS {
            return Err(Fault("its answer has too many parts"));
        }
        match word {
            Word::Text(text) => {
                let index = self.current(Kind::Message);
                self.keep(index, text)?;
                self.item_event(index, "response.output_text.delta", |json, _| {
                    json.key("content_index")
                        .number(0)
                        .key("delta")
                        .text(text)
                        .key("logprobs")
                        .value(b"[]");
                });
            }
            Word::Refusal(text) => {
                let index = self.current(Kind::Refusal);
                self.keep(index, text)?;
                self.item_event(index, "response.refusal.delta", |json, _| {
                    json.key("content_index").number(0).key("delta").text(text);
                });
            }
            Word::Thought(text) => {
                let index = self.current(Kind::Thought);
                self.keep(index, text)?;
                if self.memory.wants_summary {
                    self.item_event(index, "response.reasoning_summary_text.delta", |json, _| {
                        json.key("summary_index").number(0).key("delta").text(text);
                    });
                } else {
                    self.item_event(index, "response.reasoning_text.delta", |json, _| {
                        json.key("content_index").number(0).key("delta").text(text);
                    });
                }
            }
            Word::Logprobs(list) if !list.is_empty() => {
                self.state.kept_bytes += list.len();
                if self.state.kept_bytes > MAX_KEPT_BYTES {
                    return Err(Fault("its answer is too long to be repeated at the end of the stream"));
                }
                let index = self.current(Kind::Message);
                if let Some(kept) = self.state.items.get_mut(index) {
                    if !kept.logprobs.is_empty() {
                        kept.logprobs.push(b',');
                    }
                    kept.logprobs.extend_from_slice(list);
                }
            }
            Word::CallBegin { key, id, name } => {
                self.begin(Kind::Call {
                    key,
                    id: id.to_vec(),
                    name: name.to_vec(),
                });
            }
            Word::CallArguments { key, text } => {
                let same = |kept: &Kept| matches!(&kept.kind, Kind::Call { key: own, .. } if *own == key);
                let Some(index) = self.state.items.iter().rposition(same) else {
                    return Ok(());
                };
                self.keep(index, text)?;
                let name = self.state.items.get(index).map(|kept| &kept.kind);
                if matches!(name, Some(Kind::Call { name, .. }) if self.memory.is_custom(name)) {
                    return Ok(());
                }
                self.item_event(index, "response.function_call_arguments.delta", |json, _| {
                    json.key("delta").text(text);
                });
            }
            Word::Fault { message, kind } => self.fail(kind, message),
            Word::End => self.end(),
            Word::Signature(_) | Word::Sealed(_) | Word::Logprobs(_) | Word::Finish(..) | Word::Usage(_) => {}
        }
        Ok(())
    }
}
