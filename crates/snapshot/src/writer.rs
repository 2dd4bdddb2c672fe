//! Writing a snapshot.

use crate::apart::Apart;
use crate::blocks::Blocks;
use crate::checksum;
use crate::lane::Lane;
use crate::place::{Beside, Place};
use crate::places::{
    COMMIT, HEADER, Lengths, PAGE, Places, SECTIONS, most_bytes, most_description, padded,
};
use crate::record::Commit;
use crate::section::{self, Section, SectionKind};
use crate::storage::{Failure, Storage, failure, not_regular};
use crate::{Header, WriteError};
use memory::{PAGE_SIZE, PageRange, PageSet};
use rustix::fs::{Mode, OFlags};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// Bytes of a table that are written at once.
const TABLE_PIECE: usize = 1 << 20;

/// Where a snapshot is to go.
#[derive(Debug)]
pub enum Target {
    /// To a path.
    Path {
        /// The path.
        path: PathBuf,
        /// Where in the file it begins, in bytes. Not zero, the file belongs to somebody else, whose
        /// header comes first: it is written in place (created where there is none), and all that it
        /// has from there on is lost.
        offset: u64,
        /// Whether an existing file is replaced, once the new one is complete.
        force: bool,
    },
    /// Into an open file, which must be open for reading and writing. All that it has from `offset`
    /// on is lost.
    Descriptor {
        /// The file.
        file: OwnedFd,
        /// The same file, opened with `O_DIRECT`.
        direct: Option<OwnedFd>,
        /// Where in the file it begins, in bytes.
        offset: u64,
        /// What to call it in messages.
        name: String,
    },
}

/// How to write.
#[derive(Debug, Clone, Copy)]
pub struct WriteOptions {
    /// Around the page cache (`O_DIRECT`), where the file system can.
    pub direct: bool,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Identity of the snapshot.
    pub snapshot: Uuid,
    /// Its length in bytes, holes included.
    pub size: u64,
    /// Bytes that the file takes on disk.
    pub allocated: u64,
    /// Pages of RAM that are in it.
    pub pages: u64,
}

/// How far a writer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Pages,
    /// All but the mark of completeness is there.
    Finished {
        size: u64,
        pages: u64,
        sections: u32,
    },
    Committed,
    Abandoned,
    /// The mark of completeness may be there, though it is to count as missing.
    Doubtful,
}

/// Writes one snapshot: [`Lane`]s write pages, then [`Writer::finish`] the rest, then
/// [`Writer::commit`] makes it valid. Dropped before that, it abandons the file.
#[derive(Debug)]
pub struct Writer {
    name: String,
    pub(crate) storage: Storage,
    place: Place,
    places: Places,
    pub(crate) blocks: Blocks,
    /// Pages of which the space was taken beforehand.
    reserved: Mutex<Vec<PageRange>>,
    snapshot: Uuid,
    /// RAM is elsewhere.
    apart: bool,
    header_sum: u32,
    description: Section,
    buffered: Option<String>,
    stage: Mutex<Stage>,
}

impl Writer {
    /// Begins a snapshot: opens a file beside the path (nameless where the file system can), or takes
    /// the one that it was given. `description` is what the guest's machine looks like, encoded, in at
    /// most [`most_description`] bytes.
    ///
    /// # Errors
    /// [`WriteError`]; nothing is left behind then.
    pub fn create(
        target: Target,
        header: Header,
        description: &[u8],
        options: &WriteOptions,
    ) -> Result<Arc<Self>, WriteError> {
        // Checks the regions first: the size of everything else follows from them.
        header.page(0)?;
        let places = Places::of(header.room(), description.len() as u64);
        if description.len() as u64 > most_description(header.room()) {
            let (total, most) = (places.state, most_bytes(header.room()));
            return Err(WriteError::TooLarge { total, most });
        }
        let page = header.page(places.pages)?;
        let name = match &target {
            Target::Path { path, .. } => path.display().to_string(),
            Target::Descriptor { name, .. } => name.clone(),
        };
        let mut opened = open(target, &name, options.direct, header.snapshot)?;
        // All that was there is gone before anything is written: what is not written is a hole.
        let clear = |storage: &Storage| {
            storage.set_length(0)?;
            storage.set_length(places.state)?;
            storage.write("writing the header", crate::Buffer::holding(&page).as_slice(), HEADER)
        };
        let done = clear(&opened.storage).or_else(|failure| {
            // Some file systems refuse O_DIRECT only when it is used.
            let refused = failure.source.kind() == std::io::ErrorKind::InvalidInput;
            if !(refused && opened.storage.is_direct()) {
                return Err(failure);
            }
            opened.storage.set_buffered().map_err(|_| failure)?;
            opened.buffered = Some("the file system does not write with O_DIRECT".to_owned());
            clear(&opened.storage)
        });
        let writer = Self {
            blocks: Blocks::new(places.lengths.blocks),
            reserved: Mutex::default(),
            snapshot: header.snapshot,
            apart: header.apart,
            header_sum: checksum::of(&page),
            description: Section {
                kind: SectionKind::Description,
                required: true,
                offset: places.description,
                length: description.len() as u64,
                checksum: checksum::of(description),
            },
            buffered: opened.buffered,
            stage: Mutex::new(Stage::Pages),
            storage: opened.storage,
            place: opened.place,
            places,
            name: name.clone(),
        };
        let done = done.and_then(|()| {
            let action = "writing the machine's description";
            writer.storage.write_padded(action, description, places.description)
        });
        if let Err(failure) = done {
            writer.set_stage(Stage::Abandoned);
            return Err(writer.undone(in_file(&name, failure), false));
        }
        Ok(Arc::new(writer))
    }

