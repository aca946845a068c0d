//! The reasons why a limit is invalid.

/// Maximum limits per decision.
pub const MAX_LIMITS: usize = 64;

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
