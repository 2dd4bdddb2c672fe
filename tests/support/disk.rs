//! A disk that fails, is short, or does not answer when it is told to: a file system in user space over
//! a folder, with files and no folders in it.

#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nothing that the kernel has been told is believed for longer than the answer.
const TTL: Duration = Duration::ZERO;

/// What it does not do as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Reads of anything between these offsets.
    Reads(u64, u64),
    /// Writes of anything between these offsets.
    Writes(u64, u64),
    /// Making files durable, from this time on that it is asked to (1 is the first).
    Syncs(u32),
    /// Making names durable.
    FolderSyncs,
}

/// And what it does instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It says that it failed, with this error number.
    Fails(i32),
    /// It reads or writes a part.
    IsShort,
    /// It does not answer.
    Hangs,
}

/// Answers at last: with an error number, if there is one.
type Answer = Box<dyn FnOnce(Option<i32>) + Send>;

/// A disk in a folder of its own, until the value is dropped.
pub struct FaultyDisk {
    session: Option<BackgroundSession>,
    shared: Arc<Shared>,
    at: PathBuf,
}

struct Shared {
    backing: PathBuf,
    files: Mutex<Files>,
    trouble: Mutex<Option<(What, How)>>,
    /// How often it was asked to make a file durable since it has this trouble.
    syncs: AtomicU32,
    /// What was not answered.
    waiting: Mutex<Vec<Answer>>,
}

#[derive(Default)]
struct Files {
    open: BTreeMap<u64, Node>,
    last: u64,
}

struct Node {
    file: Arc<File>,
    /// Until it is removed.
    name: Option<OsString>,
}

impl FaultyDisk {
    /// Mounts one in this folder, which has to be there.
    pub fn mount(folder: &Path) -> Self {
        let (at, backing) = (folder.join("disk"), folder.join("backing"));
        fs::create_dir(&at).unwrap();
        fs::create_dir(&backing).unwrap();
        let shared = Arc::new(Shared {
            backing,
            files: Mutex::default(),
            trouble: Mutex::default(),
            syncs: AtomicU32::new(0),
            waiting: Mutex::default(),
        });
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("faulty".into()), MountOption::RW];
        let session = fuser::spawn_mount(Faulty(shared.clone()), &at, &config)
            .expect("this test mounts a file system of its own (/dev/fuse), and may not");
        Self { session: Some(session), shared, at }
    }

    /// A path on it.
    pub fn path(&self, name: &str) -> String {
        self.at.join(name).to_str().unwrap().to_owned()
    }

    /// The names of what is on it.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.shared.backing).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// From now on it does this.
    pub fn ails(&self, what: What, how: How) {
        *self.shared.trouble.lock().unwrap() = Some((what, how));
        self.shared.syncs.store(0, Ordering::SeqCst);
    }

    /// From now on it works, and does what it has not answered.
    pub fn heals(&self) {
        self.shared.heals();
    }

    /// From now on it fails in what it is asked, and in what it has not answered.
    pub fn fails(&self, what: What, number: i32) {
        self.ails(what, How::Fails(number));
        self.shared.answers(Some(number));
    }

    /// Heals it when the value is dropped. A process that waits for it does not end before: declared after
    /// its machine, this goes first when a test fails.
    pub fn cure(&self) -> impl Drop + use<> {
        struct Cure(Arc<Shared>);
        impl Drop for Cure {
            fn drop(&mut self) {
                self.0.heals();
            }
        }
        Cure(self.shared.clone())
    }

    /// How many wait for an answer.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.lock().unwrap().len()
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        self.heals();
        // Whoever still has a file on it keeps it alive; nobody is waited for.
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.at).status();
        drop(self.session.take());
    }
}

struct Faulty(Arc<Shared>);

fn failing(number: Option<i32>) -> io::Result<()> {
    number.map_or(Ok(()), |number| Err(io::Error::from_raw_os_error(number)))
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_i32)
}

