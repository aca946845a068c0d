//! The fast path: serves common exchanges below the protocols, from the read of the request to the write of its
//! response.
//!
//! It decides exactly as the pipeline would: a cached plan holds the pipeline's decision about the last exchange of the
//! same kind (`cached_plan.rs`). Everything uncommon takes the ordinary path. An uncommon request is noticed before
//! anything is done. Later surprises (the answer is not one complete JSON document in one read, an error, a peer that
//! leaves, a timeout) end the fast path, and the exchange continues where it would be without it
//! (`FastPath::fall_back`).

mod cached_plan;
mod exchange;
mod parser;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use budgateway_core::credentials::{Credential, Source};
use budgateway_core::forwarded::{BlockError, TrustedProxies};
use budgateway_core::head as core;
use budgateway_core::head::{Known, flag};
use budgateway_core::route::{Answer, Request};
use budgateway_core::select::{Ask, Pick, pin_of};
use budgateway_core::slab::{Key, Slab};
use budgateway_core::{limit, price};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use crate::credentials::CredentialCache;
use crate::engine::sockets::{Client, Data, Interceptor, Interest, Read, Sockets, Transport};
use crate::error::Error;
use crate::head::{is_doubtful, now_ns};
use crate::ids::RequestIds;
use crate::json::Peeker;
use crate::ledger::Ledger;
use crate::limits::{LimitSet, Reservation, Size};
use crate::queue::WaitingCount;
use crate::route::RouteTable;
use crate::shape::Split;

pub(crate) use cached_plan::MAX_CACHED_PLANS;
pub(crate) use exchange::{JOINED_BYTES, Resumable};

use cached_plan::{
    BodyPart, CachedPlan, ChoicePart, IdentityPart, Kind, Lent, LimitsPart, PinBy, PlanCache, RoutePart, RouteShape,
    ShapePart,
};
use exchange::{FastExchange, RequestId, Response};
use parser::Parser;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct FastPath {
    ids: Py<RequestIds>,
    peeker: Py<Peeker>,
    ledger: Py<Ledger>,
    dialects: core::Dialects,
    requests: Parser,
    responses: Parser,
    writer: core::ResponseHeadWriter,
    /// Beginnings of bodies that may not be answers.
    doubtful: Vec<PyBackedBytes>,
    /// The longest acceptable silence of an upstream.
    quiet_ns: i64,
    /// The time before an exchange's deadline at which the relay must have it.
    slack_ns: i64,
    state: Mutex<State>,
}

struct State {
    /// True while requests are accepted.
    open: bool,
    /// Maximum exchanges in flight at one upstream, over all workers; beyond it, the relay takes over.
    share: u64,
    /// The limit of unwritten access-line bytes, and the callback that writes them out.
    flush: Option<(isize, Py<PyAny>)>,
    /// Callback that tells that a lease was released, for the requests that wait for one.
    released: Option<Py<PyAny>>,
    /// Callback that continues exchanges which the fast path gives up.
    resume: Option<Py<PyAny>>,
    table: Option<Py<RouteTable>>,
    proxies: Arc<TrustedProxies>,
    /// The requests that wait for a lease; later ones must not overtake them.
    waiting: Option<Py<WaitingCount>>,
    /// Days since 1970, UTC.
    today: u32,
    /// The verified credentials. `None`: credentials do not matter.
    credentials: Option<Py<CredentialCache>>,
    /// The wall clock less the monotonic one: credentials expire by the wall clock.
    epoch_ns: i64,
    plans: PlanCache,
    exchanges: Slab<Box<FastExchange>>,
    /// Exchanges completed on the fast path.
    served: u64,
    last_host: core::LastHost,
}

