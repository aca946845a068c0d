//! Documents for edits by path: only containers that a path leads through are taken apart, and everything else is written
//! back byte for byte.

use std::borrow::Cow;

use super::skip::{string_end, value_end as skip};
use super::text::{quote, unescape};
use super::walk::skip_space;
use super::{JsonError, text};

/// An array's elements beyond this index cannot be reached by a path.
pub const MAX_INDEX: usize = 1023;
/// The most steps of a path.
pub const MAX_STEPS: usize = 8;
/// The most members of one object that have a wanted name; more are repetitions.
const MAX_MEMBERS: usize = 4096;

/// The reason why a path is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// An empty name, or an empty pointer: the document itself cannot be edited.
    #[error("a path cannot be empty")]
    Empty,
    /// RFC 6901 3: a tilde is followed by 0 or 1.
    #[error("in a path, '~' is written '~0' and '/' inside a name '~1'")]
    Tilde,
    /// More steps than `MAX_STEPS`.
    #[error("a path has at most {MAX_STEPS} steps")]
    TooLong,
    /// An index beyond `MAX_INDEX`.
    #[error("an index is at most {MAX_INDEX}")]
    Index,
}

/// The number of a name that some path has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name(usize);

/// The names that occur in paths.
#[derive(Debug, Default)]
pub struct Names {
    texts: Vec<Box<str>>,
    quoted: Vec<Box<[u8]>>,
    /// Bit i: some name is i bytes long, or i plus a multiple of 64.
    lengths: u64,
}

/// One step of a path: a member's name, which may also be an index of an array.
#[derive(Debug, Clone)]
struct Step {
    name: Name,
    index: Option<usize>,
    /// `-`, the place behind an array's last element.
    appends: bool,
}

/// A path to a value: RFC 6901, or the name of a top-level member.
#[derive(Debug, Clone)]
pub struct Path(Box<[Step]>);

/// A value of a document: its text, or its parts.
#[derive(Debug)]
enum Value<'a> {
    Text(Cow<'a, [u8]>),
    /// The members, and the white space of an object without any.
    Object(Vec<Member<'a>>, &'a [u8]),
    Array(Box<Array<'a>>),
}

/// A member with a wanted name, or a run of others with the commas between them (its text is the value).
#[derive(Debug)]
struct Member<'a> {
    name: Option<Name>,
    /// True when its name differs from the wanted one in case.
    is_variant: bool,
    before: Cow<'a, [u8]>,
    value: Value<'a>,
    after: &'a [u8],
}

/// An array, of which the first elements have been taken apart.
#[derive(Debug)]
struct Array<'a> {
    elements: Vec<Element<'a>>,
    /// The text of the other elements, without the closing bracket.
    rest: Option<&'a [u8]>,
    /// Elements that were appended behind `rest`.
    appended: Vec<Element<'a>>,
    blank: &'a [u8],
}

#[derive(Debug)]
struct Element<'a> {
    before: &'a [u8],
    value: Value<'a>,
    after: &'a [u8],
}

/// A JSON document that is edited by path. The text has been validated, or the result is.
#[derive(Debug)]
pub struct Document<'a> {
    reader: Reader<'a>,
    lead: &'a [u8],
    root: Value<'a>,
    tail: &'a [u8],
    has_changed: bool,
}

/// Takes containers apart.
#[derive(Debug, Clone, Copy)]
struct Reader<'a> {
    names: &'a Names,
    is_exacting: bool,
}

impl Names {
    /// The number of a name.
    pub fn intern(&mut self, text: &str) -> Name {
        if let Some(at) = self.texts.iter().position(|known| **known == *text) {
            return Name(at);
        }
        self.texts.push(text.into());
        self.quoted.push(quote(text));
        self.lengths |= 1 << (text.len() % 64);
        Name(self.texts.len() - 1)
    }

    fn text(&self, name: Name) -> &str {
        self.texts.get(name.0).map_or("", |text| text)
    }

    fn quoted(&self, name: Name) -> &[u8] {
        self.quoted.get(name.0).map_or(b"\"\"", |text| text)
    }

