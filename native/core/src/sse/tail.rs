//! The fast path to a document's usage: reads the text that most engines write at its end, left to right.

use super::usage::{self, Report};
use crate::simd::plain_len;

/// Reads `tail`, which begins with the key `usage`: a flat object of counts, further members with simple values, the
/// end of the document. None for everything else; then the slow path must read it.
pub(super) fn usage_of(tail: &[u8]) -> Option<Report> {
    let mut tail = Tail(tail.strip_prefix(b"\"usage\"")?);
    tail.sign(b':')?;
    let report = tail.usage()?;
    while !tail.closes()? {
        // These are alternatives to `usage`, and would only confuse.
        if matches!(tail.key()?, b"x_groq" | b"meta" | b"usageMetadata") {
            return None;
        }
        tail.scalar()?;
    }
    tail.space();
    tail.0.is_empty().then_some(report)
}

/// The unread rest.
struct Tail<'a>(&'a [u8]);

impl<'a> Tail<'a> {
    /// Reads a usage object of counts, literals, plain strings, and details of the same kind.
    fn usage(&mut self) -> Option<Report> {
        let mut counts = [None; usage::COUNTS];
        // Cached tokens under the input's two names, reasoning tokens under the output's.
        let mut details = [None; 4];
        let mut seen = 0_u32;
        self.sign(b'{')?;
        loop {
            let key = self.key()?;
            let named = usage::count_named(key);
            let detailed = if named.is_none() {
                usage::details_named(key)
            } else {
                None
            };
            if let Some(index) = named.or(detailed.map(|index| usage::COUNTS + index)) {
                // A repeated key is left to the slow path.
                if seen >> index & 1 == 1 {
                    return None;
                }
                seen |= 1 << index;
            }
            if self.0.first() == Some(&b'{') {
                let slot = details.get_mut(detailed?)?;
                let [cached, reasoning] = self.details()?;
                *slot = if detailed? < 2 { cached } else { reasoning };
            } else {
                let count = self.scalar()?;
                if let Some(slot) = named.and_then(|index| counts.get_mut(index)) {
                    *slot = count;
                }
            }
            if self.closes()? {
                break;
            }
        }
        let [prompt, input, completion, output] = details;
        Report::of(|field| *counts.get(field)?, prompt.or(input), completion.or(output))
    }

    /// Reads an object of details: its cached tokens and its reasoning tokens.
    fn details(&mut self) -> Option<[Option<u64>; 2]> {
        let mut found = [None; 2];
        let mut seen = [false; 2];
        self.sign(b'{')?;
        loop {
            let key = self.key()?;
            let count = self.scalar()?;
            let at = match key {
                b"cached_tokens" => Some(0),
                b"reasoning_tokens" => Some(1),
                _ => None,
            };
            if let Some(at) = at {
                if std::mem::replace(&mut seen[at], true) {
                    return None;
                }
                found[at] = count;
            }
            if self.closes()? {
                return Some(found);
            }
        }
    }

    #[inline]
    fn space(&mut self) {
        while let Some((b' ' | b'\n' | b'\r' | b'\t', rest)) = self.0.split_first() {
            self.0 = rest;
        }
    }

    /// Reads one structural byte, and the white space around it.
    #[inline]
    fn sign(&mut self, sign: u8) -> Option<()> {
        self.space();
        let (first, rest) = self.0.split_first()?;
        if *first != sign {
            return None;
        }
        self.0 = rest;
        self.space();
        Some(())
    }

    /// After a value: false for a comma, true for the end of the object.
    #[inline]
    fn closes(&mut self) -> Option<bool> {
        self.space();
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        match first {
            b',' => {
                self.space();
                Some(false)
            }
            b'}' => Some(true),
            _ => None,
        }
    }

