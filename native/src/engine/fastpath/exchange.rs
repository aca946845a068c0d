//! One exchange on the fast path.

use std::ops::Range;
use std::sync::Arc;

use budgateway_core::breaker::Verdict;
use budgateway_core::entry::{Entry, Outcome};
use budgateway_core::head as core;
use budgateway_core::head::Framing;
use budgateway_core::select::{Note, Observation, Pick};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use smallvec::SmallVec;

use super::cached_plan::{CachedPlan, Lent, Target};
use crate::engine::sockets::{Data, Interest, Piece, Transport, Waiting};
use crate::error::Error;
use crate::head::{RequestHead, limit_lines, now_ns};
use crate::ledger::{Ledger, answer_of, count};
use crate::limits::Reservation;

/// Owns everything that must be given back: a slot at an upstream, a connection to it, and the limits' reservation.
pub(super) struct FastExchange {
    pub(super) down: Py<Transport>,
    /// `None` when a connection would have to be dialled first.
    pub(super) lent: Option<Lent>,
    /// The bytes of the request.
    pub(super) data: Data,
    pub(super) head: core::RequestHead,
    pub(super) model: Range<usize>,
    pub(super) request_id: RequestId,
    pub(super) plan: Arc<CachedPlan>,
    /// The choice among the cached plan's targets.
    pub(super) pick: Pick,
    pub(super) reservation: Option<Reservation>,
    pub(super) started_ns: i64,
    pub(super) sent_ns: i64,
}

/// An exchange that the fast path gave up, with all that it holds, for the relay to resume.
#[pyclass(frozen, get_all, module = "budgateway._native")]
pub(crate) struct Resumable {
    downstream: Option<Py<PyAny>>,
    connection: Option<Py<PyAny>>,
    head: Py<RequestHead>,
    data: Py<PyBytes>,
    request_id: String,
    index: usize,
    note: Note,
    reservation: Option<Py<Reservation>>,
    verified: Py<PyAny>,
    started_ns: i64,
    sent_ns: i64,
}

/// Most ids fit without an allocation.
pub(super) type RequestId = SmallVec<[u8; 48]>;

/// A response to be forwarded.
pub(super) struct Response<'a> {
    pub(super) head: core::ResponseHead,
    pub(super) bytes: &'a [u8],
    pub(super) read_ns: i64,
}

impl Response<'_> {
    fn body(&self) -> &[u8] {
        self.bytes.get(self.head.size..).unwrap_or_default()
    }
}

/// Up to this size, a head and its body are sent in one buffer: the copy is cheaper than a second piece.
pub(crate) const JOINED_BYTES: usize = 8 * 1024;

/// Joins a head and its body into one piece.
fn joined(transport: &Transport, size: usize, write: impl FnOnce(&mut [u8]), body: &[u8]) -> Piece {
    transport.compose(size + body.len(), |out| {
        if let Some((head, rest)) = out.split_at_mut_checked(size) {
            write(head);
            rest.copy_from_slice(body);
        }
    })
}

/// Text that was validated before.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

impl FastExchange {
    /// Writes the request to the upstream.
    pub(super) fn send(&self, py: Python<'_>) -> PyResult<()> {
        let data = self.data.bytes(py);
        let body = data.get(self.head.size..).unwrap_or_default();
        let writer = self.target().map(|target| target.writer.get());
        let writer = writer.ok_or_else(|| Error::value("there is no such target"))?;
        let plan = writer
            .inner
            .plan(&self.head, data, &self.request_id, Framing::Length(body.len() as u64))
            .map_err(|error| Error::value(error.to_string()))?;
        let up = self
            .up()
            .ok_or_else(|| Error::value("there is no connection"))?
            .bind(py);
        if body.len() < JOINED_BYTES {
            let whole = joined(up.get(), plan.len(), |out| plan.write(out), body);
            return Transport::put(up, [whole]);
        }
        let first = up.get().compose(plan.len(), |out| plan.write(out));
        Transport::put(up, [first, Piece::Data(self.data.clone_ref(py), self.head.size)])
    }

