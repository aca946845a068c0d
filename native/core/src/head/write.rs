//! Heads to send: written from parsed ones in two passes - choose and measure, then fill a buffer of that size.

use crate::decimal::three;
use crate::out::{Decimal, Out};

use super::known::{self, Known, KnownSet};
use super::out::{Framing, FramingLine, put_field};
use super::reason::standard_reason;
use super::request_id::is_request_id;
use super::scan::{Field, Span};
use super::token::is_token;
use super::{MAX_LINE, RequestHead, ResponseHead};

/// The reason why a writer could not be built, or a head not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriterError {
    /// Not a token.
    #[error("{0:?} is no header name")]
    Name(String),
    /// Control characters.
    #[error("header {0} has a value that is not HTTP")]
    Value(String),
    /// A header that the writer itself writes.
    #[error("header {0} cannot be fixed: the gateway writes it")]
    Reserved(String),
    /// Neither a name nor an address with an optional port.
    #[error("{0:?} is no host")]
    Host(String),
    /// A path that would be invalid in a request line.
    #[error("{0:?} is no path")]
    Path(String),
    /// Not a path with an optional query.
    #[error("{0:?} is no request target")]
    Target(String),
    /// Not 1 to 128 of `[A-Za-z0-9._:-]`.
    #[error("the request id is malformed")]
    RequestId,
}

/// Headers that are forwarded upstream by default.
const ALLOWED: KnownSet = known::set(&[
    Known::Accept,
    Known::ContentType,
    Known::ContentEncoding,
    Known::Traceparent,
    Known::Tracestate,
    Known::Baggage,
    Known::UserAgent,
    Known::IdempotencyKey,
]);

/// Headers that no allow-list can forward: the connection's, and those that identify the client.
const NEVER_UPSTREAM: KnownSet = HOP_BY_HOP
    | known::set(&[
        Known::Host,
        Known::Expect,
        Known::Authorization,
        Known::ProxyAuthorization,
        Known::Cookie,
        Known::SetCookie,
        Known::XApiKey,
        Known::ApiKey,
        Known::Forwarded,
        Known::XForwardedFor,
        Known::XForwardedHost,
        Known::XForwardedProto,
        Known::XRealIp,
        Known::RequestId,
        Known::Via,
    ]);

/// RFC 9110 7.6.1, and framing: they describe one connection's message.
const HOP_BY_HOP: KnownSet = known::set(&[
    Known::Connection,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::ProxyAuthenticate,
    Known::ProxyAuthenticationInfo,
    Known::Te,
    Known::Trailer,
    Known::TransferEncoding,
    Known::Upgrade,
    Known::ContentLength,
]);

/// Headers that reveal the upstream, or would bind the client to it.
const NEVER_DOWNSTREAM: KnownSet = HOP_BY_HOP
    | known::set(&[
        Known::Server,
        Known::SetCookie,
        Known::AltSvc,
        Known::StrictTransportSecurity,
        Known::OpenaiOrganization,
        Known::OpenaiProject,
        Known::RequestId,
        Known::Via,
    ]);

/// Further names of headers that carry keys.
const KEY_NAMES: [&str; 4] = [
    "ocp-apim-subscription-key",
    "x-goog-api-key",
    "x-auth-token",
    "x-amz-security-token",
];

/// Writes request heads for one upstream, with allow-listed headers only.
#[derive(Debug)]
pub struct RequestHeadWriter {
    pub(super) host: Vec<u8>,
    pub(super) prefix: Vec<u8>,
    /// The last segment of `prefix` with its slash; empty when there is none.
    pub(super) overlap: Vec<u8>,
    pub(super) strip: Vec<u8>,
    /// ` HTTP/1.1`, host, fixed lines, up to `x-request-id: `.
    fixed: Vec<u8>,
    /// Names of the fixed lines, lower case.
    fixed_names: Vec<String>,
    known: KnownSet,
    /// Allowed names that are not in `Known`, lower case.
    others: Vec<Vec<u8>>,
}

