//! Writes streams of the Completions API.

use super::super::chat::answer::{usage, word as word_of};
use super::super::ending::Ending;
use super::super::memory::{Memory, Naming};
use super::super::text::Json;
use super::super::words::{Fault, Sink, Word};

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

    fn chunk(&mut self, rest: impl FnOnce(&mut Json)) {
        let mut json = Json(std::mem::take(self.out));
        json.put(b"data: ").open(b'{').key("id").value(&self.naming.id("cmpl-"));
        json.key("object")
            .text(b"text_completion")
            .key("created")
            .number(self.naming.created);
        json.key("model").value(&self.naming.model);
        rest(&mut json);
        json.close(b'}').put(b"\n\n");
        *self.out = json.0;
    }

    fn choice(&mut self, text: &[u8], finish: Option<&[u8]>) {
        self.chunk(|json| {
            json.key("choices")
                .open(b'[')
                .open(b'{')
                .key("index")
                .number(0)
                .key("text")
                .text(text);
            json.key("logprobs").value(b"null").key("finish_reason");
            match finish {
                Some(word) => json.text(word),
                None => json.value(b"null"),
            };
            json.close(b'}').close(b']');
        });
    }
}

impl Sink for Stream<'_> {
    fn word(&mut self, word: Word<'_>) -> Result<(), Fault> {
        if self.state.ending.has_ended {
            return Ok(());
        }
        self.state.ending.word(word);
        match word {
            Word::Text(text) => self.choice(text, None),
            Word::Fault { message, .. } => {
                let mut json = Json(std::mem::take(self.out));
                json.put(b"data: ")
                    .open(b'{')
                    .key("error")
                    .open(b'{')
                    .key("message")
                    .text(message);
                json.key("type")
                    .text(b"server_error")
                    .key("param")
                    .value(b"null")
                    .key("code")
                    .value(b"null");
                json.close(b'}').close(b'}').put(b"\n\n");
                *self.out = json.0;
                self.state.ending.has_ended = true;
            }
            Word::End => {
                self.choice(b"", Some(word_of(self.state.ending.stop())));
                if self.memory.wants_usage {
                    let counts = self.state.ending.counts;
                    self.chunk(|json| {
                        json.key("choices").value(b"[]").key("usage");
                        usage(counts, json);
                    });
                }
                self.out.extend_from_slice(b"data: [DONE]\n\n");
            }
            _ => {}
        }
        Ok(())
    }
}
