//! Redaction: finds our secrets in upstream text, in every spelling that a text may give them, and overwrites them.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::json::quote;

/// A shorter secret could be a word of any text.
const MIN_BYTES: usize = 8;

/// Overwrites secrets with asterisks, byte for byte, so that declared lengths stay right.
pub struct Redactor {
    patterns: Vec<Vec<u8>>,
    searcher: Option<AhoCorasick>,
    longest: usize,
}

impl Redactor {
    /// A redactor of these secrets, except those too short to be distinguished from other text.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut patterns: Vec<Vec<u8>> = secrets
            .into_iter()
            .filter(|secret| secret.len() >= MIN_BYTES)
            .flat_map(spellings)
            .collect();
        patterns.sort_unstable();
        patterns.dedup();
        let searcher = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&patterns)
            .ok()
            .filter(|_| !patterns.is_empty());
        let longest = patterns.iter().map(Vec::len).max().unwrap_or(0);
        Self {
            patterns,
            searcher,
            longest,
        }
    }

    /// True when the text holds a secret.
    pub fn finds(&self, text: &[u8]) -> bool {
        self.searcher.as_ref().is_some_and(|searcher| searcher.is_match(text))
    }

    /// Overwrites every secret; returns true when there was one.
    pub fn blot(&self, text: &mut [u8]) -> bool {
        let Some(searcher) = &self.searcher else { return false };
        let mut from = 0;
        let mut found = false;
        while let Some(at) = searcher.find(text.get(from..).unwrap_or_default()) {
            if let Some(secret) = text.get_mut(from + at.start()..from + at.end()) {
                secret.fill(b'*');
            }
            from += at.end();
            found = true;
        }
        found
    }

    /// The number of bytes at the end that may begin a secret.
    fn begun(&self, text: &[u8]) -> usize {
        let tail = text.get(text.len().saturating_sub(self.longest.saturating_sub(1))..);
        let tail = tail.unwrap_or_default();
        (0..tail.len())
            .filter_map(|at| tail.get(at..))
            .find(|end| {
                self.patterns
                    .iter()
                    .any(|pattern| pattern.len() > end.len() && pattern.starts_with(end))
            })
            .map_or(0, <[u8]>::len)
    }
}

/// Redaction of a text that arrives in pieces, wherever it is cut.
#[derive(Default)]
pub(crate) struct Redaction {
    held: Vec<u8>,
}

impl Redaction {
    /// True when a piece can pass unchanged: no secret is in it or begins at its end, and nothing was held back before
    /// it.
    pub(crate) fn is_clean(&self, redactor: &Redactor, piece: &[u8]) -> bool {
        self.held.is_empty() && !redactor.finds(piece) && redactor.begun(piece) == 0
    }

    /// Adds a piece and returns the bytes that may be sent; the beginning of a secret is held back.
    pub(crate) fn feed(&mut self, redactor: &Redactor, piece: &[u8]) -> Vec<u8> {
        let mut text = std::mem::take(&mut self.held);
        text.extend_from_slice(piece);
        redactor.blot(&mut text);
        self.held = text.split_off(text.len() - redactor.begun(&text));
        text
    }

