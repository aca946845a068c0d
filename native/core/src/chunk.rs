//! Chunked framing (RFC 9112 7.1), scanned byte by byte with limits, to find the message's last byte.
//!
//! ```text
//! Size -> (Extension) -> SizeEnd -> Data -> DataCr -> DataLf -> Size ...
//!                           `-> (size 0) TrailerStart -> Name -> Value -> ValueEnd -> TrailerStart ... -> LastLf -> Done
//! ```

use crate::head::{Known, is_token_byte};

/// Maximum bytes of extensions per chunk, semicolon included (against floods as in CVE-2023-39326, which hit nginx and
/// Envoy too).
pub const MAX_EXTENSION: u32 = 256;
/// Maximum bytes of extensions per message.
pub const MAX_EXTENSIONS: u32 = 16 * 1024;
/// Maximum bytes of trailers, line ends included. Trailers are dropped.
pub const MAX_TRAILERS: u32 = 8 * 1024;
/// Maximum digits of a chunk size.
pub const MAX_SIZE_DIGITS: u8 = 16;

/// A defect of a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// No hexadecimal digits, or other bytes after them.
    #[error("a chunk size is malformed")]
    Size,
    /// More digits than `MAX_SIZE_DIGITS`.
    #[error("a chunk size has more than 16 digits")]
    SizeTooLong,
    /// More than `MAX_EXTENSION` or `MAX_EXTENSIONS`.
    #[error("the chunk extensions are too large")]
    ExtensionsTooLarge,
    /// A control character in an extension.
    #[error("a chunk extension has a control character")]
    Extension,
    /// CR without LF or LF without CR.
    #[error("a line of the chunked framing does not end in CR LF")]
    LineEnd,
    /// A chunk's data continues where its CRLF should be.
    #[error("a chunk is longer than its size")]
    DataEnd,
    /// Not `name: value`.
    #[error("a trailer is malformed")]
    Trailer,
    /// A trailer that would affect framing, routing or authentication if it were merged into the head (RFC 9110 6.5.1).
    #[error("trailer {0} is forbidden")]
    Forbidden(&'static str),
    /// More than `MAX_TRAILERS`.
    #[error("the trailers are larger than 8 KiB")]
    TrailersTooLarge,
}

/// Tracks one message's framing. An error is final: every later `feed` repeats it.
#[derive(Debug, Default)]
pub struct ChunkScanner {
    state: State,
    /// The chunk's size while its digits arrive, then the rest of its data.
    left: u64,
    digits: u8,
    /// Extension bytes of this chunk.
    extension: u32,
    /// Extension bytes of this message.
    extensions: u32,
    trailers: u32,
    /// The start of the current trailer's name, and the name's length.
    name: [u8; 32],
    name_len: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    Name,
    Value,
    ValueEnd,
    LastLf,
    Done,
    Failed(ChunkError),
}

impl ChunkScanner {
    /// A scanner at the start of a body.
    pub fn new() -> Self {
        Self::default()
    }

