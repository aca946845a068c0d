//! Writes answers of the Responses API: documents, and the items and the object that streams repeat.

use super::super::collected::{Block, Collected};
use super::super::memory::{Memory, Naming};
use super::super::text::{Json, input_of, seal};
use super::super::words::{Counts, Stop};

/// Writes a whole answer.
pub(in super::super) fn write(answer: &Collected, memory: &Memory, naming: &Naming) -> Vec<u8> {
    let mut output = Json::with_capacity(answer.bytes + 512);
    let end = End::of(answer.ending.stop());
    output.open(b'[');
    let items: Vec<Item<'_>> = answer
        .blocks
        .iter()
        .filter_map(|block| Item::of(block, &answer.logprobs))
        .collect();
    for (index, item) in items.iter().enumerate() {
        // Only the last one was cut.
        let status = if index + 1 == items.len() {
            end.word()
        } else {
            "completed"
        };
        item.write(index, status, memory, naming, &mut output);
    }
    output.close(b']');
    let mut json = Json::with_capacity(output.0.len() + memory.echo.len() + 1024);
    response(&mut json, memory, naming, end, &output.0, Some(answer.ending.counts));
    json.0
}

/// The state of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum End {
    InProgress,
    Completed,
    /// The reason.
    Incomplete(&'static str),
}

impl End {
    /// The state behind an answer's end.
    pub(in super::super) fn of(stop: Stop) -> Self {
        match stop {
            Stop::Length | Stop::ContextFull => Self::Incomplete("max_output_tokens"),
            Stop::Filter => Self::Incomplete("content_filter"),
            Stop::End | Stop::Sequence | Stop::Tools | Stop::Pause => Self::Completed,
        }
    }

    /// Its word.
    pub(in super::super) fn word(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete(_) => "incomplete",
        }
    }
}

/// Writes the response object. `output` is a JSON array.
pub(in super::super) fn response(
    json: &mut Json,
    memory: &Memory,
    naming: &Naming,
    end: End,
    output: &[u8],
    counts: Option<Counts>,
) {
    json.open(b'{')
        .key("id")
        .value(&naming.id("resp_"))
        .key("object")
        .text(b"response");
    json.key("created_at")
        .number(naming.created)
        .key("status")
        .text(end.word().as_bytes());
    json.key("background")
        .value(b"false")
        .key("error")
        .value(b"null")
        .key("incomplete_details");
    match end {
        End::Incomplete(reason) => json.open(b'{').key("reason").text(reason.as_bytes()).close(b'}'),
        _ => json.value(b"null"),
    };
    json.key("model").value(&naming.model).key("output").value(output);
    json.key("previous_response_id")
        .value(b"null")
        .key("store")
        .value(b"false");
    json.key("truncation").text(b"disabled");
    if !memory.echo.is_empty() {
        json.value(&memory.echo);
    }
    json.key("usage");
    match counts {
        Some(counts) => usage(counts, json),
        None => {
            json.value(b"null");
        }
    }
    json.close(b'}');
}

fn usage(counts: Counts, json: &mut Json) {
    let (input, output) = (counts.input.unwrap_or(0), counts.output.unwrap_or(0));
    json.open(b'{')
        .key("input_tokens")
        .number(input)
        .key("input_tokens_details")
        .open(b'{');
    json.key("cached_tokens").number(counts.cached.unwrap_or(0));
    json.key("cache_write_tokens")
        .number(counts.written.unwrap_or(0))
        .close(b'}');
    json.key("output_tokens")
        .number(output)
        .key("output_tokens_details")
        .open(b'{');
    json.key("reasoning_tokens")
        .number(counts.reasoning.unwrap_or(0))
        .close(b'}');
    json.key("total_tokens")
        .number(input.saturating_add(output))
        .close(b'}');
}

