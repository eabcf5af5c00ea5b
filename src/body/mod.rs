//! Holding request bodies: in memory while there is room, then in an encrypted file.
//!
//! Owns the budget for all bodies together and the spool files. Knows nothing of requests, limits per route or HTTP.
//!
//! The budget (`memory`) is hard. Seven eighths of it are for *chunks*, the pieces that bodies hold in memory; the last
//! eighth of those only for bodies of up to 64 KiB, so that small deliveries go on when large ones fill the rest. One
//! eighth is for *stages*: a body that spills holds one buffer, whatever its size, until it is dropped. Every byte stays
//! counted until it is really gone: frames of a [`BodyStream`] carry their charge with them.

use std::{
    fmt, io, mem,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    vec,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use rustix::io::Errno;

use budget::{Hold, Pool};
use spool::{Reader, Spool, Spooled, TAG};

mod budget;
mod spool;
#[cfg(test)]
mod tests;

/// A piece at least this long is kept as it came; shorter ones are copied together.
///
/// A kept piece may be a slice that pins a larger buffer. The HTTP layer reads into a bounded buffer per connection and
/// starts a new one when what is left is too little, so what is pinned beside a piece this long stays a small factor.
const KEEP_MIN: usize = 4 * 1024;

/// Small pieces are gathered in buffers that grow with the body, within these bounds.
const TAIL_MIN: usize = 1024;
const TAIL_MAX: usize = 16 * 1024;

/// Charged for each chunk beside its bytes: its place in the list, and the owner of the frame it becomes.
const CHUNK_COST: u64 = 160;

/// A body that holds more than this may not use the last eighth of the chunk budget.
const SMALL_BODY_MAX: u64 = 64 * 1024;

/// Records are this long, or shorter where the budget is so small that fewer than [`SPILLED_BODIES`] stages would fit.
const RECORD_MAX: u64 = 32 * 1024;
const RECORD_MIN: u64 = 2 * 1024;
const SPILLED_BODIES: u64 = 256;

/// How much may be held, and where.
#[derive(Debug, Clone)]
pub struct BodyStoreConfig {
    /// Bytes that all bodies together may hold in memory. Below 1 MiB little more than small bodies fit.
    pub memory: u64,
    /// Directory for spool files; `None`: never spill.
    pub spool_dir: Option<PathBuf>,
    /// Bytes that all spool files together may hold; 0: never spill.
    pub spool: u64,
}

/// Why a body cannot be held, or read back.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Memory is full, and so is the spool, or there is none. It passes: the sender should try again.
    #[error("{}", match source {
        None => "no room for the body in memory or spool; see `body_memory` and `spool` in [limits]",
        Some(_) => "no room for the body in memory, and the system has none in `limits.spool_dir`",
    })]
    Full {
        /// What the system said, when it was the disk (or the number of open files) and not our own limit.
        source: Option<io::Error>,
    },
    /// The spool file cannot be made, written or read.
    #[error("spool file trouble")]
    Spool(#[source] io::Error),
    /// What was read back is not what was written.
    #[error("spool file was changed or cut by somebody else")]
    Corrupt,
}

impl StoreError {
    fn from_io(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::NOSPC | Errno::DQUOT | Errno::MFILE | Errno::NFILE) => Self::Full {
                source: Some(error),
            },
            Some(_) | None => Self::Spool(error),
        }
    }
}

/// The budget that all bodies share. Clones are the same store.
#[derive(Debug, Clone)]
pub struct BodyStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    chunks: Arc<Pool>,
    stages: Arc<Pool>,
    spool: Arc<Pool>,
    spool_dir: Option<PathBuf>,
    /// What the system said when a spool file last failed; none since one was written.
    trouble: Mutex<Option<String>>,
    /// Plaintext bytes per record; a stage holds one record and its tag.
    record: u64,
}

