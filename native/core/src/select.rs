//! Picks an upstream: filter (breaker, drained, tried, full), score by policy, break ties at random; counts what is in
//! flight.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::breaker::{self, State, Verdict};
use crate::mask::Mask;
use crate::occupancy;
use crate::rotation::{Rotations, greatest_common_divisor};
use crate::segment::{Segment, SegmentError, UpstreamSlot, Worker};

/// Upstreams that one selector may choose from.
pub const MAX_CANDIDATES: usize = Mask::BITS;

/// Why a selector cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelectError {
    /// A policy that there is not.
    #[error("unknown policy '{0}': round_robin, weighted, least_connections, random or power_of_two")]
    Policy(String),
    /// A slot that the segment never gave out.
    #[error("upstream slot {0} was never given out")]
    Slot(usize),
    /// More upstreams than fit.
    #[error("a selector chooses from at most {MAX_CANDIDATES} upstreams, got {0}")]
    Candidates(usize),
    /// An index past the list.
    #[error("index {0} is out of range: there are {1} upstreams")]
    Index(usize, usize),
    /// A worker that there is not.
    #[error(transparent)]
    Segment(#[from] SegmentError),
}

/// Why there was nothing to pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// None may be chosen: they rest, are drained, or were tried.
    Nobody,
    /// Those that may be chosen have as many in flight as they take.
    Full,
}

/// How candidates are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Each in turn, whatever its weight; all workers take turns together.
    RoundRobin,
    /// In proportion to weight and evenly spread, as nginx does it; all workers take turns together.
    Weighted,
    /// The fewest in flight for its weight.
    LeastConnections,
    /// At random, in proportion to weight.
    Random,
    /// Of two at random the one with fewer in flight for its weight.
    PowerOfTwo,
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
            _ => return Err(SelectError::Policy(name.to_owned())),
        })
    }
}

/// Chooses among a fixed list of upstreams for one worker. Breakers, drains, in-flight counts and rotations are in the
/// segment: everybody's.
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
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    slot: UpstreamSlot,
    weight: u32,
    /// In flight times this is in flight for its weight, on a scale of all candidates.
    share: u64,
    /// Exchanges that it takes at once, of all workers; 0 for no bound.
    limit: u32,
}

// Where in flight (32 bits) times share still fits. Weights without a common multiple below lose their last digits.
const MAX_SCALE: u64 = 1 << 32;

