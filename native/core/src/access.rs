//! The access log: a consumer of ended exchanges that formats each into a line, one JSON object, in a bounded buffer.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wide::{CmpGt, i8x16};

use crate::civil::timestamp;
use crate::decimal::{digits, three};
use crate::entry::{Charge, Consumer, Entry};
use crate::out::Out;
use crate::segment::{LABELS, LabelId, Segment};
use crate::simd::{all, equal, is_plain, special};

/// The longest line, and the most that a pipe takes atomically (PIPE_BUF on Linux, pipe(7)).
pub const LINE_BYTES: usize = 4096;

/// The texts of a line.
#[derive(Clone, Copy)]
struct Texts<'a> {
    request_id: &'a str,
    client: &'a str,
    principal: &'a str,
    tenant: &'a str,
    method: &'a [u8],
    /// As received; not necessarily UTF-8.
    path: &'a [u8],
    error: &'a str,
    upstream: &'a str,
    model: &'a str,
}

impl<'a> Texts<'a> {
    fn of(entry: &'a Entry<'_>) -> Self {
        Self {
            request_id: entry.request_id,
            client: entry.client,
            principal: entry.principal,
            tenant: entry.tenant,
            method: entry.method(),
            path: entry.path(),
            error: entry.error,
            upstream: entry.upstream,
            model: entry.model,
        }
    }

    /// The texts cut to `most` bytes each, counted after escaping.
    fn cut(&self, most: usize) -> Self {
        let text = |text: &'_ str| -> usize {
            let end = fitting(text.as_bytes(), most);
            (0..=end).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0)
        };
        Self {
            request_id: &self.request_id[..text(self.request_id)],
            client: &self.client[..text(self.client)],
            principal: &self.principal[..text(self.principal)],
            tenant: &self.tenant[..text(self.tenant)],
            method: &self.method[..fitting(self.method, most)],
            path: &self.path[..fitting(self.path, most)],
            error: &self.error[..text(self.error)],
            upstream: &self.upstream[..text(self.upstream)],
            model: &self.model[..text(self.model)],
        }
    }

    fn len(&self) -> usize {
        self.request_id.len()
            + self.client.len()
            + self.principal.len()
            + self.tenant.len()
            + self.method.len()
            + self.path.len()
            + self.error.len()
            + self.upstream.len()
            + self.model.len()
    }
}

/// A buffer of lines to be written out.
#[derive(Debug)]
pub struct AccessLog {
    segment: Arc<Segment>,
    capacity: usize,
    /// The lines are the first `used` bytes; the rest is capacity that was zeroed once.
    lines: Vec<u8>,
    used: usize,
    dropped: u64,
    /// The second of the last line's time, and that time as text.
    second: i64,
    time: [u8; 24],
    /// Labels as JSON strings; a label never changes once it has been assigned.
    labels: Box<[OnceLock<Box<[u8]>>]>,
}

/// Lines taken out of the buffer.
#[derive(Debug)]
pub struct Drained {
    lines: Vec<u8>,
    used: usize,
}

impl std::ops::Deref for Drained {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.lines.get(..self.used).unwrap_or_default()
    }
}

impl AccessLog {
    /// An empty buffer of at most `capacity` bytes, with the labels of `segment`.
    #[must_use]
    pub fn new(segment: Arc<Segment>, capacity: usize) -> Self {
        let labels = (0..LABELS).map(|_| OnceLock::new()).collect();
        Self {
            segment,
            capacity,
            lines: Vec::new(),
            used: 0,
            dropped: 0,
            second: i64::MIN,
            time: *b"YYYY-MM-DDThh:mm:ss.mmmZ",
            labels,
        }
    }

    /// Writes a line after the buffered ones, if it fits; returns its length.
    fn put(&mut self, texts: &Texts<'_>, entry: &Entry<'_>, charge: &Charge, is_cut: bool) -> usize {
        let mut lines = std::mem::take(&mut self.lines);
        let mut out = Out::new(lines.get_mut(self.used..).unwrap_or_default());
        self.write(&mut out, texts, entry, charge);
        out.put(if is_cut { b",\"cut\":true}\n" } else { b"}\n" });
        let left = out.room();
        let length = lines.len() - self.used - left;
        self.lines = lines;
        length
    }

