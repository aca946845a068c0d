//! Limits by key, in the segment: shared by all workers of a host, bounded, and told the time.
//!
//! - `rate`: buckets that refill steadily, for requests and tokens (GCRA);
//! - `lease`: what runs at a time;
//! - `budget`: what may be spent in a calendar period;
//! - `state`: what of them outlives the gateway;
//! - `handover`: what of them goes to a gateway that takes over;
//! - `decide`: all dimensions of one exchange, all or nothing, and the guard that settles them;
//! - `refusal`: why it refuses.

mod budget;
mod cells;
mod decide;
mod handover;
mod lease;
mod rate;
mod refusal;
mod state;

pub use budget::{Budget, Period, carry};
pub(crate) use cells::CellSet;
pub use decide::{Ask, Asker, Grant, Limits, Rule, Unit, by};
pub use handover::{Ledger, count};
pub(crate) use lease::{LEASE_SETS, LeaseSet, SLOTS as LEASE_SLOTS};
pub use rate::{Bucket, RateLimit};
pub use refusal::{Refusal, Standing};
pub use state::{Clocks, StateError, Step, load, save};

/// Why a limit cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// A bucket that never refills would refuse for ever.
    #[error("rate must be a positive number per minute, got {0}")]
    Rate(f64),
    /// A burst of nothing admits nothing.
    #[error("burst must be at least 1")]
    Burst,
    /// Years to refill.
    #[error("a burst of {burst} at {per_minute} a minute takes decades to refill")]
    Horizon {
        /// What was asked for.
        per_minute: f64,
        /// What was asked for.
        burst: u64,
    },
    /// Above what a cell can hold.
    #[error("a budget is 1 micro-dollar to 17 million dollars, got {0} micro-dollars")]
    Budget(u64),
    /// Nothing at a time is no limit but a switch.
    #[error("concurrency must be at least 1")]
    Concurrency,
    /// A period that there is not.
    #[error("unknown period '{0}': day, week or month")]
    Period(String),
    /// A word for a limit that there is not.
    #[error("unknown kind of limit '{0}': requests, tokens, concurrency or spend")]
    Kind(String),
    /// More limits, or more different subjects of limits, than one decision takes.
    #[error("one decision takes at most {MAX_LIMITS} limits, got {0}")]
    TooMany(usize),
    /// A worker that there is not.
    #[error(transparent)]
    Segment(#[from] crate::segment::SegmentError),
}

/// Limits that one decision takes.
pub const MAX_LIMITS: usize = 64;
