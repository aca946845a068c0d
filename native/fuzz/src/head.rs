//! No prefix of a head gets another verdict than the whole, what is accepted is what a slow reader sees, what is written
//! of it says the same, and who has read other heads before reads no other one.

mod written;

use budgateway_core::head::{
    Fields, HeadCache, HeadError, LastHost, MAX_HEAD, MAX_HEADERS, RequestHead, ResponseHead, flag,
};

use crate::slow::{is_text, is_token, line};
use crate::{Dice, cut};

/// As the first lines say.
pub fn check(text: &[u8]) {
    let mut dice = Dice::of(text);
    verdicts(text, &mut dice, |text| {
        Ok(RequestHead::parse(text)?.map(|head| head.size))
    });
    verdicts(text, &mut dice, |text| {
        Ok(ResponseHead::parse(text, false)?.map(|head| head.size))
    });
    memory(text, &mut dice);
    if let Ok(Some(head)) = RequestHead::parse(text) {
        let slow = Slow::of(&text[..head.size]);
        let http_10 = slow.request(&head, text);
        slow.agrees(text, head.flags, head.content_length, &head.fields, http_10);
        head_cache(&text[..head.size], &head, &mut dice);
        written::request(text, &head, &slow, &mut dice);
    }
    for is_head in [false, true] {
        if let Ok(Some(head)) = ResponseHead::parse(text, is_head) {
            let slow = Slow::of(&text[..head.size]);
            let http_10 = slow.response(&head, text, is_head);
            slow.agrees(text, head.flags, head.content_length, &head.fields, http_10);
            written::response(text, &head, &slow, &mut dice);
        }
    }
}

/// A beginning is not yet anything, or it is what the whole is.
fn verdicts(text: &[u8], dice: &mut Dice, verdict: impl Fn(&[u8]) -> Result<Option<usize>, HeadError>) {
    let whole = verdict(text);
    for cut in cut::offsets(text.len(), dice) {
        let early = verdict(&text[..cut]);
        assert!(
            early == Ok(None) || early == whole,
            "{early:?} at {cut}, then {whole:?}"
        );
    }
    if let Ok(Some(size)) = whole {
        assert!(size <= MAX_HEAD);
        assert_eq!(verdict(&text[..size]), whole);
        assert_eq!(verdict(&text[..size - 1]), Ok(None));
    }
}

/// Checks that earlier heads do not change the result: the same head, the one before it, or a very similar one.
fn memory(text: &[u8], dice: &mut Dice) {
    let mut last = LastHost::default();
    let mut other = text.to_vec();
    if !other.is_empty() {
        let at = dice.below(other.len().min(80));
        other[at] ^= 1 << dice.below(8);
    }
    let size = RequestHead::parse(text).ok().flatten().map_or(0, |head| head.size);
    for text in [text, &text[size..], text, &other, text, &other] {
        let (fresh, after) = (RequestHead::parse(text), RequestHead::parse_after(text, &mut last));
        assert_eq!(format!("{after:?}"), format!("{fresh:?}"));
    }
}

/// A head that was remembered is known whatever its free values say, and would be taken with any; no other one is known.
fn head_cache(text: &[u8], head: &RequestHead, dice: &mut Dice) {
    let lengths: Vec<_> = head
        .fields
        .iter()
        .filter(|field| field.known.name() == "content-length")
        .collect();
    let [length] = lengths[..] else {
        return;
    };
    let at = length.value_span().range();
    let mut head_cache = HeadCache::default();
    head_cache.insert(text, &head.fields);
    let is_plain = matches!(text[at.start], b'1'..=b'9');
    let longest = 2 * 1024;
    assert_eq!(
        head_cache.contains(text, &head.fields),
        is_plain && text.len() <= longest
    );
    for number in ["1", "90210", "999999999999999999"] {
        let other = [&text[..at.start], number.as_bytes(), &text[at.end..]].concat();
        let parsed = RequestHead::parse(&other).expect("as that one").expect("whole");
        let is_known = head_cache.contains(&other, &parsed.fields);
        assert_eq!(is_known, is_plain && text.len() <= longest && other.len() <= longest);
        assert_eq!((parsed.content_length, parsed.flags), (number.parse().ok(), head.flags));
    }
    let mut other = text.to_vec();
    let flip = dice.below(text.len());
    other[flip] ^= 1 << dice.below(8);
    if let Ok(Some(parsed)) = RequestHead::parse(&other)
        && head_cache.contains(&other, &parsed.fields)
    {
        // Only inside of a value that says nothing to a parser.
        let field = parsed
            .fields
            .iter()
            .find(|field| field.value_span().range().contains(&flip));
        let field = field.expect("in a value");
        assert!(!["host", "connection", "transfer-encoding", "upgrade", ""].contains(&field.known.name()));
        assert_eq!(parsed.fields.len(), head.fields.len());
        assert!(field.value(&other).iter().all(|byte| matches!(byte, b' '..=b'~')));
    }
}