/// Changes to one request's head: what an adapter sends other than the client did.
#[derive(Clone, Debug, Default)]
pub struct HeadEdits {
    /// Path and query, in place of the client's.
    target: Option<(Vec<u8>, Vec<u8>)>,
    /// Names and complete lines to add.
    lines: Vec<(String, Vec<u8>)>,
    /// Headers of the client's that are not sent.
    known: KnownSet,
    /// The same, of names that are not in `Known`, lower case.
    others: Vec<Vec<u8>>,
}

/// A request head to be written: the chosen fields, and its length.
#[derive(Debug)]
pub struct RequestPlan<'a> {
    writer: &'a RequestHeadWriter,
    head: &'a RequestHead,
    bytes: &'a [u8],
    prefix: &'a [u8],
    path: &'a [u8],
    query: &'a [u8],
    request_id: &'a [u8],
    lines: Vec<&'a [u8]>,
    fields: FieldSet,
    framing: FramingLine,
    len: usize,
}

/// The gateway's own headers in a response.
#[derive(Clone, Copy, Debug)]
pub struct Disclosure<'a> {
    /// `x-request-id`.
    pub request_id: &'a [u8],
    /// Complete, trusted header lines, each with its CRLF.
    pub lines: &'a [u8],
    /// Complete header lines of the client's limits; when present, the upstream's own limit headers are dropped.
    pub limits: &'a [u8],
    /// The number of attempts; 0 omits attempts and overhead.
    pub attempts: u64,
    /// The gateway's own time.
    pub overhead_us: u64,
}

/// Writes response heads for clients.
#[derive(Debug)]
pub struct ResponseHeadWriter {
    known: KnownSet,
    /// Dropped names that are not in `Known`, lower case.
    others: Vec<Vec<u8>>,
}

/// A response head to be written.
#[derive(Debug)]
pub struct ResponsePlan<'a> {
    head: &'a ResponseHead,
    bytes: &'a [u8],
    reason: &'a [u8],
    request_id: &'a [u8],
    lines: &'a [u8],
    limits: &'a [u8],
    /// Attempts and overhead.
    told: Option<[Decimal; 2]>,
    close: &'static [u8],
    fields: FieldSet,
    framing: FramingLine,
    len: usize,
}

/// Fields by index, one bit each; a head has at most a hundred.
type FieldSet = u128;

impl RequestHeadWriter {
    /// `host` is the value of the Host line, `prefix` precedes the path after `strip` was removed from it, `allow` adds
    /// names to the default list, `fixed` lines are sent unchanged.
    pub fn new(
        host: &str,
        prefix: &str,
        strip: &str,
        allow: &[&str],
        fixed: &[(&str, &str)],
    ) -> Result<Self, WriterError> {
        super::target::host(host.as_bytes()).map_err(|_| WriterError::Host(host.into()))?;
        let prefix = path_part(prefix)?;
        let strip = path_part(strip)?;
        let overlap = prefix.rfind('/').and_then(|at| prefix.get(at..)).unwrap_or_default();
        let mut writer = Self {
            host: host.into(),
            prefix: prefix.into(),
            overlap: overlap.into(),
            strip: strip.into(),
            fixed: format!(" HTTP/1.1\r\nhost: {host}\r\n").into_bytes(),
            fixed_names: Vec::new(),
            known: ALLOWED,
            others: Vec::new(),
        };
        for name in allow {
            writer.allow(name)?;
        }
        for (name, value) in fixed {
            writer.fix(name, value)?;
        }
        writer.fixed.extend_from_slice(b"x-request-id: ");
        Ok(writer)
    }

    fn allow(&mut self, name: &str) -> Result<(), WriterError> {
        let lower = lower_name(name)?;
        match Known::classify(lower.as_bytes()) {
            Known::Other => {
                let never = lower.starts_with("x-forwarded-") || KEY_NAMES.contains(&lower.as_str());
                if !never && !self.others.iter().any(|other| other == lower.as_bytes()) {
                    self.others.push(lower.into_bytes());
                }
            }
            known => self.known |= known.bit() & !NEVER_UPSTREAM,
        }
        Ok(())
    }

    /// The same, without these headers, whether a client sends them or an edit adds them.
    pub fn without(mut self, names: &[&str]) -> Result<Self, WriterError> {
        for name in names {
            let lower = lower_name(name)?;
            self.known &= !Known::classify(lower.as_bytes()).bit();
            self.others.retain(|other| other != lower.as_bytes());
            self.fixed_names.push(lower);
        }
        Ok(self)
    }

