//! The event framer: WHATWG's event stream, cut anywhere, one event at a time.
//!
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>

use memchr::memchr2;

/// A longer event (from its first field to its blank line) is not held back: its data is reported as it passes.
pub const MAX_EVENT_BYTES: usize = 1 << 20;

/// Larger buffers are freed after use: streams idle for minutes.
pub(super) const KEPT_BYTES: usize = 64 * 1024;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Receives the framer's output: every byte once, in order, as passed or as part of an event.
pub(crate) trait Sink {
    /// Receives bytes without data to examine: comments, line ends, events without data or too long.
    fn pass(&mut self, bytes: &[u8]);

    /// Receives a whole event from its first field to its blank line.
    fn event(&mut self, event: Event<'_>);

    /// Receives a piece of the data of an event that is too long to be held, in addition to `pass`. Lines end with line
    /// feeds.
    fn long(&mut self, _: &[u8]) {}

    /// Ends such an event; true when its `event` field is `error`.
    fn long_end(&mut self, _is_error: bool) {}
}

/// One event with data.
#[derive(Clone, Copy)]
pub(crate) struct Event<'a> {
    /// From its first field up to and including the blank line.
    pub(super) raw: &'a [u8],
    /// The values of its data lines, as offsets into `raw`.
    pub(super) lines: &'a [(usize, usize)],
    /// True when its `event` field is `error`.
    pub(super) is_error: bool,
}

