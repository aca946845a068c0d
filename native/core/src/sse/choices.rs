//! The choices of a stream: the ones begun, the ones ended, and whether any carried content.

use smallvec::SmallVec;

use crate::json::{Listener, Outline, Want};

/// Choices with a higher index are ignored: prompts times `n` of a completion are far fewer.
const MAX_CHOICES: usize = 1 << 16;
/// The beginning of a value is enough to distinguish content from nothing.
const MAX_VALUE_BYTES: usize = 24;

/// Every choice seen in one stream.
#[derive(Default)]
pub(super) struct Choices {
    begun: Set,
    ended: Set,
}

impl Choices {
    /// Records a choice.
    fn note(&mut self, index: usize, is_end: bool) {
        self.begun.insert(index);
        if is_end {
            self.ended.insert(index);
        }
    }

    /// True when a choice with this index has begun.
    pub(super) fn has_begun(&self, index: usize) -> bool {
        self.begun.contains(index)
    }

    /// True when at least one has begun, and each one begun has ended.
    pub(super) fn are_all_ended(&self) -> bool {
        !self.ended.0.is_empty() && self.begun.0 == self.ended.0
    }
}

/// A set of small numbers, one bit each. The last word is never zero.
#[derive(Default)]
struct Set(SmallVec<[u64; 1]>);

impl Set {
    fn insert(&mut self, number: usize) {
        if number >= MAX_CHOICES {
            return;
        }
        let word = number / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= 1 << (number % 64);
        }
    }

    fn contains(&self, number: usize) -> bool {
        self.0
            .get(number / 64)
            .is_some_and(|word| word >> (number % 64) & 1 == 1)
    }
}

/// True when a member's value carries content: it is neither null nor empty.
fn says_something(value: &[u8]) -> bool {
    match value.trim_ascii() {
        b"" | b"null" | b"\"\"" => false,
        [b'[', rest @ ..] => rest.trim_ascii_start().first() != Some(&b']'),
        [b'{', rest @ ..] => rest.trim_ascii_start().first() != Some(&b'}'),
        _ => true,
    }
}

/// True when an object has a member with content, other than its labels.
pub(super) fn has_content(object: &[u8]) -> bool {
    let mut member = Member::default();
    let mut seen = false;
    Outline::new().feed(
        object,
        &mut Filled {
            member: &mut member,
            seen: &mut seen,
            bytes: object,
        },
    );
    seen
}

/// True for members that label the speaker or the type rather than carry content.
fn is_label(key: &[u8]) -> bool {
    matches!(key, b"role" | b"type" | b"signature")
}

/// Receives the members of one object.
struct Filled<'a> {
    member: &'a mut Member,
    seen: &'a mut bool,
    bytes: &'a [u8],
}

impl Listener for Filled<'_> {
    fn key(&mut self, key: &[u8], _: bool) -> Want {
        if is_label(key) { Want::Nothing } else { Want::Value(0) }
    }

    fn begin(&mut self, _: u8, at: usize) {
        self.member.begin(at);
    }

    fn end(&mut self, _: u8, at: usize) {
        *self.seen |= says_something(self.member.end(self.bytes, at));
    }
}

/// A member's value, of which the beginning is kept, however it is cut.
#[derive(Default)]
struct Member {
    value: SmallVec<[u8; MAX_VALUE_BYTES]>,
    is_open: bool,
    // The start of its next part in the bytes of this feed.
    from: usize,
}

impl Member {
    fn begin(&mut self, at: usize) {
        self.value.clear();
        self.is_open = true;
        self.from = at;
    }

    /// Keeps its bytes up to `at` of the feed.
    fn keep(&mut self, bytes: &[u8], at: usize) {
        if self.is_open {
            let text = bytes.get(self.from..at).unwrap_or_default();
            let room = MAX_VALUE_BYTES.saturating_sub(self.value.len());
            self.value.extend_from_slice(text.get(..room).unwrap_or(text));
            self.from = 0;
        }
    }

