//! JSON texts that are built from the spans of others.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::json::tape::Tape;
use crate::json::{next_special, unescape};

/// The text between the quotes of a JSON string, escaped as it is.
pub(crate) type Text<'a> = Cow<'a, [u8]>;

/// A JSON text that is being written. Commas are set where the last byte says that a value stands there.
#[derive(Debug, Default)]
pub(crate) struct Json(pub(crate) Vec<u8>);

impl Json {
    /// An empty text with room for so many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    #[inline]
    fn separate(&mut self) {
        if !matches!(self.0.last(), None | Some(b'{' | b'[' | b':' | b' ' | b'\n')) {
            self.0.push(b',');
        }
    }

    /// Writes a value that is JSON already.
    #[inline]
    pub(crate) fn value(&mut self, json: &[u8]) -> &mut Self {
        self.separate();
        self.0.extend_from_slice(json);
        self
    }

    /// Writes a string from its escaped text.
    #[inline]
    pub(crate) fn text(&mut self, escaped: &[u8]) -> &mut Self {
        self.separate();
        self.0.push(b'"');
        self.0.extend_from_slice(escaped);
        self.0.push(b'"');
        self
    }

    /// Writes a number.
    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at -= 1;
            if let Some(digit) = digits.get_mut(at) {
                *digit = b'0' + (rest % 10) as u8;
            }
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.value(digits.get(at..).unwrap_or_default())
    }

    /// Writes a member's name.
    #[inline]
    pub(crate) fn key(&mut self, name: &str) -> &mut Self {
        self.separate();
        self.0.push(b'"');
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
        self
    }

    /// Opens an object or an array.
    pub(crate) fn open(&mut self, bracket: u8) -> &mut Self {
        self.separate();
        self.0.push(bracket);
        self
    }

    /// Closes an object or an array.
    pub(crate) fn close(&mut self, bracket: u8) -> &mut Self {
        self.0.push(bracket);
        self
    }

    /// Writes bytes as they are.
    #[inline]
    pub(crate) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// Appends a JSON text as the text of a JSON string: escaped once more.
pub(crate) fn escape(json: &[u8], out: &mut Vec<u8>) {
    out.reserve(json.len() + json.len() / 8);
    let mut start = 0;
    loop {
        let at = next_special(json, start);
        out.extend_from_slice(json.get(start..at).unwrap_or_default());
        match json.get(at) {
            Some(&byte @ (b'"' | b'\\')) => out.extend_from_slice(&[b'\\', byte]),
            Some(b'\n') => out.extend_from_slice(b"\\n"),
            Some(b'\r') => out.extend_from_slice(b"\\r"),
            Some(b'\t') => out.extend_from_slice(b"\\t"),
            Some(&byte) => {
                let hex = |digit: u8| b"0123456789abcdef".get(usize::from(digit)).copied().unwrap_or(b'0');
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)]);
            }
            None => return,
        }
        start = at + 1;
    }
}

/// Decodes the text of a string whose content is JSON.
pub(crate) fn unescaped(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'\\', text).is_none() {
        return Cow::Borrowed(text);
    }
    Cow::Owned(unescape(text).into_bytes())
}

/// The text that a call of a custom tool has as its one argument; of anything else, all of it.
pub(crate) fn input_of(arguments: &[u8]) -> Vec<u8> {
    let text = unescaped(arguments);
    let tape = Tape::read(&text, Vec::new()).ok();
    let input = tape.as_ref().and_then(|tape| tape.root().get("input")?.text());
    input.unwrap_or(arguments).to_vec()
}

/// True when an escaped text is white space, or nothing.
pub(crate) fn is_blank(text: &[u8]) -> bool {
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return true,
            [b' ', after @ ..] => after,
            [b'\\', b'n' | b'r' | b't', after @ ..] => after,
            _ => return false,
        };
    }
}

/// Joins texts by an escaped separator; one text stays as it is.
pub(crate) fn joined<'a>(mut texts: impl Iterator<Item = Text<'a>>, separator: &[u8]) -> Text<'a> {
    let Some(first) = texts.next() else {
        return Cow::Borrowed(b"");
    };
    texts.fold(first, |mut whole, text| {
        let owned = whole.to_mut();
        owned.extend_from_slice(separator);
        owned.extend_from_slice(&text);
        whole
    })
}

/// The beginning of reasoning that the gateway has put into a form of its own.
pub(crate) const MARK: &[u8] = b"bgw1.";

/// Reasoning in the form in which clients send it again: the text of a JSON string.
pub(crate) fn seal(text: &[u8]) -> Vec<u8> {
    [MARK, STANDARD.encode(unescaped(text)).as_bytes()].concat()
}

