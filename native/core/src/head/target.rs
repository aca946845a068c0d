//! Request targets and hosts: the forms of RFC 9112 3.2, except those that two servers could read differently.

use core::net::{Ipv4Addr, Ipv6Addr};

use super::{HeadError, Span};

/// The longest host by RFC 1035.
const MAX_HOST: usize = 255;

/// A parsed target; spans are offsets within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Target {
    /// From the absolute form.
    pub(super) authority: Option<Span>,
    /// Empty only in the absolute form, where it means `/`.
    pub(super) path: Span,
    /// Without the question mark.
    pub(super) query: Span,
    /// True when it names only the server (RFC 9112 3.2.4). With a method other than OPTIONS, that is the root.
    pub(super) is_server: bool,
    /// The absolute form's scheme is https.
    is_https: bool,
}

impl Target {
    /// The default port of the absolute form's scheme, with its colon.
    pub(super) fn default_port(&self) -> &'static [u8] {
        if self.is_https { b":443" } else { b":80" }
    }
}

/// Parses a request target. `options`: the method is OPTIONS, the only one with `*`.
pub(super) fn parse(target: &[u8], options: bool) -> Result<Target, HeadError> {
    let (authority, from) = match target.first() {
        Some(b'/') => (None, 0),
        Some(b'*') if options && target.len() == 1 => {
            return Ok(Target {
                path: Span::new(0, 1),
                is_server: true,
                ..Target::default()
            });
        }
        Some(_) => {
            let start = scheme(target).ok_or(HeadError::Target)?;
            let rest = target.get(start..).unwrap_or_default();
            let end = rest
                .iter()
                .position(|byte| matches!(byte, b'/' | b'?'))
                .unwrap_or(rest.len());
            (Some(Span::new(start, start + end)), start + end)
        }
        None => return Err(HeadError::Target),
    };
    let rest = target.get(from..).unwrap_or_default();
    let end = from + path(rest)?;
    let mut parsed = Target {
        authority,
        path: Span::new(from, end),
        query: Span::default(),
        is_server: authority.is_some() && end == target.len() && end == from,
        is_https: target.first().is_some_and(|byte| byte.eq_ignore_ascii_case(&b'h'))
            && target.get(4).is_some_and(|byte| byte.eq_ignore_ascii_case(&b's')),
    };
    if let Some(query) = target.get(end + 1..) {
        if !query.iter().all(|byte| matches!(byte, 0x21..=0x7e) && *byte != b'#') {
            return Err(HeadError::Target);
        }
        parsed.query = Span::new(end + 1, target.len());
    }
    Ok(parsed)
}

/// True when some server may take a model from the target: from the query (LiteLLM), or from the text after `models`,
/// `engines` or `deployments` in the path (Google, LiteLLM, Azure). Encoded text may spell anything.
pub(super) fn may_name_model(path: &[u8], query: &[u8]) -> bool {
    const NAMING: [&[u8]; 4] = [b"model/", b"models/", b"engines/", b"deployments/"];
    let begins = |rest: &[u8], word: &[u8]| {
        rest.get(..word.len())
            .is_some_and(|text| text.eq_ignore_ascii_case(word))
    };
    query.contains(&b'%')
        || query.windows(5).any(|text| text.eq_ignore_ascii_case(b"model"))
        || memchr::memchr2_iter(b'/', b'%', path).any(|at| {
            let rest = path.get(at..).unwrap_or_default();
            let (first, rest) = rest.split_first().unwrap_or((&b'%', rest));
            *first == b'%' || NAMING.iter().any(|word| begins(rest, word))
        })
}

