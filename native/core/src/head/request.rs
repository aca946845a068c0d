//! Request heads.

use smallvec::SmallVec;

use super::known::Known;
use super::request_id::is_request_id;
use super::scan::{self, Direction, Field, Fields, Span, line};
use super::target::{self, Target};
use super::token::is_token;
use super::{HeadError, MAX_HEAD, flag};

/// A request's start line and headers as spans of the bytes it was scanned from. Every accessor takes those bytes again
/// (`head`, from the beginning of the head).
#[derive(Debug)]
pub struct RequestHead {
    /// Bytes up to and including the blank line.
    pub size: usize,
    /// `flag::*`.
    pub flags: u16,
    /// The value of `Content-Length`.
    pub content_length: Option<u64>,
    /// The header lines in order.
    pub fields: Fields,
    pub(super) names_headers: bool,
    method: Span,
    path: Span,
    query: Span,
    host: Span,
    request_id: Span,
}

impl RequestHead {
    /// Scans the head at the beginning of `bytes`; None while its blank line has not arrived.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, HeadError> {
        Self::parse_after(bytes, &mut LastHost::default())
    }

    /// Same as `parse`, with a cache for many heads: most have the same request line and host as the previous one.
    #[inline]
    pub fn parse_after(bytes: &[u8], last: &mut LastHost) -> Result<Option<Self>, HeadError> {
        let bytes = bytes.get(..MAX_HEAD).unwrap_or(bytes);
        // RFC 9112 2.2: one empty line before a request is ignored (old clients end bodies with one).
        let start = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
        let Some(first) = last.start(bytes, start)? else {
            return Ok(None);
        };
        let Start {
            len,
            method,
            target: (from, to),
            parsed: target,
            http_10,
            may_name_model,
        } = first;
        let mut fields = Fields::new();
        let Some((facts, size)) = scan::fields(bytes, start + len, Direction::Request, http_10, &mut fields)? else {
            return Ok(None);
        };
        let target_span = Span::new(start + from, start + to);
        let shift = |span: Span| target_span.within(span);
        let authority = target.authority.map(shift);
        let host = host(bytes, &fields, authority, target.default_port(), http_10, last)?;
        let request_id = if Known::RequestId.is_in(facts.seen) {
            fields
                .iter()
                .find(|field| field.known == Known::RequestId)
                .map(|field| field.value_span())
                .filter(|span| is_request_id(span.of(bytes)))
                .unwrap_or_default()
        } else {
            Span::default()
        };
        let named = if request_id.is_empty() { 0 } else { flag::NAMED };
        let timed = if Known::RequestTimeout.is_in(facts.seen) {
            flag::TIMED
        } else {
            0
        };
        let asking = if bytes.get(start..start + method) == Some(b"OPTIONS") && is_asking(bytes, &fields, &target) {
            flag::ASKING
        } else {
            0
        };
        Ok(Some(Self {
            size,
            flags: facts.flags | named | timed | asking | may_name_model,
            content_length: facts.content_length,
            fields,
            names_headers: facts.names_headers,
            method: Span::new(start, start + method),
            path: shift(target.path),
            query: shift(target.query),
            host,
            request_id,
        }))
    }

    /// The method, in its original case.
    pub fn method<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        self.method.of(head)
    }

    /// The path without the query, percent-encoding untouched; never empty.
    pub fn path<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        if self.path.is_empty() { b"/" } else { self.path.of(head) }
    }

    /// The text after the question mark; empty without one.
    pub fn query<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        self.query.of(head)
    }

    /// The host without port and final dot, in its original case; empty only in HTTP/1.0.
    pub fn host<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        self.host.of(head)
    }

    /// The client's own request id, when it is valid.
    pub fn request_id<'a>(&self, head: &'a [u8]) -> Option<&'a [u8]> {
        if self.request_id.is_empty() {
            None
        } else {
            Some(self.request_id.of(head))
        }
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

/// A cache of one: the last valid request line and authority.
#[derive(Debug, Default)]
pub struct LastHost {
    /// With its CRLF.
    line: SmallVec<[u8; 128]>,
    start: Start,
    authority: SmallVec<[u8; 64]>,
    length: usize,
}

