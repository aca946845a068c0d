//! Handover of counters to a gateway that takes over, while this one still finishes its exchanges.
//!
//! ```text
//! "budgmove" | limit key, 2 words | then by change: kind, hash, amount (a word each, little-endian)
//! ```
//!
//! The first changes of a ledger are everything counted so far; later ones are the debits and credits since then. Both
//! gateways run on one machine and read one monotonic clock, so a bucket's time means the same in both. A debit from a
//! bucket that had been full is only known to the precision of the time between two calls, and the larger amount is
//! used.

use std::collections::HashMap;
use std::sync::Arc;

use super::budget::{self, is_over};
use super::cells::Change;
use super::rate::{self, to_units};
use super::state::StateError;
use super::{Bucket, lease};
use crate::segment::{Segment, Worker};

const MAGIC: u64 = u64::from_le_bytes(*b"budgmove");

const RATE_DEBIT: u64 = 1;
const RATE_CREDIT: u64 = 2;
const SPENT: u64 = 3;
const GIVEN_BACK: u64 = 4;
// Not a change, but the number of running exchanges.
const RUNNING: u64 = 5;

/// The counters at the time of the last call.
#[derive(Debug)]
pub struct Ledger {
    segment: Arc<Segment>,
    looked: u64,
    rates: HashMap<u64, u64>,
    budgets: HashMap<u64, u64>,
    leases: HashMap<u64, u32>,
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new(segment: Arc<Segment>) -> Self {
        Self {
            segment,
            looked: 0,
            rates: HashMap::new(),
            budgets: HashMap::new(),
            leases: HashMap::new(),
        }
    }

    /// The changes since the last call, or everything at first. `None` when there are none.
    pub fn changes(&mut self, now_ns: u64, today: u32) -> Option<Vec<u8>> {
        let is_first = self.looked == 0;
        let mut words = vec![];
        self.look_at_rates(now_ns, &mut words);
        self.look_at_budgets(today, &mut words);
        self.look_at_leases(&mut words);
        if words.is_empty() && !is_first {
            return None;
        }
        let key = self.segment.limit_key();
        let head = [MAGIC, key.0, key.1];
        Some(head.into_iter().chain(words).flat_map(u64::to_le_bytes).collect())
    }

    fn look_at_rates(&mut self, now_ns: u64, words: &mut Vec<u64>) {
        let (now, looked) = (to_units(now_ns).max(1), self.looked);
        let mut seen = HashMap::new();
        for (hash, time) in self.segment.layout().cell_sets.iter().flat_map(|set| set.entries()) {
            let before = self.rates.get(&hash).copied().unwrap_or(0);
            if before > looked && time < before {
                words.extend([RATE_CREDIT, hash, before - time]);
            } else if looked == 0 && time > now {
                words.extend([RATE_DEBIT, hash, time - now]);
            } else if looked > 0 && time > before.max(looked) {
                words.extend([RATE_DEBIT, hash, time - before.max(looked)]);
            }
            if time > now {
                seen.insert(hash, time);
            }
        }
        self.rates = seen;
        self.looked = now;
    }

    fn look_at_budgets(&mut self, today: u32, words: &mut Vec<u64>) {
        let mut seen = HashMap::new();
        for (hash, value) in self.segment.layout().budget_sets.iter().flat_map(|set| set.entries()) {
            if is_over(value, today) {
                continue;
            }
            let before = self
                .budgets
                .get(&hash)
                .map_or(0, |&before| budget::spent_before(before, value));
            let spent = budget::spent(value);
            if spent > before {
                words.extend([SPENT, hash, budget::with_spent(value, spent - before)]);
            } else if spent < before {
                words.extend([GIVEN_BACK, hash, budget::with_spent(value, before - spent)]);
            }
            seen.insert(hash, value);
        }
        self.budgets = seen;
    }

    fn look_at_leases(&mut self, words: &mut Vec<u64>) {
        let seen: HashMap<u64, u32> = lease::held(&self.segment).collect();
        for (&hash, &count) in &seen {
            if self.leases.get(&hash) != Some(&count) {
                words.extend([RUNNING, hash, u64::from(count)]);
            }
        }
        for &hash in self.leases.keys().filter(|hash| !seen.contains_key(hash)) {
            words.extend([RUNNING, hash, 0]);
        }
        self.leases = seen;
    }
}

