//! Usage totals: a consumer of ended exchanges that sums them by principal, model and route.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::entry::{Charge, Consumer, Entry};
use crate::interner::stored;
use crate::segment::layout::{PRINCIPALS, SUMS, Sum};
use crate::segment::{LabelId, Segment};
use crate::sse::Usage;

/// A snapshot of one sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// Empty for an unknown principal; `None` for principals beyond `PRINCIPALS`.
    pub principal: Option<String>,
    /// The principal's tenant.
    pub tenant: String,
    /// `OTHER` for a model that the configuration does not name.
    pub model: LabelId,
    /// The route.
    pub route: LabelId,
    /// The number of exchanges.
    pub requests: u64,
    /// The tokens of the exchanges.
    pub usage: Usage,
    /// The cost, in micro-dollars.
    pub micros: u64,
    /// The number of exchanges with estimated tokens.
    pub estimated: u64,
}

/// The sums of a segment, for one process.
#[derive(Debug)]
pub struct UsageTable {
    segment: Arc<Segment>,
    /// The principals in the segment, by name, up to `read`: an index, because most users of a large gateway are not in
    /// the table, and to find that out by reading all of it would cost more than the exchange.
    known: HashMap<Box<[u8]>, u64>,
    /// The length of the part of the segment's table that was read. Names are never removed.
    read: usize,
    scratch: Vec<u8>,
}

const PROBES: usize = 32;
const OVERFLOW: usize = SUMS - 1;
// Separates a principal from its tenant: no header carries this character.
const SEPARATOR: char = '\u{1f}';
// Principals 0 and 1 have no name of their own.
const NOBODY: u64 = 0;
const OTHERS: u64 = 1;
const FIRST: usize = 2;

impl UsageTable {
    /// The sums kept in `segment`.
    #[must_use]
    pub fn new(segment: Arc<Segment>) -> Self {
        Self {
            segment,
            known: HashMap::new(),
            read: FIRST,
            scratch: Vec::new(),
        }
    }

    /// Every sum that is not empty.
    #[must_use]
    pub fn collect(&self) -> Vec<Used> {
        let sums = self.segment.layout().sums.iter().enumerate();
        sums.filter(|(_, sum)| sum.requests.load(Ordering::Relaxed) > 0)
            .map(|(slot, sum)| self.used(slot, sum))
            .collect()
    }

    fn used(&self, slot: usize, sum: &Sum) -> Used {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let key = sum.key.load(Ordering::Acquire);
        let number = if slot == OVERFLOW {
            OTHERS
        } else {
            key >> 22 & 0x1ff_ffff_ffff
        };
        let label = |shift: u32| match slot {
            OVERFLOW => LabelId::OTHER,
            _ => LabelId::new((key >> shift & 0x7ff) as u32),
        };
        let name = match number {
            NOBODY => Some(String::new()),
            OTHERS => None,
            _ => self.segment.layout().principals.name(number as usize),
        };
        let (principal, tenant) = match name.as_deref().and_then(|name| name.split_once(SEPARATOR)) {
            Some((principal, tenant)) => (Some(principal.to_owned()), tenant.to_owned()),
            None => (name, String::new()),
        };
        Used {
            principal,
            tenant,
            model: label(11),
            route: label(0),
            requests: count(&sum.requests),
            usage: Usage {
                tokens_in: count(&sum.tokens_in),
                tokens_out: count(&sum.tokens_out),
                tokens_cached: count(&sum.tokens_cached),
                tokens_reasoning: count(&sum.tokens_reasoning),
            },
            micros: count(&sum.micros),
            estimated: count(&sum.estimated),
        }
    }

