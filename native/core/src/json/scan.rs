//! The validator's quick way: 64 bytes at a time into bits of structure, then from bit to bit (Langdale and Lemire,
//! "Parsing Gigabytes of JSON per Second", 2019).
//!
//! It accepts nothing that `walk` refuses and tells the visitor the same; whatever it doubts it leaves to `walk`, which
//! knows what is wrong and where.

use super::block::{self, BLOCK, Block, Work};
use super::text::{escape, escapes};
use super::walk::{MAX_DEPTH, Visitor, literal, number, skip_space};

/// As `walk`: the offset of the `{`, when the text is an object. None when in doubt: then the visitor heard nonsense.
#[inline]
pub(super) fn scan<V: Visitor>(bytes: &[u8], visitor: &mut V) -> Option<Option<usize>> {
    block::run(Scan { bytes, visitor })
}

struct Scan<'a, V> {
    bytes: &'a [u8],
    visitor: &'a mut V,
}

impl<V: Visitor> Work for Scan<'_, V> {
    type Output = Option<Option<usize>>;

    #[inline(always)]
    fn run<B: Block>(self, load: impl Fn(&[u8; BLOCK]) -> B) -> Self::Output {
        let Self { bytes, visitor } = self;
        let mut grammar = Grammar::new(bytes, visitor);
        // What a block leaves to the next: all ones within a string; 1 when its last byte is a backslash that escapes, or
        // part of a number or literal.
        let (mut inside, mut cut, mut scalar) = (0_u64, 0, 0);
        // Where the first block with bytes above 0x7f is.
        let mut wide = None;
        let mut padded = [b' '; BLOCK];
        let mut base = 0;
        while base < bytes.len() {
            let block = match block::at(bytes, base) {
                Some(block) => load(block),
                None => {
                    for (to, from) in padded.iter_mut().zip(bytes.get(base..)?) {
                        *to = *from;
                    }
                    load(&padded)
                }
            };
            let at = base;
            base += BLOCK;
            if wide.is_none() && block.has_wide() {
                wide = Some(at);
            }
            // No short cut for blocks of plain text: beside those with escapes it would be mispredicted every other time.
            let (quotes, backslashes, controls) = (block.equal(b'"'), block.equal(b'\\'), block.controls());
            let (escaping, escaped) = escapes(backslashes, cut);
            cut = escaping >> 63;
            let borders = quotes & !escaped;
            let letters = escaped & !(quotes | backslashes | block.equal(b'n'));
            grammar.escapes |= backslashes;
            if borders == 0 && inside != 0 {
                if controls != 0 || !are_escapes(bytes, at, letters) {
                    return None;
                }
                continue;
            }
            // From each opening quote to before its closing one.
            let within = parity(borders) ^ inside;
            inside = ((within as i64) >> 63) as u64;
            if controls & within != 0 || !are_escapes(bytes, at, letters & within) {
                return None;
            }
            let operators = block.operators() & !within;
            let scalars = !(operators | block.spaces() | within | borders);
            let starts = scalars & !(scalars << 1 | scalar);
            scalar = scalars >> 63;
            grammar.block(at, operators | starts | (borders & within))?;
        }
        let is_utf8 = |from| simdutf8::basic::from_utf8(bytes.get(from..).unwrap_or_default()).is_ok();
        (inside == 0 && grammar.is_complete() && wide.is_none_or(is_utf8)).then_some(grammar.object)
    }
}

/// Whether these bits, counted from `base`, are what may follow a backslash.
#[inline(always)]
fn are_escapes(bytes: &[u8], base: usize, mut letters: u64) -> bool {
    while letters != 0 {
        let at = base + letters.trailing_zeros() as usize;
        let is_plain = matches!(bytes.get(at), Some(b't' | b'r' | b'b' | b'f' | b'/'));
        if !is_plain && escape(bytes, at).is_err() {
            return false;
        }
        letters &= letters - 1;
    }
    true
}

/// Bit i of the answer is the parity of the bits up to i.
#[inline(always)]
fn parity(mut bits: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << shift;
    }
    bits
}

/// What may come next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    CommaOrEnd,
}

