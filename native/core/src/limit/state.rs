//! State that outlives a gateway, as bytes: budgets, and rates that take long to refill.
//!
//! ```text
//! "budgate2" | limit key, 2 words | unix time | boot, 2 words | time since it | seconds that the wall clock was set back by
//! then by cell: kind, hash, value
//! ```
//!
//! Words are little-endian. A rate's value is the time that its bucket still needed; a budget's is the cell itself.
//! Hashes are made with the limit key. The format "budgate1" recorded no boots.

use super::Bucket;
use super::budget::{self, Budget, carry};
use super::cells::Change;
use super::rate::{self, to_ns, to_units};
use crate::segment::Segment;

const MAGIC: u64 = u64::from_le_bytes(*b"budgate2");
const FORMER: u64 = u64::from_le_bytes(*b"budgate1");
const RATE: u64 = 1;
const BUDGET: u64 = 2;
// A bucket that is full again before a restart is over need not be saved.
const LONG_NS: u64 = 10_000_000_000;
const S_PER_DAY: u64 = 86_400;
// Clock discipline moves the clock by less than this against the time since boot.
const STEP_S: i64 = 2;

/// The error for bytes that are not a state.
#[derive(Debug, thiserror::Error)]
#[error("not the state of limits, or of another version")]
pub struct StateError;

/// Readings of all clocks at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clocks {
    /// The clock of limits: nanoseconds from an arbitrary origin.
    pub now_ns: u64,
    /// The wall clock's seconds since 1970, which may be wrong.
    pub unix_s: u64,
    /// The id of the machine's boot; zero when unknown.
    pub boot: [u64; 2],
    /// Nanoseconds since that boot, including suspension.
    pub since_boot_ns: u64,
    /// Seconds by which the wall clock was recently set back, negative: forward; steps that cancel out are not counted.
    pub behind_s: i64,
}

/// The step of the wall clock between `save` and `load`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Seconds that it was set by; 0: none.
    pub by_s: i64,
    /// As in `Clocks`, from here on.
    pub behind_s: i64,
}

impl Clocks {
    /// The time that has passed since `then`.
    fn away_ns(&self, then: &Self) -> u64 {
        if self.boot == then.boot && self.boot != [0; 2] && self.since_boot_ns >= then.since_boot_ns {
            return self.since_boot_ns - then.since_boot_ns;
        }
        let passed_s = self.unix_s.saturating_sub(then.unix_s);
        // Assumes that the clock has been corrected since, rather than that the gateway was away for that long.
        let behind_s = u64::try_from(then.behind_s).unwrap_or(0);
        let passed_s = passed_s.checked_sub(behind_s).unwrap_or(passed_s);
        passed_s.saturating_mul(1_000_000_000)
    }

    /// Whole days since 1970, by the wall clock.
    #[must_use]
    pub fn today(&self) -> u32 {
        u32::try_from(self.unix_s / S_PER_DAY).unwrap_or(u32::MAX / 2)
    }
}

