//! The peeker: finds wanted top-level members of a body.

use std::ops::Range;

use super::scan::scan;
use super::text::folds_to;
use super::{JsonError, Visitor, quote, walk};

/// Maximum fields per peeker: results are stored in the returned object, not on the heap.
pub const MAX_FIELDS: usize = 16;

/// The reason why a list of wanted fields is invalid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FieldsError {
    /// More fields than the fixed array of results holds.
    #[error("at most {MAX_FIELDS} fields, got {0}")]
    TooMany(usize),
    /// A field that is listed twice; each field has one index.
    #[error("field '{0}' is listed twice")]
    Twice(Box<str>),
}

/// The names of wanted top-level members.
#[derive(Debug)]
pub struct Fields {
    names: Box<[Box<str>]>,
    quoted: Box<[Box<[u8]>]>,
    /// Bit i: some name is i bytes long, or i plus a multiple of 64.
    lengths: u64,
    /// True when names that differ only in case are rejected.
    is_exacting: bool,
}

/// The span of one member; all zero when it was not found (a value never ends at 0).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Member {
    key: u32,
    start: u32,
    end: u32,
}

/// The spans of the wanted members, by the index of the field.
#[derive(Debug, Clone)]
pub struct Members {
    pub(super) open: Option<usize>,
    pub(super) found: [Member; MAX_FIELDS],
}

impl Member {
    /// `None` beyond the 4 GiB that the offsets can hold.
    fn new(key: usize, start: usize, end: usize) -> Option<Self> {
        Some(Self {
            key: key.try_into().ok()?,
            start: start.try_into().ok()?,
            end: end.try_into().ok()?,
        })
    }

    /// The offset of the key's quote.
    pub(super) fn key(self) -> usize {
        self.key as usize
    }

    /// The value's offsets; `None` when the member was not found.
    pub(super) fn value(self) -> Option<Range<usize>> {
        (self.end != 0).then_some(self.start as usize..self.end as usize)
    }
}

impl Fields {
    /// Fields by name, in the order of their indices.
    pub fn new<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Result<Self, FieldsError> {
        let names: Box<[Box<str>]> = names.into_iter().map(|name| name.as_ref().into()).collect();
        if names.len() > MAX_FIELDS {
            return Err(FieldsError::TooMany(names.len()));
        }
        for (i, name) in names.iter().enumerate() {
            if names.iter().take(i).any(|earlier| earlier == name) {
                return Err(FieldsError::Twice(name.clone()));
            }
        }
        let quoted = names.iter().map(|name| quote(name)).collect();
        let lengths = names.iter().fold(0, |lengths, name| lengths | 1 << (name.len() % 64));
        Ok(Self {
            names,
            quoted,
            lengths,
            is_exacting: false,
        })
    }

    /// Fields of a request: a name that differs from a wanted one only in case is rejected, because servers disagree
    /// about it. Go's `encoding/json`, .NET's and Jackson's with that option treat it as the wanted one.
    pub fn exacting<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Result<Self, FieldsError> {
        Ok(Self {
            is_exacting: true,
            ..Self::new(names)?
        })
    }

    /// The index of a field.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|wanted| **wanted == *name)
    }

    /// The name of a field.
    pub fn name(&self, index: usize) -> &str {
        self.names.get(index).map_or("", |name| name)
    }

    /// The name of a field as JSON.
    pub(super) fn quoted(&self, index: usize) -> &[u8] {
        self.quoted.get(index).map_or(b"\"\"", |name| name)
    }

    /// The index of the field that a key names; `MAX_FIELDS` more when the key only differs in case, and that is
    /// rejected.
    fn find(&self, key: &[u8]) -> Option<usize> {
        let named = self.names.iter().position(|name| name.as_bytes() == key);
        if named.is_some() || !self.is_exacting {
            return named;
        }
        let other = self.names.iter().position(|name| folds_to(key, name));
        other.map(|field| field + MAX_FIELDS)
    }

    /// Validates all of `body` and finds the wanted members; rejects one that occurs twice.
    pub fn peek(&self, body: &[u8]) -> Result<Members, JsonError> {
        let mut visitor = Peek::new(self);
        if let Some(open) = scan(body, &mut visitor) {
            return Ok(Members {
                open,
                found: visitor.found,
            });
        }
        let mut visitor = Peek::new(self);
        let open = walk(body, &mut visitor)?;
        Ok(Members {
            open,
            found: visitor.found,
        })
    }
}

impl Members {
    /// True when the body is an object.
    pub fn is_object(&self) -> bool {
        self.open.is_some()
    }

    /// The span of a field's value.
    pub fn span(&self, field: usize) -> Option<Range<usize>> {
        self.found.get(field)?.value()
    }

    /// The text of the value.
    pub fn text<'a>(&self, body: &'a [u8], field: usize) -> Option<&'a [u8]> {
        body.get(self.span(field)?)
    }

    /// The value's text without its quotes, when it is a string; still escaped.
    pub fn raw_string<'a>(&self, body: &'a [u8], field: usize) -> Option<&'a [u8]> {
        self.text(body, field)?.strip_prefix(b"\"")?.strip_suffix(b"\"")
    }

    /// The value, when it is an integer without sign, fraction or exponent; `i64::MAX` when it is larger.
    pub fn count(&self, body: &[u8], field: usize) -> Option<u64> {
        let digits = self.text(body, field)?;
        digits.iter().try_fold(0_u64, |sum, digit| {
            digit.is_ascii_digit().then(|| {
                sum.saturating_mul(10)
                    .saturating_add(u64::from(digit - b'0'))
                    .min(i64::MAX as u64)
            })
        })
    }
}

