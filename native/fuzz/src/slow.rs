//! Lines and tokens of HTTP/1.1, read the slow and obvious way.

/// The line that begins at `at`, without the CRLF that ends it.
pub(crate) fn line(text: &[u8], at: usize) -> Option<&[u8]> {
    let rest = text.get(at..)?;
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    Some(&rest[..end])
}

/// No control character but TAB.
pub(crate) fn is_text(text: &[u8]) -> bool {
    text.iter()
        .all(|byte| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f))
}

/// RFC 9110 5.6.2.
pub(crate) fn is_token(text: &[u8]) -> bool {
    let is_sign = |byte: &u8| b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || is_sign(byte))
}
