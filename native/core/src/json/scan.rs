//! The validator's fast path: turns 64 bytes at a time into bits of structure, then goes from bit to bit (Langdale and
//! Lemire, "Parsing Gigabytes of JSON per Second", 2019).
//!
//! It accepts nothing that `walk` rejects, and reports the same to the visitor. Whatever is in doubt is left to `walk`,
//! which reports the error and its position.

use super::block::{self, BLOCK, Block, Work};
use super::string::{Escapes, Text};
use super::walk::{MAX_DEPTH, Visitor, digits, literal, number};

/// Same result as `walk`: the offset of the `{`, when the text is an object. None when in doubt; then the visitor may
/// have received nonsense.
#[inline]
pub(super) fn scan<V: Visitor>(bytes: &[u8], visitor: &mut V) -> Option<Option<usize>> {
    let mut finder = Finder::new(bytes);
    let mut positions = Positions {
        bytes,
        finder: &mut finder,
        word: Word::default(),
    };
    let (at, byte) = positions.next()?;
    let object = if byte == b'{' {
        members(&mut positions, visitor)?;
        Some(at)
    } else {
        value(&mut positions, at, byte, 0)?;
        None
    };
    (positions.next().is_none() && finder.is_sound()).then_some(object)
}

/// Scans the members of the outermost object.
#[inline(always)]
fn members<V: Visitor>(positions: &mut Positions<'_, '_>, visitor: &mut V) -> Option<()> {
    let bytes = positions.bytes;
    let (mut key, mut byte) = positions.next()?;
    if byte == b'}' {
        return Some(());
    }
    loop {
        let (colon, start, first) = positions.member(byte)?;
        let text = bytes.get(key + 1..before_space(bytes, colon) - 1)?;
        let tag = visitor.key(text, positions.finder.has_escapes && text.contains(&b'\\'));
        value(positions, start, first, 1)?;
        let (after, sign) = positions.next()?;
        if let Some(tag) = tag {
            visitor.member(tag, key, start, before_space(bytes, after)).ok()?;
        }
        match sign {
            b',' => (key, byte) = positions.next()?,
            b'}' => return Some(()),
            _ => return None,
        }
    }
}

/// Scans the value that begins at `at` with `byte`, inside `depth` containers.
#[inline(always)]
fn value(positions: &mut Positions<'_, '_>, at: usize, byte: u8, depth: u32) -> Option<()> {
    match byte {
        b'"' => Some(()),
        b'{' | b'[' => {
            positions.word = container(positions.finder, positions.word, byte, depth)?;
            Some(())
        }
        _ => scalar(positions.bytes, at, byte),
    }
}

/// Scans the container that opens with `byte`, and everything within; returns the rest of the word in which it ends.
#[inline(never)]
fn container(finder: &mut Finder<'_>, word: Word, mut byte: u8, outside: u32) -> Option<Word> {
    let bytes = finder.bytes;
    let mut positions = Positions { bytes, finder, word };
    // Nested containers as bits, the innermost in bit 0: 1 is an object.
    let (mut nest, mut depth) = (0_u128, outside);
    let mut at = 0;
    'value: loop {
        match byte {
            b'"' => {}
            b'{' | b'[' => {
                if depth == MAX_DEPTH {
                    return None;
                }
                let is_object = byte == b'{';
                depth += 1;
                nest = nest << 1 | u128::from(is_object);
                (at, byte) = positions.next()?;
                if is_object {
                    if byte != b'}' {
                        (_, at, byte) = positions.member(byte)?;
                        continue 'value;
                    }
                } else if byte != b']' {
                    continue 'value;
                }
                depth -= 1;
                nest >>= 1;
            }
            _ => scalar(bytes, at, byte)?,
        }
        // A value ended; close the containers that end with it.
        while depth != outside {
            let (_, sign) = positions.next()?;
            let is_object = nest & 1 == 1;
            if sign == b',' {
                (at, byte) = positions.next()?;
                if is_object {
                    (_, at, byte) = positions.member(byte)?;
                }
                continue 'value;
            }
            if sign != if is_object { b'}' } else { b']' } {
                return None;
            }
            depth -= 1;
            nest >>= 1;
        }
        return Some(positions.word);
    }
}

