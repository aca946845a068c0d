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

use budgateway_core::head as core;
use budgateway_core::head::{Known, flag};
use budgateway_core::route::{Answer, Request};
use budgateway_core::select::{Ask, Pick};
use budgateway_core::slab::{Key, Slab};
use budgateway_core::{limit, price};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use crate::engine::sockets::{Data, Interceptor, Interest, Read, Sockets, Transport};
use crate::error::Error;
use crate::head::{is_doubtful, now_ns};
use crate::ids::RequestIds;
use crate::json::Peeker;
use crate::ledger::Ledger;
use crate::limits::{LimitSet, Reservation, Size};
use crate::route::RouteTable;

pub(crate) use cached_plan::MAX_CACHED_PLANS;
pub(crate) use exchange::{JOINED_BYTES, Resumable};

use cached_plan::{CachedPlan, ChoicePart, IdentityPart, Lent, LimitsPart, PlanCache, RoutePart};
use exchange::{FastExchange, RequestId, Response};
use parser::Parser;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct FastPath {
    ids: Py<RequestIds>,
    peeker: Py<Peeker>,
    ledger: Py<Ledger>,
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
    /// Callback that continues exchanges which the fast path gives up.
    resume: Option<Py<PyAny>>,
    table: Option<Py<RouteTable>>,
    /// True when credentials matter: a request without one may have a different cached plan.
    by_credential: bool,
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
        *, ids, ledger, requests, responses, doubtful, resume, flush, block_bytes, quiet_ns, slack_ns
    ))]
    #[allow(clippy::too_many_arguments, reason = "keywords, once a worker")]
    fn new(
        py: Python<'_>,
        ids: Py<RequestIds>,
        ledger: Py<Ledger>,
        requests: Py<PyAny>,
        responses: Py<PyAny>,
        doubtful: Vec<PyBackedBytes>,
        resume: Py<PyAny>,
        flush: Option<Py<PyAny>>,
        block_bytes: isize,
        quiet_ns: i64,
        slack_ns: i64,
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
            slack_ns,
            state: Mutex::new(State {
                open: false,
                share: u64::MAX,
                flush: flush.map(|flush| (block_bytes, flush)),
                resume: Some(resume),
                table: None,
                by_credential: false,
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

    #[pyo3(signature = (table, by_credential, /))]
    fn follow(slf: &Bound<'_, Self>, table: Py<RouteTable>, by_credential: bool) -> PyResult<()> {
        Self::fall_back_all(slf)?;
        slf.get().clear();
        let mut state = slf.get().state();
        state.by_credential = by_credential;
        let before = state.table.replace(table);
        drop(state);
        drop(before);
        Ok(())
    }

    fn clear(&self) {
        let dropped = self.state().plans.clear();
        drop(dropped);
    }

    #[pyo3(signature = (model, identity, route, limits, choice, /, *, until_ns))]
    fn insert(
        &self,
        model: &str,
        identity: IdentityPart,
        route: RoutePart,
        limits: LimitsPart,
        choice: ChoicePart,
        until_ns: i64,
    ) {
        let index = route.place;
        let credential = identity.credential.clone();
        let credential = credential.as_deref().and_then(<[u8]>::split_first);
        let credential = credential.map(|(kind, value)| (*kind, value));
        let plan = CachedPlan::new(identity, route, limits, choice, until_ns, self.slack_ns);
        self.state().plans.insert(index, credential, model.as_bytes(), plan);
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
        let hands = (state.resume.take(), state.flush.take(), state.table.take());
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
        let Some(plan) = self.plan(&head, bytes, model, started_ns) else {
            return Ok(false);
        };
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
        }) = self.take(own, &plan, model, body.len(), &size, started_ns)
        else {
            return Ok(false);
        };
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

    fn plan(&self, head: &core::RequestHead, bytes: &[u8], model: &str, now_ns: i64) -> Option<Arc<CachedPlan>> {
        let mut state = self.state();
        let answer = state.table.as_ref()?.get().inner.find_safely(&Request {
            method: head.method(bytes),
            path: head.path(bytes),
            host: head.host(bytes),
            model: Some(model),
            header: &|name| Some(head.find(bytes, name)?.value(bytes)),
        });
        let Answer::Rule(route) = answer else { return None };
        let credential = if state.by_credential {
            credential(head, bytes)
        } else {
            None
        };
        let plan = state.plans.get(route, credential, model.as_bytes())?;
        (now_ns < plan.until_ns).then_some(plan)
    }

    /// Acquires what an exchange needs: its limits' reservation, a slot at an upstream and an idle connection if there is
    /// one. `None`: refused, and nothing is held.
    fn take(
        &self,
        own: &Bound<'_, Transport>,
        plan: &CachedPlan,
        model: &str,
        body_bytes: usize,
        size: &Size,
        now_ns: i64,
    ) -> Option<Taken> {
        let py = own.py();
        let time = now_ns.unsigned_abs();
        let reservation = match &plan.limits {
            Some(limits) => {
                let state = own.get().state();
                let address = state.interception.network.as_deref().unwrap_or_default();
                let [user, key, tenant] = plan.asker.as_ref().map_or([address, address, ""], |asker| {
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
        let selector = &plan.selector.get().inner;
        let mut ask = Ask::new(time, plan.without);
        if selector.needs().request {
            let state = own.get().state();
            let network = state.interception.network.as_deref().unwrap_or_default();
            let asker = plan.asker.as_ref().map_or(network, |asker| &asker.user);
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
        if exchange.answer(py, &self.writer, &response).is_err() {
            return Ok(Some(exchange));
        }
        let now_ns = now_ns();
        let waiting = exchange.record(py, self.ledger.get(), &response, now_ns);
        exchange.complete(py, &response, now_ns)?;
        self.count_served(py, waiting)?;
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
    fn count_served(&self, py: Python<'_>, waiting: isize) -> PyResult<()> {
        let mut state = self.state();
        state.served += 1;
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

/// The resources of an exchange that was admitted.
struct Taken {
    reservation: Option<Reservation>,
    pick: Pick,
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