/// An item of the output, or what is known of it.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Item<'a> {
    Message {
        text: &'a [u8],
        logprobs: &'a [u8],
    },
    Refusal(&'a [u8]),
    Thought(&'a [u8]),
    Call {
        id: &'a [u8],
        name: &'a [u8],
        arguments: &'a [u8],
    },
}

impl<'a> Item<'a> {
    fn of(block: &'a Block, logprobs: &'a [u8]) -> Option<Self> {
        Some(match block {
            Block::Text(text) => Self::Message { text, logprobs },
            Block::Refusal(text) => Self::Refusal(text),
            Block::Thought { text, .. } => Self::Thought(text),
            Block::Call {
                id, name, arguments, ..
            } => Self::Call { id, name, arguments },
            Block::Sealed(_) => return None,
        })
    }

    /// The beginning of its id.
    pub(in super::super) fn prefix(&self, memory: &Memory) -> &'static str {
        match self {
            Self::Message { .. } | Self::Refusal(_) => "msg_",
            Self::Thought(_) => "rs_",
            Self::Call { name, .. } if memory.is_custom(name) => "ctc_",
            Self::Call { .. } => "fc_",
        }
    }

    /// Writes it. An item that is only begun has no content.
    pub(in super::super) fn write(
        &self,
        index: usize,
        status: &str,
        memory: &Memory,
        naming: &Naming,
        json: &mut Json,
    ) {
        let is_begun = status == "in_progress";
        json.open(b'{')
            .key("id")
            .value(&naming.item_id(self.prefix(memory), index))
            .key("type");
        match self {
            Self::Message { .. } | Self::Refusal(_) => {
                json.text(b"message")
                    .key("status")
                    .text(status.as_bytes())
                    .key("role")
                    .text(b"assistant");
                json.key("content").open(b'[');
                if !is_begun {
                    self.part(json);
                }
                json.close(b']');
            }
            Self::Thought(text) => {
                json.text(b"reasoning").key("summary").open(b'[');
                if memory.wants_summary && !is_begun {
                    json.open(b'{')
                        .key("type")
                        .text(b"summary_text")
                        .key("text")
                        .text(text)
                        .close(b'}');
                }
                json.close(b']').key("content").open(b'[');
                if !memory.wants_summary && !is_begun {
                    self.part(json);
                }
                json.close(b']');
                if memory.wants_sealed && !is_begun {
                    json.key("encrypted_content").text(&seal(text));
                }
                json.key("status").text(status.as_bytes());
            }
            Self::Call { id, name, arguments } => {
                let (said, space) = memory.said(name);
                let is_custom = memory.is_custom(name);
                json.text(if is_custom {
                    b"custom_tool_call"
                } else {
                    b"function_call"
                });
                json.key("status").text(status.as_bytes());
                json.key("call_id")
                    .value(&naming.call_id(id, index))
                    .key("name")
                    .text(said);
                if !space.is_empty() {
                    json.key("namespace").text(space);
                }
                match (is_custom, is_begun) {
                    (true, true) => json.key("input").text(b""),
                    (true, false) => json.key("input").text(&input_of(arguments)),
                    (false, true) => json.key("arguments").text(b""),
                    (false, false) if arguments.is_empty() => json.key("arguments").text(b"{}"),
                    (false, false) => json.key("arguments").text(arguments),
                };
            }
        }
        json.close(b'}');
    }

    /// Writes its content's only part.
    pub(in super::super) fn part(&self, json: &mut Json) {
        match self {
            Self::Message { text, logprobs } => {
                json.open(b'{')
                    .key("type")
                    .text(b"output_text")
                    .key("text")
                    .text(text)
                    .key("annotations")
                    .value(b"[]");
                json.key("logprobs").open(b'[');
                if !logprobs.is_empty() {
                    json.value(logprobs);
                }
                json.close(b']').close(b'}');
            }
            Self::Refusal(text) => {
                json.open(b'{')
                    .key("type")
                    .text(b"refusal")
                    .key("refusal")
                    .text(text)
                    .close(b'}');
            }
            Self::Thought(text) => {
                json.open(b'{')
                    .key("type")
                    .text(b"reasoning_text")
                    .key("text")
                    .text(text)
                    .close(b'}');
            }
            Self::Call { .. } => {}
        }
    }
}
