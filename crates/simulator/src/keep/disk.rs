//! A disk that two hosts share: what one has written the other sees at once, and what was not made
//! durable a power cut may take back.
//!
//! The files are real ones, in a folder of their own. What stands by is what they held before.

use super::{Cellar, Lie};
use crate::life::Life;
use crate::rng::Rng;
use memory::PAGE_SIZE;
use snapshot::{Act, Course};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// Where the mark of completeness and the claim lie in a file, in pages.
const MARK: u64 = 1;
const CLAIM: u64 = 2;

/// What it is the matter with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ailment {
    /// So many things still work.
    pub after: u64,
    /// So many then fail.
    pub times: u64,
    /// There is no room; else it fails otherwise, and in reading, too.
    pub is_full: bool,
    /// It does not fail, but reads and writes no more than so many bytes at once.
    pub part: Option<usize>,
}

pub struct SharedDisk {
    /// Where the snapshots are.
    pub folder: PathBuf,
    /// Names that may come back.
    attic: PathBuf,
    /// RAM that lies in a memory file there.
    pub cellar: Arc<Cellar>,
    /// Both of them, for as long as the disk is there.
    _root: tempfile::TempDir,
    lie: Option<Lie>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// What pages of files held before they were written, by file and page.
    pages: BTreeMap<(u64, u64), Before>,
    names: Vec<Change>,
    /// Names in the attic so far.
    kept: u64,
    ailments: [Option<Ailment>; 2],
    /// Something was done that may matter to whoever looks for complete files.
    has_changed: bool,
    /// What was damaged, and what it was before, the last at the end.
    damage: Vec<Damage>,
}

/// A part of a file that was another one.
struct Damage {
    file: File,
    length: u64,
    offset: u64,
    before: Vec<u8>,
}

struct Before {
    host: usize,
    file: Rc<File>,
    contents: Box<[u8]>,
}

/// A name that was changed, and not durably.
struct Change {
    host: usize,
    name: PathBuf,
    /// What had this name, in the attic.
    before: Option<PathBuf>,
}

impl SharedDisk {
    pub fn new(lie: Option<Lie>) -> io::Result<Rc<Self>> {
        let memory = Path::new("/dev/shm");
        let root = match memory.is_dir() {
            true => tempfile::tempdir_in(memory)?,
            false => tempfile::tempdir()?,
        };
        let (folder, attic) = (root.path().join("disk"), root.path().join("attic"));
        fs::create_dir(&folder)?;
        fs::create_dir(&attic)?;
        let cellar = Cellar::new(&folder);
        Ok(Rc::new(Self { folder, attic, cellar, _root: root, lie, state: RefCell::default() }))
    }

    /// It fails for a host.
    pub fn fail(&self, host: usize, ailment: Ailment) {
        self.state.borrow_mut().ailments[host] = Some(ailment);
    }

    pub fn heal(&self) {
        self.state.borrow_mut().ailments = [None; 2];
    }

    /// A byte of a file is another one from now on.
    pub fn rot(&self, path: &Path, offset: u64) {
        let Ok(file) = File::options().read(true).write(true).open(path) else { return };
        let (mut byte, length) = ([0], file.metadata().map_or(0, |about| about.len()));
        if file.read_exact_at(&mut byte, offset).is_ok()
            && file.write_all_at(&[byte[0] ^ 0x40], offset).is_ok()
        {
            let before = byte.to_vec();
            self.state.borrow_mut().damage.push(Damage { file, length, offset, before });
        }
    }

    /// A file ends somewhere within its RAM from now on.
    pub fn cut(&self, path: &Path, at: u64) {
        let Ok(file) = File::options().read(true).write(true).open(path) else { return };
        let length = file.metadata().map_or(0, |about| about.len());
        let offset = length - at % (length / 2 + 1);
        let mut before = vec![0; usize::try_from(length - offset).expect("a file is small")];
        if file.read_exact_at(&mut before, offset).is_ok() && file.set_len(offset).is_ok() {
            self.state.borrow_mut().damage.push(Damage { file, length, offset, before });
        }
    }

    /// Nothing is damaged any more.
    pub fn mend(&self) {
        for Damage { file, length, offset, before } in
            self.state.borrow_mut().damage.drain(..).rev()
        {
            file.set_len(length).expect("a file can be as long as it was");
            for (at, page) in (offset..).step_by(4096).zip(before.chunks(4096)) {
                // What was cut off reads as zero until it is written.
                if before.len() == 1 || page.iter().any(|byte| *byte != 0) {
                    file.write_all_at(page, at).expect("a file can be written");
                }
            }
        }
    }

