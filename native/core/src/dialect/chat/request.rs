//! Reads requests of the Chat Completions API.

use std::borrow::Cow;

use super::super::loss::{Loss, Refusal};
use super::super::memory::{Memory, Named};
use super::super::reading::{MAX_PARTS, data_url, flag, is_set, knob};
use super::super::text::{Text, joined};
use super::super::words::{Arguments, Ask, Choice, Effort, Format, Part, Source, Thinking, Tool, Turn, Who};
use crate::json::tape::{Kind, Value};

/// The id of calls that have none.
const LEGACY_ID: &[u8] = b"call_function";

/// The schema of a tool that takes one text.
const TEXT_SCHEMA: &[u8] =
    br#"{"type":"object","properties":{"input":{"type":"string"}},"required":["input"],"additionalProperties":false}"#;

/// The settings that other dialects may have.
const KNOBS: [&str; 15] = [
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "n",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "verbosity",
    "min_p",
    "repetition_penalty",
    "prediction",
    "modalities",
];

/// Reads a request.
pub(in super::super) fn read<'a>(
    body: Value<'a>,
    loss: &mut Loss<'_>,
    memory: &mut Memory,
) -> Result<Ask<'a>, Refusal> {
    let mut ask = Ask::default();
    let (mut limit, mut older_limit, mut functions) = (None, None, None);
    for (name, value) in body.members() {
        match &*name {
            b"model" => {}
            b"messages" => read_messages(value, &mut ask, loss)?,
            b"max_completion_tokens" => limit = Some(value).filter(|value| !value.is_null()),
            b"max_tokens" => older_limit = Some(value).filter(|value| !value.is_null()),
            b"stream" => ask.stream = flag(value),
            b"stream_options" => ask.wants_usage = value.get("include_usage").is_some_and(flag),
            b"tools" => read_tools(value, &mut ask, loss, memory)?,
            b"functions" => functions = Some(value),
            b"tool_choice" | b"function_call" => {}
            b"parallel_tool_calls" if !value.is_null() => ask.parallel = Some(flag(value)),
            b"stop" => {
                ask.stop = value
                    .text()
                    .into_iter()
                    .chain(value.elements().filter_map(Value::text))
                    .collect();
            }
            b"reasoning_effort" => {
                ask.thinking = match value.text() {
                    Some(b"none") => Thinking::Off,
                    Some(word) => Effort::of(word).map_or(Thinking::Unset, Thinking::Effort),
                    None => Thinking::Unset,
                };
            }
            b"response_format" => {
                let schema = value.get("json_schema");
                ask.format = match (
                    value.get("type").and_then(Value::text),
                    schema.and_then(|part| part.get("schema")),
                ) {
                    (Some(b"text") | None, _) => Format::Text,
                    (Some(b"json_object"), _) => Format::Json,
                    (Some(b"json_schema"), Some(inner)) => Format::Schema {
                        name: schema.and_then(|part| part.get("name")?.text()).map(Text::from),
                        schema: inner.raw(),
                        strict: schema.and_then(|part| part.get("strict")).map(flag),
                    },
                    _ => return Err(loss.refusal("response_format", "this format")),
                };
            }
            b"user" if !value.is_null() => (ask.user, ask.user_name) = (value.text(), "user"),
            b"safety_identifier" if !value.is_null() => (ask.user, ask.user_name) = (value.text(), "safety_identifier"),
            b"user" | b"safety_identifier" => {}
            b"service_tier" => ask.tier = value.text(),
            b"audio" if is_set(value) => return Err(loss.refusal("audio", "`audio`")),
            b"web_search_options" if !value.is_null() => loss.lossy("web_search_options", "`web_search_options`")?,
            b"metadata" | b"store" | b"prompt_cache_key" | b"prompt_cache_retention" | b"moderation" => {
                if is_set(value) {
                    loss.dropped(&name);
                }
            }
            other => match KNOBS.iter().find(|knob| knob.as_bytes() == other) {
                Some(said) => knob(&mut ask, said, said, value),
                None if is_set(value) => ask.extras.push((name, value.raw())),
                None => {}
            },
        }
    }
    ask.limit = limit.or(older_limit).map(Value::raw);
    for function in functions.into_iter().flat_map(Value::elements) {
        ask.tools.extend(tool_of(function, None));
    }
    if let Some(choice) = body.get("tool_choice").or_else(|| body.get("function_call")) {
        read_choice(choice, &mut ask, loss)?;
    }
    if ask.turns.is_empty() && ask.system.is_empty() {
        return Err(Refusal::invalid(
            "messages",
            "`messages` must be a list with at least one message",
        ));
    }
    Ok(ask)
}