    fn fix(&mut self, name: &str, value: &str) -> Result<(), WriterError> {
        let (lower, line) = own_line(name, value)?;
        // The fixed header replaces the client's.
        self.known &= !Known::classify(lower.as_bytes()).bit();
        self.others.retain(|other| other != lower.as_bytes());
        self.fixed.extend_from_slice(&line);
        self.fixed_names.push(lower);
        Ok(())
    }

    /// Chooses the fields of `head`, whose bytes are at the beginning of `bytes`.
    pub fn plan<'a>(
        &'a self,
        head: &'a RequestHead,
        bytes: &'a [u8],
        request_id: &'a [u8],
        framing: Framing,
    ) -> Result<RequestPlan<'a>, WriterError> {
        self.plan_with(head, bytes, request_id, framing, None)
    }

    /// Chooses the fields of `head` likewise, and applies `edits`. Fixed lines are stronger than added ones.
    pub fn plan_edited<'a>(
        &'a self,
        head: &'a RequestHead,
        bytes: &'a [u8],
        request_id: &'a [u8],
        framing: Framing,
        edits: &'a HeadEdits,
    ) -> Result<RequestPlan<'a>, WriterError> {
        self.plan_with(head, bytes, request_id, framing, Some(edits))
    }

    #[inline(always)]
    fn plan_with<'a>(
        &'a self,
        head: &'a RequestHead,
        bytes: &'a [u8],
        request_id: &'a [u8],
        framing: Framing,
        edits: Option<&'a HeadEdits>,
    ) -> Result<RequestPlan<'a>, WriterError> {
        if !is_request_id(request_id) {
            return Err(WriterError::RequestId);
        }
        let method = head.method(bytes);
        let framing = match framing {
            // RFC 9110 8.6: methods that anticipate a body declare its absence.
            Framing::None if matches!(method, b"POST" | b"PUT" | b"PATCH") => Framing::Length(0),
            framing => framing,
        };
        let framing = FramingLine::new(framing);
        let (path, query) = match edits.and_then(|edits| edits.target.as_ref()) {
            Some((path, query)) => (path.as_slice(), query.as_slice()),
            None => (head.path(bytes), head.query(bytes)),
        };
        // RFC 9112 3.2.4: the asterisk refers to the server, not to a path below it.
        let (prefix, path) = match path {
            b"*" => (&b""[..], &b"*"[..]),
            path => (self.prefix.as_slice(), self.path(path)),
        };
        let (fields, fields_len) = choose(&head.fields, |field| {
            self.allows(field, head, bytes) && !edits.is_some_and(|edits| edits.drops(field, bytes))
        });
        let lines: Vec<&[u8]> = edits.map_or_else(Vec::new, |edits| edits.lines_beside(&self.fixed_names).collect());
        let query_len = if query.is_empty() { 0 } else { query.len() + 1 };
        let len = method.len()
            + 1
            + prefix.len()
            + path.len()
            + query_len
            + self.fixed.len()
            + request_id.len()
            + 2
            + lines.iter().map(|line| line.len()).sum::<usize>()
            + fields_len
            + framing.len()
            + 2;
        Ok(RequestPlan {
            writer: self,
            head,
            bytes,
            prefix,
            path,
            query,
            request_id,
            lines,
            fields,
            framing,
            len,
        })
    }

    fn allows(&self, field: &Field, head: &RequestHead, bytes: &[u8]) -> bool {
        let allowed = match field.known {
            Known::Other => !self.others.is_empty() && contains(&self.others, field.name(bytes)),
            known => known.is_in(self.known),
        };
        allowed && !(head.names_headers && connection_names(&head.fields, bytes, field.name(bytes)))
    }

    /// The path after `prefix`.
    fn path<'a>(&self, path: &'a [u8]) -> &'a [u8] {
        let path = without(path, &self.strip);
        let path = without(path, &self.overlap);
        if path.is_empty() && self.prefix.is_empty() {
            b"/"
        } else {
            path
        }
    }
}

