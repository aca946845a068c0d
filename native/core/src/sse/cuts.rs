//! Cuts: events that are not forwarded, as positions in the framer's output.

use smallvec::SmallVec;

/// The cuts of one feed: positions, in ascending order, in everything the framer output during it.
pub(crate) type Ranges = SmallVec<[(usize, usize); 1]>;

/// Tracks the framer's output for one stream, and records the cuts.
#[derive(Default)]
pub(super) struct Cuts {
    // feed
    at: usize,
    ranges: Ranges,
    // stream
    /// The last cut ended with a carriage return: a line feed that follows belongs to it.
    after_cr: bool,
}

impl Cuts {
    /// Begins a feed.
    pub(super) fn begin(&mut self) {
        self.at = 0;
        self.ranges.clear();
    }

    /// Receives bytes between events.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        if std::mem::take(&mut self.after_cr) && bytes.first() == Some(&b'\n') {
            self.ranges.push((self.at, self.at + 1));
        }
        self.at += bytes.len();
    }

    /// Receives an event, from its first field to its blank line.
    pub(super) fn event(&mut self, raw: &[u8], is_cut: bool) {
        let start = self.at;
        self.at += raw.len();
        if is_cut {
            self.ranges.push((start, self.at));
        }
        self.after_cr = is_cut && raw.last() == Some(&b'\r');
    }

    /// The cuts of the feed so far.
    pub(super) fn ranges(&self) -> &[(usize, usize)] {
        &self.ranges
    }
}

/// Passes on the parts of `text` that are not cut; `text` begins at `at` of the framer's output.
pub(crate) fn remaining(text: &[u8], at: usize, cuts: &[(usize, usize)], mut put: impl FnMut(&[u8])) {
    let mut from = 0;
    for &(start, end) in cuts {
        let (start, end) = (
            start.saturating_sub(at).min(text.len()),
            end.saturating_sub(at).min(text.len()),
        );
        put(text.get(from..start).unwrap_or_default());
        from = end.max(from);
    }
    put(text.get(from..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_may_lie_across_texts() {
        let told = b"0123456789";
        let cuts = [(0, 1), (3, 7), (9, 10)];
        for middle in 0..=told.len() {
            let mut left = Vec::new();
            let (first, second) = told.split_at(middle);
            remaining(first, 0, &cuts, |piece| left.extend_from_slice(piece));
            remaining(second, middle, &cuts, |piece| left.extend_from_slice(piece));
            assert_eq!(left, b"1278", "{middle}");
        }
    }
}