    /// Writes the line with its texts cut until it fits.
    #[cold]
    fn put_cut(&mut self, texts: &Texts<'_>, entry: &Entry<'_>, charge: &Charge) -> usize {
        let mut most = LINE_BYTES / 2;
        loop {
            let length = self.put(&texts.cut(most), entry, charge, true);
            if length <= LINE_BYTES || most == 0 {
                return length;
            }
            most /= 2;
        }
    }

    /// Takes the buffered lines, all of them complete.
    #[must_use]
    pub fn drain(&mut self) -> Drained {
        Drained {
            lines: std::mem::take(&mut self.lines),
            used: std::mem::take(&mut self.used),
        }
    }

    /// Takes back the memory that `drain` gave away, so that the next lines need no allocation.
    pub fn recycle(&mut self, drained: Drained) {
        if self.lines.is_empty() {
            self.lines = drained.lines;
        }
    }

    /// The number of lines dropped because the buffer was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// An upper bound of the line's length.
    fn room(&self, texts: &Texts<'_>, entry: &Entry<'_>) -> usize {
        // A byte becomes at most six, as `\u001f`; member names and numbers take 700 bytes.
        1024 + entry.transforms.len() + 6 * texts.len() + self.kept(entry.route).len() + self.kept(entry.provider).len()
    }

    /// Writes the line but for its end. Empty texts, `OTHER` labels and unknown numbers are left out.
    fn write(&self, out: &mut Out<'_>, texts: &Texts<'_>, entry: &Entry<'_>, charge: &Charge) {
        out.put(b"{\"ts\":\"");
        out.put(&self.time);
        out.put(b"\"");
        text(out, b",\"request_id\":\"", texts.request_id.as_bytes());
        if let Some(trace) = entry.trace.filter(|trace| trace.is_sampled()) {
            out.put(b",\"trace_id\":\"");
            out.put(&hex(trace.trace_id()));
            out.put(b"\"");
        }
        text(out, b",\"client\":\"", texts.client.as_bytes());
        text(out, b",\"principal\":\"", texts.principal.as_bytes());
        text(out, b",\"tenant\":\"", texts.tenant.as_bytes());
        text(out, b",\"method\":\"", texts.method);
        text(out, b",\"path\":\"", texts.path);
        number(out, b",\"status\":", entry.status.into());
        out.put(b",\"outcome\":\"");
        out.put(entry.outcome.name().as_bytes());
        out.put(b"\"");
        text(out, b",\"error\":\"", texts.error.as_bytes());
        self.label(out, b",\"route\":", entry.route);
        self.label(out, b",\"provider\":", entry.provider);
        text(out, b",\"upstream\":\"", texts.upstream.as_bytes());
        text(out, b",\"model\":\"", texts.model.as_bytes());
        out.put(if entry.is_stream {
            b",\"stream\":true"
        } else {
            b",\"stream\":false"
        });
        number(out, b",\"attempts\":", entry.attempts);
        number(out, b",\"bytes_in\":", entry.bytes_in);
        number(out, b",\"bytes_out\":", entry.bytes_out);
        thousandths(out, b",\"duration_ms\":", entry.duration_ns() / 1000);
        thousandths(out, b",\"overhead_us\":", entry.overhead_ns);
        let first_byte_ns = entry.first_byte_ns();
        if first_byte_ns > 0 {
            thousandths(out, b",\"ttft_ms\":", first_byte_ns / 1000);
        }
        if let Some(per_token_ns) = entry.per_token_ns(charge) {
            thousandths(out, b",\"tpot_ms\":", per_token_ns / 1000);
        }
        let usage = &charge.usage;
        number(out, b",\"tokens_in\":", usage.tokens_in);
        number(out, b",\"tokens_out\":", usage.tokens_out);
        number(out, b",\"tokens_cached\":", usage.tokens_cached);
        number(out, b",\"tokens_reasoning\":", usage.tokens_reasoning);
        if let Some(micros) = charge.cost_micros {
            millionths(out, b",\"cost_usd\":", micros);
        }
        if charge.is_estimated {
            out.put(b",\"usage\":\"estimated\"");
        }
        if !entry.transforms.is_empty() {
            out.put(b",\"transforms\":");
            out.put(entry.transforms.as_bytes());
        }
    }

