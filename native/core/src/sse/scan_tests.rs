//! Tests of the scanner's observations, for every cut.

use super::super::events::MAX_EVENT_BYTES;
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

/// The results of a stream of these events, the same for every cut: finished, done, error, content, first.
fn whole(events: &[&str]) -> (bool, bool, bool, bool, First) {
    let stream: String = events.iter().map(|data| format!("data: {data}\n\n")).collect();
    // Byte by byte, a large one takes seconds.
    let first = if stream.len() > MAX_EVENT_BYTES {
        [4095, 70_001]
    } else {
        [1, 7]
    };
    let results = [first[0], first[1], 4096, stream.len()].map(|size| {
        let mut scanner = UsageScanner::new(true);
        stream
            .as_bytes()
            .chunks(size)
            .for_each(|piece| _ = scanner.feed_through(piece, &mut Vec::new()));
        (
            scanner.finished(),
            scanner.done(),
            scanner.error(),
            scanner.has_content(),
            scanner.first(),
        )
    });
    assert!(results.iter().all(|result| *result == results[0]), "{results:?}");
    results[0]
}

#[test]
fn each_choice_that_began_must_end() {
    let [zero, one] = [0, 1].map(|index| format!(r#"{{"choices":[{{"index":{index},"delta":{{"content":"x"}}}}]}}"#));
    let [zero_ends, one_ends] = [0, 1].map(|index| {
        format!(r#"{{"choices":[{{"index": {index},"delta":{{}},"logprobs":null,"finish_reason" : "stop"}}]}}"#)
    });
    assert!(!whole(&[&zero, &one, &zero_ends]).0);
    assert!(!whole(&[&zero, &one, &one_ends]).0);
    assert!(!whole(&[&zero, &zero_ends, &one]).0);
    assert!(whole(&[&zero, &one, &zero_ends, &one_ends]).0);
    // The index of a tool call does not belong to a choice, nor does a reason among its arguments.
    let call = |finish: &str| {
        format!(
            r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{{"index":3,"function":{{"arguments":{{"finish_reason":"stop"}}}}}}]}},"finish_reason":{finish}}}]}}"#
        )
    };
    assert!(!whole(&[&call("null")]).0);
    assert!(!whole(&[&call("\"\"")]).0);
    assert!(whole(&[&call("\"tool_calls\"")]).0);
}

#[test]
fn an_event_of_any_size_says_how_a_stream_ends() {
    let image = "A".repeat(MAX_EVENT_BYTES + 5000);
    let created = r#"{"type":"response.created","response":{"status":"in_progress"}}"#;
    for (last, done, error) in [
        (
            format!(r#"{{"type":"response.completed","response":{{"output":["{image}"]}}}}"#),
            true,
            false,
        ),
        (
            format!(r#"{{"response":{{"output":["{image}"]}},"sequence_number":7,"type":"response.completed"}}"#),
            true,
            false,
        ),
        (format!(r#"{{"type":"response.failed","x":"{image}"}}"#), true, true),
        (
            format!(r#"{{"type":"response.output_item.done","item":"{image}"}}"#),
            false,
            false,
        ),
        (
            format!(r#"{{"x":"{image}\"type\":\"response.completed\"","y":{{"type":"response.completed"}}}}"#),
            false,
            false,
        ),
    ] {
        let end = &last[last.len() - 40..];
        assert_eq!(
            whole(&[created, &last]),
            (false, done, error, true, First::Promise),
            "{end}"
        );
    }
    let chat = |index: u8, finish: &str| {
        format!(
            r#"{{"id":"c","choices":[{{"index":{index},"delta":{{"content":"{image}"}},"finish_reason":{finish}}}],"error":null}}"#
        )
    };
    let promise = First::Promise;
    assert_eq!(whole(&[&chat(0, "\"stop\"")]), (true, false, false, true, promise));
    assert_eq!(whole(&[&chat(0, "null")]), (false, false, false, true, promise));
    assert_eq!(
        whole(&[&chat(0, "\"stop\""), &chat(1, "null")]),
        (false, false, false, true, promise)
    );
    let told = format!(r#"{{"error":{{"message":"{image}"}}}}"#);
    assert_eq!(whole(&[&told]), (false, false, true, true, First::Error));
    // The usage is found, too.
    let last = format!(
        "event: x\ndata: {{\"type\":\"response.completed\",\ndata:\"response\":{{\"output\":\"{image}\",\ndata:\"usage\":\
         {{\"input_tokens\":3,\"output_tokens\":4}}}}}}\n\n: done\n\n"
    );
    let mut scanner = UsageScanner::new(true);
    let events: usize = last.as_bytes().chunks(5000).map(|piece| scanner.feed(piece)).sum();
    let usage = scanner.usage().map(|usage| (usage.tokens_in, usage.tokens_out));
    assert_eq!(
        (usage, scanner.done(), events, scanner.events()),
        (Some((3, 4)), true, 1, 1)
    );
}

#[test]
fn content_is_what_is_said() {
    for (events, content) in [
        (
            &[r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#][..],
            false,
        ),
        (&[r#"{"choices":[],"usage":{"prompt_tokens":1}}"#], false),
        (&[r#"{"choices":[{"delta":{"reasoning":"x"}}]}"#], true),
        (&[r#"{"choices":[{"text":"x"}]}"#], true),
        (
            &[
                r#"{"type":"message_start","message":{"usage":{"input_tokens":7}}}"#,
                r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
                r#"{"type": "ping"}"#,
            ],
            false,
        ),
        (
            &[r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"x"}}"#],
            true,
        ),
        (
            &[r#"{"type":"content_block_start","content_block":{"type":"tool_use","name":"f"}}"#],
            true,
        ),
        (
            &[
                r#"{"type":"response.created","response":{}}"#,
                r#"{"type":"response.output_item.added","item":{"type":"message","content":[]}}"#,
                r#"{"type":"response.output_text.delta","delta":""}"#,
            ],
            false,
        ),
        (&[r#"{"type":"response.output_text.delta","delta":"x"}"#], true),
        (
            &[r#"{"type":"response.output_item.added","item":{"type":"function_call","name":"f"}}"#],
            true,
        ),
        (&[r#"{"type":"transcript.text.delta","delta":"x"}"#], true),
        (&["[DONE]"], false),
        (&[r#"{"error":{"message":"m"}}"#], false),
    ] {
        assert_eq!(whole(events).3, content, "{events:?}");
    }
}
