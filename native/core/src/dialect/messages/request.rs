//! Reads requests of the Messages API.

use std::borrow::Cow;

use super::super::loss::{Loss, Refusal};
use super::super::reading::{MAX_PARTS, flag, is_set, knob};
use super::super::text::{Text, joined};
use super::super::words::{Arguments, Ask, Choice, Effort, Format, Part, Source, Thinking, Tool, Turn, Who};
use crate::json::tape::{Kind, Value};

/// Claude Code's line about its own version, which changes with every request and would spoil every prefix cache.
const BILLING: &[u8] = b"x-anthropic-billing-header";

/// Reads a request. `counts`: it only asks for the number of its tokens, and needs no `max_tokens`.
pub(in super::super) fn read<'a>(body: Value<'a>, counts: bool, loss: &mut Loss<'_>) -> Result<Ask<'a>, Refusal> {
    let mut ask = Ask::default();
    let mut effort = None;
    let mut system = Vec::new();
    for (name, value) in body.members() {
        match &*name {
            b"model" => {}
            b"messages" => read_messages(value, &mut ask, loss)?,
            b"system" => read_system(value, &mut system, loss)?,
            b"max_tokens" => ask.limit = value.count().filter(|limit| *limit > 0).map(|_| value.raw()),
            b"stream" => ask.stream = value.kind() == Kind::True,
            b"tools" => read_tools(value, &mut ask, loss)?,
            b"tool_choice" => read_choice(value, &mut ask)?,
            b"stop_sequences" => ask.stop = value.elements().filter_map(Value::text).collect(),
            b"temperature" => knob(&mut ask, "temperature", "temperature", value),
            b"top_p" => knob(&mut ask, "top_p", "top_p", value),
            b"top_k" => knob(&mut ask, "top_k", "top_k", value),
            b"thinking" => read_thinking(value, &mut ask, loss),
            b"output_config" => {
                for (name, value) in value.members() {
                    match &*name {
                        b"effort" => effort = value.text().and_then(Effort::of).or(effort),
                        b"format" => read_format(value, "output_config.format", &mut ask, loss)?,
                        _ => loss.dropped([b"output_config.", &*name].concat()),
                    }
                }
            }
            b"output_format" => read_format(value, "output_format", &mut ask, loss)?,
            b"metadata" => {
                for (name, value) in value.members() {
                    match (&*name, value.text()) {
                        (b"user_id", Some(user)) => (ask.user, ask.user_name) = (Some(user), "metadata.user_id"),
                        _ if value.is_null() => {}
                        _ => loss.dropped([b"metadata.", &*name].concat()),
                    }
                }
            }
            b"service_tier" => {
                ask.tier = value.text().map(|tier| match tier {
                    b"standard_only" => &b"default"[..],
                    other => other,
                });
            }
            b"mcp_servers" if is_set(value) => loss.lossy("mcp_servers", "`mcp_servers`")?,
            b"container" if is_set(value) => loss.lossy("container", "`container`")?,
            b"mcp_servers" | b"container" => {}
            _ => ask.extras.push((name, value.raw())),
        }
    }
    // Wherever it stands among the members, it comes before the conversation's own.
    ask.system.splice(..0, system);
    if let Some(effort) = effort {
        ask.thinking = Thinking::Effort(effort);
    }
    if ask.turns.is_empty() {
        return Err(Refusal::invalid(
            "messages",
            "`messages` must be a list with at least one message",
        ));
    }
    if ask.limit.is_none() && !counts {
        return Err(Refusal::invalid(
            "max_tokens",
            "`max_tokens` must be a whole number above 0",
        ));
    }
    Ok(ask)
}

fn read_system<'a>(value: Value<'a>, system: &mut Vec<Part<'a>>, loss: &mut Loss<'_>) -> Result<(), Refusal> {
    if let Some(text) = value.text() {
        if !text.is_empty() {
            system.push(Part::Text(text.into(), None));
        }
        return Ok(());
    }
    for (index, block) in value.elements().enumerate() {
        match (
            block.get("type").and_then(Value::text),
            block.get("text").and_then(Value::text),
        ) {
            (Some(b"text"), Some(text)) if text.starts_with(BILLING) => {}
            (Some(b"text"), Some(text)) => {
                if !text.is_empty() {
                    system.push(Part::Text(text.into(), cache_of(block, loss)));
                }
            }
            _ => return Err(loss.refusal(format!("system[{index}].type"), "this block")),
        }
    }
    Ok(())
}

