//! The sums of usage.

use std::sync::atomic::AtomicU64;

/// Maximum principals with sums of their own; later ones are counted together.
pub(crate) const PRINCIPALS: usize = 2048;
/// Maximum sums; the last one counts the overflow.
pub(crate) const SUMS: usize = 4096;

/// The usage of one principal, with one model, on one route.
#[repr(C, align(64))]
pub(crate) struct Sum {
    pub(crate) key: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) tokens_in: AtomicU64,
    pub(crate) tokens_out: AtomicU64,
    pub(crate) tokens_cached: AtomicU64,
    pub(crate) tokens_reasoning: AtomicU64,
    pub(crate) micros: AtomicU64,
    pub(crate) estimated: AtomicU64,
}