/// Applies another gateway's changes. The first time must precede any limit created here, because keys are hashed with
/// its secret from then on. `guest` is a row in which the other gateway's running exchanges count as running here;
/// without one, they do not count.
pub fn count(
    segment: &Segment,
    guest: Option<Worker>,
    changes: &[u8],
    now_ns: u64,
    today: u32,
) -> Result<(), StateError> {
    let words: Vec<u64> = changes
        .chunks_exact(8)
        .map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap_or_default()))
        .collect();
    let (Some(&[MAGIC, first, second]), true) = (words.first_chunk::<3>(), changes.len().is_multiple_of(24)) else {
        return Err(StateError);
    };
    segment.set_limit_key(first, second);
    let now = to_units(now_ns);
    for change in words.get(3..).unwrap_or_default().chunks_exact(3) {
        let &[kind, hash, amount] = change else { continue };
        match kind {
            RATE_DEBIT => {
                let debited = |time: u64| Some(time.max(now).saturating_add(amount));
                let _: Change = rate::cells_of(segment, hash).change(hash, now_ns, Bucket::need(now), debited);
            }
            RATE_CREDIT => rate::cells_of(segment, hash).adjust(hash, |time| Some(time.saturating_sub(amount))),
            SPENT if !is_over(amount, today) => {
                let spent = |value| Some(budget::joined(value, amount));
                let _: Change = budget::cells_of(segment, hash).change(hash, now_ns, budget::spent, spent);
            }
            GIVEN_BACK => budget::cells_of(segment, hash).adjust(hash, |value| Some(budget::less(value, amount))),
            RUNNING => {
                if let Some(guest) = guest {
                    let count = u32::try_from(amount).unwrap_or(u32::MAX);
                    lease::set(segment, guest, hash, count, now_ns);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Ask, Asker, Budget, Limits, Period, Rule, Unit, by};
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const TODAY: u32 = 20_780;

    fn rules() -> [(&'static str, u8, Rule); 3] {
        [
            (
                "minute",
                by::USER,
                Rule::Rate(Unit::Requests, Bucket::new(60, 60, 10).unwrap()),
            ),
            (
                "money",
                by::USER,
                Rule::Spend(Budget::new(1000, Period::Month).unwrap()),
            ),
            ("at once", by::USER, Rule::Concurrency(3)),
        ]
    }

    fn anna() -> Asker<'static> {
        Asker {
            user: b"anna",
            ..Asker::default()
        }
    }

    fn ask(now_s: u64, micros: u64) -> Ask {
        Ask {
            micros: Some(micros),
            now_ns: now_s * SECOND,
            today: TODAY,
            ..Ask::default()
        }
    }

    fn move_on(ledger: &mut Ledger, to: &Segment, now_s: u64) {
        if let Some(changes) = ledger.changes(now_s * SECOND, TODAY) {
            count(to, Some(to.worker(1).unwrap()), &changes, now_s * SECOND, TODAY).unwrap();
        }
    }

    #[test]
    fn what_both_count_is_counted_together() {
        let (before, after) = (Arc::new(Segment::new(2).unwrap()), Arc::new(Segment::new(2).unwrap()));
        let old = Limits::new(before.clone(), 0, &rules()).unwrap();
        let running: Vec<_> = (0..3).map(|_| old.decide(&anna(), &ask(100, 100)).unwrap()).collect();
        let mut ledger = Ledger::new(before);
        move_on(&mut ledger, &after, 100);
        let new = Limits::new(after.clone(), 0, &rules()).unwrap();
        assert_eq!(
            new.decide(&anna(), &ask(100, 1)).unwrap_err().limit,
            2,
            "all three run there"
        );
        for reservation in &running {
            old.settle(reservation, 0, 50, 100 * SECOND);
        }
        move_on(&mut ledger, &after, 100);
        assert!(ledger.changes(100 * SECOND, TODAY).is_none());
        // 150 of 1000 are spent, 3 of 10 requests made.
        assert_eq!(new.decide(&anna(), &ask(100, 851)).unwrap_err().limit, 1);
        for _ in 0..7 {
            new.settle(&new.decide(&anna(), &ask(100, 0)).unwrap(), 0, 0, 100 * SECOND);
        }
        assert_eq!(new.decide(&anna(), &ask(100, 0)).unwrap_err().limit, 0);
        // A fourth request there, a second later, counts here too.
        old.settle(&old.decide(&anna(), &ask(101, 7)).unwrap(), 0, 7, 101 * SECOND);
        move_on(&mut ledger, &after, 101);
        assert_eq!(new.decide(&anna(), &ask(101, 0)).unwrap_err().limit, 0);
        let reservation = new.decide(&anna(), &ask(102, 843)).unwrap();
        new.settle(&reservation, 0, 0, 102 * SECOND);
    }

    #[test]
    fn what_was_reserved_there_is_given_back_here() {
        let (before, after) = (Arc::new(Segment::new(2).unwrap()), Arc::new(Segment::new(2).unwrap()));
        let old = Limits::new(before.clone(), 0, &rules()).unwrap();
        let reservation = old.decide(&anna(), &ask(100, 900)).unwrap();
        let mut ledger = Ledger::new(before);
        move_on(&mut ledger, &after, 100);
        let new = Limits::new(after.clone(), 0, &rules()).unwrap();
        assert_eq!(new.decide(&anna(), &ask(100, 101)).unwrap_err().limit, 1);
        old.settle(&reservation, 0, 10, 100 * SECOND);
        move_on(&mut ledger, &after, 100);
        assert!(new.decide(&anna(), &ask(100, 990)).is_ok());
    }

    #[test]
    fn other_bytes_are_refused() {
        for wrong in [&b""[..], b"budgmove", &[0; 24], &[0; 48]] {
            assert!(count(&Segment::new(1).unwrap(), None, wrong, 0, 0).is_err());
        }
    }
}
