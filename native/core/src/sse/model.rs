//! The model rewriter: replaces the upstream's model name with the one that the client requested.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::cuts::remaining;
use super::events::{Event, Events, KEPT_BYTES, MAX_EVENT_BYTES, Sink};
use super::object::{Object, members};
use crate::json::{Listener, Outline, Want, quote, unescape};

members!(NAMED: MODEL = "model", MESSAGE = "message", RESPONSE = "response");

/// Most events of some dialects do not name the model.
static MARK: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"model\""));

/// Replaces the `model` member of responses as they pass, or of their `message` or `response` member.
///
/// Only strings are replaced. Text that is not JSON, too long, or has `model` twice in one event passes unchanged.
pub struct ModelRewriter {
    framing: Framing,
    name: Name,
    out: Vec<u8>,
}

enum Framing {
    Events(Events),
    // For a document, the text of the name that has begun.
    Document(Outline, Option<Vec<u8>>),
}

/// The replacement.
struct Name {
    text: Box<str>,
    json: Box<[u8]>,
}

impl ModelRewriter {
    /// A rewriter for an event stream, or else for one JSON document.
    pub fn new(sse: bool, model: &str) -> Self {
        let framing = if sse {
            Framing::Events(Events::new())
        } else {
            Framing::Document(Outline::new(), None)
        };
        Self {
            framing,
            name: Name {
                text: model.into(),
                json: quote(model),
            },
            out: Vec::new(),
        }
    }

    /// Processes the next bytes; returns the bytes that may be sent.
    pub fn feed(&mut self, bytes: &[u8]) -> &[u8] {
        self.feed_without(bytes, &[])
    }

    /// Same as `feed`, without the cuts of a scanner that was fed the same bytes.
    pub(crate) fn feed_without(&mut self, bytes: &[u8], cuts: &[(usize, usize)]) -> &[u8] {
        let Self { framing, name, out } = self;
        out.clear();
        out.shrink_to(KEPT_BYTES);
        match framing {
            Framing::Events(events) => {
                events.feed(bytes, &mut Stream { name, out, cuts, at: 0 });
            }
            Framing::Document(outline, held) => {
                let mut document = Document {
                    name,
                    out,
                    held,
                    bytes,
                    from: 0,
                };
                outline.feed(bytes, &mut document);
                document.keep(bytes.len());
            }
        }
        out
    }

    /// The bytes still held, unchanged.
    pub fn finish(&mut self) -> Vec<u8> {
        match &mut self.framing {
            Framing::Events(events) => events.finish(),
            Framing::Document(_, held) => held.take().unwrap_or_default(),
        }
    }
}

impl Name {
    /// The replacement of a value: the name, unless the value is not a string or already spells it.
    fn instead_of(&self, value: &[u8]) -> Option<&[u8]> {
        let raw = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        let is_same = value == &*self.json || (raw.contains(&b'\\') && unescape(raw) == *self.text);
        (!is_same && value.len() <= MAX_EVENT_BYTES).then_some(&*self.json)
    }
}

struct Stream<'a> {
    name: &'a Name,
    out: &'a mut Vec<u8>,
    cuts: &'a [(usize, usize)],
    // The position in the framer's output of this feed.
    at: usize,
}

impl Sink for Stream<'_> {
    fn pass(&mut self, bytes: &[u8]) {
        remaining(bytes, self.at, self.cuts, |piece| self.out.extend_from_slice(piece));
        self.at += bytes.len();
    }

    fn event(&mut self, event: Event<'_>) {
        let start = self.at;
        self.at += event.raw.len();
        if self.cuts.contains(&(start, self.at)) {
            return;
        }
        let mut scratch = Vec::new();
        let data = event.data(&mut scratch);
        let mut at = 0;
        if MARK.find(data).is_some() {
            for (start, end) in spans(data) {
                let value = data.get(start..end).unwrap_or_default();
                if let (Some(name), Some(offset)) = (self.name.instead_of(value), event.offset(start)) {
                    self.out
                        .extend_from_slice(event.raw.get(at..offset).unwrap_or_default());
                    self.out.extend_from_slice(name);
                    at = offset + (end - start);
                }
            }
        }
        self.out.extend_from_slice(event.raw.get(at..).unwrap_or_default());
    }
}

/// The spans of an event's model names, in ascending order.
fn spans(data: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    let mut found = [None; 3];
    if let Some(object) = Object::read(&NAMED, data) {
        let nested = |field| {
            let outer = object.span(field)?;
            let span = Object::read(&NAMED, data.get(outer.clone())?)?.span(MODEL)?;
            Some((outer.start + span.start, outer.start + span.end))
        };
        found = [
            object.span(MODEL).map(|span| (span.start, span.end)),
            nested(MESSAGE),
            nested(RESPONSE),
        ];
    }
    found.sort_unstable();
    found.into_iter().flatten()
}

