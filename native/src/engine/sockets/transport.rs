//! One connection: asyncio's transport, as far as our protocols use it.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use budgateway_core::read_buffers::BUFFER_BYTES;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{getpeername, getsockname};

use super::data::Read;
use super::interceptor::Interest;
use super::set::{Connection, Entry, Set, failed};
use super::state::{Piece, State};
use crate::head::now_ns;

/// Maximum pieces per send: far below the kernel's limit (IOV_MAX, 1,024).
const MAX_WAITING: usize = 64;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Transport {
    set: Arc<Set<Self>>,
    state: Mutex<State>,
}

impl Transport {
    /// Opens a transport over a connected socket and notifies its protocol.
    pub(crate) fn open(
        py: Python<'_>,
        set: &Arc<Set<Self>>,
        fd: OwnedFd,
        protocol: &Bound<'_, PyAny>,
        most: usize,
    ) -> PyResult<Py<Self>> {
        let registered = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        let mut state = State::new(most.min(BUFFER_BYTES), registered);
        state.protocol = Some(protocol.clone().unbind());
        state.received = Some(protocol.getattr(intern!(py, "data_received"))?.unbind());
        let set = set.clone();
        let own = Bound::new(
            py,
            Self {
                set,
                state: Mutex::new(state),
            },
        )?;
        let this = own.get();
        let key = this.set.add(&fd, Entry::Transport(own.clone().unbind()), registered)?;
        let mut state = this.state();
        state.fd = Some(fd);
        state.key = key;
        drop(state);
        let made = protocol.call_method1(intern!(py, "connection_made"), (&own,)).map(drop);
        Self::or_end(&own, "connection_made", made)?;
        Ok(own.unbind())
    }