fn cache_of<'a>(block: Value<'a>, _: &mut Loss<'_>) -> Option<&'a [u8]> {
    block.get("cache_control").map(Value::raw)
}

fn read_messages<'a>(value: Value<'a>, ask: &mut Ask<'a>, loss: &mut Loss<'_>) -> Result<(), Refusal> {
    let mut parts_left = MAX_PARTS;
    for (at, message) in value.elements().enumerate() {
        let who = match message.get("role").and_then(Value::text) {
            // `ctx` and `msg` are Claude Code's (https://github.com/vllm-project/vllm/issues/44000).
            Some(b"user" | b"ctx" | b"msg") => Who::User,
            Some(b"assistant") => Who::Assistant,
            Some(b"system") => Who::System,
            _ => {
                let param = format!("messages[{at}].role");
                return Err(Refusal::invalid(
                    param,
                    "a message's role must be `user` or `assistant`",
                ));
            }
        };
        let mut parts = Vec::new();
        match message.get("content") {
            Some(content) if content.kind() == Kind::Text => {
                parts.push(Part::Text(content.text().unwrap_or_default().into(), None));
            }
            Some(content) if content.kind() == Kind::Array => {
                for (index, block) in content.elements().enumerate() {
                    let path = || format!("messages[{at}].content[{index}]");
                    read_block(block, &path, &mut parts, loss)?;
                }
            }
            _ => {
                let param = format!("messages[{at}].content");
                return Err(Refusal::invalid(
                    param,
                    "a message's content must be text or a list of blocks",
                ));
            }
        }
        parts_left = parts_left.checked_sub(parts.len() + 1).ok_or_else(too_many)?;
        if who == Who::System && ask.turns.is_empty() {
            ask.system.extend(parts);
        } else {
            ask.turns.push(Turn { who, parts, at });
        }
    }
    Ok(())
}

fn too_many() -> Refusal {
    Refusal::invalid(
        "messages",
        format!("`messages` has more than {MAX_PARTS} messages and blocks"),
    )
}

fn read_block<'a>(
    block: Value<'a>,
    path: &dyn Fn() -> String,
    parts: &mut Vec<Part<'a>>,
    loss: &mut Loss<'_>,
) -> Result<(), Refusal> {
    let text = |name: &str| block.get(name).and_then(Value::text);
    let kind = text("type").unwrap_or_default();
    let invalid = |what: &str| {
        Refusal::invalid(
            path(),
            format!("a `{}` block needs {what}", String::from_utf8_lossy(kind)),
        )
    };
    match kind {
        b"text" => {
            let text = text("text").ok_or_else(|| invalid("`text`"))?;
            if block.get("citations").is_some_and(is_set) {
                loss.dropped("citations");
            }
            parts.push(Part::Text(text.into(), cache_of(block, loss)));
        }
        b"mid_conv_system" => parts.extend(text("text").map(|text| Part::Text(text.into(), None))),
        b"image" => parts.push(Part::Image(read_source(block, path, loss)?)),
        b"document" => read_document(block, path, parts, loss)?,
        b"search_result" => {
            let texts = block.get("content").into_iter().flat_map(Value::elements);
            let texts = texts.filter_map(|part| part.get("text")?.text());
            let all = text("title").into_iter().chain(text("source")).chain(texts);
            parts.push(Part::Text(joined(all.map(Text::from), b"\\n"), None));
        }
        b"thinking" => parts.push(Part::Thought {
            text: text("thinking").unwrap_or_default().into(),
            signature: text("signature").map(Text::from),
        }),
        b"redacted_thinking" => parts.push(Part::Sealed(text("data").unwrap_or_default().into())),
        b"tool_use" => {
            let arguments = match block.get("input") {
                Some(input) if input.kind() == Kind::Object => input.raw(),
                None => &b"{}"[..],
                Some(_) => return Err(invalid("an object as `input`")),
            };
            parts.push(Part::Call {
                id: text("id").unwrap_or_default().into(),
                name: text("name").ok_or_else(|| invalid("`name`"))?.into(),
                arguments: Arguments::Object(arguments.into()),
            });
        }
        b"tool_result" => {
            let mut inner = Vec::new();
            match block.get("content") {
                Some(content) if content.kind() == Kind::Text => {
                    inner.push(Part::Text(content.text().unwrap_or_default().into(), None));
                }
                Some(content) => {
                    for (index, part) in content.elements().enumerate() {
                        match part.get("type").and_then(Value::text) {
                            Some(b"tool_reference") => {
                                let name = part.get("tool_name").and_then(Value::text).unwrap_or_default();
                                let text = [b"[tool ", name, b" is now available]"].concat();
                                inner.push(Part::Text(Cow::Owned(text), None));
                            }
                            Some(b"tool_use" | b"tool_result" | b"thinking" | b"redacted_thinking") => {
                                return Err(loss.refusal(format!("{}.content[{index}]", path()), "this block"));
                            }
                            _ => {
                                let path = || format!("{}.content[{index}]", path());
                                read_block(part, &path, &mut inner, loss)?;
                            }
                        }
                    }
                }
                None => {}
            }
            parts.push(Part::Result {
                id: text("tool_use_id").unwrap_or_default().into(),
                is_error: block.get("is_error").is_some_and(|value| value.kind() == Kind::True),
                parts: inner,
            });
        }
        _ if is_server_block(kind) => {
            loss.lossy(format!("{}.type", path()), "a block of a tool that the server runs")?;
            let texts = block.get("content").into_iter().flat_map(Value::elements);
            parts.extend(texts.filter_map(|part| Some(Part::Text(part.get("text")?.text()?.into(), None))));
        }
        _ => return Err(loss.refusal(format!("{}.type", path()), "a block of this type")),
    }
    Ok(())
}

