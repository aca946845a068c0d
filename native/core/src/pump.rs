//! The pump: moves a response body from the upstream's framing into the client's, and scans, renames and redacts it on
//! the way.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::chunk::{ChunkError, ChunkScanner};
use crate::redact::{Redaction, Redactor};
use crate::sse::{First, ModelRewriter, Usage, UsageScanner, remaining};

/// The end of a chunked body; trailers are never sent.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The pump of one response's body. A scanned event stream is forwarded in complete events only, so that an event of
/// our own can follow wherever it breaks off; events that the scanner cuts out are not forwarded. Memory is bounded by
/// the bytes that its scanner and rewriter hold back.
pub struct Pump {
    unframe: Option<ChunkScanner>,
    frame: bool,
    scanner: Option<UsageScanner>,
    rewriter: Option<ModelRewriter>,
    redactor: Option<Arc<Redactor>>,
    redaction: Redaction,
    /// True when everything is redacted; in an event stream that starts at the first error, or at an event too long to
    /// be held.
    redacts: bool,
    passed: u64,
}

/// The result of one read.
pub struct Fed {
    /// The end of the body in the bytes fed, when its chunked framing ends there.
    pub end: Option<usize>,
    /// The error in the chunked framing; the output precedes it. Final, as the scanner's is.
    pub fault: Option<ChunkError>,
    /// The output, without framing.
    out: Out,
    frame: bool,
}

enum Out {
    Spans(SmallVec<[(usize, usize); 8]>),
    Text(Vec<u8>),
}

impl Pump {
    /// `unframe`: the upstream's body is chunked; `frame`: the client's must be.
    pub fn new(unframe: bool, frame: bool, scanner: Option<UsageScanner>, rewriter: Option<ModelRewriter>) -> Self {
        Self {
            unframe: unframe.then(ChunkScanner::new),
            frame,
            scanner,
            rewriter,
            redactor: None,
            redaction: Redaction::default(),
            redacts: false,
            passed: 0,
        }
    }

    /// Adds a redactor, for everything or only for the errors of an event stream.
    pub fn redacting(mut self, redactor: Arc<Redactor>, only_errors: bool) -> Self {
        self.redactor = Some(redactor);
        self.redacts = !only_errors;
        self
    }

    /// Processes the next bytes of the body, however they are cut.
    pub fn feed(&mut self, bytes: &[u8]) -> Fed {
        let mut spans = SmallVec::new();
        let framing = match &mut self.unframe {
            Some(scanner) => scanner.feed_with(bytes, |from, to| spans.push((from, to))),
            None => {
                spans.push((0, bytes.len()));
                Ok(None)
            }
        };
        let out = match (&mut self.scanner, &mut self.rewriter) {
            (None, None) => Out::Spans(spans),
            (Some(scanner), None) => through(scanner, bytes, spans),
            (scanner, Some(rewriter)) => {
                let mut text = Vec::new();
                for &(from, to) in &spans {
                    let piece = &bytes[from..to];
                    // The rewriter holds back unfinished events itself.
                    text.extend_from_slice(match scanner {
                        Some(scanner) => {
                            scanner.feed(piece);
                            rewriter.feed_without(piece, scanner.cuts())
                        }
                        None => rewriter.feed(piece),
                    });
                }
                Out::Text(text)
            }
        };
        let out = self.redact(bytes, out);
        let fed = Fed {
            end: framing.unwrap_or(None),
            fault: framing.err(),
            out,
            frame: self.frame,
        };
        self.passed += fed.size() as u64;
        fed
    }

    /// Redacts secrets in the output.
    fn redact(&mut self, bytes: &[u8], out: Out) -> Out {
        let Some(redactor) = &self.redactor else { return out };
        if !self.redacts {
            let is_quiet =
                |scanner: &UsageScanner| !scanner.may_tell() && (scanner.is_document() || scanner.is_between_events());
            if self.scanner.as_ref().is_none_or(is_quiet) {
                return out;
            }
            self.redacts = true;
        }
        let text = match &out {
            Out::Text(text) => self.redaction.feed(redactor, text),
            Out::Spans(spans) => match spans.as_slice() {
                &[(from, to)] if self.redaction.is_clean(redactor, &bytes[from..to]) => return out,
                spans => {
                    let whole: Vec<u8> = spans.iter().flat_map(|&(from, to)| &bytes[from..to]).copied().collect();
                    self.redaction.feed(redactor, &whole)
                }
            },
        };
        Out::Text(text)
    }

