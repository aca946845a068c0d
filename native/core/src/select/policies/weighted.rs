//! In proportion to weight and evenly spread, as in nginx; all workers share the turns.

use std::sync::{Mutex, PoisonError};

use super::{Ask, Candidates, Needs, Policy};
use crate::rotation::Rotations;

#[derive(Debug)]
pub(in crate::select) struct Weighted {
    rotations: Mutex<Rotations>,
}

impl Weighted {
    pub(super) fn new(weights: &[u32]) -> Self {
        Self {
            rotations: Mutex::new(Rotations::new(weights.into())),
        }
    }
}

impl Policy for Weighted {
    const NEEDS: Needs = Needs {
        turns: true,
        ..Needs::NONE
    };

    #[inline]
    fn choose(&self, candidates: &Candidates<'_>, _ask: &Ask<'_>) -> Option<usize> {
        // A panic cannot leave it half changed.
        let mut rotations = self.rotations.lock().unwrap_or_else(PoisonError::into_inner);
        rotations.at(candidates.fit(), candidates.turn())
    }
}