fn is_server_block(kind: &[u8]) -> bool {
    const STARTS: [&[u8]; 8] = [
        b"server_tool_use",
        b"web_search_",
        b"web_fetch_",
        b"code_execution_",
        b"bash_",
        b"text_editor_",
        b"mcp_",
        b"tool_search_",
    ];
    kind == b"compaction" || STARTS.iter().any(|start| kind.starts_with(start))
}

fn read_source<'a>(block: Value<'a>, path: &dyn Fn() -> String, loss: &mut Loss<'_>) -> Result<Source<'a>, Refusal> {
    let source = block.get("source");
    let text = |name: &str| source.and_then(|source| source.get(name)).and_then(Value::text);
    match text("type") {
        Some(b"base64") => {
            let (Some(media), Some(data)) = (text("media_type"), text("data")) else {
                return Err(Refusal::invalid(
                    path(),
                    "a base64 source needs `media_type` and `data`",
                ));
            };
            Ok(Source::Base64 {
                media: media.into(),
                data,
            })
        }
        Some(b"url") => Ok(Source::Url(text("url").unwrap_or_default().into())),
        _ => Err(loss.refusal(format!("{}.source", path()), "a source of this type")),
    }
}

fn read_document<'a>(
    block: Value<'a>,
    path: &dyn Fn() -> String,
    parts: &mut Vec<Part<'a>>,
    loss: &mut Loss<'_>,
) -> Result<(), Refusal> {
    let text = |name: &str| block.get(name).and_then(Value::text);
    let source = block.get("source");
    let inside = |name: &str| source.and_then(|source| source.get(name));
    if block
        .get("citations")
        .and_then(|value| value.get("enabled"))
        .is_some_and(|value| value.kind() == Kind::True)
    {
        loss.dropped("citations");
    }
    let intro = [text("title"), text("context")].into_iter().flatten().map(Text::from);
    match inside("type").and_then(Value::text) {
        Some(b"text") => {
            let body = inside("data").and_then(Value::text).unwrap_or_default();
            let mut whole = joined(intro, b"\\n").into_owned();
            if !whole.is_empty() {
                whole.extend_from_slice(b"\\n\\n");
            }
            whole.extend_from_slice(body);
            parts.push(Part::Text(whole.into(), None));
        }
        Some(b"content") => {
            let whole = joined(intro, b"\\n");
            if !whole.is_empty() {
                parts.push(Part::Text(whole, None));
            }
            match inside("content") {
                Some(content) if content.kind() == Kind::Text => {
                    parts.push(Part::Text(content.text().unwrap_or_default().into(), None));
                }
                content => {
                    for part in content.into_iter().flat_map(Value::elements) {
                        read_block(part, path, parts, loss)?;
                    }
                }
            }
        }
        _ => parts.push(Part::Document {
            source: read_source(block, path, loss)?,
            title: text("title").map(Text::from),
        }),
    }
    Ok(())
}

