//! Selection with unhealthy upstreams: the slow path of a selector while one of its upstreams is not fully healthy.
//!
//! Drained upstreams, and those refused by their breaker, are out, regardless of the others. Ejected, resting or
//! unhealthy ones are out while enough others are left. One that has just returned takes part with a fraction of its
//! weight that grows over time.
//!
//! Candidates, when some upstream answers and when none does:
//!
//! ```text
//!                      | some answer                          | none does
//!   enough are left    | those that are neither out nor aside | those that are not out
//!   too few (panic)    | all but those failing real traffic   | all
//! ```
//!
//! Probes can be wrong; traffic is not. An upstream that fails real traffic gets none while another one answers,
//! however few are left.

use std::sync::atomic::Ordering;

use super::ask::Ask;
use super::candidates::{Candidate, Candidates};
use super::selector::{SelectError, Selector};
use crate::breaker::{self, State, Verdict};
use crate::health::{Signals, Standing, Vitals};
use crate::mask::Mask;
use crate::outlier::{self, Leave, MS_SHIFT, Outlier};

const NS_PER_MS: u64 = 1_000_000;
/// The whole of a weight.
const FULL: u64 = 1000;
/// The fraction of its weight that a returning upstream begins with: enough to be noticed.
const FIRST: u64 = FULL / 50;

/// A snapshot of an upstream's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// True when the operator drained it.
    pub drained: bool,
    /// The state of its breaker.
    pub breaker: State,
    /// Calls and failures in the breaker's window.
    pub window: (u64, u64),
    /// The end of its ejection or rest; 0 when there is none.
    pub out_until_ns: u64,
    /// True when it rests at its own request (`retry-after`).
    pub asked: bool,
    /// True when it is skipped while another upstream answers.
    pub aside: bool,
    /// Failures in a row.
    pub failures: u64,
    /// The number of its ejections.
    pub ejections: u64,
    /// The last probe's result; `None` when there was none.
    pub healthy: Option<bool>,
    /// The effective share of its weight, per mille.
    pub ramp_per_mille: u64,
    /// Its engine's load report.
    pub signals: Signals,
}

impl Look {
    /// True when it is neither drained nor out.
    #[must_use]
    pub fn is_available(&self, now_ns: u64) -> bool {
        !self.drained && self.breaker != State::Open && self.out_until_ns <= now_ns && self.healthy != Some(false)
    }
}

impl Selector {
    /// True when some upstream is neither drained nor out.
    #[must_use]
    pub fn is_available(&self, now_ns: u64) -> bool {
        self.usable(now_ns).next().is_some()
    }

    /// True when an upstream that is neither drained nor out is below its in-flight limit.
    #[must_use]
    pub fn has_room(&self, now_ns: u64) -> bool {
        self.usable(now_ns)
            .any(|candidate| candidate.limit == 0 || self.load(candidate) < u64::from(candidate.limit))
    }

    fn usable(&self, now_ns: u64) -> impl Iterator<Item = &Candidate> {
        let looks = (0..self.candidates.len()).map(move |index| self.look(index, now_ns));
        let both = self.candidates.iter().zip(looks);
        both.filter(move |(_, look)| look.as_ref().is_ok_and(|look| look.is_available(now_ns)))
            .map(|(candidate, _)| candidate)
    }

    /// Ejects upstreams that fail repeatedly.
    #[must_use]
    pub fn ejecting(mut self, settings: outlier::Settings) -> Self {
        self.care.outliers = Some(settings);
        self
    }

    /// Also uses ejected and unhealthy upstreams when fewer than `percent` are available.
    #[must_use]
    pub fn panicking_below(mut self, percent: u64) -> Self {
        self.care.panic_percent = percent.min(100);
        self
    }

    /// Ramps returning upstreams up over `ns`.
    #[must_use]
    pub fn starting_slowly(mut self, ns: u64) -> Self {
        self.care.slow_ms = ns.div_ceil(NS_PER_MS);
        self
    }

    /// Rests an upstream for `for_ns`, at its own request, if others are left; returns true when it now rests.
    pub fn rest(&self, index: usize, for_ns: u64, now_ns: u64) -> Result<bool, SelectError> {
        self.check(index)?;
        let word = &self.vitals(&self.candidates[index]).outlier;
        Ok(self
            .care
            .outliers
            .is_some_and(|settings| outlier::rest(word, for_ns, now_ns, || self.may_leave(index, settings, now_ns))))
    }

    /// Counts an answer that has only begun as a success, when the breaker waits for one: a stream may take minutes,
    /// and its end is no further evidence. Returns true when it counted; `release` must then get the neutral verdict.
    pub fn answered(&self, index: usize, now_ns: u64) -> Result<bool, SelectError> {
        self.check(index)?;
        let vitals = self.vitals(&self.candidates[index]);
        let Some(settings) = self.breaker else { return Ok(false) };
        if breaker::closed_since_ms(vitals.breaker.load(Ordering::Relaxed)).is_some() {
            return Ok(false);
        }
        breaker::record(&vitals.breaker, &vitals.window, settings, Verdict::Success, now_ns);
        Ok(true)
    }