    /// Why pages go through the page cache, if they were not to.
    #[must_use]
    pub fn buffered_because(&self) -> Option<&str> {
        self.buffered.as_deref()
    }

    /// From now on pages lie scattered: they go through the page cache, which gathers them on their way
    /// to the disk, where `O_DIRECT` would wait for each. Not while a lane is writing: a file that is
    /// written both ways at once is not coherent.
    ///
    /// # Errors
    /// [`WriteError`]; everything goes on as before.
    pub fn gather(&self) -> Result<(), WriteError> {
        let failed = failure("writing through the page cache");
        self.storage.set_buffered().map_err(|e| in_file(&self.name, failed(e)))
    }

    /// A lane: each thread that writes pages has one.
    #[must_use]
    pub fn lane(self: &Arc<Self>) -> Lane {
        Lane::new(Arc::clone(self))
    }

    /// Writes the tables, the machine's state (encoded), and which pages were touched last, and makes
    /// them durable: all but the mark of completeness. The lanes have been flushed.
    ///
    /// # Errors
    /// [`WriteError`]. The file is not complete then, and can only be abandoned.
    pub fn finish(&self, state: &[u8], recent: &PageSet) -> Result<(), WriteError> {
        if self.apart {
            return Err(self.misused("it has no pages, and does not say where they are"));
        }
        self.finish_with(state.len() as u64, |size| self.write_rest(state, recent, size))
    }

    /// The same where RAM is [apart](Header::apart): writes which memory file it is in, and the state.
    ///
    /// # Errors
    /// [`WriteError`]. The file is not complete then, and can only be abandoned.
    pub fn finish_apart(&self, state: &[u8], apart: &Apart) -> Result<(), WriteError> {
        if !self.apart {
            return Err(self.misused("its pages are to be in the file"));
        }
        let too_long = || WriteError::Header("the memory file's path is too long".to_owned());
        let apart = apart.encode().ok_or_else(too_long)?;
        let behind = padded(state.len() as u64);
        self.finish_with(behind + apart.len() as u64, |size| {
            let at = self.places.state + behind;
            self.storage.write_padded("naming the memory file", &apart, at)?;
            let sections = [
                self.description,
                described(SectionKind::State, self.places.state, state),
                described(SectionKind::MemoryFile, at, &apart),
            ];
            Ok((self.write_end(state, &sections, size)?, 0))
        })
    }

    /// Has the rest written: so many bytes from the state's place on. `write` gives the checksum of the
    /// table of sections, and how many pages there are.
    fn finish_with(
        &self,
        bytes: u64,
        write: impl FnOnce(u64) -> Result<(u32, u64), Failure>,
    ) -> Result<(), WriteError> {
        let mut stage = self.stage.lock().expect("no one panics while holding it");
        if *stage != Stage::Pages {
            return Err(self.misused("it has been finished, or given up"));
        }
        let size = self.places.total(bytes)?;
        let (sections, pages) = write(size).map_err(|failure| in_file(&self.name, failure))?;
        *stage = Stage::Finished { size, pages, sections };
        Ok(())
    }

