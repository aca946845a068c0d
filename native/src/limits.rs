//! Bindings of `core::limit`: one decision over all limits of an exchange, and what limits have counted.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use budgateway_core::entry::Settle;
use budgateway_core::limit as core;
use budgateway_core::limit::{Ask, Asker, Bucket, Budget, LimitError, LimitState, Rule, Unit, by};
use budgateway_core::price::{self as prices, LimitLines};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::error::Error;
use crate::json::BodyPeek;
use crate::number::Unsigned;
use crate::segment::Segment;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Price {
    pub(crate) inner: prices::Price,
}

#[pymethods]
impl Price {
    #[new]
    #[pyo3(signature = (input, cached, output, *, max_output_tokens = 0))]
    fn new(input: f64, cached: f64, output: f64, max_output_tokens: u64) -> Result<Self, Error> {
        prices::Price::new(input, cached, output, max_output_tokens)
            .map(|inner| Self { inner })
            .map_err(|error| Error::value(error.to_string()))
    }
}

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct LimitSet {
    inner: core::Limits,
    /// Bits of every property that some limit counts by; the others need not be read.
    counts_by: u8,
    route: String,
    /// Each limit's amount per period, for headers.
    amounts: Box<[u64]>,
    output_tokens: u64,
    headers: bool,
}

#[pymethods]
impl LimitSet {
    #[new]
    #[pyo3(signature = (segment, worker, route, limits, *, output_tokens = 1024, headers = true))]
    fn new(
        segment: &Segment,
        worker: usize,
        route: String,
        limits: Vec<(String, u8, String, u64, String, u64)>,
        output_tokens: u64,
        headers: bool,
    ) -> Result<Self, Error> {
        let rules = limits
            .iter()
            .map(|(name, by, kind, amount, period, burst)| {
                Ok((name.as_str(), *by, rule(kind, *amount, period, *burst)?))
            })
            .collect::<Result<Vec<_>, Error>>()?;
        Ok(Self {
            inner: core::Limits::new(segment.inner.clone(), worker, &rules)?,
            counts_by: limits.iter().fold(0, |all, limit| all | limit.1),
            route,
            amounts: limits.iter().map(|limit| limit.3).collect(),
            output_tokens,
            headers,
        })
    }

    #[pyo3(signature = (user, key, tenant, model, address, peek, body_bytes, price, now_ns, today, /))]
    #[allow(clippy::too_many_arguments, reason = "one crossing an exchange, no object for it")]
    fn decide<'py>(
        slf: &Bound<'py, Self>,
        user: &Bound<'py, PyString>,
        key: &Bound<'py, PyString>,
        tenant: &Bound<'py, PyString>,
        model: &Bound<'py, PyString>,
        address: &Bound<'py, PyString>,
        peek: Option<&BodyPeek>,
        body_bytes: Unsigned,
        price: Option<&Price>,
        now_ns: Unsigned,
        today: u32,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let set = slf.get();
        let who = Who::of([user, key, tenant, model, address], set.counts_by);
        let size = Size::of(py, peek, body_bytes.0);
        let ask = set.ask(!who.model.is_empty(), &size, price, now_ns.0, today);
        Ok(match set.inner.decide(&who.asker(&set.route), &ask) {
            Ok(inner) => Bound::new(py, Reservation::new(slf, inner))?.into_any(),
            Err(inner) => Bound::new(
                py,
                Refusal {
                    set: slf.clone().unbind(),
                    inner,
                },
            )?
            .into_any(),
        })
    }

    #[pyo3(signature = (user, key, tenant, model, address, peek, body_bytes, now_ns, /))]
    #[allow(clippy::too_many_arguments, reason = "as decide")]
    fn follow<'py>(
        slf: &Bound<'py, Self>,
        user: &Bound<'py, PyString>,
        key: &Bound<'py, PyString>,
        tenant: &Bound<'py, PyString>,
        model: &Bound<'py, PyString>,
        address: &Bound<'py, PyString>,
        peek: Option<&BodyPeek>,
        body_bytes: u64,
        now_ns: u64,
    ) -> Reservation {
        let set = slf.get();
        let who = Who::of([user, key, tenant, model, address], set.counts_by);
        let size = Size::of(slf.py(), peek, body_bytes);
        let ask = set.ask(!who.model.is_empty(), &size, None, now_ns, 0);
        Reservation::new(slf, set.inner.follow(&who.asker(&set.route), &ask))
    }

    /// Builds a refusal that was decided elsewhere.
    fn refusal(slf: &Bound<'_, Self>, limit: usize, wait_ns: u64, never: bool, left: u64, reset_ns: u64) -> Refusal {
        Refusal {
            set: slf.clone().unbind(),
            inner: core::Refusal {
                limit,
                wait_ns,
                never,
                state: LimitState { limit, left, reset_ns },
            },
        }
    }
}

