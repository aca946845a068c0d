//! The inside of strings, by blocks.

use super::block::{BLOCK, Block};
use super::text::{escape, escapes};

/// Text of so many blocks is taken for one that may go on without escapes.
const LONG: usize = 16;
/// Blocks without an escape, until text is taken for mere text.
const BUSY: u8 = 3;

/// Whole blocks of nothing but a string's text, which are most of a long body.
pub(super) struct Text {
    pub(super) end: usize,
    // As a `Finder`'s.
    pub(super) cut: u64,
    pub(super) has_escapes: bool,
    pub(super) wide: u64,
}

impl Text {
    /// Those from `base` on. They have loops of their own, which so have the registers to themselves.
    #[inline(always)]
    pub(super) fn after<B: Block>(bytes: &[u8], base: usize, cut: u64, load: &impl Fn(&[u8; BLOCK]) -> B) -> Self {
        let (mut end, mut cut, mut backslashes_seen, mut wide) = (base, cut, 0, 0);
        let mut busy = if cut == 0 { 0_u8 } else { BUSY };
        // How much of it came without an escape.
        let mut mere = 0;
        for block in blocks(bytes, base).map(load) {
            wide |= block.wide();
            // In code every other block has an escape, and to ask first would be anybody's guess: all are dealt with alike,
            // until some in a row had none.
            if busy == 0 && block.is_text() {
                end += BLOCK;
                mere += 1;
                if mere == LONG {
                    break;
                }
                continue;
            }
            mere = 0;
            let (specials, backslashes) = (block.quotes_and_controls(), block.equal(b'\\'));
            let (escaping, escaped) = escapes(backslashes, cut);
            let letters = block.letters();
            let rare = escaped & !letters;
            // The string's end, or what is wrong. Of what may not stand in a string, only a quote can be escaped.
            if specials & !(letters & escaped) != 0 || (rare != 0 && !are_escapes(bytes, end, rare)) {
                break;
            }
            cut = escaping >> 63;
            backslashes_seen |= backslashes;
            busy = if backslashes == 0 { busy.saturating_sub(1) } else { BUSY };
            end += BLOCK;
        }
        if mere == LONG {
            // An image, perhaps.
            let ascii = blocks(bytes, end).take_while(|block| load(block).is_ascii_text());
            end += ascii.count() * BLOCK;
        }
        Self {
            end,
            cut,
            has_escapes: backslashes_seen != 0,
            wide,
        }
    }
}

/// The whole blocks from `base` on.
#[inline(always)]
fn blocks(bytes: &[u8], base: usize) -> impl Iterator<Item = &[u8; BLOCK]> {
    let blocks = bytes.get(base..).unwrap_or_default().chunks_exact(BLOCK);
    blocks.filter_map(<[u8]>::first_chunk)
}

/// Whether these bits, counted from `base`, are what may follow a backslash.
#[inline(always)]
pub(super) fn are_escapes(bytes: &[u8], base: usize, mut letters: u64) -> bool {
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
