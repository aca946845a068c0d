//! The one of two random upstreams with fewer exchanges in flight relative to weight.

use super::{Ask, Candidates, Load, Policy};

#[derive(Debug)]
pub(in crate::select) struct PowerOfTwo;

impl PowerOfTwo {
    pub(super) fn new(_weights: &[u32]) -> Self {
        Self
    }
}

impl Policy for PowerOfTwo {
    fn choose(&self, candidates: &Candidates<'_>, _ask: &Ask<'_>) -> Option<usize> {
        let fit = candidates.fit();
        let count = fit.count() as u64;
        if count < 2 {
            return fit.iter().next();
        }
        let first = candidates.random_below(count);
        // Any of the others, with equal probability.
        let second = (first + 1 + candidates.random_below(count - 1)) % count;
        let (one, two) = (fit.nth(first as usize)?, fit.nth(second as usize)?);
        let load = |index: usize| {
            let upstream = candidates.at(index);
            upstream.relative(upstream.in_flight())
        };
        // The order of the two is random, and therefore so are ties.
        Some(if load(two) < load(one) { two } else { one })
    }

    fn load(&self, candidates: &Candidates<'_>, index: usize) -> Option<Load> {
        let upstream = candidates.at(index);
        Some(Load {
            now: upstream.relative(upstream.in_flight()),
            one: upstream.relative(1),
        })
    }
}
