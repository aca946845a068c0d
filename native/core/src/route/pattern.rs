//! Patterns of hosts, paths, models and header values.

use core::cmp::Reverse;

use super::fold::{decode, fold};
use crate::head::host_len;

/// Maximum segments of a path pattern; the index recurses once per segment.
const MAX_SEGMENTS: usize = 64;

/// A pattern of hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HostPattern {
    Any,
    /// Lower case.
    Exact(Box<[u8]>),
    /// The text after `*`, with its dot: one or more labels precede it.
    Suffix(Box<[u8]>),
}

impl HostPattern {
    pub(super) fn new(pattern: &str) -> Result<Self, String> {
        if pattern.is_empty() || pattern == "*" {
            return Ok(Self::Any);
        }
        let lower = pattern.to_ascii_lowercase();
        let name = lower.strip_prefix("*.").unwrap_or(&lower);
        if host_len(name.as_bytes()) != Some(name.len()) {
            return Err(format!("{pattern:?} is neither a host nor `*.` and a host"));
        }
        Ok(match lower.strip_prefix('*') {
            Some(suffix) => Self::Suffix(suffix.as_bytes().into()),
            None => Self::Exact(lower.as_bytes().into()),
        })
    }

    /// `host` is lower case.
    pub(super) fn matches(&self, host: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => *host == **exact,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        }
    }

    /// The sort key: exact, longer suffix, any.
    pub(super) fn preference(&self) -> (u8, Reverse<usize>) {
        match self {
            Self::Exact(_) => (0, Reverse(0)),
            Self::Suffix(suffix) => (1, Reverse(suffix.len())),
            Self::Any => (2, Reverse(0)),
        }
    }
}

/// A pattern of paths.
#[derive(Clone, Debug)]
pub(super) struct PathPattern {
    /// As configured.
    pub(super) text: String,
    /// The segments between the slashes.
    pub(super) segments: Vec<Segment>,
}

/// One segment of a path pattern; declared in order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Percent-decoded.
    Literal(Box<[u8]>),
    /// One non-empty segment.
    Parameter(String),
    /// The rest of the path, possibly empty; only at the end. Called `*` when it has no name.
    Rest(String),
}

impl PathPattern {
    pub(super) fn new(pattern: &str) -> Result<Self, String> {
        let text = if pattern.is_empty() { "*" } else { pattern }.to_string();
        if text == "*" {
            return Ok(Self {
                text,
                segments: Vec::new(),
            });
        }
        let rest = text
            .strip_prefix('/')
            .ok_or_else(|| format!("path {text:?} does not begin with a slash"))?;
        let segments: Vec<Segment> = rest
            .split('/')
            .map(Segment::new)
            .collect::<Result<_, _>>()
            .map_err(|why| format!("path {text:?}: {why}"))?;
        if segments.len() > MAX_SEGMENTS {
            return Err(format!("path {text:?} has more than {MAX_SEGMENTS} segments"));
        }
        let last = segments.len() - 1;
        if segments
            .iter()
            .take(last)
            .any(|segment| matches!(segment, Segment::Rest(_)))
        {
            return Err(format!(
                "path {text:?}: `*` and `{{name:path}}` can only be the last segment"
            ));
        }
        let names: Vec<&str> = segments.iter().filter_map(Segment::name).collect();
        if let Some(name) = names
            .iter()
            .enumerate()
            .find_map(|(at, name)| names.get(..at)?.contains(name).then_some(name))
        {
            return Err(format!("path {text:?} has two parameters called {name}"));
        }
        Ok(Self { text, segments })
    }

    /// True when every path matches.
    pub(super) fn is_any(&self) -> bool {
        self.segments.is_empty()
    }

    /// True when exactly one path matches.
    pub(super) fn is_literal(&self) -> bool {
        !self.is_any()
            && self
                .segments
                .iter()
                .all(|segment| matches!(segment, Segment::Literal(_)))
    }

    /// Turns it into a pattern of folded paths.
    pub(super) fn fold(&mut self) {
        let mut folded: Vec<Segment> = Vec::with_capacity(self.segments.len());
        for segment in self.segments.drain(..) {
            match segment {
                Segment::Literal(literal) => {
                    // A literal may fold to nothing or, with an encoded character, to more than one segment.
                    let path = fold(&literal, false);
                    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
                    folded.extend(parts.map(|part| Segment::Literal(part.into())));
                }
                other => folded.push(other),
            }
        }
        if folded.is_empty() && self.text != "*" {
            folded.push(Segment::Literal(Box::default()));
        }
        self.segments = folded;
    }

    /// The percent-decoded path, when only one matches.
    pub(super) fn literal(&self) -> Option<Vec<u8>> {
        let mut path = Vec::new();
        for segment in &self.segments {
            let Segment::Literal(literal) = segment else {
                return None;
            };
            path.push(b'/');
            path.extend_from_slice(literal);
        }
        (!path.is_empty()).then_some(path)
    }

