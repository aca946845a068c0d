//! An index that narrows the entries down: by host, then by path, then by model. Every result must still match in full.

use std::hash::{BuildHasherDefault, Hasher};

use super::pattern::{HostPattern, ModelPattern, PathPattern, Segment, first_segment};
use super::rule::{Compiled, Entry};
use crate::hash::tail;
use smallvec::SmallVec;

/// Keys come from the operator and never change, so nobody can plant collisions: a fast hash without a secret is
/// enough.
type HashMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<Quick>>;

/// A hash by multiplying and folding, eight bytes at a time.
#[derive(Clone, Copy, Debug, Default)]
struct Quick(u64);

impl Hasher for Quick {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            if let Some(chunk) = chunk.first_chunk::<8>() {
                self.write_u64(u64::from_le_bytes(*chunk));
            }
        }
        self.write_u64(tail(bytes));
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        // The golden ratio, as in Knuth's multiplicative hashing.
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    #[inline]
    fn write_usize(&mut self, length: usize) {
        self.write_u64(length as u64);
    }

    #[inline]
    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

/// Entries by their rank in the table's order.
type Ranks = Vec<u32>;

/// Paths by host.
#[derive(Debug, Default)]
pub(super) struct Index {
    exact: HashMap<Box<[u8]>, Paths>,
    /// Keyed by the text after the star, dot included.
    suffixes: HashMap<Box<[u8]>, Paths>,
    any: Paths,
}

/// The paths of one host pattern.
#[derive(Debug, Default)]
struct Paths {
    /// Patterns without parameters, by their decoded path.
    literal: HashMap<Box<[u8]>, Group>,
    /// The other patterns, as a tree of segments; the first node is the root.
    nodes: Vec<Node>,
    /// The pattern that matches everything.
    any: Option<Group>,
}

/// A node of the tree: the patterns that continue or end here.
#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<[u8]>, usize>,
    parameter: Option<usize>,
    rest: Option<Group>,
    end: Option<Group>,
}

/// The entries of one host and path pattern, by model pattern.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// The union of its entries' methods.
    pub(super) methods: u64,
    exact: HashMap<Box<str>, Ranks>,
    /// By prefix; the longest first.
    prefixes: Vec<(usize, HashMap<Box<str>, Ranks>)>,
    globs: Vec<(ModelPattern, Ranks)>,
    any: Ranks,
}

impl Index {
    /// Builds the index of the sorted `entries`.
    pub(super) fn new(rules: &[Compiled], entries: &[Entry]) -> Self {
        let mut index = Self::default();
        for (rank, entry) in entries.iter().enumerate() {
            let Some(rule) = rules.get(entry.rule) else {
                continue;
            };
            let paths = match &rule.host {
                HostPattern::Any => &mut index.any,
                HostPattern::Exact(host) => index.exact.entry(host.clone()).or_default(),
                HostPattern::Suffix(suffix) => index.suffixes.entry(suffix.clone()).or_default(),
            };
            let model = entry.model.and_then(|at| rule.models.get(at));
            if let Some(group) = paths.group(&rule.path) {
                group.add(rank as u32, entry, model);
            }
        }
        index
    }

    /// Calls `visit` with every group whose host and path match. `host` is in any letter case, `path` is decoded.
    #[inline]
    pub(super) fn groups<'a>(&'a self, host: &[u8], path: &[u8], visit: &mut dyn FnMut(&'a Group)) {
        if !(self.exact.is_empty() && self.suffixes.is_empty()) {
            let host: SmallVec<[u8; 64]> = host.iter().map(u8::to_ascii_lowercase).collect();
            if let Some(paths) = self.exact.get(&*host) {
                paths.groups(path, visit);
            }
            // A suffix begins at a dot, with at least one byte before it.
            for at in memchr::memchr_iter(b'.', &host).filter(|at| *at > 0) {
                if let Some(paths) = host.get(at..).and_then(|suffix| self.suffixes.get(suffix)) {
                    paths.groups(path, visit);
                }
            }
        }
        self.any.groups(path, visit);
    }
}

