//! Upstream selection.

use budgateway_core::breaker::{Settings, State, Verdict};
use budgateway_core::select as core;
use pyo3::prelude::*;

use crate::error::Error;
use crate::number::Unsigned;
use crate::segment::Segment;

pub(crate) const VERDICT_NEUTRAL: u8 = 0;
pub(crate) const VERDICT_SUCCESS: u8 = 1;
pub(crate) const VERDICT_FAILURE: u8 = 2;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Selector {
    inner: core::Selector,
}

#[pymethods]
impl Selector {
    #[new]
    #[pyo3(signature = (
        segment, worker, policy, upstreams, *,
        seed = 0, failure_threshold = 0, open_ns = 60_000_000_000, half_open_max_calls = 3, max_in_flight = Vec::new()
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
    ) -> Result<Self, Error> {
        let breaker = (failure_threshold > 0).then(|| Settings::new(failure_threshold, open_ns, half_open_max_calls));
        let policy = policy.parse::<core::Policy>()?;
        let inner = core::Selector::new(segment.inner.clone(), worker, policy, &upstreams, seed, breaker)?;
        Ok(Self {
            inner: inner.limited(&max_in_flight),
        })
    }

    #[pyo3(signature = (now_ns, tried = Tried(0)), text_signature = "($self, now_ns, tried=0)")]
    fn pick(&self, now_ns: Unsigned, tried: Tried) -> isize {
        match self.inner.try_pick(now_ns.0, tried.0) {
            Ok(index) => index as isize,
            Err(core::Refusal::Nobody) => -1,
            Err(core::Refusal::Full) => -2,
        }
    }

    fn release(&self, index: usize, verdict: i64, now_ns: Unsigned) -> Result<(), Error> {
        const NEUTRAL: i64 = VERDICT_NEUTRAL as i64;
        const SUCCESS: i64 = VERDICT_SUCCESS as i64;
        const FAILURE: i64 = VERDICT_FAILURE as i64;
        let verdict = match verdict {
            NEUTRAL => Verdict::Neutral,
            SUCCESS => Verdict::Success,
            FAILURE => Verdict::Failure,
            unknown => return Err(Error::value(format!("verdict {unknown} is none of VERDICT_*"))),
        };
        Ok(self.inner.release(index, verdict, now_ns.0)?)
    }

    fn in_flight(&self, index: usize) -> Result<u64, Error> {
        Ok(self.inner.in_flight(index)?)
    }

    fn state(&self, index: usize, now_ns: u64) -> Result<&'static str, Error> {
        Ok(match self.inner.state(index, now_ns)? {
            None => "drained",
            Some(State::Closed) => "closed",
            Some(State::Open) => "open",
            Some(State::HalfOpen) => "half_open",
        })
    }

    fn drain(&self, index: usize, drained: bool) -> Result<(), Error> {
        Ok(self.inner.drain(index, drained)?)
    }
}

/// The first 64 bits of a mask: a caller with more upstreams sets more, and those cannot be excluded.
struct Tried(u64);

impl FromPyObject<'_, '_> for Tried {
    type Error = PyErr;

    fn extract(mask: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let narrow = mask.extract::<Unsigned>();
        let narrow = narrow.or_else(|_| mask.bitand(u64::MAX)?.extract::<Unsigned>());
        narrow.map(|mask| Self(mask.0))
    }
}
