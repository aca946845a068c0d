//! The validator: RFC 8259 in one pass, iterative; reports top-level members to a visitor, and the position of an
//! error.

use super::JsonError;
use super::text::{self, StringEnd};

/// The deepest nesting of containers; deeper documents are rejected, because they only cost.
pub const MAX_DEPTH: u32 = 128;

const EARLY_END: &str = "unexpected end";

/// Receives the members of a top-level object.
pub trait Visitor {
    /// The visitor's data about a key until its value has ended.
    type Tag: Copy;

    /// Receives a key (its text between the quotes, `escaped` when it has a backslash); `Some` to receive the member.
    fn key(&mut self, text: &[u8], escaped: bool) -> Option<Self::Tag>;

    /// Receives a member: `key_start` is the offset of the key's quote, the value is `[start, end)`.
    fn member(&mut self, tag: Self::Tag, key_start: usize, start: usize, end: usize) -> Result<(), JsonError>;
}

/// Validates all of `bytes` and returns the offset of the `{`, when the text is an object.
///
/// Checks UTF-8 for the whole text; rejects a byte order mark, an empty text and anything after the value.
pub fn walk<V: Visitor>(bytes: &[u8], visitor: &mut V) -> Result<Option<usize>, JsonError> {
    if simdutf8::basic::from_utf8(bytes).is_err() {
        let at = std::str::from_utf8(bytes).map_or_else(|e| e.valid_up_to(), |_| 0);
        return Err(syntax(at, "invalid UTF-8"));
    }
    // Nested containers as bits, the innermost in bit 0: 1 is an object.
    let mut nest: u128 = 0;
    let mut depth: u32 = 0;
    let mut object = None;
    // The top-level member whose value is being read.
    let mut wanted: Option<(V::Tag, usize, usize)> = None;

    let mut at = skip_space(bytes, 0);
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err(syntax(0, "byte order mark"));
    }
    'value: loop {
        // A value begins at `at`; leave this block with `at` past it.
        match bytes.get(at) {
            Some(b'"') => at = string(bytes, at + 1)?.at,
            Some(&open @ (b'{' | b'[')) => {
                if depth == MAX_DEPTH {
                    return Err(syntax(at, "nested too deep"));
                }
                let is_object = open == b'{';
                if depth == 0 && is_object {
                    object = Some(at);
                }
                depth += 1;
                nest = nest << 1 | u128::from(is_object);
                at = skip_space(bytes, at + 1);
                let close = if is_object { b'}' } else { b']' };
                if bytes.get(at) == Some(&close) {
                    at += 1;
                    depth -= 1;
                    nest >>= 1;
                } else {
                    if is_object {
                        at = key(bytes, at, depth, visitor, &mut wanted)?;
                    }
                    continue 'value;
                }
            }
            Some(b'-' | b'0'..=b'9') => at = number(bytes, at)?,
            Some(b't') => at = literal(bytes, at, b"true")?,
            Some(b'f') => at = literal(bytes, at, b"false")?,
            Some(b'n') => at = literal(bytes, at, b"null")?,
            Some(_) => return Err(syntax(at, "expected a value")),
            None => return Err(syntax(at, EARLY_END)),
        }
        // A value ended; close the containers that end with it.
        loop {
            if depth <= 1 {
                if depth == 0 {
                    at = skip_space(bytes, at);
                    return if at == bytes.len() {
                        Ok(object)
                    } else {
                        Err(syntax(at, "text after the value"))
                    };
                }
                if let Some((tag, key_start, start)) = wanted.take() {
                    visitor.member(tag, key_start, start, at)?;
                }
            }
            at = skip_space(bytes, at);
            let in_object = nest & 1 == 1;
            match bytes.get(at) {
                Some(b',') => {
                    at = skip_space(bytes, at + 1);
                    if in_object {
                        at = key(bytes, at, depth, visitor, &mut wanted)?;
                    }
                    continue 'value;
                }
                Some(b'}') if in_object => {}
                Some(b']') if !in_object => {}
                Some(_) if in_object => return Err(syntax(at, "expected ',' or '}'")),
                Some(_) => return Err(syntax(at, "expected ',' or ']'")),
                None => return Err(syntax(at, EARLY_END)),
            }
            at += 1;
            depth -= 1;
            nest >>= 1;
        }
    }
}

/// Reads a key and its colon; returns the offset of the value.
#[inline]
fn key<V: Visitor>(
    bytes: &[u8],
    at: usize,
    depth: u32,
    visitor: &mut V,
    wanted: &mut Option<(V::Tag, usize, usize)>,
) -> Result<usize, JsonError> {
    match bytes.get(at) {
        Some(b'"') => {}
        Some(_) => return Err(syntax(at, "expected a member name")),
        None => return Err(syntax(at, EARLY_END)),
    }
    let end = string(bytes, at + 1)?;
    let mut value = skip_space(bytes, end.at);
    match bytes.get(value) {
        Some(b':') => value = skip_space(bytes, value + 1),
        Some(_) => return Err(syntax(value, "expected ':'")),
        None => return Err(syntax(value, EARLY_END)),
    }
    if depth == 1 {
        let text = bytes.get(at + 1..end.at - 1).unwrap_or_default();
        *wanted = visitor.key(text, end.escaped).map(|tag| (tag, at, value));
    }
    Ok(value)
}