    fn number(&mut self, principal: &str, tenant: &str) -> u64 {
        if principal.is_empty() {
            return NOBODY;
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(principal.as_bytes());
        self.scratch.push(SEPARATOR as u8);
        self.scratch.extend_from_slice(tenant.as_bytes());
        if let Some(&number) = self.known.get(self.scratch.as_slice()) {
            return number;
        }
        let name = String::from_utf8_lossy(&self.scratch).into_owned();
        let stored = stored(&name);
        self.read_on();
        if let Some(&number) = self.known.get(stored.as_bytes()) {
            return number;
        }
        if self.read == PRINCIPALS {
            return OTHERS;
        }
        let names = &self.segment.layout().principals;
        let found = names.intern(self.segment.hash_key(), &name, self.read);
        found.map_or(OTHERS, |index| index as u64)
    }

    /// Indexes the names that this or another process has added.
    fn read_on(&mut self) {
        let names = &self.segment.layout().principals;
        while let Some(name) = names.name(self.read) {
            self.known.insert(name.into_bytes().into(), self.read as u64);
            self.read += 1;
        }
    }

    /// The slot of a key's sum: its own, or the overflow slot.
    fn slot(&self, key: u64) -> usize {
        let sums = &self.segment.layout().sums;
        let home = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize;
        for slot in (home..home + PROBES).map(|probe| probe % OVERFLOW) {
            let present = sums[slot].key.load(Ordering::Relaxed);
            if present == key {
                return slot;
            }
            if present == 0 {
                match sums[slot]
                    .key
                    .compare_exchange(0, key, Ordering::AcqRel, Ordering::Acquire)
                {
                    Ok(_) => return slot,
                    Err(other) if other == key => return slot,
                    Err(_) => {}
                }
            }
        }
        OVERFLOW
    }
}

impl Consumer for UsageTable {
    fn enter(&mut self, entry: &Entry<'_>, charge: &Charge) -> usize {
        let number = self.number(entry.principal, entry.tenant);
        let key = 1 << 63 | number << 22 | u64::from(entry.model_label.get()) << 11 | u64::from(entry.route.get());
        let sum = &self.segment.layout().sums[self.slot(key)];
        let usage = &charge.usage;
        for (count, more) in [
            (&sum.requests, 1),
            (&sum.tokens_in, usage.tokens_in),
            (&sum.tokens_out, usage.tokens_out),
            (&sum.tokens_cached, usage.tokens_cached),
            (&sum.tokens_reasoning, usage.tokens_reasoning),
            (&sum.micros, charge.micros()),
            (&sum.estimated, u64::from(charge.is_estimated)),
        ] {
            if more > 0 {
                count.fetch_add(more, Ordering::Relaxed);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(table: &mut UsageTable, principal: &str, tenant: &str, (tokens_in, tokens_out): (u64, u64), micros: u64) {
        let entry = Entry {
            principal,
            tenant,
            model_label: LabelId::new(3),
            route: LabelId::new(2047),
            ..Entry::default()
        };
        let usage = Usage {
            tokens_in,
            tokens_out,
            ..Usage::default()
        };
        let charge = Charge {
            usage,
            is_estimated: micros == 6,
            cost_micros: Some(micros),
        };
        assert_eq!(table.enter(&entry, &charge), 0);
    }

    #[test]
    fn processes_add_up_by_principal_model_and_route() {
        let one = Arc::new(Segment::new(1).unwrap());
        let two = Arc::new(Segment::attach(one.fd()).unwrap());
        let (mut one, mut two) = (UsageTable::new(one), UsageTable::new(two));
        let (model, route) = (LabelId::new(3), LabelId::new(2047));
        add(&mut one, "anna", "a", (1, 2), 5);
        add(&mut two, "anna", "a", (10, 20), 6);
        add(&mut two, "anna", "b", (100, 0), 0);
        add(&mut one, "", "", (0, 0), 0);
        let mut all = one.collect();
        all.sort_by_key(|used| (used.principal.clone(), used.tenant.clone()));
        let told: Vec<_> = all
            .iter()
            .map(|used| {
                let name = used.principal.as_deref().unwrap_or("-");
                (
                    name,
                    used.tenant.as_str(),
                    used.requests,
                    used.usage.tokens_in,
                    used.micros,
                    used.estimated,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("", "", 1, 0, 0, 0),
                ("anna", "a", 2, 11, 11, 1),
                ("anna", "b", 1, 100, 0, 0)
            ]
        );
        assert!(all.iter().all(|used| used.model == model && used.route == route));
    }

    #[test]
    fn a_name_of_another_process_and_a_long_one_are_found_again() {
        let one = Arc::new(Segment::new(1).unwrap());
        let two = Arc::new(Segment::attach(one.fd()).unwrap());
        let (mut one, mut two) = (UsageTable::new(one), UsageTable::new(two));
        let long = "x".repeat(300);
        for _ in 0..3 {
            for name in ["anna", &*long] {
                add(&mut one, name, "", (1, 0), 0);
                add(&mut two, name, "", (1, 0), 0);
            }
            add(&mut two, "bob", "", (1, 0), 0);
        }
        let mut counts: Vec<_> = one.collect().iter().map(|used| used.requests).collect();
        counts.sort_unstable();
        assert_eq!(counts, [3, 6, 6]);
    }

    #[test]
    fn late_principals_are_counted_together() {
        let mut table = UsageTable::new(Arc::new(Segment::new(1).unwrap()));
        for number in 0..2 * PRINCIPALS {
            let name = number.to_string();
            add(&mut table, &name, "", (1, 0), 0);
        }
        let all = table.collect();
        let tokens = |used: &Used| used.usage.tokens_in;
        assert_eq!(all.iter().map(tokens).sum::<u64>(), 2 * PRINCIPALS as u64);
        assert!(all.len() > PRINCIPALS / 2 && all.len() <= PRINCIPALS + 2);
        assert!(
            all.iter()
                .any(|used| used.principal.is_none() && tokens(used) >= PRINCIPALS as u64)
        );
    }
}
