//! Rules as configured, compiled, and taken apart into entries; and the request that they match.

use core::cmp::Reverse;

use super::pattern::{Glob, HostPattern, ModelPattern, PathPattern};
use crate::head::is_token;

/// A rule as configured; an empty property matches everything.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// `api.example.com` or `*.example.com`.
    pub host: String,
    /// `/v1/models/{model}`, `/v1/*`.
    pub path: String,
    /// Case-sensitive.
    pub methods: Vec<String>,
    /// Exact, `prefix*`, or a glob with `*` and `?`.
    pub models: Vec<String>,
    /// Lower-case name, and value or glob; all must match.
    pub headers: Vec<(String, String)>,
    /// Higher priorities are checked first.
    pub priority: i64,
}

/// The properties of a request that a table matches.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Case-sensitive.
    pub method: &'a [u8],
    /// Percent-encoded, without the query.
    pub path: &'a [u8],
    /// Without the port, in any letter case.
    pub host: &'a [u8],
    /// The model that the body names.
    pub model: Option<&'a str>,
    /// The value of the first header of a lower-case name.
    pub header: &'a dyn Fn(&[u8]) -> Option<&'a [u8]>,
}

/// A compiled rule.
#[derive(Clone, Debug)]
pub(super) struct Compiled {
    pub(super) host: HostPattern,
    pub(super) path: PathPattern,
    pub(super) methods: Vec<String>,
    pub(super) models: Vec<ModelPattern>,
    pub(super) headers: Vec<(Box<[u8]>, Glob)>,
    pub(super) priority: i64,
}

/// A rule with one of its model patterns.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) rule: usize,
    /// Index in the rule's `models`; None when it has no models and matches any.
    pub(super) model: Option<usize>,
    /// Bits of its methods; all of them when the rule names none.
    pub(super) methods: u64,
    /// True when the rule matches headers.
    pub(super) headers: bool,
}

impl Compiled {
    pub(super) fn new(rule: &Rule) -> Result<Self, String> {
        let header = |(name, value): &(String, String)| {
            if !is_token(name.as_bytes()) || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                return Err(format!("{name:?} is no lower-case header name"));
            }
            Ok((name.as_bytes().into(), Glob::new(value)))
        };
        if let Some(method) = rule.methods.iter().find(|method| !is_token(method.as_bytes())) {
            return Err(format!("{method:?} is no method"));
        }
        if rule.models.iter().any(String::is_empty) {
            return Err("a model pattern is empty".into());
        }
        Ok(Self {
            host: HostPattern::new(&rule.host)?,
            path: PathPattern::new(&rule.path)?,
            methods: rule.methods.clone(),
            models: rule.models.iter().map(|model| ModelPattern::new(model)).collect(),
            headers: rule.headers.iter().map(header).collect::<Result<_, _>>()?,
            priority: rule.priority,
        })
    }

    /// The rule for folded paths.
    pub(super) fn folded(&self) -> Self {
        let mut rule = self.clone();
        rule.path.fold();
        rule
    }

    /// The sort key of entries, the preferred one lowest. Sorting is stable, so the index decides last.
    pub(super) fn preference<'a>(&'a self, entry: &Entry) -> impl Ord + use<'a> {
        let model = entry.model.and_then(|at| self.models.get(at));
        (
            Reverse(self.priority),
            self.host.preference(),
            self.path.preference(),
            self.methods.is_empty(),
            model.map_or(ModelPattern::ANY, ModelPattern::preference),
            Reverse(self.headers.len()),
        )
    }

    /// The first header that does not match.
    pub(super) fn missing_header(&self, request: &Request<'_>) -> Option<&(Box<[u8]>, Glob)> {
        self.headers
            .iter()
            .find(|(name, wanted)| !(request.header)(name).is_some_and(|value| wanted.matches(value)))
    }
}