impl HeadEdits {
    /// `target`: a path with an optional query, as a client would send it; the writer applies its prefix. `lines` are
    /// names and values to add, in place of the client's of the same names. `drop` are names of the client's headers
    /// that are not sent.
    pub fn new(target: Option<&str>, lines: &[(&str, &str)], drop: &[&str]) -> Result<Self, WriterError> {
        let mut edits = Self {
            target: target.map(target_parts).transpose()?,
            ..Self::default()
        };
        edits.add(lines)?;
        for name in drop {
            edits.drop(&lower_name(name)?);
        }
        Ok(edits)
    }

    /// The target in place of the client's: path and query.
    #[must_use]
    pub fn target(&self) -> Option<(&[u8], &[u8])> {
        let (path, query) = self.target.as_ref()?;
        Some((path, query))
    }

    /// The same, for another target.
    pub fn at(&self, target: &str) -> Result<Self, WriterError> {
        let target = Some(target_parts(target)?);
        Ok(Self { target, ..self.clone() })
    }

    /// The same, with these headers added and those dropped, which are stronger.
    pub fn with(&self, lines: &[(&str, &str)], drop: &[&str]) -> Result<Self, WriterError> {
        let mut edits = self.clone();
        for name in drop {
            let lower = lower_name(name)?;
            edits.lines.retain(|(known, _)| *known != lower);
            edits.drop(&lower);
        }
        edits.with_lines(lines)
    }

    /// The same, with these lines added, in place of those and of the client's of the same names.
    pub fn with_lines(mut self, lines: &[(&str, &str)]) -> Result<Self, WriterError> {
        self.lines
            .retain(|(old, _)| !lines.iter().any(|(name, _)| name.eq_ignore_ascii_case(old)));
        self.add(lines)?;
        Ok(self)
    }

    fn add(&mut self, lines: &[(&str, &str)]) -> Result<(), WriterError> {
        for (name, value) in lines {
            let (lower, line) = own_line(name, value)?;
            self.drop(&lower);
            self.lines.push((lower, line));
        }
        Ok(())
    }

    fn drop(&mut self, lower: &str) {
        match Known::classify(lower.as_bytes()) {
            Known::Other => self.others.push(lower.into()),
            known => self.known |= known.bit(),
        }
    }

    fn drops(&self, field: &Field, bytes: &[u8]) -> bool {
        match field.known {
            Known::Other => contains(&self.others, field.name(bytes)),
            known => known.is_in(self.known),
        }
    }

    /// The lines to add, except for those whose names are in `fixed`.
    fn lines_beside(&self, fixed: &[String]) -> impl Iterator<Item = &[u8]> {
        self.lines
            .iter()
            .filter(move |(name, _)| !fixed.contains(name))
            .map(|(_, line)| line.as_slice())
    }
}

impl RequestPlan<'_> {
    /// The number of bytes that `write` fills.
    #[allow(clippy::len_without_is_empty, reason = "a head is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Writes the head into `out`, which is `len()` long.
    pub fn write(&self, out: &mut [u8]) {
        let mut out = Out::new(out);
        out.put(self.head.method(self.bytes));
        out.put(b" ");
        out.put(self.prefix);
        out.put(self.path);
        if !self.query.is_empty() {
            out.put(b"?");
            out.put(self.query);
        }
        out.put(&self.writer.fixed);
        out.put(self.request_id);
        out.put(b"\r\n");
        for line in &self.lines {
            out.put(line);
        }
        for field in chosen(&self.head.fields, self.fields) {
            put_field(&mut out, field, self.bytes);
        }
        self.framing.put(&mut out);
        out.put(b"\r\n");
        debug_assert_eq!(out.room(), 0);
    }
}

impl ResponseHeadWriter {
    /// `drop` adds names to those that are always dropped.
    pub fn new(drop: &[&str]) -> Result<Self, WriterError> {
        let mut writer = Self {
            known: NEVER_DOWNSTREAM,
            others: Vec::new(),
        };
        for name in drop {
            let lower = lower_name(name)?;
            match Known::classify(lower.as_bytes()) {
                Known::Other => writer.others.push(lower.into_bytes()),
                known => writer.known |= known.bit(),
            }
        }
        Ok(writer)
    }

