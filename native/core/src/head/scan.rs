//! Scanning of lines and header fields, common to requests and responses.

use smallvec::SmallVec;
use wide::{CmpEq, CmpGt, i8x16};

use super::known::{self, Known, KnownSet, equals};
use super::token::{TOKEN, UNDERSCORE, is_token};
use super::{HeadError, MAX_HEAD, MAX_HEADERS, MAX_LINE, flag};
use crate::json::block::{self, BLOCK, Block, Work};

/// A range of a head's bytes, counted from the beginning of the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u16,
    len: u16,
}

/// One header line: the spans of its name and its trimmed value.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    name: Span,
    value: Span,
    /// The name, if it is a known one.
    pub known: Known,
}

/// The header lines of a head, in order. Few heads have more than 20.
pub type Fields = SmallVec<[Field; 20]>;

/// The facts in the header lines about the message and its connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) flags: u16,
    pub(super) content_length: Option<u64>,
    /// The known names that occurred.
    pub(super) seen: KnownSet,
    /// `Connection` names a header that must not be forwarded.
    pub(super) names_headers: bool,
    close: bool,
    keep_alive: bool,
    upgrade: bool,
}

/// The direction of a message: strictness differs in a few places.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Request,
    Response,
}

impl Span {
    /// `start` and `end` lie within a head, so they fit.
    pub(super) fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && end <= MAX_HEAD);
        Self {
            start: start as u16,
            len: (end - start) as u16,
        }
    }

    /// Its range in the head.
    pub fn range(self) -> std::ops::Range<usize> {
        usize::from(self.start)..usize::from(self.start + self.len)
    }

    /// The bytes of the span; `head` begins at the beginning of the head.
    pub fn of(self, head: &[u8]) -> &[u8] {
        head.get(self.range()).unwrap_or_default()
    }

    pub(super) fn is_empty(self) -> bool {
        self.len == 0
    }

    pub(super) fn len(self) -> usize {
        self.len as usize
    }

    /// Converts `inner` from an offset within this span to an offset within the head.
    pub(super) fn within(self, inner: Self) -> Self {
        Self {
            start: self.start + inner.start,
            len: inner.len,
        }
    }

    /// Its first `len` bytes.
    pub(super) fn first(self, len: usize) -> Self {
        Self {
            len: self.len.min(len as u16),
            ..self
        }
    }
}

impl Field {
    /// The name in its original spelling.
    pub fn name(self, head: &[u8]) -> &[u8] {
        self.name.of(head)
    }

    /// The value without surrounding white space.
    pub fn value(self, head: &[u8]) -> &[u8] {
        self.value.of(head)
    }

    /// The span of the value.
    pub fn value_span(self) -> Span {
        self.value
    }

    pub(super) fn len(self) -> usize {
        self.name.len() + self.value.len()
    }
}

/// The first of `fields` with that lower-case name.
pub(super) fn find(fields: &[Field], head: &[u8], name: &[u8]) -> Option<Field> {
    match Known::classify(name) {
        Known::Other => fields
            .iter()
            .find(|field| field.name(head).eq_ignore_ascii_case(name))
            .copied(),
        known => fields.iter().find(|field| field.known == known).copied(),
    }
}

/// The line that begins at `at`, without its CRLF; None when its end has not arrived. `too_long` is the error for one
/// above `MAX_LINE`.
///
/// Searches for the first control character: it ends the line or is an error, so one pass finds and validates.
#[inline]
pub(super) fn line(bytes: &[u8], at: usize, too_long: HeadError) -> Result<Option<&[u8]>, HeadError> {
    let rest = bytes.get(at..).unwrap_or_default();
    let window = rest.get(..MAX_LINE + 1).unwrap_or(rest);
    let Some((end, byte)) = control(window) else {
        return if window.len() > MAX_LINE {
            Err(too_long)
        } else {
            unfinished(bytes)
        };
    };
    match (byte, rest.get(end + 1)) {
        (b'\r', Some(b'\n')) => Ok(rest.get(..end)),
        (b'\r', None) => unfinished(bytes),
        (b'\r' | b'\n', _) => Err(HeadError::LineEnd),
        _ => Err(HeadError::Control),
    }
}

/// None for an unfinished head, unless it already fills the limit.
fn unfinished<T>(bytes: &[u8]) -> Result<Option<T>, HeadError> {
    if bytes.len() >= MAX_HEAD {
        Err(HeadError::HeadTooLarge)
    } else {
        Ok(None)
    }
}

