//! Rules that edit the bodies of requests and answers: conditions and operations on paths, compiled once and applied as
//! splices.

mod rule;
mod system;

pub use rule::{Condition, Operation, Rule, Scalar};
pub use system::{Mode, Style, SystemText};

use memchr::memmem::Finder;

use crate::json::{Document, JsonError, Names, is_valid};

/// The most rules of one transform: they are selected by the bits of a mask.
pub const MAX_RULES: usize = 64;

/// Compiled rules, in the order in which they apply.
#[derive(Debug)]
pub struct Transform {
    names: Names,
    rules: Vec<Rule>,
    /// For each rule, what a text must contain for the rule to have an effect; `None`: nothing in particular.
    marks: Vec<Option<Vec<Finder<'static>>>>,
    is_exacting: bool,
}

/// The result of the rules for a document.
#[derive(Debug)]
pub struct Applied<'a> {
    document: Document<'a>,
    /// The rules whose conditions held, one bit each.
    pub held: u64,
}

impl Applied<'_> {
    /// The edited document; `None` when nothing changed.
    pub fn changed(&self) -> Option<&Document<'_>> {
        self.document.has_changed().then_some(&self.document)
    }
}

impl Transform {
    /// Rules on the paths of `names`. `is_exacting`: for requests, where a member that servers read differently is an
    /// error; answers are edited as most clients read them.
    pub fn new(names: Names, rules: Vec<Rule>, is_exacting: bool) -> Self {
        let marks = rules.iter().map(|rule| rule.marks(&names)).collect();
        Self {
            names,
            rules,
            marks,
            is_exacting,
        }
    }

    /// Applies the rules of a mask to a validated body; `None` when it is no object. `values` are JSON texts of what the
    /// exchange has for `SetFrom`.
    pub fn apply<'a>(
        &'a self,
        body: &'a [u8],
        mask: u64,
        values: &'a [Option<Box<[u8]>>],
    ) -> Result<Option<Applied<'a>>, JsonError> {
        let mut document = Document::new(&self.names, body, self.is_exacting);
        if !document.is_object() {
            return Ok(None);
        }
        let mut held = 0;
        for (at, rule) in self.rules.iter().enumerate() {
            if mask >> at & 1 == 1 && rule.holds(&mut document)? {
                held |= 1 << at;
                rule.apply(&mut document, values)?;
            }
        }
        Ok(Some(Applied { document, held }))
    }

    /// Applies the rules of a mask to a text that may be anything; `None` when it stays as it is.
    pub fn edit(&self, text: &[u8], mask: u64, values: &[Option<Box<[u8]>>]) -> Option<Vec<u8>> {
        if !self.concerns(text, mask) || !is_valid(text) {
            return None;
        }
        let applied = self.apply(text, mask, values).ok()??;
        applied.changed().map(|document| document.to_vec(text.len() + 64))
    }

    /// False when the rules cannot have an effect on a text, because it lacks the names that they need.
    fn concerns(&self, text: &[u8], mask: u64) -> bool {
        let needed = |marks: &Option<Vec<Finder<'static>>>| match marks {
            Some(marks) => marks.iter().any(|mark| mark.find(text).is_some()),
            None => true,
        };
        let mut rules = self.marks.iter().enumerate();
        // A name may be written with escapes.
        rules.any(|(at, marks)| mask >> at & 1 == 1 && needed(marks)) || memchr::memmem::find(text, b"\\u").is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Path;

    fn path(names: &mut Names, text: &str) -> Path {
        Path::parse(names, text).unwrap()
    }

    fn json(text: &str) -> Box<[u8]> {
        text.as_bytes().into()
    }

    fn applied(build: impl Fn(&mut Names) -> Vec<Rule>, body: &str) -> (String, u64) {
        let mut names = Names::default();
        let rules = build(&mut names);
        let transform = Transform::new(names, rules, true);
        let values = [Some(json("\"me\"")), None];
        let applied = transform.apply(body.as_bytes(), u64::MAX, &values).unwrap().unwrap();
        let text = applied.changed().map_or(body.to_owned(), |document| {
            String::from_utf8(document.to_vec(64)).unwrap()
        });
        (text, applied.held)
    }

    fn all(operations: Vec<Operation>) -> Vec<Rule> {
        vec![Rule::new(Vec::new(), operations)]
    }

    #[test]
    fn a_cap_lowers_numbers_only() {
        let cap = |default: Option<&'static str>| {
            move |names: &mut Names| {
                all(vec![Operation::Cap {
                    path: path(names, "n"),
                    max: 10.0,
                    text: json("10"),
                    default: default.map(json),
                }])
            }
        };
        for (body, expected) in [
            (r#"{"n":11}"#, r#"{"n":10}"#),
            (r#"{"n":1e999}"#, r#"{"n":10}"#),
            (r#"{"n":10}"#, r#"{"n":10}"#),
            (r#"{"n":"11"}"#, r#"{"n":"11"}"#),
            (r#"{"n":true}"#, r#"{"n":true}"#),
        ] {
            assert_eq!(applied(cap(None), body).0, expected);
        }
        assert_eq!(applied(cap(None), "{}").0, "{}");
        assert_eq!(applied(cap(Some("5")), "{}").0, r#"{"n":5}"#);
        assert_eq!(applied(cap(Some("5")), r#"{"n":null}"#).0, r#"{"n":5}"#);
        assert_eq!(applied(cap(None), r#"{"n":null}"#).0, r#"{"n":null}"#);
    }

    #[test]
    fn a_value_of_the_exchange_replaces_the_clients() {
        let from = |at: usize| move |names: &mut Names| all(vec![Operation::SetFrom(path(names, "user"), at)]);
        assert_eq!(applied(from(0), r#"{"user":"you"}"#).0, r#"{"user":"me"}"#);
        assert_eq!(
            applied(from(1), r#"{"user":"you","x":1}"#).0,
            r#"{"x":1}"#,
            "nothing is known: the client's goes"
        );
    }

    #[test]
    fn conditions_see_what_earlier_rules_made() {
        let build = |names: &mut Names| {
            vec![
                Rule::new(
                    vec![Condition::Absent(path(names, "a"))],
                    vec![Operation::Set(path(names, "a"), json("3"))],
                ),
                Rule::new(
                    vec![
                        Condition::Above(path(names, "a"), 2.0),
                        Condition::Present(path(names, "a")),
                    ],
                    vec![Operation::Set(path(names, "b"), json("true"))],
                ),
                Rule::new(
                    vec![Condition::In(path(names, "b"), vec![Scalar::Bool(true)])],
                    vec![Operation::Remove(path(names, "a"))],
                ),
            ]
        };
        assert_eq!(applied(build, "{}"), (r#"{"b":true}"#.to_owned(), 0b111));
        assert_eq!(applied(build, r#"{"a":2}"#), (r#"{"a":2}"#.to_owned(), 0));
    }

    #[test]
    fn text_without_the_names_is_not_looked_into() {
        let mut names = Names::default();
        let rules = all(vec![Operation::Remove(path(&mut names, "a"))]);
        let transform = Transform::new(names, rules, false);
        assert!(!transform.concerns(br#"{"b":1}"#, 1));
        assert!(transform.concerns(br#"{"\u0061":1}"#, 1));
        assert_eq!(transform.edit(br#"{"a":1}"#, 1, &[]).as_deref(), Some(&b"{}"[..]));
        assert_eq!(transform.edit(br#"{"a":1}"#, 0, &[]), None);
        assert_eq!(transform.edit(br#"{"a":1"#, 1, &[]), None);
        assert_eq!(transform.edit(b"[DONE]", 1, &[]), None);
    }
}
