//! The memory of a request for its answer, and the names that the answer gets.

use super::text::{hashed, is_plain};
use crate::json::quote;

/// The facts about a request that its answer needs.
#[derive(Debug, Default)]
pub struct Memory {
    /// Tool names as sent, and as the client says them.
    pub(super) names: Vec<(Vec<u8>, Vec<u8>)>,
    /// The client's stop sequences.
    pub(super) stops: Vec<Vec<u8>>,
    pub(super) estimate: u64,
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
    #[allow(dead_code, reason = "the dialects to come need it")]
    pub(super) created: u64,
}

/// The beginning of signatures that the gateway writes where the upstream has none.
const MARK: &[u8] = b"bgw1.";

impl Memory {
    /// A rough count of the request's tokens.
    pub fn estimate(&self) -> u64 {
        self.estimate
    }

    /// The client's name of a tool.
    pub(super) fn name_of<'a>(&'a self, sent: &'a [u8]) -> &'a [u8] {
        self.names
            .iter()
            .find(|(own, _)| own == sent)
            .map_or(sent, |(_, said)| said)
    }

    /// A tool's name in at most so many plain characters.
    pub(super) fn shortened(&mut self, said: &[u8], longest: usize) -> Vec<u8> {
        if let Some((sent, _)) = self.names.iter().find(|(_, own)| own == said) {
            return sent.clone();
        }
        let start = said.iter().take(longest - 9);
        let start = start.map(|byte| if is_plain(&[*byte], 1) { *byte } else { b'_' });
        let start: Vec<u8> = start.collect();
        let sent = [&*start, b"_", &hashed("", said, 8)].concat();
        self.names.push((sent.clone(), said.to_vec()));
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

    /// A call's id as JSON: the upstream's, or one of the gateway's.
    pub(super) fn call_id(&self, id: &[u8], number: usize) -> Vec<u8> {
        if id.is_empty() {
            return [b"\"call_", &*self.id, b"_", number.to_string().as_bytes(), b"\""].concat();
        }
        [b"\"", id, b"\""].concat()
    }
}
