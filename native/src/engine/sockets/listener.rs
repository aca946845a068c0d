//! Listening sockets.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use budgateway_core::slab::Key;
use pyo3::intern;
use pyo3::prelude::*;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::set::{Accept, Entry, Set, failed};
use super::transport::Transport;

/// Maximum connections accepted in one turn, so that open connections get their turn in between.
const AT_ONCE: usize = 16;
/// The pause of accepting when descriptors run out; connections wait in the backlog.
const REST_S: f64 = 0.1;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Listener {
    set: Arc<Set<Transport>>,
    factory: Py<PyAny>,
    most: usize,
    /// Reports whether there are descriptors for another connection.
    gate: Option<Py<PyAny>>,
    registration: Mutex<Option<Registration>>,
}

struct Registration {
    fd: OwnedFd,
    key: Key,
    short: bool,
}

impl Listener {
    pub(crate) fn open(
        py: Python<'_>,
        set: &Arc<Set<Transport>>,
        fd: OwnedFd,
        factory: Py<PyAny>,
        most: usize,
        gate: Option<Py<PyAny>>,
    ) -> PyResult<Py<Self>> {
        let own = Py::new(
            py,
            Self {
                set: set.clone(),
                factory,
                most,
                gate,
                registration: Mutex::default(),
            },
        )?;
        let key = set.add(&fd, Entry::Listener(Arc::new(own.clone_ref(py))), EventFlags::IN)?;
        *own.get().registration() = Some(Registration { fd, key, short: false });
        Ok(own)
    }

    fn on_ready(own: &Bound<'_, Self>) -> PyResult<()> {
        let this = own.get();
        for _ in 0..AT_ONCE {
            if let Some(gate) = this.gate.as_ref()
                && !gate.bind(own.py()).call0()?.is_truthy()?
            {
                return this.rest(own, Errno::MFILE);
            }
            match this.accept() {
                Ok(fd) => this.welcome(own, fd)?,
                Err(Errno::AGAIN) => {
                    this.caught_up();
                    break;
                }
                Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                    return this.rest(own, error);
                }
                // The connection is gone (accept(2): treat network errors as EAGAIN).
                Err(_) => (),
            }
        }
        Ok(())
    }

    fn accept(&self) -> Result<OwnedFd, Errno> {
        let registration = self.registration();
        let registration = registration.as_ref().ok_or(Errno::AGAIN)?;
        accept_with(&registration.fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
    }

    /// Clears the shortage: the backlog is empty.
    fn caught_up(&self) {
        if let Some(registration) = self.registration().as_mut() {
            registration.short = false;
        }
    }

    fn welcome(&self, own: &Bound<'_, Self>, fd: OwnedFd) -> PyResult<()> {
        let py = own.py();
        let opened = self.factory.bind(py).call0();
        match opened.and_then(|protocol| Transport::open(py, &self.set, fd, &protocol, self.most)) {
            Ok(_) => Ok(()),
            Err(error) => self.set.complain("a connection could not be taken", error, own),
        }
    }

    /// Pauses accepting. Logs the shortage once, and again only after the backlog was empty in between.
    fn rest(&self, own: &Bound<'_, Self>, error: Errno) -> PyResult<()> {
        let mut short = true;
        if let Some(registration) = self.registration().as_mut() {
            self.set.modify(&registration.fd, registration.key, EventFlags::empty());
            short = std::mem::replace(&mut registration.short, true);
        }
        if !short {
            self.set.complain("no connection can be accepted", failed(error), own)?;
        }
        self.set.call_later(REST_S, &own.getattr(intern!(own.py(), "_rested"))?)
    }

    fn registration(&self) -> MutexGuard<'_, Option<Registration>> {
        self.registration.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Accept for Py<Listener> {
    fn on_ready(&self, py: Python<'_>) -> PyResult<()> {
        Listener::on_ready(self.bind(py))
    }

    fn close(&self) {
        self.get().close();
    }
}

#[pymethods]
impl Listener {
    fn close(&self) {
        let registration = self.registration().take();
        if let Some(registration) = registration {
            self.set.remove(&registration.fd, registration.key);
        }
    }

    fn _rested(&self) {
        if let Some(registration) = self.registration().as_ref() {
            self.set.modify(&registration.fd, registration.key, EventFlags::IN);
        }
    }
}
