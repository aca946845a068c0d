//! Lines and header fields: what requests and responses have in common.

use smallvec::SmallVec;
use wide::{CmpEq, CmpGt, i8x16};

use super::known::{self, Known, KnownSet, equals};
use super::{HeadError, MAX_HEAD, MAX_HEADERS, MAX_LINE, flag};

/// A range of a head's bytes, counted from where the head begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u16,
    len: u16,
}

/// One header line: where its name and its trimmed value are.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    name: Span,
    value: Span,
    /// Which name it is.
    pub known: Known,
}

/// The header lines of a head, in order.
pub type Fields = SmallVec<[Field; 20]>;

/// What the header lines say about the message and its connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) flags: u16,
    pub(super) content_length: Option<u64>,
    /// Which known names occurred.
    pub(super) seen: KnownSet,
    /// `Connection` names a header that must not be passed on.
    pub(super) names_headers: bool,
    close: bool,
    keep_alive: bool,
    upgrade: bool,
}

/// Which way a message travels: strictness differs in a few places.
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

    /// The bytes behind it; `head` begins where the head does.
    pub fn of(self, head: &[u8]) -> &[u8] {
        let start = self.start as usize;
        head.get(start..start + self.len as usize).unwrap_or_default()
    }

    pub(super) fn is_empty(self) -> bool {
        self.len == 0
    }

    pub(super) fn len(self) -> usize {
        self.len as usize
    }

    /// `inner`, which was counted from the start of this span, counted from the start of the head.
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
    /// The name as it was spelled.
    pub fn name(self, head: &[u8]) -> &[u8] {
        self.name.of(head)
    }

    /// The value without white space around it.
    pub fn value(self, head: &[u8]) -> &[u8] {
        self.value.of(head)
    }

    /// Where the value is.
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
/// Looks for the first control character: it ends the line or is an error, so one pass finds and validates.
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

/// What may still become a head, unless it already fills the limit.
fn unfinished<T>(bytes: &[u8]) -> Result<Option<T>, HeadError> {
    if bytes.len() >= MAX_HEAD {
        Err(HeadError::HeadTooLarge)
    } else {
        Ok(None)
    }
}

/// One in every byte, and the highest bit of every byte.
const ONES: u64 = u64::MAX / 255;
const HIGH: u64 = ONES * 0x80;

/// The first control character other than TAB: where and which.
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
    let (place, byte) = short_control(bytes.get(at..)?)?;
    Some((at + place, byte))
}

/// The same for the end of what has arrived.
fn short_control(bytes: &[u8]) -> Option<(usize, u8)> {
    let at = bytes.iter().position(|byte| is_control(*byte))?;
    Some((at, *bytes.get(at)?))
}

fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

/// The header lines from `at` to past the blank line, into `fields`: what they say, and where the head ends.
pub(super) fn fields(
    bytes: &[u8],
    mut at: usize,
    direction: Direction,
    http_10: bool,
    fields: &mut Fields,
) -> Result<Option<(Facts, usize)>, HeadError> {
    let mut facts = Facts::new(http_10);
    loop {
        let Some(line) = line(bytes, at, HeadError::LineTooLong)? else {
            return Ok(None);
        };
        let end = at + line.len() + 2;
        if line.is_empty() {
            return facts.finish().map(|facts| Some((facts, end)));
        }
        if fields.len() == MAX_HEADERS {
            return Err(HeadError::TooManyHeaders);
        }
        let (name, value, underscore) = split(line)?;
        let known = Known::classify(name);
        let start = at + line.len() - value.len();
        let value = value.trim_ascii_end();
        match known {
            Known::Other if underscore => check_alias(name, direction)?,
            Known::Other => {}
            known => facts.note(known, value, direction)?,
        }
        fields.push(Field {
            name: Span::new(at, at + name.len()),
            value: Span::new(start, start + value.len()),
            known,
        });
        at = end;
    }
}