/// RFC 8259's grammar over brackets, colons, commas, and the first bytes of strings, numbers and literals.
struct Grammar<'a, V: Visitor> {
    bytes: &'a [u8],
    visitor: &'a mut V,
    next: Next,
    // Nested containers as bits, the innermost in bit 0: 1 is an object.
    nest: u128,
    depth: u32,
    object: Option<usize>,
    key: usize,
    // Not zero once there was a backslash.
    escapes: u64,
    // The top-level member whose value is being read, with the offsets of its key and of its value.
    wanted: Option<(V::Tag, usize, usize)>,
}

impl<'a, V: Visitor> Grammar<'a, V> {
    #[inline(always)]
    fn new(bytes: &'a [u8], visitor: &'a mut V) -> Self {
        Self {
            bytes,
            visitor,
            next: Next::Value,
            nest: 0,
            depth: 0,
            object: None,
            key: 0,
            escapes: 0,
            wanted: None,
        }
    }

    #[inline(always)]
    fn is_complete(&self) -> bool {
        self.depth == 0 && self.next == Next::CommaOrEnd
    }

    /// Takes what the bits stand for, counted from `base`. None when the text is not JSON, or not surely.
    ///
    /// A call of its own, so that the loop over blocks has the registers to itself.
    #[inline(never)]
    fn block(&mut self, base: usize, mut structure: u64) -> Option<()> {
        while structure != 0 {
            self.take(base + structure.trailing_zeros() as usize)?;
            structure &= structure - 1;
        }
        Some(())
    }

