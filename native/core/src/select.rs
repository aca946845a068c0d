//! Upstream selection: filters (breaker, drained, tried, full), lets the policy choose, and counts exchanges in flight.

mod ask;
mod candidates;
mod fitness;
#[cfg(test)]
mod fitness_tests;
mod policies;
mod policy;
mod selector;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use self::ask::{Ask, Chunk, Needs, Note, Observation, pin_of};
use self::candidates::{Candidate, Candidates, Random};
pub use self::fitness::Look;
pub use self::policies::POLICIES;
use self::policies::{Chosen, Rendezvous};
use self::policy::Policy;
use self::selector::Care;
pub use self::selector::{MAX_CANDIDATES, SelectError, Selector};

use crate::breaker::{self, State, Verdict};
use crate::health::Standing;
use crate::in_flight;
use crate::mask::Mask;
use crate::rendezvous::mix;
use crate::rotation::greatest_common_divisor;
use crate::segment::Segment;

/// The reason why no upstream was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// None is available: they rest, are drained, or were tried.
    Nobody,
    /// The available ones are at their in-flight limit.
    Full,
}

/// An upstream that was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Its index in the selector's list.
    pub index: usize,
    /// The policy's note about the request.
    pub note: Note,
}

// In flight (32 bits) times share must fit. Weights without a common multiple below this lose precision.
const MAX_SCALE: u64 = 1 << 32;

impl Selector {
    /// Chooses from `upstreams` (slot, weight) for `worker`, by the policy of that name. Without `breaker`, no upstream is
    /// ever rested.
    pub fn new(
        segment: Arc<Segment>,
        worker: usize,
        policy: &str,
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
        let weights: Vec<u32> = candidates.iter().map(|one| one.weight).collect();
        let chosen = Chosen::new(policy, &weights).ok_or_else(|| SelectError::Policy(policy.to_owned()))?;
        let number = POLICIES.iter().position(|(name, _)| *name == policy).unwrap_or(0);
        // Selectors over the same list share their turns; those with another policy or list must not draw from the same
        // tickets.
        let name: Vec<u8> = std::iter::once([number as u64, 0])
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
            needs: chosen.needs(),
            policy: chosen,
            pins: None,
            breaker,
            // Workers get the same seed and must not all make the same choices.
            random: Random::new(mix(seed ^ mix(worker as u64))),
            rotation: segment.rotation(&name),
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

    /// Keeps requests with equal pins at one upstream while it is fit. The names, in the list's order, decide which one;
    /// they should be the same on every host. Upstreams without a name take no pins.
    #[must_use]
    pub fn pinning<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        let weights = self.candidates.iter().map(|candidate| candidate.weight);
        self.pins = Some(Rendezvous::new(names.into_iter().zip(weights)));
        self
    }

    /// The needs of the policy.
    #[inline]
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// True when it considers pins.
    pub fn pins(&self) -> bool {
        self.pins.is_some()
    }

    /// Picks an upstream and increments its in-flight count; `None` when none is left.
    ///
    /// Bit i of `tried` excludes index i; indices from 64 on cannot be excluded.
    #[inline]
    pub fn pick(&self, now_ns: u64, tried: u64) -> Option<usize> {
        self.try_pick(&Ask::new(now_ns, tried)).ok().map(|pick| pick.index)
    }

    /// Same as `pick`, with the reason when nothing was picked.
    #[inline]
    pub fn try_pick(&self, ask: &Ask<'_>) -> Result<Pick, Refusal> {
        if let Some(pins) = &self.pins
            && ask.pin.is_some()
        {
            // None of the healthy ones: those left are in doubt, and the policy distributes them.
            match self.pick_pinned(pins, ask) {
                Err(Refusal::Nobody) => {}
                picked => return picked,
            }
        }
        let (fit, slow) = self.available(ask.now_ns, ask.tried);
        let turn = if self.needs.turns { self.turn(ask) } else { 0 };
        self.take(fit, ask, turn, |candidates| {
            if slow {
                self.choose_slowly(candidates, ask)
            } else {
                self.policy.choose(candidates, ask)
            }
        })
    }

    /// Ends a pick: decrements the in-flight count and records the verdict in the breaker.
    #[inline]
    pub fn release(&self, index: usize, verdict: Verdict, now_ns: u64) -> Result<(), SelectError> {
        self.complete(index, &Observation::new(verdict, now_ns))
    }

    /// Same as `release`, with all that is known of the outcome.
    #[inline]
    pub fn complete(&self, index: usize, observation: &Observation) -> Result<(), SelectError> {
        let (verdict, now_ns) = (observation.verdict, observation.now_ns);
        self.check(index)?;
        self.leave(&self.candidates[index]);
        if let Some(settings) = self.breaker {
            let vitals = self.vitals(&self.candidates[index]);
            breaker::record(&vitals.breaker, &vitals.window, settings, verdict, now_ns);
        }
        self.judge(index, verdict, now_ns);
        self.policy.observe(index, observation);
        Ok(())
    }

    /// Tells the policy that a stream has begun.
    #[inline]
    pub fn begun(&self, index: usize, note: Note, now_ns: u64) -> Result<(), SelectError> {
        self.check(index)?;
        self.policy.begun(index, note, now_ns);
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

    #[cold]
    fn pick_pinned(&self, pins: &Rendezvous, ask: &Ask<'_>) -> Result<Pick, Refusal> {
        self.take(self.well(ask.now_ns, ask.tried), ask, 0, |candidates| {
            pins.choose(candidates, ask)
        })
    }

    /// Takes a place in flight at the upstream that `choose` names, or at the next one when that is full.
    #[inline]
    fn take(
        &self,
        mut fit: Mask,
        ask: &Ask<'_>,
        turn: u64,
        choose: impl Fn(&Candidates<'_>) -> Option<usize>,
    ) -> Result<Pick, Refusal> {
        let mut refusal = Refusal::Nobody;
        if self.is_limited {
            let willing = fit.count();
            self.leave_out_full(&mut fit);
            if fit.count() < willing {
                refusal = Refusal::Full;
            }
        }
        loop {
            let Some(index) = choose(&self.candidates(&fit, turn)) else {
                return Err(refusal);
            };
            let candidate = &self.candidates[index];
            if self.enter(candidate) {
                // Another worker may have taken the last probe since the check.
                if self
                    .breaker
                    .is_none_or(|settings| breaker::permit(self.breaker_of(index), settings, ask.now_ns))
                {
                    let note = self.policy.sent(index, ask);
                    return Ok(Pick { index, note });
                }
                self.leave(candidate);
            } else {
                refusal = Refusal::Full;
            }
            fit.remove(index);
        }
    }

    /// The next turn. A further attempt takes none: with two upstreams, every exchange would otherwise begin at the same
    /// one.
    #[inline]
    fn turn(&self, ask: &Ask<'_>) -> u64 {
        if ask.tried == 0 {
            self.segment.layout().rotations[self.rotation]
                .ticket
                .fetch_add(1, Ordering::Relaxed)
        } else {
            self.random.below(1 << 32)
        }
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

    /// The in-flight count over all workers.
    #[inline]
    fn load(&self, candidate: &Candidate) -> u64 {
        in_flight::load(&self.segment, candidate.slot)
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