#[pymethods]
impl FastPath {
    #[new]
    #[pyo3(signature = (
        *, ids, ledger, dialects, requests, responses, doubtful, resume, released, flush, block_bytes, quiet_ns, slack_ns, epoch_ns
    ))]
    #[allow(clippy::too_many_arguments, reason = "keywords, once a worker")]
    fn new(
        py: Python<'_>,
        ids: Py<RequestIds>,
        ledger: Py<Ledger>,
        dialects: Vec<(String, String)>,
        requests: Py<PyAny>,
        responses: Py<PyAny>,
        doubtful: Vec<PyBackedBytes>,
        resume: Py<PyAny>,
        released: Py<PyAny>,
        flush: Option<Py<PyAny>>,
        block_bytes: isize,
        quiet_ns: i64,
        slack_ns: i64,
        epoch_ns: i64,
    ) -> PyResult<Self> {
        let writer = core::ResponseHeadWriter::new(&[]).map_err(|error| Error::value(error.to_string()))?;
        Ok(Self {
            ids,
            peeker: Py::new(py, Peeker::usual()?)?,
            ledger,
            dialects: core::Dialects::new(dialects.iter().map(|(method, path)| (method.as_str(), path.as_str()))),
            requests: Parser::new(py, requests)?,
            responses: Parser::new(py, responses)?,
            writer,
            doubtful,
            quiet_ns,
            slack_ns,
            state: Mutex::new(State {
                open: false,
                share: u64::MAX,
                flush: flush.map(|flush| (block_bytes, flush)),
                released: Some(released),
                resume: Some(resume),
                table: None,
                proxies: Arc::default(),
                waiting: None,
                today: 0,
                credentials: None,
                epoch_ns,
                plans: PlanCache::default(),
                exchanges: Slab::default(),
                served: 0,
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

    #[pyo3(signature = (epoch_ns, /))]
    fn set_clock(&self, epoch_ns: i64) {
        self.state().epoch_ns = epoch_ns;
    }

    #[pyo3(signature = (today, /))]
    fn set_day(&self, today: u32) {
        self.state().today = today;
    }

    #[pyo3(signature = (table, credentials, waiting, proxies, ipv6_prefix, /))]
    fn follow(
        slf: &Bound<'_, Self>,
        table: Py<RouteTable>,
        credentials: Option<Py<CredentialCache>>,
        waiting: Option<Py<WaitingCount>>,
        proxies: Vec<String>,
        ipv6_prefix: u32,
    ) -> PyResult<()> {
        let blocks: Result<Vec<_>, _> = proxies.iter().map(|block| block.parse()).collect();
        let blocks = blocks.map_err(|error: BlockError| Error::value(error.to_string()))?;
        Self::fall_back_all(slf)?;
        slf.get().clear();
        let mut state = slf.get().state();
        state.proxies = Arc::new(TrustedProxies::new(blocks, ipv6_prefix));
        let before = (
            state.table.replace(table),
            std::mem::replace(&mut state.credentials, credentials),
            std::mem::replace(&mut state.waiting, waiting),
        );
        drop(state);
        drop(before);
        Ok(())
    }

    fn clear(&self) {
        let dropped = self.state().plans.clear();
        drop(dropped);
    }

    #[pyo3(signature = (model, shape, identity, route, limits, body, choice, /))]
    #[allow(clippy::too_many_arguments, reason = "the stages' parts, once a plan")]
    fn insert(
        &self,
        model: &str,
        shape: Option<ShapePart>,
        identity: IdentityPart,
        route: RoutePart,
        limits: LimitsPart,
        body: BodyPart,
        choice: ChoicePart,
    ) {
        let path = route.path.clone();
        let kind = Kind {
            route: route.place,
            destination: route.destination,
            dialect: route.dialect,
            path: &path,
            principal_class: identity.principal_class,
            model: model.as_bytes(),
        };
        let plan = CachedPlan::new(route, limits, body, choice, self.slack_ns);
        let mut state = self.state();
        if let Some(shape) = shape {
            state.plans.shape(kind.route, || RouteShape::new(shape));
        }
        let replaced = state.plans.insert(kind, plan);
        drop(state);
        drop(replaced);
    }

    #[pyo3(signature = (route, destination, dialect, path, principal_class, model, /))]
    fn has_plan(
        &self,
        route: usize,
        destination: usize,
        dialect: usize,
        path: &[u8],
        principal_class: u32,
        model: &str,
    ) -> bool {
        self.state().plans.contains(Kind {
            route,
            destination,
            dialect,
            path,
            principal_class,
            model: model.as_bytes(),
        })
    }

    #[pyo3(signature = (now_ns, /))]
    fn sweep(slf: &Bound<'_, Self>, now_ns: i64) -> PyResult<()> {
        let quiet_ns = slf.get().quiet_ns;
        let due = slf
            .get()
            .state()
            .exchanges
            .take(|exchange| exchange.is_due(now_ns, quiet_ns));
        slf.get().fall_back_each(slf.py(), due)
    }

    #[pyo3(name = "fall_back")]
    fn fall_back_all(slf: &Bound<'_, Self>) -> PyResult<()> {
        let exchanges = slf.get().state().exchanges.clear();
        slf.get().fall_back_each(slf.py(), exchanges)
    }

    /// Sees the requests of these sockets' connections before their protocols do, until it is closed.
    #[pyo3(signature = (sockets, /))]
    fn attach(slf: &Bound<'_, Self>, sockets: &Bound<'_, Sockets>) {
        sockets.get().intercept(Some(Arc::new(Intercept(slf.clone().unbind()))));
    }

    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::fall_back_all(slf)?;
        slf.get().clear();
        let mut state = slf.get().state();
        state.open = false;
        let hands = (
            state.resume.take(),
            state.flush.take(),
            state.table.take(),
            state.credentials.take(),
            state.waiting.take(),
            state.released.take(),
        );
        drop(state);
        drop(hands);
        Ok(())
    }

    fn served(&self) -> u64 {
        self.state().served
    }

    fn __len__(&self) -> usize {
        self.state().exchanges.len()
    }
}

/// The fast path as the sockets' interceptor.
struct Intercept(Py<FastPath>);

impl Interceptor<Transport> for Intercept {
    fn on_read(&self, own: &Bound<'_, Transport>, interest: Interest, read: Read) -> PyResult<Option<Read>> {
        let (py, this) = (own.py(), self.0.get());
        match (interest, read) {
            (Interest::None, read) | (Interest::Serving(_), read @ Read::Nothing) => Ok(Some(read)),
            (Interest::Armed, Read::Data(data)) => {
                if this.try_serve(own, &data)? {
                    return Ok(None);
                }
                own.get().state().interception.interest = Interest::None;
                Ok(Some(Read::Data(data)))
            }
            (Interest::Armed, read) => Ok(Some(read)),
            (Interest::Serving(key), read) => {
                let exchange = this.state().exchanges.remove(key);
                let Some(exchange) = exchange else {
                    return Ok(Some(read));
                };
                if let Read::Data(data) = &read
                    && exchange.up().is_some_and(|up| up.bind(py).is(own))
                {
                    return match this.complete(py, exchange, data)? {
                        None => Ok(None),
                        Some(exchange) => this.fall_back(py, exchange).map(|()| Some(read)),
                    };
                }
                this.fall_back(py, exchange).map(|()| Some(read))
            }
        }
    }

    fn on_end(&self, py: Python<'_>, key: Key) -> PyResult<()> {
        let exchange = self.0.get().state().exchanges.remove(key);
        match exchange {
            Some(exchange) => exchange.abandon(py),
            None => Ok(()),
        }
    }
}

impl FastPath {
    // ---------------------------------------------------------------- requests

    /// Takes a request that is complete and has a cached plan. `false`: nothing was done.
    fn try_serve(&self, own: &Bound<'_, Transport>, data: &Data) -> PyResult<bool> {
        const WANTED: u16 = flag::JSON;
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
        let Some(client) = self.client(own, &head, bytes) else {
            return Ok(false);
        };
        let asked = Asked {
            head: &head,
            bytes,
            model,
            user: said.user.map(|span| body.get(span).unwrap_or_default()),
            client: &client,
            now_ns: started_ns,
        };
        let Some(found) = self.plan(py, &asked) else {
            return Ok(false);
        };
        let plan = &found.plan;
        if plan.by_origin && head.find(bytes, b"origin").is_some() {
            return Ok(false);
        }
        if body.len() > plan.max_body_bytes || !self.requests.is_whole(py, data, head.size, &head.fields)? {
            return Ok(false);
        }
        if !self.ledger.get().passes(&head, bytes, started_ns) {
            return Ok(false);
        }
        let size = Size {
            prompt: price::prompt_tokens(body.len() as u64),
            output: said.max_tokens,
        };
        let Some(Taken {
            reservation,
            pick,
            lent,
        }) = self.take(py, &asked, &found, body.len(), &size)
        else {
            return Ok(false);
        };
        let Found {
            plan,
            credential,
            destination,
            turn,
            ..
        } = found;
        if let Some(split) = turn {
            split.get().inner.take_turn();
        }
        let request_id = match head.request_id(bytes) {
            Some(given) => RequestId::from_slice(given),
            None => self.ids.get().give(|id| RequestId::from_slice(id.as_bytes())),
        };
        let head_size = head.size;
        let mut exchange = Box::new(FastExchange {
            down: own.clone().unbind(),
            lent,
            data: data.clone_ref(py),
            head,
            model: name,
            request_id,
            plan,
            destination,
            client,
            credential,
            pick,
            reservation,
            started_ns,
            sent_ns: started_ns,
        });
        let Some(up) = exchange.up().map(|up| up.clone_ref(py)) else {
            return self.fall_back(py, exchange).map(|()| true);
        };
        if let Err(error) = exchange.send(py) {
            exchange.abandon(py)?;
            return Err(error);
        }
        exchange.sent_ns = now_ns();
        let key = self.state().exchanges.add(exchange);
        let mut state = own.get().state();
        (state.interception.interest, state.interception.head) = (Interest::Serving(key), head_size);
        drop(state);
        up.get().state().interception.interest = Interest::Serving(key);
        Ok(true)
    }

    /// Finds the plan of a request, the credential in it, and its destination.
    fn plan(&self, py: Python<'_>, asked: &Asked<'_>) -> Option<Found> {
        let Asked { head, bytes, model, .. } = *asked;
        let mut state = self.state();
        let answer = state.table.as_ref()?.get().inner.find_safely(&Request {
            method: head.method(bytes),
            path: head.path(bytes),
            host: head.host(bytes),
            model: Some(model),
            header: &|name| Some(head.find(bytes, name)?.value(bytes)),
        });
        let Answer::Rule(route) = answer else { return None };
        let mut credential = None;
        if let Some(credentials) = &state.credentials
            && let Some((source, value)) = credential_in(head, bytes)
        {
            let now_s = (state.epoch_ns + asked.now_ns) as f64 / 1e9;
            // A plan for everybody would not do: its route may know the principal that this credential does not show.
            credential = Some(credentials.bind(py).get().find_or_verify(source, value, now_s)?);
        }
        let mut found = Destination::default();
        if let Some(shape) = state.plans.shape_of(route) {
            found = asked.destination(py, &shape, credential.as_deref())?;
        }
        let dialect = self.dialects.of(head.method(bytes), head.path(bytes));
        let plan = state.plans.get(Kind {
            route,
            destination: found.index,
            dialect,
            path: if dialect == 0 { head.path(bytes) } else { b"" },
            principal_class: credential.as_ref().map_or(0, |credential| credential.class),
            model: model.as_bytes(),
        })?;
        Some(Found {
            plan,
            credential,
            destination: found.index,
            pin: found.pin,
            turn: found.turn,
        })
    }

    /// The client of a request: the peer, or the one that a trusted proxy names. `None`: Python has to read it.
    fn client(&self, own: &Bound<'_, Transport>, head: &core::RequestHead, bytes: &[u8]) -> Option<Client> {
        let peer = own.get().state().interception.peer.clone()?;
        let proxies = self.state().proxies.clone();
        if proxies.is_empty() {
            return Some(peer);
        }
        let lines = head.fields.iter().rev();
        let lines = lines.filter(|field| field.known == Known::XForwardedFor);
        let named = proxies
            .client(&peer.address, lines.map(|field| field.value(bytes)))
            .ok()?;
        Some(named.map_or(peer, |address| Client {
            address: address.to_string().into(),
            network: proxies.network(&address).into(),
        }))
    }

    /// Acquires what an exchange needs: its limits' reservation, a slot at an upstream and an idle connection if there is
    /// one. `None`: refused, and nothing is held.
    fn take(&self, py: Python<'_>, asked: &Asked<'_>, found: &Found, body_bytes: usize, size: &Size) -> Option<Taken> {
        let Asked {
            client: Client { network, .. },
            model,
            now_ns,
            ..
        } = *asked;
        let (plan, credential) = (&*found.plan, found.credential.as_deref());
        let time = now_ns.unsigned_abs();
        // Those that wait for an upstream go first.
        if plan
            .queue
            .as_ref()
            .is_some_and(|(queue, _)| queue.get().inner.depth() > 0)
        {
            return None;
        }
        let reservation = match &plan.limits {
            Some(limits) => {
                let [user, key, tenant] = credential.map_or([network, network, ""], |credential| {
                    [&credential.id, credential.key(), &credential.tenant]
                });
                let asker = limit::Asker {
                    user: user.as_bytes(),
                    key: key.as_bytes(),
                    tenant: tenant.as_bytes(),
                    model: model.as_bytes(),
                    route: b"",
                    address: network.as_bytes(),
                };
                let (today, is_first) = {
                    let state = self.state();
                    let waiting = state.waiting.as_ref().map_or(0, |waiting| waiting.get().get());
                    (state.today, waiting == 0)
                };
                if plan.has_lease && !is_first {
                    return None;
                }
                let price = plan.price.as_ref().filter(|_| plan.spends).map(Py::get);
                Some(LimitSet::take(limits.bind(py), &asker, size, price, time, today)?)
            }
            None => None,
        };
        let selector = &plan.selector.get().inner;
        let mut ask = Ask {
            pin: found.pin,
            ..Ask::new(time, plan.without)
        };
        if selector.needs().request {
            let asker = credential.map_or(&**network, |credential| &credential.id);
            ask = Ask {
                model: model.as_bytes(),
                prompt_bytes: body_bytes as u64,
                ..ask.by(asker.as_bytes())
            };
        }
        let Ok(pick) = selector.try_pick(&ask) else {
            if let Some(reservation) = reservation {
                reservation.undo();
            }
            return None;
        };
        // The relay queues or spreads requests beyond the upstream's share.
        let has_its_share = selector
            .in_flight(pick.index)
            .is_ok_and(|count| count > self.state().share);
        let target = plan.targets.get(pick.index).filter(|_| !has_its_share);
        Some(Taken {
            reservation,
            pick,
            lent: target.and_then(|target| target.lend(now_ns)),
        })
    }

    // ---------------------------------------------------------------- responses

    /// Forwards a common response and completes the exchange; returns the exchange when the response is uncommon.
    fn complete(
        &self,
        py: Python<'_>,
        exchange: Box<FastExchange>,
        data: &Data,
    ) -> PyResult<Option<Box<FastExchange>>> {
        let bytes = data.bytes(py);
        let read_ns = now_ns();
        let head = match core::ResponseHead::parse(bytes, false) {
            Ok(Some(head))
                if self.is_common(&head, bytes)
                    && exchange.may_pass(&head, bytes)
                    && self.responses.is_whole(py, data, head.size, &head.fields)? =>
            {
                head
            }
            _ => return Ok(Some(exchange)),
        };
        let response = Response { head, bytes, read_ns };
        let Ok(sent) = exchange.answer(py, &self.writer, &response) else {
            return Ok(Some(exchange));
        };
        let now_ns = now_ns();
        let waiting = exchange.record(py, self.ledger.get(), &response, sent, now_ns);
        let has_lease = exchange.plan.has_lease;
        exchange.complete(py, &response, now_ns)?;
        self.count_served(py, waiting, has_lease)?;
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

    /// Counts a completed exchange; has access lines written out once enough bytes are waiting, and requests tried again
    /// that wait for a lease.
    fn count_served(&self, py: Python<'_>, waiting: isize, has_lease: bool) -> PyResult<()> {
        let mut state = self.state();
        state.served += 1;
        let released = match (&state.waiting, &state.released) {
            (Some(waiting), Some(released)) if has_lease && waiting.get().get() > 0 => Some(released.clone_ref(py)),
            _ => None,
        };
        let full = match &state.flush {
            Some((block_bytes, flush)) if waiting > *block_bytes => Some(flush.clone_ref(py)),
            _ => None,
        };
        drop(state);
        for callback in [released, full].into_iter().flatten() {
            callback.call0(py)?;
        }
        Ok(())
    }

    /// Passes an exchange to the ordinary path, as if it had taken that from the beginning.
    fn fall_back(&self, py: Python<'_>, exchange: Box<FastExchange>) -> PyResult<()> {
        let resume = self.state().resume.as_ref().map(|hand| hand.clone_ref(py));
        match resume {
            Some(resume) => exchange.fall_back(py, &resume),
            None => exchange.abandon(py),
        }
    }

    /// Passes on every exchange, even when one fails; reports the first error.
    fn fall_back_each(&self, py: Python<'_>, exchanges: impl IntoIterator<Item = Box<FastExchange>>) -> PyResult<()> {
        let handed = exchanges.into_iter().map(|exchange| self.fall_back(py, exchange));
        handed.fold(Ok(()), Result::and)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request, as far as the choice of its plan needs it.
struct Asked<'a> {
    head: &'a core::RequestHead,
    bytes: &'a [u8],
    model: &'a str,
    /// The body's `user`, as it is written.
    user: Option<&'a [u8]>,
    client: &'a Client,
    now_ns: i64,
}

/// The plan of a request, and what else was found out for it.
struct Found {
    plan: Arc<CachedPlan>,
    credential: Option<Arc<Credential>>,
    /// The index of the route's destination.
    destination: usize,
    pin: Option<u64>,
    /// The split whose turn the request takes.
    turn: Option<Py<Split>>,
}

/// A destination of a route.
#[derive(Default)]
struct Destination {
    index: usize,
    pin: Option<u64>,
    turn: Option<Py<Split>>,
}

impl Asked<'_> {
    /// The destination that the route's shape chooses. `None`: the pipeline has to choose, because a destination is out
    /// or full, or because Python reads the pin otherwise.
    fn destination(&self, py: Python<'_>, shape: &RouteShape, credential: Option<&Credential>) -> Option<Destination> {
        let header = |name: &str| match self.head.find(self.bytes, name.as_bytes()) {
            None => Some(None),
            Some(field) => Some(field.value(self.bytes)).filter(|value| value.is_ascii()).map(Some),
        };
        let pin: Option<&[u8]> = match &shape.pin {
            None => None,
            Some(PinBy::Header(name)) => header(name)?,
            // With escapes, the text is another one.
            Some(PinBy::User) => match self.user {
                Some(user) if user.contains(&b'\\') => return None,
                user => user,
            },
            Some(PinBy::Key) => Some(
                credential
                    .map_or(&*self.client.network, |credential| &credential.id)
                    .as_bytes(),
            ),
        };
        let now_ns = self.now_ns.unsigned_abs();
        let found = |index: usize, turn: Option<Py<Split>>| Destination {
            index,
            pin: pin.map(pin_of),
            turn,
        };
        if let Some((name, value)) = &shape.canary
            && let Some(said) = header(name)?
            && (value.is_empty() || said == value.as_bytes())
        {
            let last = shape.destinations.len().checked_sub(1)?;
            return shape.destinations[last].is_available(now_ns).then(|| found(last, None));
        }
        let Some(split) = &shape.split else {
            return Some(found(0, None));
        };
        let index = split.get().inner.peek(pin, 0)?;
        let destination = shape.destinations.get(index)?;
        if !destination.is_available(now_ns) || (pin.is_none() && !destination.has_room(now_ns)) {
            return None;
        }
        Some(found(index, pin.is_none().then(|| split.clone_ref(py))))
    }
}

/// The resources of an exchange that was admitted.
struct Taken {
    reservation: Option<Reservation>,
    pick: Pick,
    lent: Option<Lent>,
}

/// The credential in a request, looked up in the pipeline's order.
fn credential_in<'a>(head: &core::RequestHead, bytes: &'a [u8]) -> Option<(Source, &'a [u8])> {
    let of = |known: Known| {
        let field = head.fields.iter().find(|field| field.known == known)?;
        Some(field.value(bytes))
    };
    of(Known::Authorization)
        .map(|value| (Source::Authorization, value))
        .or_else(|| {
            let key = of(Known::XApiKey).or_else(|| of(Known::ApiKey));
            let key = key.or_else(|| Some(head.find(bytes, b"x-goog-api-key")?.value(bytes)));
            key.map(|value| (Source::Key, value))
        })
}