    /// The parameters of a decoded path in order; None when it does not match.
    pub(super) fn captures<'s, 'p>(&'s self, path: &'p [u8]) -> Option<Vec<(&'s str, &'p [u8])>> {
        let mut found = Vec::new();
        if self.is_any() {
            return Some(found);
        }
        let mut left = Some(path.strip_prefix(b"/")?);
        for segment in &self.segments {
            let here = left?;
            let (now, later) = first_segment(here);
            match segment {
                Segment::Literal(literal) if **literal == *now => {}
                Segment::Parameter(name) if !now.is_empty() => found.push((name.as_str(), now)),
                Segment::Rest(name) => {
                    found.push((name.as_str(), here));
                    return Some(found);
                }
                _ => return None,
            }
            left = later;
        }
        left.is_none().then_some(found)
    }

    /// The sort key: literal before parameter before rest, segment by segment.
    pub(super) fn preference(&self) -> Vec<u8> {
        if self.is_any() {
            // Below a rest in the same position: `/*` at least requires a slash.
            return vec![3];
        }
        self.segments
            .iter()
            .map(|segment| match segment {
                Segment::Literal(_) => 0,
                Segment::Parameter(_) => 1,
                Segment::Rest(_) => 2,
            })
            .collect()
    }
}

impl Segment {
    fn new(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Rest("*".into()));
        }
        if let Some(inner) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
            let (name, kind) = inner.split_once(':').map_or((inner, ""), |(name, kind)| (name, kind));
            let mut chars = name.chars();
            let starts = chars
                .next()
                .is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
            if !starts || !chars.all(|char| char.is_ascii_alphanumeric() || char == '_') {
                return Err(format!("{name:?} is no parameter name"));
            }
            return match kind {
                "" if !inner.ends_with(':') => Ok(Self::Parameter(name.into())),
                "path" => Ok(Self::Rest(name.into())),
                _ => Err(format!("a parameter is `{{name}}` or `{{name:path}}`, not `{text}`")),
            };
        }
        if text.contains(['*', '{', '}']) {
            return Err(format!("{text:?}: `*` and `{{name}}` must be a whole segment"));
        }
        if matches!(text, "." | "..") || text.contains(['?', '#', '\\']) || text.chars().any(char::is_control) {
            return Err(format!("no request has the segment {text:?}"));
        }
        Ok(Self::Literal(decode(text.as_bytes()).into()))
    }

    fn name(&self) -> Option<&str> {
        match self {
            Self::Literal(_) => None,
            Self::Parameter(name) | Self::Rest(name) => Some(name),
        }
    }
}

/// Splits at the next slash, which is dropped.
pub(super) fn first_segment(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match path.iter().position(|byte| *byte == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..)),
        None => (path, None),
    }
}

/// A pattern of models.
#[derive(Clone, Debug)]
pub(super) enum ModelPattern {
    Exact(Box<str>),
    /// The text before the final `*`, never empty.
    Prefix(Box<str>),
    Glob(Glob),
}

impl ModelPattern {
    /// The sort key of "no pattern".
    pub(super) const ANY: (u8, Reverse<usize>) = (3, Reverse(0));

    pub(super) fn new(pattern: &str) -> Self {
        match pattern.find(['*', '?']) {
            None => Self::Exact(pattern.into()),
            Some(at) if at > 0 && at == pattern.len() - 1 && pattern.ends_with('*') => {
                Self::Prefix(pattern.trim_end_matches('*').into())
            }
            Some(_) => Self::Glob(Glob::new(pattern)),
        }
    }

    pub(super) fn matches(&self, model: &str) -> bool {
        match self {
            Self::Exact(exact) => *model == **exact,
            Self::Prefix(prefix) => model.starts_with(&**prefix),
            Self::Glob(glob) => glob.matches(model.as_bytes()),
        }
    }

    /// The sort key: exact, longer prefix, glob with more literal bytes.
    pub(super) fn preference(&self) -> (u8, Reverse<usize>) {
        match self {
            Self::Exact(_) => (0, Reverse(0)),
            Self::Prefix(prefix) => (1, Reverse(prefix.len())),
            Self::Glob(glob) => (2, Reverse(glob.literals())),
        }
    }
}

/// A pattern in which `*` stands for any characters and `?` for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glob(Box<str>);

impl Glob {
    pub(super) fn new(pattern: &str) -> Self {
        Self(pattern.into())
    }

    /// As configured.
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    fn literals(&self) -> usize {
        self.0.bytes().filter(|byte| !matches!(byte, b'*' | b'?')).count()
    }

    /// Backtracks to the last `*` only: at worst pattern length times text length. `?` matches a whole UTF-8 character.
    pub(super) fn matches(&self, text: &[u8]) -> bool {
        let pattern = self.0.as_bytes();
        let (mut at, mut here) = (0, 0);
        // The position after the last `*` in the pattern, and the position in the text that it does not cover yet.
        let mut retry: Option<(usize, usize)> = None;
        while let Some(byte) = text.get(here) {
            match pattern.get(at) {
                Some(b'*') => {
                    at += 1;
                    retry = Some((at, here));
                    continue;
                }
                Some(b'?') => {
                    at += 1;
                    here += 1;
                    while text.get(here).is_some_and(|byte| byte & 0xc0 == 0x80) {
                        here += 1;
                    }
                    continue;
                }
                Some(wanted) if wanted == byte => {
                    at += 1;
                    here += 1;
                    continue;
                }
                _ => {}
            }
            let Some((behind, taken)) = retry else { return false };
            at = behind;
            here = taken + 1;
            retry = Some((behind, here));
        }
        pattern.get(at..).unwrap_or_default().iter().all(|byte| *byte == b'*')
    }
}
