//! RAM in a memory file, and what of it a power cut would take back.

use crate::life::Life;
use crate::rng::Rng;
use memory::{GuestRam, MemoryFile, MemoryFileError, PAGE_SIZE, PageRange};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Pages of the one memory file that there is, as they were when they were last made durable.
#[derive(Debug)]
pub struct Cellar {
    path: PathBuf,
    before: Mutex<BTreeMap<u64, Before>>,
}

#[derive(Debug)]
struct Before {
    host: usize,
    contents: Vec<u8>,
}

impl Cellar {
    pub fn new(folder: &Path) -> Arc<Self> {
        Arc::new(Self { path: folder.join("ram"), before: Mutex::default() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn before(&self) -> MutexGuard<'_, BTreeMap<u64, Before>> {
        self.before.lock().expect("nobody panics while holding it")
    }

    /// A guest is about to write a page.
    pub fn is_written(&self, life: &Life, ram: &GuestRam, page: u64) {
        self.before().entry(page).or_insert_with(|| {
            let mut contents = vec![0; 4096];
            let page = ram.slice(PageRange::new(page, 1)).expect("the page is there");
            page.copy_to(&mut contents);
            Before { host: life.host, contents }
        });
    }

    /// Whether this is the memory file.
    pub fn is(&self, inode: u64) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|about| about.ino() == inode)
    }

    pub fn is_made_durable(&self) {
        self.before().clear();
    }

    pub fn is_durable(&self) -> bool {
        self.before().is_empty()
    }

    /// What a host wrote and did not make durable is gone, or some of it.
    pub fn loses_power(&self, host: usize, rng: &mut Rng) -> io::Result<()> {
        let mut before = self.before();
        if before.is_empty() {
            return Ok(());
        }
        let file = File::options().write(true).open(&self.path)?;
        for (page, Before { contents, .. }) in before.iter().filter(|(_, b)| b.host == host) {
            if rng.chance(50) {
                file.write_all_at(contents, page * PAGE_SIZE)?;
            }
        }
        before.retain(|_, before| before.host != host);
        Ok(())
    }

    /// How often a guest was begun to be run on it; an error while somebody has it.
    pub fn generation(&self) -> Result<u64, MemoryFileError> {
        MemoryFile::open(&self.path).map(|file| file.generation())
    }
}
