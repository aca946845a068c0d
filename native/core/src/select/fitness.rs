//! The closer look: what a selector does while one of its upstreams is not wholly well.
//!
//! Drained, or refused by its breaker: out, whatever that means for the others. Ejected, resting, or unhealthy: out as long
//! as enough others are left. Back since a moment ago: in with a part of its weight that grows with time.
//!
//! Who gets traffic, when some answer it and when nobody does:
//!
//! ```text
//!                      | some answer                          | nobody does
//!   enough are left    | those that are neither out nor aside | those that are not out
//!   too few (panic)    | all but whom traffic found failing   | all
//! ```
//!
//! A probe may be wrong about an upstream, traffic is not: however few are left, what it found failing is worth no request
//! that another one would answer.

use std::sync::atomic::Ordering;

use super::{Candidate, Policy, SelectError, Selector};
use crate::breaker::{self, State, Verdict};
use crate::mask::Mask;
use crate::outlier::{self, Leave, MS_SHIFT, Outlier};
use crate::vitals::{Signals, Standing, Vitals};

const NS_PER_MS: u64 = 1_000_000;
/// The whole of a weight.
const FULL: u64 = 1000;
/// What a weight begins with: enough to be noticed.
const FIRST: u64 = FULL / 50;

/// What keeps traffic from upstreams besides their breakers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Care {
    outliers: Option<outlier::Settings>,
    panic_percent: u64,
    slow_ms: u64,
}

/// Everything that is known of an upstream's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The operator took it out.
    pub drained: bool,
    /// What its breaker does.
    pub breaker: State,
    /// Calls and failures that the breaker counts at present.
    pub window: (u64, u64),
    /// Until when it is ejected, or rests; 0 when it is not.
    pub out_until_ns: u64,
    /// It rests because it asked to.
    pub asked: bool,
    /// It is out for as long as another one answers.
    pub aside: bool,
    /// Failures in a row.
    pub failures: u64,
    /// Times that it was ejected.
    pub ejections: u64,
    /// A probe's word; `None` when there was none.
    pub healthy: Option<bool>,
    /// Its share of its weight, of a thousand.
    pub ramp_per_mille: u64,
    /// What its engine says of its load.
    pub signals: Signals,
}

impl Care {
    pub(super) const NONE: Self = Self {
        outliers: None,
        panic_percent: 0,
        slow_ms: 0,
    };
}

impl Selector {
    /// Ejects upstreams that fail again and again.
    #[must_use]
    pub fn ejecting(mut self, settings: outlier::Settings) -> Self {
        self.care.outliers = Some(settings);
        self
    }

    /// With fewer than `percent` of the upstreams available, uses those that are ejected or unhealthy, too.
    #[must_use]
    pub fn panicking_below(mut self, percent: u64) -> Self {
        self.care.panic_percent = percent.min(100);
        self
    }

    /// Who comes back gets its share little by little, over `ns`.
    #[must_use]
    pub fn starting_slowly(mut self, ns: u64) -> Self {
        self.care.slow_ms = ns.div_ceil(NS_PER_MS);
        self
    }

    /// Leaves an upstream alone for `for_ns`, as it asked, if others are left; whether it now rests.
    pub fn rest(&self, index: usize, for_ns: u64, now_ns: u64) -> Result<bool, SelectError> {
        self.check(index)?;
        let word = &self.vitals(&self.candidates[index]).outlier;
        Ok(self
            .care
            .outliers
            .is_some_and(|settings| outlier::rest(word, for_ns, now_ns, || self.may_leave(index, settings, now_ns))))
    }

    /// Counts an answer that has only begun as a success, where a breaker waits for one: a stream may take minutes, and its
    /// end says nothing more of whether the upstream is back. Whether it counted; `release` is then told neutral.
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

    /// Notes that traffic hears nothing of an upstream.
    pub fn suspect(&self, index: usize, now_ns: u64) -> Result<(), SelectError> {
        self.check(index)?;
        self.vitals(&self.candidates[index]).suspect(now_ns);
        Ok(())
    }

