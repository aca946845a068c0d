//! The content of the segment: the fixed tables, one file for each that has an owner elsewhere.

mod counts;
mod limits;
mod queues;
mod sums;

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

use crate::health::{ModelSet, Vitals};
use crate::interner::Interner;

pub use counts::RETRY_REASONS;
pub(crate) use counts::{
    Counts, DURATION_BUCKETS, FIRST_BUCKETS, Histogram, Latency, OUTCOMES, OVERHEAD_BUCKETS, PER_TOKEN_BUCKETS,
    TOKEN_BUCKETS,
};
pub(crate) use limits::{Cell, CellSet, LEASE_KEYS, LEASE_SETS, LEASE_SLOTS, LeaseSet, Lock};
pub(crate) use queues::{SharedCounts, Waiting};
pub(crate) use sums::{PRINCIPALS, SUMS, Sum};

/// Maximum names in metrics and logs; id 0 stands for all the others.
pub const LABELS: usize = 2048;
/// Maximum upstreams, by URL.
pub const UPSTREAMS: usize = 1024;
/// Maximum workers.
pub const WORKERS: usize = 64;
/// Maximum gauges per worker.
pub const GAUGES: usize = 32;
/// The gauge that holds the worker's last heartbeat, in monotonic nanoseconds.
pub const GAUGE_TICK: usize = 7;
/// Maximum queues, by name.
pub const QUEUES: usize = 256;
/// Maximum lists of upstreams that share a rotation.
pub const ROTATIONS: usize = 1024;
/// Sets of eleven rate limit cells: 90,112 keys.
pub const CELL_SETS: usize = 8192;
/// Sets of eleven budget cells: 22,528 keys.
pub const BUDGET_SETS: usize = 2048;
/// Series of metrics; the last one counts the overflow.
pub const SERIES: usize = 2048;
/// Ids whose upstreams are remembered.
pub const HOLDERS: usize = 64 * 1024;
/// Rows of times and sizes; the last one counts the overflow.
pub const LATENCIES: usize = 1024;
/// Rows of refusals; the last one counts the overflow.
pub const REFUSALS: usize = 1024;
/// Copies of the metrics' counts: processes add to different ones to avoid contention on cache lines.
pub const SHARDS: usize = 16;

/// The content of the mapping. Never moved and never on a stack: it exists only at the mapping's address.
#[repr(C)]
pub(crate) struct Layout {
    pub(super) header: Header,
    pub(super) labels: Interner<LABELS>,
    pub(super) upstream_names: Interner<UPSTREAMS>,
    pub(super) queue_names: Interner<QUEUES>,
    /// Results of waiting exchanges (`queue`).
    pub(crate) queue_counts: [SharedCounts; QUEUES],
    /// The health of each upstream (`vitals`).
    pub(crate) vitals: [Vitals; UPSTREAMS],
    /// The models that each upstream lists.
    pub(crate) models: [ModelSet; UPSTREAMS],
    /// Counts the changes of these lists.
    pub(crate) models_version: AtomicU64,
    /// Each provider's debt for retries (`retry`).
    pub(crate) retry_debts: [AtomicU64; LABELS],
    pub(super) rows: [Row; WORKERS],
    /// Rate limits (`limit`).
    pub(crate) cell_sets: [CellSet; CELL_SETS],
    /// Budgets (`limit`).
    pub(crate) budget_sets: [CellSet; BUDGET_SETS],
    /// The owners of leases (`limit`).
    pub(crate) lease_sets: [LeaseSet; LEASE_SETS],
    /// The day that budgets use (`limit`).
    pub(crate) today: AtomicU64,
    /// Ticket counters of selectors over the same upstreams (`select`).
    pub(crate) rotations: [Rotation; ROTATIONS],
    /// The keys of the series (`metrics`).
    pub(crate) series: [AtomicU64; SERIES],
    /// The principals whose usage is summed (`usage`).
    pub(crate) principals: Interner<PRINCIPALS>,
    /// The sums of usage.
    pub(crate) sums: [Sum; SUMS],
    /// The counts, by shard and series.
    pub(crate) counts: [[Counts; SERIES]; SHARDS],
    /// The upstreams that hold what ids stand for (`holders`).
    pub(crate) holders: [AtomicU64; HOLDERS],
    /// The keys of the rows of times and sizes (`metrics`).
    pub(crate) latency_keys: [AtomicU64; LATENCIES],
    /// The times and sizes, by shard and row.
    pub(crate) latencies: [[Latency; LATENCIES]; SHARDS],
    /// The keys of the refusals (`metrics`).
    pub(crate) refusal_keys: [AtomicU64; REFUSALS],
    /// The refusals, by shard and row.
    pub(crate) refusals: [[AtomicU64; REFUSALS]; SHARDS],
    /// The gateway's own part of the duration, by shard and route.
    pub(crate) overheads: [[Histogram<OVERHEAD_BUCKETS>; LABELS]; SHARDS],
}

/// The identity of the mapping.
#[repr(C, align(64))]
pub(super) struct Header {
    pub(super) magic: AtomicU64,
    pub(super) version: AtomicU64,
    pub(super) size: AtomicU64,
    pub(super) workers: AtomicU64,
    pub(super) hash_key: [AtomicU64; 2],
    pub(super) limit_key: [AtomicU64; 2],
    pub(super) attached: AtomicU64,
}

/// The state that one worker publishes: written only by that worker, zeroed after its death.
#[repr(C, align(64))]
pub(crate) struct Row {
    pub(crate) gauges: [AtomicI64; GAUGES],
    /// Exchanges in flight, by upstream.
    pub(crate) in_flight: [AtomicU32; UPSTREAMS],
    /// Exchanges that wait for an upstream, by queue (`queue`).
    pub(crate) queues: [Waiting; QUEUES],
    /// Leases, by slot (`limit`).
    pub(crate) leases: [AtomicU32; LEASE_SLOTS],
}

/// A ticket counter, claimed by the hash of the list that draws from it.
#[repr(C)]
pub(crate) struct Rotation {
    pub(super) owner: AtomicU64,
    pub(crate) ticket: AtomicU64,
}
