//! One decision over all limits of an exchange: all or nothing; and the guard that settles it.
//!
//! First, all limits are checked, and nothing is debited when one of them refuses. Then each is debited in turn; should
//! one refuse after all, because another process was faster in those nanoseconds, the debits before it are given back.
//! Every single debit is exact, so no limit is ever exceeded, not even briefly. Until it is given back, a debit is
//! unavailable to others: at worst, one refused request causes a simultaneous one to be refused too.

use std::cell::Cell;
use std::sync::Arc;

use smallvec::SmallVec;

use super::budget::{self, Budget};
use super::cells::Change;
use super::lease::{self, Lease};
use super::rate::{self, Bucket, to_units};
use super::refusal::{LimitState, Refusal};
use super::refusal::{busy, concurrency_refusal, rate_refusal, rate_state, spend_refusal};
use super::{LimitError, MAX_LIMITS};
use crate::segment::{Segment, Worker};

/// The properties that a limit counts by: bits, in any combination; no bits count everybody together.
pub mod by {
    /// The principal, or the client's address while no principal is known.
    pub const USER: u8 = 1;
    /// The credential.
    pub const KEY: u8 = 2;
    /// The principal's tenant.
    pub const TENANT: u8 = 4;
    /// The model as named by the client.
    pub const MODEL: u8 = 8;
    /// The route.
    pub const ROUTE: u8 = 16;
    /// The client's address.
    pub const ADDRESS: u8 = 32;
}

const SUBJECT_PARTS: usize = 6;

/// The unit of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// One per exchange.
    Requests,
    /// Input and output tokens together.
    Tokens,
}

/// The method of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A bucket that refills.
    Rate(Unit, Bucket),
    /// Maximum exchanges at a time.
    Concurrency(u32),
    /// Micro-dollars per period.
    Spend(Budget),
}

/// All limits on one kind of exchange, for one worker.
#[derive(Debug)]
pub struct Limits {
    segment: Arc<Segment>,
    worker: Worker,
    limits: Box<[Limit]>,
    /// The different subjects that they count by.
    subjects: Box<[u8]>,
}

#[derive(Debug)]
struct Limit {
    rule: Rule,
    /// Index in `subjects`.
    subject: u8,
    /// Distinguishes this limit's cell from others of the same subject.
    key: u64,
}

/// The properties of an exchange that limits count by. A limit ignores an exchange without the property that it counts
/// by.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "see `by`")]
pub struct Asker<'a> {
    pub user: &'a [u8],
    pub key: &'a [u8],
    pub tenant: &'a [u8],
    pub model: &'a [u8],
    pub route: &'a [u8],
    pub address: &'a [u8],
}

/// The amounts to debit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask {
    /// Input tokens: an estimate. Estimates are capped at a whole bucket or budget, because an estimate must not make a
    /// request impossible.
    pub prompt: u64,
    /// Maximum output tokens.
    pub output: u64,
    /// True when the client set the output; otherwise that is an estimate, too.
    pub is_firm: bool,
    /// The cost of both: an estimate. `None`: budgets are not checked, not even a used-up one.
    pub micros: Option<u64>,
    /// Monotonic nanoseconds.
    pub now_ns: u64,
    /// Days since 1970-01-01, UTC.
    pub today: u32,
}

/// The debits of one exchange until it is settled.
#[derive(Debug)]
pub struct Reservation {
    held: SmallVec<[Held; 6]>,
    /// The state of the request limit with the least left.
    pub requests: Option<LimitState>,
    /// The state of the token limit with the least left.
    pub tokens: Option<LimitState>,
}

#[derive(Clone, Copy, Debug)]
enum Held {
    Requests {
        hash: u64,
        limit: u8,
    },
    Tokens {
        hash: u64,
        limit: u8,
        amount: u64,
    },
    /// A debit by `follow`, which never goes into debt.
    Followed {
        hash: u64,
        limit: u8,
        amount: u64,
        unit: Unit,
    },
    Lease {
        lease: Lease,
        limit: u8,
    },
    Spend {
        hash: u64,
        limit: u8,
        end: u32,
        amount: u64,
    },
}

impl Reservation {
    /// The debits in the order of the limits: limit index, amount, and the day on which a budget's period ends (days
    /// since 1970, else 0).
    pub fn debits(&self) -> impl Iterator<Item = (usize, u64, u32)> + '_ {
        self.held.iter().map(|held| match *held {
            Held::Requests { limit, .. } | Held::Lease { limit, .. } => (usize::from(limit), 1, 0),
            Held::Tokens { limit, amount, .. } | Held::Followed { limit, amount, .. } => {
                (usize::from(limit), amount, 0)
            }
            Held::Spend { limit, end, amount, .. } => (usize::from(limit), amount, end),
        })
    }
}

