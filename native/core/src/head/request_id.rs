//! The grammar of request ids.

use wide::i8x16;

use crate::simd::{all, equal, within};

/// True for 1 to 128 characters of `[A-Za-z0-9._:-]`.
pub fn is_request_id(id: &[u8]) -> bool {
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 128 {
            table[byte] = (byte as u8).is_ascii_alphanumeric() || matches!(byte as u8, b'.' | b'_' | b':' | b'-');
            byte += 1;
        }
        table
    };
    if !(1..=128).contains(&id.len()) {
        return false;
    }
    let are_good = |lane: i8x16| {
        let (is, between) = (|byte| equal(lane, byte), |from, to| within(lane, from, to));
        let letters = within(lane | i8x16::splat(0x20), b'a', b'z');
        letters | between(b'-', b'.') | between(b'0', b':') | is(b'_')
    };
    // Does not stop at the first bad byte: there is almost never one, and the loop needs no branch for it.
    all(id, are_good).unwrap_or_else(|| id.iter().fold(true, |all, byte| all & TABLE[*byte as usize]))
}
