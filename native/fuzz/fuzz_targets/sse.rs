//! However a response is cut, the scanner says the same and the rewriter gives the same; the old name changes nothing.
#![no_main]

use budgateway_core::sse::{ModelRewriter, UsageScanner};
use libfuzzer_sys::fuzz_target;

type Outcome = (usize, Option<budgateway_core::sse::Usage>, bool, bool, Vec<u8>);

fn outcome<'a>(sse: bool, chunks: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let (mut scanner, mut rewriter) = (UsageScanner::new(sse), ModelRewriter::new(sse, "n\"ame"));
    let (mut events, mut out) = (0, Vec::new());
    for chunk in chunks {
        events += scanner.feed(chunk);
        out.extend_from_slice(rewriter.feed(chunk));
    }
    out.extend(rewriter.finish());
    (events, scanner.usage(), scanner.done(), scanner.error(), out)
}

fuzz_target!(|input: (bool, u8, &[u8])| {
    let (sse, size, stream) = input;
    let whole = outcome(sse, std::iter::once(stream));
    assert_eq!(whole, outcome(sse, stream.chunks(usize::from(size).max(1))));
    assert_eq!(whole, outcome(sse, stream.chunks(1)));
    // What was renamed once is not renamed again.
    assert_eq!(whole.4, outcome(sse, std::iter::once(&whole.4[..])).4);
});
