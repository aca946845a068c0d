//! The inside of JSON strings, scanned by blocks.

use super::block::{BLOCK, Block};
use super::text::escapes;

/// Text of this many blocks without escapes is assumed to continue without them.
const LONG: usize = 16;

/// The state of escapes in strings, from block to block.
#[derive(Clone, Copy, Default)]
pub(super) struct Escapes {
    /// 1: the first byte is escaped.
    cut: u64,
    /// The previous block's escaped `u` bytes, and the same mask with the byte after each.
    units: [u64; 2],
}

impl Escapes {
    /// True when a block without backslashes is not affected by earlier escapes.
    #[inline(always)]
    pub(super) fn is_none(self) -> bool {
        self.cut | self.units[0] >> 60 == 0
    }

    /// The escaped bytes of a block, and the bytes that make an escape invalid. Branches only for the rare `u`, because
    /// the positions of escapes cannot be predicted.
    #[inline(always)]
    pub(super) fn of<B: Block>(&mut self, block: B, backslashes: u64) -> (u64, u64) {
        let (escaping, escaped) = escapes(backslashes, self.cut);
        let [letters, digits] = block.letters_and_digits();
        self.cut = escaping >> 63;
        let one = escaped & block.equal(b'u');
        let mut wrong = escaped & !letters;
        let [before_one, before_two] = self.units;
        if one | before_one >> 60 != 0 {
            // Four digits must follow each. Only the last bytes of the previous block matter here.
            let two = one | one << 1 | before_one >> 63;
            let four = (two << 1 | before_two >> 63) | (two << 3 | before_two >> 61);
            self.units = [one, two];
            wrong |= four & !digits;
        }
        (escaped, wrong)
    }
}

/// Whole blocks that consist only of a string's text, which are most of a long body.
pub(super) struct Text {
    pub(super) end: usize,
    pub(super) escapes: Escapes,
    // Same meaning as in `Finder`.
    pub(super) has_escapes: bool,
    pub(super) is_wide: bool,
}

impl Text {
    /// The blocks from `base` on. A separate loop keeps its state in registers.
    #[inline(always)]
    pub(super) fn after<B: Block>(
        bytes: &[u8],
        base: usize,
        mut escapes: Escapes,
        load: &impl Fn(&[u8; BLOCK]) -> B,
    ) -> Self {
        let (mut end, mut all, mut seen) = (base, load(&[0; BLOCK]), 0);
        'text: loop {
            // In source code every other block has an escape, and a branch on it could not be predicted: all are
            // processed alike.
            let (mut few, mut seen_here) = (LONG, 0);
            for block in blocks(bytes, end).take(LONG).map(load) {
                let (specials, backslashes) = (block.quotes_and_controls(), block.equal(b'\\'));
                let mut next = escapes;
                let (escaped, wrong) = next.of(block, backslashes);
                // The string's end, or an error. Of the bytes that a string cannot contain, a control character is
                // never a valid escape.
                if specials & !escaped | wrong != 0 {
                    break 'text;
                }
                escapes = next;
                all = all.or(block);
                seen |= backslashes;
                seen_here |= backslashes;
                end += BLOCK;
                few -= 1;
            }
            if few != 0 {
                break;
            }
            if seen_here == 0 {
                // Perhaps an image in base64.
                let ascii = blocks(bytes, end).take_while(|block| load(block).is_ascii_text());
                end += ascii.count() * BLOCK;
            }
        }
        Self {
            end,
            escapes,
            has_escapes: seen != 0,
            is_wide: all.is_wide(),
        }
    }
}

/// The whole blocks from `base` on.
#[inline(always)]
fn blocks(bytes: &[u8], base: usize) -> impl Iterator<Item = &[u8; BLOCK]> {
    let blocks = bytes.get(base..).unwrap_or_default().chunks_exact(BLOCK);
    blocks.filter_map(<[u8]>::first_chunk)
}
