//! HTTP/1.1 heads: one strict scan, an index of spans, and writers that never copy a line.
//!
//! The parser of record is llhttp; this scan is the second, stricter opinion over the same bytes (RFC 9110, RFC 9112).
//! It reads whole lines left to right, so that the verdict on a prefix never differs from the verdict on the whole.

mod dialect;
mod head_cache;
mod known;
mod location;
mod out;
mod reason;
mod request;
mod request_id;
mod response;
mod scan;
mod target;
mod token;
mod write;

pub use dialect::Dialects;
pub use head_cache::HeadCache;
pub use known::Known;
pub use out::Framing;
pub use request::{LastHost, RequestHead};
pub use request_id::is_request_id;
pub use response::ResponseHead;
pub use scan::{Field, Fields, Span};
pub(crate) use target::host_len;
pub(crate) use token::{is_token, is_token_byte};
pub use write::{Disclosure, HeadEdits, RequestHeadWriter, RequestPlan, ResponseHeadWriter, ResponsePlan, WriterError};

/// Maximum bytes of a whole head, its blank line included (nginx 4 x 8 KiB, Envoy 60 KiB).
pub const MAX_HEAD: usize = 32 * 1024;
/// Maximum bytes of one line without its CRLF.
pub const MAX_LINE: usize = 8 * 1024;
/// Maximum header lines of one head (Envoy 100, HAProxy 101).
pub const MAX_HEADERS: usize = 100;

/// Properties of a head, one bit each; Python uses the same numbers.
pub mod flag {
    /// The connection may carry another message after this one.
    pub const KEEP_ALIVE: u16 = 1;
    /// The body is chunked.
    pub const CHUNKED: u16 = 1 << 1;
    /// The client waits for `100 Continue`.
    pub const EXPECT_CONTINUE: u16 = 1 << 2;
    /// `Connection: upgrade` together with `Upgrade`.
    pub const UPGRADE: u16 = 1 << 3;
    /// The sender speaks HTTP/1.0.
    pub const HTTP_10: u16 = 1 << 4;
    /// The content type is `application/json` or ends in `+json`.
    pub const JSON: u16 = 1 << 5;
    /// The content type is `multipart/form-data`.
    pub const MULTIPART: u16 = 1 << 6;
    /// The content type is `text/event-stream`.
    pub const EVENT_STREAM: u16 = 1 << 7;
    /// There is a content coding other than identity.
    pub const ENCODED: u16 = 1 << 8;
    /// A response without a body: 1xx, 204, 304, or to HEAD.
    pub const NO_BODY: u16 = 1 << 9;
    /// A request with a request id of its own.
    pub const NAMED: u16 = 1 << 10;
    /// A request with a timeout of its own.
    pub const TIMED: u16 = 1 << 11;
    /// A response whose body has arrived in full, and may not be an answer: it is empty, or begins like an error.
    pub const DOUBTFUL: u16 = 1 << 12;
    /// An OPTIONS request that no upstream sees: for the server itself (`*`), or a browser's preflight (Fetch 4.8).
    pub const ASKING: u16 = 1 << 13;
    /// A request whose target may name a model, in addition to the body.
    pub const TARGET_MODEL: u16 = 1 << 14;
    /// A response with a location.
    pub const LOCATED: u16 = 1 << 15;
}

/// The defect of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// More bytes than `MAX_HEAD`.
    #[error("the head is larger than 32 KiB")]
    HeadTooLarge,
    /// A header line longer than `MAX_LINE`.
    #[error("a header line is longer than 8 KiB")]
    LineTooLong,
    /// More header lines than `MAX_HEADERS`.
    #[error("the head has more than 100 header lines")]
    TooManyHeaders,
    /// A request line longer than `MAX_LINE`.
    #[error("the request line is longer than 8 KiB")]
    TargetTooLong,
    /// `Expect` with anything but `100-continue`.
    #[error("expect is something other than 100-continue")]
    Expectation,
    /// LF without CR, CR without LF.
    #[error("a line of the head does not end in CR LF")]
    LineEnd,
    /// A control character.
    #[error("the head has a control character")]
    Control,
    /// Empty lines where the message should begin.
    #[error("the message begins with empty lines")]
    EmptyLines,
    /// Not `method SP target SP version`.
    #[error("the request line is malformed")]
    RequestLine,
    /// The method is not a token.
    #[error("the method is no token")]
    Method,
    /// CONNECT and TRACE are not for gateways.
    #[error("the method is not allowed here")]
    MethodForbidden,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("the protocol version is neither HTTP/1.0 nor HTTP/1.1")]
    Version,
    /// Characters or a form that a target cannot have.
    #[error("the request target is malformed")]
    Target,
    /// `%` without two hexadecimal digits.
    #[error("the path has a malformed percent-encoding")]
    PercentEncoding,
    /// An encoding that some servers decode before they split the path, and others after.
    #[error("the path has an encoded slash, backslash or control character, or an overlong character")]
    AmbiguousPath,
    /// Two slashes in a row, which some servers treat as one.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// `.` or `..` as a segment, encoded or not.
    #[error("the path has a dot segment")]
    DotSegment,
    /// Not `HTTP/1.x SP status [SP reason]`.
    #[error("the status line is malformed")]
    StatusLine,
    /// A status outside of 100 to 599.
    #[error("the status is not between 100 and 599")]
    Status,
    /// A line that continues the one before.
    #[error("a header line begins with white space")]
    Folded,
    /// A header line without a colon.
    #[error("a header line has no colon")]
    NoColon,
    /// A name that is empty or not a token, or white space before the colon.
    #[error("a header name is no token")]
    Name,
    /// `Content_Length` and the like: a server that maps `_` to `-` would read it as another header.
    #[error("a header name imitates another with an underscore")]
    Alias,
    /// A header that may only occur once occurs again.
    #[error("header {0} occurs twice")]
    Duplicate(&'static str),
    /// Not digits, or too many of them.
    #[error("content-length is malformed")]
    ContentLength,
    /// Anything but `chunked`, or in HTTP/1.0.
    #[error("transfer-encoding is something other than chunked in HTTP/1.1")]
    TransferEncoding,
    /// Both lengths at once (RFC 9112 6.3).
    #[error("the message has both content-length and transfer-encoding")]
    BothLengths,
    /// A response that cannot have a body announces one.
    #[error("a response without a body announces one")]
    UnexpectedBody,
    /// `Connection` lists something that is not a token.
    #[error("connection is malformed")]
    Connection,
    /// HTTP/1.1 without `Host`.
    #[error("header host is missing")]
    HostMissing,
    /// Neither a name nor an address with an optional port.
    #[error("header host is malformed")]
    Host,
    /// The target names another authority than `Host`.
    #[error("the target names another host than header host")]
    HostDiffers,
}