    #[inline(always)]
    fn label(&self, out: &mut Out<'_>, member: &[u8], id: LabelId) {
        let json = self.kept(id);
        if !json.is_empty() {
            out.put(member);
            out.put(json);
        }
    }

    /// A label as a JSON string, after `keep` has stored it; empty for none.
    fn kept(&self, id: LabelId) -> &[u8] {
        let label = self.labels.get(id.get() as usize);
        label.and_then(OnceLock::get).map_or(b"", |json| json)
    }

    fn keep(&self, id: LabelId) {
        let Some(kept) = self.labels.get(id.get() as usize) else {
            return;
        };
        if kept.get().is_none() {
            let Some(name) = self.segment.label(id) else { return };
            let mut json = vec![0; 6 * name.len() + 2];
            let length = json.len();
            let mut out = Out::new(&mut json);
            out.put(b"\"");
            characters(&mut out, name.as_bytes());
            out.put(b"\"");
            let left = out.room();
            json.truncate(length - left);
            let _ = kept.set(json.into());
        }
    }

    /// Sets the time: RFC 3339 with milliseconds, UTC. The date is computed once per second.
    fn tell_time(&mut self, unix_ms: i64) {
        // Years 1 to 9999, the range of RFC 3339 and Python's datetime.
        let unix_ms = unix_ms.clamp(-62_135_596_800_000, 253_402_300_799_999);
        let second = unix_ms.div_euclid(1000);
        if self.second != second {
            self.second = second;
            self.time = timestamp(second);
        }
        let ms = unix_ms.rem_euclid(1000) as u64;
        self.time[20..23].copy_from_slice(&three(ms));
    }
}

impl Consumer for Arc<Mutex<AccessLog>> {
    fn enter(&mut self, entry: &Entry<'_>, charge: &Charge) -> usize {
        // A panic leaves at most half a line behind.
        self.lock().unwrap_or_else(PoisonError::into_inner).enter(entry, charge)
    }
}

impl Consumer for AccessLog {
    /// Adds a line, or counts it as dropped when it does not fit. In a line above `LINE_BYTES`, the longest texts are cut.
    fn enter(&mut self, entry: &Entry<'_>, charge: &Charge) -> usize {
        for label in [entry.route, entry.provider] {
            self.keep(label);
        }
        self.tell_time(entry.unix_ms());
        let texts = Texts::of(entry);
        let room = self.room(&texts, entry);
        if self.lines.len() - self.used < room {
            self.lines.resize((self.used + room).next_power_of_two(), 0);
        }
        let mut length = self.put(&texts, entry, charge, false);
        if length > LINE_BYTES {
            length = self.put_cut(&texts, entry, charge);
        }
        if length <= LINE_BYTES && self.used + length <= self.capacity {
            self.used += length;
        } else {
            self.dropped += 1;
        }
        self.used
    }
}

/// The digits of a trace's id.
fn hex(id: u128) -> [u8; 32] {
    let digit = |place: usize| b"0123456789abcdef"[(id >> (124 - 4 * place) & 15) as usize];
    std::array::from_fn(digit)
}

/// `member` includes the opening quote of the value.
#[inline(always)]
fn text(out: &mut Out<'_>, member: &[u8], value: &[u8]) {
    if !value.is_empty() {
        out.put(member);
        characters(out, value);
        out.put(b"\"");
    }
}

#[inline(always)]
fn number(out: &mut Out<'_>, member: &[u8], value: u64) {
    out.put(member);
    out.number(value);
}

/// Writes a number of thousandths with three decimals.
#[inline(always)]
fn thousandths(out: &mut Out<'_>, member: &[u8], value: u64) {
    let [a, b, c] = three(value);
    out.put(member);
    out.number(value / 1000);
    out.put(&[b'.', a, b, c]);
}

/// Writes a number of millionths with six decimals.
#[inline(always)]
fn millionths(out: &mut Out<'_>, member: &[u8], value: u64) {
    let mut decimals = *b".000000";
    digits(&mut decimals[1..], value % 1_000_000);
    out.put(member);
    out.number(value / 1_000_000);
    out.put(&decimals);
}

