//! The counts of one series of metrics, and its histograms.

use std::sync::atomic::AtomicU64;

/// Outcomes of an exchange.
pub(crate) const OUTCOMES: usize = 5;
/// Buckets of a duration, the unbounded one included.
pub(crate) const DURATION_BUCKETS: usize = 19;
/// Buckets of the time to a first byte or token, likewise.
pub(crate) const FIRST_BUCKETS: usize = 25;
/// Buckets of the time per output token, likewise.
pub(crate) const PER_TOKEN_BUCKETS: usize = 22;
/// Buckets of a number of tokens, likewise.
pub(crate) const TOKEN_BUCKETS: usize = 12;
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
}

/// The times and sizes of one route, provider and model's successful exchanges, by the processes of one shard.
#[repr(C, align(64))]
pub(crate) struct Latency {
    /// Of plain answers, and of streams.
    pub(crate) duration: [Histogram<DURATION_BUCKETS>; 2],
    /// Of plain answers.
    pub(crate) first_byte: Histogram<FIRST_BUCKETS>,
    /// Of streams.
    pub(crate) first_token: Histogram<FIRST_BUCKETS>,
    /// Of streams.
    pub(crate) per_token: Histogram<PER_TOKEN_BUCKETS>,
    /// In, and out.
    pub(crate) tokens: [Histogram<TOKEN_BUCKETS>; 2],
}

/// Observations by bucket, and their sum.
#[repr(C)]
pub(crate) struct Histogram<const N: usize> {
    pub(crate) sum: AtomicU64,
    pub(crate) buckets: [AtomicU64; N],
}
