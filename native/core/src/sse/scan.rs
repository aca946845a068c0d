//! The usage scanner: looks on while a response passes.

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

/// A document above this is followed, not validated: an embedding is megabytes of numbers.
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

/// Without vector instructions there is none, and every event is parsed.
///
/// An event is parsed only when one of these is in it, with what `Seen::is_told` wants behind it.
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
/// Places among them.
const FINISH_MARK: usize = 2;
const INDEX_MARK: usize = 3;

/// What a stream began with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum First {
    /// No event yet that says anything: comments, pings, empty data and `[DONE]` do not.
    #[default]
    Nothing,
    /// An event with a JSON object.
    Event,
    /// The same, of an API whose streams say where they end: OpenAI's chat, completions or responses, Anthropic's messages.
    Promise,
    /// An error.
    Error,
    /// Something else.
    Other,
}

/// Sees event borders, the terminator, errors and usage. Changes nothing, holds at most one event, never fails.
pub struct UsageScanner {
    framing: Framing,
    seen: Seen,
}

enum Framing {
    Events(Events),
    Document(Outline),
}

/// A usage object with what engines write behind it; a longer tail is no tail.
const MAX_TAIL_BYTES: usize = 1024;
static USAGE_KEY: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));

/// What was seen so far.
#[derive(Default)]
struct Seen {
    report: Option<Report>,
    done: bool,
    choices: Choices,
    /// Something was said: text, reasoning, a tool's call.
    content: bool,
    error: bool,
    /// An event was no JSON object: nobody knows what it tells.
    odd: bool,
    first: First,
    /// The last event was the usage of all before it, and nothing else.
    is_settled: bool,
    /// Where such events are, when they are not to be passed on.
    cuts: Option<Cuts>,
    events: u64,
    scratch: Vec<u8>,
    // A document's wanted value that has begun: its text so far.
    value: Vec<u8>,
    is_open: bool,
    // Where in the bytes of this feed it goes on.
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

    /// The same; of an event stream it also says where events are that hold the usage and nothing else (`cuts`). Such a one
    /// is not what the stream begins with: without it there would be nothing.
    pub fn cutting_usage(sse: bool) -> Self {
        let mut scanner = Self::new(sse);
        scanner.seen.cuts = sse.then(Cuts::default);
        scanner
    }

    /// Looks at the next bytes, however cut; returns how many events they completed.
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

    /// The same for an event stream, of which only whole events are to leave: what is held back no longer is appended to
    /// `freed`; behind it go the first bytes of `bytes`, as many as is returned. All of a document leaves.
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

    /// What is to be cut out of that which the last feed let go: places in it, in their order.
    pub(crate) fn cuts(&self) -> &[(usize, usize)] {
        self.seen.cuts.as_ref().map_or(&[], Cuts::places)
    }

    /// What is still held back of an event stream.
    pub fn finish(&mut self) -> Vec<u8> {
        match &mut self.framing {
            Framing::Events(events) => events.finish(),
            Framing::Document(_) => Vec::new(),
        }
    }

    /// What the stream began with.
    pub fn first(&self) -> First {
        self.seen.first
    }

    /// Each choice that began has come to its end: of a chat or completion that is nearly as good as a terminator.
    pub fn finished(&self) -> bool {
        self.seen.choices.are_all_ended()
    }

    /// An event of the stream said something: text, reasoning, a tool's call. Of an API that is not known, any event.
    pub fn has_content(&self) -> bool {
        self.seen.content
    }

    /// What the last usage object said.
    pub fn usage(&self) -> Option<Usage> {
        self.seen.report.as_ref().map(Report::total)
    }

    /// The stream has told the usage of all that came before, in an event of its own; whatever follows takes that back.
    pub fn is_settled(&self) -> bool {
        self.seen.is_settled
    }

    /// A terminator was seen; of a document, its end.
    pub fn done(&self) -> bool {
        self.seen.done
    }

    /// Events so far; of a document, none.
    pub fn events(&self) -> u64 {
        self.seen.events
    }

    /// One JSON document is looked at.
    pub fn is_document(&self) -> bool {
        matches!(self.framing, Framing::Document(_))
    }

    /// What has left ends with a whole event or comment: another may be put there. Never so inside a document.
    pub fn is_between_events(&self) -> bool {
        match &self.framing {
            Framing::Events(events) => events.is_between(),
            Framing::Document(_) => false,
        }
    }

    /// An event of the stream may tell of an error: it is one, or cannot be read.
    pub fn may_tell(&self) -> bool {
        self.seen.error || self.seen.odd
    }

    /// An error event was seen; of a document, an `error` member.
    pub fn error(&self) -> bool {
        self.seen.error
    }
}

/// The usage that a whole JSON document tells of.
///
/// Engines write `usage` near the end: what follows its key is read alone, as an object of its own. That it closes with
/// the document's last byte says that the key stood at the top. Everything else is read from the start.
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
    // Within a string every quote has a backslash before it.
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
        // What is cut out is no beginning.
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

/// The number that a text begins with.
fn index_of(text: &[u8]) -> Option<usize> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(text.get(..digits)?).ok()?.parse().ok()
}

