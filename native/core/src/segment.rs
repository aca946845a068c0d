//! The shared mapping of hot state: fixed tables of atomics in one anonymous file, the same in every process.
//!
//! ```text
//! header | labels | upstreams | queues | rows, one a worker | limits | rotations | series keys | usage | counts, in shards
//! ```
//!
//! Every field is an atomic for which all zeroes is the empty state, so that a new mapping needs no initialisation and
//! only the pages that were touched take memory. There are no locks in it: a process may be killed at any point.

#![allow(unsafe_code, reason = "maps memory; every block says why it holds")]

pub(crate) mod layout;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::descriptor;
use crate::hash::HashKey;
use crate::health::{Signals, Vitals};

use layout::{Counts, Histogram, Latency, Layout, OVERHEAD_BUCKETS, Row, Waiting};

pub use layout::{
    BUDGET_SETS, CELL_SETS, GAUGE_TICK, GAUGES, HOLDERS, LABELS, LATENCIES, QUEUES, REFUSALS, ROTATIONS, SERIES,
    SHARDS, UPSTREAMS, WORKERS,
};

const MAGIC: u64 = u64::from_le_bytes(*b"budgatew");
// Incremented whenever a table changes its shape or meaning.
const VERSION: u64 = 4;

/// The reason why a segment cannot be mapped, or has no room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// A worker's row that is out of range.
    #[error("worker {0} is out of range: there are {1}")]
    Worker(usize, usize),
    /// More workers than there are rows, or none.
    #[error("a segment serves 1 to 64 workers, got {0}")]
    Workers(usize),
    /// A number that is none of `GAUGE_*`.
    #[error("gauge {0} is out of range")]
    Gauge(usize),
    /// The descriptor is not a segment of this version.
    #[error("descriptor {0} is not a segment of this version")]
    Foreign(RawFd),
    /// All upstream slots are taken.
    #[error("no slot left for upstream '{0}': 1024 URLs were served since the start; `serve --take-over` begins anew")]
    UpstreamsFull(String),
    /// An upstream without a URL.
    #[error("an upstream must have a URL")]
    NoUrl,
    /// All queues are taken.
    #[error("no place left for the queue of '{0}': 256 were served since the start; `serve --take-over` begins anew")]
    QueuesFull(String),
    /// The system refused memory or descriptors.
    #[error("segment: {0}")]
    System(#[from] io::Error),
}

/// Begins the labels of models: a client's model that is named like a route stays without a label.
const MODEL_MARK: char = '\u{1f}';

/// The id of a label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelId(u16);

impl LabelId {
    /// The label of every name that has no id of its own.
    pub const OTHER: Self = Self(0);

    /// The label with a number from outside; `OTHER` for a number out of range.
    #[must_use]
    pub fn new(id: u32) -> Self {
        Self(if (id as usize) < LABELS { id as u16 } else { 0 })
    }

    /// The number of the label.
    #[must_use]
    pub fn get(self) -> u32 {
        u32::from(self.0)
    }
}

/// The slot of an upstream, assigned by a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamSlot(u16);

impl UpstreamSlot {
    /// The number of the slot.
    #[must_use]
    pub fn get(self) -> usize {
        usize::from(self.0)
    }
}

/// The row of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Worker(u8);

impl Worker {
    /// The number of the row.
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A mapping of the segment, and the descriptor behind it.
#[derive(Debug)]
pub struct Segment {
    layout: NonNull<Layout>,
    file: OwnedFd,
    workers: usize,
    shard: usize,
    hash_key: HashKey,
}

// SAFETY: the mapping is valid for the Segment's lifetime, belongs to no thread, and holds only atomics.
unsafe impl Send for Segment {}
// SAFETY: as above; a shared reference only gives out references to atomics.
unsafe impl Sync for Segment {}

impl Segment {
    /// A new, empty segment with a row for each of `workers`.
    pub fn new(workers: usize) -> Result<Self, SegmentError> {
        if !(1..=WORKERS).contains(&workers) {
            return Err(SegmentError::Workers(workers));
        }
        let segment = Self::map(memory_file()?)?;
        let header = &segment.layout().header;
        header.version.store(VERSION, Ordering::Relaxed);
        header.size.store(size_of::<Layout>() as u64, Ordering::Relaxed);
        header.workers.store(workers as u64, Ordering::Relaxed);
        for key in [&header.hash_key, &header.limit_key] {
            for (word, random) in key.iter().zip(random_words()?) {
                word.store(random, Ordering::Relaxed);
            }
        }
        header.magic.store(MAGIC, Ordering::Release);
        Ok(segment.known())
    }

