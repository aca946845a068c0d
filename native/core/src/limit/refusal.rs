//! Refusals: the reason of a refused decision, and the state of the limit.

use super::budget::Budget;
use super::cells::BUSY_NS;
use super::rate::{Bucket, to_ns};

const NS_PER_DAY: u64 = 86_400_000_000_000;

/// The reason why nothing was debited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The index of the limit. Of several, the one with the longest wait.
    pub limit: usize,
    /// The time until the same request may fit; 0: unknown (concurrency).
    pub wait_ns: u64,
    /// True when the request needs more than the limit ever allows.
    pub never: bool,
    /// The state of the limit.
    pub state: LimitState,
}

/// The state of one limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitState {
    /// The index of the limit.
    pub limit: usize,
    /// The amount that could be debited now.
    pub left: u64,
    /// The time until it is fully available again.
    pub reset_ns: u64,
}

pub(super) fn rate_state(limit: usize, bucket: &Bucket, time: u64, now: u64) -> LimitState {
    LimitState {
        limit,
        left: bucket.left(time, now),
        reset_ns: to_ns(time.saturating_sub(now)),
    }
}

#[cold]
pub(super) fn rate_refusal(limit: usize, bucket: &Bucket, time: u64, cost: u64, now: u64) -> Refusal {
    Refusal {
        limit,
        wait_ns: bucket.wait_ns(time, cost, now),
        never: cost > bucket.burst(),
        state: rate_state(limit, bucket, time, now),
    }
}

#[cold]
pub(super) fn concurrency_refusal(limit: usize) -> Refusal {
    Refusal {
        limit,
        wait_ns: 0,
        never: false,
        state: LimitState {
            limit,
            left: 0,
            reset_ns: 0,
        },
    }
}

#[cold]
pub(super) fn spend_refusal(limit: usize, budget: &Budget, value: u64, today: u32) -> Refusal {
    // Rounded to whole days: the limits stage knows the time of day, and subtracts it.
    let days = u64::from(budget.end(value, today) - today);
    Refusal {
        limit,
        wait_ns: days * NS_PER_DAY,
        never: false,
        state: LimitState {
            limit,
            left: budget.left(value, today),
            reset_ns: days * NS_PER_DAY,
        },
    }
}

#[cold]
pub(super) fn busy(limit: usize) -> Refusal {
    Refusal {
        limit,
        wait_ns: BUSY_NS,
        never: false,
        state: LimitState {
            limit,
            left: 0,
            reset_ns: BUSY_NS,
        },
    }
}