    fn end(&mut self, bytes: &[u8], at: usize) -> &[u8] {
        self.keep(bytes, at);
        self.is_open = false;
        &self.value
    }
}

const INDEX: u8 = 0;
const FINISH_REASON: u8 = 1;
const CONTENT: u8 = 2;

/// The facts about one choice.
#[derive(Default)]
struct Choice {
    member: Member,
    index: Option<usize>,
    is_end: bool,
    has_content: bool,
}

/// Reads an array of choices, however it is cut. It follows structure and does not validate.
#[derive(Default)]
pub(super) struct ChoiceReader {
    outline: Outline,
    choice: Choice,
    position: usize,
    /// True when it is not an array of objects.
    is_odd: bool,
    has_begun: bool,
}

impl ChoiceReader {
    /// Records the choices that end in the next bytes; returns true when one of them carries content.
    pub(super) fn feed(&mut self, mut text: &[u8], choices: &mut Choices) -> bool {
        let mut has_content = false;
        while let (false, Some(&first)) = (self.is_odd, text.first()) {
            if self.outline.is_new() {
                match first {
                    b'{' if self.has_begun => {}
                    b'[' if !self.has_begun => self.has_begun = true,
                    b' ' | b'\t' | b'\r' | b'\n' => {}
                    b',' | b']' if self.has_begun => {}
                    _ => {
                        self.is_odd = true;
                        break;
                    }
                }
                if first != b'{' {
                    text = text.get(1..).unwrap_or_default();
                    continue;
                }
            }
            let mut listener = Heard {
                choice: &mut self.choice,
                bytes: text,
            };
            let used = self.outline.feed(text, &mut listener);
            self.choice.member.keep(text, used);
            text = text.get(used..).unwrap_or_default();
            if self.outline.is_complete() {
                let choice = std::mem::take(&mut self.choice);
                // Servers that omit the index have one choice, or list all of them each time.
                choices.note(choice.index.unwrap_or(self.position), choice.is_end);
                has_content |= choice.has_content;
                self.position += 1;
                self.outline = Outline::new();
            }
        }
        has_content
    }
}

/// Receives the members of one choice.
struct Heard<'a> {
    choice: &'a mut Choice,
    bytes: &'a [u8],
}