/// Whether an item of a response's output is the call of a tool.
fn is_call(item: &[u8]) -> bool {
    Object::read(&EVENT, item).is_some_and(|item| item.text(TYPE).is_some_and(|kind| kind.ends_with(b"_call\"")))
}

/// What OpenAI's `include_usage` puts before `[DONE]`: a usage object, and choices of which there are none.
fn is_usage_alone(event: &Object<'_>) -> bool {
    let choices = event.text(CHOICES).and_then(|text| text.strip_prefix(b"["));
    choices.is_some_and(|rest| rest.trim_ascii() == b"]")
        && event.text(USAGE).is_some_and(|usage| usage.starts_with(b"{"))
        && !event.has(ERROR)
}

impl Seen {
    /// A feed begins.
    #[inline]
    fn begin(&mut self) {
        if let Some(cuts) = &mut self.cuts {
            cuts.begin();
        }
    }

    /// The event has something to say besides text.
    fn is_marked(&self, data: &[u8]) -> bool {
        let Some(marks) = &*MARKS else { return true };
        marks.find_iter(data).any(|mark| {
            let after = data.get(mark.end()..).unwrap_or_default();
            self.is_told(mark.pattern().as_usize(), after)
        })
    }

    /// Whether a mark with this text behind it says something that is not known yet.
    fn is_told(&self, mark: usize, after: &[u8]) -> bool {
        if mark > INDEX_MARK {
            return true;
        }
        let after = after.trim_ascii_start();
        let value = after.strip_prefix(b":").unwrap_or(after).trim_ascii_start();
        match mark {
            FINISH_MARK => value.starts_with(b"\""),
            // Tools' calls have one, too: an index that is known cannot be a choice that begins.
            INDEX_MARK => !index_of(value).is_some_and(|index| self.choices.has_begun(index)),
            // OpenAI's `include_usage` puts "usage":null into every event but the last.
            _ => !value.starts_with(b"null"),
        }
    }

    /// Looks at an event of a stream that has not begun.
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

    /// What an object of this kind is to a stream that begins with it.
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

    /// Looks whether an event says something, while none has.
    fn listen(&mut self, data: &[u8]) {
        let Some(event) = Object::read(&EVENT, data) else {
            return;
        };
        let kind = event.text(TYPE).unwrap_or_default();
        let says = |field| event.text(field).is_some_and(has_content);
        self.content = if let Some(choices) = event.text(CHOICES) {
            ChoiceReader::default().feed(choices, &mut self.choices)
        } else if let Some(kind) = kind.strip_prefix(b"\"response.") {
            // `response.output_text.delta`, `response.function_call_arguments.delta` and their kind; a call's name is before.
            let is_call = kind == b"output_item.added\"" && event.text(ITEM).is_some_and(is_call);
            let is_delta = kind.ends_with(b".delta\"") && event.text(DELTA).is_some_and(|delta| delta.len() > 2);
            is_call || is_delta || kind.ends_with(b".partial_image\"")
        } else {
            match kind {
                b"\"content_block_start\"" => says(CONTENT_BLOCK),
                b"\"content_block_delta\"" => says(DELTA),
                b"\"ping\"" | b"\"error\"" => false,
                // Of other APIs it is not known what their events say.
                _ => !self.error && !kind.starts_with(b"\"message_") && !kind.starts_with(b"\"content_block"),
            }
        };
    }

    /// Reads an event; whether it holds the usage, no choice and no error.
    fn read(&mut self, data: &[u8]) -> bool {
        let Some(event) = Object::read(&EVENT, data) else {
            self.odd = true;
            return false;
        };
        let kind = event.text(TYPE).unwrap_or_default();
        // As vLLM and SGLang say it: the error is the event itself.
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

    /// What an event's kind says of the stream.
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

    /// Takes an event's usage.
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

    /// Reads a document that came in one piece, as most do; false when this is not a whole one.
    fn whole(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > MAX_WHOLE_BYTES || bytes.trim_ascii_end().last() != Some(&b'}') {
            return false;
        }
        let Some(document) = Object::read(&EVENT, bytes) else {
            return false;
        };
        // As `member` has it: `usage`, else whatever comes first.
        let mut others = [X_GROQ, META, USAGE_METADATA];
        others.sort_unstable_by_key(|&id| document.span(id).map(|span| span.start));
        let mut members = std::iter::once(USAGE).chain(others);
        self.report = members.find_map(|id| Self::counts(id, document.text(id)?));
        self.error = document.has(ERROR);
        self.done = true;
        true
    }

    /// What a document's member says about usage.
    fn counts(id: usize, text: &[u8]) -> Option<Report> {
        match id {
            _ if text.len() > MAX_USAGE_BYTES => None,
            USAGE | META => Report::usage(text),
            X_GROQ => Object::read(&EVENT, text).and_then(|object| object.text(USAGE).and_then(Report::usage)),
            _ => Report::gemini(text),
        }
    }

    /// A document's member is complete.
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

/// Hears the outline of a document for `seen`.
struct Document<'a> {
    seen: &'a mut Seen,
    bytes: &'a [u8],
}

impl Document<'_> {
    /// Takes what belongs to the open value, up to `at`.
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
