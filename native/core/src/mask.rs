//! A bit set of small numbers.

const WORDS: usize = 4;

/// A subset of a selector's upstreams, of which there are at most `BITS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mask {
    words: [u64; WORDS],
    used: usize,
}

impl Mask {
    pub(crate) const BITS: usize = WORDS * 64;

    /// The empty set of numbers below `len`.
    #[inline]
    pub(crate) fn none(len: usize) -> Self {
        Self {
            words: [0; WORDS],
            used: len.div_ceil(64).min(WORDS),
        }
    }

    /// The indices of the items, among the first `BITS`, for which `takes` is true.
    #[inline]
    pub(crate) fn of<T>(items: &[T], takes: impl Fn(&T) -> bool) -> Self {
        let mut mask = Self::none(items.len());
        for (word, items) in mask.words.iter_mut().zip(items.chunks(64)) {
            for (bit, item) in items.iter().enumerate() {
                *word |= u64::from(takes(item)) << bit;
            }
        }
        mask
    }

    #[inline]
    pub(crate) fn insert(&mut self, bit: usize) {
        self.words[bit / 64] |= 1 << (bit % 64);
    }

    #[inline]
    pub(crate) fn remove(&mut self, bit: usize) {
        self.words[bit / 64] &= !(1 << (bit % 64));
    }

    /// True for a member.
    #[inline]
    pub(crate) fn has(&self, bit: usize) -> bool {
        self.words.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    /// Removes the numbers whose bit is set in `first`, which covers the first 64.
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

    /// The 64 bits from `64 * index` on.
    #[inline]
    pub(crate) fn word(&self, index: usize) -> u64 {
        self.words[index]
    }

    #[inline]
    pub(crate) fn set_word(&mut self, index: usize, bits: u64) {
        self.words[index] = bits;
    }

    /// The n-th member, from 0.
    #[inline]
    pub(crate) fn nth(&self, n: usize) -> Option<usize> {
        self.iter().nth(n)
    }

    /// The current members, in ascending order.
    #[inline]
    pub(crate) fn iter(&self) -> Iter {
        Iter {
            words: self.words,
            index: 0,
            used: self.used,
        }
    }
}

/// An iterator over a copy of a mask.
pub(crate) struct Iter {
    words: [u64; WORDS],
    index: usize,
    used: usize,
}

impl Iterator for Iter {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.index < self.used {
            let word = self.words.get_mut(self.index)?;
            if *word != 0 {
                let bit = word.trailing_zeros() as usize;
                *word &= *word - 1;
                return Some(self.index * 64 + bit);
            }
            self.index += 1;
        }
        None
    }
}
