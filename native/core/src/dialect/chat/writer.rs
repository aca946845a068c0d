//! Writes requests of the Chat Completions API.

use std::borrow::Cow;

use super::super::loss::{Loss, Refusal};
use super::super::memory::Memory;
use super::super::target::{InlineSystem, Target};
use super::super::text::{Json, Text, escape, hashed, is_plain, joined};
use super::super::words::{Arguments, Ask, Choice, Effort, Format, Knob, Part, Source, Thinking, Turn, Who};

/// OpenAI's limits.
const MAX_NAME: usize = 64;
const MAX_STOPS: usize = 4;
const MAX_USER: usize = 64;

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
    let mut writer = Writer {
        json: &mut json,
        target,
        loss,
        memory,
    };
    writer.json.open(b'{').key("model").value(model);
    writer.messages(ask)?;
    writer.tools(ask)?;
    writer.settings(ask)?;
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
    fn messages(&mut self, ask: &Ask<'_>) -> Result<(), Refusal> {
        self.json.key("messages").open(b'[');
        let mut system = texts(&ask.system);
        let (folded, hoisted) = placed(ask, self.target);
        system.extend(hoisted);
        if !system.is_empty() {
            self.json.open(b'{').key("role").text(b"system");
            if self.target.is_openai && system.len() > 1 {
                self.json.key("content").open(b'[');
                for text in &system {
                    self.text_part(text);
                }
                self.json.close(b']');
            } else {
                // Changing this separator would change every prefix that engines have cached.
                let whole = joined(system.into_iter(), b"\\n\\n");
                self.json.key("content").text(&whole);
            }
            self.json.close(b'}');
        }
        let last = folded.len().saturating_sub(1);
        for (index, turn) in folded.iter().enumerate() {
            match turn.who {
                Who::User => self.user(turn)?,
                Who::Assistant => self.assistant(turn, index == last)?,
                Who::System => {
                    let whole = joined(texts(&turn.parts).into_iter(), b"\\n\\n");
                    self.json
                        .open(b'{')
                        .key("role")
                        .text(b"system")
                        .key("content")
                        .text(&whole)
                        .close(b'}');
                }
            }
        }
        self.json.close(b']');
        if folded.last().is_some_and(|turn| turn.who == Who::Assistant) {
            if self.target.is_engine {
                self.json.key("continue_final_message").value(b"true");
                self.json.key("add_generation_prompt").value(b"false");
            } else {
                self.loss
                    .lossy("messages", "a last message of the assistant (a prefilled answer)")?;
            }
        }
        Ok(())
    }

    fn text_part(&mut self, text: &[u8]) {
        self.json
            .open(b'{')
            .key("type")
            .text(b"text")
            .key("text")
            .text(text)
            .close(b'}');
    }

    fn user(&mut self, turn: &Turn<'_>) -> Result<(), Refusal> {
        // The results of a turn come first and next to each other, and its images behind them.
        let mut rest: Vec<Cow<'_, Part<'_>>> = Vec::new();
        for part in &turn.parts {
            let Part::Result { id, is_error, parts } = part else {
                rest.push(Cow::Borrowed(part));
                continue;
            };
            let id = self.id(id);
            self.json
                .open(b'{')
                .key("role")
                .text(b"tool")
                .key("tool_call_id")
                .text(&id)
                .key("content");
            let mut lines: Vec<Text<'_>> = Vec::new();
            let mut is_mixed = false;
            for part in parts {
                match part {
                    Part::Text(text, _) => lines.push(text.clone()),
                    Part::Image(_) if self.target.tool_images_inline => is_mixed = true,
                    Part::Image(_) => {
                        lines.push(Text::Borrowed(b"[image]"));
                        rest.push(Cow::Borrowed(part));
                    }
                    other => {
                        lines.push(Text::Borrowed(b"[document]"));
                        rest.push(Cow::Borrowed(other));
                    }
                }
            }
            if is_mixed {
                self.json.open(b'[');
                for part in parts {
                    if matches!(part, Part::Text(..) | Part::Image(_)) {
                        self.part(part, turn.at)?;
                    }
                }
                self.json.close(b']');
            } else {
                let whole = joined(lines.into_iter(), b"\\n");
                let says_so = whole.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"error"));
                if *is_error && !says_so {
                    self.json.text(&[b"Error: ", &*whole].concat());
                } else {
                    self.json.text(&whole);
                }
            }
            self.json.close(b'}');
        }
        if rest.is_empty() && !turn.parts.is_empty() {
            return Ok(());
        }
        self.json.open(b'{').key("role").text(b"user").key("content");
        match rest.as_slice() {
            [] => {
                self.json.text(b"");
            }
            [only] if let Part::Text(text, _) = &**only => {
                self.json.text(text);
            }
            parts => {
                self.json.open(b'[');
                for part in parts {
                    self.part(part, turn.at)?;
                }
                self.json.close(b']');
            }
        }
        self.json.close(b'}');
        Ok(())
    }

    fn part(&mut self, part: &Part<'_>, at: usize) -> Result<(), Refusal> {
        let param = || format!("messages[{at}].content");
        match part {
            Part::Text(text, _) => self.text_part(text),
            Part::Image(source) => {
                self.json
                    .open(b'{')
                    .key("type")
                    .text(b"image_url")
                    .key("image_url")
                    .open(b'{')
                    .key("url");
                self.url(source);
                self.json.close(b'}').close(b'}');
            }
            Part::Document { source, title } => {
                if !self.target.is_openai || matches!(source, Source::Url(_)) {
                    self.loss.lossy(param(), "a document")?;
                    return Ok(());
                }
                let name = title.as_deref().unwrap_or(b"document.pdf");
                self.json.open(b'{').key("type").text(b"file").key("file").open(b'{');
                self.json.key("filename").text(name).key("file_data");
                self.url(source);
                self.json.close(b'}').close(b'}');
            }
            Part::Audio { data, format } => {
                self.json
                    .open(b'{')
                    .key("type")
                    .text(b"input_audio")
                    .key("input_audio")
                    .open(b'{');
                self.json
                    .key("data")
                    .text(data)
                    .key("format")
                    .text(format)
                    .close(b'}')
                    .close(b'}');
            }
            _ => return Err(self.loss.refusal(param(), "a block of this type in this place")),
        }
        Ok(())
    }

    fn url(&mut self, source: &Source<'_>) {
        match source {
            Source::Url(url) => self.json.text(url),
            Source::Base64 { media, data } => self
                .json
                .put(b"\"data:")
                .put(media)
                .put(b";base64,")
                .put(data)
                .put(b"\""),
        };
    }

    fn assistant(&mut self, turn: &Turn<'_>, is_last: bool) -> Result<(), Refusal> {
        let texts = texts(&turn.parts);
        let has_calls = turn.parts.iter().any(|part| matches!(part, Part::Call { .. }));
        self.json.open(b'{').key("role").text(b"assistant").key("content");
        match texts.as_slice() {
            [] if has_calls => self.json.value(b"null"),
            [] => self.json.text(b""),
            [text] => self.json.text(text),
            texts if is_last && self.target.is_engine => {
                // A template can only continue one string.
                let whole = joined(texts.iter().cloned(), b"");
                self.json.text(&whole)
            }
            texts => {
                self.json.open(b'[');
                for text in texts {
                    self.text_part(text);
                }
                self.json.close(b']')
            }
        };
        let thoughts = turn.parts.iter().filter_map(|part| match part {
            Part::Thought { text, .. } if !text.is_empty() => Some(text.clone()),
            _ => None,
        });
        let thought = joined(thoughts, b"\\n");
        if !thought.is_empty() {
            if self.target.replays_reasoning {
                self.json.key(&self.target.reasoning_field).text(&thought);
            } else {
                self.loss.dropped("thinking");
            }
        }
        if turn.parts.iter().any(|part| matches!(part, Part::Sealed(_))) {
            self.loss.dropped("redacted_thinking");
        }
        if has_calls {
            self.json.key("tool_calls").open(b'[');
            for part in &turn.parts {
                let Part::Call { id, name, arguments } = part else {
                    continue;
                };
                let (id, name) = (self.id(id), self.name(name));
                self.json
                    .open(b'{')
                    .key("id")
                    .text(&id)
                    .key("type")
                    .text(b"function")
                    .key("function")
                    .open(b'{');
                self.json.key("name").text(&name).key("arguments");
                match arguments {
                    Arguments::Text(text) => {
                        self.json.text(text);
                    }
                    Arguments::Object(object) => {
                        self.json.put(b"\"");
                        escape(object, &mut self.json.0);
                        self.json.put(b"\"");
                    }
                }
                self.json.close(b'}').close(b'}');
            }
            self.json.close(b']');
        }
        self.json.close(b'}');
        Ok(())
    }

    fn tools(&mut self, ask: &Ask<'_>) -> Result<(), Refusal> {
        if ask.tools.is_empty() {
            return Ok(());
        }
        self.json.key("tools").open(b'[');
        let mut marks = false;
        for tool in &ask.tools {
            let name = self.name(&tool.name);
            marks |= tool.cache.is_some();
            self.json
                .open(b'{')
                .key("type")
                .text(b"function")
                .key("function")
                .open(b'{')
                .key("name")
                .text(&name);
            if let Some(description) = &tool.description {
                self.json.key("description").text(description);
            }
            if !tool.schema.is_empty() {
                self.json.key("parameters").value(&tool.schema);
            }
            if let Some(strict) = tool.strict {
                self.json.key("strict").value(word(strict));
            }
            self.json.close(b'}').close(b'}');
        }
        self.json.close(b']');
        if marks {
            self.loss.dropped("cache_control");
        }
        match &ask.choice {
            Choice::Unset => {}
            Choice::Auto => {
                self.json.key("tool_choice").text(b"auto");
            }
            Choice::Any => {
                self.json.key("tool_choice").text(b"required");
            }
            Choice::Never => {
                self.json.key("tool_choice").text(b"none");
            }
            Choice::Tool(name) => {
                let name = self.name(name);
                self.json
                    .key("tool_choice")
                    .open(b'{')
                    .key("type")
                    .text(b"function")
                    .key("function")
                    .open(b'{');
                self.json.key("name").text(&name).close(b'}').close(b'}');
            }
        }
        if let Some(parallel) = ask.parallel {
            self.json.key("parallel_tool_calls").value(word(parallel));
        }
        Ok(())
    }

    fn settings(&mut self, ask: &Ask<'_>) -> Result<(), Refusal> {
        if let Some(limit) = ask.limit {
            self.json.key(&self.target.limit_field).value(limit);
        }
        if !ask.stop.is_empty() {
            if self.target.is_openai && ask.stop.len() > MAX_STOPS {
                self.loss.lossy("stop_sequences", "more than 4 stop sequences")?;
            }
            self.json.key("stop").open(b'[');
            let most = if self.target.is_openai { MAX_STOPS } else { usize::MAX };
            for stop in ask.stop.iter().take(most) {
                self.json.text(stop);
            }
            self.json.close(b']');
        }
        for knob in &ask.knobs {
            self.knob(knob)?;
        }
        match &ask.format {
            Format::Text => {}
            Format::Json => {
                self.json
                    .key("response_format")
                    .open(b'{')
                    .key("type")
                    .text(b"json_object")
                    .close(b'}');
            }
            Format::Schema { name, schema, strict } => {
                self.json
                    .key("response_format")
                    .open(b'{')
                    .key("type")
                    .text(b"json_schema");
                self.json.key("json_schema").open(b'{');
                self.json
                    .key("name")
                    .text(name.as_deref().unwrap_or(b"output"))
                    .key("schema")
                    .value(schema);
                if let Some(strict) = strict {
                    self.json.key("strict").value(word(*strict));
                }
                self.json.close(b'}').close(b'}');
            }
        }
        let effort = match ask.thinking {
            Thinking::Unset | Thinking::Adaptive | Thinking::Off => None,
            Thinking::Budget(tokens) => Some(Effort::of_budget(tokens)),
            Thinking::Effort(effort) => Some(effort),
        };
        if let Some(effort) = effort {
            let clipped = effort.clamp(Effort::Low, Effort::High);
            let clipped = if self.target.is_openai {
                effort.min(Effort::XHigh)
            } else {
                clipped
            };
            if clipped != effort {
                self.loss.approximated("effort");
            }
            self.json.key("reasoning_effort").text(clipped.word().as_bytes());
        }
        if let Some(user) = ask.user {
            let user = if user.len() > MAX_USER {
                Cow::Owned(hashed("user_", user, 32))
            } else {
                Cow::Borrowed(user)
            };
            let field = if self.target.is_openai {
                "safety_identifier"
            } else {
                "user"
            };
            self.json.key(field).text(&user);
        }
        if let Some(tier) = ask.tier {
            if self.target.is_openai {
                self.json.key("service_tier").text(tier);
            } else if tier != b"auto" {
                self.loss.dropped("service_tier");
            }
        }
        for (name, value) in &ask.extras {
            if self.target.passes_unknown && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
                self.json.text(name).put(b":").put(value);
            } else {
                self.loss.dropped(name);
            }
        }
        if ask.stream {
            self.json.key("stream").value(b"true");
            self.json.key("stream_options").value(b"{\"include_usage\":true}");
        }
        Ok(())
    }

    fn knob(&mut self, knob: &Knob<'_>) -> Result<(), Refusal> {
        if knob.name == "top_k" && self.target.is_openai {
            return self.loss.lossy(knob.said, "`top_k`");
        }
        if knob.name == "verbosity" && !self.target.is_openai {
            self.loss.dropped(knob.said);
            return Ok(());
        }
        self.json.key(knob.name).value(knob.value);
        Ok(())
    }

    /// A call's id, as the upstream takes it.
    fn id<'a>(&self, id: &'a [u8]) -> Text<'a> {
        if id.is_empty() {
            Cow::Owned(hashed("call_", id, 22))
        } else {
            Cow::Borrowed(id)
        }
    }

    /// A tool's name, as the upstream takes it. A changed one is remembered for the answer.
    fn name<'a>(&mut self, name: &'a [u8]) -> Text<'a> {
        if !self.target.is_openai || is_plain(name, MAX_NAME) {
            return Cow::Borrowed(name);
        }
        self.memory.shortened(name, MAX_NAME).into()
    }
}