    /// The bytes still held back: no secret, because the text ends here.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

/// The spellings of a secret: plain, in JSON (in several styles, and twice), in a URL.
fn spellings(secret: &str) -> Vec<Vec<u8>> {
    let inner = |text: &str| {
        let quoted = quote(text);
        String::from_utf8_lossy(quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default()).into_owned()
    };
    let ascii = |text: &str, plain: fn(char) -> bool| {
        let mut units = [0; 2];
        let mut out = String::new();
        for character in text.chars() {
            if character.is_ascii() && plain(character) {
                out.push(character);
            } else {
                for unit in character.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
        out
    };
    let upper = |text: &str| {
        // Only the digits of `\u00e4` become upper case; the `u` before them stays lower case.
        text.split("\\u")
            .enumerate()
            .fold(String::new(), |mut out, (at, part)| {
                if at > 0 {
                    let (digits, rest) = part.split_at_checked(4).unwrap_or((part, ""));
                    out.push_str("\\u");
                    out.push_str(&digits.to_uppercase());
                    out.push_str(rest);
                } else {
                    out.push_str(part);
                }
                out
            })
    };
    let json = inner(secret);
    let json_ascii = ascii(&json, |_| true);
    let slashed = json.replace('/', "\\/");
    let html = ascii(secret, |character| {
        !matches!(character, '<' | '>' | '&' | '\'' | '"' | '\\' | '+' | '/')
    });
    let some = ascii(&json, |character| !matches!(character, '<' | '>' | '&' | '\''));
    let all = ascii(secret, |_| false);
    let url: String = secret
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect();
    let forms = [
        secret.to_owned(),
        inner(&json),
        inner(&json_ascii),
        ascii(&slashed, |_| true),
        url.to_lowercase(),
        json,
        upper(&json_ascii),
        json_ascii,
        slashed,
        upper(&html),
        html,
        upper(&some),
        some,
        upper(&all),
        all,
        url,
    ];
    forms.into_iter().map(String::into_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "sk-0123456789abcdef";

    /// The redacted text, which must be the same for every cut.
    fn blotted(redactor: &Redactor, text: &[u8]) -> Vec<u8> {
        let mut whole = text.to_vec();
        redactor.blot(&mut whole);
        for size in 1..=text.len().max(1) {
            let mut redaction = Redaction::default();
            let mut out = Vec::new();
            for piece in text.chunks(size) {
                if redaction.is_clean(redactor, piece) {
                    out.extend_from_slice(piece);
                } else {
                    out.extend(redaction.feed(redactor, piece));
                }
            }
            out.extend(redaction.finish());
            assert_eq!(out, whole, "{size}");
        }
        assert_eq!(whole.len(), text.len());
        whole
    }

    #[test]
    fn a_secret_is_blotted_out_wherever_it_is_cut() {
        let redactor = Redactor::new([KEY, "short", "another secret"]);
        let stars = "*".repeat(KEY.len());
        let text = format!("sk-0123 {KEY}{KEY}, short sk-sk-{KEY} another secre");
        let expected = format!("sk-0123 {stars}{stars}, short sk-sk-{stars} another secre");
        assert_eq!(blotted(&redactor, text.as_bytes()), expected.as_bytes());
        assert_eq!(blotted(&redactor, b""), b"");
        assert!(!Redactor::new([]).finds(b"anything"));
    }

    #[test]
    fn it_is_known_however_it_is_written() {
        let secret = "a\"b\\c/d\u{e4}<e&f'\u{1f600}+g";
        let redactor = Redactor::new([secret, KEY]);
        let all = |text: &str| {
            text.encode_utf16()
                .map(|unit| format!("\\u{unit:04x}"))
                .collect::<String>()
        };
        for spelling in [
            secret.to_owned(),
            r#"a\"b\\c/dä<e&f'😀+g"#.to_owned(),
            r#"a\"b\\c\/dä<e&f'😀+g"#.to_owned(),
            r#"a\"b\\c/d\u00e4<e&f'\ud83d\ude00+g"#.to_owned(),
            r#"a\"b\\c/d\u00E4<e&f'\uD83D\uDE00+g"#.to_owned(),
            r#"a\"b\\c\/d\u00e4<e&f'\ud83d\ude00+g"#.to_owned(),
            r#"a\\\"b\\\\c/dä<e&f'😀+g"#.to_owned(),
            "a%22b%5Cc%2Fd%C3%A4%3Ce%26f%27%F0%9F%98%80%2Bg".to_owned(),
            all(secret),
            all(KEY),
        ] {
            assert!(redactor.finds(format!("x{spelling}y").as_bytes()), "{spelling}");
        }
        assert!(!redactor.finds(r#"a\"b\\c/dä"#.as_bytes()));
    }
}
