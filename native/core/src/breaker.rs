//! The circuit breaker of an upstream: a transition table over one packed word, shared by all workers.
//!
//! ```text
//!            threshold failures in a row           open_ns later, the first pick
//!   closed ------------------------------> open ------------------------------> half open
//!      ^                                    ^                                    |    |
//!      |                                    +---------- a probe failed ----------+    |
//!      +------------------------- `probes` probes succeeded --------------------------+
//! ```
//!
//! Half open, `probes` picks are let through in all. A neutral verdict gives its permit back. When verdicts stay out for
//! `open_ns` (a worker died, a stream is long), the permits lapse and as many new ones are given.
//!
//! A release does not say which pick it ends, so an exchange that began before the breaker opened may answer in a probe's
//! place. That is a verdict on the upstream, too; it never brings more than `probes` permits at a time into being, because
//! a verdict only counts while a permit is out.

use std::sync::atomic::{AtomicU64, Ordering};

/// When to rest an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    threshold: u64,
    open_ms: u64,
    probes: u64,
}

/// How an exchange ended, as far as it says something about the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Says nothing: the client left, the upstream asked for patience.
    Neutral,
    /// The upstream answered.
    Success,
    /// The upstream could not be reached, broke off, was too slow, or failed.
    Failure,
}

/// What a breaker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Lets everything through.
    Closed,
    /// Lets nothing through.
    Open,
    /// Lets probes through.
    HalfOpen,
}

/// A breaker's whole state. All zeroes is closed, without a failure.
///
/// ```text
/// state (2 bits) | since, in ms (42) | failures in a row, or permits given (10) | probes that succeeded (10)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    state: State,
    since_ms: u64,
    count: u64,
    succeeded: u64,
}

const COUNT_BITS: u32 = 10;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const SINCE_MAX: u64 = (1 << 42) - 1;
const NS_PER_MS: u64 = 1_000_000;

impl Settings {
    /// Opens after `threshold` failures in a row, for `open_ns`, then asks for `probes` successes. Counts are taken to
    /// lie in 1 to 1023, times are rounded up to milliseconds.
    #[must_use]
    pub fn new(threshold: u64, open_ns: u64, probes: u64) -> Self {
        Self {
            threshold: threshold.clamp(1, COUNT_MAX),
            open_ms: open_ns.div_ceil(NS_PER_MS),
            probes: probes.clamp(1, COUNT_MAX),
        }
    }
}

/// Whether a pick would be let through now. Changes nothing.
#[inline]
pub fn allows(breaker: &AtomicU64, settings: Settings, now_ns: u64) -> bool {
    let word = breaker.load(Ordering::Relaxed);
    // The common case, without unpacking.
    word >> 62 == 0 || Word::unpack(word).permit(settings, now_ns).is_some()
}

/// Lets a pick through, or not; half open, that takes a permit.
#[inline]
pub fn permit(breaker: &AtomicU64, settings: Settings, now_ns: u64) -> bool {
    update(breaker, |word| word.permit(settings, now_ns))
}

/// Hears how a pick ended that was let through.
#[inline]
pub fn record(breaker: &AtomicU64, settings: Settings, verdict: Verdict, now_ns: u64) {
    update(breaker, |word| Some(word.record(settings, verdict, now_ns)));
}

/// What the breaker does now.
pub fn state(breaker: &AtomicU64, settings: Settings, now_ns: u64) -> State {
    let word = Word::unpack(breaker.load(Ordering::Relaxed));
    if word.state == State::Open && word.is_due(settings, now_ns) {
        State::HalfOpen
    } else {
        word.state
    }
}

/// Applies a transition; whether there was one. Words that stay as they are are not written.
#[inline]
fn update(breaker: &AtomicU64, transition: impl Fn(Word) -> Option<Word>) -> bool {
    let mut before = breaker.load(Ordering::Acquire);
    loop {
        let Some(after) = transition(Word::unpack(before)).map(Word::pack) else {
            return false;
        };
        if after == before {
            return true;
        }
        match breaker.compare_exchange_weak(before, after, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return true,
            Err(present) => before = present,
        }
    }
}

