//! The lowest load relative to weight, as far as the engine reports it: requests from outside this gateway count,
//! waiting requests count twice, and KV cache use breaks ties.

use super::{Ask, Candidates, Load, Needs, Policy};

/// The parts of a request in which loads are given.
const PARTS: u64 = 16;

#[derive(Debug)]
pub(in crate::select) struct LeastLoad;

impl LeastLoad {
    pub(super) fn new(_weights: &[u32]) -> Self {
        Self
    }
}

impl Policy for LeastLoad {
    const NEEDS: Needs = Needs {
        load_reports: true,
        ..Needs::NONE
    };

    #[inline]
    fn choose(&self, candidates: &Candidates<'_>, _ask: &Ask<'_>) -> Option<usize> {
        candidates.lowest(|_, upstream| upstream.relative(upstream.load()))
    }

    fn load(&self, candidates: &Candidates<'_>, index: usize) -> Option<Load> {
        let upstream = candidates.at(index);
        Some(Load {
            now: upstream.relative(upstream.load()),
            one: upstream.relative(PARTS),
        })
    }
}
