//! A transport's state, and its operations on the descriptor.

use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::OwnedFd;

use budgateway_core::outbox::Outbox;
use budgateway_core::slab::Key;
use budgateway_core::unsent::Unsent;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown};
use smallvec::SmallVec;

use super::data::{Data, Read};
use super::interceptor::{Interception, Interest};
use super::set::Set;

/// asyncio's default.
const HIGH: usize = 64 * 1024;

pub(crate) struct State {
    pub(crate) fd: Option<OwnedFd>,
    pub(crate) key: Key,
    /// The events registered in the epoll set.
    pub(crate) registered: EventFlags,
    /// Bytes per read.
    most: usize,
    pub(crate) protocol: Option<Py<PyAny>>,
    /// Its bound `data_received`.
    pub(crate) received: Option<Py<PyAny>>,
    /// The last read took everything there was, and the peer had not ended its side.
    pub(crate) is_drained: bool,
    /// Pieces written in this turn.
    pub(crate) waiting: SmallVec<[Piece; 2]>,
    /// Bytes written that the kernel has not taken yet.
    pub(crate) unsent: Unsent,
    high: usize,
    low: usize,
    pub(crate) phase: Phase,
    pub(crate) error: Option<PyErr>,
    pub(crate) interception: Interception,
}

/// Bytes to be sent at the end of the turn in which they were written.
pub(crate) enum Piece {
    /// The bytes from an offset on.
    Data(Data, usize),
    /// A range of the set's outbox.
    Outbox(Range<usize>),
}

/// The phase of a connection; all flags but `paused`, `left` and `full` are permanent.
#[derive(Default)]
pub(crate) struct Phase {
    /// The protocol has paused reading.
    pub(crate) paused: bool,
    /// The peer ended its side while reading was paused.
    pub(crate) left: bool,
    /// The peer has sent EOF.
    pub(crate) received_eof: bool,
    /// The protocol has sent EOF.
    pub(crate) sent_eof: bool,
    /// The protocol was asked to pause writing.
    pub(crate) full: bool,
    /// The peer accepts no more bytes; those that it sent before can still be read.
    pub(crate) broken: bool,
    /// Nothing more is read; unsent bytes are still sent.
    pub(crate) closing: bool,
    /// `connection_lost` is scheduled.
    pub(crate) over: bool,
}

impl Piece {
    fn of<'a>(&'a self, py: Python<'a>, outbox: &'a Outbox) -> &'a [u8] {
        match self {
            Self::Data(data, from) => data.bytes(py).get(*from..),
            Self::Outbox(range) => outbox.text(range),
        }
        .unwrap_or_default()
    }

    pub(crate) fn len(&self, py: Python<'_>) -> usize {
        match self {
            Self::Data(data, from) => data.bytes(py).len().saturating_sub(*from),
            Self::Outbox(range) => range.len(),
        }
    }
}

impl From<Py<PyBytes>> for Piece {
    fn from(bytes: Py<PyBytes>) -> Self {
        Self::Data(bytes.into(), 0)
    }
}

impl State {
    pub(crate) fn new(most: usize, registered: EventFlags) -> Self {
        Self {
            fd: None,
            key: Key::of_number(u64::MAX),
            registered,
            most,
            protocol: None,
            received: None,
            is_drained: true,
            waiting: SmallVec::new(),
            unsent: Unsent::default(),
            high: HIGH,
            low: HIGH / 4,
            phase: Phase::default(),
            error: None,
            interception: Interception::default(),
        }
    }

    /// Reads once. Epoll is edge-triggered: `is_drained` is false when more may be there.
    pub(crate) fn read<T>(&mut self, set: &Set<T>, py: Python<'_>) -> Read {
        let Some(fd) = self.fd.as_ref() else {
            return Read::Nothing;
        };
        let receive = |buffer: &mut [u8]| recv(fd, buffer, RecvFlags::empty()).map(|(count, _)| count);
        match set
            .read_buffers
            .receive(self.most, self.interception.head, receive, |bytes| {
                Data::copy_of(py, bytes)
            }) {
            Ok(data) => {
                let count = data.bytes(py).len();
                self.is_drained = count < self.most;
                match count {
                    // The connection was reset, and the send call took the error.
                    0 if self.phase.broken => Read::Failed(Errno::CONNRESET),
                    0 => Read::End,
                    _ => Read::Data(data),
                }
            }
            Err(error @ (Errno::AGAIN | Errno::INTR)) => {
                self.is_drained = error == Errno::AGAIN;
                Read::Nothing
            }
            Err(error) => Read::Failed(error),
        }
    }