/// The texts among some parts.
fn texts<'a>(parts: &[Part<'a>]) -> Vec<Text<'a>> {
    let texts = parts.iter().filter_map(|part| match part {
        Part::Text(text, _) => Some(text.clone()),
        _ => None,
    });
    texts.filter(|text| !text.is_empty()).collect()
}

fn word(flag: bool) -> &'static [u8] {
    if flag { b"true" } else { b"false" }
}

/// The turns, with instructions amid the conversation where the upstream wants them; and those that go to the front.
fn placed<'a, 'b>(ask: &'b Ask<'a>, target: &Target) -> (Cow<'b, [Turn<'a>]>, Vec<Text<'a>>) {
    if target.inline_system == InlineSystem::Keep || ask.turns.iter().all(|turn| turn.who != Who::System) {
        return (Cow::Borrowed(&ask.turns), Vec::new());
    }
    let mut turns: Vec<Turn<'a>> = Vec::with_capacity(ask.turns.len());
    let mut hoisted = Vec::new();
    // Instructions that wait for the next turn of the user.
    let mut waiting: Vec<Part<'a>> = Vec::new();
    for turn in &ask.turns {
        if turn.who != Who::System {
            let mut turn = turn.clone();
            let is_results = turn.parts.iter().all(|part| matches!(part, Part::Result { .. }));
            if turn.who == Who::User && !is_results && !waiting.is_empty() {
                let results = turn
                    .parts
                    .iter()
                    .take_while(|part| matches!(part, Part::Result { .. }))
                    .count();
                turn.parts.splice(results..results, waiting.drain(..));
            }
            turns.push(turn);
            continue;
        }
        let parts = texts(&turn.parts).into_iter().map(|text| Part::Text(text, None));
        if target.inline_system == InlineSystem::Hoist {
            hoisted.extend(texts(&turn.parts));
            continue;
        }
        match turns.last_mut() {
            Some(last)
                if last.who == Who::User && last.parts.iter().any(|part| !matches!(part, Part::Result { .. })) =>
            {
                last.parts.extend(parts);
            }
            _ => waiting.extend(parts),
        }
    }
    if !waiting.is_empty() {
        // No turn of the user follows: a result takes it, because a turn behind results would confuse templates.
        match turns.last_mut().map(|turn| (turn.who, &mut turn.parts)) {
            Some((Who::User, parts)) => match parts.last_mut() {
                Some(Part::Result { parts, .. }) => parts.extend(waiting),
                _ => parts.extend(waiting),
            },
            _ => turns.push(Turn {
                who: Who::User,
                parts: waiting,
                at: ask.turns.len(),
            }),
        }
    }
    (Cow::Owned(turns), hoisted)
}
