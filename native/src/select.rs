//! Bindings of `core::select`: upstream selection.

use budgateway_core::breaker::{Settings, State, Verdict};
use budgateway_core::outlier;
use budgateway_core::select as core;
use budgateway_core::select::{Ask, Note, Observation, POLICIES, Pick};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMappingProxy, PyTuple};

use crate::error::Error;
use crate::ledger::facts_of;
use crate::number::Unsigned;
use crate::segment::Segment;

pub(crate) const VERDICT_NEUTRAL: u8 = 0;
pub(crate) const VERDICT_SUCCESS: u8 = 1;
pub(crate) const VERDICT_FAILURE: u8 = 2;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Selector {
    pub(crate) inner: core::Selector,
}

#[pymethods]
impl Selector {
    #[new]
    #[pyo3(signature = (
        segment, worker, policy, upstreams, *,
        seed = 0, failure_threshold = 0, open_ns = 60_000_000_000, half_open_max_calls = 3, max_in_flight = Vec::new(),
        failure_ratio = 0.0, minimum_calls = 20, window_ns = 30_000_000_000,
        eject_after = 0, eject_ns = 10_000_000_000, eject_max_ns = 300_000_000_000, eject_percent = 50,
        panic_percent = 50, slow_start_ns = 0, pins = None
    ))]
    #[allow(clippy::too_many_arguments, reason = "keywords, in Python")]
    fn new(
        segment: &Segment,
        worker: usize,
        policy: &str,
        upstreams: Vec<(usize, u32)>,
        seed: u64,
        failure_threshold: u64,
        open_ns: u64,
        half_open_max_calls: u64,
        max_in_flight: Vec<u32>,
        failure_ratio: f64,
        minimum_calls: u64,
        window_ns: u64,
        eject_after: u64,
        eject_ns: u64,
        eject_max_ns: u64,
        eject_percent: u64,
        panic_percent: u64,
        slow_start_ns: u64,
        pins: Option<Vec<String>>,
    ) -> Result<Self, Error> {
        let per_mille = (failure_ratio.clamp(0.0, 1.0) * 1000.0).round() as u64;
        let breaker = (failure_threshold > 0).then(|| {
            Settings::new(failure_threshold, open_ns, half_open_max_calls).with_ratio(
                per_mille,
                minimum_calls,
                window_ns,
            )
        });
        let inner = core::Selector::new(segment.inner.clone(), worker, policy, &upstreams, seed, breaker)?;
        let mut inner = inner
            .limited(&max_in_flight)
            .panicking_below(panic_percent)
            .starting_slowly(slow_start_ns);
        if eject_after > 0 {
            inner = inner.ejecting(outlier::Settings::new(
                eject_after,
                eject_ns,
                eject_max_ns,
                eject_percent,
            ));
        }
        if let Some(names) = pins {
            inner = inner.pinning(names.iter().map(String::as_str));
        }
        Ok(Self { inner })
    }

    #[getter]
    fn needs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        names_of(py, self.inner.needs())
    }

    #[getter]
    fn pins(&self) -> bool {
        self.inner.pins()
    }

    #[pyo3(signature = (now_ns, tried = Tried(0)), text_signature = "($self, now_ns, tried=0)")]
    fn pick(&self, now_ns: Unsigned, tried: Tried) -> isize {
        match self.inner.try_pick(&Ask::new(now_ns.0, tried.0)) {
            Ok(pick) => pick.index as isize,
            Err(refusal) => told(refusal) as isize,
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one crossing a choice, no object for it")]
    fn pick_for(
        &self,
        now_ns: Unsigned,
        tried: Tried,
        pin: Option<&str>,
        key: Option<&str>,
        model: &str,
        prompt_bytes: u64,
        streams: bool,
    ) -> i64 {
        let mut ask = Ask {
            model: model.as_bytes(),
            prompt_bytes,
            streams,
            ..Ask::new(now_ns.0, tried.0).pinned(pin.map(str::as_bytes))
        };
        if self.inner.needs().request {
            ask = ask.by(key.unwrap_or_default().as_bytes());
        }
        match self.inner.try_pick(&ask) {
            Ok(pick) => pack(pick),
            Err(refusal) => told(refusal),
        }
    }

    fn release(&self, index: usize, verdict: i64, now_ns: Unsigned) -> Result<(), Error> {
        Ok(self.inner.release(index, verdict_of(verdict)?, now_ns.0)?)
    }

    #[allow(clippy::too_many_arguments, reason = "one crossing an exchange, no object for it")]
    fn complete(
        &self,
        index: usize,
        verdict: i64,
        now_ns: Unsigned,
        note: Note,
        asked_ns: u64,
        first_byte_ns: u64,
        answer: Option<&Bound<'_, PyAny>>,
    ) -> Result<(), Error> {
        let observation = Observation {
            note,
            // An earlier attempt may have got an answer, too.
            first_byte_ns: first_byte_ns.checked_sub(asked_ns).filter(|&ns| ns > 0),
            total_ns: now_ns.0.saturating_sub(asked_ns),
            usage: facts_of(answer).0.reported,
            ..Observation::new(verdict_of(verdict)?, now_ns.0)
        };
        Ok(self.inner.complete(index, &observation)?)
    }

    fn begun(&self, index: usize, note: Note, now_ns: Unsigned) -> Result<(), Error> {
        Ok(self.inner.begun(index, note, now_ns.0)?)
    }

    fn in_flight(&self, index: usize) -> Result<u64, Error> {
        Ok(self.inner.in_flight(index)?)
    }

    fn state(&self, index: usize, now_ns: u64) -> Result<&'static str, Error> {
        Ok(self.inner.state(index, now_ns)?.map_or("drained", state))
    }

    #[pyo3(signature = (index, drained, now_ns = 0))]
    fn drain(&self, index: usize, drained: bool, now_ns: u64) -> Result<(), Error> {
        Ok(self.inner.drain(index, drained, now_ns)?)
    }

    fn rest(&self, index: usize, for_ns: u64, now_ns: u64) -> Result<bool, Error> {
        Ok(self.inner.rest(index, for_ns, now_ns)?)
    }

    fn answered(&self, index: usize, now_ns: Unsigned) -> Result<bool, Error> {
        Ok(self.inner.answered(index, now_ns.0)?)
    }

    fn suspect(&self, index: usize, now_ns: u64) -> Result<(), Error> {
        Ok(self.inner.suspect(index, now_ns)?)
    }

    fn lacking(&self, model: &str) -> u64 {
        self.inner.lacking(model.as_bytes())
    }

    fn look(&self, index: usize, now_ns: u64) -> Result<UpstreamHealth, Error> {
        Ok(UpstreamHealth {
            look: self.inner.look(index, now_ns)?,
        })
    }
}

