//! Texts that are nearly what somebody would send: seeds with a few places spoilt.

use std::ops::Range;

use crate::Dice;

/// Of a longer seed a part is taken: what breaks parsers is small.
const LONGEST: usize = 2 * 1024;

/// Bytes that mean something to some parser, and the ends of ranges.
const BYTES: &[u8] = b"\r\n\t :;,{}[]\"\\/.%?#0179aAfu_-\0\x1f\x7f\x80\xbf\xc3\xef\xff";

/// One of the seeds, or a part of it, with one to six changes.
pub fn mutated(seeds: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut text = part(seeds, dice);
    for _ in 0..=dice.below(6) {
        let (at, some) = (dice.below(text.len() + 1), range(text.len(), dice));
        match dice.below(8) {
            0 => text
                .iter_mut()
                .skip(at)
                .take(1)
                .for_each(|byte| *byte ^= 1 << dice.below(8)),
            1 => text
                .iter_mut()
                .skip(at)
                .take(1)
                .for_each(|byte| *byte = *dice.pick(BYTES)),
            2 => text.insert(at, *dice.pick(BYTES)),
            3 => _ = text.drain(some),
            4 => text.truncate(at),
            5 => {
                let again = text[some].repeat(1 + dice.below(3));
                _ = text.splice(at..at, again);
            }
            6 => {
                let other = part(seeds, dice);
                let piece = range(other.len(), dice);
                _ = text.splice(some, other[piece].iter().copied());
            }
            // The same bytes elsewhere in a block.
            _ => _ = text.splice(at..at, vec![*dice.pick(b" ax0"); dice.below(140)]),
        }
        text.truncate(2 * LONGEST);
    }
    text
}

fn part(seeds: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let seed = dice.pick(seeds);
    if seed.len() <= LONGEST {
        return seed.clone();
    }
    let at = dice.below(seed.len() - LONGEST) * dice.below(2);
    seed[at..at + LONGEST].to_vec()
}

/// Mostly a few bytes, sometimes many.
fn range(len: usize, dice: &mut Dice) -> Range<usize> {
    let start = dice.below(len + 1);
    let most = *dice.pick(&[4, 40, 400]);
    start..(start + dice.below(most)).min(len)
}