    #[inline(always)]
    fn take(&mut self, at: usize) -> Option<()> {
        let byte = *self.bytes.get(at)?;
        match (self.next, byte) {
            (Next::Key | Next::KeyOrEnd, b'"') => {
                self.key = at;
                self.next = Next::Colon;
            }
            (Next::Colon, b':') => {
                if self.depth == 1 {
                    self.ask(at)?;
                }
                self.next = Next::Value;
            }
            (Next::CommaOrEnd, b',') if self.depth > 0 => {
                if self.depth == 1 {
                    self.tell(at)?;
                }
                self.next = if self.nest & 1 == 1 { Next::Key } else { Next::Value };
            }
            (Next::CommaOrEnd | Next::KeyOrEnd, b'}') if self.nest & 1 == 1 => self.close(at)?,
            (Next::CommaOrEnd | Next::ValueOrEnd, b']') if self.depth > 0 && self.nest & 1 == 0 => self.close(at)?,
            (Next::Value | Next::ValueOrEnd, _) => {
                self.next = Next::CommaOrEnd;
                let end = match byte {
                    b'"' => return Some(()),
                    b'{' | b'[' => return self.open(byte == b'{', at),
                    b'-' | b'0'..=b'9' => number(self.bytes, at),
                    b't' => literal(self.bytes, at, b"true"),
                    b'f' => literal(self.bytes, at, b"false"),
                    b'n' => literal(self.bytes, at, b"null"),
                    _ => return None,
                };
                // What follows within the same word is no start of anything, so nobody else would look at it.
                return match self.bytes.get(end.ok()?) {
                    None | Some(b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t') => Some(()),
                    Some(_) => None,
                };
            }
            _ => return None,
        }
        Some(())
    }

    #[inline(always)]
    fn open(&mut self, is_object: bool, at: usize) -> Option<()> {
        if self.depth == MAX_DEPTH {
            return None;
        }
        if self.depth == 0 && is_object {
            self.object = Some(at);
        }
        self.depth += 1;
        self.nest = self.nest << 1 | u128::from(is_object);
        self.next = if is_object { Next::KeyOrEnd } else { Next::ValueOrEnd };
        Some(())
    }

    #[inline(always)]
    fn close(&mut self, at: usize) -> Option<()> {
        if self.depth == 1 {
            self.tell(at)?;
        }
        self.depth -= 1;
        self.nest >>= 1;
        self.next = Next::CommaOrEnd;
        Some(())
    }

    /// Asks the visitor about the key before the colon at `at`.
    #[inline(always)]
    fn ask(&mut self, at: usize) -> Option<()> {
        let end = before_space(self.bytes, at) - 1;
        let text = self.bytes.get(self.key + 1..end)?;
        let tag = self.visitor.key(text, self.escapes != 0 && text.contains(&b'\\'));
        self.wanted = tag.map(|tag| (tag, self.key, skip_space(self.bytes, at + 1)));
        Some(())
    }

    /// Tells the visitor about the value before the comma or brace at `at`.
    #[inline(always)]
    fn tell(&mut self, at: usize) -> Option<()> {
        match self.wanted.take() {
            Some((tag, key, start)) => {
                let end = before_space(self.bytes, at);
                self.visitor.member(tag, key, start, end).ok()
            }
            None => Some(()),
        }
    }
}

/// Where the white space before `at` begins.
#[inline(always)]
fn before_space(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = at.checked_sub(1).and_then(|before| bytes.get(before)) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::super::{JsonError, walk};
    use super::*;

    /// Writes down what it hears.
    #[derive(Default, PartialEq, Debug)]
    struct Notes(Vec<(Vec<u8>, bool, usize, usize, usize)>, Vec<(Vec<u8>, bool)>);

    impl Visitor for Notes {
        type Tag = usize;

        fn key(&mut self, text: &[u8], escaped: bool) -> Option<usize> {
            self.1.push((text.to_vec(), escaped));
            (!text.starts_with(b"x")).then_some(self.1.len() - 1)
        }

        fn member(&mut self, tag: usize, key: usize, start: usize, end: usize) -> Result<(), JsonError> {
            let (text, escaped) = self.1[tag].clone();
            self.0.push((text, escaped, key, start, end));
            Ok(())
        }
    }

    /// Both ways agree, but for what the quick one leaves to the other.
    fn agree(text: &[u8]) -> bool {
        let (mut quick, mut slow) = (Notes::default(), Notes::default());
        let verdict = walk(text, &mut slow);
        let found = scan(text, &mut quick);
        let shown = String::from_utf8_lossy(text);
        match (&verdict, found) {
            (Ok(object), Some(found)) => {
                assert_eq!(found, *object, "{shown}");
                assert_eq!(quick, slow, "{shown}");
            }
            (Err(error), Some(_)) => panic!("{error} was accepted: {shown}"),
            (Ok(_), None) => panic!("was refused: {shown}"),
            (Err(_), None) => {}
        }
        verdict.is_ok()
    }

    #[test]
    fn agrees_with_the_slow_way() {
        let mut seed = 7_u64;
        let mut next = |below: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % below
        };
        let pieces: [&str; 40] = [
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"",
            "\\",
            "\"a\":",
            "\"x\" : ",
            "\"k\\u0041\":",
            "1",
            "-0.5e+9",
            "01",
            "true",
            "false",
            "null",
            "nul",
            " ",
            "\n\t\r ",
            "\"\"",
            "\"\\\"\"",
            "\"\\\\\"",
            "\"\\\\\\\"\"",
            "\"\\n\\t\\/\\u00e9\"",
            "\"\\u12\"",
            "\"\\x\"",
            "é",
            "\"é漢😀\"",
            "\u{1}",
            "\"\u{1f}\"",
            "\"\u{7f}\"",
            "\u{c}",
            "{}",
            "[]",
            "{\"m\":[1,{}]}",
            "\"long text that goes on and on until a block is over, and then a little further still\"",
            "[1,2,3]",
            "e",
            "-",
        ];
        let mut valid = 0;
        for _ in 0..40_000 {
            let mut text = Vec::new();
            for _ in 0..next(24) {
                text.extend_from_slice(pieces[next(pieces.len())].as_bytes());
            }
            valid += usize::from(agree(&text));
        }
        assert!(valid > 500, "{valid}");
    }

    #[test]
    fn one_wrong_byte_is_seen_wherever_it_is() {
        let body = br#" {"model" : "m\\\u00e9\n\"x" ,"messages":[{"role":"user","content":"a long enough text to fill a block, with \t some \" escapes \\ in it \u0041"},{"a":[1,2.5e3,true,null]}],"stream":false, "max_tokens":64}  "#;
        assert!(agree(body));
        for at in 0..body.len() {
            for byte in *b"\"\\{}[]:, 1tn\0\x0c\x1a\x1f\x7f\x80\xe9" {
                let mut text = body.to_vec();
                text[at] = byte;
                agree(&text);
                text.truncate(at + 1);
                agree(&text);
            }
        }
        for shift in 0..130 {
            let text = [vec![b' '; shift], body.to_vec(), vec![b'\n'; shift]].concat();
            assert!(agree(&text));
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |n: usize| [vec![b'['; n], vec![b']'; n]].concat();
        assert!(agree(&nested(128)));
        assert!(!agree(&nested(129)));
    }

    #[test]
    fn parity_counts() {
        assert_eq!(parity(0b1001_0010), 0b1110 | u64::MAX << 7);
    }
}