/// The offset and value of the first control character other than TAB.
#[inline]
fn control(bytes: &[u8]) -> Option<(usize, u8)> {
    // Sixteen bytes at a time. Comparisons are signed: with the top bit flipped, unsigned order becomes signed order.
    let mut at = 0;
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<16>) {
        let lane = i8x16::from(chunk.map(|byte| byte as i8));
        let low = i8x16::splat(0x20 ^ i8::MIN).cmp_gt(lane ^ i8x16::splat(i8::MIN));
        let tab = lane.cmp_eq(i8x16::splat(b'\t' as i8));
        let delete = lane.cmp_eq(i8x16::splat(0x7f));
        let hits = (low | delete).move_mask() & !tab.move_mask();
        if hits != 0 {
            let at = at + hits.trailing_zeros() as usize;
            return Some((at, *bytes.get(at)?));
        }
        at += 16;
    }
    let (index, byte) = short_control(bytes.get(at..)?)?;
    Some((at + index, byte))
}

/// Same as `control`, for the last few bytes.
fn short_control(bytes: &[u8]) -> Option<(usize, u8)> {
    let at = bytes.iter().position(|byte| is_control(*byte))?;
    Some((at, *bytes.get(at)?))
}

fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

/// Scans the header lines from `at` to past the blank line into `fields`. Returns the facts and the end of the head.
#[inline]
pub(super) fn fields(
    bytes: &[u8],
    at: usize,
    direction: Direction,
    http_10: bool,
    fields: &mut Fields,
) -> Result<Option<(Facts, usize)>, HeadError> {
    block::run(Lines {
        bytes,
        at,
        direction,
        facts: Facts::new(http_10),
        fields,
    })
}

struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    direction: Direction,
    facts: Facts,
    fields: &'a mut Fields,
}

impl Work for Lines<'_> {
    type Output = Result<Option<(Facts, usize)>, HeadError>;

    #[inline(always)]
    fn run<B: Block>(self, load: impl Fn(&[u8; BLOCK]) -> B) -> Self::Output {
        let Self {
            bytes,
            mut at,
            direction,
            mut facts,
            fields,
        } = self;
        let mut marks = Marks::new(bytes, at, load);
        loop {
            // The first colon, or else the end of the line.
            let first = marks.next(at, true);
            let colon = first.filter(|first| bytes.get(*first) == Some(&b':'));
            let Some(end) = marks.line_end(at, first)? else {
                return Ok(None);
            };
            if end == at {
                return facts.finish().map(|facts| Some((facts, end + 2)));
            }
            if fields.len() == MAX_HEADERS {
                return Err(HeadError::TooManyHeaders);
            }
            let line = || bytes.get(at..end).unwrap_or_default();
            let Some((colon, name)) = colon.and_then(|colon| Some((colon, bytes.get(at..colon)?))) else {
                return Err(unnamed(line()));
            };
            let known = Known::classify(name);
            if known == Known::Other {
                check_name(line(), name, direction)?;
            }
            let value = trimmed(bytes, colon + 1, end);
            if known.is_in(facts.wanted()) {
                facts.note(known, value.of(bytes), direction)?;
            }
            facts.seen |= known.bit();
            fields.push(Field {
                name: Span::new(at, colon),
                value,
                known,
            });
            at = end + 2;
        }
    }
}

/// The span between `start` and `end` without surrounding white space; at `end` when it is empty.
#[inline(always)]
fn trimmed(bytes: &[u8], mut start: usize, mut end: usize) -> Span {
    while let (true, Some(b' ' | b'\t')) = (start < end, bytes.get(start)) {
        start += 1;
    }
    while let (true, Some(b' ' | b'\t')) = (start < end, bytes.get(end - 1)) {
        end -= 1;
    }
    Span::new(start, end)
}

/// The positions of control characters and colons, found 64 bytes at a time, from left to right.
struct Marks<'a, L> {
    bytes: &'a [u8],
    load: L,
    base: usize,
    controls: u64,
    colons: u64,
}

impl<'a, B: Block, L: Fn(&[u8; BLOCK]) -> B> Marks<'a, L> {
    #[inline(always)]
    fn new(bytes: &'a [u8], base: usize, load: L) -> Self {
        let mut marks = Self {
            bytes,
            load,
            base,
            controls: 0,
            colons: 0,
        };
        marks.fill(base);
        marks
    }

    #[inline(always)]
    fn fill(&mut self, base: usize) {
        let block = match block::at(self.bytes, base) {
            Some(block) => (self.load)(block),
            None => {
                let mut padded = [b'a'; BLOCK];
                for (to, from) in padded.iter_mut().zip(self.bytes.get(base..).unwrap_or_default()) {
                    *to = *from;
                }
                (self.load)(&padded)
            }
        };
        self.base = base;
        self.controls = (block.controls() & !block.equal(b'\t')) | block.equal(0x7f);
        self.colons = block.equal(b':');
    }

