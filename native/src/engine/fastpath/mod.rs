//! The fast path: serves common exchanges below the protocols, from the read of the request to the write of its
//! response.
//!
//! It decides exactly as the pipeline would: a cached plan holds the pipeline's decision about the last exchange of the
//! same kind (`precedent.rs`). Everything uncommon takes the ordinary path. An uncommon request is noticed before
//! anything is done. Later surprises (the answer is not one complete JSON document in one read, an error, a peer that
//! leaves, a timeout) end the fast path, and the exchange continues where it would be without it
//! (`Express::hand_over`).

mod journey;
mod parser;
mod precedent;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use budgateway_core::head as core;
use budgateway_core::head::{Known, flag};
use budgateway_core::route::{Answer, Request};
use budgateway_core::segment::LabelId;
use budgateway_core::slab::{Key, Slab};
use budgateway_core::{limit, price};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use crate::engine::sockets::{Data, Idle, Interceptor, Interest, Read, Sockets, Transport};
use crate::error::Error;
use crate::head::{RequestHeadWriter, is_doubtful, now_ns};
use crate::ids::RequestIds;
use crate::json::Peeker;
use crate::ledger::Ledger;
use crate::limits::{LimitSet, Price, Reservation, Size};
use crate::redact::Redactor;
use crate::route::RouteTable;
use crate::select::Selector;

use journey::{Journey, RequestId, Response};
use parser::Parser;
use precedent::{Asker, Lent, Precedent, Precedents, Target};

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Express {
    ids: Py<RequestIds>,
    peeker: Py<Peeker>,
    ledger: Py<Ledger>,
    requests: Parser,
    responses: Parser,
    writer: core::ResponseHeadWriter,
    /// Beginnings of bodies that may not be answers.
    doubtful: Vec<PyBackedBytes>,
    /// The offset from the monotonic clock to the wall clock.
    /// The longest acceptable silence of an upstream.
    quiet_ns: i64,
    state: Mutex<State>,
}

struct State {
    /// True while requests are accepted.
    open: bool,
    /// Maximum exchanges in flight at one upstream, over all workers; beyond it, the relay takes over.
    share: u64,
    /// The limit of unwritten access-line bytes, and the callback that writes them out.
    flush: Option<(isize, Py<PyAny>)>,
    /// Callback that continues exchanges which the fast path gives up.
    take_over: Option<Py<PyAny>>,
    table: Option<Py<RouteTable>>,
    /// True when credentials matter: a request without one may have a different cached plan.
    asks_who: bool,
    precedents: Precedents,
    journeys: Slab<Box<Journey>>,
    /// Exchanges completed on the fast path.
    carried: u64,
    last_host: core::LastHost,
}

/// A target as `learn` receives it: its idle connections, head writer, label, header lines of its answers, whether
/// answers disclose attempts and overhead, and the redactor of our secrets.
type Told = (
    Py<Idle>,
    Py<RequestHeadWriter>,
    String,
    Vec<u8>,
    bool,
    Option<Py<Redactor>>,
);

#[pymethods]
impl Express {
    #[new]
    #[pyo3(signature = (ids, ledger, requests, responses, doubtful, take_over, flush, block_bytes, quiet_ns, /))]
    #[allow(clippy::too_many_arguments, reason = "one a worker")]
    fn new(
        py: Python<'_>,
        ids: Py<RequestIds>,
        ledger: Py<Ledger>,
        requests: Py<PyAny>,
        responses: Py<PyAny>,
        doubtful: Vec<PyBackedBytes>,
        take_over: Py<PyAny>,
        flush: Option<Py<PyAny>>,
        block_bytes: isize,
        quiet_ns: i64,
    ) -> PyResult<Self> {
        let writer = core::ResponseHeadWriter::new(&[]).map_err(|error| Error::value(error.to_string()))?;
        Ok(Self {
            ids,
            peeker: Py::new(py, Peeker::usual()?)?,
            ledger,
            requests: Parser::new(py, requests)?,
            responses: Parser::new(py, responses)?,
            writer,
            doubtful,
            quiet_ns,
            state: Mutex::new(State {
                open: false,
                share: u64::MAX,
                flush: flush.map(|flush| (block_bytes, flush)),
                take_over: Some(take_over),
                table: None,
                asks_who: false,
                precedents: Precedents::default(),
                journeys: Slab::default(),
                carried: 0,
                last_host: core::LastHost::default(),
            }),
        })
    }

