//! Holders: the upstreams that hold what an id stands for (a stored response, a file, a batch), known to all workers.
//!
//! A table of one word for each id: 48 bits of its hash, and the upstream's slot. Sets of eight by the other bits; in a
//! full set the oldest id is forgotten. A word is written at once, so a process may be killed at any point; two that write
//! one set at the same time may forget an id.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::segment::{HOLDERS, Segment, UpstreamSlot};

const WAYS: usize = 8;
const SETS: u64 = (HOLDERS / WAYS) as u64;
/// The bits of a word that hold the slot, counted from 1.
const SLOT_BITS: u32 = 16;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;

impl Segment {
    /// Remembers that an upstream holds what an id stands for.
    pub fn remember(&self, id: &[u8], slot: UpstreamSlot) {
        let (set, tag) = self.place(id);
        let word = tag | (slot.get() as u64 + 1);
        let mut moved = word;
        for way in set {
            let former = way.swap(moved, Ordering::Relaxed);
            if former == 0 || former & !SLOT_MASK == tag {
                break;
            }
            moved = former;
        }
    }

    /// The upstream that holds what an id stands for, as far as that is remembered.
    #[must_use]
    pub fn holder(&self, id: &[u8]) -> Option<UpstreamSlot> {
        let (set, tag) = self.place(id);
        let words = set.iter().map(|way| way.load(Ordering::Relaxed));
        let word = words.into_iter().find(|word| *word != 0 && word & !SLOT_MASK == tag)?;
        self.slot((word & SLOT_MASK) as usize - 1)
    }

    fn place(&self, id: &[u8]) -> (&[AtomicU64], u64) {
        let hash = self.hash_key().derive(b"holders").hash(id);
        let first = (hash & SLOT_MASK) % SETS;
        let start = first as usize * WAYS;
        let set = self.layout().holders.get(start..start + WAYS).unwrap_or_default();
        (set, hash & !SLOT_MASK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_leads_to_its_upstream_in_every_process() {
        let segment = Segment::new(1).unwrap();
        let (a, b) = (
            segment.upstream("http://a").unwrap(),
            segment.upstream("http://b").unwrap(),
        );
        assert_eq!(segment.holder(b"resp_1"), None);
        segment.remember(b"resp_1", a);
        segment.remember(b"resp_2", b);
        assert_eq!(
            (segment.holder(b"resp_1"), segment.holder(b"resp_2")),
            (Some(a), Some(b))
        );
        segment.remember(b"resp_1", b);
        assert_eq!(segment.holder(b"resp_1"), Some(b));
    }

    #[test]
    fn the_oldest_ids_are_forgotten() {
        let segment = Segment::new(1).unwrap();
        let slot = segment.upstream("http://a").unwrap();
        let id = |number: usize| format!("resp_{number}").into_bytes();
        for number in 0..4 * HOLDERS {
            segment.remember(&id(number), slot);
        }
        let known = |from: usize, to: usize| (from..to).filter(|at| segment.holder(&id(*at)).is_some()).count();
        assert_eq!(known(4 * HOLDERS - 1000, 4 * HOLDERS), 1000);
        assert_eq!(known(0, 1000), 0);
    }
}
