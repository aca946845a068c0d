//! The usage scanner: observes a response as it passes.

use std::sync::LazyLock;

use aho_corasick::packed;
use memchr::memmem::Finder;
use smallvec::SmallVec;

use super::choices::{ChoiceReader, Choices, has_content};
use super::cuts::Cuts;
use super::events::{Event, Events, Sink};
use super::long::Long;
use super::object::{Object, members};
use super::tail;
use super::usage::{MAX_USAGE_BYTES, Report, Usage};
use crate::json::{Listener, Outline, Want};

/// Longer documents are tracked rather than validated: an embedding is megabytes of numbers.
const MAX_WHOLE_BYTES: usize = 64 * 1024;

members!(EVENT:
    TYPE = "type",
    ERROR = "error",
    USAGE = "usage",
    MESSAGE = "message",
    RESPONSE = "response",
    X_GROQ = "x_groq",
    USAGE_METADATA = "usageMetadata",
    META = "meta",
    DELTA = "delta",
    OBJECT = "object",
    CHOICES = "choices",
    CONTENT_BLOCK = "content_block",
    ITEM = "item",
);

/// Searches for the marks of events that must be parsed: those with one of these marks, when `Seen::is_told` accepts
/// the text after it. None without vector instructions; then every event is parsed.
static MARKS: LazyLock<Option<packed::Searcher>> = LazyLock::new(|| {
    packed::Searcher::new([
        "\"usage\"",
        "\"error\"",
        "\"finish_reason\"",
        "\"index\"",
        "\"usageMetadata\"",
        "\"tokens\"",
        "\"message_stop\"",
        "\"message-end\"",
        "\"response.completed\"",
        "\"response.failed\"",
        "\"response.incomplete\"",
    ])
});
/// Indices of two marks.
const FINISH_MARK: usize = 2;
const INDEX_MARK: usize = 3;

/// The class of a stream's first event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum First {
    /// No event with data yet: comments, pings, empty data and `[DONE]` do not count.
    #[default]
    Nothing,
    /// An event with a JSON object.
    Event,
    /// An event with a JSON object, of an API whose streams mark their end: OpenAI's chat, completions or responses,
    /// Anthropic's messages.
    Promise,
    /// An error.
    Error,
    /// Something else.
    Other,
}

/// Finds event borders, the terminator, errors and usage. Changes nothing, holds at most one event, never fails.
pub struct UsageScanner {
    framing: Framing,
    seen: Seen,
}

enum Framing {
    Events(Events),
    Document(Outline),
}

/// The longest tail: a usage object with the members that engines write after it.
const MAX_TAIL_BYTES: usize = 1024;
static USAGE_KEY: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));

/// The observations so far.
#[derive(Default)]
struct Seen {
    report: Option<Report>,
    done: bool,
    choices: Choices,
    /// True when an event carried content: text, reasoning, a tool call.
    content: bool,
    error: bool,
    /// True when an event was not a JSON object: its meaning is unknown.
    odd: bool,
    first: First,
    /// True when the last event was the usage of everything before, and nothing else.
    is_settled: bool,
    /// The positions of such events, when they are not to be forwarded.
    cuts: Option<Cuts>,
    events: u64,
    scratch: Vec<u8>,
    // The text so far of a document's wanted value that is open.
    value: Vec<u8>,
    is_open: bool,
    // The start of its next part in the bytes of this feed.
    from: usize,
    // An event that is too long to be held.
    long: Option<Box<Long>>,
}

impl UsageScanner {
    /// A scanner for an event stream, or else for one JSON document.
    pub fn new(sse: bool) -> Self {
        let framing = if sse {
            Framing::Events(Events::new())
        } else {
            Framing::Document(Outline::new())
        };
        Self {
            framing,
            seen: Seen::default(),
        }
    }

    /// Same as `new`; for an event stream, it also reports the positions of events that hold only the usage (`cuts`).
    /// Such an event does not count as the stream's first: without it, the stream would be empty.
    pub fn cutting_usage(sse: bool) -> Self {
        let mut scanner = Self::new(sse);
        scanner.seen.cuts = sse.then(Cuts::default);
        scanner
    }

