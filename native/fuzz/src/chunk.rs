//! However a chunked body is cut, its bytes, its end and what is wrong with it are those that a slow reader finds.

use budgateway_core::chunk::{ChunkError, ChunkScanner, MAX_EXTENSION, MAX_EXTENSIONS, MAX_SIZE_DIGITS, MAX_TRAILERS};
use budgateway_core::pump::Pump;

use crate::slow::{is_text, is_token, line};
use crate::{Dice, cut};

/// As the first line says.
pub fn check(wire: &[u8]) {
    let mut dice = Dice::of(wire);
    let whole = follow(&[wire]);
    for way in cut::ways(wire, &mut dice) {
        assert_eq!(follow(&way), whole);
        pump(&way, &whole);
    }
    let (verdict, body) = whole;
    let end = verdict.unwrap_or_default();
    match slow(wire) {
        Some((slow_end, slow_body)) => assert_eq!((end, body), (Some(slow_end), slow_body)),
        None => assert_eq!(end, None),
    }
    // Nothing behind the end is looked at, and no byte before it is too many.
    if let Some(end) = end {
        assert_eq!(follow(&[&wire[..end]]).0, Ok(Some(end)));
        assert_eq!(follow(&[&wire[..end - 1]]).0, Ok(None));
        assert_eq!(follow(&[&wire[..end], b"0\r\n\r\n"]).0, Ok(Some(end)));
    }
}

type Followed = (Result<Option<usize>, ChunkError>, Vec<u8>);

/// The scanner's result for the pieces, and the body that it finds.
fn follow(pieces: &[&[u8]]) -> Followed {
    let (mut scanner, mut body, mut before) = (ChunkScanner::new(), Vec::new(), 0);
    let mut verdict = Ok(None);
    for piece in pieces {
        let found = scanner.feed_with(piece, |from, to| body.extend_from_slice(&piece[from..to]));
        verdict = match verdict {
            Ok(None) => found.map(|end| end.map(|end| before + end)),
            // Either is final.
            Ok(Some(_)) => {
                assert_eq!(found, Ok(Some(0)));
                verdict
            }
            Err(_) => {
                assert_eq!(found, verdict);
                verdict
            }
        };
        assert_eq!(scanner.is_done(), matches!(verdict, Ok(Some(_))));
        before += piece.len();
    }
    (verdict, body)
}

/// Checks that the pump's new framing holds the same body, and a whole message if the input was one.
fn pump(pieces: &[&[u8]], whole: &Followed) {
    let (mut pump, mut out) = (Pump::new(true, true, None, None), Vec::new());
    let mut fault = None;
    for piece in pieces {
        let fed = pump.feed(piece);
        let at = out.len();
        out.resize(at + fed.framed_size(), 0);
        fed.write(piece, &mut out[at..]);
        fault = fault.or(fed.fault);
    }
    assert_eq!(fault, whole.0.err());
    out.extend(pump.finish());
    assert_eq!(pump.passed(), whole.1.len() as u64);
    assert_eq!(follow(&[&out]), (Ok(Some(out.len())), whole.1.clone()));
}

/// RFC 9112 7.1 with our limits, a line at a time: the end and the body of a message that is whole and well formed.
fn slow(wire: &[u8]) -> Option<(usize, Vec<u8>)> {
    let (mut at, mut body, mut extensions) = (0, Vec::new(), 0);
    loop {
        let head = line(wire, at)?;
        let digits = head.split(|byte| *byte == b';').next()?;
        let extension = &head[digits.len()..];
        extensions += extension.len();
        let is_small = extension.len() <= MAX_EXTENSION as usize && extensions <= MAX_EXTENSIONS as usize;
        let is_size = (1..=usize::from(MAX_SIZE_DIGITS)).contains(&digits.len());
        if !is_small || !is_size || !digits.iter().all(u8::is_ascii_hexdigit) || !is_text(extension) {
            return None;
        }
        let size = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        at += head.len() + 2;
        if size == 0 {
            break;
        }
        let end = at.checked_add(usize::try_from(size).ok()?)?;
        body.extend_from_slice(wire.get(at..end)?);
        if wire.get(end..end.checked_add(2)?)? != b"\r\n" {
            return None;
        }
        at = end + 2;
    }
    let trailers = at;
    loop {
        let trailer = line(wire, at)?;
        at += trailer.len() + 2;
        if trailer.is_empty() {
            let is_small = at - 2 - trailers <= MAX_TRAILERS as usize;
            return is_small.then_some((at, body));
        }
        let colon = trailer.iter().position(|byte| *byte == b':')?;
        let (name, value) = trailer.split_at(colon);
        let forbidden = [
            "authorization",
            "connection",
            "content-length",
            "cookie",
            "host",
            "transfer-encoding",
        ];
        let is_forbidden = forbidden
            .iter()
            .any(|other| name.eq_ignore_ascii_case(other.as_bytes()));
        if !is_token(name) || is_forbidden || !is_text(value) {
            return None;
        }
    }
}
