//! The buffer that a head is written into, and the line that frames its body.

use crate::decimal::Decimal;

use super::known::Known;
use super::scan::Field;

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No header says anything.
    None,
    /// `transfer-encoding: chunked`.
    Chunked,
    /// `content-length`.
    Length(u64),
}

/// What is left of a buffer that is being filled.
pub(super) struct Out<'a>(pub(super) &'a mut [u8]);

impl Out<'_> {
    #[inline]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        // The buffer was measured for exactly these bytes; a mismatch would be our defect and cuts, never overruns.
        let Some((now, later)) = core::mem::take(&mut self.0).split_at_mut_checked(bytes.len()) else {
            debug_assert!(false, "head is longer than measured");
            return;
        };
        now.copy_from_slice(bytes);
        self.0 = later;
    }

    #[inline]
    pub(super) fn field(&mut self, field: &Field, head: &[u8]) {
        match field.known {
            Known::Other => self.put(field.name(head)),
            known => self.put(known.name().as_bytes()),
        }
        self.put(b": ");
        self.put(field.value(head));
        self.put(b"\r\n");
    }
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
            out.put(self.length.as_bytes());
            out.put(b"\r\n");
        }
    }
}