    #[pyo3(signature = (open, /))]
    fn open(&self, open: bool) {
        self.state().open = open;
    }

    #[pyo3(signature = (share, /))]
    fn share(&self, share: u64) {
        self.state().share = share;
    }

    #[pyo3(signature = (table, asks_who, /))]
    fn follow(slf: &Bound<'_, Self>, table: Py<RouteTable>, asks_who: bool) -> PyResult<()> {
        Self::hand_over_all(slf)?;
        slf.get().forget();
        let mut state = slf.get().state();
        state.asks_who = asks_who;
        let before = state.table.replace(table);
        drop(state);
        drop(before);
        Ok(())
    }

    fn forget(&self) {
        let forgotten = self.state().precedents.clear();
        drop(forgotten);
    }

    #[pyo3(signature = (
        route, credential, model, labels, limits, price, selector, without, targets, asker, standing, until_ns,
        max_body_bytes, patience_ns, by_origin, /
    ))]
    #[allow(clippy::too_many_arguments, reason = "once a kind of exchange")]
    fn learn(
        &self,
        route: usize,
        credential: Option<&[u8]>,
        model: &str,
        labels: (u32, u32, u32),
        limits: Option<Py<LimitSet>>,
        price: Option<Py<Price>>,
        selector: Py<Selector>,
        without: u64,
        targets: Vec<Told>,
        asker: Option<(String, String, String, String)>,
        standing: Py<PyAny>,
        until_ns: i64,
        max_body_bytes: usize,
        patience_ns: i64,
        by_origin: bool,
    ) {
        let target = |(idle, writer, label, lines, discloses, redactor)| Target {
            idle,
            writer,
            label,
            lines,
            discloses,
            redactor,
        };
        let asker = asker.map(|(principal, user, key, tenant)| Asker {
            principal,
            user,
            key,
            tenant,
        });
        let precedent = Precedent {
            route: LabelId::new(labels.0),
            provider: LabelId::new(labels.1),
            model_label: LabelId::new(labels.2),
            until_ns,
            max_body_bytes,
            patience_ns,
            by_origin,
            limits,
            price,
            selector,
            without,
            targets: targets.into_iter().map(target).collect(),
            asker,
            standing,
        };
        let credential = credential.and_then(|given| given.split_first().map(|(kind, value)| (*kind, value)));
        self.state()
            .precedents
            .add(route, credential, model.as_bytes(), precedent);
    }

    #[pyo3(signature = (now_ns, /))]
    fn sweep(slf: &Bound<'_, Self>, now_ns: i64) -> PyResult<()> {
        let quiet_ns = slf.get().quiet_ns;
        let due = slf
            .get()
            .state()
            .journeys
            .take(|journey| journey.is_due(now_ns, quiet_ns));
        slf.get().hand_over_each(slf.py(), due)
    }

    #[pyo3(name = "hand_over")]
    fn hand_over_all(slf: &Bound<'_, Self>) -> PyResult<()> {
        let journeys = slf.get().state().journeys.clear();
        slf.get().hand_over_each(slf.py(), journeys)
    }

    /// Sees the requests of these sockets' connections before their protocols do, until it is closed.
    #[pyo3(signature = (sockets, /))]
    fn attach(slf: &Bound<'_, Self>, sockets: &Bound<'_, Sockets>) {
        sockets.get().intercept(Some(Arc::new(Guest(slf.clone().unbind()))));
    }

    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::hand_over_all(slf)?;
        slf.get().forget();
        let mut state = slf.get().state();
        state.open = false;
        let hands = (state.take_over.take(), state.flush.take(), state.table.take());
        drop(state);
        drop(hands);
        Ok(())
    }

    fn carried(&self) -> u64 {
        self.state().carried
    }

    fn __len__(&self) -> usize {
        self.state().journeys.len()
    }
}

