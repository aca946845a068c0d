//! The shared mapping of hot state.

use std::sync::Arc;

use budgateway_core::segment as core;
use pyo3::prelude::*;

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

    fn label(&self, id: u32) -> String {
        label(&self.inner, core::LabelId::new(id))
    }

    fn upstream(&self, url: &str) -> Result<usize, Error> {
        Ok(self.inner.upstream(url)?.get())
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
}

/// The name of a label, as metrics show it.
pub(crate) fn label(segment: &core::Segment, id: core::LabelId) -> String {
    segment.label(id).unwrap_or_else(|| "other".to_owned())
}
