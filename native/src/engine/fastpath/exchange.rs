//! One exchange on the fast path.

use std::ops::Range;
use std::sync::Arc;

use budgateway_core::breaker::Verdict;
use budgateway_core::credentials::Credential;
use budgateway_core::entry::{Entry, Outcome};
use budgateway_core::head as core;
use budgateway_core::head::{Framing, flag};
use budgateway_core::select::{Note, Observation, Pick};
use budgateway_core::sse::ModelRewriter;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use smallvec::SmallVec;

use super::cached_plan::{CachedPlan, Lent, Target};
use crate::credentials::told;
use crate::engine::sockets::{Client, Data, Interest, Piece, Transport, Waiting};
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
    /// The index of the route's destination.
    pub(super) destination: usize,
    pub(super) client: Client,
    /// The client's credential, where credentials matter and it sent one.
    pub(super) credential: Option<Arc<Credential>>,
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
    destination: usize,
    index: usize,
    note: Note,
    reservation: Option<Py<Reservation>>,
    /// As `CredentialCache.find` returns it.
    credential: Option<Py<PyTuple>>,
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

/// Joins a head and parts of its body into one piece.
fn joined<const N: usize>(
    transport: &Transport,
    size: usize,
    write: impl FnOnce(&mut [u8]),
    body: [&[u8]; N],
) -> Piece {
    transport.compose(size + body.iter().map(|part| part.len()).sum::<usize>(), |out| {
        if let Some((head, mut rest)) = out.split_at_mut_checked(size) {
            write(head);
            for part in body {
                if let Some((here, behind)) = std::mem::take(&mut rest).split_at_mut_checked(part.len()) {
                    here.copy_from_slice(part);
                    rest = behind;
                }
            }
        }
    })
}

/// Text that was validated before.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

impl FastExchange {
    /// Writes the request to the upstream, with that one's name of the model.
    pub(super) fn send(&self, py: Python<'_>) -> PyResult<()> {
        let data = self.data.bytes(py);
        let (before, told, after) = self.body(data);
        let size = before.len() + told.len() + after.len();
        let writer = self.target().map(|target| target.writer.get());
        let writer = writer.ok_or_else(|| Error::value("there is no such target"))?;
        let plan = writer
            .inner
            .plan(&self.head, data, &self.request_id, Framing::Length(size as u64))
            .map_err(|error| Error::value(error.to_string()))?;
        let up = self
            .up()
            .ok_or_else(|| Error::value("there is no connection"))?
            .bind(py);
        let write = |out: &mut [u8]| plan.write(out);
        if size < JOINED_BYTES {
            let whole = joined(up.get(), plan.len(), write, [before, told, after]);
            return Transport::put(up, [whole]);
        }
        let first = joined(up.get(), plan.len(), write, [before, told]);
        Transport::put(
            up,
            [first, Piece::Data(self.data.clone_ref(py), data.len() - after.len())],
        )
    }

    /// The body for the upstream, in three parts: the client's, the model's name in between, and the client's.
    fn body<'a>(&'a self, data: &'a [u8]) -> (&'a [u8], &'a [u8], &'a [u8]) {
        let Some(told) = &self.plan.told else {
            return (&[], &[], data.get(self.head.size..).unwrap_or_default());
        };
        // The name stands in quotes, which `told` has as well.
        let before = data.get(self.head.size..self.model.start.saturating_sub(1));
        let after = data.get(self.model.end + 1..);
        (before.unwrap_or_default(), told, after.unwrap_or_default())
    }

    /// Writes the response to the client, with the client's name of the model. Returns the size of its body.
    pub(super) fn answer(
        &self,
        py: Python<'_>,
        writer: &core::ResponseHeadWriter,
        response: &Response<'_>,
    ) -> PyResult<usize> {
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
        let mut renamed = Vec::new();
        let mut body = response.body();
        if self.plan.told.is_some() {
            let data = self.data.bytes(py);
            let name = text(data.get(self.model.clone()).unwrap_or_default());
            let mut rewriter = ModelRewriter::new(false, name);
            renamed.extend_from_slice(rewriter.feed(body));
            renamed.extend_from_slice(&rewriter.finish());
            body = &renamed;
        }
        let plan = writer
            .plan(
                &response.head,
                response.bytes,
                Framing::Length(body.len() as u64),
                !self.closes(),
                &disclosure,
            )
            .map_err(|error| Error::value(error.to_string()))?;
        let whole = joined(self.down.get(), plan.len(), |out| plan.write(out), [body]);
        Transport::put(self.down.bind(py), [whole])?;
        Ok(body.len())
    }

    /// True when the client asked to close the connection behind the response.
    fn closes(&self) -> bool {
        self.head.flags & flag::KEEP_ALIVE == 0
    }

    /// True when rewriting the head is enough: the response holds neither one of our secrets nor its upstream's
    /// address.
    pub(super) fn may_pass(&self, head: &core::ResponseHead, bytes: &[u8]) -> bool {
        let redactor = self.target().and_then(|target| target.redactor.as_ref());
        !head.is_located(bytes)
            && !redactor.is_some_and(|redactor| redactor.get().inner.finds(bytes.get(..head.size).unwrap_or_default()))
    }

    /// Records the exchange, with `sent` bytes of its response's body. Returns the bytes of unwritten access lines.
    pub(super) fn record(
        &self,
        py: Python<'_>,
        ledger: &Ledger,
        response: &Response<'_>,
        sent: usize,
        now_ns: i64,
    ) -> isize {
        let CachedPlan {
            route,
            provider,
            model_label,
            ref price,
            ..
        } = *self.plan;
        let credential = self.credential.as_deref();
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
            client: &self.client.address,
            principal: credential.map_or("", |credential| &credential.id),
            tenant: credential.map_or("", |credential| &credential.tenant),
            status: response.head.status,
            outcome: Outcome::Complete,
            error: "",
            transforms: "",
            is_stream: false,
            is_asked: true,
            attempts: 1,
            retries: 0,
            bytes_in: (data.len() - self.head.size) as u64,
            bytes_out: sent as u64,
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
            state.interception.served(now_ns, stays && !self.closes());
        }
        if self.closes()
            && let Some(protocol) = self.down.get().protocol(py)
        {
            protocol.call_method0(intern!(py, "close"))?;
        }
        self.release(Verdict::Success, Some(response), now_ns);
        self.serve(py)?;
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
            destination,
            credential,
            pick,
            reservation,
            started_ns,
            sent_ns,
            ..
        } = *self;
        let credential = credential.map(|credential| Ok::<_, PyErr>(told(py, &credential)?.unbind()));
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
            destination,
            index: pick.index,
            note: pick.note,
            reservation,
            credential: credential.transpose()?,
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
        self.serve(py)?;
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

    /// Gives the slot that was released to an exchange that waits for it.
    fn serve(&self, py: Python<'_>) -> PyResult<()> {
        match &self.plan.queue {
            Some((queue, serve)) if queue.get().is_wanted() => serve.call0(py).map(drop),
            _ => Ok(()),
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