/// The reasoning in such a form; `None` for another's.
pub(crate) fn unseal(sealed: &[u8]) -> Option<Vec<u8>> {
    let text = STANDARD.decode(sealed.strip_prefix(MARK)?).ok()?;
    let mut out = Vec::new();
    escape(std::str::from_utf8(&text).ok()?.as_bytes(), &mut out);
    Some(out)
}

/// A name of `prefix` and 22 characters that `text` determines.
pub(crate) fn hashed(prefix: &str, text: &[u8], length: usize) -> Vec<u8> {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let digest = ring::digest::digest(&ring::digest::SHA256, text);
    let letters = digest.as_ref().iter().cycle().take(length);
    let letters = letters.map(|byte| LETTERS.get(usize::from(*byte) % LETTERS.len()).copied().unwrap_or(b'0'));
    prefix.bytes().chain(letters).collect()
}

/// True for what both big APIs take for a tool's name or a call's id.
pub(crate) fn is_plain(text: &[u8], longest: usize) -> bool {
    !text.is_empty()
        && text.len() <= longest
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Finds the end of a JSON object that is told in the text of a string, in pieces cut anywhere.
#[derive(Debug, Default)]
pub(crate) struct Braces {
    depth: u32,
    in_string: bool,
    is_escaped: bool,
    outer: Outer,
    has_ended: bool,
}

#[derive(Debug, Default, Clone, Copy)]
enum Outer {
    #[default]
    Plain,
    Backslash,
    Unit(u8, u32),
}

impl Braces {
    /// True once the object has been closed.
    pub(crate) fn is_complete(&self) -> bool {
        self.has_ended
    }

    /// Reads more of the string's text.
    pub(crate) fn feed(&mut self, text: &[u8]) {
        for &byte in text {
            match self.outer {
                Outer::Plain if byte == b'\\' => self.outer = Outer::Backslash,
                Outer::Plain => self.inner(byte),
                Outer::Backslash => {
                    self.outer = Outer::Plain;
                    match byte {
                        b'u' => self.outer = Outer::Unit(0, 0),
                        b'"' | b'\\' => self.inner(byte),
                        _ => self.inner(b' '),
                    }
                }
                Outer::Unit(count, unit) => {
                    let unit = unit << 4 | char::from(byte).to_digit(16).unwrap_or(0);
                    self.outer = if count == 3 {
                        Outer::Plain
                    } else {
                        Outer::Unit(count + 1, unit)
                    };
                    if count == 3 {
                        self.inner(u8::try_from(unit).unwrap_or(b'x'));
                    }
                }
            }
        }
    }

    fn inner(&mut self, byte: u8) {
        if self.in_string {
            if self.is_escaped {
                self.is_escaped = false;
            } else if byte == b'\\' {
                self.is_escaped = true;
            } else if byte == b'"' {
                self.in_string = false;
            }
            return;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.has_ended |= self.depth == 0;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_stand_between_values() {
        let mut json = Json::default();
        json.open(b'{')
            .key("a")
            .value(b"1")
            .key("b")
            .open(b'[')
            .text(b"x{")
            .value(b"{}");
        json.number(1203)
            .close(b']')
            .key("c")
            .open(b'{')
            .close(b'}')
            .close(b'}');
        assert_eq!(json.0, br#"{"a":1,"b":["x{",{},1203],"c":{}}"#);
    }

    #[test]
    fn escaping_and_decoding_are_inverse() {
        let json = b"{\"a\": \"x\\\"\\u00e9\\\\\",\r\n\t\"b\": \"\xc3\xa9\"}";
        let mut text = Vec::new();
        escape(json, &mut text);
        assert_eq!(&*unescaped(&text), json);
        assert!(!text.contains(&b'\n'));
    }

    #[test]
    fn an_objects_end_is_found_however_it_is_cut() {
        let object = br#"{"a":"}\"\\","b":[{"c":1}],"d":"\u007d"}"#;
        let mut text = Vec::new();
        escape(object, &mut text);
        for size in 1..text.len() {
            let mut braces = Braces::default();
            let pieces: Vec<_> = text.chunks(size).collect();
            for (index, piece) in pieces.iter().enumerate() {
                assert!(!braces.is_complete(), "{index}");
                braces.feed(piece);
            }
            assert!(braces.is_complete());
        }
        let mut braces = Braces::default();
        braces.feed(br"\u007b\u0022\u005c\u0022}\u0022");
        assert!(!braces.is_complete());
        braces.feed(br"\u007d");
        assert!(braces.is_complete());
    }

    #[test]
    fn blank_is_white_space_only() {
        for (text, blank) in [
            ("", true),
            (r" \n\t\r", true),
            (r"\\n", false),
            ("x", false),
            (r"\u0020", false),
        ] {
            assert_eq!(is_blank(text.as_bytes()), blank, "{text}");
        }
    }
}
