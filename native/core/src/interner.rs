//! A string interner in shared memory: append-only tables that give a name the same index in every process.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};

use crate::hash::HashKey;

/// Longer names are cut, with a hash of the whole name at the end.
pub(crate) const MAX_NAME_BYTES: usize = 118;

// `~` and 16 hex digits.
const SUFFIX_BYTES: usize = 17;

/// A table of up to `N` names, filled from the front.
///
/// An entry is claimed by swapping the name's hash in, and published by its length. A process that finds a claimed
/// entry with its own hash writes the same bytes and publishes them too, so a process killed in between blocks nobody.
#[repr(C)]
pub(crate) struct Interner<const N: usize> {
    entries: [Name; N],
}

#[repr(C, align(64))]
struct Name {
    hash: AtomicU64,
    length: AtomicU16,
    bytes: [AtomicU8; MAX_NAME_BYTES],
}

impl<const N: usize> Interner<N> {
    /// The index of `name`, found or added, from `first` on; `None` when the table is full.
    pub(crate) fn intern(&self, key: HashKey, name: &str, first: usize) -> Option<usize> {
        let name = stored(name);
        let hash = key.hash(name.as_bytes()).max(1);
        self.entries.iter().enumerate().skip(first).find_map(|(index, entry)| {
            let found = match entry
                .hash
                .compare_exchange(0, hash, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => hash,
                Err(present) => present,
            };
            (found == hash && entry.is(name.as_bytes())).then_some(index)
        })
    }

    /// The name at `index`; `None` when none was published.
    pub(crate) fn name(&self, index: usize) -> Option<String> {
        self.entries.get(index)?.name()
    }

    /// True when `index` holds a name.
    pub(crate) fn holds(&self, index: usize) -> bool {
        self.entries
            .get(index)
            .is_some_and(|entry| entry.length.load(Ordering::Acquire) != 0)
    }
}

impl Name {
    /// True when this entry, which has the name's hash, holds that name; publishes it when nobody has yet.
    fn is(&self, name: &[u8]) -> bool {
        let length = usize::from(self.length.load(Ordering::Acquire));
        if length == 0 {
            for (to, &from) in self.bytes.iter().zip(name) {
                to.store(from, Ordering::Relaxed);
            }
            self.length.store(name.len() as u16, Ordering::Release);
            return true;
        }
        length == name.len()
            && self
                .bytes
                .iter()
                .zip(name)
                .all(|(a, &b)| a.load(Ordering::Relaxed) == b)
    }

    fn name(&self) -> Option<String> {
        let length = usize::from(self.length.load(Ordering::Acquire));
        let bytes: Vec<u8> = self
            .bytes
            .iter()
            .take(length)
            .map(|byte| byte.load(Ordering::Relaxed))
            .collect();
        (length > 0).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The name as stored. The suffix does not depend on the segment's key, so a metric keeps its name over a restart.
pub(crate) fn stored(name: &str) -> std::borrow::Cow<'_, str> {
    if name.len() <= MAX_NAME_BYTES {
        return name.into();
    }
    let mut end = MAX_NAME_BYTES - SUFFIX_BYTES;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}~{:016x}", &name[..end], HashKey(0, 0).hash(name.as_bytes())).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: HashKey = HashKey(7, 9);

    fn table<const N: usize>() -> Interner<N> {
        Interner {
            entries: std::array::from_fn(|_| Name {
                hash: AtomicU64::new(0),
                length: AtomicU16::new(0),
                bytes: std::array::from_fn(|_| AtomicU8::new(0)),
            }),
        }
    }

    #[test]
    fn places_are_dense_and_kept() {
        let names = table::<3>();
        assert_eq!(names.intern(KEY, "a", 0), Some(0));
        assert_eq!(names.intern(KEY, "b", 0), Some(1));
        assert_eq!(names.intern(KEY, "a", 0), Some(0));
        assert_eq!(names.intern(KEY, "c", 0), Some(2));
        assert_eq!(names.intern(KEY, "d", 0), None);
        assert_eq!(names.intern(KEY, "b", 0), Some(1));
        assert_eq!(names.name(1).as_deref(), Some("b"));
    }

    #[test]
    fn a_name_claimed_by_the_dead_is_finished_by_the_next() {
        let names = table::<3>();
        // Killed between claim and publication.
        names.entries[0].hash.store(KEY.hash(b"lost"), Ordering::Relaxed);
        assert_eq!(names.name(0), None);
        assert_eq!(names.intern(KEY, "other one", 0), Some(1));
        assert_eq!(names.intern(KEY, "lost", 0), Some(0));
        assert_eq!(names.name(0).as_deref(), Some("lost"));
    }

    #[test]
    fn two_names_of_one_hash_have_two_places() {
        let names = table::<3>();
        assert_eq!(names.intern(KEY, "a", 0), Some(0));
        names.entries[0].bytes[0].store(b'z', Ordering::Relaxed);
        assert_eq!(names.intern(KEY, "a", 0), Some(1));
    }

    #[test]
    fn long_names_are_cut_at_a_character_and_stay_apart() {
        let long = |last: &str| "é".repeat(80) + last;
        let (one, two) = (stored(&long("1")).into_owned(), stored(&long("2")).into_owned());
        assert_ne!(one, two);
        assert!(one.len() <= MAX_NAME_BYTES && one.starts_with("éé"));
        assert_eq!(stored(&"x".repeat(MAX_NAME_BYTES)), "x".repeat(MAX_NAME_BYTES));
    }
}
