//! One rule: its conditions, and its operations in order.

use std::borrow::Cow;

use memchr::memmem::Finder;

use super::system::SystemText;
use crate::json::{Document, JsonError, Name, Names, Path, quote, unescape};

/// A condition on a body. Null counts as absent.
#[derive(Debug)]
#[non_exhaustive]
pub enum Condition {
    /// The value exists.
    Present(Path),
    /// The value does not exist.
    Absent(Path),
    /// The value is one of these.
    In(Path, Vec<Scalar>),
    /// The value is a larger number.
    Above(Path, f64),
    /// The value is a smaller number.
    Below(Path, f64),
}

/// A value to compare with.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Scalar {
    /// A string.
    Text(Box<str>),
    /// A number.
    Number(f64),
    /// A boolean.
    Bool(bool),
}

/// One edit. Values are JSON texts.
#[derive(Debug)]
#[non_exhaustive]
pub enum Operation {
    /// Removes a value.
    Remove(Path),
    /// Renames a member, unless there is one of the new name: then it is removed.
    Rename(Path, Name),
    /// Sets a value that is absent or null.
    Default(Path, Box<[u8]>),
    /// Sets a value.
    Set(Path, Box<[u8]>),
    /// Sets a value to one of the exchange's, by its index; removes it where the exchange has none, so that a client's
    /// own is never taken for it.
    SetFrom(Path, usize),
    /// Lowers a number that is above `max`.
    Cap {
        /// The number's path.
        path: Path,
        /// The largest number that stays.
        max: f64,
        /// The number to write.
        text: Box<[u8]>,
        /// The value where there is none.
        default: Option<Box<[u8]>>,
    },
    /// Adds to the system text, where the dialect has it.
    System(SystemText),
}

/// Operations that apply to a body when all conditions hold.
#[derive(Debug)]
pub struct Rule {
    conditions: Vec<Condition>,
    operations: Vec<Operation>,
}

impl Rule {
    /// A rule; without conditions it always applies.
    pub fn new(conditions: Vec<Condition>, operations: Vec<Operation>) -> Self {
        Self { conditions, operations }
    }

    pub(super) fn holds(&self, document: &mut Document<'_>) -> Result<bool, JsonError> {
        for condition in &self.conditions {
            if !condition.holds(document)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn apply<'a>(
        &'a self,
        document: &mut Document<'a>,
        values: &'a [Option<Box<[u8]>>],
    ) -> Result<(), JsonError> {
        for operation in &self.operations {
            operation.apply(document, values)?;
        }
        Ok(())
    }

    /// The quoted names of which a text must contain one for the rule to have an effect; `None` when it may have one on
    /// any text.
    pub(super) fn marks(&self, names: &Names) -> Option<Vec<Finder<'static>>> {
        let marks = self.operations.iter().map(|operation| {
            let path = match operation {
                Operation::Remove(path) | Operation::Rename(path, _) => path,
                Operation::Cap {
                    path, default: None, ..
                } => path,
                _ => return None,
            };
            let name = path.steps(names).next()?;
            Some(Finder::new(&*quote(name)).into_owned())
        });
        marks.collect()
    }
}

impl Condition {
    fn holds(&self, document: &mut Document<'_>) -> Result<bool, JsonError> {
        Ok(match self {
            Self::Present(path) => document.has(path)?,
            Self::Absent(path) => !document.has(path)?,
            Self::In(path, scalars) => document
                .value(path)?
                .is_some_and(|text| scalars.iter().any(|scalar| scalar.is(&text))),
            Self::Above(path, bound) => number(document, path)?.is_some_and(|number| number > *bound),
            Self::Below(path, bound) => number(document, path)?.is_some_and(|number| number < *bound),
        })
    }
}

impl Scalar {
    fn is(&self, text: &[u8]) -> bool {
        match self {
            Self::Text(wanted) => text
                .strip_prefix(b"\"")
                .and_then(|text| text.strip_suffix(b"\""))
                .is_some_and(|raw| raw == wanted.as_bytes() || (raw.contains(&b'\\') && unescape(raw) == **wanted)),
            Self::Number(wanted) => as_number(text) == Some(*wanted),
            Self::Bool(wanted) => text == if *wanted { &b"true"[..] } else { b"false" },
        }
    }
}

impl Operation {
    fn apply<'a>(&'a self, document: &mut Document<'a>, values: &'a [Option<Box<[u8]>>]) -> Result<(), JsonError> {
        match self {
            Self::Remove(path) => document.remove(path),
            Self::Rename(path, name) => document.rename(path, *name),
            Self::Default(path, text) if !document.has(path)? => document.set(path, Cow::Borrowed(text)),
            Self::Default(..) => Ok(()),
            Self::Set(path, text) => document.set(path, Cow::Borrowed(text)),
            Self::SetFrom(path, index) => match values.get(*index) {
                Some(Some(text)) => document.set(path, Cow::Borrowed(text)),
                _ => document.remove(path),
            },
            Self::Cap {
                path,
                max,
                text,
                default,
            } => match (document.value(path)?, default) {
                (Some(value), _) if as_number(&value).is_some_and(|number| number > *max) => {
                    document.set(path, Cow::Borrowed(text))
                }
                (None, Some(default)) => document.set(path, Cow::Borrowed(default)),
                _ => Ok(()),
            },
            Self::System(text) => text.apply(document),
        }
    }
}

fn number(document: &mut Document<'_>, path: &Path) -> Result<Option<f64>, JsonError> {
    Ok(document.value(path)?.and_then(|text| as_number(&text)))
}

/// A JSON number; infinite when it is too large.
fn as_number(text: &[u8]) -> Option<f64> {
    if !matches!(text.first(), Some(b'-' | b'0'..=b'9')) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}