impl LastHost {
    /// The request line at `at`; None while its end has not arrived.
    #[inline]
    fn start(&mut self, bytes: &[u8], at: usize) -> Result<Option<Start>, HeadError> {
        let rest = bytes.get(at..).unwrap_or_default();
        if rest.starts_with(&self.line) && !self.line.is_empty() {
            return Ok(Some(self.start));
        }
        let Some(first) = line(bytes, at, HeadError::TargetTooLong)? else {
            return Ok(None);
        };
        if first.is_empty() {
            return Err(HeadError::EmptyLines);
        }
        let start = request_line(first)?;
        // A line with a query is probably unique.
        if let Some(line) = rest
            .get(..start.len)
            .filter(|line| line.len() <= self.line.inline_size())
            && start.parsed.query.is_empty()
        {
            self.line = SmallVec::from_slice(line);
            self.start = start;
        }
        Ok(Some(start))
    }

    #[inline]
    fn host(&mut self, authority: &[u8]) -> Result<usize, HeadError> {
        if self.authority.as_slice() == authority && !authority.is_empty() {
            return Ok(self.length);
        }
        let length = target::host(authority)?;
        if authority.len() <= self.authority.inline_size() {
            self.authority = SmallVec::from_slice(authority);
            self.length = length;
        }
        Ok(length)
    }
}

/// A request line: its length, the method's length, and the target with its parts.
#[derive(Clone, Copy, Debug, Default)]
struct Start {
    /// Includes the CRLF.
    len: usize,
    method: usize,
    target: (usize, usize),
    parsed: Target,
    http_10: bool,
    /// `flag::TARGET_MODEL`, or 0.
    may_name_model: u16,
}

/// RFC 9112 3: exactly one space on each side of the target.
fn request_line(line: &[u8]) -> Result<Start, HeadError> {
    let method = line
        .iter()
        .position(|byte| *byte == b' ')
        .ok_or(HeadError::RequestLine)?;
    let (name, rest) = line.split_at(method);
    if !is_token(name) {
        return Err(HeadError::Method);
    }
    let (rest, version) = rest.split_last_chunk::<9>().ok_or(HeadError::RequestLine)?;
    let http_10 = match version {
        b" HTTP/1.1" => false,
        b" HTTP/1.0" => true,
        _ => return Err(HeadError::Version),
    };
    if matches!(name, b"CONNECT" | b"TRACE") {
        return Err(HeadError::MethodForbidden);
    }
    // `rest` begins with the space after the method; a target that contains a space is invalid.
    let bytes = rest.get(1..).ok_or(HeadError::RequestLine)?;
    let parsed = target::parse(bytes, name == b"OPTIONS")?;
    let may_name_model = target::may_name_model(parsed.path.of(bytes), parsed.query.of(bytes));
    Ok(Start {
        len: line.len() + 2,
        method,
        target: (method + 1, method + 1 + bytes.len()),
        parsed,
        http_10,
        may_name_model: if may_name_model { flag::TARGET_MODEL } else { 0 },
    })
}

/// True for an OPTIONS request for the server itself (RFC 9112 3.2.4: `*`, or an absolute form without path and query),
/// or a browser's preflight (Fetch, CORS-preflight request).
fn is_asking(bytes: &[u8], fields: &Fields, target: &Target) -> bool {
    let has = |name| scan::find(fields, bytes, name).is_some();
    target.is_server || has(b"access-control-request-method") && has(b"origin")
}

