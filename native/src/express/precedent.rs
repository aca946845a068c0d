//! Precedents: what the pipeline decided about exchanges of one kind.

use std::collections::HashMap;
use std::sync::Arc;

use budgateway_core::segment::LabelId;
use pyo3::prelude::*;

use crate::decide::{LimitSet, Price};
use crate::head::RequestHeadWriter;
use crate::redact::Redactor;
use crate::select::Selector;
use crate::sockets::{Idle, Transport};

/// Kinds that are remembered: all are forgotten when there are more.
const MOST: usize = 1024;

/// What holds for every exchange of its kind.
pub(super) struct Precedent {
    pub(super) route: LabelId,
    pub(super) provider: LabelId,
    pub(super) model_label: LabelId,
    /// Until when the credential is good.
    pub(super) until_ns: i64,
    pub(super) max_body_bytes: usize,
    /// How long an exchange may wait before its deadlines are near.
    pub(super) patience_ns: i64,
    /// What is said to a page of another origin depends on which one it is: not for us.
    pub(super) by_origin: bool,
    pub(super) limits: Option<Py<LimitSet>>,
    pub(super) price: Option<Py<Price>>,
    pub(super) selector: Py<Selector>,
    /// Upstreams that do not serve the model, a bit each.
    pub(super) without: u64,
    pub(super) targets: Vec<Target>,
    pub(super) asker: Option<Asker>,
    /// The pipeline's own, for an exchange that has to go on there.
    pub(super) standing: Py<PyAny>,
}

/// Who asks, where that is known.
pub(super) struct Asker {
    pub(super) principal: String,
    pub(super) user: String,
    pub(super) key: String,
    pub(super) tenant: String,
}

/// An upstream.
pub(super) struct Target {
    pub(super) idle: Py<Idle>,
    pub(super) writer: Py<RequestHeadWriter>,
    pub(super) label: String,
    /// Header lines of its answers.
    pub(super) lines: Vec<u8>,
    /// Attempts and overhead are told with them.
    pub(super) discloses: bool,
    /// Finds what it must not tell clients.
    pub(super) redactor: Option<Py<Redactor>>,
}

/// A connection, for one exchange.
pub(super) struct Lent {
    pub(super) connection: Py<PyAny>,
    pub(super) transport: Py<Transport>,
}

impl Target {
    /// A connection that waits, if it can be had without more ado.
    pub(super) fn lend(&self, now_ns: i64) -> Option<Lent> {
        let idle = self.idle.get();
        let waiting = idle.take(now_ns)?;
        match waiting.transport {
            Some(transport) => Some(Lent {
                connection: waiting.connection,
                transport,
            }),
            None => {
                idle.put(waiting);
                None
            }
        }
    }
}

/// All that are known, by route, credential and model.
#[derive(Default)]
pub(super) struct Precedents {
    all: HashMap<Box<[u8]>, Arc<Precedent>>,
    /// Most requests are of the kind that the one before was of.
    last: Option<(Box<[u8]>, Arc<Precedent>)>,
    key: Vec<u8>,
}

impl Precedents {
    pub(super) fn add(&mut self, route: usize, credential: Option<(u8, &[u8])>, model: &[u8], precedent: Precedent) {
        if self.all.len() >= MOST {
            self.all.clear();
        }
        self.last = None;
        self.key(route, credential, model);
        self.all.insert(self.key.as_slice().into(), Arc::new(precedent));
    }

    pub(super) fn of(&mut self, route: usize, credential: Option<(u8, &[u8])>, model: &[u8]) -> Option<Arc<Precedent>> {
        self.key(route, credential, model);
        if let Some((key, precedent)) = &self.last
            && **key == *self.key
        {
            return Some(precedent.clone());
        }
        let (key, precedent) = self.all.get_key_value(self.key.as_slice())?;
        self.last = Some((key.clone(), precedent.clone()));
        Some(precedent.clone())
    }

    /// Forgets them; what is returned is to be dropped where nothing is locked.
    pub(super) fn clear(&mut self) -> Self {
        std::mem::take(self)
    }

    fn key(&mut self, route: usize, credential: Option<(u8, &[u8])>, model: &[u8]) {
        self.key.clear();
        self.key.extend_from_slice(&(route as u32).to_le_bytes());
        // A credential's kind and length first, so that no other pair reads the same; none is not an empty one.
        let (kind, value) = credential.unwrap_or_default();
        self.key.push(kind);
        self.key.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.key.extend_from_slice(value);
        self.key.extend_from_slice(model);
    }
}