    /// The name that a key spells; true when it differs in case.
    #[inline]
    fn find(&self, key: &[u8]) -> Option<(Name, bool)> {
        if key.contains(&b'\\') {
            return self.search(unescape(key).as_bytes());
        }
        if self.lengths >> (key.len() % 64) & 1 == 0 && key.is_ascii() {
            return None;
        }
        self.search(key)
    }

    fn search(&self, key: &[u8]) -> Option<(Name, bool)> {
        let exact = self.texts.iter().position(|text| text.as_bytes() == key);
        if let Some(at) = exact {
            return Some((Name(at), false));
        }
        let variant = self.texts.iter().position(|text| text::folds_to(key, text));
        variant.map(|at| (Name(at), true))
    }
}

impl Path {
    /// Reads a path: with a slash at its beginning a JSON pointer, else the name of a top-level member.
    pub fn parse(names: &mut Names, text: &str) -> Result<Self, PathError> {
        if text.is_empty() {
            return Err(PathError::Empty);
        }
        let Some(pointer) = text.strip_prefix('/') else {
            let name = names.intern(text);
            return Ok(Self(Box::new([Step {
                name,
                index: None,
                appends: false,
            }])));
        };
        let mut steps = Vec::new();
        for token in pointer.split('/') {
            let step = Step {
                name: names.intern(&unescape_token(token)?),
                index: index(token)?,
                appends: token == "-",
            };
            steps.push(step);
        }
        if steps.len() > MAX_STEPS {
            return Err(PathError::TooLong);
        }
        Ok(Self(steps.into()))
    }

    /// The path of a member of a top-level object.
    pub fn member(name: Name) -> Self {
        Self(Box::new([Step {
            name,
            index: None,
            appends: false,
        }]))
    }

    /// The text of the path's steps.
    pub fn steps<'n>(&self, names: &'n Names) -> impl Iterator<Item = &'n str> {
        self.0.iter().map(|step| names.text(step.name))
    }
}

impl<'a> Document<'a> {
    /// A document whose text is JSON. `is_exacting`: a repeated or differently written name on a path is an error,
    /// because servers read it differently; else the last one of equal names counts, as in most readers.
    pub fn new(names: &'a Names, text: &'a [u8], is_exacting: bool) -> Self {
        let start = skip_space(text, 0);
        let (lead, rest) = text.split_at(start.min(text.len()));
        let end = rest.iter().rposition(|byte| !is_space(*byte)).map_or(0, |at| at + 1);
        let (root, tail) = rest.split_at(end);
        Self {
            reader: Reader { names, is_exacting },
            lead,
            root: Value::Text(Cow::Borrowed(root)),
            tail,
            has_changed: false,
        }
    }

    /// True when the text is an object.
    pub fn is_object(&self) -> bool {
        match &self.root {
            Value::Text(text) => text.first() == Some(&b'{'),
            Value::Object(..) => true,
            Value::Array(_) => false,
        }
    }

    /// True when an edit had an effect.
    pub fn has_changed(&self) -> bool {
        self.has_changed
    }