fn read_messages<'a>(messages: Value<'a>, ask: &mut Ask<'a>, loss: &mut Loss<'_>) -> Result<(), Refusal> {
    let mut parts_left = MAX_PARTS;
    for (at, message) in messages.elements().enumerate() {
        let text = |name: &str| message.get(name).and_then(Value::text);
        let path = |name: &str| format!("messages[{at}].{name}");
        if text("name").is_some() && text("role") != Some(b"function") {
            loss.dropped("messages.name");
        }
        let mut parts = Vec::new();
        let who = match text("role") {
            Some(b"user") => Who::User,
            Some(b"assistant") => Who::Assistant,
            Some(b"system" | b"developer") => Who::System,
            Some(role @ (b"tool" | b"function")) => {
                let mut inner = Vec::new();
                read_content(message.get("content"), &path("content"), &mut inner, loss)?;
                parts.push(Part::Result {
                    id: if role == b"tool" {
                        text("tool_call_id").unwrap_or_default()
                    } else {
                        LEGACY_ID
                    }
                    .into(),
                    is_error: false,
                    parts: inner,
                });
                Who::User
            }
            _ => return Err(Refusal::invalid(path("role"), "a message needs a known role")),
        };
        if who == Who::Assistant {
            read_thoughts(message, &mut parts);
        }
        if parts.is_empty() || who == Who::Assistant {
            read_content(message.get("content"), &path("content"), &mut parts, loss)?;
        }
        if let Some(refusal) = text("refusal").filter(|text| !text.is_empty()) {
            parts.push(Part::Text(refusal.into(), None));
        }
        let calls = message
            .get("tool_calls")
            .into_iter()
            .flat_map(Value::elements)
            .enumerate();
        for (index, call) in calls {
            read_call(call, &path(&format!("tool_calls[{index}]")), &mut parts)?;
        }
        if let Some(function) = message.get("function_call") {
            parts.push(call_of(function, LEGACY_ID, &path("function_call"))?);
        }
        parts_left = parts_left.checked_sub(parts.len() + 1).ok_or_else(|| {
            Refusal::invalid(
                "messages",
                format!("`messages` has more than {MAX_PARTS} messages and parts"),
            )
        })?;
        if who == Who::System && ask.turns.is_empty() {
            ask.system.extend(parts);
        } else {
            ask.turns.push(Turn { who, parts, at });
        }
    }
    Ok(())
}

/// Reads earlier reasoning: with the signatures that the gateway passed on, or its text.
fn read_thoughts<'a>(message: Value<'a>, parts: &mut Vec<Part<'a>>) {
    let signed = message
        .get("extra_content")
        .and_then(|extra| extra.get("anthropic")?.get("thinking"))
        .or_else(|| message.get("thinking_blocks"));
    for block in signed.into_iter().flat_map(Value::elements) {
        let text = |name: &str| block.get(name).and_then(Value::text);
        match text("data") {
            Some(data) => parts.push(Part::Sealed(data.into())),
            None => parts.push(Part::Thought {
                text: text("thinking").unwrap_or_default().into(),
                signature: text("signature").map(Text::from),
            }),
        }
    }
    let text = |name: &str| message.get(name).and_then(Value::text);
    if let (true, Some(text)) = (
        parts.is_empty(),
        text("reasoning_content").or_else(|| text("reasoning")),
    ) {
        parts.push(Part::Thought {
            text: text.into(),
            signature: None,
        });
    }
}

fn read_call<'a>(call: Value<'a>, path: &str, parts: &mut Vec<Part<'a>>) -> Result<(), Refusal> {
    let id = call.get("id").and_then(Value::text).unwrap_or_default();
    if let Some(custom) = call.get("custom") {
        let text = |name: &str| custom.get(name).and_then(Value::text).unwrap_or_default();
        parts.push(Part::Call {
            id: id.into(),
            name: text("name").into(),
            arguments: Arguments::Object([b"{\"input\":\"", text("input"), b"\"}"].concat().into()),
        });
        return Ok(());
    }
    let function = call.get("function");
    let function = function.ok_or_else(|| Refusal::invalid(path, "a tool call needs a `function`"))?;
    parts.push(call_of(function, id, &format!("{path}.function"))?);
    Ok(())
}

