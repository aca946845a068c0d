//! Limits by key, in the segment: shared by all workers of a host, bounded, and without a clock of their own.
//!
//! - `rate`: buckets that refill steadily, for requests and tokens (GCRA);
//! - `lease`: concurrency;
//! - `budget`: spending per calendar period;
//! - `state`: the part that outlives the gateway;
//! - `handover`: the part that goes to a gateway that takes over;
//! - `decide`: all limits of one exchange, all or nothing, and the guard that settles them;
//! - `refusal`: the reasons of refusals;
//! - `settle`: the consumer of ended exchanges that settles their limits.

mod budget;
mod cells;
mod decide;
mod handover;
mod lease;
mod rate;
mod refusal;
mod settle;
mod state;

pub use budget::{Budget, Period, carry};
pub(crate) use cells::CellSet;
pub use decide::{Ask, Asker, Limits, Reservation, Rule, Unit, by};
pub use handover::{Ledger, count};
pub(crate) use lease::{LEASE_SETS, LeaseSet, SLOTS as LEASE_SLOTS};
pub use rate::{Bucket, RateLimit};
pub use refusal::{LimitState, Refusal};
pub use settle::Settlement;
pub use state::{Clocks, StateError, Step, load, save};

/// The reason why a limit is invalid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// A bucket that never refills would refuse for ever.
    #[error("rate must be a positive number per minute, got {0}")]
    Rate(f64),
    /// A burst of zero admits nothing.
    #[error("burst must be at least 1")]
    Burst,
    /// A refill that takes decades.
    #[error("a burst of {burst} at {per_minute} a minute takes decades to refill")]
    Horizon {
        /// The rate given.
        per_minute: f64,
        /// The burst given.
        burst: u64,
    },
    /// More than a cell can hold.
    #[error("a budget is 1 micro-dollar to 17 million dollars, got {0} micro-dollars")]
    Budget(u64),
    /// A concurrency of zero is a switch rather than a limit.
    #[error("concurrency must be at least 1")]
    Concurrency,
    /// An unknown period.
    #[error("unknown period '{0}': day, week or month")]
    Period(String),
    /// An unknown kind of limit.
    #[error("unknown kind of limit '{0}': requests, tokens, concurrency or spend")]
    Kind(String),
    /// More limits, or more different subjects, than one decision allows.
    #[error("one decision takes at most {MAX_LIMITS} limits, got {0}")]
    TooMany(usize),
    /// A worker that does not exist.
    #[error(transparent)]
    Segment(#[from] crate::segment::SegmentError),
}

/// Maximum limits per decision.
pub const MAX_LIMITS: usize = 64;