    /// Sends the waiting pieces; bytes that the kernel does not take become unsent.
    pub(crate) fn send_waiting<T>(&mut self, set: &Set<T>, py: Python<'_>) {
        let outbox = set.outbox();
        let waiting = std::mem::take(&mut self.waiting);
        let mut sent = 0;
        if self.unsent.is_empty()
            && let Some(fd) = self.fd.as_ref()
        {
            let result = match waiting.as_slice() {
                [one] => send(fd, one.of(py, &outbox), SendFlags::NOSIGNAL),
                many => {
                    let slices = many.iter().map(|piece| IoSlice::new(piece.of(py, &outbox)));
                    let slices: SmallVec<[IoSlice<'_>; 8]> = slices.collect();
                    sendmsg(fd, &slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
                }
            };
            sent = self.taken(result);
        }
        if self.phase.broken {
            return;
        }
        for piece in &waiting {
            let piece = piece.of(py, &outbox);
            if let Some(rest) = piece.get(sent..) {
                self.unsent.push(rest);
            }
            sent = sent.saturating_sub(piece.len());
        }
    }

    /// Sends unsent bytes, as far as the kernel takes them.
    pub(crate) fn flush(&mut self) {
        if let Some(fd) = self.fd.as_ref()
            && !self.unsent.is_empty()
        {
            let sent = send(fd, self.unsent.rest(), SendFlags::NOSIGNAL);
            let count = self.taken(sent);
            self.unsent.advance(count);
        }
    }

    pub(crate) fn shutdown_write(&self) {
        if let Some(fd) = self.fd.as_ref() {
            // Fails when the peer is gone, which reading reports.
            let _ = shutdown(fd, Shutdown::Write);
        }
    }

    /// True when every written byte has been sent.
    pub(crate) fn is_clear(&self) -> bool {
        self.waiting.is_empty() && self.unsent.is_empty()
    }

    /// True when it may be lent to a request: nobody else uses it, and no bytes are left in either direction. Bytes
    /// left by a read would be taken for the answer; unsent bytes would become part of the request.
    pub(crate) fn is_free(&self) -> bool {
        matches!(self.interception.interest, Interest::None)
            && !(self.takes_nothing() || self.reads_nothing() || self.phase.full)
            && self.is_clear()
            && self.is_drained
    }

    pub(crate) fn takes_nothing(&self) -> bool {
        self.phase.closing || self.phase.broken || self.phase.sent_eof
    }

    pub(crate) fn reads_nothing(&self) -> bool {
        self.phase.paused || self.phase.received_eof || self.phase.closing
    }

    pub(crate) fn limit(&mut self, high: usize) {
        self.high = high;
        self.low = high / 4;
    }

    /// True when the unsent bytes have just risen above the high-water mark: the protocol must be asked to pause, once.
    pub(crate) fn became_full(&mut self) -> bool {
        let became = !self.phase.full && self.unsent.len() > self.high;
        self.phase.full |= became;
        became
    }

    /// True when the unsent bytes have just fallen to the low-water mark: the protocol may resume.
    pub(crate) fn became_free(&mut self) -> bool {
        let became = self.phase.full && self.unsent.len() <= self.low;
        self.phase.full &= !became;
        became
    }

    /// Registers exactly the events that are waited for. Epoll reports readiness that exists at registration, and then
    /// only changes.
    pub(crate) fn register<T>(&mut self, set: &Set<T>) {
        let phase = &self.phase;
        let mut wanted = EventFlags::ET;
        if !self.reads_nothing() {
            wanted |= EventFlags::IN | EventFlags::RDHUP;
        } else if phase.paused && !(phase.left || phase.received_eof || phase.closing) {
            wanted |= EventFlags::RDHUP;
        }
        if !self.unsent.is_empty() {
            // Writability is level-triggered: a write can fail for other reasons than a full buffer.
            wanted |= EventFlags::OUT;
            wanted.remove(EventFlags::ET);
        }
        if wanted != self.registered
            && !phase.over
            && let Some(fd) = self.fd.as_ref()
        {
            self.registered = wanted;
            set.modify(fd, self.key, wanted);
        }
    }

    fn taken(&mut self, sent: Result<usize, Errno>) -> usize {
        match sent {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => 0,
            Err(_) => {
                self.phase.broken = true;
                self.unsent.clear();
                0
            }
        }
    }
}
