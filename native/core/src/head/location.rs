//! Location headers: replaces an upstream's own address with the gateway's.

use super::RequestHeadWriter;
use super::scan::Field;
use super::{HeadError, ResponseHead};

/// True for a header that holds a location (RFC 9110 8.7, 10.2.2).
fn is_location(field: &Field, head: &[u8]) -> bool {
    let name = field.name(head);
    matches!(name.len(), 8 | 16)
        && (name.eq_ignore_ascii_case(b"location") || name.eq_ignore_ascii_case(b"content-location"))
}

impl ResponseHead {
    /// True when the head holds a location.
    pub fn is_located(&self, head: &[u8]) -> bool {
        self.fields.iter().any(|field| is_location(field, head))
    }

    /// The head with its locations rewritten by `writer`; `None` when nothing changes.
    pub fn relocated(&self, head: &[u8], writer: &RequestHeadWriter) -> Option<Vec<u8>> {
        let moved = |field: &Field| {
            is_location(field, head)
                .then(|| writer.relocated(field.value(head)))
                .flatten()
        };
        if !self.fields.iter().any(|field| moved(field).is_some()) {
            return None;
        }
        let first = head.windows(2).position(|end| end == b"\r\n")?;
        let mut anew = head.get(..first + 2)?.to_vec();
        for field in &self.fields {
            anew.extend_from_slice(field.name(head));
            anew.extend_from_slice(b": ");
            match moved(field) {
                Some(value) => anew.extend_from_slice(&value),
                None => anew.extend_from_slice(field.value(head)),
            }
            anew.extend_from_slice(b"\r\n");
        }
        anew.extend_from_slice(b"\r\n");
        Some(anew)
    }

    /// Same as `relocated`, and scans the result.
    pub fn scan_relocated(
        &self,
        head: &[u8],
        writer: &RequestHeadWriter,
        is_head: bool,
    ) -> Result<Option<(Self, Vec<u8>)>, HeadError> {
        let Some(anew) = self.relocated(head, writer) else {
            return Ok(None);
        };
        Ok(Self::parse(&anew, is_head)?.map(|head| (head, anew)))
    }
}

impl RequestHeadWriter {
    /// The client's form of a location at the upstream: a path of ours, without an authority. `None` when the location
    /// leads elsewhere, or stays as it is because it is relative.
    pub fn relocated(&self, location: &[u8]) -> Option<Vec<u8>> {
        let after_scheme = [&b"http://"[..], b"https://", b"//"].into_iter().find_map(|start| {
            let (begin, rest) = location.split_at_checked(start.len())?;
            begin.eq_ignore_ascii_case(start).then_some(rest)
        });
        let path = match after_scheme {
            Some(rest) => {
                let end = rest.iter().position(|byte| matches!(byte, b'/' | b'\\' | b'?' | b'#'));
                let (authority, path) = rest.split_at_checked(end.unwrap_or(rest.len()))?;
                let host = authority.rsplit(|byte| *byte == b'@').next().unwrap_or_default();
                if !without_port(host).eq_ignore_ascii_case(without_port(&self.host)) {
                    return None;
                }
                path
            }
            None if location.starts_with(b"/") => location,
            None => return None,
        };
        let end = path
            .iter()
            .position(|byte| matches!(byte, b'?' | b'#'))
            .unwrap_or(path.len());
        let (path, rest) = path.split_at_checked(end)?;
        // Two slashes would begin an authority.
        let begin = path.iter().position(|byte| !matches!(byte, b'/' | b'\\'));
        let path = path.get(begin.unwrap_or(path.len())..).unwrap_or_default();
        let path = [&b"/"[..], path].concat();
        let mut ours = self.path_of_client(&path);
        if after_scheme.is_none() && ours == location.get(..end).unwrap_or_default() {
            return None;
        }
        ours.extend_from_slice(rest);
        Some(ours)
    }

