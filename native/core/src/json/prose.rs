//! The inside of strings, by blocks.

use super::block::{BLOCK, Block};
use super::text::escapes;

/// Text of so many blocks is taken for one that may go on without escapes.
const LONG: usize = 16;

/// The escapes in strings, from block to block: what the last one left to the next.
#[derive(Clone, Copy, Default)]
pub(super) struct Escapes {
    /// 1: the first byte is escaped.
    cut: u64,
    /// Its bytes that were an escaped `u`, and those with the ones behind them.
    units: [u64; 2],
}

impl Escapes {
    /// Whether a block without backslashes has nothing to do with them.
    #[inline(always)]
    pub(super) fn is_none(self) -> bool {
        self.cut | self.units[0] >> 60 == 0
    }

    /// The bytes of a block that are escaped, and those that make an escape a wrong one. But for the rare `u` it guesses
    /// nothing: where escapes are is anybody's guess.
    #[inline(always)]
    pub(super) fn of<B: Block>(&mut self, block: B, backslashes: u64) -> (u64, u64) {
        let (escaping, escaped) = escapes(backslashes, self.cut);
        let [letters, digits] = block.letters_and_digits();
        self.cut = escaping >> 63;
        let one = escaped & block.equal(b'u');
        let mut wrong = escaped & !letters;
        let [before_one, before_two] = self.units;
        if one | before_one >> 60 != 0 {
            // Four digits behind each. What the block before leaves to this one is at its end, or there is nothing left of it.
            let two = one | one << 1 | before_one >> 63;
            let four = (two << 1 | before_two >> 63) | (two << 3 | before_two >> 61);
            self.units = [one, two];
            wrong |= four & !digits;
        }
        (escaped, wrong)
    }
}

/// Whole blocks of nothing but a string's text, which are most of a long body.
pub(super) struct Text {
    pub(super) end: usize,
    pub(super) escapes: Escapes,
    // As a `Finder`'s.
    pub(super) has_escapes: bool,
    pub(super) is_wide: bool,
}

impl Text {
    /// Those from `base` on. They have loops of their own, which so have the registers to themselves.
    #[inline(always)]
    pub(super) fn after<B: Block>(
        bytes: &[u8],
        base: usize,
        mut escapes: Escapes,
        load: &impl Fn(&[u8; BLOCK]) -> B,
    ) -> Self {
        let (mut end, mut all, mut seen) = (base, load(&[0; BLOCK]), 0);
        'text: loop {
            // In code every other block has an escape, and to ask first would be anybody's guess: all are dealt with alike.
            let (mut few, mut seen_here) = (LONG, 0);
            for block in blocks(bytes, end).take(LONG).map(load) {
                let (specials, backslashes) = (block.quotes_and_controls(), block.equal(b'\\'));
                let mut next = escapes;
                let (escaped, wrong) = next.of(block, backslashes);
                // The string's end, or what is wrong. Of what may not stand in a string, a control is no letter that is
                // escaped.
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
                // An image, perhaps.
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