/// Receives the outline of a document; `from` is the start of the unwritten text in `bytes`.
struct Document<'a> {
    name: &'a Name,
    out: &'a mut Vec<u8>,
    held: &'a mut Option<Vec<u8>>,
    bytes: &'a [u8],
    from: usize,
}

impl Document<'_> {
    /// Writes the text up to `at`, or holds it while a name is open.
    fn keep(&mut self, at: usize) {
        let text = self.bytes.get(self.from..at).unwrap_or_default();
        self.from = at;
        match self.held {
            Some(held) if held.len() + text.len() <= MAX_EVENT_BYTES => held.extend_from_slice(text),
            Some(held) => {
                self.out.append(held);
                self.out.extend_from_slice(text);
                *self.held = None;
            }
            None => self.out.extend_from_slice(text),
        }
    }
}

impl Listener for Document<'_> {
    fn key(&mut self, key: &[u8], inside: bool) -> Want {
        match key {
            b"model" => Want::Value(MODEL as u8),
            b"message" | b"response" if !inside => Want::Inside,
            _ => Want::Nothing,
        }
    }

    fn begin(&mut self, _: u8, at: usize) {
        self.keep(at);
        // Only strings are replaced, so only they are held.
        if self.bytes.get(at) == Some(&b'"') {
            *self.held = Some(Vec::new());
        }
    }

    fn end(&mut self, _: u8, at: usize) {
        self.keep(at);
        if let Some(value) = self.held.take() {
            self.out
                .extend_from_slice(self.name.instead_of(&value).unwrap_or(&value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(sse: bool, text: &str) -> String {
        let results = [1, 2, 5, text.len().max(1)].map(|size| {
            let mut rewriter = ModelRewriter::new(sse, "m\"y");
            let mut out = Vec::new();
            for chunk in text.as_bytes().chunks(size) {
                out.extend_from_slice(rewriter.feed(chunk));
            }
            out.extend(rewriter.finish());
            String::from_utf8(out).unwrap()
        });
        assert!(results.iter().all(|result| *result == results[0]));
        results[0].clone()
    }

    #[test]
    fn events_name_the_model_asked_for() {
        let event = |model: &str| {
            format!(
                ": c\r\nevent: x\r\ndata: {{\"model\" : {model},\"a\":{{\"model\":\"b\"}},\"message\":{{\"model\":{model}}},\
                 \"response\":{{\"id\":1,\"model\":{model}}}}}\r\n\r\ndata: [DONE]\n\n"
            )
        };
        assert_eq!(rewrite(true, &event("\"upstream/name\"")), event("\"m\\\"y\""));
        assert_eq!(rewrite(true, &event("null")), event("null"));
        assert_eq!(rewrite(true, &event("\"\\u006d\\\"y\"")), event("\"\\u006d\\\"y\""));
    }

    #[test]
    fn data_in_several_lines_is_one_object() {
        let event = |model: &str| format!("data: {{\ndata:\"message\":\r\ndata: {{\"model\":{model}\ndata:}}}}\n\n");
        assert_eq!(rewrite(true, &event("\"x\"")), event("\"m\\\"y\""));
    }

    #[test]
    fn what_cannot_be_read_passes() {
        for stream in [
            "data: {\"model\":\"x\"",
            "data: {\"model\":\"x\"\n\n",
            "data: {\"model\":\"x\",\"model\":\"y\"}\n\n",
            "data: {\"model\":\"x\"}\n",
            "model\n\ndata: \"model\"\n\n",
        ] {
            assert_eq!(rewrite(true, stream), stream);
        }
    }

    #[test]
    fn documents_name_it_too() {
        let document = |model: &str| {
            format!(
                " {{\"choices\":[{{\"model\":\"x\",\"message\":{{\"model\":\"x\"}}}}],\"model\": {model} ,\"message\":\
                 {{\"message\":{{\"model\":\"x\"}},\"model\":{model}}},\"t\":\"\\\"model\\\":\\\"x\\\"\"}} "
            )
        };
        assert_eq!(rewrite(false, &document("\"upstream\"")), document("\"m\\\"y\""));
        assert_eq!(rewrite(false, &document("12")), document("12"));
        assert_eq!(rewrite(false, "{\"model\":\"x"), "{\"model\":\"x");
    }

    #[test]
    fn a_name_without_end_is_not_held() {
        let mut rewriter = ModelRewriter::new(false, "m");
        let mut out = rewriter.feed(b"{\"model\":\"").to_vec();
        for _ in 0..20 {
            out.extend_from_slice(rewriter.feed(&[b'x'; 100_000]));
        }
        assert!(out.len() > 900_000);
        out.extend_from_slice(rewriter.feed(b"\",\"message\":{\"model\":\"x\"}}"));
        assert!(out.ends_with(b"x\",\"message\":{\"model\":\"m\"}}"));
    }
}