impl Word {
    const CLOSED: Self = Self {
        state: State::Closed,
        since_ms: 0,
        count: 0,
        succeeded: 0,
    };

    fn permit(self, settings: Settings, now_ns: u64) -> Option<Self> {
        let first = Self {
            state: State::HalfOpen,
            since_ms: floor_ms(now_ns),
            count: 1,
            succeeded: 0,
        };
        match self.state {
            State::Closed => Some(self),
            State::HalfOpen if self.count < settings.probes => Some(Self {
                count: self.count + 1,
                ..self
            }),
            State::Open | State::HalfOpen => self.is_due(settings, now_ns).then_some(first),
        }
    }

    fn record(self, settings: Settings, verdict: Verdict, now_ns: u64) -> Self {
        // Rounded up, so that an upstream rests for no less than it should.
        let open = Self {
            state: State::Open,
            since_ms: ceil_ms(now_ns),
            count: 0,
            succeeded: 0,
        };
        match (self.state, verdict) {
            (State::Closed, Verdict::Neutral) => self,
            (State::Closed, Verdict::Success) => Self::CLOSED,
            (State::Closed, Verdict::Failure) if self.count + 1 >= settings.threshold => open,
            (State::Closed, Verdict::Failure) => Self {
                count: self.count + 1,
                ..self
            },
            // Begun before it opened: nothing new.
            (State::Open, _) => self,
            (State::HalfOpen, _) if self.succeeded >= self.count => self,
            (State::HalfOpen, Verdict::Neutral) => Self {
                count: self.count - 1,
                ..self
            },
            (State::HalfOpen, Verdict::Success) if self.succeeded + 1 >= settings.probes => Self::CLOSED,
            (State::HalfOpen, Verdict::Success) => Self {
                succeeded: self.succeeded + 1,
                ..self
            },
            (State::HalfOpen, Verdict::Failure) => open,
        }
    }

    fn is_due(self, settings: Settings, now_ns: u64) -> bool {
        floor_ms(now_ns) >= self.since_ms.saturating_add(settings.open_ms)
    }

    fn pack(self) -> u64 {
        let state = match self.state {
            State::Closed => 0,
            State::Open => 1,
            State::HalfOpen => 2,
        };
        state << 62 | self.since_ms << (2 * COUNT_BITS) | self.count << COUNT_BITS | self.succeeded
    }

    fn unpack(word: u64) -> Self {
        let state = match word >> 62 {
            0 => State::Closed,
            1 => State::Open,
            _ => State::HalfOpen,
        };
        let since_ms = word >> (2 * COUNT_BITS) & SINCE_MAX;
        Self {
            state,
            since_ms,
            count: word >> COUNT_BITS & COUNT_MAX,
            succeeded: word & COUNT_MAX,
        }
    }
}

fn floor_ms(ns: u64) -> u64 {
    (ns / NS_PER_MS).min(SINCE_MAX)
}