    /// The text of the value at a path. A container that was taken apart is written.
    pub fn text(&mut self, path: &Path) -> Result<Option<Cow<'_, [u8]>>, JsonError> {
        Ok(self.find(path)?.map(|value| value.text()))
    }

    /// The text of the value at a path, unless it is null.
    pub fn value(&mut self, path: &Path) -> Result<Option<Cow<'_, [u8]>>, JsonError> {
        Ok(self.text(path)?.filter(|text| **text != *b"null"))
    }

    /// True when the value at a path exists and is not null.
    pub fn has(&mut self, path: &Path) -> Result<bool, JsonError> {
        Ok(match self.find(path)? {
            Some(Value::Text(text)) => **text != *b"null",
            Some(_) => true,
            None => false,
        })
    }

    /// Removes the value at a path.
    pub fn remove(&mut self, path: &Path) -> Result<(), JsonError> {
        let reader = self.reader;
        let Some((container, step)) = self.container(path, false)? else {
            return Ok(());
        };
        let has_removed = match container {
            Value::Object(members, _) => {
                let at = reader.position(members, step.name)?;
                if let Some(at) = at {
                    members.remove(at);
                }
                at.is_some()
            }
            Value::Array(array) => {
                let at = step.index.filter(|index| array.reach(*index));
                if let Some(at) = at {
                    array.elements.remove(at);
                }
                at.is_some()
            }
            Value::Text(_) => false,
        };
        self.has_changed |= has_removed;
        Ok(())
    }

    /// Renames the member at a path within its object. A member that has the new name stays, and this one is removed.
    pub fn rename(&mut self, path: &Path, to: Name) -> Result<(), JsonError> {
        let reader = self.reader;
        let Some((Value::Object(members, _), step)) = self.container(path, false)? else {
            return Ok(());
        };
        let Some(at) = reader.position(members, step.name)? else {
            return Ok(());
        };
        if step.name == to {
            return Ok(());
        }
        if reader.position(members, to)?.is_some() {
            // Looked up again: a repetition may have been removed before it.
            if let Some(at) = reader.position(members, step.name)? {
                members.remove(at);
            }
        } else if let Some(member) = members.get_mut(at) {
            let blank = skip_space(&member.before, 0);
            let end = string_end(&member.before, blank + 1);
            let mut before = part(&member.before, 0, blank).to_vec();
            before.extend_from_slice(reader.names.quoted(to));
            before.extend_from_slice(part(&member.before, end, member.before.len()));
            member.before = Cow::Owned(before);
            member.name = Some(to);
        }
        self.has_changed = true;
        Ok(())
    }

    /// Puts a value at a path: in place of the one there, else as a last member, or behind the last element. Missing
    /// objects on the way are created.
    pub fn set(&mut self, path: &Path, text: Cow<'a, [u8]>) -> Result<(), JsonError> {
        let reader = self.reader;
        let Some((container, step)) = self.container(path, true)? else {
            return Ok(());
        };
        match container {
            Value::Object(members, _) => match reader.position(members, step.name)? {
                Some(at) => {
                    if let Some(member) = members.get_mut(at) {
                        member.value = Value::Text(text);
                    }
                }
                None => members.push(reader.member(step.name, Value::Text(text))),
            },
            Value::Array(array) if step.appends => array.append(Value::Text(text)),
            Value::Array(array) => match step.index.filter(|index| array.reach(*index)) {
                Some(at) => {
                    if let Some(element) = array.elements.get_mut(at) {
                        element.value = Value::Text(text);
                    }
                }
                None => return Ok(()),
            },
            Value::Text(_) => return Ok(()),
        }
        self.has_changed = true;
        Ok(())
    }

    /// Puts an element into the array at a path, before all others or behind them; false when there is no array.
    pub fn insert(&mut self, path: &Path, at_front: bool, text: Cow<'a, [u8]>) -> Result<bool, JsonError> {
        let reader = self.reader;
        let Some(value) = self.find(path)? else {
            return Ok(false);
        };
        reader.open(value)?;
        let Value::Array(array) = value else { return Ok(false) };
        let value = Value::Text(text);
        if at_front {
            array.elements.insert(0, Element::new(value));
        } else {
            array.append(value);
        }
        self.has_changed = true;
        Ok(true)
    }

    /// The length of the edited document.
    #[allow(clippy::len_without_is_empty, reason = "an edited object is never empty")]
    pub fn len(&self) -> usize {
        let mut len = 0;
        let Ok(()) = self.pieces::<std::convert::Infallible>(|piece| {
            len += piece.len();
            Ok(())
        });
        len
    }

    /// Passes the edited document to `put`, piece by piece and in order; an error of `put` ends it.
    pub fn pieces<E>(&self, mut put: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        put(self.lead)?;
        self.root.pieces(&mut put)?;
        put(self.tail)
    }

    /// The edited document; `expected` is about its length.
    pub fn to_vec(&self, expected: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(expected);
        let Ok(()) = self.pieces::<std::convert::Infallible>(|piece| {
            out.extend_from_slice(piece);
            Ok(())
        });
        out
    }

    /// The value at a path.
    fn find(&mut self, path: &Path) -> Result<Option<&mut Value<'a>>, JsonError> {
        let reader = self.reader;
        let Some((container, step)) = self.container(path, false)? else {
            return Ok(None);
        };
        reader.child(container, step)
    }

    /// The container at a path's last step but one, taken apart, with the last step.
    fn container<'v, 'p>(
        &'v mut self,
        path: &'p Path,
        creates: bool,
    ) -> Result<Option<(&'v mut Value<'a>, &'p Step)>, JsonError> {
        let reader = self.reader;
        let Some((last, steps)) = path.0.split_last() else {
            return Ok(None);
        };
        let mut value = &mut self.root;
        reader.open(value)?;
        for (at, step) in steps.iter().enumerate() {
            if creates && let Value::Object(members, _) = value {
                // Arrays are never created: all further steps must be names.
                let mut further = steps.iter().skip(at + 1).chain([last]);
                let are_names = further.all(|step| step.index.is_none() && !step.appends);
                if are_names && reader.position(members, step.name)?.is_none() {
                    members.push(reader.member(step.name, Value::Object(Vec::new(), b"")));
                }
            }
            let Some(child) = reader.child(value, step)? else {
                return Ok(None);
            };
            reader.open(child)?;
            value = child;
        }
        Ok(Some((value, last)))
    }
}