impl Paths {
    /// The group of a pattern, created when it is new.
    fn group(&mut self, pattern: &PathPattern) -> Option<&mut Group> {
        if pattern.is_any() {
            return Some(self.any.get_or_insert_default());
        }
        if let Some(path) = pattern.literal() {
            return Some(self.literal.entry(path.into()).or_default());
        }
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let (steps, rest) = match pattern.segments.split_last() {
            Some((Segment::Rest(_), steps)) => (steps, true),
            _ => (pattern.segments.as_slice(), false),
        };
        let mut at = 0;
        for segment in steps {
            let next = self.nodes.len();
            let node = self.nodes.get_mut(at)?;
            at = match segment {
                Segment::Literal(literal) => *node.literals.entry(literal.clone()).or_insert(next),
                _ => *node.parameter.get_or_insert(next),
            };
            if at == next {
                self.nodes.push(Node::default());
            }
        }
        let node = self.nodes.get_mut(at)?;
        Some(if rest { &mut node.rest } else { &mut node.end }.get_or_insert_default())
    }

    fn groups<'a>(&'a self, path: &[u8], visit: &mut dyn FnMut(&'a Group)) {
        if let Some(group) = self.literal.get(path) {
            visit(group);
        }
        if !self.nodes.is_empty()
            && let Some(rest) = path.strip_prefix(b"/")
        {
            self.walk(0, Some(rest), visit);
        }
        if let Some(group) = &self.any {
            visit(group);
        }
    }

    /// Visits the groups at and below a node; `rest` is the path after the slash, None when the path has ended.
    fn walk<'a>(&'a self, at: usize, rest: Option<&[u8]>, visit: &mut dyn FnMut(&'a Group)) {
        let Some(node) = self.nodes.get(at) else { return };
        let Some(rest) = rest else {
            if let Some(group) = &node.end {
                visit(group);
            }
            return;
        };
        let (segment, later) = first_segment(rest);
        if let Some(child) = node.literals.get(segment) {
            self.walk(*child, later, visit);
        }
        if let (Some(child), false) = (node.parameter, segment.is_empty()) {
            self.walk(child, later, visit);
        }
        if let Some(group) = &node.rest {
            visit(group);
        }
    }
}

impl Group {
    /// Adds an entry. Entries come in the order of their ranks, so every list is sorted.
    fn add(&mut self, rank: u32, entry: &Entry, model: Option<&ModelPattern>) {
        self.methods |= entry.methods;
        let ranks = match model {
            None => &mut self.any,
            Some(ModelPattern::Exact(name)) => self.exact.entry(name.clone()).or_default(),
            Some(ModelPattern::Prefix(prefix)) => {
                let len = prefix.len();
                let at = self
                    .prefixes
                    .iter()
                    .position(|(other, _)| *other <= len)
                    .unwrap_or(self.prefixes.len());
                if self.prefixes.get(at).is_none_or(|(other, _)| *other != len) {
                    self.prefixes.insert(at, (len, HashMap::default()));
                }
                let Some((_, names)) = self.prefixes.get_mut(at) else {
                    return;
                };
                names.entry(prefix.clone()).or_default()
            }
            Some(glob) => {
                self.globs.push((glob.clone(), Vec::new()));
                let Some((_, ranks)) = self.globs.last_mut() else {
                    return;
                };
                ranks
            }
        };
        ranks.push(rank);
    }

    /// Calls `visit` with every list of entries whose model pattern matches.
    #[inline]
    pub(super) fn ranks(&self, model: Option<&str>, visit: &mut dyn FnMut(&[u32])) {
        if let Some(model) = model {
            if let Some(ranks) = self.exact.get(model) {
                visit(ranks);
            }
            for (len, names) in &self.prefixes {
                if let Some(ranks) = model.get(..*len).and_then(|prefix| names.get(prefix)) {
                    visit(ranks);
                }
            }
            for (_, ranks) in self.globs.iter().filter(|(glob, _)| glob.matches(model)) {
                visit(ranks);
            }
        }
        visit(&self.any);
    }
}