    /// Writes the response to the client.
    pub(super) fn answer(
        &self,
        py: Python<'_>,
        writer: &core::ResponseHeadWriter,
        response: &Response<'_>,
    ) -> PyResult<()> {
        let limits = limit_lines(self.reservation.as_ref());
        let (lines, discloses) = self
            .target()
            .map_or((&b""[..], false), |target| (&target.lines, target.discloses));
        let disclosure = core::Disclosure {
            request_id: &self.request_id,
            lines,
            limits: limits.as_bytes(),
            attempts: u64::from(discloses),
            overhead_us: (self.sent_ns - self.started_ns).unsigned_abs() / 1000,
        };
        let body = response.body();
        let plan = writer
            .plan(
                &response.head,
                response.bytes,
                Framing::Length(body.len() as u64),
                true,
                &disclosure,
            )
            .map_err(|error| Error::value(error.to_string()))?;
        let whole = joined(self.down.get(), plan.len(), |out| plan.write(out), body);
        Transport::put(self.down.bind(py), [whole])
    }

    /// True when rewriting the head is enough: the response holds neither one of our secrets nor its upstream's
    /// address.
    pub(super) fn may_pass(&self, head: &core::ResponseHead, bytes: &[u8]) -> bool {
        let redactor = self.target().and_then(|target| target.redactor.as_ref());
        !head.is_located(bytes)
            && !redactor.is_some_and(|redactor| redactor.get().inner.finds(bytes.get(..head.size).unwrap_or_default()))
    }

    /// Records the exchange. Returns the bytes of unwritten access lines.
    pub(super) fn record(&self, py: Python<'_>, ledger: &Ledger, response: &Response<'_>, now_ns: i64) -> isize {
        let CachedPlan {
            route,
            provider,
            model_label,
            ref price,
            ref asker,
            ..
        } = *self.plan;
        let down = self.down.get().state();
        let body = response.body();
        let data = self.data.bytes(py);
        ledger.enter(&Entry {
            route,
            provider,
            model_label,
            model: text(data.get(self.model.clone()).unwrap_or_default()),
            upstream: self.target().map_or("", |target| &target.label),
            head: Some((&self.head, data)),
            request_id: text(&self.request_id),
            client: down.interception.client.as_deref().unwrap_or_default(),
            principal: asker.as_ref().map_or("", |asker| &asker.principal),
            tenant: asker.as_ref().map_or("", |asker| &asker.tenant),
            status: response.head.status,
            outcome: Outcome::Complete,
            error: "",
            is_stream: false,
            is_asked: true,
            attempts: 1,
            retries: 0,
            bytes_in: (data.len() - self.head.size) as u64,
            bytes_out: body.len() as u64,
            epoch_ns: ledger.epoch_ns(),
            started_ns: count(self.started_ns),
            first_ns: count(response.read_ns),
            ended_ns: count(now_ns),
            overhead_ns: count(self.sent_ns - self.started_ns + now_ns - response.read_ns),
            answer: answer_of(body),
            price: price.as_ref().map(|price| price.get().inner),
            reservation: self.reservation.as_ref().map(|reservation| reservation as _),
            trace: None,
        })
    }

    /// Completes the exchange; both connections wait for the next one.
    pub(super) fn complete(self: Box<Self>, py: Python<'_>, response: &Response<'_>, now_ns: i64) -> PyResult<()> {
        self.detach();
        {
            let mut state = self.down.get().state();
            let stays = !state.phase.over;
            state.interception.served(now_ns, stays);
        }
        self.release(Verdict::Success, Some(response), now_ns);
        let (Some(target), Some(lent)) = (self.plan.targets.get(self.pick.index), self.lent) else {
            return Ok(());
        };
        let idle = target.idle.get();
        idle.hear(now_ns);
        let up = lent.transport.clone_ref(py);
        let kept = idle.put(Waiting {
            connection: lent.connection,
            transport: Some(lent.transport),
            since_ns: now_ns,
        });
        if kept {
            Ok(())
        } else {
            Transport::end(up.bind(py), None)
        }
    }

