//! The null model server: answers as an engine would, at next to no cost.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::alarm::Alarm;
use crate::chunked::ChunkDecoder;
use crate::cli::{Pace, UpstreamOptions};
use crate::clock;
use crate::http::{Head, Malformed};
use crate::payload;

const LISTENER: Token = Token(0);
const ALARM: Token = Token(1);
const FIRST: usize = 2;

/// A client that does not read gets no further events beyond this.
const MAX_UNSENT: usize = 256 * 1024;

const JSON_HEAD: &str = "HTTP/1.1 200 OK\r\ndate: Wed, 01 Jan 2025 00:00:00 GMT\r\nserver: uvicorn\r\ncontent-type: application/json\r\ncontent-length: ";
const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ndate: Wed, 01 Jan 2025 00:00:00 GMT\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";

/// Serves until killed.
pub(crate) fn serve(options: &UpstreamOptions) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(options.address)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut alarm = Alarm::register(poll.registry(), ALARM)?;
    println!("listening on http://{}", listener.local_addr()?);
    let mut server = Server::new(options);
    let mut events = Events::with_capacity(1024);
    loop {
        let now = Instant::now();
        server.step(now);
        if let Some(due) = server.due() {
            alarm.set(due, now)?;
        }
        if let Err(error) = poll.poll(&mut events, alarm.timeout(now)) {
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        for event in &events {
            match event.token() {
                LISTENER => server.accept(&listener, poll.registry())?,
                ALARM => {}
                Token(token) => server.ready(token - FIRST, event),
            }
        }
    }
}

/// All connections, and when whose next event or answer is due.
struct Server {
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Pushed in the order of due instants, both: all streams have one interval, all answers one delay.
    events: VecDeque<Due>,
    answers: VecDeque<Due>,
    texts: Texts,
    stats: Stats,
    epoch: Instant,
    interval: Duration,
    pace: Pace,
    delay: Duration,
    scratch: Vec<u8>,
}

/// Due time, connection and request.
type Due = (Instant, usize, u64);

#[derive(Default)]
struct Stats {
    connections: u64,
    requests: u64,
    streams: u64,
    events: u64,
    aborted: u64,
    malformed: u64,
    body_bytes: u64,
}

/// Texts to send, made once.
struct Texts {
    reply: Vec<u8>,
    health: Vec<u8>,
    models: Vec<u8>,
    not_found: Vec<u8>,
    /// One event in its chunk; the digits of its number and of when it is sent are overwritten for each.
    event: Vec<u8>,
    number_at: usize,
    stamp_at: usize,
    default_events: u32,
}

struct Connection {
    stream: TcpStream,
    /// Received and not yet a whole request.
    pending: Vec<u8>,
    /// Bytes that the socket did not accept.
    unsent: Vec<u8>,
    working: Option<Work>,
}

/// The work that a connection's next request waits for.
#[derive(Clone, Copy)]
struct Work {
    /// The number of the request.
    id: u64,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Answer,
    Stream { next: u32, events: u32 },
}

/// A connection is of no more use.
struct Gone;

impl Server {
    fn new(options: &UpstreamOptions) -> Self {
        Self {
            connections: Vec::new(),
            free: Vec::new(),
            events: VecDeque::new(),
            answers: VecDeque::new(),
            texts: Texts::new(options.events),
            stats: Stats::default(),
            epoch: Instant::now(),
            interval: options.interval,
            pace: options.pace,
            delay: options.delay,
            scratch: vec![0; 256 * 1024],
        }
    }

