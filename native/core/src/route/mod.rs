//! The route table: finds the rule for a request. Immutable; the same request always gets the same answer.
//!
//! Every rule becomes one entry for each of its model patterns. Entries are sorted once by preference, and the answer
//! is the lowest entry that matches. The index (`index.rs`) only narrows down the entries to check.

mod explain;
mod fold;
mod index;
mod pattern;
mod rule;

use self::index::Index;
use self::rule::{Compiled, Entry};

pub(crate) use self::fold::decode;

pub use self::explain::Explanation;
pub use self::rule::{Request, Rule};

/// Maximum distinct methods per table; more than IANA has registered.
const MAX_METHODS: usize = 64;

/// The first invalid rule, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule}: {why}")]
pub struct RuleError {
    /// Its index in the list, from 0.
    pub rule: usize,
    /// The error in the rule.
    pub why: String,
}

/// The result of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The rule with this index matches.
    Rule(usize),
    /// No rule has this host and path.
    NoPath,
    /// Some rule has host and path, but none the method.
    NoMethod,
    /// Some rule has host, path and method, but none the model and headers.
    NoModel,
    /// The path is another spelling of a path of another rule.
    Ambiguous,
}

/// An immutable table of rules.
#[derive(Debug)]
pub struct RouteTable {
    rules: Vec<Compiled>,
    /// In order of preference.
    entries: Vec<Entry>,
    /// Every method that a rule names; bit i of an entry's `methods` is `methods[i]`.
    methods: Vec<Box<[u8]>>,
    index: Index,
    /// The same rules with folded paths (`fold.rs`); None in that table itself.
    folded: Option<Box<Self>>,
    /// Rules from this index on are answered by the gateway itself: no upstream can read their paths differently.
    own_from: usize,
}

impl RouteTable {
    /// Compiles `rules`; the error names the first invalid one.
    pub fn new(rules: &[Rule]) -> Result<Self, RuleError> {
        Self::with_own(rules, usize::MAX)
    }

    /// Compiles `rules`; those from `own_from` on are answered by the gateway itself.
    pub fn with_own(rules: &[Rule], own_from: usize) -> Result<Self, RuleError> {
        let compile = |(index, rule)| Compiled::new(rule).map_err(|why| RuleError { rule: index, why });
        let compiled: Vec<Compiled> = rules.iter().enumerate().map(compile).collect::<Result<_, _>>()?;
        let folded = compiled.iter().map(Compiled::folded).collect();
        let mut table = Self::assembled(compiled)?;
        table.folded = Some(Box::new(Self::assembled(folded)?));
        table.own_from = own_from;
        Ok(table)
    }

    fn assembled(compiled: Vec<Compiled>) -> Result<Self, RuleError> {
        let mut methods = Vec::new();
        let mut entries = Vec::new();
        for (index, one) in compiled.iter().enumerate() {
            let mask = mask(&mut methods, &one.methods).map_err(|why| RuleError { rule: index, why })?;
            let headers = !one.headers.is_empty();
            if one.models.is_empty() {
                entries.push(Entry {
                    rule: index,
                    model: None,
                    methods: mask,
                    headers,
                });
            }
            entries.extend((0..one.models.len()).map(|at| Entry {
                rule: index,
                model: Some(at),
                methods: mask,
                headers,
            }));
        }
        entries.sort_by_cached_key(|entry| compiled.get(entry.rule).map(|rule| rule.preference(entry)));
        let mut table = Self {
            rules: compiled,
            entries,
            methods,
            index: Index::default(),
            folded: None,
            own_from: usize::MAX,
        };
        table.index = Index::new(&table.rules, &table.entries);
        Ok(table)
    }

    /// The number of rules.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// True when there are no rules.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Finds the rule that matches, unless an upstream may read the path as one of another rule.
    pub fn find_safely(&self, request: &Request<'_>) -> Answer {
        match self.find(request) {
            Answer::Rule(rule) if fold::is_needed(request.path) && self.is_ambiguous(request, rule) => {
                Answer::Ambiguous
            }
            answer => answer,
        }
    }

    fn is_ambiguous(&self, request: &Request<'_>, rule: usize) -> bool {
        let (Some(folded), Some(raw)) = (&self.folded, self.rules.get(rule)) else {
            return false;
        };
        // A rule with exactly this spelling is intended.
        if rule >= self.own_from || raw.path.is_literal() {
            return false;
        }
        let same = folded.rules.get(rule).map(|rule| &rule.path.segments);
        if folded
            .other(rule, request, &fold::fold(request.path, false))
            .is_some_and(|other| Some(&other.path.segments) != same)
        {
            return true;
        }
        // A name with encoded slashes is more than one segment to a server that decodes them. It is harmless when a
        // single-segment rule then no longer matches, but not when a more specific rule does.
        fold::has_encoded_slash(request.path)
            && folded
                .other(rule, request, &fold::fold(request.path, true))
                .is_some_and(|other| other.path.preference() < raw.path.preference())
    }

