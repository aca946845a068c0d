//! The tape: a validated text's values in their order, each with its span, so that members can be looked up and copied.

use std::borrow::Cow;

use super::MAX_DEPTH;
use super::block::{self, BLOCK, Block, Work};
use super::text::{escapes, string_end, unescape};
use super::walk::{literal, number, skip_space};

/// Most values of one text. A body of `[[],[],...]` would otherwise cost eight times its size.
pub(crate) const MAX_NODES: usize = 4 << 20;

/// The kind of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
    Text,
    Number,
    True,
    False,
    Null,
}

/// The reason why a text has no tape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TapeError {
    /// It is no JSON; the offset of the offending byte.
    Syntax(usize),
    /// It is nested too deep, or has too many values.
    TooLarge,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    start: u32,
    end: u32,
    /// The index of the first node behind this value and all that it contains.
    next: u32,
    kind: Kind,
    /// True for a string with a backslash.
    escaped: bool,
}

/// The values of one text. An object's members are pairs of nodes: the name, then the value.
#[derive(Debug)]
pub(crate) struct Tape<'a> {
    bytes: &'a [u8],
    nodes: Vec<Node>,
}

/// One value on a tape.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Value<'a> {
    tape: &'a Tape<'a>,
    at: u32,
}

impl<'a> Tape<'a> {
    /// Reads a text that nobody has validated; `nodes` is the memory of a former tape, to be used again.
    pub(crate) fn read(bytes: &'a [u8], nodes: Vec<Node>) -> Result<Self, TapeError> {
        if simdutf8::basic::from_utf8(bytes).is_err() {
            return Err(TapeError::Syntax(0));
        }
        Self::fill(bytes, nodes, |bytes, at| {
            string_end(bytes, at)
                .map(|end| (end.at, end.escaped))
                .map_err(|(at, _)| at)
        })
    }

    /// Reads a text that the peeker has validated: the insides of strings are skipped.
    pub(crate) fn read_valid(bytes: &'a [u8]) -> Result<Self, TapeError> {
        Self::fill(bytes, Vec::new(), skip_string)
    }

    /// The memory, for another tape.
    pub(crate) fn into_nodes(mut self) -> Vec<Node> {
        self.nodes.clear();
        self.nodes
    }

    /// The outermost value.
    pub(crate) fn root(&self) -> Value<'_> {
        Value { tape: self, at: 0 }
    }

    fn fill(
        bytes: &'a [u8],
        mut nodes: Vec<Node>,
        string: impl Fn(&[u8], usize) -> Result<(usize, bool), usize>,
    ) -> Result<Self, TapeError> {
        if u32::try_from(bytes.len()).is_err() {
            return Err(TapeError::TooLarge);
        }
        nodes.clear();
        nodes.reserve((bytes.len() / 64).min(1 << 16) + 8);
        let wrong = TapeError::Syntax;
        let mut open: Vec<u32> = Vec::with_capacity(16);
        let text = |nodes: &mut Vec<Node>, at: usize| -> Result<usize, TapeError> {
            if bytes.get(at) != Some(&b'"') {
                return Err(wrong(at));
            }
            let (end, escaped) = string(bytes, at + 1).map_err(wrong)?;
            push(nodes, Kind::Text, at, end, escaped)?;
            Ok(end)
        };
        let name = |nodes: &mut Vec<Node>, at: usize| -> Result<usize, TapeError> {
            let at = skip_space(bytes, text(nodes, at)?);
            match bytes.get(at) {
                Some(b':') => Ok(skip_space(bytes, at + 1)),
                _ => Err(wrong(at)),
            }
        };
        let mut at = skip_space(bytes, 0);
        'value: loop {
            match bytes.get(at) {
                Some(b'"') => at = text(&mut nodes, at)?,
                Some(&bracket @ (b'{' | b'[')) => {
                    if open.len() == MAX_DEPTH as usize {
                        return Err(TapeError::TooLarge);
                    }
                    let is_object = bracket == b'{';
                    let kind = if is_object { Kind::Object } else { Kind::Array };
                    open.push(nodes.len() as u32);
                    push(&mut nodes, kind, at, at, false)?;
                    at = skip_space(bytes, at + 1);
                    let close = if is_object { b'}' } else { b']' };
                    if bytes.get(at) != Some(&close) {
                        if is_object {
                            at = name(&mut nodes, at)?;
                        }
                        continue 'value;
                    }
                    at += 1;
                    close_last(&mut nodes, &mut open, at);
                }
                Some(b'-' | b'0'..=b'9') => {
                    let end = number(bytes, at).map_err(|_| wrong(at))?;
                    push(&mut nodes, Kind::Number, at, end, false)?;
                    at = end;
                }
                Some(&letter @ (b't' | b'f' | b'n')) => {
                    let (word, kind): (&'static [u8], _) = match letter {
                        b't' => (b"true", Kind::True),
                        b'f' => (b"false", Kind::False),
                        _ => (b"null", Kind::Null),
                    };
                    let end = literal(bytes, at, word).map_err(|_| wrong(at))?;
                    push(&mut nodes, kind, at, end, false)?;
                    at = end;
                }
                _ => return Err(wrong(at)),
            }
            // A value ended; close the containers that end with it.
            loop {
                at = skip_space(bytes, at);
                let Some(&last) = open.last() else {
                    return if at == bytes.len() {
                        Ok(Self { bytes, nodes })
                    } else {
                        Err(wrong(at))
                    };
                };
                let is_object = nodes.get(last as usize).is_some_and(|node| node.kind == Kind::Object);
                match bytes.get(at) {
                    Some(b',') => {
                        at = skip_space(bytes, at + 1);
                        if is_object {
                            at = name(&mut nodes, at)?;
                        }
                        continue 'value;
                    }
                    Some(b'}') if is_object => {}
                    Some(b']') if !is_object => {}
                    _ => return Err(wrong(at)),
                }
                at += 1;
                close_last(&mut nodes, &mut open, at);
            }
        }
    }
}