    /// Scans the next bytes, however they are cut. Returns the offset just past the message when it ends in them, else
    /// None.
    ///
    /// A message that has ended takes no more bytes: `Some(0)`.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<usize>, ChunkError> {
        self.feed_with(bytes, |_, _| {})
    }

    /// Same as `feed`, and calls `data` with the start and end of each piece of the body in `bytes`.
    pub fn feed_with(&mut self, bytes: &[u8], mut data: impl FnMut(usize, usize)) -> Result<Option<usize>, ChunkError> {
        let mut at = 0;
        loop {
            match self.state {
                State::Data => {
                    let here = bytes.len() - at;
                    if self.left > here as u64 {
                        self.left -= here as u64;
                        data(at, bytes.len());
                        return Ok(None);
                    }
                    data(at, at + self.left as usize);
                    at += self.left as usize;
                    self.state = State::DataCr;
                }
                State::Done => return Ok(Some(at)),
                State::Failed(error) => return Err(error),
                _ => {}
            }
            let Some(byte) = bytes.get(at) else { return Ok(None) };
            self.state = self.step(*byte).unwrap_or_else(State::Failed);
            at += 1;
        }
    }

    /// True when the last byte of the message was seen.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The state after one byte of framing.
    #[inline]
    fn step(&mut self, byte: u8) -> Result<State, ChunkError> {
        match self.state {
            State::Size => self.size(byte),
            State::Extension => self.extension(byte),
            State::SizeEnd => match (byte, self.left) {
                (b'\n', 0) => Ok(State::TrailerStart),
                (b'\n', _) => Ok(State::Data),
                _ => Err(ChunkError::LineEnd),
            },
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataCr => Err(ChunkError::DataEnd),
            State::DataLf if byte == b'\n' => {
                self.digits = 0;
                self.extension = 0;
                Ok(State::Size)
            }
            State::DataLf => Err(ChunkError::LineEnd),
            State::LastLf if byte == b'\n' => Ok(State::Done),
            State::LastLf => Err(ChunkError::LineEnd),
            _ => self.trailer(byte),
        }
    }

    fn size(&mut self, byte: u8) -> Result<State, ChunkError> {
        if let Some(digit) = (byte as char).to_digit(16) {
            if self.digits == MAX_SIZE_DIGITS {
                return Err(ChunkError::SizeTooLong);
            }
            let high = if self.digits == 0 { 0 } else { self.left << 4 };
            self.left = high | u64::from(digit);
            self.digits += 1;
            return Ok(State::Size);
        }
        match byte {
            _ if self.digits == 0 => Err(ChunkError::Size),
            b'\r' => Ok(State::SizeEnd),
            b';' => self.extension(byte),
            b'\n' => Err(ChunkError::LineEnd),
            _ => Err(ChunkError::Size),
        }
    }

    fn extension(&mut self, byte: u8) -> Result<State, ChunkError> {
        match byte {
            b'\r' => return Ok(State::SizeEnd),
            b'\n' => return Err(ChunkError::LineEnd),
            b'\t' | b' '..=b'~' | 0x80.. => {}
            _ => return Err(ChunkError::Extension),
        }
        self.extension += 1;
        self.extensions += 1;
        if self.extension > MAX_EXTENSION || self.extensions > MAX_EXTENSIONS {
            return Err(ChunkError::ExtensionsTooLarge);
        }
        Ok(State::Extension)
    }

    fn trailer(&mut self, byte: u8) -> Result<State, ChunkError> {
        if self.state == State::TrailerStart && byte == b'\r' {
            return Ok(State::LastLf);
        }
        self.trailers += 1;
        if self.trailers > MAX_TRAILERS {
            return Err(ChunkError::TrailersTooLarge);
        }
        match (self.state, byte) {
            (State::ValueEnd, b'\n') => Ok(State::TrailerStart),
            (State::ValueEnd, _) | (_, b'\n') => Err(ChunkError::LineEnd),
            (State::Value, b'\r') => Ok(State::ValueEnd),
            (State::Value, b'\t' | b' '..=b'~' | 0x80..) => Ok(State::Value),
            (State::Name, b':') => self.trailer_name(),
            (State::Name | State::TrailerStart, byte) if is_token_byte(byte) => {
                if self.state == State::TrailerStart {
                    self.name_len = 0;
                }
                if let Some(slot) = self.name.get_mut(self.name_len) {
                    *slot = byte;
                }
                self.name_len += 1;
                Ok(State::Name)
            }
            _ => Err(ChunkError::Trailer),
        }
    }
}

