//! Traffic shaping: splits over providers whose shares hold in the short run, and session affinity that is the same on
//! every worker and host.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::hash::HashKey;
use crate::rendezvous::{self, Rendezvous, mix, unit};

/// The same on every host, and of no use to an attacker: a client that chooses its key affects only itself. Not the key
/// of `rendezvous`, so that a canary takes its share from all destinations.
const CANARY: HashKey = HashKey(0x6275_6467_6174_6577, 0x6179_2063_616e_6172);
/// 2^64 / golden ratio: its multiples modulo 2^64 fall evenly between the earlier ones (Knuth 6.4).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A route's split over its destinations: first the canary's share, then by weight.
#[derive(Debug)]
pub struct Split {
    weights: Box<[u32]>,
    by_key: Rendezvous,
    /// The canary's index (its weight is 0), and its share of all traffic.
    canary: Option<(usize, f64)>,
    turn: AtomicU64,
}

impl Split {
    /// `destinations` are names and weights; `canary` is the index of one of them, which takes `share` (0 to 1) of everything
    /// before the others divide the rest.
    pub fn new(destinations: &[(&str, u32)], canary: Option<(usize, f64)>, seed: u64) -> Self {
        let destinations: Vec<(&str, u32)> = destinations
            .iter()
            .enumerate()
            .map(|(index, &(name, weight))| {
                let is_canary = canary.is_some_and(|(destination, _)| destination == index);
                (name, if is_canary { 0 } else { weight })
            })
            .collect();
        Self {
            by_key: Rendezvous::new(destinations.iter().copied()),
            weights: destinations.iter().map(|destination| destination.1).collect(),
            canary,
            turn: AtomicU64::new(mix(seed)),
        }
    }

    /// The destination for `key`, always the same while it is not excluded; without a key, the next one in turn. Bits
    /// of `excluded` mark destinations that cannot be used. A canary with a growing share keeps the keys that it had.
    pub fn pick(&self, key: Option<&[u8]>, excluded: u64) -> Option<usize> {
        let turn = match key {
            Some(_) => 0,
            None => self.turn.fetch_add(GOLDEN, Ordering::Relaxed),
        };
        self.choose(key, turn, excluded)
    }

    /// The destination that `pick` would return; takes no turn.
    pub fn peek(&self, key: Option<&[u8]>, excluded: u64) -> Option<usize> {
        self.choose(key, self.turn.load(Ordering::Relaxed), excluded)
    }

    /// Takes the turn of a request without a key that goes where `peek` said.
    pub fn take_turn(&self) {
        self.turn.fetch_add(GOLDEN, Ordering::Relaxed);
    }

    fn choose(&self, key: Option<&[u8]>, turn: u64, excluded: u64) -> Option<usize> {
        let mut point = key.map_or_else(|| unit(turn), |key| unit(CANARY.hash(key)));
        if let Some((destination, share)) = self.canary
            && excluded >> destination & 1 == 0
        {
            if point < share {
                return Some(destination);
            }
            point = (point - share) / (1.0 - share);
        }
        match key {
            Some(key) => self
                .by_key
                .best(rendezvous::hash(key), |destination| excluded >> destination & 1 == 0),
            None => self.by_weight(point, excluded),
        }
    }

    fn by_weight(&self, point: f64, excluded: u64) -> Option<usize> {
        let weight = |index: usize| match excluded >> index & 1 {
            0 => f64::from(self.weights[index]),
            _ => 0.0,
        };
        let total: f64 = (0..self.weights.len()).map(weight).sum();
        let mut left = point * total;
        let mut last = None;
        for index in (0..self.weights.len()).filter(|&index| weight(index) > 0.0) {
            last = Some(index);
            if left < weight(index) {
                break;
            }
            left -= weight(index);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> impl Iterator<Item = Vec<u8>> {
        (0..10_000).map(|number| format!("session-{number}").into_bytes())
    }

    #[test]
    fn shares_hold_in_the_short_run() {
        for seed in 0..20 {
            let split = Split::new(&[("a", 3), ("b", 1), ("canary", 5)], Some((2, 0.01)), seed);
            let mut counts = [0_i32; 3];
            for _ in 0..1000 {
                counts[split.pick(None, 0).unwrap()] += 1;
            }
            assert!((counts[2] - 10).abs() <= 2, "{counts:?}");
            assert!((counts[1] - 247).abs() <= 4, "{counts:?}");
        }
    }

    #[test]
    fn a_turn_that_was_looked_at_is_the_one_that_comes() {
        let split = Split::new(&[("a", 3), ("b", 1), ("canary", 5)], Some((2, 0.1)), 3);
        for number in 0..1000 {
            let next = split.peek(None, 0);
            assert_eq!(split.peek(None, 0), next);
            if number % 2 == 0 {
                assert_eq!(split.pick(None, 0), next);
            } else {
                split.take_turn();
            }
            assert_eq!(split.peek(Some(b"k"), 0), split.pick(Some(b"k"), 0));
        }
    }

    #[test]
    fn a_growing_canary_keeps_its_keys() {
        let destinations = [("a", 1), ("canary", 1)];
        let shares = [0.0, 0.01, 0.1, 0.5, 1.0];
        let splits = shares.map(|share| Split::new(&destinations, Some((1, share)), 7));
        let mut counts = [0_i32; 5];
        for key in keys() {
            let choices: Vec<_> = splits.iter().map(|split| split.pick(Some(&key), 0).unwrap()).collect();
            assert!(choices.is_sorted(), "{choices:?}");
            choices
                .iter()
                .enumerate()
                .for_each(|(at, destination)| counts[at] += *destination as i32);
        }
        for (count, share) in counts.iter().zip(shares) {
            assert!((f64::from(*count) - share * 10_000.0).abs() < 200.0, "{counts:?}");
        }
    }

    #[test]
    fn what_is_excluded_is_not_chosen() {
        let split = Split::new(&[("a", 1), ("b", 1), ("canary", 0)], Some((2, 1.0)), 1);
        assert_eq!(split.pick(None, 0), Some(2));
        assert_eq!(split.pick(None, 0b101), Some(1));
        assert_eq!(split.pick(Some(b"k"), 0b110), Some(0));
        assert_eq!(split.pick(None, 0b111), None);
    }
}
