//! JSON strings: finding their end, checking their escapes, decoding and quoting.

/// The end of a string: the offset just past its closing quote.
#[derive(Clone, Copy)]
pub(super) struct StringEnd {
    pub(super) at: usize,
    pub(super) escaped: bool,
}

/// The backslashes in a block that escape, and the bytes that are escaped.
///
/// In a run of backslashes every other one escapes; subtraction carries along each run (simdjson's
/// `json_escape_scanner`, <https://github.com/simdjson/simdjson/pull/2042>). `cut` is 1 when the first byte is escaped.
#[inline(always)]
pub(super) fn escapes(backslashes: u64, cut: u64) -> (u64, u64) {
    const ODD: u64 = 0xaaaa_aaaa_aaaa_aaaa;
    let free = backslashes & !cut;
    let codes = ((free << 1 | ODD).wrapping_sub(free)) ^ ODD;
    (codes & backslashes, codes ^ (backslashes | cut))
}

/// Finds the end of the string whose text begins at `at` (past the opening quote), and checks escapes and controls.
///
/// The caller checks UTF-8: no byte of a multi-byte sequence is a quote, a backslash or a control.
pub(super) fn string_end(bytes: &[u8], mut at: usize) -> Result<StringEnd, (usize, &'static str)> {
    let mut escaped = false;
    loop {
        at = next_special(bytes, at);
        match bytes.get(at) {
            Some(b'"') => return Ok(StringEnd { at: at + 1, escaped }),
            Some(b'\\') => {
                escaped = true;
                at = escape(bytes, at + 1)?;
            }
            Some(_) => return Err((at, "control character in a string")),
            None => return Err((at, "unterminated string")),
        }
    }
}

/// The offset past an escape whose letter is at `at`.
#[inline]
pub(super) fn escape(bytes: &[u8], at: usize) -> Result<usize, (usize, &'static str)> {
    match bytes.get(at) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 1),
        Some(b'u') => {
            for i in at + 1..at + 5 {
                if !bytes.get(i).is_some_and(u8::is_ascii_hexdigit) {
                    return Err((i.min(bytes.len()), "expected four hex digits"));
                }
            }
            Ok(at + 5)
        }
        Some(_) => Err((at, "unknown escape")),
        None => Err((at, "unterminated string")),
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = ONES << 7;