impl<'a> Event<'a> {
    /// The data; `scratch` holds it when several lines must be joined by line feeds.
    pub(crate) fn data<'b>(&self, scratch: &'b mut Vec<u8>) -> &'b [u8]
    where
        'a: 'b,
    {
        if let [(start, end)] = *self.lines {
            return self.raw.get(start..end).unwrap_or_default();
        }
        scratch.clear();
        for (i, &(start, end)) in self.lines.iter().enumerate() {
            if i > 0 {
                scratch.push(b'\n');
            }
            scratch.extend_from_slice(self.raw.get(start..end).unwrap_or_default());
        }
        scratch
    }

    /// Converts an offset in the data to one in `raw`.
    pub(super) fn offset(&self, mut offset: usize) -> Option<usize> {
        for &(start, end) in self.lines {
            if offset < end - start {
                return Some(start + offset);
            }
            offset = offset.checked_sub(end - start + 1)?;
        }
        None
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skip {
    Nothing,
    /// A line without data that became too long to hold.
    Line,
    /// The rest of an event that is too long.
    Event,
}

/// The kind of the current line of an event that is too long.
#[derive(Debug, Clone, Copy)]
enum LongLine {
    /// The number of bytes so far, all of which match the beginning of a data line.
    Begins(usize),
    Data,
    Other,
}

const DATA_START: &[u8] = b"data:";

/// Frames one stream. Offsets below are relative to the first byte held.
#[derive(Debug)]
pub(crate) struct Events {
    // stream
    held: Vec<u8>,
    line: usize,
    scanned: usize,
    after_cr: bool,
    first_line: bool,
    skip: Skip,
    // While skipping an event: true when its current line is not blank, and the line's kind.
    line_begun: bool,
    long_line: LongLine,
    // event
    /// True when a field of it has arrived.
    begun: bool,
    /// True when part of it was output: it was too long to be held.
    torn: bool,
    lines: Vec<(usize, usize)>,
    is_error: bool,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self {
            held: Vec::new(),
            line: 0,
            scanned: 0,
            after_cr: false,
            first_line: true,
            skip: Skip::Nothing,
            line_begun: false,
            long_line: LongLine::Begins(0),
            begun: false,
            torn: false,
            lines: Vec::new(),
            is_error: false,
        }
    }

    /// Scans the next bytes; returns the number of events (with data) that they completed.
    pub(crate) fn feed(&mut self, chunk: &[u8], sink: &mut impl Sink) -> usize {
        self.advance(chunk, sink, None).0
    }

    /// Same as `feed`, for output in whole events. Bytes that are no longer held back are appended to `freed`; they are
    /// followed by the first bytes of `chunk`, as many as the second number.
    pub(super) fn feed_through(&mut self, chunk: &[u8], sink: &mut impl Sink, freed: &mut Vec<u8>) -> (usize, usize) {
        self.advance(chunk, sink, Some(freed))
    }

    fn advance(&mut self, chunk: &[u8], sink: &mut impl Sink, freed: Option<&mut Vec<u8>>) -> (usize, usize) {
        if self.held.is_empty() {
            let (events, kept) = self.run(chunk, sink);
            self.held.extend_from_slice(chunk.get(kept..).unwrap_or_default());
            return (events, kept);
        }
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(chunk);
        let (events, kept) = self.run(&held, sink);
        if let Some(freed) = freed {
            freed.extend_from_slice(held.get(..kept).unwrap_or_default());
        }
        held.drain(..kept);
        if held.is_empty() {
            // A rare long event must not hold a megabyte for an idle stream.
            held.shrink_to(KEPT_BYTES);
        }
        self.held = held;
        (events, 0)
    }

    /// True when the output ends with a whole event or comment.
    pub(super) fn is_between(&self) -> bool {
        !self.torn
    }

    /// The bytes still held back; an unfinished event is not an event.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        std::mem::replace(self, Self::new()).held
    }

    /// Scans the held and the new bytes; returns the number of events completed and the offset from which to hold.
    fn run(&mut self, buf: &[u8], sink: &mut impl Sink) -> (usize, usize) {
        let mut events = 0;
        let mut start = 0;
        let (mut line, mut at) = (self.line, self.scanned);
        loop {
            if self.after_cr && at < buf.len() {
                self.after_cr = false;
                if buf.get(at) == Some(&b'\n') {
                    at += 1;
                    line = at;
                }
            }
            let rest = buf.get(at..).unwrap_or_default();
            let Some(end) = memchr2(b'\n', b'\r', rest).map(|i| at + i) else {
                break;
            };
            let next = end + 1;
            self.after_cr = buf.get(end) == Some(&b'\r');
            match self.skip {
                Skip::Line => {
                    self.skip = Skip::Nothing;
                    self.torn = self.begun;
                }
                Skip::Event => {
                    self.long(buf.get(line..end).unwrap_or_default(), sink);
                    if let LongLine::Data = std::mem::replace(&mut self.long_line, LongLine::Begins(0)) {
                        sink.long(b"\n");
                    }
                    if line == end && !self.line_begun {
                        self.skip = Skip::Nothing;
                        sink.long_end(std::mem::take(&mut self.is_error));
                        (self.begun, self.torn) = (false, false);
                        events += 1;
                    }
                    self.line_begun = false;
                }
                Skip::Nothing => {
                    let text = self.without_bom(buf.get(line..end).unwrap_or_default());
                    if text.is_empty() {
                        if !self.lines.is_empty() {
                            events += 1;
                            self.dispatch(buf.get(start..next).unwrap_or_default(), start, sink);
                            start = next;
                        }
                        self.is_error = false;
                        (self.begun, self.torn) = (false, false);
                    } else if text.first() != Some(&b':') {
                        if !self.begun {
                            self.begun = true;
                            pass(sink, buf.get(start..line));
                            start = line;
                        }
                        if let Some(value) = field(text, b"data") {
                            self.lines.push((end - value.len(), end));
                        } else if let Some(value) = field(text, b"event") {
                            self.is_error = value == b"error";
                        }
                    }
                    self.first_line = false;
                }
            }
            line = next;
            at = next;
        }
        if !self.begun {
            pass(sink, buf.get(start..line));
            start = line;
        }
        if self.skip == Skip::Event {
            self.long(buf.get(line..).unwrap_or_default(), sink);
        } else if self.skip == Skip::Nothing && buf.len() - start > MAX_EVENT_BYTES {
            let partial = self.without_bom(buf.get(line..).unwrap_or_default());
            let has_data = !self.lines.is_empty() || field(partial, b"data").is_some();
            self.skip = if has_data { Skip::Event } else { Skip::Line };
            if has_data {
                self.long_lines(buf, sink);
                self.long_line = LongLine::Begins(0);
                self.long(partial, sink);
            }
            self.begun |= partial.first() != Some(&b':');
            self.torn = true;
            self.first_line = false;
            self.lines.clear();
        }
        if self.skip != Skip::Nothing {
            self.line_begun |= line < buf.len();
            pass(sink, buf.get(start..));
            start = buf.len();
            line = start;
        }
        // Only when something was output: an event of many lines may arrive byte by byte.
        if start > 0 {
            for (from, to) in &mut self.lines {
                *from -= start;
                *to -= start;
            }
        }
        self.line = line - start;
        self.scanned = buf.len() - start;
        (events, start)
    }

    fn dispatch(&mut self, raw: &[u8], start: usize, sink: &mut impl Sink) {
        if raw.len() > MAX_EVENT_BYTES {
            // As if it had arrived in pieces.
            sink.pass(raw);
            for (from, to) in &mut self.lines {
                *from -= start;
                *to -= start;
            }
            self.long_lines(raw, sink);
            sink.long_end(self.is_error);
        } else {
            for (from, to) in &mut self.lines {
                *from -= start;
                *to -= start;
            }
            sink.event(Event {
                raw,
                lines: &self.lines,
                is_error: self.is_error,
            });
        }
        self.lines.clear();
    }

    /// Reports the data lines so far (offsets into `buf`) of an event that turns out to be too long.
    fn long_lines(&self, buf: &[u8], sink: &mut impl Sink) {
        for &(from, to) in &self.lines {
            sink.long(buf.get(from..to).unwrap_or_default());
            sink.long(b"\n");
        }
    }

    /// Processes more of the current line of an event that is too long.
    fn long(&mut self, mut text: &[u8], sink: &mut impl Sink) {
        while let (LongLine::Begins(count), Some((&byte, rest))) = (self.long_line, text.split_first()) {
            text = rest;
            self.long_line = match DATA_START.get(count) {
                Some(&wanted) if wanted != byte => LongLine::Other,
                Some(_) if count + 1 == DATA_START.len() => LongLine::Data,
                _ => LongLine::Begins(count + 1),
            };
        }
        if let (LongLine::Data, false) = (self.long_line, text.is_empty()) {
            sink.long(text);
        }
    }

    fn without_bom<'a>(&self, line: &'a [u8]) -> &'a [u8] {
        if self.first_line {
            line.strip_prefix(BOM).unwrap_or(line)
        } else {
            line
        }
    }
}

