//! A set of small numbers, by bits.

const WORDS: usize = 4;

/// Which of a selector's upstreams: up to `BITS` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mask {
    words: [u64; WORDS],
    used: usize,
}

impl Mask {
    pub(crate) const BITS: usize = WORDS * 64;

    /// Nothing, out of the numbers below `len`.
    #[inline]
    pub(crate) fn none(len: usize) -> Self {
        Self {
            words: [0; WORDS],
            used: len.div_ceil(64).min(WORDS),
        }
    }

    #[inline]
    pub(crate) fn insert(&mut self, bit: usize) {
        self.words[bit / 64] |= 1 << (bit % 64);
    }

    #[inline]
    pub(crate) fn remove(&mut self, bit: usize) {
        self.words[bit / 64] &= !(1 << (bit % 64));
    }

    /// Removes those of the first 64 whose bit is set.
    #[inline]
    pub(crate) fn exclude(&mut self, first: u64) {
        self.words[0] &= !first;
    }

    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.words[..self.used]
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// The n-th of those that are in, from 0.
    #[inline]
    pub(crate) fn nth(&self, n: usize) -> Option<usize> {
        self.iter().nth(n)
    }

    /// Those that are in now, rising.
    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + use<> {
        let (words, used) = (self.words, self.used);
        (0..used).flat_map(move |place| Bits(words[place]).map(move |bit| place * 64 + bit))
    }
}

struct Bits(u64);

impl Iterator for Bits {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        let bit = (self.0 != 0).then(|| self.0.trailing_zeros() as usize)?;
        self.0 &= self.0 - 1;
        Some(bit)
    }
}