/// The properties of an exchange that limits count by.
struct Who<'a> {
    user: Cow<'a, str>,
    key: Cow<'a, str>,
    tenant: Cow<'a, str>,
    model: Cow<'a, str>,
    address: Cow<'a, str>,
}

impl<'a> Who<'a> {
    /// Reads only the properties in `counts_by`. Lossy: the contents of a token must never fail an exchange.
    fn of(words: [&'a Bound<'_, PyString>; 5], counts_by: u8) -> Self {
        let [user, key, tenant, model, address] = words;
        let told = |text: &'a Bound<'_, PyString>, by: u8| {
            if counts_by & by == 0 {
                Cow::Borrowed("")
            } else {
                text.to_string_lossy()
            }
        };
        Self {
            user: told(user, by::USER),
            key: told(key, by::KEY),
            tenant: told(tenant, by::TENANT),
            // Always read: only an exchange without a model is not inference.
            model: model.to_string_lossy(),
            address: told(address, by::ADDRESS),
        }
    }

    fn asker<'b>(&'b self, route: &'b str) -> Asker<'b> {
        Asker {
            user: self.user.as_bytes(),
            key: self.key.as_bytes(),
            tenant: self.tenant.as_bytes(),
            model: self.model.as_bytes(),
            route: route.as_bytes(),
            address: self.address.as_bytes(),
        }
    }
}

/// An upper estimate of an exchange's tokens.
pub(crate) struct Size {
    pub(crate) prompt: u64,
    /// The maximum that the client asked for, if any.
    pub(crate) output: Option<u64>,
}

impl Size {
    fn of(py: Python<'_>, peek: Option<&BodyPeek>, body_bytes: u64) -> Self {
        Self {
            // The size of an upload says nothing about tokens.
            prompt: peek.map_or(0, |_| prices::prompt_tokens(body_bytes)),
            output: peek.and_then(|peek| peek.max_tokens(py)),
        }
    }
}

impl LimitSet {
    /// Decides for an inference request. `price` is needed where money is counted, `today` there as well (days since
    /// 1970, UTC). `None`: refused, and nothing was debited.
    pub(crate) fn take(
        slf: &Bound<'_, Self>,
        asker: &Asker<'_>,
        size: &Size,
        price: Option<&Price>,
        now_ns: u64,
        today: u32,
    ) -> Option<Reservation> {
        let set = slf.get();
        let ask = set.ask(true, size, price, now_ns, today);
        let asker = Asker {
            route: set.route.as_bytes(),
            ..*asker
        };
        let inner = set.inner.decide(&asker, &ask).ok()?;
        Some(Reservation::new(slf, inner))
    }

    /// The amounts to debit. A request that is not inference counts only as one request.
    fn ask(&self, is_inference: bool, size: &Size, price: Option<&Price>, now_ns: u64, today: u32) -> Ask {
        if !is_inference {
            return Ask {
                now_ns,
                today,
                ..Ask::default()
            };
        }
        let usual = || match price {
            Some(price) if price.inner.max_output_tokens > 0 => self.output_tokens.min(price.inner.max_output_tokens),
            _ => self.output_tokens,
        };
        let output = size.output.unwrap_or_else(usual);
        Ask {
            prompt: size.prompt,
            output,
            is_firm: size.output.is_some(),
            micros: Some(price.map_or(0, |price| price.inner.micros(size.prompt, output, 0))),
            now_ns,
            today,
        }
    }

    fn amount(&self, limit: usize) -> u64 {
        self.amounts.get(limit).copied().unwrap_or(0)
    }
}

/// The debits of an exchange until it is settled. Dropping an unsettled reservation gives them back.
#[pyclass(frozen, module = "budgateway._native")]
#[derive(Debug)]
pub(crate) struct Reservation {
    set: Py<LimitSet>,
    inner: core::Reservation,
    open: AtomicBool,
    /// The state of the request and token limits over all hosts, once known.
    elsewhere: OnceLock<[Option<LimitState>; 2]>,
}

#[pymethods]
impl Reservation {
    #[pyo3(name = "settle")]
    fn settle_first(&self, tokens: u64, micros: u64, now_ns: u64) -> bool {
        let first = self.open.swap(false, Ordering::Relaxed);
        if first {
            self.set.get().inner.settle(&self.inner, tokens, micros, now_ns);
        }
        first
    }

    /// The debits: limit index, amount, and the day on which a budget's period ends.
    fn debits(&self) -> Vec<(usize, u64, u32)> {
        self.inner.debits().collect()
    }

    pub(crate) fn undo(&self) {
        if self.open.swap(false, Ordering::Relaxed) {
            self.set.get().inner.give_back(&self.inner);
        }
    }