    /// Passes the exchange and everything that it owns to `resume`.
    pub(super) fn fall_back(self: Box<Self>, py: Python<'_>, resume: &Py<PyAny>) -> PyResult<()> {
        self.detach();
        self.down.get().state().interception.gave_up();
        let Self {
            down,
            lent,
            data,
            head,
            request_id,
            plan,
            pick,
            reservation,
            started_ns,
            sent_ns,
            ..
        } = *self;
        let reservation = reservation.map(|reservation| Py::new(py, reservation)).transpose()?;
        let data = data.into_python(py);
        let head = Py::new(py, RequestHead::of(head, data.bind(py).clone()))?;
        let protocol = down.get().protocol(py);
        let (connection, up) = lent.map(|lent| (lent.connection, lent.transport)).unzip();
        let given_up = Resumable {
            downstream: protocol.map(Bound::unbind),
            connection,
            head,
            data,
            request_id: text(&request_id).to_owned(),
            index: pick.index,
            note: pick.note,
            reservation,
            verified: plan.verified.clone_ref(py),
            started_ns,
            sent_ns,
        };
        match resume.call1(py, (Py::new(py, given_up)?,)) {
            Ok(_) => Ok(()),
            Err(error) => {
                if let Some(up) = up {
                    Transport::end(up.bind(py), None)?;
                }
                Transport::fail(down.bind(py), "an exchange could not be taken over", error)
            }
        }
    }

    /// Aborts the exchange and closes its connections.
    pub(super) fn abandon(self: Box<Self>, py: Python<'_>) -> PyResult<()> {
        self.detach();
        self.release(Verdict::Neutral, None, now_ns());
        if let Some(reservation) = &self.reservation {
            reservation.undo();
        }
        if let Some(up) = self.up() {
            Transport::end(up.bind(py), None)?;
        }
        Transport::end(self.down.bind(py), None)
    }

    /// True when the relay must watch it from now on: its deadlines are near, or its upstream has sent nothing to any
    /// exchange for so long that it may need a probe.
    pub(super) fn is_due(&self, now_ns: i64, quiet_ns: i64) -> bool {
        let last_heard_ns = self.target().map_or(0, |target| target.idle.get().last_heard_ns());
        now_ns - self.sent_ns >= self.plan.time_limit_ns || now_ns - last_heard_ns.max(self.sent_ns) >= quiet_ns
    }

    pub(super) fn up(&self) -> Option<&Py<Transport>> {
        self.lent.as_ref().map(|lent| &lent.transport)
    }

    fn target(&self) -> Option<&Target> {
        self.plan.targets.get(self.pick.index)
    }

    /// Detaches the exchange from its connections.
    fn detach(&self) {
        self.down.get().state().interception.interest = Interest::None;
        if let Some(up) = self.up() {
            up.get().state().interception.interest = Interest::None;
        }
    }

    fn release(&self, verdict: Verdict, response: Option<&Response<'_>>, now_ns: i64) {
        let selector = &self.plan.selector.get().inner;
        let mut observation = Observation::new(verdict, now_ns.unsigned_abs());
        if selector.needs().outcome {
            let since = |time: i64| (time - self.sent_ns).unsigned_abs();
            observation.note = self.pick.note;
            observation.total_ns = since(now_ns);
            observation.first_byte_ns = response.map(|response| since(response.read_ns));
            observation.usage = response.and_then(|response| answer_of(response.body()).reported);
        }
        // Fails only for an invalid index; this one was selected.
        let _ = selector.complete(self.pick.index, &observation);
    }
}
