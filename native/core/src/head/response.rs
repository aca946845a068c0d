//! Response heads: hostile input, like requests.

use super::scan::{self, Direction, Field, Fields, Span, line};
use super::{HeadError, MAX_HEAD, flag};

/// A response's status line and headers as spans of the bytes it was scanned from.
#[derive(Debug)]
pub struct ResponseHead {
    /// Bytes up to and including the blank line.
    pub size: usize,
    /// `flag::*`.
    pub flags: u16,
    /// 100 to 599.
    pub status: u16,
    /// The value of `Content-Length`.
    pub content_length: Option<u64>,
    /// The header lines in order.
    pub fields: Fields,
    pub(super) names_headers: bool,
    reason: Span,
}

/// The first line of nearly all responses, with its CRLF.
const USUAL_LINE: &[u8] = b"HTTP/1.1 200 OK\r\n";

impl ResponseHead {
    /// Scans the head at the beginning of `bytes`; None while its blank line has not arrived. `is_head`: the answer to
    /// HEAD.
    pub fn parse(bytes: &[u8], is_head: bool) -> Result<Option<Self>, HeadError> {
        let bytes = bytes.get(..MAX_HEAD).unwrap_or(bytes);
        let (first_len, (http_10, status)) = if bytes.starts_with(USUAL_LINE) {
            (USUAL_LINE.len() - 2, (false, 200))
        } else {
            let Some(first) = line(bytes, 0, HeadError::LineTooLong)? else {
                return Ok(None);
            };
            (first.len(), status_line(first)?)
        };
        let mut fields = Fields::new();
        let Some((facts, size)) = scan::fields(bytes, first_len + 2, Direction::Response, http_10, &mut fields)? else {
            return Ok(None);
        };
        let mut flags = facts.flags;
        if matches!(status, 100..=199 | 204) {
            // RFC 9110 8.6, RFC 9112 6.1: neither length is allowed; a body here is a hidden second response.
            if flags & flag::CHUNKED != 0 || facts.content_length.unwrap_or(0) > 0 {
                return Err(HeadError::UnexpectedBody);
            }
        }
        if is_head || matches!(status, 100..=199 | 204 | 304) {
            flags |= flag::NO_BODY;
        }
        let reason = Span::new(first_len.min(13), first_len);
        Ok(Some(Self {
            size,
            flags,
            status,
            content_length: facts.content_length,
            fields,
            names_headers: facts.names_headers,
            reason,
        }))
    }

    /// The end of the message, when it has a body of known length.
    pub fn message(&self) -> Option<usize> {
        if self.flags & (flag::CHUNKED | flag::NO_BODY) != 0 {
            return None;
        }
        self.size.checked_add(usize::try_from(self.content_length?).ok()?)
    }

    /// The reason phrase as received.
    pub fn reason<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        self.reason.of(head)
    }

    /// The first header of that lower-case name.
    pub fn find(&self, head: &[u8], name: &[u8]) -> Option<Field> {
        scan::find(&self.fields, head, name)
    }

    /// True when all of these flags are set.
    pub fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }
}

/// RFC 9112 4: version, status, and a reason that may be missing together with its space (many servers do so).
fn status_line(line: &[u8]) -> Result<(bool, u16), HeadError> {
    let (start, rest) = line.split_first_chunk::<9>().ok_or(HeadError::StatusLine)?;
    let http_10 = match start {
        b"HTTP/1.1 " => false,
        b"HTTP/1.0 " => true,
        _ => return Err(HeadError::Version),
    };
    let (digits, rest) = rest.split_first_chunk::<3>().ok_or(HeadError::StatusLine)?;
    if !matches!(rest.first(), None | Some(b' ')) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(HeadError::StatusLine);
    }
    let status = digits
        .iter()
        .fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    if (100..=599).contains(&status) {
        Ok((http_10, status))
    } else {
        Err(HeadError::Status)
    }
}
