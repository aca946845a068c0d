//! Writes requests of Gemini's generateContent.

use std::collections::HashMap;

use super::super::loss::{Loss, Refusal};
use super::super::text::{Json, Text, is_blank, joined, unescaped};
use super::super::words::{Arguments, Ask, Choice, Effort, Format, Knob, Part, Source, Thinking, Who};
use crate::json::tape::{Kind, Tape};

/// Google's documented escape for a call whose signature is not known.
const NO_SIGNATURE: &[u8] = b"skip_thought_signature_validator";
const MAX_STOPS: usize = 5;

/// Writes a request. `is_verifying`: the model refuses calls without a signature.
pub(in super::super) fn write(
    ask: &Ask<'_>,
    is_verifying: bool,
    room: usize,
    loss: &mut Loss<'_>,
) -> Result<Vec<u8>, Refusal> {
    let mut json = Json::with_capacity(room + room / 8 + 512);
    json.open(b'{');
    let mut writer = Writer {
        json: &mut json,
        loss,
        is_verifying,
        names: HashMap::new(),
    };
    writer.contents(ask)?;
    writer.tools(ask)?;
    writer.settings(ask)?;
    json.close(b'}');
    Ok(json.0)
}

struct Writer<'w, 't, 'a> {
    json: &'w mut Json,
    loss: &'w mut Loss<'t>,
    is_verifying: bool,
    /// The names of earlier calls, by their ids.
    names: HashMap<Vec<u8>, Text<'a>>,
}

