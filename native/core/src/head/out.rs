//! Writing header lines, including the one that frames the body.

use crate::out::{Decimal, Out};

use super::known::Known;
use super::scan::Field;

/// The framing of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No framing header.
    None,
    /// `transfer-encoding: chunked`.
    Chunked,
    /// `content-length`.
    Length(u64),
}

/// Writes a header line.
#[inline]
pub(super) fn put_field(out: &mut Out<'_>, field: &Field, head: &[u8]) {
    match field.known {
        Known::Other => {
            out.put(field.name(head));
            out.put(b": ");
        }
        known => out.put(known.line_start()),
    }
    out.put(field.value(head));
    out.put(b"\r\n");
}

/// A framing header, digits included.
#[derive(Debug)]
pub(super) struct FramingLine {
    start: &'static [u8],
    length: Decimal,
}

impl FramingLine {
    pub(super) fn new(framing: Framing) -> Self {
        let (start, length): (&[u8], _) = match framing {
            Framing::None => (b"", Decimal::EMPTY),
            Framing::Chunked => (b"transfer-encoding: chunked\r\n", Decimal::EMPTY),
            Framing::Length(length) => (b"content-length: ", Decimal::new(length)),
        };
        Self { start, length }
    }

    pub(super) fn len(&self) -> usize {
        let digits = self.length.len();
        self.start.len() + if digits == 0 { 0 } else { digits + 2 }
    }

    pub(super) fn put(&self, out: &mut Out<'_>) {
        out.put(self.start);
        if self.length.len() > 0 {
            self.length.put(out);
            out.put(b"\r\n");
        }
    }
}
