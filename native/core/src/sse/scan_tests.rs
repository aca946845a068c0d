//! What the scanner sees, whatever the cut.

use super::*;

/// (usage, done, error, events), the same for every chunk size.
fn scan(sse: bool, stream: &str) -> (Option<(u64, u64)>, bool, bool, usize) {
    let results = [1, 2, 7, stream.len().max(1)].map(|size| {
        let mut scanner = UsageScanner::new(sse);
        let events = stream.as_bytes().chunks(size).map(|chunk| scanner.feed(chunk)).sum();
        let usage = scanner.usage().map(|usage| (usage.tokens_in, usage.tokens_out));
        (usage, scanner.done(), scanner.error(), events)
    });
    assert!(results.iter().all(|result| *result == results[0]));
    results[0]
}

#[test]
fn openai_stream() {
    let stream =
        "data: {\"choices\":[],\"usage\":null}\n\ndata: {\"usage\": {\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n";
    assert_eq!(scan(true, stream), (Some((3, 4)), false, false, 2));
    assert_eq!(
        scan(true, &format!("{stream}data: [DONE]\n\n")),
        (Some((3, 4)), true, false, 3)
    );
}

#[test]
fn anthropic_stream_is_merged() {
    let stream = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":7,\"output_tokens\":1}}}\n\n\
        event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":9}}\n\n\
        event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    assert_eq!(scan(true, stream), (Some((7, 9)), true, false, 3));
}

#[test]
fn responses_stream() {
    let usage = "\"usage\":{\"input_tokens\":3,\"output_tokens\":4}";
    let stream =
        |kind: &str| format!("data: {{\"type\":\"response.{kind}\",\"response\":{{\"error\":null,{usage}}}}}\n\n");
    assert_eq!(scan(true, &stream("completed")), (Some((3, 4)), true, false, 1));
    assert_eq!(scan(true, &stream("incomplete")), (Some((3, 4)), true, false, 1));
    assert_eq!(scan(true, &stream("failed")), (Some((3, 4)), true, true, 1));
    assert_eq!(scan(true, &stream("in_progress")), (Some((3, 4)), false, false, 1));
}

#[test]
fn what_a_stream_begins_with() {
    for (stream, first) in [
        ("", First::Nothing),
        (
            ": ping\n\ndata:\n\ndata: [DONE]\n\ndata: {\"type\": \"ping\"}\n\n",
            First::Nothing,
        ),
        (": x\n\ndata: {}\n\ndata: {\"error\": 1}\n\n", First::Event),
        ("data: {\"type\": \"message_start\"}\n\n", First::Promise),
        ("data: {\"error\": {\"message\": \"m\"}}\n\n", First::Error),
        ("data: {\"object\": \"error\", \"message\": \"m\"}\n\n", First::Error),
        ("event: error\ndata: oh\n\n", First::Error),
        ("data: [1]\n\ndata: {}\n\n", First::Other),
    ] {
        let mut scanner = UsageScanner::new(true);
        stream.as_bytes().chunks(3).for_each(|chunk| _ = scanner.feed(chunk));
        assert_eq!(scanner.first(), first, "{stream}");
    }
}