/// The fast path as the sockets' interceptor.
struct Guest(Py<Express>);

impl Interceptor for Guest {
    fn on_read(&self, own: &Bound<'_, Transport>, interest: Interest, read: Read) -> PyResult<Option<Read>> {
        let (py, this) = (own.py(), self.0.get());
        match (interest, read) {
            (Interest::None, read) | (Interest::Serving(_), read @ Read::Nothing) => Ok(Some(read)),
            (Interest::Armed, Read::Data(data)) => {
                if this.depart(own, &data)? {
                    return Ok(None);
                }
                own.get().state().guest.interest = Interest::None;
                Ok(Some(Read::Data(data)))
            }
            (Interest::Armed, read) => Ok(Some(read)),
            (Interest::Serving(key), read) => {
                let journey = this.state().journeys.remove(key);
                let Some(journey) = journey else {
                    return Ok(Some(read));
                };
                if let Read::Data(data) = &read
                    && journey.up().is_some_and(|up| up.bind(py).is(own))
                {
                    return match this.arrive(py, journey, data)? {
                        None => Ok(None),
                        Some(journey) => this.hand_over(py, journey).map(|()| Some(read)),
                    };
                }
                this.hand_over(py, journey).map(|()| Some(read))
            }
        }
    }

    fn on_end(&self, py: Python<'_>, key: Key) -> PyResult<()> {
        let journey = self.0.get().state().journeys.remove(key);
        match journey {
            Some(journey) => journey.end(py),
            None => Ok(()),
        }
    }
}

impl Express {
    // ---------------------------------------------------------------- requests

    /// Takes a request that is complete and has a cached plan. `false`: nothing was done.
    fn depart(&self, own: &Bound<'_, Transport>, data: &Data) -> PyResult<bool> {
        const WANTED: u16 = flag::KEEP_ALIVE | flag::JSON;
        const UNCOMMON: u16 = flag::CHUNKED
            | flag::EXPECT_CONTINUE
            | flag::UPGRADE
            | flag::HTTP_10
            | flag::MULTIPART
            | flag::ENCODED
            | flag::TIMED
            | flag::TARGET_MODEL;
        let py = own.py();
        let bytes = data.bytes(py);
        // A client that does not read gets no further answers.
        if !own.get().state().is_clear() {
            return Ok(false);
        }
        let head = {
            let mut state = self.state();
            if !state.open {
                return Ok(false);
            }
            match core::RequestHead::parse_after(bytes, &mut state.last_host) {
                Ok(Some(head)) => head,
                _ => return Ok(false),
            }
        };
        let started_ns = now_ns();
        let body = bytes.get(head.size..).unwrap_or_default();
        if head.flags & (WANTED | UNCOMMON) != WANTED
            || body.is_empty()
            || head.content_length != Some(body.len() as u64)
            || head.method(bytes) != b"POST"
        {
            return Ok(false);
        }
        let Some(said) = self.peeker.get().look(body) else {
            return Ok(false);
        };
        let Some(name) = said.model.map(|name| name.start + head.size..name.end + head.size) else {
            return Ok(false);
        };
        // Cached plans are never stored under a name with escapes.
        let raw = bytes.get(name.clone()).unwrap_or_default();
        let model = match std::str::from_utf8(raw) {
            Ok(model) if !raw.is_empty() && !raw.contains(&b'\\') => model,
            _ => return Ok(false),
        };
        if said.is_stream {
            return Ok(false);
        }
        let Some(precedent) = self.precedent(&head, bytes, model, started_ns) else {
            return Ok(false);
        };
        if precedent.by_origin && head.find(bytes, b"origin").is_some() {
            return Ok(false);
        }
        if body.len() > precedent.max_body_bytes || !self.requests.is_whole(py, data, head.size, &head.fields)? {
            return Ok(false);
        }
        let size = Size {
            prompt: price::prompt_tokens(body.len() as u64),
            output: said.max_tokens,
        };
        let Some(Taken {
            reservation,
            index,
            lent,
        }) = self.take(own, &precedent, model, &size, started_ns)
        else {
            return Ok(false);
        };
        let request_id = match head.request_id(bytes) {
            Some(given) => RequestId::from_slice(given),
            None => self.ids.get().give(|id| RequestId::from_slice(id.as_bytes())),
        };
        let head_size = head.size;
        let mut journey = Box::new(Journey {
            down: own.clone().unbind(),
            lent,
            data: data.clone_ref(py),
            head,
            model: name,
            request_id,
            precedent,
            index,
            reservation,
            started_ns,
            sent_ns: started_ns,
        });
        let Some(up) = journey.up().map(|up| up.clone_ref(py)) else {
            return self.hand_over(py, journey).map(|()| true);
        };
        if let Err(error) = journey.send(py) {
            journey.end(py)?;
            return Err(error);
        }
        journey.sent_ns = now_ns();
        let key = self.state().journeys.add(journey);
        let mut state = own.get().state();
        (state.guest.interest, state.guest.head) = (Interest::Serving(key), head_size);
        drop(state);
        up.get().state().guest.interest = Interest::Serving(key);
        Ok(true)
    }