    /// Reads a key and its colon.
    #[inline]
    fn key(&mut self) -> Option<&'a [u8]> {
        let key = self.string()?;
        self.sign(b':')?;
        Some(key)
    }

    /// Reads a string of plain ASCII.
    #[inline]
    fn string(&mut self) -> Option<&'a [u8]> {
        let text = self.0.strip_prefix(b"\"")?;
        let (text, rest) = text.split_at_checked(plain_len(text))?;
        self.0 = rest.strip_prefix(b"\"")?;
        Some(text)
    }

    /// Reads a count, or a value without one: a literal, a plain string.
    #[inline]
    fn scalar(&mut self) -> Option<Option<u64>> {
        match self.0.first()? {
            b'0'..=b'9' => self.count().map(Some),
            b'"' => self.string().map(|_| None),
            _ => {
                let literals: [&[u8]; 3] = [b"null", b"false", b"true"];
                self.0 = literals.iter().find_map(|literal| self.0.strip_prefix(*literal))?;
                Some(None)
            }
        }
    }

    /// Reads digits, as many as certainly fit, without a leading zero.
    #[inline]
    fn count(&mut self) -> Option<u64> {
        let mut count = 0;
        let mut length = 0;
        while let Some(digit @ b'0'..=b'9') = self.0.get(length) {
            count = count * 10 + u64::from(digit - b'0');
            length += 1;
            if length > 18 {
                return None;
            }
        }
        if length > 1 && self.0.first() == Some(&b'0') {
            return None;
        }
        self.0 = self.0.get(length..)?;
        Some(count)
    }
}

/// The offset of the key, when its value is the last object other than those inside it, as is nearly always the case.
pub(super) fn quick_key(end: &[u8]) -> Option<usize> {
    const KEY: &[u8] = b"\"usage\"";
    memchr::memrchr_iter(b'{', end).take(3).find_map(|open| {
        let before = end.get(..open)?.trim_ascii_end().strip_suffix(b":")?.trim_ascii_end();
        before.strip_suffix(KEY).map(<[u8]>::len)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::Usage;

    fn quick(usage: &str) -> Option<Usage> {
        usage_of(format!("\"usage\":{usage}}}").as_bytes()).map(|report| report.total())
    }

    #[test]
    fn says_what_the_slow_way_says() {
        for usage in [
            r#"{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}"#,
            r#"{"prompt_tokens":9,"total_tokens":21,"completion_tokens":12,"prompt_tokens_details":null}"#,
            r#"{ "prompt_tokens" : 9 , "completion_tokens" : 12 , "prompt_tokens_details" : { "cached_tokens" : 4 } }"#,
            r#"{"input_tokens":9,"input_tokens_details":{"cached_tokens":4,"audio_tokens":0},"output_tokens":1,"output_tokens_details":{"reasoning_tokens":5}}"#,
            r#"{"prompt_tokens":1,"completion_tokens":1,"completion_tokens_details":{"cached_tokens":4,"reasoning_tokens":null}}"#,
            r#"{"total_tokens":8}"#,
            r#"{"input_tokens":5,"cache_creation_input_tokens":10,"cache_read_input_tokens":100,"output_tokens":1,"service_tier":"standard"}"#,
            r#"{"prompt_tokens":0,"completion_tokens":999999999999999999}"#,
            r#"{"prompt_tokens":true,"completion_tokens":3}"#,
        ] {
            let slow = Report::usage(usage.as_bytes()).map(|report| report.total());
            assert!(slow.is_some(), "{usage}");
            assert_eq!(quick(usage), slow, "{usage}");
        }
    }

    #[test]
    fn leaves_what_it_does_not_know_to_the_slow_way() {
        for usage in [
            "null",
            "{}",
            r#"{"prompt_tokens":1.5}"#,
            r#"{"prompt_tokens":01}"#,
            r#"{"prompt_tokens":-1}"#,
            r#"{"prompt_tokens":1000000000000000000000}"#,
            r#"{"prompt_tokens":1,"prompt_tokens":2}"#,
            r#"{"prompt_tokens":1,"prompt_tokens_details":{"cached_tokens":1,"cached_tokens":2}}"#,
            r#"{"prompt_tokens":1,"x":"\n"}"#,
            r#"{"prompt_tokens":1,"x":[1]}"#,
            r#"{"prompt_tokens":1,"x":{"y":1}}"#,
            r#"{"prompt_tokens":1 "x":2}"#,
            r#"{"prompt_tokens":1},"a":"é""#,
            r#"{"prompt_tokens":1},"meta":1"#,
            r#"{"prompt_tokens":1}},{"a":1"#,
        ] {
            assert_eq!(quick(usage), None, "{usage}");
        }
        assert!(usage_of(br#""usage":{"prompt_tokens":1}"#).is_none());
        assert!(usage_of(br#""usage":{"prompt_tokens":1}}x"#).is_none());
    }
}
