//! The usage scanner: looks on while a response passes.

use std::sync::LazyLock;

use aho_corasick::packed;
use memchr::memmem::Finder;
use smallvec::SmallVec;

use super::cuts::Cuts;
use super::events::{Event, Events, Sink};
use super::object::{Object, members};
use super::tail;
use super::usage::{Report, Usage};
use crate::json::{Listener, Outline, Want};

/// A usage object is some hundred bytes; what is longer is none.
const MAX_USAGE_BYTES: usize = 16 * 1024;

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
);

/// Without vector instructions there is none, and every event is parsed.
///
/// An event is parsed only when one of these is in it; the first two not when `:null` follows.
static MARKS: LazyLock<Option<packed::Searcher>> = LazyLock::new(|| {
    let marks = [
        "\"usage\"",
        "\"error\"",
        "\"usageMetadata\"",
        "\"tokens\"",
        "\"message_stop\"",
        "\"message-end\"",
    ];
    let ends = [
        "\"response.completed\"",
        "\"response.failed\"",
        "\"response.incomplete\"",
    ];
    // FINISHED: with a value that is not null. Within a string the quotes would have backslashes before them.
    let finishes = ["\"finish_reason\":\"", "\"finish_reason\": \""];
    packed::Searcher::new(marks.iter().chain(&ends).chain(&finishes))
});

/// Chat and completions name the end of each choice; servers that send no `[DONE]` do so, too.
static FINISH: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"finish_reason\""));

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

/// The first of `MARKS` that says the end of a choice and nothing else.
const FINISHED: usize = 9;

/// What was seen so far.
#[derive(Default)]
struct Seen {
    report: Option<Report>,
    done: bool,
    finished: bool,
    error: bool,
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

    /// A choice has come to its end: of a chat or completion that is nearly as good as a terminator.
    pub fn finished(&self) -> bool {
        self.seen.finished
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
            is_usage = self.is_marked(data) && self.read(data) && !event.is_error;
            self.is_settled = is_usage;
        }
        let mut is_cut = false;
        if let Some(cuts) = &mut self.cuts {
            is_cut = is_usage;
            cuts.event(event.raw, is_cut);
        }
        // What is cut out is no beginning.
        if self.first == First::Nothing && !is_cut {
            self.judge(data);
        }
        scratch.clear();
        self.scratch = scratch;
    }
}

/// What OpenAI's `include_usage` puts before `[DONE]`: a usage object, and choices of which there are none.
fn is_usage_alone(event: &Object<'_>) -> bool {
    let choices = event.text(CHOICES).and_then(|text| text.strip_prefix(b"["));
    choices.is_some_and(|rest| rest.trim_ascii() == b"]")
        && event.text(USAGE).is_some_and(|usage| usage.starts_with(b"{"))
        && !event.has(ERROR)
}

/// The value of a `finish_reason` is not null.
fn is_finish(data: &[u8]) -> bool {
    FINISH.find_iter(data).any(|at| {
        let after = data
            .get(at + FINISH.needle().len()..)
            .unwrap_or_default()
            .trim_ascii_start();
        after
            .strip_prefix(b":")
            .is_some_and(|value| value.trim_ascii_start().starts_with(b"\""))
    })
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
    fn is_marked(&mut self, data: &[u8]) -> bool {
        let Some(marks) = &*MARKS else {
            self.finished |= is_finish(data);
            return true;
        };
        marks.find_iter(data).any(|mark| {
            if mark.pattern().as_usize() >= FINISHED {
                self.finished = true;
                return false;
            }
            // OpenAI's `include_usage` puts "usage":null into every event but the last.
            let after = data.get(mark.end()..).unwrap_or_default().trim_ascii_start();
            let value = after.strip_prefix(b":").unwrap_or(after).trim_ascii_start();
            let is_told = mark.pattern().as_usize() > 1 || !value.starts_with(b"null");
            // It is the last mark that is looked at.
            self.finished |= is_told && is_finish(data);
            is_told
        })
    }

    /// Looks at an event of a stream that has not begun.
    fn judge(&mut self, data: &[u8]) {
        let data = data.trim_ascii();
        if data.is_empty() || data == b"[DONE]" {
            return;
        }
        self.first = match Object::read(&EVENT, data) {
            None if self.error => First::Error,
            None => First::Other,
            Some(event) if event.text(TYPE) == Some(b"\"ping\"") => First::Nothing,
            Some(_) if self.error => First::Error,
            Some(event) => {
                let kind = event.text(TYPE).unwrap_or_default();
                let ends = event.has(CHOICES) || kind == b"\"message_start\"" || kind.starts_with(b"\"response.");
                if ends { First::Promise } else { First::Event }
            }
        };
    }

    /// Reads an event; whether it holds the usage, no choice and no error.
    fn read(&mut self, data: &[u8]) -> bool {
        let Some(event) = Object::read(&EVENT, data) else {
            return false;
        };
        let kind = event.text(TYPE).unwrap_or_default();
        self.error |= event.has(ERROR);
        match kind {
            b"\"message_stop\"" | b"\"message-end\"" => self.done = true,
            b"\"response.completed\"" | b"\"response.incomplete\"" => self.done = true,
            b"\"response.failed\"" => (self.done, self.error) = (true, true),
            b"\"error\"" => self.error = true,
            // As vLLM and SGLang say it: the error is the event itself.
            _ => self.error |= event.text(OBJECT) == Some(b"\"error\""),
        }
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
        if let Some(report) = report {
            // Anthropic counts the input at the start and the output at the end.
            let is_part = matches!(kind, b"\"message_start\"" | b"\"message_delta\"");
            self.report = Some(match self.report {
                Some(earlier) if is_part => earlier.merged(report),
                _ => report,
            });
        }
        is_usage_alone(&event)
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
