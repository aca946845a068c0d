//! The outline of a document that arrives in pieces: the spans of its upper members, in bounded memory.
//!
//! It follows structure and does not validate: garbage has no members.

use memchr::memchr2;

use super::text::unescape;

/// Longer keys (as written) are ignored.
const MAX_KEY_BYTES: usize = 96;

/// A listener's interest in a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// None.
    Nothing,
    /// Its value's beginning and end.
    Value(u8),
    /// Its own members, when it is an object. One level only: their members are not reported.
    Inside,
}

/// Receives members as they pass; offsets are into the bytes of the current `feed`.
pub trait Listener {
    /// Returns the interest in this member; `inside` when it is a member of one that was wanted `Inside`.
    fn key(&mut self, key: &[u8], inside: bool) -> Want;
    /// A wanted value begins at `at`.
    fn begin(&mut self, id: u8, at: usize);
    /// The value ended before `at`.
    fn end(&mut self, id: u8, at: usize);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Between,
    String,
    Escape,
    Scalar,
}

/// Tracks one document.
pub struct Outline {
    state: State,
    depth: u64,
    // For the containers at depth 1 and 2: true for an object whose members are reported.
    told: [bool; 3],
    expects_key: bool,
    is_key: bool,
    key: Vec<u8>,
    want: Want,
    // The wanted value that is open, and the depth of its member.
    open: Option<(u8, u64)>,
    ended: bool,
}

impl Default for Outline {
    fn default() -> Self {
        Self::new()
    }
}

impl Outline {
    /// The outline of a document before its first byte.
    pub fn new() -> Self {
        Self {
            state: State::Between,
            depth: 0,
            told: [false; 3],
            expects_key: false,
            is_key: false,
            key: Vec::new(),
            want: Want::Nothing,
            open: None,
            ended: false,
        }
    }

    /// True while only white space has arrived.
    pub fn is_new(&self) -> bool {
        self.depth == 0 && !self.ended
    }

    /// True when the outermost bracket was closed.
    pub fn is_complete(&self) -> bool {
        self.ended && self.depth == 0 && self.state == State::Between
    }