#[inline]
fn string(bytes: &[u8], start: usize) -> Result<StringEnd, JsonError> {
    text::string_end(bytes, start).map_err(|(at, why)| syntax(at, why))
}

#[inline]
pub(super) fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(at) {
        at += 1;
    }
    at
}

#[inline]
pub(super) fn literal(bytes: &[u8], at: usize, word: &'static [u8]) -> Result<usize, JsonError> {
    if bytes.get(at..at + word.len()) == Some(word) {
        Ok(at + word.len())
    } else {
        Err(syntax(at, "expected a value"))
    }
}

/// `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?` (RFC 8259 section 6).
#[inline]
pub(super) fn number(bytes: &[u8], mut at: usize) -> Result<usize, JsonError> {
    if bytes.get(at) == Some(&b'-') {
        at += 1;
    }
    match bytes.get(at) {
        Some(b'0') => at += 1,
        Some(b'1'..=b'9') => at = digits(bytes, at),
        Some(_) => return Err(syntax(at, "expected a digit")),
        None => return Err(syntax(at, EARLY_END)),
    }
    if bytes.get(at) == Some(&b'.') {
        at = some_digits(bytes, at + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        at += 1;
        if let Some(b'+' | b'-') = bytes.get(at) {
            at += 1;
        }
        at = some_digits(bytes, at)?;
    }
    Ok(at)
}

#[inline(always)]
pub(super) fn digits(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::MAX / 255;
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        // Digits become 0 to 9. Only the lowest mark is reliable.
        let word = u64::from_le_bytes(*chunk) ^ (ONES * 0x30);
        let others = (word.wrapping_add(ONES * 0x76) | word) & (ONES << 7);
        if others != 0 {
            return at + others.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while let Some(b'0'..=b'9') = bytes.get(at) {
        at += 1;
    }
    at
}

#[inline]
fn some_digits(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    let end = digits(bytes, at);
    if end == at {
        return Err(syntax(
            at,
            if at == bytes.len() {
                EARLY_END
            } else {
                "expected a digit"
            },
        ));
    }
    Ok(end)
}

#[cold]
fn syntax(at: usize, why: &'static str) -> JsonError {
    JsonError::Syntax { at, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;
    impl Visitor for Nobody {
        type Tag = ();
        fn key(&mut self, _: &[u8], _: bool) -> Option<()> {
            None
        }
        fn member(&mut self, (): (), _: usize, _: usize, _: usize) -> Result<(), JsonError> {
            Ok(())
        }
    }

    fn verdict(text: &[u8]) -> Result<Option<usize>, (usize, &'static str)> {
        walk(text, &mut Nobody).map_err(|e| match e {
            JsonError::Syntax { at, why } => (at, why),
            _ => unreachable!(),
        })
    }

    #[test]
    fn accepts_what_rfc_8259_has() {
        let object = br#" {"a":[1,-0,0.5,1e9,1E-2,"x\n\u00e9"],"b":{},"c":[],"d":true,"e":false,"f":null} "#;
        assert_eq!(verdict(object), Ok(Some(1)));
        assert_eq!(verdict(b"3"), Ok(None));
        assert_eq!(verdict("\"h\u{e9}\"".as_bytes()), Ok(None));
    }

    #[test]
    fn says_where_and_why_it_refuses() {
        assert_eq!(verdict(b""), Err((0, EARLY_END)));
        assert_eq!(verdict(b"{\"a\":1,}"), Err((7, "expected a member name")));
        assert_eq!(verdict(b"[1 2]"), Err((3, "expected ',' or ']'")));
        assert_eq!(verdict(b"{} x"), Err((3, "text after the value")));
        assert_eq!(verdict(b"\xef\xbb\xbf{}"), Err((0, "byte order mark")));
        assert_eq!(verdict(b"[01]"), Err((2, "expected ',' or ']'")));
        assert_eq!(verdict(b"[1.]"), Err((3, "expected a digit")));
        assert_eq!(verdict(b"{\"a\" 1}"), Err((5, "expected ':'")));
        assert_eq!(verdict(b"[\"\xff\"]"), Err((2, "invalid UTF-8")));
        assert_eq!(verdict(b"[\"a\nb\"]"), Err((3, "control character in a string")));
        assert_eq!(verdict(b"[\"\\x\"]"), Err((3, "unknown escape")));
        assert_eq!(verdict(b"[\"\\u12g4\"]"), Err((6, "expected four hex digits")));
    }

    #[test]
    fn depth_is_bounded_and_costs_no_stack() {
        let nested = |n: usize| [vec![b'['; n], vec![b']'; n]].concat();
        assert_eq!(verdict(&nested(128)), Ok(None));
        assert_eq!(verdict(&nested(129)), Err((128, "nested too deep")));
        assert_eq!(verdict(&vec![b'['; 1 << 20]), Err((128, "nested too deep")));
    }

    #[test]
    fn closers_match_their_openers() {
        assert!(verdict(b"[}").is_err());
        assert!(verdict(b"{\"a\":[1}}").is_err());
        assert!(verdict(b"[{\"a\":1]]").is_err());
        assert_eq!(verdict(b"[{\"a\":[{}]}]"), Ok(None));
    }
}