fn pass(sink: &mut impl Sink, bytes: Option<&[u8]>) {
    if let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) {
        sink.pass(bytes);
    }
}

/// The value of a line with that field name: past the colon and one space, or empty without a colon.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(name)? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Log {
        events: Vec<(String, bool)>,
        bytes: Vec<u8>,
    }

    impl Sink for Log {
        fn pass(&mut self, bytes: &[u8]) {
            self.bytes.extend_from_slice(bytes);
        }
        fn event(&mut self, event: Event<'_>) {
            let data = String::from_utf8(event.data(&mut Vec::new()).to_vec()).unwrap();
            self.events.push((data, event.is_error));
            self.bytes.extend_from_slice(event.raw);
        }
    }

    #[test]
    fn only_what_is_too_long_leaves_in_part() {
        let long = vec![b'x'; MAX_EVENT_BYTES + 1];
        for (begin, end) in [
            ("data: ", "\n\n"),
            ("event: a\ndata: b\n:", "\n\n"),
            (": ", "\n"),
            ("id: ", "\ndata: c\r\n\r\n"),
        ] {
            let (mut events, mut log) = (Events::new(), Log::default());
            events.feed(b"data: a\n\nevent: b\n: c", &mut log);
            assert!(events.is_between());
            assert_eq!(log.bytes, b"data: a\n\n");
            events.feed(b"\n\n", &mut log);
            events.feed(begin.as_bytes(), &mut log);
            events.feed(&long, &mut log);
            assert!(!events.is_between());
            events.feed(end.as_bytes(), &mut log);
            assert!(events.is_between(), "{begin}");
        }
    }

    /// The events of a stream, the same for every chunk size and with every byte output once.
    fn events(stream: &[u8]) -> Vec<(String, bool)> {
        let mut seen: Option<Vec<(String, bool)>> = None;
        for size in [1, 2, 3, 7, stream.len().max(1)] {
            let (mut events, mut log, mut count) = (Events::new(), Log::default(), 0);
            for chunk in stream.chunks(size) {
                count += events.feed(chunk, &mut log);
                assert!(events.held.len() <= MAX_EVENT_BYTES);
            }
            log.bytes.extend(events.finish());
            assert_eq!(log.bytes, stream);
            if stream.len() < MAX_EVENT_BYTES {
                assert_eq!(count, log.events.len());
            }
            assert_eq!(*seen.get_or_insert_with(|| log.events.clone()), log.events);
        }
        seen.unwrap()
    }

    fn data(stream: &str) -> Vec<String> {
        events(stream.as_bytes()).into_iter().map(|(data, _)| data).collect()
    }

    #[test]
    fn all_line_ends_count() {
        assert_eq!(
            data("data: a\n\ndata: b\r\n\r\ndata: c\r\rdata: d\r\n\ndata:e\n\r\n"),
            ["a", "b", "c", "d", "e"]
        );
    }

    #[test]
    fn data_lines_are_joined() {
        assert_eq!(
            data("data: a\r\n: x\r\ndata:  b\r\ndata\r\nid: 1\r\ndata:\r\n\r\n"),
            ["a\n b\n\n"]
        );
    }

    #[test]
    fn what_has_no_data_is_no_event() {
        assert_eq!(data(": hi\n\nevent: x\n\ndataset: 1\n\n\n\ndata\n\n"), [""]);
        assert_eq!(data("data: unfinished\n"), [""; 0]);
    }

    #[test]
    fn a_byte_order_mark_goes_once() {
        assert_eq!(data("\u{feff}data: a\n\n\u{feff}data: b\n\n"), ["a"]);
        assert_eq!(data("\u{feff}\n\ndata: b\n\n"), ["b"]);
    }

    #[test]
    fn an_error_event_is_one_by_name() {
        let seen = events(b"event: error\ndata: a\n\ndata: b\n\nevent: error\n\ndata: c\nevent:error\n\n");
        assert_eq!(seen, [("a".into(), true), ("b".into(), false), ("c".into(), true)]);
    }

    #[test]
    fn a_long_event_is_passed_over() {
        let mut stream = b"data: ".to_vec();
        stream.resize(MAX_EVENT_BYTES + 10, b'x');
        stream.extend(b"\ndata: more\n\n:");
        stream.resize(stream.len() + MAX_EVENT_BYTES + 10, b'c');
        stream.extend(b"\ndata: after\n\n");
        assert_eq!(events(&stream), [("after".into(), false)]);
    }
}
