//! The translation of requests: a reader, then a writer.

use super::chat;
use super::completions;
use super::gemini;
use super::loss::{Loss, Refusal};
use super::memory::Memory;
use super::messages;
use super::responses;
use super::target::{Dialect, Target};
use super::words::Ask;
use crate::json::quote;
use crate::json::tape::{Kind, Tape, TapeError, Value};

/// Models that do not verify the signatures of earlier calls.
const OLD_GEMINI: [&str; 2] = ["gemini-1", "gemini-2"];

/// A translated request.
#[derive(Debug)]
pub struct Asked {
    /// The body for the upstream.
    pub body: Vec<u8>,
    /// The names of what was lost.
    pub dropped: Vec<String>,
    /// For the answer.
    pub memory: Memory,
}

/// Translates the body of a request, which the peeker has validated, for the model of this name.
pub fn request(client: Dialect, target: &Target, body: &[u8], name: &str) -> Result<Asked, Refusal> {
    let tape = Tape::read_valid(body).map_err(|error| match error {
        TapeError::TooLarge => Refusal::invalid("", "the body is nested too deep, or has too many values"),
        TapeError::Syntax(_) => Refusal::invalid("", "the body is no valid JSON"),
    })?;
    let root = tape.root();
    if root.kind() != Kind::Object {
        return Err(Refusal::invalid("", "the body must be a JSON object"));
    }
    let mut loss = Loss::new(&target.name, target.drops);
    let mut memory = Memory::default();
    let ask = read(client, root, &mut loss, &mut memory)?;
    memory.stops = ask.stop.iter().map(|stop| stop.to_vec()).collect();
    memory.estimate = ask.estimate();
    memory.wants_usage = ask.wants_usage;
    let model = quote(name);
    let body = match target.dialect {
        // Nothing is sent.
        _ if client == Dialect::Count => Vec::new(),
        Dialect::Chat => chat::writer::write(&ask, &model, target, body.len(), &mut loss, &mut memory)?,
        Dialect::Messages => messages::writer::write(&ask, &model, target, body.len(), &mut loss, &mut memory)?,
        Dialect::Gemini => {
            let is_verifying = !OLD_GEMINI.iter().any(|old| name.contains(old));
            gemini::writer::write(&ask, is_verifying, body.len(), &mut loss)?
        }
        Dialect::Count | Dialect::Responses | Dialect::Completions => return Err(loss.refusal("model", "this request")),
    };
    Ok(Asked {
        body,
        dropped: loss.into_names(),
        memory,
    })
}

fn read<'a>(client: Dialect, root: Value<'a>, loss: &mut Loss<'_>, memory: &mut Memory) -> Result<Ask<'a>, Refusal> {
    match client {
        Dialect::Messages => messages::request::read(root, false, loss),
        Dialect::Count => messages::request::read(root, true, loss),
        Dialect::Responses => responses::request::read(root, loss, memory),
        Dialect::Completions => completions::request::read(root, loss),
        Dialect::Gemini => Err(loss.refusal("model", "this request")),
        Dialect::Chat => chat::request::read(root, loss, memory),
    }
}
