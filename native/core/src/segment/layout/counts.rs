//! The counts of one series of metrics.

use std::sync::atomic::AtomicU64;

/// Outcomes of an exchange.
pub(crate) const OUTCOMES: usize = 5;
/// Buckets of a duration, the unbounded one included.
pub(crate) const DURATION_BUCKETS: usize = 19;
/// Buckets of the gateway's own part of a duration, likewise.
pub(crate) const OVERHEAD_BUCKETS: usize = 15;
/// The number of retry reasons.
pub const RETRY_REASONS: usize = 8;

/// The counts of one series, by the processes of one shard.
#[repr(C, align(64))]
pub(crate) struct Counts {
    pub(crate) outcomes: [AtomicU64; OUTCOMES],
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) tokens_in: AtomicU64,
    pub(crate) tokens_out: AtomicU64,
    pub(crate) tokens_cached: AtomicU64,
    pub(crate) tokens_reasoning: AtomicU64,
    pub(crate) cost_micros: AtomicU64,
    pub(crate) retries: [AtomicU64; RETRY_REASONS],
    pub(crate) duration: Histogram<DURATION_BUCKETS>,
    pub(crate) overhead: Histogram<OVERHEAD_BUCKETS>,
    pub(crate) first_byte: Histogram<DURATION_BUCKETS>,
}

/// Observations by bucket, and their sum.
#[repr(C)]
pub(crate) struct Histogram<const N: usize> {
    pub(crate) sum_ns: AtomicU64,
    pub(crate) buckets: [AtomicU64; N],
}
