//! The header names that the gateway treats specially, recognised in any letter case.

/// A set of `Known`, one bit each.
pub(super) type KnownSet = u64;

macro_rules! known {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// A header name; `Other` is every name that is not listed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each is the name it spells")]
        #[repr(u8)]
        pub enum Known { Other, $($variant),* }

        const ALL: &[Known] = &[Known::Other, $(Known::$variant),*];
        const NAMES: &[&str] = &["", $($name),*];
        /// The names as the beginnings of lines.
        const STARTS: &[&str] = &["", $(concat!($name, ": ")),*];
    };
}

known! {
    Host = "host", Connection = "connection", ContentLength = "content-length", TransferEncoding = "transfer-encoding",
    ContentType = "content-type", ContentEncoding = "content-encoding", Expect = "expect", Upgrade = "upgrade",
    Te = "te", Trailer = "trailer", KeepAlive = "keep-alive", ProxyConnection = "proxy-connection",
    RequestId = "x-request-id", Accept = "accept", Traceparent = "traceparent", Tracestate = "tracestate",
    Baggage = "baggage", UserAgent = "user-agent", IdempotencyKey = "idempotency-key",
    Authorization = "authorization", ProxyAuthorization = "proxy-authorization", Cookie = "cookie",
    XApiKey = "x-api-key", ApiKey = "api-key", Forwarded = "forwarded", XForwardedFor = "x-forwarded-for",
    XForwardedHost = "x-forwarded-host", XForwardedProto = "x-forwarded-proto", XRealIp = "x-real-ip",
    AcceptEncoding = "accept-encoding", Server = "server", SetCookie = "set-cookie", AltSvc = "alt-svc",
    StrictTransportSecurity = "strict-transport-security", OpenaiOrganization = "openai-organization",
    OpenaiProject = "openai-project", Via = "via", ProxyAuthenticate = "proxy-authenticate",
    ProxyAuthenticationInfo = "proxy-authentication-info", Date = "date", CacheControl = "cache-control",
    RequestTimeout = "x-request-timeout", OpenaiBeta = "openai-beta", AnthropicVersion = "anthropic-version",
    AnthropicBeta = "anthropic-beta", AnthropicBrowserAccess = "anthropic-dangerous-direct-browser-access",
}

/// Maps length, first and last byte to the only name with them; the multipliers avoid collisions.
const SLOTS: [u8; 256] = {
    let mut slots = [0; 256];
    let mut at = 1;
    while at < NAMES.len() {
        let name = NAMES[at].as_bytes();
        slots[slot(name.len(), name[0], name[name.len() - 1])] = at as u8;
        at += 1;
    }
    slots
};

const fn slot(len: usize, first: u8, last: u8) -> usize {
    (len + (first | 0x20) as usize * 5 + (last | 0x20) as usize * 53) & 255
}

impl Known {
    /// The name that these bytes spell. They hold no control characters.
    pub(crate) fn classify(name: &[u8]) -> Self {
        let (Some(&first), Some(&last)) = (name.first(), name.last()) else {
            return Self::Other;
        };
        let at = SLOTS[slot(name.len(), first, last)] as usize;
        if equals(name, NAMES[at].as_bytes()) {
            ALL[at]
        } else {
            Self::Other
        }
    }

    /// The name in lower case; empty for `Other`.
    pub fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    /// The beginning of a line with that name in lower case, up to the value; empty for `Other`.
    pub(super) fn line_start(self) -> &'static [u8] {
        STARTS[self as usize].as_bytes()
    }

    pub(super) const fn bit(self) -> KnownSet {
        1 << self as u8
    }

    pub(super) const fn is_in(self, set: KnownSet) -> bool {
        set & self.bit() != 0
    }
}

/// The set of these names.
pub(super) const fn set(names: &[Known]) -> KnownSet {
    let mut set = 0;
    let mut at = 0;
    while at < names.len() {
        set |= names[at].bit();
        at += 1;
    }
    set
}

/// True when `bytes` spell `lower` (lower-case letters, digits, `-`, `/`) in any letter case.
///
/// `| 0x20` on its own would also turn CR into `-`; bytes of a scanned line have no control characters.
#[inline]
pub(super) fn equals(bytes: &[u8], lower: &[u8]) -> bool {
    const CASE: u64 = u64::MAX / 255 * 0x20;
    if bytes.len() != lower.len() {
        return false;
    }
    let word = |chunk: &[u8; 8]| u64::from_le_bytes(*chunk);
    // Eight bytes at a time; the last eight overlap the ones before.
    let (Some(last), Some(wanted)) = (bytes.last_chunk::<8>(), lower.last_chunk::<8>()) else {
        return equals_short(bytes, lower);
    };
    if word(last) | CASE != word(wanted) {
        return false;
    }
    let (mut bytes, mut lower) = (bytes, lower);
    while let (Some((chunk, more)), Some((wanted, wanted_more))) =
        (bytes.split_first_chunk::<8>(), lower.split_first_chunk::<8>())
    {
        if word(chunk) | CASE != word(wanted) {
            return false;
        }
        (bytes, lower) = (more, wanted_more);
    }
    true
}

/// Compares fewer than eight bytes; both have the same length.
#[inline]
fn equals_short(bytes: &[u8], lower: &[u8]) -> bool {
    const CASE: u32 = u32::MAX / 255 * 0x20;
    let word = |chunk: &[u8; 4]| u32::from_le_bytes(*chunk);
    if let (Some(first), Some(last), Some(wanted), Some(wanted_last)) = (
        bytes.first_chunk::<4>(),
        bytes.last_chunk::<4>(),
        lower.first_chunk::<4>(),
        lower.last_chunk::<4>(),
    ) {
        return word(first) | CASE == word(wanted) && word(last) | CASE == word(wanted_last);
    }
    bytes.iter().zip(lower).all(|(byte, lower)| byte | 0x20 == *lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_recognised_in_any_case() {
        for (known, name) in ALL.iter().zip(NAMES).skip(1) {
            assert_eq!(Known::classify(name.as_bytes()), *known);
            assert_eq!(Known::classify(name.to_uppercase().as_bytes()), *known);
        }
    }

    #[test]
    fn other_names_are_not() {
        for name in [
            "",
            "x",
            "hosts",
            "content_length",
            "hos\u{7f}",
            "content-lengtH2",
            "tE ",
        ] {
            assert_eq!(Known::classify(name.as_bytes()), Known::Other, "{name}");
        }
    }
}