/// Saves all budgets, and all buckets that need more than ten seconds to be full. This includes budgets that are over:
/// with a wall clock that is wrong for one start, all of them appear to be.
#[must_use]
pub fn save(segment: &Segment, clocks: &Clocks) -> Vec<u8> {
    let layout = segment.layout();
    let key = segment.limit_key();
    let [boot, more] = clocks.boot;
    let mut words = vec![
        MAGIC,
        key.0,
        key.1,
        clocks.unix_s,
        boot,
        more,
        clocks.since_boot_ns,
        clocks.behind_s.cast_unsigned(),
    ];
    for (hash, time) in layout.cell_sets.iter().flat_map(|set| set.entries()) {
        let left_ns = to_ns(time.saturating_sub(to_units(clocks.now_ns)));
        if left_ns > LONG_NS {
            words.extend([RATE, hash, left_ns]);
        }
    }
    for (hash, value) in layout.budget_sets.iter().flat_map(|set| set.entries()) {
        words.extend([BUDGET, hash, value]);
    }
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// Loads a state of `save` into a new segment, in which nothing may have been counted. Returns the step of the wall
/// clock in the meantime, as far as it can be known. Within one boot, the time that has passed is known. Between boots,
/// a clock that went back was set; one that went forward is trusted, except for the amount by which it had been set
/// back before. A clock that was set restarts no budget.
pub fn load(segment: &Segment, state: &[u8], clocks: &Clocks) -> Result<Step, StateError> {
    let words: Vec<u64> = state
        .chunks_exact(8)
        .map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap_or_default()))
        .collect();
    let (key, then, cells) = match *words {
        [
            MAGIC,
            first,
            second,
            unix_s,
            boot,
            more,
            since_boot_ns,
            behind_s,
            ref cells @ ..,
        ] => {
            let boot = [boot, more];
            (
                (first, second),
                Clocks {
                    now_ns: 0,
                    unix_s,
                    boot,
                    since_boot_ns,
                    behind_s: behind_s.cast_signed(),
                },
                cells,
            )
        }
        [FORMER, first, second, unix_s, ref cells @ ..] => (
            (first, second),
            Clocks {
                unix_s,
                ..Clocks::default()
            },
            cells,
        ),
        _ => return Err(StateError),
    };
    if !state.len().is_multiple_of(8) {
        return Err(StateError);
    }
    segment.set_limit_key(key.0, key.1);
    let away_ns = clocks.away_ns(&then);
    // The wall clock's reading if nobody had set it.
    let due = Clocks {
        unix_s: then.unix_s.saturating_add(away_ns / 1_000_000_000),
        ..*clocks
    };
    let now = to_units(clocks.now_ns);
    for cell in cells.chunks_exact(3) {
        let &[kind, hash, value] = cell else { continue };
        let _: Change = match kind {
            RATE if value > away_ns => {
                let time = now.saturating_add(to_units(value - away_ns));
                rate::cells_of(segment, hash).change(hash, clocks.now_ns, Bucket::need(now), |_| Some(time))
            }
            BUDGET => {
                let need = Budget::need(due.today());
                budget::cells_of(segment, hash).change(hash, clocks.now_ns, need, |_| Some(value))
            }
            _ => continue,
        };
    }
    let by_s = clocks.unix_s.cast_signed().saturating_sub(due.unix_s.cast_signed());
    if by_s.abs() <= STEP_S {
        return Ok(Step {
            by_s: 0,
            behind_s: then.behind_s,
        });
    }
    carry(segment, due.today(), clocks.today());
    let behind_s = then.behind_s.saturating_sub(by_s);
    Ok(Step { by_s, behind_s })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Ask, Asker, Budget, Limits, Period, Rule, Unit, by};
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const DAY: u64 = 86_400;
    const NOON: u64 = 20_780 * DAY + DAY / 2;

    /// Clocks with boots that cannot be distinguished.
    fn at(now_s: u64, unix_s: u64) -> Clocks {
        Clocks {
            now_ns: now_s * SECOND,
            unix_s,
            ..Clocks::default()
        }
    }

    /// Clocks of a numbered boot.
    fn booted(boot: u64, since_s: u64, unix_s: u64) -> Clocks {
        Clocks {
            boot: [boot, 1],
            since_boot_ns: since_s * SECOND,
            ..at(since_s, unix_s)
        }
    }

    /// Starts a gateway with a state and spends. Returns the clock's step, one flag per budget that allowed it, and the
    /// state that the gateway leaves.
    fn start(state: &[u8], clocks: &Clocks, micros: u64) -> (i64, [bool; 3], Vec<u8>) {
        let segment = Arc::new(Segment::new(1).unwrap());
        let step = if state.is_empty() {
            Step { by_s: 0, behind_s: 0 }
        } else {
            load(&segment, state, clocks).unwrap()
        };
        let spent = [Period::Day, Period::Week, Period::Month].map(|period| {
            let rule = Rule::Spend(Budget::new(100, period).unwrap());
            let name = format!("{period:?}");
            let limits = Limits::new(segment.clone(), 0, &[(name.as_str(), by::USER, rule)]).unwrap();
            let ask = Ask {
                micros: Some(micros),
                now_ns: clocks.now_ns,
                today: clocks.today(),
                ..Ask::default()
            };
            let anna = Asker {
                user: b"anna",
                ..Asker::default()
            };
            let reservation = limits.decide(&anna, &ask);
            if let Ok(reservation) = &reservation {
                limits.settle(reservation, 0, micros, 0);
            }
            reservation.is_ok()
        });
        let after = Clocks {
            behind_s: step.behind_s,
            ..*clocks
        };
        (step.by_s, spent, save(&segment, &after))
    }

    #[test]
    fn a_wall_clock_that_is_wrong_for_one_start_begins_no_budget_anew() {
        let back_and_ahead = [
            NOON - 50 * DAY,
            NOON - DAY,
            0,
            1_000_000,
            NOON + DAY,
            NOON + 500 * DAY,
            NOON + 20_000 * DAY,
        ];
        for wrong_s in back_and_ahead {
            let (_, all, first) = start(&[], &booted(1, 100, NOON), 60);
            assert_eq!(all, [true; 3]);
            // Within one boot, the time that has passed is known.
            let (step_s, all, second) = start(&first, &booted(1, 110, wrong_s), 30);
            assert_eq!(
                (step_s, all),
                (wrong_s as i64 - NOON as i64 - 10, [true; 3]),
                "{wrong_s}"
            );
            let (_, all, third) = start(&second, &booted(1, 120, NOON + 20), 11);
            assert_eq!(all, [false; 3], "{wrong_s}");
            assert_eq!(start(&third, &booted(1, 130, NOON + 30), 10).1, [true; 3]);
            // By the next boot, the clock was right, or still wrong.
            assert_eq!(start(&second, &booted(2, 5, NOON + 20), 11).1, [false; 3], "{wrong_s}");
        }
        for wrong_s in back_and_ahead {
            // A boot with a wrong clock proves nothing; a client without spending in it has lost nothing.
            let (_, _, first) = start(&[], &booted(1, 100, NOON), 60);
            let idle = Segment::new(1).unwrap();
            let mut clocks = booted(2, 5, wrong_s);
            clocks.behind_s = load(&idle, &first, &clocks).unwrap().behind_s;
            let second = save(&idle, &clocks);
            assert_eq!(start(&second, &booted(3, 5, NOON + 60), 41).1, [false; 3], "{wrong_s}");
            assert_eq!(start(&second, &booted(3, 5, NOON + 60), 40).1, [true; 3], "{wrong_s}");
        }
    }

    #[test]
    fn time_that_passes_begins_budgets_anew() {
        for boot in [1, 2] {
            let (_, _, state) = start(&[], &booted(1, 100, NOON), 60);
            let later = |days: u64| booted(boot, 100 + days * DAY, NOON + days * DAY);
            assert_eq!(start(&state, &later(0), 60).1, [false; 3]);
            assert_eq!(start(&state, &later(1), 60).1, [true, false, false]);
            assert_eq!(start(&state, &later(7), 60).1, [true, true, false]);
            let (step_s, all, _) = start(&state, &later(8), 60);
            assert_eq!((step_s, all), (0, [true; 3]));
        }
    }

    #[test]
    fn the_former_version_is_read() {
        let (_, _, state) = start(&[], &at(100, NOON), 60);
        let mut former = state[..32].to_vec();
        former[..8].copy_from_slice(b"budgate1");
        for cell in state[64..].chunks(24) {
            former.extend(&cell[..16]);
            let value = u64::from_le_bytes(cell[16..].try_into().unwrap());
            former.extend((value & u64::MAX >> 2).to_le_bytes());
        }
        assert_eq!(start(&former, &at(100, NOON), 41).1, [false; 3]);
        assert_eq!(start(&former, &at(100, NOON + DAY), 41).1, [true, false, false]);
    }

    #[test]
    fn a_long_rate_goes_by_the_time_that_has_passed() {
        let rule = ("a", 0, Rule::Rate(Unit::Requests, Bucket::new(60, 60, 100).unwrap()));
        let ask = |now_s: u64| Ask {
            now_ns: now_s * SECOND,
            ..Ask::default()
        };
        for wrong_s in [0, NOON - DAY, NOON + 20, NOON + DAY] {
            let before = Arc::new(Segment::new(1).unwrap());
            let limits = Limits::new(before.clone(), 0, &[rule]).unwrap();
            while limits.decide(&Asker::default(), &ask(50)).is_ok() {}
            let state = save(&before, &booted(1, 50, NOON));
            let after = Arc::new(Segment::new(1).unwrap());
            load(&after, &state, &booted(1, 70, wrong_s)).unwrap();
            let limits = Limits::new(after, 0, &[rule]).unwrap();
            let admitted = (0..100)
                .filter(|_| limits.decide(&Asker::default(), &ask(70)).is_ok())
                .count();
            assert_eq!(admitted, 20, "{wrong_s}");
        }
    }

    #[test]
    fn budgets_and_long_rates_go_on_after_a_restart() {
        let rules = [
            (
                "day",
                by::USER,
                Rule::Rate(Unit::Requests, Bucket::new(86_400, 86_400, 100).unwrap()),
            ),
            (
                "minute",
                by::USER,
                Rule::Rate(Unit::Requests, Bucket::new(60, 60, 5).unwrap()),
            ),
            (
                "money",
                by::USER,
                Rule::Spend(Budget::new(1000, Period::Month).unwrap()),
            ),
        ];
        let anna = Asker {
            user: b"anna",
            ..Asker::default()
        };
        let ask = |now_s: u64, micros| Ask {
            micros: Some(micros),
            now_ns: now_s * SECOND,
            today: 20_780,
            ..Ask::default()
        };
        let before = Arc::new(Segment::new(1).unwrap());
        let limits = Limits::new(before.clone(), 0, &rules).unwrap();
        for _ in 0..5 {
            let reservation = limits.decide(&anna, &ask(1000, 10)).unwrap();
            limits.settle(&reservation, 0, 10, 0);
        }
        let state = save(&before, &at(1000, 5_000_000));
        // Another boot, another clock; a second later.
        let after = Arc::new(Segment::new(1).unwrap());
        assert_eq!(load(&after, &state, &at(7, 5_000_001)).unwrap().by_s, 0);
        let limits = Limits::new(after, 0, &rules).unwrap();
        assert_eq!(limits.decide(&anna, &ask(7, 951)).unwrap_err().limit, 2);
        assert!(limits.decide(&anna, &ask(7, 950)).is_ok());
        for wrong in [&b""[..], b"budgate1", &[0; 64], &state[..state.len() - 1]] {
            assert!(load(&Segment::new(1).unwrap(), wrong, &at(0, 0)).is_err());
        }
    }

    #[test]
    fn a_long_rate_is_kept_to_the_second() {
        let rule = |name| (name, 0, Rule::Rate(Unit::Requests, Bucket::new(60, 60, 100).unwrap()));
        let ask = |now_s: u64| Ask {
            now_ns: now_s * SECOND,
            ..Ask::default()
        };
        let before = Arc::new(Segment::new(1).unwrap());
        let limits = Limits::new(before.clone(), 0, &[rule("a")]).unwrap();
        for _ in 0..100 {
            limits.decide(&Asker::default(), &ask(50)).unwrap();
        }
        let state = save(&before, &at(50, 100));
        let after = Arc::new(Segment::new(1).unwrap());
        load(&after, &state, &at(900, 120)).unwrap();
        let limits = Limits::new(after, 0, &[rule("a")]).unwrap();
        // Twenty seconds away: twenty tokens are back.
        let admitted = (0..100)
            .filter(|_| limits.decide(&Asker::default(), &ask(900)).is_ok())
            .count();
        assert_eq!(admitted, 20);
    }
}
