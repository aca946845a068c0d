//! Bindings of `core::route`: the route table.

use budgateway_core::route::{self as core, Answer, Request, Rule};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::Error;
use crate::head::RequestHead;

type RuleTuple = (String, String, Vec<String>, Vec<String>, Vec<(String, String)>, i64);

#[pyclass(frozen, module = "budgateway._native")]
pub(crate) struct RouteTable {
    pub(crate) inner: core::RouteTable,
}

#[pymethods]
impl RouteTable {
    #[new]
    #[pyo3(signature = (rules, own_from = usize::MAX))]
    fn new(py: Python<'_>, rules: Vec<RuleTuple>, own_from: usize) -> Result<Self, Error> {
        let rule = |(host, path, methods, models, headers, priority)| Rule {
            host,
            path,
            methods,
            models,
            headers,
            priority,
        };
        let rules: Vec<Rule> = rules.into_iter().map(rule).collect();
        py.detach(|| core::RouteTable::with_own(&rules, own_from))
            .map(|inner| Self { inner })
            .map_err(|error| Error::value(error.to_string()))
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    #[pyo3(signature = (head, model))]
    fn find(&self, head: &Bound<'_, RequestHead>, model: Option<&str>) -> isize {
        let (head, bytes) = head.get().core(head.py());
        number(self.inner.find_safely(&Request {
            method: head.method(bytes),
            path: head.path(bytes),
            host: head.host(bytes),
            model,
            header: &|name| Some(head.find(bytes, name)?.value(bytes)),
        }))
    }

    #[pyo3(signature = (method, path, host = "", model = None, headers = Vec::new()))]
    fn lookup(
        &self,
        method: &str,
        path: &str,
        host: &str,
        model: Option<&str>,
        headers: Vec<(String, String)>,
    ) -> isize {
        number(
            self.inner
                .find(&loose(method, path, host, model, &|name| value(&headers, name))),
        )
    }

    #[pyo3(signature = (method, path, host, /))]
    fn candidates(&self, method: &str, path: &str, host: &str) -> Vec<usize> {
        self.inner
            .candidates(method.as_bytes(), host.as_bytes(), path.as_bytes())
    }

    fn params<'py>(&self, py: Python<'py>, index: usize, path: &str) -> PyResult<Bound<'py, PyDict>> {
        let params = PyDict::new(py);
        for (name, value) in self.inner.params(index, path.as_bytes()) {
            params.set_item(name, String::from_utf8_lossy(&value))?;
        }
        Ok(params)
    }

    #[pyo3(signature = (method, path, host = "", model = None, headers = Vec::new()))]
    fn explain(
        &self,
        method: &str,
        path: &str,
        host: &str,
        model: Option<&str>,
        headers: Vec<(String, String)>,
    ) -> Vec<(usize, bool, String)> {
        let explanations = self
            .inner
            .explain(&loose(method, path, host, model, &|name| value(&headers, name)));
        explanations
            .into_iter()
            .map(|one| (one.rule, one.matched, one.why))
            .collect()
    }
}

fn number(answer: Answer) -> isize {
    match answer {
        Answer::Rule(rule) => rule as isize,
        Answer::NoPath => -1,
        Answer::NoMethod => -2,
        Answer::NoModel => -3,
        Answer::Ambiguous => -4,
    }
}

fn loose<'a>(
    method: &'a str,
    path: &'a str,
    host: &'a str,
    model: Option<&'a str>,
    header: &'a dyn Fn(&[u8]) -> Option<&'a [u8]>,
) -> Request<'a> {
    let host = host.strip_suffix('.').unwrap_or(host);
    Request {
        method: method.as_bytes(),
        path: path.as_bytes(),
        host: host.as_bytes(),
        model,
        header,
    }
}

fn value<'a>(headers: &'a [(String, String)], name: &[u8]) -> Option<&'a [u8]> {
    let (_, value) = headers
        .iter()
        .find(|(other, _)| other.as_bytes().eq_ignore_ascii_case(name))?;
    Some(value.as_bytes())
}