    /// The rest of the output, once the upstream's body is complete: the bytes held back, and the last chunk.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut held = match (&mut self.rewriter, &mut self.scanner) {
            (Some(rewriter), _) => rewriter.finish(),
            (None, Some(scanner)) => scanner.finish(),
            (None, None) => Vec::new(),
        };
        if let Some(redactor) = &self.redactor {
            // An unterminated event was not scanned, so it is redacted.
            held = self.redaction.feed(redactor, &held);
            held.extend(self.redaction.finish());
        }
        self.passed += held.len() as u64;
        if self.frame {
            if !held.is_empty() {
                out.extend_from_slice(format!("{:x}\r\n", held.len()).as_bytes());
                out.extend_from_slice(&held);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(LAST_CHUNK);
        } else {
            out = held;
        }
        out
    }

    /// Bytes of body sent so far, without framing.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// True when the output ends with a complete event, so that another may be inserted. Always false without an event
    /// stream, and inside an event that is too long to be held.
    pub fn is_between_events(&self) -> bool {
        self.scanner.as_ref().is_some_and(UsageScanner::is_between_events)
    }

    /// The class of the stream's first event; `Nothing` when no stream is scanned.
    pub fn first(&self) -> First {
        self.scanner.as_ref().map(UsageScanner::first).unwrap_or_default()
    }

    /// True when the stream is marked as complete: by a terminator, or by the end of each choice that began.
    pub fn is_whole(&self) -> bool {
        let scanner = self.scanner.as_ref();
        scanner.is_some_and(|scanner| scanner.done() || scanner.finished())
    }

    /// True when an event of the stream carried content.
    pub fn has_content(&self) -> bool {
        self.scanner.as_ref().is_some_and(UsageScanner::has_content)
    }

    /// True when an error event was seen.
    pub fn has_error(&self) -> bool {
        self.scanner.as_ref().is_some_and(UsageScanner::error)
    }

    /// True when the stream has reported the usage of everything before.
    pub fn is_settled(&self) -> bool {
        self.scanner.as_ref().is_some_and(UsageScanner::is_settled)
    }

    /// The number of events that passed; 0 when no event stream is scanned.
    pub fn events(&self) -> u64 {
        self.scanner.as_ref().map_or(0, UsageScanner::events)
    }

    /// True when the end was seen: a terminator, or a document's last byte.
    pub fn is_done(&self) -> bool {
        self.scanner.as_ref().is_some_and(UsageScanner::done)
    }

    /// True when a JSON document is scanned.
    pub fn is_document(&self) -> bool {
        self.scanner.as_ref().is_some_and(UsageScanner::is_document)
    }

    /// The usage that the scanner found.
    pub fn usage(&self) -> Option<Usage> {
        self.scanner.as_ref().and_then(UsageScanner::usage)
    }
}

impl Fed {
    /// The number of body bytes in the output.
    pub fn size(&self) -> usize {
        match &self.out {
            Out::Spans(spans) => spans.iter().map(|(from, to)| to - from).sum(),
            Out::Text(text) => text.len(),
        }
    }

    /// The number of bytes in the output, framing included.
    pub fn framed_size(&self) -> usize {
        match self.size() {
            0 => 0,
            size if self.frame => size + hex_digits(size) + 4,
            size => size,
        }
    }

    /// True when the output equals `bytes`.
    pub fn is_verbatim(&self, bytes: &[u8]) -> bool {
        !self.frame
            && matches!(&self.out, Out::Spans(spans) if matches!(spans.as_slice(), [(0, to)] if *to == bytes.len()))
    }

