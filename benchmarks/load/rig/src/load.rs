//! The load generator: one thread, many connections, closed or open loop.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Poll, Token};

use crate::alarm::Alarm;
use crate::cli::RunOptions;
use crate::connection::{Connection, Failure, Outcome};
use crate::events::{StreamStats, nanos};
use crate::histogram::Histogram;
use crate::mix::Order;
use crate::report::Report;

const ALARM: Token = Token(0);
const FIRST: usize = 1;

/// Half-open connections at a time: below any server's accept queue.
const MAX_CONNECTING: usize = 64;

/// A target that does not work is not worth more attempts.
const MAX_ERRORS: u64 = 1_000;

/// Interval between checks for timeouts.
const SWEEP: Duration = Duration::from_millis(250);

/// Runs the load; an error only when it could not be run at all.
pub(crate) fn run(options: &RunOptions) -> io::Result<Report> {
    let mut poll = Poll::new()?;
    let mut alarm = Alarm::register(poll.registry(), ALARM)?;
    let mut generator = Generator::new(options, poll.registry().try_clone()?);
    let mut events = Events::with_capacity(1024);
    let mut next_sweep = Instant::now() + SWEEP;
    loop {
        let now = Instant::now();
        if now >= next_sweep {
            generator.expire(now);
            next_sweep = now + SWEEP;
        }
        generator.connect_more(now);
        generator.send_due(now);
        if generator.over(now) {
            return Ok(generator.report());
        }
        let wake = generator.next_due(now).map_or(next_sweep, |due| due.min(next_sweep));
        alarm.set(wake, now)?;
        match poll.poll(&mut events, alarm.timeout(now)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            if let Some(index) = event.token().0.checked_sub(FIRST) {
                generator.ready(index, event);
            }
        }
    }
}

/// The connections, and what they have shown so far.
struct Generator<'a> {
    options: &'a RunOptions,
    registry: mio::Registry,
    connections: Vec<Option<Connection>>,
    /// Places in `connections` without a connection.
    vacant: Vec<usize>,
    connecting: usize,
    idle: Vec<usize>,
    busy: usize,
    /// None until every connection has been opened once: opening them is not what is measured.
    start: Option<Instant>,
    last_answer: Instant,
    started: u64,
    completed: u64,
    non_2xx: u64,
    failures: [u64; Failure::NAMES.len()],
    statuses: BTreeMap<u16, u64>,
    reconnects: u64,
    body_bytes: u64,
    latency: Histogram,
    streams: StreamStats,
    order: Order,
    scratch: Vec<u8>,
}

impl<'a> Generator<'a> {
    fn new(options: &'a RunOptions, registry: mio::Registry) -> Self {
        Self {
            options,
            registry,
            connections: (0..options.connections).map(|_| None).collect(),
            vacant: (0..options.connections).rev().collect(),
            connecting: 0,
            idle: Vec::with_capacity(options.connections),
            busy: 0,
            start: None,
            last_answer: Instant::now(),
            started: 0,
            completed: 0,
            non_2xx: 0,
            failures: [0; Failure::NAMES.len()],
            statuses: BTreeMap::new(),
            reconnects: 0,
            body_bytes: 0,
            latency: Histogram::new(),
            streams: StreamStats::new(),
            order: Order::seeded(options.seed),
            scratch: vec![0; 64 * 1024],
        }
    }

    fn connect_more(&mut self, now: Instant) {
        while self.connecting < MAX_CONNECTING && !self.given_up() && !self.sent_all(now) {
            let Some(index) = self.vacant.pop() else {
                break;
            };
            match Connection::open(self.options.target, &self.registry, Token(index + FIRST), now) {
                Ok(connection) => {
                    self.connections[index] = Some(connection);
                    self.connecting += 1;
                }
                Err(_) => {
                    self.fail(Failure::Connect);
                    self.vacant.push(index);
                }
            }
        }
        if self.start.is_none() && self.vacant.is_empty() && self.connecting == 0 {
            self.start = Some(now);
        }
    }

    /// Sends what is due: in closed loop one request for each idle connection.
    fn send_due(&mut self, now: Instant) {
        while self.next_due(now).is_some_and(|due| due <= now) {
            let Some(index) = self.idle.pop() else {
                return;
            };
            self.send(index, now);
        }
    }

