//! Outlier ejection: an upstream that fails several times in a row gets no traffic for a while, and longer each time.
//!
//! ```text
//!             `after` failures in a row, others answer
//!   in -----------------------------------------------------> out until base x times (jittered, capped)
//!   in -----------------------------------------------------> aside for as long, where enough are out already
//!   in -----------------------------------------------------> out until its own `retry-after`
//! ```
//!
//! An upstream aside counts as ejected while another one answers: when many fail, none of them gets traffic; but when
//! nobody answers, only the permitted share is missing. Only the clock ends an ejection. Each period without an
//! ejection takes one off the multiplier (Envoy's). An ejected upstream counts no failures: those belong to exchanges
//! that began before.

use std::sync::atomic::{AtomicU64, Ordering};

/// The conditions and lengths of ejections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    after: u64,
    base_ms: u64,
    max_ms: u64,
    percent: u64,
}

/// An upstream's ejections. All zeroes is in, and never ejected.
///
/// ```text
/// out until, in ms (bits 20 to 61) | aside (17) | it asked for it (16) | times ejected (8 to 15) | failures in a row (0 to 7)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outlier {
    pub(crate) until_ms: u64,
    pub(crate) aside: bool,
    pub(crate) asked: bool,
    pub(crate) times: u64,
    pub(crate) failures: u64,
}

/// The permitted ejection of an upstream that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// None: no other upstream answers.
    Stay,
    /// Skipped while another upstream answers.
    Aside,
    /// Ejected for its time.
    Out,
}

pub(crate) const MS_SHIFT: u32 = 20;
pub(crate) const MS_MASK: u64 = (1 << 42) - 1;
const SMALL: u64 = u8::MAX as u64;
const NS_PER_MS: u64 = 1_000_000;
// Per mille: lengths are multiplied by 0.85 to 1.15, so that upstreams ejected together do not return together.
const JITTER: u64 = 150;

impl Settings {
    /// Ejects after `after` failures in a row (1 to 255), for `base_ns` times the number of ejections, at most
    /// `max_ns`; never more than `percent` of a list.
    #[must_use]
    pub fn new(after: u64, base_ns: u64, max_ns: u64, percent: u64) -> Self {
        Self {
            after: after.clamp(1, SMALL),
            base_ms: base_ns.div_ceil(NS_PER_MS).max(1),
            max_ms: max_ns.div_ceil(NS_PER_MS).max(1),
            percent: percent.min(100),
        }
    }

    /// The permitted ejection of one more upstream, when `out` of `all` are ejected and `well` others answer.
    pub(crate) fn leave(self, out: usize, well: usize, all: usize) -> Leave {
        if well == 0 || self.percent == 0 {
            Leave::Stay
        } else if out + 1 < all && (out as u64 + 1) * 100 <= self.percent * all as u64 {
            Leave::Out
        } else {
            Leave::Aside
        }
    }

    /// True when an upstream's current failures in a row reach the threshold.
    pub(crate) fn fails(self, outlier: Outlier) -> bool {
        outlier.failures >= self.after
    }
}

/// Records a success.
#[inline]
pub(crate) fn succeeded(word: &AtomicU64) {
    // The common case writes nothing.
    if word.load(Ordering::Relaxed) & SMALL != 0 {
        word.fetch_and(!SMALL, Ordering::Relaxed);
    }
}

/// Records a failure; returns true when that ejected the upstream. `may` is only called when the threshold is reached;
/// `jitter` is any number.
pub(crate) fn failed(word: &AtomicU64, settings: Settings, now_ns: u64, jitter: u64, may: impl Fn() -> Leave) -> bool {
    let mut may_leave = None;
    let mut before = word.load(Ordering::Relaxed);
    loop {
        let now = Outlier::unpack(before);
        if now.is_out(now_ns) {
            return false;
        }
        let leave = if now.failures + 1 >= settings.after {
            *may_leave.get_or_insert_with(&may)
        } else {
            Leave::Stay
        };
        let ejects = leave != Leave::Stay;
        let after = if ejects {
            now.ejected(settings, leave, now_ns, jitter)
        } else {
            Outlier {
                failures: (now.failures + 1).min(SMALL),
                ..now
            }
        };
        match word.compare_exchange_weak(before, after.pack(), Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return ejects,
            Err(present) => before = present,
        }
    }
}