    fn write_rest(&self, state: &[u8], recent: &PageSet, size: u64) -> Result<(u32, u64), Failure> {
        let places = &self.places;
        self.give_back()?;
        let Lengths { bitmap, index, table, .. } = places.lengths;
        let presence = bitmap_bytes(self.blocks.presence(), bitmap);
        let pages = self.blocks.presence().map(|word| u64::from(word.count_ones())).sum();
        let mut sections = vec![
            self.description,
            described(SectionKind::State, places.state, state),
            described(SectionKind::Presence, places.presence, &presence),
        ];
        self.write_sparse("writing which pages there are", &presence, places.presence)?;
        let sums = self.write_tables(places.table, index)?;
        sections.push(described(SectionKind::Index, places.index, &sums));
        sections.push(Section {
            kind: SectionKind::Checksums,
            required: true,
            offset: places.table,
            length: table,
            checksum: 0,
        });
        self.write_sparse("writing the checksums' index", &sums, places.index)?;
        if !recent.is_empty() {
            let bytes = bitmap_bytes(recent.words(0), bitmap);
            let hint = described(SectionKind::Recent, places.recent, &bytes);
            sections.push(Section { required: false, ..hint });
            self.write_sparse("writing which pages were touched last", &bytes, places.recent)?;
        }
        Ok((self.write_end(state, &sections, size)?, pages))
    }

    /// Writes the state and where everything is, and makes all of it durable. Gives the checksum of the
    /// table of sections.
    fn write_end(&self, state: &[u8], sections: &[Section], size: u64) -> Result<u32, Failure> {
        self.storage.write_padded("writing the machine's state", state, self.places.state)?;
        self.storage.set_length(size)?;
        let page = section::encode(sections);
        self.storage.write_padded("writing the table of sections", &page, SECTIONS)?;
        self.storage.sync()?;
        Ok(checksum::of(&page))
    }

    /// Writes those pages of the checksum table that have anything, and gives the index of them all.
    fn write_tables(&self, at: u64, index: u64) -> Result<Vec<u8>, Failure> {
        let action = "writing the checksums";
        let mut sums = vec![0; narrow(index)];
        let mut pending = Vec::with_capacity(TABLE_PIECE);
        let mut next = 0;
        let write = |pending: &mut Vec<u8>, end: u64| {
            let start = end * PAGE_SIZE - pending.len() as u64;
            let result = self.storage.write_padded(action, pending, at + start);
            pending.clear();
            result
        };
        for (number, page) in self.blocks.tables() {
            if number != next || pending.len() == TABLE_PIECE {
                write(&mut pending, next)?;
            }
            pending.extend_from_slice(&page);
            next = number + 1;
            let entry = narrow(number) * 4;
            sums[entry..entry + 4].copy_from_slice(&checksum::of(&page).to_le_bytes());
        }
        write(&mut pending, next)?;
        Ok(sums)
    }

    /// Writes what is not zero of `bytes`, page by page: the file has holes for the rest.
    fn write_sparse(&self, action: &'static str, bytes: &[u8], at: u64) -> Result<(), Failure> {
        for (page, offset) in bytes.chunks(PAGE).zip((at..).step_by(PAGE)) {
            if page.iter().any(|byte| *byte != 0) {
                self.storage.write_padded(action, page, offset)?;
            }
        }
        Ok(())
    }

