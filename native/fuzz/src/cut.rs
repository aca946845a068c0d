//! Ways to cut a text into the pieces that reads would bring.

use crate::Dice;

/// Byte by byte only up to here: longer ones take too long for what it tells.
const SHORT: usize = 400;

/// Several ways: in equal steps, anyhow, with pieces that are empty among them, and byte by byte.
pub(crate) fn ways<'a>(text: &'a [u8], dice: &mut Dice) -> Vec<Vec<&'a [u8]>> {
    let steps = |step: usize| text.chunks(step).collect::<Vec<_>>();
    let step = *dice.pick(&[2, 9, 60]);
    let mut ways = vec![steps(step + dice.below(step)), anyhow(text, dice)];
    if text.len() <= SHORT {
        ways.push(steps(1));
    }
    ways
}

fn anyhow<'a>(mut text: &'a [u8], dice: &mut Dice) -> Vec<&'a [u8]> {
    let longest = *dice.pick(&[3, 40, 300, 5000]);
    let mut pieces = Vec::new();
    while !text.is_empty() {
        let (piece, rest) = text.split_at(dice.below(longest).min(text.len()));
        pieces.push(piece);
        text = rest;
    }
    pieces.push(text);
    pieces
}

/// Offsets to cut off at: all of a short text, some of a longer one.
pub(crate) fn offsets(len: usize, dice: &mut Dice) -> Vec<usize> {
    if len <= 300 {
        return (0..=len).collect();
    }
    let end = len.saturating_sub(8)..=len;
    (0..40).map(|_| dice.below(len)).chain(end).collect()
}