    /// Scans the next bytes, however they are cut; returns the number of events they completed.
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        self.seen.begin();
        match &mut self.framing {
            Framing::Events(events) => events.feed(bytes, &mut self.seen),
            Framing::Document(_) if self.seen.done => 0,
            Framing::Document(outline) if outline.is_new() && self.seen.whole(bytes) => 0,
            Framing::Document(outline) => {
                let mut listener = Document {
                    seen: &mut self.seen,
                    bytes,
                };
                outline.feed(bytes, &mut listener);
                listener.keep(bytes.len());
                self.seen.done |= outline.is_complete();
                0
            }
        }
    }

    /// Same as `feed`, for an event stream that is forwarded in whole events: bytes that are no longer held back are
    /// appended to `freed`; they are followed by the first bytes of `bytes`, as many as the returned number. A document
    /// is never held back.
    pub fn feed_through(&mut self, bytes: &[u8], freed: &mut Vec<u8>) -> usize {
        self.seen.begin();
        match &mut self.framing {
            Framing::Events(events) => events.feed_through(bytes, &mut self.seen, freed).1,
            Framing::Document(_) => {
                self.feed(bytes);
                bytes.len()
            }
        }
    }

    /// The cuts in the output of the last feed: positions, in ascending order.
    pub(crate) fn cuts(&self) -> &[(usize, usize)] {
        self.seen.cuts.as_ref().map_or(&[], Cuts::ranges)
    }

    /// The bytes of an event stream that are still held back.
    pub fn finish(&mut self) -> Vec<u8> {
        match &mut self.framing {
            Framing::Events(events) => events.finish(),
            Framing::Document(_) => Vec::new(),
        }
    }

    /// The class of the stream's first event.
    pub fn first(&self) -> First {
        self.seen.first
    }

    /// True when each choice that began has ended: for a chat or completion, that is nearly as good as a terminator.
    pub fn finished(&self) -> bool {
        self.seen.choices.are_all_ended()
    }

    /// True when an event of the stream carried content: text, reasoning, a tool call. In an unknown API, every event
    /// does.
    pub fn has_content(&self) -> bool {
        self.seen.content
    }

    /// The last usage object.
    pub fn usage(&self) -> Option<Usage> {
        self.seen.report.as_ref().map(Report::total)
    }

    /// True when the stream has reported the usage of everything before, in a separate event; whatever follows clears
    /// it.
    pub fn is_settled(&self) -> bool {
        self.seen.is_settled
    }

    /// True when a terminator was seen; for a document, its end.
    pub fn done(&self) -> bool {
        self.seen.done
    }

    /// The number of events so far; 0 for a document.
    pub fn events(&self) -> u64 {
        self.seen.events
    }

    /// True when one JSON document is scanned.
    pub fn is_document(&self) -> bool {
        matches!(self.framing, Framing::Document(_))
    }

    /// True when the output ends with a whole event or comment, so that another may be inserted. Always false inside a
    /// document.
    pub fn is_between_events(&self) -> bool {
        match &self.framing {
            Framing::Events(events) => events.is_between(),
            Framing::Document(_) => false,
        }
    }

    /// True when an event of the stream may report an error: it is one, or cannot be parsed.
    pub fn may_tell(&self) -> bool {
        self.seen.error || self.seen.odd
    }

    /// True when an error event was seen; for a document, an `error` member.
    pub fn error(&self) -> bool {
        self.seen.error
    }
}

/// The usage that a whole JSON document reports.
///
/// Engines write `usage` near the end: the text after its key is parsed separately, as an object. When it closes with
/// the document's last byte, the key was at the top level. Every other document is read from the start.
pub fn usage_of_document(bytes: &[u8]) -> Option<Usage> {
    if let Some(report) = usage_at_end(bytes) {
        return Some(report.total());
    }
    let mut scanner = UsageScanner::new(false);
    scanner.feed(bytes);
    scanner.usage()
}