    /// Processes the next bytes; returns how many of them belong to the document.
    pub fn feed(&mut self, bytes: &[u8], listener: &mut impl Listener) -> usize {
        let mut at = 0;
        while !self.ended {
            let Some(&byte) = bytes.get(at) else { return at };
            match self.state {
                State::String => at = self.string(bytes, at, listener),
                State::Escape => {
                    self.remember(&[byte]);
                    self.state = State::String;
                    at += 1;
                }
                State::Scalar => {
                    if matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n') {
                        self.state = State::Between;
                        self.close(at, listener);
                    } else {
                        at += 1;
                    }
                }
                State::Between if self.is_told() || self.depth == 0 => at = self.token(byte, at, listener),
                State::Between => {
                    at = next_structural(bytes, at);
                    if let Some(&byte) = bytes.get(at) {
                        at = self.token(byte, at, listener);
                    }
                }
            }
        }
        at
    }

    fn is_told(&self) -> bool {
        usize::try_from(self.depth)
            .ok()
            .and_then(|depth| self.told.get(depth))
            .is_some_and(|told| *told)
    }

    /// Processes one byte outside strings and scalars.
    fn token(&mut self, byte: u8, at: usize, listener: &mut impl Listener) -> usize {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            // Neither an object nor an array: nothing to report, and its text must not be read as members.
            _ if self.depth == 0 && !matches!(byte, b'{' | b'[') => {
                self.ended = true;
                self.state = State::Scalar;
            }
            b'"' => {
                self.is_key = self.expects_key && self.is_told();
                if self.is_key {
                    self.key.clear();
                } else {
                    self.open(at, listener);
                }
                self.state = State::String;
            }
            b'{' | b'[' => {
                self.open(at, listener);
                let inside = self.depth == 1 && self.is_told() && self.want == Want::Inside;
                self.depth += 1;
                let told = byte == b'{' && (self.depth == 1 || (self.depth == 2 && inside));
                if let Some(slot) = usize::try_from(self.depth)
                    .ok()
                    .and_then(|depth| self.told.get_mut(depth))
                {
                    *slot = told;
                }
                self.expects_key = true;
                self.want = Want::Nothing;
            }
            b'}' | b']' => {
                self.depth -= 1;
                self.ended = self.depth == 0;
                self.expects_key = false;
                self.close(at + 1, listener);
            }
            b',' => {
                self.expects_key = true;
                self.want = Want::Nothing;
            }
            b':' => {
                if self.is_told() && self.is_key {
                    self.is_key = false;
                    self.expects_key = false;
                    self.want = self.ask(listener);
                }
            }
            _ => {
                if self.is_told() {
                    self.open(at, listener);
                    self.state = State::Scalar;
                }
            }
        }
        at + 1
    }

    fn string(&mut self, bytes: &[u8], at: usize, listener: &mut impl Listener) -> usize {
        let rest = bytes.get(at..).unwrap_or_default();
        let end = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
        self.remember(rest.get(..end).unwrap_or_default());
        match rest.get(end) {
            Some(b'"') => {
                self.state = State::Between;
                if !self.is_key {
                    self.close(at + end + 1, listener);
                }
            }
            Some(_) => {
                self.remember(b"\\");
                self.state = State::Escape;
            }
            None => return at + end,
        }
        at + end + 1
    }

    fn remember(&mut self, text: &[u8]) {
        if self.is_key {
            let room = (MAX_KEY_BYTES + 1).saturating_sub(self.key.len());
            self.key.extend_from_slice(text.get(..room).unwrap_or(text));
        }
    }

    fn ask(&self, listener: &mut impl Listener) -> Want {
        let inside = self.depth == 2;
        if self.key.len() > MAX_KEY_BYTES {
            Want::Nothing
        } else if self.key.contains(&b'\\') {
            listener.key(unescape(&self.key).as_bytes(), inside)
        } else {
            listener.key(&self.key, inside)
        }
    }

    /// Opens a value.
    fn open(&mut self, at: usize, listener: &mut impl Listener) {
        if let Want::Value(id) = self.want
            && self.open.is_none()
        {
            self.open = Some((id, self.depth));
            listener.begin(id, at);
        }
    }

    /// Closes a value.
    fn close(&mut self, at: usize, listener: &mut impl Listener) {
        if let Some((id, depth)) = self.open
            && self.depth <= depth
        {
            self.open = None;
            self.want = Want::Nothing;
            listener.end(id, at);
        }
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// The offset of the next quote or bracket, or the length.
fn next_structural(bytes: &[u8], mut at: usize) -> usize {
    let zero = |v: u64| v.wrapping_sub(ONES) & !v & (ONES << 7);
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*chunk);
        // Brackets and braces differ in one bit.
        let folded = word | (ONES * 0x20);
        let mask = zero(word ^ (ONES * u64::from(b'"')))
            | zero(folded ^ (ONES * u64::from(b'{')))
            | zero(folded ^ (ONES * u64::from(b'}')));
        if mask != 0 {
            return at + mask.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while let Some(byte) = bytes.get(at) {
        if matches!(byte, b'"' | b'{' | b'}' | b'[' | b']') {
            break;
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Log {
        values: Vec<(u8, String)>,
        open: Option<u8>,
        text: Vec<u8>,
        from: usize,
    }

    impl Listener for Log {
        fn key(&mut self, key: &[u8], inside: bool) -> Want {
            match (key, inside) {
                (b"a", false) => Want::Value(1),
                (b"a", true) => Want::Value(2),
                (b"in", false) => Want::Inside,
                _ => Want::Nothing,
            }
        }
        fn begin(&mut self, id: u8, at: usize) {
            (self.open, self.from) = (Some(id), at);
        }
        fn end(&mut self, id: u8, _: usize) {
            assert_eq!(self.open.take(), Some(id));
            self.values
                .push((id, String::from_utf8(std::mem::take(&mut self.text)).unwrap()));
        }
    }

    /// The wanted values, from feeding one byte at a time and keeping those between begin and end.
    fn outline(document: &str) -> (Vec<(u8, String)>, bool) {
        let (mut outline, mut log) = (Outline::new(), Log::default());
        for byte in document.bytes() {
            let before = log.open;
            let ended = log.values.len();
            if before.is_some() {
                log.text.push(byte);
            }
            outline.feed(&[byte], &mut log);
            if before.is_none() && log.open.is_some() {
                log.text = vec![byte];
            }
            // A scalar ends at the byte after it.
            if log.values.len() > ended
                && let Some((_, value)) = log.values.last_mut()
                && !value.starts_with(['"', '{', '['])
            {
                value.pop();
            }
        }
        (log.values, outline.is_complete())
    }

    fn values(document: &str) -> Vec<(u8, String)> {
        outline(document).0
    }

    #[test]
    fn tells_of_members_at_the_top_and_inside() {
        let document =
            r#" {"x":{"a":0},"a" : {"a":[1,"}"]} ,"in":{"a":"v\"","b":{"a":3},"a":4},"y":[{"a":5}],"\u0061":6}"#;
        let expected = [(1, r#"{"a":[1,"}"]}"#), (2, r#""v\"""#), (2, "4"), (1, "6")];
        assert_eq!(values(document), expected.map(|(id, text)| (id, text.to_owned())));
    }

    #[test]
    fn text_that_looks_like_members_is_text() {
        assert_eq!(values(r#"{"x":"\"a\":1,\"a\":{}","y":["a",{"z":"{\"a\":2}"}]}"#), []);
        assert_eq!(values(r#""{\"a\":1}""#), []);
        assert_eq!(values(r#"[{"a":1}]"#), []);
        assert_eq!(values(r#"{"in":[{"a":1},"a"],"in":"a"}"#), []);
    }

    #[test]
    fn knows_when_the_document_is_complete() {
        assert!(outline(r#"{"x":[{}]}  "#).1);
        assert!(!outline(r#"{"x":[{}]"#).1);
        assert!(!outline("17").1);
        assert!(!outline("").1);
    }

    #[test]
    fn garbage_is_survived() {
        for document in [
            "}}}}",
            "]{\"a\":1}",
            "{]{]{]",
            "{\"a\"\"a\"::1,,}",
            "{a:1}",
            "{\"a\":1]}",
        ] {
            values(document);
        }
    }
}
