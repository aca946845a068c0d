//! Smooth weighted round robin as a table: the upstream of the n-th ticket.
//!
//! nginx keeps a current weight per upstream, adds each one's weight before every choice, chooses the highest and
//! subtracts the total from it (nginx, `ngx_http_upstream_round_robin.c`). Several processes cannot change all those
//! numbers atomically, but the choices repeat with the sum of the weights as their period. So the sequence is computed
//! once, and only a counter of tickets is shared: a ticket's position in the sequence is the choice.

use crate::mask::Mask;

// Longer periods are scaled down: shares are then right to 1 in 4096.
const MAX_PERIOD: u64 = 4096;
// The most cached sequences: for all upstreams, and for all but a few that are resting or were tried.
const KEPT: usize = 8;

/// The sequences of one list of weights, by the set of participants.
#[derive(Debug)]
pub(crate) struct Rotations {
    weights: Box<[u32]>,
    kept: Vec<(Mask, Box<[u16]>)>,
    /// The index that is replaced next.
    oldest: usize,
}

impl Rotations {
    pub(crate) fn new(weights: Box<[u32]>) -> Self {
        Self {
            weights,
            kept: Vec::new(),
            oldest: 0,
        }
    }

    /// The upstream of a ticket among the participants.
    pub(crate) fn at(&mut self, among: &Mask, ticket: u64) -> Option<usize> {
        let index = match self.kept.iter().position(|(mask, _)| mask == among) {
            Some(index) => index,
            None => self.lay_out(among),
        };
        let (_, sequence) = self.kept.get(index)?;
        let turn = ticket.checked_rem(sequence.len() as u64)?;
        sequence.get(turn as usize).map(|&index| usize::from(index))
    }

    #[cold]
    fn lay_out(&mut self, among: &Mask) -> usize {
        let sequence = (*among, sequence(&self.weights, among));
        if self.kept.len() < KEPT {
            self.kept.push(sequence);
            return self.kept.len() - 1;
        }
        let index = self.oldest;
        self.oldest = (index + 1) % KEPT;
        self.kept[index] = sequence;
        index
    }
}

/// The sequence of one whole period.
fn sequence(weights: &[u32], among: &Mask) -> Box<[u16]> {
    let weights: Vec<(u16, u64)> = among
        .iter()
        .map(|index| (index as u16, u64::from(weights[index])))
        .collect();
    let total: u64 = weights.iter().map(|&(_, weight)| weight).sum();
    let divisor = weights
        .iter()
        .fold(0, |divisor, &(_, weight)| greatest_common_divisor(divisor, weight))
        .max(1);
    let scaled = |weight: u64| {
        if total / divisor <= MAX_PERIOD {
            weight / divisor
        } else {
            (weight * MAX_PERIOD / total).max(1)
        }
    };
    let weights: Vec<(u16, i64)> = weights
        .into_iter()
        .map(|(index, weight)| (index, scaled(weight) as i64))
        .collect();
    let total: i64 = weights.iter().map(|&(_, weight)| weight).sum();

    let mut current = vec![0_i64; weights.len()];
    let choose = |_| {
        current
            .iter_mut()
            .zip(&weights)
            .for_each(|(current, &(_, weight))| *current += weight);
        // The first of the highest.
        let best = (0..current.len()).rev().max_by_key(|&at| current[at]).unwrap_or(0);
        current[best] -= total;
        weights[best].0
    };
    (0..total).map(choose).collect()
}

pub(crate) fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(len: usize) -> Mask {
        let mut mask = Mask::none(len);
        (0..len).for_each(|bit| mask.insert(bit));
        mask
    }

    #[test]
    fn the_published_sequence() {
        // The example of nginx's commit 52327e0627f4.
        assert_eq!(*sequence(&[5, 1, 1], &all(3)), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(*sequence(&[50, 10, 10], &all(3)), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn huge_weights_are_scaled() {
        let sequence = sequence(&[u32::MAX, u32::MAX / 3, 1], &all(3));
        assert!(sequence.len() as u64 <= MAX_PERIOD + 3);
        let count = |wanted: u16| sequence.iter().filter(|&&index| index == wanted).count();
        assert_eq!((count(0), count(1), count(2)), (3071, 1023, 1));
    }

    #[test]
    fn nobody_takes_no_ticket() {
        let mut rotations = Rotations::new([1, 1].into());
        assert_eq!(rotations.at(&Mask::none(2), 7), None);
    }

    #[test]
    fn sequences_are_replaced_and_laid_out_again() {
        let mut rotations = Rotations::new(vec![1; 20].into());
        for round in 0..3 {
            for only in 0..20 {
                let mut mask = Mask::none(20);
                mask.insert(only);
                assert_eq!(rotations.at(&mask, round), Some(only));
            }
        }
        assert_eq!(rotations.kept.len(), KEPT);
    }
}