/// Rests the upstream for `for_ns`, at its own request (`retry-after`); false when it already rests for longer, or
/// `may` forbids it. `may` is called as in `failed`: an upstream asks for less traffic rather than none, and too many
/// at rest overload the others.
pub(crate) fn rest(word: &AtomicU64, for_ns: u64, now_ns: u64, may: impl Fn() -> Leave) -> bool {
    let until_ms = now_ns.saturating_add(for_ns).div_ceil(NS_PER_MS).min(MS_MASK);
    let mut before = word.load(Ordering::Relaxed);
    loop {
        let now = Outlier::unpack(before);
        if now.until_ms >= until_ms || (!now.is_out(now_ns) && may() != Leave::Out) {
            return false;
        }
        let after = Outlier {
            until_ms,
            aside: now.is_out(now_ns) && now.aside,
            asked: true,
            times: now.remembered(now_ns, until_ms),
            ..now
        };
        match word.compare_exchange_weak(before, after.pack(), Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(present) => before = present,
        }
    }
}

impl Outlier {
    #[inline]
    pub(crate) fn unpack(word: u64) -> Self {
        Self {
            until_ms: word >> MS_SHIFT & MS_MASK,
            aside: word >> 17 & 1 == 1,
            asked: word >> 16 & 1 == 1,
            times: word >> 8 & SMALL,
            failures: word & SMALL,
        }
    }

    #[inline]
    pub(crate) fn is_out(self, now_ns: u64) -> bool {
        self.until_ms > now_ns / NS_PER_MS
    }

    fn pack(self) -> u64 {
        let flags = u64::from(self.aside) << 17 | u64::from(self.asked) << 16;
        self.until_ms.min(MS_MASK) << MS_SHIFT | flags | self.times << 8 | self.failures
    }

    fn ejected(self, settings: Settings, leave: Leave, now_ns: u64, jitter: u64) -> Self {
        let times = (self.remembered(now_ns, settings.base_ms) + 1).min(SMALL);
        let length_ms = settings.base_ms.saturating_mul(times).min(settings.max_ms);
        let per_mille = 1000 - JITTER + jitter % (2 * JITTER + 1);
        Self {
            until_ms: now_ns.div_ceil(NS_PER_MS) + (length_ms.saturating_mul(per_mille) / 1000).max(1),
            aside: leave == Leave::Aside,
            asked: false,
            times,
            failures: 0,
        }
    }

