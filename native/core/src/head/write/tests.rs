#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use super::*;

/// The request line that goes upstream.
fn line(prefix: &str, strip: &str, start: &str) -> String {
    let writer = RequestHeadWriter::new("up:1", prefix, strip, &[], &[]).unwrap();
    let raw = format!("{start} HTTP/1.1\r\nhost: a\r\n\r\n");
    let head = RequestHead::parse(raw.as_bytes()).unwrap().unwrap();
    let plan = writer.plan(&head, raw.as_bytes(), b"id", Framing::None).unwrap();
    let mut out = vec![0; plan.len()];
    plan.write(&mut out);
    let text = String::from_utf8(out).unwrap();
    text.lines().next().unwrap().replace(" HTTP/1.1", "")
}

#[test]
fn paths_lose_strip_and_gain_prefix() {
    for (prefix, strip, from, to) in [
        ("", "", "GET /v1/x?q", "GET /v1/x?q"),
        ("/v1", "", "GET /v1/x", "GET /v1/x"),
        ("/openai/v1/", "", "GET /v1/x", "GET /openai/v1/x"),
        ("/v1", "", "GET /v10/x", "GET /v1/v10/x"),
        ("/api", "/team", "GET /team/v1", "GET /api/v1"),
        ("", "/team", "GET /team", "GET /"),
        ("/api", "/team", "GET /teams", "GET /api/teams"),
        ("/v1", "", "OPTIONS *", "OPTIONS *"),
        ("", "", "GET http://a?q", "GET /?q"),
    ] {
        assert_eq!(line(prefix, strip, from), to, "{prefix} {strip} {from}");
    }
}

#[test]
fn edits_change_the_target_and_the_lines() {
    let writer = RequestHeadWriter::new("up", "/api", "/team", &["x-mine"], &[("x-fixed", "f")]).unwrap();
    let raw = "POST /team/v1/a?b HTTP/1.1\r\nhost: a\r\nAccept: x\r\nUser-Agent: u\r\nX-Mine: m\r\n\r\n";
    let head = RequestHead::parse(raw.as_bytes()).unwrap().unwrap();
    let written = |target, lines: &[(&str, &str)], drop: &[&str]| {
        let edits = HeadEdits::new(target, lines, drop).unwrap();
        let plan = writer
            .plan_edited(&head, raw.as_bytes(), b"id", Framing::Length(3), &edits)
            .unwrap();
        let mut out = vec![0; plan.len()];
        plan.write(&mut out);
        String::from_utf8(out).unwrap()
    };
    let start = "HTTP/1.1\r\nhost: up\r\nx-fixed: f\r\nx-request-id: id\r\n";
    assert_eq!(
        written(None, &[], &[]),
        format!("POST /api/v1/a?b {start}accept: x\r\nuser-agent: u\r\nX-Mine: m\r\ncontent-length: 3\r\n\r\n")
    );
    assert_eq!(
        written(
            Some("/v1/b:c?d=e"),
            &[("Accept", "y"), ("x-new", "n"), ("x-fixed", "no")],
            &["x-mine", "USER-AGENT"]
        ),
        format!("POST /api/v1/b:c?d=e {start}accept: y\r\nx-new: n\r\ncontent-length: 3\r\n\r\n")
    );
    assert_eq!(
        written(Some("/team/x"), &[], &["x-mine", "accept", "user-agent"]),
        format!("POST /api/x {start}content-length: 3\r\n\r\n")
    );
}

