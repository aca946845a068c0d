//! A cache of heads that the parser has accepted: it would accept them again.

use std::ops::Range;

/// The number of slots, each for one head.
const SLOTS: usize = 64;
/// Longer heads are not cached: 128 KiB in all.
const MAX_HEAD_BYTES: usize = 2 * 1024;

/// Caches heads byte by byte, except the number of their Content-Length.
#[derive(Debug)]
pub struct HeadCache {
    slots: [Option<Entry>; SLOTS],
}

/// A head without that number, and the offset where it was cut out.
#[derive(Debug)]
struct Entry {
    cut: usize,
    rest: Box<[u8]>,
}

impl Default for HeadCache {
    fn default() -> Self {
        let slots = [const { None }; SLOTS];
        Self { slots }
    }
}

impl HeadCache {
    /// True when this head is cached, with any number at `length`.
    #[must_use]
    pub fn contains(&self, head: &[u8], length: &Range<usize>) -> bool {
        let Some((before, after)) = around(head, length) else {
            return false;
        };
        let entry = self.slots.get(slot(before, after)).and_then(Option::as_ref);
        entry.and_then(|entry| entry.rest.split_at_checked(entry.cut)) == Some((before, after))
    }

    /// Caches a head, replacing the one in its slot.
    pub fn insert(&mut self, head: &[u8], length: &Range<usize>) {
        if let Some((before, after)) = around(head, length)
            && let Some(entry) = self.slots.get_mut(slot(before, after))
        {
            *entry = Some(Entry {
                cut: before.len(),
                rest: [before, after].concat().into(),
            });
        }
    }
}

/// The bytes before and after the number. None for a number with a leading zero: those are left to the parser.
fn around<'a>(head: &'a [u8], length: &Range<usize>) -> Option<(&'a [u8], &'a [u8])> {
    let is_plain = matches!(head.get(length.start), Some(b'1'..=b'9')) && head.len() <= MAX_HEAD_BYTES;
    Some((head.get(..length.start)?, head.get(length.end..)?)).filter(|_| is_plain)
}

/// The slot of a head. All of it is hashed, because the heads of many clients differ in one line; the slot's content is
/// compared in full.
fn slot(before: &[u8], after: &[u8]) -> usize {
    let mix = |sum: u64, word: u64| (sum.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let sum = [before, after].into_iter().fold(0, |sum, part| {
        let (words, rest) = part.as_chunks::<8>();
        let sum = words.iter().fold(sum, |sum, word| mix(sum, u64::from_le_bytes(*word)));
        rest.iter().fold(sum, |sum, byte| mix(sum, u64::from(*byte)))
    });
    (sum >> 58) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(user: &str, length: &str) -> (Vec<u8>, Range<usize>) {
        let before = format!("POST /v1/chat/completions HTTP/1.1\r\nx-user: {user}\r\ncontent-length: ");
        let at = before.len()..before.len() + length.len();
        (format!("{before}{length}\r\naccept: */*\r\n\r\n").into_bytes(), at)
    }

    #[test]
    fn a_head_is_known_whatever_its_length_says() {
        let mut head_cache = HeadCache::default();
        let (entry, at) = head("a", "17");
        assert!(!head_cache.contains(&entry, &at));
        head_cache.insert(&entry, &at);
        for length in ["17", "18", "1", "20000"] {
            let (other, at) = head("a", length);
            assert!(head_cache.contains(&other, &at), "{length}");
        }
    }

    #[test]
    fn a_head_with_another_byte_anywhere_is_not() {
        let mut head_cache = HeadCache::default();
        let (entry, at) = head("a", "17");
        head_cache.insert(&entry, &at);
        for i in (0..entry.len()).filter(|i| !at.contains(i)) {
            let mut other = entry.clone();
            other[i] ^= 1;
            assert!(!head_cache.contains(&other, &at), "byte {i}");
        }
        // Not even when it hashes to the same slot.
        head_cache.slots.iter_mut().for_each(|slot| {
            let (cut, rest) = (at.start, [&entry[..at.start], &entry[at.end..]].concat().into());
            *slot = Some(Entry { cut, rest });
        });
        assert!(head_cache.contains(&entry, &at));
        for i in (0..entry.len()).filter(|i| !at.contains(i)) {
            let mut other = entry.clone();
            other[i] ^= 1;
            assert!(!head_cache.contains(&other, &at), "byte {i}");
        }
        assert!(!head_cache.contains(&entry, &(at.start..at.end + 1)));
        assert!(!head_cache.contains(&entry[..entry.len() - 1], &at));
        assert!(!head_cache.contains(b"", &(0..0)));
    }

    #[test]
    fn an_uncommon_number_and_a_long_head_are_not_remembered() {
        let mut head_cache = HeadCache::default();
        for (head, at) in [
            head("a", "017"),
            head("a", "0"),
            head(&"a".repeat(MAX_HEAD_BYTES), "17"),
        ] {
            head_cache.insert(&head, &at);
            assert!(!head_cache.contains(&head, &at));
        }
        assert!(head_cache.slots.iter().all(Option::is_none));
    }

    #[test]
    fn many_clients_have_places_of_their_own() {
        let mut head_cache = HeadCache::default();
        let heads: Vec<_> = (0..20).map(|user| head(&format!("user-{user}"), "17")).collect();
        for (head, at) in &heads {
            head_cache.insert(head, at);
        }
        let known = heads.iter().filter(|(head, at)| head_cache.contains(head, at)).count();
        assert!(known > 12, "{known}");
    }
}