    fn accept(&mut self, listener: &TcpListener, registry: &mio::Registry) -> io::Result<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            stream.set_nodelay(true)?;
            let index = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            registry.register(
                &mut stream,
                Token(index + FIRST),
                Interest::READABLE | Interest::WRITABLE,
            )?;
            self.connections[index] = Some(Connection {
                stream,
                pending: Vec::new(),
                unsent: Vec::new(),
                working: None,
            });
            self.stats.connections += 1;
        }
    }

    fn ready(&mut self, index: usize, event: &Event) {
        let Some(mut connection) = self.connections.get_mut(index).and_then(Option::take) else {
            return;
        };
        let mut result = if event.is_writable() {
            connection.flush()
        } else {
            Ok(())
        };
        if event.is_readable() && result.is_ok() {
            result = self.read(index, &mut connection, event.is_read_closed());
        }
        self.put_back(index, connection, result);
    }

    fn put_back(&mut self, index: usize, connection: Connection, result: Result<(), Gone>) {
        if result.is_ok() {
            self.connections[index] = Some(connection);
        } else {
            self.stats.aborted += u64::from(connection.working.is_some());
            self.free.push(index);
        }
    }

    fn read(&mut self, index: usize, connection: &mut Connection, to_eof: bool) -> Result<(), Gone> {
        loop {
            let mut scratch = std::mem::take(&mut self.scratch);
            // epoll(7): less than asked for means that the socket is empty; what comes later is a new edge.
            let result = match connection.stream.read(&mut scratch) {
                Ok(0) => Err(Gone),
                Ok(size) => {
                    let empty = size < scratch.len() && !to_eof;
                    self.received(index, connection, &scratch[..size]).map(|()| empty)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
                Err(_) => Err(Gone),
            };
            self.scratch = scratch;
            if result? {
                return Ok(());
            }
        }
    }

    fn received(&mut self, index: usize, connection: &mut Connection, bytes: &[u8]) -> Result<(), Gone> {
        if connection.pending.is_empty() {
            let used = self.answer_all(index, connection, bytes)?;
            connection.pending.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        connection.pending.extend_from_slice(bytes);
        self.answer_pending(index, connection)
    }

    fn answer_pending(&mut self, index: usize, connection: &mut Connection) -> Result<(), Gone> {
        let mut pending = std::mem::take(&mut connection.pending);
        let used = self.answer_all(index, connection, &pending)?;
        pending.drain(..used);
        connection.pending = pending;
        Ok(())
    }

    /// Answers the requests that are whole in `bytes`, up to one that takes its time; the bytes they took.
    fn answer_all(&mut self, index: usize, connection: &mut Connection, bytes: &[u8]) -> Result<usize, Gone> {
        let mut used = 0;
        while connection.working.is_none() && used < bytes.len() {
            match request_size(&bytes[used..]) {
                Ok(Some(request)) => {
                    used += request.size;
                    self.answer(index, connection, &request)?;
                }
                Ok(None) => break,
                Err(Malformed) => {
                    self.stats.malformed += 1;
                    return Err(Gone);
                }
            }
        }
        Ok(used)
    }

    fn answer(&mut self, index: usize, connection: &mut Connection, request: &Request<'_>) -> Result<(), Gone> {
        let path = request.target.split(|byte| *byte == b'?').next().unwrap_or_default();
        let text = match (request.method, path) {
            (b"POST", _) => {
                self.stats.requests += 1;
                self.stats.body_bytes += request.body.len() as u64;
                if asks_for_stream(&request.body) {
                    let events = max_tokens(&request.body).unwrap_or(self.texts.default_events);
                    self.stats.streams += 1;
                    let id = self.stats.requests;
                    let what = What::Stream { next: 0, events };
                    connection.working = Some(Work { id, what });
                    self.events.push_back((self.next_due(Instant::now()), index, id));
                    return Ok(());
                }
                if !self.delay.is_zero() {
                    let id = self.stats.requests;
                    connection.working = Some(Work { id, what: What::Answer });
                    self.answers.push_back((Instant::now() + self.delay, index, id));
                    return Ok(());
                }
                &self.texts.reply
            }
            (b"GET", b"/stats") => return connection.send(&json_response(&self.stats.json())),
            (b"GET", b"/health" | b"/" | b"/liveness" | b"/readiness" | b"/health_generate") => &self.texts.health,
            (b"GET", b"/v1/models") => &self.texts.models,
            _ => &self.texts.not_found,
        };
        connection.send(text)
    }

    /// Time at which there is something to send.
    fn due(&self) -> Option<Instant> {
        let first = |queue: &VecDeque<Due>| queue.front().map(|(due, ..)| *due);
        first(&self.events).into_iter().chain(first(&self.answers)).min()
    }

    /// Time of a stream's next event. Grows with `now`, so `events` stays sorted; a late server skips, like an engine.
    fn next_due(&self, now: Instant) -> Instant {
        match self.pace {
            Pace::Spread => now + self.interval,
            Pace::Step => {
                let interval = self.interval.as_nanos();
                let into = now.saturating_duration_since(self.epoch).as_nanos() % interval;
                now + Duration::from_nanos(u64::try_from(interval - into).unwrap_or(u64::MAX))
            }
        }
    }

    /// Sends the events and the answers that are due.
    fn step(&mut self, now: Instant) {
        while let Some((index, id)) = take_due(&mut self.events, now) {
            self.go_on(index, id, now);
        }
        while let Some((index, id)) = take_due(&mut self.answers, now) {
            self.go_on(index, id, now);
        }
    }

    fn go_on(&mut self, index: usize, id: u64, now: Instant) {
        let Some(mut connection) = self.connections.get_mut(index).and_then(Option::take) else {
            return;
        };
        let result = match connection.working {
            Some(work) if work.id == id => match work.what {
                What::Answer => self.send_answer(index, &mut connection),
                What::Stream { next, events } => self.send_event(index, &mut connection, (id, next, events), now),
            },
            _ => Ok(()),
        };
        self.put_back(index, connection, result);
    }

    fn send_answer(&mut self, index: usize, connection: &mut Connection) -> Result<(), Gone> {
        connection.working = None;
        connection.send(&self.texts.reply)?;
        self.answer_pending(index, connection)
    }

    fn send_event(
        &mut self,
        index: usize,
        connection: &mut Connection,
        (id, mut next, events): (u64, u32, u32),
        now: Instant,
    ) -> Result<(), Gone> {
        if next == events {
            connection.working = None;
            let last = chunk(&payload::last_events(events));
            connection.send(&[if events == 0 { STREAM_HEAD } else { b"" }, &last, b"0\r\n\r\n"].concat())?;
            return self.answer_pending(index, connection);
        }
        if connection.unsent.len() < MAX_UNSENT {
            self.texts.set_number(next, clock::micros());
            if next == 0 {
                connection.send(&[STREAM_HEAD, &self.texts.event].concat())?;
            } else {
                connection.send(&self.texts.event)?;
            }
            next += 1;
            self.stats.events += 1;
        }
        let what = What::Stream { next, events };
        connection.working = Some(Work { id, what });
        self.events.push_back((self.next_due(now), index, id));
        Ok(())
    }
}

/// The connection and the request that are first in the queue, if their time has come.
fn take_due(queue: &mut VecDeque<Due>, now: Instant) -> Option<(usize, u64)> {
    let (_, index, id) = *queue.front().filter(|(due, ..)| *due <= now)?;
    queue.pop_front();
    Some((index, id))
}

impl Connection {
    fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(bytes);
            return Ok(());
        }
        match self.stream.write(bytes) {
            Ok(size) => self.unsent.extend_from_slice(&bytes[size..]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.unsent.extend_from_slice(bytes),
            Err(_) => return Err(Gone),
        }
        if self.unsent.is_empty() { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), Gone> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(size) => drop(self.unsent.drain(..size)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Gone),
            }
        }
        Ok(())
    }
}

