//! Explanations in words: the reason why each rule matches a request or does not.

use super::RouteTable;
use super::fold;
use super::pattern::{HostPattern, ModelPattern};
use super::rule::{Compiled, Request};

/// One rule's result for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Its index in the list.
    pub rule: usize,
    /// True when it matches.
    pub matched: bool,
    /// Lower case, for people.
    pub why: String,
}

impl RouteTable {
    /// Every rule's result in order of preference: the first match is the one that `find` returns.
    ///
    /// Tries rule after rule, without the index.
    pub fn explain(&self, request: &Request<'_>) -> Vec<Explanation> {
        let path = fold::decode(request.path);
        let host = request.host.to_ascii_lowercase();
        let mut explanations = Vec::with_capacity(self.rules.len());
        for (index, rule) in self.rules.iter().enumerate() {
            let (verdict, model) = match rule.explain(request, &host, &path) {
                Ok((why, model)) => (Ok(why), model),
                Err(why) => (Err(why), None),
            };
            // A matching rule ranks by the model pattern that matched, any other by its best one.
            let rank = self
                .entries
                .iter()
                .position(|entry| entry.rule == index && (verdict.is_err() || entry.model == model));
            let matched = verdict.is_ok();
            let why = verdict.unwrap_or_else(|why| why);
            explanations.push((
                rank,
                Explanation {
                    rule: index,
                    matched,
                    why,
                },
            ));
        }
        explanations.sort_by_key(|(rank, _)| *rank);
        explanations.into_iter().map(|(_, explanation)| explanation).collect()
    }
}

impl Compiled {
    /// The matching properties and the model pattern, or the first mismatch as the error.
    fn explain(&self, request: &Request<'_>, host: &[u8], path: &[u8]) -> Result<(String, Option<usize>), String> {
        let mut why = Vec::new();
        if !self.host.matches(host) {
            return Err(format!("host {} does not match {}", show(host), self.host.text()));
        }
        if self.host != HostPattern::Any {
            why.push(format!("host matches {}", self.host.text()));
        }
        if self.path.captures(path).is_none() {
            return Err(format!("path {} does not match {}", show(request.path), self.path.text));
        }
        why.push(format!("path matches {}", self.path.text));
        if !self.methods.is_empty() {
            if !self.methods.iter().any(|method| method.as_bytes() == request.method) {
                why.push(format!(
                    "method {} is not one of {}",
                    show(request.method),
                    self.methods.join(", ")
                ));
                return Err(why.join(", "));
            }
            why.push(format!("method {}", show(request.method)));
        }
        let model = self.explain_model(request.model, &mut why)?;
        if let Some((name, wanted)) = self.missing_header(request) {
            let name = String::from_utf8_lossy(name);
            // A header's value may be a secret: never shown.
            let is = if (request.header)(name.as_bytes()).is_some() {
                "does not match"
            } else {
                "is missing, wanted"
            };
            why.push(format!("header {name} {is} `{}`", wanted.text()));
            return Err(why.join(", "));
        }
        why.extend(
            self.headers
                .iter()
                .map(|(name, _)| format!("header {} matches", String::from_utf8_lossy(name))),
        );
        Ok((why.join(", "), model))
    }

    /// The preferred one of the matching patterns.
    fn explain_model(&self, model: Option<&str>, why: &mut Vec<String>) -> Result<Option<usize>, String> {
        if self.models.is_empty() {
            return Ok(None);
        }
        let Some(model) = model else {
            why.push(format!("there is no model to match {}", list(&self.models)));
            return Err(why.join(", "));
        };
        let matching = self
            .models
            .iter()
            .enumerate()
            .filter(|(_, pattern)| pattern.matches(model));
        let Some((at, pattern)) = matching.min_by_key(|(_, pattern)| pattern.preference()) else {
            why.push(format!("model `{model}` matches none of {}", list(&self.models)));
            return Err(why.join(", "));
        };
        why.push(format!("model `{model}` matches `{}`", pattern.text()));
        Ok(Some(at))
    }
}

impl HostPattern {
    fn text(&self) -> String {
        match self {
            Self::Any => "*".into(),
            Self::Exact(host) => show(host),
            Self::Suffix(suffix) => format!("*{}", show(suffix)),
        }
    }
}

impl ModelPattern {
    fn text(&self) -> String {
        match self {
            Self::Exact(name) => name.to_string(),
            Self::Prefix(prefix) => format!("{prefix}*"),
            Self::Glob(glob) => glob.text().into(),
        }
    }
}

/// The first few patterns.
fn list(patterns: &[ModelPattern]) -> String {
    const SHOWN: usize = 5;
    let mut shown: Vec<String> = patterns
        .iter()
        .take(SHOWN)
        .map(|pattern| format!("`{}`", pattern.text()))
        .collect();
    if patterns.len() > SHOWN {
        shown.push(format!("{} more", patterns.len() - SHOWN));
    }
    format!("[{}]", shown.join(", "))
}

fn show(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        "(none)".into()
    } else {
        String::from_utf8_lossy(bytes).into_owned()
    }
}