fn usage_at_end(bytes: &[u8]) -> Option<Report> {
    let from = bytes.len().saturating_sub(MAX_TAIL_BYTES);
    let end = bytes.get(from..)?;
    let key = from + tail::quick_key(end).or_else(|| USAGE_KEY.find_iter(end).last())?;
    let (before, tail) = bytes.split_at(key);
    // Within a string, every quote has a backslash before it.
    if before.ends_with(b"\\") {
        return None;
    }
    if let Some(report) = tail::usage_of(tail) {
        return Some(report);
    }
    let mut object: SmallVec<[u8; 256]> = SmallVec::with_capacity(tail.len() + 1);
    object.push(b'{');
    object.extend_from_slice(tail);
    Report::usage(Object::read(&EVENT, &object)?.text(USAGE)?)
}

impl Sink for Seen {
    fn pass(&mut self, bytes: &[u8]) {
        if let Some(cuts) = &mut self.cuts {
            cuts.pass(bytes);
        }
    }

    #[inline]
    fn event(&mut self, event: Event<'_>) {
        self.events += 1;
        self.error |= event.is_error;
        let mut scratch = std::mem::take(&mut self.scratch);
        let data = event.data(&mut scratch);
        let mut is_usage = false;
        if data.trim_ascii() == b"[DONE]" {
            self.done = true;
        } else {
            self.odd |= data.trim_ascii_start().first() != Some(&b'{');
            is_usage = self.is_marked(data) && self.read(data) && !event.is_error;
            self.is_settled = is_usage;
        }
        let mut is_cut = false;
        if let Some(cuts) = &mut self.cuts {
            is_cut = is_usage;
            cuts.event(event.raw, is_cut);
        }
        if !self.content && !is_usage {
            self.listen(data);
        }
        // A cut event is not the first one.
        if self.first == First::Nothing && !is_cut {
            self.judge(data);
        }
        scratch.clear();
        self.scratch = scratch;
    }

    fn long(&mut self, data: &[u8]) {
        self.long.get_or_insert_default().feed(data, &mut self.choices);
    }

    fn long_end(&mut self, is_error: bool) {
        let facts = self.long.take().unwrap_or_default().finish();
        self.events += 1;
        self.is_settled = false;
        self.content = true;
        self.count(&facts.kind, facts.report);
        self.conclude(&facts.kind, is_error || facts.has_error);
        if self.first == First::Nothing {
            self.first = if facts.is_object || self.error {
                self.first_of(&facts.kind, facts.has_choices)
            } else {
                First::Other
            };
        }
    }
}

/// The number at the start of a text.
fn index_of(text: &[u8]) -> Option<usize> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(text.get(..digits)?).ok()?.parse().ok()
}

/// True when an item of a response's output is a tool call.
fn is_call(item: &[u8]) -> bool {
    Object::read(&EVENT, item).is_some_and(|item| item.text(TYPE).is_some_and(|kind| kind.ends_with(b"_call\"")))
}

/// True for the event that OpenAI's `include_usage` puts before `[DONE]`: a usage object, and an empty list of choices.
fn is_usage_alone(event: &Object<'_>) -> bool {
    let choices = event.text(CHOICES).and_then(|text| text.strip_prefix(b"["));
    choices.is_some_and(|rest| rest.trim_ascii() == b"]")
        && event.text(USAGE).is_some_and(|usage| usage.starts_with(b"{"))
        && !event.has(ERROR)
}

impl Seen {
    /// Begins a feed.
    #[inline]
    fn begin(&mut self) {
        if let Some(cuts) = &mut self.cuts {
            cuts.begin();
        }
    }

    /// True when the event holds a mark that must be parsed.
    fn is_marked(&self, data: &[u8]) -> bool {
        let Some(marks) = &*MARKS else { return true };
        marks.find_iter(data).any(|mark| {
            let after = data.get(mark.end()..).unwrap_or_default();
            self.is_told(mark.pattern().as_usize(), after)
        })
    }