type Hashes = SmallVec<[u64; 8]>;

impl Limits {
    /// Creates limits from (name, subject bits, rule), for `worker`. Limits with the same name, subject and rule share
    /// their state everywhere; a budget keeps its spending when its amount changes.
    pub fn new(segment: Arc<Segment>, worker: usize, rules: &[(&str, u8, Rule)]) -> Result<Self, LimitError> {
        if rules.len() > MAX_LIMITS {
            return Err(LimitError::TooMany(rules.len()));
        }
        let mut subjects = Vec::new();
        let limits = rules
            .iter()
            .map(|&(name, by, rule)| {
                let subject = subjects.iter().position(|&known| known == by).unwrap_or_else(|| {
                    subjects.push(by);
                    subjects.len() - 1
                });
                Limit {
                    rule,
                    subject: subject as u8,
                    key: segment.limit_key().hash(&identity(name, by, rule)),
                }
            })
            .collect();
        Ok(Self {
            worker: segment.worker(worker)?,
            segment,
            limits,
            subjects: subjects.into(),
        })
    }

    /// Debits every limit, or none.
    #[inline]
    pub fn decide(&self, asker: &Asker<'_>, ask: &Ask) -> Result<Reservation, Refusal> {
        let hashes = self.hashes(asker);
        // A single limit cannot be debited in part.
        if self.limits.len() > 1 {
            self.look(&hashes, ask)?;
        }
        self.take(&hashes, ask)
    }

    /// Debits the rates as far as they have tokens left, and refuses nothing: for limits that count along while another
    /// host decides. Leases and budgets are ignored.
    pub fn follow(&self, asker: &Asker<'_>, ask: &Ask) -> Reservation {
        let mut held = SmallVec::new();
        let now = to_units(ask.now_ns);
        for (index, limit, hash) in self.each(&self.hashes(asker)) {
            if let Rule::Rate(unit, bucket) = limit.rule {
                let (cost, taken) = (ask.cost(unit, &bucket), Cell::new(0));
                let change = rate::cells_of(&self.segment, hash).change(hash, ask.now_ns, Bucket::need(now), |time| {
                    taken.set(cost.min(bucket.left(time, now)));
                    bucket.debited(time, taken.get(), now)
                });
                let amount = taken.get();
                if amount > 0 && matches!(change, Change::Made(_)) {
                    held.push(Held::Followed {
                        hash,
                        limit: index as u8,
                        amount,
                        unit,
                    });
                }
            }
        }
        Reservation {
            held,
            requests: None,
            tokens: None,
        }
    }

    /// Settles a reservation: ends its leases, and debits tokens and money by the actual usage.
    pub fn settle(&self, reservation: &Reservation, tokens: u64, micros: u64, now_ns: u64) {
        let now = to_units(now_ns);
        for held in &reservation.held {
            match *held {
                Held::Requests { .. }
                | Held::Followed {
                    unit: Unit::Requests, ..
                } => {}
                Held::Followed {
                    hash, limit, amount, ..
                } => self.credit(hash, limit, amount.saturating_sub(tokens)),
                Held::Tokens { hash, limit, amount } => self.settle_tokens(hash, limit, amount, tokens, now, now_ns),
                Held::Lease { lease, .. } => lease::release(&self.segment, self.worker, lease),
                Held::Spend { hash, end, amount, .. } => {
                    budget::cells_of(&self.segment, hash).adjust(hash, |value| {
                        Some(if micros > amount {
                            Budget::forced(value, micros - amount, end)
                        } else {
                            Budget::credited(value, amount - micros, end)
                        })
                    });
                }
            }
        }
    }

    fn settle_tokens(&self, hash: u64, limit: u8, amount: u64, tokens: u64, now: u64, now_ns: u64) {
        let Some(Rule::Rate(_, bucket)) = self.rule(limit) else {
            return;
        };
        let set = rate::cells_of(&self.segment, hash);
        if tokens > amount {
            // The bucket may have filled up and lost its cell in the meantime.
            let _ = set.change(hash, now_ns, Bucket::need(now), |time| {
                Some(bucket.forced(time, tokens - amount, now))
            });
        } else {
            set.adjust(hash, |time| Some(bucket.credited(time, amount - tokens)));
        }
    }

