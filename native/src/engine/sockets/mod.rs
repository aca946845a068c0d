//! Plain TCP connections: an epoll set of our own inside the event loop's, and transports over it.

mod data;
mod idle;
mod interceptor;
mod listener;
mod set;
mod state;
mod transport;

use std::sync::Arc;

use budgateway_core::descriptor;
use pyo3::intern;
use pyo3::prelude::*;

pub(crate) use data::{Data, Read};
pub(crate) use idle::{Idle, Waiting};
pub(crate) use interceptor::{Client, Interceptor, Interest};
pub(crate) use listener::Listener;
pub(crate) use state::Piece;
pub(crate) use transport::Transport;

use set::{Entry, Ready, Set};

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Sockets {
    set: Arc<Set<Transport>>,
}

#[pymethods]
impl Sockets {
    #[new]
    #[pyo3(signature = (call_soon, call_later, complain, /))]
    fn new(call_soon: Py<PyAny>, call_later: Py<PyAny>, complain: Py<PyAny>) -> PyResult<Self> {
        let set = Arc::new(Set::new(call_soon, call_later, complain)?);
        Ok(Self { set })
    }

    fn fileno(&self) -> i32 {
        self.set.fileno()
    }

    fn turn(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let ready = this.set.ready()?;
        this.set.begin();
        let answered = this.answer(py, &ready);
        let left = this.set.finish(py);
        if this.set.is_unfinished() {
            this.set.call_soon(&slf.getattr(intern!(py, "turn"))?)?;
        }
        answered.and(left)
    }

    #[pyo3(signature = (fd, factory, most, gate = None, /))]
    fn listen(
        &self,
        py: Python<'_>,
        fd: i32,
        factory: Py<PyAny>,
        most: usize,
        gate: Option<Py<PyAny>>,
    ) -> PyResult<Py<Listener>> {
        Listener::open(py, &self.set, descriptor::copy_of(fd)?, factory, most, gate)
    }

    #[pyo3(signature = (fd, protocol, most, /))]
    fn adopt(&self, py: Python<'_>, fd: i32, protocol: &Bound<'_, PyAny>, most: usize) -> PyResult<Py<Transport>> {
        Transport::open(py, &self.set, descriptor::copy_of(fd)?, protocol, most)
    }

    fn unsent(&self, py: Python<'_>) -> Vec<usize> {
        self.set
            .transports(py)
            .iter()
            .map(|one| one.get().get_write_buffer_size(py))
            .collect()
    }

    /// The number of read buffers that exchanges hold.
    fn lent(&self) -> usize {
        self.set.read_buffers.lent()
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.set.intercept(None);
        self.set.close(py)
    }
}

impl Sockets {
    /// Sets or removes the interceptor, which sees requests before their protocol does.
    pub(crate) fn intercept(&self, interceptor: Option<Arc<dyn Interceptor<Transport>>>) {
        self.set.intercept(interceptor);
    }

    fn answer(&self, py: Python<'_>, ready: &[Ready]) -> PyResult<()> {
        let mut left = ready.iter();
        while let Some(ready) = left.next() {
            if let Err(error) = self.answer_one(py, ready) {
                // The kernel has reported the others and will not do so again.
                left.for_each(|ready| self.set.look_again(ready.key, ready.flags));
                return Err(error);
            }
        }
        Ok(())
    }

    fn answer_one(&self, py: Python<'_>, ready: &Ready) -> PyResult<()> {
        // Looked up one by one: an earlier handler may have closed this one, and its slot may have a new owner.
        match self.set.entry(py, ready.key) {
            Some(Entry::Transport(transport)) => Transport::on_ready(transport.bind(py), ready.flags),
            Some(Entry::Listener(listener)) => listener.on_ready(py),
            None => Ok(()),
        }
    }
}
