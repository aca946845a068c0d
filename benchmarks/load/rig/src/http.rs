//! HTTP/1.1 messages, read as they come in: enough to frame and to check them, and no more.

use crate::chunked::ChunkDecoder;

/// Maximum size of a head.
const MAX_HEAD: usize = 64 * 1024;

/// A message that cannot be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed message")]
pub(crate) struct Malformed;

/// The framing that determines a message's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// A start line and what the headers say about framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    pub(crate) start_line: &'a [u8],
    /// Up to and with the blank line.
    pub(crate) size: usize,
    pub(crate) content_length: Option<u64>,
    pub(crate) chunked: bool,
    pub(crate) close: bool,
}

impl<'a> Head<'a> {
    /// Reads the head at the start of `bytes`; None while its blank line has not arrived.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Option<Self>, Malformed> {
        let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
            return if bytes.len() > MAX_HEAD {
                Err(Malformed)
            } else {
                Ok(None)
            };
        };
        let mut lines = bytes[..end]
            .split(|byte| *byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let mut head = Head {
            start_line: lines.next().unwrap_or_default(),
            size: end + 4,
            content_length: None,
            chunked: false,
            close: false,
        };
        for line in lines {
            let colon = memchr::memchr(b':', line).ok_or(Malformed)?;
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            // Most names are of another length: one compare each.
            match name.len() {
                14 if name.eq_ignore_ascii_case(b"content-length") => {
                    let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    head.content_length = Some(length.ok_or(Malformed)?);
                }
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                    head.chunked = value.eq_ignore_ascii_case(b"chunked");
                }
                10 if name.eq_ignore_ascii_case(b"connection") => head.close = value.eq_ignore_ascii_case(b"close"),
                _ => {}
            }
        }
        if head.chunked && head.content_length.is_some() {
            return Err(Malformed);
        }
        Ok(Some(head))
    }

    /// The status of a response.
    pub(crate) fn status(&self) -> Result<u16, Malformed> {
        let rest = self.start_line.strip_prefix(b"HTTP/1.").ok_or(Malformed)?;
        let digits = rest.get(2..5).ok_or(Malformed)?;
        std::str::from_utf8(digits)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or(Malformed)
    }

    /// The method and target of a request.
    pub(crate) fn request_line(&self) -> Result<(&'a [u8], &'a [u8]), Malformed> {
        let mut words = self.start_line.split(|byte| *byte == b' ');
        match (words.next(), words.next(), words.next()) {
            (Some(method), Some(target), Some(_)) => Ok((method, target)),
            _ => Err(Malformed),
        }
    }
}

/// Reads the responses of one connection, one after another.
pub(crate) struct ResponseReader {
    head: Vec<u8>,
    body: Option<Body>,
    status: u16,
    close: bool,
    size: u64,
}

enum Body {
    Length(u64),
    Chunked(ChunkDecoder),
    UntilClose,
}

/// The result of `ResponseReader::feed`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All bytes were of this response, and more must come.
    More,
    /// The response is complete; this many bytes were its own.
    Done(usize),
}

impl ResponseReader {
    pub(crate) fn new() -> Self {
        Self {
            head: Vec::new(),
            body: None,
            status: 0,
            close: false,
            size: 0,
        }
    }

    /// Makes ready for the next response.
    pub(crate) fn restart(&mut self) {
        self.head.clear();
        self.body = None;
        self.status = 0;
        self.size = 0;
    }

    /// 0 until the head has arrived.
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// Bytes of body so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The server will close the connection after this response.
    pub(crate) fn closes(&self) -> bool {
        self.close
    }

    /// The connection's end is this response's end.
    pub(crate) fn ends_at_close(&self) -> bool {
        matches!(self.body, Some(Body::UntilClose))
    }

    /// Takes the next bytes off the connection; body bytes go to `sink`.
    pub(crate) fn feed(&mut self, bytes: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<Progress, Malformed> {
        if self.body.is_some() {
            return self.feed_body(bytes, sink);
        }
        if self.head.is_empty() {
            let Some(size) = self.take_head(bytes)? else {
                self.head.extend_from_slice(bytes);
                return Ok(Progress::More);
            };
            return self.after_head(bytes, size, sink);
        }
        let before = self.head.len();
        let mut joined = std::mem::take(&mut self.head);
        joined.extend_from_slice(bytes);
        let Some(size) = self.take_head(&joined)? else {
            self.head = joined;
            return Ok(Progress::More);
        };
        match self.after_head(&joined, size, sink)? {
            Progress::Done(end) => Ok(Progress::Done(end - before)),
            Progress::More => Ok(Progress::More),
        }
    }

    fn after_head(&mut self, bytes: &[u8], size: usize, sink: &mut dyn FnMut(&[u8])) -> Result<Progress, Malformed> {
        match self.feed_body(&bytes[size..], sink)? {
            Progress::Done(end) => Ok(Progress::Done(size + end)),
            Progress::More => Ok(Progress::More),
        }
    }

    fn take_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let Some(head) = Head::parse(bytes)? else {
            return Ok(None);
        };
        self.status = head.status()?;
        self.close = head.close;
        self.body = Some(match response_framing(&head, self.status) {
            Framing::Length(length) => Body::Length(length),
            Framing::Chunked => Body::Chunked(ChunkDecoder::new()),
            Framing::UntilClose => Body::UntilClose,
        });
        Ok(Some(head.size))
    }