fn read_tools<'a>(value: Value<'a>, ask: &mut Ask<'a>, loss: &mut Loss<'_>) -> Result<(), Refusal> {
    for (index, tool) in value.elements().enumerate() {
        let kind = tool.get("type").and_then(Value::text).unwrap_or(b"custom");
        let name = tool.get("name").and_then(Value::text);
        if kind != b"custom" {
            let what = format!("the tool `{}`", String::from_utf8_lossy(kind));
            loss.lossy(format!("tools[{index}].type"), &what)?;
            continue;
        }
        let Some(name) = name else {
            return Err(Refusal::invalid(format!("tools[{index}].name"), "a tool needs a name"));
        };
        for (name, value) in tool.members() {
            match &*name {
                b"type" | b"name" | b"description" | b"input_schema" | b"strict" => {}
                _ if !is_set(value) => {}
                b"cache_control" => {}
                _ => loss.dropped([b"tools.", &*name].concat()),
            }
        }
        ask.tools.push(Tool {
            name: name.into(),
            description: tool.get("description").and_then(Value::text).map(Text::from),
            schema: with_type(tool.get("input_schema")),
            strict: tool.get("strict").map(flag),
            cache: cache_of(tool, loss),
        });
    }
    Ok(())
}

/// A schema that says that it is an object's.
fn with_type(schema: Option<Value<'_>>) -> Text<'_> {
    match schema {
        None => Text::Borrowed(b""),
        Some(schema) if schema.kind() != Kind::Object || schema.get("type").is_some() => schema.raw().into(),
        Some(schema) => {
            let comma: &[u8] = if schema.members().next().is_some() { b"," } else { b"" };
            let rest = schema.raw().get(1..).unwrap_or(b"}");
            [b"{\"type\":\"object\"", comma, rest].concat().into()
        }
    }
}

fn read_choice<'a>(value: Value<'a>, ask: &mut Ask<'a>) -> Result<(), Refusal> {
    ask.choice = match value.get("type").and_then(Value::text) {
        Some(b"auto") => Choice::Auto,
        Some(b"any") => Choice::Any,
        Some(b"none") => Choice::Never,
        Some(b"tool") => {
            let name = value.get("name").and_then(Value::text);
            let name = name.ok_or_else(|| Refusal::invalid("tool_choice.name", "a choice of a tool needs its name"))?;
            Choice::Tool(name.into())
        }
        None if value.is_null() => Choice::Unset,
        _ => {
            let words = "`tool_choice.type` must be `auto`, `any`, `tool` or `none`";
            return Err(Refusal::invalid("tool_choice.type", words));
        }
    };
    if value.get("disable_parallel_tool_use").is_some_and(flag) {
        ask.parallel = Some(false);
    }
    Ok(())
}

fn read_thinking(value: Value<'_>, ask: &mut Ask<'_>, loss: &mut Loss<'_>) {
    ask.thinking = match value.get("type").and_then(Value::text) {
        Some(b"enabled") => Thinking::Budget(value.get("budget_tokens").and_then(Value::count).unwrap_or(0)),
        Some(b"disabled") => Thinking::Off,
        Some(b"adaptive") => Thinking::Adaptive,
        _ => Thinking::Unset,
    };
    if value.get("display").is_some() {
        loss.dropped("thinking.display");
    }
}

fn read_format<'a>(value: Value<'a>, path: &str, ask: &mut Ask<'a>, loss: &mut Loss<'_>) -> Result<(), Refusal> {
    if value.is_null() {
        return Ok(());
    }
    match (value.get("type").and_then(Value::text), value.get("schema")) {
        (Some(b"json_schema"), Some(schema)) => {
            ask.format = Format::Schema {
                name: None,
                schema: schema.raw(),
                strict: Some(true),
            };
            Ok(())
        }
        _ => Err(loss.refusal(path, "an output format of this type")),
    }
}
