//! At random, and keeps what it is told: a policy of the tests.

use std::sync::Mutex;

use super::{Ask, Candidates, Needs, Note, Observation, Policy};

#[derive(Debug)]
pub(in crate::select) struct Noted {
    pub(in crate::select) told: Mutex<Vec<String>>,
}

impl Noted {
    pub(super) fn new(_weights: &[u32]) -> Self {
        Self {
            told: Mutex::new(Vec::new()),
        }
    }

    fn tell(&self, event: String) -> u64 {
        let mut told = self.told.lock().unwrap();
        told.push(event);
        told.len() as u64
    }
}

impl Policy for Noted {
    const NEEDS: Needs = Needs {
        request: true,
        outcome: true,
        ..Needs::NONE
    };

    fn choose(&self, candidates: &Candidates<'_>, _ask: &Ask<'_>) -> Option<usize> {
        candidates.by_weight(candidates.fit())
    }

    fn sent(&self, index: usize, ask: &Ask<'_>) -> Note {
        let model = String::from_utf8_lossy(ask.model);
        let chunks = ask.prefix.len();
        self.tell(format!(
            "sent {index}: {model}, {} bytes, {chunks} chunks",
            ask.prompt_bytes
        ))
    }

    fn begun(&self, index: usize, note: Note, now_ns: u64) {
        self.tell(format!("begun {index}: note {note} at {now_ns}"));
    }

    fn observe(&self, index: usize, observation: &Observation) {
        let Observation {
            note,
            verdict,
            first_byte_ns,
            usage,
            ..
        } = *observation;
        let tokens = usage.map(|usage| usage.tokens_out);
        self.tell(format!(
            "ended {index}: note {note}, {verdict:?}, {first_byte_ns:?}, {tokens:?}"
        ));
    }
}
