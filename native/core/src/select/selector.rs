//! A selector's state, and what both of its paths do with it: `select` while all upstreams are healthy, and `fitness`.

use std::sync::Arc;

use super::Needs;
use super::candidates::{Candidate, Candidates, Random};
use super::policies::{self, Chosen, Rendezvous};
use crate::breaker;
use crate::health::Vitals;
use crate::mask::Mask;
use crate::outlier;
use crate::segment::{Segment, SegmentError, Worker};

/// Maximum upstreams per selector.
pub const MAX_CANDIDATES: usize = Mask::BITS;

/// The reason why a selector is invalid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelectError {
    /// An unknown policy.
    #[error("unknown policy '{0}': {names}", names = policies::listed())]
    Policy(String),
    /// A slot that the segment never assigned.
    #[error("upstream slot {0} was never given out")]
    Slot(usize),
    /// More upstreams than fit.
    #[error("a selector chooses from at most {MAX_CANDIDATES} upstreams, got {0}")]
    Candidates(usize),
    /// An index past the end of the list.
    #[error("index {0} is out of range: there are {1} upstreams")]
    Index(usize, usize),
    /// A worker that does not exist.
    #[error(transparent)]
    Segment(#[from] SegmentError),
}

/// Chooses among a fixed list of upstreams for one worker. Breakers, drains, in-flight counts and rotations are in the
/// segment, shared by all workers.
#[derive(Debug)]
pub struct Selector {
    pub(super) segment: Arc<Segment>,
    pub(super) worker: Worker,
    pub(super) policy: Chosen,
    /// Chooses for requests with a pin.
    pub(super) pins: Option<Rendezvous>,
    pub(super) needs: Needs,
    pub(super) candidates: Box<[Candidate]>,
    pub(super) breaker: Option<breaker::Settings>,
    pub(super) random: Random,
    pub(super) rotation: usize,
    pub(super) is_limited: bool,
    pub(super) care: Care,
    /// The candidates with a weight above 0.
    pub(super) weighty: Mask,
}

/// Settings of ejection, panic and slow start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Care {
    pub(super) outliers: Option<outlier::Settings>,
    pub(super) panic_percent: u64,
    pub(super) slow_ms: u64,
}

impl Care {
    pub(super) const NONE: Self = Self {
        outliers: None,
        panic_percent: 0,
        slow_ms: 0,
    };
}

impl Selector {
    #[inline]
    pub(super) fn candidates<'a>(&'a self, fit: &'a Mask, turn: u64) -> Candidates<'a> {
        Candidates {
            all: &self.candidates,
            segment: &self.segment,
            random: &self.random,
            fit,
            turn,
        }
    }

    pub(super) fn check(&self, index: usize) -> Result<(), SelectError> {
        if index < self.candidates.len() {
            Ok(())
        } else {
            Err(SelectError::Index(index, self.candidates.len()))
        }
    }

    #[inline]
    pub(super) fn vitals(&self, candidate: &Candidate) -> &Vitals {
        self.segment.vitals(candidate.slot)
    }
}
