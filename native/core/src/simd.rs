//! SIMD helpers: one predicate over all bytes of a text, sixteen or eight at a time.

use wide::{CmpEq, CmpGt, i8x16};

/// True when `good` is true (all ones) for all bytes; None when there are fewer than eight.
#[inline(always)]
pub(crate) fn all(text: &[u8], good: impl Fn(i8x16) -> i8x16) -> Option<bool> {
    let is_good = |chunk: &[u8; 16]| good(i8x16::from(chunk.map(|byte| byte as i8))).move_mask() == 0xffff;
    let Some((before, last)) = text.split_last_chunk::<16>() else {
        // The first eight and the last eight, which may overlap.
        let (first, last) = (text.first_chunk::<8>()?, text.last_chunk::<8>()?);
        let mut both = [0; 16];
        both[..8].copy_from_slice(first);
        both[8..].copy_from_slice(last);
        return Some(is_good(&both));
    };
    let mut from = 0;
    while from < before.len() {
        if !text.get(from..).and_then(<[u8]>::first_chunk).is_some_and(is_good) {
            return Some(false);
        }
        from += 16;
    }
    // The last sixteen overlap the ones before.
    Some(is_good(last))
}

/// Marks the bytes equal to `byte`.
#[inline(always)]
pub(crate) fn equal(lane: i8x16, byte: u8) -> i8x16 {
    lane.cmp_eq(i8x16::splat(byte as i8))
}

/// Marks the bytes within an inclusive range. `to` must be below 0x7f.
#[inline(always)]
pub(crate) fn within(lane: i8x16, from: u8, to: u8) -> i8x16 {
    // The comparison is signed: bytes above 0x7f are negative, and so below the range.
    lane.cmp_gt(i8x16::splat(from as i8 - 1)) & i8x16::splat(to as i8 + 1).cmp_gt(lane)
}

/// True when a byte is ASCII that needs no escape in a JSON string. DEL would be legal there, but must not reach a
/// terminal that shows a log.
#[inline]
pub(crate) fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')
}

/// Bit 7 of each byte that is not plain (Mycroft's test for a zero byte); only the lowest mark is reliable.
#[inline(always)]
pub(crate) fn special(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let is = |byte: u8| zero(word ^ (ONES * u64::from(byte)));
    let below = word.wrapping_sub(ONES * 0x20) & !word;
    (below | is(b'"') | is(b'\\') | is(0x7f) | word) & (ONES << 7)
}

/// The number of plain bytes at the start.
#[inline(always)]
pub(crate) fn plain_len(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(chunk) = text.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let special = special(u64::from_le_bytes(*chunk));
        if special != 0 {
            return at + special.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = text.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| is_plain(**byte)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_asked() {
        let good = |lane| within(lane, b'a', b'y') | equal(lane, b'Z');
        for byte in 0..=255_u8 {
            let is_good = matches!(byte, b'a'..=b'y' | b'Z');
            for len in 8..70 {
                for at in [0, 1, 15.min(len - 1), 16.min(len - 1), len / 2, len - 8, len - 1] {
                    let mut text = vec![b'a'; len];
                    text[at] = byte;
                    assert_eq!(all(&text, good), Some(is_good), "{byte} at {at} of {len}");
                }
            }
        }
        assert_eq!(all(&[b'a'; 7], good), None);
    }

    #[test]
    fn plain_text_ends_at_the_first_byte_that_is_not() {
        for byte in 0..=255_u8 {
            for len in 1..40 {
                for at in 0..len {
                    let mut text = vec![b'~'; len];
                    text[at] = byte;
                    let expected = if is_plain(byte) { len } else { at };
                    assert_eq!(plain_len(&text), expected, "{byte} at {at} of {len}");
                }
            }
        }
    }
}
