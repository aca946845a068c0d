//! The retry budget: retries are a share of all requests, so that they never become a storm of their own.
//!
//! Each provider has a debt in the segment. A retry adds to it, each exchange that ends repays some of it, and there is
//! a ceiling: of `n` exchanges, at most `share * n + reserve` are retried, over all workers. (Finagle and linkerd have
//! budgets of this kind; a limit on concurrent retries, as in Envoy, lets every request of a quiet client be retried
//! again and again.)

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::entry::{Charge, Consumer, Entry};
use crate::segment::{LabelId, Segment};

/// The repayment per exchange.
const REPAYMENT: u64 = 100;

/// The budget of one provider in one configuration.
#[derive(Debug)]
pub struct RetryBudget {
    segment: Arc<Segment>,
    provider: LabelId,
    cost: u64,
    ceiling: u64,
}

impl RetryBudget {
    /// `percent` of the exchanges may be retried, and `reserve` in addition.
    #[must_use]
    pub fn new(segment: Arc<Segment>, provider: LabelId, percent: u32, reserve: u32) -> Self {
        // Nothing is repaid when retries are free or forbidden.
        let cost = (REPAYMENT * 100)
            .checked_div(u64::from(percent))
            .unwrap_or(u64::MAX / 4);
        Self {
            segment,
            provider,
            cost,
            ceiling: cost.saturating_mul(u64::from(reserve)),
        }
    }

    /// Takes a retry out of the budget; false when there is none left.
    #[must_use]
    pub fn take(&self) -> bool {
        let raise = |debt: u64| debt.checked_add(self.cost).filter(|&debt| debt <= self.ceiling);
        self.debt()
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, raise)
            .is_ok()
    }

    /// Gives back a retry that was not made.
    pub fn give_back(&self) {
        pay(self.debt(), self.cost);
    }

    /// Repays when an exchange moves to another provider: for this one, it has ended.
    pub fn repay(&self) {
        repay(&self.segment, self.provider);
    }

    fn debt(&self) -> &AtomicU64 {
        &self.segment.layout().retry_debts[self.provider.get() as usize]
    }
}

/// The repayment: a consumer of ended exchanges that pays back to the budgets of their providers.
#[derive(Debug)]
pub struct Repayment {
    segment: Arc<Segment>,
}

impl Repayment {
    /// Repays the budgets kept in `segment`.
    #[must_use]
    pub fn new(segment: Arc<Segment>) -> Self {
        Self { segment }
    }
}

impl Consumer for Repayment {
    fn enter(&mut self, entry: &Entry<'_>, _charge: &Charge) -> usize {
        repay(&self.segment, entry.provider);
        0
    }
}

fn repay(segment: &Segment, provider: LabelId) {
    let debt = &segment.layout().retry_debts[provider.get() as usize];
    // Usually there is no debt, so the cache line is not contended.
    if debt.load(Ordering::Relaxed) > 0 {
        pay(debt, REPAYMENT);
    }
}

fn pay(debt: &AtomicU64, amount: u64) {
    let _ = debt.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |debt| {
        (debt > 0).then(|| debt.saturating_sub(amount))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(segment: &Arc<Segment>, percent: u32, reserve: u32) -> RetryBudget {
        RetryBudget::new(segment.clone(), LabelId::new(7), percent, reserve)
    }

    #[test]
    fn retries_are_a_share_and_a_reserve() {
        for (percent, reserve) in [(20, 3), (50, 1), (100, 10), (1, 2)] {
            let segment = Arc::new(Segment::new(1).unwrap());
            let budget = budget(&segment, percent, reserve);
            let mut retries = 0;
            for asked in 1..=1_000_u32 {
                retries += u32::from(budget.take());
                repay(&segment, LabelId::new(7));
                assert!(retries <= asked * percent / 100 + reserve, "{retries} of {asked}");
            }
            assert!(
                retries + 1 >= 1_000 * percent / 100 + reserve.min(1_000 - 1_000 * percent / 100),
                "{retries}"
            );
        }
    }

    #[test]
    fn nothing_is_saved_above_the_reserve() {
        let segment = Arc::new(Segment::new(1).unwrap());
        let budget = budget(&segment, 20, 3);
        (0..1_000).for_each(|_| repay(&segment, LabelId::new(7)));
        assert_eq!((0..10).filter(|_| budget.take()).count(), 3);
        budget.give_back();
        assert_eq!((0..10).filter(|_| budget.take()).count(), 1);
        (0..5).for_each(|_| budget.repay());
        assert_eq!((0..10).filter(|_| budget.take()).count(), 1);
    }

    #[test]
    fn none_is_none_and_providers_are_apart() {
        let segment = Arc::new(Segment::new(2).unwrap());
        assert!(!budget(&segment, 0, 0).take());
        assert!(!budget(&segment, 20, 0).take());
        let one = budget(&segment, 20, 1);
        let other = RetryBudget::new(segment.clone(), LabelId::new(8), 20, 1);
        assert!(one.take() && !one.take() && other.take());
        // Another worker has the same budget.
        let elsewhere = Arc::new(Segment::attach(segment.fd()).unwrap());
        assert!(!budget(&elsewhere, 20, 1).take());
    }
}