/// A head's lines as a slow reader sees them.
struct Slow {
    first: Vec<u8>,
    /// Names in lower case, values without white space around them.
    headers: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Slow {
    /// Of a head that was accepted and ends with its blank line.
    fn of(text: &[u8]) -> Self {
        let mut at = if text.starts_with(b"\r\n") { 2 } else { 0 };
        let mut lines = Vec::new();
        while let Some(line) = line(text, at) {
            assert!(is_text(line));
            at += line.len() + 2;
            lines.push(line);
        }
        assert_eq!((at, lines.pop()), (text.len(), Some(&b""[..])));
        let headers: Vec<_> = lines[1..].iter().map(|line| header(line)).collect();
        assert!(headers.len() <= MAX_HEADERS);
        let first = lines[0].to_vec();
        Self { first, headers }
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let named = self.headers.iter().filter(move |(other, _)| other == name.as_bytes());
        named.map(|(_, value)| value.as_slice())
    }

    /// The options of `Connection`, or of a header like it, in lower case.
    fn options(&self, name: &str) -> Vec<Vec<u8>> {
        let options = self.values(name).flat_map(|value| value.split(|byte| *byte == b','));
        options.map(|option| option.trim_ascii().to_ascii_lowercase()).collect()
    }

    /// The first line of a request is the head's; whether it is HTTP/1.0.
    fn request(&self, head: &RequestHead, text: &[u8]) -> bool {
        let parts: Vec<_> = self.first.split(|byte| *byte == b' ').collect();
        let [method, target, version] = parts[..] else {
            panic!("not three parts");
        };
        assert!(is_token(method) && method == head.method(text) && !matches!(method, b"CONNECT" | b"TRACE"));
        let mut halves = target.splitn(2, |byte| *byte == b'?');
        let front = halves.next().unwrap_or_default();
        assert_eq!(halves.next().unwrap_or_default(), head.query(text));
        let path = head.path(text);
        match front.first() {
            Some(b'/') | Some(b'*') => assert_eq!(path, front),
            _ => assert!(front.ends_with(path) || path == b"/"),
        }
        let http_10 = version == b"HTTP/1.0";
        assert!(http_10 || version == b"HTTP/1.1");
        let hosts: Vec<_> = self.values("host").collect();
        assert!(hosts.len() == 1 || http_10 && hosts.is_empty());
        if let [host] = hosts[..] {
            assert!(!head.host(text).is_empty() && host.starts_with(head.host(text)));
        }
        for (name, _) in &self.headers {
            let dashed: Vec<u8> = name
                .iter()
                .map(|byte| if *byte == b'_' { b'-' } else { *byte })
                .collect();
            assert!(dashed == *name || !matches!(&dashed[..], b"host" | b"content-length" | b"transfer-encoding"));
        }
        assert!(
            self.values("expect")
                .all(|value| value.eq_ignore_ascii_case(b"100-continue"))
        );
        assert!(
            head.request_id(text)
                .is_none_or(|id| self.values("x-request-id").next() == Some(id))
        );
        assert!(self.values("content-length").count() <= 1);
        http_10
    }

    /// The first line of a response is the head's; whether it is HTTP/1.0.
    fn response(&self, head: &ResponseHead, text: &[u8], is_head: bool) -> bool {
        let (version, rest) = self.first.split_at(9);
        let (status, reason) = rest.split_at(3);
        assert_eq!(status, head.status.to_string().as_bytes());
        assert!((100..600).contains(&head.status));
        assert_eq!(reason.strip_prefix(b" ").unwrap_or_default(), head.reason(text));
        let is_bare = matches!(head.status, 100..=199 | 204);
        assert_eq!(head.has(flag::NO_BODY), is_head || is_bare || head.status == 304);
        assert!(!is_bare || (!head.has(flag::CHUNKED) && head.content_length.unwrap_or(0) == 0));
        version == b"HTTP/1.0 "
    }

    /// Headers, framing and what becomes of the connection are what the head says.
    fn agrees(&self, text: &[u8], flags: u16, length: Option<u64>, fields: &Fields, http_10: bool) {
        let fields = fields
            .iter()
            .map(|field| (field.name(text).to_ascii_lowercase(), field.value(text).to_vec()));
        assert!(fields.eq(self.headers.iter().cloned()));
        let has = |wanted: u16| flags & wanted != 0;
        assert_eq!(has(flag::HTTP_10), http_10);
        for value in self.values("content-length") {
            assert!(!value.is_empty() && value.iter().all(u8::is_ascii_digit));
            let value = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            assert!(value.is_some() && value == length && value <= Some(i64::MAX as u64));
        }
        assert_eq!(length.is_some(), self.values("content-length").next().is_some());
        let codings: Vec<_> = self.values("transfer-encoding").collect();
        assert_eq!(has(flag::CHUNKED), !codings.is_empty());
        if let [coding] = codings[..] {
            assert!(coding.eq_ignore_ascii_case(b"chunked") && !http_10 && length.is_none());
        }
        assert!(codings.len() <= 1 && self.values("content-type").count() <= 1);
        let options = self.options("connection");
        let says = |option: &[u8]| options.iter().any(|other| other == option);
        assert!(options.iter().all(|option| option.is_empty() || is_token(option)));
        // llhttp listens to either.
        let closes = says(b"close") || self.options("proxy-connection").contains(&b"close".to_vec());
        assert_eq!(has(flag::KEEP_ALIVE), !closes && (!http_10 || says(b"keep-alive")));
        let upgrades = says(b"upgrade") && self.values("upgrade").next().is_some() && !http_10;
        assert_eq!(has(flag::UPGRADE), upgrades);
    }
}

fn header(line: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let colon = line.iter().position(|byte| *byte == b':').expect("a colon");
    assert!(is_token(&line[..colon]));
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let value = &line[colon + 1..];
    let start = value.iter().position(|byte| !is_space(byte)).unwrap_or(value.len());
    let end = value
        .iter()
        .rposition(|byte| !is_space(byte))
        .map_or(start, |last| last + 1);
    (line[..colon].to_ascii_lowercase(), value[start..end].to_vec())
}
