//! The data rewriter: replaces the data of events as they pass.

use super::events::{Event, Events, KEPT_BYTES, Sink};

/// Replaces the data of a stream's events. Events too long to be held pass unchanged.
pub struct DataRewriter {
    events: Events,
    out: Vec<u8>,
}

impl Default for DataRewriter {
    fn default() -> Self {
        Self::new()
    }
}

impl DataRewriter {
    /// A rewriter for one stream.
    pub fn new() -> Self {
        Self {
            events: Events::new(),
            out: Vec::new(),
        }
    }

    /// Processes the next bytes; returns those that may be sent. `edit` returns an event's new data, or `None` to let the
    /// event pass as it is.
    pub fn feed(&mut self, bytes: &[u8], edit: impl Fn(&[u8]) -> Option<Vec<u8>>) -> &[u8] {
        let Self { events, out } = self;
        out.clear();
        out.shrink_to(KEPT_BYTES);
        events.feed(bytes, &mut Edited { out, edit });
        out
    }

    /// The bytes still held, unchanged.
    pub fn finish(&mut self) -> Vec<u8> {
        self.events.finish()
    }
}

struct Edited<'a, F> {
    out: &'a mut Vec<u8>,
    edit: F,
}

impl<F: Fn(&[u8]) -> Option<Vec<u8>>> Sink for Edited<'_, F> {
    fn pass(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn event(&mut self, event: Event<'_>) {
        let mut scratch = Vec::new();
        let Some(data) = (self.edit)(event.data(&mut scratch)) else {
            self.out.extend_from_slice(event.raw);
            return;
        };
        // All data is written in place of the first line; line ends are only white space in it.
        let mut at = 0;
        for (number, &(start, end)) in event.lines.iter().enumerate() {
            self.out.extend_from_slice(event.raw.get(at..start).unwrap_or_default());
            if number == 0 {
                self.out.extend(
                    data.iter()
                        .map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }),
                );
            }
            at = end;
        }
        self.out.extend_from_slice(event.raw.get(at..).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(stream: &str) -> String {
        let edit = |data: &[u8]| data.starts_with(b"{").then(|| data.to_ascii_uppercase());
        let results = [1, 2, 5, stream.len().max(1)].map(|size| {
            let mut rewriter = DataRewriter::new();
            let mut out = Vec::new();
            for chunk in stream.as_bytes().chunks(size) {
                out.extend_from_slice(rewriter.feed(chunk, edit));
            }
            out.extend(rewriter.finish());
            String::from_utf8(out).unwrap()
        });
        assert!(results.iter().all(|result| *result == results[0]));
        results[0].clone()
    }

    #[test]
    fn only_data_is_replaced() {
        assert_eq!(
            rewrite(": c\r\nevent: x\r\ndata: {\"a\":1}\r\nid: b\r\n\r\ndata: [done]\n\ndata: {b"),
            ": c\r\nevent: x\r\ndata: {\"A\":1}\r\nid: b\r\n\r\ndata: [done]\n\ndata: {b"
        );
    }

    #[test]
    fn data_of_several_lines_becomes_one_and_white_space() {
        assert_eq!(rewrite("data: {\ndata: \"a\":1}\n\n"), "data: { \"A\":1}\ndata: \n\n");
    }
}