    /// Chooses the fields of `head`, whose bytes are at the beginning of `bytes`.
    pub fn plan<'a>(
        &'a self,
        head: &'a ResponseHead,
        bytes: &'a [u8],
        framing: Framing,
        keep_alive: bool,
        disclosure: &Disclosure<'a>,
    ) -> Result<ResponsePlan<'a>, WriterError> {
        let &Disclosure {
            request_id,
            lines,
            limits,
            attempts,
            overhead_us,
        } = disclosure;
        if !is_request_id(request_id) {
            return Err(WriterError::RequestId);
        }
        let told = (attempts > 0).then(|| [attempts, overhead_us].map(Decimal::new));
        let told_len = told.as_ref().map_or(0, |[attempts, overhead]| {
            ATTEMPTS.len() + attempts.len() + OVERHEAD.len() + overhead.len() + 2
        });
        let reason = head.reason(bytes);
        let clean = !reason.is_empty() && reason.iter().all(|byte| matches!(byte, b' '..=b'~'));
        let reason = if clean { reason } else { standard_reason(head.status) };
        let close: &[u8] = if keep_alive { b"" } else { b"connection: close\r\n" };
        let framing = FramingLine::new(framing);
        let (fields, fields_len) = choose(&head.fields, |field| {
            self.passes(field, head, bytes) && (limits.is_empty() || !is_limit(field, bytes))
        });
        let len = STATUS_START.len()
            + 4
            + reason.len()
            + 2
            + fields_len
            + framing.len()
            + REQUEST_ID.len()
            + request_id.len()
            + 2
            + lines.len()
            + limits.len()
            + told_len
            + close.len()
            + 2;
        Ok(ResponsePlan {
            head,
            bytes,
            reason,
            request_id,
            lines,
            limits,
            told,
            close,
            fields,
            framing,
            len,
        })
    }

    fn passes(&self, field: &Field, head: &ResponseHead, bytes: &[u8]) -> bool {
        let passes = match field.known {
            Known::Other => {
                let name = field.name(bytes);
                !is_kept_back(name) && !is_ours(name) && (self.others.is_empty() || !contains(&self.others, name))
            }
            known => !known.is_in(self.known),
        };
        passes && !(head.names_headers && connection_names(&head.fields, bytes, field.name(bytes)))
    }
}

const STATUS_START: &[u8] = b"HTTP/1.1 ";
const REQUEST_ID: &[u8] = b"x-request-id: ";
const ATTEMPTS: &[u8] = b"x-budgateway-attempts: ";
/// Follows `ATTEMPTS` and its value.
const OVERHEAD: &[u8] = b"\r\nx-budgateway-overhead-us: ";

impl ResponsePlan<'_> {
    /// The number of bytes that `write` fills.
    #[allow(clippy::len_without_is_empty, reason = "a head is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Writes the head into `out`, which is `len()` long.
    pub fn write(&self, out: &mut [u8]) {
        let mut out = Out::new(out);
        let status = self.head.status;
        if status == 200 && self.reason == b"OK" {
            out.put(b"HTTP/1.1 200 OK\r\n");
        } else {
            out.put(STATUS_START);
            out.put(&three(u64::from(status)));
            out.put(b" ");
            out.put(self.reason);
            out.put(b"\r\n");
        }
        for field in chosen(&self.head.fields, self.fields) {
            put_field(&mut out, field, self.bytes);
        }
        self.framing.put(&mut out);
        out.put(REQUEST_ID);
        out.put(self.request_id);
        out.put(b"\r\n");
        out.put(self.lines);
        out.put(self.limits);
        if let Some([attempts, overhead]) = &self.told {
            out.put(ATTEMPTS);
            attempts.put(&mut out);
            out.put(OVERHEAD);
            overhead.put(&mut out);
            out.put(b"\r\n");
        }
        out.put(self.close);
        out.put(b"\r\n");
        debug_assert_eq!(out.room(), 0);
    }
}

/// True for a header name of our own, which no upstream may use.
fn is_ours(name: &[u8]) -> bool {
    let starts = |with: &[u8]| {
        name.get(..with.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(with))
    };
    starts(b"x-budgateway-") || starts(b"rate-limit-")
}

