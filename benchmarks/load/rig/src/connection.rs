//! One connection of the generator: at most one request on it, sent, awaited, checked.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::events::{EventChecker, StreamStats};
use crate::http::{Progress, ResponseReader};

/// A failure of one exchange; each is counted under its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    Connect,
    Io,
    /// The connection ended before the response did.
    Truncated,
    /// Not HTTP, or bytes that nobody asked for.
    Malformed,
    /// Not of the expected length.
    Length,
    /// Events lost, doubled, out of order, or no terminator.
    Events,
    Timeout,
}

impl Failure {
    pub(crate) const NAMES: [&str; 7] = ["connect", "io", "truncated", "malformed", "length", "events", "timeout"];
}

/// The result of an event on a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It can take its first request.
    Connected,
    /// Nothing to act on yet.
    Waiting,
    /// The response is whole and right so far as it can be told here; the connection can go on, or not.
    Answered {
        reusable: bool,
    },
    /// The peer closed it between two requests, which it may.
    Closed,
    Failed(Failure),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    Idle,
    Busy,
}

/// See the module.
pub(crate) struct Connection {
    stream: TcpStream,
    phase: Phase,
    request: Rc<[u8]>,
    /// Bytes of the request that the socket has not taken yet.
    unsent: usize,
    reader: ResponseReader,
    checker: Option<EventChecker>,
    // exchange
    /// Time at which the request was due: latency counts from here (no coordinated omission).
    pub(crate) intended: Instant,
    pub(crate) sent: Instant,
}

impl Connection {
    pub(crate) fn open(target: SocketAddr, registry: &Registry, token: Token, now: Instant) -> io::Result<Self> {
        let mut stream = TcpStream::connect(target)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            stream,
            phase: Phase::Connecting,
            request: Rc::from([]),
            unsent: 0,
            reader: ResponseReader::new(),
            checker: None,
            intended: now,
            sent: now,
        })
    }

    pub(crate) fn busy(&self) -> bool {
        self.phase == Phase::Busy
    }

    pub(crate) fn connecting(&self) -> bool {
        self.phase == Phase::Connecting
    }

    pub(crate) fn status(&self) -> u16 {
        self.reader.status()
    }

    pub(crate) fn body_size(&self) -> u64 {
        self.reader.size()
    }

    /// Sends `request`; events are expected when `events` says how many.
    pub(crate) fn start(&mut self, request: Rc<[u8]>, events: Option<u32>, intended: Instant, now: Instant) -> Outcome {
        debug_assert!(self.phase == Phase::Idle);
        self.phase = Phase::Busy;
        self.unsent = request.len();
        self.request = request;
        self.reader.restart();
        self.checker = events.map(EventChecker::new);
        self.intended = intended;
        self.sent = now;
        self.write()
    }

    /// Does what the poll says can be done.
    pub(crate) fn ready(&mut self, event: &Event, scratch: &mut [u8], stats: &mut StreamStats) -> Outcome {
        if self.phase == Phase::Connecting {
            return self.connected(event);
        }
        if event.is_writable() && self.phase == Phase::Busy {
            let outcome = self.write();
            if outcome != Outcome::Waiting {
                return outcome;
            }
        }
        if event.is_readable() {
            return self.read(scratch, event.is_read_closed(), stats);
        }
        Outcome::Waiting
    }

    fn connected(&mut self, event: &Event) -> Outcome {
        if event.is_error() || !matches!(self.stream.take_error(), Ok(None)) {
            return Outcome::Failed(Failure::Connect);
        }
        if self.stream.peer_addr().is_err() {
            return Outcome::Waiting;
        }
        if self.stream.set_nodelay(true).is_err() {
            return Outcome::Failed(Failure::Connect);
        }
        self.phase = Phase::Idle;
        Outcome::Connected
    }

    fn write(&mut self) -> Outcome {
        while self.unsent > 0 {
            match self.stream.write(&self.request[self.request.len() - self.unsent..]) {
                Ok(size) => self.unsent -= size,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Outcome::Failed(Failure::Io),
            }
        }
        Outcome::Waiting
    }

    fn read(&mut self, scratch: &mut [u8], to_eof: bool, stats: &mut StreamStats) -> Outcome {
        loop {
            let size = match self.stream.read(scratch) {
                Ok(0) => return self.ended(),
                Ok(size) => size,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Outcome::Waiting,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) if self.phase == Phase::Idle => return Outcome::Closed,
                Err(_) => return Outcome::Failed(Failure::Io),
            };
            if self.phase != Phase::Busy {
                return Outcome::Failed(Failure::Malformed);
            }
            let outcome = self.received(&scratch[..size], stats);
            // epoll(7): less than asked for means that the socket is empty; what comes later is a new edge.
            if outcome != Outcome::Waiting || (size < scratch.len() && !to_eof) {
                return outcome;
            }
        }
    }

    fn received(&mut self, bytes: &[u8], stats: &mut StreamStats) -> Outcome {
        let (checker, sent) = (&mut self.checker, self.sent);
        // One look at the clock for all that one read brought: it became known at one moment.
        let mut now = None;
        let progress = self.reader.feed(bytes, &mut |data| {
            if let Some(checker) = checker {
                checker.feed(data, sent, *now.get_or_insert_with(Instant::now), stats);
            }
        });
        match progress {
            Ok(Progress::More) => Outcome::Waiting,
            Ok(Progress::Done(_)) if (100..200).contains(&self.reader.status()) => Outcome::Failed(Failure::Malformed),
            Ok(Progress::Done(used)) if used == bytes.len() => self.answered(!self.reader.closes()),
            Ok(Progress::Done(_)) | Err(_) => Outcome::Failed(Failure::Malformed),
        }
    }

    fn ended(&mut self) -> Outcome {
        match self.phase {
            Phase::Busy if self.reader.ends_at_close() => self.answered(false),
            Phase::Busy => Outcome::Failed(Failure::Truncated),
            Phase::Idle | Phase::Connecting => Outcome::Closed,
        }
    }

    fn answered(&mut self, reusable: bool) -> Outcome {
        let success = (200..300).contains(&self.reader.status());
        if success && self.checker.as_ref().is_some_and(|checker| !checker.complete()) {
            return Outcome::Failed(Failure::Events);
        }
        self.phase = Phase::Idle;
        // An answer may come before all of the request was sent (a 413): then the connection is of no more use.
        Outcome::Answered {
            reusable: reusable && self.unsent == 0,
        }
    }
}
