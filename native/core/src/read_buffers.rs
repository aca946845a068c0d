//! A pool of 64 KiB read buffers. A buffer can be lent out while its contents are in use.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Maximum bytes per read.
pub const BUFFER_BYTES: usize = 64 * 1024;
/// The block size of the JSON scans, and a cache line: a body aligned to it is faster to scan.
const LINE: usize = 64;
/// Smaller reads are copied: that is cheaper than using another buffer, which is in no cache.
const LARGE: usize = 8 * 1024;
/// Maximum buffers lent at a time: 4 MiB. Beyond that, reads are copied.
const MOST_LENT: usize = 64;
/// Maximum unused buffers that are kept: as many as can be lent, and one.
const MOST_SPARE: usize = MOST_LENT + 1;

/// The read buffers of all connections.
#[derive(Debug, Default)]
pub struct ReadBuffers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The one used last stands last: it is still in the cache.
    spare: Vec<Box<[u8]>>,
    lent: usize,
}

/// A buffer with the bytes of a read, returned to the pool on drop.
#[derive(Debug)]
pub struct ReadBuffer {
    bytes: Box<[u8]>,
    filled: Range<usize>,
    buffers: Arc<ReadBuffers>,
}

impl ReadBuffers {
    /// Reads into a buffer: `read` fills up to `most` bytes and returns their number. Lends the buffer when the read
    /// was large and few are lent; otherwise returns `copy` of the bytes. The bytes after the first `head` are aligned
    /// to a line.
    ///
    /// # Errors
    ///
    /// Those of `read`.
    pub fn receive<T: From<ReadBuffer>, E>(
        self: &Arc<Self>,
        most: usize,
        head: usize,
        read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
        copy: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, E> {
        let mut state = self.state();
        // Of a new buffer, the kernel only allocates the pages that are written to.
        let mut bytes = state
            .spare
            .pop()
            .unwrap_or_else(|| vec![0; BUFFER_BYTES + LINE].into_boxed_slice());
        let from = bytes.as_ptr().addr().wrapping_add(head).wrapping_neg() % LINE;
        let filled = |count| from..from + count;
        let read = read(bytes.get_mut(filled(most.min(BUFFER_BYTES))).unwrap_or_default());
        if let Ok(count) = read
            && count >= LARGE
            && state.lent < MOST_LENT
        {
            state.lent += 1;
            let (filled, buffers) = (filled(count), self.clone());
            return Ok(ReadBuffer { bytes, filled, buffers }.into());
        }
        let copied = read.map(|count| copy(bytes.get(filled(count)).unwrap_or_default()));
        state.spare.push(bytes);
        copied
    }

    /// The number of buffers lent.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.state().lent
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadBuffer {
    /// The bytes that were read.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(self.filled.clone()).unwrap_or_default()
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut state = self.buffers.state();
        state.lent -= 1;
        if state.spare.len() < MOST_SPARE {
            state.spare.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    enum Got {
        Copy(Vec<u8>),
        Buffer(ReadBuffer),
    }

    impl From<ReadBuffer> for Got {
        fn from(buffer: ReadBuffer) -> Self {
            Self::Buffer(buffer)
        }
    }

    fn received(buffers: &Arc<ReadBuffers>, byte: u8, count: usize) -> Got {
        let read = |buffer: &mut [u8]| {
            buffer[..count].fill(byte);
            Ok::<_, ()>(count)
        };
        buffers
            .receive(BUFFER_BYTES, 0, read, |bytes| Got::Copy(bytes.into()))
            .unwrap()
    }

    fn lent(buffers: &Arc<ReadBuffers>, byte: u8, count: usize) -> ReadBuffer {
        match received(buffers, byte, count) {
            Got::Buffer(buffer) => buffer,
            Got::Copy(_) => panic!("{count} bytes were copied"),
        }
    }

    #[test]
    fn what_is_little_is_copied() {
        let buffers = Arc::default();
        assert!(matches!(received(&buffers, 7, LARGE - 1), Got::Copy(bytes) if bytes == [7; LARGE - 1]));
        assert!(matches!(received(&buffers, 7, 0), Got::Copy(bytes) if bytes.is_empty()));
        assert_eq!((buffers.lent(), buffers.state().spare.len()), (0, 1));
    }

    #[test]
    fn a_body_begins_with_a_line_whatever_its_head() {
        let buffers: Arc<ReadBuffers> = Arc::default();
        for head in [0, 1, 63, 64, 65, 200, 8191] {
            let read = |buffer: &mut [u8]| {
                assert_eq!(buffer.len(), BUFFER_BYTES);
                buffer
                    .iter_mut()
                    .enumerate()
                    .for_each(|(i, byte)| *byte = (i % 251) as u8);
                Ok::<_, ()>(BUFFER_BYTES)
            };
            let Ok(Got::Buffer(buffer)) = buffers.receive(BUFFER_BYTES, head, read, |_| panic!("it was copied")) else {
                panic!("no buffer");
            };
            assert_eq!(buffer.bytes().as_ptr().wrapping_add(head).addr() % LINE, 0, "{head}");
            assert!(
                buffer
                    .bytes()
                    .iter()
                    .enumerate()
                    .all(|(i, byte)| *byte == (i % 251) as u8)
            );
            assert_eq!(buffer.bytes().len(), BUFFER_BYTES);
        }
    }

    #[test]
    fn nobody_reads_to_a_room_that_is_lent() {
        let buffers = Arc::default();
        let first = lent(&buffers, 1, LARGE);
        let second = lent(&buffers, 2, BUFFER_BYTES);
        received(&buffers, 3, 100);
        assert_eq!(
            (first.bytes(), second.bytes()),
            (&[1; LARGE][..], &[2; BUFFER_BYTES][..])
        );
        assert_eq!(buffers.lent(), 2);
    }

    #[test]
    fn the_room_that_was_given_back_last_is_used_next() {
        let buffers = Arc::default();
        let (first, second) = (lent(&buffers, 1, LARGE), lent(&buffers, 2, LARGE));
        let place = first.bytes().as_ptr();
        drop(second);
        drop(first);
        assert_eq!(lent(&buffers, 3, LARGE).bytes().as_ptr(), place);
        assert_eq!((buffers.lent(), buffers.state().spare.len()), (0, 2));
    }

    #[test]
    fn of_too_much_there_is_a_copy() {
        let buffers = Arc::default();
        let mut all: Vec<ReadBuffer> = (0..MOST_LENT).map(|_| lent(&buffers, 1, LARGE)).collect();
        assert!(matches!(received(&buffers, 2, LARGE), Got::Copy(bytes) if bytes == [2; LARGE]));
        assert_eq!(buffers.lent(), MOST_LENT);
        all.pop();
        all.push(lent(&buffers, 3, LARGE));
        drop(all);
        assert_eq!((buffers.lent(), buffers.state().spare.len()), (0, MOST_SPARE));
    }

    #[test]
    fn a_read_that_fails_keeps_no_room() {
        let buffers: Arc<ReadBuffers> = Arc::default();
        for _ in 0..3 {
            let read = buffers.receive(
                16,
                0,
                |buffer| Err::<usize, _>(buffer.len()),
                |bytes| Got::Copy(bytes.into()),
            );
            assert_eq!(read.unwrap_err(), 16);
        }
        assert_eq!((buffers.lent(), buffers.state().spare.len()), (0, 1));
    }
}