/// Scans a number or a literal.
#[inline(always)]
fn scalar(bytes: &[u8], at: usize, byte: u8) -> Option<()> {
    let is_over = |end| {
        matches!(
            bytes.get(end),
            None | Some(b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t')
        )
    };
    if let b'1'..=b'9' = byte
        && is_over(digits(bytes, at))
    {
        return Some(());
    }
    let end = match byte {
        b'-' | b'0'..=b'9' => number(bytes, at),
        b't' => literal(bytes, at, b"true"),
        b'f' => literal(bytes, at, b"false"),
        b'n' => literal(bytes, at, b"null"),
        _ => return None,
    };
    // The rest of the same word has no start bit, so nothing else would check it.
    is_over(end.ok()?).then_some(())
}

/// A block's structure as bits - brackets, colons, commas, and the first bytes of strings, numbers and literals -, and
/// the block's offset.
#[derive(Clone, Copy, Default)]
struct Word {
    base: usize,
    bits: u64,
}

/// The structural positions, from left to right.
struct Positions<'a, 'b> {
    bytes: &'b [u8],
    finder: &'a mut Finder<'b>,
    // The rest of the current word.
    word: Word,
}

impl Positions<'_, '_> {
    /// The next position, and the byte there; None when there are no more, or the text is not JSON.
    #[inline(always)]
    fn next(&mut self) -> Option<(usize, u8)> {
        if self.word.bits == 0 {
            self.word = self.finder.word();
            if self.word.bits == 0 {
                return None;
            }
        }
        let at = self.word.base + self.word.bits.trailing_zeros() as usize;
        self.word.bits &= self.word.bits - 1;
        Some((at, *self.bytes.get(at)?))
    }

    /// From the first byte of a key: the offsets of its colon and value, and the value's first byte.
    #[inline(always)]
    fn member(&mut self, first: u8) -> Option<(usize, usize, u8)> {
        if first != b'"' {
            return None;
        }
        let (colon, sign) = self.next()?;
        if sign != b':' {
            return None;
        }
        let (at, byte) = self.next()?;
        Some((colon, at, byte))
    }
}

/// The number of words found at once.
const WORDS: usize = 8;

/// Finds the structure of a text, from left to right.
struct Finder<'a> {
    bytes: &'a [u8],
    // The words found, and how many of them have been used.
    words: [Word; WORDS],
    found: usize,
    taken: usize,
    // The block to scan next.
    base: usize,
    // State from the previous block: `inside` is all ones within a string; `scalar` is 1 when the last byte belongs to
    // a number or literal.
    inside: u64,
    scalar: u64,
    escapes: Escapes,
    // True once there was a backslash.
    has_escapes: bool,
    // The offset from which to check UTF-8, once there was a byte above 0x7f.
    wide: Option<usize>,
    // True after a control character or an unknown escape in a string.
    is_broken: bool,
}

impl<'a> Finder<'a> {
    #[inline(always)]
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            words: [Word::default(); WORDS],
            found: 0,
            taken: 0,
            base: 0,
            inside: 0,
            scalar: 0,
            escapes: Escapes::default(),
            has_escapes: false,
            wide: None,
            is_broken: false,
        }
    }

    /// The next word that is not zero; zero when there are no more, or the text is not JSON.
    #[inline(never)]
    fn word(&mut self) -> Word {
        if self.taken == self.found {
            if self.base >= self.bytes.len() {
                return Word::default();
            }
            self.find();
        }
        let word = self.words.get(self.taken).filter(|_| self.taken < self.found);
        self.taken += 1;
        word.copied().unwrap_or_default()
    }

    #[inline(never)]
    fn find(&mut self) {
        block::run(Find(self));
        self.taken = 0;
    }

    /// At the end: true when all strings were valid and terminated.
    #[inline(always)]
    fn is_sound(&self) -> bool {
        let is_utf8 = |from| simdutf8::basic::from_utf8(self.bytes.get(from..).unwrap_or_default()).is_ok();
        self.inside == 0 && !self.is_broken && self.wide.is_none_or(is_utf8)
    }
}

/// The block at `base`, padded with spaces.
#[inline(never)]
fn padded(bytes: &[u8], base: usize) -> [u8; BLOCK] {
    let mut padded = [b' '; BLOCK];
    for (to, from) in padded.iter_mut().zip(bytes.get(base..).unwrap_or_default()) {
        *to = *from;
    }
    padded
}