    /// The number of ejections that still count: each `base_ms` since its return takes one off.
    fn remembered(self, now_ns: u64, base_ms: u64) -> u64 {
        let back_ms = (now_ns / NS_PER_MS).saturating_sub(self.until_ms);
        self.times.saturating_sub(back_ms / base_ms.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = NS_PER_MS;
    const MIDDLE: u64 = JITTER; // leaves the length as without jitter

    fn settings() -> Settings {
        Settings::new(2, 10 * MS, 25 * MS, 50)
    }

    /// Ejection, implemented naively.
    #[derive(Clone, Debug, Default)]
    struct Oracle {
        row: u64,
        out_until: u64,
        aside: bool,
        times: u64,
    }

    impl Oracle {
        fn is_out(&self, now: u64) -> bool {
            now < self.out_until
        }

        fn failed(&mut self, now: u64, leave: Leave) {
            if self.is_out(now) {
                return;
            }
            self.row += 1;
            if self.row >= 2 && leave != Leave::Stay {
                self.aside = leave == Leave::Aside;
                let forgotten = (now - self.out_until) / 10;
                self.times = self.times.saturating_sub(forgotten) + 1;
                self.out_until = now + (10 * self.times).min(25);
                self.row = 0;
            }
        }
    }

    /// Checks every sequence of seven events against the oracle, after each event.
    #[test]
    fn every_short_history_is_the_oracles() {
        fn explore(word: u64, oracle: &Oracle, now: u64, depth: u32) -> u64 {
            let outlier = Outlier::unpack(word);
            assert_eq!(
                (outlier.is_out(now * MS), outlier.aside, settings().fails(outlier)),
                (oracle.is_out(now), oracle.aside, oracle.row >= 2),
                "{outlier:?} {oracle:?} {now}",
            );
            if depth == 0 {
                return 1;
            }
            let mut seen = 1;
            for leave in [Leave::Stay, Leave::Aside, Leave::Out] {
                let (cell, mut told) = (AtomicU64::new(word), oracle.clone());
                let before = told.out_until;
                told.failed(now, leave);
                assert_eq!(
                    failed(&cell, settings(), now * MS, MIDDLE, || leave),
                    told.out_until != before
                );
                seen += explore(cell.into_inner(), &told, now, depth - 1);
            }
            let (cell, mut told) = (AtomicU64::new(word), oracle.clone());
            told.row = 0;
            succeeded(&cell);
            seen += explore(cell.into_inner(), &told, now, depth - 1);
            for step in [1, 9, 21] {
                seen += explore(word, oracle, now + step, depth - 1);
            }
            seen
        }
        let seen = explore(0, &Oracle::default(), 100, 7);
        assert_eq!(seen, (0..=7).map(|depth| 7_u64.pow(depth)).sum::<u64>());
    }

    #[test]
    fn lengths_are_jittered_and_capped() {
        for jitter in [0, 1, 77, 300, 301, u64::MAX] {
            let word = AtomicU64::new(0);
            let eject = |now| (0..2).any(|_| failed(&word, settings(), now * MS, jitter, || Leave::Out));
            let mut now = 1000;
            for length in [10, 20, 25, 25] {
                assert!(eject(now));
                let until = Outlier::unpack(word.load(Ordering::Relaxed)).until_ms;
                let (low, high) = (now + length * 85 / 100, now + length * 115 / 100);
                assert!((low..=high).contains(&until), "{until} in {low} to {high}");
                now = until;
            }
        }
    }

    #[test]
    fn half_may_be_out_and_never_the_last() {
        let leave = |out, all| settings().leave(out, 1, all);
        assert_eq!([leave(0, 2), leave(1, 2)], [Leave::Out, Leave::Aside]);
        assert_eq!([leave(0, 3), leave(1, 3)], [Leave::Out, Leave::Aside]);
        assert_eq!([leave(1, 4), leave(2, 4)], [Leave::Out, Leave::Aside]);
        assert_eq!(Settings::new(1, 1, 1, 100).leave(3, 1, 4), Leave::Aside);
        // No other upstream answers, or no ejections are permitted.
        assert_eq!(settings().leave(0, 0, 2), Leave::Stay);
        assert_eq!(Settings::new(1, 1, 1, 0).leave(0, 1, 2), Leave::Stay);
    }

    #[test]
    fn a_rest_that_was_asked_for_counts_no_ejection_and_never_shortens_one() {
        let word = AtomicU64::new(0);
        assert!(rest(&word, 30 * MS, 100 * MS, || Leave::Out));
        let rested = Outlier::unpack(word.load(Ordering::Relaxed));
        assert_eq!((rested.until_ms, rested.asked, rested.times), (130, true, 0));
        assert!(!rest(&word, 5 * MS, 110 * MS, || Leave::Out));
        for may in [Leave::Stay, Leave::Aside] {
            assert!(!rest(&AtomicU64::new(0), 5 * MS, 0, || may));
        }
        // After its return, it is ejected as if for the first time.
        assert!((0..2).any(|_| failed(&word, settings(), 130 * MS, MIDDLE, || Leave::Out)));
        assert_eq!(Outlier::unpack(word.load(Ordering::Relaxed)).until_ms, 140);
    }
}
