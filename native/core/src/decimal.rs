//! Decimal digits, two and eight at a time.

const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut value = 0;
    while value < 100 {
        pairs[value] = [b'0' + (value / 10) as u8, b'0' + (value % 10) as u8];
        value += 1;
    }
    pairs
};

/// The two digits of a number below a hundred, with a leading zero; the last two of a larger one.
#[inline(always)]
pub(crate) fn pair(value: u64) -> [u8; 2] {
    PAIRS[(value % 100) as usize]
}

/// Fills `text` with the last decimal digits of `value`.
#[inline(always)]
pub(crate) fn digits(text: &mut [u8], mut value: u64) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Eight digits, with leading zeros.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Eight {
    /// All eight digits.
    pub(crate) text: [u8; 8],
    zeros: u32,
}

impl Eight {
    /// Numbers must be below this.
    pub(crate) const LIMIT: u64 = 100_000_000;

    /// Converts all digits at once, in SIMD style within one word: halves of four digits, in each the pairs, in each
    /// the digits (Wojciech Mula, "SSE: conversion integers to decimal representation", without SSE).
    #[inline(always)]
    pub(crate) fn new(value: u64) -> Self {
        debug_assert!(value < Self::LIMIT);
        // The most significant half is in the lowest lane. The truncated product with the reciprocal equals the
        // quotient for every value of a lane.
        let halves = (value / 10_000) | ((value % 10_000) << 32);
        let hundreds = ((halves * 10_486) >> 20) & 0x0000_007f_0000_007f;
        let pairs = hundreds | ((halves - hundreds * 100) << 16);
        let tens = ((pairs * 103) >> 10) & 0x000f_000f_000f_000f;
        let digits = tens | ((pairs - tens * 10) << 8);
        Self {
            text: (digits | (u64::MAX / 255 * u64::from(b'0'))).to_le_bytes(),
            zeros: digits.trailing_zeros() / 8,
        }
    }

    /// The digits without leading zeros.
    #[inline(always)]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.text.get(self.zeros as usize..).unwrap_or_default()
    }
}

/// The last three digits of a number, with leading zeros.
#[inline]
pub(crate) fn three(value: u64) -> [u8; 3] {
    let [tens, ones] = PAIRS[(value % 100) as usize];
    [b'0' + (value / 100 % 10) as u8, tens, ones]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_are_those_of_display() {
        let powers = (0..20).map(|power| 10_u64.pow(power));
        let numbers = powers.flat_map(|power| [power - 1, power, power + 1, power.saturating_mul(7)]);
        for number in numbers.chain(0..10_100).chain([u64::MAX]) {
            assert_eq!(&three(number)[..], format!("{:03}", number % 1000).as_bytes());
        }
    }

    #[test]
    fn eight_digits_at_once_are_all_right() {
        // Both halves are computed independently: test every low and every high half.
        for half in 0..10_000 {
            for number in [half, half * 10_000, half * 10_000 + 9_999, 12_340_000 + half] {
                let eight = Eight::new(number % Eight::LIMIT);
                assert_eq!(&eight.text[..], format!("{:08}", number % Eight::LIMIT).as_bytes());
                let shown = (number % Eight::LIMIT).to_string();
                assert_eq!(eight.as_bytes(), if shown == "0" { b"" } else { shown.as_bytes() });
            }
        }
    }
}
