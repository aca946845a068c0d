//! Content codings of request bodies (RFC 9110 8.4.1): decoded as they arrive, within limits.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, InBuffer, Operation, OutBuffer};

/// The value of `accept-encoding` for requests (RFC 7694).
pub const CODINGS: &str = "gzip, deflate, br, zstd";

/// The highest ratio of decoded to received bytes. Very repetitive text reaches 20 to 50.
pub const MAX_RATIO: usize = 200;
/// The decoded size up to which the ratio is not checked: blanks and single-coloured images in base64 compress better.
pub const FREE_BYTES: usize = 1 << 20;
/// RFC 9659: zstd windows on the web are at most 8 MiB.
const ZSTD_WINDOW_LOG: u32 = 23;
/// Maximum decoders per process with windows of megabytes (br 16, zstd 8).
pub const MAX_WIDE: usize = 32;
/// Size of the decoder's output buffer, the most that one step produces.
const STEP: usize = 32 * 1024;

static WIDE: AtomicUsize = AtomicUsize::new(0);

/// The reason why a body cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodingError {
    /// An unsupported coding.
    #[error("the content coding is not one of {CODINGS}")]
    Unknown,
    /// `MAX_WIDE` decoders are in use.
    #[error("too many compressed bodies are being read at a time")]
    Busy,
    /// The bytes are not valid in this coding.
    #[error("the body is not what its content-encoding says")]
    Corrupt,
    /// The body stopped before its end.
    #[error("the compressed body ends too early")]
    Truncated,
    /// There are bytes after the end, and their meaning is undefined.
    #[error("the compressed body goes on behind its end")]
    Trailing,
    /// The decoded body is larger than the limit.
    #[error("the decoded body exceeds the limit of {0} bytes")]
    TooLarge(usize),
    /// The decoded body is more than `MAX_RATIO` times what arrived.
    #[error("the decoded body is more than {MAX_RATIO} times as large as what was sent")]
    Bomb,
}

/// The decoder of one body.
pub struct Decoder {
    codec: Codec,
    limit: usize,
    taken: usize,
    made: usize,
    ended: bool,
    step: Box<[u8]>,
    _wide: Option<Wide>,
}

