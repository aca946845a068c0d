//! The epoll set: the owners of events, and the writes of one turn.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use budgateway_core::outbox::Outbox;
use budgateway_core::read_buffers::ReadBuffers;
use budgateway_core::slab::{Key, Slab};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use smallvec::SmallVec;

use super::interceptor::Interceptor;

/// Maximum events per turn; with more, the loop first handles everything else.
const EVENTS: usize = 64;

/// The set of `T`, the transports, and of listeners. It knows neither type, so that both may know the set.
pub(crate) struct Set<T> {
    epoll: OwnedFd,
    owners: Mutex<Slab<Entry<T>>>,
    /// The read buffers of all connections.
    pub(crate) read_buffers: Arc<ReadBuffers>,
    turning: AtomicBool,
    /// Reported events that are not fully handled.
    again: Mutex<Vec<Ready>>,
    /// Transports that have written in this turn.
    written: Mutex<Vec<Py<T>>>,
    /// Bytes composed in this turn.
    outbox: Mutex<Outbox>,
    interceptor: Mutex<Option<Arc<dyn Interceptor<T>>>>,
    // The event loop's callbacks.
    call_soon: Py<PyAny>,
    call_later: Py<PyAny>,
    complain: Py<PyAny>,
}

/// The owner of an event.
pub(crate) enum Entry<T> {
    Transport(Py<T>),
    Listener(Arc<dyn Accept>),
}