    /// The exchange's hash for each subject; 0 when it lacks a property.
    #[inline]
    fn hashes(&self, asker: &Asker<'_>) -> Hashes {
        let parts: [&[u8]; SUBJECT_PARTS] = [
            asker.user,
            asker.key,
            asker.tenant,
            asker.model,
            asker.route,
            asker.address,
        ];
        let key = self.segment.limit_key();
        let hash = |by: &u8| match (by.count_ones(), parts.get(by.trailing_zeros() as usize)) {
            (0, _) => 1,
            (1, Some([])) => 0,
            (1, Some(only)) => key.hash(only).max(1),
            _ => joined(&parts, *by).map_or(0, |text| key.hash(&text).max(1)),
        };
        self.subjects.iter().map(hash).collect()
    }

    /// Each limit that counts this exchange, with its index and the hash of its cell.
    #[inline]
    fn each<'a>(&'a self, hashes: &'a Hashes) -> impl Iterator<Item = (usize, &'a Limit, u64)> {
        self.limits.iter().enumerate().filter_map(|(index, limit)| {
            let subject = hashes.get(usize::from(limit.subject)).copied().unwrap_or(0);
            (subject != 0).then(|| (index, limit, mix(subject ^ limit.key).max(1)))
        })
    }

    #[inline]
    fn look(&self, hashes: &Hashes, ask: &Ask) -> Result<(), Refusal> {
        let mut worst: Option<Refusal> = None;
        for (index, limit, hash) in self.each(hashes) {
            if let Some(refusal) = self.refusal(index, limit, hash, ask) {
                let is_worse = |known: &Refusal| (refusal.never, refusal.wait_ns) > (known.never, known.wait_ns);
                if worst.as_ref().is_none_or(is_worse) {
                    worst = Some(refusal);
                }
            }
        }
        worst.map_or(Ok(()), Err)
    }

    /// The refusal that a limit would give now.
    #[inline]
    fn refusal(&self, index: usize, limit: &Limit, hash: u64, ask: &Ask) -> Option<Refusal> {
        match limit.rule {
            Rule::Rate(unit, bucket) => {
                let (now, cost) = (to_units(ask.now_ns), ask.cost(unit, &bucket));
                let time = rate::cells_of(&self.segment, hash).value(hash).unwrap_or(0);
                let refused = bucket.debited(time, cost, now).is_none();
                refused.then(|| rate_refusal(index, &bucket, time, cost, now))
            }
            Rule::Concurrency(most) => (lease::count(&self.segment, hash) >= most).then(|| concurrency_refusal(index)),
            Rule::Spend(budget) => self.overspent(index, &budget, hash, ask),
        }
    }

    /// The refusal that a budget would give now. Not inlined: otherwise every decision would compute the ends of
    /// periods.
    #[inline(never)]
    fn overspent(&self, index: usize, budget: &Budget, hash: u64, ask: &Ask) -> Option<Refusal> {
        let value = budget::cells_of(&self.segment, hash).value(hash).unwrap_or(0);
        let micros = ask.spend(budget)?;
        let refused = budget.debited(value, micros, ask.today).is_none();
        refused.then(|| spend_refusal(index, budget, value, ask.today))
    }

    #[inline]
    fn take(&self, hashes: &Hashes, ask: &Ask) -> Result<Reservation, Refusal> {
        let mut reservation = Reservation {
            held: SmallVec::new(),
            requests: None,
            tokens: None,
        };
        for (index, limit, hash) in self.each(hashes) {
            if let Err(refusal) = self.take_one(&mut reservation, index, limit, hash, ask) {
                self.give_back(&reservation);
                return Err(refusal);
            }
        }
        Ok(reservation)
    }

    #[inline]
    fn take_one(
        &self,
        reservation: &mut Reservation,
        index: usize,
        limit: &Limit,
        hash: u64,
        ask: &Ask,
    ) -> Result<(), Refusal> {
        let number = index as u8;
        match limit.rule {
            Rule::Rate(unit, bucket) => {
                let (now, cost) = (to_units(ask.now_ns), ask.cost(unit, &bucket));
                let set = rate::cells_of(&self.segment, hash);
                let change = set.change(hash, ask.now_ns, Bucket::need(now), |time| {
                    bucket.debited(time, cost, now)
                });
                match change {
                    Change::Made(time) => {
                        let state = rate_state(index, &bucket, time, now);
                        let (tightest, held) = match unit {
                            Unit::Requests => (&mut reservation.requests, Held::Requests { hash, limit: number }),
                            Unit::Tokens => (
                                &mut reservation.tokens,
                                Held::Tokens {
                                    hash,
                                    limit: number,
                                    amount: cost,
                                },
                            ),
                        };
                        if tightest.is_none_or(|known| state.left < known.left) {
                            *tightest = Some(state);
                        }
                        reservation.held.push(held);
                        Ok(())
                    }
                    Change::Refused(time) => Err(rate_refusal(index, &bucket, time, cost, now)),
                    Change::Busy => Err(busy(index)),
                }
            }
            Rule::Concurrency(most) => self.lease(reservation, index, most, hash, ask),
            Rule::Spend(budget) => self.spend(reservation, index, &budget, hash, ask),
        }
    }

    #[inline(never)]
    fn lease(
        &self,
        reservation: &mut Reservation,
        index: usize,
        most: u32,
        hash: u64,
        ask: &Ask,
    ) -> Result<(), Refusal> {
        let lease = lease::take(&self.segment, self.worker, hash, most, ask.now_ns);
        let lease = lease.map_err(|()| concurrency_refusal(index))?;
        reservation.held.push(Held::Lease {
            lease,
            limit: index as u8,
        });
        Ok(())
    }

    #[inline(never)]
    fn spend(
        &self,
        reservation: &mut Reservation,
        index: usize,
        budget: &Budget,
        hash: u64,
        ask: &Ask,
    ) -> Result<(), Refusal> {
        let Some(micros) = ask.spend(budget) else {
            return Ok(());
        };
        let set = budget::cells_of(&self.segment, hash);
        let change = set.change(hash, ask.now_ns, Budget::need(ask.today), |value| {
            budget.debited(value, micros, ask.today)
        });
        match change {
            Change::Made(value) => {
                reservation.held.push(Held::Spend {
                    hash,
                    limit: index as u8,
                    end: budget.end(value, ask.today),
                    amount: micros,
                });
                Ok(())
            }
            Change::Refused(value) => Err(spend_refusal(index, budget, value, ask.today)),
            Change::Busy => Err(busy(index)),
        }
    }

    /// Undoes a decision: nothing of it is consumed.
    #[cold]
    pub fn give_back(&self, reservation: &Reservation) {
        for held in &reservation.held {
            match *held {
                Held::Requests { hash, limit } => self.credit(hash, limit, 1),
                Held::Tokens { hash, limit, amount }
                | Held::Followed {
                    hash, limit, amount, ..
                } => {
                    self.credit(hash, limit, amount);
                }
                Held::Lease { lease, .. } => lease::release(&self.segment, self.worker, lease),
                Held::Spend { hash, end, amount, .. } => budget::cells_of(&self.segment, hash)
                    .adjust(hash, |value| Some(Budget::credited(value, amount, end))),
            }
        }
    }

    fn credit(&self, hash: u64, limit: u8, amount: u64) {
        if let Some(Rule::Rate(_, bucket)) = self.rule(limit) {
            rate::cells_of(&self.segment, hash).adjust(hash, |time| Some(bucket.credited(time, amount)));
        }
    }

    fn rule(&self, limit: u8) -> Option<Rule> {
        self.limits.get(usize::from(limit)).map(|limit| limit.rule)
    }
}

