//! Chunked framing (RFC 9112 7.1), decoded as it comes in, whatever the cuts.

/// Maximum length of a size line: 16 digits and a short extension; a longer one is an attack.
const MAX_LINE: usize = 256;

/// Position of the next byte in the framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Data,
    DataEnd,
    Trailer,
    Done,
}

/// Takes chunked bytes apart.
#[derive(Debug)]
pub(crate) struct ChunkDecoder {
    state: State,
    left: u64,
    line: Vec<u8>,
}

/// The framing is not what RFC 9112 says.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed chunk")]
pub(crate) struct MalformedChunk;

impl ChunkDecoder {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Size,
            left: 0,
            line: Vec::new(),
        }
    }

    pub(crate) fn done(&self) -> bool {
        self.state == State::Done
    }

    /// Hands the data in `bytes` to `body`; how many bytes belonged to the message (all, unless it ended in them).
    pub(crate) fn feed(&mut self, bytes: &[u8], body: &mut dyn FnMut(&[u8])) -> Result<usize, MalformedChunk> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            if self.state == State::Data {
                let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                body(&bytes[at..at + take]);
                at += take;
                self.left -= take as u64;
                if self.left == 0 {
                    self.state = State::DataEnd;
                }
                continue;
            }
            let rest = &bytes[at..];
            let Some(end) = memchr::memchr(b'\n', rest) else {
                self.line.extend_from_slice(rest);
                return if self.line.len() > MAX_LINE {
                    Err(MalformedChunk)
                } else {
                    Ok(bytes.len())
                };
            };
            at += end + 1;
            if self.line.is_empty() {
                self.take_line(&rest[..end])?;
            } else {
                self.line.extend_from_slice(&rest[..end]);
                let line = std::mem::take(&mut self.line);
                self.take_line(&line)?;
            }
        }
        Ok(at)
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), MalformedChunk> {
        let line = line.strip_suffix(b"\r").ok_or(MalformedChunk)?;
        self.state = match self.state {
            State::Size => {
                self.left = size(line)?;
                if self.left == 0 { State::Trailer } else { State::Data }
            }
            State::DataEnd if line.is_empty() => State::Size,
            State::Trailer if line.is_empty() => State::Done,
            State::Trailer => State::Trailer,
            _ => return Err(MalformedChunk),
        };
        Ok(())
    }
}

fn size(line: &[u8]) -> Result<u64, MalformedChunk> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or(line).trim_ascii_end();
    let text = std::str::from_utf8(digits).map_err(|_| MalformedChunk)?;
    if text.starts_with('+') {
        return Err(MalformedChunk);
    }
    u64::from_str_radix(text, 16).map_err(|_| MalformedChunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &[u8] = b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nx-trailer: 1\r\n\r\n";

    fn decode(parts: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut decoder = ChunkDecoder::new();
        let mut out = Vec::new();
        for part in parts {
            assert_eq!(
                decoder.feed(part, &mut |data| out.extend_from_slice(data)),
                Ok(part.len())
            );
        }
        (out, decoder.done())
    }

    #[test]
    fn any_cut_gives_the_same_body() {
        assert_eq!(decode(&[MESSAGE]), (b"hello world".to_vec(), true));
        for cut in 1..MESSAGE.len() {
            assert_eq!(
                decode(&[&MESSAGE[..cut], &MESSAGE[cut..]]),
                (b"hello world".to_vec(), true),
                "cut at {cut}"
            );
        }
        let bytes: Vec<&[u8]> = MESSAGE.chunks(1).collect();
        assert_eq!(decode(&bytes), (b"hello world".to_vec(), true));
    }

    #[test]
    fn stops_at_the_end_of_the_message() {
        let mut decoder = ChunkDecoder::new();
        assert_eq!(decoder.feed(b"0\r\n\r\nHTTP/1.1", &mut |_| ()), Ok(5));
        assert!(decoder.done());
    }

    #[test]
    fn what_is_not_chunked_is_refused() {
        for bad in [
            &b"zz\r\n"[..],
            b"5\nhello\r\n",
            b"2\r\nabc\r\n",
            b"\r\n",
            b"-1\r\n",
            b"+1\r\n",
            &[b'1'; 300],
        ] {
            assert_eq!(
                ChunkDecoder::new().feed(bad, &mut |_| ()),
                Err(MalformedChunk),
                "{bad:?}"
            );
        }
    }
}
