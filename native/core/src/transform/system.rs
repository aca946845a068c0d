//! System texts: where each dialect has the instructions that precede a conversation.

use std::borrow::Cow;

use crate::json::{Document, JsonError, Names, Path, quote, unescape};

/// A dialect's place for system texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `messages` that begin with the roles `system` or `developer`: OpenAI's chat completions.
    Chat,
    /// `system`, a string or blocks: Anthropic's messages.
    Messages,
    /// `instructions`, a string: OpenAI's responses.
    Responses,
    /// `systemInstruction` with parts: Gemini.
    Gemini,
}

/// The place of a system text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Before the request's own.
    Prepend,
    /// Behind the request's own.
    Append,
    /// Instead of the request's own.
    Replace,
}

/// A text for the system part of requests.
#[derive(Debug)]
pub struct SystemText {
    style: Style,
    mode: Mode,
    /// The text as a JSON string.
    string: Box<[u8]>,
    /// The text as an element of a list: a message, a block or a part.
    element: Box<[u8]>,
    /// The text as a block inside a message's content.
    block: Box<[u8]>,
    /// The text as the whole value, where the dialect has none.
    whole: Box<[u8]>,
    list: Path,
    other: Path,
    leading: Vec<(Path, Path, Path)>,
}

/// Leading system messages that are joined with the text or replaced by it; more stay.
const MAX_LEADING: usize = 32;

impl SystemText {
    /// The text for the requests of a dialect.
    pub fn new(names: &mut Names, style: Style, mode: Mode, text: &str) -> Self {
        let string = quote(text);
        let wrapped = |before: &[u8], after: &[u8]| [before, &string, after].concat().into_boxed_slice();
        let block = wrapped(b"{\"type\":\"text\",\"text\":", b"}");
        let (list, element, whole) = match style {
            Style::Chat => {
                let message = wrapped(b"{\"role\":\"system\",\"content\":", b"}");
                ("messages", message, Box::default())
            }
            Style::Messages => ("system", block.clone(), string.clone()),
            Style::Responses => ("instructions", Box::default(), string.clone()),
            Style::Gemini => {
                let part = wrapped(b"{\"text\":", b"}");
                ("systemInstruction", part, wrapped(b"{\"parts\":[{\"text\":", b"}]}"))
            }
        };
        let mut path = |text: &str| Path::member(names.intern(text));
        let (list, other) = (path(list), path("system_instruction"));
        let mut deep = |text: &str| Path::parse(names, text).ok();
        let leading = match style {
            Style::Chat => (0..MAX_LEADING)
                .map_while(|at| {
                    Some((
                        deep(&format!("/messages/{at}"))?,
                        deep(&format!("/messages/{at}/role"))?,
                        deep(&format!("/messages/{at}/content"))?,
                    ))
                })
                .collect(),
            Style::Gemini => ["systemInstruction", "system_instruction"]
                .iter()
                .map_while(|name| Some((deep(name)?, deep(&format!("/{name}/parts"))?, deep(name)?)))
                .collect(),
            _ => Vec::new(),
        };
        Self {
            style,
            mode,
            string,
            element,
            block,
            whole,
            list,
            other,
            leading,
        }
    }

    pub(super) fn apply<'a>(&'a self, document: &mut Document<'a>) -> Result<(), JsonError> {
        match self.style {
            Style::Chat => self.chat(document),
            Style::Gemini => self.gemini(document),
            Style::Messages | Style::Responses => {
                if self.mode == Mode::Replace || !self.join(document, &self.list, &self.element)? {
                    document.set(&self.list, Cow::Borrowed(&self.whole))?;
                }
                Ok(())
            }
        }
    }

    fn chat<'a>(&'a self, document: &mut Document<'a>) -> Result<(), JsonError> {
        let mut count = 0_usize;
        for (_, role, _) in &self.leading {
            let is_system = document.text(role)?.is_some_and(|role| is_system(&role));
            if !is_system {
                break;
            }
            count += 1;
        }
        if self.mode == Mode::Replace {
            for _ in 0..count {
                if let Some((first, ..)) = self.leading.first() {
                    document.remove(first)?;
                }
            }
            count = 0;
        }
        let at = if self.mode == Mode::Append { count } else { count.min(1) };
        if let Some((_, _, content)) = at.checked_sub(1).and_then(|at| self.leading.get(at)) {
            if !self.join(document, content, &self.block)? {
                document.set(content, Cow::Borrowed(&self.string))?;
            }
            return Ok(());
        }
        document.insert(&self.list, true, Cow::Borrowed(&self.element))?;
        Ok(())
    }

    fn gemini<'a>(&'a self, document: &mut Document<'a>) -> Result<(), JsonError> {
        if self.mode == Mode::Replace {
            document.remove(&self.other)?;
        } else {
            for (_, parts, _) in &self.leading {
                if document.insert(parts, self.mode == Mode::Prepend, Cow::Borrowed(&self.element))? {
                    return Ok(());
                }
            }
        }
        document.set(&self.list, Cow::Borrowed(&self.whole))
    }

    /// Joins the text with the string at a path, or adds `element` to the list there; false when there is neither.
    fn join<'a>(&'a self, document: &mut Document<'a>, path: &Path, element: &'a [u8]) -> Result<bool, JsonError> {
        let Some(value) = document.value(path)? else {
            return Ok(false);
        };
        if value.first() == Some(&b'[') {
            return document.insert(path, self.mode == Mode::Prepend, Cow::Borrowed(element));
        }
        if value.first() != Some(&b'"') {
            return Ok(false);
        }
        let inside = |string: &[u8]| {
            string
                .get(1..string.len().saturating_sub(1))
                .unwrap_or_default()
                .to_vec()
        };
        let (ours, theirs) = (inside(&self.string), inside(&value));
        let (first, second) = match self.mode {
            Mode::Prepend => (ours, theirs),
            _ => (theirs, ours),
        };
        let mut joined = Vec::with_capacity(first.len() + second.len() + 6);
        joined.push(b'"');
        joined.extend_from_slice(&first);
        if !first.is_empty() && !second.is_empty() {
            joined.extend_from_slice(b"\\n\\n");
        }
        joined.extend_from_slice(&second);
        joined.push(b'"');
        document.set(path, Cow::Owned(joined))?;
        Ok(true)
    }
}

