//! A slab with generational keys: a stale key never reaches the next owner of its slot.

/// Slots and their owners. A free slot is reused under another key.
#[derive(Debug)]
pub struct Places<T> {
    all: Vec<Place<T>>,
    free: Vec<u32>,
}

/// Identifies a slot and its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    owner: Option<T>,
}

impl<T> Places<T> {
    /// Adds an owner to a free slot.
    pub fn add(&mut self, owner: T) -> Key {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.all.push(Place {
                    generation: 0,
                    owner: None,
                });
                (self.all.len() - 1) as u32
            }
        };
        let mut generation = 0;
        if let Some(place) = self.all.get_mut(index as usize) {
            place.owner = Some(owner);
            generation = place.generation;
        }
        Key(u64::from(generation) << 32 | u64::from(index))
    }

    /// The owner that this key was issued for, if it is still there.
    #[must_use]
    pub fn owner(&self, key: Key) -> Option<&T> {
        let place = self.all.get(key.index())?;
        if place.generation == key.generation() {
            place.owner.as_ref()
        } else {
            None
        }
    }

    /// Removes the owner that this key was issued for.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let place = self.all.get_mut(key.index())?;
        if place.generation != key.generation() {
            return None;
        }
        let owner = place.owner.take()?;
        place.generation = place.generation.wrapping_add(1);
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
        self.all.iter().filter_map(|place| place.owner.as_ref())
    }

    /// Removes all owners.
    pub fn clear(&mut self) -> Vec<T> {
        self.take(|_| true)
    }

    /// Removes the owners for which `whose` is true.
    pub fn take(&mut self, whose: impl Fn(&T) -> bool) -> Vec<T> {
        let is_theirs = |place: &Place<T>| place.owner.as_ref().is_some_and(&whose);
        let places = (0..).zip(&self.all).filter(|(_, place)| is_theirs(place));
        let keys: Vec<Key> = places.map(|(index, place)| place.key(index)).collect();
        keys.into_iter().filter_map(|key| self.remove(key)).collect()
    }
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Place<T> {
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
        let mut places = Places::default();
        let first = places.add("first");
        assert_eq!(places.owner(first), Some(&"first"));
        assert_eq!(places.remove(first), Some("first"));
        let second = places.add("second");
        assert_eq!(first.index(), second.index());
        assert_eq!(places.owner(first), None);
        assert_eq!(places.remove(first), None);
        assert_eq!(places.owner(second), Some(&"second"));
    }

    #[test]
    fn a_place_is_given_back_once() {
        let mut places = Places::default();
        let key = places.add(1);
        places.remove(key);
        places.remove(key);
        assert_ne!(places.add(2).index(), places.add(3).index());
    }

    #[test]
    fn numbers_are_keys() {
        let mut places = Places::default();
        places.add(1);
        let before = places.add(0);
        places.remove(before);
        let key = places.add(2);
        assert_eq!(places.owner(Key::of_number(key.number())), Some(&2));
        assert_eq!(places.owner(Key::of_number(before.number())), None);
        assert_eq!(places.owner(Key::of_number(7)), None);
    }

    #[test]
    fn all_places_are_taken_back_at_once() {
        let mut places = Places::default();
        let keys = [places.add(1), places.add(2), places.add(3)];
        places.remove(keys[1]);
        assert_eq!((places.len(), places.iter().collect::<Vec<_>>()), (2, vec![&1, &3]));
        assert_eq!(places.clear(), [1, 3]);
        let successors = [places.add(4), places.add(5), places.add(6)];
        assert!(keys.iter().all(|key| places.owner(*key).is_none()));
        assert!(successors.iter().all(|key| key.index() < 3));
    }

    #[test]
    fn some_places_are_taken_back_and_the_others_stay() {
        let mut places = Places::default();
        let keys = [places.add(1), places.add(2), places.add(3), places.add(4)];
        places.remove(keys[0]);
        assert_eq!(places.take(|owner| owner % 2 == 0), [2, 4]);
        assert_eq!((places.len(), places.owner(keys[2])), (1, Some(&3)));
        assert!([keys[1], keys[3]].iter().all(|key| places.owner(*key).is_none()));
        assert!(places.take(|owner| owner % 2 == 0).is_empty());
    }
}