/// The policies by name, each with the names of its needs.
pub(crate) fn policies(py: Python<'_>) -> PyResult<Bound<'_, PyMappingProxy>> {
    let policies = PyDict::new(py);
    for (name, needs) in POLICIES {
        policies.set_item(name, names_of(py, *needs)?)?;
    }
    Ok(PyMappingProxy::new(py, policies.as_mapping()))
}

/// A pick as Python holds it: the index in the low 16 bits, the policy's note above them.
pub(crate) fn pack(pick: Pick) -> i64 {
    pick.index as i64 | (pick.note << 16) as i64
}

fn names_of(py: Python<'_>, needs: core::Needs) -> PyResult<Bound<'_, PyTuple>> {
    PyTuple::new(py, needs.names().collect::<Vec<_>>())
}

fn told(refusal: core::Refusal) -> i64 {
    match refusal {
        core::Refusal::Nobody => -1,
        core::Refusal::Full => -2,
    }
}

fn verdict_of(verdict: i64) -> Result<Verdict, Error> {
    const NEUTRAL: i64 = VERDICT_NEUTRAL as i64;
    const SUCCESS: i64 = VERDICT_SUCCESS as i64;
    const FAILURE: i64 = VERDICT_FAILURE as i64;
    match verdict {
        NEUTRAL => Ok(Verdict::Neutral),
        SUCCESS => Ok(Verdict::Success),
        FAILURE => Ok(Verdict::Failure),
        unknown => Err(Error::value(format!("verdict {unknown} is none of VERDICT_*"))),
    }
}

/// A snapshot of an upstream's health.
#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct UpstreamHealth {
    look: core::Look,
}

#[pymethods]
impl UpstreamHealth {
    #[getter]
    fn drained(&self) -> bool {
        self.look.drained
    }

    #[getter]
    fn breaker(&self) -> &'static str {
        state(self.look.breaker)
    }

    #[getter]
    fn window(&self) -> (u64, u64) {
        self.look.window
    }

    #[getter]
    fn out_until_ns(&self) -> u64 {
        self.look.out_until_ns
    }

    #[getter]
    fn asked(&self) -> bool {
        self.look.asked
    }

    #[getter]
    fn aside(&self) -> bool {
        self.look.aside
    }

    #[getter]
    fn failures(&self) -> u64 {
        self.look.failures
    }

    #[getter]
    fn ejections(&self) -> u64 {
        self.look.ejections
    }

    #[getter]
    fn healthy(&self) -> Option<bool> {
        self.look.healthy
    }

    #[getter]
    fn share(&self) -> f64 {
        self.look.ramp_per_mille as f64 / 1000.0
    }

    #[getter]
    fn signals(&self) -> Option<(u64, u64, f64)> {
        let signals = self.look.signals;
        (signals.at_ns > 0).then(|| (signals.running, signals.waiting, signals.kv_per_mille as f64 / 1000.0))
    }

    #[getter]
    fn signals_at_ns(&self) -> u64 {
        self.look.signals.at_ns
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Closed => "closed",
        State::Open => "open",
        State::HalfOpen => "half_open",
    }
}

/// The first 64 bits of a mask. A caller with more upstreams may set more bits, but cannot exclude those upstreams.
struct Tried(u64);

impl FromPyObject<'_, '_> for Tried {
    type Error = PyErr;

    fn extract(mask: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let narrow = mask.extract::<Unsigned>();
        let narrow = narrow.or_else(|_| mask.bitand(u64::MAX)?.extract::<Unsigned>());
        narrow.map(|mask| Self(mask.0))
    }
}