/// True for the JSON text of a role that gives instructions.
fn is_system(role: &[u8]) -> bool {
    let raw = role
        .strip_prefix(b"\"")
        .and_then(|text| text.strip_suffix(b"\""))
        .unwrap_or_default();
    matches!(raw, b"system" | b"developer")
        || (raw.contains(&b'\\') && matches!(unescape(raw).as_str(), "system" | "developer"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::{Operation, Rule, Transform};

    fn made(style: Style, mode: Mode, body: &str) -> String {
        let mut names = Names::default();
        let text = SystemText::new(&mut names, style, mode, "be\nkind");
        let transform = Transform::new(names, vec![Rule::new(Vec::new(), vec![Operation::System(text)])], true);
        let applied = transform.apply(body.as_bytes(), 1, &[]).unwrap().unwrap();
        applied
            .changed()
            .map_or(body.into(), |document| String::from_utf8(document.to_vec(64)).unwrap())
    }

    #[test]
    fn chats_have_it_in_their_first_message() {
        use Mode::{Append, Prepend, Replace};
        let chat = |mode, messages: &str| made(Style::Chat, mode, &format!("{{\"messages\":[{messages}]}}"));
        let user = r#"{"role":"user","content":"hi"}"#;
        let ours = r#"{"role":"system","content":"be\u000akind"}"#;
        for mode in [Prepend, Append, Replace] {
            assert_eq!(chat(mode, user), format!("{{\"messages\":[{ours},{user}]}}"));
            assert_eq!(chat(mode, ""), format!("{{\"messages\":[{ours}]}}"));
            assert_eq!(made(Style::Chat, mode, r#"{"messages":"x"}"#), r#"{"messages":"x"}"#);
            assert_eq!(made(Style::Chat, mode, "{}"), "{}");
        }
        let own = r#"{"role":"developer","content":"a\"b"}, {"role":"system","content":[{"type":"text","text":"c"}]}"#;
        assert_eq!(
            chat(Prepend, &format!("{own},{user}")),
            format!(
                "{{\"messages\":[{},{user}]}}",
                own.replace("a\\\"b", "be\\u000akind\\n\\na\\\"b")
            )
        );
        assert_eq!(
            chat(Append, &format!("{own},{user}")),
            format!(
                "{{\"messages\":[{},{user}]}}",
                own.replace("}]}", "},{\"type\":\"text\",\"text\":\"be\\u000akind\"}]}")
            )
        );
        assert_eq!(
            chat(Replace, &format!("{own},{user}")),
            format!("{{\"messages\":[{ours},{user}]}}")
        );
        assert_eq!(
            chat(Prepend, r#"{"role":"system","content":null}"#),
            r#"{"messages":[{"role":"system","content":"be\u000akind"}]}"#
        );
    }

    #[test]
    fn messages_and_responses_have_a_member() {
        let (style, mode) = (Style::Messages, Mode::Prepend);
        assert_eq!(made(style, mode, "{}"), r#"{"system":"be\u000akind"}"#);
        assert_eq!(
            made(style, mode, r#"{"system":"x"}"#),
            r#"{"system":"be\u000akind\n\nx"}"#
        );
        assert_eq!(
            made(
                style,
                mode,
                r#"{"system":[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}]}"#
            ),
            r#"{"system":[{"type":"text","text":"be\u000akind"},{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}]}"#
        );
        assert_eq!(
            made(style, Mode::Replace, r#"{"system":[1]}"#),
            r#"{"system":"be\u000akind"}"#
        );
        let style = Style::Responses;
        assert_eq!(
            made(style, Mode::Append, r#"{"instructions":"x"}"#),
            r#"{"instructions":"x\n\nbe\u000akind"}"#
        );
        assert_eq!(
            made(style, Mode::Append, r#"{"instructions":null}"#),
            r#"{"instructions":"be\u000akind"}"#
        );
    }

    #[test]
    fn gemini_has_parts() {
        let style = Style::Gemini;
        let ours = r#"{"text":"be\u000akind"}"#;
        assert_eq!(
            made(style, Mode::Append, "{}"),
            format!(r#"{{"systemInstruction":{{"parts":[{ours}]}}}}"#)
        );
        for name in ["systemInstruction", "system_instruction"] {
            let body = format!(r#"{{"{name}":{{"parts":[{{"text":"x"}}]}}}}"#);
            assert_eq!(
                made(style, Mode::Prepend, &body),
                format!(r#"{{"{name}":{{"parts":[{ours},{{"text":"x"}}]}}}}"#)
            );
            assert_eq!(
                made(style, Mode::Append, &body),
                format!(r#"{{"{name}":{{"parts":[{{"text":"x"}},{ours}]}}}}"#)
            );
            assert_eq!(
                made(style, Mode::Replace, &body),
                format!(r#"{{"systemInstruction":{{"parts":[{ours}]}}}}"#)
            );
        }
    }
}