    /// Handles an event of the set.
    pub(crate) fn on_ready(own: &Bound<'_, Self>, flags: EventFlags) -> PyResult<()> {
        // Reading comes first: bytes that a peer sent before it left must reach the protocol.
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            Self::on_readable(own, flags)?;
        }
        if flags.contains(EventFlags::OUT) {
            Self::on_writable(own)?;
        }
        Ok(())
    }

    /// Ends the connection; the protocol gets `connection_lost` in the loop's next step.
    pub(crate) fn end(own: &Bound<'_, Self>, error: Option<PyErr>) -> PyResult<()> {
        let this = own.get();
        let mut state = this.state();
        if state.phase.over {
            return Ok(());
        }
        state.phase.over = true;
        state.phase.closing = true;
        state.unsent.clear();
        state.error = error;
        let waiting = std::mem::take(&mut state.waiting);
        let interest = std::mem::take(&mut state.interception.interest);
        if let Some(fd) = state.fd.as_ref() {
            this.set.remove(fd, state.key);
        }
        drop(state);
        drop(waiting);
        if let Interest::Serving(key) = interest
            && let Some(interceptor) = this.set.interceptor()
        {
            interceptor.on_end(own.py(), key)?;
        }
        this.set.call_soon(&own.getattr(intern!(own.py(), "_lost"))?)
    }

    /// Sends the writes of a turn.
    pub(crate) fn leave(own: &Bound<'_, Self>) -> PyResult<()> {
        let this = own.get();
        let mut state = this.state();
        if state.waiting.is_empty() {
            return Ok(());
        }
        state.send_waiting(&this.set, own.py());
        if state.unsent.is_empty() {
            return Ok(());
        }
        state.register(&this.set);
        if state.became_full() {
            drop(state);
            this.notify(own, "pause_writing")?;
        }
        Ok(())
    }

    fn on_readable(own: &Bound<'_, Self>, flags: EventFlags) -> PyResult<()> {
        let py = own.py();
        let this = own.get();
        let mut state = this.state();
        if state.phase.over {
            return Ok(());
        }
        if state.reads_nothing() {
            return Self::on_unread(own, state, flags);
        }
        let mut read = state.read(&this.set, py);
        // A short read is the last one, unless the end is behind it (epoll(7)).
        let ended = flags & (EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        state.is_drained &= ended.is_empty() || !matches!(read, Read::Data(_));
        if !state.is_drained {
            this.set.look_again(state.key, EventFlags::IN | ended);
        }
        let interest = state.interception.interest;
        drop(state);
        if !matches!(interest, Interest::None)
            && let Some(interceptor) = this.set.interceptor()
        {
            match interceptor.on_read(own, interest, read)? {
                Some(left) => read = left,
                None => return Ok(()),
            }
        }
        let received = this.state().received.as_ref().map(|received| received.clone_ref(py));
        match (read, received) {
            (Read::Data(data), Some(received)) => {
                let done = received.call1(py, (data.into_python(py),)).map(drop);
                Self::or_end(own, "data_received", done)
            }
            (Read::End, _) => Self::on_end(own),
            (Read::Failed(error), _) => Self::end(own, Some(failed(error))),
            _ => Ok(()),
        }
    }

    /// Handles an event on a connection that is paused or no longer read.
    fn on_unread(own: &Bound<'_, Self>, mut state: MutexGuard<'_, State>, flags: EventFlags) -> PyResult<()> {
        let this = own.get();
        if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            drop(state);
            return Self::end(own, Some(failed(Errno::CONNRESET)));
        }
        if !flags.contains(EventFlags::RDHUP) || state.phase.left || !state.phase.paused {
            return Ok(());
        }
        state.phase.left = true;
        state.register(&this.set);
        drop(state);
        let py = own.py();
        match this.protocol(py) {
            // Not part of asyncio: not every protocol has it.
            Some(protocol) if protocol.hasattr(intern!(py, "left"))? => this.notify(own, "left"),
            _ => Ok(()),
        }
    }

    fn on_end(own: &Bound<'_, Self>) -> PyResult<()> {
        let py = own.py();
        let this = own.get();
        let mut state = this.state();
        state.phase.received_eof = true;
        state.register(&this.set);
        drop(state);
        let Some(protocol) = this.protocol(py) else {
            return Ok(());
        };
        let stays = protocol.call_method0(intern!(py, "eof_received"));
        match stays.and_then(|stays| stays.is_truthy()) {
            Ok(true) => Ok(()),
            Ok(false) => Self::close(own),
            Err(error) => Self::or_end(own, "eof_received", Err(error)),
        }
    }

    fn on_writable(own: &Bound<'_, Self>) -> PyResult<()> {
        let this = own.get();
        let mut state = this.state();
        if state.phase.over {
            return Ok(());
        }
        state.flush();
        state.register(&this.set);
        if state.unsent.is_empty() {
            if state.phase.closing {
                drop(state);
                return Self::end(own, None);
            }
            if state.phase.sent_eof {
                state.shutdown_write();
            }
        }
        if state.became_free() {
            drop(state);
            this.notify(own, "resume_writing")?;
        }
        Ok(())
    }

    /// Calls a method of the protocol that returns nothing.
    fn notify(&self, own: &Bound<'_, Self>, what: &str) -> PyResult<()> {
        match self.protocol(own.py()) {
            Some(protocol) => Self::or_end(own, what, protocol.call_method0(what).map(drop)),
            None => Ok(()),
        }
    }

    /// Ends the connection when the protocol failed.
    fn or_end(own: &Bound<'_, Self>, what: &str, done: PyResult<()>) -> PyResult<()> {
        let Err(error) = done else { return Ok(()) };
        Self::fail(own, &format!("{what} failed"), error)
    }

    /// Ends the connection and logs the protocol's error.
    pub(crate) fn fail(own: &Bound<'_, Self>, what: &str, error: PyErr) -> PyResult<()> {
        Self::end(own, None)?;
        own.get().set.complain(what, error, own)
    }

    /// Writes without back-pressure: `pieces` are sent at the end of the turn.
    pub(crate) fn put<const N: usize>(own: &Bound<'_, Self>, pieces: [Piece; N]) -> PyResult<()> {
        let this = own.get();
        let mut state = this.state();
        if state.takes_nothing() {
            return Ok(());
        }
        let first = state.waiting.is_empty();
        state.waiting.extend(pieces);
        let count = state.waiting.len();
        drop(state);
        if count > MAX_WAITING || (first && !this.set.may_wait(own)) {
            return Self::leave(own);
        }
        Ok(())
    }

    /// Composes a piece of `size` bytes in the outbox, within a turn; `write` fills it.
    pub(crate) fn compose(&self, size: usize, write: impl FnOnce(&mut [u8])) -> Piece {
        Piece::Outbox(self.set.outbox().add(size, write))
    }

    pub(crate) fn protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.state().protocol.as_ref().map(|protocol| protocol.bind(py).clone())
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection for Transport {
    fn end(own: &Bound<'_, Self>, error: Option<PyErr>) -> PyResult<()> {
        Self::end(own, error)
    }

    fn leave(own: &Bound<'_, Self>) -> PyResult<()> {
        Self::leave(own)
    }
}