fn push(nodes: &mut Vec<Node>, kind: Kind, start: usize, end: usize, escaped: bool) -> Result<(), TapeError> {
    if nodes.len() == MAX_NODES {
        return Err(TapeError::TooLarge);
    }
    nodes.push(Node {
        start: start as u32,
        end: end as u32,
        next: nodes.len() as u32 + 1,
        kind,
        escaped,
    });
    Ok(())
}

fn close_last(nodes: &mut [Node], open: &mut Vec<u32>, end: usize) {
    let next = nodes.len() as u32;
    if let Some(node) = open.pop().and_then(|last| nodes.get_mut(last as usize)) {
        (node.end, node.next) = (end as u32, next);
    }
}

/// The end of a string that is known to be valid.
fn skip_string(bytes: &[u8], start: usize) -> Result<(usize, bool), usize> {
    let rest = bytes.get(start..).unwrap_or_default();
    match memchr::memchr2(b'"', b'\\', rest) {
        Some(found) if rest.get(found) == Some(&b'"') => Ok((start + found + 1, false)),
        // Source code has an escape in every line: looking for each by itself would take longer.
        Some(found) => block::run(End {
            bytes,
            at: start + found,
        })
        .map(|end| (end, true)),
        None => Err(bytes.len()),
    }
}

/// A search for the quote that ends a string with escapes, block by block.
struct End<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Work for End<'_> {
    type Output = Result<usize, usize>;

    #[inline(always)]
    fn run<B: Block>(self, load: impl Fn(&[u8; BLOCK]) -> B) -> Self::Output {
        let (mut at, mut cut) = (self.at, 0);
        while let Some(text) = block::at(self.bytes, at) {
            let block = load(text);
            let (escaping, escaped) = escapes(block.equal(b'\\'), cut);
            let quotes = block.equal(b'"') & !escaped;
            if quotes != 0 {
                return Ok(at + quotes.trailing_zeros() as usize + 1);
            }
            cut = escaping >> 63;
            at += BLOCK;
        }
        at += cut as usize;
        loop {
            match self.bytes.get(at) {
                Some(b'"') => return Ok(at + 1),
                Some(b'\\') => at += 2,
                Some(_) => at += 1,
                None => return Err(self.bytes.len()),
            }
        }
    }
}

impl<'a> Value<'a> {
    fn node(self) -> Node {
        // A value is only made for a node that exists.
        self.tape.nodes.get(self.at as usize).copied().unwrap_or(Node {
            start: 0,
            end: 0,
            next: u32::MAX,
            kind: Kind::Null,
            escaped: false,
        })
    }

    /// Its kind.
    pub(crate) fn kind(self) -> Kind {
        self.node().kind
    }