/// The fields that `wanted` accepts, and the length of their lines.
#[inline]
fn choose(fields: &[Field], wanted: impl Fn(&Field) -> bool) -> (FieldSet, usize) {
    let mut set = 0;
    let mut len = 0;
    for (at, field) in fields.iter().enumerate() {
        if wanted(field) {
            set |= 1 << at;
            len += field.len() + 4;
        }
    }
    (set, len)
}

fn chosen(fields: &[Field], mut set: FieldSet) -> impl Iterator<Item = &Field> {
    core::iter::from_fn(move || {
        let field = fields.get(set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(field)
    })
}

fn contains(names: &[Vec<u8>], name: &[u8]) -> bool {
    names.iter().any(|other| name.eq_ignore_ascii_case(other))
}

/// Cloudflare's headers, and those of CORS: the gateway decides which pages may read an answer, and no header may occur
/// twice.
fn is_kept_back(name: &[u8]) -> bool {
    begins(name, b"cf-") || begins(name, b"access-control-")
}

fn begins(name: &[u8], with: &[u8]) -> bool {
    name.get(..with.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(with))
}

/// True for a rate-limit header, in any of the known spellings.
fn is_limit(field: &Field, head: &[u8]) -> bool {
    let name = field.name(head);
    field.known == Known::Other
        && [
            &b"x-ratelimit-"[..],
            b"anthropic-ratelimit-",
            b"ratelimit",
            b"rate-limit-",
        ]
        .into_iter()
        .any(|with| begins(name, with))
}

/// True when a `Connection` header names `name`, which limits it to that connection.
fn connection_names(fields: &[Field], head: &[u8], name: &[u8]) -> bool {
    fields
        .iter()
        .filter(|field| field.known == Known::Connection)
        .flat_map(|field| field.value(head).split(|byte| *byte == b','))
        .any(|option| option.trim_ascii().eq_ignore_ascii_case(name))
}

/// Removes `start` from `path`, when it ends at a segment's end.
fn without<'a>(path: &'a [u8], start: &[u8]) -> &'a [u8] {
    match path.strip_prefix(start) {
        Some(rest) if matches!(rest.first(), None | Some(b'/')) => rest,
        _ => path,
    }
}

/// Normalises a path prefix: empty, or `/a/b` without a final slash.
fn path_part(part: &str) -> Result<&str, WriterError> {
    let trimmed = part.trim_end_matches('/');
    let fits = trimmed.is_empty() || trimmed.starts_with('/');
    if !fits
        || trimmed
            .bytes()
            .any(|byte| !matches!(byte, 0x21..=0x7e) || matches!(byte, b'?' | b'#'))
    {
        return Err(WriterError::Path(part.into()));
    }
    Ok(trimmed)
}

/// The lower-case name and the line of a header that the gateway adds.
fn own_line(name: &str, value: &str) -> Result<(String, Vec<u8>), WriterError> {
    const OURS: KnownSet = HOP_BY_HOP | known::set(&[Known::Host, Known::RequestId]);
    let lower = lower_name(name)?;
    if Known::classify(lower.as_bytes()).is_in(OURS) {
        return Err(WriterError::Reserved(lower));
    }
    // The value may be a secret: never in the error.
    if value.trim() != value || value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        return Err(WriterError::Value(lower));
    }
    let line = format!("{lower}: {value}\r\n").into_bytes();
    Ok((lower, line))
}

/// Path and query of a target in origin form (RFC 9112 3.2.1), under the rules for a client's.
fn target_parts(target: &str) -> Result<(Vec<u8>, Vec<u8>), WriterError> {
    let refused = || WriterError::Target(target.into());
    if target.len() > MAX_LINE {
        return Err(refused());
    }
    let parsed = super::target::parse(target.as_bytes(), false).map_err(|_| refused())?;
    if parsed.authority.is_some() {
        return Err(refused());
    }
    let part = |span: Span| span.of(target.as_bytes()).to_vec();
    Ok((part(parsed.path), part(parsed.query)))
}

fn lower_name(name: &str) -> Result<String, WriterError> {
    if is_token(name.as_bytes()) {
        Ok(name.to_ascii_lowercase())
    } else {
        Err(WriterError::Name(name.into()))
    }
}

#[cfg(test)]
mod tests;
