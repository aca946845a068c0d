//! The end of a value, found without looking at what is in it.

use memchr::memchr;

use super::block::{self, BLOCK, Block, Work};
use super::text::escapes;

/// The offset past the value at `at` of a validated text; the length when the text ends first.
#[inline]
pub(super) fn value_end(text: &[u8], mut at: usize) -> usize {
    match text.get(at) {
        Some(b'"') => string_end(text, at + 1),
        Some(b'{' | b'[') => block::run(Container { text, at }),
        _ => {
            let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n');
            while text.get(at).is_some_and(|byte| !is_end(byte)) {
                at += 1;
            }
            at
        }
    }
}

/// The offset past the closing quote of a string whose text begins at `start`; the length when there is none.
#[inline]
pub(super) fn string_end(text: &[u8], start: usize) -> usize {
    let mut at = start;
    while let Some(found) = text.get(at..).and_then(|rest| memchr(b'"', rest)) {
        let end = at + found;
        let before = text.get(start..end).unwrap_or_default();
        let backslashes = before.iter().rev().take_while(|byte| **byte == b'\\').count();
        if backslashes % 2 == 0 {
            return end + 1;
        }
        at = end + 1;
    }
    text.len()
}

/// Finds the end of the container at `at`: counts brackets outside strings, 64 bytes at a time.
struct Container<'a> {
    text: &'a [u8],
    at: usize,
}

impl Work for Container<'_> {
    type Output = usize;

    #[inline(always)]
    fn run<B: Block>(self, load: impl Fn(&[u8; BLOCK]) -> B) -> usize {
        let Self { text, at } = self;
        let mut base = at;
        let mut depth = 0_usize;
        // 1: the first byte is escaped. All ones: the block begins in a string.
        let (mut cut, mut in_string) = (0_u64, 0_u64);
        let mut last = [b' '; BLOCK];
        while base < text.len() {
            let block = match block::at(text, base) {
                Some(block) => block,
                None => {
                    let rest = text.get(base..).unwrap_or_default();
                    for (to, from) in last.iter_mut().zip(rest) {
                        *to = *from;
                    }
                    &last
                }
            };
            let block = load(block);
            let backslashes = block.equal(b'\\');
            let mut quotes = block.equal(b'"');
            if backslashes | cut != 0 {
                let (escaping, escaped) = escapes(backslashes, cut);
                cut = escaping >> 63;
                quotes &= !escaped;
            }
            let inside = prefix_xor(quotes) ^ in_string;
            in_string = 0_u64.wrapping_sub(inside >> 63);
            let opening = (block.equal(b'{') | block.equal(b'[')) & !inside;
            let closing = (block.equal(b'}') | block.equal(b']')) & !inside;
            if (closing.count_ones() as usize) < depth {
                depth = depth + opening.count_ones() as usize - closing.count_ones() as usize;
            } else {
                let mut brackets = opening | closing;
                while brackets != 0 {
                    let bit = brackets.trailing_zeros();
                    brackets &= brackets - 1;
                    if opening >> bit & 1 == 1 {
                        depth += 1;
                    } else {
                        depth = depth.saturating_sub(1);
                        if depth == 0 {
                            return base + bit as usize + 1;
                        }
                    }
                }
            }
            base += BLOCK;
        }
        text.len()
    }
}

/// Bit i becomes the exclusive or of bits 0 to i: the bytes from an opening quote to the one before the closing quote.
#[inline(always)]
fn prefix_xor(mut bits: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << shift;
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_value_is_found_wherever_it_lies() {
        let values = [
            "1",
            "-1.5e3",
            "null",
            r#""""#,
            r#""\\""#,
            r#""\"]}""#,
            "{}",
            "[ ]",
            r#"{"a":[{"b":"}\\\"]"},[]],"c":"\\"}"#,
        ];
        for value in values {
            for pad in 0..140 {
                let long = format!("[{}{value}]", " ".repeat(pad));
                let escaped = format!("[\"{}\\\"]\",{value}]", "\\\\".repeat(pad));
                for value in [value, &long, &escaped] {
                    for after in ["", ",", "}", "]"] {
                        let text = format!("  {value}{after}");
                        assert_eq!(value_end(text.as_bytes(), 2), 2 + value.len(), "{text}");
                    }
                }
            }
        }
        for text in ["[", "{\"a", "[\"]", "\"", "\"\\\"", "[[]"] {
            assert_eq!(value_end(text.as_bytes(), 0), text.len());
        }
    }
}