    /// The first control character other than TAB from `at` on, or colon if `colons`. Calls must not go backwards.
    #[inline(always)]
    fn next(&mut self, mut at: usize, colons: bool) -> Option<usize> {
        loop {
            if at - self.base >= BLOCK {
                if at >= self.bytes.len() {
                    return None;
                }
                self.fill(at);
            }
            let marks = if colons {
                self.controls | self.colons
            } else {
                self.controls
            };
            let rest = marks >> (at - self.base);
            if rest != 0 {
                return Some(at + rest.trailing_zeros() as usize);
            }
            at = self.base + BLOCK;
        }
    }

    /// The end of the line that begins at `at` and whose first mark is `first`; None when it has not arrived.
    #[inline(always)]
    fn line_end(&mut self, at: usize, first: Option<usize>) -> Result<Option<usize>, HeadError> {
        let end = match first {
            Some(first) if self.bytes.get(first) == Some(&b':') => self.next(first + 1, false),
            end => end,
        };
        let Some(end) = end else {
            return if self.bytes.len() - at > MAX_LINE {
                Err(HeadError::LineTooLong)
            } else {
                unfinished(self.bytes)
            };
        };
        if end - at > MAX_LINE {
            return Err(HeadError::LineTooLong);
        }
        match (self.bytes.get(end), self.bytes.get(end + 1)) {
            (Some(b'\r'), Some(b'\n')) => Ok(Some(end)),
            (Some(b'\r'), None) => unfinished(self.bytes),
            (Some(b'\r' | b'\n'), _) => Err(HeadError::LineEnd),
            _ => Err(HeadError::Control),
        }
    }
}

/// Checks an unknown name: it must be a token, and must not imitate a known one.
fn check_name(line: &[u8], name: &[u8], direction: Direction) -> Result<(), HeadError> {
    let mut classes = 0;
    for byte in name {
        match TOKEN[*byte as usize] {
            0 => return Err(unnamed(line)),
            class => classes |= class,
        }
    }
    if name.is_empty() {
        Err(HeadError::Name)
    } else if classes & UNDERSCORE != 0 {
        check_alias(name, direction)
    } else {
        Ok(())
    }
}

/// The defect of a line that does not begin with a token and a colon.
#[cold]
fn unnamed(line: &[u8]) -> HeadError {
    match line.first() {
        Some(b' ' | b'\t') => HeadError::Folded,
        _ if line.contains(&b':') => HeadError::Name,
        _ => HeadError::NoColon,
    }
}

/// Rejects names with an underscore that imitate known ones.
fn check_alias(name: &[u8], direction: Direction) -> Result<(), HeadError> {
    let dashed: SmallVec<[u8; 32]> = name
        .iter()
        .map(|byte| if *byte == b'_' { b'-' } else { *byte })
        .collect();
    const FRAMING: KnownSet = known::set(&[Known::ContentLength, Known::TransferEncoding]);
    match (Known::classify(&dashed), direction) {
        (Known::Other, _) => Ok(()),
        (known, Direction::Response) if !known.is_in(FRAMING) => Ok(()),
        _ => Err(HeadError::Alias),
    }
}

/// Headers that may only occur once.
const ONCE: KnownSet = known::set(&[
    Known::Host,
    Known::ContentLength,
    Known::TransferEncoding,
    Known::ContentType,
]);

impl Facts {
    fn new(http_10: bool) -> Self {
        let flags = if http_10 { flag::HTTP_10 } else { 0 };
        Self {
            flags,
            content_length: None,
            seen: 0,
            names_headers: false,
            close: false,
            keep_alive: false,
            upgrade: false,
        }
    }

    /// The names whose next header must go to `note`; the others are only recorded as seen.
    #[inline(always)]
    fn wanted(&self) -> KnownSet {
        const TELLING: KnownSet = known::set(&[
            Known::ContentLength,
            Known::TransferEncoding,
            Known::Connection,
            Known::ProxyConnection,
            Known::ContentType,
            Known::ContentEncoding,
            Known::Expect,
        ]);
        TELLING | (ONCE & self.seen)
    }