    /// Maps the segment behind `fd` again. Duplicates `fd`: the caller keeps its own.
    pub fn attach(fd: RawFd) -> Result<Self, SegmentError> {
        let file = File::from(descriptor::copy_of(fd)?);
        if file.metadata()?.len() != size_of::<Layout>() as u64 {
            return Err(SegmentError::Foreign(fd));
        }
        // A file that could shrink under the mapping would turn a read into SIGBUS. SAFETY: F_GET_SEALS takes no
        // argument, and fails on a file without seals.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) } & libc::F_SEAL_SHRINK == 0 {
            return Err(SegmentError::Foreign(fd));
        }
        let segment = Self::map(file.into())?;
        let header = &segment.layout().header;
        let same = header.magic.load(Ordering::Acquire) == MAGIC
            && header.version.load(Ordering::Relaxed) == VERSION
            && header.size.load(Ordering::Relaxed) == size_of::<Layout>() as u64
            && (1..=WORKERS as u64).contains(&header.workers.load(Ordering::Relaxed));
        if same {
            Ok(segment.known())
        } else {
            Err(SegmentError::Foreign(fd))
        }
    }

    /// The descriptor of the mapping, for a child process to inherit.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The size of the mapping in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of::<Layout>()
    }

    /// The number of rows.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The row of a worker.
    pub fn worker(&self, worker: usize) -> Result<Worker, SegmentError> {
        if worker < self.workers {
            Ok(Worker(worker as u8))
        } else {
            Err(SegmentError::Worker(worker, self.workers))
        }
    }

    /// The id of a label, assigned on first use; `OTHER` for the empty name, and for new names when all ids are taken.
    #[must_use]
    pub fn intern(&self, name: &str) -> LabelId {
        if name.is_empty() {
            return LabelId::OTHER;
        }
        // Index 0 stays empty: its id means "other".
        LabelId(self.layout().labels.intern(self.hash_key, name, 1).unwrap_or(0) as u16)
    }

    /// The id of a model's name, which a label of the same name does not share.
    #[must_use]
    pub fn intern_model(&self, name: &str) -> LabelId {
        self.intern(&format!("{MODEL_MARK}{name}"))
    }

    /// The models that have an id, with it.
    #[must_use]
    pub fn models(&self) -> Vec<(String, LabelId)> {
        let ids = (1..LABELS).map(|id| LabelId(id as u16));
        let named = ids.map_while(|id| Some((self.layout().labels.name(usize::from(id.0))?, id)));
        named
            .filter_map(|(name, id)| Some((name.strip_prefix(MODEL_MARK)?.to_owned(), id)))
            .collect()
    }

    /// The number of labels that have an id.
    #[must_use]
    pub fn labels(&self) -> usize {
        (1..LABELS).take_while(|&id| self.layout().labels.holds(id)).count()
    }

    /// The name of a label; `None` for `OTHER` and for ids that were never assigned.
    #[must_use]
    pub fn label(&self, id: LabelId) -> Option<String> {
        let name = self.layout().labels.name(usize::from(id.0))?;
        Some(match name.strip_prefix(MODEL_MARK) {
            Some(model) => model.to_owned(),
            None => name,
        })
    }

    /// The slot of the upstream at `url`, assigned on first use and kept.
    pub fn upstream(&self, url: &str) -> Result<UpstreamSlot, SegmentError> {
        if url.is_empty() {
            return Err(SegmentError::NoUrl);
        }
        let slot = self.layout().upstream_names.intern(self.hash_key, url, 0);
        slot.map(|slot| UpstreamSlot(slot as u16))
            .ok_or_else(|| SegmentError::UpstreamsFull(url.to_owned()))
    }

    /// The upstream slot with a number from outside, if it was assigned.
    #[must_use]
    pub fn slot(&self, slot: usize) -> Option<UpstreamSlot> {
        self.layout()
            .upstream_names
            .holds(slot)
            .then_some(UpstreamSlot(slot as u16))
    }

    /// The index of the queue of that name, assigned on first use and kept.
    pub(crate) fn queue(&self, name: &str) -> Result<usize, SegmentError> {
        let index = self.layout().queue_names.intern(self.hash_key, name, 0);
        index.ok_or_else(|| SegmentError::QueuesFull(name.to_owned()))
    }

    /// Every queue's index and name.
    pub(crate) fn queues(&self) -> Vec<(usize, String)> {
        let names = &self.layout().queue_names;
        (0..QUEUES)
            .filter_map(|index| Some((index, names.name(index)?)))
            .collect()
    }

    /// Zeroes the row of a dead worker. A live one would lose counts.
    pub fn clear(&self, worker: Worker) {
        let row = self.row(worker);
        row.in_flight.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        row.queues.iter().for_each(Waiting::clear);
        row.leases.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        row.gauges.iter().for_each(|gauge| gauge.store(0, Ordering::Relaxed));
    }

    /// Records a probe's result; `None`: the upstream is no longer probed.
    pub fn judge(&self, slot: UpstreamSlot, healthy: Option<bool>, silent: bool, now_ns: u64) {
        match healthy {
            Some(healthy) => self.vitals(slot).judge(healthy, silent, now_ns),
            None => self.vitals(slot).unjudge(),
        }
    }

    /// Starts slow start for an upstream that joins others.
    pub fn welcome(&self, slot: UpstreamSlot, now_ns: u64) {
        self.vitals(slot).welcome(now_ns);
    }

    /// Records the suspicion that traffic gets no answer from an upstream.
    pub fn suspect(&self, slot: UpstreamSlot, now_ns: u64) {
        self.vitals(slot).suspect(now_ns);
    }

    /// Removes the suspicion, and returns the time since when traffic got no answer. `None` without one.
    #[must_use]
    pub fn take_suspicion(&self, slot: UpstreamSlot) -> Option<u64> {
        let suspected = &self.vitals(slot).suspected_ms;
        // Most have none, and checking must not take the cache line from the workers.
        if suspected.load(Ordering::Relaxed) == 0 {
            return None;
        }
        Some(suspected.swap(0, Ordering::Relaxed) * 1_000_000)
    }

    /// Records an engine's report of its load.
    pub fn signal(&self, slot: UpstreamSlot, said: Signals) {
        let ours = self
            .rows()
            .iter()
            .map(|row| u64::from(row.in_flight[slot.get()].load(Ordering::Relaxed)))
            .sum();
        self.vitals(slot).signal(said, ours);
    }

    /// Replaces the list of models that an upstream serves; an empty one means unknown.
    pub fn set_models(&self, slot: UpstreamSlot, models: &[&str]) {
        let hashes: Vec<u64> = models
            .iter()
            .map(|model| self.hash_key.hash(model.as_bytes()))
            .collect();
        self.layout().models[slot.get()].replace(&hashes);
        self.layout().models_version.fetch_add(1, Ordering::SeqCst);
    }

    /// A counter that rises with every change of any upstream's models.
    #[must_use]
    pub fn models_version(&self) -> u64 {
        self.layout().models_version.load(Ordering::SeqCst)
    }

    /// The value of a worker's gauge.
    pub fn gauge(&self, worker: Worker, gauge: usize) -> Result<i64, SegmentError> {
        let gauge = self.row(worker).gauges.get(gauge).ok_or(SegmentError::Gauge(gauge))?;
        Ok(gauge.load(Ordering::Relaxed))
    }

    /// Adds to a worker's gauge.
    pub fn add(&self, worker: Worker, gauge: usize, delta: i64) -> Result<(), SegmentError> {
        let gauge = self.row(worker).gauges.get(gauge).ok_or(SegmentError::Gauge(gauge))?;
        gauge.fetch_add(delta, Ordering::Relaxed);
        Ok(())
    }

    #[inline]
    pub(crate) fn vitals(&self, slot: UpstreamSlot) -> &Vitals {
        &self.layout().vitals[slot.get()]
    }

    pub(crate) fn layout(&self) -> &Layout {
        // SAFETY: mapped for the Segment's lifetime, page-aligned, and as long as a Layout; it holds only atomics, for
        // which any bytes are valid and which other processes may change at any time.
        unsafe { self.layout.as_ref() }
    }

    /// The row of one worker.
    pub(crate) fn row(&self, worker: Worker) -> &Row {
        &self.layout().rows[usize::from(worker.0)]
    }

    /// The rows in use.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.layout().rows[..self.workers]
    }

    /// The counts that this process adds to.
    pub(crate) fn own_counts(&self) -> &[Counts; SERIES] {
        &self.layout().counts[self.shard]
    }

    /// The times and sizes that this process adds to.
    pub(crate) fn own_latencies(&self) -> &[Latency; LATENCIES] {
        &self.layout().latencies[self.shard]
    }

    /// The refusals that this process adds to.
    pub(crate) fn own_refusals(&self) -> &[AtomicU64; REFUSALS] {
        &self.layout().refusals[self.shard]
    }

    /// The overheads that this process adds to, by route.
    pub(crate) fn own_overheads(&self) -> &[Histogram<OVERHEAD_BUCKETS>; LABELS] {
        &self.layout().overheads[self.shard]
    }

    /// The secret that all processes hash with.
    pub(crate) fn hash_key(&self) -> HashKey {
        self.hash_key
    }

    /// The secret that limits hash with: a separate one, because it outlives the segment (`limit::state`).
    pub(crate) fn limit_key(&self) -> HashKey {
        let words = &self.layout().header.limit_key;
        HashKey(words[0].load(Ordering::Relaxed), words[1].load(Ordering::Relaxed))
    }

    /// Adopts the key of an earlier segment, before anything is counted.
    pub(crate) fn set_limit_key(&self, first: u64, second: u64) {
        let words = &self.layout().header.limit_key;
        words[0].store(first, Ordering::Relaxed);
        words[1].store(second, Ordering::Relaxed);
    }

    /// The rotation of this owner; when all are taken, one shared with others.
    pub(crate) fn rotation(&self, owner: &[u8]) -> usize {
        let owner = self.hash_key.hash(owner).max(1);
        let index = self.layout().rotations.iter().position(|rotation| {
            match rotation
                .owner
                .compare_exchange(0, owner, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => true,
                Err(present) => present == owner,
            }
        });
        index.unwrap_or((owner % ROTATIONS as u64) as usize)
    }

    fn map(file: OwnedFd) -> Result<Self, SegmentError> {
        // SAFETY: a new shared mapping at an address of the system's choice; the file is that long, and sealed.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Layout>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(address.cast::<Layout>()) {
            Some(layout) if address != libc::MAP_FAILED => Ok(Self {
                layout,
                file,
                workers: 0,
                shard: 0,
                hash_key: HashKey(0, 0),
            }),
            _ => Err(io::Error::last_os_error().into()),
        }
    }

    /// Reads the constants of the header, and takes a shard.
    fn known(mut self) -> Self {
        let header = &self.layout().header;
        let workers = header.workers.load(Ordering::Relaxed) as usize;
        let shard = header.attached.fetch_add(1, Ordering::Relaxed) as usize % SHARDS;
        let [first, second] = [&header.hash_key[0], &header.hash_key[1]].map(|word| word.load(Ordering::Relaxed));
        (self.workers, self.shard, self.hash_key) = (workers, shard, HashKey(first, second));
        self
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this size; every reference into it borrows from self.
        unsafe { libc::munmap(self.layout.as_ptr().cast(), size_of::<Layout>()) };
    }
}