    /// Makes the snapshot valid: the mark of completeness, durable; then, at a path, the name,
    /// durable.
    ///
    /// # Errors
    /// [`WriteError`]. Then the file is not complete and nothing of it is left (of a descriptor: it
    /// says that it is incomplete), and that has been made durable; or the error is
    /// [`WriteError::NotUndone`] and says what could not be done.
    pub fn commit(&self) -> Result<Written, WriteError> {
        let mut stage = self.stage.lock().expect("no one panics while holding it");
        let Stage::Finished { size, pages, sections } = *stage else {
            return Err(self.misused("it has not been finished, or has been committed or given up"));
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let commit = Commit {
            snapshot: self.snapshot,
            header: self.header_sum,
            sections,
            completed: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        };
        let marked = self
            .storage
            .write_padded("writing the mark of completeness", &commit.page(), COMMIT)
            .and_then(|()| self.storage.sync())
            .map_err(|failure| in_file(&self.name, failure));
        let published = marked.and_then(|()| match &self.place {
            Place::Beside(beside) => beside.publish(&self.storage),
            Place::Within => Ok(()),
        });
        if let Err(failure) = published {
            let failure = self.undone(failure, true);
            let is_undone = !matches!(failure, WriteError::NotUndone { .. });
            *stage = if is_undone { Stage::Abandoned } else { Stage::Doubtful };
            return Err(failure);
        }
        *stage = Stage::Committed;
        let about = rustix::fs::fstat(self.storage.file());
        let blocks = about.map_or(0, |about| u64::try_from(about.st_blocks).unwrap_or(0));
        Ok(Written { snapshot: self.snapshot, size, allocated: blocks * 512, pages })
    }

    /// Gives the snapshot up: removes the file, or, where it is somebody else's, makes sure that what
    /// was written is not taken for complete. Once given up, does nothing. True when it is given up,
    /// false when it is too late for that: the snapshot is complete, and stays.
    ///
    /// # Errors
    /// [`WriteError`] when that could not be made sure. It was not marked as complete, unless
    /// [`Writer::commit`] has failed with [`WriteError::NotUndone`]: then it may be, and giving it up
    /// can be tried again.
    pub fn abandon(&self) -> Result<bool, WriteError> {
        let mut stage = self.stage.lock().expect("no one panics while holding it");
        match *stage {
            Stage::Committed => return Ok(false),
            Stage::Abandoned => return Ok(true),
            Stage::Doubtful => {
                self.undo(true)?;
                *stage = Stage::Abandoned;
            }
            Stage::Pages | Stage::Finished { .. } => {
                *stage = Stage::Abandoned;
                self.undo(false)?;
            }
        }
        Ok(true)
    }

    /// Undoes everything because of `failure`, and gives what comes of it.
    fn undone(&self, failure: WriteError, is_marked: bool) -> WriteError {
        match self.undo(is_marked) {
            Ok(()) => failure,
            Err(undoing) => {
                WriteError::NotUndone { failure: Box::new(failure), undoing: Box::new(undoing) }
            }
        }
    }

    /// Makes sure that the file is not taken for complete; `is_marked` when the mark may be there.
    fn undo(&self, is_marked: bool) -> Result<(), WriteError> {
        let unmark = || {
            let action = "taking back the mark of completeness";
            self.storage
                .write(action, crate::Buffer::new(1).as_slice(), COMMIT)
                .and_then(|()| self.storage.sync())
                .map_err(|failure| in_file(&self.name, failure))
        };
        match &self.place {
            Place::Within => unmark(),
            Place::Beside(beside) if !is_marked => beside.remove(&self.storage),
            // Whatever a name leads to is made incomplete first. Either of the two is enough.
            Place::Beside(beside) => {
                let unmarked = unmark();
                beside.remove(&self.storage).or(unmarked)
            }
        }
    }

    pub(crate) fn reserved(&self) -> MutexGuard<'_, Vec<PageRange>> {
        self.reserved.lock().expect("no one panics while holding it")
    }

    /// Where these pages lie in the snapshot, in bytes.
    pub(crate) fn place_of(&self, pages: PageRange) -> u64 {
        self.places.pages + pages.offset()
    }

    fn set_stage(&self, stage: Stage) {
        *self.stage.lock().expect("no one panics while holding it") = stage;
    }

    /// Writes a run of pages, of which `sums` are the checksums, at its place.
    pub(crate) fn put(&self, start: u64, bytes: &[u8], sums: &[u32]) -> Result<(), WriteError> {
        self.storage
            .write("writing pages", bytes, self.places.pages + start * PAGE_SIZE)
            .map_err(|failure| in_file(&self.name, failure))?;
        (start..).zip(sums).for_each(|(page, sum)| self.blocks.set(page, *sum));
        Ok(())
    }

    /// Makes pages absent, and holes of those that the file had.
    pub(crate) fn clear(&self, range: PageRange) -> Result<(), WriteError> {
        for run in self.blocks.clear(range) {
            self.storage
                .punch(self.place_of(run), run.bytes())
                .map_err(|failure| in_file(&self.name, failure))?;
        }
        Ok(())
    }

    /// Refuses pages that are not the guest's.
    pub(crate) fn check(&self, range: PageRange) -> Result<(), WriteError> {
        if range.is_within(self.places.lengths.pages) {
            Ok(())
        } else {
            Err(self.misused("pages that the guest does not have are to be written"))
        }
    }

    pub(crate) fn misused(&self, what: &'static str) -> WriteError {
        WriteError::Misused { name: self.name.clone(), what }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Err(error) = self.abandon() {
            tracing::warn!("giving up a snapshot: {error}");
        }
    }
}

