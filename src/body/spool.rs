//! The part of a body that found no room in memory: an encrypted file without a name.
//!
//! The file is a row of records: `record` bytes of plaintext (the last one fewer), sealed with AES-256-GCM, 16 bytes of tag.
//! Every file has its own random key, which exists only in memory. The nonce of a record is its place in the row, so a
//! record that was moved does not open; how long the body is stands in memory, so a file that was cut shows. That leaves
//! nothing for associated data to say.
//!
//! Work on the file runs on the blocking pool and *owns* the file, its key and its reservations meanwhile: if the waiting
//! future is dropped, they go when the work ends, once.

use std::{
    fs::{File, Permissions},
    io, mem,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand,
};
use bytes::Bytes;
use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
};
use zeroize::Zeroizing;

use super::{StoreError, budget::Hold};

/// Bytes that sealing adds to a record.
pub(super) const TAG: usize = 16;

/// Creates a file that only this process can reach. Blocks.
pub(super) fn create_file(dir: &Path) -> io::Result<File> {
    let file = tempfile::tempfile_in(dir)?;
    // An unnamed file is made with the umask's rights.
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

/// A file and what goes with it. Field order is drop order: space is given back after the file is closed.
struct Sealed {
    file: File,
    key: LessSafeKey, // overwritten by its own destructor
    record: usize,
    quota: Hold,
}

impl Sealed {
    fn create(dir: &Path, record: usize, quota: Hold) -> Result<Self, StoreError> {
        let mut key = Zeroizing::new([0; 32]);
        rand::fill(&mut *key).map_err(|_| crypto_trouble())?;
        let key = UnboundKey::new(&AES_256_GCM, &*key).map_err(|_| crypto_trouble())?;
        Ok(Self {
            file: create_file(dir).map_err(StoreError::from_io)?,
            key: LessSafeKey::new(key),
            record,
            quota,
        })
    }

    fn offset(&self, index: u64) -> u64 {
        index * (self.record + TAG) as u64
    }

    /// Seals `buffer` in place and writes it as the record at `index`.
    fn write(&mut self, index: u64, buffer: &mut Vec<u8>) -> Result<(), StoreError> {
        if !self.quota.grow((buffer.len() + TAG) as u64, u64::MAX) {
            return Err(StoreError::Full { source: None });
        }
        self.key
            .seal_in_place_append_tag(nonce(index), Aad::empty(), buffer)
            .map_err(|_| crypto_trouble())?;
        self.file
            .write_all_at(buffer, self.offset(index))
            .map_err(StoreError::from_io)
    }

    /// Reads the record at `index`, `len` bytes long before it was sealed, into `buffer`.
    fn read(&self, index: u64, len: usize, buffer: &mut Vec<u8>) -> Result<(), StoreError> {
        buffer.resize(len + TAG, 0);
        self.file
            .read_exact_at(buffer, self.offset(index))
            .map_err(|error| match error.kind() == io::ErrorKind::UnexpectedEof {
                true => StoreError::Corrupt,
                false => StoreError::Spool(error),
            })?;
        self.key
            .open_in_place(nonce(index), Aad::empty(), buffer)
            .map_err(|_| StoreError::Corrupt)?;
        buffer.truncate(len);
        Ok(())
    }
}

fn nonce(index: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&index.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn crypto_trouble() -> StoreError {
    StoreError::Spool(io::Error::other("encryption is not available"))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|gone| Err(StoreError::Spool(gone.into())))
}

/// A spool file being written. Its methods consume it and give it back only on success, so a failed or half-done write
/// cannot be carried on.
pub(super) struct Spool {
    sealed: Sealed,
    /// Plaintext that does not fill a record yet.
    stage: Vec<u8>,
    /// Plaintext bytes in the file.
    written: u64,
    stage_hold: Hold,
}

impl Spool {
    pub(super) async fn create(
        dir: &Path,
        record: usize,
        quota: Hold,
        stage_hold: Hold,
    ) -> Result<Self, StoreError> {
        let dir = dir.to_owned();
        blocking(move || {
            Ok(Self {
                sealed: Sealed::create(&dir, record, quota)?,
                stage: Vec::with_capacity(record + TAG),
                written: 0,
                stage_hold,
            })
        })
        .await
    }

    /// Adds `piece`; awaits only when it fills the stage.
    pub(super) async fn push(mut self, mut piece: Bytes) -> Result<Self, StoreError> {
        if piece.len() < self.sealed.record - self.stage.len() {
            self.stage.extend_from_slice(&piece);
            return Ok(self);
        }
        blocking(move || {
            while !piece.is_empty() {
                let room = self.sealed.record - self.stage.len();
                self.stage
                    .extend_from_slice(&piece.split_to(room.min(piece.len())));
                if self.stage.len() == self.sealed.record {
                    self.write_stage()?;
                }
            }
            Ok(self)
        })
        .await
    }

    /// Writes what is left in the stage.
    pub(super) async fn finish(mut self) -> Result<Spooled, StoreError> {
        if !self.stage.is_empty() {
            self = blocking(move || {
                self.write_stage()?;
                Ok(self)
            })
            .await?;
        }
        Ok(Spooled {
            sealed: self.sealed,
            read: 0,
            len: self.written,
            stage: self.stage,
            stage_hold: Arc::new(self.stage_hold),
        })
    }

    fn write_stage(&mut self) -> Result<(), StoreError> {
        let len = self.stage.len() as u64;
        let index = self.written / self.sealed.record as u64;
        self.sealed.write(index, &mut self.stage)?;
        self.stage.clear();
        self.written += len;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn file(&mut self) -> &mut File {
        &mut self.sealed.file
    }
}

/// A spool file that is whole. Never empty.
pub(super) struct Spooled {
    sealed: Sealed,
    /// Plaintext bytes read back so far, and in all.
    read: u64,
    len: u64,
    stage: Vec<u8>,
    stage_hold: Arc<Hold>,
}

impl Spooled {
    pub(super) fn into_reader(self) -> Reader {
        Reader {
            stage_hold: Arc::clone(&self.stage_hold),
            state: State::Idle(self),
        }
    }

    /// Reads the whole file behind `text`, and gives both back: the file can be read again.
    pub(super) async fn read_all(
        mut self,
        mut text: Vec<u8>,
    ) -> Result<(Self, Vec<u8>), StoreError> {
        blocking(move || {
            let record = self.sealed.record as u64;
            let mut read = 0;
            while read < self.len {
                let len = record.min(self.len - read);
                self.sealed
                    .read(read / record, len as usize, &mut self.stage)?;
                text.extend_from_slice(&self.stage);
                read += len;
            }
            self.stage.clear();
            Ok((self, text))
        })
        .await
    }

    /// Reads the next record into the stage and hands both back; without the file if that was the last.
    ///
    /// Closing a large unnamed file frees its blocks, which takes time: it happens here, on the blocking pool.
    fn next(mut self) -> Result<ReadBack, StoreError> {
        let record = self.sealed.record as u64;
        let len = record.min(self.len - self.read);
        self.sealed
            .read(self.read / record, len as usize, &mut self.stage)?;
        self.read += len;
        let plain = mem::take(&mut self.stage);
        Ok((plain, (self.read < self.len).then_some(self)))
    }

    #[cfg(test)]
    pub(super) fn file(&self) -> &File {
        &self.sealed.file
    }
}

/// A record, and what is left to read.
type ReadBack = (Vec<u8>, Option<Spooled>);

/// Reads a spool file back, one record at a time.
///
/// There is one buffer per body, and it travels: it is filled, lent out as the frame, and comes back when the frame is
/// dropped. Until then nothing more is read, so an upstream that stalls cannot make the gateway hold more.
pub(super) struct Reader {
    state: State,
    stage_hold: Arc<Hold>,
}

enum State {
    Idle(Spooled),
    Reading(JoinHandle<Result<ReadBack, StoreError>>),
    Lent(Spooled, oneshot::Receiver<Vec<u8>>),
    Done,
}

impl Reader {
    pub(super) fn poll_record(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, StoreError>>> {
        loop {
            match mem::replace(&mut self.state, State::Done) {
                State::Idle(spooled) => {
                    self.state = State::Reading(spawn_blocking(|| spooled.next()));
                }
                State::Reading(mut task) => {
                    let Poll::Ready(joined) = Pin::new(&mut task).poll(cx) else {
                        self.state = State::Reading(task);
                        return Poll::Pending;
                    };
                    let (plain, rest) =
                        match joined.unwrap_or_else(|gone| Err(StoreError::Spool(gone.into()))) {
                            Ok(read) => read,
                            Err(error) => return Poll::Ready(Some(Err(error))),
                        };
                    let (back, returned) = oneshot::channel();
                    if let Some(spooled) = rest {
                        self.state = State::Lent(spooled, returned);
                    }
                    return Poll::Ready(Some(Ok(Bytes::from_owner(Lent {
                        plain,
                        back: Some(back),
                        _stage_hold: Arc::clone(&self.stage_hold),
                    }))));
                }
                State::Lent(mut spooled, mut returned) => match Pin::new(&mut returned).poll(cx) {
                    Poll::Pending => {
                        self.state = State::Lent(spooled, returned);
                        return Poll::Pending;
                    }
                    Poll::Ready(buffer) => {
                        spooled.stage = buffer.unwrap_or_default();
                        self.state = State::Idle(spooled);
                    }
                },
                State::Done => return Poll::Ready(None),
            }
        }
    }
}

/// The stage while it is out as a frame. It stays counted until the frame is dropped.
struct Lent {
    plain: Vec<u8>,
    back: Option<oneshot::Sender<Vec<u8>>>,
    _stage_hold: Arc<Hold>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.plain
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(back) = self.back.take() {
            // The stream may be gone already; then the buffer goes too.
            let _ = back.send(mem::take(&mut self.plain));
        }
    }
}