/// The span of the host in `Host`, which must be present (HTTP/1.1), be valid, and agree with the target's.
fn host(
    bytes: &[u8],
    fields: &Fields,
    authority: Option<Span>,
    default_port: &[u8],
    http_10: bool,
    last: &mut LastHost,
) -> Result<Span, HeadError> {
    let header = fields
        .iter()
        .find(|field| field.known == Known::Host)
        .map(|field| field.value_span());
    let authority = match (header, authority) {
        (Some(header), Some(authority)) if !target::is_same(header.of(bytes), authority.of(bytes), default_port) => {
            return Err(HeadError::HostDiffers);
        }
        (Some(header), _) => header,
        (None, _) if !http_10 => return Err(HeadError::HostMissing),
        (None, Some(authority)) => authority,
        (None, None) => return Ok(Span::default()),
    };
    Ok(authority.first(last.host(authority.of(bytes))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_before_changes_nothing() {
        let lines = [
            "POST /v1/chat/completions HTTP/1.1",
            "POST /v1/chat/completions HTTP/1.0",
            "POST /v1/chat/completion HTTP/1.1",
            "GET /v1/models HTTP/1.1",
            "GET /v1/models?after=1 HTTP/1.1",
            "GET http://a/v1/models HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "GET /a/../b HTTP/1.1",
            "POST /v1/chat/completions HTTP/1.1 ",
            "POST",
            "",
        ];
        let long = format!("GET /{} HTTP/1.1", "a".repeat(200));
        let mut heads = Vec::new();
        for line in lines.iter().copied().chain([long.as_str()]) {
            for start in ["", "\r\n"] {
                for host in ["a", "b:80", "a,b"] {
                    heads.push(format!(
                        "{start}{line}\r\nhost: {host}\r\nx-request-id: {line}\r\n\r\nbody"
                    ));
                }
                heads.push(format!("{start}{line}\r\nho"));
                heads.push(format!("{start}{line}\r"));
            }
        }
        let said = |head: Result<Option<RequestHead>, HeadError>| format!("{head:?}");
        for before in &heads {
            for head in &heads {
                let mut last = LastHost::default();
                let _ = RequestHead::parse_after(before.as_bytes(), &mut last);
                let after = said(RequestHead::parse_after(head.as_bytes(), &mut last));
                assert_eq!(
                    after,
                    said(RequestHead::parse(head.as_bytes())),
                    "{head:?} after {before:?}"
                );
            }
        }
    }

    #[test]
    fn a_connection_stays_unless_either_header_closes_it() {
        for (line, stays) in [
            ("connection: keep-alive", true),
            ("connection: x, close", false),
            ("proxy-connection: keep-alive", true),
            ("Proxy-Connection: Close", false),
            ("proxy-connection: keep-alive ,close", false),
            ("proxy-connection: closed", true),
            ("proxy-connection: \"close\"", true),
        ] {
            let head = format!("GET / HTTP/1.1\r\nhost: a\r\n{line}\r\n\r\n");
            let head = RequestHead::parse(head.as_bytes()).unwrap().unwrap();
            assert_eq!(head.has(flag::KEEP_ALIVE), stays, "{line}");
        }
    }

    #[test]
    fn an_absolute_form_may_name_the_default_port() {
        for (target, header, is_one) in [
            ("http://a:80/x", "a", true),
            ("http://a/x", "A:80", true),
            ("https://a:443/x", "a", true),
            ("HTTPS://[::1]:443", "[::1]", true),
            ("http://a:443/x", "a", false),
            ("https://a/x", "a:80", false),
            ("http://a:8080/x", "a", false),
            ("http://a:80/x", "b", false),
            ("http://a/x", "a:80:80", false),
        ] {
            let head = format!("GET {target} HTTP/1.1\r\nhost: {header}\r\n\r\n");
            assert_eq!(RequestHead::parse(head.as_bytes()).is_ok(), is_one, "{target} {header}");
        }
    }

    #[test]
    fn some_options_requests_are_for_nobody_behind_us() {
        let preflight = "origin: https://a\r\naccess-control-request-method: POST\r\n";
        for (start, more, is_asking) in [
            ("OPTIONS *", "", true),
            ("OPTIONS http://a", "", true),
            ("OPTIONS http://a/", "", false),
            ("OPTIONS http://a?b", "", false),
            ("OPTIONS /x", "", false),
            ("OPTIONS /x", "origin: https://a\r\n", false),
            ("OPTIONS /x", "access-control-request-method: POST\r\n", false),
            ("OPTIONS /x", preflight, true),
            ("OPTIONS /x", &preflight.to_uppercase(), true),
            ("POST /x", preflight, false),
            ("options /x", preflight, false),
        ] {
            let head = format!("{start} HTTP/1.1\r\nhost: a\r\n{more}\r\n");
            let head = RequestHead::parse(head.as_bytes()).unwrap().unwrap();
            assert_eq!(head.has(flag::ASKING), is_asking, "{start} {more}");
        }
    }

    #[test]
    fn some_headers_occur_once() {
        for name in [
            "Host",
            "Content-Length",
            "Content-Type",
            "Accept",
            "User-Agent",
            "X-Own",
        ] {
            let head = format!("POST / HTTP/1.1\r\nhost: a\r\n{name}: 1\r\nx: y\r\n{name}: 1\r\n\r\n");
            let is_refused = matches!(RequestHead::parse(head.as_bytes()), Err(HeadError::Duplicate(_)));
            assert_eq!(
                is_refused,
                matches!(name, "Host" | "Content-Length" | "Content-Type"),
                "{name}"
            );
        }
    }
}