impl<'a> Reader<'a> {
    /// Takes a container apart.
    fn open(self, value: &mut Value<'a>) -> Result<(), JsonError> {
        // Text of our own is never a container.
        if let Value::Text(Cow::Borrowed(text)) = value {
            let text: &'a [u8] = text;
            match text.first() {
                Some(b'{') => *value = self.object(text)?,
                Some(b'[') => *value = Value::Array(Box::new(Array::read(text))),
                _ => {}
            }
        }
        Ok(())
    }

    /// The child of a container that was taken apart.
    fn child<'v>(self, container: &'v mut Value<'a>, step: &Step) -> Result<Option<&'v mut Value<'a>>, JsonError> {
        Ok(match container {
            Value::Object(members, _) => match self.position(members, step.name)? {
                Some(at) => members.get_mut(at).map(|member| &mut member.value),
                None => None,
            },
            Value::Array(array) => match step.index {
                Some(index) if array.reach(index) => array.elements.get_mut(index).map(|element| &mut element.value),
                _ => None,
            },
            Value::Text(_) => None,
        })
    }

    /// The position of the member of a name. Of repetitions, the last value stays, at the first one's place.
    fn position(self, members: &mut Vec<Member<'a>>, name: Name) -> Result<Option<usize>, JsonError> {
        let mut found: Option<usize> = None;
        let mut repeated = false;
        for (at, member) in members.iter().enumerate() {
            if member.name == Some(name) {
                if member.is_variant {
                    if self.is_exacting {
                        return Err(JsonError::Case(self.names.text(name).into()));
                    }
                } else if found.is_none() {
                    found = Some(at);
                } else {
                    repeated = true;
                }
            }
        }
        if repeated && let Some(first) = found {
            if self.is_exacting {
                return Err(JsonError::Duplicate(self.names.text(name).into()));
            }
            let is_it = |member: &Member<'a>| member.name == Some(name) && !member.is_variant;
            let mut last = None;
            while let Some(at) = members.iter().rposition(is_it).filter(|at| *at > first) {
                let member = members.remove(at);
                last = last.or(Some(member.value));
            }
            if let (Some(value), Some(member)) = (last, members.get_mut(first)) {
                member.value = value;
            }
        }
        Ok(found)
    }

    fn member(self, name: Name, value: Value<'a>) -> Member<'a> {
        let mut before = self.names.quoted(name).to_vec();
        before.push(b':');
        Member {
            name: Some(name),
            is_variant: false,
            before: Cow::Owned(before),
            value,
            after: b"",
        }
    }

    fn object(self, text: &'a [u8]) -> Result<Value<'a>, JsonError> {
        let first = skip_space(text, 1);
        if text.get(first) == Some(&b'}') {
            return Ok(Value::Object(Vec::new(), part(text, 1, first)));
        }
        let mut members = Vec::with_capacity(8);
        let mut run: Option<usize> = None;
        let mut start = 1;
        loop {
            let key = skip_space(text, start);
            if text.get(key) != Some(&b'"') {
                return Err(syntax(key, "expected a member name"));
            }
            let key_end = string_end(text, key + 1);
            let colon = skip_space(text, key_end);
            let value = skip_space(text, colon + 1);
            let value_end = skip(text, value);
            let end = skip_space(text, value_end);
            match self.names.find(part(text, key + 1, key_end.saturating_sub(1))) {
                Some((name, is_variant)) => {
                    if let Some(from) = run.take() {
                        members.push(Member::run(part(text, from, start - 1)));
                    }
                    if members.len() >= MAX_MEMBERS {
                        return Err(JsonError::Duplicate(self.names.text(name).into()));
                    }
                    members.push(Member {
                        name: Some(name),
                        is_variant,
                        before: Cow::Borrowed(part(text, start, value)),
                        value: Value::Text(Cow::Borrowed(part(text, value, value_end))),
                        after: part(text, value_end, end),
                    });
                }
                None => run = run.or(Some(start)),
            }
            match text.get(end) {
                Some(b',') => start = end + 1,
                Some(b'}') => {
                    if let Some(from) = run {
                        members.push(Member::run(part(text, from, end)));
                    }
                    return Ok(Value::Object(members, b""));
                }
                _ => return Err(syntax(end, "expected ',' or '}'")),
            }
        }
    }
}

impl<'a> Member<'a> {
    fn run(text: &'a [u8]) -> Self {
        Self {
            name: None,
            is_variant: false,
            before: Cow::Borrowed(b""),
            value: Value::Text(Cow::Borrowed(text)),
            after: b"",
        }
    }
}

impl<'a> Element<'a> {
    fn new(value: Value<'a>) -> Self {
        Self {
            before: b"",
            value,
            after: b"",
        }
    }
}

impl<'a> Array<'a> {
    fn read(text: &'a [u8]) -> Self {
        let inside = part(text, 1, text.len().saturating_sub(1));
        let is_empty = skip_space(inside, 0) == inside.len();
        Self {
            elements: Vec::new(),
            rest: (!is_empty).then_some(inside),
            appended: Vec::new(),
            blank: if is_empty { inside } else { b"" },
        }
    }

    /// Takes the element of an index apart from the rest; false when there is none.
    fn reach(&mut self, index: usize) -> bool {
        while self.elements.len() <= index {
            let Some(rest) = self.rest else {
                self.elements.append(&mut self.appended);
                break;
            };
            let start = skip_space(rest, 0);
            let value_end = skip(rest, start);
            let end = skip_space(rest, value_end);
            self.elements.push(Element {
                before: part(rest, 0, start),
                value: Value::Text(Cow::Borrowed(part(rest, start, value_end))),
                after: part(rest, value_end, end),
            });
            // Anything but a comma ends the array; in validated text only its end does.
            self.rest = (rest.get(end) == Some(&b',')).then(|| part(rest, end + 1, rest.len()));
        }
        index < self.elements.len()
    }

    fn append(&mut self, value: Value<'a>) {
        let list = match self.rest {
            Some(_) => &mut self.appended,
            None => &mut self.elements,
        };
        list.push(Element::new(value));
    }
}

impl<'a> Value<'a> {
    fn text(&self) -> Cow<'_, [u8]> {
        if let Value::Text(text) = self {
            return Cow::Borrowed(text);
        }
        let mut out = Vec::new();
        let Ok(()) = self.pieces::<std::convert::Infallible>(&mut |piece: &[u8]| {
            out.extend_from_slice(piece);
            Ok(())
        });
        Cow::Owned(out)
    }

    fn pieces<E>(&self, put: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        match self {
            Value::Text(text) => put(text),
            Value::Object(members, blank) => {
                put(b"{")?;
                if members.is_empty() {
                    put(blank)?;
                }
                for (at, member) in members.iter().enumerate() {
                    if at > 0 {
                        put(b",")?;
                    }
                    put(&member.before)?;
                    member.value.pieces(put)?;
                    put(member.after)?;
                }
                put(b"}")
            }
            Value::Array(array) => {
                put(b"[")?;
                let mut is_first = true;
                for element in &array.elements {
                    element.pieces(std::mem::replace(&mut is_first, false), put)?;
                }
                if let Some(rest) = array.rest {
                    if !std::mem::replace(&mut is_first, false) {
                        put(b",")?;
                    }
                    put(rest)?;
                }
                for element in &array.appended {
                    element.pieces(std::mem::replace(&mut is_first, false), put)?;
                }
                if is_first {
                    put(array.blank)?;
                }
                put(b"]")
            }
        }
    }
}