impl BodyStore {
    /// Makes an empty store. Touches no file.
    pub fn new(config: BodyStoreConfig) -> Self {
        let spool_dir = config.spool_dir.filter(|_| config.spool > 0);
        let record =
            power_of_two_below(config.memory / 8 / SPILLED_BODIES).clamp(RECORD_MIN, RECORD_MAX);
        let stages = match spool_dir {
            Some(_) => (config.memory / 8).max(record + TAG as u64),
            None => 0,
        }
        .min(config.memory);
        Self(Arc::new(Shared {
            chunks: Pool::new(config.memory - stages),
            stages: Pool::new(stages),
            spool: Pool::new(config.spool),
            spool_dir,
            trouble: Mutex::default(),
            record,
        }))
    }

    /// Tries whether a spool file can be made and written now. Blocks on the file system.
    ///
    /// # Errors
    /// What the system says about the directory. Never, if nothing is ever spilled.
    pub fn probe(&self) -> io::Result<()> {
        use std::os::unix::fs::FileExt as _;
        match &self.0.spool_dir {
            Some(dir) => spool::create_file(dir)?.write_all_at(&[0], 0),
            None => Ok(()),
        }
    }

    /// Starts a body. It holds nothing yet.
    pub fn writer(&self) -> BodyWriter {
        BodyWriter {
            store: self.clone(),
            memory: Memory {
                chunks: Vec::new(),
                tail: Vec::new(),
                hold: Hold::empty(&self.0.chunks),
            },
            place: Place::Memory,
            len: 0,
        }
    }

    /// Bytes of memory that bodies hold now, stages included. Never above the configured `memory`.
    pub fn memory_bytes(&self) -> u64 {
        self.0.chunks.held() + self.0.stages.held()
    }

    /// Bytes in spool files now. Never above the configured `spool`.
    pub fn spool_bytes(&self) -> u64 {
        self.0.spool.held()
    }

    /// Where spool files are; `None`: nothing is ever spilled.
    pub fn spool_dir(&self) -> Option<&Path> {
        self.0.spool_dir.as_deref()
    }

    /// Why the last spool file failed, if none was written since.
    pub fn spool_trouble(&self) -> Option<String> {
        self.trouble().clone()
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        let trouble = self.0.trouble.lock();
        trouble.unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of how work on a spool file ended.
    fn noted<T>(&self, worked: Result<T, StoreError>) -> Result<T, StoreError> {
        match &worked {
            Ok(_) => *self.trouble() = None,
            Err(
                StoreError::Spool(error)
                | StoreError::Full {
                    source: Some(error),
                },
            ) => *self.trouble() = Some(error.to_string()),
            // Our own limit is no fault of the folder.
            Err(StoreError::Full { source: None } | StoreError::Corrupt) => {}
        }
        worked
    }

    /// Bodies that hold a spool file now.
    pub fn spooled_bodies(&self) -> u64 {
        self.0.stages.held() / self.stage_bytes()
    }

    fn stage_bytes(&self) -> u64 {
        self.0.record + TAG as u64
    }

    async fn spill(&self) -> Result<Spool, StoreError> {
        let mut stage = Hold::empty(&self.0.stages);
        match &self.0.spool_dir {
            Some(dir) if stage.grow(self.stage_bytes(), u64::MAX) => {
                let quota = Hold::empty(&self.0.spool);
                Spool::create(dir, self.0.record as usize, quota, stage).await
            }
            Some(_) | None => Err(StoreError::Full { source: None }),
        }
    }
}

fn power_of_two_below(number: u64) -> u64 {
    number.checked_ilog2().map_or(0, |log| 1 << log)
}

/// A body that is coming in.
pub struct BodyWriter {
    store: BodyStore,
    memory: Memory,
    place: Place,
    len: u64,
}

/// Where the next piece goes.
enum Place {
    Memory,
    Spool(Spool),
    /// A push failed, or was dropped before its end: bytes are missing.
    Lost,
}

impl BodyWriter {
    /// Adds a piece. Neither waits nor copies while memory has room for the body; once it had none, everything that
    /// follows goes to the spool.
    ///
    /// # Errors
    /// [`StoreError::Full`] or [`StoreError::Spool`]. The body is lost then: drop the writer.
    ///
    /// # Cancel safety
    /// None for the body: if the future is dropped before its end, every later call fails. What the body holds is
    /// given back in any case when the writer is dropped (a write under way ends first).
    pub async fn push(&mut self, piece: Bytes) -> Result<(), StoreError> {
        let len = piece.len() as u64;
        let refused = match self.place {
            Place::Memory => self.memory.keep(piece),
            Place::Spool(_) | Place::Lost => Err(piece),
        };
        if let Err(piece) = refused {
            // In a box: rare, and its state would else make every request's future larger.
            Box::pin(self.push_beyond(piece)).await?;
        }
        self.len += len;
        Ok(())
    }