impl Texts {
    fn new(default_events: u32) -> Self {
        let event = chunk(&payload::event(0));
        let number_at = memchr::memchr(b'#', &event).map_or(0, |at| at + 1);
        let stamp_at = memchr::memmem::find(&event, b"\"created\":").map_or(0, |at| at + 10);
        let models = format!(
            r#"{{"object":"list","data":[{{"id":"{0}","object":"model","created":1735689600,"owned_by":"vllm","root":"{0}","max_model_len":131072}}]}}"#,
            payload::MODEL
        );
        let not_found =
            r#"{"error":{"message":"no such path","type":"invalid_request_error","param":null,"code":404}}"#;
        let not_found = String::from_utf8_lossy(&json_response(not_found)).replacen("200 OK", "404 Not Found", 1);
        Self {
            reply: json_response(&payload::reply()),
            health: json_response("{}"),
            models: json_response(&models),
            not_found: not_found.into_bytes(),
            event,
            number_at,
            stamp_at,
            default_events,
        }
    }

    fn set_number(&mut self, number: u32, stamp: u64) {
        for (at, digits, value) in [(self.number_at, 6, number.into()), (self.stamp_at, 10, stamp)] {
            let mut rest: u64 = value;
            for digit in self.event[at..at + digits].iter_mut().rev() {
                *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
                rest /= 10;
            }
        }
    }
}