    fn feed_body(&mut self, bytes: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<Progress, Malformed> {
        let total = &mut self.size;
        match self.body.as_mut().ok_or(Malformed)? {
            Body::Length(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                sink(&bytes[..take]);
                *total += take as u64;
                *left -= take as u64;
                Ok(if *left == 0 {
                    Progress::Done(take)
                } else {
                    Progress::More
                })
            }
            Body::Chunked(decoder) => {
                let used = decoder
                    .feed(bytes, &mut |data| {
                        *total += data.len() as u64;
                        sink(data);
                    })
                    .map_err(|_| Malformed)?;
                Ok(if decoder.done() {
                    Progress::Done(used)
                } else {
                    Progress::More
                })
            }
            Body::UntilClose => {
                *total += bytes.len() as u64;
                sink(bytes);
                Ok(Progress::More)
            }
        }
    }
}

/// RFC 9112 6.3, for requests other than HEAD and CONNECT.
fn response_framing(head: &Head<'_>, status: u16) -> Framing {
    match (status, head.chunked, head.content_length) {
        (100..=199 | 204 | 304, ..) => Framing::Length(0),
        (_, true, _) => Framing::Chunked,
        (_, _, Some(length)) => Framing::Length(length),
        _ => Framing::UntilClose,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: &[u8], cut: usize) -> (u16, Vec<u8>, Option<usize>) {
        let mut reader = ResponseReader::new();
        let (mut body, mut fed, mut end) = (Vec::new(), 0, None);
        for part in message.chunks(cut) {
            match reader.feed(part, &mut |data| body.extend_from_slice(data)) {
                Ok(Progress::Done(used)) => {
                    end = Some(fed + used);
                    break;
                }
                Ok(Progress::More) => fed += part.len(),
                Err(Malformed) => return (0, body, None),
            }
        }
        (reader.status(), body, end)
    }

    #[test]
    fn responses_are_framed_however_cut() {
        let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx: y\r\n\r\nhello";
        let chunked = b"HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
        for cut in 1..80 {
            assert_eq!(
                read(plain, cut),
                (200, b"hello".to_vec(), Some(plain.len())),
                "cut every {cut}"
            );
            assert_eq!(
                read(chunked, cut),
                (503, b"hello".to_vec(), Some(chunked.len())),
                "cut every {cut}"
            );
        }
    }

    #[test]
    fn bytes_after_the_end_are_not_eaten() {
        let message = b"HTTP/1.1 204 None\r\n\r\nHTTP/1.1 200 OK\r\n";
        assert_eq!(read(message, message.len()), (204, Vec::new(), Some(21)));
        assert_eq!(read(message, 20), (204, Vec::new(), Some(21)));
    }

    #[test]
    fn a_body_without_length_ends_with_the_connection() {
        let mut reader = ResponseReader::new();
        assert_eq!(
            reader.feed(b"HTTP/1.0 200 OK\r\n\r\nabc", &mut |_| ()),
            Ok(Progress::More)
        );
        assert!(reader.ends_at_close());
        assert_eq!(reader.size(), 3);
    }

    #[test]
    fn what_is_no_response_is_refused() {
        for bad in [
            &b"SSH-2.0-OpenSSH\r\n\r\n"[..],
            b"HTTP/1.1 2x0 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: five\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        ] {
            assert_eq!(ResponseReader::new().feed(bad, &mut |_| ()), Err(Malformed), "{bad:?}");
        }
    }

    #[test]
    fn requests_are_read_by_their_line() {
        let head =
            Head::parse(b"POST /v1/chat HTTP/1.1\r\nhost: x\r\nContent-Length: 3\r\nconnection: close\r\n\r\nabc");
        let head = head.ok().flatten();
        assert_eq!(
            head.and_then(|head| head.request_line().ok()),
            Some((&b"POST"[..], &b"/v1/chat"[..]))
        );
        assert_eq!(
            head.map(|head| (head.content_length, head.close)),
            Some((Some(3), true))
        );
    }
}
