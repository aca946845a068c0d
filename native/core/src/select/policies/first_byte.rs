//! The lowest recent time to the first byte.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Ask, Candidates, Needs, Observation, Policy};

#[derive(Debug)]
pub(in crate::select) struct FirstByte {
    means_ns: Box<[AtomicU64]>,
}

impl FirstByte {
    pub(super) fn new(weights: &[u32]) -> Self {
        Self {
            means_ns: weights.iter().map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Policy for FirstByte {
    const NEEDS: Needs = Needs {
        outcome: true,
        ..Needs::NONE
    };

    fn choose(&self, candidates: &Candidates<'_>, _ask: &Ask<'_>) -> Option<usize> {
        candidates.lowest(|index, _| self.means_ns[index].load(Ordering::Relaxed))
    }

    fn observe(&self, index: usize, observation: &Observation) {
        if let Some(ns) = observation.first_byte_ns {
            let mean = &self.means_ns[index];
            let before = mean.load(Ordering::Relaxed);
            mean.store(before - before / 8 + ns / 8, Ordering::Relaxed);
        }
    }
}
