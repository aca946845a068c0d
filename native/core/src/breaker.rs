//! The circuit breaker of an upstream: a transition table over one packed word, shared by all workers.
//!
//! ```text
//!     threshold failures in a row, or
//!     too large a share recently           open_ns later, the first pick
//!   closed ------------------------------> open ------------------------------> half open
//!      ^                                    ^                                    |    |
//!      |                                    +---------- a probe failed ----------+    |
//!      +------------------------- `probes` probes succeeded --------------------------+
//! ```
//!
//! A half-open breaker lets `probes` picks through in all. A neutral verdict returns its permit. When verdicts stay out
//! for `open_ns` (a worker died, a stream is long), the permits lapse and as many new ones are issued.
//!
//! A release does not say which pick it ends, so an exchange that began before the breaker opened may count as a probe.
//! Its verdict is about the same upstream. There are never more than `probes` permits at a time, because a verdict only
//! counts while a permit is out.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::window::{self, Window};

/// The thresholds and times of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    threshold: u64,
    open_ms: u64,
    probes: u64,
    /// Failures per thousand calls; 0 disables the ratio.
    ratio: u64,
    minimum: u64,
    bucket_ms: u64,
}

/// The result of an exchange, as evidence about the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No evidence: the client left, or the upstream asked for a delay.
    Neutral,
    /// The upstream answered.
    Success,
    /// The upstream could not be reached, broke off, was too slow, or failed.
    Failure,
}

/// The state of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Allows everything.
    Closed,
    /// Allows nothing.
    Open,
    /// Allows probes.
    HalfOpen,
}

/// The state of a breaker, except its window. All zeroes is closed, without failures, and never opened.
///
/// ```text
/// state (2 bits) | since, in ms (42) | failures in a row, or permits issued (10) | probes that succeeded (10)
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
    /// Opens after `threshold` failures in a row, for `open_ns`, and then requires `probes` successes. Counts are
    /// clamped to 1 to 1023, times are rounded up to milliseconds.
    #[must_use]
    pub fn new(threshold: u64, open_ns: u64, probes: u64) -> Self {
        Self {
            threshold: threshold.clamp(1, COUNT_MAX),
            open_ms: open_ns.div_ceil(NS_PER_MS),
            probes: probes.clamp(1, COUNT_MAX),
            ratio: 0,
            minimum: 1,
            bucket_ms: 1,
        }
    }

    /// Also opens when `per_mille` of the calls within `window_ns` failed, and there were at least `minimum` calls.
    #[must_use]
    pub fn with_ratio(self, per_mille: u64, minimum: u64, window_ns: u64) -> Self {
        Self {
            ratio: per_mille.min(1000),
            minimum: minimum.max(1),
            bucket_ms: window::bucket_ms(window_ns),
            ..self
        }
    }

    /// Calls and failures in the window of the ratio.
    pub(crate) fn counts(self, window: &Window, now_ns: u64) -> (u64, u64) {
        window.counts(self.bucket_ms, now_ns)
    }

    /// Counts a call; returns true when the recent failures exceed the ratio.
    fn is_over(self, window: &Window, verdict: Verdict, now_ns: u64) -> bool {
        let failed = verdict == Verdict::Failure;
        window.add(self.bucket_ms, failed, now_ns);
        if !failed {
            return false;
        }
        let (calls, failures) = self.counts(window, now_ns);
        calls >= self.minimum && failures * 1000 >= calls * self.ratio
    }
}

/// True when a pick would be allowed now. Changes nothing.
#[inline]
pub fn allows(breaker: &AtomicU64, settings: Settings, now_ns: u64) -> bool {
    let word = breaker.load(Ordering::Relaxed);
    // The common case, without unpacking.
    word >> 62 == 0 || Word::unpack(word).permit(settings, now_ns).is_some()
}

/// Allows or refuses a pick; in the half-open state, that takes a permit.
#[inline]
pub fn permit(breaker: &AtomicU64, settings: Settings, now_ns: u64) -> bool {
    update(breaker, |word| word.permit(settings, now_ns)).is_some()
}

/// Records the verdict on an allowed pick; returns true when that opened the breaker.
#[inline]
pub(crate) fn record(breaker: &AtomicU64, window: &Window, settings: Settings, verdict: Verdict, now_ns: u64) -> bool {
    let is_closed = breaker.load(Ordering::Relaxed) >> 62 == 0;
    let counts = is_closed && settings.ratio > 0 && verdict != Verdict::Neutral;
    let is_over = counts && settings.is_over(window, verdict, now_ns);
    let change = update(breaker, |word| Some(word.record(settings, verdict, is_over, now_ns)));
    let opened = change.is_some_and(|(before, after)| before.state != after.state && after.state == State::Open);
    if opened {
        // Calls from before it opened are no evidence about the time after.
        window.clear();
    }
    opened
}

