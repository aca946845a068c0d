//! Translations by the public API: every pair, whole and cut anywhere, and what is hostile.

use std::sync::Arc;

use budgateway_core::dialect::{Answer, Dialect, Fault, InlineSystem, Naming, Refusal, Target, request};

const CHAT: &str = concat!(
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"h\\u00e9 \\\"x\\\"\"}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c\",\"function\":",
    "{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\n",
    "data: [DONE]\n\n",
);
const MESSAGES: &str = concat!(
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"usage\":{\"input_tokens\":7}}}\n\n",
    "data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
    "data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"hi\"}}\n\n",
    "data: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
    "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":3}}\n\n",
    "data: {\"type\":\"message_stop\"}\n\n",
);
const GEMINI: &str = concat!(
    "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"hi\"}]}}]}\r\n\r\n",
    "data: {\"candidates\":[{\"content\":{\"parts\":[{\"functionCall\":{\"name\":\"f\",\"args\":{\"a\":1}}}]},",
    "\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":7,\"candidatesTokenCount\":3}}\r\n\r\n",
);
const CLIENTS: [Dialect; 4] = [
    Dialect::Messages,
    Dialect::Chat,
    Dialect::Responses,
    Dialect::Completions,
];

fn target(dialect: Dialect) -> Target {
    Target {
        dialect,
        name: "p".into(),
        is_openai: false,
        is_engine: false,
        drops: true,
        limit_field: "max_tokens".into(),
        reasoning_field: "reasoning_content".into(),
        replays_reasoning: true,
        inline_system: InlineSystem::Fold,
        tool_images_inline: false,
        passes_unknown: false,
        default_max_tokens: 8192,
    }
}

fn body(client: Dialect) -> &'static str {
    match client {
        Dialect::Messages => r#"{"max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#,
        Dialect::Chat => r#"{"messages":[{"role":"user","content":"hi"}],"stream_options":{"include_usage":true}}"#,
        Dialect::Completions => r#"{"prompt":"hi"}"#,
        _ => r#"{"input":"hi"}"#,
    }
}

fn answer(client: Dialect, upstream: Dialect, to_stream: bool) -> Answer {
    let asked = request(client, &target(upstream), body(client).as_bytes(), "theirs");
    let memory = asked.map(|asked| asked.memory).unwrap_or_default();
    let naming = Naming::new("id", "model", "p", 1);
    Answer::new(Arc::new(memory), naming, upstream, client, true, to_stream)
}

fn fed(mut answer: Answer, data: &[u8], size: usize) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::new();
    for piece in data.chunks(size) {
        answer.feed(piece, &mut out)?;
    }
    answer.finish(&mut out)?;
    Ok(out)
}

#[test]
fn cuts_change_nothing() {
    let streams = [
        (Dialect::Chat, CHAT),
        (Dialect::Messages, MESSAGES),
        (Dialect::Gemini, GEMINI),
    ];
    for client in CLIENTS {
        for (upstream, stream) in streams {
            for to_stream in [true, false] {
                let whole = fed(answer(client, upstream, to_stream), stream.as_bytes(), stream.len()).unwrap();
                assert!(!whole.is_empty());
                for size in 1..64 {
                    let cut = fed(answer(client, upstream, to_stream), stream.as_bytes(), size).unwrap();
                    assert_eq!(cut, whole, "{client:?} {upstream:?} {size}");
                }
            }
        }
    }
}

#[test]
fn texts_are_copied_as_they_stand() {
    let out = fed(answer(Dialect::Messages, Dialect::Chat, true), CHAT.as_bytes(), 9).unwrap();
    let out = String::from_utf8(out).unwrap();
    assert!(out.contains(r#""text":"h\u00e9 \"x\"""#), "{out}");
    assert!(out.contains(r#""partial_json":"{\"a\":1}""#), "{out}");
    assert!(out.ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"));
}

#[test]
fn prefixes_and_flipped_bytes_are_faults_or_streams() {
    for client in CLIENTS {
        for at in 0..CHAT.len() {
            let _ = fed(answer(client, Dialect::Chat, true), &CHAT.as_bytes()[..at], 50);
            let mut flipped = CHAT.as_bytes().to_vec();
            flipped[at] ^= 0x11;
            let _ = fed(answer(client, Dialect::Chat, at % 2 == 0), &flipped, 50);
        }
    }
}

#[test]
fn held_parts_are_bounded() {
    let mut answer = answer(Dialect::Messages, Dialect::Chat, true);
    let mut out = Vec::new();
    let mut call = |index: usize, arguments: &str| {
        let data = format!(
            "data: {{\"choices\":[{{\"delta\":{{\"tool_calls\":[{{\"index\":{index},\"id\":\"c{index}\",\"function\":\
             {{\"name\":\"f\",\"arguments\":\"{arguments}\"}}}}]}}}}]}}\n\n"
        );
        answer.feed(data.as_bytes(), &mut out)
    };
    call(0, "{").unwrap();
    let long = "x".repeat(64 * 1024);
    let fault = (0..64).find_map(|_| call(1, &long).err());
    assert!(fault.is_some());
}

#[test]
fn a_refusal_names_the_field() {
    let strict = Target {
        drops: false,
        ..target(Dialect::Messages)
    };
    let asked = request(
        Dialect::Chat,
        &strict,
        br#"{"messages":[{"role":"user","content":"a"}],"n":2}"#,
        "m",
    );
    let Err(Refusal {
        param, is_unsupported, ..
    }) = asked
    else {
        panic!("n was not refused");
    };
    assert_eq!((&*param, is_unsupported), ("n", true));
    let deep = format!(r#"{{"messages":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    assert!(request(Dialect::Chat, &strict, deep.as_bytes(), "m").is_err());
}