    /// Records that traffic gets no answer from an upstream.
    pub fn suspect(&self, index: usize, now_ns: u64) -> Result<(), SelectError> {
        self.check(index)?;
        self.vitals(&self.candidates[index]).suspect(now_ns);
        Ok(())
    }

    /// A snapshot of an upstream's health.
    pub fn look(&self, index: usize, now_ns: u64) -> Result<Look, SelectError> {
        self.check(index)?;
        let candidate = &self.candidates[index];
        let vitals = self.vitals(candidate);
        let standing = Standing::unpack(vitals.standing.load(Ordering::Relaxed));
        let outlier = Outlier::unpack(vitals.outlier.load(Ordering::Relaxed));
        let out = outlier.is_out(now_ns);
        Ok(Look {
            drained: standing.drained,
            breaker: self.breaker.map_or(State::Closed, |settings| {
                breaker::state(&vitals.breaker, settings, now_ns)
            }),
            window: self
                .breaker
                .map_or((0, 0), |settings| settings.counts(&vitals.window, now_ns)),
            out_until_ns: if out { outlier.until_ms * NS_PER_MS } else { 0 },
            asked: out && outlier.asked,
            aside: out && outlier.aside,
            failures: outlier.failures,
            ejections: vitals.ejections.load(Ordering::Relaxed),
            healthy: standing.probed.then_some(!standing.unhealthy),
            ramp_per_mille: self.ramp(candidate, now_ns),
            signals: vitals.signals(),
        })
    }

    /// The upstreams, among the first 64, that list their models but not this one; none when no upstream lists it.
    #[must_use]
    pub fn lacking(&self, model: &[u8]) -> u64 {
        let hash = self.segment.hash_key().hash(model);
        let lacking = Mask::of(&self.candidates, |candidate| {
            self.segment.layout().models[candidate.slot.get()].lacks(hash)
        });
        // All lists may be incomplete: engines load adapters, and some accept any name.
        if lacking.count() == self.candidates.len() {
            0
        } else {
            lacking.word(0)
        }
    }

    /// True when every upstream is closed, in, healthy, undrained and at its full weight.
    #[inline]
    pub(super) fn all_well(&self, now_ns: u64) -> bool {
        // Each word has its flags on top, and below them a time in ms: of its ejection's end, or of its return.
        let ripe = (now_ns / NS_PER_MS).saturating_sub(self.care.slow_ms) << MS_SHIFT;
        let highest = self.candidates.iter().fold(0, |highest, candidate| {
            let vitals = self.vitals(candidate);
            let breaker = vitals.breaker.load(Ordering::Relaxed);
            let outlier = vitals.outlier.load(Ordering::Relaxed);
            let standing = vitals.standing.load(Ordering::Relaxed);
            breaker.max(outlier).max(standing).max(highest)
        });
        highest < ripe || highest == 0
    }

    /// The candidates, and whether any of them is in slow start.
    #[cold]
    pub(super) fn examine(&self, now_ns: u64, tried: u64) -> (Mask, bool) {
        let mut willing = Mask::none(self.candidates.len());
        let (mut sound, mut present, mut well) = (willing, willing, willing);
        let mut all = 0;
        let (mut some_answer, mut slow) = (false, false);
        for (index, candidate) in self.candidates.iter().enumerate() {
            let vitals = self.vitals(candidate);
            let standing = Standing::unpack(vitals.standing.load(Ordering::Relaxed));
            if candidate.weight == 0 || standing.drained {
                continue;
            }
            all += 1;
            if !self.lets_through(vitals, now_ns) {
                continue;
            }
            willing.insert(index);
            slow |= self.ramp(candidate, now_ns) < FULL;
            let outlier = Outlier::unpack(vitals.outlier.load(Ordering::Relaxed));
            let out = outlier.is_out(now_ns);
            if !(out && (outlier.aside || !outlier.asked) || standing.unhealthy && standing.silent) {
                sound.insert(index);
            }
            if standing.unhealthy {
                continue;
            }
            if !out || outlier.aside {
                present.insert(index);
            }
            if !out {
                well.insert(index);
                some_answer |= !self.fails(outlier);
            }
        }
        let enough = present.count() as u64 * 100 >= self.care.panic_percent * all;
        let mut left = match (enough, some_answer) {
            (true, true) => well,
            (true, false) => present,
            (false, true) => sound,
            (false, false) => willing,
        };
        left.exclude(tried);
        if left.count() == 0 {
            // Among those not yet tried, a doubtful upstream is better than none.
            left = willing;
            left.exclude(tried);
        }
        (left, slow)
    }

    /// The candidates of a pin: those without any doubt.
    pub(super) fn well(&self, now_ns: u64, tried: u64) -> Mask {
        let mut well = self.weighty;
        if !self.all_well(now_ns) {
            well = Mask::of(&self.candidates, |candidate| {
                let vitals = self.vitals(candidate);
                let standing = Standing::unpack(vitals.standing.load(Ordering::Relaxed));
                let outlier = Outlier::unpack(vitals.outlier.load(Ordering::Relaxed));
                candidate.weight > 0
                    && !standing.drained
                    && !standing.unhealthy
                    && !outlier.is_out(now_ns)
                    && self.lets_through(vitals, now_ns)
            });
        }
        well.exclude(tried);
        well
    }

