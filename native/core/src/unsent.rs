//! Unsent bytes: written to a connection, and not yet taken by the kernel.

/// Growth of the capacity.
const STEP: usize = 4096;

/// Bytes in order. Holds no memory when empty: most connections never have unsent bytes.
#[derive(Debug, Default)]
pub struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
}

impl Unsent {
    /// The number of unsent bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// True when there are no unsent bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds bytes to the end.
    pub fn push(&mut self, data: &[u8]) {
        if self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        let needed = (self.bytes.len() + data.len()).next_multiple_of(STEP);
        // Does not double: the memory for a slow reader is bounded, and half of it would never be used.
        self.bytes.reserve_exact(needed - self.bytes.len());
        self.bytes.extend_from_slice(data);
    }

    /// The unsent bytes, from the beginning.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    /// Removes bytes that were sent.
    pub fn advance(&mut self, count: usize) {
        self.sent = self.bytes.len().min(self.sent + count);
        if self.is_empty() {
            self.clear();
        }
    }

    /// Drops all bytes and their memory.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_the_order_they_came() {
        let mut unsent = Unsent::default();
        let (mut left, mut pushed) = (Vec::new(), Vec::new());
        for round in 0..200_u8 {
            let data = vec![round; usize::from(round) % 7];
            unsent.push(&data);
            pushed.extend_from_slice(&data);
            let count = usize::from(round) % 5;
            left.extend_from_slice(&unsent.rest()[..count.min(unsent.len())]);
            unsent.advance(count);
            assert_eq!(left.len() + unsent.len(), pushed.len());
        }
        left.extend_from_slice(unsent.rest());
        assert_eq!(left, pushed);
    }

    #[test]
    fn there_is_little_more_room_than_bytes() {
        let mut unsent = Unsent::default();
        for _ in 0..3 {
            unsent.push(&[7; 16_500]);
        }
        assert!(unsent.bytes.capacity() < 49_500 + STEP, "{}", unsent.bytes.capacity());
    }

    #[test]
    fn what_has_left_does_not_pile_up() {
        let mut unsent = Unsent::default();
        for _ in 0..1000 {
            unsent.push(&[7; 100]);
            unsent.advance(unsent.len() - 10);
        }
        assert!(unsent.bytes.len() < 400, "{}", unsent.bytes.len());
        unsent.advance(11);
        assert!(unsent.is_empty());
        assert_eq!(unsent.bytes.capacity(), 0);
    }
}
