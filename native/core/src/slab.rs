//! A slab with generational keys: a stale key never reaches the next owner of its slot.

/// Slots and their owners. A free slot is reused under another key.
#[derive(Debug)]
pub struct Slab<T> {
    all: Vec<Slot<T>>,
    free: Vec<u32>,
}

/// Identifies a slot and its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    owner: Option<T>,
}

impl<T> Slab<T> {
    /// Adds an owner to a free slot.
    pub fn add(&mut self, owner: T) -> Key {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.all.push(Slot {
                    generation: 0,
                    owner: None,
                });
                (self.all.len() - 1) as u32
            }
        };
        let mut generation = 0;
        if let Some(slot) = self.all.get_mut(index as usize) {
            slot.owner = Some(owner);
            generation = slot.generation;
        }
        Key(u64::from(generation) << 32 | u64::from(index))
    }

    /// The owner that this key was issued for, if it is still there.
    #[must_use]
    pub fn owner(&self, key: Key) -> Option<&T> {
        let slot = self.all.get(key.index())?;
        if slot.generation == key.generation() {
            slot.owner.as_ref()
        } else {
            None
        }
    }

    /// Removes the owner that this key was issued for.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.all.get_mut(key.index())?;
        if slot.generation != key.generation() {
            return None;
        }
        let owner = slot.owner.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.0 as u32);
        Some(owner)
    }

    /// The number of owners.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.all.len() - self.free.len()
    }

    /// Iterates over all owners.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.all.iter().filter_map(|slot| slot.owner.as_ref())
    }

    /// Removes all owners.
    pub fn clear(&mut self) -> Vec<T> {
        self.take(|_| true)
    }

    /// Removes the owners for which `whose` is true.
    pub fn take(&mut self, whose: impl Fn(&T) -> bool) -> Vec<T> {
        let is_theirs = |slot: &Slot<T>| slot.owner.as_ref().is_some_and(&whose);
        let slots = (0..).zip(&self.all).filter(|(_, slot)| is_theirs(slot));
        let keys: Vec<Key> = slots.map(|(index, slot)| slot.key(index)).collect();
        keys.into_iter().filter_map(|key| self.remove(key)).collect()
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slot<T> {
    fn key(&self, index: u32) -> Key {
        Key(u64::from(self.generation) << 32 | u64::from(index))
    }
}

impl Key {
    /// The key as a number, for interfaces that can only carry one.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    /// The key that `number` returned. A number that never was a key has no owner.
    #[must_use]
    pub fn of_number(number: u64) -> Self {
        Self(number)
    }

    fn index(self) -> usize {
        self.0 as u32 as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_not_reach_a_successor() {
        let mut slab = Slab::default();
        let first = slab.add("first");
        assert_eq!(slab.owner(first), Some(&"first"));
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.add("second");
        assert_eq!(first.index(), second.index());
        assert_eq!(slab.owner(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.owner(second), Some(&"second"));
    }

    #[test]
    fn a_place_is_given_back_once() {
        let mut slab = Slab::default();
        let key = slab.add(1);
        slab.remove(key);
        slab.remove(key);
        assert_ne!(slab.add(2).index(), slab.add(3).index());
    }

    #[test]
    fn numbers_are_keys() {
        let mut slab = Slab::default();
        slab.add(1);
        let before = slab.add(0);
        slab.remove(before);
        let key = slab.add(2);
        assert_eq!(slab.owner(Key::of_number(key.number())), Some(&2));
        assert_eq!(slab.owner(Key::of_number(before.number())), None);
        assert_eq!(slab.owner(Key::of_number(7)), None);
    }

    #[test]
    fn all_places_are_taken_back_at_once() {
        let mut slab = Slab::default();
        let keys = [slab.add(1), slab.add(2), slab.add(3)];
        slab.remove(keys[1]);
        assert_eq!((slab.len(), slab.iter().collect::<Vec<_>>()), (2, vec![&1, &3]));
        assert_eq!(slab.clear(), [1, 3]);
        let successors = [slab.add(4), slab.add(5), slab.add(6)];
        assert!(keys.iter().all(|key| slab.owner(*key).is_none()));
        assert!(successors.iter().all(|key| key.index() < 3));
    }

    #[test]
    fn some_places_are_taken_back_and_the_others_stay() {
        let mut slab = Slab::default();
        let keys = [slab.add(1), slab.add(2), slab.add(3), slab.add(4)];
        slab.remove(keys[0]);
        assert_eq!(slab.take(|owner| owner % 2 == 0), [2, 4]);
        assert_eq!((slab.len(), slab.owner(keys[2])), (1, Some(&3)));
        assert!([keys[1], keys[3]].iter().all(|key| slab.owner(*key).is_none()));
        assert!(slab.take(|owner| owner % 2 == 0).is_empty());
    }
}