#[test]
fn a_choice_that_ends_is_seen() {
    for (data, finished) in [
        (r#"{"choices":[{"finish_reason":null}]}"#, false),
        (r#"{"choices":[{"finish_reason":"stop"}]}"#, true),
        (
            r#"{"choices":[{"finish_reason" : "stop"}],"usage":{"prompt_tokens":1}}"#,
            true,
        ),
        (
            r#"{"usage":{"prompt_tokens":1},"choices":[{"finish_reason":"stop"}]}"#,
            true,
        ),
        (r#"{"text":"\"finish_reason\":\"stop\""}"#, false),
    ] {
        let mut scanner = UsageScanner::new(true);
        scanner.feed(format!("data: {data}\n\n").as_bytes());
        assert_eq!(scanner.finished(), finished, "{data}");
    }
}

#[test]
fn errors() {
    assert!(scan(true, "data: {\"error\": {\"message\":\"m\"}}\n\n").2);
    assert!(scan(true, "event: error\ndata: x\n\n").2);
    assert!(scan(true, "data: {\"type\":\"error\"}\n\n").2);
    assert!(!scan(true, "data: {\"error\":null,\"text\":\"\\\"error\\\"\"}\n\n").2);
}

#[test]
fn text_does_not_fool_it() {
    let text = r#"{"choices":[{"text":"{\"usage\":{\"prompt_tokens\":1}} [DONE] \"message_stop\""}]}"#;
    assert_eq!(scan(true, &format!("data: {text}\n\n")), (None, false, false, 1));
    assert_eq!(scan(false, text), (None, true, false, 0));
}

#[test]
fn documents() {
    let document =
        r#"{"choices":[{"usage":{"prompt_tokens":1}}], "usage" : {"prompt_tokens":3,"completion_tokens":4} }"#;
    assert_eq!(scan(false, document), (Some((3, 4)), true, false, 0));
    assert_eq!(scan(false, r#"{"error":{"message":"x"}}"#), (None, true, true, 0));
    assert_eq!(
        scan(false, r#"{"error":null,"x_groq":{"usage":{"prompt_tokens":5}}"#),
        (Some((5, 0)), false, false, 0)
    );
    assert_eq!(
        scan(false, r#"{"usageMetadata":{"promptTokenCount":5}}"#),
        (Some((5, 0)), true, false, 0)
    );
    let both = [
        r#""x_groq":{"usage":{"prompt_tokens":5}}"#,
        r#""usageMetadata":{"promptTokenCount":6}"#,
    ];
    assert_eq!(scan(false, &format!("{{{},{}}}", both[0], both[1])).0, Some((5, 0)));
    assert_eq!(scan(false, &format!(" {{{},{}}} ", both[1], both[0])).0, Some((6, 0)));
    assert_eq!(
        scan(
            false,
            r#"{"usage":{"prompt_tokens":1},"usage":{"prompt_tokens":2}}{"error":1}"#
        )
        .0,
        Some((2, 0))
    );
}

#[test]
fn a_whole_document_tells_its_usage_wherever_it_stands() {
    let usage = r#""usage": {"prompt_tokens": 7, "completion_tokens": 9}"#;
    let long = "x".repeat(3000);
    for (document, expected) in [
        (format!(r#"{{"id": 1, {usage}}}"#), true),
        (format!(r#"{{{usage}, "service_tier": null, "n": [1, {{}}]}}"#), true),
        (format!(r#"{{{usage}, "text": "{long}"}}"#), true),
        (format!(r#"{{{usage}, "a": "usage"}}"#), true),
        (
            format!(r#"{{{usage}, "a": {{"usage": {{"prompt_tokens": 1}}}}}}"#),
            true,
        ),
        (format!(r#"{{"a": {{{usage}}}}}"#), false),
        (format!(r#"{{"a": [{{{usage}}}]}}"#), false),
        (
            r#"{"a": "\"usage\": {\"prompt_tokens\": 7, \"completion_tokens\": 9}"}"#.to_owned(),
            false,
        ),
        (r#"{"a": "usage"}"#.to_owned(), false),
        (format!(r#"{{"a": 1, {usage}, "x": "y" , "z":null }} "#), true),
        (format!(r#"{{"a": {{{usage}, "x": true}}}}"#), false),
        (format!(r#"{{{usage}, "x": 01}}"#), true),
        ("{}".to_owned(), false),
        (String::new(), false),
    ] {
        let found = usage_of_document(document.as_bytes()).map(|usage| (usage.tokens_in, usage.tokens_out));
        assert_eq!(found, expected.then_some((7, 9)), "{document}");
    }
}
