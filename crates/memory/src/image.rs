//! RAM that begins as what a file holds, and is shared with whoever else begins so.

use crate::{Filling, PAGE_SIZE, PageRange, PageSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The pages of a file that RAM begins as; see [`GuestRam::over`](crate::GuestRam::over). They are in
/// the host's page cache once, however many guests begin so; what a guest writes is its own.
///
/// The file has to stay as it is for as long as the guest lives: pages that it has not written are
/// read again whenever the host's kernel has let go of them. A file that becomes too short is noticed;
/// from then on no page can be had, whatever becomes of the file.
#[derive(Debug)]
pub struct RamImage {
    file: File,
    /// What to call it.
    name: String,
    /// Where in the file RAM begins, in bytes.
    offset: u64,
    /// The pages that are not zero there.
    present: PageSet,
    /// The file was found too short.
    lost: AtomicBool,
}

impl RamImage {
    /// The pages of `file` from `offset` on, a multiple of the page size. `present` has as many pages
    /// as RAM; what is not in it has to be zero in the file. `name` is for messages.
    ///
    /// # Errors
    /// `InvalidInput` when the offset is no multiple of the page size; otherwise that the file is too
    /// short, or what the kernel said.
    pub fn new(file: OwnedFd, name: String, offset: u64, present: PageSet) -> io::Result<Self> {
        if !offset.is_multiple_of(PAGE_SIZE) {
            let why =
                format!("RAM begins at byte {offset} of {name}, which is in the middle of a page");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let file = File::from(file);
        let image = Self { file, name, offset, present, lost: AtomicBool::new(false) };
        image.check()?;
        Ok(image)
    }

    /// Size of RAM in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.present.pages() * PAGE_SIZE
    }

    /// Where in the file RAM begins, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The pages that are not zero in the file.
    #[must_use]
    pub fn present(&self) -> &PageSet {
        &self.present
    }

    /// Whether the file still has all pages, and always had.
    ///
    /// # Errors
    /// That it has not, or what the kernel said.
    pub fn check(&self) -> io::Result<()> {
        let needed = self.offset.saturating_add(self.size());
        let found = self.file.metadata()?.len();
        if found < needed {
            self.lost.store(true, Ordering::Relaxed);
        }
        if !self.lost.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{} was cut short while RAM was mapped from it: what the guest had not written is lost, \
             and it cannot go on",
            self.name
        )))
    }
}

impl AsFd for RamImage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Filling for RamImage {
    fn bring(&self, _: PageRange) -> io::Result<()> {
        self.check()
    }

    fn trouble(&self) -> Option<String> {
        self.check().err().map(|error| error.to_string())
    }

    fn abandon(&self) {
        // Nobody waits for a page of a mapping for ever but on storage that hangs, and that cannot
        // be broken off.
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backing, GuestRam};
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;
    use vm_memory::{Bytes as _, GuestAddress};

    const SIZE: u64 = 16 << 20;
    const BEFORE: u64 = 3 * PAGE_SIZE;

    /// A file with 1 in the page 1 and 2 in the page 2 of RAM, behind something else.
    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(BEFORE + SIZE).unwrap();
        for page in [1, 2] {
            file.write_all_at(&[u8::try_from(page).unwrap(); 4096], BEFORE + page * PAGE_SIZE)
                .unwrap();
        }
        file
    }

    fn image(file: &File) -> Arc<RamImage> {
        let mut present = PageSet::new(SIZE / PAGE_SIZE);
        present.insert(PageRange::new(1, 2));
        let file = file.try_clone().unwrap().into();
        Arc::new(RamImage::new(file, "the file".to_owned(), BEFORE, present).unwrap())
    }

    fn page(ram: &GuestRam, page: u64) -> [u8; 4096] {
        let mut bytes = [9; 4096];
        ram.read(PageRange::new(page, 1), &mut bytes).unwrap();
        bytes
    }

    fn touched(ram: &GuestRam) -> Vec<PageRange> {
        ram.touched(PageRange::new(0, ram.pages())).unwrap()
    }

    #[test]
    fn ram_begins_as_the_file_and_what_is_written_is_its_own() {
        let file = file();
        let (one, other) = (image(&file), image(&file));
        let (one, other) = (GuestRam::over(one).unwrap(), GuestRam::over(other).unwrap());
        assert_eq!((one.backing(), one.pages()), (Backing::Small, SIZE / PAGE_SIZE));
        assert!(one.file().is_none() && one.image().is_some());
        assert_eq!(touched(&one), [PageRange::new(1, 2)]);
        one.memory().write_obj(7_u8, GuestAddress(2 * PAGE_SIZE)).unwrap();
        one.memory().write_obj(8_u8, GuestAddress(9 * PAGE_SIZE + 5)).unwrap();
        // What was only looked at is as it was.
        assert_eq!(one.memory().read_obj::<u8>(GuestAddress(100 * PAGE_SIZE)).unwrap(), 0);
        assert_eq!(touched(&one), [PageRange::new(1, 2), PageRange::new(9, 1)]);
        assert_eq!(touched(&other), [PageRange::new(1, 2)]);
        assert_eq!(page(&one, 1), [1; 4096]);
        assert_eq!(page(&one, 2)[..2], [7, 2]);
        assert_eq!(page(&one, 9)[5], 8);
        assert_eq!(page(&one, 10), [0; 4096]);
        assert_eq!(page(&other, 2), [2; 4096]);
        assert!(!one.is_zero(9).unwrap() && one.is_zero(10).unwrap());
        let mut bytes = [0; 4096];
        file.read_exact_at(&mut bytes, BEFORE + 2 * PAGE_SIZE).unwrap();
        assert_eq!(bytes, [2; 4096], "nothing is written to the file");
        one.zero(PageRange::new(0, one.pages())).unwrap();
        assert_eq!(page(&one, 1), [0; 4096]);
        let mut ram = one;
        assert_eq!(ram.clear().unwrap_err().kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn a_file_that_was_cut_short_is_an_error_from_then_on_and_no_signal() {
        let file = file();
        let ram = GuestRam::over(image(&file)).unwrap();
        assert_eq!(ram.filling().unwrap().trouble(), None);
        file.set_len(BEFORE).unwrap();
        let mut bytes = [0; 4096];
        // Also for whoever looked at the file before that.
        let error = ram.copy(PageRange::new(1, 1), &mut bytes).unwrap_err();
        assert!(error.to_string().contains("the file was cut short"), "{error}");
        file.set_len(BEFORE + SIZE).unwrap();
        assert!(ram.filling().unwrap().trouble().unwrap().contains("cannot go on"));
        assert!(ram.read(PageRange::new(1, 1), &mut bytes).is_err());
        assert!(ram.touched(PageRange::new(0, 1)).is_err());
        assert!(ram.is_zero(2).is_err());
    }

    #[test]
    fn a_file_that_cannot_be_ram_is_refused() {
        let file = file();
        let new = |offset, pages| {
            let fd = file.try_clone().unwrap().into();
            RamImage::new(fd, "the file".to_owned(), offset, PageSet::new(pages))
        };
        assert!(new(7, 1).unwrap_err().to_string().contains("byte 7 of the file"));
        assert!(new(BEFORE + SIZE, 1).unwrap_err().to_string().contains("cut short"));
        assert!(new(u64::MAX - 4095, 9).is_err());
        let small = Arc::new(new(0, 1).unwrap());
        assert!(matches!(GuestRam::over(small), Err(crate::RamError::Layout(_))));
    }
}