    /// Whether anything has changed since the last time that this was asked.
    pub fn has_changed(&self) -> bool {
        std::mem::take(&mut self.state.borrow_mut().has_changed)
    }

    /// Whether this file would be there after a power cut, with all that is in it.
    pub fn is_durable(&self, path: &Path) -> bool {
        let is_named = self.state.borrow().names.iter().all(|change| change.name != path);
        is_named && self.holds_durably(path)
    }

    /// Whether all that is in this file would be, if the file is.
    pub fn holds_durably(&self, path: &Path) -> bool {
        let Ok(about) = fs::metadata(path) else { return false };
        let state = self.state.borrow();
        let lost = (about.ino(), 0)..(about.ino() + 1, 0);
        state.pages.range(lost).next().is_none()
    }

    /// What is there, but for files without a name.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.folder)?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    /// Removes what a dead process has left incomplete.
    pub fn sweep(&self) -> io::Result<()> {
        let parts = self.names()?.into_iter().filter(|name| name.ends_with(".part"));
        parts.map(|name| self.folder.join(name)).try_for_each(fs::remove_file)
    }

    /// A host has lost its power: of what it wrote and did not make durable, some is gone.
    pub fn lose_power(&self, host: usize, rng: &mut Rng) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        state.has_changed = true;
        let pages = std::mem::take(&mut state.pages);
        for ((inode, page), before) in pages {
            if before.host != host {
                state.pages.insert((inode, page), before);
                continue;
            }
            let (whole, length) = (rng.chance(50), before.contents.len());
            let torn = if rng.chance(10) { rng.index(8) * 512 } else { 0 };
            if whole {
                let from = torn.min(length);
                before
                    .file
                    .write_all_at(&before.contents[from..], page * PAGE_SIZE + from as u64)?;
            }
        }
        self.cellar.loses_power(host, rng)?;
        // A journal loses what came last.
        let own = state.names.iter().filter(|change| change.host == host).count();
        let mut keeps = rng.index(own + 1);
        let (mut undone, mut left) = (Vec::new(), Vec::new());
        for change in state.names.drain(..) {
            match change.host == host {
                false => left.push(change),
                true if keeps > 0 => keeps -= 1,
                true => undone.push(change),
            }
        }
        state.names = left;
        for change in undone.into_iter().rev() {
            let _ = fs::remove_file(&change.name);
            if let Some(before) = change.before {
                fs::rename(before, &change.name)?;
            }
        }
        Ok(())
    }

    /// Keeps what is there before it is written.
    fn remember(
        &self,
        host: usize,
        file: BorrowedFd<'_>,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let inode = File::from(file.try_clone_to_owned()?).metadata()?.ino();
        let mut state = self.state.borrow_mut();
        let of_file = (inode, 0)..(inode + 1, 0);
        let known = state.pages.range(of_file).next().map(|(_, before)| before.file.clone());
        let file = match known {
            Some(file) => file,
            // Opened anew: whoever has the file locked lets go of it when it is closed there.
            None => {
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                Rc::new(File::options().read(true).write(true).open(path)?)
            }
        };
        for page in offset / PAGE_SIZE..(offset + length).div_ceil(PAGE_SIZE) {
            state.has_changed |= page == MARK || page == CLAIM;
            if state.pages.contains_key(&(inode, page)) {
                continue;
            }
            let mut contents = vec![0; 4096].into_boxed_slice();
            // What is not there yet reads as zero.
            let mut have = 0;
            while have < contents.len() {
                match file.read_at(&mut contents[have..], page * PAGE_SIZE + have as u64)? {
                    0 => break,
                    read => have += read,
                }
            }
            state.pages.insert((inode, page), Before { host, file: file.clone(), contents });
        }
        Ok(())
    }

    fn sync(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        let inode = File::from(file.try_clone_to_owned()?).metadata()?.ino();
        if self.cellar.is(inode) {
            if self.lie != Some(Lie::Ram) {
                self.cellar.is_made_durable();
            }
            return Ok(());
        }
        let mut state = self.state.borrow_mut();
        let of_file = (inode, 0)..(inode + 1, 0);
        let written: Vec<u64> = state.pages.range(of_file).map(|((_, page), _)| *page).collect();
        let lies = match self.lie {
            Some(Lie::Pages) => written.iter().any(|page| *page > CLAIM),
            Some(Lie::Mark) => written == [MARK],
            Some(Lie::Claim) => written == [CLAIM],
            _ => false,
        };
        if !lies {
            written.into_iter().for_each(|page| drop(state.pages.remove(&(inode, page))));
        }
        Ok(())
    }

    /// Keeps what has a name before that is changed.
    fn remember_name(&self, host: usize, name: &OsStr) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        state.has_changed = true;
        state.kept += 1;
        let (name, kept) = (self.folder.join(name), self.attic.join(state.kept.to_string()));
        let before = match fs::hard_link(&name, &kept) {
            Ok(()) => Some(kept),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        state.names.push(Change { host, name, before });
        Ok(())
    }

    fn sync_names(&self) {
        if self.lie != Some(Lie::Name) {
            for change in self.state.borrow_mut().names.drain(..) {
                if let Some(before) = change.before {
                    let _ = fs::remove_file(before);
                }
            }
        }
    }

    fn ails(&self, host: usize, act: &Act) -> io::Result<Course> {
        let mut state = self.state.borrow_mut();
        let Some(ailment) = &mut state.ailments[host] else { return Ok(Course::Done) };
        let (grows, fails) = match act {
            Act::Write { .. }
            | Act::Reserve { .. }
            | Act::SetLength { .. }
            | Act::Name
            | Act::Publish { .. } => (true, true),
            Act::Punch { .. } | Act::Sync { .. } | Act::SyncFolder | Act::Remove { .. } => {
                (false, true)
            }
            Act::Read { .. } => (false, true),
            Act::Lock => (false, false),
        };
        if !(if ailment.is_full { grows } else { fails }) {
            return Ok(Course::Done);
        }
        if ailment.after > 0 {
            ailment.after -= 1;
            return Ok(Course::Done);
        }
        if ailment.times == 0 {
            return Ok(Course::Done);
        }
        ailment.times -= 1;
        if let Some(part) = ailment.part {
            let is_cut = matches!(act, Act::Read { .. } | Act::Write { .. });
            return Ok(if is_cut { Course::Part(part) } else { Course::Done });
        }
        // ENOSPC and EIO.
        Err(io::Error::from_raw_os_error(if ailment.is_full { 28 } else { 5 }))
    }
}