/// Creates an anonymous file as long as the layout, sealed against changes of its length.
fn memory_file() -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string; unknown flags are refused.
    let fd = unsafe { libc::memfd_create(c"budgateway".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: memfd_create has just created it, and nothing else owns it.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(size_of::<Layout>() as u64)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: a plain call on a descriptor that we own.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file.into())
}

fn random_words() -> io::Result<[u64; 2]> {
    let mut bytes = [0_u8; 16];
    // SAFETY: writes at most the buffer's length into the buffer.
    let read = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if read != bytes.len() as isize {
        return Err(io::Error::last_os_error());
    }
    let words = u128::from_ne_bytes(bytes);
    Ok([words as u64, (words >> 64) as u64])
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::layout::{CellSet, Header, LeaseSet, Rotation, SharedCounts, Sum};
    use super::*;

    #[test]
    fn two_mappings_are_one_segment() {
        let one = Segment::new(2).unwrap();
        let two = Segment::attach(one.fd()).unwrap();
        let id = one.intern("vllm");
        assert_eq!(two.intern("vllm"), id);
        assert_eq!(two.label(id).as_deref(), Some("vllm"));
        assert_eq!(two.workers(), 2);
        drop(one);
        assert_eq!(two.label(id).as_deref(), Some("vllm"));
    }

    #[test]
    fn full_labels_become_other_and_old_ones_stay() {
        let segment = Segment::new(1).unwrap();
        for number in 1..LABELS {
            assert_eq!(segment.intern(&number.to_string()).get() as usize, number);
        }
        assert_eq!(segment.intern("one more"), LabelId::OTHER);
        assert_eq!(segment.intern("17").get(), 17);
        assert_eq!(segment.label(LabelId::OTHER), None);
    }

    #[test]
    fn clearing_touches_one_row() {
        let segment = Segment::new(2).unwrap();
        let (first, second) = (segment.worker(0).unwrap(), segment.worker(1).unwrap());
        for worker in [first, second] {
            segment.add(worker, 0, 3).unwrap();
            segment.row(worker).in_flight[5].store(2, Ordering::Relaxed);
        }
        segment.clear(first);
        assert_eq!(
            (segment.gauge(first, 0).unwrap(), segment.gauge(second, 0).unwrap()),
            (0, 3)
        );
        assert_eq!(segment.row(first).in_flight[5].load(Ordering::Relaxed), 0);
        assert_eq!(segment.row(second).in_flight[5].load(Ordering::Relaxed), 2);
        assert!(segment.worker(2).is_err() && segment.gauge(first, GAUGES).is_err());
    }

    /// An older process that attaches reads these places: a change of one needs another `VERSION`.
    #[test]
    fn the_tables_stay_in_their_places() {
        let places = [
            offset_of!(Layout, header),
            offset_of!(Layout, labels),
            offset_of!(Layout, upstream_names),
            offset_of!(Layout, queue_names),
            offset_of!(Layout, queue_counts),
            offset_of!(Layout, vitals),
            offset_of!(Layout, models),
            offset_of!(Layout, models_version),
            offset_of!(Layout, retry_debts),
            offset_of!(Layout, rows),
            offset_of!(Layout, cell_sets),
            offset_of!(Layout, budget_sets),
            offset_of!(Layout, lease_sets),
            offset_of!(Layout, today),
            offset_of!(Layout, rotations),
            offset_of!(Layout, series),
            offset_of!(Layout, principals),
            offset_of!(Layout, sums),
            offset_of!(Layout, counts),
            offset_of!(Layout, holders),
            offset_of!(Layout, latency_keys),
            offset_of!(Layout, latencies),
            offset_of!(Layout, refusal_keys),
            offset_of!(Layout, refusals),
            offset_of!(Layout, overheads),
        ];
        let row = [
            offset_of!(Row, gauges),
            offset_of!(Row, in_flight),
            offset_of!(Row, queues),
            offset_of!(Row, leases),
            size_of::<Row>(),
        ];
        let sizes = [
            size_of::<Layout>(),
            size_of::<Header>(),
            size_of::<SharedCounts>(),
            size_of::<Waiting>(),
            size_of::<CellSet>(),
            size_of::<LeaseSet>(),
            size_of::<Rotation>(),
            size_of::<Sum>(),
            size_of::<Counts>(),
            size_of::<Latency>(),
        ];
        assert_eq!(VERSION, 4);
        assert_eq!(
            places,
            [
                0, 128, 262_272, 393_344, 426_112, 442_496, 639_104, 2_736_256, 2_736_264, 2_752_704, 5_259_456,
                6_832_320, 7_225_536, 7_291_072, 7_291_080, 7_307_464, 7_323_904, 7_586_048, 7_848_192, 14_139_648,
                14_663_936, 14_672_128, 33_546_496, 33_554_688, 33_685_760
            ]
        );
        assert_eq!(row, [0, 256, 4352, 8448, 39_168]);
        assert_eq!(sizes, [37_880_064, 128, 64, 16, 192, 128, 16, 64, 192, 1_152]);
    }

    #[test]
    fn foreign_descriptors_are_refused() {
        let file = File::open("/dev/null").unwrap();
        assert!(matches!(
            Segment::attach(file.as_raw_fd()),
            Err(SegmentError::Foreign(_))
        ));
        assert!(matches!(Segment::attach(-1), Err(SegmentError::System(_))));
        let segment = Segment::new(1).unwrap();
        segment.layout().header.version.store(VERSION + 1, Ordering::Relaxed);
        assert!(matches!(Segment::attach(segment.fd()), Err(SegmentError::Foreign(_))));
    }
}