fn attributes(ino: u64, about: &fs::Metadata) -> FileAttr {
    let time = |seconds: i64| {
        let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        UNIX_EPOCH + since
    };
    let kind = if about.is_dir() { FileType::Directory } else { FileType::RegularFile };
    FileAttr {
        ino: INodeNo(ino),
        size: about.size(),
        blocks: about.blocks(),
        atime: time(about.atime()),
        mtime: time(about.mtime()),
        ctime: time(about.ctime()),
        crtime: UNIX_EPOCH,
        kind,
        perm: u16::try_from(about.mode() & 0o7777).unwrap(),
        nlink: u32::try_from(about.nlink()).unwrap(),
        uid: about.uid(),
        gid: about.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Shared {
    fn heals(&self) {
        *self.trouble.lock().unwrap() = None;
        self.answers(None);
    }

    fn answers(&self, number: Option<i32>) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap());
        waiting.into_iter().for_each(|answer| answer(number));
    }

    fn file(&self, ino: u64) -> io::Result<Arc<File>> {
        if ino == INodeNo::ROOT.0 {
            return File::open(&self.backing).map(Arc::new);
        }
        let files = self.files.lock().unwrap();
        let none = || io::Error::from_raw_os_error(2);
        files.open.get(&ino).map(|node| node.file.clone()).ok_or_else(none)
    }

    fn about(&self, ino: u64) -> io::Result<FileAttr> {
        Ok(attributes(ino, &self.file(ino)?.metadata()?))
    }

    fn number(&self, name: &OsStr) -> Option<u64> {
        let files = self.files.lock().unwrap();
        let found = files.open.iter().find(|(_, node)| node.name.as_deref() == Some(name));
        found.map(|(ino, _)| *ino)
    }

    fn add(&self, name: &OsStr, file: File) -> io::Result<FileAttr> {
        let mut files = self.files.lock().unwrap();
        files.last = files.last.max(INodeNo::ROOT.0) + 1;
        let ino = files.last;
        let about = file.metadata()?;
        files.open.insert(ino, Node { file: Arc::new(file), name: Some(name.to_owned()) });
        Ok(attributes(ino, &about))
    }

    fn look_up(&self, name: &OsStr) -> io::Result<FileAttr> {
        if let Some(ino) = self.number(name) {
            return self.about(ino);
        }
        let file = File::options().read(true).write(true).open(self.backing.join(name))?;
        self.add(name, file)
    }

    fn forget_name(&self, name: &OsStr) {
        let mut files = self.files.lock().unwrap();
        let gone = files.open.values_mut().filter(|node| node.name.as_deref() == Some(name));
        gone.for_each(|node| node.name = None);
    }

    fn rename(&self, from: &OsStr, to: &OsStr, no_replace: bool) -> io::Result<()> {
        let (old, new) = (self.backing.join(from), self.backing.join(to));
        if no_replace && new.exists() {
            return Err(io::Error::from_raw_os_error(17));
        }
        fs::rename(old, new)?;
        self.forget_name(to);
        let mut files = self.files.lock().unwrap();
        let moved = files.open.values_mut().filter(|node| node.name.as_deref() == Some(from));
        moved.for_each(|node| node.name = Some(to.to_owned()));
        Ok(())
    }

    /// What is the matter with this, if anything.
    fn trouble(&self, what: What) -> Option<How> {
        let trouble = *self.trouble.lock().unwrap();
        trouble
            .filter(|(with, _)| match (*with, what) {
                (What::Reads(from, to), What::Reads(start, end))
                | (What::Writes(from, to), What::Writes(start, end)) => start < to && from < end,
                (What::Syncs(first), What::Syncs(number)) => number >= first,
                (What::FolderSyncs, What::FolderSyncs) => true,
                _ => false,
            })
            .map(|(_, how)| how)
    }

    fn later(&self, answer: impl FnOnce(Option<i32>) + Send + 'static) {
        self.waiting.lock().unwrap().push(Box::new(answer));
    }

    fn read(&self, ino: u64, offset: u64, size: usize) -> io::Result<Vec<u8>> {
        let (file, mut bytes, mut done) = (self.file(ino)?, vec![0; size], 0);
        while done < size {
            match file.read_at(&mut bytes[done..], offset + done as u64)? {
                0 => break,
                read => done += read,
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    fn sync(&self, what: What, reply: ReplyEmpty) {
        match self.trouble(what) {
            None | Some(How::IsShort) => reply.ok(),
            Some(How::Fails(number)) => reply.error(Errno::from_i32(number)),
            Some(How::Hangs) => self.later(move |number| empty_reply(failing(number), reply)),
        }
    }

    fn write(&self, ino: u64, offset: u64, bytes: &[u8]) -> io::Result<u32> {
        self.file(ino)?.write_all_at(bytes, offset)?;
        Ok(u32::try_from(bytes.len()).unwrap())
    }
}

fn read_reply(result: io::Result<Vec<u8>>, reply: ReplyData) {
    match result {
        Ok(bytes) => reply.data(&bytes),
        Err(error) => reply.error(errno(&error)),
    }
}

fn write_reply(result: io::Result<u32>, reply: ReplyWrite) {
    match result {
        Ok(written) => reply.written(written),
        Err(error) => reply.error(errno(&error)),
    }
}

fn empty_reply(result: io::Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

fn attr_reply(result: io::Result<FileAttr>, reply: ReplyAttr) {
    match result {
        Ok(about) => reply.attr(&TTL, &about),
        Err(error) => reply.error(errno(&error)),
    }
}

impl Filesystem for Faulty {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.0.look_up(name) {
            Ok(about) => reply.entry(&TTL, &about, Generation(0)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        attr_reply(self.0.about(ino.0), reply);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let sized = size.map_or(Ok(()), |size| self.0.file(ino.0)?.set_len(size));
        attr_reply(sized.and_then(|()| self.0.about(ino.0)), reply);
    }

    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = fs::remove_file(self.0.backing.join(name));
        self.0.forget_name(name);
        empty_reply(removed, reply);
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: INodeNo,
        to: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let no_replace = flags.contains(RenameFlags::RENAME_NOREPLACE);
        empty_reply(self.0.rename(name, to, no_replace), reply);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Each read and write comes here as it was made.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let mut options = File::options();
        let created = options.read(true).write(true).create(true).truncate(false);
        let created = created.open(self.0.backing.join(name));
        match created.and_then(|file| self.0.add(name, file)) {
            Ok(about) => {
                let flags = FopenFlags::FOPEN_DIRECT_IO;
                reply.created(&TTL, &about, Generation(0), FileHandle(0), flags);
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (shared, size) = (self.0.clone(), size as usize);
        match shared.trouble(What::Reads(offset, offset + size as u64)) {
            None => read_reply(shared.read(ino.0, offset, size), reply),
            Some(How::Fails(number)) => reply.error(Errno::from_i32(number)),
            Some(How::IsShort) => read_reply(shared.read(ino.0, offset, size.min(5000)), reply),
            Some(How::Hangs) => {
                let own = shared.clone();
                shared.later(move |number| {
                    read_reply(failing(number).and_then(|()| own.read(ino.0, offset, size)), reply);
                });
            }
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let shared = self.0.clone();
        match shared.trouble(What::Writes(offset, offset + data.len() as u64)) {
            None => write_reply(shared.write(ino.0, offset, data), reply),
            Some(How::Fails(number)) => reply.error(Errno::from_i32(number)),
            Some(How::IsShort) => {
                let part = &data[..data.len().min(9000)];
                write_reply(shared.write(ino.0, offset, part), reply);
            }
            Some(How::Hangs) => {
                let (own, data) = (shared.clone(), data.to_vec());
                shared.later(move |number| {
                    let done = failing(number).and_then(|()| own.write(ino.0, offset, &data));
                    write_reply(done, reply);
                });
            }
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let number = self.0.syncs.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.sync(What::Syncs(number), reply);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.0.sync(What::FolderSyncs, reply);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, reply: ReplyDirectory) {
        // Nobody lists it by this way.
        reply.ok();
    }
}