fn ceil_ms(ns: u64) -> u64 {
    ns.div_ceil(NS_PER_MS).min(SINCE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = NS_PER_MS;
    const SETTINGS: Settings = Settings {
        threshold: 2,
        open_ms: 10,
        probes: 2,
    };

    /// The breaker as one would tell it: lists and flags, nothing packed.
    #[derive(Clone, Debug)]
    struct Oracle {
        recent: Vec<Verdict>,
        opened_at: Option<u64>,
        probing_since: Option<u64>,
        probes: Vec<Option<bool>>,
    }

    impl Oracle {
        fn new() -> Self {
            Self {
                recent: vec![],
                opened_at: None,
                probing_since: None,
                probes: vec![],
            }
        }

        fn state(&self, now: u64) -> State {
            match (self.probing_since, self.opened_at) {
                (Some(_), _) => State::HalfOpen,
                (None, Some(at)) if now >= at + 10 * MS => State::HalfOpen,
                (None, Some(_)) => State::Open,
                (None, None) => State::Closed,
            }
        }

        fn permit(&mut self, now: u64) -> bool {
            match (self.probing_since, self.opened_at) {
                (None, None) => true,
                (Some(since), _) if self.probes.len() >= 2 && now < since + 10 * MS => false,
                (Some(_), _) if self.probes.len() < 2 => {
                    self.probes.push(None);
                    true
                }
                (None, Some(at)) if now < at + 10 * MS => false,
                _ => {
                    self.probing_since = Some(now);
                    self.probes = vec![None];
                    true
                }
            }
        }

        fn record(&mut self, verdict: Verdict, now: u64) {
            if self.probing_since.is_some() {
                let Some(at) = self.probes.iter().position(Option::is_none) else {
                    return;
                };
                match verdict {
                    Verdict::Neutral => drop(self.probes.remove(at)),
                    Verdict::Success => self.probes[at] = Some(true),
                    Verdict::Failure => {
                        *self = Self {
                            opened_at: Some(now),
                            ..Self::new()
                        };
                        return;
                    }
                }
                if self.probes == [Some(true), Some(true)] {
                    *self = Self::new();
                }
            } else if self.opened_at.is_none() && verdict != Verdict::Neutral {
                self.recent.push(verdict);
                if self.recent.ends_with(&[Verdict::Failure, Verdict::Failure]) {
                    *self = Self {
                        opened_at: Some(now),
                        ..Self::new()
                    };
                }
            }
        }
    }

    /// Every sequence of eight events, against the oracle, after each event.
    #[test]
    fn every_short_history_is_the_oracles() {
        fn explore(word: u64, oracle: &Oracle, now: u64, depth: u32, seen: &mut u64) {
            *seen += 1;
            let check = |word: u64, oracle: &Oracle, now: u64| {
                let breaker = AtomicU64::new(word);
                assert_eq!(
                    state(&breaker, SETTINGS, now),
                    oracle.state(now),
                    "{:?} {oracle:?}",
                    Word::unpack(word)
                );
                assert_eq!(
                    allows(&breaker, SETTINGS, now),
                    oracle.clone().permit(now),
                    "{oracle:?}"
                );
            };
            check(word, oracle, now);
            if depth == 0 {
                return;
            }
            for verdict in [Verdict::Neutral, Verdict::Success, Verdict::Failure] {
                let (breaker, mut told) = (AtomicU64::new(word), oracle.clone());
                record(&breaker, SETTINGS, verdict, now);
                told.record(verdict, now);
                explore(breaker.into_inner(), &told, now, depth - 1, seen);
            }
            let (breaker, mut told) = (AtomicU64::new(word), oracle.clone());
            assert_eq!(permit(&breaker, SETTINGS, now), told.permit(now));
            explore(breaker.into_inner(), &told, now, depth - 1, seen);
            for step in [MS, 9 * MS] {
                explore(word, oracle, now + step, depth - 1, seen);
            }
        }
        let mut seen = 0;
        explore(0, &Oracle::new(), 100 * MS, 8, &mut seen);
        assert_eq!(seen, (0..=8).map(|depth| 6_u64.pow(depth)).sum());
    }

    #[test]
    fn threads_get_exactly_the_probes() {
        let breaker = AtomicU64::new(0);
        record(&breaker, SETTINGS, Verdict::Failure, 0);
        record(&breaker, SETTINGS, Verdict::Failure, 0);
        let let_through: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..250).filter(|_| permit(&breaker, SETTINGS, 10 * MS)).count()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or(usize::MAX))
                .sum()
        });
        assert_eq!(let_through, 2);
    }

    #[test]
    fn words_survive_packing() {
        for state in [State::Closed, State::Open, State::HalfOpen] {
            let word = Word {
                state,
                since_ms: SINCE_MAX,
                count: COUNT_MAX,
                succeeded: COUNT_MAX - 1,
            };
            assert_eq!(Word::unpack(word.pack()), word);
        }
    }
}