/// Name and value of a header line, and whether the name has an underscore; white space is gone from before the value.
#[inline]
fn split(line: &[u8]) -> Result<(&[u8], &[u8], bool), HeadError> {
    let mut classes = 0;
    let mut colon = plain(line);
    while let Some(class) = line
        .get(colon)
        .map(|byte| TOKEN[*byte as usize])
        .filter(|class| *class != 0)
    {
        classes |= class;
        colon += 1;
    }
    let (name, rest) = line.split_at(colon);
    let Some((b':', value)) = rest.split_first() else {
        return Err(unnamed(line));
    };
    if name.is_empty() {
        return Err(HeadError::Name);
    }
    Ok((name, value.trim_ascii_start(), classes & UNDERSCORE != 0))
}

/// How many bytes at the start are letters, digits or `-`, as in nearly every header name; up to seven fewer when
/// the line ends soon.
///
/// Eight at a time: in seven bits, adding 128 - n carries into the eighth exactly when a byte is n or more.
#[inline]
fn plain(line: &[u8]) -> usize {
    let from = |word: u64, low: u8| word.wrapping_add(ONES * u64::from(0x80 - low));
    for (index, chunk) in line.chunks_exact(8).enumerate() {
        let Some(chunk) = chunk.first_chunk::<8>() else { break };
        let word = u64::from_le_bytes(*chunk);
        let seven = word & !HIGH;
        let lower = seven | (ONES * 0x20);
        let letter = from(lower, b'a') & !from(lower, b'z' + 1);
        let digit = from(seven, b'0') & !from(seven, b'9' + 1);
        let dash = !from(seven ^ (ONES * u64::from(b'-')), 1);
        let others = !((letter | digit | dash) & !word) & HIGH;
        if others != 0 {
            return index * 8 + (others.trailing_zeros() / 8) as usize;
        }
    }
    line.len() & !7
}

/// What is wrong with a line that does not begin with a token and a colon.
#[cold]
fn unnamed(line: &[u8]) -> HeadError {
    match line.first() {
        Some(b' ' | b'\t') => HeadError::Folded,
        _ if line.contains(&b':') => HeadError::Name,
        _ => HeadError::NoColon,
    }
}

/// Names with an underscore must not pretend to be known ones.
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

    /// Take in one known header.
    #[inline]
    fn note(&mut self, known: Known, value: &[u8], direction: Direction) -> Result<(), HeadError> {
        const ONCE: KnownSet = known::set(&[
            Known::Host,
            Known::ContentLength,
            Known::TransferEncoding,
            Known::ContentType,
        ]);
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
        self.seen |= known.bit();
        match known {
            Known::ContentLength => self.content_length = Some(length(value)?),
            Known::TransferEncoding => {
                if !equals(value, b"chunked") || self.flags & flag::HTTP_10 != 0 {
                    return Err(HeadError::TransferEncoding);
                }
                self.flags |= flag::CHUNKED;
            }
            Known::Connection => self.connection(value)?,
            Known::ContentType => self.flags |= content_type(value),
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
        for option in value.split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            if equals(option, b"close") {
                self.close = true;
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

    /// What only the whole head can tell.
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

/// RFC 9110 8.6: digits. What does not fit 63 bits is refused, never wrapped.
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

fn content_type(value: &[u8]) -> u16 {
    let end = value.iter().position(|byte| *byte == b';').unwrap_or(value.len());
    let essence = value.get(..end).unwrap_or_default().trim_ascii_end();
    if equals(essence, b"application/json") {
        return flag::JSON;
    }
    if equals(essence, b"text/event-stream") {
        return flag::EVENT_STREAM;
    }
    if essence
        .first_chunk::<10>()
        .is_some_and(|kind| kind.eq_ignore_ascii_case(b"multipart/"))
    {
        return flag::MULTIPART;
    }
    if essence
        .last_chunk::<5>()
        .is_some_and(|suffix| suffix.eq_ignore_ascii_case(b"+json"))
    {
        return flag::JSON;
    }
    0
}

/// RFC 9110 5.6.2.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_token_byte(*byte))
}

/// A byte of a token.
#[inline]
pub(crate) fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize] != 0
}

/// Of `TOKEN`: the byte is an underscore.
const UNDERSCORE: u8 = 2;

/// Zero for bytes that no token has.
const TOKEN: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = match byte as u8 {
            b'_' => 1 | UNDERSCORE,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => 1,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'`' | b'|' | b'~' => 1,
            _ => 0,
        };
        byte += 1;
    }
    table
};