/// The offset of the authority in an absolute form of HTTP.
fn scheme(target: &[u8]) -> Option<usize> {
    [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| {
            target
                .get(..scheme.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        })
        .map(<[u8]>::len)
}

/// Below this path, names contain slashes, and OpenAI's clients encode them as `%2F`. A server that decodes them stays
/// below it.
const NAMES: &[u8] = b"/v1/models/";

/// The length of the path at the beginning of `target`.
fn path(target: &[u8]) -> Result<usize, HeadError> {
    let names = target.starts_with(NAMES);
    let mut at = 0;
    while let Some(byte) = target.get(at) {
        match PATH[*byte as usize] {
            Class::Plain => at += 1,
            Class::Slash => {
                at += 1;
                match target.get(at) {
                    Some(b'.' | b'%') => check_segment(target.get(at..).unwrap_or_default())?,
                    Some(b'/') => return Err(HeadError::EmptySegment),
                    _ => {}
                }
            }
            Class::Percent if names && decoded(target.get(at..).unwrap_or_default()) == Some(b'/') => {
                at += 3;
                let rest = target.get(at..).unwrap_or_default();
                if rest.first() == Some(&b'/') {
                    return Err(HeadError::EmptySegment);
                }
                check_segment(rest)?;
            }
            Class::Percent => {
                check_encoded(target.get(at..).unwrap_or_default())?;
                at += 3;
            }
            Class::Query => break,
            Class::Never => return Err(HeadError::Target),
        }
    }
    Ok(at)
}

/// Checks an escape at the beginning of `rest`. One that decodes to a slash, a backslash or a control character is
/// rejected, because servers disagree on whether it separates segments (or ends a string). So is the beginning of an
/// overlong UTF-8 character, which some servers read as the ASCII character that it encodes.
fn check_encoded(rest: &[u8]) -> Result<(), HeadError> {
    match decoded(rest) {
        None => Err(HeadError::PercentEncoding),
        Some(b'/' | b'\\' | 0..=0x1f | 0x7f | 0xc0 | 0xc1) => Err(HeadError::AmbiguousPath),
        Some(_) => Ok(()),
    }
}

/// The byte that `%XX` at the start of `rest` encodes.
fn decoded(rest: &[u8]) -> Option<u8> {
    let digit = |at: usize| rest.get(at).and_then(|byte| (*byte as char).to_digit(16));
    Some((digit(1)? * 16 + digit(2)?) as u8)
}

/// Rejects `.` and `..`, however encoded, also when followed by parameters (`..;x`, which Java servers cut off); and an
/// empty segment before an encoded slash.
fn check_segment(mut rest: &[u8]) -> Result<(), HeadError> {
    if decoded(rest) == Some(b'/') && rest.first() == Some(&b'%') {
        return Err(HeadError::EmptySegment);
    }
    for dots in 0..=2 {
        match rest.first() {
            None | Some(b'/' | b'?' | b';') if dots > 0 => return Err(HeadError::DotSegment),
            Some(b'%') if dots > 0 && decoded(rest) == Some(b'/') => return Err(HeadError::DotSegment),
            Some(b'.') => rest = rest.get(1..).unwrap_or_default(),
            Some(b'%') if decoded(rest) == Some(b'.') => rest = rest.get(3..).unwrap_or_default(),
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// The length of the host in an authority (`Host`'s value), without the port and a final dot.
pub(super) fn host(authority: &[u8]) -> Result<usize, HeadError> {
    let end = match authority.first() {
        Some(b'[') => {
            let end = authority.iter().position(|byte| *byte == b']').ok_or(HeadError::Host)?;
            let inner = authority.get(1..end).and_then(|inner| core::str::from_utf8(inner).ok());
            inner
                .and_then(|inner| inner.parse::<Ipv6Addr>().ok())
                .ok_or(HeadError::Host)?;
            end + 1
        }
        _ => authority
            .iter()
            .position(|byte| *byte == b':')
            .unwrap_or(authority.len()),
    };
    let (name, port) = authority.split_at(end);
    check_port(port)?;
    if name.first() == Some(&b'[') {
        return Ok(end);
    }
    let name = name.strip_suffix(b".").unwrap_or(name);
    check_name(name)?;
    Ok(name.len())
}

/// True when two authorities are equal: in any letter case, and with or without `port`, their scheme's default with its
/// colon (RFC 9110 4.2.3). Invalid authorities are left to `host`.
pub(super) fn is_same(one: &[u8], other: &[u8], port: &[u8]) -> bool {
    let bare = |authority: &'_ [u8]| authority.strip_suffix(port).map_or(authority.len(), <[u8]>::len);
    let (one, other) = (one.get(..bare(one)), other.get(..bare(other)));
    one.zip(other)
        .is_some_and(|(one, other)| one.eq_ignore_ascii_case(other))
}

/// Same as `host`, for other modules; None when it is not a host.
pub(crate) fn host_len(authority: &[u8]) -> Option<usize> {
    host(authority).ok()
}

/// Checks a colon and a port, or nothing.
fn check_port(port: &[u8]) -> Result<(), HeadError> {
    let digits = match port {
        [] => return Ok(()),
        [b':', digits @ ..] if (1..=5).contains(&digits.len()) => digits,
        _ => return Err(HeadError::Host),
    };
    let mut number = 0;
    for byte in digits {
        if !byte.is_ascii_digit() {
            return Err(HeadError::Host);
        }
        number = number * 10 + u32::from(byte - b'0');
    }
    if number <= u32::from(u16::MAX) {
        Ok(())
    } else {
        Err(HeadError::Host)
    }
}

/// Checks a name of letters, digits, `-`, `_`, `~` in labels, or an IPv4 address. RFC 3986 would also allow
/// sub-delimiters and percent-encoding; no host has them, and a comma results from merging duplicate Host headers.
fn check_name(name: &[u8]) -> Result<(), HeadError> {
    if name.len() > MAX_HOST {
        return Err(HeadError::Host);
    }
    // True while the current label is a number; `previous` is the byte before.
    let mut numeric = true;
    let mut previous = b'.';
    for byte in name {
        match byte {
            b'0'..=b'9' => {}
            b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' | b'~' => numeric = false,
            b'.' if previous != b'.' => {}
            _ => return Err(HeadError::Host),
        }
        if previous == b'.' {
            numeric = byte.is_ascii_digit();
        }
        previous = *byte;
    }
    if previous == b'.' {
        return Err(HeadError::Host);
    }
    // WHATWG URL 3.5: a host whose last label is a number is an IPv4 address or invalid.
    let address = || {
        core::str::from_utf8(name)
            .ok()
            .and_then(|name| name.parse::<Ipv4Addr>().ok())
    };
    if numeric && address().is_none() {
        Err(HeadError::Host)
    } else {
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Class {
    Never,
    Plain,
    Slash,
    Percent,
    Query,
}

/// RFC 3986 `pchar`, and the characters that structure a path.
const PATH: [Class; 256] = {
    let mut table = [Class::Never; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        table[byte] = match byte as u8 {
            b'/' => Class::Slash,
            b'%' => Class::Percent,
            b'?' => Class::Query,
            b'#' | b'\\' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' | b'[' | b']' => Class::Never,
            _ => Class::Plain,
        };
        byte += 1;
    }
    table
};

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed test may panic")]
mod tests {
    use super::*;

    fn verdict(target: &str) -> Result<(), HeadError> {
        parse(target.as_bytes(), false).map(|_| ())
    }

    #[test]
    fn targets_come_apart() {
        let target = b"http://a.b:80/c?d=e";
        let parsed = parse(target, false).unwrap();
        assert_eq!(parsed.authority.unwrap().of(target), b"a.b:80");
        assert_eq!(parsed.path.of(target), b"/c");
        assert_eq!(parsed.query.of(target), b"d=e");
        let bare = parse(b"HTTP://a?x", false).unwrap();
        assert!(bare.path.is_empty());
        assert_eq!(bare.query.of(b"HTTP://a?x"), b"x");
    }

    #[test]
    fn dot_segments_are_refused_in_every_spelling() {
        for dots in [".", "..", "%2e", "%2E%2e", ".%2e", "%2e.", "..;x", ".;"] {
            for target in [format!("/{dots}"), format!("/a/{dots}/b"), format!("/a/{dots}?q")] {
                assert_eq!(verdict(&target), Err(HeadError::DotSegment), "{target}");
            }
        }
        for fine in ["/...", "/.a", "/a.", "/..a", "/%2e%2e%2e", "/a..b", "/?..", "/a?/../b"] {
            assert_eq!(verdict(fine), Ok(()), "{fine}");
        }
    }

    #[test]
    fn empty_segments_are_refused() {
        for target in [
            "//",
            "//a",
            "/a//b",
            "/a//",
            "/a///b?q",
            "http://h//a",
            "/v1/models/a%2F%2Fb",
            "/v1/models/%2fb",
        ] {
            assert_eq!(verdict(target), Err(HeadError::EmptySegment), "{target}");
        }
        for target in ["/v1/models/a%2F/b", "/v1/models/a/%2Fb"] {
            assert_eq!(verdict(target), Err(HeadError::EmptySegment), "{target}");
        }
        for fine in ["/", "/a/", "/a/?//", "http://h", "http://h/", "/v1/models/a%2Fb/"] {
            assert_eq!(verdict(fine), Ok(()), "{fine}");
        }
    }

    #[test]
    fn ambiguous_encodings_are_refused() {
        for target in [
            "/a%2fb", "/a%2Fb", "/%5c", "/%00", "/%0a", "/%7f", "/%c0%afb", "/a%C1%81",
        ] {
            assert_eq!(verdict(target), Err(HeadError::AmbiguousPath), "{target}");
        }
        for target in ["/%", "/%a", "/%g0", "/%0", "/a%zz"] {
            assert_eq!(verdict(target), Err(HeadError::PercentEncoding), "{target}");
        }
        assert_eq!(verdict("/a%20b%C3%A9?%2f%00"), Ok(()));
    }

    #[test]
    fn names_of_models_may_have_encoded_slashes() {
        for target in ["/v1/models/a%2Fb", "/v1/models/a%2fb%2Fc?q", "http://h/v1/models/a%2Fb"] {
            assert_eq!(verdict(target), Ok(()), "{target}");
        }
        for dots in ["..", ".", "%2e%2E", "..;x"] {
            for target in [
                format!("/v1/models/a%2F{dots}"),
                format!("/v1/models/a%2F{dots}%2Fb"),
                format!("/v1/models/{dots}%2fb"),
                format!("/v1/models/a%2F{dots}/b"),
            ] {
                assert_eq!(verdict(&target), Err(HeadError::DotSegment), "{target}");
            }
        }
        for target in [
            "/v1/models%2Fa",
            "/v1/files/a%2Fb",
            "/x/v1/models/a%2Fb",
            "/v1/models/a%5Cb",
            "/v1/Models/a%2Fb",
        ] {
            assert_eq!(verdict(target), Err(HeadError::AmbiguousPath), "{target}");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for target in [
            "",
            "*",
            "a",
            "host:443",
            "ftp://a/",
            "/a#b",
            "/a?b#c",
            "/a\\b",
            "/\u{e9}",
            "/a?\u{e9}",
            "?a",
            "http:/a",
        ] {
            assert_eq!(verdict(target), Err(HeadError::Target), "{target}");
        }
        assert!(parse(b"*", true).is_ok());
        assert!(parse(b"**", true).is_err());
    }

    #[test]
    fn hosts() {
        for (authority, length) in [
            ("a", 1),
            ("A-b.c_d:8080", 7),
            ("a.", 1),
            ("1.2.3.4:1", 7),
            ("[::1]", 5),
            ("[::ffff:1.2.3.4]:65535", 16),
            ("1a", 2),
        ] {
            assert_eq!(host(authority.as_bytes()), Ok(length), "{authority}");
        }
        for authority in [
            "",
            ":80",
            ".",
            "a..b",
            ".a",
            "a:",
            "a:b",
            "a:65536",
            "a:123456",
            "a:-1",
            "a b",
            "a,b",
            "u@a",
            "a/b",
            "[::1",
            "[::1]x",
            "[g::]",
            "[]",
            "1.2.3",
            "1.2.3.256",
            "1",
            "a.1",
            "a%41",
            "a\\b",
            "a:80:80",
            "[v1.a]",
        ] {
            assert_eq!(host(authority.as_bytes()), Err(HeadError::Host), "{authority}");
        }
        assert!(host(&[b'a'; 256]).is_err());
    }
}
