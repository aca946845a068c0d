//! Reads requests of the Responses API.

use std::borrow::Cow;

use super::super::loss::{Loss, Refusal};
use super::super::memory::{Memory, Named};
use super::super::reading::{MAX_PARTS, data_url, flag, is_set, knob};
use super::super::text::{Json, Text, joined, unseal};
use super::super::words::{Arguments, Ask, Choice, Effort, Format, Knob, Part, Thinking, Tool, Turn, Who};
use crate::json::tape::{Kind, Value};

/// The schema of a tool that takes one text.
const TEXT_SCHEMA: &[u8] =
    br#"{"type":"object","properties":{"input":{"type":"string"}},"required":["input"],"additionalProperties":false}"#;

/// Reads a request. What the answer repeats is kept in `memory`.
pub(in super::super) fn read<'a>(
    body: Value<'a>,
    loss: &mut Loss<'_>,
    memory: &mut Memory,
) -> Result<Ask<'a>, Refusal> {
    let mut ask = Ask::default();
    let mut input = None;
    for (name, value) in body.members() {
        match &*name {
            b"model" => {}
            b"input" => input = Some(value),
            b"instructions" => {
                if let Some(text) = value.text().filter(|text| !text.is_empty()) {
                    ask.system.push(Part::Text(text.into(), None));
                }
            }
            b"max_output_tokens" if !value.is_null() => ask.limit = Some(value.raw()),
            b"stream" => ask.stream = flag(value),
            b"tools" => read_tools(value, &mut ask, loss, memory)?,
            b"tool_choice" => {}
            b"parallel_tool_calls" if !value.is_null() => ask.parallel = Some(flag(value)),
            b"temperature" => knob(&mut ask, "temperature", "temperature", value),
            b"top_p" => knob(&mut ask, "top_p", "top_p", value),
            b"top_logprobs" => knob(&mut ask, "top_logprobs", "top_logprobs", value),
            b"text" => read_text(value, &mut ask, loss)?,
            b"reasoning" => {
                for (name, value) in value.members() {
                    match (&*name, value.text()) {
                        (b"effort", Some(b"none")) => ask.thinking = Thinking::Off,
                        (b"effort", Some(word)) => {
                            ask.thinking = Effort::of(word).map_or(Thinking::Unset, Thinking::Effort);
                        }
                        (b"summary" | b"generate_summary", Some(_)) => memory.wants_summary = true,
                        _ if value.is_null() => {}
                        _ => loss.dropped([b"reasoning.", &*name].concat()),
                    }
                }
            }
            b"include" => {
                for word in value.elements().filter_map(Value::text) {
                    match word {
                        b"reasoning.encrypted_content" => memory.wants_sealed = true,
                        b"message.output_text.logprobs" => ask.knobs.push(Knob {
                            name: "logprobs",
                            said: "include",
                            value: b"true",
                        }),
                        _ => loss.dropped("include"),
                    }
                }
            }
            b"previous_response_id" if is_set(value) => {
                return Err(Refusal {
                    code: "previous_response_not_found",
                    ..loss.refusal(
                        "previous_response_id",
                        "`previous_response_id`: answers are not stored here, so it",
                    )
                });
            }
            b"conversation" | b"background" | b"prompt" | b"context_management" | b"max_tool_calls"
                if is_set(value) =>
            {
                let name = String::from_utf8_lossy(&name).into_owned();
                return Err(loss.refusal(name.clone(), &format!("`{name}`")));
            }
            b"truncation" if value.text() == Some(b"auto") => loss.lossy("truncation", "`truncation`")?,
            b"service_tier" => ask.tier = value.text(),
            b"user" if !value.is_null() => (ask.user, ask.user_name) = (value.text(), "user"),
            b"safety_identifier" if !value.is_null() => (ask.user, ask.user_name) = (value.text(), "safety_identifier"),
            b"user" | b"safety_identifier" => {}
            // The answer repeats it.
            b"metadata" => {}
            b"store"
            | b"prompt_cache_key"
            | b"prompt_cache_retention"
            | b"client_metadata"
            | b"moderation"
            | b"stream_options" => {
                if is_set(value) {
                    loss.dropped(&name);
                }
            }
            _ if !is_set(value) => {}
            _ => ask.extras.push((name, value.raw())),
        }
    }
    match input {
        Some(input) if input.kind() == Kind::Text => ask.turns.push(Turn {
            who: Who::User,
            parts: vec![Part::Text(input.text().unwrap_or_default().into(), None)],
            at: 0,
        }),
        Some(input) => read_input(input, &mut ask, loss, memory)?,
        None => {}
    }
    if let Some(choice) = body.get("tool_choice") {
        read_choice(choice, &mut ask, loss)?;
    }
    if ask.turns.is_empty() {
        return Err(Refusal::invalid(
            "input",
            "`input` must be a text, or a list with at least one item",
        ));
    }
    echo(body, memory);
    Ok(ask)
}

