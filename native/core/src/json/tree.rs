//! Small documents as trees, read as strictly as `budgateway/jose/jws.py` reads them: names are unique and numbers are
//! finite. What Python might read differently is left to Python.

use std::borrow::Cow;

use super::text::{string_end, unescape};
use super::walk::{literal, number, skip_space};

/// Deeper documents are left to Python, whose limit depends on its stack.
const MAX_DEPTH: u32 = 64;
/// Longer integers are left to Python, whose limit (4,300) can be set, though not below 640.
const MAX_DIGITS: usize = 600;
/// Names of a larger object are sorted to find a repeated one; comparing all pairs is quicker before.
const FEW_NAMES: usize = 16;

/// A JSON value. Integers beyond 64 bits are valid, but not kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool,
    Int(i64),
    BigInt,
    Float(f64),
    Text(Cow<'a, str>),
    List(Vec<Value<'a>>),
    Object(Object<'a>),
}

/// An object: its members in their order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Object<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

/// The reason why a text was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defect {
    /// A violation of RFC 8259's grammar, or bytes that are not UTF-8.
    Syntax,
    /// `NaN` and the infinities, which some readers take for numbers.
    Constant(&'static str),
    /// A name occurs twice in one object.
    Repeated,
    /// A number beyond the range of a double.
    TooLarge,
    /// A value other than an object.
    NoObject,
    /// Python decides: lone surrogates, deep nesting, very long integers, numbers cut short.
    Unsure,
}

impl<'a> Object<'a> {
    /// Reads an object that is the whole of `bytes`.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Defect> {
        let text = simdutf8::basic::from_utf8(bytes).map_err(|_| Defect::Syntax)?;
        let mut reader = Reader { text, bytes, at: 0 };
        reader.space();
        let value = reader.value(0)?;
        reader.space();
        if reader.at != bytes.len() {
            return Err(Defect::Syntax);
        }
        match value {
            Value::Object(object) => Ok(object),
            _ => Err(Defect::NoObject),
        }
    }

    /// The value of a member.
    pub(crate) fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    fn is_name_repeated(&self) -> bool {
        if self.0.len() <= FEW_NAMES {
            let names = self.0.iter().enumerate();
            return names
                .into_iter()
                .any(|(at, (name, _))| self.0.iter().take(at).any(|(other, _)| other == name));
        }
        let mut names: Vec<&str> = self.0.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        names.windows(2).any(|pair| pair.first() == pair.last())
    }
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: u32) -> Result<Value<'a>, Defect> {
        match self.bytes.get(self.at) {
            Some(b'"') => self.string().map(Value::Text),
            Some(b'{' | b'[') if depth == MAX_DEPTH => Err(Defect::Unsure),
            Some(b'{') => self.object(depth + 1).map(Value::Object),
            Some(b'[') => self.list(depth + 1).map(Value::List),
            Some(b'n') => self.literal(b"null", Value::Null),
            Some(b't') => self.literal(b"true", Value::Bool),
            Some(b'f') => self.literal(b"false", Value::Bool),
            Some(b'0'..=b'9') => self.number(),
            Some(b'-') => self.refuse_constant("-Infinity").and_then(|()| self.number()),
            Some(b'N') => self.refuse_constant("NaN").and(Err(Defect::Syntax)),
            Some(b'I') => self.refuse_constant("Infinity").and(Err(Defect::Syntax)),
            _ => Err(Defect::Syntax),
        }
    }

    fn object(&mut self, depth: u32) -> Result<Object<'a>, Defect> {
        let mut members = Vec::new();
        self.at += 1;
        self.space();
        if self.take(b'}') {
            return Ok(Object(members));
        }
        members.reserve(8);
        loop {
            if self.bytes.get(self.at) != Some(&b'"') {
                return Err(Defect::Syntax);
            }
            let name = self.string()?;
            self.space();
            if !self.take(b':') {
                return Err(Defect::Syntax);
            }
            self.space();
            members.push((name, self.value(depth)?));
            self.space();
            if self.take(b'}') {
                break;
            }
            if !self.take(b',') {
                return Err(Defect::Syntax);
            }
            self.space();
        }
        let object = Object(members);
        if object.is_name_repeated() {
            return Err(Defect::Repeated);
        }
        Ok(object)
    }

    fn list(&mut self, depth: u32) -> Result<Vec<Value<'a>>, Defect> {
        let mut values = Vec::new();
        self.at += 1;
        self.space();
        if self.take(b']') {
            return Ok(values);
        }
        loop {
            values.push(self.value(depth)?);
            self.space();
            if self.take(b']') {
                return Ok(values);
            }
            if !self.take(b',') {
                return Err(Defect::Syntax);
            }
            self.space();
        }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Defect> {
        let start = self.at + 1;
        let end = string_end(self.bytes, start).map_err(|_| Defect::Syntax)?;
        self.at = end.at;
        let raw = self.text.get(start..end.at - 1).ok_or(Defect::Unsure)?;
        if !end.escaped {
            return Ok(Cow::Borrowed(raw));
        }
        let text = unescape(raw.as_bytes());
        // Half of a surrogate pair, which Python keeps.
        if text.contains(char::REPLACEMENT_CHARACTER) {
            return Err(Defect::Unsure);
        }
        Ok(Cow::Owned(text))
    }

    fn number(&mut self) -> Result<Value<'a>, Defect> {
        let start = self.at;
        // Python reads `1.5e+` as 1.5 before it finds the rest, and may refuse the number for its size.
        self.at = number(self.bytes, start).map_err(|_| Defect::Unsure)?;
        let text = self.text.get(start..self.at).ok_or(Defect::Unsure)?;
        if text.contains(['.', 'e', 'E']) {
            let number: f64 = text.parse().map_err(|_| Defect::Unsure)?;
            return if number.is_finite() {
                Ok(Value::Float(number))
            } else {
                Err(Defect::TooLarge)
            };
        }
        if text.len() > MAX_DIGITS {
            return Err(Defect::Unsure);
        }
        Ok(text.parse().map_or(Value::BigInt, Value::Int))
    }

    fn literal(&mut self, word: &'static [u8], value: Value<'a>) -> Result<Value<'a>, Defect> {
        self.at = literal(self.bytes, self.at, word).map_err(|_| Defect::Syntax)?;
        Ok(value)
    }

    fn refuse_constant(&self, word: &'static str) -> Result<(), Defect> {
        match self.bytes.get(self.at..) {
            Some(rest) if rest.starts_with(word.as_bytes()) => Err(Defect::Constant(word)),
            _ => Ok(()),
        }
    }

    fn space(&mut self) {
        self.at = skip_space(self.bytes, self.at);
    }

    fn take(&mut self, sign: u8) -> bool {
        let is_there = self.bytes.get(self.at) == Some(&sign);
        self.at += usize::from(is_there);
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Object<'_>, Defect> {
        Object::read(text.as_bytes())
    }

    #[test]
    fn reads_values_of_every_kind() {
        let text = r#" {"a":1,"b":-0.5e1,"c":"x\u00e9\/","d":[null,true,{"e":"é"}],"n":123456789012345678901} "#;
        let object = read(text).unwrap();
        assert_eq!(object.get("a"), Some(&Value::Int(1)));
        assert_eq!(object.get("b"), Some(&Value::Float(-5.0)));
        assert_eq!(object.get("c"), Some(&Value::Text("xé/".into())));
        let inner = Object(vec![("e".into(), Value::Text("é".into()))]);
        let list = vec![Value::Null, Value::Bool, Value::Object(inner)];
        assert_eq!(object.get("d"), Some(&Value::List(list)));
        assert_eq!(object.get("n"), Some(&Value::BigInt));
        assert_eq!(object.get("x"), None);
    }

    #[test]
    fn refuses_what_parsers_read_differently() {
        assert_eq!(read(r#"{"a":NaN}"#), Err(Defect::Constant("NaN")));
        assert_eq!(read(r#"{"a":-Infinity}"#), Err(Defect::Constant("-Infinity")));
        assert_eq!(read(r#"{"a":Infinity,"#), Err(Defect::Constant("Infinity")));
        assert_eq!(read(r#"{"a":1e400}"#), Err(Defect::TooLarge));
        assert_eq!(read("[]"), Err(Defect::NoObject));
        assert_eq!(Object::read(b"{\"a\":\"\xff\"}"), Err(Defect::Syntax));
        for text in [
            "",
            "{",
            "{} x",
            "\u{feff}{}",
            "{\"a\":01}",
            "{'a':1}",
            "{\"a\":1,}",
            "{\"a\":[1 2]}",
            "{\"a\"}",
            "{\"a\":\"\n\"}",
            "{\"a\":I}",
            "{\"a\":nul}",
        ] {
            assert_eq!(read(text), Err(Defect::Syntax), "{text}");
        }
        for text in [
            r#"{"a":"\ud800"}"#.to_owned(),
            r#"{"\udc00":1}"#.to_owned(),
            r#"{"a":1.}"#.to_owned(),
            format!("{{\"a\":{}}}", "9".repeat(700)),
            format!("{{\"a\":{}{}}}", "[".repeat(100), "]".repeat(100)),
        ] {
            assert_eq!(read(&text), Err(Defect::Unsure), "{text}");
        }
    }

    #[test]
    fn a_name_is_unique_however_it_is_spelt_and_however_many_there_are() {
        assert_eq!(read(r#"{"a":1,"\u0061":2}"#), Err(Defect::Repeated));
        assert_eq!(read(r#"{"x":[{"b":1,"b":1}]}"#), Err(Defect::Repeated));
        assert!(read(r#"{"a":1,"A":2,"x":{"a":1}}"#).is_ok());
        for count in [15, 16, 17, 300] {
            let mut members: Vec<String> = (0..count).map(|number| format!("\"{number}\":0")).collect();
            assert!(read(&format!("{{{}}}", members.join(","))).is_ok());
            members.push("\"3\":0".into());
            assert_eq!(read(&format!("{{{}}}", members.join(","))), Err(Defect::Repeated));
        }
    }
}
