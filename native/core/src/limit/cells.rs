//! Cells: a key's hash and one number, in sets that change keys under a lock and numbers without one.

use std::sync::atomic::Ordering;

use crate::segment::layout::{Cell, CellSet, Lock};

// The number of a cell that is being given to another key. Only the holder of the set's lock uses such a cell.
const CHANGING: u64 = u64::MAX;

/// The suggested wait when a lock cannot be had. This only affects new keys of one set, in the second after the lock's
/// holder died.
pub(super) const BUSY_NS: u64 = 1_000_000;

/// The result of changing a key's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Changed to this number.
    Made(u64),
    /// Refused; the number stays.
    Refused(u64),
    /// The set's lock could not be had: nothing was changed.
    Busy,
}

enum Attempt {
    Done(Change),
    /// The cell belongs to another key by now: retry.
    Gone,
}

impl CellSet {
    /// The key's number; `None` when it has no cell.
    #[inline]
    pub(super) fn value(&self, hash: u64) -> Option<u64> {
        self.cell(hash).and_then(|cell| cell.value(hash))
    }

    /// Changes the key's number by `change`, unless that returns None. A key without a cell has 0, and gets a cell when
    /// the change is allowed: the one with the lowest `need` (0: unused).
    #[inline]
    pub(super) fn change(
        &self,
        hash: u64,
        now_ns: u64,
        need: impl Fn(u64) -> u64,
        change: impl Fn(u64) -> Option<u64>,
    ) -> Change {
        loop {
            let attempt = match self.cell(hash) {
                Some(cell) => cell.change(hash, &change),
                None => match change(0) {
                    Some(value) => self.admit(hash, value, now_ns, &need),
                    None => return Change::Refused(0),
                },
            };
            if let Attempt::Done(change) = attempt {
                return change;
            }
        }
    }

    /// Changes the key's number if it has a cell; a key without one has no debit to give back.
    pub(super) fn adjust(&self, hash: u64, change: impl Fn(u64) -> Option<u64>) {
        while let Some(cell) = self.cell(hash) {
            if let Attempt::Done(_) = cell.change(hash, &change) {
                return;
            }
        }
    }

    /// A snapshot of all keys and their numbers.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u64, u64)> {
        self.cells.iter().filter_map(|cell| {
            let key = cell.key.load(Ordering::Acquire);
            (key != 0).then(|| cell.value(key).map(|value| (key, value)))?
        })
    }

    // Not inlined: the addresses of eleven cells would be computed before the first is checked.
    #[inline(never)]
    fn cell(&self, hash: u64) -> Option<&Cell> {
        self.cells
            .iter()
            .find(|cell| cell.key.load(Ordering::Acquire) == hash && cell.value(hash).is_some())
    }

    /// Gives a cell to the key. `Gone` when another process was faster.
    #[cold]
    fn admit(&self, hash: u64, value: u64, now_ns: u64, need: &impl Fn(u64) -> u64) -> Attempt {
        let Some(held) = self.lock.take(now_ns) else {
            return Attempt::Done(Change::Busy);
        };
        let attempt = if self.cell(hash).is_some() {
            Attempt::Gone
        } else {
            self.replace(hash, value, need)
        };
        self.lock.release(held);
        attempt
    }

    /// Changes the key of the cell with the lowest need. The lock must be held.
    fn replace(&self, hash: u64, value: u64, need: &impl Fn(u64) -> u64) -> Attempt {
        // A cell left CHANGING was abandoned by a holder that died: nobody else uses it.
        let seen = self.cells.iter().map(|cell| (cell, cell.value.load(Ordering::Acquire)));
        let least = seen.min_by_key(|&(_, value)| if value == CHANGING { 0 } else { need(value) });
        let Some((cell, before)) = least else {
            return Attempt::Gone;
        };
        if !cell.claim(before) {
            return Attempt::Gone;
        }
        cell.key.store(hash, Ordering::Release);
        cell.value.store(value, Ordering::Release);
        Attempt::Done(Change::Made(value))
    }
}

impl Cell {
    /// The number, if the cell belongs to that key.
    #[inline]
    fn value(&self, hash: u64) -> Option<u64> {
        let value = self.value.load(Ordering::Acquire);
        (value != CHANGING && self.key.load(Ordering::Acquire) == hash).then_some(value)
    }