    /// Everything that is known of an upstream's health.
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

    /// The upstreams, of the first 64, that list their models but not this one; none when nobody lists it.
    #[must_use]
    pub fn lacking(&self, model: &[u8]) -> u64 {
        let hash = self.segment.hash_key().hash(model);
        let lacking = Mask::of(&self.candidates, |candidate| {
            self.segment.layout().models[candidate.slot.get()].lacks(hash)
        });
        // All of them may be wrong about it: engines load adapters, and some answer to any name.
        if lacking.count() == self.candidates.len() {
            0
        } else {
            lacking.word(0)
        }
    }

    /// Whether every upstream is closed, in, well, undrained and at its full weight.
    #[inline]
    pub(super) fn all_well(&self, now_ns: u64) -> bool {
        // The words of each have their flags on top, and below them a time in ms: of being out, or of having come back.
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

    /// Those that may be chosen from, and whether any of them is still slow.
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
            // Of what was not tried, a doubtful one is better than none.
            left = willing;
            left.exclude(tried);
        }
        (left, slow)
    }

    /// A choice while some are on their way up. Those get their part by chance, in proportion to what counts of their
    /// weights; the rest is shared by the others as the policy has it.
    #[cold]
    pub(super) fn choose_slowly(&self, left: &Mask, ticket: u64, now_ns: u64) -> Option<usize> {
        let ramp = |index: usize| self.ramp(&self.candidates[index], now_ns);
        let weight = |index: usize| match self.policy {
            Policy::RoundRobin => ramp(index),
            _ => self.weight(index) * ramp(index),
        };
        let most = left.iter().map(ramp).max()?;
        let mut point = self.random_below(left.iter().map(weight).sum());
        let drawn = left.iter().find(|&index| {
            let weight = weight(index);
            let here = point < weight;
            point = point.wrapping_sub(weight);
            here
        })?;
        let mut whole = *left;
        left.iter()
            .filter(|&index| ramp(index) < most)
            .for_each(|index| whole.remove(index));
        // Who is behind with what it has gets no more, however short its turn was.
        if ramp(drawn) < most && !self.is_behind(drawn, &whole) {
            Some(drawn)
        } else {
            self.choose(&whole, ticket)
        }
    }

    /// Whether, for a policy by load, it has far more to do than any of the others: of two that are alike one has somewhat
    /// more than the other half of the time, and would give its turn away as often.
    fn is_behind(&self, index: usize, others: &Mask) -> bool {
        let score = |index: usize| self.score(&self.candidates[index]);
        let one = match self.policy {
            Policy::RoundRobin | Policy::Weighted | Policy::Random => return false,
            Policy::LeastConnections | Policy::PowerOfTwo => self.candidates[index].share,
            Policy::LeastLoad => self.candidates[index].share.saturating_mul(16),
        };
        others
            .iter()
            .all(|other| score(index) > score(other).saturating_mul(2).saturating_add(one))
    }

    /// What an exchange's end says of its upstream, to its ejections.
    #[inline]
    pub(super) fn judge(&self, index: usize, verdict: Verdict, now_ns: u64) {
        let Some(settings) = self.care.outliers else { return };
        let vitals = self.vitals(&self.candidates[index]);
        match verdict {
            Verdict::Neutral => {}
            Verdict::Success => outlier::succeeded(&vitals.outlier),
            Verdict::Failure => {
                let may = || self.may_leave(index, settings, now_ns);
                let jitter = self.random_below(u64::MAX);
                if outlier::failed(&vitals.outlier, settings, now_ns, jitter, may) {
                    vitals.ejections.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    #[inline]
    pub(super) fn vitals(&self, candidate: &Candidate) -> &Vitals {
        self.segment.vitals(candidate.slot)
    }

    /// Whether this one may be taken out: another one answers, and for its time if not too many are out.
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

    /// How much of its weight counts, of `FULL`: linear in the time since it came back.
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
