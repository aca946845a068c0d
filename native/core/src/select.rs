//! Upstream selection: filters (breaker, drained, tried, full), scores by policy, breaks ties at random, and counts
//! exchanges in flight.

mod fitness;
#[cfg(test)]
mod fitness_tests;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use self::fitness::Care;
pub use self::fitness::Look;

use crate::breaker::{self, State, Verdict};
use crate::health::Standing;
use crate::in_flight;
use crate::mask::Mask;
use crate::rotation::{Rotations, greatest_common_divisor};
use crate::segment::{Segment, SegmentError, UpstreamSlot, Worker};

/// Maximum upstreams per selector.
pub const MAX_CANDIDATES: usize = Mask::BITS;

/// The reason why a selector is invalid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelectError {
    /// An unknown policy.
    #[error("unknown policy '{0}': round_robin, weighted, least_connections, random, power_of_two or least_load")]
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

/// The reason why no upstream was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// None is available: they rest, are drained, or were tried.
    Nobody,
    /// The available ones are at their in-flight limit.
    Full,
}

/// The method of scoring candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Each in turn, regardless of weight; all workers share the turns.
    RoundRobin,
    /// In proportion to weight and evenly spread, as in nginx; all workers share the turns.
    Weighted,
    /// The fewest in flight relative to weight.
    LeastConnections,
    /// At random, in proportion to weight.
    Random,
    /// The one of two random candidates with fewer in flight relative to weight.
    PowerOfTwo,
    /// The lowest load relative to weight, as far as the engine reports it: requests from outside this gateway count,
    /// waiting requests count twice, and KV cache use breaks ties.
    LeastLoad,
}

impl std::str::FromStr for Policy {
    type Err = SelectError;

    fn from_str(name: &str) -> Result<Self, SelectError> {
        Ok(match name {
            "round_robin" => Self::RoundRobin,
            "weighted" => Self::Weighted,
            "least_connections" => Self::LeastConnections,
            "random" => Self::Random,
            "power_of_two" => Self::PowerOfTwo,
            "least_load" => Self::LeastLoad,
            _ => return Err(SelectError::Policy(name.to_owned())),
        })
    }
}

/// Chooses among a fixed list of upstreams for one worker. Breakers, drains, in-flight counts and rotations are in the
/// segment, shared by all workers.
#[derive(Debug)]
pub struct Selector {
    segment: Arc<Segment>,
    worker: Worker,
    policy: Policy,
    candidates: Box<[Candidate]>,
    breaker: Option<breaker::Settings>,
    random: AtomicU64,
    rotation: usize,
    rotations: Mutex<Rotations>,
    is_limited: bool,
    care: Care,
    /// The candidates with a weight above 0.
    weighty: Mask,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    slot: UpstreamSlot,
    weight: u32,
    /// Multiplied by the in-flight count, this gives the load relative to weight, on a scale common to all candidates.
    share: u64,
    /// Maximum exchanges in flight over all workers; 0 for no limit.
    limit: u32,
}

// In flight (32 bits) times share must fit. Weights without a common multiple below this lose precision.
const MAX_SCALE: u64 = 1 << 32;

impl Selector {
    /// Chooses from `upstreams` (slot, weight) for `worker`. Without `breaker`, no upstream is ever rested.
    pub fn new(
        segment: Arc<Segment>,
        worker: usize,
        policy: Policy,
        upstreams: &[(usize, u32)],
        seed: u64,
        breaker: Option<breaker::Settings>,
    ) -> Result<Self, SelectError> {
        if upstreams.len() > MAX_CANDIDATES {
            return Err(SelectError::Candidates(upstreams.len()));
        }
        let scale = scale(upstreams.iter().map(|&(_, weight)| u64::from(weight)));
        let known = |&(slot, weight): &(usize, u32)| {
            let slot = segment.slot(slot).ok_or(SelectError::Slot(slot))?;
            let share = scale.checked_div(u64::from(weight)).unwrap_or(0);
            Ok(Candidate {
                slot,
                weight,
                share,
                limit: 0,
            })
        };
        let candidates: Box<[_]> = upstreams.iter().map(known).collect::<Result<_, SelectError>>()?;
        // Selectors over the same list share their turns; those with another policy or list must not draw from the same
        // tickets.
        let name: Vec<u8> = std::iter::once([policy as u64, 0])
            .chain(
                candidates
                    .iter()
                    .map(|one| [one.slot.get() as u64, u64::from(one.weight)]),
            )
            .flat_map(|pair| pair.map(u64::to_le_bytes))
            .flatten()
            .collect();
        Ok(Self {
            worker: segment.worker(worker)?,
            policy,
            breaker,
            // Workers get the same seed and must not all make the same choices.
            random: AtomicU64::new(mix(seed ^ mix(worker as u64))),
            rotation: segment.rotation(&name),
            rotations: Mutex::new(Rotations::new(candidates.iter().map(|one| one.weight).collect())),
            weighty: Mask::of(&candidates, |candidate| candidate.weight > 0),
            candidates,
            segment,
            is_limited: false,
            care: Care::NONE,
        })
    }

