//! A cache of heads that the parser has accepted: it would accept them again.
//!
//! Clients send the same head with every request but for a few values: the body's length, an id, and, where many share
//! a proxy's connections, the credential and the address. No parser looks into those, except for the characters that a
//! value may have.

use super::Field;
use super::known::{Known, KnownSet, set};

/// The number of slots, each for one head.
const SLOTS: usize = 64;
/// Longer heads are not cached: 128 KiB in all.
const MAX_HEAD_BYTES: usize = 2 * 1024;
/// Values that may differ, where they are visible ASCII. None of these means anything to a parser.
const FREE: KnownSet = set(&[
    Known::RequestId,
    Known::Traceparent,
    Known::Tracestate,
    Known::IdempotencyKey,
    Known::Authorization,
    Known::XApiKey,
    Known::ApiKey,
    Known::Forwarded,
    Known::XForwardedFor,
    Known::XRealIp,
    Known::Date,
]);

/// Caches heads byte by byte, except for the number of their Content-Length and the values of FREE.
#[derive(Debug)]
pub struct HeadCache {
    slots: [Option<Box<[u8]>>; SLOTS],
}

impl Default for HeadCache {
    fn default() -> Self {
        let slots = [const { None }; SLOTS];
        Self { slots }
    }
}

impl HeadCache {
    /// True when this head is cached, whatever the free values are. `fields` are its lines.
    #[must_use]
    pub fn contains(&self, head: &[u8], fields: &[Field]) -> bool {
        if !is_plain(head, fields) {
            return false;
        }
        let Some(Some(entry)) = self.slots.get(slot(fixed(head, fields))) else {
            return false;
        };
        let mut rest = &**entry;
        for part in fixed(head, fields) {
            match rest.strip_prefix(part) {
                Some(behind) => rest = behind,
                None => return false,
            }
        }
        rest.is_empty()
    }

    /// Caches a head, replacing the one in its slot.
    pub fn insert(&mut self, head: &[u8], fields: &[Field]) {
        if is_plain(head, fields)
            && let Some(slot) = self.slots.get_mut(slot(fixed(head, fields)))
        {
            *slot = Some(fixed(head, fields).collect::<Vec<_>>().concat().into());
        }
    }
}

/// True when the head has one Content-Length, without a leading zero: others are left to the parser.
fn is_plain(head: &[u8], fields: &[Field]) -> bool {
    let mut lengths = fields.iter().filter(|field| field.known == Known::ContentLength);
    let (first, second) = (lengths.next(), lengths.next());
    let digit = first.and_then(|field| field.value(head).first());
    head.len() <= MAX_HEAD_BYTES && second.is_none() && matches!(digit, Some(b'1'..=b'9'))
}

/// The parts of a head that must be the same: all but the free values. Values hold no line breaks, so that no two heads
/// have the same parts, but for these values.
fn fixed<'a>(head: &'a [u8], fields: &'a [Field]) -> impl Iterator<Item = &'a [u8]> {
    let free = fields.iter().filter(move |field| match field.known {
        Known::ContentLength => true,
        known => known.is_in(FREE) && is_visible(field.value(head)),
    });
    let mut at = 0;
    let ends = free
        .map(|field| field.value_span().range())
        .chain(std::iter::once(head.len()..head.len()));
    ends.map(move |value| {
        let part = head.get(at..value.start).unwrap_or_default();
        at = value.end;
        part
    })
}

/// True for characters that every parser takes in a value.
fn is_visible(value: &[u8]) -> bool {
    value.iter().fold(true, |all, byte| all & matches!(byte, b' '..=b'~'))
}

