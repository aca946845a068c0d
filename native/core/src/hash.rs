//! SipHash-1-3 with a secret key, so that outsiders cannot choose names that collide (Aumasson and Bernstein, 2012).

/// A secret key, kept in the segment so that all processes use the same one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HashKey(pub(crate) u64, pub(crate) u64);

impl HashKey {
    /// The hash of `data`.
    #[must_use]
    pub(crate) fn hash(self, data: &[u8]) -> u64 {
        let mut state = State::new(self);
        let mut words = data.chunks_exact(8);
        for word in &mut words {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            state.absorb(u64::from_le_bytes(bytes));
        }
        state.absorb(tail(data) | (data.len() as u64) << 56);
        state.finish()
    }

    /// Derives a separate key for `purpose`.
    #[must_use]
    pub(crate) fn derive(self, purpose: &[u8]) -> Self {
        Self(self.hash(purpose), Self(self.1, self.0).hash(purpose))
    }
}

/// The bytes after the last complete word of eight, as the low bytes of a word.
#[inline]
pub(crate) fn tail(data: &[u8]) -> u64 {
    let left = data.len() % 8;
    if left == 0 {
        return 0;
    }
    if let Some(end) = data.last_chunk::<8>() {
        return u64::from_le_bytes(*end) >> (64 - 8 * left);
    }
    if let (Some(first), Some(last)) = (data.first_chunk::<4>(), data.last_chunk::<4>()) {
        // They may overlap, and agree where they do.
        let [first, last] = [first, last].map(|chunk| u64::from(u32::from_le_bytes(*chunk)));
        return first | last << (8 * (left - 4));
    }
    data.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

struct State {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl State {
    fn new(key: HashKey) -> Self {
        Self {
            v0: key.0 ^ 0x736f_6d65_7073_6575,
            v1: key.1 ^ 0x646f_7261_6e64_6f6d,
            v2: key.0 ^ 0x6c79_6765_6e65_7261,
            v3: key.1 ^ 0x7465_6462_7974_6573,
        }
    }

    #[inline]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.rotate_left(32);
    }

    #[inline]
    fn absorb(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.v0 ^= word;
    }

    fn finish(mut self) -> u64 {
        self.v2 ^= 0xff;
        for _ in 0..3 {
            self.round();
        }
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher;

    use super::*;

    /// The standard library's default hasher is SipHash-1-3 with a zero key.
    #[test]
    fn equals_the_standard_library() {
        let data: Vec<u8> = (0..=255).cycle().take(600).collect();
        for length in 0..data.len() {
            let mut hasher = std::collections::hash_map::DefaultHasher::new();
            hasher.write(&data[..length]);
            assert_eq!(HashKey(0, 0).hash(&data[..length]), hasher.finish(), "length {length}");
        }
    }

    #[test]
    fn every_key_hashes_differently() {
        let root = HashKey(1, 2);
        assert_ne!(root.hash(b"name"), HashKey(1, 3).hash(b"name"));
        assert_ne!(root.derive(b"a").hash(b"name"), root.derive(b"b").hash(b"name"));
    }
}
