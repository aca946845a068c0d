//! Why a decision refuses, and how the limit stands then.

use super::budget::Budget;
use super::cells::BUSY_NS;
use super::decide::Ask;
use super::rate::{Bucket, to_ns};

const NS_PER_DAY: u64 = 86_400_000_000_000;

/// Why nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The limit, by its place among those given. Of several it is the one that takes longest.
    pub limit: usize,
    /// How long until the same may fit; 0: nobody can tell (concurrency).
    pub wait_ns: u64,
    /// What is asked for is more than the limit ever allows.
    pub never: bool,
    /// How the limit stands.
    pub standing: Standing,
}

/// How one limit stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The limit, by its place.
    pub limit: usize,
    /// What could be taken now.
    pub left: u64,
    /// Until nothing of it is used.
    pub reset_ns: u64,
}

pub(super) fn rate_standing(limit: usize, bucket: &Bucket, time: u64, now: u64) -> Standing {
    Standing {
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
        standing: rate_standing(limit, bucket, time, now),
    }
}

#[cold]
pub(super) fn concurrency_refusal(limit: usize) -> Refusal {
    Refusal {
        limit,
        wait_ns: 0,
        never: false,
        standing: Standing {
            limit,
            left: 0,
            reset_ns: 0,
        },
    }
}

#[cold]
pub(super) fn spend_refusal(limit: usize, budget: &Budget, value: u64, ask: &Ask) -> Refusal {
    // To the second is exact enough for a day: the stage knows the time of day, and takes it off.
    let days = u64::from(budget.end(value, ask.today) - ask.today);
    Refusal {
        limit,
        wait_ns: days * NS_PER_DAY,
        never: false,
        standing: Standing {
            limit,
            left: budget.left(value, ask.today),
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
        standing: Standing {
            limit,
            left: 0,
            reset_ns: BUSY_NS,
        },
    }
}
