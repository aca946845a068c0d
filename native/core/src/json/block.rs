//! 64 bytes at a time: which of them are what, as bits.

use wide::{CmpEq, CmpGt, i8x16};

pub(super) const BLOCK: usize = 64;

const LANE: usize = 16;

/// 64 bytes, and questions to all of them at once; bit i of an answer is byte i.
#[derive(Clone, Copy)]
pub(super) struct Block([i8x16; 4]);

impl Block {
    /// The block at `at`, when there are 64 bytes.
    #[inline(always)]
    pub(super) fn at(bytes: &[u8], at: usize) -> Option<Self> {
        let (a, rest) = bytes.get(at..at + BLOCK)?.split_first_chunk::<LANE>()?;
        let (b, rest) = rest.split_first_chunk::<LANE>()?;
        let (c, rest) = rest.split_first_chunk::<LANE>()?;
        Some(Self([lane(a), lane(b), lane(c), lane(rest.first_chunk::<LANE>()?)]))
    }

    /// No byte is a quote, a backslash or a control character.
    #[inline(always)]
    pub(super) fn is_plain(self) -> bool {
        let [a, b, c, d] = self.0.map(special);
        (a | b | c | d).move_mask() == 0
    }

    /// The bytes equal to one.
    #[inline(always)]
    pub(super) fn equal(self, byte: u8) -> u64 {
        let byte = i8x16::splat(byte as i8);
        bits(self.0.map(|lane| lane.cmp_eq(byte)))
    }

    /// The bytes below 0x20.
    #[inline(always)]
    pub(super) fn controls(self) -> u64 {
        bits(self.0.map(control))
    }
}

/// Bits of the quotes, backslashes and controls among the 16 bytes at `at`, when there are 16.
#[inline(always)]
pub(super) fn specials(bytes: &[u8], at: usize) -> Option<u32> {
    let chunk = bytes.get(at..)?.first_chunk::<LANE>()?;
    Some(special(lane(chunk)).move_mask() as u32)
}

#[inline(always)]
fn lane(bytes: &[u8; LANE]) -> i8x16 {
    i8x16::from(bytes.map(|byte| byte as i8))
}

#[inline(always)]
fn special(lane: i8x16) -> i8x16 {
    // Flipping bit 1 makes the quote 0x20, the space and `!` more, and leaves the controls controls.
    let low = i8x16::splat(0x21 ^ i8::MIN).cmp_gt(lane ^ i8x16::splat(2 ^ i8::MIN));
    let backslash = lane.cmp_eq(i8x16::splat(b'\\' as i8));
    low | backslash
}

/// Compares are signed: with the top bit flipped, unsigned order becomes signed order.
#[inline(always)]
fn control(lane: i8x16) -> i8x16 {
    i8x16::splat(0x20 ^ i8::MIN).cmp_gt(lane ^ i8x16::splat(i8::MIN))
}

#[inline(always)]
fn bits(lanes: [i8x16; 4]) -> u64 {
    let [a, b, c, d] = lanes.map(|lane| u64::from(lane.move_mask() as u32));
    a | b << 16 | c << 32 | d << 48
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_bytes() {
        for byte in 0..=255_u8 {
            for at in 0..BLOCK {
                let mut text = [b'a'; BLOCK];
                text[at] = byte;
                let block = Block::at(&text, 0).unwrap();
                let is_special = byte < 0x20 || b"\"\\".contains(&byte);
                assert_eq!(block.is_plain(), !is_special);
                assert_eq!(block.controls(), u64::from(byte < 0x20) << at);
                assert_eq!(block.equal(byte) >> at & 1, 1);
                assert_eq!(specials(&text, at / 16 * 16), Some(u32::from(is_special) << (at % 16)));
            }
        }
        assert!(Block::at(&[0; 64], 1).is_none());
    }
}