/// Writes the content of a JSON string (RFC 8259 section 7). Invalid UTF-8 becomes U+FFFD.
#[inline]
fn characters(out: &mut Out<'_>, value: &[u8]) {
    if needs_nothing(value) {
        out.put(value);
    } else {
        escape_all(out, value);
    }
}

/// The number of leading bytes that take no more than `most` bytes after escaping.
fn fitting(value: &[u8], most: usize) -> usize {
    let mut room = most;
    let fits = value.iter().position(|&byte| {
        let taken = match byte {
            // U+FFFD in the worst case, when the byte is not UTF-8.
            0x80.. => 3,
            byte if is_plain(byte) => 1,
            _ => 6,
        };
        room.checked_sub(taken).map(|left| room = left).is_none()
    });
    fits.unwrap_or(value.len())
}

#[cold]
fn escape_all(out: &mut Out<'_>, value: &[u8]) {
    for chunk in value.utf8_chunks() {
        escape(out, chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            out.put("\u{fffd}".as_bytes());
        }
    }
}

/// True when every byte is ASCII that needs no escape.
#[inline]
fn needs_nothing(value: &[u8]) -> bool {
    // Bytes above 0x7f are negative, and so below the space.
    let are_plain = |lane| {
        let special = equal(lane, b'"') | equal(lane, b'\\') | equal(lane, 0x7f);
        lane.cmp_gt(i8x16::splat(0x1f)) & !special
    };
    if let Some(plain) = all(value, are_plain) {
        return plain;
    }
    if let (Some(first), Some(last)) = (value.first_chunk::<4>(), value.last_chunk::<4>()) {
        let word = u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32;
        return special(word) == 0;
    }
    value.iter().all(|&byte| is_plain(byte))
}

