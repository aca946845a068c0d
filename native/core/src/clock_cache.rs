//! A bounded cache with CLOCK eviction: entries go one by one, and those read since the hand last passed stay.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};

/// A cache of at most `capacity` entries. A new entry counts as unread, so that entries which are used once make room
/// for each other and not for those in use (Corbató, 1968).
pub struct ClockCache<K, V, S = RandomState> {
    places: HashMap<K, usize, S>,
    slots: Vec<Slot<K, V>>,
    hand: usize,
    capacity: usize,
}

struct Slot<K, V> {
    key: K,
    value: V,
    was_read: bool,
}

impl<K: Eq + Hash + Clone, V, S: BuildHasher + Default> ClockCache<K, V, S> {
    /// Makes an empty cache for `capacity` entries, at least one. Memory is allocated as it fills.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            places: HashMap::default(),
            slots: Vec::new(),
            hand: 0,
            capacity: capacity.max(1),
        }
    }

    /// The value of `key`, which now counts as read.
    pub fn get<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let slot = self.slots.get_mut(*self.places.get(key)?)?;
        slot.was_read = true;
        Some(&slot.value)
    }

    /// True when there is a value of `key`; reads nothing.
    #[must_use]
    pub fn contains<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.places.contains_key(key)
    }

    /// Sets the value of `key`. Returns the one that it replaces, or the one that was evicted for it, to be dropped
    /// where the caller likes.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(slot) = self.places.get(&key).and_then(|place| self.slots.get_mut(*place)) {
            return Some(std::mem::replace(&mut slot.value, value));
        }
        let slot = Slot {
            key: key.clone(),
            value,
            was_read: false,
        };
        if self.slots.len() < self.capacity {
            self.places.insert(key, self.slots.len());
            self.slots.push(slot);
            return None;
        }
        let place = self.victim();
        let old = std::mem::replace(self.slots.get_mut(place)?, slot);
        self.places.remove(&old.key);
        self.places.insert(key, place);
        Some(old.value)
    }

    /// The place of the next entry that was not read since the hand last passed it.
    fn victim(&mut self) -> usize {
        loop {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            match self.slots.get_mut(place) {
                Some(slot) if slot.was_read => slot.was_read = false,
                _ => return place,
            }
        }
    }

    /// The number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Removes all entries and returns them, to be dropped where the caller likes.
    pub fn clear(&mut self) -> Self {
        std::mem::replace(self, Self::new(self.capacity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(capacity: usize) -> ClockCache<u64, u64> {
        let mut cache = ClockCache::new(capacity);
        for key in 0..capacity as u64 {
            assert_eq!(cache.insert(key, key * 10), None);
        }
        cache
    }

    #[test]
    fn entries_go_one_by_one() {
        let mut cache = filled(8);
        for key in 8..40 {
            assert!(cache.insert(key, key).is_some());
            assert_eq!(cache.len(), 8);
            assert!(cache.contains(&key));
        }
    }

    #[test]
    fn entries_in_use_outlive_any_number_of_others() {
        let mut cache = filled(8);
        for key in 100..10_000 {
            for used in 0..4 {
                assert_eq!(cache.get(&used), Some(&(used * 10)));
            }
            cache.insert(key, 0);
        }
        assert_eq!((0..4).filter(|key| cache.contains(key)).count(), 4);
    }

    #[test]
    fn entries_all_in_use_still_make_room() {
        let mut cache = filled(8);
        for key in 0..8 {
            cache.get(&key);
        }
        assert_eq!(cache.insert(8, 80), Some(0));
        assert_eq!(cache.get(&8), Some(&80));
    }

    #[test]
    fn a_value_is_replaced_in_its_place() {
        let mut cache = filled(2);
        assert_eq!(cache.insert(1, 11), Some(10));
        assert_eq!(cache.len(), 2);
        assert_eq!(cache.get(&1), Some(&11));
        assert_eq!(cache.get(&0), Some(&0));
    }

    #[test]
    fn a_cleared_cache_is_as_new() {
        let mut cache = filled(3);
        assert_eq!(cache.clear().len(), 3);
        assert!(cache.is_empty() && cache.get(&1).is_none());
        assert_eq!(cache.insert(1, 1), None);
    }

    #[test]
    fn it_agrees_with_a_plain_map_while_there_is_room() {
        let (mut cache, mut map) = (ClockCache::<Box<[u8]>, u32>::new(64), HashMap::new());
        let mut random = 7_u32;
        for _ in 0..5_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = [(random >> 20) as u8 & 63];
            if random & 1 == 0 {
                assert_eq!(cache.insert(key.into(), random), map.insert(key, random));
            } else {
                assert_eq!(cache.get(&key[..]), map.get(&key));
            }
        }
    }
}