/// The disk as one process sees it.
pub struct Hands {
    pub disk: Rc<SharedDisk>,
    pub life: Arc<Life>,
    /// What somebody does in between, and after how many acts.
    interlude: RefCell<Option<Box<dyn FnOnce()>>>,
    until_then: Cell<u64>,
    /// What was done so far.
    pub acts: Cell<u64>,
}

impl Hands {
    pub fn new(disk: &Rc<SharedDisk>, life: &Arc<Life>) -> Rc<Self> {
        Rc::new(Self {
            disk: disk.clone(),
            life: life.clone(),
            interlude: RefCell::default(),
            until_then: Cell::new(0),
            acts: Cell::new(0),
        })
    }

    /// Something else is done before the act after so many others.
    pub fn interrupt(&self, after: u64, by: impl FnOnce() + 'static) {
        self.until_then.set(after);
        *self.interlude.borrow_mut() = Some(Box::new(by));
    }

    /// Nobody interrupts any more.
    pub fn undisturbed(&self) {
        self.interlude.borrow_mut().take();
    }

    fn is_interrupted(&self) {
        match self.until_then.get() {
            0 => {
                let interlude = self.interlude.borrow_mut().take();
                if let Some(interlude) = interlude {
                    interlude();
                }
            }
            more => self.until_then.set(more - 1),
        }
    }
}

impl snapshot::Disk for Hands {
    fn pass(&self, act: Act) -> io::Result<Course> {
        self.acts.set(self.acts.get() + 1);
        self.is_interrupted();
        if !self.life.acts() {
            return Err(io::Error::from_raw_os_error(5));
        }
        let course = self.disk.ails(self.life.host, &act)?;
        let (disk, host) = (&self.disk, self.life.host);
        match act {
            Act::Write { file, offset, bytes } => {
                disk.remember(host, file, offset, bytes.len() as u64)?;
            }
            Act::Punch { file, offset, length } => disk.remember(host, file, offset, length)?,
            Act::Sync { file } => {
                disk.sync(file)?;
                return Ok(Course::Skipped);
            }
            Act::Publish { name } | Act::Remove { name } => disk.remember_name(host, name)?,
            Act::SyncFolder => {
                disk.sync_names();
                return Ok(Course::Skipped);
            }
            Act::Lock if disk.lie == Some(Lie::Lock) => return Ok(Course::Skipped),
            // Space that is reserved reads as what was there.
            Act::Reserve { .. }
            | Act::SetLength { .. }
            | Act::Read { .. }
            | Act::Name
            | Act::Lock => {}
        }
        Ok(course)
    }
}
