//! However frames are cut, the same bytes pass and the end is the same; what passes is a prefix, and following it again
//! passes all of it.
#![no_main]

use budgateway_core::frame::FrameScanner;
use libfuzzer_sys::fuzz_target;

fn run(masked: bool, compressed: bool, wire: &[u8], step: usize) -> (Vec<u8>, FrameScanner) {
    let mut scanner = FrameScanner::new(masked, compressed, 5000);
    let mut out = Vec::new();
    for piece in wire.chunks(step.max(1)) {
        let passed = scanner.feed(piece);
        out.extend_from_slice(scanner.carried(passed));
        out.extend_from_slice(&piece[..passed.end]);
    }
    (out, scanner)
}

fuzz_target!(|input: (bool, bool, u8, &[u8])| {
    let (masked, compressed, step, wire) = input;
    let (whole, first) = run(masked, compressed, wire, wire.len());
    let (cut, second) = run(masked, compressed, wire, usize::from(step));
    assert_eq!(whole, cut);
    assert_eq!((first.error(), first.close_code()), (second.error(), second.close_code()));
    assert!(wire.starts_with(&whole));
    let (again, third) = run(masked, compressed, &whole, usize::from(step));
    assert_eq!(again, whole);
    assert_eq!((third.error(), third.close_code()), (None, first.close_code()));
});
