//! The contract of a balancing policy.

use super::{Ask, Candidates, Needs, Note, Observation};

/// A balancing policy. Each also has a `fn new(weights: &[u32]) -> Self`, given the weights of all upstreams.
pub(in crate::select) trait Policy {
    /// Its needs besides the candidates.
    const NEEDS: Needs = Needs::NONE;
    /// False when all upstreams get equal shares, whatever their weights.
    const IS_WEIGHTED: bool = true;

    /// Chooses one of the candidates that are fit; `None` when none is. The choice may fall through: another one is
    /// wanted when the upstream has just become full.
    fn choose(&self, candidates: &Candidates<'_>, ask: &Ask<'_>) -> Option<usize>;

    /// Records that the request goes to the chosen upstream. The note comes back with what happens there.
    fn sent(&self, index: usize, ask: &Ask<'_>) -> Note {
        let _ = (index, ask);
        0
    }

    /// Records that a stream has begun. Other responses begin when they end.
    fn begun(&self, index: usize, note: Note, now_ns: u64) {
        let _ = (index, note, now_ns);
    }

    /// Records what came of a request that was sent to this upstream: once for each `sent`.
    fn observe(&self, index: usize, observation: &Observation) {
        let _ = (index, observation);
    }

    /// The load that it compares; `None` when it chooses by something else. With a load, an upstream in slow start gets
    /// no further requests while it is behind with those it has.
    fn load(&self, candidates: &Candidates<'_>, index: usize) -> Option<Load> {
        let _ = (candidates, index);
        None
    }
}

/// An upstream's load relative to its weight.
pub(in crate::select) struct Load {
    pub(in crate::select) now: u64,
    /// The part of one request.
    pub(in crate::select) one: u64,
}
