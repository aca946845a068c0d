//! However a chunked body is cut, its end is the same, and nothing behind the end is looked at.
#![no_main]

use budgateway_core::chunk::ChunkScanner;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (step, body) = input;
    let whole = ChunkScanner::new().feed(body);
    let mut scanner = ChunkScanner::new();
    let mut cut = Ok(None);
    let mut at = 0;
    for piece in body.chunks(usize::from(step).max(1)) {
        cut = scanner.feed(piece).map(|end| end.map(|end| at + end));
        if cut != Ok(None) {
            break;
        }
        at += piece.len();
    }
    assert_eq!(whole, cut);
    if let Ok(Some(end)) = whole {
        assert_eq!(ChunkScanner::new().feed(&body[..end]), Ok(Some(end)));
        assert_eq!(ChunkScanner::new().feed(&body[..end - 1]), Ok(None));
    }
});
