//! The idle connections to one upstream.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;

use super::transport::Transport;

/// Last in, first out, so that surplus connections age and are closed.
#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Idle {
    keepalive_ns: i64,
    state: Mutex<State>,
}

struct State {
    most: usize,
    /// Ordered by last use, the latest last.
    all: Vec<Waiting>,
    last_heard_ns: i64,
}

/// An idle connection, and the time since when it is idle.
pub(crate) struct Waiting {
    pub(crate) connection: Py<PyAny>,
    /// Its transport, when that is one of ours.
    pub(crate) transport: Option<Py<Transport>>,
    pub(crate) since_ns: i64,
}

#[pymethods]
impl Idle {
    #[new]
    #[pyo3(signature = (keepalive_ns, most, /))]
    fn new(keepalive_ns: i64, most: usize) -> Self {
        let state = State {
            most,
            all: Vec::new(),
            last_heard_ns: 0,
        };
        Self {
            keepalive_ns,
            state: Mutex::new(state),
        }
    }

    #[pyo3(signature = (connection, transport, since_ns, /))]
    fn push(&self, connection: Py<PyAny>, transport: Option<Py<Transport>>, since_ns: i64) -> bool {
        self.put(Waiting {
            connection,
            transport,
            since_ns,
        })
    }

    #[pyo3(signature = (now_ns, /))]
    fn pop(&self, now_ns: i64) -> Option<Py<PyAny>> {
        self.take(now_ns).map(|waiting| waiting.connection)
    }

    #[pyo3(signature = (now_ns, /))]
    fn stale(&self, now_ns: i64) -> Vec<Py<PyAny>> {
        let mut state = self.state();
        let count = state
            .all
            .iter()
            .take_while(|waiting| now_ns - waiting.since_ns >= self.keepalive_ns)
            .count();
        state.all.drain(..count).map(|waiting| waiting.connection).collect()
    }

    #[pyo3(signature = (connection, /))]
    fn remove(&self, connection: &Bound<'_, PyAny>) {
        let mut state = self.state();
        let index = state.all.iter().position(|waiting| waiting.connection.is(connection));
        let removed = index.map(|index| state.all.remove(index));
        drop(state);
        drop(removed);
    }

    fn close(&self) -> Vec<Py<PyAny>> {
        let mut state = self.state();
        state.most = 0;
        let all = std::mem::take(&mut state.all);
        drop(state);
        all.into_iter().map(|waiting| waiting.connection).collect()
    }

    #[pyo3(signature = (now_ns, /))]
    pub(crate) fn hear(&self, now_ns: i64) -> i64 {
        let mut state = self.state();
        state.last_heard_ns = state.last_heard_ns.max(now_ns);
        state.last_heard_ns
    }

    fn __len__(&self) -> usize {
        self.state().all.len()
    }
}

impl Waiting {
    /// True when no bytes of the previous exchange are left, in either direction.
    fn is_free(&self) -> bool {
        let transport = self.transport.as_ref();
        transport.is_none_or(|transport| transport.get().state().is_free())
    }
}

impl Idle {
    /// Takes the free connection that was used last, unless it has been idle for too long: then so have all before it.
    pub(crate) fn take(&self, now_ns: i64) -> Option<Waiting> {
        let mut state = self.state();
        let index = state.all.iter().rposition(Waiting::is_free)?;
        let waits = now_ns - state.all.get(index)?.since_ns;
        (waits < self.keepalive_ns).then(|| state.all.remove(index))
    }

    /// Returns a connection after its exchange; `false` when the pool is full.
    pub(crate) fn put(&self, waiting: Waiting) -> bool {
        let mut state = self.state();
        let has_room = state.all.len() < state.most;
        if has_room {
            state.all.push(waiting);
        }
        has_room
    }

    /// The time at which bytes last came from the upstream.
    pub(crate) fn last_heard_ns(&self) -> i64 {
        self.state().last_heard_ns
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