    /// True when a mark with this text after it holds something not yet known.
    fn is_told(&self, mark: usize, after: &[u8]) -> bool {
        if mark > INDEX_MARK {
            return true;
        }
        let after = after.trim_ascii_start();
        let value = after.strip_prefix(b":").unwrap_or(after).trim_ascii_start();
        match mark {
            FINISH_MARK => value.starts_with(b"\""),
            // Tool calls have an index, too: one that is known cannot be a choice that begins.
            INDEX_MARK => !index_of(value).is_some_and(|index| self.choices.has_begun(index)),
            // OpenAI's `include_usage` puts "usage":null into every event but the last.
            _ => !value.starts_with(b"null"),
        }
    }

    /// Classifies the first event of a stream.
    fn judge(&mut self, data: &[u8]) {
        let data = data.trim_ascii();
        if data.is_empty() || data == b"[DONE]" {
            return;
        }
        let event = Object::read(&EVENT, data);
        self.first = match &event {
            None if self.error => First::Error,
            None => First::Other,
            Some(event) => self.first_of(event.text(TYPE).unwrap_or_default(), event.has(CHOICES)),
        };
    }

    /// The class of a stream that begins with an object of this kind.
    fn first_of(&self, kind: &[u8], has_choices: bool) -> First {
        if kind == b"\"ping\"" {
            First::Nothing
        } else if self.error {
            First::Error
        } else if has_choices || kind == b"\"message_start\"" || kind.starts_with(b"\"response.") {
            First::Promise
        } else {
            First::Event
        }
    }

    /// Checks an event for content, while none was seen.
    fn listen(&mut self, data: &[u8]) {
        let Some(event) = Object::read(&EVENT, data) else {
            return;
        };
        let kind = event.text(TYPE).unwrap_or_default();
        let says = |field| event.text(field).is_some_and(has_content);
        self.content = if let Some(choices) = event.text(CHOICES) {
            ChoiceReader::default().feed(choices, &mut self.choices)
        } else if let Some(kind) = kind.strip_prefix(b"\"response.") {
            // `response.output_text.delta`, `response.function_call_arguments.delta` and the like; a call's name comes
            // earlier.
            let is_call = kind == b"output_item.added\"" && event.text(ITEM).is_some_and(is_call);
            let is_delta = kind.ends_with(b".delta\"") && event.text(DELTA).is_some_and(|delta| delta.len() > 2);
            is_call || is_delta || kind.ends_with(b".partial_image\"")
        } else {
            match kind {
                b"\"content_block_start\"" => says(CONTENT_BLOCK),
                b"\"content_block_delta\"" => says(DELTA),
                b"\"ping\"" | b"\"error\"" => false,
                // In other APIs, the meaning of events is unknown.
                _ => !self.error && !kind.starts_with(b"\"message_") && !kind.starts_with(b"\"content_block"),
            }
        };
    }

    /// Reads an event; returns true when it holds the usage, and neither a choice nor an error.
    fn read(&mut self, data: &[u8]) -> bool {
        let Some(event) = Object::read(&EVENT, data) else {
            self.odd = true;
            return false;
        };
        let kind = event.text(TYPE).unwrap_or_default();
        // In the form of vLLM and SGLang, the error is the event itself.
        let is_error = event.has(ERROR) || event.text(OBJECT) == Some(b"\"error\"");
        if let Some(choices) = event.text(CHOICES) {
            self.content |= ChoiceReader::default().feed(choices, &mut self.choices);
        }
        self.conclude(kind, is_error);
        let nested = |field| Object::read(&EVENT, event.text(field)?)?.text(USAGE);
        let usage = event.text(USAGE).and_then(Report::usage);
        let report = usage
            .or_else(|| {
                [MESSAGE, RESPONSE, X_GROQ, DELTA]
                    .into_iter()
                    .find_map(|field| nested(field).and_then(Report::usage))
            })
            .or_else(|| event.text(USAGE_METADATA).and_then(Report::gemini))
            .or_else(|| event.text(META).and_then(Report::usage));
        self.count(kind, report);
        is_usage_alone(&event)
    }