impl Listener for Heard<'_> {
    fn key(&mut self, key: &[u8], inside: bool) -> Want {
        match key {
            _ if inside && is_label(key) => Want::Nothing,
            _ if inside => Want::Value(CONTENT),
            b"index" => Want::Value(INDEX),
            b"finish_reason" => Want::Value(FINISH_REASON),
            b"text" => Want::Value(CONTENT),
            b"delta" | b"message" => Want::Inside,
            _ => Want::Nothing,
        }
    }

    fn begin(&mut self, _: u8, at: usize) {
        self.choice.member.begin(at);
    }

    fn end(&mut self, id: u8, at: usize) {
        let value = self.choice.member.end(self.bytes, at);
        match id {
            INDEX => {
                self.choice.index = std::str::from_utf8(value).ok().and_then(|number| number.parse().ok());
            }
            FINISH_REASON => self.choice.is_end = value.starts_with(b"\"") && says_something(value),
            _ => self.choice.has_content |= says_something(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two flags, the same for every cut: all choices have ended, and there was content.
    fn read(arrays: &[&str]) -> (bool, bool) {
        let results = [1, 2, 3, 7, 1000].map(|size| {
            let mut choices = Choices::default();
            let mut content = false;
            for array in arrays {
                let mut reader = ChoiceReader::default();
                for piece in array.as_bytes().chunks(size) {
                    content |= reader.feed(piece, &mut choices);
                }
            }
            (choices.are_all_ended(), content)
        });
        assert!(results.iter().all(|result| *result == results[0]), "{arrays:?}");
        results[0]
    }

    #[test]
    fn only_a_reason_at_its_place_ends_a_choice() {
        for (array, is_end) in [
            (r#"[{"index":0,"delta":{},"finish_reason":"stop"}]"#, true),
            (r#" [ { "finish_reason" : "stop" } ] "#, true),
            (r#"[{"finish_reason":"\u0073top"}]"#, true),
            (
                r#"[{"finish_reason":"a reason that is longer than what is kept of values"}]"#,
                true,
            ),
            (r#"[{"finish_reason":""}]"#, false),
            (r#"[{"finish_reason":null}]"#, false),
            (r#"[{"finish_reason":false}]"#, false),
            (r#"[{"finish_reason":1}]"#, false),
            (r#"[{"finish_reason":{"finish_reason":"stop"}}]"#, false),
            (r#"[{"finish_reason":["stop"]}]"#, false),
            (r#"[{"delta":{"finish_reason":"stop"}}]"#, false),
            (
                r#"[{"delta":{"tool_calls":[{"function":{"arguments":{"finish_reason":"stop"}}}]}}]"#,
                false,
            ),
            (r#"[{"text":"\"finish_reason\":\"stop\""}]"#, false),
            (r#"[[{"finish_reason":"stop"}]]"#, false),
            (r#"["{\"finish_reason\":\"stop\"}",{"finish_reason":"stop"}]"#, false),
            (r#"{"finish_reason":"stop"}"#, false),
            ("[]", false),
            ("null", false),
        ] {
            assert_eq!(read(&[array]).0, is_end, "{array}");
        }
    }

    #[test]
    fn every_choice_that_began_must_end() {
        let begins = r#"[{"index":0,"delta":{"role":"assistant"}},{"index":1,"delta":{}}]"#;
        let first = r#"[{"index":0,"finish_reason":"stop"}]"#;
        let second = r#"[{"index":1,"finish_reason":"length"}]"#;
        assert!(!read(&[begins]).0);
        assert!(!read(&[begins, first]).0);
        assert!(!read(&[begins, second]).0);
        assert!(read(&[begins, second, first]).0);
        assert!(!read(&[first, begins]).0);
        assert!(!read(&[r#"[{"index":900}]"#, first]).0);
        assert!(read(&[r#"[{"index":900}]"#, first, r#"[{"index":900,"finish_reason":"x"}]"#]).0);
        // Text after an end does not undo it; an invalid index is replaced by the position.
        assert!(read(&[first, r#"[{"index":0,"delta":{},"finish_reason":null}]"#]).0);
        assert!(!read(&[r#"[{"index":-1},{"index":"0","finish_reason":"stop"}]"#]).0);
    }

    #[test]
    fn content_is_what_a_delta_says() {
        for (array, content) in [
            (
                r#"[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]"#,
                false,
            ),
            (
                r#"[{"delta":{"role":"assistant","content":null,"tool_calls":[ ],"function_call":{ }}}]"#,
                false,
            ),
            (r#"[{"delta":{},"finish_reason":"stop"}]"#, false),
            (r#"[{"delta":{"content":"x"}}]"#, true),
            (r#"[{"delta":{"content":" "}}]"#, true),
            (r#"[{"delta":{"reasoning_content":"x"}}]"#, true),
            (r#"[{"delta":{"reasoning":"x"}}]"#, true),
            (r#"[{"delta":{"tool_calls":[{"index":0}]}}]"#, true),
            (r#"[{"text":"","index":0}]"#, false),
            (r#"[{"text":"x","index":0}]"#, true),
        ] {
            assert_eq!(read(&[array]).1, content, "{array}");
        }
        assert!(has_content(br#"{"type":"text_delta","text":"x"}"#));
        assert!(has_content(br#"{"type":"tool_use","id":"t","name":"f","input":{}}"#));
        assert!(!has_content(br#"{"type":"text","text":""}"#));
        assert!(!has_content(br#"{"type":"signature_delta","signature":"s"}"#));
    }
}