enum Codec {
    Flate(Decompress),
    Brotli(Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>, usize),
    Zstd(zstd::stream::raw::Decoder<'static>),
}

/// The result of one step.
struct Step {
    taken: usize,
    made: usize,
    ended: bool,
}

/// A permit for one of `MAX_WIDE` decoders, returned on drop.
struct Wide;

impl Wide {
    fn take() -> Result<Self, CodingError> {
        let place = Self;
        if WIDE.fetch_add(1, Ordering::Relaxed) < MAX_WIDE {
            Ok(place)
        } else {
            Err(CodingError::Busy)
        }
    }
}

impl Drop for Wide {
    fn drop(&mut self) {
        WIDE.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder")
            .field("taken", &self.taken)
            .field("made", &self.made)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Decoder {
    /// A decoder for the named coding (in any letter case), for a body of at most `limit` decoded bytes.
    pub fn new(coding: &str, limit: usize) -> Result<Self, CodingError> {
        let (codec, wide) = match coding.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => (Codec::Flate(Decompress::new_gzip(15)), None),
            // RFC 9110 8.4.1.2: deflate has zlib's frame around it.
            "deflate" => (Codec::Flate(Decompress::new(true)), None),
            "br" => {
                let state = BrotliState::new(
                    StandardAlloc::default(),
                    StandardAlloc::default(),
                    StandardAlloc::default(),
                );
                (Codec::Brotli(Box::new(state), 0), Some(Wide::take()?))
            }
            "zstd" => {
                let wide = Wide::take()?;
                (Codec::Zstd(zstd_decoder().map_err(|_| CodingError::Busy)?), Some(wide))
            }
            _ => return Err(CodingError::Unknown),
        };
        Ok(Self {
            codec,
            limit,
            taken: 0,
            made: 0,
            ended: false,
            step: vec![0; STEP].into_boxed_slice(),
            _wide: wide,
        })
    }

    /// Decodes a piece into `out`.
    pub fn feed(&mut self, mut piece: &[u8], out: &mut Vec<u8>) -> Result<(), CodingError> {
        self.taken = self.taken.saturating_add(piece.len());
        loop {
            if self.ended && !self.begins_again(piece)? {
                return Ok(());
            }
            let Self { codec, step, .. } = self;
            let done = codec.step(piece, step)?;
            self.ended = done.ended;
            self.made = self.made.saturating_add(done.made);
            self.check()?;
            out.extend_from_slice(self.step.get(..done.made).unwrap_or_default());
            piece = piece.get(done.taken..).unwrap_or_default();
            // A full output buffer may leave more to be decoded.
            if piece.is_empty() && (self.ended || done.made < STEP) {
                return Ok(());
            }
            if done.taken == 0 && done.made == 0 {
                return Err(CodingError::Corrupt);
            }
        }
    }

    /// Returns an error when the body was not complete.
    pub fn finish(&self) -> Result<(), CodingError> {
        if self.ended {
            Ok(())
        } else {
            Err(CodingError::Truncated)
        }
    }

    /// Checks the bytes after an end: true when `piece` is another frame, which only zstd has (RFC 8878 3.1).
    fn begins_again(&mut self, piece: &[u8]) -> Result<bool, CodingError> {
        match &mut self.codec {
            _ if piece.is_empty() => Ok(false),
            Codec::Zstd(_) => {
                self.ended = false;
                Ok(true)
            }
            _ => Err(CodingError::Trailing),
        }
    }

    fn check(&self) -> Result<(), CodingError> {
        if self.made > self.limit {
            Err(CodingError::TooLarge(self.limit))
        } else if self.made > FREE_BYTES.saturating_add(self.taken.saturating_mul(MAX_RATIO)) {
            Err(CodingError::Bomb)
        } else {
            Ok(())
        }
    }
}

impl Codec {
    fn step(&mut self, piece: &[u8], out: &mut [u8]) -> Result<Step, CodingError> {
        match self {
            Self::Flate(flate) => {
                let (before_in, before_out) = (flate.total_in(), flate.total_out());
                let status = flate
                    .decompress(piece, out, FlushDecompress::None)
                    .map_err(|_| CodingError::Corrupt)?;
                let taken = (flate.total_in() - before_in) as usize;
                Ok(Step {
                    taken,
                    made: (flate.total_out() - before_out) as usize,
                    ended: status == Status::StreamEnd,
                })
            }
            Self::Brotli(state, total) => {
                let (mut left, mut taken) = (piece.len(), 0);
                let (mut room, mut made) = (out.len(), 0);
                let result =
                    BrotliDecompressStream(&mut left, &mut taken, piece, &mut room, &mut made, out, total, state);
                if matches!(result, BrotliResult::ResultFailure) {
                    return Err(CodingError::Corrupt);
                }
                Ok(Step {
                    taken,
                    made,
                    ended: matches!(result, BrotliResult::ResultSuccess),
                })
            }
            Self::Zstd(zstd) => {
                let mut input = InBuffer::around(piece);
                let mut output = OutBuffer::around(out);
                let hint = zstd.run(&mut input, &mut output).map_err(|_| CodingError::Corrupt)?;
                Ok(Step {
                    taken: input.pos(),
                    made: output.pos(),
                    ended: hint == 0,
                })
            }
        }
    }
}

fn zstd_decoder() -> io::Result<zstd::stream::raw::Decoder<'static>> {
    let mut decoder = zstd::stream::raw::Decoder::new()?;
    decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))?;
    Ok(decoder)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    const TEXT: &[u8] = br#"{"model":"m","messages":[{"role":"user","content":"hello hello hello"}]}"#;
    // `brotli` of "hello\n".
    const BROTLI: &[u8] = b"\x8f\x02\x80hello\n\x03";

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstandard(text: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(text, 3).unwrap()
    }

    fn decode(coding: &str, body: &[u8], size: usize, limit: usize) -> Result<Vec<u8>, CodingError> {
        let mut decoder = Decoder::new(coding, limit)?;
        let mut out = Vec::new();
        for piece in body.chunks(size) {
            decoder.feed(piece, &mut out)?;
        }
        decoder.finish().map(|()| out)
    }

    fn all() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
        vec![
            ("gzip", gzip(TEXT), TEXT.into()),
            ("X-GZIP", gzip(TEXT), TEXT.into()),
            ("deflate", deflate(TEXT), TEXT.into()),
            ("zstd", zstandard(TEXT), TEXT.into()),
            ("br", BROTLI.into(), b"hello\n".into()),
        ]
    }

    #[test]
    fn decodes_however_it_is_cut() {
        for (coding, body, text) in all() {
            for size in [1, 2, 7, 10_000] {
                assert_eq!(decode(coding, &body, size, 1000).unwrap(), text, "{coding} by {size}");
            }
        }
        let large = TEXT.repeat(2000);
        for (coding, body) in [
            ("gzip", gzip(&large)),
            ("deflate", deflate(&large)),
            ("zstd", zstandard(&large)),
        ] {
            assert_eq!(decode(coding, &body, 100, usize::MAX).unwrap(), large, "{coding}");
        }
    }

    #[test]
    fn what_ends_too_early_or_goes_on_is_refused() {
        for (coding, body, _) in all() {
            for end in 0..body.len() {
                let cut = decode(coding, &body[..end], 3, 1000);
                assert!(cut.is_err(), "{coding} of {end} bytes");
            }
            let mut more = body.clone();
            more.push(b'x');
            assert!(decode(coding, &more, 10_000, 1000).is_err(), "{coding}");
            assert!(decode(coding, &more, 1, 1000).is_err(), "{coding}");
        }
        assert_eq!(
            decode("gzip", &[gzip(TEXT), gzip(TEXT)].concat(), 10, 1000),
            Err(CodingError::Trailing)
        );
        assert_eq!(
            decode("zstd", &[zstandard(TEXT), zstandard(TEXT)].concat(), 10, 1000).unwrap(),
            [TEXT, TEXT].concat()
        );
    }

    #[test]
    fn nothing_comes_to_more_than_it_may() {
        let zeros = vec![0; 8 << 20];
        for (coding, body) in [
            ("gzip", gzip(&zeros)),
            ("deflate", deflate(&zeros)),
            ("zstd", zstandard(&zeros)),
        ] {
            assert_eq!(
                decode(coding, &body, 512, 4096),
                Err(CodingError::TooLarge(4096)),
                "{coding}"
            );
            assert_eq!(
                decode(coding, &body, 512, usize::MAX),
                Err(CodingError::Bomb),
                "{coding}"
            );
        }
        assert_eq!(
            decode("gzip", &gzip(&zeros[..FREE_BYTES]), 512, FREE_BYTES)
                .unwrap()
                .len(),
            FREE_BYTES
        );
    }

    #[test]
    fn a_wide_window_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(TEXT).unwrap();
        let body = encoder.finish().unwrap();
        assert_eq!(decode("zstd", &body, 1000, 1000), Err(CodingError::Corrupt));
    }

    #[test]
    fn other_codings_are_unknown() {
        for coding in ["", "identity", "compress", "gzip, gzip", "gzip;q=1"] {
            assert_eq!(Decoder::new(coding, 1).unwrap_err(), CodingError::Unknown, "{coding}");
        }
    }
}