impl Selector {
    /// Chooses from `upstreams` (slot, weight) for `worker`. Without `breaker` none is ever rested.
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
        // Selectors over one list take turns together; those of another policy or list must not draw their tickets.
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
            // Workers are given one seed and must not all choose alike.
            random: AtomicU64::new(mix(seed ^ mix(worker as u64))),
            rotation: segment.rotation(&name),
            rotations: Mutex::new(Rotations::new(candidates.iter().map(|one| one.weight).collect())),
            candidates,
            segment,
            is_limited: false,
        })
    }

    /// Bounds what the upstreams take at once, one number for each; 0, or none, for no bound.
    #[must_use]
    pub fn limited(mut self, limits: &[u32]) -> Self {
        for (candidate, &limit) in self.candidates.iter_mut().zip(limits) {
            candidate.limit = limit;
        }
        self.is_limited = self.candidates.iter().any(|candidate| candidate.limit > 0);
        self
    }

    /// The chosen index, its in-flight count one higher; `None` when none is left.
    ///
    /// Bit i of `tried` excludes index i; indices from 64 on cannot be excluded.
    #[inline]
    pub fn pick(&self, now_ns: u64, tried: u64) -> Option<usize> {
        self.try_pick(now_ns, tried).ok()
    }

    /// `pick`, or why there was nothing to pick.
    #[inline]
    pub fn try_pick(&self, now_ns: u64, tried: u64) -> Result<usize, Refusal> {
        let mut left = self.available(now_ns, tried);
        let mut refusal = Refusal::Nobody;
        if self.is_limited {
            let willing = left.count();
            self.leave_out_full(&mut left);
            if left.count() < willing {
                refusal = Refusal::Full;
            }
        }
        let ticket = self.ticket();
        loop {
            let Some(index) = self.choose(&left, ticket) else {
                return Err(refusal);
            };
            let candidate = &self.candidates[index];
            if self.enter(candidate) {
                // Between looking and choosing, another worker may have taken the last probe.
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

    /// Ends what `pick` began: in flight one lower, and the verdict told to the breaker.
    pub fn release(&self, index: usize, verdict: Verdict, now_ns: u64) -> Result<(), SelectError> {
        self.check(index)?;
        self.leave(&self.candidates[index]);
        if let Some(settings) = self.breaker {
            breaker::record(self.breaker_of(index), settings, verdict, now_ns);
        }
        Ok(())
    }

    /// In flight at an upstream, of all workers together.
    pub fn in_flight(&self, index: usize) -> Result<u64, SelectError> {
        self.check(index)?;
        Ok(self.load(&self.candidates[index]))
    }

    /// What the upstream's breaker does; `None` when it is drained.
    pub fn state(&self, index: usize, now_ns: u64) -> Result<Option<State>, SelectError> {
        self.check(index)?;
        let state = || {
            self.breaker.map_or(State::Closed, |settings| {
                breaker::state(self.breaker_of(index), settings, now_ns)
            })
        };
        Ok((!self.is_drained(index)).then(state))
    }

    /// Takes an upstream out of every worker's choice, or back into it.
    pub fn drain(&self, index: usize, drained: bool) -> Result<(), SelectError> {
        self.check(index)?;
        let slot = self.candidates[index].slot.get();
        self.segment.layout().drained[slot].store(u8::from(drained), Ordering::Relaxed);
        Ok(())
    }

    /// Those that the policy may choose from.
    #[inline]
    fn available(&self, now_ns: u64, tried: u64) -> Mask {
        let layout = self.segment.layout();
        let mut left = Mask::of(&self.candidates, |candidate| {
            let slot = candidate.slot.get();
            let allowed = self
                .breaker
                .is_none_or(|settings| breaker::allows(&layout.breakers[slot], settings, now_ns));
            // Weight 0 takes no traffic.
            allowed & (candidate.weight > 0) & (layout.drained[slot].load(Ordering::Relaxed) == 0)
        });
        left.exclude(tried);
        left
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
        occupancy::enter(&self.segment, self.worker, candidate.slot, candidate.limit)
    }

    #[inline]
    fn leave(&self, candidate: &Candidate) {
        occupancy::leave(&self.segment, self.worker, candidate.slot);
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
            Policy::LeastConnections => self.least_loaded(left),
            Policy::Random => self.by_weight(left),
            Policy::PowerOfTwo => self.better_of_two(left),
        }
    }

    /// The lowest of in flight / weight; among equals at random, in proportion to weight.
    #[inline]
    fn least_loaded(&self, left: &Mask) -> Option<usize> {
        let mut lowest = u64::MAX;
        let mut ties = Mask::none(self.candidates.len());
        for (place, candidates) in self.candidates.chunks(64).enumerate() {
            // Without branches: who is lower cannot be predicted.
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
        // Any of the others, equally.
        let second = (first + 1 + self.random_below(count - 1)) % count;
        let (one, two) = (left.nth(first as usize)?, left.nth(second as usize)?);
        // The order of the two is random: so are ties.
        let better = self.score(&self.candidates[two]) < self.score(&self.candidates[one]);
        Some(if better { two } else { one })
    }

    #[inline]
    fn ticket(&self) -> u64 {
        match self.policy {
            Policy::RoundRobin | Policy::Weighted => self.segment.layout().rotations[self.rotation]
                .ticket
                .fetch_add(1, Ordering::Relaxed),
            Policy::LeastConnections | Policy::Random | Policy::PowerOfTwo => 0,
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

    /// In flight of all workers.
    #[inline]
    fn load(&self, candidate: &Candidate) -> u64 {
        occupancy::load(&self.segment, candidate.slot)
    }

    #[inline]
    fn score(&self, candidate: &Candidate) -> u64 {
        self.load(candidate).saturating_mul(candidate.share)
    }

    #[inline]
    fn breaker_of(&self, index: usize) -> &AtomicU64 {
        &self.segment.layout().breakers[self.candidates[index].slot.get()]
    }

    fn is_drained(&self, index: usize) -> bool {
        self.segment.layout().drained[self.candidates[index].slot.get()].load(Ordering::Relaxed) != 0
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

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(policy: Policy, weights: &[u32], breaker: Option<breaker::Settings>) -> Selector {
        let segment = Arc::new(Segment::new(2).unwrap());
        let upstreams: Vec<_> = weights
            .iter()
            .enumerate()
            .map(|(number, &weight)| (segment.upstream(&format!("http://{number}")).unwrap().get(), weight))
            .collect();
        Selector::new(segment, 0, policy, &upstreams, 1, breaker).unwrap()
    }

    fn picks(selector: &Selector, count: usize, tried: u64) -> Vec<usize> {
        let pick = |_| {
            let index = selector.pick(0, tried).unwrap();
            selector.release(index, Verdict::Success, 0).unwrap();
            index
        };
        (0..count).map(pick).collect()
    }

    #[test]
    fn round_robin_takes_turns_and_skips() {
        let selector = selector(Policy::RoundRobin, &[1, 9, 1, 0], None);
        assert_eq!(picks(&selector, 6, 0), [0, 1, 2, 0, 1, 2]);
        selector.drain(1, true).unwrap();
        assert_eq!(picks(&selector, 4, 0), [0, 2, 0, 2]);
        assert_eq!(picks(&selector, 2, 0b001), [2, 2]);
        assert_eq!(selector.pick(0, 0b101), None);
    }

    #[test]
    fn weighted_is_nginxs_sequence() {
        let selector = selector(Policy::Weighted, &[5, 1, 1], None);
        assert_eq!(picks(&selector, 14, 0), [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
        // Without the first, the others share evenly.
        let rest = picks(&selector, 100, 0b001);
        assert_eq!(rest.iter().filter(|&&index| index == 1).count(), 50);
    }

    #[test]
    fn workers_take_turns_together() {
        let one = selector(Policy::Weighted, &[2, 1], None);
        let upstreams: Vec<_> = one
            .candidates
            .iter()
            .map(|each| (each.slot.get(), each.weight))
            .collect();
        let two = Selector::new(one.segment.clone(), 1, Policy::Weighted, &upstreams, 1, None).unwrap();
        let alternating: Vec<_> = (0..6)
            .map(|turn| if turn % 2 == 0 { &one } else { &two }.pick(0, 0))
            .collect();
        assert_eq!(alternating, [0, 1, 0, 0, 1, 0].map(Some));
        assert_eq!(one.in_flight(0).unwrap(), 4);
        one.segment.clear(one.segment.worker(1).unwrap());
        assert_eq!((one.in_flight(0).unwrap(), one.in_flight(1).unwrap()), (2, 1));
    }

    #[test]
    fn least_connections_minds_weight() {
        let selector = selector(Policy::LeastConnections, &[1, 3], None);
        assert!((0..40).all(|_| selector.pick(0, 0).is_some()));
        assert_eq!(
            (selector.in_flight(0).unwrap(), selector.in_flight(1).unwrap()),
            (10, 30)
        );
        selector.release(0, Verdict::Neutral, 0).unwrap();
        assert_eq!(selector.pick(0, 0), Some(0));
    }

    #[test]
    fn weights_without_a_small_multiple_are_minded_too() {
        let selector = selector(Policy::LeastConnections, &[4_000_000_007, 2_000_000_011, 65_537], None);
        assert!((0..3_000).all(|_| selector.pick(0, 0).is_some()));
        let in_flight = [0, 1, 2].map(|index| selector.in_flight(index).unwrap());
        assert!(
            in_flight[0].abs_diff(2_000) <= 20 && in_flight[1].abs_diff(1_000) <= 20,
            "{in_flight:?}"
        );
    }

    #[test]
    fn ties_and_random_follow_weight() {
        for policy in [Policy::LeastConnections, Policy::Random] {
            let selector = selector(policy, &[1, 3, 0], None);
            let second = picks(&selector, 10_000, 0).iter().filter(|&&index| index == 1).count();
            assert!((7_300..7_700).contains(&second), "{policy:?}: {second}");
        }
    }

    #[test]
    fn power_of_two_never_picks_the_busiest() {
        let selector = selector(Policy::PowerOfTwo, &[1, 1, 1], None);
        (0..5).for_each(|_| assert!(selector.enter(&selector.candidates[2])));
        let picked = picks(&selector, 1_000, 0);
        assert!(!picked.contains(&2) && picked.contains(&0) && picked.contains(&1));
        assert_eq!(picks(&selector, 1, 0b011), [2]);
    }

    #[test]
    fn an_open_breaker_rests_the_upstream() {
        let second = 1_000_000_000;
        let settings = breaker::Settings::new(1, 10 * second, 1);
        let selector = selector(Policy::RoundRobin, &[1, 1], Some(settings));
        assert_eq!(selector.pick(0, 0), Some(0));
        selector.release(0, Verdict::Failure, 0).unwrap();
        assert_eq!(selector.state(0, 0).unwrap(), Some(State::Open));
        assert_eq!(picks(&selector, 3, 0), [1, 1, 1]);
        assert_eq!(selector.pick(0, 0b10), None);
        // Half open: one probe, and no second beside it.
        assert_eq!(selector.state(0, 10 * second).unwrap(), Some(State::HalfOpen));
        assert_eq!(selector.pick(10 * second, 0b10), Some(0));
        assert_eq!(selector.pick(10 * second, 0b10), None);
        selector.release(0, Verdict::Success, 10 * second).unwrap();
        assert_eq!(selector.state(0, 10 * second).unwrap(), Some(State::Closed));
    }

    #[test]
    fn the_full_are_left_out_and_said_to_be() {
        let selector = selector(Policy::RoundRobin, &[1, 1], None).limited(&[2, 0]);
        let only_first = |_| selector.try_pick(0, 0b10);
        assert_eq!([0, 1, 2].map(only_first), [Ok(0), Ok(0), Err(Refusal::Full)]);
        assert_eq!(selector.try_pick(0, 0b11), Err(Refusal::Nobody));
        // The other one has no bound, and takes what the first cannot.
        assert!((0..20).all(|_| selector.try_pick(0, 0) == Ok(1)));
        selector.release(0, Verdict::Neutral, 0).unwrap();
        assert_eq!(only_first(0), Ok(0));
    }

    #[test]
    fn a_full_upstream_keeps_its_probes() {
        let settings = breaker::Settings::new(1, 10, 1);
        let selector = selector(Policy::RoundRobin, &[1], Some(settings)).limited(&[1]);
        assert_eq!(selector.try_pick(0, 0), Ok(0));
        selector.release(0, Verdict::Failure, 0).unwrap();
        let other = Segment::attach(selector.segment.fd()).unwrap();
        assert!(occupancy::enter(
            &other,
            other.worker(1).unwrap(),
            selector.candidates[0].slot,
            0
        ));
        let later = 1_000_000_000;
        assert_eq!(selector.try_pick(later, 0), Err(Refusal::Full));
        other.clear(other.worker(1).unwrap());
        assert_eq!(selector.try_pick(later, 0), Ok(0));
    }

    #[test]
    fn many_upstreams_are_all_used() {
        let weights = vec![1; 200];
        for policy in [Policy::RoundRobin, Policy::Weighted, Policy::LeastConnections] {
            let selector = selector(policy, &weights, None);
            let mut picked: Vec<_> = (0..200).filter_map(|_| selector.pick(0, 0)).collect();
            picked.sort_unstable();
            assert_eq!(picked, (0..200).collect::<Vec<_>>(), "{policy:?}");
        }
    }
}
