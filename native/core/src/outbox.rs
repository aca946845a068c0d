//! A buffer for everything composed in one turn, instead of one buffer per message.

use std::ops::Range;

/// Capacity kept from turn to turn.
const KEPT: usize = 256 * 1024;

/// Texts one after another, until cleared.
#[derive(Debug, Default)]
pub struct Outbox {
    /// The texts are the first `used` bytes; the rest is capacity that was zeroed once.
    bytes: Vec<u8>,
    used: usize,
}

impl Outbox {
    /// Adds `size` bytes, filled by `write`; returns their range.
    pub fn add(&mut self, size: usize, write: impl FnOnce(&mut [u8])) -> Range<usize> {
        let range = self.used..self.used + size;
        if self.bytes.len() < range.end {
            self.bytes.resize(range.end.next_power_of_two(), 0);
        }
        if let Some(room) = self.bytes.get_mut(range.clone()) {
            write(room);
        }
        self.used = range.end;
        range
    }

    /// The text in a range, if it was added.
    #[must_use]
    pub fn text(&self, range: &Range<usize>) -> Option<&[u8]> {
        self.bytes.get(..self.used)?.get(range.clone())
    }

    /// Removes all texts.
    pub fn clear(&mut self) {
        self.used = 0;
        if self.bytes.len() > KEPT {
            self.bytes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stand_where_they_were_added_until_all_are_cleared() {
        let mut outbox = Outbox::default();
        let first = outbox.add(5, |room| room.copy_from_slice(b"first"));
        let second = outbox.add(2, |room| room.copy_from_slice(b"2."));
        let none = outbox.add(0, |_| ());
        assert_eq!(outbox.text(&first), Some(&b"first"[..]));
        assert_eq!(outbox.text(&second), Some(&b"2."[..]));
        assert_eq!(outbox.text(&none), Some(&b""[..]));
        outbox.clear();
        assert_eq!(outbox.text(&first), None);
        let third = outbox.add(1, |room| room.copy_from_slice(b"3"));
        assert_eq!((third.clone(), outbox.text(&third)), (0..1, Some(&b"3"[..])));
    }

    #[test]
    fn one_large_turn_is_not_kept_for_good() {
        let mut outbox = Outbox::default();
        outbox.add(KEPT + 1, |room| room.fill(1));
        outbox.clear();
        assert_eq!(outbox.bytes.len(), 0);
        outbox.add(KEPT / 2, |room| room.fill(1));
        outbox.clear();
        assert!(outbox.bytes.len() >= KEPT / 2);
    }
}