#[test]
fn a_traceparent_of_the_gateways_replaces_the_clients() {
    let writer = RequestHeadWriter::new("up", "", "", &[], &[]).unwrap();
    let raw = "GET /v1/models HTTP/1.1\r\nhost: a\r\ntraceparent: 00-aa-bb-00\r\ntracestate: s=1\r\n\r\n";
    let head = RequestHead::parse(raw.as_bytes()).unwrap().unwrap();
    let written = |edits: &HeadEdits| {
        let plan = writer
            .plan_edited(&head, raw.as_bytes(), b"id", Framing::None, edits)
            .unwrap();
        let mut out = vec![0; plan.len()];
        plan.write(&mut out);
        let text = String::from_utf8(out).unwrap();
        text.lines()
            .filter(|line| line.starts_with("trace"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let made = HeadEdits::new(None, &[("traceparent", "00-aa-cc-01")], &[]).unwrap();
    assert_eq!(written(&made), "traceparent: 00-aa-cc-01 tracestate: s=1");
    let again = made.clone().with_lines(&[("traceparent", "00-aa-dd-01")]).unwrap();
    assert_eq!(written(&again), "traceparent: 00-aa-dd-01 tracestate: s=1");
    let none = HeadEdits::new(None, &[], &[]).unwrap();
    assert_eq!(written(&none), "traceparent: 00-aa-bb-00 tracestate: s=1");
    let writer = RequestHeadWriter::new("up", "", "", &[], &[]).unwrap();
    let writer = writer.without(&["traceparent", "tracestate"]).unwrap();
    let plan = writer
        .plan_edited(&head, raw.as_bytes(), b"id", Framing::None, &made)
        .unwrap();
    let mut out = vec![0; plan.len()];
    plan.write(&mut out);
    assert!(!String::from_utf8(out).unwrap().contains("trace"));
}

#[test]
fn edits_that_could_inject_are_refused() {
    for target in [
        "",
        "v1",
        "/a b",
        "/a\r\nb: c",
        "/a#b",
        "*",
        "http://other/",
        "//other",
        "/a/../b",
        &"/a".repeat(9000),
    ] {
        assert!(HeadEdits::new(Some(target), &[], &[]).is_err(), "{target}");
    }
    for line in [
        ("a b", "c"),
        ("a", "b\r\nc: d"),
        ("Host", "other"),
        ("Content-Length", "1"),
        ("x-request-id", "a"),
    ] {
        assert!(HeadEdits::new(None, &[line], &[]).is_err(), "{line:?}");
    }
    assert!(HeadEdits::new(None, &[], &["a b"]).is_err());
}

#[test]
fn what_could_inject_is_refused() {
    let writer = |host, prefix, fixed: &[(&str, &str)]| RequestHeadWriter::new(host, prefix, "", &[], fixed).is_err();
    assert!(writer("a b", "", &[]));
    assert!(writer("a", "/x y", &[]));
    assert!(writer("a", "", &[("a", "b\r\nc: d")]));
    assert!(writer("a", "", &[("a b", "c")]));
    assert!(writer("a", "", &[("Content-Length", "1")]));
    let secret = RequestHeadWriter::new("a", "", "", &[], &[("authorization", "s3cret\0")]).unwrap_err();
    assert!(!secret.to_string().contains("s3cret"));
    for id in ["", "a b", "a\r\nb", &"x".repeat(129)] {
        assert!(!is_request_id(id.as_bytes()));
    }
}

#[test]
fn no_allow_list_lets_credentials_upstream() {
    let allow = [
        "authorization",
        "Cookie",
        "x-api-key",
        "x-forwarded-user",
        "host",
        "connection",
        "x-mine",
    ];
    let writer = RequestHeadWriter::new("up", "", "", &allow, &[]).unwrap();
    let lines: String = allow
        .iter()
        .filter(|name| **name != "host")
        .map(|name| format!("{name}: v\r\n"))
        .collect();
    let raw = format!("GET / HTTP/1.1\r\nhost: a\r\n{lines}\r\n");
    let head = RequestHead::parse(raw.as_bytes()).unwrap().unwrap();
    let plan = writer.plan(&head, raw.as_bytes(), b"id", Framing::None).unwrap();
    let mut out = vec![0; plan.len()];
    plan.write(&mut out);
    assert_eq!(
        out,
        b"GET / HTTP/1.1\r\nhost: up\r\nx-request-id: id\r\nx-mine: v\r\n\r\n"
    );
}

#[test]
fn what_connection_names_comes_down_under_no_option() {
    let writer = ResponseHeadWriter::new(&[]).unwrap();
    for option in ["close", "x-a", "Close, x-b", "keep-alive", "upgrade"] {
        let name = option.split(',').next().unwrap();
        let raw = format!("HTTP/1.1 200 OK\r\n{name}: 1\r\nConnection: {option}\r\n\r\n");
        let head = ResponseHead::parse(raw.as_bytes(), false).unwrap().unwrap();
        let disclosure = Disclosure {
            request_id: b"id",
            lines: b"",
            limits: b"",
            attempts: 0,
            overhead_us: 0,
        };
        let plan = writer
            .plan(&head, raw.as_bytes(), Framing::None, true, &disclosure)
            .unwrap();
        let mut out = vec![0; plan.len()];
        plan.write(&mut out);
        assert_eq!(out, b"HTTP/1.1 200 OK\r\nx-request-id: id\r\n\r\n", "{option}");
    }
}
