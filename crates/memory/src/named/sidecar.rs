//! The file beside a memory file: who may use that, and what it holds.

use super::MemoryFileError;
use crate::fuse::{self, Act, Course};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"WHIMRAMF";
const VERSION: u32 = 1;
/// Bytes of a record: what a disk writes as a whole or not at all.
const BYTES: usize = 512;
/// Where the second of the two records is: in a page of its own.
const SLOT: u64 = 4096;

const CHECKSUM: usize = 8;
const FORMAT: usize = 12;
const IDENTITY: usize = 16;
const MACHINE: usize = 32;
const SIZE: usize = 48;
const GENERATION: usize = 56;
const SEQUENCE: usize = 64;

/// What a memory file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    /// Names what is in it: another one whenever that begins anew.
    pub identity: [u8; 16],
    /// UUID of the machine.
    pub machine: [u8; 16],
    /// Size of RAM in bytes.
    pub size: u64,
    /// Raised before a guest runs on it.
    pub generation: u64,
    /// Of two records the one with the higher number holds.
    pub sequence: u64,
}

impl Record {
    fn encode(&self) -> [u8; BYTES] {
        let Self { identity, machine, size, generation, sequence } = self;
        let mut bytes = [0; BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC);
        put(FORMAT, &VERSION.to_le_bytes());
        put(IDENTITY, identity);
        put(MACHINE, machine);
        put(SIZE, &size.to_le_bytes());
        put(GENERATION, &generation.to_le_bytes());
        put(SEQUENCE, &sequence.to_le_bytes());
        // Its own four bytes count as zero.
        let sum = crc_fast::crc32_iscsi(&bytes);
        bytes[CHECKSUM..CHECKSUM + 4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; BYTES]) -> Option<Self> {
        fn at<const N: usize>(bytes: &[u8; BYTES], at: usize) -> [u8; N] {
            bytes[at..at + N].try_into().expect("a slice of N bytes is an array of N")
        }
        let mut bytes = *bytes;
        let sum = u32::from_le_bytes(at(&bytes, CHECKSUM));
        bytes[CHECKSUM..CHECKSUM + 4].fill(0);
        let is_one = bytes.starts_with(&MAGIC)
            && crc_fast::crc32_iscsi(&bytes) == sum
            && u32::from_le_bytes(at(&bytes, FORMAT)) == VERSION;
        let number = |from| u64::from_le_bytes(at(&bytes, from));
        is_one.then(|| Self {
            identity: at(&bytes, IDENTITY),
            machine: at(&bytes, MACHINE),
            size: number(SIZE),
            generation: number(GENERATION),
            sequence: number(SEQUENCE),
        })
    }
}

/// The sidecar of a memory file, locked.
#[derive(Debug)]
pub(super) struct Sidecar {
    file: File,
    path: PathBuf,
}

impl Sidecar {
    /// Where that of a memory file is.
    pub fn path_of(memory_file: &Path) -> PathBuf {
        let mut path = OsString::from(memory_file);
        path.push(".lock");
        path.into()
    }