    /// Limits the exchanges in flight per upstream, in the list's order; 0 or a missing number for no limit.
    #[must_use]
    pub fn limited(mut self, limits: &[u32]) -> Self {
        for (candidate, &limit) in self.candidates.iter_mut().zip(limits) {
            candidate.limit = limit;
        }
        self.is_limited = self.candidates.iter().any(|candidate| candidate.limit > 0);
        self
    }

    /// Picks an upstream and increments its in-flight count; `None` when none is left.
    ///
    /// Bit i of `tried` excludes index i; indices from 64 on cannot be excluded.
    #[inline]
    pub fn pick(&self, now_ns: u64, tried: u64) -> Option<usize> {
        self.try_pick(now_ns, tried).ok()
    }

    /// Same as `pick`, with the reason when nothing was picked.
    #[inline]
    pub fn try_pick(&self, now_ns: u64, tried: u64) -> Result<usize, Refusal> {
        let (mut left, slow) = self.available(now_ns, tried);
        let mut refusal = Refusal::Nobody;
        if self.is_limited {
            let willing = left.count();
            self.leave_out_full(&mut left);
            if left.count() < willing {
                refusal = Refusal::Full;
            }
        }
        // A further attempt takes no turn: with two upstreams, every exchange would otherwise begin at the same one.
        let ticket = if tried == 0 {
            self.ticket()
        } else {
            self.random_below(1 << 32)
        };
        loop {
            let chosen = if slow {
                self.choose_slowly(&left, ticket, now_ns)
            } else {
                self.choose(&left, ticket)
            };
            let Some(index) = chosen else {
                return Err(refusal);
            };
            let candidate = &self.candidates[index];
            if self.enter(candidate) {
                // Another worker may have taken the last probe since the check.
                if self
                    .breaker
                    .is_none_or(|settings| breaker::permit(self.breaker_of(index), settings, now_ns))
                {
                    return Ok(index);
                }
                self.leave(candidate);
            } else {
                refusal = Refusal::Full;
            }
            left.remove(index);
        }
    }

    /// Ends a pick: decrements the in-flight count and records the verdict in the breaker.
    pub fn release(&self, index: usize, verdict: Verdict, now_ns: u64) -> Result<(), SelectError> {
        self.check(index)?;
        self.leave(&self.candidates[index]);
        if let Some(settings) = self.breaker {
            let vitals = self.vitals(&self.candidates[index]);
            breaker::record(&vitals.breaker, &vitals.window, settings, verdict, now_ns);
        }
        self.judge(index, verdict, now_ns);
        Ok(())
    }

    /// The in-flight count of an upstream over all workers.
    pub fn in_flight(&self, index: usize) -> Result<u64, SelectError> {
        self.check(index)?;
        Ok(self.load(&self.candidates[index]))
    }

    /// The state of the upstream's breaker; `None` when it is drained.
    pub fn state(&self, index: usize, now_ns: u64) -> Result<Option<State>, SelectError> {
        self.check(index)?;
        let state = || {
            self.breaker.map_or(State::Closed, |settings| {
                breaker::state(self.breaker_of(index), settings, now_ns)
            })
        };
        Ok((!self.is_drained(index)).then(state))
    }

    /// Drains an upstream for every worker, or returns it: with slow start, unless the time is 0.
    pub fn drain(&self, index: usize, drained: bool, now_ns: u64) -> Result<(), SelectError> {
        self.check(index)?;
        self.vitals(&self.candidates[index]).drain(drained, now_ns);
        Ok(())
    }

    /// The candidates of the policy, and whether some of them are in slow start.
    #[inline]
    fn available(&self, now_ns: u64, tried: u64) -> (Mask, bool) {
        if !self.all_well(now_ns) {
            return self.examine(now_ns, tried);
        }
        let mut left = self.weighty;
        left.exclude(tried);
        (left, false)
    }

    fn leave_out_full(&self, left: &mut Mask) {
        for (index, candidate) in self.candidates.iter().enumerate() {
            if candidate.limit > 0 && self.load(candidate) >= u64::from(candidate.limit) {
                left.remove(index);
            }
        }
    }

    #[inline]
    fn enter(&self, candidate: &Candidate) -> bool {
        in_flight::enter(&self.segment, self.worker, candidate.slot, candidate.limit)
    }

    #[inline]
    fn leave(&self, candidate: &Candidate) {
        in_flight::leave(&self.segment, self.worker, candidate.slot);
    }