fn call_of<'a>(function: Value<'a>, id: &'a [u8], path: &str) -> Result<Part<'a>, Refusal> {
    let name = function.get("name").and_then(Value::text);
    let arguments = function.get("arguments");
    Ok(Part::Call {
        id: id.into(),
        name: name
            .ok_or_else(|| Refusal::invalid(format!("{path}.name"), "a call needs a name"))?
            .into(),
        arguments: match arguments {
            Some(value) if value.kind() == Kind::Object => Arguments::Object(value.raw().into()),
            value => Arguments::Text(value.and_then(Value::text).unwrap_or_default().into()),
        },
    })
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
            b"text" => {
                let cache = part.get("cache_control").map(Value::raw);
                parts.push(Part::Text(text("text").unwrap_or_default().into(), cache));
            }
            b"refusal" => parts.push(Part::Text(text("refusal").unwrap_or_default().into(), None)),
            b"image_url" => {
                let image = part.get("image_url");
                let url = image.and_then(|image| image.text().or_else(|| image.get("url")?.text()));
                let url = url.ok_or_else(|| Refusal::invalid(path("image_url"), "an image needs a `url`"))?;
                if image.is_some_and(|image| image.get("detail").is_some()) {
                    loss.dropped("image_url.detail");
                }
                parts.push(match data_url(url) {
                    Source::Base64 { media, data } if &*media == b"application/pdf" => Part::Document {
                        source: Source::Base64 { media, data },
                        title: None,
                    },
                    source => Part::Image(source),
                });
            }
            b"file" => {
                let file = part.get("file");
                let inner = |name: &str| file.and_then(|file| file.get(name)?.text());
                match inner("file_data") {
                    Some(data) => parts.push(Part::Document {
                        source: data_url(data),
                        title: inner("filename").map(Text::from),
                    }),
                    None => return Err(loss.refusal(path("file.file_id"), "a file by its id")),
                }
            }
            b"input_audio" => {
                let audio = part.get("input_audio");
                let inner = |name: &str| audio.and_then(|audio| audio.get(name)?.text()).unwrap_or_default();
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
        let cache = tool.get("cache_control").map(Value::raw);
        match tool.get("type").and_then(Value::text) {
            Some(b"function") | None => ask
                .tools
                .extend(tool.get("function").and_then(|inner| tool_of(inner, cache))),
            Some(b"custom") => {
                let custom = tool.get("custom").unwrap_or(tool);
                let text = |name: &str| custom.get(name).and_then(Value::text);
                let Some(name) = text("name") else { continue };
                memory.names.push(Named {
                    sent: name.to_vec(),
                    said: name.to_vec(),
                    space: Vec::new(),
                    is_custom: true,
                });
                let grammar = custom
                    .get("format")
                    .and_then(|format| format.get("grammar")?.get("definition")?.text());
                let texts = [text("description"), grammar].into_iter().flatten().map(Text::from);
                ask.tools.push(Tool {
                    name: name.into(),
                    description: Some(joined(texts, b"\\n\\n")).filter(|text| !text.is_empty()),
                    schema: TEXT_SCHEMA.into(),
                    strict: None,
                    cache,
                });
            }
            Some(kind) => {
                let what = format!("the tool `{}`", String::from_utf8_lossy(kind));
                loss.lossy(format!("tools[{index}].type"), &what)?;
            }
        }
    }
    Ok(())
}

fn tool_of<'a>(function: Value<'a>, cache: Option<&'a [u8]>) -> Option<Tool<'a>> {
    Some(Tool {
        name: function.get("name")?.text()?.into(),
        description: function.get("description").and_then(Value::text).map(Text::from),
        schema: function
            .get("parameters")
            .map_or(Cow::Borrowed(b""), |schema| schema.raw().into()),
        strict: function.get("strict").map(flag),
        cache,
    })
}

fn read_choice<'a>(choice: Value<'a>, ask: &mut Ask<'a>, loss: &mut Loss<'_>) -> Result<(), Refusal> {
    let name = |of: Option<Value<'a>>| of.and_then(|of| of.get("name")?.text());
    ask.choice = match (choice.text(), choice.get("type").and_then(Value::text)) {
        (Some(b"auto"), _) => Choice::Auto,
        (Some(b"none"), _) => Choice::Never,
        (Some(b"required"), _) => Choice::Any,
        (None, Some(b"allowed_tools")) => {
            let allowed = choice.get("allowed_tools").unwrap_or(choice);
            let tools = allowed.get("tools").into_iter().flat_map(Value::elements);
            let names: Vec<&[u8]> = tools
                .filter_map(|tool| name(tool.get("function").or(Some(tool))))
                .collect();
            ask.tools.retain(|tool| names.contains(&&*tool.name));
            match allowed.get("mode").and_then(Value::text) {
                Some(b"required") => Choice::Any,
                _ => Choice::Auto,
            }
        }
        _ => {
            let inner = choice.get("function").or_else(|| choice.get("custom")).or(Some(choice));
            match name(inner) {
                Some(name) => Choice::Tool(name.into()),
                None => {
                    loss.lossy("tool_choice", "this `tool_choice`")?;
                    Choice::Unset
                }
            }
        }
    };
    Ok(())
}
