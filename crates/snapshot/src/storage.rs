//! A file, from some offset on, written and read in whole aligned pages.

use crate::buffer::Buffer;
use memory::PAGE_SIZE;
use memory::fuse::{self, Act, Course};
use rustix::fs::{FallocateFlags, FileType, OFlags, SeekFrom};
use rustix::io::Errno;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Most bytes of zeroes written at once where holes cannot be punched.
const ZEROES: u64 = 1 << 20;

/// A regular file with a snapshot in it. Everything goes through one descriptor, in whole pages from
/// aligned memory, so that it does not matter whether it has `O_DIRECT`.
#[derive(Debug)]
pub(crate) struct Storage {
    file: OwnedFd,
    /// Where the snapshot begins, in bytes.
    base: u64,
    can_punch: AtomicBool,
}

/// What failed, and where in the file.
#[derive(Debug)]
pub(crate) struct Failure {
    pub action: &'static str,
    pub offset: Option<u64>,
    pub source: io::Error,
}

pub(crate) fn failure(action: &'static str) -> impl Fn(io::Error) -> Failure {
    move |source| Failure { action, offset: None, source }
}

impl Storage {
    pub(crate) fn new(file: OwnedFd, base: u64) -> Self {
        Self { file, base, can_punch: AtomicBool::new(true) }
    }

    pub(crate) fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// Where in the file this offset of the snapshot lies.
    pub(crate) fn place(&self, at: u64) -> u64 {
        self.base.saturating_add(at)
    }

