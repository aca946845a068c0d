//! Writes requests of the Messages API.

use std::borrow::Cow;

use super::super::loss::{Loss, Refusal};
use super::super::memory::Memory;
use super::super::target::{InlineSystem, Target};
use super::super::text::{Json, MARK, Text, hashed, is_blank, is_plain, joined, unescaped};
use super::super::words::{Arguments, Ask, Choice, Effort, Format, Knob, Part, Source, Thinking, Who};
use crate::json::tape::{Kind, Tape};

/// Anthropic's limits.
const MAX_NAME: usize = 128;
const MAX_ID: usize = 256;
const MEDIA: [&[u8]; 4] = [b"image/jpeg", b"image/png", b"image/gif", b"image/webp"];

/// Writes a request for the model of this name (a JSON text).
pub(in super::super) fn write(
    ask: &Ask<'_>,
    model: &[u8],
    target: &Target,
    room: usize,
    loss: &mut Loss<'_>,
    memory: &mut Memory,
) -> Result<Vec<u8>, Refusal> {
    let mut json = Json::with_capacity(room + room / 8 + 512);
    json.open(b'{').key("model").value(model);
    let mut writer = Writer {
        json: &mut json,
        target,
        loss,
        memory,
    };
    writer.settings(ask)?;
    writer.tools(ask)?;
    writer.conversation(ask)?;
    json.close(b'}');
    Ok(json.0)
}

struct Writer<'w, 't> {
    json: &'w mut Json,
    target: &'w Target,
    loss: &'w mut Loss<'t>,
    memory: &'w mut Memory,
}

impl Writer<'_, '_> {
    fn settings(&mut self, ask: &Ask<'_>) -> Result<(), Refusal> {
        let (mut thinking, mut effort) = (None, None);
        match ask.thinking {
            Thinking::Unset => {}
            Thinking::Off => thinking = Some(&b"{\"type\":\"disabled\"}"[..]),
            Thinking::Adaptive => thinking = Some(b"{\"type\":\"adaptive\"}"),
            Thinking::Effort(word) => {
                thinking = Some(b"{\"type\":\"adaptive\"}");
                effort = Some(word.max(Effort::Low));
            }
            Thinking::Budget(tokens) => effort = Some(Effort::of_budget(tokens)),
        }
        self.json.key("max_tokens");
        match ask.limit {
            Some(limit) => self.json.value(limit),
            None => self.json.number(self.target.default_max_tokens),
        };
        if let Some(thinking) = thinking {
            self.json.key("thinking").value(thinking);
        }
        match &ask.format {
            Format::Text if effort.is_none() => {}
            Format::Json => self.loss.lossy("response_format", "JSON without a schema")?,
            format => {
                self.json.key("output_config").open(b'{');
                if let Some(effort) = effort {
                    self.json.key("effort").text(effort.word().as_bytes());
                }
                if let Format::Schema { schema, .. } = format {
                    self.json
                        .key("format")
                        .open(b'{')
                        .key("type")
                        .text(b"json_schema")
                        .key("schema")
                        .value(schema);
                    self.json.close(b'}');
                }
                self.json.close(b'}');
            }
        }
        for knob in &ask.knobs {
            self.knob(knob)?;
        }
        let mut stops = Vec::with_capacity(ask.stop.len());
        for stop in &ask.stop {
            if is_blank(stop) {
                self.loss.lossy("stop", "a stop sequence of white space")?;
            } else {
                stops.push(*stop);
            }
        }
        if !stops.is_empty() {
            self.json.key("stop_sequences").open(b'[');
            for stop in stops {
                self.json.text(stop);
            }
            self.json.close(b']');
        }
        if let Some(user) = ask.user {
            self.json
                .key("metadata")
                .open(b'{')
                .key("user_id")
                .text(user)
                .close(b'}');
        }
        match ask.tier {
            Some(b"default") => {
                self.json.key("service_tier").text(b"standard_only");
            }
            Some(b"auto") | None => {}
            Some(_) => self.loss.approximated("service_tier"),
        }
        for (name, _) in &ask.extras {
            self.loss.lossy(String::from_utf8_lossy(name), "this field")?;
        }
        if ask.stream {
            self.json.key("stream").value(b"true");
        }
        Ok(())
    }

    fn knob(&mut self, knob: &Knob<'_>) -> Result<(), Refusal> {
        let what = format!("`{}`", knob.said);
        match knob.name {
            "temperature" if number(knob.value) > 1.0 => {
                self.loss.approximated(knob.said);
                self.json.key("temperature").value(b"1");
            }
            "temperature" | "top_p" | "top_k" => {
                self.json.key(knob.name).value(knob.value);
            }
            "seed" | "verbosity" => self.loss.dropped(knob.said),
            "n" if number(knob.value) <= 1.0 => {}
            "logprobs" if knob.value == b"false" => {}
            "top_logprobs" if number(knob.value) == 0.0 => {}
            "prediction" | "n" | "logprobs" | "top_logprobs" => return Err(self.loss.refusal(knob.said, &what)),
            "modalities" if memchr::memmem::find(knob.value, b"audio").is_none() => {}
            "modalities" => return Err(self.loss.refusal(knob.said, &what)),
            "presence_penalty" | "frequency_penalty" if number(knob.value) == 0.0 => {}
            "logit_bias" if knob.value == b"{}" => {}
            _ => self.loss.lossy(knob.said, &what)?,
        }
        Ok(())
    }

