//! The cells of rates and budgets, and the owners of leases.

use std::sync::atomic::AtomicU64;

/// Sets of lease slots.
pub(crate) const LEASE_SETS: usize = 512;
/// Keys of a set.
pub(crate) const LEASE_KEYS: usize = 15;
/// Maximum keys with leases at a time.
pub(crate) const LEASE_SLOTS: usize = LEASE_SETS * LEASE_KEYS;

/// A set: the cells that fill three cache lines, and the lock for changing their keys.
#[repr(C, align(64))]
pub(crate) struct CellSet {
    pub(crate) lock: Lock,
    pub(crate) cells: [Cell; 11],
}

/// A key and its number.
#[repr(C)]
pub(crate) struct Cell {
    pub(crate) key: AtomicU64,
    pub(crate) value: AtomicU64,
}

/// The keys of some slots. A slot keeps its key until another key needs it.
#[repr(C, align(64))]
pub(crate) struct LeaseSet {
    pub(crate) lock: Lock,
    pub(crate) keys: [AtomicU64; LEASE_KEYS],
}

/// A lock that outlives a dead holder by at most a second. Zero is open.
#[repr(transparent)]
pub(crate) struct Lock(pub(crate) AtomicU64);
