//! HTTP tokens (RFC 9110 5.6.2), the grammar of names.

/// True for a token (RFC 9110 5.6.2).
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_token_byte(*byte))
}

/// True for a byte of a token.
#[inline]
pub(crate) fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize] != 0
}

/// Bit of `TOKEN`: the byte is an underscore.
pub(super) const UNDERSCORE: u8 = 2;

/// Zero for bytes that are not in tokens.
pub(super) const TOKEN: [u8; 256] = {
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
