//! What outlives a gateway: budgets, and rates that take long to refill, as bytes.
//!
//! ```text
//! "budgate1" | limit key, 2 words | unix time | then by cell: kind, hash, value (a word each, little-endian)
//! ```
//!
//! A rate's value is the time that its bucket still needed; a budget's is the cell's own. Hashes go with the key.

use super::Bucket;
use super::budget::{self, is_over};
use super::cells::Change;
use super::rate::{self, to_ns, to_units};
use crate::segment::Segment;

const MAGIC: u64 = u64::from_le_bytes(*b"budgate1");
const RATE: u64 = 1;
const BUDGET: u64 = 2;
// What is full again before a restart is over need not be kept.
const LONG_NS: u64 = 10_000_000_000;

/// Why bytes are no state.
#[derive(Debug, thiserror::Error)]
#[error("not the state of limits, or of another version")]
pub struct StateError;

/// All budgets of running periods, and all buckets that need more than ten seconds to be full.
#[must_use]
pub fn save(segment: &Segment, now_ns: u64, unix_s: u64, today: u32) -> Vec<u8> {
    let layout = segment.layout();
    let key = segment.limit_key();
    let mut words = vec![MAGIC, key.0, key.1, unix_s];
    for (hash, time) in layout.cell_sets.iter().flat_map(|set| set.entries()) {
        let left_ns = to_ns(time.saturating_sub(to_units(now_ns)));
        if left_ns > LONG_NS {
            words.extend([RATE, hash, left_ns]);
        }
    }
    for (hash, value) in layout.budget_sets.iter().flat_map(|set| set.entries()) {
        if !is_over(value, today) {
            words.extend([BUDGET, hash, value]);
        }
    }
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// Puts into a new segment what `save` made; nothing may have counted in it before.
pub fn load(segment: &Segment, state: &[u8], now_ns: u64, unix_s: u64, today: u32) -> Result<(), StateError> {
    let words: Vec<u64> = state
        .chunks_exact(8)
        .map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap_or_default()))
        .collect();
    let (Some(&[MAGIC, first, second, then_s]), true) = (words.first_chunk::<4>(), state.len().is_multiple_of(8))
    else {
        return Err(StateError);
    };
    segment.set_limit_key(first, second);
    let away_ns = unix_s.saturating_sub(then_s).saturating_mul(1_000_000_000);
    let now = to_units(now_ns);
    for cell in words.get(4..).unwrap_or_default().chunks_exact(3) {
        let &[kind, hash, value] = cell else { continue };
        let _: Change = match kind {
            RATE if value > away_ns => {
                let time = now.saturating_add(to_units(value - away_ns));
                rate::cells_of(segment, hash).change(hash, now_ns, Bucket::need(now), |_| Some(time))
            }
            BUDGET if !is_over(value, today) => {
                budget::cells_of(segment, hash).change(hash, now_ns, |value| value & 0xfff_ffff, |_| Some(value))
            }
            _ => continue,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Ask, Asker, Budget, Limits, Period, Rule, Unit, by};
    use super::*;

    const SECOND: u64 = 1_000_000_000;

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
            let grant = limits.decide(&anna, &ask(1000, 10)).unwrap();
            limits.settle(&grant, 0, 10, 0);
        }
        let state = save(&before, 1000 * SECOND, 5_000_000, 20_780);
        // Another boot, another clock; a second later.
        let after = Arc::new(Segment::new(1).unwrap());
        load(&after, &state, 7 * SECOND, 5_000_001, 20_780).unwrap();
        let limits = Limits::new(after, 0, &rules).unwrap();
        assert_eq!(limits.decide(&anna, &ask(7, 951)).unwrap_err().limit, 2);
        assert!(limits.decide(&anna, &ask(7, 950)).is_ok());
        for wrong in [&b""[..], b"budgate1", &[0; 64], &state[..state.len() - 1]] {
            assert!(load(&Segment::new(1).unwrap(), wrong, 0, 0, 0).is_err());
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
        let state = save(&before, 50 * SECOND, 100, 0);
        let after = Arc::new(Segment::new(1).unwrap());
        load(&after, &state, 900 * SECOND, 120, 0).unwrap();
        let limits = Limits::new(after, 0, &[rule("a")]).unwrap();
        // Twenty seconds away: twenty are there again.
        let admitted = (0..100)
            .filter(|_| limits.decide(&Asker::default(), &ask(900)).is_ok())
            .count();
        assert_eq!(admitted, 20);
    }
}
