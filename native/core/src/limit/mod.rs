//! Limits by key, in the segment: shared by all workers of a host, bounded, and without a clock of their own.
//!
//! - `rate`: buckets that refill steadily, for requests and tokens (GCRA);
//! - `lease`: concurrency;
//! - `budget`: spending per calendar period;
//! - `state`: the part that outlives the gateway;
//! - `handover`: the part that goes to a gateway that takes over;
//! - `error`: the reasons why a limit is invalid;
//! - `decide`: all limits of one exchange, all or nothing, and the guard that settles them;
//! - `refusal`: the reasons of refusals;
//! - `settle`: the consumer of ended exchanges that settles their limits.

mod budget;
mod cells;
mod decide;
mod error;
mod handover;
mod lease;
mod rate;
mod refusal;
mod settle;
mod state;

pub use budget::{Budget, Period, carry};
pub use decide::{Ask, Asker, Limits, Reservation, Rule, Unit, by};
pub use error::{LimitError, MAX_LIMITS};
pub use handover::{Ledger, count};
pub use rate::{Bucket, RateLimit};
pub use refusal::{LimitState, Refusal};
pub use settle::Settlement;
pub use state::{Clocks, StateError, Step, load, save};