    /// Takes the cell from its key, unless its number has changed since it was `before`. The lock must be held.
    ///
    /// From then on, no debit can reach the old key: a debit swaps the number that was read together with the key.
    fn claim(&self, before: u64) -> bool {
        // Abandoned by a holder that died: nobody else uses it.
        before == CHANGING
            || self
                .value
                .compare_exchange(before, CHANGING, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// Changes the number. It is read before the key and swapped after it: a cell whose key changed in between has
    /// another number, too.
    #[inline]
    fn change(&self, hash: u64, change: &impl Fn(u64) -> Option<u64>) -> Attempt {
        loop {
            let Some(before) = self.value(hash) else {
                return Attempt::Gone;
            };
            let Some(after) = change(before) else {
                return Attempt::Done(Change::Refused(before));
            };
            if self
                .value
                .compare_exchange_weak(before, after, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
            {
                return Attempt::Done(Change::Made(after));
            }
        }
    }
}

// The lock is held for some 20 ns and never across a call. Waiters yield to a descheduled holder; a killed one is
// detected by the age of its stamp. A holder that was stopped for that long, within those 20 ns, may give one cell to
// its key a second time when it wakes: one key's debits are then lost.
const SPINS: u32 = 100;
const YIELDS: u32 = 100;
const DEAD_AFTER_NS: u64 = 1_000_000_000;

/// Proof of holding a lock: the stamp it was closed with.
pub(super) struct Held(u64);

impl Lock {
    pub(super) fn take(&self, now_ns: u64) -> Option<Held> {
        let stamp = now_ns.max(1);
        for attempt in 0..SPINS + YIELDS {
            match self.0.compare_exchange(0, stamp, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(Held(stamp)),
                Err(holder) if now_ns.saturating_sub(holder) > DEAD_AFTER_NS => {
                    let stolen = self
                        .0
                        .compare_exchange(holder, stamp, Ordering::Acquire, Ordering::Relaxed);
                    if stolen.is_ok() {
                        return Some(Held(stamp));
                    }
                }
                Err(_) if attempt < SPINS => std::hint::spin_loop(),
                Err(_) => std::thread::yield_now(),
            }
        }
        None
    }

    /// Opens the lock. Fails when we slept for a second and somebody else took it: then it is not ours to open.
    pub(super) fn release(&self, held: Held) {
        let _ = self.0.compare_exchange(held.0, 0, Ordering::Release, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    impl CellSet {
        /// Leaves the set like a process that was killed while it changed the first cell's key.
        pub(in crate::limit) fn abandon(&self, stamp: u64) {
            self.lock.0.store(stamp, Ordering::Relaxed);
            self.cells[0].value.store(CHANGING, Ordering::Relaxed);
        }

        pub(in crate::limit) fn is_open(&self) -> bool {
            self.lock.0.load(Ordering::Relaxed) == 0
        }
    }

    fn set() -> CellSet {
        CellSet {
            lock: Lock(AtomicU64::new(0)),
            cells: std::array::from_fn(|_| Cell {
                key: AtomicU64::new(0),
                value: AtomicU64::new(0),
            }),
        }
    }

    #[test]
    fn a_debited_cell_is_not_given_away() {
        let set = set();
        let cell = &set.cells[0];
        cell.key.store(5, Ordering::Relaxed);
        cell.value.store(100, Ordering::Relaxed);
        // Debited after it was found expired: the cell stays.
        cell.value.store(200, Ordering::Relaxed);
        assert!(!cell.claim(100));
        assert_eq!(cell.value(5), Some(200));
        // Taken from its key after it was found: not debited.
        let attempt = cell.change(5, &|value| cell.claim(value).then_some(value + 1));
        assert!(matches!(attempt, Attempt::Gone));
        assert_eq!(cell.value.load(Ordering::Relaxed), CHANGING);
    }

    #[test]
    fn the_least_needed_cell_is_given_away() {
        let set = set();
        for key in 1..=11 {
            assert_eq!(
                set.change(key, 1, |value| value, |_| Some(100 + key)),
                Change::Made(100 + key)
            );
        }
        assert_eq!(set.change(12, 1, |value| value, |_| Some(500)), Change::Made(500));
        assert_eq!(
            (set.value(1), set.value(2), set.value(12)),
            (None, Some(102), Some(500))
        );
        assert_eq!(set.entries().count(), 11);
        // A refused change takes nobody's cell.
        assert_eq!(set.change(13, 1, |value| value, |_| None), Change::Refused(0));
        assert_eq!(set.value(2), Some(102));
    }
}