/// The time since when it is closed, in ms; 0 when it never opened, `None` when it is not closed.
#[inline]
pub(crate) fn closed_since_ms(word: u64) -> Option<u64> {
    (word >> 62 == 0).then_some(word >> (2 * COUNT_BITS) & SINCE_MAX)
}

/// The current state.
pub fn state(breaker: &AtomicU64, settings: Settings, now_ns: u64) -> State {
    let word = Word::unpack(breaker.load(Ordering::Relaxed));
    if word.state == State::Open && word.is_due(settings, now_ns) {
        State::HalfOpen
    } else {
        word.state
    }
}

/// Applies a transition and returns the words before and after it, if there was one. Unchanged words are not written.
#[inline]
fn update(breaker: &AtomicU64, transition: impl Fn(Word) -> Option<Word>) -> Option<(Word, Word)> {
    let mut before = breaker.load(Ordering::Acquire);
    loop {
        let from = Word::unpack(before);
        let to = transition(from)?;
        if to == from {
            return Some((from, to));
        }
        match breaker.compare_exchange_weak(before, to.pack(), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Some((from, to)),
            Err(present) => before = present,
        }
    }
}

impl Word {
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

    fn record(self, settings: Settings, verdict: Verdict, is_over: bool, now_ns: u64) -> Self {
        // Rounded up, so that an upstream never rests for less than the configured time.
        let open = Self {
            state: State::Open,
            since_ms: ceil_ms(now_ns),
            count: 0,
            succeeded: 0,
        };
        match (self.state, verdict) {
            (State::Closed, Verdict::Neutral) => self,
            (State::Closed, Verdict::Success) => Self { count: 0, ..self },
            (State::Closed, Verdict::Failure) if is_over || self.count + 1 >= settings.threshold => open,
            (State::Closed, Verdict::Failure) => Self {
                count: self.count + 1,
                ..self
            },
            // Began before it opened: no new evidence.
            (State::Open, _) => self,
            (State::HalfOpen, _) if self.succeeded >= self.count => self,
            (State::HalfOpen, Verdict::Neutral) => Self {
                count: self.count - 1,
                ..self
            },
            (State::HalfOpen, Verdict::Success) if self.succeeded + 1 >= settings.probes => Self {
                state: State::Closed,
                since_ms: floor_ms(now_ns),
                count: 0,
                succeeded: 0,
            },
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
        ratio: 0,
        minimum: 1,
        bucket_ms: 1,
    };
    /// Opens when half of at least three calls within ten buckets of 4 ms failed, or after five failures in a row.
    const BY_RATIO: Settings = Settings {
        threshold: 5,
        ratio: 500,
        minimum: 3,
        bucket_ms: 4,
        ..SETTINGS
    };

    /// The breaker, implemented naively: lists and flags, nothing packed.
    #[derive(Clone, Debug)]
    struct Oracle {
        settings: Settings,
        /// Verdicts since it closed.
        recent: Vec<(u64, Verdict)>,
        opened_at: Option<u64>,
        probing_since: Option<u64>,
        probes: Vec<Option<bool>>,
    }

    impl Oracle {
        fn new(settings: Settings) -> Self {
            Self {
                settings,
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

        fn open(&mut self, now: u64) {
            *self = Self {
                opened_at: Some(now),
                ..Self::new(self.settings)
            };
        }

        fn fails_too_often(&self, now: u64) -> bool {
            let threshold = self.settings.threshold as usize;
            let row = self
                .recent
                .iter()
                .rev()
                .take_while(|(_, verdict)| *verdict == Verdict::Failure);
            let bucket = |at: u64| at / MS / self.settings.bucket_ms;
            let late: Vec<_> = self
                .recent
                .iter()
                .filter(|(at, _)| bucket(*at) + 10 > bucket(now))
                .collect();
            let failed = late.iter().filter(|(_, verdict)| *verdict == Verdict::Failure).count();
            let over =
                self.settings.ratio > 0 && late.len() as u64 >= self.settings.minimum && failed * 2 >= late.len();
            row.count() >= threshold || over
        }

        fn record(&mut self, verdict: Verdict, now: u64) {
            if self.probing_since.is_some() {
                let Some(at) = self.probes.iter().position(Option::is_none) else {
                    return;
                };
                match verdict {
                    Verdict::Neutral => drop(self.probes.remove(at)),
                    Verdict::Success => self.probes[at] = Some(true),
                    Verdict::Failure => return self.open(now),
                }
                if self.probes == [Some(true), Some(true)] {
                    *self = Self::new(self.settings);
                }
            } else if self.opened_at.is_none() && verdict != Verdict::Neutral {
                self.recent.push((now, verdict));
                if verdict == Verdict::Failure && self.fails_too_often(now) {
                    self.open(now);
                }
            }
        }
    }

    /// A copy of a breaker and its window, for each fork of the search.
    fn copy(from: &(AtomicU64, Window)) -> (AtomicU64, Window) {
        (AtomicU64::new(from.0.load(Ordering::Relaxed)), from.1.copy())
    }

    /// Checks every sequence of `depth` events against the oracle, after each event.
    fn explore(settings: Settings, breaker: &(AtomicU64, Window), oracle: &Oracle, now: u64, depth: u32) -> u64 {
        let word = breaker.0.load(Ordering::Relaxed);
        let about = || format!("{:?} {oracle:?} at {now}", Word::unpack(word));
        assert_eq!(state(&breaker.0, settings, now), oracle.state(now), "{}", about());
        assert_eq!(
            allows(&breaker.0, settings, now),
            oracle.clone().permit(now),
            "{}",
            about()
        );
        if depth == 0 {
            return 1;
        }
        let mut seen = 1;
        for verdict in [Verdict::Neutral, Verdict::Success, Verdict::Failure] {
            let (next, mut told) = (copy(breaker), oracle.clone());
            let opened = record(&next.0, &next.1, settings, verdict, now);
            let before = told.opened_at;
            told.record(verdict, now);
            assert_eq!(
                opened,
                told.opened_at.is_some()
                    && (before.is_none() || oracle.probing_since.is_some())
                    && told.probing_since.is_none()
                    && verdict == Verdict::Failure,
                "{}",
                about()
            );
            seen += explore(settings, &next, &told, now, depth - 1);
        }
        let (next, mut told) = (copy(breaker), oracle.clone());
        assert_eq!(permit(&next.0, settings, now), told.permit(now), "{}", about());
        seen += explore(settings, &next, &told, now, depth - 1);
        for step in [MS, 9 * MS] {
            seen += explore(settings, &copy(breaker), oracle, now + step, depth - 1);
        }
        seen
    }

    #[test]
    fn every_short_history_is_the_oracles() {
        for (settings, depth) in [(SETTINGS, 8), (BY_RATIO, 7)] {
            let fresh = (AtomicU64::new(0), Window::default());
            let seen = explore(settings, &fresh, &Oracle::new(settings), 100 * MS, depth);
            assert_eq!(seen, (0..=depth).map(|depth| 6_u64.pow(depth)).sum());
        }
    }

    #[test]
    fn what_it_did_before_it_opened_is_forgotten() {
        let (word, window) = (AtomicU64::new(0), Window::default());
        let fail = |now| record(&word, &window, BY_RATIO, Verdict::Failure, now);
        assert_eq!([0, 1, 2].map(|_| fail(0)), [false, false, true]);
        for _ in 0..2 {
            assert!(permit(&word, BY_RATIO, 10 * MS));
            record(&word, &window, BY_RATIO, Verdict::Success, 10 * MS);
        }
        assert_eq!(state(&word, BY_RATIO, 10 * MS), State::Closed);
        // Still in the same window: three calls are needed again.
        assert_eq!([0, 1, 2].map(|_| fail(11 * MS)), [false, false, true]);
    }

    #[test]
    fn half_of_many_opens_it_and_less_does_not() {
        let settings = Settings::new(100, 10 * MS, 1).with_ratio(500, 20, 10_000 * MS);
        for (one_in, opens) in [(2, true), (3, false)] {
            let (word, window) = (AtomicU64::new(0), Window::default());
            let opened = (0..100_u64).find(|call| {
                let verdict = if call % one_in == 0 {
                    Verdict::Failure
                } else {
                    Verdict::Success
                };
                record(&word, &window, settings, verdict, call * 50 * MS)
            });
            assert_eq!(opened.is_some(), opens);
            // Not before the minimum number of calls.
            assert!(opened.is_none_or(|call| call >= 19), "{opened:?}");
        }
    }

    #[test]
    fn threads_get_exactly_the_probes() {
        let (breaker, window) = (AtomicU64::new(0), Window::default());
        record(&breaker, &window, SETTINGS, Verdict::Failure, 0);
        assert!(record(&breaker, &window, SETTINGS, Verdict::Failure, 0));
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
