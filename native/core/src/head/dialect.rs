//! Dialects: the API shape that a client speaks, by its request's method and path.

use std::borrow::Cow;

use crate::route::decode;

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

    /// The number of the first rule that matches, counted from 1; 0 when none does. Paths are compared as routes are:
    /// percent-decoded.
    #[must_use]
    pub fn of(&self, method: &[u8], path: &[u8]) -> usize {
        let path = match memchr::memchr(b'%', path) {
            Some(_) => Cow::Owned(decode(path)),
            None => Cow::Borrowed(path),
        };
        self.0
            .iter()
            .position(|rule| rule.matches(method, &path))
            .map_or(0, |at| at + 1)
    }

    /// The same for a request whose head is not valid, by what can be read of its first line.
    #[must_use]
    pub fn of_first_line(&self, data: &[u8]) -> usize {
        let mut lines = data.split(|byte| matches!(byte, b'\r' | b'\n'));
        let line = lines.find(|line| !line.is_empty()).unwrap_or_default();
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let method = words.next().unwrap_or_default();
        let target = words.next().unwrap_or_default();
        let end = memchr::memchr2(b'?', b'#', target).unwrap_or(target.len());
        self.of(method, target.get(..end).unwrap_or_default())
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
            ("POST", "/v1/%6dessages", 2),
            ("POST", "/v1%2Fmessages", 0),
        ] {
            let found = dialects.of(method.as_bytes(), path.as_bytes());
            assert_eq!(found, expected, "{method} {path}");
        }
        for (data, expected) in [
            ("POST /v1/messages HTTP/1.1\r\nbroken head\r\n\r\n", 2),
            ("\r\nPOST  /v1/messages?beta=true", 2),
            ("POST /a/v1/chat/completions\n", 1),
            ("GET /v1/messages HTTP/1.1", 3),
            ("POST", 0),
            ("", 0),
        ] {
            assert_eq!(dialects.of_first_line(data.as_bytes()), expected, "{data:?}");
        }
        assert_eq!(Dialects::default().of(b"GET", b"/"), 0);
    }
}
