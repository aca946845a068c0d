//! The messages: chat requests of a wanted size, the null model's reply, its events.

/// The model name that the null server answers with and the generator asks for.
pub(crate) const MODEL: &str = "bench-model";

/// Bytes of the null model's plain reply.
pub(crate) const REPLY_BYTES: usize = 400;

/// Bytes of one event, its blank line included.
pub(crate) const EVENT_BYTES: usize = 190;

/// Sentences for prompts: quotes, newlines, tabs, backslashes and non-ASCII letters, as in pasted code.
const SENTENCES: [&str; 6] = [
    r#"The function \"parse_head\" returns None while the blank line has not arrived.\n"#,
    r"    if (path == \u0022C:\\temp\\log.txt\u0022) {\n\treturn -1;\n    }\n",
    "Voil\u{e0} ce que dit la documentation : \u{ab} une ligne par \u{e9}v\u{e9}nement \u{bb}.\\n",
    "Please summarise the differences between the two versions in a short table. ",
    r#"| key | value |\n|---|---|\n| \"burst\" | 100 |\n"#,
    "What would you change first, and how would you measure that it helped? ",
];

/// A chat request of `bytes` bytes (or the smallest there is, when that is more), in turns of about 2 KB.
///
/// `stream` asks for that many events, as `max_tokens`.
pub(crate) fn chat_request(bytes: usize, model: &str, stream: Option<u32>) -> Vec<u8> {
    let tail = match stream {
        Some(events) => {
            format!(r#""}}],"max_tokens":{events},"stream":true,"stream_options":{{"include_usage":true}}}}"#)
        }
        None => r#""}],"temperature":0.7,"max_tokens":256}"#.to_owned(),
    };
    let mut text = format!(
        r#"{{"model":"{model}","messages":[{{"role":"system","content":"You are a terse, careful assistant."}},{{"role":"user","content":""#
    );
    let room = |text: &str| bytes.saturating_sub(text.len() + tail.len());
    let (mut turn_start, mut assistant) = (text.len(), false);
    for sentence in SENTENCES.iter().cycle() {
        let turn = if assistant {
            r#""},{"role":"user","content":""#
        } else {
            r#""},{"role":"assistant","content":""#
        };
        if text.len() - turn_start > 2_000 && room(&text) > turn.len() {
            text.push_str(turn);
            assistant = !assistant;
            turn_start = text.len();
        }
        if room(&text) < sentence.len() {
            break;
        }
        text.push_str(sentence);
    }
    let pad = room(&text);
    text.extend(std::iter::repeat_n('.', pad));
    text.push_str(&tail);
    text.into_bytes()
}

/// The null model's plain reply, `REPLY_BYTES` long.
pub(crate) fn reply() -> String {
    let head = format!(
        r#"{{"id":"chatcmpl-7f3a1c0d9b2e4856a1f0c3d2","object":"chat.completion","created":1735689600,"model":"{MODEL}","choices":[{{"index":0,"message":{{"role":"assistant","content":""#
    );
    let tail = r#""},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":57,"completion_tokens":17,"total_tokens":74,"prompt_tokens_details":{"cached_tokens":0}}}"#;
    let words = "Hello! This answer is as long as it has to be, ";
    let pad = REPLY_BYTES.saturating_sub(head.len() + tail.len());
    let content: String = words.chars().cycle().take(pad).collect();
    format!("{head}{content}{tail}")
}

/// The numbered event, `EVENT_BYTES` long.
pub(crate) fn event(number: u32) -> String {
    let head = format!(
        r#"data: {{"id":"chatcmpl-7f3a1c0d9b2e","object":"chat.completion.chunk","created":1735689600,"model":"{MODEL}","choices":[{{"index":0,"delta":{{"content":" #{number:06}"#
    );
    let tail = "\"},\"finish_reason\":null}]}\n\n";
    let pad = EVENT_BYTES.saturating_sub(head.len() + tail.len());
    format!("{head}{}{tail}", ".".repeat(pad))
}

/// The end of a stream of `events` events: the usage, then the terminator.
pub(crate) fn last_events(events: u32) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-7f3a1c0d9b2e\",\"object\":\"chat.completion.chunk\",\"created\":1735689600,\"model\":\"{MODEL}\",\"choices\":[],\"usage\":{{\"prompt_tokens\":57,\"completion_tokens\":{events},\"total_tokens\":{}}}}}\n\ndata: [DONE]\n\n",
        57 + u64::from(events)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_wanted_size() {
        for bytes in [300, 301, 1_000, 2_100, 4_200, 20_000, 20_480, 100_000] {
            for stream in [None, Some(400)] {
                assert_eq!(chat_request(bytes, MODEL, stream).len(), bytes, "{bytes} {stream:?}");
            }
        }
        assert!(chat_request(1, MODEL, None).len() > 100, "the smallest there is");
    }

    #[test]
    fn large_requests_take_turns_and_carry_escapes() {
        let text = String::from_utf8(chat_request(20_000, MODEL, None)).unwrap_or_default();
        assert!(text.matches("\"role\":\"assistant\"").count() >= 3);
        assert!(text.matches('\\').count() > 500);
        assert!(text.ends_with("\"max_tokens\":256}"));
    }

    #[test]
    fn reply_and_events_have_their_sizes() {
        assert_eq!(reply().len(), REPLY_BYTES);
        for number in [0, 17, 999_999] {
            assert_eq!(event(number).len(), EVENT_BYTES);
        }
    }
}