impl<'a> Writer<'_, '_, 'a> {
    fn contents(&mut self, ask: &Ask<'a>) -> Result<(), Refusal> {
        let mut system: Vec<Text<'_>> = Vec::new();
        let mut turns: Vec<(Who, Vec<(&Part<'a>, usize)>)> = Vec::new();
        let text_of = |part: &Part<'a>| match part {
            Part::Text(text, _) if !text.is_empty() => Some(text.clone()),
            _ => None,
        };
        system.extend(ask.system.iter().filter_map(text_of));
        for turn in &ask.turns {
            if turn.who == Who::System {
                system.extend(turn.parts.iter().filter_map(text_of));
                continue;
            }
            let parts = turn
                .parts
                .iter()
                .filter(|part| !matches!(part, Part::Text(text, _) if is_blank(text)));
            match turns.last_mut() {
                Some((who, all)) if *who == turn.who => all.extend(parts.map(|part| (part, turn.at))),
                _ => turns.push((turn.who, parts.map(|part| (part, turn.at)).collect())),
            }
        }
        if !system.is_empty() {
            let whole = joined(system.into_iter(), b"\\n\\n");
            self.json
                .key("systemInstruction")
                .open(b'{')
                .key("parts")
                .open(b'[')
                .open(b'{')
                .key("text")
                .text(&whole);
            self.json.close(b'}').close(b']').close(b'}');
        }
        self.json.key("contents").open(b'[');
        for (who, parts) in turns.iter().filter(|(_, parts)| !parts.is_empty()) {
            let role: &[u8] = if *who == Who::Assistant { b"model" } else { b"user" };
            self.json.open(b'{').key("role").text(role).key("parts").open(b'[');
            let mut is_first_call = true;
            for (part, at) in parts {
                self.part(part, *at, &mut is_first_call)?;
            }
            self.json.close(b']').close(b'}');
        }
        self.json.close(b']');
        Ok(())
    }

    fn part(&mut self, part: &Part<'a>, at: usize, is_first_call: &mut bool) -> Result<(), Refusal> {
        let param = || format!("messages[{at}].content");
        match part {
            Part::Text(text, _) => {
                self.json.open(b'{').key("text").text(text).close(b'}');
            }
            Part::Image(source) | Part::Document { source, .. } => match source {
                Source::Base64 { media, data } => self.bytes(media, data),
                Source::Url(url) if url.starts_with(b"gs:") || url.starts_with(b"https:") => {
                    self.json
                        .open(b'{')
                        .key("fileData")
                        .open(b'{')
                        .key("fileUri")
                        .text(url)
                        .close(b'}')
                        .close(b'}');
                }
                Source::Url(_) => self.loss.lossy(param(), "an address of this kind")?,
            },
            Part::Audio { data, format } => {
                let media = [b"audio/", *format].concat();
                self.bytes(&media, data);
            }
            Part::Thought { .. } | Part::Sealed(_) => self.loss.dropped("reasoning"),
            Part::Call { id, name, arguments } => {
                self.names.insert(id.to_vec(), name.clone());
                let object = match arguments {
                    Arguments::Object(object) => object.to_vec(),
                    Arguments::Text(text) => object_of(text).ok_or_else(|| {
                        let param = format!("messages[{at}].tool_calls.function.arguments");
                        Refusal::invalid(param, "a call's arguments must be a JSON object")
                    })?,
                };
                self.json
                    .open(b'{')
                    .key("functionCall")
                    .open(b'{')
                    .key("id")
                    .text(id)
                    .key("name")
                    .text(name);
                self.json.key("args").value(&object).close(b'}');
                if self.is_verifying && std::mem::take(is_first_call) {
                    self.json.key("thoughtSignature").text(NO_SIGNATURE);
                }
                self.json.close(b'}');
            }
            Part::Result { id, is_error, parts } => {
                let Some(name) = self.names.get(&**id).cloned() else {
                    let param = format!("messages[{at}].tool_call_id");
                    return Err(Refusal::invalid(param, "a result of a tool needs a call before it"));
                };
                self.json
                    .open(b'{')
                    .key("functionResponse")
                    .open(b'{')
                    .key("id")
                    .text(id)
                    .key("name")
                    .text(&name);
                let texts = parts.iter().filter_map(|part| match part {
                    Part::Text(text, _) => Some(text.clone()),
                    _ => None,
                });
                let text = joined(texts, b"\\n");
                self.json.key("response");
                match object_of(&text).filter(|_| !*is_error && !text.is_empty()) {
                    Some(object) => self.json.value(&object),
                    None => {
                        let member = if *is_error { "error" } else { "output" };
                        self.json.open(b'{').key(member).text(&text).close(b'}')
                    }
                };
                self.json.close(b'}').close(b'}');
                for part in parts
                    .iter()
                    .filter(|part| matches!(part, Part::Image(_) | Part::Document { .. }))
                {
                    self.part(part, at, is_first_call)?;
                }
            }
        }
        Ok(())
    }

    fn bytes(&mut self, media: &[u8], data: &[u8]) {
        self.json
            .open(b'{')
            .key("inlineData")
            .open(b'{')
            .key("mimeType")
            .text(media)
            .key("data")
            .text(data);
        self.json.close(b'}').close(b'}');
    }

    fn tools(&mut self, ask: &Ask<'a>) -> Result<(), Refusal> {
        if ask.tools.is_empty() {
            return Ok(());
        }
        self.json
            .key("tools")
            .open(b'[')
            .open(b'{')
            .key("functionDeclarations")
            .open(b'[');
        for tool in &ask.tools {
            self.json.open(b'{').key("name").text(&tool.name);
            if let Some(description) = &tool.description {
                self.json.key("description").text(description);
            }
            if !tool.schema.is_empty() {
                self.json.key("parametersJsonSchema").value(&tool.schema);
            }
            self.json.close(b'}');
        }
        self.json.close(b']').close(b'}').close(b']');
        if ask.parallel == Some(false) {
            self.loss.lossy("parallel_tool_calls", "`parallel_tool_calls`")?;
        }
        let mode: &[u8] = match &ask.choice {
            Choice::Unset => return Ok(()),
            Choice::Auto => b"AUTO",
            Choice::Never => b"NONE",
            Choice::Any | Choice::Tool(_) => b"ANY",
        };
        self.json
            .key("toolConfig")
            .open(b'{')
            .key("functionCallingConfig")
            .open(b'{')
            .key("mode")
            .text(mode);
        if let Choice::Tool(name) = &ask.choice {
            self.json.key("allowedFunctionNames").open(b'[').text(name).close(b']');
        }
        self.json.close(b'}').close(b'}');
        Ok(())
    }

    fn settings(&mut self, ask: &Ask<'a>) -> Result<(), Refusal> {
        self.json.key("generationConfig").open(b'{');
        if let Some(limit) = ask.limit {
            self.json.key("maxOutputTokens").value(limit);
        }
        if !ask.stop.is_empty() {
            if ask.stop.len() > MAX_STOPS {
                self.loss.lossy("stop", "more than 5 stop sequences")?;
            }
            self.json.key("stopSequences").open(b'[');
            for stop in ask.stop.iter().take(MAX_STOPS) {
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
                self.json.key("responseMimeType").text(b"application/json");
            }
            Format::Schema { schema, .. } => {
                self.json
                    .key("responseMimeType")
                    .text(b"application/json")
                    .key("responseJsonSchema")
                    .value(schema);
            }
        }
        let thinking = match ask.thinking {
            Thinking::Unset => None,
            Thinking::Off => Some(Effort::Minimal),
            Thinking::Adaptive => Some(Effort::High),
            Thinking::Budget(tokens) => Some(Effort::of_budget(tokens)),
            Thinking::Effort(effort) => Some(effort),
        };
        if let Some(effort) = thinking {
            self.json.key("thinkingConfig").open(b'{');
            if self.is_verifying {
                let clipped = effort.min(Effort::High);
                if clipped != effort {
                    self.loss.approximated("effort");
                }
                self.json.key("thinkingLevel").text(clipped.word().as_bytes());
            } else {
                let tokens = match (ask.thinking, effort) {
                    (Thinking::Off, _) => 0,
                    (Thinking::Budget(tokens), _) => tokens,
                    (_, Effort::Minimal) => 512,
                    (_, Effort::Low) => 1_024,
                    (_, Effort::Medium) => 8_192,
                    _ => 24_576,
                };
                self.json.key("thinkingBudget").number(tokens);
            }
            self.json.key("includeThoughts").value(b"true").close(b'}');
        }
        self.json.close(b'}');
        for hint in [
            (ask.user_name, ask.user.is_some()),
            ("service_tier", ask.tier.is_some_and(|tier| tier != b"auto")),
        ] {
            if hint.1 {
                self.loss.dropped(hint.0);
            }
        }
        for (name, _) in &ask.extras {
            self.loss.dropped(name);
        }
        Ok(())
    }

    fn knob(&mut self, knob: &Knob<'_>) -> Result<(), Refusal> {
        let name = match knob.name {
            "temperature" => "temperature",
            "top_p" => "topP",
            "top_k" => "topK",
            "seed" => "seed",
            "n" => "candidateCount",
            "presence_penalty" => "presencePenalty",
            "frequency_penalty" => "frequencyPenalty",
            "logprobs" if knob.value != b"true" => return Ok(()),
            "logprobs" => "responseLogprobs",
            "top_logprobs" => "logprobs",
            "verbosity" => {
                self.loss.dropped(knob.said);
                return Ok(());
            }
            "logit_bias" if knob.value == b"{}" => return Ok(()),
            "modalities" if memchr::memmem::find(knob.value, b"audio").is_none() => return Ok(()),
            _ => return self.loss.lossy(knob.said, &format!("`{}`", knob.said)),
        };
        self.json.key(name).value(knob.value);
        Ok(())
    }
}

fn object_of(text: &[u8]) -> Option<Vec<u8>> {
    let text = unescaped(text);
    let text = text.trim_ascii();
    if text.is_empty() {
        return Some(b"{}".to_vec());
    }
    let is_object = Tape::read(text, Vec::new()).is_ok_and(|tape| tape.root().kind() == Kind::Object);
    is_object.then(|| text.to_vec())
}
