//! Weighted rendezvous hashing: the same choice for a key on every worker and host.

use crate::hash::HashKey;

/// The same on every host, and of no use to an attacker: a client that chooses its key affects only itself.
const KEY: HashKey = HashKey(0x6275_6467_6174_6577, 0x6179_2073_6861_7065);

/// The hash of a key or a name.
pub(crate) fn hash(key: &[u8]) -> u64 {
    KEY.hash(key)
}

/// Weighted rendezvous hashing (Thaler and Ravishankar 1998; Schindelhauer and Schomaker 2005): in a changing set, a
/// key keeps its choice unless that one is removed, and names get keys in proportion to weight.
#[derive(Debug)]
pub(crate) struct Rendezvous {
    candidates: Box<[(u64, f64)]>,
}

impl Rendezvous {
    /// Chooses among these names; a name with weight 0 is never chosen.
    pub(crate) fn new<'a>(candidates: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        Self {
            candidates: candidates
                .into_iter()
                .map(|(name, weight)| (hash(name.as_bytes()), f64::from(weight)))
                .collect(),
        }
    }

    /// The choice for a key's hash among the indices for which `allows` is true.
    pub(crate) fn best(&self, key: u64, allows: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best = None;
        let mut high = 0.0;
        for (index, &(name, weight)) in self.candidates.iter().enumerate() {
            if !allows(index) {
                continue;
            }
            let score = weight / -unit(mix(key ^ name)).ln();
            if score > high {
                high = score;
                best = Some(index);
            }
        }
        best
    }
}

/// Maps bits to the open interval from 0 to 1.
pub(crate) fn unit(bits: u64) -> f64 {
    ((bits >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

/// The finalizer of `SplitMix64`.
#[inline]
pub(crate) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> impl Iterator<Item = u64> {
        (0..10_000).map(|number| hash(format!("session-{number}").as_bytes()))
    }

    #[test]
    fn keys_are_spread_by_weight() {
        let rendezvous = Rendezvous::new([("a", 1), ("b", 2), ("c", 0), ("d", 7)]);
        let mut counts = [0_i32; 4];
        for key in keys() {
            counts[rendezvous.best(key, |_| true).unwrap()] += 1;
        }
        for (count, expected) in counts.iter().zip([1000, 2000, 0, 7000]) {
            assert!((count - expected).abs() < 200, "{counts:?}");
        }
    }

    #[test]
    fn only_the_keys_of_a_removed_name_move() {
        let rendezvous = Rendezvous::new([("a", 1), ("b", 1), ("c", 1)]);
        let fewer = Rendezvous::new([("c", 1), ("a", 1)]);
        for key in keys() {
            let before = rendezvous.best(key, |_| true).unwrap();
            let after = rendezvous.best(key, |index| index != 1).unwrap();
            assert!(after != 1 && (before == 1 || after == before));
            assert_eq!(fewer.best(key, |_| true).unwrap(), usize::from(after == 0));
        }
        assert_eq!(rendezvous.best(hash(b"x"), |_| false), None);
    }
}
