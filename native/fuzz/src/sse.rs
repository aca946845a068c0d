//! However a response is cut, what is seen in it, what is renamed in it and what leaves of it are the same.

use budgateway_core::pump::Pump;
use budgateway_core::sse::{First, MAX_EVENT_BYTES, ModelRewriter, Usage, UsageScanner, usage_of_document};

use crate::document::read;
use crate::{Dice, cut};

/// It takes an escape.
const NAME: &str = "n\"ame";

/// As the first line says.
pub fn check(response: &[u8]) {
    let mut dice = Dice::of(response);
    for sse in [true, false] {
        let whole = Looked::at(sse, &[response]);
        for way in cut::ways(response, &mut dice) {
            assert_eq!(Looked::at(sse, &way), whole);
        }
        let Looked {
            seen,
            through,
            renamed,
            kept,
            kept_renamed,
            ..
        } = whole;
        // Nothing is lost, and what was renamed once is not renamed again.
        assert_eq!(through, response);
        assert_eq!(rename(sse, &[&renamed]), renamed);
        // What has lost its usage has none to cut out.
        let again = &mut Pump::new(false, false, Some(UsageScanner::cutting_usage(sse)), None);
        assert_eq!(pump(again, &[&kept]), kept);
        assert_eq!(rename(sse, &[&kept]), kept_renamed);
        match (sse, response.len() <= MAX_EVENT_BYTES) {
            (true, true) => assert_eq!(seen.events, events(response)),
            (true, false) => {}
            (false, _) => document(response, &seen),
        }
    }
}

/// The facts seen in a response, and the bytes that came out.
#[derive(Debug, PartialEq, Eq)]
struct Looked {
    seen: Seen,
    /// Of whole events, as they leave.
    through: Vec<u8>,
    renamed: Vec<u8>,
    /// Without the usage.
    kept: Vec<u8>,
    /// Both.
    kept_renamed: Vec<u8>,
    /// By those who cut the usage out.
    first: [First; 2],
}

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    events: usize,
    usage: Option<Usage>,
    first: First,
    /// The end, that of a choice, an error, the usage of all before.
    signs: [bool; 4],
    is_between: bool,
}

impl Looked {
    fn at(sse: bool, pieces: &[&[u8]]) -> Self {
        let mut scanner = UsageScanner::new(sse);
        let events = pieces.iter().map(|piece| scanner.feed(piece)).sum();
        assert_eq!(scanner.events(), events as u64);
        let seen = Seen::by(&scanner, events);

        let (mut second, mut through) = (UsageScanner::new(sse), Vec::new());
        for piece in pieces {
            let size = second.feed_through(piece, &mut through);
            through.extend_from_slice(&piece[..size]);
        }
        assert_eq!(Seen::by(&second, events), seen);
        through.extend(second.finish());

        let [mut cutting, mut both] = [None, Some(ModelRewriter::new(sse, NAME))]
            .map(|rewriter| Pump::new(false, false, Some(UsageScanner::cutting_usage(sse)), rewriter));
        let kept = pump(&mut cutting, pieces);
        let kept_renamed = pump(&mut both, pieces);
        for pump in [&cutting, &both] {
            seen.is_of(pump);
        }
        let first = [cutting.first(), both.first()];
        Self {
            renamed: rename(sse, pieces),
            seen,
            through,
            kept,
            kept_renamed,
            first,
        }
    }
}

impl Seen {
    /// A pump sees what its scanner sees.
    fn is_of(&self, pump: &Pump) {
        let [done, finished, error, settled] = self.signs;
        assert_eq!(
            (pump.usage(), pump.is_done(), pump.has_error()),
            (self.usage, done, error)
        );
        assert_eq!((pump.is_whole(), pump.is_settled()), (done || finished, settled));
        assert_eq!(pump.events(), self.events as u64);
    }

    fn by(scanner: &UsageScanner, events: usize) -> Self {
        Self {
            events,
            usage: scanner.usage(),
            first: scanner.first(),
            signs: [
                scanner.done(),
                scanner.finished(),
                scanner.error(),
                scanner.is_settled(),
            ],
            is_between: scanner.is_between_events(),
        }
    }
}

fn rename(sse: bool, pieces: &[&[u8]]) -> Vec<u8> {
    let (mut rewriter, mut out) = (ModelRewriter::new(sse, NAME), Vec::new());
    for piece in pieces {
        out.extend_from_slice(rewriter.feed(piece));
    }
    out.extend(rewriter.finish());
    out
}

/// The output of a pump.
fn pump(pump: &mut Pump, pieces: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in pieces {
        let fed = pump.feed(piece);
        let at = out.len();
        out.resize(at + fed.framed_size(), 0);
        fed.write(piece, &mut out[at..]);
    }
    out.extend(pump.finish());
    assert_eq!(pump.passed(), out.len() as u64);
    out
}

/// WHATWG's event stream, line by line: how many events with data are complete.
fn events(mut stream: &[u8]) -> usize {
    stream = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    let (mut events, mut has_data) = (0, false);
    while let Some(end) = stream.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        let line = &stream[..end];
        has_data |= line == b"data" || line.starts_with(b"data:");
        if line.is_empty() {
            events += usize::from(std::mem::take(&mut has_data));
        }
        let end = end + if stream[end..].starts_with(b"\r\n") { 2 } else { 1 };
        stream = &stream[end..];
    }
    events
}

/// Of a document, the quick way to its usage finds what the scanner finds.
fn document(response: &[u8], seen: &Seen) {
    let Some(value) = read(response) else { return };
    let Some(members) = value.members() else { return };
    assert!(seen.signs[0]);
    let names = members.iter().map(|member| member.key.as_str());
    let is_twice = |(at, name): (usize, &str)| members[..at].iter().any(|member| member.key == name);
    if !names.enumerate().any(is_twice) {
        assert_eq!(usage_of_document(response), seen.usage);
    }
    let has_error = members
        .iter()
        .any(|member| member.key == "error" && &response[member.value.at.clone()] != b"null");
    assert_eq!(seen.signs[2], has_error);
}
