//! Dialects: the API shape that a client speaks, by its request's method and path.

/// The rules by which requests are given a dialect; the first that matches counts.
#[derive(Clone, Debug, Default)]
pub struct Dialects(Vec<Rule>);

#[derive(Clone, Debug)]
struct Rule {
    /// Empty: any.
    method: Vec<u8>,
    path: Vec<u8>,
    /// Anything may precede the path.
    is_end: bool,
    /// Anything may follow the path.
    is_start: bool,
}

impl Dialects {
    /// `rules` are pairs of a method, empty for any, and a path, which may begin or end with `*`.
    pub fn new<'a>(rules: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let rule = |(method, path): (&str, &str)| {
            let rest = path.strip_prefix('*').unwrap_or(path);
            let inner = rest.strip_suffix('*').unwrap_or(rest);
            Rule {
                method: method.into(),
                path: inner.into(),
                is_end: rest.len() < path.len(),
                is_start: inner.len() < rest.len(),
            }
        };
        Self(rules.into_iter().map(rule).collect())
    }

    /// The number of the first rule that matches, counted from 1; 0 when none does.
    #[must_use]
    pub fn of(&self, method: &[u8], path: &[u8]) -> usize {
        self.0
            .iter()
            .position(|rule| rule.matches(method, path))
            .map_or(0, |at| at + 1)
    }
}

impl Rule {
    fn matches(&self, method: &[u8], path: &[u8]) -> bool {
        let fits = match (self.is_end, self.is_start) {
            (false, false) => path == self.path,
            (true, false) => path.ends_with(&self.path),
            (false, true) => path.starts_with(&self.path),
            (true, true) => memchr::memmem::find(path, &self.path).is_some(),
        };
        fits && (self.method.is_empty() || method == self.method)
    }
}

#[cfg(test)]
mod tests {
    use super::Dialects;

    #[test]
    fn the_first_rule_that_matches_counts() {
        let dialects = Dialects::new([
            ("POST", "*/v1/chat/completions"),
            ("POST", "/v1/messages"),
            ("", "/v1/messages*"),
            ("GET", "*/models/*"),
        ]);
        for (method, path, expected) in [
            ("POST", "/v1/chat/completions", 1),
            ("POST", "/team/v1/chat/completions", 1),
            ("GET", "/v1/chat/completions", 0),
            ("POST", "/v1/chat/completions/", 0),
            ("POST", "/v1/messages", 2),
            ("GET", "/v1/messages", 3),
            ("POST", "/v1/messages/batches", 3),
            ("POST", "/team/v1/messages", 0),
            ("GET", "/a/models/b", 4),
            ("POST", "", 0),
        ] {
            let found = dialects.of(method.as_bytes(), path.as_bytes());
            assert_eq!(found, expected, "{method} {path}");
        }
        assert_eq!(Dialects::default().of(b"GET", b"/"), 0);
    }
}
