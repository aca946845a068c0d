//! The translation of requests: a reader, then a writer.

use super::chat;
use super::loss::{Loss, Refusal};
use super::memory::Memory;
use super::messages;
use super::target::{Dialect, Target};
use super::words::Ask;
use crate::json::quote;
use crate::json::tape::{Kind, Tape, TapeError, Value};

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

/// Translates the body of a request, which the peeker has validated, for the upstream's `model`.
pub fn request(client: Dialect, target: &Target, body: &[u8], model: &str) -> Result<Asked, Refusal> {
    let tape = Tape::read_valid(body).map_err(|error| match error {
        TapeError::TooLarge => Refusal::invalid("", "the body is nested too deep, or has too many values"),
        TapeError::Syntax(_) => Refusal::invalid("", "the body is no valid JSON"),
    })?;
    let root = tape.root();
    if root.kind() != Kind::Object {
        return Err(Refusal::invalid("", "the body must be a JSON object"));
    }
    let mut loss = Loss::new(&target.name, target.drops);
    let ask = read(client, root, &mut loss)?;
    let mut memory = Memory {
        stops: ask.stop.iter().map(|stop| stop.to_vec()).collect(),
        estimate: ask.estimate(),
        ..Memory::default()
    };
    let model = quote(model);
    let body = match target.dialect {
        Dialect::Chat => chat::writer::write(&ask, &model, target, body.len(), &mut loss, &mut memory)?,
        Dialect::Messages | Dialect::Count => return Err(loss.refusal("model", "this request")),
    };
    Ok(Asked {
        body,
        dropped: loss.into_names(),
        memory,
    })
}

fn read<'a>(client: Dialect, root: Value<'a>, loss: &mut Loss<'_>) -> Result<Ask<'a>, Refusal> {
    match client {
        Dialect::Messages => messages::request::read(root, false, loss),
        Dialect::Count => messages::request::read(root, true, loss),
        Dialect::Chat => Err(loss.refusal("model", "this request")),
    }
}