    /// Adds a piece for which memory has no room.
    async fn push_beyond(&mut self, piece: Bytes) -> Result<(), StoreError> {
        let spool = match mem::replace(&mut self.place, Place::Lost) {
            Place::Memory => match self.store.spill().await {
                Ok(spool) => spool,
                failed @ Err(_) => self.store.noted(failed)?,
            },
            Place::Spool(spool) => spool,
            Place::Lost => return Err(lost()),
        };
        self.place = Place::Spool(match spool.push(piece).await {
            Ok(spool) => spool,
            failed @ Err(_) => self.store.noted(failed)?,
        });
        Ok(())
    }

    /// Bytes of the body so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no byte has come yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Closes the body.
    ///
    /// # Errors
    /// [`StoreError::Full`] or [`StoreError::Spool`], if the end cannot be written or an earlier push failed.
    pub async fn finish(mut self) -> Result<RawBody, StoreError> {
        self.memory.close_tail();
        Ok(RawBody {
            spooled: match self.place {
                Place::Memory => None,
                Place::Spool(spool) => {
                    let finished = Box::pin(spool.finish()).await;
                    Some(Box::new(self.store.noted(finished)?))
                }
                Place::Lost => return Err(lost()),
            },
            chunks: self.memory.chunks,
            hold: self.memory.hold,
            len: self.len,
        })
    }
}

fn lost() -> StoreError {
    StoreError::Spool(io::Error::other(
        "an earlier piece of this body was not stored",
    ))
}

/// The part of a body that is in memory.
struct Memory {
    chunks: Vec<Chunk>,
    /// Gathers small pieces. Charged by its capacity from the start; never grows.
    tail: Vec<u8>,
    hold: Hold,
}

struct Chunk {
    bytes: Bytes,
    charge: u64,
}

impl Memory {
    /// Keeps `piece`, or gives back as much of its end as the budget refuses.
    fn keep(&mut self, mut piece: Bytes) -> Result<(), Bytes> {
        if piece.is_empty() {
            return Ok(());
        }
        // Most bodies come in one piece, which is never copied.
        if self.hold.bytes() == 0 || piece.len() >= KEEP_MIN {
            self.close_tail();
            let charge = piece.len() as u64 + CHUNK_COST;
            if !self.charge(charge) {
                return Err(piece);
            }
            self.chunks.push(Chunk {
                bytes: piece,
                charge,
            });
            return Ok(());
        }
        let room = self.tail.capacity() - self.tail.len();
        self.tail
            .extend_from_slice(&piece.split_to(room.min(piece.len())));
        if piece.is_empty() {
            return Ok(());
        }
        self.close_tail();
        let held = usize::try_from(self.hold.bytes()).unwrap_or(TAIL_MAX);
        let capacity = held.clamp(TAIL_MIN, TAIL_MAX).max(piece.len());
        if !self.charge(capacity as u64 + CHUNK_COST) {
            return Err(piece);
        }
        self.tail.reserve_exact(capacity);
        self.tail.extend_from_slice(&piece);
        Ok(())
    }

    fn charge(&mut self, bytes: u64) -> bool {
        let max = self.hold.pool().max;
        let limit = match self.hold.bytes().saturating_add(bytes) <= SMALL_BODY_MAX {
            true => max,
            false => max - max / 8,
        };
        self.hold.grow(bytes, limit)
    }

