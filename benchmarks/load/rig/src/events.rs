//! Checks that an event stream arrives whole and in order: `#000000`, `#000001` ... usage, `[DONE]`.

use std::time::Instant;

use crate::clock::Anchor;
use crate::histogram::Histogram;

/// Statistics of a run's streams.
pub(crate) struct StreamStats {
    pub(crate) events: u64,
    /// Those that came in one read with the event before: the more, the less a chunk costs whoever passes it on.
    pub(crate) coalesced: u64,
    /// Nanoseconds between an event and the one before it in its stream.
    pub(crate) gap: Histogram,
    /// Nanoseconds from sending a request to its first event.
    pub(crate) first: Histogram,
    /// Nanoseconds from when the null server sent an event to when it was read here.
    pub(crate) delay: Histogram,
    anchor: Anchor,
}

impl StreamStats {
    pub(crate) fn new() -> Self {
        Self {
            events: 0,
            coalesced: 0,
            gap: Histogram::new(),
            first: Histogram::new(),
            delay: Histogram::new(),
            anchor: Anchor::now(),
        }
    }
}

/// Follows one stream.
pub(crate) struct EventChecker {
    expected: u32,
    next: u32,
    usage: bool,
    done: bool,
    in_order: bool,
    line: Vec<u8>,
    last: Option<Instant>,
}

impl EventChecker {
    /// `expected` numbered events must come before the terminator.
    pub(crate) fn new(expected: u32) -> Self {
        Self {
            expected,
            next: 0,
            usage: false,
            done: false,
            in_order: true,
            line: Vec::new(),
            last: None,
        }
    }

    /// Looks at the next bytes of the body, however cut, which arrived at `now`.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], sent: Instant, now: Instant, stats: &mut StreamStats) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            if self.line.is_empty() {
                self.take_line(&bytes[..end], sent, now, stats);
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(&bytes[..end]);
                self.take_line(&line, sent, now, stats);
                line.clear();
                self.line = line;
            }
            bytes = &bytes[end + 1..];
        }
        self.line.extend_from_slice(bytes);
    }

    /// Every numbered event came, in order, then the usage, then the terminator and nothing after it.
    pub(crate) fn complete(&self) -> bool {
        self.in_order && self.usage && self.done && self.next == self.expected && self.line.is_empty()
    }

    fn take_line(&mut self, line: &[u8], sent: Instant, now: Instant, stats: &mut StreamStats) {
        let Some(data) = line.strip_prefix(b"data:") else {
            return;
        };
        stats.events += 1;
        match self.last.replace(now) {
            None => stats.first.record(nanos(sent, now)),
            Some(last) => {
                // One read has one instant.
                stats.coalesced += u64::from(last == now);
                stats.gap.record(nanos(last, now));
            }
        }
        let data = data.trim_ascii();
        self.in_order &= !self.done;
        if data == b"[DONE]" {
            self.done = true;
        } else if let Some(number) = numbered(data) {
            self.in_order &= number == self.next && !self.usage;
            self.next += 1;
            if let Some(stamp) = stamp(data) {
                stats.delay.record(stats.anchor.nanos_since(stamp, now));
            }
        } else if memchr::memmem::find(data, b"\"total_tokens\"").is_some() {
            self.usage = true;
        }
        // Anything else is an event that the gateway made (a role, a finish reason): its right.
    }
}

/// The `#000017` in an event's text.
fn numbered(data: &[u8]) -> Option<u32> {
    let at = memchr::memchr(b'#', data)? + 1;
    let digits = data.get(at..at + 6)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The ten digits of `created`: when the event was sent (clock.rs).
fn stamp(data: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(data, b"\"created\":")? + 10;
    std::str::from_utf8(data.get(at..at + 10)?).ok()?.parse().ok()
}

/// Nanoseconds from one instant to a later one.
pub(crate) fn nanos(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload;

    fn stream(events: u32) -> Vec<u8> {
        let mut text = Vec::new();
        for number in 0..events {
            text.extend_from_slice(payload::event(number).as_bytes());
        }
        text.extend_from_slice(payload::last_events(events).as_bytes());
        text
    }

    fn check(text: &[u8], cut: usize, expected: u32) -> (bool, u64) {
        let (now, mut stats) = (Instant::now(), StreamStats::new());
        let mut checker = EventChecker::new(expected);
        for part in text.chunks(cut) {
            checker.feed(part, now, now, &mut stats);
        }
        (checker.complete(), stats.events)
    }

    #[test]
    fn a_whole_stream_is_complete_however_cut() {
        let text = stream(5);
        for cut in [1, 7, 64, 191, text.len()] {
            assert_eq!(check(&text, cut, 5), (true, 7), "cut every {cut}");
        }
    }

    #[test]
    fn what_is_lost_doubled_swapped_or_cut_is_seen() {
        let text = stream(3);
        let event = payload::event(0).len();
        assert!(!check(&text[event..], 50, 3).0, "lost the first");
        assert!(!check(&[&text[..event], &text].concat(), 50, 3).0, "doubled the first");
        let swapped = [&text[event..2 * event], &text[..event], &text[2 * event..]].concat();
        assert!(!check(&swapped, 50, 3).0, "swapped two");
        assert!(!check(&text[..3 * event], 50, 3).0, "no usage, no terminator");
        assert!(!check(&text, 50, 4).0, "one too few");
        assert!(
            !check(&[&text[..], &text[..event]].concat(), 50, 3).0,
            "an event after the terminator"
        );
        assert!(
            !check(&[&text[..], b"data: {"].concat(), 50, 3).0,
            "half an event after the terminator"
        );
    }
}
