//! Bindings of `core::segment`: the shared mapping of hot state.

use std::sync::Arc;

use budgateway_core::health::Signals;
use budgateway_core::limit;
use budgateway_core::segment as core;
use budgateway_core::select::SelectError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::Error;

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct Segment {
    pub(crate) inner: Arc<core::Segment>,
}

#[pymethods]
impl Segment {
    #[new]
    #[pyo3(signature = (workers = 1))]
    fn new(workers: usize) -> Result<Self, Error> {
        Ok(Self {
            inner: Arc::new(core::Segment::new(workers)?),
        })
    }

    #[staticmethod]
    fn attach(fd: i32) -> Result<Self, Error> {
        Ok(Self {
            inner: Arc::new(core::Segment::attach(fd)?),
        })
    }

    #[getter]
    fn fd(&self) -> i32 {
        self.inner.fd()
    }

    #[getter]
    fn size(&self) -> usize {
        self.inner.size()
    }

    #[getter]
    fn workers(&self) -> usize {
        self.inner.workers()
    }

    fn intern(&self, name: &str) -> u32 {
        self.inner.intern(name).get()
    }

    fn intern_model(&self, name: &str) -> u32 {
        self.inner.intern_model(name).get()
    }

    fn models(&self) -> Vec<(String, u32)> {
        let models = self.inner.models().into_iter();
        models.map(|(name, id)| (name, id.get())).collect()
    }

    fn label(&self, id: u32) -> String {
        label(&self.inner, core::LabelId::new(id))
    }

    fn upstream(&self, url: &str) -> Result<usize, Error> {
        Ok(self.inner.upstream(url)?.get())
    }

    #[pyo3(signature = (id, upstream, /))]
    fn remember(&self, id: &str, upstream: usize) -> Result<(), Error> {
        self.inner.remember(id.as_bytes(), self.slot(upstream)?);
        Ok(())
    }

    #[pyo3(signature = (id, /))]
    fn holder(&self, id: &str) -> Option<usize> {
        self.inner.holder(id.as_bytes()).map(|slot| slot.get())
    }

    #[pyo3(signature = (upstream, healthy, now_ns, *, silent = false))]
    fn judge(&self, upstream: usize, healthy: Option<bool>, now_ns: u64, silent: bool) -> Result<(), Error> {
        self.inner.judge(self.slot(upstream)?, healthy, silent, now_ns);
        Ok(())
    }

    fn welcome(&self, upstream: usize, now_ns: u64) -> Result<(), Error> {
        self.inner.welcome(self.slot(upstream)?, now_ns);
        Ok(())
    }

    fn suspect(&self, upstream: usize, now_ns: u64) -> Result<(), Error> {
        self.inner.suspect(self.slot(upstream)?, now_ns);
        Ok(())
    }

    fn take_suspicion(&self, upstream: usize) -> Result<u64, Error> {
        Ok(self.inner.take_suspicion(self.slot(upstream)?).unwrap_or(0))
    }

    fn signal(&self, upstream: usize, running: u64, waiting: u64, kv_usage: f64, now_ns: u64) -> Result<(), Error> {
        let said = Signals {
            running,
            waiting,
            kv_per_mille: (kv_usage.clamp(0.0, 1.0) * 1000.0).round() as u64,
            at_ns: now_ns,
        };
        self.inner.signal(self.slot(upstream)?, said);
        Ok(())
    }

    fn set_models(&self, upstream: usize, models: Vec<String>) -> Result<(), Error> {
        let names: Vec<&str> = models.iter().map(String::as_str).collect();
        self.inner.set_models(self.slot(upstream)?, &names);
        Ok(())
    }

    #[getter]
    fn models_version(&self) -> u64 {
        self.inner.models_version()
    }

    fn save_limits<'py>(&self, py: Python<'py>, clocks: (u64, u64, u64, u64, u64, i64)) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &limit::save(&self.inner, &clocks_of(clocks)))
    }

    fn load_limits(&self, state: &[u8], clocks: (u64, u64, u64, u64, u64, i64)) -> Result<(i64, i64), Error> {
        let step =
            limit::load(&self.inner, state, &clocks_of(clocks)).map_err(|error| Error::value(error.to_string()))?;
        Ok((step.by_s, step.behind_s))
    }

    fn carry_budgets(&self, from_day: u32, to_day: u32) {
        limit::carry(&self.inner, from_day, to_day);
    }

    #[getter]
    fn today(&self) -> u32 {
        self.inner.today()
    }

    #[setter]
    fn set_today(&self, today: u32) {
        self.inner.set_today(today);
    }

    #[pyo3(signature = (changes, now_ns, today, guest = None))]
    fn count_limits(&self, changes: &[u8], now_ns: u64, today: u32, guest: Option<usize>) -> Result<(), Error> {
        let guest = guest.map(|row| self.inner.worker(row)).transpose()?;
        limit::count(&self.inner, guest, changes, now_ns, today).map_err(|error| Error::value(error.to_string()))
    }

    fn clear_worker(&self, worker: usize) -> Result<(), Error> {
        self.inner.clear(self.inner.worker(worker)?);
        Ok(())
    }

    fn gauge(&self, worker: usize, gauge: usize) -> Result<i64, Error> {
        Ok(self.inner.gauge(self.inner.worker(worker)?, gauge)?)
    }

    fn add(&self, worker: usize, gauge: usize, delta: i64) -> Result<(), Error> {
        Ok(self.inner.add(self.inner.worker(worker)?, gauge, delta)?)
    }

    fn enter(&self, worker: usize, gauge: usize, most: i64) -> Result<bool, Error> {
        Ok(self.inner.enter(self.inner.worker(worker)?, gauge, most)?)
    }
}

impl Segment {
    fn slot(&self, upstream: usize) -> Result<core::UpstreamSlot, Error> {
        Ok(self.inner.slot(upstream).ok_or(SelectError::Slot(upstream))?)
    }
}

/// A label's name, as metrics show it.
pub(crate) fn label(segment: &core::Segment, id: core::LabelId) -> String {
    segment.label(id).unwrap_or_else(|| "other".to_owned())
}

fn clocks_of((now_ns, unix_s, boot, more, since_boot_ns, behind_s): (u64, u64, u64, u64, u64, i64)) -> limit::Clocks {
    limit::Clocks {
        now_ns,
        unix_s,
        boot: [boot, more],
        since_boot_ns,
        behind_s,
    }
}