impl Ask {
    /// The debit of a rate. An estimate is capped at a whole bucket.
    #[inline]
    fn cost(&self, unit: Unit, bucket: &Bucket) -> u64 {
        match unit {
            Unit::Requests => 1,
            Unit::Tokens => {
                let firm = if self.is_firm { self.output } else { 0 };
                self.prompt.saturating_add(self.output).min(bucket.burst()).max(firm)
            }
        }
    }

    /// The debit of a budget; always an estimate, because input tokens are one.
    #[inline]
    fn spend(&self, budget: &Budget) -> Option<u64> {
        self.micros.map(|micros| micros.min(budget.micros()))
    }
}

/// The identity of a limit: its name, its subject bits, its rule.
fn identity(name: &str, by: u8, rule: Rule) -> Vec<u8> {
    let (kind, detail): (u8, Vec<u8>) = match rule {
        Rule::Rate(Unit::Requests, bucket) => (b'r', bucket.identity().to_vec()),
        Rule::Rate(Unit::Tokens, bucket) => (b't', bucket.identity().to_vec()),
        Rule::Concurrency(_) => (b'c', Vec::new()),
        Rule::Spend(budget) => (b's', budget.identity().to_vec()),
    };
    [&[kind, by], detail.as_slice(), name.as_bytes()].concat()
}

/// The selected parts, each after its length; `None` when one is missing.
fn joined(parts: &[&[u8]; SUBJECT_PARTS], by: u8) -> Option<SmallVec<[u8; 256]>> {
    let mut text = SmallVec::new();
    for part in (0..SUBJECT_PARTS)
        .filter(|part| by >> part & 1 == 1)
        .map(|part| parts[part])
    {
        if part.is_empty() {
            return None;
        }
        text.extend_from_slice(&(part.len() as u32).to_le_bytes());
        text.extend_from_slice(part);
    }
    Some(text)
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014). Both halves of the input are secret.
#[inline]
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