#[pymethods]
impl Transport {
    #[pyo3(signature = (data, /))]
    fn write(own: &Bound<'_, Self>, data: &Bound<'_, PyBytes>) -> PyResult<()> {
        Self::put(own, [data.clone().unbind().into()])
    }

    #[pyo3(signature = (pieces, /))]
    fn writelines(own: &Bound<'_, Self>, pieces: (Bound<'_, PyBytes>, Bound<'_, PyBytes>)) -> PyResult<()> {
        Self::put(own, [pieces.0.unbind().into(), pieces.1.unbind().into()])
    }

    /// Lets the interceptor see the connection's requests until it leaves one to the protocol.
    #[pyo3(signature = (client, network, /))]
    fn arm(&self, client: &str, network: &str) {
        self.state().interception.arm(client, network);
    }

    #[getter]
    fn last_fast_ns(&self) -> i64 {
        let state = self.state();
        match state.interception.interest {
            Interest::Serving(_) => now_ns(),
            _ => state.interception.served_ns,
        }
    }

    fn write_eof(own: &Bound<'_, Self>) -> PyResult<()> {
        Self::leave(own)?;
        let mut state = own.get().state();
        if !state.takes_nothing() {
            state.phase.sent_eof = true;
            if state.unsent.is_empty() {
                state.shutdown_write();
            }
        }
        Ok(())
    }

    fn can_write_eof(&self) -> bool {
        true
    }

    fn pause_reading(&self) {
        let mut state = self.state();
        state.phase.paused = true;
        // Each pause is notified again.
        state.phase.left = false;
        state.register(&self.set);
    }

    fn resume_reading(&self) {
        let mut state = self.state();
        state.phase.paused = false;
        state.phase.left = false;
        state.register(&self.set);
    }

    fn close(own: &Bound<'_, Self>) -> PyResult<()> {
        Self::leave(own)?;
        let this = own.get();
        let mut state = this.state();
        if state.phase.closing {
            return Ok(());
        }
        if state.unsent.is_empty() {
            drop(state);
            return Self::end(own, None);
        }
        state.phase.closing = true;
        state.register(&this.set);
        Ok(())
    }

    fn abort(own: &Bound<'_, Self>) -> PyResult<()> {
        Self::end(own, None)
    }

    fn reset(own: &Bound<'_, Self>) -> PyResult<()> {
        if let Some(fd) = own.get().state().fd.as_ref() {
            // The next close sends RST.
            let _ = set_socket_linger(fd, Some(Duration::ZERO));
        }
        Self::end(own, None)
    }

    fn is_closing(&self) -> bool {
        self.state().phase.closing
    }

    #[pyo3(signature = (high))]
    fn set_write_buffer_limits(&self, high: usize) {
        self.state().limit(high);
    }

    pub(crate) fn get_write_buffer_size(&self, py: Python<'_>) -> usize {
        let state = self.state();
        let waiting: usize = state.waiting.iter().map(|piece| piece.len(py)).sum();
        waiting + state.unsent.len()
    }

    #[pyo3(signature = (protocol, /))]
    fn set_protocol(&self, protocol: Bound<'_, PyAny>) -> PyResult<()> {
        let received = protocol.getattr(intern!(protocol.py(), "data_received"))?.unbind();
        let mut state = self.state();
        let before = (
            state.protocol.replace(protocol.unbind()),
            state.received.replace(received),
        );
        drop(state);
        drop(before);
        Ok(())
    }

    #[pyo3(signature = (name, default = None, /))]
    fn get_extra_info<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let state = self.state();
        let address = match (name, state.fd.as_ref()) {
            ("peername", Some(fd)) => getpeername(fd).ok().flatten(),
            ("sockname", Some(fd)) => getsockname(fd).ok(),
            _ => None,
        };
        drop(state);
        match address.and_then(|address| SocketAddr::try_from(address).ok()) {
            Some(address) => Ok(Some(
                (address.ip().to_string(), address.port()).into_pyobject(py)?.into_any(),
            )),
            None => Ok(default),
        }
    }

    fn _lost(&self, py: Python<'_>) -> PyResult<()> {
        let mut state = self.state();
        let fd = state.fd.take();
        let received = state.received.take();
        let protocol = state.protocol.take();
        let error = state.error.take();
        drop(state);
        drop(fd);
        drop(received);
        match protocol {
            Some(protocol) => protocol
                .call_method1(py, intern!(py, "connection_lost"), (error,))
                .map(drop),
            None => Ok(()),
        }
    }
}