    fn precedent(&self, head: &core::RequestHead, bytes: &[u8], model: &str, now_ns: i64) -> Option<Arc<Precedent>> {
        let mut state = self.state();
        let answer = state.table.as_ref()?.get().inner.find_safely(&Request {
            method: head.method(bytes),
            path: head.path(bytes),
            host: head.host(bytes),
            model: Some(model),
            header: &|name| Some(head.find(bytes, name)?.value(bytes)),
        });
        let Answer::Rule(route) = answer else { return None };
        let credential = if state.asks_who { credential(head, bytes) } else { None };
        let precedent = state.precedents.of(route, credential, model.as_bytes())?;
        (now_ns < precedent.until_ns).then_some(precedent)
    }

    /// Acquires what an exchange needs: its limits' reservation, a slot at an upstream and an idle connection if there is
    /// one. `None`: refused, and nothing is held.
    fn take(
        &self,
        own: &Bound<'_, Transport>,
        precedent: &Precedent,
        model: &str,
        size: &Size,
        now_ns: i64,
    ) -> Option<Taken> {
        let py = own.py();
        let time = now_ns.unsigned_abs();
        let reservation = match &precedent.limits {
            Some(limits) => {
                let state = own.get().state();
                let address = state.guest.network.as_deref().unwrap_or_default();
                let [user, key, tenant] = precedent.asker.as_ref().map_or([address, address, ""], |asker| {
                    [&asker.user, &asker.key, &asker.tenant].map(String::as_str)
                });
                let asker = limit::Asker {
                    user: user.as_bytes(),
                    key: key.as_bytes(),
                    tenant: tenant.as_bytes(),
                    model: model.as_bytes(),
                    route: b"",
                    address: address.as_bytes(),
                };
                Some(LimitSet::take(limits.bind(py), &asker, size, time)?)
            }
            None => None,
        };
        let selector = &precedent.selector.get().inner;
        let Ok(index) = selector.try_pick(time, precedent.without) else {
            if let Some(reservation) = reservation {
                reservation.undo();
            }
            return None;
        };
        // The relay queues or spreads requests beyond the upstream's share.
        let has_its_share = selector.in_flight(index).is_ok_and(|count| count > self.state().share);
        let target = precedent.targets.get(index).filter(|_| !has_its_share);
        Some(Taken {
            reservation,
            index,
            lent: target.and_then(|target| target.lend(now_ns)),
        })
    }