/// A transport, as the set uses it.
pub(crate) trait Connection: Sized {
    /// Ends the connection.
    fn end(own: &Bound<'_, Self>, error: Option<PyErr>) -> PyResult<()>;

    /// Sends the writes of a turn.
    fn leave(own: &Bound<'_, Self>) -> PyResult<()>;
}

/// A listening socket, as the set uses it.
pub(crate) trait Accept: Send + Sync {
    /// Accepts the connections that are waiting.
    fn on_ready(&self, py: Python<'_>) -> PyResult<()>;

    /// Accepts no more.
    fn close(&self);
}

/// The kernel's report about one descriptor.
pub(crate) struct Ready {
    pub(crate) key: Key,
    pub(crate) flags: EventFlags,
}

impl<T> Set<T> {
    pub(crate) fn new(call_soon: Py<PyAny>, call_later: Py<PyAny>, complain: Py<PyAny>) -> PyResult<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC).map_err(failed)?,
            owners: Mutex::default(),
            read_buffers: Arc::default(),
            turning: AtomicBool::new(false),
            again: Mutex::default(),
            written: Mutex::default(),
            outbox: Mutex::default(),
            interceptor: Mutex::default(),
            call_soon,
            call_later,
            complain,
        })
    }

    pub(crate) fn fileno(&self) -> i32 {
        self.epoll.as_raw_fd()
    }

    // ---------------------------------------------------------------- members

    /// Adds a descriptor.
    pub(crate) fn add(&self, fd: impl AsFd, entry: Entry<T>, flags: EventFlags) -> PyResult<Key> {
        let key = self.owners().add(entry);
        if let Err(error) = epoll::add(&self.epoll, fd, EventData::new_u64(key.number()), flags) {
            drop(self.take(key));
            return Err(failed(error));
        }
        Ok(key)
    }

    pub(crate) fn modify(&self, fd: impl AsFd, key: Key, flags: EventFlags) {
        // Fails only for a descriptor that is not in the set; every caller's is.
        let _ = epoll::modify(&self.epoll, fd, EventData::new_u64(key.number()), flags);
    }

    /// Removes a descriptor: events that were already reported for it find no owner.
    pub(crate) fn remove(&self, fd: impl AsFd, key: Key) {
        let _ = epoll::delete(&self.epoll, fd);
        // Dropped after the lock is released: it may be the last reference.
        drop(self.take(key));
    }

    pub(crate) fn entry(&self, py: Python<'_>, key: Key) -> Option<Entry<T>> {
        Some(match self.owners().owner(key)? {
            Entry::Transport(transport) => Entry::Transport(transport.clone_ref(py)),
            Entry::Listener(listener) => Entry::Listener(listener.clone()),
        })
    }

    pub(crate) fn transports(&self, py: Python<'_>) -> Vec<Py<T>> {
        let owners = self.owners();
        let transports = owners.iter().filter_map(|entry| match entry {
            Entry::Transport(transport) => Some(transport.clone_ref(py)),
            Entry::Listener(_) => None,
        });
        transports.collect()
    }

    /// Ends everything in the set.
    pub(crate) fn close(&self, py: Python<'_>) -> PyResult<()>
    where
        T: Connection,
    {
        let entries = self.owners().clear();
        for entry in entries {
            match entry {
                Entry::Transport(transport) => T::end(transport.bind(py), None)?,
                Entry::Listener(listener) => listener.close(),
            }
        }
        Ok(())
    }

    fn take(&self, key: Key) -> Option<Entry<T>> {
        self.owners().remove(key)
    }

    fn owners(&self) -> MutexGuard<'_, Slab<Entry<T>>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---------------------------------------------------------------- turns

    /// The ready descriptors, at most one turn's share.
    pub(crate) fn ready(&self) -> PyResult<SmallVec<[Ready; EVENTS]>> {
        let nothing = Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        };
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut events = [nothing; EVENTS];
        let count = match epoll::wait(&self.epoll, &mut events[..], Some(&at_once)) {
            Ok(count) => count,
            Err(Errno::INTR) => 0,
            Err(error) => return Err(failed(error)),
        };
        let ready = events.iter().take(count).map(|event| {
            let Event { flags, data } = *event;
            let key = Key::of_number(data.u64());
            Ready { key, flags }
        });
        // Those that had their turn come after those that had none.
        let again = std::mem::take(&mut *self.again());
        Ok(ready.chain(again).collect())
    }

    /// Schedules the rest of a reported event for the next turn: an edge-triggered event is not reported again.
    pub(crate) fn look_again(&self, key: Key, flags: EventFlags) {
        self.again().push(Ready { key, flags });
    }

    /// True when an event is left to handle.
    pub(crate) fn is_unfinished(&self) -> bool {
        !self.again().is_empty()
    }

    fn again(&self) -> MutexGuard<'_, Vec<Ready>> {
        self.again.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a turn: writes wait for its end.
    pub(crate) fn begin(&self) {
        self.turning.store(true, Ordering::Relaxed);
    }

    /// Ends a turn and sends its writes together. A peer woken by the first bytes finds the rest there too; sent one by
    /// one, each would wake it again.
    pub(crate) fn finish(&self, py: Python<'_>) -> PyResult<()>
    where
        T: Connection,
    {
        self.turning.store(false, Ordering::Relaxed);
        let mut written = std::mem::take(&mut *self.written());
        let mut left = Ok(());
        for transport in written.drain(..) {
            left = left.and(T::leave(transport.bind(py)));
        }
        self.outbox().clear();
        let mut place = self.written();
        if place.is_empty() {
            *place = written;
        }
        left
    }

    /// True when this transport's writes may wait for the end of a turn.
    pub(crate) fn may_wait(&self, transport: &Bound<'_, T>) -> bool {
        let turning = self.turning.load(Ordering::Relaxed);
        if turning {
            self.written().push(transport.clone().unbind());
        }
        turning
    }

    /// The interceptor, which sees requests before their protocol does.
    pub(crate) fn interceptor(&self) -> Option<Arc<dyn Interceptor<T>>> {
        self.interceptor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets or removes the interceptor.
    pub(crate) fn intercept(&self, interceptor: Option<Arc<dyn Interceptor<T>>>) {
        let before = std::mem::replace(
            &mut *self.interceptor.lock().unwrap_or_else(PoisonError::into_inner),
            interceptor,
        );
        drop(before);
    }

    pub(crate) fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn written(&self) -> MutexGuard<'_, Vec<Py<T>>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---------------------------------------------------------------- event loop

    pub(crate) fn call_soon(&self, what: &Bound<'_, PyAny>) -> PyResult<()> {
        self.call_soon.call1(what.py(), (what,)).map(drop)
    }

    pub(crate) fn call_later(&self, seconds: f64, what: &Bound<'_, PyAny>) -> PyResult<()> {
        self.call_later.call1(what.py(), (seconds, what)).map(drop)
    }

    /// Logs an error with `whom`; an error that is not an `Exception` is passed on.
    pub(crate) fn complain(&self, what: &str, error: PyErr, whom: &Bound<'_, PyAny>) -> PyResult<()> {
        if !error.is_instance_of::<PyException>(whom.py()) {
            return Err(error);
        }
        self.complain.call1(whom.py(), (what, error, whom)).map(drop)
    }
}

pub(crate) fn failed(error: Errno) -> PyErr {
    std::io::Error::from(error).into()
}