    #[inline]
    fn choose(&self, left: &Mask, ticket: u64) -> Option<usize> {
        match self.policy {
            Policy::RoundRobin => match left.count() {
                0 => None,
                count => left.nth((ticket % count as u64) as usize),
            },
            Policy::Weighted => {
                // A panic cannot leave it half changed.
                let mut rotations = self.rotations.lock().unwrap_or_else(PoisonError::into_inner);
                rotations.at(left, ticket)
            }
            Policy::LeastConnections | Policy::LeastLoad => self.least_loaded(left),
            Policy::Random => self.by_weight(left),
            Policy::PowerOfTwo => self.better_of_two(left),
        }
    }

    /// The lowest in flight / weight; ties are broken at random, in proportion to weight.
    #[inline]
    fn least_loaded(&self, left: &Mask) -> Option<usize> {
        let mut lowest = u64::MAX;
        let mut ties = Mask::none(self.candidates.len());
        for (place, candidates) in self.candidates.chunks(64).enumerate() {
            // Branchless: the comparison cannot be predicted.
            let left = left.word(place);
            let (mut low, mut bits) = (u64::MAX, 0);
            for (bit, candidate) in candidates.iter().enumerate() {
                let excluded = (left >> bit & 1).wrapping_sub(1);
                let score = self.score(candidate) | excluded;
                bits = if score < low { 0 } else { bits } | u64::from(score <= low) << bit;
                low = low.min(score);
            }
            if low < lowest {
                lowest = low;
                ties = Mask::none(self.candidates.len());
            }
            if low == lowest {
                ties.set_word(place, bits & left);
            }
        }
        self.by_weight(&ties)
    }

    #[inline]
    fn by_weight(&self, left: &Mask) -> Option<usize> {
        let total: u64 = left.iter().map(|index| self.weight(index)).sum();
        let mut point = self.random_below(total);
        left.iter().find(|&index| {
            let weight = self.weight(index);
            let here = point < weight;
            point = point.wrapping_sub(weight);
            here
        })
    }

    fn better_of_two(&self, left: &Mask) -> Option<usize> {
        let count = left.count() as u64;
        if count < 2 {
            return left.iter().next();
        }
        let first = self.random_below(count);
        // Any of the others, with equal probability.
        let second = (first + 1 + self.random_below(count - 1)) % count;
        let (one, two) = (left.nth(first as usize)?, left.nth(second as usize)?);
        // The order of the two is random, and therefore so are ties.
        let better = self.score(&self.candidates[two]) < self.score(&self.candidates[one]);
        Some(if better { two } else { one })
    }

    #[inline]
    fn ticket(&self) -> u64 {
        match self.policy {
            Policy::RoundRobin | Policy::Weighted => self.segment.layout().rotations[self.rotation]
                .ticket
                .fetch_add(1, Ordering::Relaxed),
            Policy::LeastConnections | Policy::Random | Policy::PowerOfTwo | Policy::LeastLoad => 0,
        }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014) scaled by multiplication: the bias is below 2^-32 for weights of 32 bits.
    #[inline]
    fn random_below(&self, bound: u64) -> u64 {
        let state = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        ((u128::from(mix(state)) * u128::from(bound)) >> 64) as u64
    }

    fn check(&self, index: usize) -> Result<(), SelectError> {
        if index < self.candidates.len() {
            Ok(())
        } else {
            Err(SelectError::Index(index, self.candidates.len()))
        }
    }

    #[inline]
    fn weight(&self, index: usize) -> u64 {
        u64::from(self.candidates[index].weight)
    }

    /// The in-flight count over all workers.
    #[inline]
    fn load(&self, candidate: &Candidate) -> u64 {
        in_flight::load(&self.segment, candidate.slot)
    }

    #[inline]
    fn score(&self, candidate: &Candidate) -> u64 {
        let load = self.load(candidate);
        let load = match self.policy {
            Policy::LeastLoad => self.vitals(candidate).load(load),
            _ => load,
        };
        load.saturating_mul(candidate.share)
    }

    #[inline]
    fn breaker_of(&self, index: usize) -> &AtomicU64 {
        &self.vitals(&self.candidates[index]).breaker
    }

    fn is_drained(&self, index: usize) -> bool {
        let word = self.vitals(&self.candidates[index]).standing.load(Ordering::Relaxed);
        Standing::unpack(word).drained
    }
}

/// The least common multiple of the weights, if it is not too large.
fn scale(weights: impl Iterator<Item = u64>) -> u64 {
    let multiple = |scale: u64, weight: u64| scale / greatest_common_divisor(scale, weight) * weight;
    weights
        .filter(|&weight| weight > 0)
        .try_fold(1, |scale, weight| {
            Some(multiple(scale, weight)).filter(|&scale| scale <= MAX_SCALE)
        })
        .unwrap_or(MAX_SCALE)
}

/// The finalizer of SplitMix64.
#[inline]
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