    fn tools(&mut self, ask: &Ask<'_>) -> Result<(), Refusal> {
        if ask.tools.is_empty() {
            return Ok(());
        }
        self.json.key("tools").open(b'[');
        for tool in &ask.tools {
            let name = self.name(&tool.name);
            self.json.open(b'{').key("name").text(&name);
            if let Some(description) = &tool.description {
                self.json.key("description").text(description);
            }
            let empty: &[u8] = br#"{"type":"object","properties":{}}"#;
            let schema = if tool.schema.is_empty() { empty } else { &tool.schema };
            self.json.key("input_schema").value(schema);
            if tool.strict == Some(true) {
                self.json.key("strict").value(b"true");
            }
            if let Some(cache) = tool.cache {
                self.json.key("cache_control").value(cache);
            }
            self.json.close(b'}');
        }
        self.json.close(b']');
        let one_by_one = ask.parallel == Some(false);
        let kind: &[u8] = match &ask.choice {
            Choice::Unset if !one_by_one => return Ok(()),
            Choice::Unset | Choice::Auto => b"auto",
            Choice::Any => b"any",
            Choice::Never => b"none",
            Choice::Tool(_) => b"tool",
        };
        self.json.key("tool_choice").open(b'{').key("type").text(kind);
        if let Choice::Tool(name) = &ask.choice {
            let name = self.name(name);
            self.json.key("name").text(&name);
        }
        if one_by_one && kind != b"none" {
            self.json.key("disable_parallel_tool_use").value(b"true");
        }
        self.json.close(b'}');
        Ok(())
    }