/// The offset of the next quote, backslash or control character, or the length.
#[inline]
pub(crate) fn next_special(bytes: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let mask = special_word(u64::from_le_bytes(*chunk));
        if mask != 0 {
            return at + mask.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while let Some(byte) = bytes.get(at) {
        if matches!(byte, b'"' | b'\\' | 0..0x20) {
            break;
        }
        at += 1;
    }
    at
}

/// Bit 7 of each special byte; only the lowest mark is reliable.
#[inline]
fn special_word(word: u64) -> u64 {
    let zero = |v: u64| v.wrapping_sub(ONES) & !v;
    let quote = zero(word ^ (ONES * b'"' as u64));
    let backslash = zero(word ^ (ONES * b'\\' as u64));
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (quote | backslash | control) & HIGH
}

/// The text as a JSON string with its quotes; only bytes that need it are escaped.
pub fn quote(text: &str) -> Box<[u8]> {
    let mut out = Vec::with_capacity(text.len() + 2);
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            0..0x20 => {
                let hex = |digit: u8| b"0123456789abcdef".get(usize::from(digit)).copied().unwrap_or(b'0');
                out.extend([b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
    out.into_boxed_slice()
}

/// Decodes a validated string; `raw` is the text between its quotes. A lone surrogate becomes U+FFFD.
pub fn unescape(raw: &[u8]) -> String {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let (before, after) = rest.split_at(at);
        out.extend_from_slice(before);
        let (character, used) = match after.get(1) {
            Some(b'u') => unicode(after),
            Some(&letter) => (plain(letter), 2),
            None => (char::REPLACEMENT_CHARACTER, 1),
        };
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        rest = after.get(used..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// True when a key equals an ASCII name in any letter case, by Unicode's folding: two letters beyond ASCII fold into it, the
/// long s and the Kelvin sign.
pub(super) fn folds_to(key: &[u8], name: &str) -> bool {
    let Ok(key) = std::str::from_utf8(key) else {
        return false;
    };
    let folded = key.chars().map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    });
    folded.eq(name.chars().map(|letter| letter.to_ascii_lowercase()))
}

/// True when all servers decode a validated string alike: its escapes are neither control characters, which end strings
/// in C and act in shells, nor halves of surrogate pairs, which some turn into U+FFFD and some into an invalid string.
pub fn is_clear(raw: &[u8]) -> bool {
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let after = rest.get(at..).unwrap_or_default();
        let used = match after.get(1) {
            Some(b'"' | b'\\' | b'/') => 2,
            Some(b'u') => match unicode(after) {
                (_, 12) => 12,
                (character, used) if !character.is_control() && !is_half(after) => used,
                _ => return false,
            },
            _ => return false,
        };
        rest = after.get(used..).unwrap_or_default();
    }
    true
}

fn is_half(text: &[u8]) -> bool {
    unit(text).is_none_or(|unit| (0xd800..0xe000).contains(&unit))
}

fn plain(letter: u8) -> char {
    match letter {
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        other => char::from(other),
    }
}

/// The character of a `\uXXXX` at the start of `text`, or of a pair of them, and the number of bytes it took.
fn unicode(text: &[u8]) -> (char, usize) {
    let Some(high) = unit(text) else {
        return (char::REPLACEMENT_CHARACTER, text.len().min(6));
    };
    if (0xd800..0xdc00).contains(&high)
        && let Some(low @ 0xdc00..0xe000) = text.get(6..).and_then(unit)
    {
        let scalar = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
        return (char::from_u32(scalar).unwrap_or(char::REPLACEMENT_CHARACTER), 12);
    }
    (char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER), 6)
}

/// The code unit of a `\uXXXX` at the start of `text`.
fn unit(text: &[u8]) -> Option<u32> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    digits
        .iter()
        .try_fold(0, |sum, &digit| Some(sum << 4 | char::from(digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unescapes_as_json_does() {
        assert_eq!(unescape(br#"mod\u0065l"#), "model");
        assert_eq!(unescape(br#"\"\\\/\b\f\n\r\t"#), "\"\\/\u{8}\u{c}\n\r\t");
        assert_eq!(unescape(br"\ud83d\ude00!"), "\u{1f600}!");
        assert_eq!(unescape(br"\ud83dx\ude00"), "\u{fffd}x\u{fffd}");
        assert_eq!(unescape(br"\ud83d\u0041"), "\u{fffd}A");
    }

    #[test]
    fn what_readers_differ_about_is_not_clear() {
        for raw in [
            "",
            "m",
            "\u{e9}\u{fffd}",
            r"\u006d",
            r#"\/\\\""#,
            r"\ud83d\ude00!",
            r"\ufffd",
            r"\\n",
        ] {
            assert!(is_clear(raw.as_bytes()), "{raw}");
        }
        for raw in [
            r"a\u0000",
            r"\n",
            r"\t",
            r"\u007f",
            r"\u0085",
            r"\ud83d",
            r"\ude00",
            r"\ud83dx\ude00",
            r"\ud83d\u0041",
        ] {
            assert!(!is_clear(raw.as_bytes()), "{raw}");
        }
    }

    #[test]
    fn quotes_what_it_must() {
        assert_eq!(
            &*quote("a/\u{e9}\"\\\u{1f}\n"),
            "\"a/\u{e9}\\\"\\\\\\u001f\\u000a\"".as_bytes()
        );
    }

    #[test]
    fn finds_specials_at_every_offset() {
        for special in (0..0x20).chain(*b"\"\\") {
            for at in 0..40 {
                let mut text = vec![0x7f; 41];
                text[at] = special;
                assert_eq!(next_special(&text, 0), at, "{special:#x}");
            }
        }
        for plain in (0x20..=0xff).filter(|b| !b"\"\\".contains(b)) {
            assert_eq!(next_special(&[plain; 41], 0), 41, "{plain:#x}");
        }
    }
}