    /// The client's form of an upstream's path; a path outside `prefix` stays unchanged.
    fn path_of_client(&self, path: &[u8]) -> Vec<u8> {
        match path.strip_prefix(self.prefix.as_slice()) {
            Some(rest) if matches!(rest.first(), None | Some(b'/')) => {
                // Clients only send an API's version, and nothing else that precedes it.
                let is_version = matches!(self.overlap.as_slice(), [b'/', b'v', digit, ..] if digit.is_ascii_digit());
                let overlap: &[u8] = if is_version { &self.overlap } else { b"" };
                let whole = [self.strip.as_slice(), overlap, rest].concat();
                if whole.is_empty() { b"/".to_vec() } else { whole }
            }
            _ => path.to_vec(),
        }
    }
}

/// A host without its scheme's default port.
fn without_port(host: &[u8]) -> &[u8] {
    host.strip_suffix(b":80")
        .or_else(|| host.strip_suffix(b":443"))
        .unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relocated(prefix: &str, strip: &str, location: &str) -> String {
        let writer = RequestHeadWriter::new("GPU-1:8000", prefix, strip, &[], &[]).unwrap();
        let moved = writer.relocated(location.as_bytes());
        moved.map_or_else(|| "-".to_owned(), |moved| String::from_utf8(moved).unwrap())
    }

    #[test]
    fn an_upstreams_own_address_becomes_a_path_of_ours() {
        for (prefix, strip, location, expected) in [
            ("", "", "http://gpu-1:8000/v1/files/7?a=b#c", "/v1/files/7?a=b#c"),
            ("", "", "HTTPS://GPU-1:8000", "/"),
            ("", "", "//gpu-1:8000?x", "/?x"),
            ("", "", "http://user:secret@gpu-1:8000/x", "/x"),
            ("", "", "http://gpu-1:8000//evil.example/x", "/evil.example/x"),
            ("", "", "http://gpu-1:8000/\\evil.example/x", "/evil.example/x"),
            ("", "", "http://gpu-1:8000\\@evil.example/x", "/@evil.example/x"),
            ("", "", "http://gpu-1:8000@evil.example/x", "-"),
            ("", "", "http://gpu-1:9000/x", "-"),
            ("", "", "https://elsewhere.example/x", "-"),
            ("", "", "/v1/files/7", "-"),
            ("", "", "files/7", "-"),
            ("", "", "", "-"),
            ("/base/v1", "", "http://gpu-1:8000/base/v1/files/7", "/v1/files/7"),
            ("/base/v1", "", "/base/v1/files/7?x", "/v1/files/7?x"),
            ("/base/v1", "", "/other/7", "-"),
            (
                "/base",
                "/team-a",
                "http://gpu-1:8000/base/v1/files/7",
                "/team-a/v1/files/7",
            ),
            ("", "/team-a", "/v1/files/7", "/team-a/v1/files/7"),
        ] {
            assert_eq!(
                relocated(prefix, strip, location),
                expected,
                "{prefix} {strip} {location}"
            );
        }
        let writer = RequestHeadWriter::new("api.example", "", "", &[], &[]).unwrap();
        let moved = |location: &str| writer.relocated(location.as_bytes()).is_some();
        assert!(
            moved("https://api.example/x") && moved("https://api.example:443/x") && moved("http://api.example:80/x")
        );
        assert!(!moved("https://api.example:8443/x"));
    }

    #[test]
    fn a_head_is_written_anew_around_it() {
        let writer = RequestHeadWriter::new("gpu-1:8000", "", "", &[], &[]).unwrap();
        let bytes = b"HTTP/1.1 201 Made\r\nLocation: http://gpu-1:8000/a\r\nX:  y \r\nContent-Location: b\r\ncontent-length: 2\r\n\r\nok";
        let head = ResponseHead::parse(bytes, false).unwrap().unwrap();
        assert!(head.is_located(bytes));
        let (moved, anew) = head.scan_relocated(bytes, &writer, false).unwrap().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&anew),
            "HTTP/1.1 201 Made\r\nLocation: /a\r\nX: y\r\nContent-Location: b\r\ncontent-length: 2\r\n\r\n"
        );
        assert_eq!((moved.status, moved.content_length), (201, Some(2)));
        assert!(moved.relocated(&anew, &writer).is_none());
    }
}