/// True when a text is valid JSON.
pub fn is_valid(text: &[u8]) -> bool {
    scan(text, &mut Nobody).is_some() || walk(text, &mut Nobody).is_ok()
}

struct Nobody;

impl Visitor for Nobody {
    type Tag = ();

    #[inline]
    fn key(&mut self, _: &[u8], _: bool) -> Option<()> {
        None
    }

    #[inline]
    fn member(&mut self, (): (), _: usize, _: usize, _: usize) -> Result<(), JsonError> {
        Ok(())
    }
}

struct Peek<'a> {
    fields: &'a Fields,
    found: [Member; MAX_FIELDS],
}

impl<'a> Peek<'a> {
    #[inline]
    fn new(fields: &'a Fields) -> Self {
        Self {
            fields,
            found: [Member::default(); MAX_FIELDS],
        }
    }
}

impl Visitor for Peek<'_> {
    type Tag = usize;

    #[inline]
    fn key(&mut self, text: &[u8], escaped: bool) -> Option<usize> {
        if escaped {
            return self.fields.find(super::unescape(text).as_bytes());
        }
        if self.fields.lengths >> (text.len() % 64) & 1 == 0 && (!self.fields.is_exacting || text.is_ascii()) {
            return None;
        }
        self.fields.find(text)
    }

    #[inline]
    fn member(&mut self, field: usize, key: usize, start: usize, end: usize) -> Result<(), JsonError> {
        let Some(slot) = self.found.get_mut(field) else {
            // Only `find` returns numbers beyond the fields.
            return Err(JsonError::Case(self.fields.name(field - MAX_FIELDS).into()));
        };
        if slot.value().is_some() {
            return Err(JsonError::Duplicate(self.fields.name(field).into()));
        }
        *slot = Member::new(key, start, end).ok_or(JsonError::Syntax {
            at: end,
            why: "text too long",
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Fields {
        Fields::new(["model", "stream", "max_tokens"]).unwrap()
    }

    fn text(body: &str, field: usize) -> Option<String> {
        let members = fields().peek(body.as_bytes()).unwrap();
        members
            .text(body.as_bytes(), field)
            .map(|t| String::from_utf8(t.to_vec()).unwrap())
    }

    #[test]
    fn finds_top_level_members_only() {
        let body = r#"{"x":{"model":1},"y":[{"model":2}], "model" : "m" ,"stream":true}"#;
        assert_eq!(text(body, 0).as_deref(), Some("\"m\""));
        assert_eq!(text(body, 1).as_deref(), Some("true"));
        assert_eq!(text(body, 2), None);
        assert_eq!(text(r#"[{"model":1}]"#, 0), None);
    }

    #[test]
    fn an_escaped_key_is_the_key() {
        assert_eq!(text(r#"{"mod\u0065l":7}"#, 0).as_deref(), Some("7"));
    }

    #[test]
    fn a_wanted_member_twice_is_refused() {
        let twice = fields().peek(br#"{"model":1,"a":1,"a":2,"\u006dodel":2}"#);
        assert_eq!(twice.unwrap_err(), JsonError::Duplicate("model".into()));
    }

    #[test]
    fn another_case_of_a_wanted_name_is_refused_where_that_is_asked_for() {
        let fields = Fields::exacting(["model", "stream", "max_tokens"]).unwrap();
        for (key, name) in [
            ("Model", "model"),
            ("MODEL", "model"),
            ("\\u004dodel", "model"),
            ("mode\\u004c", "model"),
            ("\u{17f}tream", "stream"),
            ("\\u017ftream", "stream"),
            ("max_to\u{212a}ens", "max_tokens"),
            ("Max_to\\u212aen\u{17f}", "max_tokens"),
        ] {
            let body = format!(r#"{{"a":[1,2],"{key}":"x","b":{{"c":"{}"}}}}"#, "d".repeat(100));
            assert_eq!(
                fields.peek(body.as_bytes()).unwrap_err(),
                JsonError::Case(name.into()),
                "{key}"
            );
            assert!(
                Fields::new(["model", "stream", "max_tokens"])
                    .unwrap()
                    .peek(body.as_bytes())
                    .is_ok()
            );
        }
        for key in ["models", "mod\u{e9}l", "m0del", "max-tokens", "x", ""] {
            let body = format!(r#"{{"{key}":"x","y":{{"Model":1}}}}"#);
            assert!(fields.peek(body.as_bytes()).is_ok(), "{key}");
        }
    }

    #[test]
    fn counts_are_plain_integers() {
        let count = |value: &str| {
            let body = format!("{{\"max_tokens\":{value}}}");
            fields().peek(body.as_bytes()).unwrap().count(body.as_bytes(), 2)
        };
        assert_eq!(count("17"), Some(17));
        assert_eq!(count("0"), Some(0));
        assert_eq!(count("99999999999999999999999"), Some(i64::MAX as u64));
        for other in ["-1", "1.0", "1e3", "null", "\"5\"", "[1]"] {
            assert_eq!(count(other), None, "{other}");
        }
    }
}
