//! A written head parses again: it holds all permitted lines in order, our own lines, and nothing else.

use budgateway_core::head::{
    Disclosure, Framing, HeadError, MAX_HEAD, MAX_HEADERS, MAX_LINE, RequestHead, RequestHeadWriter, ResponseHead,
    ResponseHeadWriter, flag,
};

use super::Slow;
use crate::Dice;

/// Client headers that are forwarded upstream, with `x-a`, which is configured.
const UP: [&str; 9] = [
    "accept",
    "content-type",
    "content-encoding",
    "traceparent",
    "tracestate",
    "baggage",
    "user-agent",
    "idempotency-key",
    "x-a",
];

/// Response headers that are not sent downstream, with `x-a`, which is configured to be dropped.
const NOT_DOWN: [&str; 19] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authentication-info",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "server",
    "set-cookie",
    "alt-svc",
    "strict-transport-security",
    "openai-organization",
    "openai-project",
    "x-request-id",
    "via",
    "x-a",
];

const LIMITS: [&str; 4] = ["x-ratelimit-", "anthropic-ratelimit-", "ratelimit", "rate-limit-"];

type Headers = Vec<(Vec<u8>, Vec<u8>)>;

pub(super) fn request(text: &[u8], head: &RequestHead, slow: &Slow, dice: &mut Dice) {
    let fixed = [("authorization", "k")];
    let plain = RequestHeadWriter::new("up:1", "", "", &["x-a"], &fixed).expect("fine");
    let moved = RequestHeadWriter::new("[::1]:80", "/p/v1", "/a", &["x-a"], &fixed).expect("fine");
    let (framing, framed) = frame(dice);
    let plan = plain.plan(head, text, b"id", framing).expect("fine");
    let mut out = vec![0; plan.len()];
    plan.write(&mut out);
    let Some(again) = whole(RequestHead::parse(&out), &out) else {
        return;
    };
    assert_eq!(again.size, out.len());
    assert_eq!(again.method(&out), head.method(text));
    assert_eq!(
        (again.path(&out), again.query(&out)),
        (head.path(text), head.query(text))
    );
    assert_eq!(again.host(&out), b"up");
    // RFC 9110 8.6: methods that anticipate a body say that there is none.
    let says_none = framing == Framing::None && matches!(head.method(text), b"POST" | b"PUT" | b"PATCH");
    let framed = if says_none {
        vec![pair("content-length", "0")]
    } else {
        framed
    };
    let ours = [
        pair("host", "up:1"),
        pair("authorization", "k"),
        pair("x-request-id", "id"),
    ];
    let passes = |name: &str| UP.contains(&name);
    let expected: Headers = ours.into_iter().chain(passed(slow, passes)).chain(framed).collect();
    assert_eq!(Slow::of(&out).headers, expected);

    let plan = plain.plan(&again, &out, b"id", framing).expect("fine");
    let mut twice = vec![0; plan.len()];
    plan.write(&mut twice);
    assert_eq!(twice, out);

    let plan = moved.plan(head, text, b"id", framing).expect("fine");
    let mut out = vec![0; plan.len()];
    plan.write(&mut out);
    let Some(again) = whole(RequestHead::parse(&out), &out) else {
        return;
    };
    assert!(again.path(&out).starts_with(b"/p/v1") || head.path(text) == b"*");
    assert_eq!((again.query(&out), again.host(&out)), (head.query(text), &b"[::1]"[..]));
}

pub(super) fn response(text: &[u8], head: &ResponseHead, slow: &Slow, dice: &mut Dice) {
    let writer = ResponseHeadWriter::new(&["x-a"]).expect("fine");
    // As a gateway does: no framing where there is no body.
    let (framing, framed) = if head.has(flag::NO_BODY) {
        (Framing::None, Vec::new())
    } else {
        frame(dice)
    };
    let limits: &[u8] = if dice.below(2) == 0 { b"" } else { b"RateLimit: 5\r\n" };
    let (keep_alive, attempts) = (dice.below(2) == 0, dice.below(3) as u64);
    let disclosure = Disclosure {
        request_id: b"id",
        lines: b"x-own: 1\r\n",
        limits,
        attempts,
        overhead_us: 1234,
    };
    let plan = writer.plan(head, text, framing, keep_alive, &disclosure).expect("fine");
    let mut out = vec![0; plan.len()];
    plan.write(&mut out);
    let Some(again) = whole(ResponseHead::parse(&out, false), &out) else {
        return;
    };
    assert_eq!((again.size, again.status), (out.len(), head.status));
    assert_eq!(again.has(flag::KEEP_ALIVE), keep_alive);
    let is_clean = |reason: &[u8]| !reason.is_empty() && reason.iter().all(|byte| matches!(byte, b' '..=b'~'));
    if is_clean(head.reason(text)) {
        assert_eq!(again.reason(&out), head.reason(text));
    } else {
        assert!(again.reason(&out).is_empty() || is_clean(again.reason(&out)));
    }
    let is_limit = |name: &str| !limits.is_empty() && LIMITS.iter().any(|start| name.starts_with(start));
    let passes = |name: &str| {
        !NOT_DOWN.contains(&name) && !name.starts_with("cf-") && !name.starts_with("access-control-") && !is_limit(name)
    };
    let mut expected = [passed(slow, passes), framed].concat();
    expected.extend([pair("x-request-id", "id"), pair("x-own", "1")]);
    expected.extend((!limits.is_empty()).then(|| pair("ratelimit", "5")));
    if attempts > 0 {
        expected.push(pair("x-budgateway-attempts", &attempts.to_string()));
        expected.push(pair("x-budgateway-overhead-us", "1234"));
    }
    expected.extend((!keep_alive).then(|| pair("connection", "close")));
    assert_eq!(Slow::of(&out).headers, expected);
}

/// Checks that a written head parses, unless our own lines push a head at a limit beyond it.
fn whole<T>(parsed: Result<Option<T>, HeadError>, out: &[u8]) -> Option<T> {
    let lines = || out.split(|byte| *byte == b'\n');
    let is_beyond = match parsed {
        Err(HeadError::HeadTooLarge) => out.len() > MAX_HEAD,
        Err(HeadError::LineTooLong | HeadError::TargetTooLong) => lines().any(|line| line.len() > MAX_LINE + 1),
        Err(HeadError::TooManyHeaders) => lines().count() > MAX_HEADERS + 3,
        _ => false,
    };
    if is_beyond {
        return None;
    }
    Some(parsed.expect("a head").expect("all of it"))
}

/// The headers that pass by their names, and are not named by `Connection`.
fn passed(slow: &Slow, passes: impl Fn(&str) -> bool) -> Headers {
    let options = slow.options("connection");
    let name = |name| std::str::from_utf8(name).expect("a token");
    let passing = slow
        .headers
        .iter()
        .filter(|header| !options.contains(&header.0) && passes(name(&header.0)));
    passing.cloned().collect()
}

fn frame(dice: &mut Dice) -> (Framing, Headers) {
    match dice.below(3) {
        0 => (Framing::None, Vec::new()),
        1 => (Framing::Chunked, vec![pair("transfer-encoding", "chunked")]),
        _ => (Framing::Length(7), vec![pair("content-length", "7")]),
    }
}

fn pair(name: &str, value: &str) -> (Vec<u8>, Vec<u8>) {
    (name.into(), value.into())
}
