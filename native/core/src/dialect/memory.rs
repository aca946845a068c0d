//! The memory of a request for its answer, and the names that the answer gets.

use super::text::{MARK, hashed, is_plain};
use crate::json::quote;

/// The facts about a request that its answer needs.
#[derive(Debug, Default)]
pub struct Memory {
    /// Tools that the upstream knows by another name, or whose calls have another form.
    pub(super) names: Vec<Named>,
    /// The client's stop sequences.
    pub(super) stops: Vec<Vec<u8>>,
    pub(super) estimate: u64,
    /// Members that every answer of the Responses API repeats.
    pub(super) echo: Vec<u8>,
    /// Reasoning is told as a summary, as the client asked.
    pub(super) wants_summary: bool,
    /// Reasoning is also told in the form in which it can be sent again.
    pub(super) wants_sealed: bool,
    /// The client asked for the usage of its stream.
    pub(super) wants_usage: bool,
}

/// A tool, as the upstream knows it and as the client does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) sent: Vec<u8>,
    pub(super) said: Vec<u8>,
    /// The namespace, or nothing.
    pub(super) space: Vec<u8>,
    /// True for a tool that takes a text and no object.
    pub(super) is_custom: bool,
}

/// The names that an answer's translation gives.
#[derive(Debug, Clone)]
pub struct Naming {
    /// The exchange's id, as the text of a JSON string.
    pub(super) id: Vec<u8>,
    /// The model as the client says it, as JSON.
    pub(super) model: Vec<u8>,
    /// The signature of thoughts that have none.
    pub(super) mark: Vec<u8>,
    /// Seconds since the epoch.
    pub(super) created: u64,
}

impl Memory {
    /// A rough count of the request's tokens.
    pub fn estimate(&self) -> u64 {
        self.estimate
    }

    fn named(&self, sent: &[u8]) -> Option<&Named> {
        self.names.iter().find(|named| named.sent == sent)
    }

    /// The client's name of a tool.
    pub(super) fn name_of<'a>(&'a self, sent: &'a [u8]) -> &'a [u8] {
        self.said(sent).0
    }

    /// The client's name of a tool, and its namespace.
    pub(super) fn said<'a>(&'a self, sent: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        self.named(sent)
            .map_or((sent, b""), |named| (&named.said, &named.space))
    }

    /// True for a tool that takes a text and no object.
    pub(super) fn is_custom(&self, sent: &[u8]) -> bool {
        self.named(sent).is_some_and(|named| named.is_custom)
    }

    /// A tool's name in at most so many plain characters.
    pub(super) fn shortened(&mut self, name: &[u8], longest: usize) -> Vec<u8> {
        let start = name.iter().take(longest - 9);
        let start = start.map(|byte| if is_plain(&[*byte], 1) { *byte } else { b'_' });
        let start: Vec<u8> = start.collect();
        let sent = [&*start, b"_", &hashed("", name, 8)].concat();
        if self.named(&sent).is_none() {
            // A name that another reason has changed keeps that, too.
            let (said, space) = self.said(name);
            self.names.push(Named {
                sent: sent.clone(),
                said: said.to_vec(),
                space: space.to_vec(),
                is_custom: self.is_custom(name),
            });
        }
        sent
    }

    /// The name of a tool in a namespace.
    pub(super) fn spaced(&mut self, space: &[u8], name: &[u8], is_custom: bool) -> Vec<u8> {
        let sent = [space, b"__", name].concat();
        if self.named(&sent).is_none() {
            self.names.push(Named {
                sent: sent.clone(),
                said: name.to_vec(),
                space: space.to_vec(),
                is_custom,
            });
        }
        sent
    }
}

impl Naming {
    /// Names for an exchange. `provider` is part of the mark on reasoning.
    pub fn new(id: &str, model: &str, provider: &str, created: u64) -> Self {
        let inside = |text: &str| {
            let quoted = quote(text);
            quoted.get(1..quoted.len() - 1).unwrap_or_default().to_vec()
        };
        Self {
            id: inside(id),
            model: quote(model).into_vec(),
            mark: [MARK, &inside(provider)].concat(),
            created,
        }
    }

    /// An id of the answer's own, as JSON.
    pub(super) fn id(&self, prefix: &str) -> Vec<u8> {
        [b"\"", prefix.as_bytes(), &self.id, b"\""].concat()
    }

    /// The id of an item of the answer, as JSON.
    pub(super) fn item_id(&self, prefix: &str, number: usize) -> Vec<u8> {
        [
            b"\"",
            prefix.as_bytes(),
            &self.id,
            b"_",
            number.to_string().as_bytes(),
            b"\"",
        ]
        .concat()
    }

    /// A call's id as JSON: the upstream's, or one of the gateway's.
    pub(super) fn call_id(&self, id: &[u8], number: usize) -> Vec<u8> {
        if id.is_empty() {
            return [b"\"call_", &*self.id, b"_", number.to_string().as_bytes(), b"\""].concat();
        }
        [b"\"", id, b"\""].concat()
    }
}