/// Finds words with vectors.
struct Find<'a, 'b>(&'a mut Finder<'b>);

impl Work for Find<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<B: Block>(self, load: impl Fn(&[u8; BLOCK]) -> B) {
        let finder = self.0;
        let bytes = finder.bytes;
        let (mut inside, mut scalar, mut escapes) = (finder.inside, finder.scalar, finder.escapes);
        let (mut base, mut found) = (finder.base, 0);
        let mut is_wide = false;
        while base < bytes.len() && !finder.is_broken {
            let Some(word) = finder.words.get_mut(found) else {
                break;
            };
            if inside != 0 {
                let text = Text::after(bytes, base, escapes, &load);
                (base, escapes) = (text.end, text.escapes);
                is_wide |= text.is_wide;
                finder.has_escapes |= text.has_escapes;
            }
            let block = match block::at(bytes, base) {
                Some(block) => load(block),
                None => load(&padded(bytes, base)),
            };
            is_wide |= block.is_wide();
            let (quotes, backslashes) = (block.equal(b'"'), block.equal(b'\\'));
            let (mut borders, mut wrong) = (quotes, 0);
            if backslashes != 0 || !escapes.is_none() {
                let escaped;
                // Outside strings, a backslash is invalid too.
                (escaped, wrong) = escapes.of(block, backslashes);
                borders &= !escaped;
                finder.has_escapes = true;
            }
            // From each opening quote up to the byte before its closing one.
            let within = parity(borders) ^ inside;
            inside = ((within as i64) >> 63) as u64;
            wrong |= block.quotes_and_controls() & !quotes & within;
            if wrong != 0 {
                finder.is_broken = true;
                break;
            }
            let operators = block.operators() & !within;
            let scalars = !(operators | block.spaces() | within | borders);
            let starts = scalars & !(scalars << 1 | scalar);
            scalar = scalars >> 63;
            *word = Word {
                base,
                bits: operators | starts | (borders & within),
            };
            found += usize::from(word.bits != 0);
            base += BLOCK;
        }
        if finder.wide.is_none() && is_wide {
            finder.wide = Some(finder.base);
        }
        finder.base = base;
        (finder.inside, finder.scalar, finder.escapes) = (inside, scalar, escapes);
        finder.found = if finder.is_broken { 0 } else { found };
    }
}

/// Bit i of the result is the parity of the bits up to i.
#[inline(always)]
fn parity(mut bits: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << shift;
    }
    bits
}

/// The start of the white space before `at`.
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

    /// Records what it receives.
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

    /// Both paths agree, except for texts that the fast one leaves to the other.
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
    fn an_escape_may_be_cut_by_a_block() {
        for before in 0..3 * BLOCK {
            for escape in [
                "\\n",
                "\\\\",
                "\\\"",
                "\\u0041",
                "\\ud83d\\ude00\\u00E9",
                "\\q",
                "\\u00g1",
                "\\u004g",
                "\\ug041",
                "\\u12\\n",
                "\\u0041\\u1",
                "\\\\u00g1",
                "\\",
                "\\\u{1}",
                "\\\\\\q",
            ] {
                for after in [0, 1, BLOCK, 20 * BLOCK] {
                    let text = format!(r#"{{"a":"{}{escape}{}"}}"#, "x".repeat(before), "y".repeat(after));
                    agree(text.as_bytes());
                }
            }
        }
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
    fn long_text_is_seen_whatever_is_in_it_and_wherever() {
        let specials = [
            "\\n",
            "\\\\",
            "\\\"",
            "\\u00e9",
            "\\t",
            "\\\\\\n",
            "\\\\\\\\\\\"",
            "é",
            "\\x",
            "\\u00g9",
            "\u{1}",
            "\n",
            "\"",
            "\\\\\"",
        ];
        let mut valid = 0;
        for special in specials {
            for before in 60..200 {
                let text = format!(
                    r#"{{"model":"{}{special}{}{special}{}","n":1}}"#,
                    "a".repeat(before),
                    "b".repeat(before % 67),
                    "c".repeat(90)
                );
                valid += usize::from(agree(text.as_bytes()));
            }
        }
        assert_eq!(valid, 8 * 140);
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