    /// Its JSON text.
    pub(crate) fn raw(self) -> &'a [u8] {
        let node = self.node();
        self.tape
            .bytes
            .get(node.start as usize..node.end as usize)
            .unwrap_or_default()
    }

    /// A string's text between its quotes, escaped as it is; `None` for other values.
    pub(crate) fn text(self) -> Option<&'a [u8]> {
        match self.raw() {
            [b'"', text @ .., b'"'] => Some(text),
            _ => None,
        }
    }

    /// A string's text, decoded.
    pub(crate) fn decoded(self) -> Option<Cow<'a, [u8]>> {
        let text = self.text()?;
        Some(if self.node().escaped {
            Cow::Owned(unescape(text).into_bytes())
        } else {
            Cow::Borrowed(text)
        })
    }

    /// True for `null`.
    pub(crate) fn is_null(self) -> bool {
        self.kind() == Kind::Null
    }

    /// A number without fraction, if it is one.
    pub(crate) fn count(self) -> Option<u64> {
        std::str::from_utf8(self.raw()).ok()?.parse().ok()
    }

    /// The elements of an array; none of other values.
    pub(crate) fn elements(self) -> impl Iterator<Item = Value<'a>> {
        let node = self.node();
        let last = if node.kind == Kind::Array { node.next } else { 0 };
        let (tape, mut at) = (self.tape, self.at + 1);
        std::iter::from_fn(move || {
            let value = (at < last).then_some(Value { tape, at })?;
            at = value.node().next;
            Some(value)
        })
    }

    /// The members of an object, names decoded; none of other values.
    pub(crate) fn members(self) -> impl Iterator<Item = (Cow<'a, [u8]>, Value<'a>)> {
        let node = self.node();
        let last = if node.kind == Kind::Object { node.next } else { 0 };
        let (tape, mut at) = (self.tape, self.at + 1);
        std::iter::from_fn(move || {
            let name = (at < last).then_some(Value { tape, at })?;
            let value = Value { tape, at: at + 1 };
            at = value.node().next;
            Some((name.decoded().unwrap_or_default(), value))
        })
    }

    /// A member that is not null; the last one of that name, as most parsers have it.
    pub(crate) fn get(self, name: &str) -> Option<Value<'a>> {
        let node = self.node();
        if node.kind != Kind::Object {
            return None;
        }
        let (mut at, mut found) = (self.at + 1, None);
        while at < node.next {
            let key = Value { tape: self.tape, at };
            let value = Value {
                tape: self.tape,
                at: at + 1,
            };
            let is_it = if key.node().escaped {
                key.decoded().is_some_and(|key| *key == *name.as_bytes())
            } else {
                key.text() == Some(name.as_bytes())
            };
            if is_it {
                found = Some(value);
            }
            at = value.node().next;
        }
        found.filter(|value| !value.is_null())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(text: &str) -> Result<Tape<'_>, TapeError> {
        let tape = Tape::read(text.as_bytes(), Vec::new());
        if tape.is_ok() {
            assert!(Tape::read_valid(text.as_bytes()).is_ok(), "{text}");
        }
        tape
    }

    #[test]
    fn finds_members_and_elements() {
        let tape = both(r#" {"a":1,"b\u0063":[ "x\"y" ,{"z":null},[],{}],"a":-2.5e1,"t":true} "#).unwrap();
        let root = tape.root();
        assert_eq!(root.kind(), Kind::Object);
        assert_eq!(root.get("a").unwrap().raw(), b"-2.5e1");
        let list: Vec<_> = root
            .get("bc")
            .unwrap()
            .elements()
            .map(|value| (value.kind(), value.raw()))
            .collect();
        let expected: [(Kind, &[u8]); 4] = [
            (Kind::Text, br#""x\"y""#),
            (Kind::Object, br#"{"z":null}"#),
            (Kind::Array, b"[]"),
            (Kind::Object, b"{}"),
        ];
        assert_eq!(list, expected);
        let text = root.get("bc").unwrap().elements().next().unwrap();
        assert_eq!(text.text().unwrap(), br#"x\"y"#);
        assert_eq!(&*text.decoded().unwrap(), b"x\"y");
        assert!(root.get("z").is_none());
        assert_eq!(root.members().count(), 4);
        assert_eq!(root.elements().count(), 0);
    }

    #[test]
    fn refuses_what_is_no_json() {
        for text in [
            "",
            " ",
            "{",
            "}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "[1 2]",
            "[1,]",
            "[}",
            "{]",
            "tru",
            "\"a",
            "{a:1}",
            "1 2",
            "{\"a\":01}",
            "[\"\\x\"]",
            "[\"\n\"]",
        ] {
            assert!(both(text).is_err(), "{text}");
        }
        assert!(Tape::read(b"\"\xff\"", Vec::new()).is_err());
        let deep = "[".repeat(129) + &"]".repeat(129);
        assert_eq!(both(&deep).unwrap_err(), TapeError::TooLarge);
        assert!(both(&("[".repeat(128) + &"]".repeat(128))).is_ok());
    }

    #[test]
    fn strings_end_where_they_do_however_long_and_escaped() {
        for length in 0..200 {
            for escape in ["\\\\", "\\\"", "\\n"] {
                let text = format!(
                    "[\"{}{escape}{}{escape}\",\"\"]",
                    "x".repeat(length),
                    "y".repeat(length / 2)
                );
                let tape = both(&text).unwrap();
                let trusted = Tape::read_valid(text.as_bytes()).unwrap();
                let raw = |tape: &Tape<'_>| {
                    tape.root()
                        .elements()
                        .map(|value| value.raw().len())
                        .collect::<Vec<_>>()
                };
                assert_eq!(raw(&tape), raw(&trusted), "{text}");
            }
        }
        assert!(Tape::read_valid(b"\"a\\").is_err());
        assert!(Tape::read_valid(b"\"a\\\"").is_err());
    }

    #[test]
    fn memory_is_used_again() {
        let tape = Tape::read(b"[1,2,3,4,5,6,7,8,9,10,11,12]", Vec::new()).unwrap();
        let nodes = tape.into_nodes();
        let (room, address) = (nodes.capacity(), nodes.as_ptr());
        let tape = Tape::read(b"[1]", nodes).unwrap();
        assert_eq!((tape.nodes.capacity(), tape.nodes.as_ptr()), (room, address));
        assert_eq!(tape.root().elements().count(), 1);
    }
}