/// Keeps the members that every answer repeats.
fn echo(body: Value<'_>, memory: &mut Memory) {
    let mut json = Json::default();
    let nothing: &[u8] = b"null";
    let members: [(&str, &[u8]); 13] = [
        ("instructions", nothing),
        ("max_output_tokens", nothing),
        ("metadata", b"{}"),
        ("parallel_tool_calls", b"true"),
        ("reasoning", br#"{"effort":null,"summary":null}"#),
        ("safety_identifier", nothing),
        ("service_tier", br#""default""#),
        ("temperature", b"1.0"),
        ("text", br#"{"format":{"type":"text"}}"#),
        ("tool_choice", br#""auto""#),
        ("tools", b"[]"),
        ("top_p", b"1.0"),
        ("user", nothing),
    ];
    for (name, default) in members {
        json.key(name).value(body.get(name).map_or(default, Value::raw));
    }
    memory.echo = json.0;
}

fn read_input<'a>(
    input: Value<'a>,
    ask: &mut Ask<'a>,
    loss: &mut Loss<'_>,
    memory: &mut Memory,
) -> Result<(), Refusal> {
    let mut parts_left = MAX_PARTS;
    // Calls and reasoning belong to one turn of the assistant.
    for (at, item) in input.elements().enumerate() {
        let text = |name: &str| item.get(name).and_then(Value::text);
        let path = |name: &str| format!("input[{at}].{name}");
        parts_left = parts_left
            .checked_sub(1 + item.get("content").map_or(0, |content| content.elements().count()))
            .ok_or_else(|| Refusal::invalid("input", format!("`input` has more than {MAX_PARTS} items and parts")))?;
        match text("type").unwrap_or(b"message") {
            b"message" => {
                let who = match text("role") {
                    Some(b"user") => Who::User,
                    Some(b"assistant") => Who::Assistant,
                    Some(b"system" | b"developer") => Who::System,
                    _ => {
                        return Err(Refusal::invalid(
                            path("role"),
                            "an item needs a known `type`, or a `role`",
                        ));
                    }
                };
                let mut parts = Vec::new();
                read_content(item.get("content"), &path("content"), &mut parts, loss)?;
                if who == Who::System && ask.turns.is_empty() {
                    ask.system.extend(parts);
                } else if who == Who::Assistant && !has_spoken(ask) {
                    assistant(ask, at).extend(parts);
                } else {
                    ask.turns.push(Turn { who, parts, at });
                }
            }
            b"reasoning" => {
                let thought = |name: &str| {
                    let texts = item.get(name).into_iter().flat_map(Value::elements);
                    let texts = texts.filter_map(|part| part.get("text")?.text()).map(Text::from);
                    Some(joined(texts, b"\\n")).filter(|text| !text.is_empty())
                };
                let sealed = || text("encrypted_content").and_then(unseal).map(Cow::Owned);
                if has_spoken(ask) {
                    ask.turns.push(Turn {
                        who: Who::Assistant,
                        parts: Vec::new(),
                        at,
                    });
                }
                if let Some(text) = thought("content").or_else(|| thought("summary")).or_else(sealed) {
                    assistant(ask, at).push(Part::Thought { text, signature: None });
                }
            }
            b"function_call" => {
                let name = text("name").ok_or_else(|| Refusal::invalid(path("name"), "a call needs a name"))?;
                let name = match text("namespace") {
                    Some(space) => memory.spaced(space, name, false).into(),
                    None => Text::from(name),
                };
                let call = Part::Call {
                    id: text("call_id").unwrap_or_default().into(),
                    name,
                    arguments: Arguments::Text(text("arguments").unwrap_or_default().into()),
                };
                assistant(ask, at).push(call);
            }
            b"custom_tool_call" => {
                let name = text("name").ok_or_else(|| Refusal::invalid(path("name"), "a call needs a name"))?;
                let input = text("input").unwrap_or_default();
                let call = Part::Call {
                    id: text("call_id").unwrap_or_default().into(),
                    name: name.into(),
                    arguments: Arguments::Object([b"{\"input\":\"", input, b"\"}"].concat().into()),
                };
                assistant(ask, at).push(call);
            }
            b"function_call_output" | b"custom_tool_call_output" => {
                let mut parts = Vec::new();
                read_content(item.get("output"), &path("output"), &mut parts, loss)?;
                let result = Part::Result {
                    id: text("call_id").unwrap_or_default().into(),
                    is_error: false,
                    parts,
                };
                match ask.turns.last_mut() {
                    Some(turn) if turn.parts.iter().all(|part| matches!(part, Part::Result { .. })) => {
                        turn.parts.push(result);
                    }
                    _ => ask.turns.push(Turn {
                        who: Who::User,
                        parts: vec![result],
                        at,
                    }),
                }
            }
            b"web_search_call" => loss.dropped("web_search_call"),
            _ => return Err(loss.refusal(path("type"), "an item of this type")),
        }
    }
    Ok(())
}

/// True when the last turn is the assistant's and has a text or a call: more of a message begins another.
fn has_spoken(ask: &Ask<'_>) -> bool {
    ask.turns.last().is_some_and(|turn| {
        turn.who == Who::Assistant && turn.parts.iter().any(|part| !matches!(part, Part::Thought { .. }))
    })
}

/// The parts of the assistant's turn that goes on.
fn assistant<'b, 'a>(ask: &'b mut Ask<'a>, at: usize) -> &'b mut Vec<Part<'a>> {
    if ask.turns.last().is_none_or(|turn| turn.who != Who::Assistant) {
        ask.turns.push(Turn {
            who: Who::Assistant,
            parts: Vec::new(),
            at,
        });
    }
    let last = ask.turns.len() - 1;
    &mut ask.turns[last].parts
}

fn read_content<'a>(
    content: Option<Value<'a>>,
    path: &str,
    parts: &mut Vec<Part<'a>>,
    loss: &mut Loss<'_>,
) -> Result<(), Refusal> {
    let Some(content) = content else {
        return Ok(());
    };
    if let Some(text) = content.text() {
        parts.push(Part::Text(text.into(), None));
        return Ok(());
    }
    if content.kind() != Kind::Array {
        return Err(Refusal::invalid(path, "must be a text or a list"));
    }
    for (index, part) in content.elements().enumerate() {
        let text = |name: &str| part.get(name).and_then(Value::text);
        let path = |name: &str| format!("{path}[{index}].{name}");
        match text("type").unwrap_or_default() {
            b"input_text" | b"output_text" | b"text" => {
                parts.push(Part::Text(text("text").unwrap_or_default().into(), None));
            }
            b"refusal" => parts.push(Part::Text(text("refusal").unwrap_or_default().into(), None)),
            b"input_image" => match text("image_url") {
                Some(url) => parts.push(Part::Image(data_url(url))),
                None => return Err(loss.refusal(path("file_id"), "an image by its id")),
            },
            b"input_file" => match text("file_data") {
                Some(data) => parts.push(Part::Document {
                    source: data_url(data),
                    title: text("filename").map(Text::from),
                }),
                None => {
                    let name = if text("file_url").is_some() {
                        "file_url"
                    } else {
                        "file_id"
                    };
                    return Err(loss.refusal(path(name), "a file by its address or id"));
                }
            },
            b"input_audio" => {
                let audio = part.get("input_audio").unwrap_or(part);
                let inner = |name: &str| audio.get(name).and_then(Value::text).unwrap_or_default();
                parts.push(Part::Audio {
                    data: inner("data"),
                    format: inner("format"),
                });
            }
            _ => return Err(loss.refusal(path("type"), "a part of this type")),
        }
    }
    Ok(())
}

fn read_tools<'a>(
    tools: Value<'a>,
    ask: &mut Ask<'a>,
    loss: &mut Loss<'_>,
    memory: &mut Memory,
) -> Result<(), Refusal> {
    for (index, tool) in tools.elements().enumerate() {
        let text = |name: &str| tool.get(name).and_then(Value::text);
        match text("type").unwrap_or_default() {
            b"function" => ask.tools.extend(function(tool, None)),
            b"custom" => {
                let Some(name) = text("name") else { continue };
                memory.names.push(Named {
                    sent: name.to_vec(),
                    said: name.to_vec(),
                    space: Vec::new(),
                    is_custom: true,
                });
                let grammar = tool.get("format").and_then(|format| {
                    let inner = format.get("grammar").unwrap_or(format);
                    inner.get("definition")?.text()
                });
                let texts = [text("description"), grammar].into_iter().flatten().map(Text::from);
                ask.tools.push(Tool {
                    name: name.into(),
                    description: Some(joined(texts, b"\\n\\n")).filter(|text| !text.is_empty()),
                    schema: TEXT_SCHEMA.into(),
                    strict: None,
                    cache: None,
                });
            }
            b"namespace" => {
                let Some(space) = text("name") else { continue };
                for inner in tool.get("tools").into_iter().flat_map(Value::elements) {
                    let Some(name) = inner.get("name").and_then(Value::text) else {
                        continue;
                    };
                    let sent = memory.spaced(space, name, false);
                    ask.tools.extend(function(inner, Some(sent)));
                }
            }
            kind => {
                let what = format!("the tool `{}`", String::from_utf8_lossy(kind));
                loss.lossy(format!("tools[{index}].type"), &what)?;
            }
        }
    }
    Ok(())
}

fn function<'a>(tool: Value<'a>, name: Option<Vec<u8>>) -> Option<Tool<'a>> {
    let text = |name: &str| tool.get(name).and_then(Value::text);
    Some(Tool {
        name: match name {
            Some(name) => Cow::Owned(name),
            None => text("name")?.into(),
        },
        description: text("description").map(Text::from),
        schema: tool
            .get("parameters")
            .map_or(Text::Borrowed(b""), |schema| schema.raw().into()),
        strict: tool.get("strict").map(flag),
        cache: None,
    })
}

