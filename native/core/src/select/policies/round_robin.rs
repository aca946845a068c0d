//! Each in turn, regardless of weight; all workers share the turns.

use super::{Ask, Candidates, Needs, Policy};

#[derive(Debug)]
pub(in crate::select) struct RoundRobin;

impl RoundRobin {
    pub(super) fn new(_weights: &[u32]) -> Self {
        Self
    }
}

impl Policy for RoundRobin {
    const NEEDS: Needs = Needs {
        turns: true,
        ..Needs::NONE
    };
    const IS_WEIGHTED: bool = false;

    #[inline]
    fn choose(&self, candidates: &Candidates<'_>, _ask: &Ask<'_>) -> Option<usize> {
        match candidates.fit().count() {
            0 => None,
            count => candidates.fit().nth((candidates.turn() % count as u64) as usize),
        }
    }
}