    /// Chooses while some upstreams are in slow start. Those get their share at random, in proportion to their
    /// effective weights; the policy distributes the rest among the others.
    #[cold]
    pub(super) fn choose_slowly(&self, candidates: &Candidates<'_>, ask: &Ask<'_>) -> Option<usize> {
        let fit = candidates.fit();
        let ramp = |index: usize| self.ramp(&self.candidates[index], ask.now_ns);
        let weight = |index: usize| {
            if self.policy.is_weighted() {
                u64::from(self.candidates[index].weight) * ramp(index)
            } else {
                ramp(index)
            }
        };
        let most = fit.iter().map(ramp).max()?;
        let mut point = candidates.random_below(fit.iter().map(weight).sum());
        let drawn = fit.iter().find(|&index| {
            let weight = weight(index);
            let here = point < weight;
            point = point.wrapping_sub(weight);
            here
        })?;
        let mut whole = *fit;
        fit.iter()
            .filter(|&index| ramp(index) < most)
            .for_each(|index| whole.remove(index));
        let whole = self.candidates(&whole, candidates.turn());
        // An upstream that is behind with its requests gets no more, even in slow start.
        if ramp(drawn) < most && !self.is_behind(drawn, &whole) {
            Some(drawn)
        } else {
            self.policy.choose(&whole, ask)
        }
    }

    /// True when, under a policy by load, it has far more to do than any other. A small difference is not enough: of
    /// two equal upstreams, each has slightly more half of the time, and would lose its turn as often.
    fn is_behind(&self, index: usize, others: &Candidates<'_>) -> bool {
        let Some(own) = self.policy.load(others, index) else {
            return false;
        };
        others.fit().iter().all(|other| {
            let other = self.policy.load(others, other).map_or(0, |load| load.now);
            own.now > other.saturating_mul(2).saturating_add(own.one)
        })
    }

    /// Records an exchange's verdict for ejection.
    #[inline]
    pub(super) fn judge(&self, index: usize, verdict: Verdict, now_ns: u64) {
        let Some(settings) = self.care.outliers else { return };
        let vitals = self.vitals(&self.candidates[index]);
        match verdict {
            Verdict::Neutral => {}
            Verdict::Success => outlier::succeeded(&vitals.outlier),
            Verdict::Failure => {
                let may = || self.may_leave(index, settings, now_ns);
                let jitter = self.random.below(u64::MAX);
                if outlier::failed(&vitals.outlier, settings, now_ns, jitter, may) {
                    vitals.ejections.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// The permitted ejection: only while another upstream answers, and in full only when not too many are out.
    fn may_leave(&self, index: usize, settings: outlier::Settings, now_ns: u64) -> Leave {
        let (mut all, mut out, mut well) = (0, 0, 0);
        for (other, candidate) in self.candidates.iter().enumerate() {
            let vitals = self.vitals(candidate);
            let standing = Standing::unpack(vitals.standing.load(Ordering::Relaxed));
            if candidate.weight == 0 || standing.drained {
                continue;
            }
            all += 1;
            let outlier = Outlier::unpack(vitals.outlier.load(Ordering::Relaxed));
            if outlier.is_out(now_ns) {
                out += usize::from(!outlier.aside);
            } else if other != index
                && !standing.unhealthy
                && !settings.fails(outlier)
                && self.lets_through(vitals, now_ns)
            {
                well += 1;
            }
        }
        settings.leave(out, well, all)
    }

    fn fails(&self, outlier: Outlier) -> bool {
        self.care.outliers.is_some_and(|settings| settings.fails(outlier))
    }

    fn lets_through(&self, vitals: &Vitals, now_ns: u64) -> bool {
        self.breaker
            .is_none_or(|settings| breaker::allows(&vitals.breaker, settings, now_ns))
    }

    /// The effective part of its weight, of `FULL`: linear in the time since its return.
    fn ramp(&self, candidate: &Candidate, now_ns: u64) -> u64 {
        if self.care.slow_ms == 0 {
            return FULL;
        }
        let vitals = self.vitals(candidate);
        let closed = match self.breaker {
            Some(_) => breaker::closed_since_ms(vitals.breaker.load(Ordering::Relaxed)).unwrap_or(0),
            None => 0,
        };
        let back = Outlier::unpack(vitals.outlier.load(Ordering::Relaxed)).until_ms;
        let good = Standing::unpack(vitals.standing.load(Ordering::Relaxed)).since_ms;
        let since = closed.max(back).max(good);
        if since == 0 {
            return FULL;
        }
        let elapsed_ms = (now_ns / NS_PER_MS).saturating_sub(since);
        (elapsed_ms.saturating_mul(FULL) / self.care.slow_ms).clamp(FIRST, FULL)
    }
}