    /// Processes one of those headers.
    fn note(&mut self, known: Known, value: &[u8], direction: Direction) -> Result<(), HeadError> {
        if known.is_in(ONCE & self.seen) {
            // Responses: RFC 9110 8.6 lets a recipient merge repetitions of one valid length.
            let merges = known == Known::ContentLength
                && direction == Direction::Response
                && length(value)? == self.content_length.unwrap_or(u64::MAX);
            return if merges {
                Ok(())
            } else {
                Err(HeadError::Duplicate(known.name()))
            };
        }
        match known {
            Known::ContentLength => self.content_length = Some(length(value)?),
            Known::TransferEncoding => {
                if !equals(value, b"chunked") || self.flags & flag::HTTP_10 != 0 {
                    return Err(HeadError::TransferEncoding);
                }
                self.flags |= flag::CHUNKED;
            }
            Known::Connection => self.connection(value)?,
            // Not part of HTTP (RFC 9112 C.2.2), but llhttp accepts nothing after a message with it.
            Known::ProxyConnection => self.close |= options(value).any(|option| equals(option, b"close")),
            Known::ContentType => self.flags |= content_type(value, direction),
            Known::ContentEncoding if !value.is_empty() && !equals(value, b"identity") => self.flags |= flag::ENCODED,
            Known::Expect if direction == Direction::Request => {
                if !equals(value, b"100-continue") {
                    return Err(HeadError::Expectation);
                }
                self.flags |= flag::EXPECT_CONTINUE;
            }
            _ => {}
        }
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) -> Result<(), HeadError> {
        // The usual spelling.
        if equals(value, b"keep-alive") {
            self.keep_alive = true;
            return Ok(());
        }
        for option in options(value) {
            if equals(option, b"close") {
                // `close` is an option, and nevertheless also names a header, should there be one (RFC 9110 7.6.1).
                (self.close, self.names_headers) = (true, true);
            } else if equals(option, b"keep-alive") {
                self.keep_alive = true;
            } else if equals(option, b"upgrade") {
                self.upgrade = true;
            } else if is_token(option) {
                self.names_headers = true;
            } else if !option.is_empty() {
                return Err(HeadError::Connection);
            }
        }
        Ok(())
    }

    /// Completes the facts that need the whole head.
    fn finish(mut self) -> Result<Self, HeadError> {
        let chunked = self.flags & flag::CHUNKED != 0;
        let http_10 = self.flags & flag::HTTP_10 != 0;
        if chunked && self.content_length.is_some() {
            return Err(HeadError::BothLengths);
        }
        if !self.close && (self.keep_alive || !http_10) {
            self.flags |= flag::KEEP_ALIVE;
        }
        if self.upgrade && Known::Upgrade.is_in(self.seen) && !http_10 {
            self.flags |= flag::UPGRADE;
        }
        if http_10 {
            // RFC 9110 10.1.1: an expectation in HTTP/1.0 is ignored.
            self.flags &= !flag::EXPECT_CONTINUE;
        }
        Ok(self)
    }
}

/// The elements of a list (RFC 9110 5.6.1).
fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// RFC 9110 8.6: digits. Numbers above 63 bits are rejected, never wrapped.
fn length(value: &[u8]) -> Result<u64, HeadError> {
    if value.is_empty() || value.len() > 19 {
        return Err(HeadError::ContentLength);
    }
    let mut length: u64 = 0;
    for byte in value {
        if !byte.is_ascii_digit() {
            return Err(HeadError::ContentLength);
        }
        // Nineteen digits are below 2^64.
        length = length * 10 + u64::from(byte - b'0');
    }
    if length > i64::MAX as u64 {
        Err(HeadError::ContentLength)
    } else {
        Ok(length)
    }
}

fn content_type(value: &[u8], direction: Direction) -> u16 {
    // The usual spelling.
    if equals(value, b"application/json") {
        return flag::JSON;
    }
    let end = value.iter().position(|byte| *byte == b';').unwrap_or(value.len());
    let essence = value.get(..end).unwrap_or_default().trim_ascii_end();
    if equals(essence, b"application/json") {
        return json(value, direction);
    }
    if equals(essence, b"text/event-stream") {
        return flag::EVENT_STREAM;
    }
    if equals(essence, b"multipart/form-data") {
        return flag::MULTIPART;
    }
    if essence
        .last_chunk::<5>()
        .is_some_and(|suffix| suffix.eq_ignore_ascii_case(b"+json"))
    {
        return json(value, direction);
    }
    0
}

/// JSON is UTF-8 (RFC 8259 8.1). A request with another charset may mean something else to a server that honours it.
fn json(value: &[u8], direction: Direction) -> u16 {
    let is_utf8 = |parameter: &[u8]| {
        let Some(at) = parameter.iter().position(|byte| *byte == b'=') else {
            return true;
        };
        let (name, charset) = parameter.split_at(at);
        let charset = charset.get(1..).unwrap_or_default().trim_ascii();
        !name.trim_ascii().to_ascii_lowercase().starts_with(b"charset")
            || [&b"utf-8"[..], b"\"utf-8\"", b"utf8", b"us-ascii"]
                .iter()
                .any(|known| charset.eq_ignore_ascii_case(known))
    };
    if direction == Direction::Response || value.split(|byte| *byte == b';').skip(1).all(is_utf8) {
        flag::JSON
    } else {
        0
    }
}
