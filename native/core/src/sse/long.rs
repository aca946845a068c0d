//! Reads an event that is too long to be held as it passes.

use super::MAX_EVENT_BYTES;
use super::choices::{ChoiceReader, Choices};
use super::usage::{MAX_USAGE_BYTES, Report};
use crate::json::{Listener, Outline, Want};

const TYPE: u8 = 0;
const OBJECT: u8 = 1;
const ERROR: u8 = 2;
const CHOICES: u8 = 3;
const USAGE: u8 = 4;
const OTHER: u8 = 5;

/// The reader of one such event.
#[derive(Default)]
pub(super) struct Long {
    outline: Outline,
    choices: ChoiceReader,
    facts: Facts,
    open: Option<u8>,
    value: Vec<u8>,
    // The start of the open value's next part in the bytes of this feed.
    from: usize,
}

/// The facts about an event other than its text.
#[derive(Default)]
pub(super) struct Facts {
    /// The text of its `type`.
    pub(super) kind: Vec<u8>,
    pub(super) is_object: bool,
    pub(super) has_error: bool,
    pub(super) has_choices: bool,
    pub(super) report: Option<Report>,
}

impl Long {
    /// Reads the next bytes of its data, and records its choices.
    pub(super) fn feed(&mut self, bytes: &[u8], choices: &mut Choices) {
        let Self {
            outline,
            choices: reader,
            facts,
            open,
            value,
            from,
        } = self;
        let mut heard = Heard {
            bytes,
            reader,
            choices,
            facts,
            open,
            value,
            from,
        };
        let used = outline.feed(bytes, &mut heard);
        heard.keep(used);
    }

    /// The facts, once the event has ended.
    pub(super) fn finish(mut self) -> Facts {
        self.facts.is_object = self.outline.is_complete();
        self.facts
    }
}

struct Heard<'a> {
    bytes: &'a [u8],
    reader: &'a mut ChoiceReader,
    choices: &'a mut Choices,
    facts: &'a mut Facts,
    open: &'a mut Option<u8>,
    value: &'a mut Vec<u8>,
    from: &'a mut usize,
}

impl Heard<'_> {
    /// Keeps the open value's bytes, up to `at`.
    fn keep(&mut self, at: usize) {
        let Some(id) = *self.open else { return };
        let text = self.bytes.get(*self.from..at).unwrap_or_default();
        *self.from = 0;
        if id == CHOICES {
            self.reader.feed(text, self.choices);
        } else {
            let room = (MAX_USAGE_BYTES + 1).saturating_sub(self.value.len());
            self.value.extend_from_slice(text.get(..room).unwrap_or(text));
        }
    }
}

impl Listener for Heard<'_> {
    fn key(&mut self, key: &[u8], inside: bool) -> Want {
        match key {
            b"usage" => Want::Value(USAGE),
            _ if inside => Want::Nothing,
            b"type" => Want::Value(TYPE),
            b"object" => Want::Value(OBJECT),
            b"error" => Want::Value(ERROR),
            b"choices" => Want::Value(CHOICES),
            b"message" | b"response" | b"x_groq" | b"delta" => Want::Inside,
            _ => Want::Value(OTHER),
        }
    }

    fn begin(&mut self, id: u8, at: usize) {
        *self.open = (id != OTHER).then_some(id);
        *self.from = at;
        self.value.clear();
    }

    fn end(&mut self, id: u8, at: usize) {
        self.keep(at);
        *self.open = None;
        let value = self.value.trim_ascii();
        match id {
            TYPE => self.facts.kind = value.to_vec(),
            OBJECT => self.facts.has_error |= value == b"\"error\"",
            ERROR => self.facts.has_error |= value != b"null",
            CHOICES => self.facts.has_choices = true,
            USAGE if value.len() <= MAX_USAGE_BYTES => self.facts.report = Report::usage(value).or(self.facts.report),
            _ => {}
        }
    }
}

const _: () = assert!(
    MAX_USAGE_BYTES < MAX_EVENT_BYTES,
    "a usage object is a small part of an event"
);
