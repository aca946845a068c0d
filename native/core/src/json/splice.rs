//! Edits of a body's top-level members: everything else stays byte for byte.

use super::peek::MAX_FIELDS;
use super::walk::skip_space;
use super::{Fields, Members};

/// An edit of one field: its index, and its new value as JSON text, or None to delete it.
pub type Edit<'a> = (usize, Option<&'a [u8]>);

/// The reason why a body cannot be edited.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpliceError {
    /// The body is not an object, so it has no members.
    #[error("the body is not a JSON object")]
    NotAnObject,
}

/// A planned edit: cuts in ascending order, each with its replacement.
#[derive(Debug)]
pub struct Splice<'a> {
    body: &'a [u8],
    // Inserted members, directly after the brace at `open`.
    insert_at: usize,
    inserts: Vec<(&'a [u8], &'a [u8])>,
    insert_comma: bool,
    cuts: Vec<(usize, usize, &'a [u8])>,
    len: usize,
}

impl<'a> Splice<'a> {
    /// Plans the edits; the last edit of a field counts. Inserted members come first in the object.
    pub fn plan(
        fields: &'a Fields,
        members: &Members,
        body: &'a [u8],
        edits: impl IntoIterator<Item = Edit<'a>>,
    ) -> Result<Self, SpliceError> {
        let open = members.open.ok_or(SpliceError::NotAnObject)?;
        let mut last: [Option<Option<&'a [u8]>>; MAX_FIELDS] = [None; MAX_FIELDS];
        for (field, value) in edits {
            if let Some(slot) = last.get_mut(field) {
                *slot = Some(value);
            }
        }
        let mut inserts = Vec::new();
        let mut touched = Vec::with_capacity(4);
        for (field, (edit, member)) in last.iter().zip(&members.found).enumerate() {
            match (*edit, member.value()) {
                (Some(edit), Some(value)) => touched.push((member.key(), value, edit)),
                (Some(Some(value)), None) => inserts.push((fields.quoted(field), value)),
                (Some(None), None) | (None, _) => {}
            }
        }
        touched.sort_unstable_by_key(|(key, ..)| *key);

        let mut cuts = Vec::with_capacity(touched.len());
        // The start of the first member that stays, as far as known from the edits before.
        let mut first = skip_space(body, open + 1);
        for (key, value, edit) in touched {
            match edit {
                Some(text) => cuts.push((value.start, value.end, text)),
                None if key == first => {
                    // No member stays before it: the comma after it is removed too.
                    first = skip_space(body, value.end);
                    if body.get(first) == Some(&b',') {
                        first = skip_space(body, first + 1);
                        cuts.push((key, first, &b""[..]));
                    } else {
                        cuts.push((key, value.end, &b""[..]));
                    }
                }
                None => cuts.push((comma_before(body, key), value.end, &b""[..])),
            }
        }
        let insert_comma = body.get(first) != Some(&b'}');
        let removed: usize = cuts.iter().map(|(start, end, _)| end - start).sum();
        let added: usize = cuts.iter().map(|(_, _, text)| text.len()).sum();
        let commas = (inserts.len() + usize::from(insert_comma)).saturating_sub(1);
        let inserted: usize = inserts.iter().map(|(name, value)| name.len() + 1 + value.len()).sum();
        let len = body.len() - removed + added + inserted + if inserts.is_empty() { 0 } else { commas };
        Ok(Self {
            body,
            insert_at: open + 1,
            inserts,
            insert_comma,
            cuts,
            len,
        })
    }

    /// The exact length of the edited body.
    #[allow(clippy::len_without_is_empty, reason = "an edited object is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Passes the edited body to `put`, piece by piece and in order; an error of `put` ends it.
    pub fn pieces<E>(&self, mut put: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let (before, _) = self.body.split_at(self.insert_at.min(self.body.len()));
        put(before)?;
        for (i, (name, value)) in self.inserts.iter().enumerate() {
            if i > 0 {
                put(b",")?;
            }
            put(name)?;
            put(b":")?;
            put(value)?;
        }
        if self.insert_comma && !self.inserts.is_empty() {
            put(b",")?;
        }
        let mut at = self.insert_at;
        for &(start, end, text) in &self.cuts {
            put(self.body.get(at..start).unwrap_or_default())?;
            put(text)?;
            at = end;
        }
        put(self.body.get(at..).unwrap_or_default())
    }
}

/// The offset of the comma before the key at `at`: only white space is between them.
fn comma_before(body: &[u8], at: usize) -> usize {
    body.get(..at)
        .and_then(|before| memchr::memrchr(b',', before))
        .unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(body: &str, edits: &[(usize, Option<&str>)]) -> String {
        let fields = Fields::new(["a", "b", "c"]).unwrap();
        let members = fields.peek(body.as_bytes()).unwrap();
        let edits = edits.iter().map(|(field, value)| (*field, value.map(str::as_bytes)));
        let splice = Splice::plan(&fields, &members, body.as_bytes(), edits).unwrap();
        let mut out = Vec::new();
        let Ok(()) = splice.pieces::<std::convert::Infallible>(|piece| {
            out.extend_from_slice(piece);
            Ok(())
        });
        assert_eq!(out.len(), splice.len());
        fields.peek(&out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn replaces_in_place() {
        assert_eq!(
            edit(r#"{ "x":1, "a" : "old" , "b":2}"#, &[(0, Some("\"n\""))]),
            r#"{ "x":1, "a" : "n" , "b":2}"#
        );
        assert_eq!(
            edit(r#"{"a":1,"b":2}"#, &[(1, Some("9")), (0, Some("8"))]),
            r#"{"a":8,"b":9}"#
        );
    }

    #[test]
    fn inserts_first() {
        assert_eq!(edit(r#"{"x":1}"#, &[(0, Some("5"))]), r#"{"a":5,"x":1}"#);
        assert_eq!(edit(r#"{ }"#, &[(0, Some("5")), (1, Some("6"))]), r#"{"a":5,"b":6 }"#);
        assert_eq!(edit("{}", &[(2, Some("5"))]), r#"{"c":5}"#);
    }

    #[test]
    fn deletes_with_the_comma() {
        assert_eq!(edit(r#"{"a":1}"#, &[(0, None)]), "{}");
        assert_eq!(edit(r#"{"a":1 , "x":2}"#, &[(0, None)]), r#"{"x":2}"#);
        assert_eq!(edit(r#"{"x":1 , "a":2 }"#, &[(0, None)]), r#"{"x":1  }"#);
        assert_eq!(
            edit(r#"{"x":1,"a":2,"b":3,"y":4}"#, &[(0, None), (1, None)]),
            r#"{"x":1,"y":4}"#
        );
        assert_eq!(edit(r#"{"a":1,"b":2,"c":3}"#, &[(0, None), (1, None), (2, None)]), "{}");
        assert_eq!(edit(r#"{"a":1,"b":2,"c":3}"#, &[(0, None), (2, None)]), r#"{"b":2}"#);
        assert_eq!(edit(r#"{"x":1}"#, &[(0, None)]), r#"{"x":1}"#);
    }

    #[test]
    fn mixes_all_three() {
        assert_eq!(
            edit(r#"{"a":1,"b":2}"#, &[(0, None), (1, None), (2, Some("3"))]),
            r#"{"c":3}"#
        );
        assert_eq!(
            edit(r#"{"a":1,"b":2}"#, &[(0, None), (1, Some("4")), (2, Some("3"))]),
            r#"{"c":3,"b":4}"#
        );
        assert_eq!(
            edit(r#"{ "a":1 , "b":2 }"#, &[(1, None), (2, Some("3"))]),
            r#"{"c":3, "a":1  }"#
        );
    }

    #[test]
    fn the_later_of_two_edits_counts() {
        assert_eq!(edit(r#"{"a":1}"#, &[(0, Some("2")), (0, Some("3"))]), r#"{"a":3}"#);
    }
}
