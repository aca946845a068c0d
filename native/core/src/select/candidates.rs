//! The upstreams as a policy sees them: those that are fit for the request, with weights, loads and random numbers.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::health::Vitals;
use crate::in_flight;
use crate::mask::Mask;
use crate::rendezvous::mix;
use crate::segment::{Segment, UpstreamSlot};

/// An upstream of a selector's list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) slot: UpstreamSlot,
    pub(super) weight: u32,
    /// Multiplied by the in-flight count, this gives the load relative to weight, on a scale common to all candidates.
    pub(super) share: u64,
    /// Maximum exchanges in flight over all workers; 0 for no limit.
    pub(super) limit: u32,
}

/// A selector's upstreams, and which of them may be chosen.
pub(super) struct Candidates<'a> {
    pub(super) all: &'a [Candidate],
    pub(super) segment: &'a Segment,
    pub(super) random: &'a Random,
    pub(super) fit: &'a Mask,
    pub(super) turn: u64,
}

/// One upstream of a list.
#[derive(Clone, Copy)]
pub(super) struct Upstream<'a> {
    candidate: &'a Candidate,
    segment: &'a Segment,
}

/// A worker's random numbers.
#[derive(Debug)]
pub(super) struct Random(AtomicU64);

impl Candidates<'_> {
    /// The indices of the upstreams that may be chosen.
    #[inline]
    pub(super) fn fit(&self) -> &Mask {
        self.fit
    }

    /// The turn of this choice, for a policy that needs turns. A further attempt gets a random one: with two upstreams,
    /// every exchange would otherwise begin at the same one.
    #[inline]
    pub(super) fn turn(&self) -> u64 {
        self.turn
    }

    /// The upstream with that index.
    #[inline]
    pub(super) fn at(&self, index: usize) -> Upstream<'_> {
        Upstream {
            candidate: &self.all[index],
            segment: self.segment,
        }
    }

    /// The one with the lowest score; ties are broken at random, in proportion to weight.
    #[inline]
    pub(super) fn lowest(&self, score: impl Fn(usize, Upstream<'_>) -> u64) -> Option<usize> {
        let mut lowest = u64::MAX;
        let mut ties = Mask::none(self.all.len());
        for (block, candidates) in self.all.chunks(64).enumerate() {
            // Branchless: the comparison cannot be predicted.
            let fit = self.fit.word(block);
            let (mut low, mut bits) = (u64::MAX, 0);
            for (bit, candidate) in candidates.iter().enumerate() {
                let excluded = (fit >> bit & 1).wrapping_sub(1);
                let upstream = Upstream {
                    candidate,
                    segment: self.segment,
                };
                let score = score(block * 64 + bit, upstream) | excluded;
                bits = if score < low { 0 } else { bits } | u64::from(score <= low) << bit;
                low = low.min(score);
            }
            if low < lowest {
                lowest = low;
                ties = Mask::none(self.all.len());
            }
            if low == lowest {
                ties.set_word(block, bits & fit);
            }
        }
        self.by_weight(&ties)
    }

    /// One of these at random, in proportion to weight.
    #[inline]
    pub(super) fn by_weight(&self, these: &Mask) -> Option<usize> {
        let weight = |index: usize| u64::from(self.all[index].weight);
        let total: u64 = these.iter().map(weight).sum();
        let mut point = self.random_below(total);
        these.iter().find(|&index| {
            let weight = weight(index);
            let here = point < weight;
            point = point.wrapping_sub(weight);
            here
        })
    }

    /// A random number below `bound`.
    #[inline]
    pub(super) fn random_below(&self, bound: u64) -> u64 {
        self.random.below(bound)
    }
}

impl Upstream<'_> {
    /// Its exchanges in flight over all workers.
    #[inline]
    pub(super) fn in_flight(self) -> u64 {
        in_flight::load(self.segment, self.candidate.slot)
    }

    /// Its load as far as its engine reports it, in sixteenths of a request.
    #[inline]
    pub(super) fn load(self) -> u64 {
        self.vitals().load(self.in_flight())
    }

    /// A load relative to its weight, on a scale common to all upstreams.
    #[inline]
    pub(super) fn relative(self, load: u64) -> u64 {
        load.saturating_mul(self.candidate.share)
    }

    #[inline]
    fn vitals(&self) -> &Vitals {
        self.segment.vitals(self.candidate.slot)
    }
}

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// SplitMix64 (Steele, Lea, Flood 2014) scaled by multiplication: the bias is below 2^-32 for weights of 32 bits.
    #[inline]
    pub(super) fn below(&self, bound: u64) -> u64 {
        let state = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        ((u128::from(mix(state)) * u128::from(bound)) >> 64) as u64
    }
}