    /// Makes a chunk of the tail, without the room that was not used if that is more than half.
    fn close_tail(&mut self) {
        let tail = mem::take(&mut self.tail);
        if tail.is_empty() {
            return;
        }
        let unused = tail.capacity() - tail.len();
        let (bytes, capacity) = if unused > tail.len() {
            let bytes = Bytes::copy_from_slice(&tail);
            drop(self.hold.split(unused as u64));
            (bytes, tail.len())
        } else {
            let capacity = tail.capacity();
            (Bytes::from(tail), capacity)
        };
        self.chunks.push(Chunk {
            bytes,
            charge: capacity as u64 + CHUNK_COST,
        });
    }
}

/// A whole body, exactly as it came. Can only be read, once.
pub struct RawBody {
    chunks: Vec<Chunk>,
    hold: Hold,
    /// In a box, as is the reader below: rare, and large beside the rest.
    spooled: Option<Box<Spooled>>,
    len: u64,
}

impl RawBody {
    /// Bytes in the body.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the body has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether a part of it is in a file.
    pub fn is_spilled(&self) -> bool {
        self.spooled.is_some()
    }

    /// The whole body at once, for a check that has to look into it. What is copied for that is counted against the budget.
    ///
    /// # Errors
    /// [`StoreError::Full`] if there is no room for the copy, or what reading a spool file can end with.
    ///
    /// # Cancel safety
    /// The body is lost if the future is dropped before its end.
    pub async fn read_whole(&mut self) -> Result<WholeBody, StoreError> {
        if self.spooled.is_none() && self.chunks.len() < 2 {
            return Ok(WholeBody {
                bytes: self
                    .chunks
                    .first()
                    .map(|chunk| chunk.bytes.clone())
                    .unwrap_or_default(),
                _hold: None,
            });
        }
        let mut hold = self.hold.split(0);
        let max = self.hold.pool().max;
        let (Ok(len), true) = (usize::try_from(self.len), hold.grow(self.len, max)) else {
            return Err(StoreError::Full { source: None });
        };
        let mut text = Vec::with_capacity(len);
        for chunk in &self.chunks {
            text.extend_from_slice(&chunk.bytes);
        }
        if let Some(spooled) = self.spooled.take() {
            let (spooled, whole) = Box::pin(spooled.read_all(text)).await?;
            self.spooled = Some(Box::new(spooled));
            text = whole;
        }
        Ok(WholeBody {
            bytes: text.into(),
            _hold: Some(hold),
        })
    }

    /// Hands the bytes out in order.
    pub fn into_stream(self) -> BodyStream {
        BodyStream {
            chunks: self.chunks.into_iter(),
            hold: self.hold,
            reader: self.spooled.map(|spooled| Box::new(spooled.into_reader())),
            remaining: self.len,
        }
    }
}

/// A body in one piece, to be read and dropped. Stays counted against the budget until then.
pub struct WholeBody {
    bytes: Bytes,
    _hold: Option<Hold>,
}

impl AsRef<[u8]> for WholeBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for WholeBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WholeBody({} bytes)", self.bytes.len())
    }
}

/// A body on its way out: first what is in memory, as it came, then the spool, record by record.
///
/// Each frame stays counted against the budget until it is dropped. **The next frame from the spool comes only after the
/// one before was dropped**: whoever collects frames without passing them on waits for ever once a body is spilled.
pub struct BodyStream {
    chunks: vec::IntoIter<Chunk>,
    hold: Hold,
    reader: Option<Box<Reader>>,
    remaining: u64,
}

impl Body for BodyStream {
    type Data = Bytes;
    type Error = StoreError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StoreError>>> {
        let bytes = if let Some(chunk) = self.chunks.next() {
            Bytes::from_owner(Charged {
                _hold: self.hold.split(chunk.charge),
                bytes: chunk.bytes,
            })
        } else if let Some(reader) = &mut self.reader {
            match ready!(reader.poll_record(cx)) {
                Some(Ok(bytes)) => bytes,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        } else {
            return Poll::Ready(None);
        };
        self.remaining -= bytes.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

/// A chunk on its way out, with its charge. Field order is drop order.
struct Charged {
    bytes: Bytes,
    _hold: Hold,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

// What a body holds is never printed.

impl fmt::Debug for BodyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BodyWriter({} bytes)", self.len)
    }
}

impl fmt::Debug for RawBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawBody({} bytes)", self.len)
    }
}

impl fmt::Debug for BodyStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BodyStream({} bytes left)", self.remaining)
    }
}
