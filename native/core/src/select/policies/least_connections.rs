//! The fewest exchanges in flight relative to weight.

use super::{Ask, Candidates, Load, Policy};

#[derive(Debug)]
pub(in crate::select) struct LeastConnections;

impl LeastConnections {
    pub(super) fn new(_weights: &[u32]) -> Self {
        Self
    }
}

impl Policy for LeastConnections {
    #[inline]
    fn choose(&self, candidates: &Candidates<'_>, _ask: &Ask<'_>) -> Option<usize> {
        candidates.lowest(|_, upstream| upstream.relative(upstream.in_flight()))
    }

    fn load(&self, candidates: &Candidates<'_>, index: usize) -> Option<Load> {
        let upstream = candidates.at(index);
        Some(Load {
            now: upstream.relative(upstream.in_flight()),
            one: upstream.relative(1),
        })
    }
}
