//! The translation of answers: framing, then a reader, then a writer.

use std::sync::Arc;

use super::chat;
use super::collected::Collected;
use super::completions;
use super::gemini;
use super::memory::{Memory, Naming};
use super::messages;
use super::responses;
use super::target::Dialect;
use super::words::{Fault, Sink, Word};
use crate::json::quote;
use crate::json::tape::{Node, Tape};
use crate::sse::{Event, Events, Sink as EventSink};

/// A larger document is not translated: it has to be kept whole.
const MAX_DOCUMENT_BYTES: usize = 64 << 20;

/// The translation of one answer. It keeps at most a document, or an event and what must be put in order.
#[derive(Debug)]
pub struct Answer {
    memory: Arc<Memory>,
    naming: Naming,
    reader: Reader,
    writer: Writer,
    input: Input,
    nodes: Vec<Node>,
    scratch: Vec<u8>,
}

#[derive(Debug)]
enum Input {
    Events(Box<Events>),
    Document(Vec<u8>),
}

#[derive(Debug)]
enum Reader {
    Chat(chat::reader::Reader),
    Messages(messages::reader::Reader),
    Gemini(gemini::reader::Reader),
}

#[derive(Debug)]
enum Writer {
    Document(Dialect, Box<Collected>),
    Chat(Box<chat::stream::State>),
    Completions(Box<completions::stream::State>),
    Messages(Box<messages::stream::State>),
    Responses(Box<responses::stream::State>),
}