struct Opened {
    storage: Storage,
    place: Place,
    buffered: Option<String>,
}

/// Opens the target; `direct` if it can be had.
fn open(target: Target, name: &str, direct: bool, snapshot: Uuid) -> Result<Opened, WriteError> {
    let refused = |e: &WriteError| match e {
        WriteError::Io { source, .. } => source.kind() == std::io::ErrorKind::InvalidInput,
        _ => false,
    };
    let mut buffered = None;
    let (file, place, offset) = match target {
        Target::Path { path, offset: 0, force } => {
            let opened = match Beside::open(&path, force, direct, snapshot) {
                Err(error) if direct && refused(&error) => {
                    buffered = Some("the file system does not have O_DIRECT".to_owned());
                    Beside::open(&path, force, false, snapshot)
                }
                opened => opened,
            };
            let (beside, file) = opened?;
            (file, Place::Beside(beside), 0)
        }
        Target::Path { path, offset, .. } => {
            let (file, reason) = open_within(&path, name, direct, offset)?;
            buffered = reason;
            (file, Place::Within, offset)
        }
        Target::Descriptor { file, direct: around, offset, .. } => {
            check_regular(&file, name)?;
            let file = match around {
                Some(around) if direct && offset.is_multiple_of(PAGE_SIZE) => {
                    check_same(&file, &around, name)?;
                    around
                }
                around => {
                    buffered = match around {
                        _ if !direct => None,
                        Some(_) => Some(unaligned(offset)),
                        None => Some("no descriptor with O_DIRECT was given".to_owned()),
                    };
                    file
                }
            };
            (file, Place::Within, offset)
        }
    };
    check_regular(&file, name)?;
    Ok(Opened { storage: Storage::new(file, offset), place, buffered })
}

fn open_within(
    path: &std::path::Path,
    name: &str,
    direct: bool,
    offset: u64,
) -> Result<(OwnedFd, Option<String>), WriteError> {
    let plain = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mode = Mode::RUSR | Mode::WUSR;
    let open = |flags| rustix::fs::open(path, flags, mode);
    let mut reason = None;
    let opened = if direct && offset.is_multiple_of(PAGE_SIZE) {
        match open(plain | OFlags::DIRECT) {
            Err(rustix::io::Errno::INVAL) => {
                reason = Some("the file system does not have O_DIRECT".to_owned());
                open(plain)
            }
            opened => opened,
        }
    } else {
        reason = direct.then(|| unaligned(offset));
        open(plain)
    };
    let failed = |e: rustix::io::Errno| WriteError::Io {
        name: name.to_owned(),
        action: "opening it",
        offset: None,
        source: e.into(),
    };
    Ok((opened.map_err(failed)?, reason))
}

fn unaligned(offset: u64) -> String {
    format!("O_DIRECT needs an offset that is a multiple of 4096, and it is {offset}")
}

fn check_regular(file: &OwnedFd, name: &str) -> Result<(), WriteError> {
    match not_regular(stat(file, name)?.st_mode) {
        Some(what) => Err(WriteError::NotRegular { name: name.to_owned(), what }),
        None => Ok(()),
    }
}

fn check_same(file: &OwnedFd, direct: &OwnedFd, name: &str) -> Result<(), WriteError> {
    let (one, other) = (stat(file, name)?, stat(direct, name)?);
    if (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino) {
        return Ok(());
    }
    let what = "its two descriptors are of different files";
    Err(WriteError::Misused { name: name.to_owned(), what })
}

fn stat(file: &OwnedFd, name: &str) -> Result<rustix::fs::Stat, WriteError> {
    rustix::fs::fstat(file).map_err(|e| WriteError::Io {
        name: name.to_owned(),
        action: "looking at it",
        offset: None,
        source: e.into(),
    })
}

fn in_file(name: &str, failure: Failure) -> WriteError {
    let Failure { action, offset, source } = failure;
    WriteError::Io { name: name.to_owned(), action, offset, source }
}

fn described(kind: SectionKind, offset: u64, bytes: &[u8]) -> Section {
    let length = bytes.len() as u64;
    Section { kind, required: true, offset, length, checksum: checksum::of(bytes) }
}

/// The first `length` bytes of a bitmap.
fn bitmap_bytes(words: impl Iterator<Item = u64>, length: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.resize(narrow(length), 0);
    bytes
}

fn narrow(length: u64) -> usize {
    usize::try_from(length).expect("tables are a thousandth of RAM, which is addressable")
}