impl Stats {
    fn json(&self) -> String {
        format!(
            r#"{{"connections":{},"requests":{},"streams":{},"events":{},"aborted":{},"malformed":{},"body_bytes":{}}}"#,
            self.connections, self.requests, self.streams, self.events, self.aborted, self.malformed, self.body_bytes
        )
    }
}

fn json_response(body: &str) -> Vec<u8> {
    format!("{JSON_HEAD}{}\r\n\r\n{body}", body.len()).into_bytes()
}

fn chunk(data: &str) -> Vec<u8> {
    format!("{:x}\r\n{data}\r\n", data.len()).into_bytes()
}

/// One request that has wholly arrived.
struct Request<'a> {
    method: &'a [u8],
    target: &'a [u8],
    body: std::borrow::Cow<'a, [u8]>,
    size: usize,
}

fn request_size(bytes: &[u8]) -> Result<Option<Request<'_>>, Malformed> {
    let Some(head) = Head::parse(bytes)? else {
        return Ok(None);
    };
    let (method, target) = head.request_line()?;
    let rest = &bytes[head.size..];
    let (body, taken) = if head.chunked {
        let (mut decoder, mut body) = (ChunkDecoder::new(), Vec::new());
        let used = decoder
            .feed(rest, &mut |data| body.extend_from_slice(data))
            .map_err(|_| Malformed)?;
        if !decoder.done() {
            return Ok(None);
        }
        (body.into(), used)
    } else {
        let length = usize::try_from(head.content_length.unwrap_or(0)).map_err(|_| Malformed)?;
        match rest.get(..length) {
            Some(body) => (body.into(), length),
            None => return Ok(None),
        }
    };
    Ok(Some(Request {
        method,
        target,
        body,
        size: head.size + taken,
    }))
}

/// The body has `"stream": true`. Looks from the end, where clients put it.
fn asks_for_stream(body: &[u8]) -> bool {
    after_key(body, b"\"stream\"").is_some_and(|value| value.starts_with(b"true"))
}

fn max_tokens(body: &[u8]) -> Option<u32> {
    let value = after_key(body, b"\"max_tokens\"").or_else(|| after_key(body, b"\"max_completion_tokens\""))?;
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&value[..digits]).ok()?.parse().ok()
}

fn after_key<'a>(body: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let at = memchr::memmem::rfind(body, key)? + key.len();
    body[at..]
        .trim_ascii_start()
        .strip_prefix(b":")
        .map(<[u8]>::trim_ascii_start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_asked_for_in_the_body() {
        assert!(asks_for_stream(br#"{"stream":true}"#));
        assert!(asks_for_stream(br#"{"stream" : true, "stream_options": {}}"#));
        assert!(!asks_for_stream(br#"{"stream": false}"#));
        assert!(!asks_for_stream(br#"{"messages":[]}"#));
        assert_eq!(max_tokens(br#"{"max_tokens": 17, "stream": true}"#), Some(17));
        assert_eq!(max_tokens(br#"{"max_completion_tokens":5}"#), Some(5));
        assert_eq!(max_tokens(b"{}"), None);
    }

    #[test]
    fn requests_are_framed_by_length_and_by_chunks() {
        for text in [
            &b"POST /x HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}rest"[..],
            b"POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\nrest",
        ] {
            let request = request_size(text).ok().flatten();
            assert_eq!(
                request.map(|request| (request.body.into_owned(), request.size)),
                Some((b"{}".to_vec(), text.len() - 4))
            );
            assert!(request_size(&text[..text.len() - 5]).is_ok_and(|request| request.is_none()));
        }
    }

    #[test]
    fn the_event_carries_its_number() {
        let mut texts = Texts::new(1);
        texts.set_number(123_456, 1_735_689_600);
        assert_eq!(texts.event, chunk(&payload::event(123_456)));
        texts.set_number(7, 1_735_689_600);
        assert_eq!(texts.event, chunk(&payload::event(7)));
    }
}