impl Answer {
    /// The translation of an answer from `upstream`'s dialect to `client`'s. `is_stream`: the upstream sends events;
    /// `to_stream`: the client gets them.
    pub fn new(
        memory: Arc<Memory>,
        naming: Naming,
        upstream: Dialect,
        client: Dialect,
        is_stream: bool,
        to_stream: bool,
    ) -> Self {
        let reader = match upstream {
            Dialect::Messages | Dialect::Count => Reader::Messages(messages::reader::Reader::default()),
            Dialect::Gemini => Reader::Gemini(gemini::reader::Reader::default()),
            Dialect::Chat | Dialect::Responses | Dialect::Completions => {
                Reader::Chat(chat::reader::Reader::new(&memory.stops))
            }
        };
        let writer = match client {
            Dialect::Chat if to_stream => Writer::Chat(Box::default()),
            Dialect::Completions if to_stream => Writer::Completions(Box::default()),
            Dialect::Messages if to_stream => Writer::Messages(Box::default()),
            Dialect::Responses if to_stream => Writer::Responses(Box::default()),
            _ => Writer::Document(client, Box::default()),
        };
        Self {
            memory,
            naming,
            reader,
            writer,
            input: if is_stream {
                Input::Events(Box::new(Events::new()))
            } else {
                Input::Document(Vec::new())
            },
            nodes: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Translates bytes of the upstream's answer, cut anywhere; appends whole events to `out`.
    pub fn feed(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        let Input::Events(events) = &mut self.input else {
            if let Input::Document(document) = &mut self.input {
                if document.len() + data.len() > MAX_DOCUMENT_BYTES {
                    return Err(Fault("its answer is too large"));
                }
                document.extend_from_slice(data);
            }
            return Ok(());
        };
        let mut step = Step {
            memory: &self.memory,
            naming: &self.naming,
            reader: &mut self.reader,
            writer: &mut self.writer,
            nodes: &mut self.nodes,
            scratch: &mut self.scratch,
            out,
            fault: None,
        };
        events.feed(data, &mut step);
        step.fault.map_or(Ok(()), Err)
    }

    /// Ends a stream with an error: its kind in Anthropic's words, and its message as the text of a JSON string.
    pub fn fail(&mut self, kind: &str, message: &str, out: &mut Vec<u8>) -> Result<(), Fault> {
        let message = quote(message);
        let word = Word::Fault {
            message: message.get(1..message.len() - 1).unwrap_or_default(),
            kind: kind.as_bytes(),
        };
        self.writer.sink(&self.memory, &self.naming, out).word(word)
    }

    /// Ends an answer that came whole; appends its closing events, or the document, to `out`.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        let document = match &mut self.input {
            Input::Document(document) => std::mem::take(document),
            Input::Events(_) => Vec::new(),
        };
        let mut step = Step {
            memory: &self.memory,
            naming: &self.naming,
            reader: &mut self.reader,
            writer: &mut self.writer,
            nodes: &mut self.nodes,
            scratch: &mut self.scratch,
            out,
            fault: None,
        };
        if matches!(self.input, Input::Document(_)) {
            step.read(&document);
        }
        step.end();
        if let Some(fault) = step.fault {
            return Err(fault);
        }
        match &self.writer {
            Writer::Document(client, answer) => {
                if answer.fault.is_some() {
                    return Err(Fault("it sent an error amid its answer"));
                }
                out.extend_from_slice(&match client {
                    Dialect::Chat => chat::answer::write(answer, &self.memory, &self.naming),
                    Dialect::Completions => completions::answer::write(answer, &self.naming),
                    Dialect::Responses => responses::answer::write(answer, &self.memory, &self.naming),
                    _ => messages::answer::write(answer, &self.memory, &self.naming)?,
                });
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// One step of a translation.
struct Step<'s> {
    memory: &'s Memory,
    naming: &'s Naming,
    reader: &'s mut Reader,
    writer: &'s mut Writer,
    nodes: &'s mut Vec<Node>,
    scratch: &'s mut Vec<u8>,
    out: &'s mut Vec<u8>,
    fault: Option<Fault>,
}

impl Step<'_> {
    fn read(&mut self, data: &[u8]) {
        let tape = match Tape::read(data, std::mem::take(self.nodes)) {
            Ok(tape) => tape,
            Err(_) => {
                self.fault = Some(Fault("its answer has invalid JSON"));
                return;
            }
        };
        let mut sink = self.writer.sink(self.memory, self.naming, self.out);
        let read = match &mut *self.reader {
            Reader::Chat(reader) => reader.read(tape.root(), &mut sink),
            Reader::Messages(reader) => reader.read(tape.root(), &mut sink),
            Reader::Gemini(reader) => reader.read(tape.root(), &mut sink),
        };
        self.fault = read.err();
        *self.nodes = tape.into_nodes();
    }

    fn end(&mut self) {
        if self.fault.is_some() {
            return;
        }
        let mut sink = self.writer.sink(self.memory, self.naming, self.out);
        let ended = match &mut *self.reader {
            Reader::Chat(reader) => reader.end(&mut sink),
            Reader::Messages(reader) => reader.end(&mut sink),
            Reader::Gemini(reader) => reader.end(&mut sink),
        };
        self.fault = ended.err();
    }
}

impl EventSink for Step<'_> {
    fn pass(&mut self, _: &[u8]) {}

    fn event(&mut self, event: Event<'_>) {
        if self.fault.is_some() {
            return;
        }
        let mut scratch = std::mem::take(self.scratch);
        let data = event.data(&mut scratch);
        match data.trim_ascii() {
            b"[DONE]" => self.end(),
            b"" => {}
            data => self.read(data),
        }
        *self.scratch = scratch;
    }

    fn long(&mut self, _: &[u8]) {
        self.fault = Some(Fault("an event of its stream is too long"));
    }
}

/// Writes words in the client's dialect.
enum AnySink<'s> {
    Document(&'s mut Collected),
    Chat(chat::stream::Stream<'s>),
    Completions(completions::stream::Stream<'s>),
    Messages(messages::stream::Stream<'s>),
    Responses(responses::stream::Stream<'s>),
}

impl Writer {
    fn sink<'s>(&'s mut self, memory: &'s Memory, naming: &'s Naming, out: &'s mut Vec<u8>) -> AnySink<'s> {
        match self {
            Self::Document(_, collected) => AnySink::Document(collected),
            Self::Chat(state) => AnySink::Chat(chat::stream::Stream::new(memory, naming, state, out)),
            Self::Completions(state) => {
                AnySink::Completions(completions::stream::Stream::new(memory, naming, state, out))
            }
            Self::Messages(state) => AnySink::Messages(messages::stream::Stream::new(memory, naming, state, out)),
            Self::Responses(state) => AnySink::Responses(responses::stream::Stream::new(memory, naming, state, out)),
        }
    }
}

impl Sink for AnySink<'_> {
    fn word(&mut self, word: Word<'_>) -> Result<(), Fault> {
        match self {
            Self::Document(collected) => collected.word(word),
            Self::Chat(stream) => stream.word(word),
            Self::Completions(stream) => stream.word(word),
            Self::Messages(stream) => stream.word(word),
            Self::Responses(stream) => stream.word(word),
        }
    }
}