impl ChunkScanner {
    /// Checks a complete trailer name.
    fn trailer_name(&self) -> Result<State, ChunkError> {
        use Known::{Authorization, Connection, ContentLength, Cookie, Host, TransferEncoding};
        let name = self.name.get(..self.name_len).unwrap_or_default();
        match Known::classify(name) {
            known @ (Authorization | Connection | ContentLength | Cookie | Host | TransferEncoding) => {
                Err(ChunkError::Forbidden(known.name()))
            }
            _ => Ok(State::Value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result for a body fed whole, which must equal the result byte by byte.
    fn verdict(body: &[u8]) -> Result<Option<usize>, ChunkError> {
        let whole = ChunkScanner::new().feed(body);
        let mut scanner = ChunkScanner::new();
        let mut dribbled = Ok(None);
        for (at, byte) in body.iter().enumerate() {
            dribbled = scanner.feed(&[*byte]).map(|end| end.map(|end| at + end));
            if dribbled != Ok(None) {
                break;
            }
        }
        assert_eq!(whole, dribbled, "{}", String::from_utf8_lossy(body));
        whole
    }

    #[test]
    fn the_end_is_found() {
        assert_eq!(verdict(b"0\r\n\r\n"), Ok(Some(5)));
        assert_eq!(verdict(b"3\r\nabc\r\n0\r\n\r\nGET /"), Ok(Some(13)));
        assert_eq!(
            verdict(b"00A;x=\"y z\"\r\n0123456789\r\n000\r\na: b\r\nc:\r\n\r\n"),
            Ok(Some(42))
        );
        assert_eq!(verdict(b"3\r\nabc\r\n0\r\n\r"), Ok(None));
        assert_eq!(verdict(b"ffffffffffffffff\r\nabc"), Ok(None));
    }

    #[test]
    fn what_is_malformed_is_refused() {
        use ChunkError::*;
        for (body, error) in [
            (&b"\r\n"[..], Size),
            (b"g\r\n", Size),
            (b"-1\r\n", Size),
            (b"+1\r\n", Size),
            (b"0x1\r\n", Size),
            (b" 1\r\n", Size),
            (b"1 \r\n", Size),
            (b"1\n", LineEnd),
            (b"1\r\r", LineEnd),
            (b"1;a\n", LineEnd),
            (b"1;a\0\r\n", Extension),
            (b"1\r\nab", DataEnd),
            (b"1\r\na\n", DataEnd),
            (b"1\r\na\r\r", LineEnd),
            (b"0\r\n\n", LineEnd),
            (b"0\r\n\rX", LineEnd),
            (b"0\r\n a: b\r\n", Trailer),
            (b"0\r\na b\r\n", Trailer),
            (b"0\r\na : b\r\n", Trailer),
            (b"0\r\n: b\r\n", Trailer),
            (b"0\r\na\r\n", Trailer),
            (b"0\r\na: \x01\r\n", Trailer),
            (b"0\r\na: b\n", LineEnd),
            (b"0\r\nX: y\r\nContent-Length: 1", Forbidden("content-length")),
            (b"00000000000000000\r\n", SizeTooLong),
        ] {
            assert_eq!(verdict(body), Err(error), "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn extensions_and_trailers_have_limits() {
        let chunk = |extension: usize| format!("1;{}\r\na\r\n", "x".repeat(extension - 1));
        assert_eq!(verdict(chunk(256).as_bytes()), Ok(None));
        assert_eq!(verdict(chunk(257).as_bytes()), Err(ChunkError::ExtensionsTooLarge));
        assert_eq!(verdict(chunk(256).repeat(64).as_bytes()), Ok(None));
        assert_eq!(
            verdict(chunk(256).repeat(65).as_bytes()),
            Err(ChunkError::ExtensionsTooLarge)
        );
        let trailers = |size: usize| format!("0\r\na:{}\r\n\r\n", "x".repeat(size - 4));
        assert_eq!(verdict(trailers(8192).as_bytes()), Ok(Some(8197)));
        assert_eq!(verdict(trailers(8193).as_bytes()), Err(ChunkError::TrailersTooLarge));
    }

    #[test]
    fn an_error_and_an_end_are_final() {
        let mut failed = ChunkScanner::new();
        assert_eq!(failed.feed(b"x"), Err(ChunkError::Size));
        assert_eq!(failed.feed(b"0\r\n\r\n"), Err(ChunkError::Size));
        let mut done = ChunkScanner::new();
        assert_eq!(done.feed(b"0\r\n\r\n"), Ok(Some(5)));
        assert_eq!(done.feed(b"more"), Ok(Some(0)));
        assert!(done.is_done());
    }
}
