//! Path folding: one canonical form for all spellings of a path that some server may treat as equal.
//!
//! Servers decode percent-escapes (some twice), merge slashes (nginx, Apache), cut parameters off (`;a`, in Java),
//! ignore case, final dots and blanks (Windows), a final slash (Node.js routers) or dot segments. A path and its folded
//! form should match the same rule.

/// Maximum times that a path may be decoded between the gateway and the upstream's handler.
const DECODINGS: usize = 3;

/// Percent-decodes `path`, so that no spelling of a path escapes its rule; an encoded slash stays, because it separates
/// nothing.
pub(crate) fn decode(path: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| (*byte as char).to_digit(16));
    let mut decoded = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(byte) = path.get(at) {
        let code = match (byte, digit(path.get(at + 1)), digit(path.get(at + 2))) {
            (b'%', Some(high), Some(low)) => Some((high * 16 + low) as u8).filter(|code| *code != b'/'),
            _ => None,
        };
        decoded.push(code.unwrap_or(*byte));
        at += if code.is_some() { 3 } else { 1 };
    }
    decoded
}

/// True when a path may differ from its folded form.
pub(super) fn is_needed(path: &[u8]) -> bool {
    let mut before = 0;
    for byte in path {
        match byte {
            b'A'..=b'Z' | b'%' | b';' | b'\\' => return true,
            b'/' if matches!(before, b'/' | b'.' | b' ') => return true,
            b'.' if before == b'/' => return true,
            _ => {}
        }
        before = *byte;
    }
    matches!(before, b'.' | b' ') || (before == b'/' && path.len() > 1)
}

/// True when the path holds an encoded slash, at any level of encoding.
pub(super) fn has_encoded_slash(path: &[u8]) -> bool {
    let decoded = decode_all(path);
    decoded
        .windows(3)
        .any(|three| matches!(three, [b'%', b'2', b'F' | b'f']))
}

/// The folded path. With `slashes`, encoded slashes separate segments.
pub(super) fn fold(path: &[u8], slashes: bool) -> Vec<u8> {
    let mut decoded = decode_all(path);
    if slashes {
        for _ in 0..DECODINGS {
            decoded = split(&decoded);
        }
        decoded = decode_all(&decoded);
    }
    let mut segments: Vec<Vec<u8>> = Vec::new();
    for segment in decoded.split(|byte| matches!(byte, b'/' | b'\\')) {
        let segment = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        match segment {
            b"." => {}
            b".." => {
                segments.pop();
            }
            _ => {
                let end = segment.iter().rposition(|byte| !matches!(byte, b'.' | b' '));
                let kept = end.and_then(|end| segment.get(..=end)).unwrap_or_default();
                if !kept.is_empty() {
                    segments.push(kept.to_ascii_lowercase());
                }
            }
        }
    }
    let mut folded = Vec::with_capacity(path.len() + 1);
    for segment in &segments {
        folded.push(b'/');
        folded.extend_from_slice(segment);
    }
    if folded.is_empty() {
        folded.push(b'/');
    }
    folded
}

/// Decodes as often as any server may; encoded slashes stay.
fn decode_all(path: &[u8]) -> Vec<u8> {
    let mut decoded = decode(path);
    for _ in 1..DECODINGS {
        if !decoded.contains(&b'%') {
            break;
        }
        decoded = decode(&decoded);
    }
    decoded
}

/// Replaces encoded slashes by slashes.
fn split(path: &[u8]) -> Vec<u8> {
    let mut found = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((byte, later)) = rest.split_first() {
        if let [b'%', b'2', b'F' | b'f', behind @ ..] = rest {
            found.push(b'/');
            rest = behind;
        } else {
            found.push(*byte);
            rest = later;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_path_fold_to_one() {
        for path in [
            "/v1/files/x",
            "/v1//files/x",
            "/V1/Files/X",
            "/v1/%66iles/x",
            "/v1/%2566iles/x",
            "/v1/files;a=b/x",
            "/v1;/files/x;y",
            "/v1/files%3Ba/x",
            "/v1/files./x",
            "/v1/files%20/x.",
            "/v1/files/x/",
            "/v1/./files/y/../x",
            "/v1/%252e/files/x",
            "/v1/a/%252e%252e/files/x",
            "/v1/files%255Cx",
            "//v1/files/x//",
        ] {
            assert_eq!(fold(path.as_bytes(), false), b"/v1/files/x", "{path}");
            assert_eq!(is_needed(path.as_bytes()), path != "/v1/files/x", "{path}");
        }
        assert_eq!(fold(b"/v1/models/A%2FB", false), b"/v1/models/a%2fb");
        for path in ["/v1/models/A%2FB", "/v1/models/a%252fb", "/v1/models/a%2F%2fb"] {
            assert_eq!(fold(path.as_bytes(), true), b"/v1/models/a/b", "{path}");
            assert!(has_encoded_slash(path.as_bytes()), "{path}");
        }
        for path in ["/", "", "//", "/;a", "/./"] {
            assert_eq!(fold(path.as_bytes(), false), b"/", "{path}");
        }
    }
}