impl Element<'_> {
    fn pieces<E>(&self, is_first: bool, put: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        if !is_first {
            put(b",")?;
        }
        put(self.before)?;
        self.value.pieces(put)?;
        put(self.after)
    }
}

fn part(text: &[u8], from: usize, to: usize) -> &[u8] {
    text.get(from..to).unwrap_or_default()
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn unescape_token(token: &str) -> Result<String, PathError> {
    let mut out = String::with_capacity(token.len());
    let mut rest = token.chars();
    while let Some(letter) = rest.next() {
        match letter {
            '~' => match rest.next() {
                Some('0') => out.push('~'),
                Some('1') => out.push('/'),
                _ => return Err(PathError::Tilde),
            },
            other => out.push(other),
        }
    }
    Ok(out)
}

/// The index that a step may be (RFC 6901 4: without leading zeros).
fn index(token: &str) -> Result<Option<usize>, PathError> {
    let is_index = !token.is_empty()
        && token.bytes().all(|byte| byte.is_ascii_digit())
        && (token == "0" || !token.starts_with('0'));
    if !is_index {
        return Ok(None);
    }
    match token.parse() {
        Ok(index) if index <= MAX_INDEX => Ok(Some(index)),
        _ => Err(PathError::Index),
    }
}

#[cold]
fn syntax(at: usize, why: &'static str) -> JsonError {
    JsonError::Syntax { at, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(text: &str, edit: impl Fn(&mut Names, &mut dyn FnMut(&Names, &dyn Fn(&mut Document<'_>)))) -> String {
        let mut names = Names::default();
        let mut out = String::new();
        edit(&mut names, &mut |names, change| {
            let mut document = Document::new(names, text.as_bytes(), false);
            change(&mut document);
            out = String::from_utf8(document.to_vec(64)).unwrap();
        });
        out
    }

    fn removed(text: &str, path: &str) -> String {
        edit(text, |names, with| {
            let path = Path::parse(names, path).unwrap();
            with(names, &|document| document.remove(&path).unwrap());
        })
    }

    fn set(text: &str, path: &str, value: &'static str) -> String {
        edit(text, |names, with| {
            let path = Path::parse(names, path).unwrap();
            with(names, &|document| {
                document.set(&path, Cow::Borrowed(value.as_bytes())).unwrap()
            });
        })
    }

    fn renamed(text: &str, path: &str, to: &str) -> String {
        edit(text, |names, with| {
            let path = Path::parse(names, path).unwrap();
            let to = names.intern(to);
            with(names, &|document| document.rename(&path, to).unwrap());
        })
    }

    #[test]
    fn a_removed_member_takes_its_comma_with_it() {
        assert_eq!(removed(r#"{"a":1}"#, "a"), "{}");
        assert_eq!(removed(r#" {"a":1 , "x":2}"#, "a"), r#" { "x":2}"#);
        assert_eq!(removed(r#"{"x":1 , "a":2 } "#, "a"), r#"{"x":1 } "#);
        assert_eq!(
            removed(r#"{"x":[1,{"a":"}"}],"\u0061":2,"y":"\\\""}"#, "a"),
            r#"{"x":[1,{"a":"}"}],"y":"\\\""}"#
        );
        assert_eq!(removed(r#"{"x": 1}"#, "a"), r#"{"x": 1}"#);
        assert_eq!(removed(r#"{"b":{"a": 1,"c":2}}"#, "/b/a"), r#"{"b":{"c":2}}"#);
        assert_eq!(removed(r#"{"b":[1, 2 ,3]}"#, "/b/1"), r#"{"b":[1,3]}"#);
        assert_eq!(removed(r#"{"b":[1]}"#, "/b/0"), r#"{"b":[]}"#);
        assert_eq!(removed(r#"{"b":[1]}"#, "/b/1"), r#"{"b":[1]}"#);
        assert_eq!(removed(r#"{"b":"a"}"#, "/b/a"), r#"{"b":"a"}"#);
    }

    #[test]
    fn a_value_is_set_in_place_or_last() {
        assert_eq!(set(r#"{"a" : 1 ,"x":2}"#, "a", "9"), r#"{"a" : 9 ,"x":2}"#);
        assert_eq!(set(r#"{"x":2}"#, "a", "9"), r#"{"x":2,"a":9}"#);
        assert_eq!(set("{ }", "a", "9"), r#"{"a":9}"#);
        assert_eq!(set(r#"{"x":2}"#, "/a/b", "9"), r#"{"x":2,"a":{"b":9}}"#);
        assert_eq!(set(r#"{"a":null}"#, "/a/b", "9"), r#"{"a":null}"#);
        assert_eq!(set(r#"{"a":[1,2]}"#, "/a/-", "9"), r#"{"a":[1,2,9]}"#);
        assert_eq!(set(r#"{"a":[ ]}"#, "/a/-", "9"), r#"{"a":[9]}"#);
        assert_eq!(set(r#"{"a":[1,2]}"#, "/a/1", "9"), r#"{"a":[1,9]}"#);
        assert_eq!(set(r#"{"a":[1,2]}"#, "/a/2", "9"), r#"{"a":[1,2]}"#);
        assert_eq!(set("{}", "/a/-", "9"), "{}");
        assert_eq!(set("{}", "/a/0", "9"), "{}");
        assert_eq!(set(r#"{"a":{"0":1}}"#, "/a/0", "9"), r#"{"a":{"0":9}}"#);
        assert_eq!(set(r#"{"a/~":1}"#, "/a~1~0", "9"), r#"{"a/~":9}"#);
    }

    #[test]
    fn a_renamed_member_keeps_its_place_and_gives_way() {
        assert_eq!(renamed(r#"{ "a" : 1,"x":2}"#, "a", "b"), r#"{ "b" : 1,"x":2}"#);
        assert_eq!(renamed(r#"{"a":1,"b":2}"#, "a", "b"), r#"{"b":2}"#);
        assert_eq!(renamed(r#"{"a":1,"a":3,"b":2,"b":4}"#, "a", "b"), r#"{"b":4}"#);
    }

    #[test]
    fn the_last_repetition_counts_unless_that_is_an_error() {
        assert_eq!(
            set(r#"{"a":{"b":1},"x":0,"a":{"b":2},"a":{"b":3,"c":4}}"#, "/a/b", "9"),
            r#"{"a":{"b":9,"c":4},"x":0}"#
        );
        let mut names = Names::default();
        let path = Path::parse(&mut names, "a").unwrap();
        let exact = |text: &str| Document::new(&names, text.as_bytes(), true).remove(&path);
        assert_eq!(exact(r#"{"a":1,"a":2}"#), Err(JsonError::Duplicate("a".into())));
        assert_eq!(exact(r#"{"A":1}"#), Err(JsonError::Case("a".into())));
        assert_eq!(exact(r#"{"x":{"A":1,"a":1,"a":2}}"#), Ok(()));
    }

    #[test]
    fn an_array_is_taken_apart_only_as_far_as_needed() {
        let mut names = Names::default();
        let list = Path::parse(&mut names, "a").unwrap();
        let mut document = Document::new(&names, br#"{"a":[1, 2,3]}"#, true);
        assert!(document.insert(&list, true, Cow::Borrowed(b"0")).unwrap());
        assert!(document.insert(&list, false, Cow::Borrowed(b"4")).unwrap());
        assert_eq!(document.to_vec(64), br#"{"a":[0,1, 2,3,4]}"#);
        assert!(document.has_changed());
    }

    #[test]
    fn broken_text_is_an_error_or_left_alone() {
        for text in [
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{\"a\":1,",
            "{\"a\":1,}",
            "{a:1}",
            "{\"b\":[1",
        ] {
            let mut names = Names::default();
            let path = Path::parse(&mut names, "/b/a").unwrap();
            let mut document = Document::new(&names, text.as_bytes(), false);
            let _ = document.remove(&path);
            document.to_vec(64);
        }
    }

    #[test]
    fn paths_are_pointers() {
        let mut names = Names::default();
        let mut error = |text: &str| Path::parse(&mut names, text).err();
        assert_eq!(error(""), Some(PathError::Empty));
        assert_eq!(error("/a~2"), Some(PathError::Tilde));
        assert_eq!(error("/a/1024"), Some(PathError::Index));
        assert_eq!(error("/1/2/3/4/5/6/7/8/9"), Some(PathError::TooLong));
        assert_eq!(error("a/b"), None);
    }
}