    /// Opens and locks it; makes it where there is none and `create` is set.
    pub fn lock(memory_file: &Path, create: bool) -> Result<Self, MemoryFileError> {
        let path = Self::path_of(memory_file);
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let flags = if create { flags | OFlags::CREATE } else { flags };
        loop {
            let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR);
            let file = File::from(file.map_err(|e| failed("opening", &path, e))?);
            flock(&file, memory_file)?;
            // Who removes it meanwhile would have another one lock another file of that name.
            let here = file.metadata().map_err(|e| failed("looking at", &path, e))?;
            let there = std::fs::symlink_metadata(&path);
            if there.is_ok_and(|there| (there.dev(), there.ino()) == (here.dev(), here.ino())) {
                return Ok(Self { file, path });
            }
        }
    }

    /// The one that another process of this machine has locked.
    pub fn inherit(file: File, memory_file: &Path) -> Self {
        Self { file, path: Self::path_of(memory_file) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// What it says, if it says anything.
    pub fn read(&self) -> Result<Option<Record>, MemoryFileError> {
        let slot = |at| -> io::Result<Option<Record>> {
            let mut bytes = [0; BYTES];
            match self.file.read_exact_at(&mut bytes, at) {
                Ok(()) => Ok(Record::decode(&bytes)),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
                Err(e) => Err(e),
            }
        };
        let both = slot(0).and_then(|first| Ok([first, slot(SLOT)?]));
        let both = both.map_err(|e| failed("reading", &self.path, e))?;
        Ok(both.into_iter().flatten().max_by_key(|record| record.sequence))
    }

    /// Says this from now on, durably. Whatever happens meanwhile, it says either this or what it said
    /// before.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let (bytes, offset) = (record.encode(), record.sequence % 2 * SLOT);
        let file = self.file.as_fd();
        if fuse::pass(Act::Write { file, offset, bytes: &bytes })? != Course::Skipped {
            self.file.write_all_at(&bytes, offset)?;
        }
        match fuse::pass(Act::Sync { file })? {
            Course::Skipped => Ok(()),
            Course::Done | Course::Part(_) => self.file.sync_data(),
        }
    }
}

/// Locks a file that belongs to this memory file.
pub(super) fn flock(file: impl AsFd, memory_file: &Path) -> Result<(), MemoryFileError> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(MemoryFileError::InUse { path: memory_file.to_owned() }),
        Err(e) => Err(failed("locking", memory_file, e)),
    }
}

pub(super) fn failed(
    action: &'static str,
    path: &Path,
    source: impl Into<io::Error>,
) -> MemoryFileError {
    MemoryFileError::System { action, path: path.to_owned(), source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(sequence: u64) -> Record {
        Record {
            identity: [1; 16],
            machine: [2; 16],
            size: 3 << 20,
            generation: sequence + 7,
            sequence,
        }
    }

    proptest! {
        #[test]
        fn every_record_reads_as_it_was_written(
            identity: [u8; 16], machine: [u8; 16], numbers: [u64; 3],
        ) {
            let [size, generation, sequence] = numbers;
            let record = Record { identity, machine, size, generation, sequence };
            prop_assert_eq!(Record::decode(&record.encode()), Some(record));
        }

        #[test]
        fn a_record_shows_every_change(at in 0..BYTES, flip in 1u8..) {
            let mut bytes = record(5).encode();
            bytes[at] ^= flip;
            prop_assert_eq!(Record::decode(&bytes), None);
        }

        #[test]
        fn a_write_that_is_cut_off_leaves_what_was_there_before(
            writes in 1u64..6, torn in 0..BYTES, garbage: u8,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let sidecar = Sidecar::lock(&folder.path().join("ram"), true).unwrap();
            prop_assert_eq!(sidecar.read().unwrap(), None);
            for sequence in 1..=writes {
                sidecar.write(&record(sequence)).unwrap();
                prop_assert_eq!(sidecar.read().unwrap(), Some(record(sequence)));
            }
            let next = record(writes + 1);
            let mut half = next.encode();
            half[torn..].iter_mut().for_each(|byte| *byte ^= garbage | 1);
            sidecar.file.write_all_at(&half, next.sequence % 2 * SLOT).unwrap();
            prop_assert_eq!(sidecar.read().unwrap(), Some(record(writes)));
        }
    }

    #[test]
    fn one_process_has_it_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let ram = folder.path().join("ram");
        assert!(matches!(Sidecar::lock(&ram, false), Err(MemoryFileError::System { .. })));
        let first = Sidecar::lock(&ram, true).unwrap();
        assert!(matches!(Sidecar::lock(&ram, true), Err(MemoryFileError::InUse { .. })));
        let copy = first.file.try_clone().unwrap();
        drop(first);
        // Whoever has the same open file has the lock.
        assert!(matches!(Sidecar::lock(&ram, true), Err(MemoryFileError::InUse { .. })));
        drop(copy);
        Sidecar::lock(&ram, false).unwrap();
    }
}
