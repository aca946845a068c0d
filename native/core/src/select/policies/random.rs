//! At random, in proportion to weight.

use super::{Ask, Candidates, Policy};

#[derive(Debug)]
pub(in crate::select) struct Random;

impl Random {
    pub(super) fn new(_weights: &[u32]) -> Self {
        Self
    }
}

impl Policy for Random {
    #[inline]
    fn choose(&self, candidates: &Candidates<'_>, _ask: &Ask<'_>) -> Option<usize> {
        candidates.by_weight(candidates.fit())
    }
}