    fn set_state(&self, requests: Option<(usize, u64, u64)>, tokens: Option<(usize, u64, u64)>) {
        // Set once per reservation, before anything reads it; the result of a second call is ignored.
        let _ = self.elsewhere.set([requests.map(limit_state), tokens.map(limit_state)]);
    }

    #[getter]
    fn requests(&self) -> Option<(usize, u64, u64)> {
        self.inner.requests.map(tuple)
    }

    #[getter]
    fn tokens(&self) -> Option<(usize, u64, u64)> {
        self.inner.tokens.map(tuple)
    }

    fn lines<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let mut lines = LimitLines::new();
        self.write_lines(&mut lines);
        PyBytes::new(py, lines.as_bytes())
    }
}

impl Settle for Reservation {
    fn settle(&self, tokens: u64, micros: u64, now_ns: u64) {
        self.settle_first(tokens, micros, now_ns);
    }
}

impl Reservation {
    fn new(set: &Bound<'_, LimitSet>, inner: core::Reservation) -> Self {
        Self {
            set: set.clone().unbind(),
            inner,
            open: AtomicBool::new(true),
            elsewhere: OnceLock::new(),
        }
    }

    /// Writes the header lines that report the state of the client's limits.
    pub(crate) fn write_lines(&self, out: &mut LimitLines) {
        let set = self.set.get();
        if set.headers {
            let told = |state: LimitState| (set.amount(state.limit), state);
            let [requests, tokens] = *self
                .elsewhere
                .get()
                .unwrap_or(&[self.inner.requests, self.inner.tokens]);
            prices::write_limit_lines(out, requests.map(told), tokens.map(told));
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // The time is irrelevant when nothing is debited.
        self.settle(0, 0, 0);
    }
}

/// A refused decision: which limit refused, and how long to wait.
#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Refusal {
    set: Py<LimitSet>,
    inner: core::Refusal,
}

#[pymethods]
impl Refusal {
    #[getter]
    fn limit(&self) -> usize {
        self.inner.limit
    }

    #[getter]
    fn wait_ns(&self) -> u64 {
        self.inner.wait_ns
    }

    #[getter]
    fn never(&self) -> bool {
        self.inner.never
    }

    #[getter]
    fn left(&self) -> u64 {
        self.inner.state.left
    }

    fn lines<'py>(&self, py: Python<'py>, unit: &str) -> Bound<'py, PyBytes> {
        let set = self.set.get();
        let told = Some((set.amount(self.inner.limit), self.inner.state)).filter(|_| set.headers);
        let (requests, tokens) = match unit {
            "requests" => (told, None),
            "tokens" => (None, told),
            _ => (None, None),
        };
        let mut lines = LimitLines::new();
        prices::write_limit_lines(&mut lines, requests, tokens);
        PyBytes::new(py, lines.as_bytes())
    }
}

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct LimitLedger {
    inner: Mutex<core::Ledger>,
}

#[pymethods]
impl LimitLedger {
    #[new]
    fn new(segment: &Segment) -> Self {
        Self {
            inner: Mutex::new(core::Ledger::new(segment.inner.clone())),
        }
    }

    fn changes<'py>(&self, py: Python<'py>, now_ns: u64, today: u32) -> Option<Bound<'py, PyBytes>> {
        // Takes milliseconds with tens of thousands of keys.
        let changes = py.detach(|| {
            let mut ledger = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            ledger.changes(now_ns, today)
        });
        changes.map(|changes| PyBytes::new(py, &changes))
    }
}

fn rule(kind: &str, amount: u64, period: &str, burst: u64) -> Result<Rule, LimitError> {
    let seconds = || match period {
        "minute" => Ok(60),
        "hour" => Ok(3_600),
        "day" => Ok(86_400),
        _ => Err(LimitError::Period(period.to_owned())),
    };
    Ok(match kind {
        "requests" => Rule::Rate(Unit::Requests, Bucket::new(amount, seconds()?, burst)?),
        "tokens" => Rule::Rate(Unit::Tokens, Bucket::new(amount, seconds()?, burst)?),
        "concurrency" if amount == 0 => return Err(LimitError::Concurrency),
        "concurrency" => Rule::Concurrency(u32::try_from(amount).unwrap_or(u32::MAX)),
        "spend" => Rule::Spend(Budget::new(amount, period.parse()?)?),
        _ => return Err(LimitError::Kind(kind.to_owned())),
    })
}

fn limit_state((limit, left, reset_ns): (usize, u64, u64)) -> LimitState {
    LimitState { limit, left, reset_ns }
}

fn tuple(state: LimitState) -> (usize, u64, u64) {
    (state.limit, state.left, state.reset_ns)
}