fn escape(out: &mut Out<'_>, value: &[u8]) {
    let mut rest = value;
    while let Some(at) = rest.iter().position(|&byte| byte < 0x80 && !is_plain(byte)) {
        let (plain, special) = rest.split_at(at);
        out.put(plain);
        match special[0] {
            b'"' => out.put(b"\\\""),
            b'\\' => out.put(b"\\\\"),
            b'\n' => out.put(b"\\n"),
            b'\r' => out.put(b"\\r"),
            b'\t' => out.put(b"\\t"),
            control => {
                const HEX: [u8; 16] = *b"0123456789abcdef";
                let [high, low] = [control >> 4, control & 0xf].map(|digit| HEX[usize::from(digit)]);
                out.put(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
        rest = &special[1..];
    }
    out.put(rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Outcome;
    use crate::head::RequestHead;
    use crate::sse::Usage;

    const EMPTY: &str = concat!(
        r#"{"ts":"1970-01-01T00:00:00.000Z","status":0,"outcome":"complete","stream":false,"attempts":0,"bytes_in":0,"#,
        r#""bytes_out":0,"duration_ms":0.000,"overhead_us":0.000,"tokens_in":0,"tokens_out":0,"tokens_cached":0,"#,
        r#""tokens_reasoning":0}"#,
        "\n",
    );

    fn log(capacity: usize) -> AccessLog {
        AccessLog::new(Arc::new(Segment::new(1).unwrap()), capacity)
    }

    fn add(log: &mut AccessLog, entry: &Entry<'_>) -> usize {
        log.enter(entry, &Charge::default())
    }

    fn head(text: &[u8]) -> RequestHead {
        RequestHead::parse(text).unwrap().unwrap()
    }

    #[test]
    fn what_is_empty_is_left_out() {
        let mut log = log(1 << 16);
        add(&mut log, &Entry::default());
        assert_eq!(std::str::from_utf8(&log.drain()).unwrap(), EMPTY);
    }

    #[test]
    fn a_whole_line() {
        let mut log = log(1 << 16);
        let route = log.segment.intern("chat \"1\"");
        let bytes = b"POST /a?key=secret HTTP/1.1\r\nhost: a\r\n\r\n";
        let head = head(bytes);
        let entry = Entry {
            epoch_ns: 1_709_210_096_006_000_000,
            started_ns: 1_000_000,
            first_ns: 2_000_999,
            ended_ns: 1_235_567_890,
            head: Some((&head, bytes)),
            status: 200,
            outcome: Outcome::ClientGone,
            error: "a\\\u{e9}\u{1}\u{7f}",
            route,
            is_stream: true,
            attempts: 1,
            overhead_ns: 48_001,
            ..Entry::default()
        };
        let usage = Usage {
            tokens_in: 18,
            ..Usage::default()
        };
        let charge = Charge {
            usage,
            is_estimated: true,
            cost_micros: Some(1_000_007),
        };
        log.enter(&entry, &charge);
        let expected = concat!(
            r#"{"ts":"2024-02-29T12:34:56.007Z","method":"POST","path":"/a","status":200,"outcome":"client_gone","error":"a\\"#,
            "é",
            r#"\u0001\u007f","route":"chat \"1\"","stream":true,"attempts":1,"bytes_in":0,"bytes_out":0,"#,
            r#""duration_ms":1234.567,"overhead_us":48.001,"ttft_ms":1.000,"tokens_in":18,"tokens_out":0,"#,
            r#""tokens_cached":0,"tokens_reasoning":0,"cost_usd":1.000007,"usage":"estimated"}"#,
            "\n",
        );
        assert_eq!(std::str::from_utf8(&log.drain()).unwrap(), expected);
    }

    #[test]
    fn what_is_not_utf8_becomes_the_replacement_character() {
        let mut bytes = vec![0; 64];
        let mut out = Out::new(&mut bytes);
        characters(&mut out, b"/a\\\xff\xc3\xa9\x01");
        let length = 64 - out.room();
        assert_eq!(std::str::from_utf8(&bytes[..length]).unwrap(), "/a\\\\\u{fffd}é\\u0001");
    }

    #[test]
    fn every_byte_is_told_from_every_other_at_every_length() {
        for length in 1..40 {
            for at in 0..length {
                for byte in 0..=255 {
                    let mut text = vec![b'a'; length];
                    text[at] = byte;
                    assert_eq!(
                        needs_nothing(&text),
                        byte < 0x80 && is_plain(byte),
                        "{byte} at {at} of {length}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_full_buffer_drops_whole_lines() {
        let length = EMPTY.len();
        let mut log = log(2 * length);
        let mut add = || add(&mut log, &Entry::default());
        assert_eq!([length, 2 * length, 2 * length], [(); 3].map(|()| add()));
        assert_eq!((log.dropped(), log.drain().len()), (1, 2 * length));
        assert_eq!(log.enter(&Entry::default(), &Charge::default()), length);
    }

    #[test]
    fn a_long_line_is_cut_to_what_a_pipe_takes_whole() {
        let mut log = log(1 << 16);
        let bytes = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(7999));
        let head = head(bytes.as_bytes());
        let long = Entry {
            head: Some((&head, bytes.as_bytes())),
            model: "m",
            status: 404,
            ..Entry::default()
        };
        add(&mut log, &long);
        let escaped = Entry {
            upstream: &"\u{1}".repeat(8000),
            model: &"é".repeat(5000),
            principal: &"\"".repeat(9000),
            ..Entry::default()
        };
        add(&mut log, &escaped);
        // Texts that fit are not changed.
        let error = "e".repeat(LINE_BYTES - EMPTY.len() - b",\"error\":\"\"".len());
        let whole = Entry {
            error: &error,
            ..Entry::default()
        };
        add(&mut log, &whole);
        let block = log.drain().to_vec();
        let lines: Vec<&[u8]> = block.split_inclusive(|&byte| byte == b'\n').collect();
        assert_eq!((lines.len(), log.dropped()), (3, 0));
        for line in &lines {
            assert!((1000..=LINE_BYTES).contains(&line.len()) && line.ends_with(b"}\n"));
            assert!(std::str::from_utf8(line).is_ok());
        }
        assert!(lines[0].ends_with(b",\"cut\":true}\n") && lines[1].ends_with(b",\"cut\":true}\n"));
        assert_eq!(lines[2].len(), LINE_BYTES);
        assert!(lines[2].ends_with(b"\"tokens_reasoning\":0}\n"));
    }
}
