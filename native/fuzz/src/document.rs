//! JSON read the slow and obvious way (RFC 8259): byte after byte, by recursion, into a tree.

use std::ops::Range;

use budgateway_core::json::MAX_DEPTH;

/// A value, and where it is.
pub(crate) struct Value {
    pub(crate) at: Range<usize>,
    pub(crate) kind: Kind,
}

/// Kind of a JSON value.
pub(crate) enum Kind {
    /// A number or a literal.
    Scalar,
    Text(String),
    Array(Vec<Value>),
    Object(Vec<Member>),
}

/// A member of an object; `at` is its key, quotes and all.
pub(crate) struct Member {
    pub(crate) at: Range<usize>,
    pub(crate) key: String,
    pub(crate) value: Value,
}

/// The value that `text` is; None when it is not JSON, or too deep.
pub(crate) fn read(text: &[u8]) -> Option<Value> {
    std::str::from_utf8(text).ok()?;
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0)?;
    reader.space();
    (reader.at == text.len()).then_some(value)
}

impl Value {
    /// The members, when it is an object.
    pub(crate) fn members(&self) -> Option<&[Member]> {
        match &self.kind {
            Kind::Object(members) => Some(members),
            _ => None,
        }
    }

    /// The elements, when it is an array.
    pub(crate) fn elements(&self) -> &[Value] {
        match &self.kind {
            Kind::Array(elements) => elements,
            _ => &[],
        }
    }

    /// The text of a string.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The member of that name.
    pub(crate) fn member(&self, name: &str) -> Option<&Value> {
        let member = self.members()?.iter().find(|member| member.key == name)?;
        Some(&member.value)
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self, wanted: &[u8]) -> Option<()> {
        self.text[self.at..]
            .starts_with(wanted)
            .then(|| self.at += wanted.len())
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    /// One structural byte, and the white space before it.
    fn sign(&mut self, sign: u8) -> Option<()> {
        self.space();
        self.take(&[sign])
    }

    fn value(&mut self, depth: u32) -> Option<Value> {
        self.space();
        let start = self.at;
        let kind = match self.peek()? {
            b'"' => Kind::Text(self.string()?),
            b'{' | b'[' if depth == MAX_DEPTH => return None,
            b'[' => Kind::Array(self.listed(b'[', b']', |reader| reader.value(depth + 1))?),
            b'{' => Kind::Object(self.listed(b'{', b'}', |reader| reader.member(depth + 1))?),
            b't' => self.take(b"true").map(|()| Kind::Scalar)?,
            b'f' => self.take(b"false").map(|()| Kind::Scalar)?,
            b'n' => self.take(b"null").map(|()| Kind::Scalar)?,
            _ => self.number().map(|()| Kind::Scalar)?,
        };
        let at = start..self.at;
        Some(Value { at, kind })
    }

    fn listed<T>(&mut self, open: u8, close: u8, mut one: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        self.sign(open)?;
        let mut all = Vec::new();
        if self.sign(close).is_some() {
            return Some(all);
        }
        loop {
            all.push(one(self)?);
            if self.sign(close).is_some() {
                return Some(all);
            }
            self.sign(b',')?;
        }
    }

    fn member(&mut self, depth: u32) -> Option<Member> {
        self.space();
        let start = self.at;
        let key = self.string()?;
        let at = start..self.at;
        self.sign(b':')?;
        let value = self.value(depth)?;
        Some(Member { at, key, value })
    }

    fn number(&mut self) -> Option<()> {
        let _ = self.take(b"-");
        if self.take(b"0").is_none() {
            self.digits()?;
        }
        if self.take(b".").is_some() {
            self.digits()?;
        }
        if self.take(b"e").or_else(|| self.take(b"E")).is_some() {
            let _ = self.take(b"+").or_else(|| self.take(b"-"));
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    /// In UTF-16, as `\u` counts: there a lone half of a pair is what the library makes of it.
    fn string(&mut self) -> Option<String> {
        self.take(b"\"")?;
        let mut units = Vec::new();
        loop {
            let start = self.at;
            while self
                .peek()
                .is_some_and(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\')
            {
                self.at += 1;
            }
            units.extend(std::str::from_utf8(&self.text[start..self.at]).ok()?.encode_utf16());
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return Some(String::from_utf16_lossy(&units)),
                b'\\' => units.push(self.escape()?),
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<u16> {
        let letter = self.peek()?;
        self.at += 1;
        Some(match letter {
            b'"' | b'\\' | b'/' => u16::from(letter),
            b'b' => 8,
            b'f' => 12,
            b'n' => 10,
            b'r' => 13,
            b't' => 9,
            b'u' => {
                let digits = self.text.get(self.at..self.at + 4)?;
                self.at += 4;
                let digits = digits.iter().map(|digit| char::from(*digit).to_digit(16));
                digits
                    .into_iter()
                    .try_fold(0, |sum, digit| Some(sum * 16 + digit? as u16))?
            }
            _ => return None,
        })
    }
}