    /// Writes the output; `into` has `framed_size` bytes, and `bytes` are the ones that were fed.
    pub fn write(&self, bytes: &[u8], into: &mut [u8]) {
        let mut at = 0;
        let mut put = |piece: &[u8]| {
            into[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        };
        let size = self.size();
        if size == 0 {
            return;
        }
        if self.frame {
            let digits = hex_digits(size);
            let mut text = [0; 16];
            for (place, digit) in text[..digits].iter_mut().rev().enumerate() {
                *digit = b"0123456789abcdef"[(size >> (4 * place)) & 15];
            }
            put(&text[..digits]);
            put(b"\r\n");
        }
        match &self.out {
            Out::Spans(spans) => spans.iter().for_each(|&(from, to)| put(&bytes[from..to])),
            Out::Text(text) => put(text),
        }
        if self.frame {
            put(b"\r\n");
        }
    }
}

/// The scanner's output: spans of the bytes, unless something was carried over from an earlier read or chunk, or is cut
/// out.
fn through(scanner: &mut UsageScanner, bytes: &[u8], mut spans: SmallVec<[(usize, usize); 8]>) -> Out {
    let mut text = Vec::new();
    let mut carried = false;
    for at in 0..spans.len() {
        let (from, to) = spans[at];
        let mut freed = Vec::new();
        let to = from + scanner.feed_through(&bytes[from..to], &mut freed);
        let cuts = scanner.cuts();
        let is_verbatim = freed.is_empty() && cuts.is_empty();
        if !carried && !is_verbatim {
            carried = true;
            spans[..at]
                .iter()
                .for_each(|&(from, to)| text.extend_from_slice(&bytes[from..to]));
        }
        if carried && cuts.is_empty() {
            text.append(&mut freed);
            text.extend_from_slice(&bytes[from..to]);
        } else if carried {
            remaining(&freed, 0, cuts, |piece| text.extend_from_slice(piece));
            remaining(&bytes[from..to], freed.len(), cuts, |piece| {
                text.extend_from_slice(piece)
            });
        }
        spans[at] = (from, to);
    }
    if carried { Out::Text(text) } else { Out::Spans(spans) }
}

/// The number of hexadecimal digits of a size above zero.
fn hex_digits(size: usize) -> usize {
    (usize::BITS - size.leading_zeros()).div_ceil(4) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pumped(pump: &mut Pump, bytes: &[u8]) -> (Vec<u8>, Option<usize>) {
        let fed = pump.feed(bytes);
        let mut out = vec![0; fed.framed_size()];
        fed.write(bytes, &mut out);
        (out, fed.end)
    }

    #[test]
    fn chunks_of_one_read_leave_as_one() {
        let mut pump = Pump::new(true, true, None, None);
        let (out, end) = pumped(&mut pump, b"2;x=1\r\nab\r\n10\r\n0123456789abcdef\r\n");
        assert_eq!((out.as_slice(), end), (&b"12\r\nab0123456789abcdef\r\n"[..], None));
        assert_eq!(pumped(&mut pump, b"0\r\na: b\r\n\r\nrest"), (Vec::new(), Some(11)));
        assert_eq!(pump.finish(), b"0\r\n\r\n");
        assert_eq!(pump.passed(), 18);
    }

    #[test]
    fn framing_is_the_clients_whatever_the_cut() {
        let wire = b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n";
        for cut in 1..wire.len() {
            let mut pump = Pump::new(true, false, None, None);
            let mut out = Vec::new();
            for piece in wire.chunks(cut) {
                out.extend(pumped(&mut pump, piece).0);
            }
            assert_eq!(out, b"hello!");
            assert_eq!(pump.finish(), b"");
        }
    }

    #[test]
    fn what_needs_no_framing_passes_as_it_came() {
        let mut pump = Pump::new(false, false, None, None);
        assert!(pump.feed(b"abc").is_verbatim(b"abc"));
        let mut pump = Pump::new(false, true, None, None);
        assert!(!pump.feed(b"abc").is_verbatim(b"abc"));
        assert_eq!(pumped(&mut pump, &[b'x'; 256]).0[..5], *b"100\r\n");
    }

    #[test]
    fn only_whole_events_leave_and_nothing_is_lost() {
        let events = b": hi\n\nevent: a\ndata: {\"x\":1}\n\nid: 7\r\ndata: b\r\n\r\n: ping\n\ndata: [DONE]\n\n";
        for cut in 1..=events.len() {
            for step in [1, 2, 5, 1000] {
                let wire: Vec<u8> = events
                    .chunks(cut)
                    .flat_map(|piece| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat())
                    .chain(*b"0\r\n\r\n")
                    .collect();
                let mut pump = Pump::new(true, false, Some(UsageScanner::new(true)), None);
                let mut out = Vec::new();
                for piece in wire.chunks(step) {
                    out.extend(pumped(&mut pump, piece).0);
                    let tail = out
                        .split_inclusive(|&byte| byte == b'\n')
                        .next_back()
                        .unwrap_or_default();
                    assert!(
                        out.ends_with(b"\n\n")
                            || out.ends_with(b"\n\r\n")
                            || tail.starts_with(b":")
                            || out.is_empty()
                            || out.ends_with(b"\r"),
                        "{}",
                        String::from_utf8_lossy(&out)
                    );
                }
                out.extend(pump.finish());
                assert_eq!(out, events);
                assert_eq!(pump.passed(), events.len() as u64);
                assert_eq!((pump.first(), pump.is_whole()), (First::Event, true));
            }
        }
    }

    #[test]
    fn the_usage_that_is_kept_is_read_and_goes_no_further() {
        let first = "data: {\"choices\":[],\"prompt_filter_results\":[],\"usage\":null}\n\n: c\n\n";
        let text = "data: {\"model\":\"m\",\"choices\":[{\"text\":\"x\"}],\"usage\":{\"prompt_tokens\":1}}\r\n\r\n";
        let usage =
            "event: x\ndata: {\"usage\" : {\"prompt_tokens\":3,\"completion_tokens\":4},\ndata: \"choices\": [ ]}";
        for end in ["\n\n", "\r\n\r\n", "\r\r", "\n\r\n"] {
            let (events, left) = (
                [first, text, usage, end, usage, end, "data: [DONE]\n\n"].concat(),
                [first, text, "data: [DONE]\n\n"].concat(),
            );
            for cut in 1..=events.len() {
                let wire: Vec<u8> = events
                    .as_bytes()
                    .chunks(cut)
                    .flat_map(|piece| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat())
                    .chain(*b"0\r\n\r\n")
                    .collect();
                for (step, name) in [
                    (1, None),
                    (7, Some("n")),
                    (1000, None),
                    (1, Some("n")),
                    (1000, Some("n")),
                ] {
                    let rewriter = name.map(|name| ModelRewriter::new(true, name));
                    let mut pump = Pump::new(true, false, Some(UsageScanner::cutting_usage(true)), rewriter);
                    let mut out = Vec::new();
                    for piece in wire.chunks(step) {
                        out.extend(pumped(&mut pump, piece).0);
                    }
                    out.extend(pump.finish());
                    let left = left.replace("\"m\"", if name.is_some() { "\"n\"" } else { "\"m\"" });
                    assert_eq!(String::from_utf8_lossy(&out), left);
                    assert_eq!(pump.passed(), left.len() as u64);
                    let usage = pump.usage().map(|usage| (usage.tokens_in, usage.tokens_out));
                    assert_eq!((usage, pump.is_done(), pump.events()), (Some((3, 4)), true, 5));
                }
            }
        }
    }

    #[test]
    fn what_is_not_just_the_usage_leaves() {
        for data in [
            r#"{"choices":[],"usage":null}"#,
            r#"{"choices":[],"usage":[]}"#,
            r#"{"choices":[]}"#,
            r#"{"choices":{},"usage":{"prompt_tokens":1}}"#,
            r#"{"choices":null,"usage":{"prompt_tokens":1}}"#,
            r#"{"usage":{"prompt_tokens":1}}"#,
            r#"{"choices":[{}],"usage":{"prompt_tokens":1}}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":1},"error":{"message":"m"}}"#,
            r#"{"choices":[],"choices":[],"usage":{"prompt_tokens":1}}"#,
            r#"{"x":{"choices":[],"usage":{"prompt_tokens":1}}}"#,
            r#"[{"choices":[],"usage":{"prompt_tokens":1}}]"#,
        ] {
            let stream = format!("data: {data}\n\n");
            let mut pump = Pump::new(false, false, Some(UsageScanner::cutting_usage(true)), None);
            assert_eq!(pumped(&mut pump, stream.as_bytes()).0, stream.as_bytes(), "{data}");
        }
        // Nothing is cut out of a document either, nor out of an error.
        let stream = b"event: error\ndata: {\"choices\":[],\"usage\":{}}\n\n";
        let mut pump = Pump::new(false, false, Some(UsageScanner::cutting_usage(true)), None);
        assert_eq!(pumped(&mut pump, stream).0, stream);
        let document = br#"{"choices":[],"usage":{"prompt_tokens":1}}"#;
        let mut pump = Pump::new(false, false, Some(UsageScanner::cutting_usage(false)), None);
        assert_eq!(pumped(&mut pump, document).0, document);
        assert_eq!(pump.usage().map(|usage| usage.tokens_in), Some(1));
    }

    #[test]
    fn what_is_kept_is_no_beginning_and_settles_what_came_before() {
        let usage = b"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\n";
        let text = b"data: {\"choices\":[{}]}\n\n";
        let mut pump = Pump::new(false, false, Some(UsageScanner::cutting_usage(true)), None);
        assert_eq!(pumped(&mut pump, usage).0, b"");
        assert_eq!((pump.first(), pump.is_settled()), (First::Nothing, true));
        assert_eq!(pumped(&mut pump, text).0, text);
        assert_eq!((pump.first(), pump.is_settled()), (First::Promise, false));
        pumped(&mut pump, usage);
        pumped(&mut pump, b": c\n\ndata: [DONE]\n\n");
        assert!(pump.is_settled());
    }

    #[test]
    fn what_is_cut_inside_an_event_stays_here() {
        let mut pump = Pump::new(false, true, Some(UsageScanner::new(true)), None);
        let whole = b"data: {\"a\":1}\n\n";
        assert_eq!(
            pumped(&mut pump, &[&whole[..], b"event: x\nda"].concat()).0,
            b"f\r\ndata: {\"a\":1}\n\n\r\n"
        );
        assert!(pump.is_between_events() && !pump.is_whole());
        assert_eq!(pumped(&mut pump, b"ta: y").0, b"");
        assert_eq!(pump.passed(), whole.len() as u64);
    }

    #[test]
    fn what_came_before_broken_framing_leaves_whatever_the_cut() {
        let wire = b"f\r\ndata: {\"a\":1}\n\n\r\n13\r\ndata: {\"b\":1}\n\ndata\r\nzz\r\ndata: c\n\n";
        for cut in 1..=wire.len() {
            let mut pump = Pump::new(true, false, Some(UsageScanner::new(true)), None);
            let mut out = Vec::new();
            let mut fault = None;
            for piece in wire.chunks(cut) {
                let fed = pump.feed(piece);
                assert!(fault.is_none() || (fed.fault == fault && fed.size() == 0));
                fault = fed.fault;
                let at = out.len();
                out.resize(at + fed.framed_size(), 0);
                fed.write(piece, &mut out[at..]);
            }
            assert_eq!(fault, Some(ChunkError::Size));
            assert_eq!(out, b"data: {\"a\":1}\n\ndata: {\"b\":1}\n\n");
        }
    }

    #[test]
    fn a_secret_in_an_error_stays_here_whatever_the_cut() {
        let key = "sk-0123456789abcdef";
        let redactor = Arc::new(Redactor::new([key]));
        let stars = "*".repeat(key.len());
        let long = "x".repeat(crate::sse::MAX_EVENT_BYTES);
        let text = String::from("data: {\"choices\":[{\"delta\":{\"content\":\"sk-0123\"}}]}\n\n");
        for (error, scan, only_errors) in [
            (
                format!("{{\"error\":{{\"message\":\"no {key}{key}\"}}}}"),
                Some(false),
                false,
            ),
            (format!("<html>{key}</html>"), None, false),
            (
                format!("data: {{\"error\":{{\"message\":\"{key}\"}}}}\n\n"),
                Some(true),
                true,
            ),
            (format!("event: error\ndata: {key}\n\ndata: {key}"), Some(true), true),
            (format!("data: no JSON: {key}\n\n"), Some(true), true),
            (format!("data: {{\"error\":\"\"{key}\"}}\n\n"), Some(true), true),
            (
                format!("data: {{\"x\":\"{long}{key}\",\"error\":1}}\n\n"),
                Some(true),
                true,
            ),
        ] {
            let sent = if scan == Some(true) {
                format!("{text}{error}")
            } else {
                error.clone()
            };
            let expected = sent.replace(&error, &error.replace(key, &stars));
            for cut in [1, 2, 5, 17, 4096, sent.len()] {
                if sent.len() > 10_000 && cut != 4096 {
                    continue;
                }
                let wire: Vec<u8> = sent
                    .as_bytes()
                    .chunks(cut)
                    .flat_map(|piece| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat())
                    .chain(*b"0\r\n\r\n")
                    .collect();
                for step in [1, 7, 5000, wire.len()] {
                    if wire.len() > 10_000 && step < 5000 {
                        continue;
                    }
                    let scanner = scan.map(UsageScanner::new);
                    let mut pump = Pump::new(true, false, scanner, None).redacting(redactor.clone(), only_errors);
                    let mut out = Vec::new();
                    for piece in wire.chunks(step) {
                        out.extend(pumped(&mut pump, piece).0);
                    }
                    out.extend(pump.finish());
                    assert!(out == expected.as_bytes(), "{scan:?} {cut} {step}");
                    assert_eq!(pump.passed(), sent.len() as u64);
                }
            }
        }
    }

    #[test]
    fn a_size_has_as_many_digits_as_it_needs() {
        for (size, digits) in [(1, 1), (15, 1), (16, 2), (255, 2), (256, 3), (65_536, 5)] {
            assert_eq!(hex_digits(size), digits);
            assert_eq!(format!("{size:x}").len(), digits);
        }
    }
}