    /// Draws the conclusions from an event's kind.
    fn conclude(&mut self, kind: &[u8], is_error: bool) {
        self.error |= is_error;
        match kind {
            b"\"message_stop\"" | b"\"message-end\"" => self.done = true,
            b"\"response.completed\"" | b"\"response.incomplete\"" => self.done = true,
            b"\"response.failed\"" => (self.done, self.error) = (true, true),
            b"\"error\"" => self.error = true,
            _ => {}
        }
    }

    /// Records an event's usage.
    fn count(&mut self, kind: &[u8], report: Option<Report>) {
        if let Some(report) = report {
            // Anthropic counts the input at the start and the output at the end.
            let is_part = matches!(kind, b"\"message_start\"" | b"\"message_delta\"");
            self.report = Some(match self.report {
                Some(earlier) if is_part => earlier.merged(report),
                _ => report,
            });
        }
    }

    /// Reads a document that came in one piece, as most do; false when it is not a whole one.
    fn whole(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > MAX_WHOLE_BYTES || bytes.trim_ascii_end().last() != Some(&b'}') {
            return false;
        }
        let Some(document) = Object::read(&EVENT, bytes) else {
            return false;
        };
        // The same order as in `member`: `usage`, otherwise whatever comes first.
        let mut others = [X_GROQ, META, USAGE_METADATA];
        others.sort_unstable_by_key(|&id| document.span(id).map(|span| span.start));
        let mut members = std::iter::once(USAGE).chain(others);
        self.report = members.find_map(|id| Self::counts(id, document.text(id)?));
        self.error = document.has(ERROR);
        self.done = true;
        true
    }

    /// The usage in a document's member.
    fn counts(id: usize, text: &[u8]) -> Option<Report> {
        match id {
            _ if text.len() > MAX_USAGE_BYTES => None,
            USAGE | META => Report::usage(text),
            X_GROQ => Object::read(&EVENT, text).and_then(|object| object.text(USAGE).and_then(Report::usage)),
            _ => Report::gemini(text),
        }
    }

    /// Processes a document's member, once it is complete.
    fn member(&mut self, id: usize) {
        let text = std::mem::take(&mut self.value);
        let report = match id {
            ERROR => {
                self.error |= text != b"null";
                None
            }
            _ => Self::counts(id, &text),
        };
        // `meta` and `x_groq` are second choices, as in an event.
        if report.is_some() && (self.report.is_none() || id == USAGE) {
            self.report = report;
        }
    }
}

/// Receives the outline of a document for `seen`.
struct Document<'a> {
    seen: &'a mut Seen,
    bytes: &'a [u8],
}

impl Document<'_> {
    /// Keeps the open value's bytes, up to `at`.
    fn keep(&mut self, at: usize) {
        if self.seen.is_open {
            let text = self.bytes.get(self.seen.from..at).unwrap_or_default();
            let room = (MAX_USAGE_BYTES + 1).saturating_sub(self.seen.value.len());
            self.seen.value.extend_from_slice(text.get(..room).unwrap_or(text));
            self.seen.from = 0;
        }
    }
}

impl Listener for Document<'_> {
    fn key(&mut self, key: &[u8], _: bool) -> Want {
        match key {
            b"usage" => Want::Value(USAGE as u8),
            b"usageMetadata" => Want::Value(USAGE_METADATA as u8),
            b"x_groq" => Want::Value(X_GROQ as u8),
            b"meta" => Want::Value(META as u8),
            b"error" => Want::Value(ERROR as u8),
            _ => Want::Nothing,
        }
    }

    fn begin(&mut self, _: u8, at: usize) {
        self.seen.is_open = true;
        self.seen.from = at;
        self.seen.value.clear();
    }

    fn end(&mut self, id: u8, at: usize) {
        self.keep(at);
        self.seen.is_open = false;
        self.seen.member(usize::from(id));
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