    fn conversation(&mut self, ask: &Ask<'_>) -> Result<(), Refusal> {
        let mut system: Vec<&Part<'_>> = ask.system.iter().filter(|part| is_said(part)).collect();
        // Neighbours of one speaker make one turn.
        let mut turns: Vec<(Who, Vec<(&Part<'_>, usize)>)> = Vec::with_capacity(ask.turns.len());
        for turn in &ask.turns {
            let parts = turn.parts.iter().filter(|part| is_said(part));
            let who = match (turn.who, self.target.inline_system) {
                (Who::System, InlineSystem::Hoist) => {
                    system.extend(parts);
                    continue;
                }
                (Who::System, InlineSystem::Fold) => Who::User,
                (who, _) => who,
            };
            match turns.last_mut() {
                Some((last, all)) if *last == who => all.extend(parts.map(|part| (part, turn.at))),
                _ => turns.push((who, parts.map(|part| (part, turn.at)).collect())),
            }
        }
        if !system.is_empty() {
            self.json.key("system");
            let is_plain = |part: &&Part<'_>| matches!(part, Part::Text(_, None));
            match system.as_slice() {
                [Part::Text(text, None)] => {
                    self.json.text(text);
                }
                parts if parts.iter().all(is_plain) => {
                    let texts = parts.iter().filter_map(|part| match part {
                        Part::Text(text, _) => Some(text.clone()),
                        _ => None,
                    });
                    let whole = joined(texts, b"\\n");
                    self.json.text(&whole);
                }
                parts => {
                    self.json.open(b'[');
                    for part in parts {
                        self.part(part, 0, false)?;
                    }
                    self.json.close(b']');
                }
            }
        }
        self.json.key("messages").open(b'[');
        let last = turns.len().saturating_sub(1);
        for (index, (who, parts)) in turns.iter().enumerate() {
            if !parts.is_empty() {
                self.turn(*who, parts, index == last)?;
            }
        }
        self.json.close(b']');
        Ok(())
    }

    fn turn(&mut self, who: Who, parts: &[(&Part<'_>, usize)], is_last: bool) -> Result<(), Refusal> {
        let role: &[u8] = match who {
            Who::User => b"user",
            Who::Assistant => b"assistant",
            Who::System => b"system",
        };
        self.json.open(b'{').key("role").text(role).key("content");
        if let [(Part::Text(text, None), _)] = parts {
            // Anthropic refuses a prefilled answer that ends with white space.
            let text = if is_last && who == Who::Assistant {
                trimmed(text)
            } else {
                text
            };
            self.json.text(text).close(b'}');
            return Ok(());
        }
        self.json.open(b'[');
        // Thoughts come first, results of tools before other parts, and calls behind the text.
        let place = |part: &Part<'_>| match part {
            Part::Thought { .. } | Part::Sealed(_) | Part::Result { .. } => 0,
            Part::Call { .. } => 2,
            _ => 1,
        };
        for wanted in 0..3 {
            for (part, at) in parts.iter().filter(|(part, _)| place(part) == wanted) {
                self.part(part, *at, who == Who::Assistant)?;
            }
        }
        self.json.close(b']').close(b'}');
        Ok(())
    }

    fn part(&mut self, part: &Part<'_>, at: usize, is_own: bool) -> Result<(), Refusal> {
        let param = || format!("messages[{at}].content");
        match part {
            Part::Text(text, cache) => {
                self.json.open(b'{').key("type").text(b"text").key("text").text(text);
                if let Some(cache) = cache {
                    self.json.key("cache_control").value(cache);
                }
                self.json.close(b'}');
            }
            Part::Image(source) => {
                if let Source::Base64 { media, .. } = source
                    && !MEDIA.contains(&&*unescaped(media))
                {
                    return Err(self.loss.refusal(param(), "an image of this type"));
                }
                self.json.open(b'{').key("type").text(b"image").key("source");
                self.source(source);
                self.json.close(b'}');
            }
            Part::Document { source, title } => {
                self.json.open(b'{').key("type").text(b"document").key("source");
                self.source(source);
                if let Some(title) = title {
                    self.json.key("title").text(title);
                }
                self.json.close(b'}');
            }
            Part::Audio { .. } => return Err(self.loss.refusal(param(), "audio")),
            Part::Thought { text, signature } => match signature {
                // The upstream verifies signatures: only one that another gave passes, and nothing without one.
                Some(signature) if is_own && !signature.starts_with(MARK) => {
                    self.json
                        .open(b'{')
                        .key("type")
                        .text(b"thinking")
                        .key("thinking")
                        .text(text);
                    self.json.key("signature").text(signature).close(b'}');
                }
                _ => self.loss.dropped("reasoning"),
            },
            Part::Sealed(data) => {
                self.json
                    .open(b'{')
                    .key("type")
                    .text(b"redacted_thinking")
                    .key("data")
                    .text(data)
                    .close(b'}');
            }
            Part::Call { id, name, arguments } => {
                let (id, name) = (plain_id(id), self.name(name));
                let object = match arguments {
                    Arguments::Object(object) => object.clone(),
                    Arguments::Text(text) => object_of(text).ok_or_else(|| {
                        let param = format!("messages[{at}].tool_calls.function.arguments");
                        Refusal::invalid(param, "a call's arguments must be a JSON object")
                    })?,
                };
                self.json
                    .open(b'{')
                    .key("type")
                    .text(b"tool_use")
                    .key("id")
                    .text(&id)
                    .key("name")
                    .text(&name);
                self.json.key("input").value(&object).close(b'}');
            }
            Part::Result { id, is_error, parts } => {
                let id = plain_id(id);
                self.json
                    .open(b'{')
                    .key("type")
                    .text(b"tool_result")
                    .key("tool_use_id")
                    .text(&id);
                match parts.as_slice() {
                    [] => {}
                    [Part::Text(text, None)] => {
                        self.json.key("content").text(text);
                    }
                    parts => {
                        self.json.key("content").open(b'[');
                        for part in parts.iter().filter(|part| is_said(part)) {
                            self.part(part, at, false)?;
                        }
                        self.json.close(b']');
                    }
                }
                if *is_error {
                    self.json.key("is_error").value(b"true");
                }
                self.json.close(b'}');
            }
        }
        Ok(())
    }

    fn source(&mut self, source: &Source<'_>) {
        self.json.open(b'{').key("type");
        match source {
            Source::Base64 { media, data } => self
                .json
                .text(b"base64")
                .key("media_type")
                .text(media)
                .key("data")
                .text(data),
            Source::Url(url) => self.json.text(b"url").key("url").text(url),
        };
        self.json.close(b'}');
    }

    fn name<'a>(&mut self, name: &'a [u8]) -> Text<'a> {
        if is_plain(name, MAX_NAME) {
            return Cow::Borrowed(name);
        }
        self.memory.shortened(name, MAX_NAME).into()
    }
}

/// True for parts that Anthropic takes: it refuses texts without a letter.
fn is_said(part: &&Part<'_>) -> bool {
    !matches!(part, Part::Text(text, _) if is_blank(text))
}

fn plain_id(id: &[u8]) -> Text<'_> {
    if is_plain(id, MAX_ID) {
        return Cow::Borrowed(id);
    }
    hashed("toolu_", id, 22).into()
}

fn object_of<'a>(text: &[u8]) -> Option<Text<'a>> {
    let text = unescaped(text);
    let text = text.trim_ascii();
    if text.is_empty() {
        return Some(Cow::Borrowed(b"{}"));
    }
    let is_object = Tape::read(text, Vec::new()).is_ok_and(|tape| tape.root().kind() == Kind::Object);
    is_object.then(|| Cow::Owned(text.to_vec()))
}

fn number(value: &[u8]) -> f64 {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(f64::NAN)
}

/// An escaped text without the white space at its end.
fn trimmed(text: &[u8]) -> &[u8] {
    let mut rest = text;
    loop {
        rest = match rest {
            [before @ .., b' '] => before,
            [before @ .., b'\\', b'n' | b'r' | b't'] if !before.ends_with(b"\\") => before,
            _ => return rest,
        };
    }
}
