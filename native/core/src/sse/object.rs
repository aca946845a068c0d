//! Objects inside a response, read in place.

use std::ops::Range;

use crate::json::{Fields, Members};

/// Names the members of an object and defines constants for their indices.
macro_rules! members {
    ($fields:ident: $($constant:ident = $name:literal),+ $(,)?) => {
        members!(@constants 0; $($constant)+);
        static $fields: std::sync::LazyLock<Option<$crate::json::Fields>> =
            std::sync::LazyLock::new(|| $crate::json::Fields::new([$($name),+]).ok());
    };
    (@constants $index:expr; $constant:ident $($rest:ident)*) => {
        const $constant: usize = $index;
        members!(@constants $index + 1; $($rest)*);
    };
    (@constants $index:expr;) => {};
}
pub(super) use members;

/// One validated JSON object, with the spans of its wanted members.
pub(super) struct Object<'a> {
    text: &'a [u8],
    members: Members,
}

impl<'a> Object<'a> {
    /// None when the text is not an object, or has a wanted member twice.
    pub(super) fn read(fields: &Option<Fields>, text: &'a [u8]) -> Option<Self> {
        let members = fields.as_ref()?.peek(text).ok()?;
        members.is_object().then_some(Self { text, members })
    }

    /// The span of a member's value.
    pub(super) fn span(&self, field: usize) -> Option<Range<usize>> {
        self.members.span(field)
    }

    /// The text of a member's value.
    pub(super) fn text(&self, field: usize) -> Option<&'a [u8]> {
        self.members.text(self.text, field)
    }

    /// True when the member exists and is not null.
    pub(super) fn has(&self, field: usize) -> bool {
        self.text(field).is_some_and(|text| text != b"null")
    }

    /// A count; Cohere writes 7.0 for 7.
    pub(super) fn count(&self, field: usize) -> Option<u64> {
        if let Some(count) = self.members.count(self.text, field) {
            return Some(count);
        }
        let number: f64 = std::str::from_utf8(self.text(field)?).ok()?.parse().ok()?;
        (0.0..9e15).contains(&number).then_some(number as u64)
    }
}