fn read_choice<'a>(choice: Value<'a>, ask: &mut Ask<'a>, loss: &mut Loss<'_>) -> Result<(), Refusal> {
    let text = |name: &str| choice.get(name).and_then(Value::text);
    ask.choice = match (choice.text(), text("type")) {
        (Some(b"auto"), _) => Choice::Auto,
        (Some(b"none"), _) => Choice::Never,
        (Some(b"required"), _) => Choice::Any,
        (None, Some(b"function" | b"custom")) => Choice::Tool(text("name").unwrap_or_default().into()),
        (None, Some(b"allowed_tools")) => {
            let tools = choice.get("tools").into_iter().flat_map(Value::elements);
            let allowed: Vec<&[u8]> = tools.filter_map(|tool| tool.get("name")?.text()).collect();
            ask.tools.retain(|tool| allowed.contains(&&*tool.name));
            if text("mode") == Some(b"required") {
                Choice::Any
            } else {
                Choice::Auto
            }
        }
        _ => {
            loss.lossy("tool_choice", "this `tool_choice`")?;
            Choice::Unset
        }
    };
    Ok(())
}

fn read_text<'a>(text: Value<'a>, ask: &mut Ask<'a>, loss: &mut Loss<'_>) -> Result<(), Refusal> {
    for (name, value) in text.members() {
        match &*name {
            b"format" => {
                ask.format = match (value.get("type").and_then(Value::text), value.get("schema")) {
                    (Some(b"text") | None, _) => Format::Text,
                    (Some(b"json_object"), _) => Format::Json,
                    (Some(b"json_schema"), Some(schema)) => Format::Schema {
                        name: value.get("name").and_then(Value::text).map(Text::from),
                        schema: schema.raw(),
                        strict: value.get("strict").map(flag),
                    },
                    _ => return Err(loss.refusal("text.format", "this format")),
                };
            }
            b"verbosity" => knob(ask, "verbosity", "text.verbosity", value),
            _ if value.is_null() => {}
            _ => loss.dropped([b"text.", &*name].concat()),
        }
    }
    Ok(())
}