    /// The rule that matches `path`, when it is another one.
    fn other(&self, rule: usize, request: &Request<'_>, path: &[u8]) -> Option<&Compiled> {
        let request = Request {
            method: request.method,
            path,
            host: request.host,
            model: request.model,
            header: &|name| (request.header)(name),
        };
        match self.find(&request) {
            Answer::Rule(other) if other != rule => self.rules.get(other),
            _ => None,
        }
    }

    /// Finds the rule that matches.
    pub fn find(&self, request: &Request<'_>) -> Answer {
        let decoded;
        let path = if memchr::memchr(b'%', request.path).is_none() {
            request.path
        } else {
            decoded = fold::decode(request.path);
            &decoded
        };
        let methods = self.method_bit(request.method);
        let mut best = usize::MAX;
        let mut any_path = false;
        let mut any_method = false;
        self.index.groups(request.host, path, &mut |group| {
            any_path = true;
            any_method |= group.methods & methods != 0;
            group.ranks(request.model, &mut |ranks| {
                let hit = ranks
                    .iter()
                    .map(|rank| *rank as usize)
                    .take_while(|rank| *rank < best)
                    .find(|rank| {
                        self.entries.get(*rank).is_some_and(|entry| {
                            entry.methods & methods != 0 && (!entry.headers || self.headers_match(entry.rule, request))
                        })
                    });
                best = hit.unwrap_or(best);
            });
        });
        match self.entries.get(best) {
            Some(entry) => Answer::Rule(entry.rule),
            None if !any_path => Answer::NoPath,
            None if !any_method => Answer::NoMethod,
            None => Answer::NoModel,
        }
    }

    /// The rules that may match a request of which only method, host and path are known, in order of preference, up to
    /// the first that matches all such requests. Tries rule after rule, without the index.
    pub fn candidates(&self, method: &[u8], host: &[u8], path: &[u8]) -> Vec<usize> {
        let path = fold::decode(path);
        let host = host.to_ascii_lowercase();
        let methods = self.method_bit(method);
        let mut found = Vec::new();
        for entry in &self.entries {
            let Some(rule) = self.rules.get(entry.rule) else {
                continue;
            };
            let fits = entry.methods & methods != 0 && rule.host.matches(&host) && rule.path.captures(&path).is_some();
            if fits && !found.contains(&entry.rule) {
                found.push(entry.rule);
                if rule.models.is_empty() && !entry.headers {
                    break;
                }
            }
        }
        found
    }

    /// The decoded parameters of `path` under a rule, in order; a final `*` is called `*`. Empty when the rule does not
    /// match it.
    pub fn params(&self, rule: usize, path: &[u8]) -> Vec<(&str, Vec<u8>)> {
        let decoded = fold::decode(path);
        let params = self.rules.get(rule).and_then(|rule| rule.path.captures(&decoded));
        params
            .unwrap_or_default()
            .into_iter()
            .map(|(name, value)| (name, value.to_vec()))
            .collect()
    }

    /// The bit of a method, and the highest bit, which entries without methods also have.
    fn method_bit(&self, method: &[u8]) -> u64 {
        let at = self.methods.iter().position(|known| **known == *method);
        ANY_METHOD | at.map_or(0, |at| 1 << at)
    }

    fn headers_match(&self, rule: usize, request: &Request<'_>) -> bool {
        self.rules
            .get(rule)
            .is_some_and(|rule| rule.missing_header(request).is_none())
    }
}

/// Set in every request's methods, and in entries that accept any.
const ANY_METHOD: u64 = 1 << (MAX_METHODS - 1);

/// The bits of these methods; adds new ones to `known`.
fn mask(known: &mut Vec<Box<[u8]>>, methods: &[String]) -> Result<u64, String> {
    if methods.is_empty() {
        return Ok(ANY_METHOD);
    }
    let mut mask = 0;
    for method in methods {
        let at = known
            .iter()
            .position(|other| **other == *method.as_bytes())
            .unwrap_or_else(|| {
                known.push(method.as_bytes().into());
                known.len() - 1
            });
        if at >= MAX_METHODS - 1 {
            return Err(format!(
                "method {method} is one too many: a table tells {} apart",
                MAX_METHODS - 1
            ));
        }
        mask |= 1 << at;
    }
    Ok(mask)
}

#[cfg(test)]
mod tests;