    /// Time at which the next request is due; None before the start and after the last.
    fn next_due(&self, now: Instant) -> Option<Instant> {
        let start = self.start?;
        if self.sent_all(now) {
            return None;
        }
        match self.options.rate {
            None if self.idle.is_empty() => None,
            None => Some(now),
            Some(rate) => {
                let due = self.intended(start, rate);
                // With no connection idle the next answer brings it on; waking up for it would be for nothing.
                (due > now || !self.idle.is_empty()).then_some(due)
            }
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn intended(&self, start: Instant, rate: f64) -> Instant {
        start + Duration::from_secs_f64(self.started as f64 / rate)
    }

    fn sent_all(&self, now: Instant) -> bool {
        let enough = self.options.requests.is_some_and(|requests| self.started >= requests);
        let late = match (self.start, self.options.duration) {
            (Some(start), Some(duration)) => match self.options.rate {
                // Open loop sends all that was due inside the duration, however late.
                Some(rate) => self.intended(start, rate) >= start + duration,
                None => now >= start + duration,
            },
            _ => false,
        };
        enough || late
    }

    fn send(&mut self, index: usize, now: Instant) {
        let (Some(start), Some(connection)) = (self.start, self.connections[index].as_mut()) else {
            return;
        };
        let intended = match self.options.rate {
            // Opening it is part of what a client waits for that has no connection.
            None if self.options.close => connection.intended.max(start),
            None => now,
            Some(rate) => {
                #[allow(clippy::cast_precision_loss)]
                let since = Duration::from_secs_f64(self.started as f64 / rate);
                start + since
            }
        };
        self.started += 1;
        self.busy += 1;
        let request = self.options.mix.next(&mut self.order);
        let outcome = connection.start(request, self.options.events, intended, now);
        self.act(index, outcome);
    }

    fn ready(&mut self, index: usize, event: &Event) {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        let outcome = connection.ready(event, &mut self.scratch, &mut self.streams);
        self.act(index, outcome);
    }

    fn act(&mut self, index: usize, outcome: Outcome) {
        match outcome {
            Outcome::Waiting => {}
            Outcome::Connected => {
                self.connecting -= 1;
                self.idle.push(index);
            }
            Outcome::Answered { reusable } => self.answered(index, reusable),
            Outcome::Closed => {
                self.idle.retain(|place| *place != index);
                self.reconnects += 1;
                self.vacate(index);
            }
            Outcome::Failed(failure) => {
                self.fail(failure);
                match &self.connections[index] {
                    Some(connection) if connection.busy() => self.busy -= 1,
                    Some(connection) if connection.connecting() => self.connecting -= 1,
                    _ => self.idle.retain(|place| *place != index),
                }
                self.vacate(index);
            }
        }
    }

    fn answered(&mut self, index: usize, reusable: bool) {
        let Some(connection) = &self.connections[index] else {
            return;
        };
        let now = Instant::now();
        self.busy -= 1;
        self.last_answer = now;
        let (status, size) = (connection.status(), connection.body_size());
        *self.statuses.entry(status).or_default() += 1;
        self.body_bytes += size;
        if !(200..300).contains(&status) {
            self.non_2xx += 1;
        } else if self.options.expect_bytes.is_some_and(|expected| expected != size) {
            self.fail(Failure::Length);
        } else {
            self.completed += 1;
            self.latency.record(nanos(connection.intended, now));
        }
        if !reusable || self.options.close {
            self.reconnects += 1;
            self.vacate(index);
            return;
        }
        self.idle.push(index);
        // At once, rather than after the other events: this is what a waiting client does.
        if self.options.rate.is_none() && self.next_due(now).is_some() {
            self.idle.pop();
            self.send(index, now);
        }
    }

    fn vacate(&mut self, index: usize) {
        // Dropping the stream closes it and takes it out of the poll.
        self.connections[index] = None;
        self.vacant.push(index);
    }

    fn fail(&mut self, failure: Failure) {
        self.failures[failure as usize] += 1;
    }

    fn expire(&mut self, now: Instant) {
        for index in 0..self.connections.len() {
            let Some(connection) = &self.connections[index] else {
                continue;
            };
            if now.saturating_duration_since(connection.sent) > self.options.timeout {
                if connection.busy() {
                    self.act(index, Outcome::Failed(Failure::Timeout));
                } else if connection.connecting() {
                    self.act(index, Outcome::Failed(Failure::Connect));
                }
            }
        }
    }

    fn given_up(&self) -> bool {
        self.failures.iter().sum::<u64>() + self.non_2xx >= MAX_ERRORS.max(self.options.connections as u64)
    }

    fn over(&self, now: Instant) -> bool {
        self.given_up() || (self.sent_all(now) && self.busy == 0)
    }

    fn report(self) -> Report {
        let end = self.last_answer;
        Report {
            mode: if self.options.rate.is_some() { "open" } else { "closed" },
            target: self.options.target.to_string(),
            connections: self.options.connections,
            rate: self.options.rate,
            request_bytes: self.options.mix.first().len(),
            elapsed: self
                .start
                .map_or(Duration::ZERO, |start| end.saturating_duration_since(start)),
            started: self.started,
            completed: self.completed,
            non_2xx: self.non_2xx,
            failures: self.failures,
            statuses: self.statuses,
            reconnects: self.reconnects,
            body_bytes: self.body_bytes,
            latency: self.latency,
            streams: self.options.events.map(|_| self.streams),
            own_cpu: own_cpu(),
        }
    }
}

/// Processor time this process has used, where the kernel tells.
fn own_cpu() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}