    // ---------------------------------------------------------------- responses

    /// Forwards a common response and completes the exchange; returns the exchange when the response is uncommon.
    fn arrive(&self, py: Python<'_>, journey: Box<Journey>, data: &Data) -> PyResult<Option<Box<Journey>>> {
        let bytes = data.bytes(py);
        let read_ns = now_ns();
        let head = match core::ResponseHead::parse(bytes, false) {
            Ok(Some(head))
                if self.is_common(&head, bytes)
                    && journey.may_pass(&head, bytes)
                    && self.responses.is_whole(py, data, head.size, &head.fields)? =>
            {
                head
            }
            _ => return Ok(Some(journey)),
        };
        let response = Response { head, bytes, read_ns };
        if journey.answer(py, &self.writer, &response).is_err() {
            return Ok(Some(journey));
        }
        let now_ns = now_ns();
        let waiting = journey.record(py, self.ledger.get(), &response, now_ns);
        journey.arrive(py, now_ns)?;
        self.arrived(py, waiting)?;
        Ok(None)
    }

    fn is_common(&self, head: &core::ResponseHead, bytes: &[u8]) -> bool {
        const WANTED: u16 = flag::KEEP_ALIVE | flag::JSON;
        const UNCOMMON: u16 = flag::CHUNKED | flag::HTTP_10 | flag::EVENT_STREAM | flag::ENCODED | flag::NO_BODY;
        (200..300).contains(&head.status)
            && head.flags & (WANTED | UNCOMMON) == WANTED
            && head.message() == Some(bytes.len())
            && !is_doubtful(&self.doubtful, bytes.get(head.size..).unwrap_or_default())
    }

    /// Counts a completed exchange, and has access lines written out once enough bytes are waiting.
    fn arrived(&self, py: Python<'_>, waiting: isize) -> PyResult<()> {
        let mut state = self.state();
        state.carried += 1;
        let full = match &state.flush {
            Some((block_bytes, flush)) if waiting > *block_bytes => Some(flush.clone_ref(py)),
            _ => None,
        };
        drop(state);
        if let Some(flush) = full {
            flush.call0(py)?;
        }
        Ok(())
    }

    /// Passes an exchange to the ordinary path, as if it had taken that from the beginning.
    fn hand_over(&self, py: Python<'_>, journey: Box<Journey>) -> PyResult<()> {
        let take_over = self.state().take_over.as_ref().map(|hand| hand.clone_ref(py));
        match take_over {
            Some(take_over) => journey.hand_over(py, &take_over),
            None => journey.end(py),
        }
    }

    /// Passes on every exchange, even when one fails; reports the first error.
    fn hand_over_each(&self, py: Python<'_>, journeys: impl IntoIterator<Item = Box<Journey>>) -> PyResult<()> {
        let handed = journeys.into_iter().map(|journey| self.hand_over(py, journey));
        handed.fold(Ok(()), Result::and)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The resources of an exchange that was admitted.
struct Taken {
    reservation: Option<Reservation>,
    index: usize,
    lent: Option<Lent>,
}

/// The credential, looked up in the pipeline's order: the kind of header (`a` for an authorization, `k` for a key) and
/// its value. The same value means something else in the other kind.
fn credential<'a>(head: &core::RequestHead, bytes: &'a [u8]) -> Option<(u8, &'a [u8])> {
    let of = |known: Known| {
        let field = head.fields.iter().find(|field| field.known == known)?;
        Some(field.value(bytes))
    };
    of(Known::Authorization).map(|value| (b'a', value)).or_else(|| {
        let key = of(Known::XApiKey).or_else(|| of(Known::ApiKey));
        let key = key.or_else(|| Some(head.find(bytes, b"x-goog-api-key")?.value(bytes)));
        key.map(|value| (b'k', value))
    })
}