/// The slot of a head. All that is fixed is hashed; the slot's content is compared in full.
fn slot<'a>(parts: impl Iterator<Item = &'a [u8]>) -> usize {
    let mix = |sum: u64, word: u64| (sum.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let sum = parts.fold(0, |sum, part| {
        let (words, rest) = part.as_chunks::<8>();
        let sum = words.iter().fold(sum, |sum, word| mix(sum, u64::from_le_bytes(*word)));
        rest.iter().fold(sum, |sum, byte| mix(sum, u64::from(*byte)))
    });
    (sum >> 58) as usize
}

#[cfg(test)]
mod tests {
    use super::super::RequestHead;
    use super::*;

    const LINES: [&str; 6] = [
        "POST /v1/chat/completions HTTP/1.1",
        "host: a",
        "authorization: Bearer abc",
        "x-user: a",
        "content-length: 17",
        "accept: */*",
    ];

    fn head(lines: &[&str]) -> (Vec<u8>, Vec<Field>) {
        let bytes = format!("{}\r\n\r\n", lines.join("\r\n")).into_bytes();
        let fields = RequestHead::parse(&bytes).unwrap().unwrap().fields.to_vec();
        (bytes, fields)
    }

    /// The lines with one of them replaced.
    fn with(line: usize, text: &str) -> (Vec<u8>, Vec<Field>) {
        let mut lines = LINES;
        lines[line] = text;
        head(&lines)
    }

    fn filled() -> HeadCache {
        let mut cache = HeadCache::default();
        let (bytes, fields) = head(&LINES);
        assert!(!cache.contains(&bytes, &fields));
        cache.insert(&bytes, &fields);
        assert!(cache.contains(&bytes, &fields));
        cache
    }

    #[test]
    fn a_head_is_known_whatever_its_free_values_are() {
        let cache = filled();
        for (line, text) in [
            (4, "content-length: 1"),
            (4, "content-length: 20000"),
            (2, "authorization: Bearer another"),
            (2, "authorization: x y z ~!"),
        ] {
            let (bytes, fields) = with(line, text);
            assert!(cache.contains(&bytes, &fields), "{text}");
        }
    }

    #[test]
    fn another_line_makes_another_head() {
        let cache = filled();
        for (line, text) in [
            (0, "POST /v1/chat/completion HTTP/1.1"),
            (0, "PUT /v1/chat/completions HTTP/1.1"),
            (1, "host: b"),
            (2, "authorization:  Bearer abc"),
            (2, "Authorization: Bearer abc"),
            (2, "authorization: Bearer \u{e9}"),
            (2, "authorization: a\tb"),
            (2, "x-api-key: Bearer abc"),
            (3, "x-user: b"),
            (4, "content-length: 017"),
            (4, "content-length: 0"),
            (4, "Content-length: 17"),
            (5, "accept: *"),
            (5, "connection: close"),
        ] {
            let (bytes, fields) = with(line, text);
            assert!(!cache.contains(&bytes, &fields), "{text}");
        }
        let (bytes, fields) = head(&LINES[..5]);
        assert!(!cache.contains(&bytes, &fields));
    }

    #[test]
    fn a_head_with_another_fixed_byte_is_not_known_even_in_the_same_slot() {
        let mut cache = filled();
        let (bytes, fields) = head(&LINES);
        let entry: Box<[u8]> = fixed(&bytes, &fields).collect::<Vec<_>>().concat().into();
        cache.slots.iter_mut().for_each(|slot| *slot = Some(entry.clone()));
        let free: Vec<_> = fields.iter().filter(|field| !field.known.name().is_empty()).collect();
        let is_free = |at: usize| {
            let of = |name: &str| {
                free.iter()
                    .any(|f| f.known.name() == name && f.value_span().range().contains(&at))
            };
            of("authorization") || of("content-length")
        };
        for at in (0..bytes.len()).filter(|at| !is_free(*at)) {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert!(!cache.contains(&other, &fields), "byte {at}");
        }
        assert!(!cache.contains(&bytes[..bytes.len() - 1], &fields));
        assert!(!cache.contains(b"", &[]));
    }

    #[test]
    fn an_uncommon_number_and_a_long_head_are_not_remembered() {
        let mut cache = HeadCache::default();
        let long = format!("x-user: {}", "a".repeat(MAX_HEAD_BYTES));
        for (line, text) in [
            (4, "content-length: 017"),
            (4, "content-length: 0"),
            (3, &*long),
            (4, "x: y"),
        ] {
            let (bytes, fields) = with(line, text);
            cache.insert(&bytes, &fields);
            assert!(!cache.contains(&bytes, &fields), "{text}");
        }
        assert!(cache.slots.iter().all(Option::is_none));
    }

    #[test]
    fn many_kinds_of_clients_have_places_of_their_own() {
        let mut cache = HeadCache::default();
        let heads: Vec<_> = (0..20).map(|user| with(3, &format!("x-user: user-{user}"))).collect();
        for (bytes, fields) in &heads {
            cache.insert(bytes, fields);
        }
        let known = heads
            .iter()
            .filter(|(bytes, fields)| cache.contains(bytes, fields))
            .count();
        assert!(known > 12, "{known}");
    }
}
