//! A writer that fills a buffer of exactly measured size with short pieces.

use crate::decimal::{Eight, pair};

/// The unfilled rest of the buffer.
pub(crate) struct Out<'a>(&'a mut [u8]);

impl<'a> Out<'a> {
    /// A writer for all of `buffer`.
    #[inline]
    pub(crate) fn new(buffer: &'a mut [u8]) -> Self {
        Self(buffer)
    }

    /// Bytes left to fill.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        self.0.len()
    }

    /// Copies `bytes`. The buffer was measured for its content; a mismatch is a defect of ours, and is cut rather than
    /// overrun.
    #[inline(always)]
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        let Some((now, later)) = core::mem::take(&mut self.0).split_at_mut_checked(bytes.len()) else {
            debug_assert!(false, "more was put than measured");
            return;
        };
        copy(now, bytes);
        self.0 = later;
    }
}

impl Out<'_> {
    /// Writes a number without leading zeros.
    #[inline(always)]
    pub(crate) fn number(&mut self, value: u64) {
        match value {
            0..10 => self.put(&[b'0' + value as u8]),
            10..100 => self.put(&pair(value)),
            _ => self.long_number(value),
        }
    }

    #[inline(never)]
    fn long_number(&mut self, value: u64) {
        if value < 10_000 {
            let ([a, b], [c, d]) = (pair(value / 100), pair(value));
            match a {
                b'0' => self.put(&[b, c, d]),
                _ => self.put(&[a, b, c, d]),
            }
        } else if value < Eight::LIMIT {
            self.put(Eight::new(value).as_bytes());
        } else {
            self.number(value / Eight::LIMIT);
            self.put(&Eight::new(value % Eight::LIMIT).text);
        }
    }
}

/// A number to be written, with its length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decimal {
    value: u64,
    len: usize,
}

impl Decimal {
    /// An empty text.
    pub(crate) const EMPTY: Self = Self { value: 0, len: 0 };

    /// A number without leading zeros.
    #[inline]
    pub(crate) fn new(value: u64) -> Self {
        // Most numbers have few digits.
        let len = match value {
            0..10 => 1,
            10..100 => 2,
            100..1_000 => 3,
            1_000..10_000 => 4,
            _ => value.ilog10() as usize + 1,
        };
        Self { value, len }
    }

    /// Writes the digits.
    #[inline]
    pub(crate) fn put(&self, out: &mut Out<'_>) {
        if self.len > 0 {
            out.number(self.value);
        }
    }

    /// The number of digits.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// A `copy_from_slice` that copies short slices inline, with two moves that may overlap.
#[inline(always)]
fn copy(to: &mut [u8], from: &[u8]) {
    match from.len() {
        17..=32 => ends::<16>(to, from),
        8..=16 => ends::<8>(to, from),
        4..=7 => ends::<4>(to, from),
        0..=3 => to.iter_mut().zip(from).for_each(|(to, from)| *to = *from),
        _ => to.copy_from_slice(from),
    }
}

#[inline(always)]
fn ends<const N: usize>(to: &mut [u8], from: &[u8]) {
    if let (Some(to), Some(from)) = (to.first_chunk_mut::<N>(), from.first_chunk::<N>()) {
        *to = *from;
    }
    if let (Some(to), Some(from)) = (to.last_chunk_mut::<N>(), from.last_chunk::<N>()) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_display() {
        let powers = (0..20).map(|power| 10_u64.pow(power));
        let numbers = powers.flat_map(|power| [power - 1, power, power + 1, power.saturating_mul(7)]);
        for number in numbers.chain(0..10_100).chain([u64::MAX]) {
            let mut buffer = [b'.'; 24];
            let mut out = Out::new(&mut buffer);
            out.number(number);
            let length = 24 - out.room();
            assert_eq!(&buffer[..length], number.to_string().as_bytes());
            assert!(buffer[length..].iter().all(|byte| *byte == b'.'));
            let decimal = Decimal::new(number);
            let mut buffer = [0; 20];
            let mut out = Out::new(&mut buffer[..decimal.len()]);
            decimal.put(&mut out);
            assert_eq!(out.room(), 0);
            assert_eq!(&buffer[..decimal.len()], number.to_string().as_bytes());
        }
    }

    #[test]
    fn an_empty_number_has_no_digits() {
        assert_eq!(Decimal::EMPTY.len(), 0);
    }

    #[test]
    fn pieces_of_every_length_follow_each_other() {
        let text: Vec<u8> = (0..=255).collect();
        for length in 0..70 {
            let mut buffer = [0; 200];
            let mut out = Out::new(&mut buffer);
            out.put(&text[1..=length]);
            out.put(&text[100..100 + length]);
            assert_eq!(out.room(), 200 - 2 * length);
            assert_eq!(&buffer[..length], &text[1..=length]);
            assert_eq!(&buffer[length..2 * length], &text[100..100 + length]);
            assert!(buffer[2 * length..].iter().all(|byte| *byte == 0));
        }
    }
}
