//! A kernel or an initrd, wherever it comes from.

use super::BootError;
use super::error::memory_error;
use rustix::fs::MemfdFlags;
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// What comes from a pipe has to be kept in memory, and a pipe need not end.
const MOST_FROM_PIPE: u64 = 1 << 30;
const CHUNK: usize = 256 << 10;

/// The bytes of an image, read at offsets and never kept whole unless they have to be.
#[derive(Debug)]
pub struct Image {
    name: String,
    length: u64,
    data: Data,
}

#[derive(Debug)]
enum Data {
    File(File),
    Bytes(Cow<'static, [u8]>),
}

impl Image {
    /// Opens a file. A pipe will do (`--initrd <(…)`).
    ///
    /// # Errors
    /// [`BootError::Open`] when it cannot be opened, [`BootError::Read`] when a pipe cannot be
    /// read to its end.
    pub fn open(path: &Path) -> Result<Self, BootError> {
        let name = path.display().to_string();
        let failed = |source| BootError::Open { file: name.clone(), source };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        if metadata.is_file() {
            return Ok(Self { name, length: metadata.len(), data: Data::File(file) });
        }
        let mut bytes = Vec::new();
        file.take(MOST_FROM_PIPE).read_to_end(&mut bytes).map_err(|source| BootError::Read {
            file: name.clone(),
            offset: 0,
            source,
        })?;
        Ok(Self::from_bytes(name, bytes))
    }

    /// An image that is in memory already, such as a built-in guest. The name is for messages.
    pub fn from_bytes(name: impl Into<String>, bytes: impl Into<Cow<'static, [u8]>>) -> Self {
        let bytes = bytes.into();
        Self { name: name.into(), length: bytes.len() as u64, data: Data::Bytes(bytes) }
    }

    /// An image in a file that is open already, as another process of this host had it.
    ///
    /// # Errors
    /// [`BootError::Open`] when it is no regular file.
    pub fn from_file(name: impl Into<String>, file: OwnedFd) -> Result<Self, BootError> {
        let (name, file) = (name.into(), File::from(file));
        let failed = |source| BootError::Open { file: name.clone(), source };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        Ok(Self { name, length: metadata.len(), data: Data::File(file) })
    }

    /// A file that holds it: its own, or one in memory.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn file(&self) -> io::Result<OwnedFd> {
        match &self.data {
            Data::File(file) => file.try_clone().map(Into::into),
            Data::Bytes(bytes) => {
                let made = rustix::fs::memfd_create("whimbrel-image", MemfdFlags::CLOEXEC)?;
                let file = File::from(made);
                file.write_all_at(bytes, 0)?;
                Ok(file.into())
            }
        }
    }

    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Checks that the image has `length` bytes from `offset` on.
    pub(super) fn check(&self, offset: u64, length: u64) -> Result<(), BootError> {
        let needed = offset.checked_add(length);
        if needed.is_some_and(|needed| needed <= self.length) {
            return Ok(());
        }
        let needed = needed.unwrap_or(u64::MAX);
        Err(BootError::Truncated { file: self.name.clone(), length: self.length, needed })
    }

    /// Fills `buffer` from `offset` on.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), BootError> {
        self.check(offset, buffer.len() as u64)?;
        match &self.data {
            Data::File(file) => file
                .read_exact_at(buffer, offset)
                .map_err(|source| BootError::Read { file: self.name.clone(), offset, source }),
            Data::Bytes(bytes) => {
                let at = usize::try_from(offset).expect("checked to be within the bytes");
                buffer.copy_from_slice(&bytes[at..at + buffer.len()]);
                Ok(())
            }
        }
    }

    /// Copies `length` bytes from `offset` on to a guest-physical address.
    pub(super) fn copy_to<M: GuestMemoryBackend>(
        &self,
        memory: &M,
        address: u64,
        offset: u64,
        length: u64,
    ) -> Result<(), BootError> {
        self.check(offset, length)?;
        let mut chunk = vec![0; CHUNK.min(usize::try_from(length).unwrap_or(CHUNK))];
        let mut done = 0;
        while done < length {
            let now = usize::try_from(length - done).map_or(CHUNK, |left| left.min(CHUNK));
            self.read_at(offset + done, &mut chunk[..now])?;
            memory
                .write_slice(&chunk[..now], GuestAddress(address + done))
                .map_err(memory_error("an image"))?;
            done += now as u64;
        }
        Ok(())
    }
}