    /// Writes all of `bytes` at `at`, bytes from the start of the snapshot.
    pub(crate) fn write(&self, action: &'static str, bytes: &[u8], at: u64) -> Result<(), Failure> {
        let mut done = 0;
        while done < bytes.len() {
            let offset = self.place(at + done as u64);
            let failed = |source| Failure { action, offset: Some(offset), source };
            let act = Act::Write { file: self.file.as_fd(), offset, bytes: &bytes[done..] };
            let most = match fuse::pass(act).map_err(failed)? {
                Course::Done => bytes.len(),
                Course::Part(most) => bytes.len().min(done + most),
                Course::Skipped => return Ok(()),
            };
            match rustix::io::pwrite(&self.file, &bytes[done..most], offset) {
                Ok(0) => return Err(failed(io::ErrorKind::WriteZero.into())),
                // What was cut short within a page is written again from its start: it has to be
                // aligned. Less than a page is no progress, and the next try says why.
                Ok(written) if written >= bytes.len() - done => done = bytes.len(),
                Ok(written) if written >= 4096 => done += written / 4096 * 4096,
                Ok(_) => return Err(failed(io::ErrorKind::WriteZero.into())),
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        Ok(())
    }

    /// Writes `bytes`, and zeroes up to the end of the page.
    pub(crate) fn write_padded(
        &self,
        action: &'static str,
        bytes: &[u8],
        at: u64,
    ) -> Result<(), Failure> {
        self.write(action, Buffer::holding(bytes).as_slice(), at)
    }

    /// Fills `bytes` from `at`, bytes from the start of the snapshot.
    pub(crate) fn read(
        &self,
        action: &'static str,
        bytes: &mut [u8],
        at: u64,
    ) -> Result<(), Failure> {
        let mut done = 0;
        while done < bytes.len() {
            let offset = self.place(at + done as u64);
            let failed = |source| Failure { action, offset: Some(offset), source };
            let act = Act::Read { file: self.file.as_fd(), offset };
            let most = match fuse::pass(act).map_err(failed)? {
                Course::Part(most) => bytes.len().min(done + most),
                Course::Done | Course::Skipped => bytes.len(),
            };
            match rustix::io::pread(&self.file, &mut bytes[done..most], offset) {
                Ok(0) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        Ok(())
    }

    /// The next stretch from `at` on that may hold anything but zeroes, in bytes from the start of the
    /// snapshot; `None` where the file has only holes up to `end`. All of it where nobody knows, and
    /// where the file ends before.
    pub(crate) fn data(&self, at: u64, end: u64) -> Option<Range<u64>> {
        let reaches = || {
            let size = rustix::fs::fstat(&self.file).map_or(0, |about| about.st_size);
            u64::try_from(size).is_ok_and(|size| size >= self.place(end))
        };
        let seek = |from: SeekFrom| match rustix::fs::seek(&self.file, from) {
            Ok(place) => Ok(place.saturating_sub(self.base)),
            Err(Errno::NXIO) if reaches() => Err(None),
            Err(_) => Err(Some(at..end)),
        };
        let start = match seek(SeekFrom::Data(self.place(at))) {
            Ok(start) => start,
            Err(unknown) => return unknown,
        };
        if start >= end {
            return None;
        }
        let hole = seek(SeekFrom::Hole(self.place(start))).unwrap_or(end);
        Some(start..hole.clamp(start, end))
    }

    /// Takes the space of `length` bytes from `at`, which go on reading as what they are.
    pub(crate) fn reserve(&self, at: u64, length: u64) -> Result<(), Failure> {
        let offset = self.place(at);
        let failed = |source| Failure { action: "reserving space", offset: Some(offset), source };
        let act = Act::Reserve { file: self.file.as_fd(), offset, length };
        match fuse::pass(act).map_err(failed)? {
            Course::Done | Course::Part(_) => {
                rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, length)
                    .map_err(|e| failed(e.into()))
            }
            Course::Skipped => Ok(()),
        }
    }

    /// How many bytes more the file system has room for, as far as it says.
    pub(crate) fn room(&self) -> u64 {
        let about = rustix::fs::fstatvfs(&self.file);
        about.map_or(0, |about| about.f_bavail.saturating_mul(about.f_frsize))
    }

    /// Makes `length` bytes from `at` read as zero, and gives their space back where the file system
    /// can.
    pub(crate) fn punch(&self, at: u64, length: u64) -> Result<(), Failure> {
        let action = "punching out pages that became zero";
        if self.punch_out(action, at, length)? {
            return Ok(());
        }
        let zeroes = Buffer::new(length.min(ZEROES) / PAGE_SIZE);
        let mut done = 0;
        while done < length {
            let part = (length - done).min(ZEROES);
            let part_bytes = usize::try_from(part).expect("a MiB at most");
            self.write(action, &zeroes.as_slice()[..part_bytes], at + done)?;
            done += part;
        }
        Ok(())
    }

    /// Gives the space of `length` bytes from `at` back, which were never written, where the file
    /// system can.
    pub(crate) fn give_back(&self, at: u64, length: u64) -> Result<(), Failure> {
        self.punch_out("giving back space that was not needed", at, length).map(drop)
    }

    /// Makes a hole. False where the file system has none.
    fn punch_out(&self, action: &'static str, at: u64, length: u64) -> Result<bool, Failure> {
        if !self.can_punch.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let offset = self.place(at);
        let failed = |source| Failure { action, offset: Some(offset), source };
        let act = Act::Punch { file: self.file.as_fd(), offset, length };
        if fuse::pass(act).map_err(failed)? == Course::Skipped {
            return Ok(true);
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, flags, offset, length) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.can_punch.store(false, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Has it write zeroes, as where the file system cannot punch holes.
    #[cfg(test)]
    pub(crate) fn forbid_holes(&self) {
        self.can_punch.store(false, Ordering::Relaxed);
    }

    /// Sets the length, in bytes from the start of the snapshot.
    pub(crate) fn set_length(&self, length: u64) -> Result<(), Failure> {
        let failed = failure("setting its length");
        fuse::pass(Act::SetLength { file: self.file.as_fd() }).map_err(&failed)?;
        rustix::fs::ftruncate(&self.file, self.place(length)).map_err(|e| failed(e.into()))
    }

    /// Makes durable what was written.
    pub(crate) fn sync(&self) -> Result<(), Failure> {
        let failed = failure("making it durable (fdatasync)");
        match fuse::pass(Act::Sync { file: self.file.as_fd() }).map_err(&failed)? {
            Course::Done | Course::Part(_) => {
                rustix::fs::fdatasync(&self.file).map_err(|e| failed(e.into()))
            }
            Course::Skipped => Ok(()),
        }
    }

    /// Whether pages go around the page cache.
    pub(crate) fn is_direct(&self) -> bool {
        rustix::fs::fcntl_getfl(&self.file).is_ok_and(|flags| flags.contains(OFlags::DIRECT))
    }

    /// Goes through the page cache from now on.
    pub(crate) fn set_buffered(&self) -> io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(&self.file)?;
        Ok(rustix::fs::fcntl_setfl(&self.file, flags - OFlags::DIRECT)?)
    }
}

/// What a file is that is not a regular one; `None` for a regular one.
pub(crate) fn not_regular(mode: u32) -> Option<&'static str> {
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => None,
        FileType::Directory => Some("a folder"),
        FileType::Fifo => Some("a pipe"),
        FileType::Socket => Some("a socket"),
        FileType::CharacterDevice => Some("a character device"),
        FileType::BlockDevice => Some("a block device"),
        _ => Some("not a file"),
    }
}
